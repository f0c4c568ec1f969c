# Every call of bemi that can wait can be cancelled, terminated and timed out, and leaves nothing
# half done that a later call does not repair.
#
# Each call is blocked by something that a test can hold: a table lock, a lock that a trigger on
# the history acquires, an old transaction that a slot waits for, a server that never answers. The
# same is done to bemi's own processes. After each, the stream continues, and the history equals
# the journal (Bemi::Journal).

use strict;
use warnings;

use Bemi;
use IO::Socket::UNIX;
use Bemi::Journal;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Bemi::Session;
use Test::More;

my $node = bemi_node('main', conf => "max_prepared_transactions = 5\n");
my $writes = 0;

journal_install($node);
$node->safe_psql(
	'postgres', q{
	CREATE TABLE t (k int PRIMARY KEY, v text);
	SELECT journal.follow('t');
	CALL bemi.start();
	INSERT INTO t VALUES (0, 'the first');
	SELECT bemi.sync('60s');

	CREATE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN PERFORM pg_advisory_xact_lock(-1); RETURN NEW; END $$;
	CREATE TRIGGER pause BEFORE INSERT ON bemi.changes
		FOR EACH ROW WHEN (NEW.context ? 'pause') EXECUTE FUNCTION pause();
	ALTER TABLE bemi.changes ENABLE ALWAYS TRIGGER pause});

my $holder = Bemi::Session->new($node);

# Rows. The last one makes the worker wait if a session holds the lock.
sub write_rows
{
	my ($context) = @_;

	$writes++;
	$node->safe_psql(
		'postgres', qq{
		INSERT INTO t VALUES ($writes, 'new');
		UPDATE t SET v = 'changed $writes' WHERE k = $writes - 1;
		SET bemi.context = '$context';
		UPDATE t SET v = v || '!' WHERE k = $writes});
	return;
}

# Has the worker wait for the holder, in the middle of a transaction.
sub hold_worker
{
	$holder->query('SELECT pg_advisory_lock(-1)');
	write_rows('{"pause": 1}');
	$node->poll_query_until('postgres',
		q{SELECT EXISTS (SELECT FROM pg_locks l JOIN bemi.status s USING (pid) WHERE l.locktype = 'advisory' AND NOT l.granted)}
	) or die 'the worker does not come to the lock';
	return;
}

sub release_worker { $holder->query('SELECT pg_advisory_unlock(-1)'); return; }

sub state
{
	return $node->safe_psql('postgres', 'SELECT state FROM bemi.status');
}

# The end of each part: what is written now is stored, and all before it.
sub goes_on
{
	my ($name) = @_;

	wait_for_state($node, 'streaming');
	write_rows('{}');
	$node->safe_psql('postgres', q{SELECT bemi.sync('60s')});
	is(journal_differences($node), '', "$name: the history equals the journal");
	is(remains($node), '1 rows, 1 slots, 1 origins', "$name: nothing superfluous remains");
	return;
}

my %interruptions = (
	cancel => qr/ERROR:  canceling statement due to user request/,
	terminate => qr/FATAL:  terminating connection due to administrator command/,
	timeout => qr/ERROR:  canceling statement due to statement timeout/);

# Has a statement interrupted that waits.  "type" is the type of what it waits
# for.
sub interrupt
{
	my ($kind, $sql, $name, $type) = @_;
	my $session = Bemi::Session->new($node);

	$session->query(q{SET statement_timeout = '1s'}) if $kind eq 'timeout';
	$session->send($sql);
	if ($kind ne 'timeout')
	{
		$session->wait_until_it_waits($type);
		$node->safe_psql('postgres', "SELECT pg_${kind}_backend(" . $session->pid . ')');
	}
	like($session->result, $interruptions{$kind}, "$name: is interrupted");
	$session->quit;
	return;
}

for my $kind (sort keys %interruptions)
{
	my $name;

	# bemi.sync()
	$name = "$kind bemi.sync()";
	hold_worker();
	interrupt($kind, q{SELECT bemi.sync()}, $name, 'Extension');
	is(state(), 'streaming', "$name: the worker does not mind");
	release_worker();
	goes_on($name);

	# bemi.stop(), which waits for the worker
	$name = "$kind bemi.stop()";
	hold_worker();
	interrupt($kind, 'CALL bemi.stop()', $name, 'Extension');
	release_worker();
	wait_for_state($node, 'stopped');
	is($node->safe_psql('postgres', 'SELECT pid FROM bemi.status'),
		'', "$name: takes effect when the worker can");
	write_rows('{}');
	is(start_error($node), '', "$name: bemi.start() works");
	goes_on($name);

	# Second thoughts: started again before the worker could stop.
	$name = "$kind bemi.stop(), then bemi.start()";
	hold_worker();
	interrupt($kind, 'CALL bemi.stop()', $name, 'Extension');
	is(start_error($node), '', "$name: works");
	release_worker();
	goes_on($name);

	# bemi.stop() and bemi.start(), which wait for another transaction that has
	# changed the sources
	$name = "$kind bemi.stop(), sources locked";
	$holder->query('BEGIN; LOCK TABLE bemi.sources IN ACCESS EXCLUSIVE MODE');
	interrupt($kind, 'CALL bemi.stop()', $name);
	$holder->query('ROLLBACK');
	is(state(), 'streaming', "$name: has no effect");
	goes_on($name);

	$name = "$kind bemi.start(), sources locked";
	$node->safe_psql('postgres', 'CALL bemi.stop()');
	$holder->query(q{BEGIN; CALL bemi.drop_source('main')});
	interrupt($kind, 'CALL bemi.start()', $name);
	$holder->query('ROLLBACK');
	is(state(), 'stopped', "$name: has no effect");
	is(start_error($node), '', "$name: works when tried again");
	goes_on($name);

	# bemi.drop_source()
	$name = "$kind bemi.drop_source()";
	hold_worker();
	interrupt($kind, q{CALL bemi.drop_source('main')}, $name, 'Extension');
	release_worker();
	$node->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM bemi.status)')
	  or die 'the source stays';
	is(remains($node), '0 rows, 0 slots, 0 origins', "$name: takes effect when the worker can");
	is(start_error($node), '', "$name: bemi.start() begins anew");
	goes_on($name);

	# bemi.start(), whose slot waits for an old transaction
	for my $then ('', q{CALL bemi.drop_source('main')})
	{
		$name = "$kind bemi.start(), old transaction" . ($then ? ', then bemi.drop_source()' : '');
		$node->safe_psql('postgres', q{CALL bemi.drop_source('main')});
		$holder->query('BEGIN; SELECT pg_current_xact_id()');
		interrupt($kind, 'CALL bemi.start()', $name, 'Extension');
		wait_for_state($node, 'making slot');
		like(start_error($node), qr/source "main" is already started/,
			"$name: goes on, and bemi.start() says so");
		if ($then)
		{
			$node->safe_psql('postgres', $then);
			$node->poll_query_until('postgres',
				q{SELECT NOT EXISTS (SELECT FROM pg_replication_slots)})
			  or die 'the half-made slot stays';
			is(remains($node), '0 rows, 0 slots, 0 origins', "$name: is taken back");
		}
		$holder->query('COMMIT');
		is(start_error($node), '', "$name: bemi.start() works") if $then;
		goes_on($name);
	}

	# Tracking, which waits for a session that writes to the table
	$node->safe_psql(
		'postgres', q{
		CREATE SCHEMA whole;
		CREATE TABLE whole.first (k int PRIMARY KEY);
		CREATE TABLE whole.locked (k int PRIMARY KEY)});
	for my $case (
		[ q{SELECT bemi.track('whole.locked')}, q{SELECT bemi.untrack('whole.locked')} ],
		[ q{SELECT bemi.track_schema('whole')}, q{SELECT bemi.untrack_schema('whole')} ])
	{
		for my $sql (@$case)
		{
			my $before = $node->safe_psql('postgres', 'TABLE bemi.tracked ORDER BY 1');

			$name = "$kind " . $sql =~ s/SELECT //r;
			$holder->query('BEGIN; LOCK TABLE whole.locked IN ROW EXCLUSIVE MODE');
			interrupt($kind, $sql, $name);
			$holder->query('ROLLBACK');
			is($node->safe_psql('postgres', 'TABLE bemi.tracked ORDER BY 1'),
				$before, "$name: has no effect");
			$node->safe_psql('postgres', $sql);
			isnt($node->safe_psql('postgres', 'TABLE bemi.tracked ORDER BY 1'),
				$before, "$name: works when tried again");
		}
	}
	$node->safe_psql('postgres',
		'SET client_min_messages = warning; DROP SCHEMA whole CASCADE');
	goes_on("$kind tracking");

	# DROP EXTENSION, which waits for a reader of the history, and for the worker
	$name = "$kind DROP EXTENSION, history read";
	$holder->query('BEGIN; SELECT FROM bemi.changes LIMIT 1');
	interrupt($kind, 'DROP EXTENSION bemi CASCADE', $name);
	$holder->query('ROLLBACK');
	goes_on($name);

	$name = "$kind DROP EXTENSION, history written";
	hold_worker();
	interrupt($kind, 'DROP EXTENSION bemi CASCADE', $name);
	release_worker();
	goes_on($name);
}

#
# bemi.start(), whose source never answers
#

my $directory = PostgreSQL::Test::Utils::tempdir_short();
my $socket = "$directory/.s.PGSQL." . $node->port;

for my $kind (sort keys %interruptions)
{
	my $name = "$kind bemi.start(), silent server";
	my $silent = IO::Socket::UNIX->new(Local => $socket, Listen => 10)
	  or die "could not listen: $!";

	interrupt($kind, "CALL bemi.start('silent', 'host=$directory port=" . $node->port . " dbname=postgres')",
		$name, 'Extension');
	is( $node->safe_psql('postgres', q{SELECT state FROM bemi.status WHERE source = 'silent'}),
		'connecting', "$name: bemi.status tells so");
	interrupt($kind, q{CALL bemi.drop_source('silent')},
		"$name, then bemi.stop()", 'Extension');

	# The server that comes up is this very one.
	$silent->close;
	unlink $socket;
	symlink $node->host . '/.s.PGSQL.' . $node->port, $socket;
	$node->poll_query_until('postgres',
		q{SELECT NOT EXISTS (SELECT FROM bemi.status WHERE source = 'silent')})
	  or die 'the source stays';
	unlink $socket;
	goes_on($name);
}

#
# bemi's own processes
#

sub signal_process
{
	my ($kind, $condition) = @_;

	is( $node->safe_psql('postgres',
			"SELECT count(*) FILTER (WHERE pg_${kind}_backend(pid)) FROM pg_stat_activity WHERE $condition"),
		1,
		"a process gets the signal: $condition");
	return;
}

my $is_worker = q{backend_type = 'bemi worker'};
my $is_walsender = q{backend_type = 'walsender'};
my $is_launcher = q{backend_type = 'bemi launcher'};

sub pid_of
{
	my ($condition) = @_;

	return $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE $condition");
}

sub wait_for_another
{
	my ($condition, $pid) = @_;

	$node->poll_query_until('postgres',
		"SELECT EXISTS (SELECT FROM pg_stat_activity WHERE $condition AND pid <> $pid)")
	  or die "no other process came: $condition";
	return;
}

for my $kind ('cancel', 'terminate')
{
	my $name;
	my $pid;

	for my $condition ($is_worker, $is_walsender)
	{
		my $who = $condition eq $is_worker ? 'worker' : 'walsender';

		# A new source has not failed yet, and is retried soon.
		$node->safe_psql('postgres', q{CALL bemi.drop_source('main'); CALL bemi.start()});

		$name = "$kind the $who, idle";
		$pid = pid_of($is_worker);
		signal_process($kind, $condition);
		wait_for_another($is_worker, $pid);
		isnt($node->safe_psql('postgres', 'SELECT last_error FROM bemi.status'),
			'', "$name: bemi.status says why it is another one");
		goes_on($name);

		$name = "$kind the $who, in a transaction";
		hold_worker();
		$pid = pid_of($is_worker);
		signal_process($kind, $condition);
		release_worker();
		wait_for_another($is_worker, $pid) if $condition eq $is_worker;
		goes_on($name);
	}

	# A source that is being dropped: the slot is gone, its row cannot be deleted yet.
	$name = "$kind the worker, dropping";
	$node->safe_psql('postgres', q{CALL bemi.drop_source('main'); CALL bemi.start()});
	hold_worker();
	interrupt($kind, q{CALL bemi.drop_source('main')}, $name, 'Extension');
	my $row_holder = Bemi::Session->new($node);
	$row_holder->query('BEGIN; SELECT FROM bemi.sources FOR UPDATE');
	release_worker();
	wait_for_state($node, 'dropping');
	$node->poll_query_until('postgres',
		"SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE $is_worker")
	  or die 'the worker does not wait';
	$pid = pid_of($is_worker);
	signal_process($kind, $is_worker);
	wait_for_another($is_worker, $pid);
	$row_holder->query('ROLLBACK');
	$row_holder->quit;
	$node->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM bemi.status)')
	  or die 'the source stays';
	is(remains($node), '0 rows, 0 slots, 0 origins', "$name: the next one ends it");
	is(start_error($node), '', "$name: bemi.start() begins anew");
	goes_on($name);

	# The launcher restarts, and finds the workers.
	$name = "$kind the launcher";
	$pid = pid_of($is_launcher);
	my $worker = pid_of($is_worker);
	signal_process($kind, $is_launcher);
	goes_on("$name, meanwhile");
	wait_for_another($is_launcher, $pid);
	is(pid_of($is_worker), $worker, "$name: the worker works on");
	signal_process('terminate', $is_worker);
	wait_for_another($is_worker, $worker);
	goes_on($name);

	# Both at once; bemi.start() waits for them.
	$name = "$kind the launcher, no worker";
	$node->safe_psql('postgres', 'CALL bemi.stop()');
	signal_process($kind, $is_launcher);
	is(start_error($node), '', "$name: bemi.start() waits for the launcher");
	goes_on($name);

	# The discovery workers, held when the server starts by an origin that they want to drop,
	# since its database is not there.
	$name = "$kind the discovery workers";
	$node->safe_psql(
		'postgres', q{
		CALL bemi.drop_source('main');
		SELECT pg_replication_origin_create('bemi_999999_main');
		CALL bemi.start();
		BEGIN;
		SELECT pg_replication_origin_drop('bemi_999999_main');
		PREPARE TRANSACTION 'origin'});
	$holder->quit;
	$node->restart;
	for (1 .. $node->safe_psql('postgres', 'SELECT count(*) FROM pg_database WHERE datallowconn'))
	{
		my $is_discovery = q{backend_type = 'bemi discovery worker' AND wait_event_type = 'Lock'};

		$node->poll_query_until('postgres',
			"SELECT EXISTS (SELECT FROM pg_stat_activity WHERE $is_discovery)")
		  or die 'no discovery worker waits';
		$pid = pid_of($is_discovery);
		signal_process($kind, $is_discovery);
		$node->poll_query_until('postgres',
			"SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)")
		  or die 'the discovery worker stays';
	}
	$node->safe_psql('postgres', q{ROLLBACK PREPARED 'origin'; SELECT pg_replication_origin_drop('bemi_999999_main')});
	$holder = Bemi::Session->new($node);
	goes_on($name);
}

$node->safe_psql('postgres', 'SET client_min_messages = warning; DROP EXTENSION bemi CASCADE');
$node->poll_query_until('postgres',
	q{SELECT NOT EXISTS (SELECT FROM pg_replication_slots) AND NOT EXISTS (SELECT FROM pg_replication_origin)})
  or die 'slot or origin stays';
$node->stop;
done_testing();
