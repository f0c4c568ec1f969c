# Exactly once, whatever dies: the worker, its walsender, the whole server.
#
# Clients change rows all the while, and write what they do into a plain table
# of their own, "journal", in the same transaction.  After each accident that
# table and bemi.changes must tell the same: an independent record is the only
# way to see that nothing is missing and nothing is there twice.  Clients that
# lose their connection do not matter, since only committed transactions are in
# the journal.  Where in the work an accident strikes is left to chance, so
# there are several of each.
#
# A process that gets SIGKILL makes the server restart all others and recover.

use strict;
use warnings;

use Bemi;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{BEMI_SEED} // int(rand(2**31));
note "random seed: $seed (BEMI_SEED=$seed repeats the clients' choices)";

my $node = bemi_node('main', conf => <<~CONF);
	restart_after_crash = on
	synchronous_commit = on
	log_statement = none
	max_prepared_transactions = 1
	CONF

# work() makes one change of one row and notes it.  The lock makes the order of
# "n" the order of the commits, for each row by itself.
$node->safe_psql(
	'postgres', q{
	CREATE TABLE item (k int PRIMARY KEY, v text NOT NULL);
	CREATE TABLE journal (n bigserial PRIMARY KEY, k int, operation text,
		before jsonb, after jsonb, context jsonb);

	CREATE FUNCTION work(k int, v int, context jsonb) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		old_row item;
		new_row item := (work.k, 'value ' || work.v);
		operation text := 'UPDATE';
	BEGIN
		PERFORM pg_advisory_xact_lock(work.k % 1000);
		PERFORM bemi.set_context(work.context);
		SELECT * INTO old_row FROM item WHERE item.k = work.k;
		IF old_row IS NULL THEN
			operation := 'CREATE';
			INSERT INTO item SELECT new_row.*;
		ELSIF work.v % 4 = 0 THEN
			operation := 'DELETE';
			new_row := NULL;
			DELETE FROM item WHERE item.k = work.k;
		ELSE
			UPDATE item SET v = new_row.v WHERE item.k = work.k;
		END IF;
		INSERT INTO journal (k, operation, before, after, context)
			VALUES (work.k, operation,
				CASE WHEN old_row IS NULL THEN '{}' ELSE to_jsonb(old_row) END,
				CASE WHEN new_row IS NULL THEN '{}' ELSE to_jsonb(new_row) END,
				coalesce(work.context, '{}'));
	END
	$$;
	SELECT bemi.track('item');
	CALL bemi.start()});

# Three changes in a transaction, with two contexts and without any, and a
# fourth that is rolled back.  Rows are locked in ascending order.
my $script = $node->basedir . '/work.sql';
append_to_file($script, <<'SQL');
\set k random(1, 20)
\set v random(1, 1000000)
BEGIN;
SELECT work(:k, :v, jsonb_build_object('client', :client_id, 'v', :v));
SAVEPOINT a;
SELECT work(100 + :k, :v, '{"rolled": "back"}');
ROLLBACK TO a;
SELECT work(200 + :k, :v + 1, NULL);
SELECT work(300 + :k, :v + 2, '{"last": true}');
COMMIT;
SQL

sub start_load
{
	my $output = '';

	return IPC::Run::start(
		[
			$node->installed_command('pgbench'), '--no-vacuum',
			'--client=3', '--time=600',
			'--random-seed=' . $seed++, "--file=$script",
			$node->connstr('postgres')
		],
		'<', \undef, '>', \$output, '2>', \$output,
		IPC::Run::timeout(300));
}

# Waits until the worker has stored a good deal more.
sub wait_for_progress
{
	my $before = $node->safe_psql('postgres', 'SELECT count(*) FROM bemi.changes');

	$node->poll_query_until('postgres',
		"SELECT count(*) > $before + 300 FROM bemi.changes")
	  or die 'the worker stores nothing';
	return;
}

# How many changes of the journal are not in the history, or there at another
# place in the order of their row, or the other way round.
my $differences = q{
	WITH expected AS (
		SELECT k::text AS key, row_number() OVER (PARTITION BY k ORDER BY n) AS i,
			operation, before, after, context
		FROM journal
	), found AS (
		SELECT primary_key AS key, row_number() OVER (PARTITION BY primary_key ORDER BY id) AS i,
			operation, before, after, context
		FROM bemi.changes WHERE "table" = 'item'
	)
	SELECT count(*) FROM expected e FULL JOIN found f USING (key, i)
	WHERE (e.operation, e.before, e.after, e.context)
		IS DISTINCT FROM (f.operation, f.before, f.after, f.context)};

sub check_history
{
	my ($name) = @_;

	wait_for_state($node, 'streaming');
	$node->safe_psql('postgres', q{SELECT bemi.sync('120s')});
	is($node->safe_psql('postgres', $differences),
		'0', "$name: the history equals the journal");
	is( $node->safe_psql('postgres',
			'SELECT count(*) - count(DISTINCT id) FROM bemi.changes'),
		'0',
		"$name: no id is there twice");
	return;
}

sub pid_of_worker
{
	return $node->safe_psql('postgres', 'SELECT pid FROM bemi.status');
}

sub pid_of_walsender
{
	return $node->safe_psql('postgres',
		'SELECT s.pid FROM pg_stat_replication s, bemi.status b'
		  . ' WHERE s.application_name = b.slot_name');
}

# One accident under load.  Whatever of the clients survives it goes on for a
# while, and is then stopped.
sub accident
{
	my ($name, $strike) = @_;
	my $worker = pid_of_worker();
	my $load = start_load();

	wait_for_progress();
	$strike->();
	$node->poll_query_until('postgres',
		"SELECT state = 'streaming' AND pid <> $worker FROM bemi.status")
	  or die "$name: no new worker came";
	$load->signal('TERM');
	$load->finish;
	check_history($name);
	return;
}

sub kill_process
{
	my ($pid) = @_;
	my $offset = -s $node->logfile;

	is(kill('KILL', $pid), 1, 'a process is killed');
	$node->wait_for_log(qr/database system is ready to accept connections/,
		$offset);
	return;
}

for my $round (1 .. 3)
{
	accident("worker killed, $round", sub { kill_process(pid_of_worker()) });
	accident("walsender killed, $round",
		sub { kill_process(pid_of_walsender()) });
	accident(
		"worker terminated, $round",
		sub {
			$node->safe_psql('postgres',
				'SELECT pg_terminate_backend(pid) FROM bemi.status');
		});
	accident(
		"walsender terminated, $round",
		sub {
			$node->safe_psql('postgres',
				'SELECT pg_terminate_backend(' . pid_of_walsender() . ')');
		});
	accident(
		"immediate shutdown, $round",
		sub {
			$node->stop('immediate');
			$node->start;
		});
}

#
# The worker dies in the middle of one large transaction.  It is held there by
# a lock that a prepared transaction owns, at a trigger on the history.
#

my $stored = $node->safe_psql('postgres', 'SELECT count(*) FROM bemi.changes');
$node->safe_psql(
	'postgres', q{
	CREATE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN PERFORM pg_advisory_xact_lock(-1); RETURN NEW; END $$;
	CREATE TRIGGER pause BEFORE INSERT ON bemi.changes
		FOR EACH ROW WHEN (NEW.primary_key = '17500') EXECUTE FUNCTION pause();
	BEGIN;
	SELECT pg_advisory_xact_lock(-1);
	PREPARE TRANSACTION 'holder';
	SELECT count(work(10000 + n, 4 * n + 1, jsonb_build_object('large', n / 1000)))
		FROM generate_series(1, 10000) n});
$node->poll_query_until('postgres',
	q{SELECT EXISTS (SELECT FROM pg_locks l JOIN bemi.status s USING (pid) WHERE l.locktype = 'advisory' AND NOT l.granted)}
) or die 'the worker does not come to the lock';
is($node->safe_psql('postgres', 'SELECT count(*) FROM bemi.changes'),
	$stored, 'half a transaction is written, nothing of it is seen');
kill_process(pid_of_worker());
is($node->safe_psql('postgres', 'SELECT count(*) FROM bemi.changes'),
	$stored, 'nor after the worker was killed');
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'holder'});
check_history('large transaction');
is($node->safe_psql('postgres', 'SELECT count(*) FROM bemi.changes'),
	$stored + 10000, 'in the end it is there, whole');

$node->stop;
done_testing();
