-- Whether the server may elect a walsender as a synchronous standby. A role that may not see
-- priorities compares the names, and relies on the setting that declines (src/worker/standby.c).
--
-- Servers: PostgreSQL 14 to 18, also standbys.
-- $1: process of the walsender. $2: whether it was told to decline.
-- Returns one row: a boolean, and the line to type if that is so because of a "*" (empty if not),
-- which names the standbys that are connected.
SELECT e.possible, CASE WHEN e.possible AND s.names LIKE '%*%'
		THEN format('ALTER SYSTEM SET synchronous_standby_names = %L; SELECT pg_reload_conf();',
			replace(replace(s.names, '"*"', '*'), '*', coalesce(w.standbys, 'standby1')))
		ELSE '' END
	FROM (SELECT current_setting('synchronous_standby_names') AS names,
			current_setting('application_name') AS name) s,
		LATERAL (SELECT coalesce(
			(SELECT r.sync_priority > 0 FROM pg_stat_replication r WHERE r.pid = $1::integer),
			(s.names LIKE '%*%' OR s.name <> '' AND strpos(lower(s.names), lower(s.name)) > 0)
				AND NOT pg_is_in_recovery()
				AND NOT ($2::boolean AND current_setting('bemi.asynchronous', true) IS NOT NULL)
			) AS possible) e,
		(SELECT string_agg(DISTINCT quote_ident(r.application_name), ', ') AS standbys
			FROM pg_stat_replication r
			WHERE r.state <> 'backup' AND r.application_name <> ''
				AND NOT EXISTS (SELECT FROM pg_replication_slots l
					WHERE l.active_pid = r.pid AND l.slot_type = 'logical')) w
