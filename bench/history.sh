# Sourced by the scripts in bench/ that read a long history: makes it, in a server of its own.
#
# The history has BENCH_CHANGES changes (20 million) of a twentieth as many rows, over 200 partitions. Most of it is made by SQL,
# because that is several times as fast as by a worker. The last changes are real ones: every tenth row of the table is updated.
#
# 20 million changes take 20 GB of disk, and half an hour. With BENCH_KEEP=DIRECTORY the server's data stay there, and the next run
# finds its history made. The user of the sandbox (postgres) needs the right to write there.

# shellcheck shell=bash

# The checkpoints that these limits cause do not disturb, because nothing is written while times are measured.
if [ -z "${PGHOST:-}" ]; then
    BEMI_DATA=${BENCH_KEEP:-} BEMI_CONF="
	min_wal_size = 100MB
	max_wal_size = 2GB"
    export BEMI_DATA BEMI_CONF
fi
. "$(dirname "$0")/measure.sh"

changes=${BENCH_CHANGES:-20000000}
rows=$((changes / 20))

exists() { [ "$(sql -c "SELECT to_regclass('$1') IS NOT NULL")" = t ]; }

track_tables() {
    sql <<SQL
CREATE EXTENSION bemi;
CREATE TABLE todo (id int PRIMARY KEY, task text NOT NULL, done boolean NOT NULL, price int NOT NULL);
CREATE TABLE invoice (LIKE todo INCLUDING ALL);
CREATE TABLE plan (LIKE todo INCLUDING ALL);
CREATE TABLE archive (LIKE todo INCLUDING ALL);
INSERT INTO todo SELECT n, 'task number ' || n, true, 10 FROM generate_series(1, $rows) n;
VACUUM ANALYZE todo;
SELECT bemi.track('todo'), bemi.track('invoice'), bemi.track('plan'), bemi.track('archive') \\g /dev/null
ALTER SYSTEM SET bemi.partition_interval = 'day';
SELECT pg_reload_conf() \\g /dev/null
CALL bemi.start();
SQL
}

# The first real change is needed to make others like it: with its tag and the name of the database.
make_first_change() {
    sql -c "SET bemi.context = '$context'" -c "UPDATE todo SET done = done WHERE id = 1" -c "SELECT bemi.sync('60s')" >/dev/null
    sql <<SQL
-- The first of 200 days, the last of which is today.
CREATE FUNCTION first_day() RETURNS timestamptz STABLE LANGUAGE sql 
	RETURN '$(date -u +%F) 00:00Z'::timestamptz - interval '199 days';

-- The id of a change, as bemi_make_change_id() makes it: commit LSN, place in the transaction, tag of the source.
CREATE FUNCTION change_id(lsn bigint, n bigint, tag int) RETURNS uuid IMMUTABLE PARALLEL SAFE LANGUAGE sql
	RETURN (lpad(to_hex(lsn >> 16), 12, '0') || '8' || lpad(to_hex(lsn >> 4 & 4095), 3, '0')
		|| to_hex(8 | (lsn >> 2 & 3)) || lpad(to_hex(((lsn & 3) << 58) | (n << 22) | tag), 15, '0'))::uuid;
CREATE FUNCTION made_lsn(t bigint) RETURNS bigint IMMUTABLE PARALLEL SAFE LANGUAGE sql RETURN (t + 1) * 16;

CREATE TABLE real AS SELECT *, ('x' || right(id::text, 6))::bit(24)::int & 4194303 AS tag FROM bemi.changes;

-- A day of the history. Ten changes a transaction. Each has a user, an endpoint and a request. A tenth of the changes
-- are of table "invoice", one of a million of table "plan", and a tenth of table "archive", but only in the first tenth
-- of the time. A user has every 97th transaction, and "old" every second
-- one, but only in the first tenth of the time. "price" changes in one of 50000 updates, and one of a thousand changes
-- is a DELETE. The last day ends now.
CREATE PROCEDURE make_day(day bigint) LANGUAGE plpgsql AS \$\$
DECLARE
	transactions bigint := $changes / 10;
	day_begin timestamptz := first_day() + day * interval '1 day';
	day_end timestamptz := least(first_day() + (day + 1) * interval '1 day', now() - interval '10 minutes');
	first bigint := transactions * day / 200;
	next bigint := transactions * (day + 1) / 200;
	tag int := (SELECT tag FROM real);
BEGIN
	INSERT INTO bemi.changes (id, database, schema, "table", primary_key, operation, before, after, context,
			committed_at, queued_at, created_at, transaction_id, position, source)
		SELECT change_id(made_lsn(t), n, tag), current_database(), 'public',
			CASE WHEN c % 1000000 = 500000 THEN 'plan' WHEN n = 9 THEN 'invoice' WHEN n = 8 AND t < transactions / 10 THEN 'archive' ELSE 'todo' END,
			key::text,
			CASE WHEN c < $rows THEN 'CREATE' WHEN c % 1000 = 999 THEN 'DELETE' ELSE 'UPDATE' END,
			CASE WHEN c < $rows THEN '{}' ELSE jsonb_build_object('id', key,
				'task', 'task number ' || c, 'done', false, 'price', 10) END,
			CASE WHEN c >= $rows AND c % 1000 = 999 THEN '{}' ELSE jsonb_build_object('id', key,
				'task', 'task number ' || c, 'done', true, 'price', CASE WHEN c % 50000 = 7 THEN 11 ELSE 10 END) END,
			w.context, at, at, at, t % 4000000000, made_lsn(t) - 8, 'main'
		FROM (SELECT t, day_begin + ((t - first)::float8 / (next - first)) * (day_end - day_begin) AS at,
				jsonb_build_object('userId', CASE WHEN t < transactions / 10 AND t % 2 = 0 THEN 'old' ELSE (t % 97)::text END,
					'endpoint', '/api/v1/todo/complete', 'requestId', md5(t::text)::uuid,
					'params', jsonb_build_object('id', t % 100, 'done', true)) AS context
				FROM generate_series(first, next - 1) t OFFSET 0) w,
			-- Depends on t, because rows must be written in the order of their ids, as by the worker.
			LATERAL generate_series(0, 9 + t * 0) n, LATERAL (SELECT t * 10 + n AS c, (t * 10 + n) * 7919 % $rows + 1 AS key) k;
END \$\$;
SQL
}

# Makes the history over 200 days, in two sessions. Between them, days have no order that matters.
make_history() {
    local half begin=$SECONDS
    sql -c "SELECT _bemi.make_partition(first_day() + make_interval(days => d)) FROM generate_series(0, 198) d" >/dev/null
    sql -c "CALL bemi.index_context('userId')"
    for half in 0 1; do
        for ((day = half; day < 200; day += 2)); do echo "CALL make_day($day);"; done | sql -c 'SET synchronous_commit = off' -f - &
    done
    wait
    tell "made in $((SECONDS - begin)) s"
}

# Compares what was made with a real change: columns that are null, kinds of values, and the parts of an id.
check_history() {
    [ "$(sql <<-SQL
	WITH shape AS (
		SELECT c.committed_at < r.committed_at AS made, format('%s %s %s %s %s %s', jsonb_typeof(c.before -> 'id'),
				ARRAY(SELECT jsonb_object_keys(c.before)), ARRAY(SELECT jsonb_object_keys(c.after)),
				ARRAY(SELECT jsonb_object_keys(c.context)), c.source, c.database) AS shape
			FROM bemi.changes c, real r WHERE c.operation = 'UPDATE' AND c."table" = 'todo' AND c.committed_at > now() - interval '3 hours'
	), id AS (
		SELECT id, tag, ('x' || left(hex, 12) || substr(hex, 14, 3))::bit(60)::bigint << 4 AS high,
				(('x' || substr(hex, 17, 2))::bit(8)::bigint >> 2) & 15 AS low, (('x' || substr(hex, 17))::bit(64)::bigint >> 22) & ((1::bigint << 36) - 1) AS n
			FROM real, translate(id::text, '-', '') hex
	)
	SELECT (SELECT count(*) FROM bemi.changes) = $changes + 1
		AND (SELECT count(DISTINCT made) = 2 AND count(DISTINCT shape) = 1 FROM shape)
		AND (SELECT id = change_id(high | low, n, tag) FROM id)
		AND (SELECT id FROM real) = (SELECT id FROM bemi.changes ORDER BY id DESC LIMIT 1)
		AND (SELECT bool_and(id > before) FROM (SELECT id, lag(id) OVER (ORDER BY ctid) AS before FROM bemi.changes
				WHERE committed_at >= first_day() + interval '33 days' AND committed_at < first_day() + interval '34 days') o)
	SQL
    )" = t ] || { tell "the history differs from what a worker stores"; exit 1; }
}

# Every tenth row is updated, ten in each transaction, after the time that bemi.as_of() is asked for.
change_rows() {
    sql <<-SQL
	CREATE TABLE past AS TABLE todo;
	CREATE TABLE instant AS SELECT clock_timestamp() AS at;
	CREATE PROCEDURE change_rows() LANGUAGE plpgsql AS \$\$
	BEGIN
		FOR i IN 0 .. $rows / 100 - 1 LOOP
			PERFORM bemi.set_context(jsonb_build_object('userId', (i % 97)::text, 'requestId', gen_random_uuid()));
			UPDATE todo SET done = NOT done WHERE id = ANY (ARRAY(SELECT (i * 10 + n) * 10 + 1 FROM generate_series(0, 9) n));
			COMMIT;
		END LOOP;
	END \$\$;
	SET synchronous_commit = off;
	CALL change_rows();
	SELECT bemi.sync('10min') \\g /dev/null
	VACUUM ANALYZE todo;
	SQL
}

vacuum_history() {
    local begin=$SECONDS
    sql -c "SELECT format('VACUUM (ANALYZE, PROCESS_TOAST off) %s;', inhrelid::regclass) FROM pg_inherits WHERE inhparent = 'bemi.changes'::regclass" | sql
    sql -c CHECKPOINT
    tell "vacuumed in $((SECONDS - begin)) s, load $(cut -d ' ' -f 1-3 /proc/loadavg)"
}

make_all() {
    track_tables
    make_first_change
    make_history
    check_history
    change_rows
    vacuum_history
    sql -c 'CREATE TABLE made ()'
}
