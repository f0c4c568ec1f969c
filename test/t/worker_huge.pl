# Values, rows and changes that exceed 1 GB as text: the source cannot send them, and each costs
# only its transaction (worker_unreadable.pl has the same with small rows). What is just below
# that limit is sent, and stored with a note of its length.
#
# This takes about 6 GB of memory and five minutes, so it does not run by default. Use
# PG_TEST_EXTRA=huge, or "make soak".

use strict;
use warnings;

use Bemi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

plan skip_all => 'it takes 6 GB of memory; PG_TEST_EXTRA=huge runs it'
  unless ($ENV{PG_TEST_EXTRA} // '') =~ /\bhuge\b/;

my $node = bemi_node('main', conf => "statement_timeout = '300s'\nlog_statement = none\n");

$node->safe_psql('postgres', q{
	CREATE TABLE docs (id int PRIMARY KEY, b bytea, c text, d text);
	CREATE TABLE other (id int PRIMARY KEY);
	SELECT bemi.track('docs'); SELECT bemi.track('other');
	CALL bemi.start()});

my $other = 0;
my $expected_gaps = 0;

# Runs SQL, then changes another table, and waits until that is stored.
sub run
{
	my ($what, $sql, %params) = @_;
	my $warned = 0;
	my $begun;

	$other++;
	$node->safe_psql('postgres', $sql);
	$node->safe_psql('postgres', "INSERT INTO other VALUES ($other)");
	$begun = time;
	while (1)
	{
		my ($stored, $warning) = split /\|/, $node->safe_psql('postgres', qq{
			SELECT EXISTS (SELECT FROM bemi.changes WHERE "table" = 'other' AND primary_key = '$other'), warning
			FROM bemi.status});

		$warned ||= ($warning =~ /fails to decode the transaction committed at/);
		last if $stored eq 't';
		die "$what: what comes after is not stored" if time - $begun > 280;
		# This waits for 200 ms, and ends with an error unless all is stored.
		$node->psql('postgres', q{SELECT bemi.sync('200ms')});
	}
	note sprintf('%s: %.0f s', $what, time - $begun);
	$expected_gaps++ if $params{lost};
	is($warned ? 'warned' : '', $params{lost} ? 'warned' : '', "$what: " . ($params{lost} ? 'bemi.status warns' : 'no warning'));
	is( $node->safe_psql('postgres', q{
			SELECT count(*), count(*) FILTER (WHERE to_time - from_time = interval '2 microseconds' AND detail LIKE '%public.docs%')
			FROM bemi.gaps WHERE reason NOT IN ('source_started', 'tracking_began')}),
		"$expected_gaps|$expected_gaps", "$what: " . ($params{lost} ? 'a gap of one transaction that names the table' : 'no gap'));
	return time - $begun;
}

cmp_ok(
	run('a bytea of 540 MB', q{
		INSERT INTO docs (id, b) SELECT 1, x || x FROM (SELECT decode(repeat('ab', 270 * 1024 * 1024), 'hex') x) s}, lost => 1),
	'<', 60, 'within a minute');
run('a text of 300 MB', q{INSERT INTO docs (id, c) SELECT 2, repeat('x', 300 * 1024 * 1024)});
run('UPDATE of two rows of 300 MB', q{UPDATE docs SET c = repeat('y', 300 * 1024 * 1024) WHERE id = 2});
run('several columns of 300 MB', q{
	INSERT INTO docs (id, b, c) SELECT 3, convert_to(repeat('x', 300 * 1024 * 1024), 'UTF8'), repeat('x', 500 * 1024 * 1024)}, lost => 1);
run('a text of 540 MB', q{INSERT INTO docs (id, c) SELECT 4, repeat('x', 540 * 1024 * 1024)});
run('UPDATE of two rows of 540 MB', q{UPDATE docs SET c = repeat('y', 540 * 1024 * 1024) WHERE id = 4}, lost => 1);
run('DELETE of it', q{DELETE FROM docs WHERE id = 4});

is( $node->safe_psql('postgres', q{
		SELECT string_agg(concat_ws(' ', primary_key, operation, substring(after ->> 'c' FROM 'value of (\d+) bytes left out')), ', ' ORDER BY id)
		FROM bemi.changes WHERE "table" = 'docs'}),
	'2 CREATE 314572800, 2 UPDATE 314572800, 4 CREATE 566231040, 4 DELETE', 'what could be sent is stored, with a note for what is too long');
is( $node->safe_psql('postgres', q{SELECT string_agg(primary_key, ',' ORDER BY id) FROM bemi.changes WHERE "table" = 'other'}),
	join(',', 1 .. $other), 'nothing else is lost');

#
# A server that lacks the memory for a row does not lose it
#

$node->safe_psql('postgres', q{
	CALL bemi.stop();
	INSERT INTO docs (id, c) SELECT 5, repeat('x', 300 * 1024 * 1024)});
$node->stop;

my $control = "pg_ctl -w -D '" . $node->data_dir . "' -l '" . $node->logfile . "'";
is(system("ulimit -v 1000000; $control start >/dev/null"), 0, 'the server starts with 1 GB for each process');
$node->safe_psql('postgres', 'CALL bemi.start(wait => false)');
$node->poll_query_until('postgres', q{SELECT restarts >= 5 FROM bemi.status})
  or die 'the worker does not fail';
is( $node->safe_psql('postgres', q{
		SELECT last_error LIKE 'source reports: out of memory (Failed on request of size %', coalesce(warning, 'none') FROM bemi.status}),
	't|none', 'it fails again and again, for lack of memory');
is(system("$control -m fast stop >/dev/null"), 0, 'the server stops');
$node->start;
$node->safe_psql('postgres', q{SELECT bemi.sync('200s')});
is( $node->safe_psql('postgres', q{
		SELECT (SELECT count(*) FROM bemi.changes WHERE "table" = 'docs' AND primary_key = '5'),
			(SELECT count(*) FROM bemi.gaps WHERE reason NOT IN ('source_started', 'tracking_began'))}),
	"1|$expected_gaps", 'with enough memory, the row is stored, and there is no gap');

$node->stop;
done_testing();
