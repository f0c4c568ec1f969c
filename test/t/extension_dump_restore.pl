# A dump contains everything: tracked tables stay tracked, and the partitions of the history,
# which the worker has created, are dumped with their rows. But the restored database does not
# start to read by itself, because a copy made for a test would hold a slot on its new server.
#
# The dumps are: plain text into another database of the same server, where the original still
# reads; custom format, with two jobs, to another server, into an empty database and into one that
# has the extension; and the whole server with roles and settings, by pg_dumpall.

use strict;
use warnings;

use Bemi;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $origin = bemi_node('origin');
my $other = bemi_node('other', run => 0);
my $plain = $origin->basedir . '/app.sql';
my $custom = $origin->basedir . '/app.dump';

$origin->safe_psql('postgres', 'CREATE DATABASE app');
$origin->safe_psql(
	'app', q{
	CREATE EXTENSION bemi;
	CREATE TABLE todo (id int PRIMARY KEY, task text);
	CREATE SCHEMA "Odd ""schema""";
	CREATE TABLE "Odd ""schema"""."the table" ("the key" int PRIMARY KEY);
	CREATE TABLE keyed (code text NOT NULL UNIQUE);
	ALTER TABLE keyed REPLICA IDENTITY USING INDEX keyed_code_key;
	CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
	CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100);
	CREATE TABLE free (id int PRIMARY KEY);

	SELECT bemi.track(t) FROM unnest('{todo, keyed, parted, "\"Odd \"\"schema\"\"\".\"the table\""}'::regclass[]) t;
	CREATE SCHEMA whole;
	SELECT bemi.track_schema('whole');
	CREATE TABLE whole.by_itself (id int PRIMARY KEY, other int UNIQUE);
	CALL bemi.start();
	SET bemi.context = '{"by": "the origin"}';
	INSERT INTO todo SELECT n, 'task ' || n FROM generate_series(1, 500) n;
	UPDATE todo SET task = E'done \' \\ \n \u00e9' WHERE id % 7 = 0;
	DELETE FROM todo WHERE id % 11 = 0;
	INSERT INTO "Odd ""schema"""."the table" VALUES (1);
	INSERT INTO keyed VALUES ('a');
	INSERT INTO parted VALUES (1), (2);
	INSERT INTO free VALUES (1);
	SELECT bemi.sync('60s');

	-- A year of history, as it would be by now.
	SELECT _bemi.make_partition(m) FROM generate_series('2020-01-15'::timestamptz, '2020-12-15', '1 month') m;
	INSERT INTO bemi.changes
		SELECT gen_random_uuid(), 'app', 'public', 'todo', n::text, 'CREATE', '{}',
			jsonb_build_object('id', n), '{"by": "the past"}',
			m, m, m, n, n, 'main'
		FROM generate_series('2020-01-15'::timestamptz, '2020-12-15', '1 month') m,
			generate_series(1, 10) n});

my $history = q{
	SELECT count(*), min(committed_at), md5(string_agg(c::text, E'\n' ORDER BY id, committed_at))
	FROM bemi.changes c};
my $partitions = q{
	SELECT relid::regclass::text, pg_get_expr(relpartbound, relid)
	FROM pg_partition_tree('bemi.changes') JOIN pg_class ON oid = relid
	WHERE isleaf ORDER BY 1};
my $tracked = 'SELECT * FROM bemi.tracked ORDER BY "table"::text';
my $schema_changes = q{
	SELECT count(*), min(committed_at), md5(string_agg(s::text, E'\n' ORDER BY id, "table"))
	FROM bemi.schema_changes s};
my $everything = join(';', $history, $partitions, $tracked, $schema_changes);
my $expected = $origin->safe_psql('app', $everything);

like($expected, qr/\A740\|2020-01-15/, 'there is history, some of it old');
command_ok(
	[
		$origin->installed_command('pg_dump'), '-d',
		$origin->connstr('app'), '-f', $plain
	],
	'pg_dump in plain text');
command_ok(
	[
		$origin->installed_command('pg_dump'), '-d',
		$origin->connstr('app'), '-Fc', '-f', $custom
	],
	'pg_dump in custom format');
is(index(slurp_file($plain), $origin->safe_psql('app', 'SELECT value FROM _bemi.signing_key')),
	-1, 'the signing key is not in the dump');

# What holds for a database that was restored, wherever that is.
sub check_restored
{
	my ($node, $database, $name) = @_;

	is($node->safe_psql($database, $everything),
		$expected,
		"$name: history, partitions and tracked tables are the same");
	is($node->safe_psql($database, 'SELECT source, state, pid FROM bemi.status'),
		'', "$name: the source does not come along, nor what it connects to");
	is($node->safe_psql($database, q{SELECT reason FROM bemi.gaps WHERE "table" IS NULL}),
		'source_started', "$name: but its gaps do");

	my ($status, $stdout, $stderr) =
	  $node->psql($database, 'DROP EXTENSION bemi');
	like(
		$stderr,
		qr/ERROR:  cannot drop extension bemi because it holds history/,
		"$name: DROP EXTENSION does not delete the history by the way");

	is(start_error($node, undef, $database), '', "$name: bemi.start() works");
	is( $node->safe_psql(
			$database, q{
			SET bemi.context = '{"by": "the copy"}';
			INSERT INTO todo VALUES (1001, 'new');
			INSERT INTO "Odd ""schema"""."the table" VALUES (1002);
			INSERT INTO parted VALUES (99);
			SELECT bemi.sync('60s');
			SELECT state FROM bemi.status}),
		"\nstreaming",
		"$name: then it reads");
	is( changes($node, q{context->>'by' = 'the copy'}, $database),
		<<~'END' =~ s/\n\z//r,
		todo|1001|CREATE|{}|{"id": 1001, "task": "new"}|{"by": "the copy"}
		the table|1002|CREATE|{}|{"the key": 1002}|{"by": "the copy"}
		parted|99|CREATE|{}|{"id": 99}|{"by": "the copy"}
		END
		"$name: and stores new changes");
	is( $node->safe_psql(
			$database, q{
			CREATE TABLE whole.later (id int);
			SELECT "table", problems FROM bemi.tracked WHERE "table"::text LIKE 'whole.%' ORDER BY "table"::text}),
		"whole.by_itself|{}\nwhole.later|{}",
		"$name: new tables of a tracked schema are tracked again");
	is( $node->safe_psql(
			$database, q{
			SELECT bemi.untrack('keyed');
			SELECT relreplident, indisreplident
			FROM pg_class c JOIN pg_index ON indrelid = c.oid WHERE relname = 'keyed'}),
		"\ni|t",
		"$name: untrack still knows the replica identity of before");
	return;
}

#
# The same server
#

$origin->safe_psql('postgres', 'CREATE DATABASE copy');
command_ok(
	[
		$origin->installed_command('psql'), '-Xq', '-v', 'ON_ERROR_STOP=1',
		'-d', $origin->connstr('copy'), '-f', $plain
	],
	'psql restores on the same server');
check_restored($origin, 'copy', 'same server');
is( $origin->safe_psql(
		'app', q{
		INSERT INTO todo VALUES (2001, 'origin');
		SELECT bemi.sync('60s');
		SELECT state, (SELECT count(*) FROM bemi.changes WHERE primary_key::text IN ('1001', '2001'))
			FROM bemi.status}),
	"\nstreaming|1",
	'the origin goes on by itself');

#
# Single tables: pg_dump -t brings trigger, rules and identity, but not the place in the
# publication.  Where the database is read, they get it; where more of the dump may come,
# they do not, and the server warns.
#

# Restores a dump, returns what the server has warned of, which pg_restore shows with
# --verbose only.
sub restore_warnings
{
	my ($database, @options) = @_;
	my ($stdout, $stderr);

	IPC::Run::run(
		[ $origin->installed_command('pg_restore'), '--exit-on-error', '--verbose', '-d', $origin->connstr($database), @options ],
		'>', \$stdout, '2>', \$stderr) or die $stderr;
	return join('', $stderr =~ /^(?:.*WARNING: |DETAIL: |HINT: ).*\n/mg);
}

my $single = $origin->basedir . '/single.dump';
my $unpublished = 'SELECT "table", redact, problems FROM bemi.tracked WHERE problems <> \'{}\' ORDER BY "table"::text';

$origin->safe_psql('app', q{SELECT bemi.track('todo', redact => '{task}')});
command_ok(
	[ $origin->installed_command('pg_dump'), '-d', $origin->connstr('app'), '-Fc', '-t', 'todo', '-t', 'parted*', '-f', $single ],
	'pg_dump of single tables');
$origin->safe_psql('postgres', 'CREATE DATABASE single');
$origin->safe_psql('single', 'CREATE EXTENSION bemi; CREATE TABLE there (id int PRIMARY KEY)');

# Without a publication, that of the dump may come.
is(restore_warnings('single', $single), '', 'single tables without a publication: nothing is said yet');
my $not_stored = '{"not in publication \"bemi\": changes are not stored"}';
is( $origin->safe_psql('single', $unpublished),
	"parted|{}|$not_stored\nparted_1|{}|$not_stored\ntodo|{task}|$not_stored",
	'they have their triggers and rules');

# With a publication, but without a source that reads the database, the tables of the dump can be added to it.
$origin->safe_psql('single', q{DROP TABLE todo, parted; SELECT bemi.track('there')});
my $warnings = restore_warnings('single', $single);
my @warned = $warnings =~ /WARNING:  table "(\S+)" is not in publication "bemi"/g;
my @hints = $warnings =~ /HINT:  (.*;)$/mg;
is(join(' ', sort @warned), 'public.parted public.todo', 'single tables: a warning for each that its changes are not stored');
is($origin->safe_psql('single', $unpublished),
	"parted|{}|$not_stored\nparted_1|{}|$not_stored\ntodo|{task}|$not_stored",
	'single tables: they are not published while nobody reads');
like(
	start_error($origin, undef, 'single'),
	qr/WARNING:  tables with the trigger of bemi.track\(\) are not in publication "bemi"\n.*HINT:  SELECT bemi\.track\('public\.parted'\); SELECT bemi\.track\('public\.todo'\);\s*\z/s,
	'bemi.start() names them');
$origin->safe_psql('single', join('', @hints));
is($origin->safe_psql('single', $unpublished), '', 'single tables: the hints can be pasted');

# In a database that is read, they are tracked from that moment on.
$origin->safe_psql('single', 'DROP TABLE todo, parted');
is(restore_warnings('single', $single), '', 'single tables: no warning in a database that is read');
is($origin->safe_psql('single', $unpublished), '', 'single tables: they are published');
is( $origin->safe_psql(
		'single', q{
		INSERT INTO todo VALUES (1001, 'secret');
		INSERT INTO parted VALUES (99);
		SELECT bemi.sync('60s');
		SELECT "table", after FROM bemi.changes WHERE "table" IN ('todo', 'parted') ORDER BY id;
		SELECT reason, to_time IS NOT NULL FROM bemi.gaps WHERE "table" = 'todo' ORDER BY id}),
	"\n" . 'todo|{"id": 1001, "task": "[redacted]"}' . "\n" . 'parted|{"id": 99}' . "\ntracking_began|t\ntracking_ended|t",
	'single tables: then they are tracked, by their rules, with a gap for the time between');

# A partition of a published root is prepared when it is attached. Then it gets the trigger of the dump. (With a primary
# key, pg_restore itself cannot restore it alone.)
my $triggers = q{SELECT tgrelid::regclass, encode(tgargs, 'escape') FROM pg_trigger WHERE tgname = 'bemi_emit_context' AND tgrelid::regclass::text ~ 'parted|plain' ORDER BY tgrelid::regclass::text};
my $partition = $origin->basedir . '/partition.dump';
$origin->safe_psql('single', q{
	CREATE TABLE plain (id int) PARTITION BY RANGE (id);
	CREATE TABLE plain_1 PARTITION OF plain FOR VALUES FROM (0) TO (100);
	SELECT bemi.track('plain')});
my $before = $origin->safe_psql('single', $triggers);
command_ok(
	[ $origin->installed_command('pg_dump'), '-d', $origin->connstr('single'), '-Fc', '-t', 'plain_1', '-f', $partition ],
	'pg_dump of a partition');
$origin->safe_psql('single', 'DROP TABLE plain_1');
is(restore_warnings('single', $partition), '', 'a partition alone is restored');
is($origin->safe_psql('single', $triggers), $before, 'a partition alone: its trigger is that of the dump');

# So it does if the publication comes before the keys, as several jobs of pg_restore may have it.
my @list = split /^/, qx{@{[ $origin->installed_command('pg_restore') ]} -l '$custom'};
my @first = grep { / PUBLICATION / || / TRIGGER public parted / } @list;
my @last = grep { / CONSTRAINT public parted/ || / INDEX ATTACH public parted/ || / TRIGGER public parted_1 / } @list;
my %moved = map { $_ => 1 } @first, @last;
my $list = $origin->basedir . '/order.list';
append_to_file($list, join('', (grep { !$moved{$_} } @list), @first, @last));
$origin->safe_psql('postgres', 'CREATE DATABASE reordered');
$origin->safe_psql('reordered', 'CREATE EXTENSION bemi');
ok(@first >= 3 && @last >= 3, 'the list has a publication, triggers and keys');
command_ok(
	[ $origin->installed_command('pg_restore'), '--exit-on-error', '-L', $list, '-d', $origin->connstr('reordered'), $custom ],
	'pg_restore with the publication before the keys of partitions');
is($origin->safe_psql('reordered', $triggers), $origin->safe_psql('app', $triggers), 'its triggers are those of the dump');

# Partitions of the history go into any database with the extension. The pattern is the one of
# the hint of DROP EXTENSION: who follows it must have the history.
my (undef, undef, $refusal) = $origin->psql('app', 'DROP EXTENSION bemi');
my ($pattern) = $refusal =~ /pg_dump --table='([^']+)' keeps a copy/;
my $partition_dump = $origin->basedir . '/partitions.dump';
my $in_partitions = q{
	SELECT count(*), md5(string_agg(c::text, E'\n' ORDER BY id, committed_at)) FROM bemi.changes c
	WHERE tableoid::regclass::text LIKE '\_bemi.changes\_%'};

$origin->safe_psql('app', q{SELECT bemi.sync('60s')});
my $part_of_history = $origin->safe_psql('app', $in_partitions);
command_ok(
	[ $origin->installed_command('pg_dump'), '-d', $origin->connstr('app'), '-Fc', "--table=$pattern", '-f', $partition_dump ],
	'pg_dump of partitions of the history');
$origin->safe_psql('postgres', 'CREATE DATABASE evidence');
$origin->safe_psql('evidence', 'CREATE EXTENSION bemi');
restore_warnings('evidence', $partition_dump);
unlike($part_of_history, qr/\A0\|/, 'there is history in partitions');
is($origin->safe_psql('evidence', $in_partitions), $part_of_history, 'it comes along, and is attached');

# pg_restore -t leaves out the trigger, unless an option selects it.
$origin->safe_psql('single', 'DROP TABLE todo');
is(restore_warnings('single', '-t', 'todo', $custom), '', 'pg_restore -t: no trigger, no warning');
is($origin->safe_psql('single', q{SELECT "table" FROM bemi.tracked WHERE "table" = to_regclass('todo')}),
	'', 'pg_restore -t: the table is not tracked');
$origin->safe_psql('single', 'DROP TABLE todo');
restore_warnings('single', '-t', 'todo', '-T', 'todo bemi_emit_context', $single);
is($origin->safe_psql('single', q{SELECT "table", problems FROM bemi.tracked WHERE "table" = to_regclass('todo')}),
	'todo|{}', 'pg_restore -t -T: it is');

# Not for the asking: an update of a published table without an identity fails.
my ($status_of, $output, $by_hand) = $origin->psql(
	'single', q{
	CREATE TABLE by_hand (id int);
	CREATE TRIGGER bemi_emit_context BEFORE INSERT OR UPDATE ON by_hand EXECUTE FUNCTION bemi.emit_context('d', '', 'table');
	INSERT INTO by_hand VALUES (1);
	UPDATE by_hand SET id = 2});
is($status_of, 0, 'a table without the identity is not published');
like($by_hand, qr/WARNING:  table "public\.by_hand" is not in publication "bemi"/, 'but warned of');

# Its owner, who may not track, restores it, too.
$origin->safe_psql(
	'single', q{
	DROP TABLE todo;
	CREATE ROLE shop LOGIN;
	GRANT CREATE ON SCHEMA public TO shop});
$origin->safe_psql('app', q{SELECT bemi.untrack('todo'), bemi.track('todo')});
command_ok(
	[ $origin->installed_command('pg_dump'), '-d', $origin->connstr('app'), '-Fc', '-t', 'todo', '-f', $single ],
	'pg_dump of one table without rules');
like(restore_warnings('single', '--no-owner', '-U', 'shop', $single),
	qr/WARNING:  table "public\.todo" is not in publication "bemi"/,
	'an owner without the right to track restores his table, with the warning');
$origin->safe_psql('single', q{CALL bemi.drop_source('main')});

#
# Another server
#

$other->start;
$other->safe_psql('postgres', 'CREATE DATABASE app');
command_ok(
	[
		$origin->installed_command('pg_restore'), '--exit-on-error',
		'--jobs=2', '-d', $other->connstr('app'), $custom
	],
	'pg_restore restores on another server');
check_restored($other, 'app', 'other server');

#
# Into a database that has the extension already
#

$other->safe_psql('postgres', 'CREATE DATABASE prepared');
$other->safe_psql('prepared', 'CREATE EXTENSION bemi');
command_ok(
	[
		$origin->installed_command('pg_restore'), '--exit-on-error',
		'--jobs=2', '-d', $other->connstr('prepared'), $custom
	],
	'pg_restore restores into a database with the extension');
check_restored($other, 'prepared', 'extension there before');
$other->stop;

#
# The whole server, with its roles, grants and settings
#

my $whole = bemi_node('whole', run => 0);
my $all = $origin->basedir . '/all.sql';

$origin->safe_psql(
	'app', q{
	CREATE ROLE auditor LOGIN;
	CREATE ROLE tracker;
	GRANT SELECT ON bemi.changes TO auditor;
	GRANT EXECUTE ON FUNCTION bemi.track TO tracker;
	REVOKE SELECT ON bemi.status FROM pg_monitor;
	ALTER DATABASE app SET bemi.include = 'session_user';
	ALTER DATABASE app SET bemi.context = '{"by": "the database''s setting"}';
	ALTER ROLE auditor SET bemi.require_context = 'error';
	ALTER ROLE auditor IN DATABASE app SET bemi.emit = 'changed'});
my $rights = q{
	SELECT has_table_privilege('auditor', 'bemi.changes', 'SELECT'),
		has_table_privilege('auditor', 'bemi.sources', 'SELECT'),
		has_function_privilege('tracker', 'bemi.track(regclass, name[], name[], name[])', 'EXECUTE'),
		has_function_privilege('auditor', 'bemi.track(regclass, name[], name[], name[])', 'EXECUTE'),
		has_table_privilege('pg_monitor', 'bemi.status', 'SELECT'),
		has_table_privilege('pg_monitor', 'bemi.tracked', 'SELECT');
	SELECT setdatabase = 0, coalesce(setrole::regrole::text, ''), setconfig FROM pg_db_role_setting
	WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
	ORDER BY 1, 2};
$expected = $origin->safe_psql('app', $everything);
my $expected_rights = $origin->safe_psql('app', $rights);

like($expected_rights, qr/\At\|f\|t\|f\|f\|t\n/, 'there are grants');
command_ok(
	[
		$origin->installed_command('pg_dumpall'), '-d', $origin->connstr('postgres'), '-f', $all
	],
	'pg_dumpall');
$whole->start;
my ($stdout, $stderr);
IPC::Run::run(
	[ $origin->installed_command('psql'), '-Xq', '-d', $whole->connstr('postgres'), '-f', $all ],
	'>', \$stdout, '2>', \$stderr);
is($stderr =~ s/.*ERROR:  role "\S+" already exists\n//r, '', 'psql restores all of it');
is($whole->safe_psql('app', $rights), $expected_rights, 'whole server: grants and settings are the same');
# The settings are those of the tests above no longer.
$whole->safe_psql('postgres', 'ALTER DATABASE app RESET ALL');
check_restored($whole, 'app', 'whole server');
is($whole->safe_psql('copy', 'SELECT source, state, pid FROM bemi.status'),
	'', 'whole server: nor does the source of the other database');

$whole->stop;
$origin->stop;
done_testing();
