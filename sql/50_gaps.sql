
--
-- Gaps: what may be missing from the history
--
-- Positions and times are those of the source. A gap without a table concerns all
-- tables of the source, a gap without a source all sources. The worker records gaps
-- in order with the changes.
--

CREATE FUNCTION _bemi.default_detail(reason text)
	RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE reason
		WHEN 'source_started'
			THEN 'The source was started for the first time. '
				'What was committed before is not in the history.'
		WHEN 'source_dropped'
			THEN 'The source was dropped. '
				'What is committed until it is started again is not in the history.'
		WHEN 'slot_dropped'
			THEN 'The replication slot did not exist any more when the worker connected.'
		WHEN 'slot_lost'
			THEN 'The server invalidated the replication slot, '
				'usually because it removed write-ahead log that the slot needed.'
		WHEN 'max_slot_lag'
			THEN 'The replication slot kept more write-ahead log than bemi.max_slot_lag, '
				'and was dropped.'
		WHEN 'slot_unreadable' THEN 'The source fails to decode its write-ahead log.'
		WHEN 'transaction_unreadable'
			THEN 'The source fails to decode a transaction, and the worker skipped it.'
		WHEN 'server_changed' THEN 'The source is another server or another database than before.'
		WHEN 'history_moved' THEN 'The history came with a dump, or its database was copied.'
		WHEN 'timeline_changed'
			THEN 'The source is on another timeline, '
				'because a standby was promoted or a backup was restored.'
		WHEN 'source_went_back' THEN 'The source was put back to an earlier state.'
		WHEN 'history_went_back'
			THEN 'This database was put back to an earlier state, or the slot was advanced by hand.'
		WHEN 'tracking_began' THEN 'The table was not tracked before.'
		WHEN 'tracking_ended'
			THEN 'The table is not tracked any more, or the publication leaves out a part of it.'
		WHEN 'rows_changed_by_ddl'
			THEN 'A command changed rows of the table without a change for each.'
		WHEN 'retention' THEN 'Partitions older than bemi.retention were dropped.'
		-- of bemi.completeness() alone
		WHEN 'not_tracked' THEN 'No time is known at which the table was tracked.'
		WHEN 'not_stored_yet'
			THEN 'The worker has not stored everything up to the end of the time range.'
		WHEN 'no_source' THEN 'No source reads this database.'
	END
$$;
COMMENT ON FUNCTION _bemi.default_detail(text)
	IS 'internal: sentence that explains a reason of bemi.gaps or bemi.completeness(), NULL if '
		'there is no such reason';
REVOKE ALL ON FUNCTION _bemi.default_detail(text) FROM PUBLIC;

CREATE FUNCTION _bemi.record_description(source text, relation oid, description jsonb)
	RETURNS void
	LANGUAGE sql
	SET search_path = pg_catalog, pg_temp
AS $$
	DELETE FROM _bemi.source_relations r WHERE r.source = $1 AND r.relation = $2 AND $3 IS NULL;
	INSERT INTO _bemi.source_relations AS r SELECT $1, $2, $3 WHERE $3 IS NOT NULL
		ON CONFLICT ON CONSTRAINT source_relations_pkey DO UPDATE
			SET description = excluded.description
				|| CASE WHEN excluded.description ? 'rules'
					THEN (SELECT coalesce(jsonb_object_agg(e.key, e.value), '{}')
						FROM jsonb_each(r.description) e
						WHERE e.key IN ('ignore', 'redact', 'redact_hash'))
					ELSE '{}' END;
$$;
COMMENT ON FUNCTION _bemi.record_description(text, oid, jsonb)
	IS 'internal: records the description of a table, as read by the worker; NULL: the table was '
		'dropped';
REVOKE ALL ON FUNCTION _bemi.record_description(text, oid, jsonb) FROM PUBLIC;

CREATE FUNCTION _bemi.mark_descriptions_stale(source text)
	RETURNS void
	LANGUAGE sql
	SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE _bemi.source_relations r SET description = r.description || '{"stale": true}'
		WHERE r.source = $1
$$;
COMMENT ON FUNCTION _bemi.mark_descriptions_stale(text)
	IS 'internal: marks all descriptions of a source as stale; the worker then also queries the '
		'source about a table, until the source sends its description again';
REVOKE ALL ON FUNCTION _bemi.mark_descriptions_stale(text) FROM PUBLIC;

CREATE FUNCTION _bemi.last_stored(source text, from_lsn pg_lsn, to_lsn pg_lsn,
		OUT commit_lsn pg_lsn, OUT committed_at timestamptz, OUT transaction_id bigint)
	AS 'MODULE_PATHNAME', 'bemi_last_stored'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION _bemi.last_stored(text, pg_lsn, pg_lsn)
	IS 'internal: last stored transaction of a source that committed in this range; NULLs if '
		'there is none';
REVOKE ALL ON FUNCTION _bemi.last_stored(text, pg_lsn, pg_lsn) FROM PUBLIC;

CREATE FUNCTION _bemi.last_stored_time(source text, before_lsn pg_lsn)
	RETURNS timestamptz
	AS 'MODULE_PATHNAME', 'bemi_last_stored_time'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION _bemi.last_stored_time(text, pg_lsn)
	IS 'internal: latest commit time, not in the future, of the stored changes of a source that '
		'committed before this LSN';
REVOKE ALL ON FUNCTION _bemi.last_stored_time(text, pg_lsn) FROM PUBLIC;

-- The gap has no end yet. It begins a tenth of a second before "until", the time up to which the
-- history is known to be complete: the source has written all commits of earlier times before
-- until_lsn. If the source went back, that must be true of the position that it went back to. If it
-- is not, _bemi.source_progress may have an older pair.
--
-- A change that was committed after until_lsn with an earlier time proves that the source's clock
-- was set back since. Then, or if nothing is known, the gap begins a second before the last change.
-- That is the last one in commit order, because a change with a later time may have committed
-- before the clock was set back. The second is there because commit times are not exactly in
-- commit order. Times in the future come from a clock that was ahead, and are not used. A gap that
-- is open already began earlier. It stays, unless the source went back to before it.
--
-- If nothing proves that the source still has what is stored, the gap begins at -infinity, and the
-- detail ends with the statement that shortens it.
CREATE FUNCTION _bemi.open_gap(source text, reason text, from_lsn pg_lsn, detail text,
		until timestamptz, until_lsn pg_lsn, goes_back boolean, proven boolean)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	last record;
	gap bigint;
	former bemi.gaps;
BEGIN
	SELECT g.* INTO former FROM bemi.gaps g
		WHERE g.source = open_gap.source AND g."table" IS NULL AND g.to_time IS NULL;
	IF FOUND AND proven AND NOT goes_back THEN
		RETURN;
	END IF;
	IF goes_back AND (until_lsn <= from_lsn) IS NOT TRUE THEN
		SELECT p.stored_until, p.stored_lsn INTO until, until_lsn FROM _bemi.source_progress p
			WHERE p.source = open_gap.source AND p.stored_lsn <= from_lsn;
	END IF;
	SELECT l.commit_lsn, l.committed_at INTO last FROM (
			SELECT s.commit_lsn, s.committed_at
				FROM _bemi.last_stored(open_gap.source, '0/0', from_lsn) s
			UNION ALL SELECT p.changed_lsn, p.changed_at FROM _bemi.source_progress p
				WHERE p.source = open_gap.source AND p.changed_lsn < from_lsn
		) l ORDER BY l.commit_lsn DESC NULLS LAST LIMIT 1;
	IF until IS NULL OR until > clock_timestamp()
		OR last.commit_lsn >= until_lsn AND last.committed_at < until THEN
		until := last.committed_at - interval '1 second';
	ELSE
		until := until - interval '100 milliseconds';
	END IF;
	IF until > clock_timestamp() THEN
		until := _bemi.last_stored_time(source, from_lsn) - interval '1 second';
	END IF;
	-- Nothing that is stored has a usable time. Since the end of the last gap, nothing was lost.
	IF until IS NULL THEN
		SELECT max(g.to_time) INTO until FROM bemi.gaps g
			WHERE g.source = open_gap.source AND g."table" IS NULL
				AND g.to_lsn <= open_gap.from_lsn AND g.to_time <= clock_timestamp();
	END IF;
	IF former.id IS NULL THEN
		INSERT INTO bemi.gaps (source, reason, from_lsn, from_time, detail)
			VALUES (source, reason, CASE WHEN proven THEN nullif(from_lsn, '0/0') END,
				CASE WHEN proven THEN coalesce(until, '-infinity') ELSE '-infinity' END,
				coalesce(detail, _bemi.default_detail(reason)))
			RETURNING id INTO gap;
	ELSE
		UPDATE bemi.gaps g
			SET from_lsn = CASE WHEN proven THEN nullif(open_gap.from_lsn, '0/0') END,
				from_time = CASE WHEN proven THEN coalesce(until, '-infinity') ELSE '-infinity' END,
				detail = concat_ws(' ', former.detail, open_gap.detail)
			WHERE g.id = former.id AND g.from_time
				> CASE WHEN proven THEN coalesce(until, '-infinity') ELSE '-infinity' END
			RETURNING g.id INTO gap;
	END IF;
	UPDATE bemi.gaps g
		SET detail = format('%s UPDATE bemi.gaps SET from_time = %L WHERE id = %s;', g.detail,
			coalesce(least(until, former.from_time)::text, '...'), gap)
		WHERE g.id = gap AND NOT proven;
END
$$;
COMMENT ON FUNCTION _bemi.open_gap(text, text, pg_lsn, text, timestamptz, pg_lsn, boolean, boolean)
	IS 'internal: records that changes of all tables of a source are lost from this LSN on';
REVOKE ALL ON FUNCTION
	_bemi.open_gap(text, text, pg_lsn, text, timestamptz, pg_lsn, boolean, boolean) FROM PUBLIC;

-- A worker that ends before its origin has moved calls this again for the same transaction.
CREATE FUNCTION _bemi.record_skipped(source text, from_lsn pg_lsn, to_lsn pg_lsn,
		from_time timestamptz, to_time timestamptz, detail text)
	RETURNS void
	LANGUAGE sql
	SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO bemi.gaps (source, reason, from_lsn, to_lsn, from_time, to_time, detail)
		SELECT $1, 'transaction_unreadable', $2, $3, $4, $5, $6
		WHERE NOT EXISTS (SELECT FROM bemi.gaps g
			WHERE g.source = $1 AND g.schema IS NULL AND g."table" IS NULL
			AND g.reason = 'transaction_unreadable' AND g.to_lsn = $3 AND g.to_time = $5)
$$;
COMMENT ON FUNCTION _bemi.record_skipped(text, pg_lsn, pg_lsn, timestamptz, timestamptz, text)
	IS 'internal: records the gap of a transaction that the source cannot decode and the worker '
		'skips';
REVOKE ALL ON FUNCTION _bemi.record_skipped(text, pg_lsn, pg_lsn, timestamptz, timestamptz, text)
	FROM PUBLIC;

-- A table that is known by this name, OID and server gets no gap. A table that was dropped and
-- created again has a gap in between. Any other table was not tracked before.
CREATE FUNCTION _bemi.begin_tracking(source text, server text, relation oid,
		schema text, "table" text,
		at_lsn pg_lsn, at_time timestamptz, is_first boolean DEFAULT false)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	former record;
	former_name text;
BEGIN
	IF EXISTS (SELECT FROM _bemi.source_tables t WHERE t.source = begin_tracking.source
		AND t.schema = begin_tracking.schema AND t."table" = begin_tracking."table"
		AND t.server = begin_tracking.server AND t.relation = begin_tracking.relation) THEN
		RETURN;
	END IF;
	-- Another table had the name. On another server, it may be the same one, restored from a
	-- dump. On the same server, the other table was dropped at an unknown time.
	IF EXISTS (SELECT FROM _bemi.source_tables t
		WHERE t.source = begin_tracking.source AND t.server <> begin_tracking.server
			AND t.schema = begin_tracking.schema AND t."table" = begin_tracking."table") THEN
		UPDATE _bemi.source_tables t
			SET relation = begin_tracking.relation, server = begin_tracking.server
			WHERE t.source = begin_tracking.source AND t.schema = begin_tracking.schema
				AND t."table" = begin_tracking."table";
		RETURN;
	END IF;
	PERFORM _bemi.end_tracking(t.source, t.schema, t."table", NULL,
			coalesce((SELECT max(g.to_time) FROM bemi.gaps g
				WHERE g.source = t.source
					AND (g."table" IS NULL OR g.schema = t.schema AND g."table" = t."table")
					AND g.to_time <= at_time), '-infinity'),
			'Another table of this name was dropped at an unknown time.')
		FROM _bemi.source_tables t
		WHERE t.source = begin_tracking.source AND t.schema = begin_tracking.schema
			AND t."table" = begin_tracking."table";

	FOR former IN SELECT t.schema, t."table" FROM _bemi.source_tables t
		WHERE t.source = begin_tracking.source AND t.server = begin_tracking.server
			AND t.relation = begin_tracking.relation
	LOOP
		former_name := format('%I.%I', former.schema, former."table");
		PERFORM _bemi.end_tracking(begin_tracking.source, former.schema, former."table",
			at_lsn, at_time,
			format('It was renamed to %I.%I.', begin_tracking.schema, begin_tracking."table"));
	END LOOP;

	UPDATE bemi.gaps g SET to_lsn = at_lsn, to_time = at_time,
			from_time = CASE WHEN g.from_time <= at_time THEN g.from_time ELSE '-infinity' END
		WHERE g.source = begin_tracking.source AND g.schema = begin_tracking.schema
			AND g."table" = begin_tracking."table" AND g.to_time IS NULL;
	IF NOT FOUND AND NOT is_first THEN
		INSERT INTO bemi.gaps (source, schema, "table", reason, from_time, to_lsn, to_time, detail)
			VALUES (begin_tracking.source, begin_tracking.schema, begin_tracking."table",
				'tracking_began', '-infinity', at_lsn, at_time,
				coalesce('Before, it was ' || former_name || '.',
					_bemi.default_detail('tracking_began')));
	END IF;
	INSERT INTO _bemi.source_tables
		VALUES (begin_tracking.source, begin_tracking.schema, begin_tracking."table",
		begin_tracking.relation, begin_tracking.server);
END
$$;
COMMENT ON FUNCTION _bemi.begin_tracking(text, text, oid, text, text, pg_lsn, timestamptz, boolean)
	IS 'internal: records that a table is tracked from here on (is_first: it was tracked before, '
		'too, but the source was not read)';
REVOKE ALL ON FUNCTION
	_bemi.begin_tracking(text, text, oid, text, text, pg_lsn, timestamptz, boolean) FROM PUBLIC;

-- A table that is created and dropped all day would get a gap each time. So the oldest gaps of a
-- table become one, which also covers the times between them: an incomplete time never counts as
-- complete.
CREATE FUNCTION _bemi.merge_gaps(source text, schema text, "table" text)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	kept CONSTANT integer := 100;
	oldest bigint[];
	last bemi.gaps;
BEGIN
	SELECT (array_agg(g.id ORDER BY g.from_time, g.id))[:count(*) - kept] INTO oldest
		FROM bemi.gaps g
		WHERE g.source = merge_gaps.source AND g.schema = merge_gaps.schema
			AND g."table" = merge_gaps."table" AND g.to_time IS NOT NULL;
	IF coalesce(cardinality(oldest), 0) < 2 THEN
		RETURN;
	END IF;
	SELECT g.* INTO last FROM bemi.gaps g
		WHERE g.id = ANY (oldest) ORDER BY g.to_time DESC, g.id DESC LIMIT 1;
	UPDATE bemi.gaps g SET to_lsn = last.to_lsn, to_time = last.to_time,
			noticed_at = clock_timestamp(),
			detail = 'Several gaps, and the times between them.'
		WHERE g.id = oldest[1];
	DELETE FROM bemi.gaps g WHERE g.id = ANY (oldest[2:]);
END
$$;
COMMENT ON FUNCTION _bemi.merge_gaps(text, text, text)
	IS 'internal: merges the oldest gaps of a table into one, if it has more than 100';
REVOKE ALL ON FUNCTION _bemi.merge_gaps(text, text, text) FROM PUBLIC;

CREATE FUNCTION _bemi.end_tracking(source text, schema text, "table" text, at_lsn pg_lsn,
		at_time timestamptz, detail text)
	RETURNS void
	LANGUAGE sql
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH ended AS (
		DELETE FROM _bemi.source_tables t
			WHERE t.source = $1 AND t.schema = $2 AND t."table" = $3 RETURNING *
	)
	INSERT INTO bemi.gaps (source, schema, "table", reason, from_lsn, from_time, detail)
		SELECT e.source, e.schema, e."table", 'tracking_ended', $4, $5,
				coalesce($6, _bemi.default_detail('tracking_ended'))
			FROM ended e;
	SELECT _bemi.merge_gaps($1, $2, $3);
$$;
COMMENT ON FUNCTION _bemi.end_tracking(text, text, text, pg_lsn, timestamptz, text)
	IS 'internal: records that a table is no longer tracked';
REVOKE ALL ON FUNCTION _bemi.end_tracking(text, text, text, pg_lsn, timestamptz, text) FROM PUBLIC;

-- After a restart, the worker reads again the WAL after the last stored change. A tracking
-- message in it must not undo what a later transaction has done, if that is already recorded.
-- Messages of the same transaction are applied, because one transaction can track and untrack a
-- table.
CREATE FUNCTION _bemi.is_tracking_known(source text, schema text, "table" text, at_lsn pg_lsn,
		at_time timestamptz)
	RETURNS boolean
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT EXISTS (SELECT FROM bemi.gaps g WHERE g.source = $1 AND g.schema = $2 AND g."table" = $3
		AND g.reason <> 'rows_changed_by_ddl'
		AND (g.from_lsn > $4 AND g.from_time >= $5 OR g.to_lsn > $4 AND g.to_time >= $5))
$$;
COMMENT ON FUNCTION _bemi.is_tracking_known(text, text, text, pg_lsn, timestamptz)
	IS 'internal: whether it is already recorded that a later transaction tracked or untracked '
		'the table';
REVOKE ALL ON FUNCTION _bemi.is_tracking_known(text, text, text, pg_lsn, timestamptz) FROM PUBLIC;

-- The gap begins a microsecond before the commit and ends a microsecond after it. Several
-- commands of a transaction make one gap.
CREATE FUNCTION _bemi.record_changed_rows(source text, server text, relation oid, at_lsn pg_lsn,
		at_time timestamptz, detail text)
	RETURNS void
	LANGUAGE sql
	SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO bemi.gaps
			(source, schema, "table", reason, from_lsn, to_lsn, from_time, to_time, detail)
		SELECT t.source, t.schema, t."table", 'rows_changed_by_ddl', $4, $4, e.from_time, e.to_time,
			coalesce($6, _bemi.default_detail('rows_changed_by_ddl'))
		FROM _bemi.source_tables t,
			-- Commit times can be as far off as the type allows.
			(SELECT CASE WHEN $5 > '4714-11-24 00:00:00+00 BC'
						THEN $5 - interval '1 microsecond' ELSE $5 END,
					CASE WHEN $5 < '294276-12-31 23:59:59.999999+00'
						THEN $5 + interval '1 microsecond' ELSE $5 END) e(from_time, to_time)
		WHERE t.source = $1 AND t.server = $2 AND t.relation = $3
			AND NOT EXISTS (SELECT FROM bemi.gaps g
				WHERE g.source = $1 AND g.schema = t.schema AND g."table" = t."table"
				AND g.reason = 'rows_changed_by_ddl' AND g.to_lsn = $4 AND g.to_time = e.to_time);
	SELECT _bemi.merge_gaps(t.source, t.schema, t."table") FROM _bemi.source_tables t
		WHERE t.source = $1 AND t.server = $2 AND t.relation = $3;
$$;
COMMENT ON FUNCTION _bemi.record_changed_rows(text, text, oid, pg_lsn, timestamptz, text)
	IS 'internal: records that a command changed rows of a table without a change for each';
REVOKE ALL ON FUNCTION _bemi.record_changed_rows(text, text, oid, pg_lsn, timestamptz, text)
	FROM PUBLIC;

-- The worker has verified the signature (see src/stream/verify.c). But every user can copy a
-- signed message into another transaction, so the message names its transaction.
CREATE FUNCTION _bemi.apply_tracking(source text, server text, database text, transaction xid,
		message jsonb, at_lsn pg_lsn, at_time timestamptz, id uuid, context jsonb)
	RETURNS boolean
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF message ->> 'transaction' IS DISTINCT FROM transaction::text THEN
		RETURN false;
	END IF;
	IF message ->> 'event' = 'rows changed' THEN
		PERFORM _bemi.record_changed_rows(source, server, (message ->> 'relation')::oid, at_lsn,
			at_time, message ->> 'detail');
		PERFORM _bemi.record_schema_change(source, server, database, message, id, at_time, context);
		RETURN true;
	END IF;
	PERFORM _bemi.record_description(source, (message ->> 'relation')::oid,
		nullif(message -> 'description', 'null'));
	PERFORM _bemi.record_schema_change(source, server, database, message, id, at_time, context);
	IF _bemi.is_tracking_known(source, message ->> 'schema', message ->> 'table',
		at_lsn, at_time) THEN
		RETURN true;
	ELSIF message ->> 'event' = 'began' THEN
		PERFORM _bemi.begin_tracking(source, server, (message ->> 'relation')::oid,
			message ->> 'schema', message ->> 'table', at_lsn, at_time);
	ELSE
		-- Under each name that the source has for it.
		PERFORM _bemi.end_tracking(t.source, t.schema, t."table", at_lsn, at_time,
				message ->> 'detail')
			FROM _bemi.source_tables t
			WHERE t.source = apply_tracking.source
				AND (t.schema = message ->> 'schema' AND t."table" = message ->> 'table'
				OR t.server = apply_tracking.server AND t.relation = (message ->> 'relation')::oid);
	END IF;
	RETURN true;
END
$$;
COMMENT ON FUNCTION _bemi.apply_tracking(text, text, text, xid, jsonb, pg_lsn, timestamptz, uuid,
	jsonb)
	IS 'internal: applies a tracking message, see src/track/message.c; false if it was not '
		'written in this transaction';
REVOKE ALL ON FUNCTION _bemi.apply_tracking(text, text, text, xid, jsonb, pg_lsn, timestamptz,
	uuid, jsonb) FROM PUBLIC;

-- A dropped table without gaps counts as never tracked, and is complete at no time. So its gaps
-- can be deleted when its history was dropped, and the oldest when more than 10000 dropped tables
-- are known. Each worker does this for its own source and for dropped sources, for at most 1000
-- tables of a source at a time.
CREATE FUNCTION _bemi.forget_gone_tables(source text)
	RETURNS integer
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	remembered CONSTANT integer := 10000;
	dropped_until timestamptz := (SELECT max(g.to_time) FROM bemi.gaps g
		WHERE g.source IS NULL AND g."table" IS NULL AND g.reason = 'retention');
	owner text;
	surplus timestamptz;
	gone record;
	forgotten integer := 0;
BEGIN
	FOR owner IN SELECT forget_gone_tables.source
		UNION SELECT t.source FROM _bemi.source_tables t
			WHERE NOT EXISTS (SELECT FROM bemi.sources s WHERE s.name = t.source)
	LOOP
		SELECT g.from_time INTO surplus FROM bemi.gaps g
			WHERE g.source = owner AND g."table" IS NOT NULL AND g.to_time IS NULL
			ORDER BY g.from_time DESC OFFSET remembered LIMIT 1;
		FOR gone IN SELECT g.schema, g."table" FROM bemi.gaps g
			WHERE g.source = owner AND g."table" IS NOT NULL AND g.to_time IS NULL
				AND g.from_time <= greatest(dropped_until, surplus)
				AND NOT EXISTS (SELECT FROM _bemi.source_tables t
					WHERE t.source = owner AND t.schema = g.schema AND t."table" = g."table")
			ORDER BY g.from_time LIMIT 1000
		LOOP
			DELETE FROM bemi.gaps g
				WHERE g.source = owner AND g.schema = gone.schema AND g."table" = gone."table";
			forgotten := forgotten + 1;
		END LOOP;
	END LOOP;
	RETURN forgotten;
END
$$;
COMMENT ON FUNCTION _bemi.forget_gone_tables(text)
	IS 'internal: deletes the gaps of dropped tables whose history was dropped, and of the '
		'oldest dropped tables if there are very many; returns the number of these tables';
REVOKE ALL ON FUNCTION _bemi.forget_gone_tables(text) FROM PUBLIC;

CREATE FUNCTION _bemi.compare_published(source text, server text,
		end_lsn pg_lsn, end_time timestamptz,
		begin_lsn pg_lsn, begin_time timestamptz, published json, is_first boolean)
	RETURNS void
	LANGUAGE sql
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT _bemi.end_tracking(t.source, t.schema, t."table", $3, $4,
		'It was no longer in the publication.')
		FROM _bemi.source_tables t WHERE t.source = $1
			AND NOT EXISTS (
				SELECT FROM json_to_recordset($7)
					p(relation oid, schema text, "table" text, complete boolean)
				WHERE p.schema = t.schema AND p."table" = t."table" AND p.complete
					AND (p.relation = t.relation OR t.server <> $2));
	SELECT _bemi.begin_tracking($1, $2, p.relation, p.schema, p."table", $5, $6, $8)
		FROM json_to_recordset($7) p(relation oid, schema text, "table" text, complete boolean)
		WHERE p.complete;
$$;
COMMENT ON FUNCTION
	_bemi.compare_published(text, text, pg_lsn, timestamptz, pg_lsn, timestamptz, json, boolean)
	IS 'internal: compares the tables that the publication lists with the recorded ones, and '
		'records the differences';
REVOKE ALL ON FUNCTION
	_bemi.compare_published(text, text, pg_lsn, timestamptz, pg_lsn, timestamptz, json, boolean)
	FROM PUBLIC;

-- Every commit from here on is read. If the source is new, tables that the publication listed
-- before the slot was created, and still lists, get no gap of their own. Tables that were added
-- since get one.
CREATE FUNCTION _bemi.close_gap(source text, server text, at_lsn pg_lsn, at_time timestamptz,
		before json, published json, descriptions json)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	is_first boolean := false;
	still json;
BEGIN
	-- A clock that was ahead may have let it begin in the future.
	UPDATE bemi.gaps g SET to_lsn = at_lsn, to_time = at_time,
			from_time = CASE WHEN g.from_time <= at_time THEN g.from_time ELSE '-infinity' END
		WHERE g.source = close_gap.source AND g."table" IS NULL AND g.to_time IS NULL;
	IF NOT FOUND THEN
		is_first := true;
		INSERT INTO bemi.gaps (source, reason, from_time, to_lsn, to_time, detail)
			VALUES (close_gap.source, 'source_started', '-infinity', at_lsn, at_time,
				_bemi.default_detail('source_started'));
	END IF;

	SELECT coalesce(json_agg(p), '[]') INTO still
		FROM json_to_recordset(published)
			p(relation oid, schema text, "table" text, complete boolean)
		WHERE EXISTS (SELECT FROM json_to_recordset(before) b(relation oid, complete boolean)
			WHERE b.relation = p.relation AND b.complete);
	PERFORM _bemi.compare_published(source, server, at_lsn, at_time, at_lsn, at_time,
		still, is_first);
	PERFORM _bemi.compare_published(source, server, at_lsn, at_time, at_lsn, at_time,
		published, false);

	-- An old slot sends changes of a time when tables may have been different.
	IF descriptions IS NULL THEN
		PERFORM _bemi.mark_descriptions_stale(source);
	ELSE
		DELETE FROM _bemi.source_relations r WHERE r.source = close_gap.source;
		INSERT INTO _bemi.source_relations SELECT close_gap.source, d.relation, d.description
			FROM json_to_recordset(descriptions) d(relation oid, description jsonb);
		PERFORM _bemi.record_seen_table(source, server, p.relation, p.schema, p."table",
				d.description, _bemi.first_id_at(at_lsn), at_time, p.complete)
			FROM json_to_recordset(published)
					p(relation oid, schema text, "table" text, complete boolean)
				JOIN json_to_recordset(descriptions) d(relation oid, description jsonb)
					USING (relation);
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.close_gap(text, text, pg_lsn, timestamptz, json, json, json)
	IS 'internal: ends the gap of a source, because its slot sends every commit from this LSN '
		'on; records the tables that the publication lists, and their descriptions (NULL: the '
		'slot is an old one)';
REVOKE ALL ON FUNCTION _bemi.close_gap(text, text, pg_lsn, timestamptz, json, json, json)
	FROM PUBLIC;
