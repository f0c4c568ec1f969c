# The tables of query_oracle_rules: of which the history leaves something out, and of which not each
# change is tracked.

package Bemi::Oracle::Rules;

use strict;
use warnings;

use Bemi::Oracle::Past;
use Bemi::Oracle::Tables;
use Bemi::Oracle::Truth;
use Bemi::Oracle::Writers;
use Exporter 'import';
use Test::More;

our @EXPORT = qw(install_rules check_with_gaps check_ignored check_present_key check_hashes);

%tables = (
	secret => { key => ['id'], columns => { id => 'int', v => 'int', name => 'text', mail => 'text' }, redacted => [ 'name', 'mail' ] },
	stamp => { key => ['id'], columns => { id => 'int', v => 'int', seen_at => 'timestamptz', seen_by => 'text', note => 'text' }, ignored => [ 'seen_at', 'seen_by' ] },
	moving => { key => ['id'], columns => { id => 'int', code => 'int', v => 'int', name => 'text' }, changes_key => 1 },
	lapse => { key => ['id'], columns => { id => 'int', v => 'int', name => 'text' }, lapses => 1, schema => 'alone' },
	fresh => { key => ['id'], columns => { id => 'int', v => 'int', name => 'text' }, is_made_again => 1 });

my $tables_sql = <<'SQL';
CREATE SCHEMA live;
CREATE SCHEMA alone;	-- where tables are not tracked by themselves
CREATE SEQUENCE live.k;
CREATE TABLE live.secret (id int PRIMARY KEY, k bigint DEFAULT nextval('live.k'), v int, name text, mail text);
CREATE TABLE live.stamp (id int PRIMARY KEY, k bigint DEFAULT nextval('live.k'), v int, seen_at timestamptz, seen_by text, note text);
CREATE TABLE live.moving (id int PRIMARY KEY, k bigint DEFAULT nextval('live.k'), code int NOT NULL UNIQUE, v int, name text);
CREATE UNIQUE INDEX ON live.moving (id);
CREATE TABLE alone.lapse (id int PRIMARY KEY, k bigint DEFAULT nextval('live.k'), v int, name text);
CREATE TABLE live.fresh (id int PRIMARY KEY, k bigint DEFAULT nextval('live.k'), v int, name text);
INSERT INTO live.secret SELECT i, nextval('live.k'), i, 'old', 'old' FROM generate_series(1, 9, 2) i;
INSERT INTO live.stamp SELECT i, nextval('live.k'), i, now(), 'old' FROM generate_series(1, 9, 2) i;
INSERT INTO live.moving SELECT i, nextval('live.k'), 30 - i, i, 'old' FROM generate_series(1, 9, 2) i;
INSERT INTO alone.lapse SELECT i, nextval('live.k'), i, 'old' FROM generate_series(1, 9, 2) i;
SQL

my $rules_sql = <<'SQL';
INSERT INTO oracle.rules SELECT relation, true FROM oracle.tables WHERE name IN ('secret', 'stamp', 'lapse');
UPDATE oracle.rules SET redact = '{name}', redact_hash = '{mail}' WHERE relation = 'live.secret'::regclass;
UPDATE oracle.rules SET ignore = '{seen_*}' WHERE relation = 'live.stamp'::regclass;
SELECT bemi.track('live.secret', redact => '{name}', redact_hash => '{mail}');
SELECT bemi.track('live.stamp', ignore => '{seen_*}');
SELECT bemi.track_schema('live');

-- The rules of a place are those of the last entry before it.
CREATE FUNCTION oracle.note_rules() RETURNS void LANGUAGE sql AS $$
	INSERT INTO journal.entries (relation, schema, "table", operation, after)
		SELECT relation, 'live', 'secret', 'RULES', jsonb_build_object('redact', redact, 'redact_hash', redact_hash)
			FROM oracle.rules WHERE relation = 'live.secret'::regclass
$$;
SELECT oracle.note_rules();

CREATE FUNCTION oracle.redact(now_redacted text[], now_hashed text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	LOCK TABLE live.secret IN ACCESS EXCLUSIVE MODE;
	PERFORM bemi.track('live.secret', redact => now_redacted::name[], redact_hash => now_hashed::name[]);
	UPDATE oracle.rules SET redact = now_redacted, redact_hash = now_hashed WHERE relation = 'live.secret'::regclass;
	PERFORM oracle.note_rules();
END
$$;

CREATE FUNCTION oracle.set_tracked(tracked_now boolean) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	LOCK TABLE alone.lapse IN ACCESS EXCLUSIVE MODE;
	IF tracked_now THEN
		PERFORM bemi.track('alone.lapse');
	ELSE
		PERFORM bemi.untrack('alone.lapse');
	END IF;
	UPDATE oracle.rules SET tracked = tracked_now WHERE relation = 'alone.lapse'::regclass;
	PERFORM oracle.note_all('alone.lapse'::regclass);
END
$$;

-- A table is dropped, and made again, empty or with rows.
CREATE FUNCTION oracle.make_again(command text, fill text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	LOCK TABLE live.fresh IN ACCESS EXCLUSIVE MODE;
	INSERT INTO oracle.former VALUES ('fresh', 'live.fresh'::regclass);
	DROP TABLE live.fresh;
	EXECUTE command;
	IF NOT EXISTS (SELECT FROM pg_index WHERE indrelid = 'live.fresh'::regclass) THEN
		ALTER TABLE live.fresh ADD PRIMARY KEY (id);
	END IF;
	ALTER TABLE live.fresh ALTER k SET DEFAULT nextval('live.k');
	PERFORM journal.follow('live.fresh', false);
	EXECUTE fill;
	UPDATE oracle.tables SET relation = 'live.fresh'::regclass WHERE name = 'fresh';
	PERFORM oracle.note_all('live.fresh'::regclass);
	INSERT INTO oracle.columns SELECT attrelid, attnum, 0, 0 FROM pg_attribute WHERE attrelid = 'live.fresh'::regclass AND attnum > 0;
END
$$;
SQL

sub change_rules
{
	return 'SELECT oracle.redact(' . pick(q{'{name}', '{mail}'}, q{'{name}', '{}'}, q{'{}', '{mail,name}'}, q{'{}', '{}'}, q{'{name,mail}', '{}'}) . ");\n";
}

sub change_tracking { return "SELECT oracle.set_tracked(" . pick('false', 'true', 'true') . ");\n"; }

sub make_again
{
	my $rows = "SELECT id, nextval('live.k') AS k, v, name FROM live." . pick('secret', 'moving') . ' WHERE id % 2 = 0';

	return "SELECT oracle.make_again('CREATE TABLE live.fresh (name text, id int PRIMARY KEY, k bigint, v int)', \$q\$INSERT INTO live.fresh (id, k, v, name) $rows\$q\$);\n" if chance(60);
	return "SELECT oracle.make_again(\$q\$CREATE TABLE live.fresh AS $rows\$q\$, 'SELECT');\n";
}

sub change_key_columns
{
	return "SELECT oracle.ddl('moving', 'ALTER TABLE <table> DROP CONSTRAINT moving_pkey; ALTER TABLE <table> ADD CONSTRAINT moving_pkey PRIMARY KEY ("
	  . pick('id', 'code', 'id, code', 'code, id') . ")');\n";
}

# If rows are asked for although changes were not tracked, those that none of these changes has touched are right.
sub check_with_gaps
{
	my ($session) = @_;
	my $t = 'lapse';
	my $place = any_place($session);
	my ($relation, $name) = begin_with_table($session, $t);
	my $touched = "ARRAY(SELECT DISTINCT e.k FROM journal.entries e JOIN oracle.commits c USING (xid) WHERE e.relation = $relation AND NOT e.stored"
	  . " AND e.operation IN ('CREATE', 'UPDATE', 'DELETE') AND (c.lsn, e.n) >= ($place->{lsn}, $place->{n}))";

	facts_since($session, $t, $place);
	if (!$place->{truncated})
	{
		my $sql = compare_rows(inexact_columns($t, $relation, $place),
			'SELECT * FROM (' . expected_rows($t, $name, $relation, $place) . ") e WHERE (p).k <> ALL ($touched)",
			"SELECT p FROM bemi.as_of(NULL::$name, $place->{arguments}, allow_gaps => true, timeout => '60s') p WHERE p.k <> ALL ($touched)");
		judge('bemi.as_of() with gaps', $t, $place, $sql, $session->query($sql));
	}
	$session->query('ROLLBACK');
	return;
}

# The value of an ignored column is the one that the next change of the row has found or, without one, today's.
# Nobody writes meanwhile, because the answer depends on when it is asked for.
sub check_ignored
{
	my ($node, $session) = @_;
	my $t = 'stamp';

	$session->query('SELECT pg_advisory_lock(42)');
	load_truth($node, is_locked => 1);
	my $place = any_place($session);
	my ($relation, $name) = begin_with_table($session, $t);
	facts_since($session, $t, $place);
	my $of = "e.relation = $relation AND e.stored AND (c.lsn, e.n) >= ($place->{lsn}, $place->{n})";
	my $sql = compare_rows(q{'{}'::text[]}, qq{
			SELECT oracle.named($relation, s.image) || jsonb_build_object('seen_at', last.image -> 'seen_at', 'seen_by', last.image -> 'seen_by') AS p, s.count
			FROM (@{[ expected_images($relation, $place) ]}) s, LATERAL (SELECT coalesce(
				(SELECT oracle.named($relation, e.numbered_before) FROM journal.entries e JOIN oracle.commits c USING (xid)
					WHERE $of AND e.k = (s.image ->> (oracle.numbers($relation) ->> 'k'))::bigint ORDER BY c.lsn, e.n LIMIT 1),
				(SELECT to_jsonb(t) FROM $name t WHERE t.k = (s.image ->> (oracle.numbers($relation) ->> 'k'))::bigint)) AS image) last},
		"SELECT p FROM bemi.as_of(NULL::$name, $place->{arguments}, timeout => '60s') p");
	judge('bemi.as_of() of ignored columns', $t, $place, $sql, $session->query($sql)) unless $place->{truncated};
	$session->query('ROLLBACK');
	$session->query('SELECT pg_advisory_unlock(42)');
	return;
}

# Since the key got other columns, the changes before that need not be found. But none of another row may be:
# each must be of a row that had this key, or that had had the key of one that is found.
sub check_present_key
{
	my ($node, $session) = @_;
	my $t = 'moving';
	my ($relation, $name) = begin_with_table($session, $t);
	my @key = present_key($session, $t, $relation);
	my $key = @key == 1 ? roll(40) : '{' . join(', ', map { "\"$_\": " . roll(40) } @key) . '}';
	my $of = sub { 'jsonb_build_array(' . join(', ', map { "$_[0] ->> '$_'" } @key) . ')' };
	my $asked = @key == 1 ? "'[\"$key\"]'::jsonb" : $of->("'$key'::jsonb");
	my $result = $session->query(qq{
		WITH found AS MATERIALIZED (SELECT * FROM bemi.history('$name', '$key', newest => NULL) WITH ORDINALITY WHERE operation <> 'SNAPSHOT')
		SELECT coalesce(string_agg(f.ordinality || ': ' || f.operation || ' ' || f.before || ' ' || f.after, E'\n'), 'same ' || (SELECT count(*) FROM found)) FROM (
			SELECT f.*, @{[ $of->("CASE f.operation WHEN 'DELETE' THEN f.before ELSE f.after END") ]} AS key,
				lag(CASE WHEN f.operation = 'UPDATE' THEN @{[ $of->('f.before') ]} ELSE @{[ $of->('f.after') ]} END) OVER (ORDER BY f.ordinality) AS wanted
			FROM found f WHERE operation <> 'TRUNCATE') f
		WHERE f.key <> coalesce(f.wanted, $asked) AND f.key <> $asked});

	judge('bemi.history() after another key', $t, { arguments => $key }, $key, $result);
	$session->query('ROLLBACK');
	return;
}

# Equal values of a column have equal hashes, and others have others.
sub check_hashes
{
	my ($node) = @_;
	my $changes = q{
		SELECT r.column_name, e.value, c.value AS hash FROM
			(SELECT e.*, row_number() OVER (PARTITION BY xid ORDER BY n) AS i FROM journal.entries e WHERE e.stored) entry
			JOIN (SELECT *, row_number() OVER (PARTITION BY transaction_id ORDER BY id) AS i FROM bemi.changes WHERE operation <> 'SNAPSHOT') change
				ON (change.transaction_id, change.i) = (entry.xid, entry.i),
			LATERAL (VALUES ('name'), ('mail')) r(column_name), LATERAL (SELECT oracle.named(entry.relation, numbered_after) ->> column_name) e(value),
			LATERAL (SELECT change.after ->> column_name) c(value)
			WHERE entry."table" = 'secret'};

	$node->safe_psql('postgres', 'SELECT bemi.sync()');
	cmp_ok($node->safe_psql('postgres', "SELECT count(*) FROM ($changes) c WHERE hash LIKE '[redacted:%'"), '>', 0, 'values are hashed');
	for my $pair ([ 'value', 'hash' ], [ 'hash', 'value' ])
	{
		is($node->safe_psql('postgres', "SELECT column_name, $pair->[0], array_agg(DISTINCT $pair->[1]) FROM ($changes) c"
			  . " WHERE hash LIKE '[redacted:%' GROUP BY 1, 2 HAVING count(DISTINCT $pair->[1]) > 1"), '', "each $pair->[0] has one $pair->[1]");
	}
	return;
}

sub install_rules
{
	my ($node) = @_;

	@often = ('stamp', 'secret', 'moving');
	@altered = ();
	@other_commands = ((\&change_rules) x 2, (\&change_tracking) x 2, (\&make_again) x 2, \&change_key_columns);
	$renames_tables = 0;
	install_tables($node, $tables_sql);
	$node->safe_psql('postgres', $rules_sql);
	return;
}

1;
