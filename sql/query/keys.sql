
--
-- Primary keys as bemi.changes has them
--

-- The type is NULL if its text is the same in jsonb, or if an ordinary role may have made it:
-- the functions of such a type would run with the rights of the reader. In PL/pgSQL, because that
-- keeps the plan for the next call.
CREATE FUNCTION _bemi.key_columns(target regclass, OUT names text[], OUT types text[])
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	SELECT array_agg(a.attname::text ORDER BY k.place),
			array_agg(CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace
					AND t.oid NOT IN ('text'::regtype, 'jsonb'::regtype)
				THEN format_type(t.oid, CASE WHEN t.oid = a.atttypid THEN a.atttypmod
					ELSE d.typtypmod END) END ORDER BY k.place)
		INTO names, types
		FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, place)
			JOIN pg_attribute a ON a.attnum = k.attnum
			JOIN pg_type d ON d.oid = a.atttypid
			JOIN pg_type t ON t.oid = CASE d.typtype WHEN 'd' THEN d.typbasetype ELSE d.oid END
		WHERE i.indrelid = target AND i.indisprimary AND a.attrelid = target
			AND k.place <= i.indnkeyatts;
END
$$;
COMMENT ON FUNCTION _bemi.key_columns(regclass)
	IS 'internal: names and built-in types of the columns of the primary key, in key order';
REVOKE ALL ON FUNCTION _bemi.key_columns(regclass) FROM PUBLIC;

-- %s of format() prints a value as the type's output function does.
CREATE FUNCTION _bemi.key_text(value jsonb, type text)
	RETURNS text
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET timezone = 'UTC'
	SET datestyle = 'ISO'
	SET intervalstyle = 'postgres'
	SET extra_float_digits = 1
	SET bytea_output = 'hex'
AS $$
DECLARE
	result text;
BEGIN
	IF type IS NULL OR starts_with(value #>> '{}', '[redacted') THEN
		RETURN value #>> '{}';
	END IF;
	EXECUTE format('SELECT format(''%%s'', r.x) FROM jsonb_to_record($1) r(x %s)', type)
		INTO result USING jsonb_build_object('x', value);
	RETURN result;
END
$$;
COMMENT ON FUNCTION _bemi.key_text(jsonb, text)
	IS 'internal: text of a value in the primary key; with type NULL, the text in the jsonb';
REVOKE ALL ON FUNCTION _bemi.key_text(jsonb, text) FROM PUBLIC;

-- As bounded_key() in src/decode/row_json.c.
CREATE FUNCTION _bemi.key_of_texts(texts text[])
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN octet_length(k.key) <= 2000 THEN k.key
			ELSE left(k.key, (SELECT max(n) FROM generate_series(500, least(2000, length(k.key))) n
				WHERE octet_length(left(k.key, n)) <= 2000)) || '...md5:' || md5(k.key) END
		FROM (SELECT CASE cardinality(texts) WHEN 1 THEN texts[1]
			ELSE to_jsonb(texts)::text END) k(key)
$$;
COMMENT ON FUNCTION _bemi.key_of_texts(text[])
	IS 'internal: primary_key of bemi.changes for the texts of the key''s columns';
REVOKE ALL ON FUNCTION _bemi.key_of_texts(text[]) FROM PUBLIC;

CREATE FUNCTION _bemi.key_from_image(target regclass, image jsonb)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT _bemi.key_of_texts(array_agg(_bemi.key_text(image -> c.name, c.type) ORDER BY c.place))
		FROM _bemi.key_columns(target) k,
			unnest(k.names, k.types) WITH ORDINALITY c(name, type, place)
		HAVING bool_and(image ? c.name)
$$;
COMMENT ON FUNCTION _bemi.key_from_image(regclass, jsonb)
	IS 'internal: primary_key of bemi.changes for a row; NULL if it lacks a part of the key';
REVOKE ALL ON FUNCTION _bemi.key_from_image(regclass, jsonb) FROM PUBLIC;

CREATE FUNCTION _bemi.read_key(target regclass, key text)
	RETURNS text
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
DECLARE
	columns record;
	image jsonb;
	example text;
BEGIN
	IF key IS NULL THEN
		RAISE EXCEPTION 'key must not be null'
			USING ERRCODE = 'null_value_not_allowed',
				DETAIL = 'A primary key has a value in each row.',
				HINT = format('SELECT * FROM bemi.find_changes(%L);', target);
	END IF;
	SELECT k.names, k.types INTO columns FROM _bemi.key_columns(target) k;
	IF columns.names IS NULL THEN
		RAISE EXCEPTION 'table "%" has no primary key', target
			USING ERRCODE = 'undefined_object',
				HINT = format('SELECT * FROM bemi.find_changes(%L);', target);
	ELSIF cardinality(columns.names) = 1 THEN
		RETURN _bemi.key_of_texts(ARRAY[_bemi.key_text(to_jsonb(key), columns.types[1])]);
	END IF;

	example := (SELECT format('{%s}', string_agg(format('%s: ...', to_json(n)), ', ' ORDER BY i))
		FROM unnest(columns.names) WITH ORDINALITY c(n, i));
	-- Also as bemi.changes has it, so that it can be copied from there.
	IF key ~ '^\s*\[' AND jsonb_array_length(key::jsonb) = cardinality(columns.names) THEN
		image := (SELECT jsonb_object_agg(n, key::jsonb -> (i - 1)::integer)
			FROM unnest(columns.names) WITH ORDINALITY c(n, i));
	ELSIF key ~ '^\s*\{' THEN
		image := key::jsonb;
	ELSE
		RAISE EXCEPTION 'key of table "%" has % columns', target, cardinality(columns.names)
			USING ERRCODE = 'invalid_parameter_value',
				HINT = format('Write the key as %L.', example);
	END IF;
	IF NOT (image ?& columns.names)
		OR (SELECT count(*) <> cardinality(columns.names) FROM jsonb_object_keys(image))
		OR jsonb_path_exists(image, '$.* ? (@ == null)') THEN
		RAISE EXCEPTION 'key of table "%" must have each of its columns, and no others', target
			USING ERRCODE = 'invalid_parameter_value',
				HINT = format('Write the key as %L.', example);
	END IF;
	RETURN _bemi.key_from_image(target, image);
END
$$;
COMMENT ON FUNCTION _bemi.read_key(regclass, text)
	IS 'internal: as _bemi.key_from_user(), with errors whose context has functions of bemi';
REVOKE ALL ON FUNCTION _bemi.read_key(regclass, text) FROM PUBLIC;

CREATE FUNCTION _bemi.key_from_user(target regclass, key text)
	RETURNS text
	AS 'MODULE_PATHNAME', 'bemi_key_from_user'
	LANGUAGE C STABLE;
COMMENT ON FUNCTION _bemi.key_from_user(regclass, text)
	IS 'internal: primary_key of bemi.changes for a key that a user has written';
REVOKE ALL ON FUNCTION _bemi.key_from_user(regclass, text) FROM PUBLIC;
