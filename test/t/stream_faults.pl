# The connection between the worker and its source breaks, closes or becomes silent, or one of the
# two is stopped for a while.
#
# Under each fault bemi.status must show the problem. Afterwards the worker must continue by
# itself, and the history must equal the journal of the clients, which work all the time
# (Bemi::Clients). Source and destination are two servers with a process between them that
# forwards their bytes, or does not (Bemi::Proxy), because otherwise they cannot lose each other
# while both work.
#
# The source disconnects a silent worker after wal_sender_timeout, the worker a silent source
# after wal_receiver_timeout.
#
# The delay between retries grows with each failure, so the destination is restarted between the
# groups, which resets the delay to a second.

use strict;
use warnings;

use Bemi;
use Bemi::Clients;
use Bemi::Proxy;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{BEMI_SEED} // int(rand(2**31));

note "random seed: $seed (BEMI_SEED=$seed repeats the choices)";
srand($seed);

my $source = bemi_node('source', conf => <<~CONF);
	wal_sender_timeout = '2s'
	log_statement = none
	log_replication_commands = off
	CONF
my $destination = bemi_node('destination', conf => "log_statement = none\n");
my $proxy = Bemi::Proxy->new($source, PostgreSQL::Test::Utils::tempdir_short);
my $journal = Bemi::Clients->new(node => $source, history => $destination, seed => $seed);

$destination->append_conf('postgresql.conf', "wal_receiver_timeout = '2s'\n");
$destination->reload;
is( start_error($destination, q{CALL bemi.start(conninfo => '} . $proxy->connstr('postgres') . q{')}),
	'',
	'bemi.start() by way of the proxy');

sub now
{
	return $destination->safe_psql('postgres', 'SELECT clock_timestamp()');
}

# Waits until bemi.status shows an error since then.
sub wait_for_error
{
	my ($since, $pattern) = @_;

	$destination->poll_query_until('postgres',
		"SELECT last_error_at > '$since' AND last_error ~ '$pattern' FROM bemi.status")
	  or die 'bemi.status does not tell: '
	  . $destination->safe_psql('postgres', 'SELECT state, last_error FROM bemi.status');
	return;
}

sub walsender
{
	return $source->safe_psql('postgres',
		q{SELECT pid FROM pg_stat_replication WHERE application_name LIKE 'bemi%'});
}

sub wait_for_no_walsender
{
	$source->poll_query_until('postgres',
		q{SELECT count(*) = 0 FROM pg_stat_replication WHERE application_name LIKE 'bemi%'})
	  or die 'the walsender does not give the worker up';
	return;
}

# Waits until the source has written so many bytes more than the worker has.
sub wait_for_lag
{
	my ($bytes) = @_;
	my $received = $destination->safe_psql('postgres', 'SELECT received_lsn FROM bemi.status');

	$source->poll_query_until('postgres', "SELECT pg_current_wal_lsn() - '$received' > $bytes")
	  or die 'the source writes nothing';
	return;
}

# One fault under load: it begins, is seen, ends, and then changes come again.
sub fault
{
	my ($name, $begin, $pattern, $end) = @_;
	my $since = now();

	note $name;
	$journal->start_load(rate => 200);
	$journal->wait_for_progress(100);
	$begin->();
	if ($pattern)
	{
		wait_for_error($since, $pattern);
		pass("$name: bemi.status tells");
	}
	$end->();
	$journal->wait_for_progress(100);
	$journal->stop_load;
	$journal->check($name);
	return;
}

sub restart_destination
{
	$destination->restart;
	wait_for_state($destination, 'streaming');
	return;
}

my $forward = sub { $proxy->tell('forward') };
my $lost = 'lost the connection|ended the stream|closed the connection|could not answer';

#
# Broken connections
#

fault('connections cut', sub { $proxy->tell('cut') }, $lost, $forward);
for my $bytes (map { int(rand(100000)) } 1 .. 2)
{
	fault("connections cut after $bytes bytes",
		sub { $proxy->tell("cut after $bytes") },
		$lost, $forward);
}
restart_destination();

# The first bytes are those of the handshake, up to the start of the stream.
for my $bytes (map { 1 + int(rand(800)) } 1 .. 2)
{
	fault(
		"connections cut after $bytes bytes of the handshake",
		sub {
			$proxy->tell('cut');
			$proxy->tell("cut after $bytes");
		},
		$lost, $forward);
}
restart_destination();

fault(
	'connections refused',
	sub { $proxy->tell('refuse') },
	'could not connect to source.*connection to server',
	sub {
		$destination->poll_query_until('postgres',
			q{SELECT state = 'failed' AND restarts >= 2 FROM bemi.status})
		  or die 'the worker does not try again';
		$forward->();
	});
restart_destination();

#
# Silence
#

sub silence
{
	my ($name, $begin, $end) = @_;

	fault($name, $begin, 'has not answered|no answer', $end);
	restart_destination();
	return;
}

silence('a black hole', sub { $proxy->tell('hold') }, $forward);
silence('no way back to the worker', sub { $proxy->tell('hold down') }, $forward);
fault('no way to the source', sub { $proxy->tell('hold up') }, $lost, $forward);
restart_destination();

# In the handshake, where the worker waits for results and not for the stream;
# a connection has been made after some 400 bytes, and the stream begins after
# 800.
for my $bytes (map { 400 + int(rand(400)) } 1 .. 2)
{
	fault(
		"a black hole after $bytes bytes of the handshake",
		sub {
			$proxy->tell('cut');
			$proxy->tell("hold after $bytes");
		},
		'has not answered|no answer',
		$forward);
	restart_destination();
}

#
# Processes that stand still
#

# A stopped walsender cannot exit, and no other process can use its slot.  When it
# continues, it may or may not notice that it is late.
my $stopped;
fault(
	'a walsender that stands still',
	sub {
		$stopped = walsender();
		kill('STOP', $stopped);
		wait_for_lag(200_000);
	},
	'has not answered',
	sub { kill('CONT', $stopped) });
restart_destination();

fault(
	'a worker that stands still',
	sub {
		$stopped = $destination->safe_psql('postgres', 'SELECT pid FROM bemi.status');
		kill('STOP', $stopped);
		wait_for_no_walsender();
		kill('CONT', $stopped);
	},
	$lost,
	sub { });
restart_destination();

#
# The source is down
#

for my $mode ('fast', 'immediate')
{
	my $since = now();

	$journal->start_load(rate => 200);
	$journal->wait_for_progress(100);
	$source->stop($mode);
	wait_for_error($since, $lost);
	$destination->poll_query_until('postgres',
		q{SELECT state = 'failed' AND restarts >= 2 AND last_error ~ 'closed the connection|could not connect' FROM bemi.status})
	  or die 'the worker does not try again';
	pass("source down, $mode: bemi.status tells");
	$journal->stop_load;
	$source->start;
	$journal->start_load(rate => 200);
	$journal->wait_for_progress(100);
	$journal->stop_load;
	$journal->check("source down, $mode");
	restart_destination();
}

my $total = $journal->total('from the beginning');
note "faults of the connection: $total->{missing} missing, $total->{twice} twice, "
  . "$total->{misplaced} misplaced, $total->{compared} changes compared";

$proxy->stop;
$destination->stop;
$source->stop;
done_testing();
