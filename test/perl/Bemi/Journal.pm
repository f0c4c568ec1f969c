# An independent record of what is written, to compare with bemi.changes.
#
# journal.follow() gives a table row triggers that record each change in journal.entries: the row
# from to_jsonb(), the primary key from the catalog, and the context from the setting, as they are
# at that moment and in the same transaction. So it does not contain what is rolled back, and
# later DDL does not change it. By default, a table that is followed is also tracked.
#
# Each table needs a column "k" that does not change and identifies its rows, because the order of
# concurrent changes is known only for each row.

package Bemi::Journal;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT = qw(journal_install journal_differences journal_entries);

# In the session: SET journal.mode = 'off' keeps no record.
my $install = q{
CREATE SCHEMA journal;
CREATE TABLE journal.entries (
	n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	schema text, "table" text, operation text, key text,
	before jsonb, after jsonb, context jsonb
);
GRANT USAGE ON SCHEMA journal TO PUBLIC;
GRANT INSERT ON journal.entries TO PUBLIC;

CREATE FUNCTION journal.key(target regclass, image jsonb) RETURNS text LANGUAGE sql AS $$
	SELECT CASE count(*) WHEN 1 THEN min(image->>attname) WHEN 0 THEN NULL
		ELSE jsonb_agg(image->>attname ORDER BY place)::text END
	FROM pg_index, unnest(indkey) WITH ORDINALITY AS k(number, place), pg_attribute
	WHERE indrelid = target AND indisprimary AND place <= indnkeyatts
		AND attrelid = indrelid AND attnum = number
$$;

CREATE FUNCTION journal.note() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	root regclass := coalesce(pg_partition_root(TG_RELID), TG_RELID);
	mode text := current_setting('journal.mode', true);
	context text := current_setting('bemi.context', true);
	before jsonb := '{}';
	after jsonb := '{}';
	key text;
BEGIN
	IF mode = 'off' THEN
		RETURN NULL;
	END IF;
	IF TG_OP IN ('UPDATE', 'DELETE') THEN
		before := to_jsonb(OLD);
		key := journal.key(TG_RELID, before);
	END IF;
	IF TG_OP IN ('INSERT', 'UPDATE') THEN
		after := to_jsonb(NEW);
		key := journal.key(TG_RELID, after);
	END IF;
	INSERT INTO journal.entries (schema, "table", operation, key, before, after, context)
		SELECT n.nspname, c.relname, CASE TG_OP WHEN 'INSERT' THEN 'CREATE' ELSE TG_OP END,
			key, before, after, coalesce(nullif(context, ''), '{}')::jsonb
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = root;
	RETURN NULL;
END
$$;

CREATE FUNCTION journal.follow(target regclass, track boolean DEFAULT true) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE TRIGGER journal AFTER INSERT OR UPDATE OR DELETE ON %s'
		' FOR EACH ROW EXECUTE FUNCTION journal.note()', target);
	EXECUTE format('CREATE TRIGGER journal_truncate AFTER TRUNCATE ON %s'
		' FOR EACH STATEMENT EXECUTE FUNCTION journal.note()', target);
	IF track THEN
		PERFORM bemi.track(target);
	END IF;
END
$$;
};

sub journal_install
{
	my ($node, $database) = @_;

	$node->safe_psql($database // 'postgres', $install);
	return;
}

# The first differences between journal and history, '' if there are none.
# Parameters: order => 'total' (default, for one writer) or 'row' (for several);
# where => SQL that selects among both, by schema and "table".
sub journal_differences
{
	my ($node, %params) = @_;
	my $where = $params{where} // 'true';
	my $group =
	  ($params{order} // 'total') eq 'total'
	  ? "''"
	  : q{concat_ws('/', schema, "table", coalesce(after->>'k', before->>'k'))};

	return $node->safe_psql(
		$params{database} // 'postgres', qq{
		WITH expected AS (
			SELECT *, $group AS grp, row_number() OVER (PARTITION BY $group ORDER BY n) AS i
			FROM journal.entries WHERE $where
		), found AS (
			SELECT *, $group AS grp, row_number() OVER (PARTITION BY $group ORDER BY id) AS i
			FROM bemi.changes WHERE $where
		)
		SELECT 'expected ' || coalesce((SELECT concat_ws(' ', e.n, e.schema, e."table", e.operation, e.before, e.after,
				coalesce(e.key, '(no key)'), e.context)), 'nothing')
			|| E'\\n   found ' || coalesce((SELECT concat_ws(' ', f.position, f.schema, f."table", f.operation, f.before, f.after,
				coalesce(f.primary_key, '(no key)'), f.context)), 'nothing')
		FROM expected e FULL JOIN found f USING (grp, i)
		WHERE (e.schema, e."table", e.operation, e.before, e.after, e.context)
				IS DISTINCT FROM (f.schema, f."table", f.operation, f.before, f.after, f.context)
			OR e.key IS DISTINCT FROM f.primary_key
		ORDER BY e.n IS NULL, e.n, i LIMIT 5});
}

# How much there is to compare.
sub journal_entries
{
	my ($node, %params) = @_;

	return $node->safe_psql($params{database} // 'postgres',
		'SELECT count(*) FROM journal.entries WHERE ' . ($params{where} // 'true'));
}

1;
