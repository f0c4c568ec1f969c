# Compares rows of the past as JSON with the journal of query_oracle: those of bemi.as_of_json(), with
# columns that were dropped since, and those of bemi.source_as_of_json(), which reads the history alone.
#
# The history alone has a row as it was stored last: by the last change before the place or, without
# one, by the baseline. So the expected row has the columns of that moment, under their names of then.

package Bemi::Oracle::Json;

use strict;
use warnings;

use Bemi::Oracle::Past;
use Bemi::Oracle::Tables;
use Bemi::Oracle::Truth;
use Bemi::Oracle::Writers;
use Exporter 'import';
use Test::More;

our @EXPORT = qw(install_json check_json store_baseline);

my $json_sql = <<'SQL';
-- Dropped columns of a row: under their names before the place, as text, because they may have been
-- retyped before they were dropped.
CREATE FUNCTION oracle.dropped(target oid, names jsonb, image jsonb) RETURNS jsonb LANGUAGE sql STABLE AS $$
	SELECT coalesce(jsonb_object_agg(names ->> key || CASE WHEN EXISTS (SELECT FROM pg_attribute o
				WHERE o.attrelid = target AND o.attname = names ->> key AND NOT o.attisdropped) THEN ' (dropped)' ELSE '' END, value), '{}')
		FROM jsonb_each_text(image) LEFT JOIN pg_attribute a ON a.attrelid = target AND a.attnum = key::int AND NOT a.attisdropped
		WHERE a.attnum IS NULL
$$;

-- All other columns than those of today as text.
CREATE FUNCTION oracle.dropped_as_text(target oid, image jsonb) RETURNS jsonb LANGUAGE sql STABLE AS $$
	SELECT jsonb_object_agg(key, CASE WHEN a.attnum IS NULL THEN to_jsonb(value #>> '{}') ELSE value END)
		FROM jsonb_each(image) LEFT JOIN pg_attribute a ON a.attrelid = target AND a.attname = key AND NOT a.attisdropped
$$;

-- A row as it is stored at a place: under the names of its columns there, without what the stream leaves out, and
-- redacted by the rules there.
CREATE FUNCTION oracle.as_stored(target oid, image jsonb, at pg_lsn, before_n bigint) RETURNS jsonb LANGUAGE sql STABLE AS $$
	SELECT coalesce((SELECT oracle.redacted(s.image, ARRAY(SELECT jsonb_array_elements_text(e.after -> 'redact')),
				ARRAY(SELECT jsonb_array_elements_text(e.after -> 'redact_hash')))
			FROM journal.entries e JOIN oracle.commits c USING (xid)
			WHERE e.relation = target AND e.operation = 'RULES' AND (c.lsn, e.n) < (at, before_n)
			ORDER BY c.lsn DESC, e.n DESC LIMIT 1), s.image)
		FROM (SELECT oracle.streamed(target, jsonb_object_agg(oracle.names(target, at, before_n) ->> key, value)) FROM jsonb_each(image)) s(image)
$$;
SQL

sub install_json
{
	my ($node) = @_;

	$node->safe_psql('postgres', $json_sql);
	return;
}

sub check_as_of_json
{
	my ($session, $t) = @_;
	my $place = any_place($session);
	my ($relation, $name) = begin_with_table($session, $t);

	facts_since($session, $t, $place);
	my $added = inexact_columns($t, $relation, $place);
	my $names = "oracle.names($relation, $place->{lsn}, $place->{n})";
	my $sql = compare_rows($added,
		"SELECT oracle.dropped(o.relation, o.names, s.image) || to_jsonb(jsonb_populate_record(NULL::$name, oracle.named(o.relation, s.image))) AS p, s.count"
		  . " FROM (SELECT $relation\::oid AS relation, $names AS names) o, (" . expected_images($relation, $place) . ') s',
		"SELECT oracle.dropped_as_text($relation, r - @{[ names_array('ignored', $t) ]}) AS p FROM bemi.as_of_json('$name', $place->{arguments}, timeout => '60s') r");
	judge('bemi.as_of_json()', $t, $place, $sql, $session->query($sql));
	$session->query('ROLLBACK');
	return;
}

#
# The history alone
#

my @copied;    # tables that have baselines

# Other sessions go on writing. Its rows are stored at once, and the changes from before only when the worker
# has read them.
sub store_baseline
{
	my ($session) = @_;
	my $t = pick(sort keys %tables);
	my $result = $session->query("CALL bemi.baseline('main', \$\$@{[ qualified($t) ]}\$\$)");

	push @copied, $t;
	$session->query('SELECT bemi.sync()');
	# Another session renames, alters or drops it.
	return if $result eq '' || $result =~ /does not track a table|does not exist at the source|relation \S+ does not exist|was altered while its copy began|column \S+ does not exist|deadlock detected/;
	fail("bemi.baseline() of $t");
	diag($result);
	return;
}

# The place where the history alone begins, as "lsn, n, whether it is a baseline": the last baseline, or
# the last TRUNCATE. A baseline is as of all commits whose records begin before its position. One of a later time
# does not count, although no change may be between both.
sub base_of
{
	my ($session, $t, $place) = @_;
	my ($at) = $place->{arguments} =~ /^at => (.*)/;
	my $is_before = $at ? "b.taken_at <= $at" : 'true';

	return split /\|/, $session->query(qq{
		SELECT * FROM (
			SELECT b.position, 0, 'baseline' FROM bemi.baselines b
				WHERE (b.schema, b."table") = ('@{[ schema_of($t) ]}', \$\$@{[ $t =~ s/"//gr ]}\$\$) AND b.position <= $place->{lsn} AND $is_before
			UNION ALL SELECT c.lsn, e.n, 'TRUNCATE' FROM journal.entries e JOIN oracle.commits c USING (xid)
				WHERE e.relation = (SELECT relation FROM oracle.tables WHERE name = \$\$$t\$\$) AND e.operation = 'TRUNCATE' AND e.stored
					AND e."table" = \$\$@{[ $t =~ s/"//gr ]}\$\$
					AND (c.lsn, e.n) < ($place->{lsn}, $place->{n})) b
			ORDER BY 1 DESC, 2 DESC LIMIT 1});
}

# The last row of each "k"; in the table without it, the sum.
sub rows_from_base
{
	my ($t, $relation, $place, $lsn, $n, $kind) = @_;
	my $base = $kind eq 'baseline' ? "SELECT * FROM oracle.state($relation, '$lsn', $n)" : 'SELECT NULL::jsonb AS image, 0 AS count WHERE false';

	return "SELECT oracle.as_stored($relation, image, $place->{lsn}, $place->{n}) AS p, count FROM oracle.state($relation, $place->{lsn}, $place->{n})" if !@{ $tables{$t}{key} };
	return qq{
		SELECT after AS p, 1 AS count FROM last WHERE operation <> 'DELETE'
		UNION ALL SELECT oracle.as_stored($relation, image, '$lsn', $n), count FROM ($base) b
			WHERE NOT EXISTS (SELECT FROM last WHERE last.k = (SELECT (image ->> (oracle.numbers($relation) ->> 'k'))::bigint))};
}

sub check_source_as_of_json
{
	my ($session, $t) = @_;
	my $place;

	do { $place = any_place($session); } while $place->{arguments} =~ /^at_lsn/;
	my $relation = $session->query("SELECT relation FROM oracle.tables WHERE name = \$\$$t\$\$");

	# Its history is found by the name.
	return if $session->query("SELECT \"table\" = \$\$@{[ $t =~ s/\"//gr ]}\$\$ FROM journal.entries e JOIN oracle.commits c USING (xid)"
		  . " WHERE e.relation = $relation AND e.operation = 'RESET' AND (c.lsn, e.n) < ($place->{lsn}, $place->{n}) ORDER BY c.lsn DESC, e.n DESC LIMIT 1") ne 't';
	my $literal = "'@{[ schema_of($t) ]}', \$\$" . $t =~ s/"//gr . '$$';
	my ($lsn, $n, $kind) = base_of($session, $t, $place);
	my $expected = rows_from_base($t, $relation, $place, $lsn // '0/0', $n // 0, $kind // 'none');
	my $sql = q{WITH last AS MATERIALIZED (}
	  . "SELECT DISTINCT ON (e.k) e.k, e.operation, e.after FROM journal.entries e JOIN oracle.commits c USING (xid)"
	  . " WHERE e.relation = $relation AND e.stored AND e.operation IN ('CREATE', 'UPDATE', 'DELETE') AND (c.lsn, e.n) >= ('@{[ $lsn // '0/0' ]}', @{[ $n // 0 ]}) AND (c.lsn, e.n) < ($place->{lsn}, $place->{n})"
	  . ' ORDER BY e.k, c.lsn DESC, e.n DESC) SELECT * FROM ('
	  . compare_rows(q{'{}'::text[]}, $expected, "SELECT r AS p FROM bemi.source_as_of_json('main', $literal, $place->{arguments}) r") . ') compared';

	$place->{alone} = { no_base => !defined $lsn, reshaped => !defined $lsn || reshaped_between($session, $relation, $lsn, $n, $place) };
	# The clock may have been set back.
	my ($time) = $place->{arguments} =~ /^at => (.*)/;
	$time //= '(SELECT committed_at FROM bemi.changes WHERE id = ' . $place->{arguments} =~ s/^before => //r . ')';
	$place->{future} = $session->query("SELECT $time > clock_timestamp()") eq 't';
	$place->{must_refuse} = 'changes were not tracked' if $tables{$t}{lapses} && defined $lsn && $session->query(
		"SELECT EXISTS (SELECT FROM journal.entries e JOIN oracle.commits c USING (xid) WHERE e.relation = $relation AND NOT e.stored"
		  . " AND e.operation IN ('CREATE', 'UPDATE', 'DELETE', 'TRUNCATE') AND (c.lsn, e.n) >= ('$lsn', $n) AND (c.lsn, e.n) < ($place->{lsn}, $place->{n}))") eq 't';
	# What is still to come can have earlier times, and this function cannot know.
	return if $place->{future};
	# A baseline after the last commit of the place has a time that may be before that of the place.
	my ($schema, $bare) = (schema_of($t), $t =~ s/"//gr);
	return if $session->query(qq{SELECT EXISTS (SELECT FROM bemi.baselines b WHERE (b.schema, b."table") = ('$schema', \$\$$bare\$\$)
		AND b.position > $place->{lsn} AND b.taken_at <= $time)}) eq 't';
	# Nothing is said of the sum of rows with different columns.
	return if !@{ $tables{$t}{key} } && $place->{alone}{reshaped} && !$place->{alone}{no_base};
	$session->query('SELECT bemi.sync()');
	judge('bemi.source_as_of_json()', $t, $place, $sql, $session->query($sql));
	return;
}

# Gaps have times, and the clock may have been set back.
sub reshaped_between
{
	my ($session, $relation, $lsn, $n, $place) = @_;

	return $session->query(qq{
		SELECT EXISTS (SELECT FROM journal.entries e JOIN oracle.commits c USING (xid) WHERE e.relation = $relation AND e.operation = 'RESET'
			AND ((c.lsn, e.n) >= ('$lsn', $n) AND (c.lsn, e.n) < ($place->{lsn}, $place->{n})
				OR c.committed_at >= (SELECT oracle.earliest_since('$lsn'))))}) eq 't';
}

sub check_json
{
	my ($node, $session) = @_;

	load_truth($node);
	check_as_of_json($session, pick(sort keys %tables));
	check_source_as_of_json($session, pick(@copied && chance(70) ? @copied : sort keys %tables)) if Test::More->builder->is_passing;
	return;
}

1;
