
--
-- Readers: all rights that reading needs
--

-- A view calls its functions with the rights of its reader.
CREATE FUNCTION _bemi.set_monitoring(reader regrole, granted boolean)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	verb text := CASE WHEN granted THEN 'GRANT %s TO %s' ELSE 'REVOKE %s FROM %s' END;
BEGIN
	EXECUTE format(verb, 'USAGE ON SCHEMA bemi, _bemi', reader);
	EXECUTE format(verb, 'SELECT ON
		bemi.status, bemi.tracked, bemi.gaps, bemi.context_indexes, _bemi.context_index_keys',
		reader);
	EXECUTE format(verb, 'EXECUTE ON FUNCTION
		bemi.complete(regclass, timestamptz, timestamptz),
		bemi.completeness(regclass, timestamptz, timestamptz),
		bemi.source_complete(text, text, text, timestamptz, timestamptz),
		bemi.source_completeness(text, text, text, timestamptz, timestamptz),
		bemi.sync(interval),
		_bemi.is_started(),
		-- bemi.status
		_bemi.history_warning(),
		_bemi.local_slots(),
		_bemi.lock_wait(integer),
		_bemi.origin_of(text),
		_bemi.source_status(),
		_bemi.why_no_worker(),
		-- bemi.context_indexes
		_bemi.context_index_definition(text),
		_bemi.context_index_states(text, regclass),
		-- bemi.tracked
		_bemi.columnless_rules(regclass, regclass),
		_bemi.has_bad_rules(regclass),
		_bemi.has_trigger(regclass),
		_bemi.is_of_extension(regclass),
		_bemi.is_published(regclass),
		_bemi.partition_root(regclass),
		_bemi.rules(regclass),
		_bemi.this_database(),
		_bemi.tracked_with_root(regclass),
		_bemi.pending_detach(regclass),
		_bemi.unstored_partition(regclass),
		_bemi.untrackable(regclass)', reader);
END
$$;
COMMENT ON FUNCTION _bemi.set_monitoring(regrole, boolean)
	IS 'internal: grants or revokes the right to see the state of sources and tracked tables';
REVOKE ALL ON FUNCTION _bemi.set_monitoring(regrole, boolean) FROM PUBLIC;

-- The functions of sql/query call those of _bemi with the rights of their caller.
CREATE FUNCTION _bemi.set_reading(reader regrole, granted boolean)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	verb text := CASE WHEN granted THEN 'GRANT %s TO %s' ELSE 'REVOKE %s FROM %s' END;
BEGIN
	EXECUTE format(verb, 'SELECT ON bemi.changes, bemi.holds, bemi.transactions', reader);
	EXECUTE format(verb, 'EXECUTE ON FUNCTION
		bemi.blame(regclass, text),
		bemi.context_is(jsonb, text, text),
		bemi.diff(jsonb, jsonb),
		bemi.find_changes(regclass, text, name, jsonb, timestamptz, timestamptz, text, integer,
			uuid),
		bemi.full_context(bemi.changes),
		bemi.history(regclass, text, integer, uuid),
		bemi.transaction(uuid),
		_bemi.changed_columns(text, jsonb, jsonb),
		_bemi.check_page(integer),
		_bemi.find_change(uuid),
		_bemi.has_several_sources(),
		_bemi.history_of(regclass),
		_bemi.key_columns(regclass),
		_bemi.key_from_image(regclass, jsonb),
		_bemi.key_from_user(regclass, text),
		_bemi.key_text(jsonb, text),
		_bemi.key_of_texts(text[]),
		_bemi.partition_ranges(),
		_bemi.partition_times(),
		_bemi.transaction_changes()', reader);
END
$$;
COMMENT ON FUNCTION _bemi.set_reading(regrole, boolean)
	IS 'internal: grants or revokes the right to read the history';
REVOKE ALL ON FUNCTION _bemi.set_reading(regrole, boolean) FROM PUBLIC;

CREATE FUNCTION _bemi.check_reader(reader regrole)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = reader) THEN
		RAISE EXCEPTION 'reader role does not exist' USING ERRCODE = 'undefined_object';
	-- A GRANT that has no effect is a warning only.
	ELSIF NOT (SELECT pg_has_role(current_user, e.extowner, 'USAGE')
		FROM pg_extension e WHERE e.extname = 'bemi') THEN
		RAISE EXCEPTION 'permission denied to grant or revoke reading'
			USING ERRCODE = 'insufficient_privilege',
				DETAIL = 'You must be a superuser or a member of the role that owns '
					'extension bemi.';
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.check_reader(regrole)
	IS 'internal: error unless the role exists and the current user may grant it the right to read';
REVOKE ALL ON FUNCTION _bemi.check_reader(regrole) FROM PUBLIC;

CREATE FUNCTION bemi.grant_read(reader regrole)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM _bemi.check_reader(reader);
	PERFORM _bemi.set_monitoring(reader, true);
	PERFORM _bemi.set_reading(reader, true);
END
$$;
COMMENT ON FUNCTION bemi.grant_read(regrole)
	IS 'lets a role read the history and its completeness: bemi.changes, gaps, holds, status, '
		'tracked, context_indexes, complete(), completeness(), sync()';
REVOKE ALL ON FUNCTION bemi.grant_read(regrole) FROM PUBLIC;

CREATE FUNCTION bemi.revoke_read(reader regrole)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM _bemi.check_reader(reader);
	PERFORM _bemi.set_monitoring(reader, false);
	PERFORM _bemi.set_reading(reader, false);
END
$$;
COMMENT ON FUNCTION bemi.revoke_read(regrole)
	IS 'revokes the rights that bemi.grant_read() granted';
REVOKE ALL ON FUNCTION bemi.revoke_read(regrole) FROM PUBLIC;
