# A dump of a database with bemi-source.sql has all of it: the functions with their owner and
# rights, the triggers, the replica identities and the publication. The owner of the database
# restores it, without superuser rights, in each format that pg_dump has.
#
# Each restored database is compared with the original by the catalog, then the server of the
# history reads some of them, because only the context of a change shows that all fits together.

use strict;
use warnings;

use Bemi;
use Bemi::Source;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $history = bemi_node('history');
my $source = source_node('source');
my $directory = $source->basedir;

$source->safe_psql('postgres', 'CREATE ROLE heir LOGIN REPLICATION; CREATE ROLE tracker; CREATE ROLE writer LOGIN');
as_app($source, q{
	CREATE TABLE todo (id int PRIMARY KEY, task text);
	CREATE SCHEMA "Odd ""schema""";
	CREATE TABLE "Odd ""schema"""."the table" ("the key" int PRIMARY KEY);
	CREATE TABLE keyed (code text NOT NULL UNIQUE);
	ALTER TABLE keyed REPLICA IDENTITY USING INDEX keyed_code_key;
	CREATE TABLE parted (id int) PARTITION BY RANGE (id);
	CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100);
	CREATE TABLE loner (id int);
	CREATE TABLE disabled (id int PRIMARY KEY);
	CREATE TABLE free (id int PRIMARY KEY);
	SELECT bemi.track(t) FROM unnest('{todo, keyed, parted, loner, disabled, "\"Odd \"\"schema\"\"\".\"the table\""}'::regclass[]) t;
	ALTER TABLE parted ATTACH PARTITION loner FOR VALUES FROM (100) TO (200);
	SELECT bemi.track('parted');
	ALTER TABLE disabled DISABLE TRIGGER bemi_emit_context;
	INSERT INTO todo VALUES (1, 'Sleep');
	INSERT INTO parted VALUES (1), (101);
	GRANT ALL ON todo, parted TO writer;
	SELECT bemi.set_default('bemi.tags', 'a, "b c"');
	GRANT EXECUTE ON FUNCTION bemi.track, bemi.untrack TO tracker;
	REVOKE EXECUTE ON FUNCTION bemi.merge_context FROM PUBLIC});

# All of bemi. --no-owner gives it to another role.
sub everything
{
	my ($database, $owner) = @_;

	$owner //= 'app';
	return $source->safe_psql($database, q{
		SELECT n.nspname, n.nspowner::regrole, (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(n.nspacl) a), obj_description(n.oid)
			FROM pg_namespace n WHERE n.nspname ~ 'bemi' ORDER BY n.nspname;
		SELECT p.oid::regprocedure, p.proowner::regrole, (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(coalesce(p.proacl, acldefault('f', p.proowner))) a),
				p.proconfig, p.prosecdef, p.provolatile, md5(p.prosrc), obj_description(p.oid)
			FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname ~ 'bemi' ORDER BY p.oid::regprocedure::text;
		SELECT t.tgrelid::regclass, t.tgname, t.tgfoid::regproc, t.tgenabled, t.tgtype, encode(t.tgargs, 'escape') FROM pg_trigger t WHERE t.tgname ~ '^bemi'
			ORDER BY t.tgrelid::regclass::text, t.tgname;
		SELECT c.oid::regclass, c.relreplident, c.relispartition FROM pg_class c WHERE c.relkind IN ('r', 'p') AND c.oid > 16384 ORDER BY c.oid::regclass::text;
		SELECT p.pubname, p.pubowner::regrole, to_jsonb(p) - 'oid' - 'pubowner' FROM pg_publication p;
		SELECT r.prrelid::regclass FROM pg_publication_rel r ORDER BY r.prrelid::regclass::text}) =~ s/\b$owner\b/OWNER/gr;
}

my $before = everything('app');
like($before, qr/loner\|bemi_emit_context\|bemi\.emit_context\|O.*attached/, 'there is something to dump');
my $number = 0;

sub new_database
{
	my ($owner) = @_;
	my $database = 'restored' . ++$number;

	$source->safe_psql('postgres', "CREATE DATABASE $database OWNER $owner");
	return $database;
}

# Runs a program of PostgreSQL as a role. Returns what it has to say.
sub run_as
{
	my ($role, $database, $program, @arguments) = @_;
	my ($stdout, $stderr) = run_command([ $source->installed_command($program), '-d', $source->connstr($database), '-U', $role, @arguments ]);

	return $stderr;
}

#
# All formats, by the owner
#

is(run_as('app', 'app', 'pg_dump', '-Fc', '-f', "$directory/app.dump"), '', 'pg_dump by the owner');
is(run_as('app', 'app', 'pg_dump', '-f', "$directory/app.sql"), '', 'as plain text');
is(run_as('app', 'app', 'pg_dump', '-Fd', '-j2', '-f', "$directory/app.dir"), '', 'as a directory');
my @psql = ('psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-o', '/dev/null');
my @restore = ('pg_restore', '--exit-on-error');
my %restored = (
	plain => [ 'app', @psql, '-f', "$directory/app.sql" ],
	custom => [ 'app', @restore, "$directory/app.dump" ],
	'two jobs' => [ 'app', @restore, '-j2', "$directory/app.dir" ],
	'no owner' => [ 'heir', @restore, '--no-owner', "$directory/app.dump" ],
	'schema only' => [ 'app', @restore, '--schema-only', "$directory/app.dump" ],
	'by a superuser' => [ $source->safe_psql('postgres', 'SELECT current_user'), @restore, "$directory/app.dump" ],
	'one transaction' => [ 'app', @restore, '--single-transaction', "$directory/app.dump" ]);
my %database;
for my $name (sort keys %restored)
{
	my ($role, @command) = @{ $restored{$name} };
	my $owner = $role eq 'heir' ? 'heir' : 'app';

	$database{$name} = new_database($owner);
	is(run_as($role, $database{$name}, @command), '', "$name: no error");
	is(everything($database{$name}, $owner), $before, "$name: all of bemi is there");
}
is($source->safe_psql($database{'no owner'}, q{SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname ~ 'bemi' AND p.prosecdef}),
	'', 'no owner: nothing runs with the rights of the heir');

# Once more over it.
for my $name ('custom', 'plain', 'no owner')
{
	my ($role) = @{ $restored{$name} };

	is(run_as($role, $database{$name}, @restore, '--clean', '--if-exists', ($name eq 'no owner' ? '--no-owner' : ()), "$directory/app.dump"), '', "$name: --clean --if-exists over it");
	is(everything($database{$name}, $role), $before, "$name: all of bemi is there again");
}

# The script and bemi.track() find nothing to do.
for my $name ('custom', 'no owner')
{
	my ($role) = @{ $restored{$name} };

	is(run_as($role, $database{$name}, @psql, '-f', 'bemi-source.sql'), '', "$name: the script runs over it");
	is(run_as($role, $database{$name}, @psql, '-c', q{SELECT bemi.track(r.prrelid) FROM pg_publication_rel r}), '', "$name: bemi.track() once more");
	$source->safe_psql($database{$name}, 'REVOKE EXECUTE ON FUNCTION bemi.merge_context FROM PUBLIC');
	is(everything($database{$name}, $role), $before, "$name: nothing has changed");
}

#
# The history reads restored databases
#

sub contexts
{
	my ($database, $role) = @_;
	my $conninfo = ($source->connstr($database) . " user=$role") =~ s/'/''/gr;

	$history->safe_psql('postgres', "CALL bemi.start('$database', conninfo => '$conninfo')");
	$source->safe_psql($database, q{
		INSERT INTO todo VALUES (10, 'x') /*Bemi {"by": "comment"} Bemi*/;
		UPDATE todo SET task = 'y' WHERE id = 10 /*a='1'*/;
		SET bemi.context = '{"by": "setting"}';
		INSERT INTO parted VALUES (10), (110);
		DELETE FROM loner WHERE id = 110;
		RESET bemi.context;
		INSERT INTO parted_1 VALUES (11)}, extra_params => [ '-U', 'writer' ]);
	$source->safe_psql($database, q{INSERT INTO "Odd ""schema"""."the table" VALUES (1) /*Bemi {"by": "owner"} Bemi*/}, extra_params => [ '-U', $role ]);
	my $end = $source->safe_psql($database, 'SELECT pg_current_wal_insert_lsn()');
	$history->poll_query_until('postgres', "SELECT stored_lsn >= '$end' FROM bemi.status WHERE source = '$database'") or die 'changes do not come';
	return $history->safe_psql('postgres', qq{SELECT "table", operation, before, after, context FROM bemi.changes WHERE source = '$database' ORDER BY id});
}

# Rights on rows for the writer, whom partitions do not know.
$source->safe_psql($_, 'GRANT ALL ON loner, parted_1 TO writer') for @database{ 'plain', 'custom', 'no owner' };
for my $name ('plain', 'custom', 'no owner')
{
	my ($role) = @{ $restored{$name} };

	is(contexts($database{$name}, $role), <<~'END' =~ s/\n\z//r, "$name: contexts");
		todo|CREATE|{}|{"id": 10, "task": "x"}|{"by": "comment"}
		todo|UPDATE|{"id": 10, "task": "x"}|{"id": 10, "task": "y"}|{"_tags": {"a": "1"}}
		parted|CREATE|{}|{"id": 10}|{"by": "setting"}
		parted|CREATE|{}|{"id": 110}|{"by": "setting"}
		parted|DELETE|{"id": 110}|{}|{"by": "setting"}
		parted|CREATE|{}|{"id": 11}|{}
		the table|CREATE|{}|{"the key": 1}|{"by": "owner"}
		END
}

#
# What must be done by hand
#

# Tables alone: the functions and the publication are not in the dump.
is(run_as('app', 'app', 'pg_dump', '-Fc', '-t', 'todo', '-f', "$directory/todo.dump"), '', 'pg_dump of one table');
my $alone = new_database('app');
like(run_as('app', $alone, 'pg_restore', "$directory/todo.dump"), qr/ERROR:  schema "bemi" does not exist/, 'one table without bemi-source.sql: its trigger is an error');
is($source->safe_psql($alone, 'SELECT count(*) FROM todo'), '1', 'but the table is there');
is(run_as('app', $alone, @psql, '-c', 'DROP TABLE todo', '-f', 'bemi-source.sql'), '', 'with bemi-source.sql');
is(run_as('app', $alone, @restore, "$directory/todo.dump"), '', 'there is no error');
$source->safe_psql($alone, q{SELECT bemi.track('todo')}, extra_params => [ '-U', 'app' ]);
is($source->safe_psql($alone, q{SELECT r.prrelid::regclass, c.relreplident, encode(t.tgargs, 'escape') FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid JOIN pg_trigger t ON t.tgrelid = c.oid AND t.tgname = 'bemi_emit_context'}),
	'todo|f|d\000\000table\000', 'bemi.track() publishes it, and the former replica identity is not lost');

# An event trigger takes a superuser.
$source->safe_psql('app', q{CREATE EVENT TRIGGER bemi_follow_ddl ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE') EXECUTE FUNCTION _bemi.follow_ddl()});
is(run_as('app', 'app', 'pg_dump', '-Fc', '-f', "$directory/event.dump"), '', 'pg_dump with the event trigger');
my $event = new_database('app');
like(run_as('app', $event, 'pg_restore', "$directory/event.dump"),
	qr/ERROR:  permission denied to create event trigger "bemi_follow_ddl".*errors ignored on restore: 2$/s, 'the owner cannot restore the event trigger');
is(everything($event), $before, 'all the rest is there');
my $by_superuser = new_database('app');
is(run_as($restored{'by a superuser'}[0], $by_superuser, @restore, "$directory/event.dump"), '', 'a superuser can');
is($source->safe_psql($by_superuser, 'CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (200) TO (300); SELECT relreplident FROM pg_class WHERE relname = $$parted_2$$',
	extra_params => [ '-U', 'app' ]), 'f', 'and it works');
is(run_as($restored{'by a superuser'}[0], $by_superuser, @restore, '--clean', '--if-exists', "$directory/event.dump"), '', 'also over it');

#
# With the extension
#

# Restored first, then taken over, and the dump of that.
my $superuser = $restored{'by a superuser'}[0];
my $new_tracked = q{SELECT "table", problems FROM bemi.tracked ORDER BY "table"::text};
my $taken = $database{'two jobs'};
like(run_as($superuser, $taken, @psql, '-c', 'CREATE EXTENSION bemi'), qr/\AWARNING:  the value of "bemi\.tags" in bemi-source\.sql has no effect any more\nHINT:  ALTER DATABASE $taken SET .*;\n?\z/,
	'the extension takes a restored database over');
my $tracked = $source->safe_psql($taken, $new_tracked);
is($tracked, <<~'END' =~ s/\n\z//r, 'all tables are tracked');
	"Odd ""schema"""."the table"|{}
	disabled|{"a trigger is disabled"}
	keyed|{}
	loner|{}
	parted|{}
	parted_1|{}
	todo|{}
	END
is(run_as($superuser, $taken, 'pg_dump', '-Fc', '-f', "$directory/taken.dump"), '', 'its dump');
my $of_taken = new_database('app');
is(run_as($superuser, $of_taken, @restore, '-j2', "$directory/taken.dump"), '', 'is restored');
is($source->safe_psql($of_taken, $new_tracked), $tracked, 'all tables are tracked there, too');
my $triggers = q{SELECT t.tgrelid::regclass, t.tgname, encode(t.tgargs, 'escape'), l.lanname FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_language l ON l.oid = p.prolang
	WHERE t.tgname ~ '^bemi' ORDER BY t.tgrelid::regclass::text, t.tgname};
is($source->safe_psql($of_taken, $triggers), $source->safe_psql($taken, $triggers), 'with the same triggers');

# Into a database with the extension, it is refused at the first object.
my $with_extension = new_database('app');
is(run_as($superuser, $with_extension, @psql, '-c', 'CREATE EXTENSION bemi'), '', 'a database with the extension');
like(run_as($superuser, $with_extension, @restore, "$directory/app.dump"), qr/ERROR:  schema "_?bemi" already exists/, 'takes no dump of bemi-source.sql');

$source->stop;
$history->stop;
done_testing();
