# The primary key of a change is the one that the table had when the change was made, even if the
# worker reads it much later, and the key, its columns or the table have changed since.
#
# pgoutput sends no keys, so tracking messages must describe them, at the right place between the
# rows. Here keys are added, dropped and changed by every command that can do so, also by those
# that do not name the table. The commands run in several transactions, in one, rolled back,
# prepared, and in a function, while the worker is stopped, blocked, streaming, or restarted after
# each statement.
#
# Each row's context contains the key that its change must have. Bemi::KeyScenarios has these
# keys, written by hand. track_keys_elsewhere.pl runs the same from another server,
# track_keys_random.pl runs random statements.

use strict;
use warnings;

use Bemi;
use Bemi::Interruptions;
use Bemi::KeyScenarios;
use Bemi::Session;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main', conf => "max_prepared_transactions = 2\n");

add_extension_scenario($node);

sub sync
{
	$node->safe_psql('postgres', q{SELECT bemi.sync('60s')});
	return;
}

#
# What was tracked, and changed, before anything is read
#

$node->safe_psql(
	'postgres', q{
	CREATE TABLE early (id int PRIMARY KEY, a int NOT NULL);
	CREATE TABLE early_too (id int PRIMARY KEY, a int NOT NULL);
	SELECT bemi.track('early'), bemi.track('early_too');
	ALTER TABLE early DROP CONSTRAINT early_pkey, ADD PRIMARY KEY (a);
	INSERT INTO early VALUES (1, 10);
	CALL bemi.start();
	CALL bemi.stop();
	UPDATE early SET a = 11 /*Bemi {"early": "11"} Bemi*/;
	INSERT INTO early_too VALUES (2, 20) /*Bemi {"early": "2"} Bemi*/;
	ALTER TABLE early DROP CONSTRAINT early_pkey;
	ALTER TABLE early_too RENAME id TO ident;
	ALTER TABLE early_too RENAME a TO id;
	UPDATE early SET a = 12 /*Bemi {"early": null} Bemi*/;
	UPDATE early_too SET id = 21 /*Bemi {"early": "2"} Bemi*/;
	DROP TABLE early_too;
	CALL bemi.start()});
sync();
my $early = q{SELECT "table", context->>'early', primary_key FROM bemi.changes WHERE context ? 'early' ORDER BY id};
is($node->safe_psql('postgres', $early), "early|11|11\nearly_too|2|2\nearly||\nearly_too|2|2", 'tables that were tracked before the first start');

#
# The worker comes late: it was stopped
#

$node->safe_psql('postgres', 'CALL bemi.stop()');
for my $way (sort keys %ways)
{
	run_scenarios($node, "late $way", $way, @scenarios);
}
run_scenarios($node, 'late alone', 'each by itself', @alone);
$node->safe_psql('postgres', 'CALL bemi.start()');
sync();
for my $way (sort keys %ways)
{
	check_scenarios($node, "late $way", "stopped, $way", 'main', @scenarios);
}
check_scenarios($node, 'late alone', 'stopped', 'main', @alone);

#
# It streams, but cannot store
#

my $lock = Bemi::Session->new($node);

$lock->query('BEGIN; LOCK TABLE bemi.changes IN SHARE ROW EXCLUSIVE MODE');
run_scenarios($node, 'blocked', 'each by itself', @scenarios);
run_scenarios($node, 'blocked once', 'one transaction', @scenarios);
$lock->query('COMMIT');
sync();
check_scenarios($node, 'blocked', 'blocked, each by itself', 'main', @scenarios);
check_scenarios($node, 'blocked once', 'blocked, one transaction', 'main', @scenarios);

#
# It streams
#

run_scenarios($node, 'live', 'each by itself', @scenarios, @alone);
sync();
check_scenarios($node, 'live', 'streaming', 'main', @scenarios, @alone);

#
# It restarts, somewhere between the steps
#

my @interruptions = interruptions($node);

{
	my %few = (@scenarios, @alone);
	my @few = map { ($_ => $few{$_}) } ('replaced by another column', 'columns of the key swap their names', 'by way of a parent',
		'by way of the type of a typed table', 'indexes made anew beside their use', 'table dropped');
	my $schema = 'restarted';
	my $n = 0;

	$node->safe_psql('postgres', "CREATE SCHEMA $schema");
	for (my $i = 0; $i < @few; $i += 2)
	{
		for my $step (steps($schema, @few[ $i, $i + 1 ]))
		{
			$node->safe_psql('postgres', "SET search_path = $schema;\n" . statement($step), on_error_stop => 1);
			$interruptions[ $n++ % @interruptions ]->();
		}
	}
	start_again($node);
	sync();
	check_scenarios($node, $schema, 'restarted between the steps', 'main', @few);
}

# In the middle of what has heaped up: the worker is stopped at a row, after it has
# stored those before.  10,000 changes are more than it stores at once.
$node->safe_psql(
	'postgres', q{
	CREATE TABLE filler (id int PRIMARY KEY);
	SELECT bemi.track('filler');
	CREATE FUNCTION wait_here() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NEW; END $$;
	CREATE TRIGGER wait_here BEFORE INSERT ON bemi.changes FOR EACH ROW
		WHEN (NEW."table" = 'filler' AND NEW.primary_key IN ('11000', '22000', '33000')) EXECUTE FUNCTION wait_here();
	ALTER TABLE bemi.changes ENABLE ALWAYS TRIGGER wait_here});
for my $end ('worker', 'server stopped', 'server crashed')
{
	my $first = { worker => 0, 'server stopped' => 11_000, 'server crashed' => 22_000 }->{$end};

	$node->safe_psql('postgres', 'CALL bemi.stop()');
	$lock->query('SELECT pg_advisory_lock(42)');
	run_scenarios($node, "before $end", 'each by itself', @scenarios);
	$node->safe_psql('postgres', sprintf('INSERT INTO filler SELECT generate_series(%d, %d)', $first + 1, $first + 10_999));
	# the same tables continue in the other part
	$node->safe_psql('postgres', qq{
		INSERT INTO "before $end".replaced VALUES (5, 50, 'x') /*Bemi {"middle": "50"} Bemi*/;
		INSERT INTO "before $end".of_kind VALUES (5, 50) /*Bemi {"middle": "5"} Bemi*/;
		INSERT INTO "before $end".dropped VALUES (5, 'x') /*Bemi {"middle": null} Bemi*/});
	$node->safe_psql('postgres', sprintf('INSERT INTO filler VALUES (%d)', $first + 11_000));
	$node->safe_psql('postgres', qq{
		UPDATE "before $end".replaced SET v = 'y' /*Bemi {"middle": "50"} Bemi*/;
		ALTER TABLE "before $end".replaced DROP CONSTRAINT by_a, ADD PRIMARY KEY (id);
		UPDATE "before $end".replaced SET v = 'z' /*Bemi {"middle": "5"} Bemi*/;
		DROP TABLE "before $end".replaced});
	run_scenarios($node, "after $end", 'each by itself', @scenarios);
	$node->safe_psql('postgres', 'CALL bemi.start(wait => false)');
	$node->poll_query_until('postgres',
		q{SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)})
	  or die 'the worker does not come to the row';
	is( $node->safe_psql('postgres', qq{SELECT count(*) > 10000 FROM bemi.changes WHERE "table" = 'filler' AND primary_key::int > $first}),
		't', "middle, $end: a part is stored");
	if ($end eq 'worker')
	{
		kill_worker($node, 'main');
		$lock->query('SELECT pg_advisory_unlock(42)');
	}
	else
	{
		$lock->quit;
		$node->stop($end eq 'server crashed' ? 'immediate' : 'fast');
		$node->start;
		$lock = Bemi::Session->new($node);
	}
	sync();
	check_scenarios($node, "before $end", "before the middle, $end", 'main', @scenarios);
	check_scenarios($node, "after $end", "after the middle, $end", 'main', @scenarios);
	is( $node->safe_psql('postgres', qq{
			SELECT "table", context->>'middle', primary_key FROM bemi.changes
			WHERE schema = 'before $end' AND context ? 'middle' ORDER BY id}),
		"replaced|50|50\nof_kind|5|5\ndropped||\nreplaced|50|50\nreplaced|5|5",
		"middle, $end: tables on both sides of it");
}
$node->safe_psql('postgres', 'DROP TRIGGER wait_here ON bemi.changes');
$lock->quit;

#
# The slot is dropped, and made again: what has changed meanwhile was not in the
# stream
#

$node->safe_psql(
	'postgres', q{
	CREATE TABLE lasting (id int PRIMARY KEY, a int NOT NULL, b int);
	CREATE TABLE lasting_too (id int PRIMARY KEY, a int NOT NULL, b int);
	SELECT bemi.track('lasting'), bemi.track('lasting_too');
	INSERT INTO lasting VALUES (1, 10) /*Bemi {"lasting": "1"} Bemi*/;
	SELECT bemi.sync('60s');
	CALL bemi.drop_source('main');
	ALTER TABLE lasting DROP CONSTRAINT lasting_pkey, ADD PRIMARY KEY (a);
	ALTER TABLE lasting_too RENAME id TO ident;
	ALTER TABLE lasting_too RENAME a TO id;
	CALL bemi.start();
	CALL bemi.stop();
	UPDATE lasting SET b = 1 /*Bemi {"lasting": "10"} Bemi*/;
	INSERT INTO lasting_too VALUES (2, 20) /*Bemi {"lasting": "2"} Bemi*/;
	ALTER TABLE lasting DROP CONSTRAINT lasting_pkey;
	ALTER TABLE lasting_too DROP CONSTRAINT lasting_too_pkey;
	UPDATE lasting SET b = 2 /*Bemi {"lasting": null} Bemi*/;
	UPDATE lasting_too SET b = 2 /*Bemi {"lasting": null} Bemi*/;
	CALL bemi.start()});
run_scenarios($node, 'anew', 'each by itself', @scenarios, @alone);
sync();
is( $node->safe_psql('postgres', q{SELECT "table", context->>'lasting', primary_key FROM bemi.changes WHERE context ? 'lasting' ORDER BY id}),
	"lasting|1|1\nlasting|10|10\nlasting_too|2|2\nlasting||\nlasting_too||",
	'a new slot: keys that have changed while there was none');
check_scenarios($node, 'anew', 'a new slot', 'main', @scenarios, @alone);

# Keys change all the time, while the worker restarts or gets a new slot: what is
# stored has the right one.
$node->safe_psql(
	'postgres', q{
	CREATE TABLE race (id int CONSTRAINT race_key PRIMARY KEY, a int NOT NULL, n int);
	SELECT bemi.track('race');
	INSERT INTO race VALUES (1, 10, 0) /*Bemi {"race": "1"} Bemi*/});
append_to_file($node->basedir . '/race.sql', <<~'END');
	ALTER TABLE race DROP CONSTRAINT race_key, ADD CONSTRAINT race_key PRIMARY KEY (a, id);
	SET bemi.context = '{"race": "[\"10\", \"1\"]"}';
	UPDATE race SET n = n + 1;
	BEGIN;
	ALTER TABLE race RENAME id TO x;
	ALTER TABLE race RENAME a TO id;
	ALTER TABLE race RENAME x TO a;
	ALTER TABLE race DROP CONSTRAINT race_key;
	SET LOCAL bemi.context = '{"race": null}';
	UPDATE race SET n = n + 1;
	COMMIT;
	ALTER TABLE race ADD CONSTRAINT race_key PRIMARY KEY (id);
	SET bemi.context = '{"race": "10"}';
	UPDATE race SET n = n + 1;
	ALTER TABLE race DROP CONSTRAINT race_key, ADD CONSTRAINT race_key PRIMARY KEY (a);
	SET bemi.context = '{"race": "1"}';
	UPDATE race SET n = n + 1;
	BEGIN;
	ALTER TABLE race RENAME id TO x;
	ALTER TABLE race RENAME a TO id;
	ALTER TABLE race RENAME x TO a;
	COMMIT;
	UPDATE race SET n = n + 1;
	END
my $load = IPC::Run::start(
	[
		$node->installed_command('pgbench'), '--no-vacuum', '-c', '1',
		'-T', $PostgreSQL::Test::Utils::timeout_default,
		'-f', $node->basedir . '/race.sql', $node->connstr('postgres')
	],
	'>', \my $output, '2>&1',
	IPC::Run::timeout(2 * $PostgreSQL::Test::Utils::timeout_default));
for my $round (1 .. 16)
{
	my $stored = $node->safe_psql('postgres', q{SELECT count(*) FROM bemi.changes WHERE "table" = 'race'});

	if ($round % 4 == 0)
	{
		kill_worker($node, 'main');
	}
	else
	{
		my $how = $round % 2 ? "drop_source('main')" : 'stop()';

		$node->safe_psql('postgres', "CALL bemi.$how; CALL bemi.start()");
	}
	$node->poll_query_until('postgres', qq{SELECT count(*) > $stored + 10 FROM bemi.changes WHERE "table" = 'race'})
	  or die 'nothing more is stored';
}
$load->signal('TERM');
$load->finish;
unlike($output, qr/ERROR/, 'a race: no statement has failed');
sync();
is( $node->safe_psql('postgres', q{
		SELECT context, coalesce(primary_key, '(no key)'), count(*) FROM bemi.changes
		WHERE "table" = 'race' AND context->>'race' IS DISTINCT FROM primary_key GROUP BY 1, 2 ORDER BY 1, 2}),
	'', 'a race: whatever begins anew between changes of the key, all changes have the right one');

# A worker can end when it has created the slot, but not yet recorded it.  The descriptions of
# tables at that position are lost, so it creates the slot again.
$node->safe_psql(
	'postgres', q{
	CALL bemi.drop_source('main');
	CREATE TABLE left_over (id int PRIMARY KEY, a int NOT NULL);
	SELECT bemi.track('left_over');
	SELECT pg_create_logical_replication_slot(_bemi.origin_of('main'), 'pgoutput');
	INSERT INTO left_over VALUES (1, 10);
	ALTER TABLE left_over DROP CONSTRAINT left_over_pkey, ADD PRIMARY KEY (a);
	CALL bemi.start();
	UPDATE left_over SET id = 2});
sync();
is( $node->safe_psql('postgres', q{SELECT operation, primary_key FROM bemi.changes WHERE "table" = 'left_over'}),
	'UPDATE|10', 'a slot that an earlier worker has left is made anew');

$node->stop;
done_testing();
