
--
-- Sources: what is read into the history
--

CREATE FUNCTION _bemi.update_progress(source text,
		changes bigint, transactions bigint, invalid_messages bigint,
		stored_until timestamptz, stored_lsn pg_lsn,
		changed_lsn pg_lsn, changed_at timestamptz, changed_xid bigint)
	RETURNS void
	LANGUAGE sql
	SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO _bemi.source_progress AS p
			(source, changes, transactions, invalid_messages, stored_until, stored_lsn,
			changed_lsn, changed_at, changed_xid)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
		ON CONFLICT (source) DO UPDATE SET changes = p.changes + excluded.changes,
			transactions = p.transactions + excluded.transactions,
			invalid_messages = p.invalid_messages + excluded.invalid_messages,
			stored_until = coalesce(excluded.stored_until, p.stored_until),
			stored_lsn = coalesce(excluded.stored_lsn, p.stored_lsn),
			changed_lsn = coalesce(excluded.changed_lsn, p.changed_lsn),
			changed_at = coalesce(excluded.changed_at, p.changed_at),
			changed_xid = coalesce(excluded.changed_xid, p.changed_xid)
$$;
COMMENT ON FUNCTION _bemi.update_progress(text, bigint, bigint, bigint, timestamptz, pg_lsn,
	pg_lsn, timestamptz, bigint)
	IS 'internal: adds to the counters of a source, and moves its positions';
REVOKE ALL ON FUNCTION _bemi.update_progress(text, bigint, bigint, bigint, timestamptz, pg_lsn,
	pg_lsn, timestamptz, bigint) FROM PUBLIC;

-- The worker refuses messages that were signed with a key that it has never read, although the
-- source may have written them. If it can read no key, it refuses all messages.
CREATE FUNCTION _bemi.record_key_version(source text, version text)
	RETURNS boolean
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF EXISTS (SELECT FROM _bemi.source_progress p
		WHERE p.source = record_key_version.source AND p.signing_key_version = version) THEN
		RETURN false;
	END IF;
	INSERT INTO _bemi.source_progress AS p VALUES (source, 0, 0, 0, NULL, version)
		ON CONFLICT ON CONSTRAINT source_progress_pkey DO UPDATE
			SET signing_key_version = excluded.signing_key_version;
	PERFORM _bemi.mark_descriptions_stale(source);
	RETURN true;
END
$$;
COMMENT ON FUNCTION _bemi.record_key_version(text, text)
	IS 'internal: records which signing key a source has; if it is another one, or none, what the '
		'source has sent so far becomes stale, and the result is true';
REVOKE ALL ON FUNCTION _bemi.record_key_version(text, text) FROM PUBLIC;

CREATE FUNCTION _bemi.forget_source(source text)
	RETURNS void
	LANGUAGE sql
	SET search_path = pg_catalog, pg_temp
AS $$
	DELETE FROM _bemi.source_progress p WHERE p.source = forget_source.source;
	DELETE FROM _bemi.source_relations r WHERE r.source = forget_source.source;
	DELETE FROM bemi.sources s WHERE s.name = forget_source.source;
$$;
COMMENT ON FUNCTION _bemi.forget_source(text)
	IS 'internal: deletes the rows of a dropped source, but not its gaps';
REVOKE ALL ON FUNCTION _bemi.forget_source(text) FROM PUBLIC;

-- Not read from bemi.sources, because the row may have been copied with its database. Then it
-- names the slot of the original, which may be on this server.
CREATE FUNCTION _bemi.origin_of(source text)
	RETURNS name
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('bemi_%s_%s', d.oid, source)::name
		FROM pg_database d WHERE d.datname = current_database()
$$;
COMMENT ON FUNCTION _bemi.origin_of(text)
	IS 'internal: name of the replication origin of a source of this database, and of its slot '
		'if the slot is on this server';
REVOKE ALL ON FUNCTION _bemi.origin_of(text) FROM PUBLIC;

-- A copy of this server has the same files. It differs in the inode of one, in the host, or in
-- the directory.
CREATE FUNCTION _bemi.this_reader()
	RETURNS text
	AS 'MODULE_PATHNAME', 'bemi_this_reader'
	LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION _bemi.this_reader()
	IS 'internal: identifier of this server for bemi.sources.reader: system identifier, inode of '
		'pg_control, host, data directory';
REVOKE ALL ON FUNCTION _bemi.this_reader() FROM PUBLIC;

-- Another server can have slots of several histories, also of copies of this one.
CREATE FUNCTION _bemi.slot_of(source text, conninfo text)
	RETURNS name
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN conninfo IS NULL THEN _bemi.origin_of(source)
		ELSE (_bemi.origin_of(source) || '_' || left(md5(_bemi.this_reader()), 8))::name END
$$;
COMMENT ON FUNCTION _bemi.slot_of(text, text)
	IS 'internal: name of the slot that a new source of this database gets';
REVOKE ALL ON FUNCTION _bemi.slot_of(text, text) FROM PUBLIC;

-- A dump of single tables brings their triggers, but not the publication.
CREATE FUNCTION _bemi.warn_of_unpublished()
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	tables regclass[] := ARRAY(SELECT c.oid::regclass
		FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
		WHERE t.tgfoid = 'bemi.emit_context()'::regprocedure AND t.tgname = 'bemi_emit_context'
			AND t.tgnargs >= 3
			AND NOT c.relispartition AND NOT _bemi.is_published(c.oid)
		ORDER BY c.oid::regclass::text COLLATE "C");
BEGIN
	IF tables <> '{}' THEN
		RAISE WARNING 'tables with the trigger of bemi.track() are not in publication "bemi"'
			USING DETAIL = format('The changes of %s tables are not stored. '
					'A dump of single tables does not contain the publication.',
					cardinality(tables)),
				HINT = (SELECT string_agg(format('SELECT bemi.track(%L);', t.name), ' ')
					FROM unnest(tables[:10]) t(name));
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.warn_of_unpublished()
	IS 'internal: warns about tables that were restored without their place in the publication';
REVOKE ALL ON FUNCTION _bemi.warn_of_unpublished() FROM PUBLIC;

CREATE FUNCTION _bemi.register_source(source text, conninfo text, caller name)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	origin name := _bemi.origin_of(source);
	slot name := _bemi.slot_of(source, conninfo);
	known record;
	fresh boolean := pg_replication_origin_oid(origin) IS NULL;
BEGIN
	IF source IS NULL OR source !~ '^[a-z0-9_]{1,32}$' THEN
		RAISE EXCEPTION 'source name "%" is not valid', source
			USING ERRCODE = 'invalid_name',
				DETAIL = 'It becomes part of a slot''s name: '
					'1 to 32 lower-case letters, digits and underscores.';
	END IF;

	SELECT s.desired, s.conninfo,
			s.conninfo IS NULL OR s.reader = _bemi.this_reader() AS reads_here INTO known
		FROM bemi.sources s WHERE s.name = source FOR UPDATE;
	-- A row without an origin was copied with its database: its source was never started here.
	IF FOUND AND known.desired <> 'stop' AND NOT fresh AND known.reads_here THEN
		RAISE EXCEPTION 'source "%" is already started', source
			USING ERRCODE = 'object_in_use',
				DETAIL = format(
					'Its state is shown by SELECT * FROM bemi.status WHERE source = %L.', source),
				HINT = format('To start it again, stop it first: CALL bemi.stop(%L);', source);
	END IF;

	IF coalesce(register_source.conninfo, known.conninfo) IS NULL
		AND EXISTS (SELECT FROM bemi.sources s
		WHERE s.conninfo IS NULL AND s.desired = 'run' AND s.name <> source
			AND pg_replication_origin_oid(_bemi.origin_of(s.name)) IS NOT NULL) THEN
		RAISE EXCEPTION 'this database is already read by another source'
			USING ERRCODE = 'object_in_use',
				DETAIL = 'Every change would be stored twice.',
				HINT = 'SELECT source, state FROM bemi.status;';
	END IF;

	PERFORM _bemi.ensure_publication();
	-- Tracked schemas that came with a dump are not enabled yet.
	PERFORM bemi.track_schema(n.oid::regnamespace) FROM bemi.tracked_schemas s
		JOIN pg_namespace n ON n.nspname = s.schema WHERE s.enabled_in <> _bemi.this_database();
	PERFORM _bemi.warn_of_unpublished();
	IF fresh THEN
		PERFORM pg_replication_origin_create(origin);
	END IF;
	INSERT INTO bemi.sources AS s (name, owner, conninfo, slot_name, desired)
		VALUES (source, caller, register_source.conninfo, slot, 'run')
		ON CONFLICT (name) DO UPDATE SET conninfo = coalesce(excluded.conninfo, s.conninfo),
			slot_name = CASE WHEN fresh THEN excluded.slot_name ELSE s.slot_name END,
			desired = 'run', slot_made = s.slot_made AND NOT fresh,
			-- NULL: the worker makes this server the reader.
			reader = CASE WHEN s.reader = _bemi.this_reader() THEN s.reader END;
END
$$;
COMMENT ON FUNCTION _bemi.register_source(text, text, name)
	IS 'internal: the transactional part of bemi.start()';
REVOKE ALL ON FUNCTION _bemi.register_source(text, text, name) FROM PUBLIC;

CREATE FUNCTION _bemi.unregister_source(source text)
	RETURNS boolean
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	slot name;
BEGIN
	DELETE FROM bemi.sources s
		WHERE s.name = source AND NOT s.slot_made AND s.system_identifier IS NULL
			AND s.desired = 'run'
		RETURNING s.slot_name INTO slot;
	IF FOUND THEN
		PERFORM pg_replication_origin_drop(_bemi.origin_of(source));
		-- The worker may have failed just after it had made the slot.
		PERFORM pg_drop_replication_slot(s.slot_name) FROM pg_replication_slots s
			WHERE s.slot_name = slot AND s.database = current_database() AND NOT s.active;
	END IF;
	RETURN slot IS NOT NULL;
END
$$;
COMMENT ON FUNCTION _bemi.unregister_source(text)
	IS 'internal: undoes _bemi.register_source(), if the source has no slot yet';
REVOKE ALL ON FUNCTION _bemi.unregister_source(text) FROM PUBLIC;

CREATE FUNCTION _bemi.set_desired_state(source text, desired text)
	RETURNS boolean
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- A row without an origin was copied with its database, and no worker reads it.
	IF set_desired_state.desired IN ('drop', 'force_drop') THEN
		DELETE FROM bemi.sources s WHERE s.name = source
			AND pg_replication_origin_oid(_bemi.origin_of(s.name)) IS NULL;
		IF FOUND THEN
			RETURN true;
		END IF;
	END IF;
	UPDATE bemi.sources s SET desired = set_desired_state.desired WHERE s.name = source;
	RETURN FOUND;
END
$$;
COMMENT ON FUNCTION _bemi.set_desired_state(text, text)
	IS 'internal: the transactional part of bemi.stop() and bemi.drop_source()';
REVOKE ALL ON FUNCTION _bemi.set_desired_state(text, text) FROM PUBLIC;

-- The server connects to a source with the rights of its own account. So only a superuser may
-- give connection strings.
CREATE FUNCTION _bemi.check_controller(source text, conninfo text, caller name, procedure text)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	owner name;
	role pg_roles;
BEGIN
	SELECT r.* INTO STRICT role FROM pg_roles r WHERE r.rolname = caller;
	SELECT s.owner INTO owner FROM bemi.sources s WHERE s.name = source;
	IF role.rolsuper OR role.rolreplication AND conninfo IS NULL
		AND (owner IS NULL OR EXISTS (SELECT FROM pg_roles r
			WHERE r.rolname = owner AND pg_has_role(caller, r.oid, 'USAGE'))) THEN
		RETURN;
	END IF;
	RAISE EXCEPTION 'permission denied to call %()', procedure
		USING ERRCODE = 'insufficient_privilege',
			DETAIL = CASE WHEN conninfo IS NOT NULL
				THEN 'Only a superuser may give a connection string.'
				ELSE format('You must be a superuser, or have REPLICATION and own source "%s".',
					source) END,
			HINT = CASE WHEN conninfo IS NOT NULL
					THEN format('Have a superuser start it, and then: '
						'SELECT bemi.set_source_owner(%L, %L);', source, caller)
				WHEN NOT role.rolreplication
					THEN format('As a superuser: ALTER ROLE %I REPLICATION;', caller)
				ELSE format('As a superuser: SELECT bemi.set_source_owner(%L, %L);',
					source, caller) END;
END
$$;
COMMENT ON FUNCTION _bemi.check_controller(text, text, name, text)
	IS 'internal: error unless the role may start, stop and drop the source';
REVOKE ALL ON FUNCTION _bemi.check_controller(text, text, name, text) FROM PUBLIC;

CREATE FUNCTION bemi.set_source_owner(source text, owner regrole)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE bemi.sources s SET owner = r.rolname FROM pg_roles r
		WHERE s.name = source AND r.oid = set_source_owner.owner;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'source "%" or its new owner does not exist', source
			USING ERRCODE = 'undefined_object',
				HINT = 'SELECT source, state FROM bemi.status; lists the sources.';
	END IF;
END
$$;
COMMENT ON FUNCTION bemi.set_source_owner(text, regrole)
	IS 'lets a role start, stop and drop a source; the role also needs REPLICATION, and EXECUTE '
		'on bemi.start(), bemi.stop() and bemi.drop_source()';
REVOKE ALL ON FUNCTION bemi.set_source_owner(text, regrole) FROM PUBLIC;

CREATE PROCEDURE bemi.start(name text DEFAULT 'main',
		conninfo text DEFAULT NULL, wait boolean DEFAULT true)
	AS 'MODULE_PATHNAME', 'bemi_start'
	LANGUAGE C;
COMMENT ON PROCEDURE bemi.start(text, text, boolean)
	IS 'starts to read a source, by default this database; every commit after the call is stored '
		'(wait => false: every commit after this transaction has committed and the slot is '
		'created)';
REVOKE ALL ON PROCEDURE bemi.start(text, text, boolean) FROM PUBLIC;

CREATE PROCEDURE bemi.stop(name text DEFAULT 'main')
	AS 'MODULE_PATHNAME', 'bemi_stop'
	LANGUAGE C;
COMMENT ON PROCEDURE bemi.stop(text)
	IS 'stops reading a source; its slot keeps the WAL for the next start';
REVOKE ALL ON PROCEDURE bemi.stop(text) FROM PUBLIC;

CREATE PROCEDURE bemi.drop_source(name text, force boolean DEFAULT false)
	AS 'MODULE_PATHNAME', 'bemi_drop_source'
	LANGUAGE C;
COMMENT ON PROCEDURE bemi.drop_source(text, boolean)
	IS 'stops reading a source and drops its slot; the history stays; force: keeps the slot of a '
		'source on another server, which may be unreachable';
REVOKE ALL ON PROCEDURE bemi.drop_source(text, boolean) FROM PUBLIC;

-- For bemi.sync(): after a restart, the row is there before the launcher has read it. SECURITY
-- DEFINER, because it reveals no more than bemi.sync().
CREATE FUNCTION _bemi.is_started()
	RETURNS boolean
	LANGUAGE sql VOLATILE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT EXISTS (SELECT FROM bemi.sources s
		WHERE s.desired = 'run' AND pg_replication_origin_oid(_bemi.origin_of(s.name)) IS NOT NULL)
$$;
COMMENT ON FUNCTION _bemi.is_started()
	IS 'internal: whether any source of this database is started';
REVOKE ALL ON FUNCTION _bemi.is_started() FROM PUBLIC;

CREATE FUNCTION bemi.sync(timeout interval DEFAULT NULL)
	RETURNS void
	AS 'MODULE_PATHNAME', 'bemi_sync'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION bemi.sync(interval)
	IS 'waits until everything committed before the call is in bemi.changes; error after the '
		'timeout; NULL: no timeout';
REVOKE ALL ON FUNCTION bemi.sync(interval) FROM PUBLIC;
