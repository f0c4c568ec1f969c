--
-- Indexes on values of the context
--
-- Each is a B-tree of one partition of bemi.changes, on the value of a key and the id. So the
-- newest changes with a value are found without a search among all others. bemi.index_context()
-- creates them on all partitions there are (src/store/context_index.c), and _bemi.make_partition()
-- on those to come. There is none on bemi.changes itself: a dump would attach those of its
-- partitions to it, and restoring that fails, because the extension has created bemi.changes
-- without it.
--

-- Everything after the name of the table. A value of a context can have a megabyte, and an entry of
-- a B-tree less than 3 kB, and an entry that does not fit would stop the worker. So the index has
-- the first 200 characters. bemi.context_is() compares them first, and then the whole value.
-- Collation "C", because that is the cheapest, and no update of a collation damages the index.
-- The text is as pg_get_indexdef() returns it.
CREATE FUNCTION _bemi.context_index_definition(key text)
	RETURNS text
	LANGUAGE sql STABLE STRICT
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('USING btree ("left"(%1$s, 200) COLLATE "C", id) WHERE (%1$s IS NOT NULL)',
		format('(context ->> ''%s''::text)', replace(key, '''', '''''')))
$$;
COMMENT ON FUNCTION _bemi.context_index_definition(text)
	IS 'internal: definition of the index of a partition on a key of the context, from USING on';
REVOKE ALL ON FUNCTION _bemi.context_index_definition(text) FROM PUBLIC;

-- With these settings, the server's text has no more quotes than the definition has, and only
-- quotes are doubled. An index that a user has created with the same definition counts, too.
CREATE FUNCTION _bemi.context_index_states(key text, only_partition regclass DEFAULT NULL,
		OUT partition regclass, OUT index regclass, OUT is_valid boolean, OUT is_attached boolean)
	RETURNS SETOF record
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
	SET quote_all_identifiers = off
AS $$
	WITH RECURSIVE tree(oid) AS (
		SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = 'bemi.changes'::regclass
		UNION ALL SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid
	)
	SELECT c.oid, i.indexrelid, i.indisvalid,
		EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = i.indexrelid)
	FROM tree t
		CROSS JOIN _bemi.context_index_definition(key) definition
		JOIN pg_class c ON c.oid = t.oid AND c.relkind = 'r'
		LEFT JOIN pg_index i ON i.indrelid = c.oid
			AND right(pg_get_indexdef(i.indexrelid), length(definition)) = definition
	WHERE only_partition IS NULL OR c.oid = only_partition
$$;
COMMENT ON FUNCTION _bemi.context_index_states(text, regclass)
	IS 'internal: for each partition of bemi.changes that is a table, its indexes on a key of the '
		'context, or NULL if it has none';
REVOKE ALL ON FUNCTION _bemi.context_index_states(text, regclass) FROM PUBLIC;

CREATE FUNCTION _bemi.create_context_indexes(partition name)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
DECLARE
	key text;
BEGIN
	FOR key IN SELECT k.key FROM _bemi.context_index_keys k ORDER BY k.key LOOP
		EXECUTE format('CREATE INDEX ON _bemi.%I %s', partition,
			_bemi.context_index_definition(key));
	END LOOP;
END
$$;
COMMENT ON FUNCTION _bemi.create_context_indexes(name)
	IS 'internal: creates the indexes on keys of the context on a new partition';
REVOKE ALL ON FUNCTION _bemi.create_context_indexes(name) FROM PUBLIC;

CREATE PROCEDURE bemi.index_context(key text)
	AS 'MODULE_PATHNAME', 'bemi_index_context'
	LANGUAGE C;
COMMENT ON PROCEDURE bemi.index_context(text)
	IS 'indexes the history by the value of a key of the context, without blocking readers or '
		'workers; bemi.context_is() uses the index';
REVOKE ALL ON PROCEDURE bemi.index_context(text) FROM PUBLIC;

CREATE PROCEDURE bemi.drop_index_context(key text)
	AS 'MODULE_PATHNAME', 'bemi_drop_index_context'
	LANGUAGE C;
COMMENT ON PROCEDURE bemi.drop_index_context(text)
	IS 'drops the indexes that bemi.index_context() has created for a key';
REVOKE ALL ON PROCEDURE bemi.drop_index_context(text) FROM PUBLIC;

CREATE VIEW bemi.context_indexes AS
	SELECT k.key, count(DISTINCT s.partition)::integer AS partitions,
		count(DISTINCT s.partition) FILTER (WHERE s.is_valid)::integer AS indexed,
		sum(pg_catalog.pg_relation_size(s.index))::bigint AS bytes
	FROM _bemi.context_index_keys k
		LEFT JOIN LATERAL _bemi.context_index_states(k.key) s ON true
	GROUP BY k.key;
COMMENT ON VIEW bemi.context_indexes IS 'keys of the context that bemi.index_context() has indexed';
COMMENT ON COLUMN bemi.context_indexes.key IS 'key of the context';
COMMENT ON COLUMN bemi.context_indexes.partitions
	IS 'partitions of bemi.changes, without foreign tables';
COMMENT ON COLUMN bemi.context_indexes.indexed
	IS 'how many of them have the index; if not all, call bemi.index_context() again';
COMMENT ON COLUMN bemi.context_indexes.bytes IS 'size of these indexes; NULL if there are none';
REVOKE ALL ON bemi.context_indexes FROM PUBLIC;

-- The server replaces a call by the expression, and then finds the index. This takes a body that
-- was parsed when the function was created, which also needs no search_path. The second comparison
-- is for long values only. It disappears from the plan for a short one, because the planner would
-- otherwise multiply both estimates, expect few rows, and sort them all.
CREATE FUNCTION bemi.context_is(context jsonb, key text, value text)
	RETURNS boolean
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	RETURN pg_catalog.left(context OPERATOR(pg_catalog.->>) key, 200) COLLATE "C"
			OPERATOR(pg_catalog.=) pg_catalog.left(value, 200)
		AND (pg_catalog.length(value) OPERATOR(pg_catalog.<) 200
			OR context OPERATOR(pg_catalog.->>) key OPERATOR(pg_catalog.=) value);
COMMENT ON FUNCTION bemi.context_is(jsonb, text, text)
	IS 'whether a key of the context has this value, as text; uses the index of '
		'bemi.index_context()';
GRANT EXECUTE ON FUNCTION bemi.context_is(jsonb, text, text) TO PUBLIC;
