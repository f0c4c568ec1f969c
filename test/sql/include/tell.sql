\set ECHO none
-- Returns what the worker has stored since the last call of tell(), with "by" of the context.
CREATE FUNCTION tell() RETURNS TABLE ("table" text, operation text, key text, by text)
LANGUAGE plpgsql AS $$
DECLARE
	seen text := current_setting('tell.seen', true);
BEGIN
	PERFORM bemi.sync('60s');
	RETURN QUERY SELECT c."table", c.operation, c.primary_key, coalesce(c.context->>'by', c.context::text)
		FROM bemi.changes c WHERE seen IS NULL OR seen = '' OR c.id > seen::uuid ORDER BY c.id;
	PERFORM set_config('tell.seen', (SELECT c.id::text FROM bemi.changes c ORDER BY c.id DESC LIMIT 1), false);
END $$;
\set ECHO all
