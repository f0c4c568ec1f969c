# pg_upgrade keeps the history.
#
# It transfers the catalog by pg_dump and the tables as files. It refuses databases with columns
# of certain types, which a table of an extension can have unnoticed. Up to 16, it does not
# transfer slots and origins. From 17 on, it refuses a server with slots that have not read all of
# the WAL, which is always so if a history is in the database that it reads. In both cases the
# source is started again, and there is a gap.
#
# The test upgrades to another server of the same version, because this machine has no other.

use strict;
use warnings;

use Bemi;
use Cwd;
use Bemi::Journal;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $old = bemi_node('old');

# What pg_upgrade searches. Their arrays are not used.
is( $old->safe_psql(
		'postgres', q{
		SELECT c.oid::regclass, a.attname, a.atttypid::regtype
		FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
			JOIN pg_type t ON t.oid = a.atttypid
		WHERE c.relnamespace IN ('bemi'::regnamespace, '_bemi'::regnamespace) AND c.relkind IN ('r', 'm', 'i', 'p') AND NOT a.attisdropped
			AND coalesce(nullif(t.typelem, 0), t.oid) = ANY ('{regcollation, regconfig, regdictionary,
				regnamespace, regoper, regoperator, regproc, regprocedure}'::regtype[])
			AND a.attnum > 0}),
	'',
	'no table has a column of a type that pg_upgrade refuses');

journal_install($old);
$old->safe_psql(
	'postgres', q{
	CREATE SCHEMA whole;
	SELECT bemi.track_schema('whole');
	CREATE TABLE whole.t (k int PRIMARY KEY, v text);
	SELECT journal.follow('whole.t', false);
	CALL bemi.start();
	INSERT INTO whole.t SELECT n, 'old' FROM generate_series(1, 100) n;
	CALL bemi.index_context('userId');
	CALL bemi.index_column('v');
	SELECT _bemi.make_partition('2001-01-01');
	INSERT INTO bemi.changes
		SELECT gen_random_uuid(), 'postgres', 'past', 'past', '1', 'CREATE', '{}', '{}', '{}',
			'2001-01-01', '2001-01-01', '2001-01-01', 1, 1, 'main';
	SELECT bemi.sync('60s')});
my $history = q{SELECT count(*), md5(string_agg(c::text, E'\n' ORDER BY id, committed_at)) FROM bemi.changes c};
my $before = $old->safe_psql('postgres', $history);

# Privileges, and those that a dump takes for the extension's own: pg_upgrade does not carry over
# a row for those that are the server's defaults.
my $privileges = q{
	WITH object(class, object, acl, defaults) AS (
		SELECT 'pg_proc'::regclass, p.oid, p.proacl, acldefault('f', p.proowner) FROM pg_proc p WHERE p.pronamespace IN ('bemi'::regnamespace, '_bemi'::regnamespace)
		UNION ALL SELECT 'pg_class'::regclass, c.oid, c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner)
			FROM pg_class c WHERE c.relnamespace IN ('bemi'::regnamespace, '_bemi'::regnamespace)
		UNION ALL SELECT 'pg_namespace'::regclass, n.oid, n.nspacl, acldefault('n', n.nspowner) FROM pg_namespace n WHERE n.nspname IN ('bemi', '_bemi'))
	SELECT pg_describe_object(o.class, o.object, 0), kind, a.grantee::regrole, a.privilege_type
	FROM object o LEFT JOIN pg_init_privs i ON i.classoid = o.class AND i.objoid = o.object,
		LATERAL (VALUES ('granted', coalesce(o.acl, o.defaults)), ('initial', coalesce(i.initprivs, o.defaults))) v(kind, acl),
		aclexplode(v.acl) a
	ORDER BY 1, 2, 3, 4};
$old->safe_psql(
	'postgres', q{
	CREATE ROLE auditor;
	SELECT bemi.grant_read('auditor');
	REVOKE ALL ON ALL ROUTINES IN SCHEMA bemi, _bemi FROM PUBLIC});
my $privileges_before = $old->safe_psql('postgres', $privileges);
my $tracked = $old->safe_psql('postgres', 'SELECT * FROM bemi.tracked ORDER BY "table"::text');
my $refuses_slots = $old->pg_version >= 17;
$old->safe_psql('postgres', q{CALL bemi.drop_source('main')}) if $refuses_slots;
$old->stop;

my $new = bemi_node('new', run => 0);
my $bindir = $new->config_data('--bindir');
my $directory = getcwd();

# It writes its logs to where it stands.
chdir $new->basedir;
command_ok(
	[
		"$bindir/pg_upgrade", '--no-sync', '-d', $old->data_dir, '-D', $new->data_dir,
		'-b', $bindir, '-B', $bindir, '-s', $new->host, '-p', $old->port, '-P', $new->port
	],
	'pg_upgrade');
chdir $directory;
$new->start;

is($new->safe_psql('postgres', $history), $before, 'the history is the same');
is($new->safe_psql('postgres', 'SELECT * FROM bemi.tracked ORDER BY "table"::text'), $tracked, 'so are the tracked tables');
is($new->safe_psql('postgres', 'SELECT key, partitions, indexed FROM bemi.context_indexes UNION ALL SELECT * FROM (SELECT column_name, partitions, indexed FROM bemi.column_indexes) c'), "userId|2|2\nv|2|2", 'so are the indexes on demand');
is($new->safe_psql('postgres', $privileges), $privileges_before, 'so are the privileges, and what the extension began with');
is(remains($new), ($refuses_slots ? 0 : 1) . ' rows, 0 slots, 0 origins', 'slot and origin do not come along');
is($new->safe_psql('postgres', 'SELECT state FROM bemi.status'),
	$refuses_slots ? '' : 'not running', 'the source does not run by itself');
is(start_error($new), '', 'bemi.start() works');
$new->safe_psql(
	'postgres', q{
	SET bemi.context = '{"on": "the new server"}';
	UPDATE whole.t SET v = 'new' WHERE k <= 10;
	CREATE TABLE whole.later (k int PRIMARY KEY);
	SELECT journal.follow('whole.later', false);
	INSERT INTO whole.later VALUES (1);
	SELECT bemi.sync('60s')});
is( $new->safe_psql('postgres', q{SELECT count(*) FROM bemi.gaps WHERE reason <> 'source_started' AND "table" IS NULL AND to_time > from_time}),
	'1', 'there is a gap');
is(journal_differences($new, order => 'row', where => q{schema = 'whole'}),
	'', 'the history equals the journal, which came along, too');
is($new->safe_psql('postgres', q{SELECT problems FROM bemi.tracked WHERE "table" = 'whole.later'::regclass}),
	'{}', 'new tables of the tracked schema are tracked');

$new->stop;
done_testing();
