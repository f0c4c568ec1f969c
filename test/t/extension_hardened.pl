# A hardened server: every role has only the rights that it was granted, and everything works.
#
# Default privileges revoke EXECUTE from PUBLIC, and grant SELECT on all tables to a role that
# reads the application's tables. They apply to what CREATE EXTENSION creates, and to what the
# worker creates later as the same role. A second database reads the first one as an ordinary role
# with REPLICATION. Then PUBLIC loses its remaining rights while the workers run.
# test/sql/track_hardened.sql has the DDL of ordinary roles, test/sql/extension_readers.sql what a
# reader is denied.

use strict;
use warnings;

use Bemi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main', run => 0);

$node->start;
$node->safe_psql(
	'postgres', q{
	CREATE ROLE low LOGIN;
	CREATE ROLE readonly LOGIN;
	CREATE ROLE auditor LOGIN;
	CREATE ROLE reader LOGIN REPLICATION;
	CREATE DATABASE shop;
	CREATE DATABASE elsewhere});
$node->safe_psql(
	$_, q{
	ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
	ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO readonly;
	CREATE EXTENSION bemi}) for 'shop', 'elsewhere';

sub as_role
{
	my ($role, $sql, $database) = @_;
	my ($status, $stdout, $stderr) =
	  $node->psql($database // 'shop', $sql, extra_params => [ '-U', $role ]);

	return $stderr =~ s/^psql:\S+ //mgr || $stdout;
}

#
# From the beginning
#

$node->safe_psql(
	'shop', q{
	CREATE TABLE todo (id int PRIMARY KEY, task text, card text);
	SELECT bemi.track('todo', redact => '{card}');
	GRANT ALL ON todo TO low;
	SELECT bemi.grant_read('auditor');
	GRANT SELECT ON _bemi.signing_key TO reader;
	CALL bemi.start()});
$node->safe_psql('elsewhere',
	sprintf(q{SELECT bemi.grant_read('auditor'); CALL bemi.start('shop', conninfo => $$%s user=reader$$)}, $node->connstr('shop')));

sub synced_elsewhere
{
	my $lsn = $node->safe_psql('shop', q{SELECT pg_logical_emit_message(true, '_bemi', '{}')});

	$node->poll_query_until('elsewhere',
		"SELECT state = 'streaming' AND stored_lsn >= '$lsn' FROM bemi.status WHERE source = 'shop'")
	  or die $node->safe_psql('elsewhere', 'SELECT last_error FROM bemi.status');
	return;
}

my $row = q{SELECT primary_key, operation, after, context FROM bemi.changes WHERE primary_key = '%d' ORDER BY id};

is( as_role('low', q{SET bemi.context = '{"by": "low"}'; INSERT INTO todo VALUES (1, 'a', '4711')}),
	'', 'an ordinary role writes');
is(as_role('auditor', q{SELECT bemi.sync('60s')}), '', 'a reader waits for the worker');
synced_elsewhere();
my $expected = '1|CREATE|{"id": 1, "card": "[redacted]", "task": "a"}|{"by": "low"}';
is(as_role('auditor', sprintf($row, 1)), $expected, 'a reader reads');
is(as_role('auditor', sprintf($row, 1), 'elsewhere'), $expected, 'a worker elsewhere reads as an ordinary role');
is(as_role('auditor', 'SELECT state, coalesce(last_error, warning) FROM bemi.status'), 'streaming|', 'a reader sees how the worker is');
is(as_role('auditor', q{BEGIN; SELECT bemi.sync(); SELECT complete FROM bemi.completeness('todo', now()); COMMIT}),
	"\nt", 'a reader asks whether the history is complete');
is( as_role('auditor', q{SELECT complete FROM bemi.source_completeness('shop', 'public', 'todo', to_timestamp(0), to_timestamp(1))}, 'elsewhere'),
	'f', 'also of a source elsewhere');

for my $database ('shop', 'elsewhere')
{
	my $partition = $node->safe_psql($database, q{SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'bemi.changes'::regclass});

	like($partition, qr/^_bemi\.changes_\d{4}_\d\d$/, "$database: the worker has made a partition");
	like(as_role('readonly', "SELECT * FROM $_", $database), qr/ERROR:  permission denied for table/,
		"$database: default privileges do not open $_")
	  for '_bemi.signing_key', 'bemi.changes', $partition;
	like(as_role('auditor', "SELECT * FROM $partition", $database), qr/ERROR:  permission denied for table/,
		"$database: nor does the right to read, but by way of bemi.changes");
}

# A dump contains only what an administrator has granted, under any default privileges.
command_ok(
	[ $node->installed_command('pg_dump'), '-s', '-d', $node->connstr('shop'), '-f', $node->basedir . '/shop.sql' ],
	'pg_dump');
my @statements = map { tr/\n//dr } slurp_file($node->basedir . '/shop.sql') =~ /^(?:GRANT|REVOKE) .*? bemi\.?.*$/mg;
is(join("\n", grep { !/ TO (auditor|reader);$/ } @statements), '', 'a dump states no privilege of the extension');
is(scalar(grep { / TO auditor;$/ } @statements) > 0, 1, 'but those that were granted');

# Restored where the defaults are the same, it opens no partition either.
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->safe_psql('restored', q{ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO readonly});
command_ok(
	[ $node->installed_command('psql'), '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('restored'), '-f', $node->basedir . '/shop.sql' ],
	'it is restored');
is( $node->safe_psql(
		'restored', q{
		SELECT c.oid::regclass, a.privilege_type FROM pg_class c, aclexplode(c.relacl) a
		WHERE c.relnamespace IN ('bemi'::regnamespace, '_bemi'::regnamespace) AND a.grantee = 'readonly'::regrole}),
	'', 'a restored history is no more open than it was');
is( $node->safe_psql('restored', q{SELECT has_table_privilege('auditor', 'bemi.changes', 'SELECT')}),
	't', 'and its readers read it');

#
# While the workers run, PUBLIC loses the rest
#

$node->safe_psql(
	$_, q{
	REVOKE ALL ON ALL ROUTINES IN SCHEMA bemi, _bemi FROM PUBLIC;
	REVOKE ALL ON SCHEMA bemi, _bemi FROM PUBLIC}) for 'shop', 'elsewhere';
is( as_role('low', q{SET bemi.context = '{"by": "low"}'; INSERT INTO todo VALUES (2, 'a', '4712') /*Bemi {"by": "comment"} Bemi*/}),
	'', 'an ordinary role goes on writing');
is(as_role('auditor', q{SELECT bemi.sync('60s')}), '', 'the worker goes on');
$expected = '2|CREATE|{"id": 2, "card": "[redacted]", "task": "a"}|{"by": "comment"}';
is(as_role('auditor', sprintf($row, 2)), $expected, 'and stores what is written');
is(as_role('auditor', q{SELECT "table", redact, problems FROM bemi.tracked}), 'todo|{card}|{}', 'a reader sees what is tracked');

# The same for a role that starts and stops sources with only the right to call the procedures.
$node->safe_psql(
	'restored', q{
	REVOKE ALL ON ALL ROUTINES IN SCHEMA bemi, _bemi FROM PUBLIC;
	REVOKE ALL ON SCHEMA bemi, _bemi FROM PUBLIC;
	CREATE ROLE operator LOGIN REPLICATION;
	GRANT USAGE ON SCHEMA bemi, _bemi TO operator;
	GRANT EXECUTE ON PROCEDURE bemi.start(text, text, boolean), bemi.stop(text), bemi.drop_source(text, boolean) TO operator});
is(as_role('operator', q{CALL bemi.start(); CALL bemi.stop(); CALL bemi.start(); CALL bemi.drop_source('main')}, 'restored'),
	'', 'an operator starts and stops a source');

# The worker elsewhere has to be given by name what it needs.
$node->safe_psql('elsewhere', q{CALL bemi.stop('shop')});
$node->safe_psql('shop', q{
	GRANT USAGE ON SCHEMA bemi, _bemi TO reader;
	GRANT EXECUTE ON FUNCTION _bemi.commit_horizon(integer), _bemi.describe(regclass) TO reader});
$node->safe_psql('elsewhere', q{CALL bemi.start('shop')});
synced_elsewhere();
is(as_role('reader', q{SELECT _bemi.describe('todo') ->> 'redact'}), '["card"]', 'it describes a table');
is(as_role('auditor', sprintf($row, 2), 'elsewhere'), $expected, 'the worker elsewhere has what docs/how-to/read-other-servers.md names, and goes on');

#
# The owner of the extension is no superuser any more
#

# The application continues to work. Its tables are tracked with the rights of its role, which
# suffice for all but partitions of other roles: that is a warning, and a problem in bemi.tracked.
$node->safe_psql('postgres', q{
	CREATE ROLE boss SUPERUSER LOGIN;
	CREATE ROLE app LOGIN;
	CREATE DATABASE demoted OWNER boss});
is(as_role('boss', q{CREATE EXTENSION bemi; GRANT CREATE ON DATABASE demoted TO app}, 'demoted'), '', 'somebody makes the extension');
is( as_role('app', q{
		CREATE SCHEMA app;
		CREATE TABLE app.root (id int, v text) PARTITION BY RANGE (id);
		CREATE TABLE app.p1 PARTITION OF app.root FOR VALUES FROM (0) TO (10);
		CREATE TABLE app.p2 PARTITION OF app.root FOR VALUES FROM (10) TO (20);
		CREATE TABLE app.own (id int, v text);
		CREATE TABLE app.renamed (id int, v text)}, 'demoted'),
	'', 'an application has tables');
$node->safe_psql('demoted', q{
	GRANT EXECUTE ON FUNCTION bemi.track(regclass, name[], name[], name[]) TO app;
	SELECT bemi.track_schema('app'), bemi.track('app.renamed', redact => '{v}');
	CREATE SCHEMA other;
	CREATE TABLE other.below (id int, v text) PARTITION BY RANGE (id);
	CREATE TABLE other.below_1 (id int, v text);
	GRANT USAGE ON SCHEMA other TO app;
	ALTER TABLE other.below ATTACH PARTITION other.below_1 FOR VALUES FROM (20) TO (30);
	ALTER TABLE other.below OWNER TO app;
	CALL bemi.start();
	ALTER ROLE boss NOSUPERUSER});
my $owned = q{SELECT "table", identity, published, redact, problems FROM bemi.tracked WHERE "table"::text LIKE '%s' ORDER BY "table"::text};
is( as_role('app', q{
		CREATE TABLE app.made (id int, v text);
		CREATE TABLE app.p3 PARTITION OF app.root FOR VALUES FROM (30) TO (40);
		ALTER TABLE app.root DETACH PARTITION app.p2;
		ALTER TABLE app.root ATTACH PARTITION app.own FOR VALUES FROM (50) TO (60);
		ALTER TABLE app.root DETACH PARTITION app.p1;
		DROP TABLE app.p1;
		ALTER TABLE app.renamed RENAME v TO w;
		ALTER SCHEMA app RENAME TO app_2;
		ALTER SCHEMA app_2 RENAME TO app}, 'demoted'),
	'', 'its DDL goes on');
is( $node->safe_psql('demoted', sprintf($owned, 'app.%')),
	"app.made|FULL|t|{}|{}\napp.own|FULL|t|{}|{}\napp.p2|FULL|t|{}|{}\napp.p3|FULL|t|{}|{}\napp.renamed|FULL|t|{w}|{}\napp.root|FULL|t|{}|{}",
	'and is tracked as always');
like(as_role('app', 'ALTER TABLE app.root ATTACH PARTITION other.below FOR VALUES FROM (20) TO (30)', 'demoted'),
	qr/\AWARNING:  could not track table "other.below_1"\nDETAIL:  The owner of extension bemi is no superuser.\nHINT:  SELECT bemi.track\('other.below_1'\);\n?\z/,
	"somebody else's partition cannot be tracked so");
is( $node->safe_psql('demoted', sprintf($owned, 'other.%')),
	"other.below|FULL|t|{}|{}\nother.below_1|DEFAULT|t|{}|"
	  . '{"no trigger: changes come without context, or with an earlier one","replica identity is not FULL: before is incomplete, and after lacks large values that did not change"}',
	'and has its problems shown');
like($node->safe_psql('demoted', 'SELECT warning FROM bemi.status'),
	qr/the owner of extension bemi is no superuser.*: ALTER ROLE boss SUPERUSER;/, 'bemi.status says what is wrong');
# Disabled event triggers leave no gap, so they are shown, with the lines that enable them.
my $event_triggers = q{SELECT string_agg(concat(evtname, ' ', evtenabled), ', ' ORDER BY evtname) FROM pg_event_trigger};
my $enabled_as_made = $node->safe_psql('demoted', $event_triggers);
$node->safe_psql('demoted', "SELECT format('ALTER EVENT TRIGGER %I DISABLE', evtname) FROM pg_event_trigger WHERE evtname ~ '^bemi_' \\gexec");
my ($enable) = $node->safe_psql('demoted', 'SELECT warning FROM bemi.status')
  =~ /event triggers of bemi are disabled \(.*\): (ALTER EVENT TRIGGER .*;)\z/;
$node->safe_psql('demoted', $enable // 'missing');
is($node->safe_psql('demoted', $event_triggers), $enabled_as_made, 'event triggers that were disabled are shown');
unlike($node->safe_psql('demoted', 'SELECT warning FROM bemi.status'), qr/event triggers/, 'until they are enabled');
$node->safe_psql('demoted', q{SELECT bemi.track('other.below_1')});
is(as_role('app', 'ALTER TABLE app.root DETACH PARTITION other.below', 'demoted'),
	"WARNING:  could not remove trigger \"bemi_emit_context\" from table \"other.below_1\"\nDETAIL:  The owner of extension bemi is no superuser.\nHINT:  SELECT bemi.untrack('other.below_1');",
	'nor be given back');

# Another role's publication cannot be changed.
$node->safe_psql('demoted', 'ALTER PUBLICATION bemi OWNER TO CURRENT_USER');
like(as_role('app', 'CREATE TABLE app.late (id int)', 'demoted'),
	qr/WARNING:  could not track table "app.late"\nDETAIL:  The owner of extension bemi is no superuser, and does not own the publication./,
	'a table that cannot be published is made');
like($node->safe_psql('demoted', sprintf($owned, 'app.late')), qr/its schema is tracked, but it is not/, 'and shown as a problem');
$node->safe_psql('demoted', 'ALTER ROLE boss SUPERUSER');
is(as_role('app', 'ALTER TABLE app.late ADD v text', 'demoted'), '', 'it is tracked');
is($node->safe_psql('demoted', sprintf($owned, 'app.late')), 'app.late|FULL|t|{}|{}', 'as soon as the owner is a superuser again');
is($node->safe_psql('demoted', 'SELECT warning FROM bemi.status'), '', 'and nothing is wrong any more');

$node->stop;
done_testing();
