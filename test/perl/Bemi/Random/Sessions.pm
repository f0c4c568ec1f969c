# The sessions of the random test: made with one seed each, played at the same time by psql, and
# checked. capture_random plays them in the database of the history, capture_random_source at a
# source without the extension.

package Bemi::Random::Sessions;

use strict;
use warnings;

use Bemi::Random::Generator;
use Bemi::Random::Model;
use Bemi::Random::Statements;
use Exporter 'import';
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw($random_conf make_sessions play_sessions);

# The order in which an UPDATE finds its rows is part of the expectation; with
# these settings it is the order of an index.  A server that crashed and did not
# restart would end the tests before they can report what they saw.
our $random_conf = <<~CONF;
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

# Makes the sessions, each with its schema and its tables.  Parameters: node, database, role,
# tables (SQL), and how many transactions.
sub make_sessions
{
	my ($at, $transactions) = @_;
	my $seed = $ENV{BEMI_SEED} // 1;
	my $sessions = 4;
	my @runs;

	$transactions = $ENV{BEMI_TRANSACTIONS} // $transactions;
	note "seeds $seed and following (BEMI_SEED=$seed repeats them),"
	  . " $transactions transactions (BEMI_TRANSACTIONS)";
	$has_merge = $at->{node}->pg_version >= 15;
	for my $i (0 .. $sessions - 1)
	{
		srand($seed + $i);
		my $run = make_session("random$i", $transactions / $sessions);

		$run->{seed} = $seed;
		$run->{file} = $at->{node}->basedir . "/$run->{schema}.sql";
		append_to_file($run->{file}, join '', @{ $run->{script} });
		$at->{node}->safe_psql(
			$at->{database},
			"CREATE SCHEMA $run->{schema}; SET search_path = $run->{schema}; $at->{tables}",
			extra_params => [ '-U', $at->{role} ]);
		push @runs, $run;
	}
	return @runs;
}

sub start_session
{
	my ($at, $run, $emit) = @_;
	local $ENV{PGOPTIONS} = "-c search_path=$run->{schema} -c bemi.emit=$emit";

	$run->{psql} = IPC::Run::start(
		[
			$at->{node}->installed_command('psql'), '-XAtq', '-d',
			$at->{node}->connstr($at->{database}), '-U', $at->{role}, '-f', $run->{file}
		],
		'<', \undef, '>', \$run->{stdout}, '2>', \$run->{stderr},
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return;
}

# All at the same time.
sub play_sessions
{
	my ($at, @runs) = @_;

	start_session($at, $runs[$_], $_ % 2 ? 'changed' : 'statement') for 0 .. $#runs;
	$_->{psql}->finish for @runs;
	return;
}

1;
