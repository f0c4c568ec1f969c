# Reading by indexes (src/query) returns what a query returns, and to nobody else.
#
# _bemi.changes_by_index() and _bemi.changes_by_plans() have the same conditions. So they must have the same answers, row
# by row, for random conditions, over partitions of all kinds: bemi's own, some of users with other columns, without
# indexes or with indexes that must not be used, divided ones, and a default one. Ids do not follow the times everywhere.
#
# A query checks rights and row policies. Code in C must do so itself, so each kind of right is tried.
#
# BEMI_SEED repeats the conditions.

use strict;
use warnings;

use Bemi;
use Bemi::Session;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{BEMI_SEED} // int(rand(2**31));

note "random seed: $seed (BEMI_SEED=$seed repeats the conditions)";
srand($seed);

my $node = bemi_node('main', conf => "bemi.partition_interval = 'day'\nautovacuum = off");

sub pick { return $_[ int rand @_ ]; }

# Partitions

my $columns = '("table", primary_key, schema, id)';

$node->safe_psql('postgres', qq{
	SELECT count(_bemi.make_partition('2024-01-01 UTC'::timestamptz + n * interval '1 day')) FROM generate_series(0, 4) n;

	-- columns in another order
	CREATE TABLE other_columns (source text COLLATE "C" NOT NULL, gone int, position bigint NOT NULL, transaction_id bigint NOT NULL, created_at timestamptz NOT NULL,
		queued_at timestamptz NOT NULL, committed_at timestamptz NOT NULL, context jsonb NOT NULL, after jsonb NOT NULL, before jsonb NOT NULL, operation text COLLATE "C" NOT NULL,
		primary_key text COLLATE "C", "table" text COLLATE "C" NOT NULL, schema text COLLATE "C" NOT NULL, database text COLLATE "C" NOT NULL, id uuid NOT NULL);
	ALTER TABLE other_columns DROP COLUMN gone;
	CREATE INDEX ON other_columns (id);
	CREATE INDEX ON other_columns $columns;
	CREATE INDEX ON other_columns ("table", id);
	ALTER TABLE bemi.changes ATTACH PARTITION other_columns FOR VALUES FROM ('2024-02-01 UTC') TO ('2024-02-02 UTC');

	-- no indexes
	CREATE TABLE bare PARTITION OF bemi.changes FOR VALUES FROM ('2024-02-02 UTC') TO ('2024-02-03 UTC');

	-- indexes that have the right columns, and another order, condition or comparison
	CREATE TABLE unfit PARTITION OF bemi.changes FOR VALUES FROM ('2024-02-03 UTC') TO ('2024-02-04 UTC');
	CREATE INDEX ON unfit (id DESC);
	CREATE INDEX ON unfit (id) WHERE operation <> 'DELETE';
	CREATE INDEX ON unfit ("table", primary_key, schema, id DESC);
	CREATE INDEX ON unfit ("table" COLLATE "POSIX", primary_key, schema, id);
	CREATE INDEX ON unfit ("table" text_pattern_ops, primary_key, schema, id);
	CREATE INDEX ON unfit $columns WHERE operation = 'UPDATE';
	CREATE INDEX ON unfit ("table", id) WHERE operation = 'UPDATE';
	CREATE INDEX ON unfit USING gin (context jsonb_path_ops) WHERE source = 'main';
	CREATE INDEX ON unfit ((left(context ->> 'user', 100)) COLLATE "C", id);
	CREATE INDEX ON unfit ((left(context ->> 'user', 200)) COLLATE "C", id) WHERE context ->> 'other' IS NOT NULL;
	CREATE INDEX ON unfit USING brin (committed_at) WHERE source = 'main';
	CREATE INDEX ON unfit ("table", operation, id) WHERE bemi.column_is_changed(operation, after, before, 'price');
	CREATE INDEX ON unfit ("table", operation, id) WHERE bemi.column_is_changed(operation, before, after, 'price') AND source = 'main';
	CREATE INDEX ON unfit ("table", id) WHERE bemi.column_is_changed(operation, before, after, 'price');

	-- indexes that are not complete: they stay empty
	CREATE TABLE incomplete PARTITION OF bemi.changes FOR VALUES FROM ('2024-02-04 UTC') TO ('2024-02-05 UTC');
	CREATE INDEX ON incomplete (id);
	CREATE INDEX ON incomplete $columns;
	CREATE INDEX ON incomplete USING gin (context);
	UPDATE pg_index SET indisvalid = false, indisready = false WHERE indrelid = 'incomplete'::regclass;

	-- divided
	CREATE TABLE divided PARTITION OF bemi.changes FOR VALUES FROM ('2024-02-05 UTC') TO ('2024-02-06 UTC') PARTITION BY LIST (source);
	CREATE TABLE divided_main PARTITION OF divided FOR VALUES IN ('main');
	CREATE TABLE divided_rest PARTITION OF divided DEFAULT PARTITION BY HASH (id);
	CREATE TABLE divided_0 PARTITION OF divided_rest FOR VALUES WITH (MODULUS 2, REMAINDER 0);
	CREATE TABLE divided_1 PARTITION OF divided_rest FOR VALUES WITH (MODULUS 2, REMAINDER 1);
	CREATE INDEX ON divided_main (id);
	CREATE INDEX ON divided_main $columns;
	CREATE INDEX ON divided_0 (id);
	CREATE INDEX ON divided_0 USING gin (context);

	-- all other times
	CREATE TABLE rest (LIKE bemi.changes INCLUDING ALL);
	CREATE INDEX ON rest (id);
	CREATE INDEX ON rest $columns;
	ALTER TABLE bemi.changes ATTACH PARTITION rest DEFAULT;

	-- a user's columns
	ALTER TABLE bemi.changes ADD COLUMN gone text DEFAULT 'gone';
	ALTER TABLE bemi.changes ADD COLUMN note text DEFAULT 'note';
	ALTER TABLE bemi.changes DROP COLUMN gone;
	CALL bemi.index_context('user');
	CALL bemi.index_column('price');});

# Changes of 13 days from 2023-12-31 on, and of 8 from 2024-01-31 on, with 6000 on 2024-01-05. One in 20 is of another day
# than its id says. Some rows are then written again or deleted, so that indexes have entries of rows that nobody sees.
$node->safe_psql('postgres', "SELECT setseed($seed / 2147483648.0);" . q{
	INSERT INTO bemi.changes SELECT format('00000000-%s-8000-8%s-000000000001', lpad(to_hex(n / 1000), 4, '0'), lpad(to_hex(n % 1000), 3, '0'))::uuid, 'postgres',
		CASE WHEN r[1] < 0.1 THEN 'other' ELSE 'public' END, CASE WHEN r[2] < 0.01 THEN 'rare' WHEN r[2] < 0.2 THEN 'line' ELSE 'item' END,
		CASE WHEN r[3] < 0.02 THEN NULL ELSE (r[4] * 30)::integer::text END,
		CASE WHEN r[3] < 0.01 THEN 'TRUNCATE' WHEN r[5] < 0.05 THEN 'DELETE' WHEN r[5] < 0.1 THEN 'CREATE' WHEN r[5] < 0.11 THEN 'SNAPSHOT' ELSE 'UPDATE' END,
		CASE WHEN r[5] >= 0.05 AND r[5] < 0.11 THEN '{}' ELSE jsonb_build_object('price', (r[6] * 5)::integer, 'name', CASE WHEN r[7] < 0.5 THEN 'x' END) END,
		CASE WHEN r[5] < 0.05 THEN '{}' WHEN r[7] < 0.1 THEN '{"price": 1.0}' ELSE jsonb_build_object('price', (r[8] * 5)::integer, 'name', 'x') END,
		CASE WHEN r[9] < 0.1 THEN '{}' WHEN r[9] < 0.2 THEN '{"user": [1]}' WHEN r[9] < 0.21 THEN jsonb_build_object('user', 'rare')
			WHEN r[9] < 0.22 THEN jsonb_build_object('user', repeat('long', 60) || (r[6] * 2)::integer)
			ELSE jsonb_build_object('user', CASE WHEN r[6] < 0.5 THEN CASE WHEN n % 900 = 0 THEN to_jsonb((r[10] * 5)::integer::numeric(9,2)) WHEN n % 900 = 1 THEN '2.50' ELSE to_jsonb((r[10] * 5)::integer) END ELSE to_jsonb((r[10] * 5)::integer::text) END, 'at', jsonb_build_object('n', (r[7] * 3)::integer)) END,
		CASE WHEN r[8] < 0.001 THEN 'infinity' WHEN r[8] < 0.002 THEN '-infinity' ELSE
			(CASE WHEN d < 13 THEN '2023-12-31 UTC' ELSE '2024-01-18 UTC' END)::timestamptz + d * interval '1 day' + n % 6000 / 5 * interval '1 minute' END,
		now(), now(), n, n, CASE WHEN r[6] < 0.2 THEN 'other' ELSE 'main' END
	FROM (SELECT n, r, CASE WHEN r[7] < 0.05 THEN (r[10] * 20)::integer WHEN n BETWEEN 5000 AND 10999 THEN 5 ELSE n / 1000 END AS d
		FROM (SELECT n, ARRAY(SELECT random() FROM generate_series(1, 10) WHERE n > 0) AS r FROM generate_series(1, 20999) n) q) q;
	UPDATE bemi.changes SET note = 'again' WHERE random() < 0.05;
	UPDATE bemi.changes SET context = context || '{"user": "moved"}' WHERE random() < 0.05;
	DELETE FROM bemi.changes WHERE random() < 0.05;
	CREATE INDEX ON _bemi.changes_2024_01_05 USING brin (committed_at) WITH (pages_per_range = 2);
	DROP INDEX _bemi.changes_2024_01_05_committed_at_id_idx;
	ANALYZE bemi.changes;});
is($node->safe_psql('postgres', 'SELECT count(DISTINCT tableoid) FROM bemi.changes'), 13, 'all partitions have changes');

# Both ways of reading, and the indexes on columns, have one function that tells whether a column is changed.
is( $node->safe_psql(
		'postgres', q{SELECT count(*) FROM bemi.changes c, unnest('{price, name, nosuch}'::text[]) col
			WHERE bemi.column_is_changed(operation, before, after, col) IS DISTINCT FROM coalesce(CASE operation WHEN 'UPDATE' THEN before ? col AND after ? col AND before -> col <> after -> col
				WHEN 'CREATE' THEN coalesce(before ->> col, after ->> col) IS NOT NULL WHEN 'DELETE' THEN coalesce(before ->> col, after ->> col) IS NOT NULL END, false)}),
	'0',
	'whether a column is changed');

# Conditions

sub some_time { return sprintf q{'%s UTC'}, pick('2024-01-01', '2024-01-02 00:30', '2024-01-05 03:00', '2024-01-05 04:00', '2024-01-05 15:00', '2024-01-08', '2024-02-02', '2024-02-03 01:00', '2024-02-05 00:10', '2024-02-10'); }
sub some_change { return "(SELECT %s FROM bemi.changes ORDER BY id OFFSET " . int(rand 18000) . ' LIMIT 1)'; }

sub some_conditions
{
	my %is = map { $_ => rand() < 0.3 } qw(table row sources operation column context texts from to from_id to_id after newest);
	my $change = some_change();
	my $order = pick('newest', 'newest', 'newest by time', 'oldest');
	my @table = $is{row} || $is{table} ? (pick(q{'public'}, q{'public'}, q{'other'}), pick(q{'item'}, q{'line'}, q{'rare'}, q{'nosuch'})) : ('NULL', 'NULL');

	return join ', ', @table,
	  $is{row} ? "'" . int(rand 32) . "'" : 'NULL',
	  $is{sources} ? pick(q{'{main}'}, q{'{other}'}, q{'{main,other}'}, q{'{}'}) : 'NULL',
	  $is{operation} ? pick(q{'{DELETE}'}, q{'{DELETE}'}, q{'{UPDATE}'}, q{'{CREATE}'}, q{'{TRUNCATE}'}, q{'{UPDATE,DELETE}'}, q{'{TRUNCATE,DELETE}'}, q{'{}'}) : 'NULL',
	  $is{column} ? pick(q{'price'}, q{'name'}, q{'nosuch'}) : 'NULL',
	  $is{context} ? pick(q[{"user": "1"}], q[{"user": 3}], q[{"user": 1.0}], q[{"user": 2.5}], q[{"user": "rare"}], q[{"user": "moved"}], q[{}], q[{"user": [1]}], q[{"at": {"n": 2}}], q[{"user": 2, "at": {"n": 1}}], sprintf q[{"user": "%s1"}], 'long' x 60)
		=~ s/(.*)/'$1'/r : 'NULL',
	  $is{texts} ? pick(q[{"user": "1"}], q[{"user": "3"}], q[{"user": "3.00"}], q[{"user": "2.50"}], q[{"user": "rare"}], q[{"user": "[1]"}], q[{"user": "moved"}], q[{"user": "true"}], q[{"user": "1e0"}],
		q[{"at": "{\"n\": 2}"}], q[{"at": "{\"n\": 1}", "user": "2"}], q[{"user": null}], q[{}], q[{"": "x"}], sprintf q[{"user": "%s1"}], 'long' x 60)
		=~ s/(.*)/'$1'/r : 'NULL',
	  $is{from} ? some_time() : 'NULL', $is{to} ? some_time() : 'NULL',
	  $is{from_id} ? sprintf some_change(), 'id' : 'NULL', $is{to_id} ? sprintf some_change(), 'id' : 'NULL',
	  $is{after} && $order ne 'oldest' ? (sprintf($change, 'committed_at'), sprintf($change, 'id')) : ('NULL', 'NULL'),
	  "'$order'", $is{newest} ? 'NULL' : pick(1, 3, 20, 100);
}

sub compare
{
	my ($times, $settings) = @_;
	my @conditions = map { some_conditions() } 1 .. $times;
	my $queries = join "\n", map { "SELECT (SELECT array_agg(c::text) FROM _bemi.changes_by_index($_) c) IS DISTINCT FROM (SELECT array_agg(c::text) FROM _bemi.changes_by_plans($_) c), (SELECT count(*) FROM _bemi.changes_by_index($_));" } @conditions;
	my @answers = split /\n/, $node->safe_psql('postgres', $settings . $queries);
	my @wrong = map { $answers[$_] =~ /^f/ ? () : $conditions[$_] } 0 .. $#conditions;

	is_deeply(\@wrong, [], "$times random conditions: the same changes by indexes as by plans") or diag(join "\n", @wrong);
	cmp_ok(scalar(grep { !/\|0$/ } @answers), '>', $times / 4, 'many of them find something');
	return;
}

compare(150, '');
compare(50, 'SET work_mem = 64; SET gin_fuzzy_search_limit = 1;');

# Rights

$node->safe_psql('postgres', q{
	CREATE ROLE reader;
	GRANT USAGE ON SCHEMA bemi, _bemi TO reader;
	GRANT SELECT ON _bemi.indexes_on_demand TO reader;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA bemi, _bemi TO reader;
	CREATE ROLE definer IN ROLE reader;
	GRANT CREATE ON SCHEMA public TO definer;
	SET ROLE definer;
	CREATE FUNCTION count_as_definer() RETURNS bigint SECURITY DEFINER LANGUAGE sql RETURN (SELECT count(*) FROM bemi.find_changes(newest => NULL));
	RESET ROLE;
	CREATE FUNCTION drop_column_indexes() RETURNS void LANGUAGE plpgsql AS $$ DECLARE i regclass; BEGIN
		FOR i IN SELECT indexrelid FROM pg_index WHERE pg_get_indexdef(indexrelid) LIKE '%column_is_changed%' LOOP EXECUTE format('DROP INDEX %s', i); END LOOP; END $$;
	CREATE VIEW of_superuser AS SELECT * FROM bemi.find_changes(newest => NULL);
	GRANT SELECT ON of_superuser TO reader;});

my $all = $node->safe_psql('postgres', 'SELECT count(*) FROM bemi.changes');
my $index = '_bemi.changes_by_index(' . join(', ', ('NULL') x 16) . ')';

# What is printed for a statement by a role, after some other statements, that are taken back.
sub prints
{
	my ($role, $before, $statement) = @_;
	my ($status, $stdout, $stderr) = $node->psql('postgres', "BEGIN; $before SET LOCAL ROLE $role; $statement");

	return $status == 0 ? $stdout : $stderr =~ s/^psql:<stdin>:\d+: //r =~ s/\n.*//sr;
}

my $count = 'SELECT count(*) FROM bemi.find_changes(newest => NULL);';
my $columns_but_one = q{DO $$ BEGIN EXECUTE (SELECT format('GRANT SELECT (%s) ON bemi.changes TO reader', string_agg(quote_ident(attname), ', '))
	FROM pg_attribute WHERE attrelid = 'bemi.changes'::regclass AND attnum > 0 AND NOT attisdropped AND attname <> 'note'); END $$;};
my $grant = 'GRANT SELECT ON bemi.changes TO reader;';
my $policy = $grant . q{ALTER TABLE bemi.changes ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON bemi.changes USING ("table" = 'line');};
my $lines = $node->safe_psql('postgres', q{SELECT count(*) FROM bemi.changes WHERE "table" = 'line'});
my $owned = 'ALTER TABLE bemi.changes OWNER TO reader;';

foreach my $case (
	[ 'without a right', 'reader', '', 'ERROR:  permission denied for table changes' ],
	[ 'in a view of a superuser', 'reader', '', 'ERROR:  permission denied for table changes', 'SELECT count(*) FROM of_superuser;' ],
	[ 'in a function of a role without a right', 'postgres', '', 'ERROR:  permission denied for table changes', 'SELECT count_as_definer();' ],
	[ 'on all columns but one', 'reader', $columns_but_one, 'ERROR:  permission denied for table changes' ],
	[ 'on all columns', 'reader', $columns_but_one . 'GRANT SELECT (note) ON bemi.changes TO reader;', $all ],
	[ 'on a partition only', 'reader', 'GRANT SELECT ON _bemi.changes_2024_01_05 TO reader;', 'ERROR:  permission denied for table changes' ],
	[ 'without the schema', 'reader', $grant . 'REVOKE USAGE ON SCHEMA bemi FROM reader, PUBLIC;', 'ERROR:  permission denied for schema bemi', "SELECT count(*) FROM $index;" ],
	[ 'on the table', 'reader', $grant, $all ],
	[ 'with a row policy', 'reader', $policy, $lines ],
	[ 'with a row policy, by index', 'reader', $policy, 'ERROR:  bemi.changes cannot be read by its indexes', "SELECT count(*) FROM $index;" ],
	[ 'with a row policy, in a function of that role', 'postgres', $policy, $lines, 'SELECT count_as_definer();' ],
	[ 'with row_security = off', 'reader', $policy . 'SET LOCAL row_security = off;', 'ERROR:  query would be affected by row-level security policy for table "changes"' ],
	[ 'with a policy for others', 'postgres', $policy, $all ],
	[ 'with BYPASSRLS', 'reader', $policy . 'ALTER ROLE reader BYPASSRLS;', $all ],
	[ 'with BYPASSRLS, by index', 'reader', $policy . 'ALTER ROLE reader BYPASSRLS;', $all, "SELECT count(*) FROM $index;" ],
	[ 'as the owner', 'reader', $policy . $owned, $all ],
	[ 'as the owner, with forced policies', 'reader', $policy . $owned . 'ALTER TABLE bemi.changes FORCE ROW LEVEL SECURITY;', $lines ],
	[ 'with policies of a partition, which do not count', 'reader', $grant . 'ALTER TABLE _bemi.changes_2024_01_05 ENABLE ROW LEVEL SECURITY;', $all ],
	[ 'bytes that only look like jsonb', 'reader', $grant . 'DROP VIEW of_superuser; SELECT drop_column_indexes(); ALTER TABLE bemi.changes ALTER before TYPE bytea USING before::text::bytea;', 'ERROR:  column "before" of table "changes" is not of type jsonb', 'SELECT _bemi.reads_by_index();' ],
	[ 'a row without its table', 'reader', $grant, 'ERROR:  of_row needs of_schema and of_table', 'SELECT * FROM _bemi.changes_by_index(' . join(', ', 'NULL', 'NULL', q{'1'}, ('NULL') x 13) . ');' ],
	[ 'a row without its schema', 'reader', $grant, 'ERROR:  of_row needs of_schema and of_table', 'SELECT * FROM _bemi.changes_by_index(' . join(', ', 'NULL', q{'item'}, q{'1'}, ('NULL') x 13) . ');' ],
	[ 'a context that is no object', 'reader', $grant, 'ERROR:  in_context must be a JSON object', 'SELECT * FROM _bemi.changes_by_index(' . join(', ', ('NULL') x 6, q{'["user"]'}, ('NULL') x 9) . ');' ],
	[ 'texts that are no object', 'reader', $grant, 'ERROR:  context_texts must be a JSON object', 'SELECT * FROM _bemi.changes_by_index(' . join(', ', ('NULL') x 7, q{'["user"]'}, ('NULL') x 8) . ');' ],
	[ 'names that are no object', 'reader', $grant, '{"a": 1}', q{SELECT _bemi.rename_members('{"a": 1}', '["a"]');} ],
	[ 'as a role that was changed to in the same transaction', 'reader', 'SELECT count(*) FROM bemi.find_changes();', 'ERROR:  permission denied for table changes' ])
{
	my ($name, $role, $before, $expected, $statement) = @$case;

	is(prints($role, $before, $statement // $count) =~ s/^\d+\n(ERROR)/$1/r, $expected, "reading $name");
}
is(prints('postgres', 'CREATE FOREIGN DATA WRAPPER none; CREATE SERVER none FOREIGN DATA WRAPPER none;' .
	q{CREATE FOREIGN TABLE far PARTITION OF bemi.changes FOR VALUES FROM ('2025-01-01 UTC') TO ('2025-01-02 UTC') SERVER none;}, 'SELECT _bemi.reads_by_index();'),
	'f', 'a foreign table among the partitions is read by plans');

# Extensions that observe or restrict queries see them as a query.
my $library = PostgreSQL::Test::Utils::tempdir() . '/permissions.so';
my $permissions = $node->pg_version >= 16 ? 'List *permissions,' : '';
chomp(my $headers = qx{"@{[$ENV{PG_CONFIG} // 'pg_config']}" --includedir-server});
system('cc', '-shared', '-fPIC', "-DPERMISSIONS=$permissions", '-I', $headers, '-o', $library, 'test/permissions.c') == 0 or die 'the library cannot be made';
$node->safe_psql('postgres', 'CREATE TABLE mine (id int PRIMARY KEY)');
foreach my $case ([ 'changes', "SELECT FROM $index LIMIT 1" ], [ 'changes', 'SELECT FROM bemi.find_changes()' ], [ 'mine', 'SELECT FROM bemi.as_of(NULL::mine, now())' ])
{
	my ($table, $statement) = @$case;
	my ($status, $stdout, $stderr) = $node->psql('postgres', "LOAD '$library'; $statement");

	is(scalar(() = $stderr =~ /NOTICE:  rights on $table are checked/g), 1, "ExecutorCheckPerms_hook sees once that $table is read: $statement");
}

# Other sessions

my $one = Bemi::Session->new($node);
my $other = Bemi::Session->new($node);
my $same = 'SELECT (SELECT count(*) FROM bemi.find_changes(newest => NULL)), (SELECT count(*) FROM bemi.changes)';

# Of a transaction with one snapshot, whatever is stored or deleted
$one->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
is($one->query($same), "$all|$all", 'a transaction reads');
$node->safe_psql('postgres', q{
	INSERT INTO bemi.changes SELECT md5(id::text)::uuid, database, schema, "table", primary_key, operation, before, after, context, '2024-01-04 23:00 UTC', queued_at, created_at,
		transaction_id, position, source FROM bemi.changes LIMIT 10;
	DELETE FROM bemi.changes WHERE committed_at < '2024-01-02 UTC';});
is($one->query($same), "$all|$all", 'and reads the same again');
$one->query('COMMIT');
$all = $node->safe_psql('postgres', 'SELECT count(*) FROM bemi.changes');
is($one->query($same), "$all|$all", 'and the next one reads what is there');

# A partition that is being detached, and that cannot be dropped while it is read. (The server detaches concurrently only
# if there is no default partition.)
$node->safe_psql('postgres', 'ALTER TABLE bemi.changes DETACH PARTITION rest');
$all = $node->safe_psql('postgres', 'SELECT count(*) FROM bemi.changes');
$one->query('BEGIN');
$one->query($same);
like($other->query("SET lock_timeout = '10ms'; DROP TABLE bare"), qr/lock timeout/, 'a partition that has been read is not dropped');
$other->query('SET lock_timeout = 0');
$other->send('ALTER TABLE bemi.changes DETACH PARTITION bare CONCURRENTLY');
$node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_inherits WHERE inhdetachpending}) or die 'no partition is being detached';
my $rest = $node->safe_psql('postgres', 'SELECT count(*) FROM bemi.changes');
cmp_ok($rest, '<', $all, 'its changes are no changes of the history any more');
is($one->query($same), "$rest|$rest", 'also for an open transaction');
$one->query('COMMIT');
is($other->result, '', 'and then it is detached');
$other->query('DROP TABLE bare');
is($one->query($same), "$rest|$rest", 'and dropped');

# A scan ends when it is cancelled
like($one->query(q{SET statement_timeout = '20ms'; SELECT count(*) FROM generate_series(1, 1000) n, LATERAL bemi.find_changes(column_name => ('nosuch' || n)::name)}), qr/statement timeout/, 'a scan can be cancelled');

done_testing();
