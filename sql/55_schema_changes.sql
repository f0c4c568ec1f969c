
--
-- Schema changes: what tables were like
--
-- A row is written in the destination transaction that stores the changes of the same source
-- transaction. Each row has the state before and after, so the state at any place in the history
-- is "before" of the next row, and older rows can be dropped.
--

-- What a description says of a table that readers of its changes need. "columns" has arrays of
-- number, name and type. "types" differs if a composite type in a column was altered.
CREATE FUNCTION _bemi.table_state(schema text, "table" text, tracked boolean, description jsonb)
	RETURNS jsonb
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_build_object('schema', $1, 'table', $2, 'tracked', $3,
		'columns', coalesce($4 -> 'attributes', '[]'), 'key', coalesce($4 -> 'key', '[]'),
		'types', md5(nullif($4 -> 'types', '[]')::text),
		'rules', (SELECT coalesce(jsonb_object_agg(e.key, e.value), '{}')
			FROM jsonb_each($4) e WHERE e.key IN ('ignore', 'redact', 'redact_hash')))
$$;
COMMENT ON FUNCTION _bemi.table_state(text, text, boolean, jsonb)
	IS 'internal: names, columns, key and rules of a table, from its description';
REVOKE ALL ON FUNCTION _bemi.table_state(text, text, boolean, jsonb) FROM PUBLIC;

-- Below all ids of changes that were committed from here on, see bemi_make_change_id() in
-- src/decode/stitch.c.
CREATE FUNCTION _bemi.first_id_at(lsn pg_lsn)
	RETURNS uuid
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT (substr(h.hex, 1, 12) || '8' || substr(h.hex, 13, 3)
			|| to_hex(128 + 4 * (h.position & 15)::integer) || repeat('0', 14))::uuid
		FROM (SELECT p.position, lpad(to_hex(p.position), 16, '0')
			FROM (SELECT (lsn - '0/0')::bigint) p(position)) h(position, hex)
$$;
COMMENT ON FUNCTION _bemi.first_id_at(pg_lsn)
	IS 'internal: an id below those of all changes that a transaction with this commit LSN, or a '
		'later one, has made';
REVOKE ALL ON FUNCTION _bemi.first_id_at(pg_lsn) FROM PUBLIC;

CREATE FUNCTION _bemi.lsn_of_id(id uuid)
	RETURNS pg_lsn
	LANGUAGE sql IMMUTABLE STRICT
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT (left(h.lsn, 8) || '/' || substr(h.lsn, 9))::pg_lsn
		FROM (SELECT replace(id::text, '-', '')) r(hex),
			LATERAL (SELECT substr(r.hex, 1, 12) || substr(r.hex, 14, 3)
				|| to_hex(('x' || substr(r.hex, 17, 2))::bit(8)::integer >> 2 & 15)) h(lsn)
$$;
COMMENT ON FUNCTION _bemi.lsn_of_id(uuid)
	IS 'internal: commit LSN in the id of a change';
REVOKE ALL ON FUNCTION _bemi.lsn_of_id(uuid) FROM PUBLIC;

-- The worker may read a message again after a restart. Then its row is there already, or the
-- states are equal again.
CREATE FUNCTION _bemi.store_schema_change(change _bemi.schema_changes)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	changes_rows boolean := change.event = 'rows changed';
BEGIN
	change.before := (SELECT s.after FROM _bemi.schema_changes s
		WHERE s.source = change.source AND s.relation = change.relation
			AND s.server = change.server AND s.id < change.id
		ORDER BY s.id DESC LIMIT 1);
	IF changes_rows THEN
		change.after := change.before;
	ELSIF change.before = change.after OR change.event = 'dropped' AND change.before IS NULL THEN
		RETURN;
	ELSIF change.event <> 'dropped' THEN
		change.event := CASE
			WHEN coalesce(change.before -> 'tracked', 'false') = change.after -> 'tracked'
				THEN 'altered'
			WHEN change.after -> 'tracked' = 'true' THEN 'began'
			ELSE 'ended' END;
	END IF;
	INSERT INTO _bemi.schema_changes SELECT change.* ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION _bemi.store_schema_change(_bemi.schema_changes)
	IS 'internal: stores a schema change, unless the table is as it was before';
REVOKE ALL ON FUNCTION _bemi.store_schema_change(_bemi.schema_changes) FROM PUBLIC;

-- TRUNCATE is no DDL. Constants in a command can be values of columns that a rule redacts. Without
-- a description, because it is too long for a message, the rules are not known.
CREATE FUNCTION _bemi.record_schema_change(source text, server text, database text, message jsonb,
		id uuid, at_time timestamptz, context jsonb)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	change _bemi.schema_changes;
	description jsonb := (SELECT r.description FROM _bemi.source_relations r
		WHERE r.source = record_schema_change.source
			AND r.relation = (message ->> 'relation')::oid);
BEGIN
	IF num_nulls(message ->> 'schema', message ->> 'table') > 0
		OR message ->> 'event' = 'rows changed'
		AND coalesce(message ->> 'command', 'TRUNCATE TABLE') = 'TRUNCATE TABLE' THEN
		RETURN;
	END IF;
	change.source := source;
	change.relation := (message ->> 'relation')::oid;
	change.id := id;
	change.server := server;
	change.database := database;
	change.schema := message ->> 'schema';
	change."table" := message ->> 'table';
	change.event := message ->> 'event';
	change.command := message ->> 'command';
	change.statement := CASE
		WHEN coalesce(description ?| '{redact,redact_hash}', change.event <> 'ended')
			AND message ->> 'statement' ~ '[''$0-9]' THEN NULL
		ELSE message ->> 'statement' END;
	change.context := coalesce(context, '{}');
	change.committed_at := at_time;
	change.transaction_id := (message ->> 'transaction')::bigint;
	change.detail := message ->> 'detail';
	IF change.event = 'ended' AND message -> 'description' = 'null' THEN
		change.event := 'dropped';
	ELSE
		change.after := _bemi.table_state(change.schema, change."table", change.event <> 'ended',
			description);
	END IF;
	PERFORM _bemi.store_schema_change(change);
END
$$;
COMMENT ON FUNCTION
	_bemi.record_schema_change(text, text, text, jsonb, uuid, timestamptz, jsonb)
	IS 'internal: records what a tracking message says of a table';
REVOKE ALL ON FUNCTION
	_bemi.record_schema_change(text, text, text, jsonb, uuid, timestamptz, jsonb) FROM PUBLIC;

-- A table as it is at a place without a tracking message. The source may have altered it by several
-- commands, of which nothing is known.
CREATE FUNCTION _bemi.record_seen_table(source text, server text, relation oid, schema text,
		"table" text, description jsonb, id uuid, at_time timestamptz, tracked boolean DEFAULT true)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	change _bemi.schema_changes;
BEGIN
	change.source := source;
	change.relation := relation;
	change.id := id;
	change.server := server;
	change.database := substr(server, strpos(server, '/') + 1);
	change.schema := schema;
	change."table" := "table";
	change.event := 'altered';
	change.context := '{}';
	change.committed_at := at_time;
	change.detail := 'Seen when the source was read. The command is not known.';
	change.after := _bemi.table_state(schema, "table", tracked, description);
	PERFORM _bemi.store_schema_change(change);
END
$$;
COMMENT ON FUNCTION
	_bemi.record_seen_table(text, text, oid, text, text, jsonb, uuid, timestamptz, boolean)
	IS 'internal: records what a table is like, if it has changed without a tracking message';
REVOKE ALL ON FUNCTION
	_bemi.record_seen_table(text, text, oid, text, text, jsonb, uuid, timestamptz, boolean)
	FROM PUBLIC;

-- The state of a table at a change is "before" of its next schema change. So those that are older
-- than all changes are not needed. The last one of a tracked table stays, because the next one
-- takes its state from it. With a partition that has no lower bound, nothing is dropped.
CREATE FUNCTION _bemi.forget_schema_changes(retention interval)
	RETURNS void
	LANGUAGE sql
	SET search_path = pg_catalog, pg_temp
AS $$
	DELETE FROM _bemi.schema_changes s
		WHERE s.committed_at < least(now() - retention,
				(SELECT min(r.from_time) FROM _bemi.partition_ranges() r))
			AND NOT EXISTS (SELECT FROM pg_partitioned_table t
				WHERE t.partrelid = 'bemi.changes'::regclass AND t.partdefid <> 0)
			AND NOT EXISTS (SELECT FROM bemi.holds h
				WHERE h.from_time <= s.committed_at AND s.committed_at < h.to_time)
			AND (NOT coalesce((s.after ->> 'tracked')::boolean, false)
				OR EXISTS (SELECT FROM _bemi.schema_changes later
					WHERE later.source = s.source AND later.relation = s.relation
						AND later.id > s.id))
$$;
COMMENT ON FUNCTION _bemi.forget_schema_changes(interval)
	IS 'internal: deletes schema changes that are older than the retention and than all changes '
		'that are left';
REVOKE ALL ON FUNCTION _bemi.forget_schema_changes(interval) FROM PUBLIC;

CREATE VIEW bemi.schema_changes AS
	SELECT s.id, s.source, s.database, s.schema, s."table", s.event, s.command, s.statement,
		s.context, s.committed_at, s.transaction_id, s.detail,
		s.before ->> 'schema' AS former_schema, s.before ->> 'table' AS former_table,
		d.added, d.dropped, d.renamed, d.retyped,
		s.before -> 'columns' AS columns_before, s.after -> 'columns' AS columns_after,
		s.before -> 'key' AS key_before, s.after -> 'key' AS key_after,
		s.before -> 'rules' AS rules_before, s.after -> 'rules' AS rules_after
	FROM _bemi.schema_changes s,
		LATERAL (SELECT
			coalesce(array_agg(a.name ORDER BY a.number) FILTER (WHERE b.name IS NULL), '{}')
				AS added,
			coalesce(array_agg(b.name ORDER BY b.number) FILTER (WHERE a.name IS NULL), '{}')
				AS dropped,
			coalesce(jsonb_object_agg(a.name, b.name)
				FILTER (WHERE a.name <> b.name), '{}') AS renamed,
			coalesce(jsonb_object_agg(a.name, jsonb_build_array(b.type, a.type))
				FILTER (WHERE a.type <> b.type), '{}') AS retyped
			FROM (SELECT (c ->> 0)::integer, c ->> 1, c ->> 2
					FROM jsonb_array_elements(s.before -> 'columns') c
					WHERE s.before IS NOT NULL) b(number, name, type)
				FULL JOIN (SELECT (c ->> 0)::integer, c ->> 1, c ->> 2
					FROM jsonb_array_elements(s.after -> 'columns') c) a(number, name, type)
				USING (number)
			WHERE s.before IS NOT NULL) d;
COMMENT ON VIEW bemi.schema_changes
	IS 'one row for each command that changed what a tracked table is like, with its context; '
		'also where tracking began or ended';
COMMENT ON COLUMN bemi.schema_changes.id
	IS 'changes of the same source with a lower id were made before, those with a higher id after';
COMMENT ON COLUMN bemi.schema_changes.source IS 'source of the table';
COMMENT ON COLUMN bemi.schema_changes.database IS 'database of the table';
COMMENT ON COLUMN bemi.schema_changes.schema IS 'schema of the table after the command';
COMMENT ON COLUMN bemi.schema_changes."table" IS 'name of the table after the command';
COMMENT ON COLUMN bemi.schema_changes.event
	IS 'began: tracked from here on; altered; rows changed: rows without a change for each, see '
		'bemi.gaps; ended: no longer tracked; dropped';
COMMENT ON COLUMN bemi.schema_changes.command
	IS 'tag of the command, such as ALTER TABLE; NULL: a function such as bemi.track(), or unknown';
COMMENT ON COLUMN bemi.schema_changes.statement
	IS 'text of the command, at most 8 kB; NULL: unknown, or left out because it can contain '
		'secrets';
COMMENT ON COLUMN bemi.schema_changes.context
	IS 'context of the command, {} if there was none';
COMMENT ON COLUMN bemi.schema_changes.committed_at IS 'commit time at the source';
COMMENT ON COLUMN bemi.schema_changes.transaction_id
	IS 'transaction ID (xid) at the source; NULL: unknown';
COMMENT ON COLUMN bemi.schema_changes.detail IS 'sentence that explains the event, or NULL';
COMMENT ON COLUMN bemi.schema_changes.former_schema
	IS 'schema of the table before the command; NULL: unknown';
COMMENT ON COLUMN bemi.schema_changes.former_table
	IS 'name of the table before the command; NULL: unknown';
COMMENT ON COLUMN bemi.schema_changes.added IS 'new columns';
COMMENT ON COLUMN bemi.schema_changes.dropped
	IS 'dropped columns; all of them if the table was dropped';
COMMENT ON COLUMN bemi.schema_changes.renamed IS 'renamed columns: new name -> former name';
COMMENT ON COLUMN bemi.schema_changes.retyped IS 'columns of another type: name -> [former, new]';
COMMENT ON COLUMN bemi.schema_changes.columns_before
	IS 'columns before, each with number, name and type; NULL: unknown';
COMMENT ON COLUMN bemi.schema_changes.columns_after
	IS 'columns after, likewise; NULL: the table was dropped';
COMMENT ON COLUMN bemi.schema_changes.key_before IS 'columns of the primary key before';
COMMENT ON COLUMN bemi.schema_changes.key_after IS 'columns of the primary key after';
COMMENT ON COLUMN bemi.schema_changes.rules_before
	IS 'rules of bemi.track() before: ignore, redact, redact_hash';
COMMENT ON COLUMN bemi.schema_changes.rules_after IS 'rules of bemi.track() after';
REVOKE ALL ON bemi.schema_changes FROM PUBLIC;
