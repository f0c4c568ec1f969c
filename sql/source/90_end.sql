
DO $$
DECLARE
	name text;
	value text;
BEGIN
	FOREACH name IN ARRAY '{bemi.include,bemi.tags,bemi.tags_format}'::pg_catalog.text[] LOOP
		value := pg_catalog.substring(pg_catalog.current_setting('_bemi.former_source', true),
			pg_catalog.format(E'''([^'']+)'' /\\* %s \\*/', name));
		IF value IS NOT NULL THEN
			PERFORM bemi.set_default(name, value);
		END IF;
	END LOOP;
END
$$;

COMMIT;
