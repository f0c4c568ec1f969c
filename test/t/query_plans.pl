# Reading is fast on a large history: each function that reads it uses indexes, and leaves
# partitions alone that it does not need.
#
# Times prove nothing on a busy machine, so the test looks at the plans. The server logs the plans of
# statements within functions, too, and psql receives them as messages. There are 40 partitions of
# a day, each with changes of two tables.

use strict;
use warnings;

use Bemi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main');

$node->safe_psql('postgres', q{
	SET bemi.partition_interval = 'day';
	CREATE TABLE item (id text PRIMARY KEY, price integer);
	CREATE TABLE rare (id integer PRIMARY KEY);
	SELECT bemi.track('item'), bemi.track('rare');
	CALL bemi.start();
	SELECT bemi.sync();
	DO $$ BEGIN
		FOR d IN 1..40 LOOP
			PERFORM _bemi.make_partition('2024-01-01 UTC'::timestamptz + d * interval '1 day');
			INSERT INTO bemi.changes SELECT format('00000000-%s-8000-8%s-000000000001', lpad(to_hex(d), 4, '0'), lpad(to_hex(n), 3, '0'))::uuid,
				'postgres', 'public', CASE WHEN n = 2000 AND d = 30 THEN 'rare' ELSE 'item' END,
				CASE WHEN n <= 150 AND d IN (20, 25) THEN 'row' ELSE (10000 * d + n)::text END, 'UPDATE', '{"price": 1}', jsonb_build_object('price', 1 + n % 10),
				jsonb_build_object('user', CASE n WHEN 7 THEN 'rare' ELSE 'frequent' END),
				'2024-01-01 12:00 UTC'::timestamptz + d * interval '1 day', now(), now(), d, n, 'main' FROM generate_series(1, 2000) n;
		END LOOP;
	END $$;
	VACUUM ANALYZE bemi.changes});

# Result of a query; scans of partitions, each as "kind of scan, partition, index"; and the rows that sorts have read.
sub run
{
	my ($query) = @_;
	my ($status, $stdout, $stderr) = $node->psql('postgres', qq{
		LOAD 'auto_explain';
		SET client_min_messages = log;
		SET auto_explain.log_min_duration = 0;
		SET auto_explain.log_nested_statements = on;
		SET auto_explain.log_analyze = on;
		SET auto_explain.log_timing = off;
		SELECT count(*) FROM ($query) q;});

	is($status, 0, "$query: no error") or diag($stderr);
	my @scans = grep { /Scan.*changes_2024/ } split /\n/, $stderr;
	my %partitions = map { /(changes_2024_\d\d_\d\d)/ ? ($1 => 1) : () } @scans;
	my ($rows) = sort { $b <=> $a } map { /changes_2024.*\(actual rows=(\d+)/ ? $1 : 0 } @scans;

	return { count => $stdout, partitions => [ sort keys %partitions ], rows => $rows // 0, sequential => scalar(grep { /Seq Scan/ } @scans), log => $stderr };
}

sub check
{
	my ($query, $count, $partitions, $rows) = @_;
	my $run = run($query);
	my $ok = is($run->{count}, $count, "$query: $count changes");
	$ok &= is($run->{sequential}, 0, 'no sequential scan');
	$ok &= cmp_ok(scalar @{ $run->{partitions} }, '<=', $partitions, "no more than $partitions partitions: @{$run->{partitions}}");
	$ok &= cmp_ok($run->{rows}, '<=', $rows, "no more than $rows rows are read at once");
	diag($run->{log}) if !$ok;
	return;
}

# The newest partition of all is that of today.
check(q{SELECT * FROM bemi.history('item', 'row')}, 100, 16, 150);
check(q{SELECT * FROM bemi.history('item', 'row', newest => 200)}, 200, 21, 150);
check(q{SELECT * FROM bemi.history('item', 'row', before_id => '00000000-0014-8000-8010-000000000001')}, 15, 40, 100);
check(q{SELECT * FROM bemi.history('item', 'nosuch')}, 0, 40, 1);
check(q{SELECT * FROM bemi.find_changes('item')}, 100, 1, 100);
check(q{SELECT * FROM bemi.find_changes('item', before_id => '00000000-0023-8000-8010-000000000001')}, 100, 7, 100);
check(q{SELECT * FROM bemi.find_changes('rare')}, 1, 40, 1);
check(q{SELECT * FROM bemi.find_changes('item', column_name => 'price')}, 100, 1, 120);
check(q{SELECT * FROM bemi.find_changes(operation => 'UPDATE')}, 100, 1, 100);
check(q{SELECT * FROM bemi.find_changes(context => '{"user": "frequent"}')}, 100, 1, 110);
check(q{SELECT * FROM bemi.find_changes(context => '{"user": "rare"}', newest => 5)}, 5, 5, 1);
check(q{SELECT * FROM bemi.find_changes(from_time => '2024-01-11', to_time => '2024-01-13')}, 100, 1, 100);
check(q{SELECT * FROM bemi.find_changes(context => '{"user": "rare"}', from_time => '2024-01-11', to_time => '2024-01-13')}, 2, 2, 1);
check(q{SELECT * FROM bemi.transaction('00000000-0028-8000-8010-000000000001')}, 1023, 1, 1023);
check(q{SELECT * FROM bemi.blame('item', 'row')}, 1, 40, 150);

# With an index on a key, a value that is frequent in old partitions only costs one probe of each newer one. A number is
# not a string, although the index has both as text.
$node->safe_psql('postgres', q{
	UPDATE bemi.changes SET context = CASE WHEN id::text LIKE '%00-000000000001' THEN '{"user": "7"}'::jsonb ELSE '{"user": 7, "old": true}' END
		WHERE committed_at < '2024-01-04 UTC';
	CALL bemi.index_context('user');
	VACUUM ANALYZE bemi.changes});
check(q{SELECT * FROM bemi.find_changes(context => '{"user": 7}')}, 100, 41, 110);
check(q{SELECT * FROM bemi.find_changes(context => '{"user": 7, "old": true}')}, 100, 41, 110);
check(q{SELECT * FROM bemi.find_changes(context => '{"user": "7"}', newest => 3)}, 3, 41, 1100);
check(q{SELECT * FROM bemi.find_changes(context => '{"user": "frequent"}')}, 100, 1, 110);
check(q{SELECT * FROM bemi.find_changes(context => '{"user": "rare", "old": true}')}, 0, 41, 10);

# The view needs a condition, and passes it on.
is_deeply(run(q{SELECT * FROM bemi.transactions WHERE committed_at >= '2024-01-11' AND committed_at < '2024-01-12'})->{partitions},
	['changes_2024_01_11'], 'transactions of a day are those of its partition');

done_testing();
