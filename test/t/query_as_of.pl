# bemi.as_of() returns the rows of a time exactly, while others write, and in transactions of all
# kinds.
#
# Writers insert, update, delete, and change keys. Meanwhile copies of the table are made under a
# lock that lets no writer in, so that the time of a copy is exact. Each copy is compared with
# bemi.as_of() while the writers go on: in a transaction of its own, in an old one of REPEATABLE
# READ, and in ones with uncommitted changes.
#
# The writers are random. BEMI_SEED repeats a run as far as concurrency lets it.

use strict;
use warnings;

use Bemi;
use Bemi::Session;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{BEMI_SEED} // 1;
my $copies = 8;

note "seed $seed (BEMI_SEED=$seed repeats it)";

my $node = bemi_node('main', conf => "max_prepared_transactions = 5\n");

sub sql { return $node->safe_psql('postgres', $_[0]) }

# Returns the errors of statements.
sub error_of
{
	my ($status, $stdout, $stderr) = $node->psql('postgres', $_[0]);

	return $stderr;
}

sql(<<~SQL);
	CREATE TABLE account (id integer PRIMARY KEY, name text, balance numeric, tags text[],
		opened timestamptz);
	CREATE TABLE item (part integer, no text, amount integer, PRIMARY KEY (part, no))
		PARTITION BY LIST (part);
	CREATE TABLE item_0 PARTITION OF item FOR VALUES IN (0, 2);
	CREATE TABLE item_1 PARTITION OF item FOR VALUES IN (1, 3);
	ALTER TABLE account ADD dropped integer;
	ALTER TABLE account DROP dropped;
	ALTER TABLE account ADD note text;
	INSERT INTO account SELECT n, 'before tracking', n, ARRAY['a'], now() FROM generate_series(1, 50) n;
	CREATE TABLE mark (n integer, note text);
	INSERT INTO mark SELECT n % 10, 'before tracking' FROM generate_series(1, 40) n;
	SELECT bemi.track('account'), bemi.track('item'), bemi.track('mark');
	CALL bemi.start();
	SQL

# What a writer does at random. A conflict undoes the step only, because pgbench gives up after errors.
sql(<<~'SQL');
	CREATE FUNCTION step(a integer, b integer, k integer) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		IF k <= 30 THEN
			INSERT INTO account VALUES (a, 'new', b, ARRAY['x', NULL], now()) ON CONFLICT DO NOTHING;
			INSERT INTO item VALUES (k % 4, b, a)
				ON CONFLICT (part, no) DO UPDATE SET amount = item.amount + 1;
		ELSIF k <= 55 THEN
			UPDATE account SET balance = balance + b, note = 'upd' WHERE id = a;
		ELSIF k <= 75 THEN
			UPDATE account SET id = b WHERE id = a;
			UPDATE item SET part = (part + 1) % 4 WHERE no = b::text AND part = k % 4;
		ELSE
			DELETE FROM account WHERE id = a;
			DELETE FROM item WHERE no = a::text;
		END IF;
		INSERT INTO mark SELECT a % 10, NULL FROM generate_series(1, k % 3);
		UPDATE mark SET n = b % 10, note = 'upd' WHERE ctid IN (SELECT ctid FROM mark WHERE n = k % 10 LIMIT 2);
		DELETE FROM mark WHERE ctid IN (SELECT ctid FROM mark WHERE n = b % 10 LIMIT 1);
	EXCEPTION WHEN unique_violation OR deadlock_detected THEN NULL;
	END $$;
	SQL

# A transaction of a few steps, sometimes with a savepoint or rolled back.
my $script = PostgreSQL::Test::Utils::tempdir() . '/writer.sql';
append_to_file($script, <<~'SQL');
	\set k random(1, 100)
	BEGIN;
	SELECT step(:k, (random() * 120)::integer, (random() * 100)::integer);
	SELECT step((random() * 120)::integer, (random() * 120)::integer, :k);
	\if :k <= 20
	SAVEPOINT a;
	SELECT step(:k, (random() * 120)::integer, 90);
	ROLLBACK TO a;
	\endif
	\if :k % 10 = 0
	ROLLBACK;
	\else
	COMMIT;
	\endif
	SQL

sub start_writers
{
	return IPC::Run::start(
		[
			$node->installed_command('pgbench'), '-n', '-c', 4, '-T', 100, '-R', 300, '-f', $script,
			'--random-seed', $seed, $node->connstr('postgres')
		],
		'<', '/dev/null', '&>', $PostgreSQL::Test::Utils::log_path . '/pgbench.log');
}

# Query that counts the rows in which as_of differs from a copy.
sub difference
{
	my ($table, $copy) = @_;
	my $then = "SELECT * FROM bemi.as_of(NULL::$table, '" . sql("SELECT at FROM times WHERE n = $copy") . "')";

	return <<~SQL;
		WITH past AS MATERIALIZED ($then), was AS (SELECT * FROM ${table}_at_$copy)
		SELECT (SELECT count(*) FROM (SELECT * FROM past EXCEPT ALL SELECT * FROM was) more)
			+ (SELECT count(*) FROM (SELECT * FROM was EXCEPT ALL SELECT * FROM past) fewer);
		SQL
}

sql('CREATE TABLE times (n integer, at timestamptz)');
my $writers = start_writers();
my $first = sql(q{SELECT bemi.sync(); SELECT clock_timestamp()});

for my $n (1 .. $copies)
{
	$node->poll_query_until('postgres',
		"SELECT count(*) >= $n * 200 FROM bemi.changes") or die 'writers do not write';
	sql(<<~SQL);
		BEGIN;
		LOCK TABLE account, item, mark IN SHARE MODE;
		INSERT INTO times VALUES ($n, clock_timestamp());
		CREATE TABLE account_at_$n AS SELECT * FROM account;
		CREATE TABLE item_at_$n AS SELECT * FROM item;
		CREATE TABLE mark_at_$n AS SELECT * FROM mark;
		COMMIT;
		SQL
}

for my $n (1 .. $copies)
{
	is(sql(difference('account', $n)), '0', "account at instant $n");
	is(sql(difference('item', $n)), '0', "partitioned table at instant $n");
	is(sql(difference('mark', $n)), '0', "table without a key at instant $n");
}

# The snapshot of the transaction is older than the instant, and rows of its own are in the way.
for my $n (2, $copies)
{
	is( sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) * 0 FROM account;"
			  . difference('account', $n) . 'COMMIT;'),
		"0\n0",
		"in REPEATABLE READ, instant $n");
	is( sql("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) * 0 FROM account;"
			  . difference('account', $n) . 'COMMIT;'),
		"0\n0",
		"in SERIALIZABLE, instant $n");
	is( sql(<<~SQL . difference('account', $n) . 'ROLLBACK;'),
			BEGIN;
			INSERT INTO account VALUES (1001, 'own');
			SAVEPOINT a;
			UPDATE account SET id = id + 2000 WHERE id IN (SELECT id FROM account ORDER BY id LIMIT 5);
			RELEASE a;
			SAVEPOINT b;
			DELETE FROM account WHERE id IN (SELECT id FROM account ORDER BY id DESC LIMIT 3);
			SQL
		'0',
		"with the transaction's own uncommitted changes, instant $n");
}

is( sql(<<~SQL),
		SELECT count(*) FROM account_at_4 a FULL JOIN (
			SELECT r.* FROM generate_series(0, 120) k, times,
				LATERAL bemi.row_as_of(NULL::account, k::text, at) r WHERE n = 4) b ON a = b
		WHERE a IS NULL OR b IS NULL
		SQL
	'0',
	'row by row');
is( sql(<<~SQL),
		SELECT count(*) FROM (SELECT * FROM item_at_4 ORDER BY part, no LIMIT 20) a, times,
			LATERAL bemi.row_as_of(NULL::item,
				json_build_object('part', part, 'no', no)::text, at) b WHERE n = 4 AND a = b
		SQL
	'20',
	'row by row, with a key of two columns');

$writers->kill_kill;

# The history's rows may be in any order on disk, and a range of pages may have any times, or no
# summary.
sql('SELECT bemi.sync()');
my ($partition, $ranges) = split /\|/, sql(<<~'SQL');
	SELECT i.indrelid::regclass, i.indexrelid::regclass FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
	WHERE c.relam = (SELECT oid FROM pg_am WHERE amname = 'brin') AND i.indrelid IN (SELECT relid FROM pg_partition_tree('bemi.changes'))
	SQL
for my $order ('id', 'id::text ~ $$7$$, id', 'hashtext(id::text) % 40 = 0, id', 'hashtext(id::text)')
{
	sql(<<~SQL);
		BEGIN;
		CREATE TEMP TABLE kept ON COMMIT DROP AS TABLE $partition;
		TRUNCATE $partition;
		DROP INDEX $ranges;
		INSERT INTO $partition SELECT * FROM kept ORDER BY $order;
		CREATE INDEX changes_times ON $partition USING brin (committed_at, id) WITH (pages_per_range = 1);
		COMMIT;
		SELECT brin_desummarize_range('_bemi.changes_times', page) FROM generate_series(0, 1000, 10) page
		SQL
	$ranges = '_bemi.changes_times';
	is(sql(difference('account', $_)), '0', "account at instant $_, changes in the order of $order") for 1 .. $copies;
}

# Just before a change, also in the middle of a transaction.
sql(q{DELETE FROM account; INSERT INTO account (id, name) VALUES (1, 'a'), (2, 'b'); SELECT bemi.sync()});
my $change = sql(q{SELECT id FROM bemi.changes WHERE "table" = 'account' AND operation = 'CREATE' AND after ->> 'name' = 'b' ORDER BY id DESC LIMIT 1});
is(sql("SELECT id, name FROM bemi.as_of(NULL::account, before => '$change')"), '1|a', 'before a change');

sql(q{SELECT bemi.sync()});
my $lsn = sql('SELECT pg_current_wal_insert_lsn()');
sql(q{UPDATE account SET name = 'later' WHERE id = 2});
is(sql("SELECT id, name FROM bemi.as_of(NULL::account, at_lsn => '$lsn') ORDER BY 1"), "1|a\n2|b", 'at a position');
is(sql("SELECT name FROM bemi.row_as_of(NULL::account, '2', at_lsn => pg_current_wal_insert_lsn())"), 'later', 'at the end of the WAL');
like(error_of("SELECT * FROM bemi.as_of(NULL::account, at_lsn => '7FFFFFFF/0')"), qr/is in the future/, 'a position in the future');
sql(q{UPDATE account SET name = 'b' WHERE id = 2});

# Filters reach down.
my $plan = sql(q{EXPLAIN (COSTS OFF) SELECT name FROM bemi.as_of(NULL::account, now()) WHERE id = 1 AND balance > 0});
like($plan, qr/^Custom Scan \(Bemi As Of\).*Key: 1$/s, 'a key becomes a probe');
is(sql(q{SELECT name FROM bemi.as_of(NULL::account, now()) WHERE id = 2}), 'b', 'one row by its key');
is(sql(q{SELECT string_agg(a.name, ',' ORDER BY k) FROM generate_series(0::bigint, 3) k LEFT JOIN bemi.as_of(NULL::account, now()) a ON a.id = k}),
	'a,b', 'a join');
is(sql(q{SELECT id + 1, name || '!', balance IS NULL FROM bemi.as_of(NULL::account, now()) ORDER BY id}), "2|a!|t\n3|b!|t", 'expressions');
is(sql(q{SELECT a FROM bemi.as_of(NULL::account, now()) a WHERE id = 1}), '(1,a,,,,)', 'a row as a value');
like(error_of(<<~SQL), qr/table "probe" has been changed since the query was analyzed/, 'the table has changed since a statement was prepared');
	CREATE TABLE probe (id integer PRIMARY KEY, v integer);
	SELECT bemi.track('probe'), pg_catalog.clock_timestamp() AS t \\gset
	PREPARE p AS SELECT v FROM bemi.as_of(NULL::probe, clock_timestamp());
	EXECUTE p;
	ALTER TABLE probe ALTER v TYPE text;
	EXECUTE p;
	SQL
like(error_of(<<~SQL), qr/The role has changed since the query began/, 'a cursor that another role reads');
	BEGIN;
	DECLARE c CURSOR FOR SELECT * FROM bemi.as_of(NULL::account, now());
	SET LOCAL ROLE pg_monitor;
	FETCH c;
	SQL
like(error_of('SET ROLE pg_monitor; EXPLAIN SELECT * FROM bemi.as_of(NULL::account, now())'),
	qr/permission denied for/, 'EXPLAIN without rights');

# A partition that was never analyzed is not empty for the planner.
sql(<<~'SQL');
	CREATE TABLE fresh (id integer PRIMARY KEY) PARTITION BY RANGE (id);
	CREATE TABLE fresh_1 PARTITION OF fresh DEFAULT WITH (autovacuum_enabled = off);
	INSERT INTO fresh SELECT generate_series(1, 10000);
	SQL
cmp_ok(sql('EXPLAIN SELECT * FROM bemi.as_of(NULL::fresh, now())') =~ /Bemi As Of.* rows=(\d+)/ ? $1 : 0,
	'>', 1000, 'rows of a partition without statistics');
sql('DROP TABLE fresh');

# Refusals.
my $now = sql('SELECT clock_timestamp()');
like(error_of("SELECT * FROM bemi.as_of(NULL::account, '$first'::timestamptz - interval '1 day')"),
	qr/history of table "account" is not complete since .*\n.*DETAIL:  source_started/s, 'a gap');
like(error_of("SET statement_timeout = '60s'; SELECT * FROM bemi.as_of(NULL::account, '-infinity')"),
	qr/history of table "account" is not complete since -infinity/, 'the beginning of time');
sql('CREATE TABLE untracked (id int PRIMARY KEY)');
like(error_of('SELECT * FROM bemi.as_of(NULL::untracked, now())'),
	qr/DETAIL:  not_tracked.*HINT:  SELECT bemi.track\('.*untracked'\)/s, 'a table that is not tracked');
like(error_of("SELECT * FROM bemi.as_of(NULL::account, 'tomorrow')"), qr/is in the future/, 'the future');
like(error_of("BEGIN; TRUNCATE account; SELECT * FROM bemi.as_of(NULL::account, '$now')"),
	qr/cannot read the past of account in this transaction/, 'own TRUNCATE');
is(sql("BEGIN; SAVEPOINT a; TRUNCATE account; ROLLBACK TO a; SELECT count(*) FROM bemi.as_of(NULL::account, '$now')"),
	'2', 'own TRUNCATE that was undone');
like(error_of("SELECT * FROM bemi.as_of(NULL::item_0, '$now')"), qr/It is a partition/, 'a partition');
like(error_of("SELECT * FROM bemi.as_of(1, '$now')"), qr/row type of a table/, 'no row type');
like(error_of("SELECT * FROM bemi.row_as_of(NULL::item, '1', '$now')"),
	qr/key of table "public.item" has 2 columns.*part.*no/s, 'not a key');
like(error_of('SELECT * FROM bemi.as_of(NULL::account)'), qr/one of a time, a change and a position/, 'no time');

# The table has been changed since.
sql(q{UPDATE account SET name = 'c'; ALTER TABLE account DROP COLUMN tags});
is(sql("SELECT * FROM bemi.as_of(NULL::account, '$now') ORDER BY 1"),
	"1|a|||\n2|b|||", 'a column that was dropped');

# Names that have changed since.
$now = sql('SELECT clock_timestamp()');
sql(<<~'SQL');
	CREATE SCHEMA other;
	ALTER TABLE account RENAME note TO remark;
	UPDATE account SET remark = 'one' WHERE id = 1;
	ALTER TABLE account RENAME TO customer;
	ALTER TABLE customer SET SCHEMA other;
	ALTER TABLE other.customer RENAME id TO number;
	UPDATE other.customer SET remark = 'two', number = 22 WHERE number = 2;
	ALTER TABLE other.customer ADD note integer;
	UPDATE other.customer SET note = 5;
	SQL
is( sql("SELECT number, name, remark, note FROM bemi.as_of(NULL::other.customer, '$now') ORDER BY 1"),
	"1|c||\n2|c||", 'table and columns that were renamed');
is( sql("SELECT number, name, remark, note FROM bemi.row_as_of(NULL::other.customer, '2', '$now')"),
	"2|c||", 'a row of them');
is( sql("SELECT number, remark, note FROM bemi.as_of(NULL::other.customer, clock_timestamp()) ORDER BY 1"),
	"1|one|5\n22|two|5", 'the same now');
sql(<<~'SQL');
	ALTER TABLE other.customer DROP note;
	ALTER TABLE other.customer RENAME remark TO note;
	ALTER TABLE other.customer RENAME number TO id;
	ALTER TABLE other.customer SET SCHEMA public;
	ALTER TABLE customer RENAME TO account;
	SQL
$now = sql('SELECT clock_timestamp()');

my $items = sql('SELECT md5(string_agg(i::text, chr(10) ORDER BY part, no)) FROM item i');
$now = sql('SELECT clock_timestamp()');
sql('UPDATE item SET amount = 0 WHERE part = 1; ALTER TABLE item ADD added integer DEFAULT 7');
is( sql(<<~SQL),
		SELECT md5(string_agg((part, no, amount)::text, chr(10) ORDER BY part, no)), min(added), max(added)
			FROM bemi.as_of(NULL::item, '$now')
		SQL
	"$items|7|7",
	'a column that was added: all rows have its default');

# A stored plan has values of the key. The table gets another key after the cursor was opened, and before its first row.
sql(<<~'SQL');
	CREATE TABLE rekeyed (id integer PRIMARY KEY, name text NOT NULL);
	SELECT bemi.track('rekeyed');
	INSERT INTO rekeyed VALUES (1, 'one');
	CREATE FUNCTION name_of(at timestamptz, key integer) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE
		c CURSOR (x integer) FOR SELECT r.name FROM bemi.as_of(NULL::rekeyed, at, allow_gaps => true) r WHERE r.id = x;
		found_name text;
	BEGIN
		OPEN c(key);
		PERFORM pg_advisory_xact_lock(1);
		FETCH c INTO found_name;
		RETURN found_name;
	END $$;
	SQL
$now = sql('SELECT clock_timestamp()');
my $reader = Bemi::Session->new($node);
$reader->query('SET plan_cache_mode = force_generic_plan');
is($reader->query("SELECT name_of('$now', 1)"), 'one', 'a stored plan');
my $owner = Bemi::Session->new($node);
$owner->query('SELECT pg_advisory_lock(1)');
$reader->send("SELECT name_of('$now', 1)");
$node->poll_query_until('postgres', q{SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)});
$owner->query('ALTER TABLE rekeyed DROP CONSTRAINT rekeyed_pkey, ADD PRIMARY KEY (name)');
$owner->query('SELECT pg_advisory_unlock(1)');
like($reader->result, qr/table "rekeyed" has been changed since the query was analyzed/, 'a key that was replaced');

# Changes from before another key, or another type of it, have other texts in primary_key.
sql(<<~'SQL');
	SET timezone = 'UTC';
	CREATE TYPE size AS ENUM ('small', 'large');
	CREATE TABLE keyed (a integer, b integer, v text, PRIMARY KEY (a, b));
	CREATE TABLE dated (at timestamp PRIMARY KEY, v text);
	CREATE TABLE sized (size size, id integer, v text, PRIMARY KEY (size, id));
	SELECT bemi.track('keyed'), bemi.track('dated'), bemi.track('sized');
	INSERT INTO keyed VALUES (1, 2, 'old 1-2'), (2, 1, 'old 2-1');
	INSERT INTO dated VALUES ('2020-01-01', 'old');
	INSERT INTO sized VALUES ('large', 1, 'old');
	SQL
$now = sql('SELECT clock_timestamp()');
sql(<<~'SQL');
	SET timezone = 'UTC';
	UPDATE keyed SET v = 'new';
	ALTER TABLE keyed DROP CONSTRAINT keyed_pkey, ADD PRIMARY KEY (b, a);
	UPDATE dated SET v = 'new';
	ALTER TABLE dated ALTER at TYPE timestamptz;
	UPDATE sized SET v = 'new';
	ALTER TYPE size RENAME VALUE 'large' TO 'big';
	SQL
is(sql("SELECT v FROM bemi.as_of(NULL::keyed, '$now') WHERE a = 1 AND b = 2"), 'old 1-2', 'a key in another order');
is(sql(qq{SELECT v FROM bemi.row_as_of(NULL::keyed, '{"a": 2, "b": 1}', '$now')}), 'old 2-1', 'a row of it');
is(sql("SELECT v FROM bemi.as_of(NULL::dated, '$now') WHERE at = '2020-01-01Z'"), 'old', 'a key of another type');
like(error_of("SELECT v FROM bemi.as_of(NULL::sized, '$now') WHERE size = 'big' AND id = 1"), qr/invalid input value for enum/, 'a key with a value that was renamed');
$now = sql('SELECT clock_timestamp()');
sql(q{ALTER TABLE keyed DROP CONSTRAINT keyed_pkey, ADD PRIMARY KEY (a); UPDATE keyed SET v = 'newest'});
is(sql("SELECT string_agg(v, ' ' ORDER BY v) FROM bemi.as_of(NULL::keyed, '$now') WHERE a = 1"), 'new', 'a column of the key less');
sql(q{DELETE FROM keyed WHERE a = 1; ALTER TABLE keyed DROP CONSTRAINT keyed_pkey, ADD PRIMARY KEY (a, b); INSERT INTO keyed VALUES (1, 5, 'five'), (1, 6, 'six')});
my $two = sql('SELECT clock_timestamp()');
sql(q{UPDATE keyed SET v = 'changed' WHERE b = 6; DELETE FROM keyed WHERE b = 5; ALTER TABLE keyed DROP CONSTRAINT keyed_pkey, ADD PRIMARY KEY (a)});
is(sql("SELECT string_agg(v, ' ' ORDER BY v) FROM bemi.as_of(NULL::keyed, '$two') WHERE a = 1"), 'five six', 'two rows had the key of today');
is(sql("SELECT string_agg(v, ' ' ORDER BY v) FROM bemi.row_as_of(NULL::keyed, '1', '$two')"), 'five six', 'the same by the key');
is(sql("SELECT string_agg(k || v, ' ' ORDER BY v) FROM generate_series(1, 2) k JOIN LATERAL (SELECT * FROM bemi.as_of(NULL::keyed, '$two') WHERE a = k) r ON true"), '1five 2newest 1six', 'and in a join');
sql(q{CREATE TABLE heaped (id integer, v text); SELECT bemi.track('heaped'); INSERT INTO heaped VALUES (1, 'a'), (1, 'b'), (NULL, 'c')});
$now = sql('SELECT clock_timestamp()');
sql(q{DELETE FROM heaped WHERE v IN ('b', 'c'); ALTER TABLE heaped ADD PRIMARY KEY (id)});
is(sql("SELECT string_agg(h::text, ' ' ORDER BY h) FROM bemi.as_of(NULL::heaped, '$now') h"), '(1,a) (1,b) (,c)', 'a table without a key then');
is(sql("SELECT string_agg(h::text, ' ' ORDER BY h) FROM bemi.row_as_of(NULL::heaped, '1', '$now') h"), '(1,a) (1,b)', 'its rows with a key');
is(sql("SELECT count(*) FROM bemi.diff_table(NULL::heaped, '$now', clock_timestamp())"), '2', 'the difference to now');
is(sql('SELECT v FROM bemi.as_of(NULL::heaped, clock_timestamp())'), 'a', 'and with one now');

# Keys of which equal values have one text each in the history are found by the index. Then the change of another row, which
# cannot be read, is not in the way.
sql(<<~'SQL');
	CREATE DOMAIN price AS numeric(8,1);
	CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
	CREATE TABLE by_number (id numeric(10,2) PRIMARY KEY, v integer);
	CREATE TABLE by_domain (id price, part integer, v integer, PRIMARY KEY (id, part));
	CREATE TABLE by_char (id char(5) PRIMARY KEY, v integer);
	CREATE TABLE by_array (id integer[] PRIMARY KEY, v integer);
	CREATE TABLE by_float (id float8 PRIMARY KEY, v integer);
	CREATE TABLE by_any_number (id numeric PRIMARY KEY, v integer);
	CREATE TABLE by_loose_char (id char(5) COLLATE loose PRIMARY KEY, v integer);
	SELECT bemi.track(c.oid) FROM pg_class c WHERE relname ~ '^by_' AND relkind = 'r';
	INSERT INTO by_number VALUES (1.5, 1), (7, 1), ('NaN', 1), (99999999.99, 1);
	INSERT INTO by_domain VALUES (1.5, 1, 1), (7, 1, 1);
	INSERT INTO by_char VALUES ('ab', 1), ('x', 1), ('', 1);
	INSERT INTO by_array VALUES ('{1,2}', 1), ('{2,1}', 2), ('{}', 3), ('[0:1]={1,2}', 4), ('[5:5]={1}', 5);
	INSERT INTO by_float VALUES (1.5, 1), (0, 1), ('NaN', 1);
	INSERT INTO by_any_number VALUES (1.5, 1), (7, 1);
	INSERT INTO by_loose_char VALUES ('ab', 1), ('x', 1);
	SQL
$now = sql('SELECT clock_timestamp()');
sql(<<~'SQL');
	UPDATE by_number SET v = 2;
	UPDATE by_domain SET v = 2;
	UPDATE by_char SET v = 2;
	UPDATE by_array SET v = v + 10, id = CASE v WHEN 4 THEN '{7}' ELSE id END;
	UPDATE by_float SET v = 2, id = CASE id WHEN 0 THEN '-0' ELSE id END;
	UPDATE by_any_number SET v = 2, id = 1.50 WHERE id = 1.5;
	UPDATE by_loose_char SET v = 2, id = 'AB' WHERE id = 'ab';
	SELECT bemi.sync();
	SQL
# Of one table, reading all changes fails from here on.
sql(<<~'SQL');
	UPDATE bemi.changes SET before = before || '{"v": "broken"}'
		WHERE "table" ~ '^by_(number|domain|char|float)' AND operation = 'UPDATE' AND primary_key IN ('NaN', '99999999.99', '["7.0", "1"]', 'x    ');
	SQL
is(sql("SELECT v FROM bemi.as_of(NULL::by_number, '$now') WHERE id = $_"), '1', "number $_") for ('1.5', '1.500', '7', '7::numeric(20,10)');
is(sql("SELECT v FROM bemi.row_as_of(NULL::by_number, '1.5', '$now')"), '1', 'a row with a number');
is(sql("SELECT v FROM bemi.as_of(NULL::by_number, '$now') WHERE id = $_"), '', "number $_, which the column cannot have") for ('1.505', '1e30', '-1e30');
is(sql("SELECT v FROM bemi.as_of(NULL::by_domain, '$now') WHERE id = 1.50 AND part = 1"), '1', 'a domain, of several columns');
is(sql("SELECT v FROM bemi.as_of(NULL::by_char, '$now') WHERE id = '$_'"), '1', "char '$_'") for ('ab', 'ab  ', '', 'ab       ');
is(sql("SELECT v FROM bemi.row_as_of(NULL::by_char, 'ab', '$now')"), '1', 'a row with a char');
# JSON lacks the first number of an array, so two rows can have the same image of their keys.
is(sql("SELECT string_agg(v::text, ' ' ORDER BY v) FROM bemi.as_of(NULL::by_array, '$now')"), '1 2 3 4 5', 'arrays');
is(sql("SELECT v FROM bemi.as_of(NULL::by_array, '$now') WHERE id = '{2,1}'"), '2', 'one of them');
is(sql("SELECT v FROM bemi.row_as_of(NULL::by_array, '{2,1}', '$now')"), '2', 'and by its key');
is(sql("SELECT string_agg((before).v || kind, ' ' ORDER BY (before).v) FROM bemi.diff_table(NULL::by_array, '$now', clock_timestamp())"), '1DELETE 2DELETE 3DELETE 4DELETE 5DELETE', 'the difference to now');
is(sql("SELECT v FROM bemi.as_of(NULL::by_float, '$now') WHERE id = 1.5"), '1', 'a float');
like(error_of("SELECT v FROM bemi.as_of(NULL::by_number, '$now') WHERE id = 'NaN'"), qr/row NaN$/m, 'the row that cannot be read');
like(error_of("SELECT v FROM bemi.as_of(NULL::by_number, '$now')"), qr/row NaN$/m, 'all rows');
sql(q{UPDATE bemi.changes SET before = before || '{"v": 1}' WHERE "table" = 'by_float' AND operation = 'UPDATE'});
is(sql("SELECT id, v FROM bemi.as_of(NULL::by_float, '$now') WHERE id = '$_'"), '0|1', "float $_") for ('0', '-0');
is(sql("SELECT id, v FROM bemi.as_of(NULL::by_any_number, '$now') WHERE id = '$_'"), '1.5|1', "any number $_") for ('1.5', '1.500');
is(sql("SELECT id, v FROM bemi.as_of(NULL::by_loose_char, '$now') WHERE id = '$_' COLLATE loose"), 'ab   |1', "char $_ of a collation in which letters of both cases are equal") for ('ab', 'Ab');

# Rights, and row security.
sql(q{CREATE ROLE reader; SELECT bemi.grant_read('reader')});
my $read = "SET ROLE reader; SELECT count(*) FROM bemi.as_of(NULL::account, '$now')";
like(error_of($read), qr/permission denied for table account/, 'a reader without rights on the table');
sql('GRANT SELECT ON account TO reader');
is(sql($read), '2', 'a reader');
sql(q{CREATE POLICY own ON account USING (id = 1); ALTER TABLE account ENABLE ROW LEVEL SECURITY});
like(error_of($read), qr/cannot read the past of table "account".*Its row security applies to you/s, 'row security');
sql(q{ALTER TABLE account DISABLE ROW LEVEL SECURITY; SELECT bemi.revoke_read('reader')});
like(error_of($read), qr/permission denied for/, 'no reader any more');

# A range's input function checks the constraints of a domain. JSON is made by a cast of the type. Functions of both run
# as the table's owner.
sql(<<~'SQL');
	CREATE ROLE mallory;
	CREATE SCHEMA den AUTHORIZATION mallory;
	SET ROLE mallory;
	CREATE TABLE den.caught (rights name, path text);
	CREATE FUNCTION den.catch(integer) RETURNS boolean LANGUAGE plpgsql AS
		$$ BEGIN INSERT INTO den.caught VALUES (current_user, current_setting('search_path')); RETURN true; END $$;
	CREATE DOMAIN den.number AS integer CHECK (den.catch(VALUE));
	CREATE TYPE den.numbers AS RANGE (subtype = den.number);
	CREATE TYPE den.pair AS (a den.numbers, b den.number[]);
	CREATE TYPE den.mood AS ENUM ('ok');
	CREATE FUNCTION den.as_json(den.mood) RETURNS json LANGUAGE sql AS $$
		SELECT to_json(den.catch(1));
		SELECT set_config('search_path', 'den', false);
		SELECT 'true'::json $$;
	CREATE CAST (den.mood AS json) WITH FUNCTION den.as_json(den.mood);
	CREATE TABLE den.t (id integer PRIMARY KEY, r den.numbers, p den.pair, v integer, m den.mood);
	RESET ROLE;
	SELECT bemi.track('den.t');
	INSERT INTO den.t VALUES (1, '[1,5)', ROW('[2,3)', '{7}'), NULL, NULL), (2, NULL, NULL, NULL, NULL);
	UPDATE den.t SET m = 'ok';
	SQL
$now = sql('SELECT clock_timestamp()');
sql('UPDATE den.t SET v = 1; TRUNCATE den.caught');
is(sql("SELECT * FROM bemi.as_of(NULL::den.t, '$now') ORDER BY id"), qq{1|[1,5)|("[2,3)",{7})||ok\n2||||ok}, 'ranges of a domain');
is(sql('SELECT DISTINCT * FROM den.caught'), 'mallory|pg_catalog, pg_temp', 'its functions have the rights of the owner');
sql('TRUNCATE den.caught');
is(sql("SELECT bemi.as_of_json('den.t', '$now') ->> 'm'"), "true\ntrue", 'a cast to json');
is(sql('SELECT DISTINCT * FROM den.caught'), 'mallory|pg_catalog, pg_temp', 'so has this, and what it sets ends with it');

# Generated columns are not in the history. Their functions run as the table's owner.
sql(<<~'SQL');
	SET ROLE mallory;
	CREATE FUNCTION den.double(integer) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
		$$ BEGIN RETURN $1 * 2 || ' by ' || current_user; END $$;
	CREATE TABLE den.g (id integer PRIMARY KEY, v integer, secret text, d text GENERATED ALWAYS AS (den.double(v)) STORED,
		i interval);
	RESET ROLE;
	SELECT bemi.track('den.g', redact => '{secret}');
	INSERT INTO den.g (id, v, i) VALUES (1, 4, '-1 days -02:03:04'), (2, 5, NULL);
	SQL
$now = sql('SELECT clock_timestamp()');
sql('UPDATE den.g SET v = 7, secret = $$s$$, i = NULL WHERE id = 1; UPDATE den.g SET v = 8 WHERE id = 1; DELETE FROM den.g WHERE id = 2');
is( sql("SET intervalstyle = sql_standard; SET timezone = 'Asia/Tokyo'; SELECT id, v, d, i = interval '-26:03:04' FROM bemi.as_of(NULL::den.g, '$now') ORDER BY 1"),
	"1|4|8 by mallory|t\n2|5|10 by mallory|", 'a generated column, computed with the rights of the owner');
is(sql("SELECT d FROM bemi.as_of(NULL::den.g, '$now') WHERE id = 2"), '10 by mallory', 'only the generated column');
sql(<<~'SQL');
	CREATE SCHEMA trap;
	CREATE FUNCTION trap.helper() RETURNS text LANGUAGE sql AS $$ SELECT 'trapped' $$;
	CREATE FUNCTION den.helper() RETURNS text LANGUAGE sql AS $$ SELECT 'owner' $$;
	GRANT USAGE ON SCHEMA trap TO PUBLIC;
	CREATE OR REPLACE FUNCTION den.double(integer) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
		$$ BEGIN RETURN helper(); EXCEPTION WHEN undefined_function THEN RETURN 'not found'; END $$;
	SQL
is(sql("SET search_path = trap; SELECT d FROM bemi.as_of(NULL::den.g, '$now') WHERE id = 2"), 'not found',
	'the search_path of the reader does not reach functions of the owner');
$now = sql('SELECT bemi.sync(); SELECT clock_timestamp()') =~ s/^\n//r;
sql('DELETE FROM den.g');
is(sql("SELECT v FROM bemi.as_of(NULL::den.g, '$now')"), '8', 'a redacted column that is not asked for');
like(error_of("SELECT * FROM bemi.as_of(NULL::den.g, '$now')"), qr/row 1 of table "g" cannot be restored.*Column "secret" is \[redacted\]/s, 'a redacted column');

# TRUNCATE: rows that nobody has changed since are in the history only.
like(error_of("TRUNCATE item; SELECT * FROM bemi.as_of(NULL::item, '$now')"),
	qr/history of table "item" is not complete since -infinity/, 'TRUNCATE of a table that is older than the history');
sql('ALTER TABLE item RENAME amount TO quantity; ALTER TABLE item RENAME quantity TO amount; ALTER TABLE item ADD note text');
like(error_of("SELECT * FROM bemi.as_of(NULL::item, '$now')"),
	qr/history of table "item" is not complete since -infinity/, 'the same, and a column has had another name since');
like(error_of(q{SELECT * FROM bemi.row_as_of(NULL::item, '{"part": 1, "no": "1"}', '} . "$now')"),
	qr/history of table "item" is not complete since -infinity/, 'the same, one row');
sql(<<~'SQL');
	SELECT bemi.track_schema('public');
	CREATE TABLE cut (id integer PRIMARY KEY, v text);
	INSERT INTO cut SELECT n, 'n' || n FROM generate_series(1, 9) n;
	UPDATE cut SET v = 'u' WHERE id = 2;
	UPDATE cut SET id = 33 WHERE id = 3;
	DELETE FROM cut WHERE id = 4;
	SQL
my @instants = sql('SELECT clock_timestamp()');
my @rows = sql('SELECT string_agg(c::text, chr(10) ORDER BY id) FROM cut c');
sql(q{UPDATE cut SET v = 'later' WHERE id IN (5, 33); DELETE FROM cut WHERE id = 6; UPDATE cut SET id = 77 WHERE id = 7; INSERT INTO cut VALUES (4, 'again')});
push @instants, sql('SELECT clock_timestamp()');
push @rows, sql('SELECT string_agg(c::text, chr(10) ORDER BY id) FROM cut c');
sql(q{TRUNCATE cut; INSERT INTO cut VALUES (1, 'after'), (8, 'after'); DELETE FROM cut WHERE id = 8});
push @instants, sql('SELECT clock_timestamp()');
push @rows, sql('SELECT string_agg(c::text, chr(10) ORDER BY id) FROM cut c');
sql(q{TRUNCATE cut; INSERT INTO cut VALUES (1, 'last'); ALTER TABLE cut RENAME v TO w; ALTER TABLE cut RENAME w TO v});
for my $n (0 .. 2)
{
	is( sql("SELECT string_agg(c::text, chr(10) ORDER BY id) FROM bemi.as_of(NULL::cut, '$instants[$n]') c"),
		$rows[$n], "two TRUNCATEs, instant $n");
	is( sql("SELECT string_agg(c::text, chr(10) ORDER BY c.id) FROM generate_series(1, 80) k, LATERAL bemi.row_as_of(NULL::cut, k::text, '$instants[$n]') c"),
		$rows[$n], "two TRUNCATEs, row by row, instant $n");
}

# The history does not have the rows that such commands make.
for my $create ('CREATE TABLE made AS SELECT 1 AS id', 'SELECT 1 AS id INTO made')
{
	my $before = sql('SELECT clock_timestamp()');
	sql("$create; ALTER TABLE made ADD PRIMARY KEY (id)");
	my $after = sql('SELECT clock_timestamp()');
	like(error_of("SELECT * FROM bemi.as_of(NULL::made, '$before')"), qr/history of table "made" is not complete since .*rows_changed_by_ddl/s, "before $create");
	is(sql("SELECT id FROM bemi.as_of(NULL::made, '$after')"), '1', "after $create");
	like(error_of("TRUNCATE made; SELECT * FROM bemi.as_of(NULL::made, '$after')"), qr/history of table "made" is not complete since .*rows_changed_by_ddl/s, "after $create, truncated");
	sql('DROP TABLE made');
}

# Times need not be in commit order: the table was made after the place, and its commit has an earlier time.
my $earlier = sql(q{INSERT INTO cut VALUES (700, ''); SELECT bemi.sync(); SELECT id FROM bemi.history('cut', '700', newest => 1)}) =~ s/\s//gr;
sql('CREATE TABLE newer AS SELECT 1 AS id; ALTER TABLE newer ADD PRIMARY KEY (id); SELECT bemi.sync()');
sql(q{UPDATE _bemi.schema_changes SET committed_at = committed_at - interval '1 hour' WHERE "table" = 'newer'});
sql(q{UPDATE bemi.gaps SET to_time = to_time - interval '1 hour' WHERE "table" = 'newer'});
like(error_of("SELECT id FROM bemi.as_of(NULL::newer, before => '$earlier')"),
	qr/history of table "newer" is not complete since .*rows_changed_by_ddl/s, 'CREATE TABLE AS after the place with an earlier time');
sql('DROP TABLE newer; DELETE FROM cut WHERE id = 700');

# Numbers are kept in blocks of 64: at their edges, below zero, one of several in a block.
sql(q{
	CREATE TABLE edges (id bigint PRIMARY KEY, v integer);
	INSERT INTO edges SELECT id, 0 FROM unnest('{-9223372036854775808,-9223372036854775807,-65,-64,-63,-1,0,1,62,63,64,65,127,128,4294967296,9223372036854775807}'::bigint[]) id;
	SELECT bemi.track('edges')});
$now = sql('SELECT clock_timestamp()');
my $edges = sql('SELECT string_agg(e::text, chr(10) ORDER BY id) FROM edges e');
my @ids = split /\n/, sql('SELECT id FROM edges ORDER BY id');
sql("UPDATE edges SET v = $_ WHERE id = $ids[$_]") for grep { $_ % 2 } 0 .. $#ids;
sql('DELETE FROM edges WHERE id IN (-64, 62); UPDATE edges SET id = 66 WHERE id = 128; INSERT INTO edges VALUES (2, 0), (-2, 0)');
is(sql("SELECT string_agg(e::text, chr(10) ORDER BY id) FROM bemi.as_of(NULL::edges, '$now') e"), $edges, 'keys at the edges of blocks');

# The worker does not come on, or may have missed something.
my $other = Bemi::Session->new($node);
$other->query('BEGIN; LOCK TABLE bemi.changes IN EXCLUSIVE MODE');
sql(q{INSERT INTO cut VALUES (500, 'waits')});
like(error_of(q{SELECT * FROM bemi.as_of(NULL::cut, now(), timeout => '200 ms')}), qr/bemi.sync\(\) timed out/, 'a worker that waits for a lock');
$other->query('COMMIT');
is(sql('SELECT v FROM bemi.row_as_of(NULL::cut, $$500$$, clock_timestamp())'), 'waits', 'it goes on');
$now = sql('SELECT clock_timestamp()');
sql(q{SELECT bemi.untrack_schema('public'); SELECT bemi.untrack('cut'); UPDATE cut SET v = 'unseen' WHERE id = 500; SELECT bemi.track('cut')});
is(sql("SELECT v FROM bemi.as_of(NULL::cut, '$now') WHERE id = 500"), 'waits', 'a gap since: the history before it is complete');
$now = sql('SELECT clock_timestamp()');
$lsn = sql('SELECT pg_current_wal_insert_lsn()');
sql(q{SELECT bemi.untrack('account'); UPDATE account SET name = 'unseen' WHERE id = 1; SELECT bemi.track('account')});
like(error_of("SELECT * FROM bemi.as_of(NULL::account, '$now')"), qr/history of table "account" is not complete since .*tracking_/s, 'a gap since');
sql(q{UPDATE account SET name = 'seen' WHERE id = 1});
like(error_of("SELECT * FROM bemi.as_of(NULL::account, at_lsn => '$lsn')"), qr/history of table "account" is not complete since .*tracking_/s, 'a gap between a position and the next change');
is(sql("SELECT name FROM bemi.as_of(NULL::account, '$now', allow_gaps => true) WHERE id = 1"), 'unseen', 'allow_gaps: what is there, although it is wrong');
sql('CALL bemi.stop()');
like(error_of('SELECT * FROM bemi.as_of(NULL::cut, now())'), qr/no source of this database is started/, 'no worker');

$node->stop;
done_testing();
