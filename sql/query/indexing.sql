--
-- Indexes on demand: on values of the context, and on changes of a column
--
-- Each is a B-tree of one partition of bemi.changes that ends with the id. So the newest changes
-- with a value, or of a column, are found without a search among all others. bemi.index_context()
-- and bemi.index_column() create them on all partitions there are (src/store/indexing.c), and
-- _bemi.make_partition() on those to come. There is none on bemi.changes itself: a dump would
-- attach those of its partitions to it, and restoring that fails, because the extension has created
-- bemi.changes without it.
--

-- Everything after the name of the table. The text is as pg_get_indexdef() returns it. No two
-- entries are equal, so a search for duplicates would only cost time.
--
-- "context": a value can have a megabyte, and an entry of a B-tree less than 3 kB, and an entry
-- that does not fit would stop the worker. So the index has the first 200 characters.
-- bemi.context_is() compares them first, and then the whole value. Collation "C", because that is
-- the cheapest, and no update of a collation damages the index.
--
-- "column": by operation, so that the UPDATEs of a column that rarely changes are found among many
-- INSERTs. Tables that have a column of this name share the index.
CREATE FUNCTION _bemi.index_definition(kind text, name text,
		options text DEFAULT ' WITH (deduplicate_items=off)')
	RETURNS text
	LANGUAGE sql STABLE STRICT
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE kind
		WHEN 'context' THEN format(
			'USING btree ("left"((context ->> %1$s), 200) COLLATE "C", id)%2$s'
			' WHERE ((context ->> %1$s) IS NOT NULL)', l.literal, options)
		WHEN 'column' THEN format('USING btree ("table", operation, id)%2$s'
			' WHERE bemi.column_is_changed(operation, before, after, %1$s)', l.literal, options)
		END
		FROM (SELECT format('''%s''::text', replace(name, '''', ''''''))) l(literal)
$$;
COMMENT ON FUNCTION _bemi.index_definition(text, text, text)
	IS 'internal: definition of the index of a partition on a key of the context or a column, from '
		'USING on';
REVOKE ALL ON FUNCTION _bemi.index_definition(text, text, text) FROM PUBLIC;

-- With these settings, the server's text has no more quotes than the definition has, and only
-- quotes are doubled. An index that a user has created with the same definition counts, too, also
-- without the option.
CREATE FUNCTION _bemi.index_states(kind text, name text, only_partition regclass DEFAULT NULL,
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
		CROSS JOIN _bemi.index_definition(kind, name) definition
		CROSS JOIN _bemi.index_definition(kind, name, '') without_option
		JOIN pg_class c ON c.oid = t.oid AND c.relkind = 'r'
		LEFT JOIN pg_index i ON i.indrelid = c.oid
			AND (right(pg_get_indexdef(i.indexrelid), length(definition)) = definition
				OR right(pg_get_indexdef(i.indexrelid), length(without_option)) = without_option)
	WHERE only_partition IS NULL OR c.oid = only_partition
$$;
COMMENT ON FUNCTION _bemi.index_states(text, text, regclass)
	IS 'internal: for each partition of bemi.changes that is a table, its indexes on a key of the '
		'context or a column, or NULL if it has none';
REVOKE ALL ON FUNCTION _bemi.index_states(text, text, regclass) FROM PUBLIC;

CREATE FUNCTION _bemi.create_indexes(partition name)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
DECLARE
	definition text;
BEGIN
	FOR definition IN SELECT _bemi.index_definition(i.kind, i.name)
		FROM _bemi.indexes_on_demand i ORDER BY i.kind, i.name
	LOOP
		EXECUTE format('CREATE INDEX ON _bemi.%I %s', partition, definition);
	END LOOP;
END
$$;
COMMENT ON FUNCTION _bemi.create_indexes(name)
	IS 'internal: creates the indexes on demand on a new partition';
REVOKE ALL ON FUNCTION _bemi.create_indexes(name) FROM PUBLIC;

CREATE FUNCTION _bemi.indexes_of(kind text)
	RETURNS TABLE (name text, partitions integer, indexed integer, bytes bigint)
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT i.name, count(DISTINCT s.partition)::integer,
			count(DISTINCT s.partition) FILTER (WHERE s.is_valid)::integer,
			sum(pg_relation_size(s.index))::bigint
		FROM _bemi.indexes_on_demand i
			LEFT JOIN LATERAL _bemi.index_states(i.kind, i.name) s ON true
		WHERE i.kind = indexes_of.kind
		GROUP BY i.name
$$;
COMMENT ON FUNCTION _bemi.indexes_of(text)
	IS 'internal: indexes on demand, with how many partitions have them';
REVOKE ALL ON FUNCTION _bemi.indexes_of(text) FROM PUBLIC;

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
	SELECT i.name AS key, i.partitions, i.indexed, i.bytes FROM _bemi.indexes_of('context') i;
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

CREATE FUNCTION bemi.column_is_changed(operation text, before jsonb, after jsonb, column_name text)
	RETURNS boolean
	AS 'MODULE_PATHNAME', 'bemi_column_is_changed'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION bemi.column_is_changed(text, jsonb, jsonb, text)
	IS 'whether a change has set another value of this column; a CREATE or DELETE if the value is '
		'not null';
GRANT EXECUTE ON FUNCTION bemi.column_is_changed(text, jsonb, jsonb, text) TO PUBLIC;

CREATE PROCEDURE bemi.index_column(column_name text)
	AS 'MODULE_PATHNAME', 'bemi_index_column'
	LANGUAGE C;
COMMENT ON PROCEDURE bemi.index_column(text)
	IS 'indexes the history by the changes of all columns of this name, without blocking readers '
		'or workers; bemi.find_changes() uses the index';
REVOKE ALL ON PROCEDURE bemi.index_column(text) FROM PUBLIC;

CREATE PROCEDURE bemi.drop_index_column(column_name text)
	AS 'MODULE_PATHNAME', 'bemi_drop_index_column'
	LANGUAGE C;
COMMENT ON PROCEDURE bemi.drop_index_column(text)
	IS 'drops the indexes that bemi.index_column() has created for columns of this name';
REVOKE ALL ON PROCEDURE bemi.drop_index_column(text) FROM PUBLIC;

CREATE VIEW bemi.column_indexes AS
	SELECT i.name AS column_name, i.partitions, i.indexed, i.bytes
		FROM _bemi.indexes_of('column') i;
COMMENT ON VIEW bemi.column_indexes
	IS 'columns whose changes bemi.index_column() has indexed';
COMMENT ON COLUMN bemi.column_indexes.column_name IS 'name of the column, in any table';
COMMENT ON COLUMN bemi.column_indexes.partitions
	IS 'partitions of bemi.changes, without foreign tables';
COMMENT ON COLUMN bemi.column_indexes.indexed
	IS 'how many of them have the index; if not all, call bemi.index_column() again';
COMMENT ON COLUMN bemi.column_indexes.bytes IS 'size of these indexes; NULL if there are none';
REVOKE ALL ON bemi.column_indexes FROM PUBLIC;
