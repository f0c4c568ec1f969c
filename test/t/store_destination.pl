# The destination cannot write for a while: its disk is full, its history is locked, or it is
# read-only.
#
# bemi.status must show the problem. When it is solved, the worker must continue by itself, and
# the history must equal the clients' journal (Bemi::Clients). The source is another server, and
# works all the time.
#
# A limit on the size of files acts as a full disk: the write that would extend a file fails in
# the same way, only with another errno (EFBIG). WAL files are smaller than the limit, because no
# server works without WAL. A soft limit can be raised again, and new processes inherit the
# postmaster's.

use strict;
use warnings;

use Bemi;
use Bemi::Clients;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{BEMI_SEED} // int(rand(2**31));

note "random seed: $seed (BEMI_SEED=$seed repeats the clients' choices)";

my $source = bemi_node('source', conf => <<~CONF);
	wal_sender_timeout = '4s'
	log_statement = none
	CONF
my $destination = bemi_node('destination',
	initdb => ['--wal-segsize=1'],
	conf => <<~CONF);
	log_statement = none
	autovacuum = off
	max_prepared_transactions = 1
	CONF
my $journal = Bemi::Clients->new(node => $source, history => $destination, seed => $seed);
my $conninfo = $source->connstr('postgres') =~ s/'/''/gr;

is(start_error($destination, "CALL bemi.start(conninfo => '$conninfo')"),
	'', 'the source is started');

sub status
{
	return $destination->safe_psql('postgres', "SELECT $_[0] FROM bemi.status");
}

# Waits for some changes more, with the clients still at work, and compares.
sub check_after
{
	my ($name) = @_;

	$journal->wait_for_progress(100);
	$journal->stop_load;
	$journal->check($name);
	return;
}

#
# No space left
#

# Limits the size of files for the server and all of its processes.
sub limit_files
{
	my ($limit) = @_;
	my ($postmaster) = slurp_file($destination->data_dir . '/postmaster.pid') =~ /^(\d+)/;
	my @children = map { /^(\d+) \(.*\) \S $postmaster / ? $1 : () }
	  map { -r $_ ? slurp_file($_) : () } glob('/proc/[0-9]*/stat');

	# Processes may end meanwhile, except the first.
	for my $pid ($postmaster, @children)
	{
		my $done = PostgreSQL::Test::Utils::system_log('prlimit', "--pid=$pid", "--fsize=$limit:") == 0;

		die 'no limit could be set' if !$done && $pid == $postmaster;
	}
	return;
}

SKIP:
{
	skip 'prlimit is not there', 3 if system('prlimit --version >/dev/null 2>&1') != 0;

	$journal->start_load(rate => 300, padding => 1500);
	$journal->wait_for_progress(100);
	limit_files(8 * 1024 * 1024);
	$destination->poll_query_until('postgres',
		q{SELECT state = 'failed' AND last_error ~ 'could not (extend|write)' AND restarts >= 2 FROM bemi.status})
	  or die 'no space, and nobody says so: ' . status('state, last_error');
	like(status('last_error'), qr/File too large|wrote only/, 'disk full: bemi.status tells');
	note 'disk full: ' . status('last_error');
	my $stored = $destination->safe_psql('postgres', 'SELECT count(*) FROM bemi.changes');
	limit_files('unlimited');
	check_after('disk full');
	note "disk full: $stored changes were stored before";

	# A failed try leaves pages behind that it had added.
	$destination->safe_psql('postgres', 'CHECKPOINT');
	$destination->restart;
	wait_for_state($destination, 'streaming');
}

#
# The history is locked
#

# The worker waits, and the source gives it up meanwhile, as it would give up a
# subscription's: the server does not know that the worker will return.  The error explains it.
$journal->start_load(rate => 200);
$journal->wait_for_progress(100);
$destination->safe_psql('postgres',
	q{BEGIN; LOCK TABLE bemi.changes IN SHARE MODE; PREPARE TRANSACTION 'holder'});
$destination->poll_query_until('postgres',
	q{SELECT warning ~ 'waits for a lock on bemi.changes, held by a prepared transaction' FROM bemi.status})
  or die 'the worker does not wait';
my $worker = status('pid');
$source->poll_query_until('postgres',
	q{SELECT count(*) = 0 FROM pg_stat_replication WHERE application_name LIKE 'bemi%'})
  or die 'the source waits for ever';
is(status('pid'), $worker, 'history locked: the worker waits');
$destination->safe_psql('postgres', q{ROLLBACK PREPARED 'holder'});
check_after('history locked');
is(status('restarts'), '1', 'history locked: one new connection');
like(
	status('last_error'),
	qr/\(The worker had not answered for \d+ ms before, because it was busy or waited for a lock\.\)/,
	'history locked: the error says why the source has given the worker up');

#
# Read only by default: not for the worker, which changes nothing of the user's
#

$destination->safe_psql('postgres', 'ALTER SYSTEM SET default_transaction_read_only = on');
$destination->restart;
wait_for_state($destination, 'streaming');
$journal->start_load(rate => 200);
$journal->wait_for_progress(100);
$destination->safe_psql('postgres',
	'SET default_transaction_read_only = off; ALTER SYSTEM RESET default_transaction_read_only');
$destination->reload;
check_after('read only by default');

#
# A directory that nobody can write to
#

my ($file) = $destination->safe_psql(
	'postgres', q{
	SELECT pg_relation_filepath(inhrelid) FROM pg_inherits WHERE inhparent = 'bemi.changes'::regclass});
my $path = $destination->data_dir . "/$file";

$destination->stop;
chmod 0400, $path or die "could not change $path: $!";
$destination->start;
$journal->start_load(rate => 200);
if (-w $path)
{
	note 'this user may write to any file';
}
else
{
	$destination->poll_query_until('postgres',
		q{SELECT state = 'failed' AND last_error ~ 'could not open file' AND restarts >= 1 FROM bemi.status})
	  or die 'the history cannot be written, and nobody says so: ' . status('state, last_error');
	pass('files not writable: bemi.status tells');
}
chmod 0600, $path;
check_after('files not writable');

my $total = $journal->total('from the beginning');
note "faults of the destination: $total->{missing} missing, $total->{twice} twice, "
  . "$total->{misplaced} misplaced, $total->{compared} changes compared";

$destination->stop;
$source->stop;
done_testing();
