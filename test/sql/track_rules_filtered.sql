-- Rules of a table with a row filter: the rows that the filter publishes are redacted like all
-- others, also when an UPDATE moves a row across the filter and is stored as CREATE or DELETE.
--
-- PostgreSQL 14 has no row filters, and nothing to test (track_rules_filtered_1.out).

SELECT current_setting('server_version_num')::integer < 150000 AS no_filters \gset
\if :no_filters
\quit
\endif
CREATE EXTENSION bemi;
CALL bemi.start();
CREATE TABLE keyed (email text PRIMARY KEY, v integer);
SELECT bemi.track('keyed'), bemi.untrack('keyed');
ALTER PUBLICATION bemi ADD TABLE ONLY keyed WHERE (v > 10);
SELECT bemi.track('keyed', redact => '{email}');
SELECT row_filter, redact, problems FROM bemi.tracked WHERE "table" = 'keyed'::regclass;
INSERT INTO keyed VALUES ('a', 9), ('b', 11);
UPDATE keyed SET v = v + 2;
UPDATE keyed SET v = 1;
SELECT bemi.sync('60s');
SELECT operation, primary_key, before, after FROM bemi.changes ORDER BY id;
SELECT state, restarts, invalid_messages FROM bemi.status;

SET client_min_messages = warning;
CALL bemi.drop_source('main');
DROP TABLE keyed;
DROP PUBLICATION bemi;
DROP EXTENSION bemi CASCADE;
