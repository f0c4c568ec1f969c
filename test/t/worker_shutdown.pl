# Servers that stop while bemi works, and connections that run out.
#
# A smart shutdown waits until all ordinary clients have disconnected, and only then stops
# background workers. The worker's connection for queries to the source's catalog is such a
# client. If it were open as long as the worker runs, a shutdown would wait forever, and one of
# max_connections would always be used. So it is open only for moments, and the test stops the
# server in all kinds of moments.

use strict;
use warnings;

use Bemi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Bemi::Session;
use Test::More;

my $node = bemi_node('main', conf => "max_connections = 8\nsuperuser_reserved_connections = 1\n");
my $other = bemi_node('other', conf => "wal_sender_timeout = '5s'\n");
my $clients = q{SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'bemi_%'
	AND backend_type = 'client backend'};
my $rows = 0;

for my $server ($node, $other)
{
	$server->safe_psql('postgres', q{
		CREATE TABLE t (id int PRIMARY KEY);
		SELECT bemi.track('t')});
}
$node->safe_psql('postgres', 'CALL bemi.start()');
my ($to_node, $to_other) = map { $_->connstr('postgres') =~ s/'/''/gr } ($node, $other);
$node->safe_psql('postgres', "CALL bemi.start('other', conninfo => '$to_other')");
$other->safe_psql('postgres', "CALL bemi.start('node', conninfo => '$to_node')");

sub wait_for
{
	my ($server, $condition) = @_;

	$server->poll_query_until('postgres', "SELECT $condition") or die "not so: $condition";
	return;
}

# Begins a smart shutdown; wait_for_stop() expects its end.
sub begin_smart_stop
{
	my ($server) = @_;

	system_or_bail('pg_ctl', '-D', $server->data_dir, '-m', 'smart', '-W', 'stop');
	return;
}

sub wait_for_stop
{
	my ($server, $name) = @_;
	my $begun = time;
	my $pid_file = $server->data_dir . '/postmaster.pid';

	# pg_ctl waits until the server has stopped, also if it was already stopping.
	my $status = system('pg_ctl', '-D', $server->data_dir, '-m', 'smart', '-t', '60', '-s', 'stop');
	ok($status == 0 || !-e $pid_file, $name) or $server->stop('immediate');
	note('after ' . (time - $begun) . ' s');
	$server->{_pid} = undef;
	return;
}

sub start_again
{
	my ($server) = @_;

	$server->start;
	wait_for($server, q{count(*) > 0 AND bool_and(state = 'streaming') FROM bemi.status});
	return;
}

# Both servers store what is written on both.
sub check
{
	my ($name) = @_;

	$rows++;
	$_->safe_psql('postgres', "INSERT INTO t VALUES ($rows)") for ($node, $other);
	$node->safe_psql('postgres', 'SELECT bemi.sync()');
	wait_for($_, qq{count(*) = 0 FROM bemi.status s WHERE source <> 'never'
		AND NOT EXISTS (SELECT FROM bemi.changes c WHERE c.source = s.source AND c.primary_key = '$rows')})
	  for ($node, $other);
	pass($name);
	return;
}

check('both servers are read');

#
# The connection for questions
#

ok($_->poll_query_until('postgres', $clients, '0'), 'the workers keep no ordinary connection') for ($node, $other);
$node->safe_psql('postgres', q{CREATE TABLE fresh (id int PRIMARY KEY); SELECT bemi.track('fresh'); INSERT INTO fresh VALUES (1)});
wait_for($other, q{count(*) = 1 FROM bemi.changes WHERE "table" = 'fresh'});
ok($node->poll_query_until('postgres', $clients, '0'), 'nor after a table had to be asked for');

#
# Smart shutdowns
#

begin_smart_stop($node);
wait_for_stop($node, 'with sources idle');
start_again($node);
check('which go on');

begin_smart_stop($other);
wait_for_stop($other, 'the other server likewise');
start_again($other);
check('also for the one that reads it');

# The clients' end begins the shutdown proper, with changes on the way.
my $client = Bemi::Session->new($node);
begin_smart_stop($node);
is($client->query('INSERT INTO t SELECT generate_series(1000, 20000)'), '', 'a session goes on writing');
$client->quit;
wait_for_stop($node, 'with changes at hand');
start_again($node);
$node->safe_psql('postgres', 'SELECT bemi.sync()');
wait_for($_, q{count(*) = 19001 FROM bemi.changes WHERE "table" = 't' AND length(primary_key) > 3 AND source <> 'other'})
  for ($node, $other);
pass('which are stored by both');

# A worker that waits for a lock just after a query to its source.
my $holder = Bemi::Session->new($node);
$holder->query('BEGIN; LOCK TABLE bemi.changes');
$other->safe_psql('postgres', q{CREATE TABLE asked (id int PRIMARY KEY); SELECT bemi.track('asked'); INSERT INTO asked VALUES (1)});
wait_for($node, q{count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'bemi worker' AND wait_event_type = 'Lock'});
begin_smart_stop($other);
wait_for_stop($other, 'while the worker that reads it waits for a lock');
begin_smart_stop($node);
$holder->query('COMMIT');
$holder->quit;
wait_for_stop($node, 'and while a worker of its own does');
$other->start;
start_again($node);
wait_for($other, q{bool_and(state = 'streaming') FROM bemi.status});
check('they go on');

# bemi.sync() ends with what it waits for, or with an error.
$holder = Bemi::Session->new($node);
my $waiter = Bemi::Session->new($node);
$holder->query('BEGIN; LOCK TABLE bemi.changes');
$node->safe_psql('postgres', 'INSERT INTO t VALUES (100001)');
$waiter->send('SELECT bemi.sync()');
$waiter->wait_until_it_waits('Extension');
begin_smart_stop($node);
$holder->query('COMMIT');
is($waiter->result, '', 'bemi.sync() ends in a smart shutdown');
$_->quit for ($holder, $waiter);
wait_for_stop($node, 'which then ends, too');
start_again($node);

$waiter = Bemi::Session->new($node);
my $worker = $node->safe_psql('postgres', q{SELECT pid FROM bemi.status WHERE source = 'main'});
begin_smart_stop($node);
$waiter->query("SELECT pg_terminate_backend($worker)");
like($waiter->query('SELECT bemi.sync()'), qr/bemi.sync\(\) cannot finish because the server is shutting down/,
	'if the worker cannot come back, bemi.sync() says so');
$waiter->quit;
wait_for_stop($node, 'so that the shutdown ends');
start_again($node);

# Workers that have not started yet, and one that creates a slot.
$node->safe_psql('postgres', q{CALL bemi.start('never', conninfo => 'host=/nowhere dbname=postgres', wait => false)});
wait_for($node, q{state = 'failed' FROM bemi.status WHERE source = 'never'});
$node->safe_psql('postgres', q{CALL bemi.drop_source('main')});
my $old = Bemi::Session->new($node);
$old->query('BEGIN; INSERT INTO t VALUES (100002)');
$node->safe_psql('postgres', 'CALL bemi.start(wait => false)');
wait_for($node, q{state = 'making slot' FROM bemi.status WHERE source = 'main'});
begin_smart_stop($node);
$old->query('COMMIT');
$old->quit;
wait_for_stop($node, 'with a worker that makes its slot, and another to be started again');
$node->start;
wait_for($node, q{count(*) = 2 FROM bemi.status WHERE state = 'streaming'});
$node->safe_psql('postgres', q{CALL bemi.drop_source('never', force => true)});
check('all goes on');

#
# No connection is left
#

$node->safe_psql('postgres', 'CREATE ROLE app LOGIN SUPERUSER');

# A worker may have the connection that is needed for a second.
sub open_session
{
	my $session;

	# Its psql may have ended before it is written to.
	do { $session = eval { Bemi::Session->new($node, user => 'app') } }
	  until defined $session && $session->pid =~ /^\d+$/;
	return $session;
}

my @sessions = map { open_session() } (1 .. 7);
$rows++;
$sessions[0]->query("INSERT INTO t VALUES ($rows)");
is($sessions[0]->query('SELECT bemi.sync()'), '', 'what needs no further connection goes on');
push @sessions, open_session();
$sessions[0]->query(q{CREATE TABLE last (id int PRIMARY KEY); SELECT bemi.track('last'); INSERT INTO last VALUES (1)});
my $log = -s $node->logfile;
$sessions[0]->query(q{SELECT pg_terminate_backend(pid) FROM bemi.status WHERE source = 'main'});
$node->wait_for_log(qr/ERROR:  could not connect to source: .*too many clients already/, $log);
my $error = $sessions[0]->query(q{SELECT last_error FROM bemi.status WHERE source = 'main'});
like($error, qr/too many clients already/, 'if one is needed, the worker says why it fails');
$_->quit for (@sessions);
wait_for($node, q{bool_and(state = 'streaming') FROM bemi.status});
is($node->safe_psql('postgres', q{SELECT bemi.sync(); SELECT count(*) FROM bemi.changes WHERE "table" = 'last'}),
	"\n1", 'and goes on when there is one again');

#
# The counts of the last second
#

# Returns what is stored, as counted, as in the table of counts, and where the last change is.
sub counted
{
	return $node->safe_psql('postgres', q{
		SELECT w.changes = p.changes, w.changes, p.changed_lsn IS NOT NULL
		FROM bemi.status w JOIN _bemi.source_progress p USING (source) WHERE source = 'main'});
}

sub store_one
{
	$rows++;
	$node->safe_psql('postgres', "INSERT INTO t VALUES ($rows); SELECT bemi.sync()");
	return;
}

# The table is updated once a second, so the second of two changes waits.
$node->safe_psql('postgres', q{CALL bemi.drop_source('main'); CALL bemi.start()});
store_one() for (1, 2);
$node->safe_psql('postgres', q{CALL bemi.stop('main')});
is(counted(), 't|2|t', 'bemi.stop() records the counts of the last second');
$node->safe_psql('postgres', q{CALL bemi.start()});
store_one() for (1, 2);
$node->restart('fast');
wait_for($node, q{state = 'streaming' FROM bemi.status WHERE source = 'main'});
is(counted(), 't|4|t', 'and so does a shutdown of the server');

# A lock delays the end by a second, but not for ever.
store_one() for (1, 2);
my $locker = Bemi::Session->new($node);
$locker->query(q{BEGIN; LOCK TABLE _bemi.source_progress IN SHARE MODE});
my $ended = $node->safe_psql('postgres', q{SELECT pid FROM bemi.status WHERE source = 'main'});
$node->safe_psql('postgres', "SELECT pg_terminate_backend($ended)");
wait_for($node, "NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $ended)");
$locker->query('ROLLBACK');
$locker->quit;
wait_for($node, q{state = 'streaming' FROM bemi.status WHERE source = 'main'});
is($node->safe_psql('postgres', q{SELECT bemi.sync(); SELECT changes FROM bemi.status WHERE source = 'main'}),
	"\n6", 'a lock on the counts does not keep a worker from ending');

$_->stop('fast') for ($node, $other);
done_testing();
