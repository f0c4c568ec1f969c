-- Waits until the query in the setting documents.wait returns true, for a minute at most. For what
-- bemi.sync() does not wait for, such as sources elsewhere.

DO $$
DECLARE
	done boolean;
BEGIN
	FOR i IN 1 .. 600 LOOP
		EXECUTE current_setting('documents.wait') INTO done;
		IF done THEN
			RETURN;
		END IF;
		PERFORM pg_sleep(0.1);
	END LOOP;
	RAISE 'waited in vain until: %', current_setting('documents.wait');
END
$$;
