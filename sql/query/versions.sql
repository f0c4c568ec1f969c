
--
-- A table between two times: bemi.versions(), bemi.diff_table()
--

CREATE FUNCTION _bemi.wrong_change_of_past(target text, change uuid)
	RETURNS boolean
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RAISE EXCEPTION 'the history of table "%" does not lead to its rows', target
		USING ERRCODE = 'object_not_in_prerequisite_state',
			DETAIL = format('Change %s removes a row that is not there.', change),
			HINT = 'With allow_gaps => true, the result can be wrong.';
END
$$;
COMMENT ON FUNCTION _bemi.wrong_change_of_past(text, uuid)
	IS 'internal: error if a change of a table without a key removes a row that is not there';
REVOKE ALL ON FUNCTION _bemi.wrong_change_of_past(text, uuid) FROM PUBLIC;

CREATE FUNCTION bemi.versions(target anyelement, from_time timestamptz, to_time timestamptz,
		allow_gaps boolean DEFAULT false, timeout interval DEFAULT '10 seconds')
	RETURNS TABLE (valid_from timestamptz, valid_to timestamptz, change uuid, operation text,
		context jsonb, version anyelement)
	AS 'MODULE_PATHNAME', 'bemi_versions'
	LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION bemi.versions(anyelement, timestamptz, timestamptz, boolean, interval)
	IS 'every version that each row of a table had between two times, with the change that made it';
REVOKE ALL ON FUNCTION bemi.versions(anyelement, timestamptz, timestamptz, boolean, interval)
	FROM PUBLIC;

CREATE FUNCTION bemi.diff_table(target anyelement, from_time timestamptz, to_time timestamptz,
		allow_gaps boolean DEFAULT false, timeout interval DEFAULT '10 seconds')
	RETURNS TABLE (kind text, before anyelement, after anyelement)
	AS 'MODULE_PATHNAME', 'bemi_diff_table'
	LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION bemi.diff_table(anyelement, timestamptz, timestamptz, boolean, interval)
	IS 'rows of a table that differ between two times: kind is CREATE, UPDATE or DELETE';
REVOKE ALL ON FUNCTION bemi.diff_table(anyelement, timestamptz, timestamptz, boolean, interval)
	FROM PUBLIC;
