-- Runs once, in the database of POSTGRES_DB, when the volume is empty.
CREATE EXTENSION bemi;
