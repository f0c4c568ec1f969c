
--
-- bemi.tracked: which tables are tracked, and what is wrong with them
--

CREATE FUNCTION _bemi.rules(target regclass)
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'bemi_rules'
	LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION _bemi.rules(regclass)
	IS 'internal: rules of the table, as given to bemi.track(); redacts all columns if they '
		'cannot be read';
REVOKE ALL ON FUNCTION _bemi.rules(regclass) FROM PUBLIC;

CREATE FUNCTION _bemi.has_bad_rules(target regclass)
	RETURNS boolean
	AS 'MODULE_PATHNAME', 'bemi_has_bad_rules'
	LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION _bemi.has_bad_rules(regclass)
	IS 'internal: whether the table''s trigger has rules that cannot be read';
REVOKE ALL ON FUNCTION _bemi.has_bad_rules(regclass) FROM PUBLIC;

CREATE FUNCTION _bemi.columnless_rules(target regclass, source regclass)
	RETURNS text
	AS 'MODULE_PATHNAME', 'bemi_columnless_rules'
	LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION _bemi.columnless_rules(regclass, regclass)
	IS 'internal: names in the rules of the source table that are no columns of the target, NULL '
		'if there are none';
REVOKE ALL ON FUNCTION _bemi.columnless_rules(regclass, regclass) FROM PUBLIC;

-- A partition is tracked with its root. The root is the table that is published and has the
-- rules. If no table above the partition is published, the root is the topmost table that has the
-- trigger.
CREATE FUNCTION _bemi.tracked_with_root(partition regclass)
	RETURNS jsonb
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_build_object('published', r.prrelid IS NOT NULL,
			'published_as', source.relation::oid, 'rules', _bemi.rules(source.relation),
			'filtered', r.prqual IS NOT NULL, 'partly', r.prattrs IS NOT NULL)
		FROM (SELECT CASE WHEN _bemi.is_published(root) OR _bemi.has_trigger(root)
					THEN root ELSE partition END
				FROM _bemi.partition_root(partition) root) source(relation)
			LEFT JOIN (SELECT r.prrelid, to_jsonb(r) ->> 'prqual' AS prqual,
					to_jsonb(r) ->> 'prattrs' AS prattrs
				FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
				WHERE p.pubname = 'bemi') r ON r.prrelid = source.relation
$$;
COMMENT ON FUNCTION _bemi.tracked_with_root(regclass)
	IS 'internal: for bemi.tracked: whether a partition is published, under which name, and with '
		'which rules';
REVOKE ALL ON FUNCTION _bemi.tracked_with_root(regclass) FROM PUBLIC;

CREATE FUNCTION _bemi.unstored_partition(root regclass)
	RETURNS text
	AS 'MODULE_PATHNAME', 'bemi_unstored_partition'
	LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION _bemi.unstored_partition(regclass)
	IS 'internal: a partition whose rows are not in the WAL, with the reason; NULL if there is '
		'none';
REVOKE ALL ON FUNCTION _bemi.unstored_partition(regclass) FROM PUBLIC;

-- The server allows one at a time for each partitioned table.
CREATE FUNCTION _bemi.pending_detach(target regclass)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('partition %s is half detached, its changes are not stored: '
			'ALTER TABLE %s DETACH PARTITION %1$s FINALIZE;',
			i.inhrelid::regclass, i.inhparent::regclass)
		FROM pg_inherits i
		WHERE i.inhdetachpending AND (i.inhparent = target OR i.inhrelid = target)
$$;
COMMENT ON FUNCTION _bemi.pending_detach(regclass)
	IS 'internal: the command that finishes an interrupted DETACH PARTITION ... CONCURRENTLY of '
		'the table or of one of its partitions; NULL if there is none';
REVOKE ALL ON FUNCTION _bemi.pending_detach(regclass) FROM PUBLIC;

-- A query asks for one table, or for all. A condition on "table" reaches pg_class and, through
-- the joins, the other catalogs. All tables are joined as sets. Functions are called only for
-- partitions and for tables with rules, and OFFSET 0 makes that one call each.
CREATE VIEW bemi.tracked AS
	SELECT c.oid::regclass AS "table", coalesce(t.triggers, '{}') AS triggers, rel.identity,
		rel.published,
		ARRAY(SELECT jsonb_array_elements_text(rel.rules -> 'ignore')) AS ignore,
		ARRAY(SELECT jsonb_array_elements_text(rel.rules -> 'redact')) AS redact,
		ARRAY(SELECT jsonb_array_elements_text(rel.rules -> 'redact_hash')) AS redact_hash,
		-- The server's view has the filter as text, but only for all tables at once. So it is
		-- read once, and only if there is a filter.
		CASE WHEN rel.filtered THEN (SELECT jsonb_object_agg(k.oid, to_jsonb(f) ->> 'rowfilter')
			FROM pg_publication_tables f JOIN pg_namespace n ON f.schemaname = n.nspname
				JOIN pg_class k ON k.relnamespace = n.oid AND k.relname = f.tablename
			WHERE f.pubname = 'bemi' AND to_jsonb(f) ->> 'rowfilter' IS NOT NULL)
				->> rel.published_as::text
		END AS row_filter,
		array_remove(ARRAY[
			CASE WHEN c.relkind = 'f' THEN 'foreign table: changes are not stored'
				WHEN NOT rel.published AND t.triggers IS NULL
					THEN format('its schema is tracked, but it is not: SELECT bemi.track(%L);',
						c.oid::regclass)
				WHEN t.triggers IS NULL
					THEN 'no trigger: changes come without context, or with an earlier one' END,
			CASE WHEN t.disabled THEN 'a trigger is disabled' END,
			CASE WHEN c.relkind = 'f' OR NOT rel.published AND t.triggers IS NULL
					OR rel.identity = 'FULL' THEN NULL
				WHEN rel.identity = 'NOTHING'
					THEN 'replica identity is NOTHING: UPDATE and DELETE fail'
				ELSE 'replica identity is not FULL: before is incomplete, '
					'and after lacks large values that did not change' END,
			CASE WHEN NOT rel.published AND t.triggers IS NOT NULL
				THEN 'not in publication "bemi": changes are not stored' END,
			CASE WHEN c.relpersistence = 'u' THEN 'unlogged: changes are not stored' END,
			'partition ' || rel.unstored || ': its changes are not stored',
			CASE WHEN c.relkind = 'p' OR c.relispartition THEN _bemi.pending_detach(c.oid) END,
			CASE WHEN rel.filtered OR rel.partly
				THEN 'row filter or column list in publication "bemi": '
					'changes are stored in part' END,
			CASE WHEN rel.rootless AND _bemi.pending_detach(c.oid) IS NULL
				THEN 'partition of an untracked table: '
					'rows written through it come without context' END,
			CASE WHEN g.attrelid IS NOT NULL
				THEN 'generated columns are not in the stream: before and after lack them' END,
			CASE WHEN rel.rules -> 'redact' ? '*' AND _bemi.has_bad_rules(rel.published_as)
				THEN 'rules cannot be read: all columns are redacted' END,
			CASE WHEN rel.rules <> '{}'
				THEN 'rule for a column that does not exist: '
					|| _bemi.columnless_rules(c.oid, rel.published_as) END
		], NULL) AS problems
	FROM pg_class c
		LEFT JOIN (SELECT t.tgrelid, array_agg(t.tgname ORDER BY t.tgname) AS triggers,
				bool_or(t.tgenabled = 'D') AS disabled,
				bool_or(t.tgname = 'bemi_emit_context' AND t.tgnargs > 3) AS has_rules
			FROM pg_trigger t WHERE t.tgfoid = 'bemi.emit_context()'::regprocedure
			GROUP BY t.tgrelid) AS t ON t.tgrelid = c.oid
		-- Row filters and column lists came with 15.
		LEFT JOIN (SELECT r.prrelid, to_jsonb(r) ->> 'prqual' IS NOT NULL AS filtered,
				to_jsonb(r) ->> 'prattrs' IS NOT NULL AS partly
			FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
			WHERE p.pubname = 'bemi') AS r ON r.prrelid = c.oid
		LEFT JOIN (SELECT DISTINCT a.attrelid FROM pg_attribute a
			WHERE a.attgenerated <> '' AND NOT a.attisdropped
				AND (a.attgenerated <> 's' OR NOT EXISTS (SELECT FROM pg_publication p
					WHERE p.pubname = 'bemi' AND to_jsonb(p) ->> 'pubgencols' = 's'))) AS g
			ON g.attrelid = c.oid
		LEFT JOIN bemi.tracked_schemas s
			ON s.schema_oid = c.relnamespace AND s.enabled_in = _bemi.this_database(),
		LATERAL (SELECT CASE WHEN c.relispartition THEN _bemi.tracked_with_root(c.oid) END AS root
			OFFSET 0) AS w,
		LATERAL (SELECT CASE c.relreplident WHEN 'd' THEN 'DEFAULT' WHEN 'n' THEN 'NOTHING'
				WHEN 'f' THEN 'FULL' ELSE 'USING INDEX' END AS identity,
			r.prrelid IS NOT NULL OR coalesce(w.root -> 'published' = 'true', false) AS published,
			coalesce((w.root ->> 'published_as')::oid, c.oid) AS published_as,
			coalesce(CASE WHEN c.relispartition THEN w.root -> 'filtered' = 'true'
				ELSE r.filtered END, false) AS filtered,
			coalesce(CASE WHEN c.relispartition THEN w.root -> 'partly' = 'true'
				ELSE r.partly END, false) AS partly,
			c.relispartition AND (w.root ->> 'published_as')::oid = c.oid AS rootless,
			CASE WHEN c.relispartition THEN w.root -> 'rules'
				WHEN t.has_rules THEN _bemi.rules(c.oid) ELSE '{}' END AS rules,
			CASE WHEN c.relkind = 'p' AND r.prrelid IS NOT NULL
				THEN _bemi.unstored_partition(c.oid) END AS unstored,
			CASE WHEN s.schema_oid IS NOT NULL AND t.triggers IS NULL AND r.prrelid IS NULL
					AND c.relkind <> 'f' AND NOT c.relispartition
				THEN _bemi.untrackable(c.oid) IS NULL AND NOT _bemi.is_of_extension(c.oid)
				ELSE false END AS forgotten
			OFFSET 0) AS rel
	WHERE c.relkind IN ('r', 'p', 'f')
		AND (t.triggers IS NOT NULL OR rel.published OR rel.forgotten);
COMMENT ON VIEW bemi.tracked
	IS 'tables whose changes are stored, or should be, and the problems with them';
COMMENT ON COLUMN bemi.tracked."table" IS 'tracked table or partition';
COMMENT ON COLUMN bemi.tracked.triggers IS 'triggers of the table that call bemi.emit_context()';
COMMENT ON COLUMN bemi.tracked.identity
	IS 'replica identity of the table; "before" is complete only with FULL';
COMMENT ON COLUMN bemi.tracked.published
	IS 'whether the table is in publication "bemi", itself or with its root';
COMMENT ON COLUMN bemi.tracked.ignore IS 'columns whose updates alone are not stored';
COMMENT ON COLUMN bemi.tracked.redact IS 'columns whose values are not stored';
COMMENT ON COLUMN bemi.tracked.redact_hash IS 'columns whose values are stored as hashes';
COMMENT ON COLUMN bemi.tracked.row_filter
	IS 'row filter of publication "bemi": only changes of matching rows are stored';
COMMENT ON COLUMN bemi.tracked.problems
	IS 'problems with the tracking of the table; empty if there are none';
REVOKE ALL ON bemi.tracked FROM PUBLIC;
