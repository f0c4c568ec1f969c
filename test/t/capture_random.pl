# Every change has the context of the statement that made it, for any mixture of statements,
# savepoints, functions, triggers and settings.
#
# The mixtures cannot be listed, so they are random. A generator creates transactions as psql
# scripts and runs each statement on a model, which records each change with the expected context.
# Afterwards bemi.changes must contain exactly these records, row by row. A second check does not
# use the model: replaying bemi.changes must lead to the contents of the tables. All parts are in
# test/perl/Bemi/Random.
#
# Several scripts run at once, each with its own seed and schema, so that their transactions are
# interleaved in the WAL. Every other script begins with bemi.emit = changed, which must make no
# difference. To repeat a failure, use the seed that is printed. The output shows the transaction
# in which the failure begins.

use strict;
use warnings;

use Bemi;
use Bemi::Random::Checker;
use Bemi::Random::Generator;
use Bemi::Random::Model;
use Bemi::Random::Statements;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{BEMI_SEED} // 1;
my $sessions = 4;
my $transactions = $ENV{BEMI_TRANSACTIONS} // 4000;

note "seeds $seed and following (BEMI_SEED=$seed repeats them),"
  . " $transactions transactions (BEMI_TRANSACTIONS)";

# The order in which an UPDATE finds its rows is part of the expectation; with
# these settings it is the order of an index.  A server that crashed and did not
# restart would end the tests before they can report what they saw.
my $node = bemi_node('main', conf => <<~CONF);
	max_prepared_transactions = 20
	enable_seqscan = off
	enable_bitmapscan = off
	enable_hashjoin = off
	enable_mergejoin = off
	enable_sort = off
	jit = off
	restart_after_crash = on
	log_statement = none
	CONF

$has_merge = $node->pg_version >= 15;

sub start_session
{
	my ($run, $emit) = @_;
	local $ENV{PGOPTIONS} = "-c search_path=$run->{schema} -c bemi.emit=$emit";

	$run->{psql} = IPC::Run::start(
		[
			$node->installed_command('psql'), '-XAtq', '-d',
			$node->connstr('postgres'), '-f', $run->{file}
		],
		'<', \undef, '>', \$run->{stdout}, '2>', \$run->{stderr},
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return;
}

my @runs;

for my $i (0 .. $sessions - 1)
{
	srand($seed + $i);
	my $run = make_session("random$i", $transactions / $sessions);

	$run->{seed} = $seed;
	$run->{file} = $node->basedir . "/$run->{schema}.sql";
	append_to_file($run->{file}, join '', @{ $run->{script} });
	$node->safe_psql('postgres', "CREATE SCHEMA $run->{schema}; SET search_path = $run->{schema}; $tables");
	push @runs, $run;
}

$node->safe_psql('postgres', 'CALL bemi.start()');
start_session($runs[$_], $_ % 2 ? 'changed' : 'statement') for 0 .. $#runs;
$_->{psql}->finish for @runs;
$node->safe_psql('postgres', q{SELECT bemi.sync('120s')});

collect_history($node);
check_session($node, $_) for @runs;
check_transaction_ids($node);
check_replay($node, $_) for @runs;

$node->stop;
done_testing();
