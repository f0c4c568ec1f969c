# Two clients that share one server connection never see each other's context.
#
# A pooler in transaction mode passes the connection from client to client between transactions.
# So anything that a session keeps longer than a transaction could reach the rows of other
# clients. The test runs PgBouncer with a pool of one connection, because its real traffic
# matters. It also uses a plain SET, which is wrong there, to prove that the test notices a
# context that stays.

use strict;
use warnings;

use Bemi;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($pgbouncer) =
  grep { -x } map { "$_/pgbouncer" } (split(/:/, $ENV{PATH}), '/usr/sbin', '/usr/local/sbin');

if (!$pgbouncer)
{
	my $why = 'PgBouncer is not installed (Debian: apt-get install pgbouncer)';

	die $why if $ENV{CI};
	diag "poolers are NOT tested: $why";
	plan skip_all => $why;
}

my $node = bemi_node('main');

$node->safe_psql(
	'postgres', q{
	CREATE TABLE visit (id int PRIMARY KEY, client text);
	SELECT bemi.track('visit');
	CALL bemi.start()});

#
# PgBouncer, in the foreground
#

my $socket_dir = PostgreSQL::Test::Utils::tempdir_short();
my $port = PostgreSQL::Test::Cluster::get_free_port();
my $user = $node->safe_psql('postgres', 'SELECT current_user');
my $ini = $node->basedir . '/pgbouncer.ini';
my $target = 'host=' . $node->host . ' port=' . $node->port . " dbname=postgres user=$user";

append_to_file($ini, <<~INI);
	[databases]
	transactions = $target pool_mode=transaction
	sessions = $target pool_mode=session
	[pgbouncer]
	listen_addr =
	listen_port = $port
	unix_socket_dir = $socket_dir
	auth_type = any
	admin_users = $user
	default_pool_size = 1
	server_reset_query = DISCARD ALL
	server_reset_query_always = 0
	INI

my $log = '';
my $bouncer = IPC::Run::start([ $pgbouncer, $ini ],
	'<', \undef, '>', \$log, '2>&1',
	IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));

# The pooler must not outlive a test that dies.
END { $bouncer->kill_kill if $bouncer; }

$bouncer->pump until $log =~ /process up/;

sub pooled
{
	my ($database) = @_;

	return "host=$socket_dir port=$port user=$user dbname=$database";
}

# A client of the pooler that stays connected.
sub client
{
	my ($database) = @_;

	# Of two databases to connect to, psql takes the second.
	return $node->background_psql('postgres', extra_params => [ '-d', pooled($database) ]);
}

# One command of the pooler's own console.
sub console
{
	my ($command) = @_;
	my ($stdout) = run_command(
		[
			$node->installed_command('psql'),
			'-XAt', '-d', pooled('pgbouncer'), '-c', $command
		]);

	return $stdout;
}

#
# Visits: each row contains the context that it must have
#

my $visits = 0;
my @expected;

# The text of an INSERT, whose row must have this context.
sub visit
{
	my ($client, $context) = @_;

	push @expected, ++$visits . "|$client|$context";
	return "INSERT INTO visit VALUES ($visits, '$client')";
}

sub check_visits
{
	my ($name) = @_;

	$node->safe_psql('postgres', q{SELECT bemi.sync('60s')});
	is( $node->safe_psql('postgres',
			q{SELECT after->>'id', after->>'client', context FROM bemi.changes ORDER BY id}),
		join("\n", @expected),
		$name);
	return;
}

my $ann = client('transactions');
my $bob = client('transactions');

is($ann->query('SELECT pg_backend_pid()'),
	$bob->query('SELECT pg_backend_pid()'),
	'two clients share one server connection');

#
# One after the other
#

$ann->query("BEGIN; SET LOCAL bemi.context = '{\"by\": \"Ann\"}'; "
	  . visit('Ann', '{"by": "Ann"}') . '; COMMIT;');
$bob->query(visit('Bob', '{}') . ';');
$ann->query(visit('Ann', '{}') . ';');
check_visits('SET LOCAL');

$bob->query("BEGIN; SELECT bemi.set_context('{\"by\": \"Bob\"}'); "
	  . visit('Bob', '{"by": "Bob"}') . '; COMMIT;');
$ann->query(visit('Ann', '{}') . ';');
$ann->query("BEGIN; SELECT bemi.merge_context('{\"as\": \"Ann\"}'); "
	  . visit('Ann', '{"as": "Ann"}') . '; COMMIT;');
$bob->query(visit('Bob', '{}') . ';');
check_visits('bemi.set_context() and bemi.merge_context() in a transaction');

$ann->query(visit('Ann', '{"by": "Ann"}') . ' /*Bemi {"by": "Ann"} Bemi*/;');
$bob->query(visit('Bob', '{}') . ';');
$bob->query(visit('Bob', '{"by": "Bob"}') . ' /*Bemi {"by": "Bob"} Bemi*/;');
$ann->query(visit('Ann', '{}') . ';');
check_visits('comment');

# What is sent as one query is one transaction.
$ann->query("SET LOCAL bemi.context = '{\"by\": \"Ann\"}' \\; " . visit('Ann', '{"by": "Ann"}') . ';');
$bob->query(visit('Bob', '{}') . ';');
check_visits('SET LOCAL and the statement in one query');

$ann->query("BEGIN; SELECT bemi.set_context('{\"by\": \"Ann\"}', is_local => false); ROLLBACK;");
$bob->query(visit('Bob', '{}') . ';');
check_visits('a transaction that is rolled back takes its session setting along');

#
# One in the middle of the other: Bob's query is there, and waits for the
# connection, while Ann's transaction is open.
#

sub bob_waits
{
	my ($query) = @_;
	my $waiting = qr/^transactions\|\w+\|\d+\|1\|/m;
	my $deadline = time() + $PostgreSQL::Test::Utils::timeout_default;

	$bob->query_until(qr/sent/, "\\echo sent\n$query;\n");
	until (console('SHOW POOLS') =~ $waiting)
	{
		die 'Bob does not wait' if time() > $deadline;
	}
	return;
}

for my $emit ('statement', 'changed')
{
	$ann->query("BEGIN; SET LOCAL bemi.emit = $emit; SET LOCAL bemi.context = '{\"by\": \"Ann\"}'; "
		  . visit('Ann', '{"by": "Ann"}') . ';');
	my $later = visit('Ann', '{"by": "Ann"}');
	bob_waits(visit('Bob', '{"by": "Bob"}') . ' /*Bemi {"by": "Bob"} Bemi*/');
	$ann->query("$later; COMMIT;");
	$bob->query('SELECT');

	$ann->query('BEGIN; ' . visit('Ann', '{"by": "Ann"}') . ' /*Bemi {"by": "Ann"} Bemi*/;');
	$later = visit('Ann', '{}');
	bob_waits(visit('Bob', '{}'));
	$ann->query("$later; COMMIT;");
	$bob->query('SELECT');
	check_visits("Bob waits for the end of Ann's transaction, bemi.emit = $emit");
}

# Any order: what a client has done before must not matter.
my @ways = (
	sub { my ($who, $n) = @_; return visit($who, '{}') . ';'; },
	sub {
		my ($who, $n) = @_;
		return "BEGIN; SET LOCAL bemi.context = '{\"$who\": $n}'; "
		  . visit($who, "{\"$who\": $n}") . '; COMMIT;';
	},
	sub {
		my ($who, $n) = @_;
		return "BEGIN; SELECT bemi.set_context('{\"$who\": $n}'); "
		  . visit($who, "{\"$who\": $n}") . '; COMMIT;';
	},
	sub {
		my ($who, $n) = @_;
		return visit($who, "{\"$who\": $n}") . " /*Bemi {\"$who\": $n} Bemi*/;";
	});
for my $way_of_ann (@ways)
{
	for my $way_of_bob (@ways)
	{
		$ann->query($way_of_ann->('Ann', $visits));
		$bob->query($way_of_bob->('Bob', $visits));
	}
}
check_visits('every way to set a context after every other');

#
# Contexts of a session
#

$ann->query("SET bemi.context = '{\"by\": \"Ann\"}';");
$bob->query(visit('Bob', '{"by": "Ann"}') . ';');
check_visits('a plain SET reaches the other client, and has no place in transaction mode');

$bob->query('DISCARD ALL;');
$bob->query(visit('Bob', '{}') . ';');
$ann->query(visit('Ann', '{}') . ';');
$ann->query("SET bemi.context = '{\"by\": \"Ann\"}';");
$bob->query('RESET ALL;');
$ann->query(visit('Ann', '{}') . ';');
check_visits('DISCARD ALL and RESET ALL take it away');

console('SET server_reset_query_always = 1');
$ann->query("SET bemi.context = '{\"by\": \"Ann\"}';");
$bob->query(visit('Bob', '{}') . ';');
$bob->query("SELECT bemi.set_context('{\"by\": \"Bob\"}', is_local => false);");
$ann->query(visit('Ann', '{}') . ';');
check_visits("so does the pooler's own server_reset_query");

$ann->quit;
$bob->quit;

# In session mode the connection changes hands when a client leaves.
my $guest = client('sessions');
my $pid = $guest->query('SELECT pg_backend_pid()');
$guest->query("SET bemi.context = '{\"by\": \"guest\"}'; " . visit('guest', '{"by": "guest"}') . ';');
$guest->quit;
$guest = client('sessions');
is($guest->query('SELECT pg_backend_pid()'), $pid, 'the next client gets the same connection');
$guest->query(visit('next guest', '{}') . ';');
$guest->quit;
check_visits('session mode: nothing is left for the next client');

$bouncer->signal('INT');
$bouncer->finish;
undef $bouncer;
$node->stop;
done_testing();
