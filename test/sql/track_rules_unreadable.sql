-- Rules that cannot be read redact all of their table, and do not affect other tables.
--
-- Rules are arguments of a trigger. A table's owner can create such a trigger if bemi's event
-- triggers are disabled. Then it is unknown which columns are secret. If such rules counted as
-- none, secrets would be stored. If they were an error, no other table could be tracked.

CREATE EXTENSION bemi;
CALL bemi.start();
\set SHOW_CONTEXT never
CREATE TABLE card (id integer PRIMARY KEY, number text);
CREATE TABLE beside (id integer PRIMARY KEY, number text);
SELECT bemi.track('card', ignore => '{number}', redact => '{number}'), bemi.track('beside', redact => '{number}');

-- At the table's own DDL, they are an error.
CREATE PROCEDURE set_arguments(arguments text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE 'CREATE OR REPLACE TRIGGER bemi_emit_context BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON card FOR EACH STATEMENT'
		' EXECUTE FUNCTION bemi.emit_context(''d'', '''', ''table'', ' || arguments || ')';
EXCEPTION WHEN invalid_parameter_value THEN
	RAISE NOTICE '%', SQLERRM;
END $$;
CREATE TABLE bad (place serial, arguments text);
INSERT INTO bad (arguments) VALUES ($$'{"redact": ["number"]'$$), ($$'["number"]'$$), ($$'null'$$), ($$''$$), ($$'{"redact": "number"}'$$),
	($$'{"redact": [["number"]]}'$$), ($$'{"redact": ["number", null]}'$$), ($$'{"redakt": ["number"]}'$$), ($$E'{"redact": ["\\u0000"]}'$$),
	($$'{"redact": [1e1000000]}'$$), ($$'{"redact": ["number"]}', 'more'$$);
DO $$ DECLARE a text; BEGIN
	FOR a IN SELECT arguments FROM bad ORDER BY place LOOP CALL set_arguments(a); END LOOP;
END $$;
CALL set_arguments($$'{"redact": ["number"]}'$$);
SELECT "table", ignore, redact, problems FROM bemi.tracked ORDER BY "table"::text;

-- If that was not checked, everything is redacted, also after other changes of the table.
CREATE PROCEDURE force_arguments(arguments text) LANGUAGE plpgsql AS $$
BEGIN
	ALTER EVENT TRIGGER bemi_follow_ddl DISABLE;
	ALTER EVENT TRIGGER bemi_refuse_triggers DISABLE;
	CALL set_arguments(arguments);
	ALTER EVENT TRIGGER bemi_follow_ddl ENABLE ALWAYS;
	ALTER EVENT TRIGGER bemi_refuse_triggers ENABLE ALWAYS;
END $$;
DO $$ DECLARE b record; BEGIN
	FOR b IN SELECT * FROM bad ORDER BY place LOOP
		CALL force_arguments(b.arguments);
		-- so that a message describes it to the worker
		ALTER TABLE card ADD more text;
		EXECUTE format('INSERT INTO card VALUES (%s, ''secret'', ''secret'')', b.place);
		ALTER TABLE card RENAME number TO digits;
		ALTER TABLE card RENAME digits TO number;
		EXECUTE format('UPDATE card SET number = ''secret too'' WHERE id = %s', b.place);
		ALTER TABLE card DROP more;
	END LOOP;
END $$;
SELECT bemi.sync('60s');
SELECT after, count(*) FROM bemi.changes WHERE "table" = 'card' GROUP BY after ORDER BY after;
SELECT "table", ignore, redact, problems FROM bemi.tracked ORDER BY "table"::text;

-- Others continue.
INSERT INTO beside VALUES (1, 'secret');
ALTER TABLE beside RENAME number TO digits;
CREATE TABLE third (id integer PRIMARY KEY);
SELECT bemi.track('third'), bemi.track('beside', ignore => '{digits}');
SELECT bemi.sync('60s');
SELECT after FROM bemi.changes WHERE "table" = 'beside';

-- The owner mends them.
SELECT bemi.track('card', redact => '{number}');
SELECT "table", ignore, redact, problems FROM bemi.tracked WHERE "table" = 'card'::regclass;
INSERT INTO card VALUES (100, 'secret');
SELECT bemi.sync('60s');
SELECT after FROM bemi.changes WHERE "table" = 'card' AND primary_key = '100';
SELECT bemi.untrack('card'), bemi.untrack('beside'), bemi.untrack('third');

DROP TABLE card, beside, third, bad;
DROP PROCEDURE set_arguments, force_arguments;
CALL bemi.drop_source('main');
DROP EXTENSION bemi CASCADE;
DROP PUBLICATION bemi;
