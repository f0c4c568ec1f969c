\set ECHO none
-- bemi.tracked in an order that does not depend on the collation.
CREATE VIEW tracked AS
	SELECT "table"::text, triggers, identity, published, problems FROM bemi.tracked ORDER BY "table"::text COLLATE "C";
\set ECHO all
