# Mistakes in setting bemi up. For each, bemi.start() fails and leaves nothing behind, its hint
# contains the line that corrects the mistake, and with that line start works. To prove that the
# hint is right, the test takes the configuration only from the hint.
#
# All of them need a server with other settings, so this is a TAP test.

use strict;
use warnings;

use Bemi;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main');
$node->safe_psql(
	'postgres', q{
	CREATE TABLE t (id int PRIMARY KEY);
	SELECT bemi.track('t')});

# Adds lines to the configuration; of several, the last one counts.
sub configure
{
	$node->append_conf('postgresql.conf', join("\n", @_));
	$node->restart;
	return;
}

# A failed start, its error and what it leaves: nothing.
sub fails
{
	my ($what, $expected, $database) = @_;
	my $error = start_error($node, undef, $database);

	like($error, $expected, "$what: the error says so");
	is( remains($node, $database),
		'0 rows, 0 slots, 0 origins',
		"$what: nothing is left behind");
	return $error;
}

# The line of the configuration that an error's hint ends with.
sub line_of
{
	my ($error, $setting) = @_;
	my ($line) = $error =~ /^HINT: .*?\b(\Q$setting\E = \S.*)$/m;

	ok(defined $line, "the hint sets $setting") or diag $error;
	return $line // '';
}

# Now it works.  Ends the source again.
sub works
{
	my ($what) = @_;

	is(start_error($node), '', "$what, mended: bemi.start() works");
	my ($status, $stdout, $stderr) = $node->psql(
		'postgres', q{
		INSERT INTO t SELECT count(*) FROM t;
		SELECT bemi.sync('60s');
		SELECT state, (SELECT count(*) FROM bemi.changes) = (SELECT count(*) FROM t)
			FROM bemi.status});
	is($stdout, "\nstreaming|t", "$what, mended: changes are stored")
	  or diag $stderr;
	$node->safe_psql('postgres', q{CALL bemi.drop_source('main')});
	return;
}

# The whole story of a mistake in postgresql.conf.
sub mistake
{
	my ($setting, $mistaken, $expected) = @_;

	configure($mistaken);
	my $line = line_of(fails($mistaken, $expected), $setting);
	return if $line eq '';
	configure($line);
	works($mistaken);
	return;
}

#
# postgresql.conf
#

configure("shared_preload_libraries = ''");
my $error = fails('library not preloaded',
	qr/ERROR:  bemi must be loaded when the server starts/);
like($error, qr/HINT: .* shared_preload_libraries = 'bemi'$/m,
	'the hint names the library');
configure(line_of($error, 'shared_preload_libraries'));
works('library not preloaded');

configure("shared_preload_libraries = 'plpgsql'");
$error = fails('another library preloaded',
	qr/ERROR:  bemi must be loaded when the server starts/);
like(
	$error,
	qr/HINT: .* shared_preload_libraries = 'plpgsql, bemi'$/m,
	'the hint keeps the other library');
configure(line_of($error, 'shared_preload_libraries'));
works('another library preloaded');

mistake('wal_level', 'wal_level = replica',
	qr/ERROR:  "wal_level" must be "logical" to read changes/);

mistake('max_wal_senders', 'max_wal_senders = 0',
	qr/DETAIL:  The worker reports: .*max_wal_senders/);

# Another process has the only one.
configure('max_wal_senders = 1');
my $received = '';
my $receiver = IPC::Run::start(
	[
		$node->installed_command('pg_receivewal'), '--no-loop',
		'-D', PostgreSQL::Test::Utils::tempdir(),
		'-d', $node->connstr
	],
	'<', \undef, '>', \$received, '2>', \$received,
	IPC::Run::timeout(180));
$node->poll_query_until('postgres',
	q{SELECT count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming'})
  or die "pg_receivewal does not stream: $received";
$error = fails('no free walsender',
	qr/DETAIL:  The worker reports: .*max_wal_senders/);
configure(line_of($error, 'max_wal_senders'));
$receiver->finish;
works('no free walsender');

mistake(
	'max_replication_slots',
	'max_replication_slots = 0',
	qr/DETAIL:  The worker reports: .*"?max_replication_slots"? > 0/);

# An unused slot takes the only place.
configure('max_replication_slots = 1');
$node->safe_psql('postgres',
	q{SELECT pg_create_physical_replication_slot('other')});
$error = fails('no free slot',
	qr/DETAIL:  The worker reports: .*all replication slots are in use/);
configure(line_of($error, 'max_replication_slots'));
works('no free slot');
$node->safe_psql('postgres', q{SELECT pg_drop_replication_slot('other')});

#
# pg_hba.conf
#

# The worker connects as the bootstrap superuser, so other roles must test the
# server meanwhile.
$node->safe_psql('postgres', 'CREATE ROLE dba SUPERUSER LOGIN');
my $owner = $node->safe_psql('postgres', 'SELECT current_user');
my $hba = slurp_file($node->data_dir . '/pg_hba.conf');

sub write_hba
{
	my $path = $node->data_dir . '/pg_hba.conf';
	my $offset = -s $node->logfile;

	unlink $path;
	append_to_file($path, join("\n", @_, ''));
	$node->reload;
	$node->wait_for_log(qr/received SIGHUP, reloading/, $offset);
	return;
}

{
	local $ENV{PGUSER} = 'dba';
	my @refusal = (qq{local all "$owner" reject}, 'local all all trust');

	write_hba(@refusal);
	$error = fails('refused by pg_hba.conf',
		qr/DETAIL:  The worker reports: .*pg_hba\.conf rejects connection/);
	my ($line) = $error =~ /^HINT: .*: (local .*)$/m;
	is($line, qq{local "postgres" "$owner" peer}, 'the hint has the line');

	# "peer" admits the owner of the server's process under its own name.
	write_hba($line // '', @refusal);
	works('refused by pg_hba.conf');

	# Where all roles need a password, the worker has none.
	@refusal = (qq{local all "$owner" scram-sha-256}, 'local all all trust');
	write_hba(@refusal);
	$error = fails('a password is needed', qr/DETAIL:  The worker reports: .*no password supplied/);
	($line) = $error =~ /^HINT: .*: (local .*)$/m;
	write_hba($line // '', @refusal);
	works('a password is needed');
	write_hba($hba);
}

#
# bemi.start() at the wrong place or time
#

$error = start_error($node, 'BEGIN; CALL bemi.start()');
like(
	$error,
	qr/ERROR:  bemi\.start\(\) cannot wait inside a transaction block/,
	'inside a transaction block');
like(
	$error,
	qr/HINT: .* CALL bemi\.start\('main', wait => false\);$/m,
	'the hint is the call that can be');
is(remains($node), '0 rows, 0 slots, 0 origins', 'nothing is left behind');

$node->safe_psql('postgres', 'CALL bemi.start()');
my $worker = $node->safe_psql('postgres', 'SELECT pid FROM bemi.status');
$error = start_error($node);
like($error, qr/ERROR:  source "main" is already started/, 'started twice');
like($error, qr/HINT: .* CALL bemi\.stop\('main'\)/,
	'the hint says how to start anew');
is($node->safe_psql('postgres', 'SELECT state, pid FROM bemi.status'),
	"streaming|$worker", 'the first one does not mind');

$node->stop;

#
# Too few processes: none for the launcher; one for it, but none for the worker
#

for my $number (0, 1)
{
	$node = bemi_node(
		"processes_$number",
		conf => <<~CONF);
		max_logical_replication_workers = 0
		statement_timeout = '30s'
		CONF
	$node->safe_psql('postgres',
		q{CREATE TABLE t (id int PRIMARY KEY); SELECT bemi.track('t')});
	mistake(
		'max_worker_processes',
		"max_worker_processes = $number",
		qr/could not start a worker process|launcher is not running/);
	$node->stop;
}

done_testing();
