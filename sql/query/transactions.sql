
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

-- Ids of a transaction begin with its commit LSN, which make_change_id() in src/decode/stitch.c
-- puts into the first 8 bytes and the upper half of the ninth, below 2 bits of the variant.
CREATE FUNCTION _bemi.transaction_range(change_id uuid, OUT first_id uuid, OUT last_id uuid)
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT encode(substr(set_byte(u.bytes, 8, get_byte(u.bytes, 8) & 252), 1, 9)
			|| '\x00000000000000', 'hex')::uuid,
		encode(substr(set_byte(u.bytes, 8, get_byte(u.bytes, 8) | 3), 1, 9)
			|| '\xffffffffffffff', 'hex')::uuid
	FROM (SELECT uuid_send(change_id)) u(bytes)
$$;
COMMENT ON FUNCTION _bemi.transaction_range(uuid)
	IS 'internal: between which ids all changes of the transaction of a change are';
REVOKE ALL ON FUNCTION _bemi.transaction_range(uuid) FROM PUBLIC;

CREATE FUNCTION _bemi.first_change_of(change_id uuid)
	RETURNS uuid
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
	ids record;
BEGIN
	SELECT r.first_id, r.last_id INTO ids FROM _bemi.transaction_range(change_id) r;
	RETURN (SELECT c.id FROM bemi.changes c WHERE c.id BETWEEN ids.first_id AND ids.last_id
		ORDER BY c.id LIMIT 1);
END
$$;
COMMENT ON FUNCTION _bemi.first_change_of(uuid)
	IS 'internal: the first change of the transaction of this change';
REVOKE ALL ON FUNCTION _bemi.first_change_of(uuid) FROM PUBLIC;

-- bemi.revert() writes into the context of its changes which transactions they take back.
CREATE FUNCTION _bemi.reverts_of(change_id uuid)
	RETURNS uuid[]
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT array_agg(f.id ORDER BY f.id)
		FROM (SELECT DISTINCT _bemi.first_change_of(t.id) AS id
			FROM (SELECT DISTINCT ON (r.transaction_id, r.committed_at) r.id
				FROM _bemi.read_changes(in_context => jsonb_build_object('revertOf',
					jsonb_build_array(jsonb_build_object('transaction', change_id)))) r) t) f
$$;
COMMENT ON FUNCTION _bemi.reverts_of(uuid)
	IS 'internal: first changes of the transactions that took back changes of the transaction with '
		'this first change';
REVOKE ALL ON FUNCTION _bemi.reverts_of(uuid) FROM PUBLIC;

-- What a change has of a large context counts only if the reader sees no change with the whole.
-- In CASE, so that this is looked up by id.
CREATE VIEW bemi.transactions AS
	SELECT c.source, c.database, c.transaction_id, c.committed_at,
			min(c.id::text)::uuid AS change_id,
			count(*) AS changes,
			count(*) FILTER (WHERE c.operation = 'CREATE') AS created,
			count(*) FILTER (WHERE c.operation = 'UPDATE') AS updated,
			count(*) FILTER (WHERE c.operation = 'DELETE') AS deleted,
			count(*) FILTER (WHERE c.operation = 'TRUNCATE') AS truncated,
			array_agg(DISTINCT format('%I.%I', c.schema_name, c.table_name)) AS tables,
			ARRAY(SELECT DISTINCT o.context - '_whole'
				FROM unnest(array_agg(DISTINCT c.context)) o(context)
				WHERE CASE WHEN o.context ? '_whole' THEN
					NOT EXISTS (SELECT FROM _bemi.transaction_changes() h
						WHERE h.id = (o.context ->> '_whole')::uuid
							AND h.committed_at = c.committed_at) ELSE true END
				ORDER BY 1) AS contexts,
			_bemi.reverts_of(min(c.id::text)::uuid) AS reverted_by
		FROM _bemi.transaction_changes() c
		WHERE c.operation <> 'SNAPSHOT'
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
COMMENT ON COLUMN bemi.transactions.reverted_by
	IS 'transactions, by their change_id, in which bemi.revert() took back changes of this one; '
		'NULL if there is none';
REVOKE ALL ON bemi.transactions FROM PUBLIC;

CREATE FUNCTION bemi.transaction(change_id uuid)
	RETURNS SETOF bemi.changes
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	one bemi.changes;
	ids record;
BEGIN
	IF change_id IS NULL THEN
		RAISE EXCEPTION 'id of the change must not be null'
			USING ERRCODE = 'null_value_not_allowed',
				HINT = 'SELECT change_id FROM bemi.transactions WHERE committed_at > ''TIME'';';
	END IF;
	one := _bemi.find_change(change_id);
	SELECT r.first_id, r.last_id INTO ids FROM _bemi.transaction_range(change_id) r;
	-- All have the same time. At the limits of the type, it has no successor.
	RETURN QUERY SELECT c.* FROM _bemi.read_changes(of_sources => ARRAY[one.source],
			from_time => one.committed_at,
			to_time => CASE WHEN isfinite(one.committed_at)
				AND one.committed_at < '294276-12-31 UTC'
				THEN one.committed_at + interval '1 microsecond' END,
			from_id => ids.first_id, to_id => ids.last_id, in_order => 'oldest') c
		WHERE c.committed_at = one.committed_at;
END
$$;
COMMENT ON FUNCTION bemi.transaction(uuid)
	IS 'all changes of the transaction that made this change, in their order';
REVOKE ALL ON FUNCTION bemi.transaction(uuid) FROM PUBLIC;
