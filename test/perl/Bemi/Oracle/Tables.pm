# The tables of query_oracle, and the record of what is written to them.
#
# Bemi::Journal notes each change by triggers. Here each note also gets the transaction, and the row
# by numbers of columns, which stay when a column is renamed. Statements that change columns run
# through oracle.ddl(), which notes all rows afterwards (RESET, then an IMAGE for each row).
#
# The order of the commits comes from a slot of the test's own (oracle.commits), read with pgoutput.
# Thus the rows of a table at any place in commit order are a sum over the journal (oracle.state()).
#
# Each table with a key has a column "k" that identifies its rows, also if their keys change.
#
# The rules of a table (oracle.rules) say what the history leaves out. "before" and "after" of an entry
# are what it must have, and "stored" is false if it has no such change. The numbered rows are the real ones.

package Bemi::Oracle::Tables;

use strict;
use warnings;

use Bemi::Journal;
use Exporter 'import';

our @EXPORT = qw(%tables schema_of qualified install_tables);

# Columns that the statements name: name => type, see random_value() in Bemi::Oracle::Writers.
our %tables = (
	item => { key => ['id'], columns => { id => 'int', v => 'int', name => 'text', price => 'numeric', big => 'long' } },
	line => { key => [ 'line', 'order_id' ], columns => { order_id => 'smallint', line => 'smallint', v => 'int', note => 'text' } },
	'"Odd Ticket"' => { key => ['id'], columns => { id => 'uuid', '"Who?"' => 'text', v => 'int' } },
	word => { key => ['id'], columns => { id => 'word', v => 'int', tags => 'texts' } },
	rate => { key => ['id'], columns => { id => 'scaled', v => 'int' } },
	event => { key => [ 'region', 'id' ], columns => { id => 'int', region => 'region', v => 'int', at => 'timestamptz' } },
	seat => { key => ['id'], columns => { id => 'int', v => 'int' }, deferrable => 1 },
	loose => { key => [], columns => { v => 'region', name => 'text' } },
	area => { key => ['id'], columns => { id => 'int', w => 'int', h => 'int' } },
	# "cat" inherits from it. It is a table of its own, but UPDATE, DELETE and TRUNCATE of "animal" also change it.
	animal => { key => ['id'], columns => { id => 'int', v => 'int', name => 'text' } },
	cat => { key => ['id'], columns => { id => 'int', v => 'int', name => 'text' } },
	kitchen => {
		key => ['id'],
		columns => {
			id => 'moment', n => 'numeric', f => 'float', ts => 'timestamptz', t => 'timestamp', d => 'date', tm => 'time',
			iv => 'interval', yes => 'bool', ints => 'ints', texts => 'texts', j => 'jsonb', js => 'jsonb', bytes => 'bytea',
			mood => 'mood', span => 'span', u => 'uuid', net => 'inet', c => 'word', pair => 'pair', bits => 'bits',
			positive => 'int'
		}
	});

my $tables_sql = <<'SQL';
CREATE SCHEMA live;
CREATE SEQUENCE live.k;
CREATE TYPE live.mood AS ENUM ('bad', 'so so', 'good');
CREATE TYPE live.pair AS (a int, b text);
CREATE DOMAIN live.positive AS int CHECK (VALUE >= 0);
CREATE TABLE live.item (id int PRIMARY KEY, k bigint DEFAULT nextval('live.k'), v int, name text, price numeric(8, 2), big text);
ALTER TABLE live.item ALTER big SET STORAGE EXTERNAL;
CREATE TABLE live.line (order_id smallint, k bigint DEFAULT nextval('live.k'), line smallint, v int, note varchar(40),
	PRIMARY KEY (line, order_id));
CREATE TABLE live."Odd Ticket" (id uuid PRIMARY KEY, k bigint DEFAULT nextval('live.k'), "Who?" text, v int);
CREATE TABLE live.word (id text PRIMARY KEY, k bigint DEFAULT nextval('live.k'), v int, tags text[]);
CREATE TABLE live.rate (id numeric PRIMARY KEY, k bigint DEFAULT nextval('live.k'), v int);
CREATE TABLE live.event (id int, k bigint DEFAULT nextval('live.k'), region int, v int, at timestamptz, PRIMARY KEY (region, id))
	PARTITION BY LIST (region);
CREATE TABLE live.event_1 PARTITION OF live.event FOR VALUES IN (1);
CREATE TABLE live.event_2 (v int, at timestamptz, gone int, region int NOT NULL, k bigint DEFAULT nextval('live.k'), id int NOT NULL);
ALTER TABLE live.event_2 DROP gone;
ALTER TABLE live.event ATTACH PARTITION live.event_2 FOR VALUES IN (2);
CREATE TABLE live.event_rest PARTITION OF live.event DEFAULT PARTITION BY RANGE (id);
CREATE TABLE live.event_low PARTITION OF live.event_rest FOR VALUES FROM (MINVALUE) TO (10);
CREATE TABLE live.event_high PARTITION OF live.event_rest FOR VALUES FROM (10) TO (MAXVALUE);
CREATE TABLE live.seat (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, k bigint DEFAULT nextval('live.k'), v int);
CREATE TABLE live.loose (v int, name text);
CREATE TABLE live.area (id int PRIMARY KEY, k bigint DEFAULT nextval('live.k'), w int, h int,
	size bigint GENERATED ALWAYS AS (w::bigint * h) STORED);
CREATE TABLE live.animal (id int PRIMARY KEY, k bigint DEFAULT nextval('live.k'), v int, name text);
CREATE TABLE live.cat (PRIMARY KEY (id)) INHERITS (live.animal);
CREATE TABLE live.kitchen (id timestamptz PRIMARY KEY, k bigint DEFAULT nextval('live.k'), n numeric, f double precision, ts timestamptz,
	t timestamp, d date, tm time, iv interval, yes bool, ints int[], texts text[], j jsonb, js json, bytes bytea, mood live.mood,
	span int4range, u uuid, net inet, c char(6), pair live.pair, bits bit(3), positive live.positive);
-- Rows from before the tracking.
INSERT INTO live.item SELECT i, nextval('live.k'), i, 'old', i, repeat('old', 1000) FROM generate_series(1, 12, 2) i;
INSERT INTO live.line SELECT i % 4, nextval('live.k'), i % 3, i FROM generate_series(1, 9, 2) i;
INSERT INTO live.word VALUES ('old', DEFAULT, 1, '{a,b}');
INSERT INTO live.event SELECT i, nextval('live.k'), i % 4, i FROM generate_series(1, 16, 3) i;
INSERT INTO live.seat SELECT i FROM generate_series(1, 8) i;
INSERT INTO live.loose SELECT i % 3, 'old' FROM generate_series(1, 6) i;
INSERT INTO live.area SELECT i, nextval('live.k'), i, 3 FROM generate_series(1, 6) i;
INSERT INTO live.animal SELECT i, nextval('live.k'), i, 'old' FROM generate_series(1, 6) i;
INSERT INTO live.cat SELECT i, nextval('live.k'), i, 'old' FROM generate_series(4, 9) i;
SQL

my $record_sql = <<'SQL';
CREATE SCHEMA oracle;
CREATE TABLE oracle.tables (name text PRIMARY KEY, relation oid NOT NULL, key text[] NOT NULL);
CREATE TABLE oracle.former (name text, relation oid);	-- tables that were dropped, and made again

ALTER TABLE journal.entries ADD xid bigint, ADD relation oid, ADD key_before text, ADD k bigint,
	ADD numbers jsonb, ADD numbered_before jsonb, ADD numbered_after jsonb, ADD stored boolean NOT NULL DEFAULT true, ALTER before SET STORAGE EXTENDED;
CREATE INDEX ON journal.entries (relation, n);

-- A row by the numbers of its columns.
CREATE FUNCTION oracle.numbered(target oid, image jsonb) RETURNS jsonb LANGUAGE sql STABLE AS $$
	SELECT CASE WHEN image <> '{}' THEN jsonb_object_agg(attnum, image -> attname) END
		FROM pg_attribute WHERE attrelid = target AND attnum > 0 AND NOT attisdropped
$$;

-- Up to PostgreSQL 17, generated columns are not in the WAL's stream, and so not in the history.
CREATE FUNCTION oracle.streamed(target oid, image jsonb) RETURNS jsonb LANGUAGE sql STABLE AS $$
	SELECT image - coalesce(array_agg(attname::text) FILTER (WHERE attgenerated <> '' AND current_setting('server_version_num')::int < 180000), '{}')
		FROM pg_attribute WHERE attrelid = target AND attnum > 0
$$;

-- Names, or beginnings of names with a "*".
CREATE TABLE oracle.rules (relation oid PRIMARY KEY, tracked boolean NOT NULL DEFAULT true, ignore text[] NOT NULL DEFAULT '{}',
	redact text[] NOT NULL DEFAULT '{}', redact_hash text[] NOT NULL DEFAULT '{}');

CREATE FUNCTION oracle.names_rule(name text, rule text[]) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
	SELECT coalesce(bool_or(name = r OR r LIKE '%*' AND starts_with(name, left(r, -1))), false) FROM unnest(rule) r
$$;

-- A row as the history has it. Instead of the hash, which only the source can make, another one.
CREATE FUNCTION oracle.redacted(image jsonb, redact text[], redact_hash text[]) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
	SELECT coalesce(jsonb_object_agg(key, CASE
			WHEN value <> 'null' AND oracle.names_rule(key, redact) THEN '"[redacted]"'
			WHEN value <> 'null' AND oracle.names_rule(key, redact_hash) THEN to_jsonb(format('[redacted:%s]', md5(value::text)))
			ELSE value END), '{}') FROM jsonb_each(image)
$$;

CREATE FUNCTION oracle.redacted(target oid, image jsonb) RETURNS jsonb LANGUAGE sql STABLE AS $$
	SELECT coalesce((SELECT oracle.redacted(image, r.redact, r.redact_hash) FROM oracle.rules r WHERE r.relation = target), image)
$$;

CREATE FUNCTION oracle.without_ignored(target oid, image jsonb) RETURNS jsonb LANGUAGE sql STABLE AS $$
	SELECT jsonb_object_agg(key, value) FROM jsonb_each(image) WHERE NOT oracle.names_rule(key, (SELECT ignore FROM oracle.rules r WHERE r.relation = target))
$$;

CREATE FUNCTION oracle.complete_entry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	NEW.xid := pg_current_xact_id()::text::bigint & 4294967295;
	NEW.relation := coalesce(NEW.relation, to_regclass(format('%I.%I', NEW.schema, NEW."table")));
	IF NEW.operation IN ('CREATE', 'UPDATE', 'DELETE') THEN
		IF NEW.operation = 'UPDATE' THEN
			NEW.key_before := journal.key(NEW.relation, NEW.before);
		END IF;
		-- As the type prints it.
		IF NEW."table" = 'kitchen' THEN
			NEW.key := NEW.key::timestamptz;
			NEW.key_before := NEW.key_before::timestamptz;
		END IF;
		NEW.k := coalesce(NEW.after ->> 'k', NEW.before ->> 'k');
		NEW.numbers := oracle.numbers(NEW.relation);
		NEW.numbered_before := oracle.numbered(NEW.relation, NEW.before);
		NEW.numbered_after := oracle.numbered(NEW.relation, NEW.after);
		NEW.before := oracle.streamed(NEW.relation, NEW.before);
		NEW.after := oracle.streamed(NEW.relation, NEW.after);
		IF EXISTS (SELECT FROM oracle.rules r WHERE r.relation = NEW.relation) THEN
			NEW.stored := NEW.operation <> 'UPDATE' OR NEW.before::text = NEW.after::text
				OR oracle.without_ignored(NEW.relation, NEW.before)::text <> oracle.without_ignored(NEW.relation, NEW.after)::text;
			NEW.before := oracle.redacted(NEW.relation, NEW.before);
			NEW.after := oracle.redacted(NEW.relation, NEW.after);
		END IF;
	END IF;
	NEW.stored := NEW.stored AND NEW.operation NOT IN ('RESET', 'IMAGE', 'RULES')
		AND NOT EXISTS (SELECT FROM oracle.rules r WHERE r.relation = NEW.relation AND NOT r.tracked);
	RETURN NEW;
END
$$;
CREATE TRIGGER complete BEFORE INSERT ON journal.entries FOR EACH ROW EXECUTE FUNCTION oracle.complete_entry();

-- A table for FROM. Tables that inherit from it are tables of their own.
CREATE FUNCTION oracle.only(target oid) RETURNS text LANGUAGE sql STABLE AS $$
	SELECT CASE relkind WHEN 'p' THEN '' ELSE 'ONLY ' END || oid::regclass FROM pg_class WHERE oid = target
$$;

-- Name => number.
CREATE FUNCTION oracle.numbers(target oid) RETURNS jsonb LANGUAGE sql STABLE AS $$
	SELECT jsonb_object_agg(attname, attnum) FROM pg_attribute WHERE attrelid = target AND attnum > 0 AND NOT attisdropped
$$;

-- Notes all rows of a table. Its caller has locked it.
CREATE FUNCTION oracle.note_all(target oid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO journal.entries (relation, schema, "table", operation, numbers)
		SELECT target, n.nspname, c.relname, 'RESET', oracle.numbers(target) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target;
	EXECUTE format('INSERT INTO journal.entries (relation, operation, numbered_after) SELECT %s, ''IMAGE'', oracle.numbered(%1$s, to_jsonb(r)) FROM %2$s r',
		target, oracle.only(target));
END
$$;

-- "<table>" is the table, under its present name.
CREATE FUNCTION oracle.run(name text, sql text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE replace(sql, '<table>', (SELECT relation::regclass::text FROM oracle.tables t WHERE t.name = run.name));
END
$$;

-- What bemi.schema_changes says of a table.
CREATE FUNCTION oracle.shape(target oid, OUT "table" text, OUT columns jsonb, OUT key text[]) LANGUAGE sql STABLE AS $$
	SELECT c.relname,
			(SELECT jsonb_agg(jsonb_build_array(a.attnum, a.attname, format_type(a.atttypid, a.atttypmod)) ORDER BY a.attnum)
				FROM pg_attribute a WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped),
			ARRAY(SELECT a.attname FROM pg_index i, unnest(i.indkey) WITH ORDINALITY k(number, place) JOIN pg_attribute a ON a.attnum = k.number
				WHERE i.indrelid = target AND i.indisprimary AND a.attrelid = target ORDER BY k.place)
		FROM pg_class c WHERE c.oid = target
$$;

-- Each command that changed the shape of a table.
CREATE TABLE oracle.reshaped (n bigint GENERATED ALWAYS AS IDENTITY, xid bigint DEFAULT pg_current_xact_id()::text::bigint & 4294967295, relation oid,
	command text, context jsonb DEFAULT coalesce(nullif(current_setting('bemi.context', true), ''), '{}')::jsonb,
	table_before text, columns_before jsonb, key_before text[], table_after text, columns_after jsonb, key_after text[]);

-- Commands are separated by "; ". What they change must be locked before them.
CREATE FUNCTION oracle.ddl(name text, sql text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	target oid := (SELECT relation FROM oracle.tables t WHERE t.name = ddl.name);
	command text;
	was record;
BEGIN
	PERFORM oracle.run(name, 'LOCK TABLE <table> IN ACCESS EXCLUSIVE MODE');
	FOREACH command IN ARRAY string_to_array(sql, '; ') LOOP
		-- While it waits for a lock, others change the tables.
		IF command LIKE 'LOCK TABLE %' THEN
			PERFORM oracle.run(name, command);
			CONTINUE;
		END IF;
		CREATE TEMP TABLE was AS SELECT t.relation, s.* FROM oracle.tables t, oracle.shape(t.relation) s;
		PERFORM oracle.run(name, command);
		INSERT INTO oracle.reshaped (relation, command, table_before, columns_before, key_before, table_after, columns_after, key_after)
			SELECT w.relation, command, w."table", w.columns, w.key, s."table", s.columns, s.key FROM pg_temp.was w, oracle.shape(w.relation) s
			WHERE (w."table", w.columns, w.key) IS DISTINCT FROM (s."table", s.columns, s.key)
				-- Others may have been changed by other sessions.
				AND EXISTS (SELECT FROM pg_locks l WHERE l.pid = pg_backend_pid() AND l.relation = w.relation AND l.mode = 'AccessExclusiveLock');
		DROP TABLE pg_temp.was;
	END LOOP;
	PERFORM oracle.note_all(t.relation) FROM oracle.tables t WHERE t.relation = target
		OR EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = t.relation AND i.inhparent = target);
	INSERT INTO oracle.columns SELECT a.attrelid, a.attnum FROM oracle.tables t JOIN pg_attribute a ON a.attrelid = t.relation
		WHERE a.attnum > 0 AND NOT a.attisdropped ON CONFLICT DO NOTHING;
END
$$;

-- When a column was added.
CREATE TABLE oracle.columns (relation oid, attnum smallint, xid bigint DEFAULT pg_current_xact_id()::text::bigint & 4294967295,
	n bigint DEFAULT currval('journal.entries_n_seq'), PRIMARY KEY (relation, attnum));

--
-- Commit order
--

-- lsn is that of the commit record, and end_lsn where it ends.
CREATE TABLE oracle.commits (number int GENERATED ALWAYS AS IDENTITY, xid bigint PRIMARY KEY, lsn pg_lsn, end_lsn pg_lsn,
	committed_at timestamptz, changes bool);
CREATE UNIQUE INDEX ON oracle.commits (lsn);

CREATE FUNCTION oracle.int(message bytea, first int, bytes int) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
	SELECT ('x' || lpad(encode(substr(message, first, bytes), 'hex'), 16, '0'))::bit(64)::bigint
$$;

-- Begin: type, LSN of the commit record, time, xid. Commit: type, flags, LSN of the commit record, end of it, time.
-- No commit may follow that has an earlier time than one that is read. So it waits until all that write have ended,
-- unless the caller keeps them from writing. Others: the stream has a transaction before its changes can be seen.
CREATE PROCEDURE oracle.read_commits(waits boolean) LANGUAGE plpgsql AS $$
BEGIN
	IF waits THEN
		PERFORM pg_advisory_xact_lock(42);
	END IF;
	INSERT INTO oracle.commits (xid, lsn, end_lsn, committed_at)
	SELECT xid, pg_lsn('0/0') + lsn, pg_lsn('0/0') + end_lsn, timestamptz '2000-01-01 00:00:00+00' + at * interval '1 microsecond'
		FROM (
			SELECT get_byte(data, 0) AS type, oracle.int(data, 18, 4) AS xid, oracle.int(data, 2, 8) AS lsn, oracle.int(data, 10, 8) AS at,
					lead(oracle.int(data, 11, 8)) OVER (ORDER BY i) AS end_lsn
				FROM pg_logical_slot_get_binary_changes('oracle', NULL, NULL, 'proto_version', '1', 'publication_names', 'oracle')
					WITH ORDINALITY s(at_lsn, xid, data, i)
				WHERE get_byte(data, 0) IN (66, 67)) b
		WHERE type = 66 ORDER BY lsn
		ON CONFLICT DO NOTHING;
	WHILE EXISTS (SELECT FROM oracle.commits c WHERE c.changes IS NULL AND pg_xact_status(c.xid::text::xid8) = 'in progress') LOOP
		PERFORM pg_sleep(0.001);
	END LOOP;
	UPDATE oracle.commits c SET changes = EXISTS (SELECT FROM journal.entries e WHERE e.xid = c.xid AND e.stored) WHERE changes IS NULL;
END
$$;

-- The longest prefix of the commits with times up to this one: LSN of the first commit after it.
CREATE FUNCTION oracle.prefix(at timestamptz) RETURNS pg_lsn LANGUAGE sql STABLE AS $$
	SELECT coalesce(min(lsn), 'FFFFFFFF/FFFFFFFF') FROM oracle.commits WHERE committed_at > at AND changes
$$;

CREATE VIEW oracle.deltas AS
	SELECT e.relation, c.lsn, e.n, i.image, i.delta
	FROM journal.entries e JOIN oracle.commits c USING (xid)
		CROSS JOIN LATERAL (SELECT numbered_before, -1 WHERE numbered_before IS NOT NULL
			UNION ALL SELECT numbered_after, 1 WHERE numbered_after IS NOT NULL) i(image, delta);

-- The rows before a place: those of the commits before this LSN, and of the commit there, the entries before n.
CREATE FUNCTION oracle.state(target oid, at pg_lsn, before_n bigint DEFAULT 0) RETURNS TABLE (image jsonb, count bigint) LANGUAGE sql STABLE AS $$
	WITH start AS (
		SELECT c.lsn, e.n FROM journal.entries e JOIN oracle.commits c USING (xid)
			WHERE e.relation = target AND e.operation IN ('TRUNCATE', 'RESET') AND (c.lsn, e.n) < (at, before_n)
			ORDER BY c.lsn DESC, e.n DESC LIMIT 1
	), rows AS (
		SELECT d.image, d.delta FROM oracle.deltas d, start s
			WHERE d.relation = target AND (d.lsn, d.n) < (at, before_n) AND (d.lsn, d.n) > (s.lsn, s.n)
	)
	-- As text, because the jsonb 1.5 equals 1.50.
	SELECT image::text::jsonb, sum(delta) FROM rows GROUP BY image::text HAVING sum(delta) <> 0
$$;

-- The names of columns before a place: number => name.
CREATE FUNCTION oracle.names(target oid, at pg_lsn, before_n bigint DEFAULT 0) RETURNS jsonb LANGUAGE sql STABLE AS $$
	SELECT (SELECT jsonb_object_agg(value, key) FROM jsonb_each_text(last.numbers))
		FROM (SELECT e.numbers FROM journal.entries e JOIN oracle.commits c USING (xid)
			WHERE e.relation = target AND e.operation = 'RESET' AND (c.lsn, e.n) < (at, before_n)
			ORDER BY c.lsn DESC, e.n DESC LIMIT 1) last
$$;

--
-- Copies
--

CREATE TABLE oracle.instants (instant int GENERATED ALWAYS AS IDENTITY, at timestamptz, lsn pg_lsn);
CREATE TABLE oracle.copies (instant int, relation oid, image jsonb);

-- Each transaction that writes holds the lock in shared mode. So all of them, and no parts of others, are in the copy.
CREATE PROCEDURE oracle.copy_all() LANGUAGE plpgsql AS $$
DECLARE
	this int;
	t record;
BEGIN
	PERFORM pg_advisory_xact_lock(42);
	INSERT INTO oracle.instants (at, lsn) VALUES (clock_timestamp(), pg_current_wal_insert_lsn()) RETURNING instant INTO this;
	FOR t IN SELECT * FROM oracle.tables LOOP
		EXECUTE format('INSERT INTO oracle.copies SELECT %s, %s, oracle.numbered(%2$s, to_jsonb(r)) FROM %s r', this, t.relation, oracle.only(t.relation));
	END LOOP;
END
$$;
SQL

sub schema_of { my ($t) = @_; return $tables{$t}{schema} // 'live'; }

sub qualified { my ($t) = @_; return schema_of($t) . ".$t"; }

# By default, the tables of above. Parameter: SQL that makes others, which are then in %tables.
sub install_tables
{
	my ($node, $sql) = @_;

	journal_install($node);
	$node->safe_psql('postgres', $sql // $tables_sql);
	$node->safe_psql('postgres', $record_sql);
	for my $name (sort keys %tables)
	{
		my $key = join ', ', map { "'$_'" } @{ $tables{$name}{key} };

		$node->safe_psql('postgres', qq{
			INSERT INTO oracle.tables VALUES (\$\$$name\$\$, '@{[ qualified($name) ]}'::regclass, ARRAY[$key]::text[]);
			SELECT journal.follow('@{[ qualified($name) ]}'), oracle.note_all('@{[ qualified($name) ]}'::regclass);
			INSERT INTO oracle.columns SELECT attrelid, attnum, 0, 0 FROM pg_attribute
				WHERE attrelid = '@{[ qualified($name) ]}'::regclass AND attnum > 0});
	}
	$node->safe_psql('postgres', q{
		INSERT INTO oracle.commits (xid, lsn, end_lsn, committed_at, changes)
			SELECT DISTINCT xid, pg_lsn('0/0') + xid, pg_lsn('0/0') + xid, timestamptz '-infinity', false FROM journal.entries;
		CREATE PUBLICATION oracle FOR TABLE journal.entries;
		SELECT pg_create_logical_replication_slot('oracle', 'pgoutput')});
	return;
}

1;
