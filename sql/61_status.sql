
--
-- bemi.status: the state of sources and workers
--

CREATE FUNCTION _bemi.source_status(
		OUT source text, OUT state text, OUT pid integer,
		OUT received_lsn pg_lsn, OUT stored_lsn pg_lsn, OUT stored_until timestamptz,
		OUT changes bigint, OUT transactions bigint, OUT invalid_messages bigint,
		OUT restarts bigint, OUT last_error text, OUT last_error_at timestamptz,
		OUT last_hint text, OUT walsender integer,
		OUT source_lsn pg_lsn, OUT wal_kept bigint, OUT wal_status text,
		OUT catalog_xmin_age integer, OUT standby_advice text,
		OUT unreadable_tries integer, OUT unreadable_lsn pg_lsn, OUT stray_slots text)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'bemi_source_status'
	LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 2;
COMMENT ON FUNCTION _bemi.source_status()
	IS 'internal: what the workers of this database report and, from source_lsn on, the state of '
		'slots on other servers; standby_advice: command to run if commits at the source may '
		'wait for the worker; stray_slots: slots at the source without a reader, with the WAL '
		'that they keep';
REVOKE ALL ON FUNCTION _bemi.source_status() FROM PUBLIC;

-- The slots of this server are read directly, so they are shown also while their workers fail.
-- The worker queries the state of other slots every few seconds.
CREATE FUNCTION _bemi.local_slots(
		OUT slot_name name, OUT source_lsn pg_lsn,
		OUT wal_kept bigint, OUT wal_status text, OUT catalog_xmin_age integer)
	RETURNS SETOF record
	LANGUAGE sql VOLATILE PARALLEL SAFE ROWS 2
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT s.slot_name, l.lsn, pg_wal_lsn_diff(l.lsn, s.restart_lsn)::bigint, s.wal_status,
		age(s.catalog_xmin)
	FROM pg_replication_slots s,
		(SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
			ELSE pg_current_wal_lsn() END AS lsn) l
	WHERE s.database = current_database()
$$;
COMMENT ON FUNCTION _bemi.local_slots() IS 'internal: slots of this server and database';
REVOKE ALL ON FUNCTION _bemi.local_slots() FROM PUBLIC;

CREATE FUNCTION _bemi.commit_horizon(timeout_ms integer, OUT until timestamptz, OUT lsn pg_lsn)
	RETURNS record
	AS 'MODULE_PATHNAME', 'bemi_commit_horizon'
	LANGUAGE C VOLATILE STRICT PARALLEL SAFE COST 1000;
COMMENT ON FUNCTION _bemi.commit_horizon(integer)
	IS 'internal: all commits with a time before "until" are in the WAL before "lsn"; NULLs if a '
		'commit takes longer than the timeout';
-- The worker of another server calls it, as a role with REPLICATION. It shows no more than
-- pg_current_wal_insert_lsn() does.
GRANT EXECUTE ON FUNCTION _bemi.commit_horizon(integer) TO PUBLIC;

CREATE FUNCTION _bemi.why_no_worker()
	RETURNS text
	AS 'MODULE_PATHNAME', 'bemi_why_no_worker'
	LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION _bemi.why_no_worker()
	IS 'internal: reason why no worker of this server can run; NULL if there is none';
REVOKE ALL ON FUNCTION _bemi.why_no_worker() FROM PUBLIC;

-- Waits of less than 100 ms are normal. A role that is no member of pg_monitor sees less of the
-- process that holds the lock.
CREATE FUNCTION _bemi.lock_wait(waiting integer)
	RETURNS text
	LANGUAGE sql VOLATILE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('waits for a lock on %s, held by %s',
		CASE WHEN l.locktype = 'object' AND l.classid = 'pg_database'::regclass AND l.objsubid <> 0
				THEN 'the sources (bemi.start(), bemi.stop(), bemi.drop_source())'
			WHEN l.relation IS NOT NULL AND l.database = d.oid THEN l.relation::regclass::text
			ELSE l.locktype END,
		(SELECT string_agg(CASE b.pid WHEN 0 THEN 'a prepared transaction, see pg_prepared_xacts'
				ELSE format('process %s (%s)', b.pid,
					concat_ws(', ', a.usename, nullif(a.application_name, ''), a.state,
						'transaction of ' || date_trunc('second', a.xact_start))) END,
				' and ' ORDER BY b.pid)
			FROM (SELECT DISTINCT unnest(pg_blocking_pids(waiting)) AS pid) b
				LEFT JOIN pg_stat_activity a ON a.pid = b.pid))
	FROM pg_locks l, pg_database d
	WHERE l.pid = waiting AND NOT l.granted
		AND l.waitstart < clock_timestamp() - interval '100 milliseconds'
		AND d.datname = current_database()
$$;
COMMENT ON FUNCTION _bemi.lock_wait(integer)
	IS 'internal: lock that a process of this server waits for, and who holds it; NULL if it '
		'waits for none';
REVOKE ALL ON FUNCTION _bemi.lock_wait(integer) FROM PUBLIC;

CREATE VIEW bemi.status AS
	SELECT s.name AS source, s.database,
		coalesce(w.state, CASE s.desired WHEN 'stop' THEN 'stopped' ELSE 'not running' END)
			AS state,
		w.pid,
		CASE WHEN starts_with(s.slot_name::text, _bemi.origin_of(s.name)::text)
			THEN s.slot_name END AS slot_name,
		w.received_lsn, w.stored_lsn,
		CASE WHEN l.slot_name IS NOT NULL OR w.state = 'streaming'
			THEN greatest(pg_wal_lsn_diff(n.source_lsn, w.stored_lsn), 0)::bigint END AS lag_bytes,
		CASE WHEN w.state = 'streaming' AND w.stored_lsn >= n.source_lsn THEN interval '0'
			WHEN coalesce(w.stored_until, p.stored_until) > clock_timestamp() THEN interval '0'
			ELSE clock_timestamp() - coalesce(w.stored_until, p.stored_until) END AS lag,
		coalesce(w.stored_until, p.stored_until) AS stored_until,
		coalesce(w.changes, p.changes, 0) AS changes,
		coalesce(w.transactions, p.transactions, 0) AS transactions,
		coalesce(w.invalid_messages, p.invalid_messages, 0) AS invalid_messages,
		coalesce(w.restarts, 0) AS restarts, w.last_error, w.last_error_at, w.last_hint,
		n.wal_kept, n.wal_status, n.catalog_xmin_age,
		-- One expression for each problem, NULL if there is none.
		nullif(concat_ws('; ',
			CASE n.wal_status
				WHEN 'lost'
					THEN 'the slot is lost: changes are missing from the history; '
						'the worker records a gap in bemi.gaps when it connects'
				WHEN 'unreserved'
					THEN 'the slot is about to be lost: the server removes WAL that it needs'
			END,
			CASE WHEN n.wal_kept
					> nullif(pg_size_bytes(current_setting('bemi.max_slot_lag', true)), -1)
				THEN 'the slot keeps more WAL than bemi.max_slot_lag' END,
			CASE WHEN w.unreadable_tries > 0 AND w.unreadable_lsn IS NOT NULL THEN
				format('the source fails to decode the transaction committed at %s '
					'(%s times so far): if it keeps failing, the worker skips it, '
					'and records a gap in bemi.gaps', w.unreadable_lsn, w.unreadable_tries)
			WHEN w.unreadable_tries > 0 THEN
				format('the source fails to decode what comes after %s (%s times so far): '
					'if it keeps failing, the worker skips that, and records a gap in bemi.gaps',
					w.stored_lsn, w.unreadable_tries)
			END,
			'commits at the source may wait for the worker instead of a standby; at the source: '
				|| w.standby_advice,
			CASE WHEN w.stray_slots IS NOT NULL THEN
				format('slots without a reader keep write-ahead log at the source: %s; '
					'each may belong to a former server of this history, '
					'or to a history that is only stopped; '
					'to drop one, at the source: SELECT pg_drop_replication_slot(%L);',
					w.stray_slots, split_part(w.stray_slots, ' ', 1))
			END,
			CASE WHEN s.desired = 'run' THEN _bemi.why_no_worker() END,
			CASE WHEN s.desired = 'run'
				AND NOT starts_with(s.slot_name::text, _bemi.origin_of(s.name)::text)
				THEN format('the source was copied with its database: '
					'CALL bemi.start(%L);', s.name) END,
			'the worker ' || _bemi.lock_wait(w.pid),
			'the WAL sender of the worker ' || _bemi.lock_wait(w.walsender),
			_bemi.history_warning(),
			(SELECT format(
					'the owner of extension bemi is no superuser (tables may stay untracked when '
					'they are made or attached): ALTER ROLE %I SUPERUSER;', r.rolname)
				FROM pg_extension e JOIN pg_roles r ON r.oid = e.extowner
				WHERE e.extname = 'bemi' AND NOT r.rolsuper),
			-- Those that follow DDL also fire where session_replication_role is replica.
			(SELECT format('event triggers of bemi are disabled (DDL is not followed and makes no '
					'gap): %s',
					string_agg(format('ALTER EVENT TRIGGER %I ENABLE%s;', e.evtname,
						CASE WHEN e.evtname <> 'bemi_protect_history' THEN ' ALWAYS' END), ' '
						ORDER BY e.evtname))
				FROM pg_event_trigger e
					JOIN pg_depend d ON d.classid = 'pg_event_trigger'::regclass
						AND d.objid = e.oid AND d.deptype = 'e'
					JOIN pg_extension x ON x.oid = d.refobjid
						AND d.refclassid = 'pg_extension'::regclass
				WHERE x.extname = 'bemi' AND (e.evtenabled IN ('D', 'R')
					OR (e.evtenabled = 'O' AND e.evtname <> 'bemi_protect_history'))
				HAVING count(*) > 0)
		), '') AS warning
	FROM bemi.sources s
		LEFT JOIN _bemi.source_progress p ON p.source = s.name
		LEFT JOIN _bemi.source_status() w ON w.source = s.name
		LEFT JOIN _bemi.local_slots() l ON l.slot_name = s.slot_name
		CROSS JOIN LATERAL (SELECT coalesce(l.source_lsn, w.source_lsn) AS source_lsn,
			CASE WHEN l.slot_name IS NULL THEN w.wal_kept ELSE l.wal_kept END AS wal_kept,
			coalesce(l.wal_status, w.wal_status) AS wal_status,
			coalesce(l.catalog_xmin_age, w.catalog_xmin_age) AS catalog_xmin_age) n;
COMMENT ON VIEW bemi.status IS 'state, progress and errors of each source';
COMMENT ON COLUMN bemi.status.source IS 'name given to bemi.start()';
COMMENT ON COLUMN bemi.status.database IS 'database that is read';
COMMENT ON COLUMN bemi.status.state
	IS 'starting, connecting, making slot, streaming, paused (for DROP DATABASE and similar '
		'commands), failed (tried again, see last_error), stopped, dropping, not running';
COMMENT ON COLUMN bemi.status.pid IS 'process of the worker, NULL if it is not running';
COMMENT ON COLUMN bemi.status.slot_name
	IS 'replication slot at the source; NULL if the source was copied with its database';
COMMENT ON COLUMN bemi.status.received_lsn
	IS 'LSN of the source up to which the worker has received the WAL';
COMMENT ON COLUMN bemi.status.stored_lsn
	IS 'LSN of the source up to which everything is in bemi.changes';
COMMENT ON COLUMN bemi.status.lag_bytes
	IS 'bytes of WAL between stored_lsn and the end of WAL at the source; NULL: unknown';
COMMENT ON COLUMN bemi.status.lag
	IS 'age of stored_until; 0 if everything is stored, NULL if nothing ever was';
COMMENT ON COLUMN bemi.status.stored_until
	IS 'everything committed before this time is in bemi.changes';
COMMENT ON COLUMN bemi.status.changes
	IS 'changes stored since bemi.start() created the source; a crash can lose the last second '
		'of the count';
COMMENT ON COLUMN bemi.status.transactions IS 'source transactions with these changes';
COMMENT ON COLUMN bemi.status.invalid_messages
	IS 'invalid messages with a prefix of bemi; after an invalid context message, changes have '
		'the context {}';
COMMENT ON COLUMN bemi.status.restarts
	IS 'how often the worker failed and was restarted since the server started';
COMMENT ON COLUMN bemi.status.last_error IS 'last error of the worker';
COMMENT ON COLUMN bemi.status.last_error_at IS 'when the worker last failed';
COMMENT ON COLUMN bemi.status.last_hint IS 'how to solve the last error, if that is known';
COMMENT ON COLUMN bemi.status.wal_kept IS 'bytes of WAL that the source keeps for the slot';
COMMENT ON COLUMN bemi.status.wal_status
	IS 'state of the slot, as in pg_replication_slots: reserved, extended, unreserved, lost';
COMMENT ON COLUMN bemi.status.catalog_xmin_age
	IS 'age of the oldest transaction whose catalog rows the slot keeps from VACUUM';
COMMENT ON COLUMN bemi.status.warning
	IS 'problems that do not stop the worker, and why no worker runs; separated by "; "';
REVOKE ALL ON bemi.status FROM PUBLIC;
