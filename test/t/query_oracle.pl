# The functions for reading return what was, for any mixture of statements, while others write.
#
# Sessions write random transactions to several tables all the time. A journal of triggers, and copies
# of all tables at some instants, have what was. Meanwhile each function is called for random rows,
# tables and times, and compared row by row. Between the rounds the worker is killed, or the server stopped at once.
#
# A function that may refuse must have answered often enough.
#
# Parts: test/perl/Bemi/Oracle. BEMI_SEED repeats the statements. BEMI_ROUNDS is the number of rounds, and BEMI_SECONDS
# the time after which the remaining rounds only write and copy, and compare nothing.

use strict;
use warnings;

use Bemi;
use Bemi::Oracle::Between;
use Bemi::Oracle::Json;
use Bemi::Oracle::Past;
use Bemi::Oracle::Reading;
use Bemi::Oracle::Schemas;
use Bemi::Oracle::Tables;
use Bemi::Oracle::Truth;
use Bemi::Oracle::Writers;
use Bemi::Restores qw($has_clock with_clock set_clock);
use Bemi::Session;
use List::Util qw(sum);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{BEMI_SEED} // int(rand(2**31));
my $rounds = $ENV{BEMI_ROUNDS} // 20;
my $seconds = $ENV{BEMI_SECONDS} // 25;

note "random seed: $seed (BEMI_SEED=$seed repeats the statements), $rounds rounds (BEMI_ROUNDS), $seconds seconds (BEMI_SECONDS)";
srand($seed);

# It is noon of tomorrow there, so that a clock that is set back by seconds shows the same day.
my $clock = 129_600 - time % 86_400;
set_clock($clock);

my $node = with_clock(sub { bemi_node('main', conf => <<~CONF) });
	bemi.partition_interval = 'day'
	restart_after_crash = on
	synchronous_commit = on
	log_statement = none
	deadlock_timeout = '200ms'
	wal_writer_delay = '10ms'
	CONF

$has_merge = $node->pg_version >= 15;
install_tables($node);
install_comparisons($node);
install_past($node);
install_json($node);
$node->safe_psql('postgres', 'CALL bemi.start()');
$node->safe_psql('postgres', q{CALL bemi.index_column('v')}) if $seed % 2;    # the same answers with and without it

my $writers = 3;
my $session = Bemi::Session->new($node);

# What happens between two rounds.
my @events = (
	sub { crash() },
	sub { $node->stop('immediate'); with_clock(sub { $node->start }); },
	sub { $node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM bemi.status") },
	sub { $node->safe_psql('postgres', 'CALL bemi.stop()'); keep_writing($node, $seed, $writers); $node->safe_psql('postgres', 'CALL bemi.start()'); },
	sub { set_clock($clock += 86_400) },
	sub { set_clock($clock -= 20) },
	\&index_something,
	(sub { }) x 2);

# Functions that read by an index must say the same.
sub index_something
{
	$node->safe_psql('postgres', 'CALL bemi.' . pick(q{index_column('v')}, q{index_column('name')}, q{index_context('userId')}));
	return;
}

# The worker gets SIGKILL, and so the server restarts all its processes.
sub crash
{
	my $offset = -s $node->logfile;

	$node->poll_query_until('postgres', 'SELECT pid IS NOT NULL FROM bemi.status') or die 'no worker';
	kill('KILL', $node->safe_psql('postgres', 'SELECT pid FROM bemi.status')) == 1 or die 'the worker has gone';
	$node->wait_for_log(qr/database system is ready to accept connections/, $offset);
	return;
}

sub is_passing { return Test::More->builder->is_passing; }

# Before the rounds, there must be something to ask for.
until ($node->safe_psql('postgres', 'SELECT count(*) > 200 FROM bemi.changes') eq 't') { keep_writing($node, $seed, $writers); }

index_something() if chance(60);

my $end = time + $seconds;
my $compared = 0;

for my $round (1 .. $rounds)
{
	my $compares = $round <= 6 || time < $end;

	keep_writing($node, $seed, $writers);
	$node->safe_psql('postgres', 'CALL oracle.copy_all()');
	$compared += $compares;
	store_baseline($session) if $compares;
	for (1 .. ($compares ? 2 : 0))
	{
		keep_writing($node, $seed, $writers);
		check_changes($node, $session) if is_passing();
		check_past($node, $session) if is_passing();
		check_between($node, $session) if is_passing();
		check_json($node, $session) if is_passing();
	}
	last unless is_passing();
	next unless $compares;
	$events[ $round <= 6 ? $round - 1 : int(rand(@events)) ]->();
	$session->quit;
	$session = Bemi::Session->new($node);
}
end_writing();
check_copies($node);
check_schema_changes($node);

note "$_: $answers{$_} comparisons" for sort keys %answers;
for my $what (sort keys %{ { %answered, %refused } })
{
	my $reasons = $refused{$what} // {};
	note join ', ', "$what: " . ($answered{$what} // 0) . ' comparisons', map { "$_ refused: $reasons->{$_}" } sort keys %$reasons;
}
note "compared in $compared rounds of $rounds";
note written() . '; ' . $node->safe_psql('postgres', 'SELECT count(*) FROM bemi.changes') . ' changes';
# A function that refused each call would pass all comparisons.
for my $function ('bemi.as_of()', 'bemi.as_of() WHERE', 'bemi.row_as_of()', 'bemi.versions()', 'bemi.diff_table()', 'bemi.past()', 'bemi.as_of_json()',
	'bemi.source_as_of_json()')
{
	my @of = grep { /^\Q$function of/ } keys %{ { %answered, %refused } };
	my $answers = sum(0, map { $answered{$_} // 0 } @of);
	# Without a baseline, there is nothing to be asked of the history alone.
	my $refusals = sum(0, map { sum(0, values %{ $refused{$_} }) - ($refused{$_}{'no base'} // 0) } @of);

	# Few questions may all be of a time that nothing can answer, most of all from the history alone.
	next if $answers + $refusals < ($function =~ /source/ ? 30 : 10);
	cmp_ok($answers, '>=', ($answers + $refusals) / 20, "$function answers ($answers times, $refusals refusals)");
}
ok(is_passing(), "everything is as it was (seed $seed)");
$session->quit;
$node->stop;
done_testing();
