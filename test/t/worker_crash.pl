# Exactly once, if the worker, its walsender or the whole server dies.
#
# Clients change rows all the time and record it in a journal. After each accident, journal and
# history must agree (see Bemi::Clients). The kind and the moment of the next accident are random.
# BEMI_ROUNDS is the number of accidents, and "make soak" runs more of them.
#
# If a process gets SIGKILL, the server restarts all others and recovers.

use strict;
use warnings;

use Bemi;
use Bemi::Clients;
use List::Util qw(shuffle);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $rounds = $ENV{BEMI_ROUNDS} // 20;
my $seed = $ENV{BEMI_SEED} // int(rand(2**31));

note "random seed: $seed (BEMI_SEED=$seed repeats the choices), $rounds rounds (BEMI_ROUNDS)";
srand($seed);

my $node = bemi_node('main', conf => <<~CONF);
	restart_after_crash = on
	synchronous_commit = on
	log_statement = none
	max_prepared_transactions = 1
	max_locks_per_transaction = 512
	CONF
my $journal = Bemi::Clients->new(node => $node, seed => $seed);

$node->safe_psql('postgres', 'CALL bemi.start()');

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

# Waits until the server has recovered by itself.
sub kill_process
{
	my ($pid) = @_;
	my $offset = -s $node->logfile;

	kill('KILL', $pid) == 1 or die "no process $pid";
	$node->wait_for_log(qr/database system is ready to accept connections/,
		$offset);
	return;
}

sub terminate
{
	my ($pid) = @_;

	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	return;
}

# Parent and state of a process from /proc, () if it does not exist.
sub process
{
	my ($pid) = @_;

	open(my $file, '<', "/proc/$pid/stat") or return ();
	my ($state, $parent) = (<$file> // '') =~ /\) (\S) (\d+) /;
	return ($parent, $state);
}

sub children_of
{
	my ($parent) = @_;

	return grep { ((process($_))[0] // 0) == $parent }
	  map { m{(\d+)$} } glob('/proc/[0-9]*');
}

# The postmaster and all that it has started, at once.  Nothing is left that
# could tidy up.  If nothing reaps it, the postmaster stays as a zombie, which
# the next one would take for alive.
sub kill_server
{
	my $pid_file = $node->data_dir . '/postmaster.pid';
	my ($postmaster) = slurp_file($pid_file) =~ /^(\d+)/;
	my @processes = ($postmaster, children_of($postmaster));

	$node->kill9;
	kill('KILL', @processes);
	for (my $i = 0; grep { ((process($_))[1] // 'Z') ne 'Z' } @processes; $i++)
	{
		die 'a killed process stays' if $i > 6000;
		usleep(10_000);
	}
	unlink $pid_file, $node->host . '/.s.PGSQL.' . $node->port . '.lock'
	  if process($postmaster);
	$node->start;
	return;
}

my %accidents = (
	'worker killed' => sub { kill_process(pid_of_worker()) },
	'walsender killed' => sub { kill_process(pid_of_walsender()) },
	'server killed' => \&kill_server,
	'worker terminated' => sub { terminate(pid_of_worker()) },
	'walsender terminated' => sub { terminate(pid_of_walsender()) },
	'immediate shutdown' => sub {
		$node->stop('immediate');
		$node->start;
	});

# One accident under load.  Clients that survive it are then stopped.
sub accident
{
	my ($name) = @_;
	my $worker = pid_of_worker();

	$journal->start_load;
	$journal->wait_for_progress(20 + int(rand(800)));
	$accidents{$name}->();
	$node->poll_query_until('postgres',
		"SELECT state = 'streaming' AND pid <> $worker FROM bemi.status")
	  or die "$name: no new worker came";
	$journal->stop_load;
	return;
}

# Each kind at least once, if there are enough rounds.
my @kinds = shuffle(sort keys %accidents);
push @kinds, $kinds[ rand(keys %accidents) ] while @kinds < $rounds;
@kinds = shuffle(@kinds[ 0 .. $rounds - 1 ]);

for my $round (1 .. $rounds)
{
	my $kind = $kinds[ $round - 1 ];

	accident($kind);
	$journal->check("round $round, $kind");
	# Moves the place on disk from which decoding begins after a crash.
	$node->safe_psql('postgres', 'CHECKPOINT') if rand(3) < 1;
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
		FOR EACH ROW WHEN (NEW.primary_key = '107500') EXECUTE FUNCTION pause();
	ALTER TABLE bemi.changes ENABLE ALWAYS TRIGGER pause;
	BEGIN;
	SELECT pg_advisory_xact_lock(-1);
	PREPARE TRANSACTION 'holder';
	SELECT count(work(100000 + n, 4 * n + 1, jsonb_build_object('large', n / 1000)))
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
$journal->check('worker killed in a large transaction');
is($node->safe_psql('postgres', 'SELECT count(*) FROM bemi.changes'),
	$stored + 10000, 'in the end it is there, whole');

my $total = $journal->total('from the beginning');
my $kills = $rounds + 1;
note "$kills kills: $total->{missing} missing, $total->{twice} twice, "
  . "$total->{misplaced} misplaced, $total->{compared} changes compared";

$node->stop;
done_testing();
