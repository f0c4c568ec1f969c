# Every row of the history must be in each of its indexes. For a context, the worker enters the
# keys once for all rows that share it, and appends those of other rows to the list of pending
# entries together. It computes expressions and conditions once for such rows.
# Of the rows of a range of pages, it enters only the smallest and the largest values into a
# BRIN index. It leaves some indexes to the executor (store/index.c). An index that lacks a row
# silently returns wrong answers.
#
# So each index is compared with the table: B-trees by amcheck, which looks up every row, BRIN
# indexes by what they contain, all others by the same query with and without the index. This is done after many rows for a context,
# few, one, and none, of few keys and of many, with rows in one or in several flushes, after a crash, and after the server
# has vacuumed the indexes.

use strict;
use warnings;

use Bemi;
use Bemi::Session;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main', conf => 'autovacuum = off');

$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION amcheck;
	CREATE EXTENSION pgstattuple;
	CREATE EXTENSION pageinspect;
	CREATE TABLE item (id int PRIMARY KEY, name text, done boolean);
	CREATE TABLE other (id int PRIMARY KEY);
	SELECT bemi.track('item'), bemi.track('other');
	ALTER TABLE bemi.changes ADD COLUMN seen_at timestamptz DEFAULT now();
	CALL bemi.start();
	INSERT INTO item VALUES (0);
	SELECT bemi.sync('60s')});

my $btrees = 9;
my $partition = $node->safe_psql('postgres',
	q{SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'bemi.changes'::regclass});

# What users may add: on their own column, an expression, a part of the rows, other kinds,
# and more than one column in a GIN index.  (One that is unique at the end of the transaction
# comes last, because it has a trigger, and then all rows are inserted one by one.)
$node->safe_psql(
	'postgres', qq{
	CREATE INDEX ON $partition (seen_at);
	CREATE INDEX ON $partition (lower("table"), (after->>'name'));
	CREATE INDEX ON $partition (transaction_id) WHERE operation = 'DELETE';
	CREATE UNIQUE INDEX ON $partition (source, id) INCLUDE (committed_at);
	CREATE INDEX ON $partition USING hash (primary_key);
	CREATE INDEX ON $partition ((context->>'n'), id) WHERE context->>'n' IS NOT NULL;
	CREATE INDEX ON $partition (coalesce(primary_key, '-'), (operation || "table"));
	CREATE INDEX ON $partition USING brin (committed_at);
	CREATE INDEX ON $partition USING brin (committed_at, id) WITH (pages_per_range = 3);
	CREATE INDEX ON $partition USING brin (committed_at timestamptz_minmax_multi_ops, id);
	CREATE INDEX ON $partition USING gin (context);
	CREATE INDEX ON $partition USING gin (context jsonb_path_ops) WITH (fastupdate = off);
	CREATE INDEX ON $partition USING gin (context, after);
	CREATE INDEX ON $partition USING gin (after jsonb_path_ops)});
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_index WHERE indrelid = '$partition'::regclass"),
	'19', 'five indexes are the history\'s, fourteen are not');

# Ranges of pages whose rows are outside of what a BRIN index of (committed_at, id) has, and those
# without a summary.
$node->safe_psql(
	'postgres', qq{
	CREATE FUNCTION bad_ranges(index regclass, OUT wrong bigint, OUT unsummarized bigint) LANGUAGE sql AS \$\$
		WITH item AS (
			SELECT i.blknum, i.attnum, string_to_array(btrim(i.value, '{}'), ' .. ') AS value
			FROM generate_series(1, pg_relation_size(index) / 8192 - 1) p,
				LATERAL get_raw_page(index::text, p::int) page, LATERAL (SELECT * FROM brin_page_items(
					CASE WHEN brin_page_type(page) = 'regular' THEN page END, index)) i
			WHERE brin_page_type(page) = 'regular'
		), range AS (
			SELECT (ctid::text::point)[0]::bigint / pages * pages AS blknum, min(committed_at) AS first, max(committed_at) AS last,
				min(id::text) AS lowest, max(id::text) AS highest
			FROM $partition, (SELECT pagesperrange AS pages FROM brin_metapage_info(get_raw_page(index::text, 0))) m GROUP BY 1
		)
		SELECT count(*) FILTER (WHERE first < t.value[1]::timestamptz OR last > t.value[2]::timestamptz
				OR lowest < i.value[1] OR highest > i.value[2]),
			count(*) FILTER (WHERE t.value IS NULL)
		FROM range LEFT JOIN item t ON t.blknum = range.blknum AND t.attnum = 1
			LEFT JOIN item i ON i.blknum = range.blknum AND i.attnum = 2\$\$});

# What the contexts hold, key by key, with how many rows and which; once as the table has
# it, and once through an index on contexts, which is the only one at that time.
$node->safe_psql(
	'postgres', q{
	CREATE VIEW asked AS
		SELECT DISTINCT jsonb_build_object(e.key, e.value) AS context
		FROM bemi.changes, jsonb_each(context) e WHERE e.key !~ '^key .*[1-9]$'
		UNION SELECT '{}';
	CREATE VIEW answers AS
		SELECT context, count(c.id), sum(hashtext(c.id::text))
		FROM asked LEFT JOIN LATERAL (SELECT id FROM bemi.changes c WHERE c.context @> asked.context OFFSET 0) c ON true
		GROUP BY context;

	CREATE FUNCTION wrong_answers(index regclass) RETURNS bigint LANGUAGE plpgsql AS $$
	DECLARE
		wrong bigint;
		other regclass;
	BEGIN
		FOR other IN SELECT i.indexrelid FROM pg_index i, pg_index mine
			WHERE mine.indexrelid = index AND i.indrelid = mine.indrelid AND i.indexrelid <> index AND i.indkey[0] = mine.indkey[0]
		LOOP
			EXECUTE 'DROP INDEX ' || other;
		END LOOP;
		PERFORM set_config('enable_seqscan', 'off', true);
		CREATE TEMP TABLE of_index ON COMMIT DROP AS SELECT * FROM answers;
		SELECT count(*) INTO wrong FROM (TABLE of_table EXCEPT TABLE of_index) wrong;
		RAISE EXCEPTION USING ERRCODE = 'P0001', MESSAGE = wrong;
	EXCEPTION WHEN raise_exception THEN
		RETURN sqlerrm;
	END $$});

# The answer to a query, with the indexes and without.
sub both_ways
{
	my ($query) = @_;

	return map {
		$node->safe_psql('postgres',
			"SET enable_seqscan = $_; SET enable_indexscan = off; SET enable_bitmapscan = "
			  . ($_ eq 'on' ? 'off' : 'on')
			  . "; $query")
	} qw(off on);
}

# Rows whose keys are in the history's own index on contexts, but only in its list.
sub pending
{
	return $node->safe_psql(
		'postgres', qq{
		SELECT (pgstatginindex(i.indexrelid)).pending_tuples
		FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
		WHERE i.indrelid = '$partition'::regclass AND c.relname LIKE '%_context_idx'});
}

sub check_indexes
{
	my ($name) = @_;


	$node->safe_psql('postgres', q{SELECT bemi.sync('120s')});
	is( $node->safe_psql(
			'postgres', qq{
			SELECT count(bt_index_check(i.indexrelid, true))
			FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
			WHERE i.indrelid = '$partition'::regclass AND a.amname = 'btree'}),
		$btrees, "$name: B-trees have every row");
	is( $node->safe_psql(
			'postgres', qq{
			SELECT count(*), sum(wrong), sum(unsummarized)
			FROM pg_index i, LATERAL bad_ranges(i.indexrelid)
			WHERE i.indrelid = '$partition'::regclass
				AND pg_get_indexdef(i.indexrelid) LIKE '% USING brin (committed_at, id)%'}),
		'2|0|0', "$name: BRIN indexes have every range");
	is( $node->safe_psql(
			'postgres', qq{
			SET enable_bitmapscan = off;
			CREATE TEMP TABLE of_table AS TABLE answers;
			SET enable_bitmapscan = on;
			SELECT (SELECT count(*) > 0 FROM of_table), count(*), sum(wrong_answers(indexrelid))
			FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
			WHERE i.indrelid = '$partition'::regclass AND a.amname = 'gin'
				AND i.indkey[0] = (SELECT attnum FROM pg_attribute WHERE attrelid = i.indrelid AND attname = 'context')}),
		't|4|0', "$name: indexes on contexts have every row");

	for my $condition (q{after @> '{"done": true}'}, q{after @> '{"name": "twin"}'}, q{primary_key = '7'},
		q{lower("table") = 'item' AND after->>'name' = 'twin'}, q{committed_at <= now()},
		q{committed_at > (SELECT min(committed_at) FROM bemi.changes) AND id < (SELECT max(id::text)::uuid FROM bemi.changes)},
		q{context @> '{"n": 1}' AND after @> '{"done": true}'}, q{context ? 'n'})
	{
		my ($with, $without) = both_ways(
			"SELECT count(*), sum(hashtext(id::text)) FROM $partition WHERE $condition");

		is($with, $without, "$name: $condition");
	}
	return;
}

# Many rows to a context, more than one flush takes.
$node->safe_psql(
	'postgres', q{
	SET bemi.context = '{"n": 1, "many": true, "tags": ["a", "b", "a"], "deep": {"x": {"y": null}}}';
	INSERT INTO item SELECT i, 'name ' || i, false FROM generate_series(1, 5000) i;
	UPDATE item SET done = true WHERE id % 3 = 0;
	DELETE FROM item WHERE id > 4000});
$node->safe_psql('postgres', q{SELECT bemi.sync('60s')});
is(pending(), 1, 'their keys are entered at once, but for those of the first row of all');
check_indexes('many rows to a context');

# One, and as many as it takes, and fewer, and more: all within few flushes.
$node->safe_psql(
	'postgres', q{
	DO $$
	BEGIN
		FOR i IN 1 .. 300 LOOP
			PERFORM bemi.set_context(jsonb_build_object('n', i % 7, 'request', i % 50, 'rows', i % 12));
			UPDATE item SET name = 'name ' || -i WHERE id BETWEEN i AND i + i % 12 - 1;
			INSERT INTO other VALUES (i);
		END LOOP;
	END $$});
$node->safe_psql('postgres', q{SELECT bemi.sync('60s')});
cmp_ok(pending(), '>', 0, 'others go to the list of pending entries');
check_indexes('few rows to a context');

# The same context in one transaction after another, none in between, and one that is
# not valid, which must not inherit it.
$node->safe_psql('postgres', $_) for map {
	(   qq{SET bemi.context = '{"n": 1, "job": "nightly"}'; UPDATE item SET done = NOT done WHERE id = $_},
		$_ % 3 == 0 ? "UPDATE item SET done = NOT done WHERE id = $_" : (),
		$_ % 4 == 0
		? "BEGIN; SELECT pg_logical_emit_message(true, '_bemi', 'no JSON');"
		  . ' ALTER TABLE item DISABLE TRIGGER ALL;'
		  . " UPDATE item SET name = 'twin' WHERE id = $_; ALTER TABLE item ENABLE TRIGGER ALL; COMMIT"
		: ())
} 1 .. 20;
$node->safe_psql('postgres', q{SELECT bemi.sync('60s')});
is( $node->safe_psql(
		'postgres', q{
		SELECT after->>'name' = 'twin' AS other, context, count(*) FROM bemi.changes
		WHERE operation = 'UPDATE' AND transaction_id > (SELECT max(transaction_id) FROM bemi.changes WHERE context ? 'request')
		GROUP BY 1, 2 ORDER BY 3}),
	qq(t|{}|5\nf|{}|6\nf|{"n": 1, "job": "nightly"}|20),
	'a context is that of its own transactions');
check_indexes('a context that comes again');

# Of every size, so that some of those that are collected end one page of pending entries and others do not fit in it.
$node->safe_psql(
	'postgres', q{
	DO $$
	BEGIN
		FOR i IN 1 .. 200 LOOP
			PERFORM bemi.set_context((SELECT jsonb_object_agg('key ' || j, i) || jsonb_build_object('n', 5, 'size', i * 7 % 80)
				FROM generate_series(1, i * 7 % 80 + 1) j));
			UPDATE item SET name = 'sizes' WHERE id BETWEEN i AND i + i % 3;
		END LOOP;
	END $$});
$node->safe_psql('postgres', q{SELECT bemi.sync('60s')});
cmp_ok(pending(), '>', 0, 'contexts of every size go to the list of pending entries');
check_indexes('contexts of every size');

# Large, with more keys than a page of the index takes.
$node->safe_psql(
	'postgres', q{
	SELECT bemi.set_context((SELECT jsonb_object_agg('key ' || i, i) || '{"n": 2}' FROM generate_series(1, 500) i), false);
	UPDATE item SET name = 'large' WHERE id <= 20;
	UPDATE item SET name = 'large too' WHERE id <= 3;
	RESET bemi.context;
	UPDATE item SET name = 'none' WHERE id <= 50});
check_indexes('large contexts');

# Whoever keeps the worker from making summaries does not keep it from storing. It makes them later.
my $dba = Bemi::Session->new($node);
$dba->query('BEGIN');
$dba->query("LOCK TABLE $partition IN SHARE UPDATE EXCLUSIVE MODE");
$node->safe_psql('postgres', q{UPDATE item SET name = 'locked'; SELECT bemi.sync('60s')});
is( $node->safe_psql(
		'postgres', qq{
		SELECT sum(wrong), sum(unsummarized) > 0 FROM pg_index i, LATERAL bad_ranges(i.indexrelid)
		WHERE i.indrelid = '$partition'::regclass
			AND pg_get_indexdef(i.indexrelid) LIKE '% USING brin (committed_at, id)%'}),
	'0|t', 'while a lock is held, ranges lack their summary, and no summary is wrong');
$dba->query('COMMIT');
$node->safe_psql('postgres', q{UPDATE item SET name = 'not locked' WHERE id < 10});
check_indexes('after a lock was held');

$node->stop('immediate');
$node->start;
$node->safe_psql('postgres',
	q{SET bemi.context = '{"n": 3, "after": "crash"}'; UPDATE item SET name = 'twin' WHERE id BETWEEN 5 AND 1005});
check_indexes('after a crash');

# Where there is room among earlier rows, nothing is put, because ranges of pages with changes of
# all times would make the index of times useless.
for my $half (0, 1)
{
	$node->safe_psql('postgres', "DELETE FROM $partition WHERE abs(hashtext(id::text)) % 2 = $half");
	$node->safe_psql('postgres', "VACUUM $partition");
	check_indexes('after VACUUM');
	$node->safe_psql('postgres',
		qq{SET bemi.context = '{"n": 4, "room": $half}'; UPDATE item SET name = 'room'});
	check_indexes('with rows after the room of others');
	is( $node->safe_psql(
			'postgres', qq{
			SELECT count(*) FROM (SELECT min(id::text) AS first, lag(max(id::text)) OVER (ORDER BY page) AS before
				FROM (SELECT id, (ctid::text::point)[0] AS page FROM $partition) c GROUP BY page) p
			WHERE first <= before}),
		'0',
		'each page has later changes than the page before');
}

# A user's unique index that refuses a row stops the worker, as it would stop an INSERT;
# nothing is lost, and nothing half entered.
$node->safe_psql('postgres',
	"CREATE UNIQUE INDEX refuses ON $partition (operation) WHERE operation = 'TRUNCATE'");
$node->safe_psql('postgres',
	q{BEGIN; SET bemi.context = '{"n": 40}'; UPDATE item SET name = 'before' WHERE id BETWEEN 1 AND 30; TRUNCATE item, other; COMMIT});
wait_for_state($node, 'failed');
like($node->safe_psql('postgres', 'SELECT last_error FROM bemi.status'),
	qr/duplicate key value violates unique constraint "refuses"/, 'a unique index refuses a row');
is( $node->safe_psql('postgres',
		q{SELECT count(*) FROM bemi.changes WHERE context @> '{"n": 40}'}),
	'0', 'nothing of that is stored');
$node->safe_psql('postgres', 'DROP INDEX _bemi.refuses');
$node->safe_psql('postgres', q{SELECT bemi.sync('60s')});
is( $node->safe_psql('postgres',
		q{SELECT operation, count(*) FROM bemi.changes WHERE context @> '{"n": 40}' GROUP BY 1 ORDER BY 1}),
	"TRUNCATE|2\nUPDATE|30",
	'without that index, all of it is');
check_indexes('after an index that refused');

$node->safe_psql('postgres',
	"ALTER TABLE $partition ADD UNIQUE (id, position) DEFERRABLE INITIALLY DEFERRED");
# A trigger that skips rows leaves them without a place.
$node->safe_psql('postgres', q{
	CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
	CREATE TRIGGER skip BEFORE INSERT ON bemi.changes FOR EACH ROW WHEN (new.primary_key LIKE '%5') EXECUTE FUNCTION skip();
	ALTER TABLE bemi.changes ENABLE ALWAYS TRIGGER skip});
$node->safe_psql('postgres',
	q{SET bemi.context = '{"n": 50}'; INSERT INTO item SELECT i, 'twin', true FROM generate_series(1, 50) i});
$btrees++;
check_indexes('row by row');
is($node->safe_psql('postgres', q{SELECT count(*) FROM bemi.changes WHERE context @> '{"n": 50}'}), '45', 'the trigger has skipped some');
$node->safe_psql('postgres', 'DROP TRIGGER skip ON bemi.changes');

# A user's own partition, where one of the columns contains something else.  From 16 on, the
# server refuses such a partition.
if ($node->pg_version < 16)
{
	$node->safe_psql(
		'postgres', qq{
		BEGIN;
		ALTER TABLE bemi.changes DETACH PARTITION $partition;
		CREATE TABLE odd (LIKE bemi.changes INCLUDING ALL);
		ALTER TABLE odd DROP COLUMN context, ADD COLUMN context jsonb NOT NULL GENERATED ALWAYS AS (after) STORED;
		CREATE INDEX ON odd USING gin (context);
		ALTER TABLE bemi.changes ATTACH PARTITION odd DEFAULT;
		COMMIT;
		SET bemi.context = '{"n": 60}';
		INSERT INTO item SELECT i, 'odd', true FROM generate_series(101, 150) i;
		SELECT bemi.sync('60s')});
	is( join(' ', map {
				$node->safe_psql('postgres', "SET enable_seqscan = off; SELECT count(*) FROM odd WHERE context @> '$_'")
			} ('{"n": 60}', '{"name": "odd"}')),
		'0 50',
		'what the index has of a generated column is what the column has');
}

$node->stop;
done_testing();
