
--
-- Transactions
--

-- A view reads with the rights of its owner, but the tables of a function that the planner puts
-- in its place with those of the reader. So the row policies for the reader hold. Without SET, or
-- else the planner could not do so, and conditions on committed_at would not reach the
-- partitions. The body is parsed when it is created, so no search_path changes it.
CREATE FUNCTION _bemi.transaction_changes()
	RETURNS TABLE (source text, database text, transaction_id bigint, committed_at timestamptz,
		id uuid, schema_name text, table_name text, operation text, context jsonb)
	LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT c.source, c.database, c.transaction_id, c.committed_at, c.id, c.schema, c."table",
			c.operation, c.context
		FROM bemi.changes c;
END;
COMMENT ON FUNCTION _bemi.transaction_changes()
	IS 'internal: bemi.changes for bemi.transactions, with the rights of the reader';
REVOKE ALL ON FUNCTION _bemi.transaction_changes() FROM PUBLIC;

CREATE VIEW bemi.transactions AS
	SELECT c.source, c.database, c.transaction_id, c.committed_at,
			min(c.id::text)::uuid AS change_id,
			count(*) AS changes,
			count(*) FILTER (WHERE c.operation = 'CREATE') AS created,
			count(*) FILTER (WHERE c.operation = 'UPDATE') AS updated,
			count(*) FILTER (WHERE c.operation = 'DELETE') AS deleted,
			count(*) FILTER (WHERE c.operation = 'TRUNCATE') AS truncated,
			array_agg(DISTINCT format('%I.%I', c.schema_name, c.table_name)) AS tables,
			array_agg(DISTINCT c.context - '_whole') AS contexts
		FROM _bemi.transaction_changes() c
		GROUP BY c.source, c.database, c.transaction_id, c.committed_at;
COMMENT ON VIEW bemi.transactions
	IS 'one row for each transaction in bemi.changes; with a condition on committed_at, only '
		'partitions of that time are read';
COMMENT ON COLUMN bemi.transactions.source IS 'source that the transaction was read from';
COMMENT ON COLUMN bemi.transactions.database IS 'database of the transaction';
COMMENT ON COLUMN bemi.transactions.transaction_id IS 'transaction ID (xid) at the source';
COMMENT ON COLUMN bemi.transactions.committed_at IS 'commit time at the source';
COMMENT ON COLUMN bemi.transactions.change_id
	IS 'id of its first change; bemi.transaction() returns all of them';
COMMENT ON COLUMN bemi.transactions.changes IS 'number of changes';
COMMENT ON COLUMN bemi.transactions.created IS 'rows inserted';
COMMENT ON COLUMN bemi.transactions.updated IS 'rows updated';
COMMENT ON COLUMN bemi.transactions.deleted IS 'rows deleted';
COMMENT ON COLUMN bemi.transactions.truncated IS 'tables truncated';
COMMENT ON COLUMN bemi.transactions.tables IS 'changed tables';
COMMENT ON COLUMN bemi.transactions.contexts IS 'different contexts of its changes';
REVOKE ALL ON bemi.transactions FROM PUBLIC;

-- Ids of a transaction begin with its commit LSN, which make_change_id() in src/decode/stitch.c
-- puts into the first 8 bytes and the upper half of the ninth, below 2 bits of the variant.
CREATE FUNCTION bemi.transaction(change_id uuid)
	RETURNS SETOF bemi.changes
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
	SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
	one bemi.changes;
	bytes bytea := uuid_send(change_id);
	first_id uuid;
	last_id uuid;
BEGIN
	IF change_id IS NULL THEN
		RAISE EXCEPTION 'id of the change must not be null'
			USING ERRCODE = 'null_value_not_allowed';
	END IF;
	one := _bemi.find_change(change_id);
	first_id := encode(substr(set_byte(bytes, 8, get_byte(bytes, 8) & 252), 1, 9)
		|| '\x00000000000000', 'hex');
	last_id := encode(substr(set_byte(bytes, 8, get_byte(bytes, 8) | 3), 1, 9)
		|| '\xffffffffffffff', 'hex');
	RETURN QUERY SELECT c.* FROM bemi.changes c
		WHERE c.id BETWEEN first_id AND last_id AND c.committed_at = one.committed_at
			AND c.source = one.source
		ORDER BY c.id;
END
$$;
COMMENT ON FUNCTION bemi.transaction(uuid)
	IS 'all changes of the transaction that made this change, in their order';
REVOKE ALL ON FUNCTION bemi.transaction(uuid) FROM PUBLIC;
