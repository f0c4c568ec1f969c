
--
-- Taking changes back: the statement of a step, and its values, as SQL expressions
--

-- Types without an equality, such as json and point, are compared as jsonb.
CREATE FUNCTION _bemi.revert_is_comparable(type oid)
	RETURNS boolean
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH RECURSIVE inner_type AS (
		SELECT type AS id
		UNION ALL
		SELECT CASE y.typtype WHEN 'd' THEN y.typbasetype ELSE y.typelem END
			FROM inner_type i JOIN pg_type y ON y.oid = i.id
			WHERE y.typtype = 'd' OR y.typcategory = 'A' AND y.typelem <> 0
	)
	SELECT NOT EXISTS (SELECT FROM inner_type i JOIN pg_type y ON y.oid = i.id
		WHERE y.typtype = 'b' AND y.typcategory <> 'A' AND NOT EXISTS (
			SELECT FROM pg_operator o WHERE o.oprname = '=' AND o.oprleft = o.oprright
				AND (o.oprleft = i.id OR o.oprleft IN (SELECT c.casttarget FROM pg_cast c
					WHERE c.castsource = i.id AND c.castmethod = 'b' AND c.castcontext = 'i'))))
$$;
COMMENT ON FUNCTION _bemi.revert_is_comparable(oid)
	IS 'internal: whether values of a type can be compared with the operator =';
REVOKE ALL ON FUNCTION _bemi.revert_is_comparable(oid) FROM PUBLIC;

-- A condition of a statement: the column has the value of the row now.
CREATE FUNCTION _bemi.revert_same_value(relation regclass, name text)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT CASE WHEN _bemi.revert_is_comparable(a.atttypid)
			THEN format('format(''%%s IS NOT DISTINCT FROM %%L'', %L, o.%I)', quote_ident(name),
				name)
			ELSE format('format(''to_jsonb(%%s) IS NOT DISTINCT FROM %%L'', %L, to_jsonb(o.%I))',
				quote_ident(name), name) END
		FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = name
$$;
COMMENT ON FUNCTION _bemi.revert_same_value(regclass, text)
	IS 'internal: SQL expression of a condition that a column has not changed since the plan';
REVOKE ALL ON FUNCTION _bemi.revert_same_value(regclass, text) FROM PUBLIC;

-- The statement of a step, as an expression on bemi_steps s, and on the rows n (values after) and
-- o (row now) of the table's type.
CREATE FUNCTION _bemi.revert_text(relation regclass)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT format($text$CASE s.kind
			WHEN 'INSERT' THEN format('INSERT INTO %%s (%%s)%1$s VALUES (%%s);', %2$L,
				array_to_string(ARRAY[%3$s], ', '), array_to_string(ARRAY[%4$s], ', '))
			WHEN 'DELETE' THEN format('DELETE FROM %%s WHERE %%s;', %2$L,
				array_to_string(ARRAY[%5$s], ' AND '))
			ELSE format('UPDATE %%s SET %%s WHERE %%s;', %2$L,
				array_to_string(ARRAY[%6$s], ', '),
				array_to_string(ARRAY[%5$s%7$s], ' AND '))
			END$text$,
		CASE WHEN EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = relation
			AND a.attidentity <> '') THEN ' OVERRIDING SYSTEM VALUE' ELSE '' END,
		relation,
		string_agg(format('CASE WHEN s.value_after ? %L THEN %L END', c.name,
			quote_ident(c.name)), ', ' ORDER BY c.place),
		string_agg(format('CASE WHEN s.value_after ? %L THEN format(''%%L'', n.%I) END', c.name,
			c.name), ', ' ORDER BY c.place),
		coalesce(string_agg(format('format(''%%s = %%L'', %L, o.%I)', quote_ident(c.name), c.name),
				', ' ORDER BY c.place) FILTER (WHERE c.is_key),
			string_agg(_bemi.revert_same_value(relation, c.name), ', ' ORDER BY c.place)),
		string_agg(format('CASE WHEN s.value_after ? %L THEN format(''%%s = %%L'', %L, n.%I) END',
			c.name, quote_ident(c.name), c.name), ', ' ORDER BY c.place),
		coalesce(string_agg(format(', CASE WHEN s.value_after ? %L THEN %s END', c.name,
			_bemi.revert_same_value(relation, c.name)), '' ORDER BY c.place)
			FILTER (WHERE NOT c.is_key AND k.exists), ''))
	FROM _bemi.revert_columns(relation) c,
		(SELECT bool_or(w.is_key) FROM _bemi.revert_columns(relation) w) k(exists)
$$;
COMMENT ON FUNCTION _bemi.revert_text(regclass)
	IS 'internal: SQL expression of the statement of a step of this table';
REVOKE ALL ON FUNCTION _bemi.revert_text(regclass) FROM PUBLIC;

-- A member of a row after a step.
CREATE FUNCTION _bemi.revert_member(step text, name name)
	RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT format('CASE WHEN %1$s.value_after ? %2$L THEN %1$s.value_after ELSE %1$s.row_now END '
		'-> %2$L', step, name)
$$;
COMMENT ON FUNCTION _bemi.revert_member(text, name)
	IS 'internal: SQL expression of a value after a step';
REVOKE ALL ON FUNCTION _bemi.revert_member(text, name) FROM PUBLIC;
