# bemi.status must show what stops a worker: whom it waits for, why it cannot run, and the
# statement that solves it. stored_until in bemi.status must stay true after later events.
#
# Each scenario brings the worker into such a state, reads what a member of pg_monitor sees, runs
# the command of the hint, and checks that the worker continues and nothing is lost. The states
# depend on locks, rights and settings of the server, so this is a TAP test.

use strict;
use warnings;

use Bemi;
use IPC::Run;
use Bemi::Session;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main', conf => <<~CONF);
	wal_sender_timeout = '1s'
	max_prepared_transactions = 2
	max_worker_processes = 10
	CONF
my $owner = $node->safe_psql('postgres', 'SELECT current_user');
my $rows = 0;

$node->safe_psql(
	'postgres', q{
	CREATE ROLE dba SUPERUSER LOGIN;
	CREATE ROLE watcher LOGIN;
	GRANT pg_monitor TO watcher;
	CREATE TABLE t (id serial PRIMARY KEY);
	SELECT bemi.track('t');
	CALL bemi.start()});

# The superuser that the worker connects as is shut out for a while.
$ENV{PGUSER} = 'dba';

# What a member of pg_monitor sees.
sub seen
{
	my ($columns, $database) = @_;

	local $ENV{PGUSER} = 'watcher';
	return $node->safe_psql($database // 'postgres', "SELECT $columns FROM bemi.status");
}

# Waits until he sees that a condition is true.
sub wait_until_seen
{
	my ($condition, $database) = @_;

	local $ENV{PGUSER} = 'watcher';
	$node->poll_query_until($database // 'postgres',
		"SELECT coalesce(bool_or($condition), false) FROM bemi.status")
	  or die "not seen: $condition";
	return;
}

sub put
{
	$node->safe_psql('postgres', 'INSERT INTO t DEFAULT VALUES');
	$rows++;
	return;
}

# The worker continues, and nothing is lost or stored twice.
sub goes_on
{
	my ($what) = @_;

	wait_for_state($node, 'streaming');
	put();
	$node->safe_psql('postgres', q{SELECT bemi.sync('60s')});
	is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT primary_key) FROM bemi.changes'),
		"$rows|$rows", "$what: all is stored");
	is(seen('warning'), '', "$what: no warning is left");
	return;
}

sub end_worker
{
	my $pid = $node->safe_psql('postgres', 'SELECT pid, pg_terminate_backend(pid) FROM bemi.status');

	$pid =~ s/\|.*//;
	$node->poll_query_until('postgres',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid")
	  or die 'the worker does not end';
	return;
}

#
# Locks
#

my $session = Bemi::Session->new($node, user => 'dba');

for my $call ('bemi.stop()', "bemi.start('other', 'host=nowhere', wait => false)")
{
	$session->query("BEGIN; CALL $call");
	end_worker();
	wait_until_seen("warning <> ''");
	like(
		seen('warning'),
		qr/^the worker waits for a lock on the sources \(bemi\.start\(\), bemi\.stop\(\), bemi\.drop_source\(\)\), held by process @{[ $session->pid ]} \(dba, worker_status\.pl, idle in transaction, transaction of \d{4}-.*\)$/,
		"$call in a transaction: a restarting worker waits, and for whom");
	$session->query('ROLLBACK');
	goes_on($call);
}

# Longer than wal_sender_timeout.
my $before = seen('pid, restarts');
my $walsender = $node->safe_psql('postgres', 'SELECT pid FROM pg_stat_replication');
$session->query('BEGIN; LOCK TABLE bemi.changes IN SHARE MODE; SELECT now()');
put();
wait_until_seen("warning <> ''");
like(
	seen('warning'),
	qr/^the worker waits for a lock on bemi\.changes, held by process @{[ $session->pid ]} \(dba, worker_status\.pl, idle in transaction, .*\)$/,
	'a lock on the history: the worker waits, and for whom');
is($session->query(q{SELECT 'late'}), 'late', 'it can be long');
$node->poll_query_until('postgres',
	"SELECT xact_start < clock_timestamp() - interval '3s' FROM pg_stat_activity WHERE pid = " . $session->pid)
  or die 'the transaction stays young';
is($node->safe_psql('postgres', 'SELECT pid FROM pg_stat_replication'),
	$walsender, 'its WAL sender waits as long');
$session->query('ROLLBACK');
goes_on('a lock on the history');
is(seen('pid, restarts'), $before, 'a lock on the history: the worker was not given up');

# The lock of a prepared transaction, which has no process.
$node->safe_psql('postgres',
	q{BEGIN; LOCK TABLE bemi.changes IN SHARE MODE; PREPARE TRANSACTION 'holder'});
put();
wait_until_seen("warning <> ''");
is( seen('warning'),
	'the worker waits for a lock on bemi.changes, held by a prepared transaction, see pg_prepared_xacts',
	'a lock of a prepared transaction');
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'holder'});
goes_on('a lock of a prepared transaction');

# A slot waits for every older transaction.
$node->safe_psql('postgres', 'CREATE DATABASE second');
$node->safe_psql('second', q{CREATE EXTENSION bemi; CREATE TABLE t (id int); SELECT bemi.track('t')});
$session->query('BEGIN; SELECT pg_current_xact_id()');
$node->safe_psql('second', 'CALL bemi.start(wait => false)');
wait_until_seen("warning <> ''", 'second');
like(
	seen('state, warning', 'second'),
	qr/^making slot\|the WAL sender of the worker waits for a lock on transactionid, held by process @{[ $session->pid ]} /,
	'a transaction that a slot waits for');
$session->query('ROLLBACK');
wait_for_state($node, 'streaming', 'second');

#
# What stored_until promises
#

# While many commit at a time: no change is stored later that was committed before.
append_to_file($node->basedir . '/insert.sql', "INSERT INTO t DEFAULT VALUES;\n");
append_to_file($node->basedir . '/sample.sql',
	"INSERT INTO samples SELECT stored_until, clock_timestamp() FROM _bemi.source_status();\n");
$node->safe_psql('postgres', 'CREATE TABLE samples (until timestamptz, seen_at timestamptz)');
my @pgbench = ($node->installed_command('pgbench'), '-n', '-T', '2');
my $load = IPC::Run::start(
	[ @pgbench, '-c', '8', '-f', $node->basedir . '/insert.sql', $node->connstr('postgres') ],
	'>', \my $output, '2>', \my $errors, IPC::Run::timeout(180));
$node->command_ok([ @pgbench, '--rate=400', '-f', $node->basedir . '/sample.sql', $node->connstr('postgres') ],
	'bemi.status is read all the while');
ok($load->finish, 'many clients commit') or diag $errors;
$node->safe_psql('postgres', q{SELECT bemi.sync('60s')});
$rows = $node->safe_psql('postgres', 'SELECT count(*) FROM t');
cmp_ok($node->safe_psql('postgres', 'SELECT count(DISTINCT until) FROM samples'),
	'>', 2, 'stored_until moves on meanwhile');
is( $node->safe_psql('postgres',
		'SELECT count(*) FROM samples s JOIN bemi.changes c ON c.committed_at < s.until AND c.created_at > s.seen_at'),
	'0',
	'nothing is stored later that was committed before');

# A commit that has its time and its record, but the record cannot be sent yet: the
# session is stopped where it waits before it flushes the record.
$node->safe_psql('postgres', q{ALTER SYSTEM SET fsync = on; ALTER SYSTEM SET wal_receiver_timeout = '2s'});
$node->reload;
$session->query('SET commit_delay = 100000; SET commit_siblings = 0');
my $watch = Bemi::Session->new($node, user => 'watcher');
my $stopped = 0;
for (1 .. 100)
{
	$session->send('INSERT INTO t DEFAULT VALUES');
	$rows++;
	$watch->query(q{DO $$ BEGIN WHILE (SELECT until IS NOT NULL FROM _bemi.commit_horizon(0)) LOOP END LOOP; END $$});
	kill 'STOP', $session->pid;
	$stopped = $watch->query("SELECT state = 'active' AND backend_xid IS NOT NULL FROM pg_stat_activity WHERE pid = " . $session->pid) eq 't';
	last if $stopped;
	kill 'CONT', $session->pid;
	$session->result;
}
ok($stopped, 'a commit is held up');
my $since = $watch->query('SELECT clock_timestamp()');
$node->poll_query_until('postgres', "SELECT clock_timestamp() > '$since'::timestamptz + interval '3s'")
  or die 'time stands still';
my $until = $watch->query('SELECT stored_until FROM bemi.status');
is($watch->query('SELECT h IS NULL FROM _bemi.commit_horizon(10) h'), 't', 'a commit is held up: nobody knows what comes');
is($watch->query(q{SELECT complete, reason FROM bemi.completeness('t', now() - interval '2s', now())}),
	'f|not_stored_yet', 'a commit is held up: the history is not complete');
kill 'CONT', $session->pid;
$session->result;
$session->query('RESET commit_delay; RESET commit_siblings');
is( $node->safe_psql('postgres', qq{
		BEGIN; SELECT bemi.sync('60s'); SELECT complete FROM bemi.completeness('t', now() - interval '2s', now()); COMMIT;
		SELECT max(committed_at) >= '$until' AND max(committed_at) <= '$since' FROM bemi.changes}),
	"\nt\nt", 'a commit is held up: its time was not promised, and after bemi.sync() it is');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET fsync; ALTER SYSTEM RESET wal_receiver_timeout');
$node->reload;
goes_on('a commit is held up');
$watch->quit;

#
# The role and the database that the worker connects to
#

# The statement that a hint ends with.
sub hint
{
	my ($condition, $database) = @_;

	wait_until_seen("state = 'failed' AND $condition", $database);
	my ($statement) = seen('last_hint', $database) =~ /: ([A-Z]+ .*;)$/;
	ok(defined $statement, "... $condition has a hint") or diag seen('last_error, last_hint', $database);
	return $statement;
}

$node->safe_psql('postgres', qq{ALTER ROLE "$owner" NOLOGIN});
end_worker();
my $hint = hint(q{last_error ~ 'is not permitted to log in'});
is($hint, "ALTER ROLE $owner LOGIN;", 'NOLOGIN: the hint has the statement');
$node->safe_psql('postgres', $hint);
goes_on('NOLOGIN');

# A session that is connected sees what others cannot.
my $inside = Bemi::Session->new($node, user => 'dba', database => 'second');
my $offset = -s $node->logfile;
$node->safe_psql('postgres', 'ALTER DATABASE second ALLOW_CONNECTIONS false');
$inside->query('SELECT pg_terminate_backend(pid) FROM bemi.status');
$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = 'second' AND backend_type = 'bemi worker'})
  or die 'the worker does not end';
$node->wait_for_log(qr/bemi: source "main" is not read: database "second" does not accept connections/, $offset);
is($inside->query('SELECT state, last_error, last_hint FROM bemi.status'),
	'failed|database "second" does not accept connections|Run this in another database: ALTER DATABASE second ALLOW_CONNECTIONS true;',
	'ALLOW_CONNECTIONS false: bemi.status says so');
# No other session can connect.
ok($inside->poll_until('SELECT restarts >= 2 FROM bemi.status', 't'), 'the launcher looks again');
is(() = slurp_file($node->logfile, $offset) =~ /does not accept connections/g, 1, 'the log hears of it once');
unlike(slurp_file($node->logfile, $offset), qr/FATAL:  database "second"/, 'and nobody tries in vain');
$node->safe_psql('postgres', 'ALTER DATABASE second ALLOW_CONNECTIONS true');
wait_for_state($node, 'streaming', 'second');
$inside->quit;

# The same from the server's start on, and what an interrupted DROP DATABASE leaves.
$session->quit;
$node->safe_psql('postgres', 'ALTER DATABASE second ALLOW_CONNECTIONS false');
$offset = -s $node->logfile;
$node->restart;
$node->wait_for_log(qr/bemi: sources are not read: database "second" does not accept connections/, $offset);
$node->safe_psql('postgres',
	q{UPDATE pg_database SET datallowconn = true, datconnlimit = -2 WHERE datname = 'second'});
$offset = -s $node->logfile;
$node->restart;
$node->wait_for_log(qr/bemi: sources are not read: database "second" is invalid/, $offset);
goes_on('another database cannot be connected to');
($hint) = slurp_file($node->logfile, $offset) =~ /HINT:  Run it again: (.*)$/m;
is($hint, 'DROP DATABASE second;', 'an invalid database: the hint has the statement');
unlike(slurp_file($node->logfile, $offset), qr/FATAL:  .*database "second"/, 'and nobody tries in vain');
$node->safe_psql('postgres', $hint);
is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots'), '1', 'the slot goes with it');

# No Unix socket, and so no way that needs no password.
$node->append_conf('postgresql.conf', <<~CONF);
	unix_socket_directories = ''
	listen_addresses = '127.0.0.1'
	CONF
$node->stop;
{
	local $node->{_host} = '127.0.0.1';

	$node->start;
	wait_until_seen(q{state = 'failed' AND last_error = 'this server has no Unix socket that the worker can connect to'});
	my ($conninfo) = seen('last_hint') =~ /conninfo => '(.*)'\);$/;
	is($conninfo, 'host=localhost port=' . $node->port . ' dbname=postgres', 'no Unix socket: the hint has another way');
	$node->safe_psql('postgres', "CALL bemi.stop(); CALL bemi.start(conninfo => 'user=dba $conninfo')");
	goes_on('no Unix socket');
	$node->stop;
}

#
# Single-user mode, which has no background workers
#

my ($said, $minded) = ('', '');
IPC::Run::run(
	[ $node->installed_command('postgres'), '--single', '-D', $node->data_dir, 'postgres' ],
	'<', \"CALL bemi.start('more')\nSELECT bemi.sync()\nSELECT warning FROM bemi.status\n",
	'>', \$said, '2>', \$minded, IPC::Run::timeout(180));
$said .= $minded . slurp_file($node->logfile);
like($said, qr/cannot wait for a worker in single-user mode.*HINT:.*CALL bemi\.start\('more', wait => false\);/s,
	'single-user mode: bemi.start() does not wait for ever');
like($said, qr/bemi\.sync\(\) cannot wait for a worker in single-user mode/, 'single-user mode: nor does bemi.sync()');
like($said, qr/the server runs in single-user mode, without workers/, 'single-user mode: bemi.status says so');

done_testing();
