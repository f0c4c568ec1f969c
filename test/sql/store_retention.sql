--
-- Retention as SQL sees it: which partitions are created, which are too old, which are held, and
-- what the settings and functions refuse.
--
-- No worker runs here (test/t/store_long_life.pl has one), so the test can print every bound. All
-- times are fixed or long past, so nothing depends on today.
--
\set SHOW_CONTEXT never
CREATE EXTENSION bemi;
SET timezone = 'UTC';
SET datestyle = 'ISO';

--
-- Settings
--
SHOW bemi.partition_interval;
SHOW bemi.retention;
SET bemi.partition_interval = 'year';
SET bemi.retention = '1 fortnight';
SET bemi.retention = 'soon';
SET bemi.retention = '90';
SET bemi.retention = '-90.5 ';
SET bemi.retention = '0 days';
SET bemi.retention = '-1 year';
SET bemi.retention = '1 month -31 days';
SET bemi.retention = '999999999999 years';
SET bemi.retention = '   ';
SET bemi.retention = '18 months';
SHOW bemi.retention;
SET bemi.retention = 'P1Y2M';
SET bemi.retention = '';
-- of a server, a database or a superuser's session
DROP ROLE IF EXISTS regress_bemi_clerk;
CREATE ROLE regress_bemi_clerk;
SET ROLE regress_bemi_clerk;
SET bemi.retention = '1 day';
SET bemi.partition_interval = 'day';
RESET ROLE;
SELECT format('ALTER DATABASE %I SET bemi.retention = ''-1 day''', current_database()) \gexec
SELECT format('ALTER DATABASE %I SET bemi.retention = ''1 year''', current_database()) \gexec
SELECT format('ALTER DATABASE %I RESET bemi.retention', current_database()) \gexec

--
-- New partitions: of a month, a week, a day; out of order; at the ends of time
--
CREATE VIEW partitions AS
	SELECT c.relname AS partition, pg_get_expr(c.relpartbound, c.oid) AS bounds, c.reloptions
	FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'bemi.changes'::regclass
	ORDER BY (SELECT r.from_time FROM _bemi.partition_ranges() r WHERE r.partition = c.oid);
SELECT _bemi.make_partition('2021-02-28 23:59:59.999999');
SELECT _bemi.make_partition('0044-03-15 12:00 BC');
SELECT _bemi.make_partition('12021-12-31');
SELECT _bemi.make_partition('-infinity');
SELECT _bemi.make_partition('infinity');
SET bemi.partition_interval = 'week';
SELECT _bemi.make_partition('2021-03-07 23:59', '2021-03-01', NULL);
SELECT _bemi.make_partition('2021-03-08');
SET bemi.partition_interval = 'day';
SELECT _bemi.make_partition('2021-03-17 12:00', '2021-03-15', NULL);
-- what is left between neighbours
SET bemi.partition_interval = 'month';
SELECT _bemi.make_partition('2021-03-16', '2021-03-15', '2021-03-17');
SELECT _bemi.make_partition('2021-03-20', '2021-03-18', NULL);
SELECT * FROM partitions;
SELECT * FROM _bemi.partition_ranges();
SELECT c.relname, t.reloptions FROM pg_class c JOIN pg_class t ON t.oid = c.reltoastrelid WHERE c.relname = 'changes_2021_02';
-- a day at either end of time, and a week
BEGIN;
SELECT format('DROP TABLE _bemi.%I', partition) FROM partitions \gexec
SET LOCAL bemi.partition_interval = 'day';
SELECT _bemi.make_partition('-infinity');
SELECT _bemi.make_partition('294276-12-31 23:59:59.999999');
SELECT _bemi.make_partition('294276-12-30');
SELECT partition, bounds FROM partitions;
SELECT format('DROP TABLE _bemi.%I', partition) FROM partitions \gexec
SET LOCAL bemi.partition_interval = 'week';
SELECT _bemi.make_partition('4714-11-24 00:00:00 BC');
SELECT _bemi.make_partition('infinity');
SELECT _bemi.make_partition('4714-12-01 00:00:00 BC');
SELECT partition, bounds FROM partitions;
ROLLBACK;

--
-- Too old: whole partitions, neither the default one nor a partition's partition
--
CREATE TABLE bemi.by_user PARTITION OF bemi.changes FOR VALUES FROM ('2020-01-01') TO ('2020-07-01') PARTITION BY RANGE (committed_at);
CREATE TABLE bemi.by_user_1 PARTITION OF bemi.by_user FOR VALUES FROM ('2020-01-01') TO ('2020-02-01');
CREATE TABLE bemi.elsewhere PARTITION OF bemi.changes DEFAULT;
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;
CREATE FOREIGN TABLE bemi.archive PARTITION OF bemi.changes FOR VALUES FROM ('2019-01-01') TO ('2020-01-01') SERVER nowhere;
SELECT * FROM _bemi.expired_partitions('1 day');
-- the very first moment at which all of it is older, and the last at which it is not
SELECT e.partition FROM _bemi.expired_partitions(now() - '2021-03-01') e ORDER BY e.to_time DESC LIMIT 1;
SELECT e.partition FROM _bemi.expired_partitions(now() - '2021-03-01' + interval '1 microsecond') e ORDER BY e.to_time DESC LIMIT 1;
-- so long that it leads out of time, and one that leads into the future
SELECT * FROM _bemi.expired_partitions('170000000 years');
BEGIN;
DROP TABLE bemi.elsewhere;
SET LOCAL bemi.partition_interval = 'day';
SELECT _bemi.make_partition(now());
SELECT count(*), count(*) FILTER (WHERE e.to_time > now()) AS of_today FROM _bemi.expired_partitions('1 month -60 days') e;
ROLLBACK;

--
-- Holds
--
SELECT bemi.hold_partition('_bemi.changes_2021_02', reason => 'case 12');
SELECT bemi.hold(from_time => '2021-03-05', to_time => '2021-03-08');
SELECT from_time, to_time, reason, held_by = session_user AS mine, held_at <= clock_timestamp() AS now FROM bemi.holds ORDER BY 1;
SELECT e.partition FROM _bemi.expired_partitions('1 day') e;
-- with the bounds only touching, nothing is held
SELECT bemi.release('2021-03-05', '2021-03-08');
SELECT bemi.hold('2021-03-08', '2021-03-15', NULL);
SELECT e.partition FROM _bemi.expired_partitions('1 day') e;
SELECT bemi.release(from_time => '2021-03-08', to_time => '2021-03-15');
SELECT bemi.hold('-infinity', 'infinity', 'everything');
SELECT * FROM _bemi.expired_partitions('1 day');
SELECT bemi.release('-infinity', 'infinity');
SELECT bemi.release_partition('_bemi.changes_2021_02');
SELECT bemi.hold_partition('_bemi.changes_4714_11_bc');
SELECT bemi.hold_partition('bemi.by_user');
SELECT from_time, to_time, reason FROM bemi.holds ORDER BY 1;
SELECT e.partition FROM _bemi.expired_partitions('1 day') e;

-- nonsense
SELECT bemi.hold_partition(NULL::regclass);
SELECT bemi.hold_partition('bemi.changes');
SELECT bemi.hold_partition('bemi.by_user_1');
SELECT bemi.hold_partition('bemi.elsewhere');
SELECT bemi.hold_partition('pg_class');
SELECT bemi.hold_partition(0::regclass);
SELECT bemi.hold_partition('bemi.nowhere');
SELECT bemi.hold(NULL, '2021-01-01', 'reason');
SELECT bemi.hold('2021-01-01', NULL::timestamptz);
SELECT bemi.hold('2021-01-01'::timestamptz, '2021-01-01');
SELECT bemi.hold('2021-01-02', '2021-01-01', 'reason');
SELECT bemi.release('2021-01-01', '2021-01-02');
SELECT bemi.release(NULL, '2021-01-02');
SELECT bemi.release_partition('_bemi.changes_2021_02');
SELECT bemi.release_partition('bemi.elsewhere');
SELECT bemi.release_partition(NULL::regclass);
-- who holds it is not overwritten
\set VERBOSITY terse
SELECT bemi.hold_partition('bemi.by_user', reason => 'another reason');
\set VERBOSITY default
SELECT count(*) FROM bemi.holds WHERE reason IS NULL;

-- Roles that were granted it can hold. held_by is the role that has logged in.
SET ROLE regress_bemi_clerk;
SELECT bemi.hold('2021-01-01', '2021-01-02', 'reason');
SELECT bemi.hold_partition('bemi.by_user');
SELECT bemi.release('2021-01-01', '2021-01-02');
SELECT bemi.release_partition('bemi.by_user');
SELECT * FROM bemi.holds;
SELECT _bemi.drop_expired_partition('bemi.by_user', '1 day');
RESET ROLE;
GRANT EXECUTE ON FUNCTION bemi.hold(timestamptz, timestamptz, text), bemi.release(timestamptz, timestamptz) TO regress_bemi_clerk;
SET ROLE regress_bemi_clerk;
SELECT bemi.hold('2021-01-01', '2021-01-02', 'reason');
SELECT bemi.hold_partition('bemi.by_user');
SELECT bemi.release('2021-01-01', '2021-01-02');
DELETE FROM bemi.holds;
RESET ROLE;

--
-- Dropping: what is held, young, or not a partition stays; what is gone is
-- written down, in one row
--
SELECT _bemi.drop_expired_partition('bemi.by_user', '1 day');
SELECT _bemi.drop_expired_partition('_bemi.changes_12021_12', '1 day');
SELECT _bemi.drop_expired_partition('bemi.elsewhere', '1 day');
SELECT _bemi.drop_expired_partition('bemi.archive', '1 day');
SELECT _bemi.drop_expired_partition('bemi.by_user_1', '1 day');
SELECT _bemi.drop_expired_partition('bemi.changes', '1 day');
SELECT count(*) FROM bemi.gaps;
CREATE VIEW needs_it AS SELECT * FROM _bemi.changes_2021_02;
SELECT _bemi.drop_expired_partition('_bemi.changes_2021_02', '1 day');
SELECT partition FROM partitions WHERE partition = 'changes_2021_02';
DROP VIEW needs_it;
SELECT _bemi.drop_expired_partition('_bemi.changes_2021_02', '1 day');
SELECT source, schema, "table", reason, from_lsn, to_lsn, from_time, to_time FROM bemi.gaps;
SELECT bemi.release_partition('bemi.by_user');
SELECT _bemi.drop_expired_partition('bemi.by_user', '1 day');
SELECT _bemi.drop_expired_partition('_bemi.changes_2021_03_08', '1 day');
SELECT source, schema, "table", reason, from_lsn, to_lsn, from_time, to_time FROM bemi.gaps;
SELECT partition, bounds FROM partitions;

-- the history cannot be kept by bemi, nor a partition of it
SELECT bemi.track('bemi.changes');
SELECT bemi.track('_bemi.changes_2021_03');
SELECT bemi.track_schema('bemi');

DROP FOREIGN TABLE bemi.archive;
DROP SERVER nowhere;
DROP FOREIGN DATA WRAPPER nowhere;
DROP VIEW partitions;
DROP EXTENSION bemi;
DROP ROLE regress_bemi_clerk;
