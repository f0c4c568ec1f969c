# Compares what the functions for reading return with the journal of query_oracle.
#
# The functions of the first part read bemi.changes, of which a snapshot has a prefix of the commits.
# So each round of their checks has one snapshot: begin_round() finds the last commit in it.
#
# Rows of baselines are no changes. They are left out of what is compared here.

package Bemi::Oracle::Reading;

use strict;
use warnings;

use Bemi::Oracle::Differences;
use Bemi::Oracle::Tables;
use Bemi::Oracle::Truth;
use Bemi::Oracle::Writers;
use Exporter 'import';
use Test::More;

our @EXPORT = qw(%answers install_comparisons check_changes);

our %answers;    # function => how often it answered with rows

my $comparisons_sql = <<'SQL';
-- The columns that differ, and their values.
CREATE FUNCTION oracle.changed(before jsonb, after jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
	SELECT coalesce(jsonb_object_agg(key, jsonb_build_array(b.value, a.value)), '{}')
		FROM jsonb_each(before) b FULL JOIN jsonb_each(after) a USING (key)
		WHERE coalesce(b.value, 'null') IS DISTINCT FROM coalesce(a.value, 'null')
$$;

-- What a change is compared by.
CREATE FUNCTION oracle.facts(xid bigint, at timestamptz, operation text, key text, before jsonb, after jsonb, context jsonb) RETURNS text
	LANGUAGE sql STABLE AS $$
	SELECT concat_ws(' ', xid, at, operation, coalesce(key, '(no key)'), before, after, context)
$$;

-- Hashes of redacted values cannot be compared. Which of them are equal is compared otherwise.
CREATE FUNCTION oracle.no_hashes(facts text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT regexp_replace(facts, '\[redacted:[^]]*\]', '[hash]', 'g')
$$;

-- A row under the names that its columns have today. A dropped one keeps its name, with a mark if another has it today.
CREATE FUNCTION oracle.today(target oid, numbers jsonb, image jsonb) RETURNS jsonb LANGUAGE sql STABLE AS $$
	SELECT coalesce(jsonb_object_agg(coalesce(a.attname, key || CASE WHEN EXISTS (SELECT FROM pg_attribute o
			WHERE o.attrelid = target AND o.attname = key AND NOT o.attisdropped) THEN ' (dropped)' ELSE '' END), value), '{}')
		FROM jsonb_each(image) LEFT JOIN pg_attribute a ON a.attrelid = target AND a.attnum = (numbers ->> key)::int AND NOT a.attisdropped
$$;

CREATE VIEW oracle.entries AS
	SELECT n, xid, relation, operation, key, context, stored, oracle.today(relation, numbers, before) AS before, oracle.today(relation, numbers, after) AS after
	FROM journal.entries;

-- Columns of a row with the entry that set the value, from the row's entries, newest first.
CREATE FUNCTION oracle.blame(history bigint[]) RETURNS TABLE (column_name text, value jsonb, n bigint) LANGUAGE plpgsql STABLE AS $$
DECLARE
	e oracle.entries;
	newest oracle.entries;
	removed_by bigint;
	i int := 0;
BEGIN
	LOOP
		i := i + 1;
		SELECT * INTO newest FROM oracle.entries x WHERE x.n = history[i];
		EXIT WHEN newest.operation IS DISTINCT FROM 'TRUNCATE';
		removed_by := newest.n;
	END LOOP;
	IF newest.operation = 'DELETE' THEN
		removed_by := newest.n;
	END IF;
	FOR column_name, value IN SELECT * FROM jsonb_each(CASE newest.operation WHEN 'DELETE' THEN newest.before ELSE newest.after END) LOOP
		n := removed_by;
		IF removed_by IS NOT NULL THEN
			value := NULL;
		END IF;
		FOR j IN i .. CASE WHEN removed_by IS NULL THEN cardinality(history) ELSE 0 END LOOP
			SELECT * INTO e FROM oracle.entries x WHERE x.n = history[j];
			n := CASE WHEN e.operation = 'CREATE' AND e.after ? column_name OR e.operation = 'UPDATE' AND e.before -> column_name <> e.after -> column_name
				THEN e.n END;
			-- What has set another value is not in the history. A value that is redacted now may not have been then.
			IF newest.operation <> 'DELETE' AND value <> '"[redacted]"' AND e.after -> column_name <> value
				AND e.after ->> column_name IS DISTINCT FROM value #>> '{}' THEN
				n := NULL;
				EXIT;
			END IF;
			EXIT WHEN n IS NOT NULL OR e.operation <> 'UPDATE' OR NOT e.before ? column_name;
		END LOOP;
		RETURN NEXT;
	END LOOP;
END
$$;
SQL

sub install_comparisons
{
	my ($node) = @_;

	$node->safe_psql('postgres', $comparisons_sql);
	return;
}

# Text that psql prints if all is as expected.
sub same
{
	my ($session, $name, $detail, $sql) = @_;
	my $result = $session->query($sql);

	return 1 if $result =~ /^same \d+\z/ && ++$answers{$name};
	fail("$name: $detail");
	show_differences($sql, $result);
	return 0;
}

# SQL of two lists with numbers "i" that must be the same.
sub compare_lists
{
	my ($expected, $found) = @_;

	return qq{
		SELECT coalesce(string_agg(format(E'%s expected %s\\n%s    found %s', i, x.facts, i, f.facts), E'\\n' ORDER BY i)
				FILTER (WHERE oracle.no_hashes(x.facts::text) IS DISTINCT FROM oracle.no_hashes(f.facts::text)), 'same ' || count(*))
			FROM ($expected) x FULL JOIN ($found) f USING (i)};
}

sub array { return "'{" . join(',', @_) . "}'"; }

# Rows of journal.entries or oracle.entries as expected, with one more fact.
sub expected_changes
{
	my ($from, $more, @entries) = @_;
	my $ns = array(map { $_->{n} } @entries);
	my $times = array(map { qq{"$_->{at}"} } map { commit_of($_->{xid}) } @entries);

	return "SELECT u.i, oracle.facts(e.xid, u.at, e.operation, e.key, e.before, e.after, e.context) || $more AS facts"
	  . " FROM unnest($ns\::bigint[], $times\::timestamptz[]) WITH ORDINALITY u(n, at, i) JOIN $from e USING (n)";
}

my $facts_of_change = 'oracle.facts(f.transaction_id, f.committed_at, f.operation, f.primary_key, f.before, f.after, bemi.full_context(f))';

#
# A round
#

my ($session, $last);

# The worker can store a transaction before other sessions see it, so a snapshot can have the changes
# without the entries of the journal.
sub sees_journal
{
	my @newest = (reverse changes_up_to($last))[ 0 .. 99 ];
	my $ns = array(map { $_->{n} } grep { defined } @newest);

	return $session->query("SELECT bool_and(EXISTS (SELECT FROM journal.entries e WHERE e.n = u.n)) FROM unnest($ns\::bigint[]) u(n)") eq 't';
}

sub begin_round
{
	my ($node, $with) = @_;
	my ($xid, $count, $expected);

	$session = $with;
	for (1 .. 1000)
	{
		$session->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
		($xid, $count) = split /\|/,
		  $session->query('SELECT (SELECT transaction_id FROM bemi.changes WHERE operation <> \'SNAPSHOT\' ORDER BY id DESC LIMIT 1),'
			  . ' (SELECT count(*) FROM bemi.changes WHERE operation <> \'SNAPSHOT\')');
		load_truth($node);
		$last = commit_of($xid);
		$expected = () = changes_up_to($last);
		last if $count != $expected || sees_journal();
		$session->query('ROLLBACK');
	}
	return 1 if $count == $expected;
	fail("bemi.changes has $count changes up to transaction $xid, and the journal $expected");
	my $xids = array(map { $_->{xid} } commits_up_to($last));
	my $sql = qq{
		SELECT string_agg(format(E'%s expected %s\n%s    found %s', xid, x.facts, xid, f.facts), E'\n')
			FROM (SELECT xid, count(*), string_agg(concat_ws(' ', e."table", e.operation, e.key, e.before, e.after), E'\n\t' ORDER BY n) AS facts
				FROM journal.entries e WHERE e.stored AND e.xid = ANY ($xids\::bigint[]) GROUP BY 1) x
			FULL JOIN (SELECT c.transaction_id AS xid, count(*), string_agg(concat_ws(' ', c."table", c.operation, c.primary_key, c.before, c.after), E'\n\t' ORDER BY c.id) AS facts
				FROM bemi.changes c WHERE c.operation <> 'SNAPSHOT' GROUP BY 1) f USING (xid)
			WHERE x.count IS DISTINCT FROM f.count};
	show_differences($sql, $session->query($sql));
	return 0;
}

sub relation { my ($t) = @_; return "(SELECT relation::regclass FROM oracle.tables WHERE name = \$n\$$t\$n\$)"; }

sub literal { my ($text) = @_; return q{'} . $text =~ s/'/''/gr . q{'}; }

sub check_history
{
	my ($t, $key) = @_;
	my @entries = row_history($last, $t, $key);
	my $expected = expected_changes('oracle.entries', 'oracle.changed(e.before, e.after)::text', @entries);
	my $arguments = relation($t) . ', ' . literal($key);
	my $facts = 'row_number() OVER () AS i, oracle.facts(f.transaction_id, f.committed_at, f.operation, f.primary_key, f.before, f.after, f.context) || f.changed::text AS facts';
	my $newest = 1 + roll(4);

	same($session, 'bemi.history()', "all of $t $key", compare_lists($expected, "SELECT $facts FROM bemi.history($arguments, newest => NULL) f WHERE f.operation <> 'SNAPSHOT'"));
	same($session, 'bemi.history()', "pages of $newest of $t $key", compare_lists($expected, qq{
		SELECT $facts FROM (WITH RECURSIVE page(number, ids) AS (
				SELECT 1, ARRAY(SELECT h.id FROM bemi.history($arguments, newest => $newest) h)
				UNION ALL SELECT number + 1, ARRAY(SELECT h.id FROM bemi.history($arguments, $newest, ids[$newest]) h)
					FROM page WHERE ids[$newest] IS NOT NULL)
			SELECT h.* FROM page, unnest(ids) WITH ORDINALITY u(id, place) JOIN bemi.history($arguments, newest => NULL) h USING (id)
				WHERE h.operation <> 'SNAPSHOT' ORDER BY number, place) f}))
	  if @entries && @entries < 40;
	return;
}

# After a baseline, the columns are those that the table had then. So only those are compared that it has, too.
sub check_blame
{
	my ($t, $key) = @_;
	my @entries = row_history($last, $t, $key);
	my $ns = array(map { $_->{n} } @entries);
	my $arguments = relation($t) . ', ' . literal($key);
	my $copied = $session->query("SELECT operation FROM bemi.history($arguments, newest => NULL) WHERE operation <> 'TRUNCATE' LIMIT 1") eq 'SNAPSHOT';
	# A value can be redacted there that was not before, and one that is ignored can be a later one.
	return if $copied && ($tables{$t}{redacted} || $tables{$t}{ignored});
	my $in = sub { $copied ? "WHERE b.column_name IN (SELECT o.column_name FROM $_[0] o)" : '' };

	same($session, 'bemi.blame()', "$t $key", compare_lists(
			qq{SELECT row_number() OVER (ORDER BY a.attnum, b.column_name) AS i,
					concat_ws(' ', b.column_name, b.value, '/', e.operation, e.xid, e.key, e.context, e.before, e.after) AS facts
				FROM oracle.blame($ns) b LEFT JOIN journal.entries e USING (n)
					LEFT JOIN pg_attribute a ON a.attrelid = @{[relation($t)]} AND a.attname = b.column_name
				@{[ $in->("bemi.blame($arguments)") ]}},
			qq{SELECT row_number() OVER (ORDER BY b.i) AS i, concat_ws(' ', b.column_name, nullif(b.value, CASE WHEN b.operation IN ('DELETE', 'TRUNCATE') THEN 'null'::jsonb END), '/',
						b.operation, c.transaction_id, c.primary_key, b.context, c.before, c.after) AS facts
				FROM bemi.blame($arguments)
					WITH ORDINALITY b(column_name, value, changed_at, operation, context, change_id, i) LEFT JOIN bemi.changes c ON c.id = b.change_id
				@{[ $in->("oracle.blame($ns)") ]}}));
	return;
}

sub check_find_changes
{
	my ($t) = chance(70) ? pick(sort keys %tables) : undef;
	my $newest = pick(1, 3, 10, 100, 'NULL');
	my (@arguments, @conditions);
	my $filter = sub { push @arguments, $_[0]; push @conditions, $_[1]; };
	my $cursor = any_change($last);
	my ($from, $to) = sort { $a->{number} <=> $b->{number} } map { my $c = any_change($last); commit_of($c->{xid}) } 1, 2;
	my $operation = pick('CREATE', 'UPDATE', 'DELETE', 'TRUNCATE');
	my $column = $t ? pick(sort keys %{ $tables{$t}{columns} }) =~ s/"//gr : 'v';
	my $user = roll(5);
	my $entries = $t ? 'oracle.entries' : 'journal.entries';    # of a table under the names of today

	$filter->('target => ' . relation($t), 'e.relation IN (SELECT ' . relation($t) . "::oid UNION SELECT relation FROM oracle.former WHERE name = \$n\$$t\$n\$)") if $t;
	$filter->("operation => '$operation'", "e.operation = '$operation'") if chance(30);
	$filter->("column_name => '$column'", "CASE e.operation WHEN 'UPDATE' THEN e.before -> '$column' <> e.after -> '$column'"
			. " ELSE e.before ->> '$column' IS NOT NULL OR e.after ->> '$column' IS NOT NULL END") if chance(30);
	$filter->("context => '{\"userId\": $user}'", "e.context ->> 'userId' = '$user'") if chance(30);
	$filter->("from_time => '$from->{at}'", "c.at >= '$from->{at}'") if chance(30);
	$filter->("to_time => '$to->{at}'", "c.at < '$to->{at}'") if chance(30) && $from->{at} le $to->{at};
	$filter->("source_name => 'main'", 'true') if chance(10);
	if (chance(40))
	{
		my $commit = commit_of($cursor->{xid});
		my $same = qq{(SELECT id FROM bemi.changes x WHERE x.transaction_id = $cursor->{xid} ORDER BY id LIMIT 1)};
		$filter->("before_id => $same", "c.number < $commit->{number}");
	}
	my $xids = array(map { $_->{xid} } commits_up_to($last));
	my $times = array(map { qq{"$_->{at}"} } commits_up_to($last));
	my $where = join ' AND ', "e.stored", @conditions;
	my $arguments = join ', ', @arguments, "newest => $newest";

	same($session, 'bemi.find_changes()', $arguments, compare_lists(
			"SELECT row_number() OVER (ORDER BY c.number DESC, e.n DESC) AS i, oracle.facts(e.xid, c.at, e.operation, e.key, e.before, e.after, e.context) AS facts"
			  . " FROM unnest($xids\::bigint[], $times\::timestamptz[]) WITH ORDINALITY c(xid, at, number) JOIN $entries e USING (xid)"
			  . " WHERE $where ORDER BY i LIMIT $newest - (SELECT count(*) FROM bemi.find_changes($arguments) f WHERE f.operation = 'SNAPSHOT')",
			"SELECT row_number() OVER () AS i, $facts_of_change AS facts FROM bemi.find_changes($arguments) f WHERE f.operation <> 'SNAPSHOT'"));
	return;
}

sub check_transaction
{
	my $change = any_change($last);
	my $commit = commit_of($change->{xid});
	my @entries = grep { $_->{xid} == $change->{xid} } changes_up_to($last);
	my $any = 'SELECT id FROM bemi.changes x WHERE x.transaction_id = ' . $change->{xid} . ' ORDER BY md5(id::text) LIMIT 1';
	my %count;

	$count{ $_->{operation} }++ for @entries;
	same($session, 'bemi.transaction()', "transaction $change->{xid}",
		compare_lists(expected_changes('journal.entries', q{''}, @entries), "SELECT row_number() OVER () AS i, $facts_of_change AS facts FROM bemi.transaction(($any)) f"));
	my $numbers = join ' ', scalar @entries, map { $count{$_} // 0 } 'CREATE', 'UPDATE', 'DELETE', 'TRUNCATE';
	my $ns = array(map { $_->{n} } @entries);
	same($session, 'bemi.transactions', "transaction $change->{xid}", compare_lists(
			"SELECT 1 AS i, concat_ws(' ', '$numbers', array_agg(DISTINCT format('%I.%I', e.schema, e.\"table\")), array_agg(DISTINCT e.context - 'filling')) AS facts FROM journal.entries e WHERE n = ANY ($ns)",
			"SELECT row_number() OVER () AS i, concat_ws(' ', t.changes, t.created, t.updated, t.deleted, t.truncated, t.tables, ARRAY(SELECT DISTINCT c - 'filling' FROM unnest(t.contexts) c ORDER BY 1)) AS facts"
			  . " FROM bemi.transactions t WHERE t.committed_at = '$commit->{at}' AND t.transaction_id = $change->{xid}"));
	return;
}

sub check_diff
{
	my ($a, $b) = map { any_change($last, 'kitchen') // any_change($last) } 1, 2;

	same($session, 'bemi.diff()', "$a->{n} and $b->{n}", compare_lists(
			"SELECT 1 AS i, oracle.changed(a.after, b.after) AS facts FROM journal.entries a, journal.entries b WHERE a.n = $a->{n} AND b.n = $b->{n}",
			"SELECT 1 AS i, bemi.diff(a.after, b.after) AS facts FROM journal.entries a, journal.entries b WHERE a.n = $a->{n} AND b.n = $b->{n}"));
	return;
}

# Functions that read bemi.changes.
sub check_changes
{
	my ($node, $with) = @_;

	begin_round($node, $with) or return;
	for (1 .. 4)
	{
		my $change = any_change($last, pick(grep { @{ $tables{$_}{key} } && !grep { $_ } @{ $tables{$_} }{ 'changes_key', 'lapses', 'is_made_again' } } sort keys %tables)) or next;
		my $key = $change->{key} // next;

		$key = $change->{key_before} if defined $change->{key_before} && chance(30);
		check_history($change->{table}, $key);
		check_blame($change->{table}, $key);
		check_find_changes();
		check_transaction();
	}
	check_diff();
	$session->query('COMMIT');
	return;
}

1;
