
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
		bemi.status, bemi.tracked, bemi.gaps, bemi.context_indexes, bemi.column_indexes,
		_bemi.indexes_on_demand', reader);
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
		-- bemi.context_indexes and bemi.column_indexes
		_bemi.index_definition(text, text, text),
		_bemi.index_states(text, text, regclass),
		_bemi.indexes_of(text),
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
	EXECUTE format(verb, 'SELECT ON
		bemi.changes, bemi.baselines, bemi.holds, bemi.schema_changes, bemi.transactions', reader);
	EXECUTE format(verb, 'EXECUTE ON FUNCTION
		bemi.as_of(anyelement, timestamptz, uuid, pg_lsn, boolean, interval),
		bemi.as_of_json(regclass, timestamptz, uuid, pg_lsn, boolean, interval),
		bemi.blame(regclass, text),
		bemi.changes_by_id(uuid[]),
		bemi.column_is_changed(text, jsonb, jsonb, text),
		bemi.context_is(jsonb, text, text),
		bemi.diff(jsonb, jsonb),
		bemi.diff_table(anyelement, timestamptz, timestamptz, boolean, interval),
		bemi.find_changes(regclass, text, name, jsonb, timestamptz, timestamptz, text, integer,
			uuid, jsonb),
		bemi.full_context(bemi.changes),
		bemi.history(regclass, text, integer, uuid),
		bemi.past(name, regnamespace, timestamptz, uuid, pg_lsn, boolean),
		bemi.row_as_of(anyelement, text, timestamptz, uuid, pg_lsn, boolean, interval),
		bemi.source_as_of_json(text, text, text, timestamptz, uuid, boolean),
		bemi.transaction(uuid),
		bemi.versions(anyelement, timestamptz, timestamptz, boolean, interval),
		_bemi.as_of_added_columns(regclass, text, uuid, timestamptz),
		_bemi.as_of_unknown_columns(regclass, text, uuid, timestamptz),
		_bemi.as_of_gap(regclass, text, timestamptz, pg_lsn, timestamptz, pg_lsn, uuid),
		_bemi.as_of_history(regclass),
		_bemi.as_of_ignored_columns(regclass, text, uuid, timestamptz),
		_bemi.base_of_past(text, text, text, uuid, timestamptz),
		_bemi.changed_columns(text, jsonb, jsonb),
		_bemi.changes_by_index(text, text, text, text[], text[], text, jsonb, jsonb, timestamptz,
			timestamptz, uuid, uuid, timestamptz, uuid, text, integer),
		_bemi.changes_by_plans(text, text, text, text[], text[], text, jsonb, jsonb, timestamptz,
			timestamptz, uuid, uuid, timestamptz, uuid, text, integer),
		_bemi.check_page(integer),
		_bemi.check_view_of_past(regclass, regnamespace),
		_bemi.column_of_today(text, text[], regclass, text, text),
		_bemi.dropped_columns(regclass, text, uuid, timestamptz),
		_bemi.end_of_past(text, timestamptz, uuid),
		_bemi.find_change(uuid),
		_bemi.gap_of_past(text, text, text, uuid, timestamptz, uuid, timestamptz, boolean),
		_bemi.former_column(text, jsonb),
		_bemi.has_several_sources(),
		_bemi.first_change_of(uuid),
		_bemi.history_of(regclass),
		_bemi.key_has_changed(text[], regclass),
		_bemi.key_columns(regclass),
		_bemi.key_from_image(regclass, jsonb),
		_bemi.key_from_user(regclass, text),
		_bemi.key_is_changed(text[], jsonb, jsonb),
		_bemi.json_members(text, text[]),
		_bemi.names_of_change(bemi.changes, text[], oid, text, text),
		_bemi.key_of_past(text[], jsonb, uuid),
		_bemi.key_text(jsonb, text),
		_bemi.key_of_texts(text[]),
		_bemi.no_dropped_value(text, jsonb, text[]),
		_bemi.no_past(anyelement, text, text),
		_bemi.partition_ranges(),
		_bemi.partition_times(),
		_bemi.read_changes(text, text, text, text[], text[], text, jsonb, jsonb, timestamptz,
			timestamptz, uuid, uuid, timestamptz, uuid, text, integer),
		_bemi.read_key(regclass, text),
		_bemi.reads_by_index(),
		_bemi.relations_of(regnamespace),
		_bemi.rename_members(jsonb, jsonb),
		_bemi.table_names(text[], oid, text, text),
		_bemi.tables_of_name(text[], text, text),
		_bemi.throw_no_history(regclass),
		_bemi.query_of_json(regclass, text, text, text, uuid, timestamptz, boolean),
		_bemi.replay(text, text, text, text[], uuid, timestamptz, uuid, boolean),
		_bemi.replay_copies(text, text, text, uuid, timestamptz, uuid),
		_bemi.replay_counts(text, text, text, uuid, timestamptz, uuid),
		_bemi.source_key(text, text, text, uuid),
		_bemi.wrong_change_of_past(text, uuid),
		_bemi.wrong_key_of_past(jsonb),
		_bemi.reverts_of(uuid),
		_bemi.transaction_changes(),
		_bemi.transaction_range(uuid),
		-- bemi.plan_revert() and the like, which write with the rights of their caller
		_bemi.has_following_rows(regclass[]),
		_bemi.has_writing_triggers(regclass[]),
		_bemi.restore_query(regclass, text, timestamptz, uuid, pg_lsn, interval),
		_bemi.revert_added(text, text),
		_bemi.revert_apply(text, text),
		_bemi.revert_cause(regclass, name[], text),
		_bemi.revert_changes(regclass, text, boolean, text),
		_bemi.revert_columns(regclass),
		_bemi.revert_condition(uuid[], uuid, jsonb, timestamptz, timestamptz, boolean),
		_bemi.revert_complete_set(text, bigint[], uuid[]),
		_bemi.revert_context(jsonb, text),
		_bemi.revert_events(integer, regclass, text, text),
		_bemi.revert_foreign_keys(regclass[]),
		_bemi.revert_followers(regclass),
		_bemi.revert_generated(regclass),
		_bemi.revert_has_name(text, text, uuid, uuid),
		_bemi.revert_hidden_children(regclass[]),
		_bemi.revert_hidden(uuid[], uuid, jsonb, timestamptz, timestamptz, bigint[]),
		_bemi.revert_history(regclass, text[], bigint[], uuid, timestamptz),
		_bemi.revert_identity(integer, regclass, boolean),
		_bemi.revert_in_the_way(regclass[], text[], bigint[], uuid, timestamptz),
		_bemi.revert_is_comparable(oid),
		_bemi.revert_key(regclass),
		_bemi.revert_key_value(regclass, text, name, text, boolean),
		_bemi.revert_later(integer, regclass, text, text, text),
		_bemi.revert_lost_table(integer, text, text, text),
		_bemi.revert_member(text, name),
		_bemi.revert_mends(regclass),
		_bemi.revert_missing_parents(regclass[]),
		_bemi.revert_moved(),
		_bemi.revert_names(regclass, text[]),
		_bemi.revert_new_children(regclass[]),
		_bemi.revert_no_partition(regclass[]),
		_bemi.revert_numbered(),
		_bemi.revert_of(uuid[], uuid[]),
		_bemi.revert_of_steps(),
		_bemi.revert_only(regclass),
		_bemi.revert_order(regclass[]),
		_bemi.revert_partial(regclass[], bigint),
		_bemi.revert_plain(integer, regclass, text, text, text, text[]),
		_bemi.revert_reading(regclass, text[]),
		_bemi.revert_queries(text, jsonb, bigint[], text, boolean, boolean, uuid),
		_bemi.revert_referenced(regclass[]),
		_bemi.revert_row_now(regclass, text[]),
		_bemi.revert_same_key(regclass, text),
		_bemi.revert_same_value(regclass, text),
		_bemi.revert_set(integer, regclass, text, text, text),
		_bemi.revert_statement(regclass, text, text[], bigint),
		_bemi.revert_steps(integer, regclass),
		_bemi.revert_tables(jsonb, text, text[]),
		_bemi.revert_taken(regclass[]),
		_bemi.revert_text(regclass),
		_bemi.revert_fired(regclass),
		_bemi.revert_triggers(regclass, integer),
		_bemi.revert_truncated(regclass, text, text),
		_bemi.revert_tuple(text, text),
		_bemi.revert_unfit(regclass[], bigint),
		_bemi.revert_unique(regclass[]),
		_bemi.revert_unmet(regclass[], bigint),
		_bemi.revert_violated(),
		_bemi.revert_visible(bigint[]),
		_bemi.unfit_values(jsonb, text),
		_bemi.why_unfit(jsonb, text),
		bemi.plan_revert(uuid[], uuid, jsonb, timestamptz, timestamptz, text, interval, jsonb),
		bemi.restore(regclass, text, timestamptz, uuid, pg_lsn, interval),
		bemi.revert(uuid[], uuid, jsonb, timestamptz, timestamptz, text, text, interval,
			jsonb)', reader);
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
		'tracked, context_indexes, column_indexes, complete(), completeness(), sync()';
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
