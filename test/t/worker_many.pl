# Large numbers: tables that are created and dropped all day, gaps, sources, tables that are
# tracked at once, partitions that a reader keeps from being dropped. Memory, rows, locks and
# lines of the log must stay bounded, and time must not grow with the square of the number.
#
# The numbers are small. The test compares counts: of rows, of locks, of scans in the server's
# statistics for the transaction, and of lines in the server's log, which has every statement of
# the worker.

use strict;
use warnings;

use Bemi;
use List::Util qw(max);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main', conf => <<~CONF);
	bemi.max_sources = 2
	max_prepared_transactions = 2
	max_locks_per_transaction = 256
	CONF

sub sql { return $node->safe_psql('postgres', $_[0]); }

sql(q{
	CREATE SCHEMA queue;
	SELECT bemi.track_schema('queue');
	CREATE TABLE t (id serial PRIMARY KEY);
	SELECT bemi.track('t');
	CALL bemi.start()});

#
# Tables that are made and dropped
#

my $rounds = 3;
my $each = 220;
my $log = -s $node->logfile;
for my $round (1 .. $rounds)
{
	sql(qq{
		DO \$\$ BEGIN
			FOR n IN 1 .. $each LOOP
				EXECUTE format('CREATE TABLE queue.q_${round}_%s (id int)', n);
				EXECUTE format('INSERT INTO queue.q_${round}_%s VALUES (1)', n);
				IF n % 20 = 0 THEN COMMIT; END IF;
			END LOOP;
			FOR n IN 1 .. $each LOOP
				EXECUTE format('DROP TABLE queue.q_${round}_%s', n);
				IF n % 20 = 0 THEN COMMIT; END IF;
			END LOOP;
		END \$\$;
		INSERT INTO t DEFAULT VALUES;
		SELECT bemi.sync('60s')});
}
is(sql(q{SELECT count(*) FROM bemi.changes WHERE schema = 'queue'}), $rounds * $each, 'what was written to tables that are gone is stored');
my @asked = map { tr/,// + 1 } slurp_file($node->logfile, $log)
	=~ /unnest\(\$1::oid\[\]\) t\(oid\)\n[^\n]*WHERE NOT EXISTS[^\n]*\n[^\n]*parameters: \$1 = '\{([\d,]+)\}'/g;
ok(@asked > 0, 'the worker has asked which tables are gone');
cmp_ok(max(@asked), '<', 2 * $each + 20, 'and does not know all that there were');
is( sql(q{SELECT (SELECT count(*) FROM _bemi.source_tables WHERE schema = 'queue'),
		(SELECT count(*) FROM _bemi.source_relations r WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = r.relation))}),
	'0|0', 'nor do its tables');
is( sql(q{SELECT state, restarts FROM bemi.status}), 'streaming|0', 'it has not failed');

# One whose OID the worker has forgotten, or not: the next rows are stored.
sql(q{CREATE TABLE queue.q_1_1 (id int PRIMARY KEY); INSERT INTO queue.q_1_1 VALUES (7); SELECT bemi.sync('60s')});
is( sql(q{SELECT primary_key FROM bemi.changes WHERE "table" = 'q_1_1' ORDER BY id}), "\n7", 'a table that is made anew is known anew');

#
# Gaps of one name
#

# Tracked from 2n to 2n + 1 hours after the first day, for n from 1 to 250.
sql(q{
	DO $$ DECLARE first timestamptz := '2020-01-01'; BEGIN
		FOR n IN 1 .. 250 LOOP
			PERFORM _bemi.begin_tracking('far', 'server', n::oid, 'queue', 'same', '0/1', first + n * interval '2 hours');
			PERFORM _bemi.end_tracking('far', 'queue', 'same', '0/2', first + n * interval '2 hours' + interval '1 hour', NULL);
		END LOOP;
	END $$});
cmp_ok(sql(q{SELECT count(*) FROM bemi.gaps WHERE "table" = 'same'}), '<=', 103, 'the gaps of a table are not without number');
is( sql(q{
		WITH tried(n, tracked, complete) AS MATERIALIZED (
			SELECT n, tracked, (SELECT bool_and(c.complete) FROM bemi.source_completeness('far', 'queue', 'same', at, at + interval '10 minutes') c)
			FROM generate_series(1, 250) n, LATERAL (VALUES (true, '2020-01-01 00:10'::timestamptz + n * interval '2 hours'),
				(false, '2020-01-01 01:10'::timestamptz + n * interval '2 hours')) v(tracked, at))
		SELECT bool_or(complete) FILTER (WHERE NOT tracked), bool_and(complete) FILTER (WHERE tracked AND n > 151),
			bool_or(complete) FILTER (WHERE tracked AND n < 145) FROM tried}),
	'f|t|f', 'no time without tracking is complete, the last ones with it are, and old ones are held for gaps');

# What is left out of the sum is found without reading the rest.
sql(q{
	INSERT INTO bemi.gaps (detail, source, schema, "table", reason, from_time, to_time)
		SELECT 'made by a test', 'far', 'queue', 'gone_' || n, 'tracking_began', '-infinity', '2020-01-01'::timestamptz + n * interval '1 minute' FROM generate_series(1, 11500) n;
	INSERT INTO bemi.gaps (detail, source, schema, "table", reason, from_time)
		SELECT 'made by a test', 'far', 'queue', 'gone_' || n, 'tracking_ended', '2020-01-01 00:01'::timestamptz + n * interval '1 minute' FROM generate_series(1, 11500) n;
	ANALYZE bemi.gaps});
is( (split /\n/, sql(q{
		BEGIN;
		SELECT count(*) FROM bemi.completeness('t', now() - interval '1 hour') UNION ALL
		SELECT count(*) FROM bemi.source_completeness('far', 'queue', 'gone_77', '2020-01-01', '2020-01-02');
		SELECT seq_scan, idx_tup_fetch < 50 FROM pg_stat_xact_user_tables WHERE relid = 'bemi.gaps'::regclass;
		COMMIT}))[-1],
	'0|t', 'bemi.complete() reads the gaps by their indexes');

#
# Gaps of tables that are gone
#

sub remembered { return sql(q{SELECT count(*) FROM bemi.gaps WHERE "table" LIKE 'gone%' AND to_time IS NULL}); }

sql(q{SELECT _bemi.forget_gone_tables('far') FROM generate_series(1, 3)});
cmp_ok(remembered(), '<=', 10_000, 'very many tables that are gone are not all remembered');
cmp_ok(remembered(), '>', 9_000, 'but many');
is( sql(q{SELECT complete, reason FROM bemi.source_completeness('far', 'queue', 'gone_1', '2020-01-01 00:01:10', '2020-01-01 00:01:20')}),
	'f|not_tracked', 'one that is not remembered is not complete');
is( sql(q{SELECT complete FROM bemi.source_completeness('far', 'queue', 'gone_11500', '2020-01-08 23:40:10', '2020-01-08 23:40:20')}),
	't', 'one that is, is');
sql(q{
	INSERT INTO bemi.gaps (detail, reason, from_time, to_time) VALUES ('made by a test', 'retention', '-infinity', '2020-01-08 23:00');
	SELECT _bemi.forget_gone_tables('far') FROM generate_series(1, 11)});
is(remembered(), '41', 'tables are forgotten with their history');
is( sql(q{SELECT count(*) FROM bemi.gaps g WHERE "table" IS NOT NULL AND to_time IS NOT NULL
		AND NOT EXISTS (SELECT FROM bemi.gaps e WHERE e."table" = g."table" AND e.to_time IS NULL)
		AND NOT EXISTS (SELECT FROM _bemi.source_tables t WHERE t."table" = g."table")}),
	'0', 'with all of their gaps');
is( sql(q{SELECT count(*) FROM bemi.gaps WHERE "table" = 't'}) . sql(q{SELECT count(*) FROM _bemi.source_tables WHERE "table" = 't'}),
	'01', 'tables that are there stay');

#
# Partitions that a reader keeps from being dropped
#

sql(q{
	CREATE TABLE bemi.old_1 (LIKE bemi.changes); CREATE TABLE bemi.old_2 (LIKE bemi.changes);
	ALTER TABLE bemi.changes ATTACH PARTITION bemi.old_1 FOR VALUES FROM ('2001-01-01') TO ('2001-02-01');
	ALTER TABLE bemi.changes ATTACH PARTITION bemi.old_2 FOR VALUES FROM ('2001-02-01') TO ('2001-03-01');
	BEGIN; SELECT count(*) FROM bemi.old_1; PREPARE TRANSACTION 'reader'});
$log = -s $node->logfile;
$node->append_conf('postgresql.conf', "bemi.retention = '10 years'");
for my $visit (1 .. 3)
{
	# The worker comes with each reload; that it has come shows in what it forgets.
	sql(q{INSERT INTO bemi.gaps (detail, source, schema, "table", reason, from_time) VALUES ('made by a test', 'main', 'queue', 'visit', 'tracking_ended', '2001-01-01')});
	$node->reload;
	$node->poll_query_until('postgres', q{SELECT NOT EXISTS (SELECT FROM bemi.gaps WHERE "table" = 'visit')}) or die 'the worker does not come';
}
is( sql(q{SELECT to_regclass('bemi.old_1') IS NULL, to_regclass('bemi.old_2') IS NULL}), 'f|t', 'a partition that is read stays, the next one goes');
my @refused = slurp_file($node->logfile, $log) =~ /(could not drop a partition older than bemi\.retention.*)/g;
is(scalar @refused, 1, 'which the log is told once');
like($refused[0], qr/partition "old_1" is in use/, 'with the reason');
sql(q{COMMIT PREPARED 'reader'});
$node->reload;
$node->poll_query_until('postgres', q{SELECT to_regclass('bemi.old_1') IS NULL}) or fail('it goes when the reader is done');

#
# Many tracked tables
#

sql(q{
	CREATE SCHEMA many;
	DO $$ BEGIN FOR n IN 1 .. 120 LOOP EXECUTE format('CREATE TABLE many.t%s (id int PRIMARY KEY)', n); END LOOP; END $$});
sql(q{
	SELECT format('SELECT bemi.track(%L)', c.oid::regclass) FROM pg_class c
	WHERE c.relnamespace = 'many'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition \gexec
	CREATE TABLE many.late (id int PRIMARY KEY)});
is( (split /\n/, sql(q{
		BEGIN;
		SELECT bemi.track_schema('many');
		SELECT string_agg(DISTINCT c.relname, ',') FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
			WHERE l.pid = pg_backend_pid() AND c.relnamespace = 'many'::regnamespace AND c.relkind = 'r' AND l.mode <> 'AccessShareLock';
		COMMIT}))[-1],
	'late', 'bemi.track_schema() locks no table that is tracked already');
my @loops = sql(q{SET enable_nestloop = off; EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) SELECT * FROM bemi.tracked})
  =~ /Scan .*\bpg_\w+.*loops=(\d+)/g;
cmp_ok(scalar @loops, '>', 0, 'the plan of bemi.tracked shows its scans');
cmp_ok(max(@loops), '<', 10, 'bemi.tracked reads the catalogs once for all tables');
is( sql(q{SELECT count(*) FROM bemi.tracked WHERE "table"::text LIKE 'many.%' AND problems = '{}'}), '121', 'all are tracked');

#
# Sources
#

sql(q{CALL bemi.start('second', conninfo => 'host=/nowhere', wait => false)});
my ($status, $stdout, $stderr) = $node->psql('postgres', q{CALL bemi.start('third', conninfo => 'host=/nowhere', wait => false)});
like($stderr, qr/ERROR:  cannot start source "third"\nDETAIL:  This server has 2 sources already, in all its databases\.\nHINT:  .*: bemi\.max_sources = 4/,
	'more than bemi.max_sources cannot be started');
is( sql(q{SELECT string_agg(name, ',' ORDER BY name) FROM bemi.sources}), 'main,second', 'and leave nothing behind');
sql(q{CALL bemi.drop_source('second', force => true)});

# A restart, without the statements that the log of a test has.
$node->append_conf('postgresql.conf', "log_statement = none\nlog_replication_commands = off\nlog_checkpoints = off\nlog_connections = off\nlog_disconnections = off\n");
$node->reload;
sql(q{INSERT INTO t DEFAULT VALUES; SELECT bemi.sync('60s')});
$log = -s $node->logfile;
$node->restart;
wait_for_state($node, 'streaming');
my @lines = grep { /bemi_\d+_main|bemi worker|standby connection/ } split /\n/, slurp_file($node->logfile, $log);
cmp_ok(scalar @lines, '<=', 6, 'a restart takes a few lines of the log for each source') or note join "\n", @lines;

$node->stop;
done_testing();
