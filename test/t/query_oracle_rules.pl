# As query_oracle.pl, with tables of which the history leaves something out.
#
# Columns are ignored or redacted, by rules that change. A table is now tracked and now not. One is dropped and
# made again, empty or with rows, and one gets another primary key. What the functions for reading return must
# be right nevertheless, or refused. A call that would need changes that were not tracked must be refused.
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
use Bemi::Oracle::Rules;
use Bemi::Oracle::Schemas;
use Bemi::Oracle::Tables;
use Bemi::Oracle::Truth;
use Bemi::Oracle::Writers;
use Bemi::Restores qw(with_clock set_clock);
use Bemi::Session;
use List::Util qw(sum);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{BEMI_SEED} // int(rand(2**31));
my $rounds = $ENV{BEMI_ROUNDS} // 12;
my $seconds = $ENV{BEMI_SECONDS} // 25;

note "random seed: $seed (BEMI_SEED=$seed repeats the statements), $rounds rounds (BEMI_ROUNDS), $seconds seconds (BEMI_SECONDS)";
srand($seed);

my $clock = 0;
my $node = with_clock(sub { bemi_node('main', conf => "deadlock_timeout = '200ms'\nlog_statement = none\nwal_writer_delay = '10ms'\n") });

$has_merge = $node->pg_version >= 15;
install_rules($node);
install_comparisons($node);
install_past($node);
install_json($node);
$node->safe_psql('postgres', 'CALL bemi.start()');
# So that there is a hash, whatever rules follow.
$node->safe_psql('postgres', q{SELECT bemi.sync(); UPDATE live.secret SET mail = 'hashed' WHERE id = 1});

my $writers = 2;
my $session = Bemi::Session->new($node);

sub is_passing { return Test::More->builder->is_passing; }

until ($node->safe_psql('postgres', 'SELECT count(*) > 100 FROM bemi.changes') eq 't') { keep_writing($node, $seed, $writers); }

my $end = time + $seconds;
my $compared = 0;

for my $round (1 .. $rounds)
{
	my $compares = $round <= 3 || time < $end;

	keep_writing($node, $seed, $writers);
	$node->safe_psql('postgres', 'CALL oracle.copy_all()');
	$compared += $compares;
	store_baseline($session) if $compares && $round > 3;
	for (1 .. ($compares ? 2 : 0))
	{
		keep_writing($node, $seed, $writers);
		check_changes($node, $session) if is_passing();
		check_past($node, $session) if is_passing();
		check_between($node, $session) if is_passing();
		check_json($node, $session) if is_passing();
		check_with_gaps($session) if is_passing();
		check_present_key($node, $session) if is_passing();
	}
	check_ignored($node, $session) if $compares && is_passing();
	# Gaps have times, and changes have an order.
	set_clock($clock -= 5) if $round > 3 && chance(25);
	last unless is_passing();
}
end_writing();
check_copies($node);
check_schema_changes($node);
check_hashes($node);

for my $what (sort keys %{ { %answered, %refused } })
{
	my $reasons = $refused{$what} // {};
	note join ', ', "$what: " . ($answered{$what} // 0) . ' comparisons', map { "$_ refused: $reasons->{$_}" } sort keys %$reasons;
}
note "compared in $compared rounds of $rounds";
note written() . '; ' . $node->safe_psql('postgres', 'SELECT count(*) FROM bemi.changes') . ' changes';
# A function that refused each call would pass all comparisons.
for my $function ('bemi.as_of()', 'bemi.as_of() WHERE', 'bemi.row_as_of()', 'bemi.versions()', 'bemi.as_of() with gaps', 'bemi.as_of() of ignored columns')
{
	my @of = grep { /^\Q$function of/ } keys %{ { %answered, %refused } };
	my $answers = sum(0, map { $answered{$_} // 0 } @of);
	my $refusals = sum(0, map { values %{ $refused{$_} // {} } } @of);

	# Few questions may all be of a time that nothing can answer.
	next if $answers + $refusals < 15;
	cmp_ok($answers, '>', 0, "$function answers ($answers times, $refusals refusals)");
}
ok(is_passing(), "everything is as it was (seed $seed)");
$session->quit;
$node->stop;
done_testing();
