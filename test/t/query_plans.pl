# Reading is fast on a large history: each function that reads it uses indexes, and leaves
# partitions alone that it does not need.
#
# Times prove nothing on a busy machine, so the test counts. Changes are read by indexes without plans (src/query). For
# these, it counts buffers, and the partitions that the call has locked. If a row policy applies to the reader, they are
# read by plans. The server logs these, also of statements within functions, and psql receives them as messages.
#
# There are 40 partitions of a day, each with changes of two tables.

use strict;
use warnings;

use Bemi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main');

$node->safe_psql('postgres', q{
	SET bemi.partition_interval = 'day';
	CREATE TABLE item (id text PRIMARY KEY, price integer, name text);
	CREATE TABLE rare (id integer PRIMARY KEY, name text);
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

$node->safe_psql('postgres', q{
	CREATE ROLE reader;
	GRANT pg_read_all_data TO reader;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA bemi, _bemi TO reader;
	ALTER TABLE bemi.changes ENABLE ROW LEVEL SECURITY;
	CREATE POLICY everything ON bemi.changes USING (true)});

# Result of a query for a reader with a row policy; scans of partitions, each as "kind of scan, partition, index"; and
# the rows that sorts have read.
sub run_by_plans
{
	my ($query) = @_;
	my ($status, $stdout, $stderr) = $node->psql('postgres', qq{
		LOAD 'auto_explain';
		SET client_min_messages = log;
		SET auto_explain.log_min_duration = 0;
		SET auto_explain.log_nested_statements = on;
		SET auto_explain.log_analyze = on;
		SET auto_explain.log_timing = off;
		SET ROLE reader;
		SELECT count(*) FROM ($query) q;});

	is($status, 0, "$query: no error") or diag($stderr);
	my @scans = grep { /Scan.*changes_2024/ } split /\n/, $stderr;
	my %partitions = map { /(changes_2024_\d\d_\d\d)/ ? ($1 => 1) : () } @scans;
	my ($rows) = sort { $b <=> $a } map { /changes_2024.*\(actual rows=(\d+)/ ? $1 : 0 } @scans;

	return { count => $stdout, partitions => [ sort keys %partitions ], rows => $rows // 0, sequential => scalar(grep { /Seq Scan/ } @scans), log => $stderr };
}

# Result of a query, the partitions that it locks, and the buffers that it reads when all caches are warm.
sub run_by_index
{
	my ($query) = @_;
	my ($count, $explain, $partitions) = split /^--\n/m, $node->safe_psql('postgres', qq{
		SELECT count(*) FROM ($query) q;
		SELECT '--';
		BEGIN;
		EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) $query;
		SELECT '--';
		SELECT c.relname FROM pg_locks l JOIN pg_class c ON c.oid = l.relation WHERE l.pid = pg_backend_pid() AND c.relname ~ '^changes_2024_.._..\$' ORDER BY 1;
		COMMIT;});
	my ($buffers) = $explain =~ /Buffers: shared hit=(\d+)/;

	chomp $count;
	return { count => $count, partitions => [ split /\n/, $partitions // '' ], buffers => $buffers // 0, log => $explain };
}

# With a row policy, an index on contexts may not serve, because its operators are not leakproof. So all rows of a
# partition may be read there.
#
# A query returns so many changes, and needs no more than so many partitions: rows of each, by plans, and buffers, by
# indexes.
sub check
{
	my ($query, $count, $partitions, $rows, $buffers) = @_;
	my $run = run_by_plans($query);
	my $ok = is($run->{count}, $count, "$query: $count changes");
	$ok &= is($run->{sequential}, 0, 'no sequential scan');
	$ok &= cmp_ok(scalar @{ $run->{partitions} }, '<=', $partitions, "no more than $partitions partitions: @{$run->{partitions}}");
	$ok &= cmp_ok($run->{rows}, '<=', $rows, "no more than $rows rows are read at once");
	diag($run->{log}) if !$ok;

	$run = run_by_index($query);
	$ok = is($run->{count}, $count, "by index: $count changes");
	$ok &= cmp_ok(scalar @{ $run->{partitions} }, '<=', $partitions, "no more than $partitions partitions: @{$run->{partitions}}");
	$ok &= cmp_ok($run->{buffers}, '<=', $buffers, "no more than $buffers buffers");
	diag($run->{log}) if !$ok;
	return;
}

# The newest partition of all is that of today.
check(q{SELECT * FROM bemi.history('item', 'row')}, 100, 16, 150, 190);
check(q{SELECT * FROM bemi.history('item', 'row', newest => 200)}, 200, 21, 150, 230);
check(q{SELECT * FROM bemi.history('item', 'row', before_id => '00000000-0014-8000-8010-000000000001')}, 15, 40, 100, 300);
check(q{SELECT * FROM bemi.history('item', 'nosuch')}, 0, 40, 1, 300);
check(q{SELECT * FROM bemi.find_changes('item')}, 100, 1, 100, 50);
check(q{SELECT * FROM bemi.find_changes('item', before_id => '00000000-0023-8000-8010-000000000001')}, 100, 7, 100, 90);
check(q{SELECT * FROM bemi.find_changes('rare')}, 1, 40, 1, 150);
check(q{SELECT * FROM bemi.find_changes('item', column_name => 'price')}, 100, 1, 120, 50);
check(q{SELECT * FROM bemi.find_changes(operation => 'UPDATE')}, 100, 1, 100, 30);
check(q{SELECT * FROM bemi.find_changes(context => '{"user": "frequent"}')}, 100, 1, 2000, 30);
check(q{SELECT * FROM bemi.find_changes(context => '{"user": "rare"}', newest => 5)}, 5, 5, 1, 90);
check(q{SELECT * FROM bemi.find_changes(from_time => '2024-01-11', to_time => '2024-01-13')}, 100, 1, 100, 30);
check(q{SELECT * FROM bemi.find_changes(context => '{"user": "rare"}', from_time => '2024-01-11', to_time => '2024-01-13')}, 2, 2, 1, 80);
# The next page. The change of the cursor is looked for from the newest partition on.
check(q{SELECT * FROM bemi.find_changes(operation => 'UPDATE', before_id => '00000000-0023-8000-8010-000000000001')}, 100, 7, 100, 70);
check(q{SELECT * FROM bemi.find_changes(context => '{"user": "rare"}', before_id => '00000000-0005-8000-8010-000000000001')}, 5, 40, 2000, 300);
check(q{SELECT * FROM bemi.find_changes(from_time => '2024-01-11', to_time => '2024-01-13', before_id => '00000000-000a-8000-8010-000000000001')}, 15, 31, 100, 130);
check(q{SELECT * FROM bemi.transaction('00000000-0028-8000-8010-000000000001')}, 1023, 1, 1023, 80);
check(q{SELECT * FROM bemi.blame('item', 'row')}, 1, 40, 150, 190);

# With an index on a key, a value that is frequent in old partitions only costs one probe of each newer one. A number is
# not a string, although the index has both as text.
$node->safe_psql('postgres', q{
	UPDATE bemi.changes SET context = CASE WHEN id::text LIKE '%00-000000000001' THEN '{"user": "7"}'::jsonb ELSE '{"user": 7, "old": true}' END
		WHERE committed_at < '2024-01-04 UTC';
	CALL bemi.index_context('user');
	VACUUM ANALYZE bemi.changes});
check(q{SELECT * FROM bemi.find_changes(context => '{"user": 7}')}, 100, 41, 2000, 230);
check(q{SELECT * FROM bemi.find_changes(context => '{"user": 7, "old": true}')}, 100, 41, 2000, 230);
check(q{SELECT * FROM bemi.find_changes(context => '{"user": "7"}', newest => 3)}, 3, 41, 2000, 160);
check(q{SELECT * FROM bemi.find_changes(context => '{"user": "frequent"}')}, 100, 1, 2000, 30);
check(q{SELECT * FROM bemi.find_changes(context => '{"user": "frequent"}', before_id => '00000000-0023-8000-8010-000000000001')}, 100, 7, 2000, 90);
check(q{SELECT * FROM bemi.find_changes(context => '{"user": "rare", "old": true}')}, 0, 41, 10, 220);

# A column that rarely changes. Without its index, a search reads all changes of the table, and the answer is the same. The
# few UPDATEs of it are between many INSERTs.
$node->safe_psql('postgres', q{
	UPDATE bemi.changes SET before = before || '{"name": "old"}', after = after || '{"name": "new"}' WHERE id::text LIKE '%00-000000000001' AND committed_at < '2024-01-20 UTC';
	UPDATE bemi.changes SET operation = 'CREATE', before = '{}', after = '{"name": "new"}' WHERE id::text LIKE '%-8000-87d0-000000000001' AND committed_at < '2024-01-20 UTC';
	VACUUM ANALYZE bemi.changes});
my %renamed_by = map { $_ => $node->safe_psql('postgres', "SELECT array_agg(id) FROM bemi.find_changes('item', column_name => 'name', newest => NULL$_)") } '', q{, operation => 'UPDATE'}, q{, context => '{"user": "frequent"}'}, q{, from_time => '2024-01-11', to_time => '2024-01-13'};
my $without_index = run_by_index(q{SELECT * FROM bemi.find_changes('item', column_name => 'name', newest => 3)})->{buffers};
$node->safe_psql('postgres', q{CALL bemi.index_column('name')});
check(q{SELECT * FROM bemi.find_changes('item', column_name => 'name', newest => 3)}, 3, 41, 2000, 200);
check(q{SELECT * FROM bemi.find_changes('item', column_name => 'name', operation => 'UPDATE', newest => 3)}, 3, 41, 2000, 160);
check(q{SELECT * FROM bemi.find_changes('item', column_name => 'name', before_id => '00000000-0005-8000-8010-000000000001', newest => 10)}, 10, 41, 2000, 250);
check(q{SELECT * FROM bemi.find_changes('rare', column_name => 'name')}, 0, 41, 2000, 230);
cmp_ok($without_index, '>', 1000, 'without the index, all changes of the table were read');
is($node->safe_psql('postgres', "SELECT array_agg(id) FROM bemi.find_changes('item', column_name => 'name', newest => NULL$_)"), $renamed_by{$_}, "the same changes with the index$_") for sort keys %renamed_by;

# Rare operations, each between many others.
$node->safe_psql('postgres', q{
	UPDATE bemi.changes SET operation = 'DELETE', after = '{}' WHERE id::text LIKE '%-8000-8100-000000000001' AND committed_at < '2024-01-20 UTC';
	UPDATE bemi.changes SET operation = 'TRUNCATE', primary_key = NULL, before = '{}', after = '{}' WHERE id::text LIKE '%-8000-8200-000000000001' AND committed_at < '2024-01-20 UTC';
	VACUUM ANALYZE bemi.changes});
check(q{SELECT * FROM bemi.find_changes('item', operation => 'DELETE', newest => 5)}, 5, 41, 5, 170);
check(q{SELECT * FROM bemi.find_changes(operation => 'DELETE', newest => 5)}, 5, 41, 2000, 170);
check(q{SELECT * FROM bemi.find_changes('item', operation => 'TRUNCATE', newest => 5)}, 5, 41, 2000, 170);
check(q{SELECT * FROM bemi.find_changes('rare', operation => 'TRUNCATE')}, 0, 41, 2000, 200);

# A minute of a partition that has a day.
$node->safe_psql('postgres', q{
	SET bemi.partition_interval = 'day';
	SELECT _bemi.make_partition('2024-02-25 UTC');
	CREATE INDEX ON _bemi.changes_2024_02_25 USING brin (committed_at, id) WITH (pages_per_range = 8);
	DROP INDEX _bemi.changes_2024_02_25_committed_at_id_idx;
	INSERT INTO bemi.changes SELECT format('00000000-0041-8000-8%s-00000000%s', lpad(to_hex(n / 16), 3, '0'), lpad(to_hex(n), 4, '0'))::uuid,
		'postgres', 'public', 'item', n::text, 'CREATE', '{}', '{"price": 1}', '{}', '2024-02-25 UTC'::timestamptz + n * interval '4 s', now(), now(), 100, n, 'main' FROM generate_series(1, 20000) n;
	VACUUM ANALYZE bemi.changes});
check(q{SELECT * FROM bemi.find_changes(from_time => '2024-02-25 06:00 UTC', to_time => '2024-02-25 06:01 UTC')}, 15, 1, 1000, 300);
check(q{SELECT * FROM bemi.find_changes('item', operation => 'CREATE', from_time => '2024-02-25 06:00 UTC', to_time => '2024-02-25 06:01 UTC')}, 15, 1, 1000, 300);

# The walk by ids finds the 20 newest of 220 changes. Then the index of contexts finds all 220, of which 30 are wanted.
$node->safe_psql('postgres', q{
	SET bemi.partition_interval = 'day';
	SELECT _bemi.make_partition('2024-02-20 UTC');
	INSERT INTO bemi.changes SELECT format('00000000-0040-8000-8%s-000000000001', lpad(to_hex(n), 3, '0'))::uuid,
		'postgres', 'public', 'item', n::text, 'CREATE', '{}', '{"price": 1}',
		jsonb_build_object('job', CASE WHEN n <= 200 OR n > 3980 THEN 'burst' ELSE 'other' END),
		'2024-02-20 12:00 UTC', now(), now(), 100, n, 'main' FROM generate_series(1, 4000) n;
	VACUUM ANALYZE bemi.changes});
is($node->safe_psql('postgres', q{SELECT string_agg(primary_key, ' ') FROM bemi.find_changes(context => '{"job": "burst"}', newest => 50)}),
	join(' ', reverse 171 .. 200, 3981 .. 4000), 'changes of a walk and of the index after it');

# Of a partition that was never analyzed, pg_class does not have the number of rows. The index of contexts is used all the
# same, also if it finds nothing.
$node->safe_psql('postgres', q{
	SET bemi.partition_interval = 'day';
	SELECT _bemi.make_partition('2024-02-27 UTC');
	INSERT INTO bemi.changes SELECT format('00000000-0042-8000-8%s-00000000%s', lpad(to_hex(n / 16), 3, '0'), lpad(to_hex(n), 4, '0'))::uuid,
		'postgres', 'public', 'item', n::text, 'CREATE', '{}', '{"price": 1}', jsonb_build_object('job', n), '2024-02-27 12:00 UTC', now(), now(), 100, n, 'main' FROM generate_series(1, 20000) n});
for my $job ([ 5, 1 ], [ 0, 0 ])
{
	my $run = run_by_index(qq{SELECT * FROM bemi.find_changes(context => '{"job": $job->[0]}', from_time => '2024-02-27 UTC', to_time => '2024-02-28 UTC')});

	is($run->{count}, $job->[1], 'a context in a partition without statistics');
	cmp_ok($run->{buffers}, '<=', 400, 'by the index of contexts') or diag($run->{log});
}

# The view needs a condition, and passes it on.
is_deeply(run_by_plans(q{SELECT * FROM bemi.transactions WHERE committed_at >= '2024-01-11' AND committed_at < '2024-01-12'})->{partitions},
	['changes_2024_01_11'], 'transactions of a day are those of its partition');

done_testing();
