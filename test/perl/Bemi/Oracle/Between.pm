# Compares what happened to a table between two times with the journal of query_oracle.

package Bemi::Oracle::Between;

use strict;
use warnings;

use Bemi::Oracle::Past;
use Bemi::Oracle::Tables;
use Bemi::Oracle::Truth;
use Bemi::Oracle::Writers;
use Exporter 'import';
use Test::More;

our @EXPORT = qw(check_between);

# Two times, at or near commits.
sub any_two_times
{
	my ($session) = @_;
	my @times = map { "timestamptz '$_->{at}' + " . pick('0', '1', '-1') . " * interval '1 microsecond'" } any_commit_with_changes(), any_commit_with_changes();

	@times = reverse @times if $session->query("SELECT $times[0] > $times[1]") eq 't';
	return map { { arguments => "at => $_", at => $_, lsn => "oracle.prefix($_)", n => 0 } } @times;
}

sub any_commit_with_changes { my $change = any_change(last_commit()); return commit_of($change->{xid}); }

# SQL of two bags of texts that must be the same.
sub compare_bags
{
	my ($expected, $found) = @_;

	return qq{
		SELECT coalesce(string_agg(format(E'%s times expected, %s times found: %s', x.count, f.count, facts), E'\\n')
				FILTER (WHERE x.count IS DISTINCT FROM f.count), 'same ' || count(*))
			FROM (SELECT facts, sum(count) AS count FROM ($expected) e GROUP BY 1) x
				FULL JOIN (SELECT facts, count(*) AS count FROM ($found) f GROUP BY 1) f USING (facts)};
}

# A row without columns that were added since the first time.
sub row_text { my ($row, $added) = @_; return "(to_jsonb($row) - $added)::text"; }

# Each change that makes a version begins one, and each that ends a version ends one. So the
# beginnings and the ends are compared, each with its row.
sub check_versions
{
	my ($session, $t, $relation, $name, $from, $to) = @_;
	my $added = inexact_columns($t, $relation, $from);
	my $populated = sub { "jsonb_populate_record(NULL::$name, oracle.named($relation, $_[0]))" };
	my $changes = "journal.entries e JOIN oracle.commits c USING (xid) WHERE e.relation = $relation AND e.stored AND c.lsn >= $from->{lsn} AND c.lsn < $to->{lsn}";
	my $after = row_text($populated->('e.numbered_after'), $added);
	my $before = row_text($populated->('e.numbered_before'), $added);
	my $row = row_text('p', $added);
	my $found = "bemi.versions(NULL::$name, $from->{at}, $to->{at}, timeout => '60s')";

	my $sql = compare_bags(
		"SELECT concat_ws(' ', c.committed_at, e.operation, e.xid, e.context, $after) AS facts, 1 AS count FROM $changes AND e.operation IN ('CREATE', 'UPDATE')"
		  . " UNION ALL SELECT $row, count FROM (" . expected_rows($t, $name, $relation, $from) . ') s',
		"SELECT concat_ws(' ', v.valid_from, v.operation, c.transaction_id, v.context, " . row_text('v.version', $added) . ") AS facts"
		  . " FROM $found v LEFT JOIN bemi.changes c ON c.id = v.change");
	judge('bemi.versions()', $t, $from, $sql, $session->query($sql)) or return;
	$sql = compare_bags(
		"SELECT concat_ws(' ', c.committed_at, $before) AS facts, 1 AS count FROM $changes AND e.operation IN ('UPDATE', 'DELETE')"
		  . " UNION ALL SELECT concat_ws(' ', c.committed_at, " . row_text($populated->('s.image'), $added) . '), s.count'
		  . " FROM (SELECT * FROM $changes AND e.operation = 'TRUNCATE') c, LATERAL oracle.state($relation, c.lsn, c.n) s"
		  . " UNION ALL SELECT $row, count FROM (" . expected_rows($t, $name, $relation, $to) . ') s',
		"SELECT concat_ws(' ', v.valid_to, " . row_text('v.version', $added) . ") AS facts FROM $found v");
	judge('bemi.versions()', $t, $from, $sql, $session->query($sql));
	return;
}

# How many copies of each row there are more at the second time, or less.
sub check_diff_of_copies
{
	my ($session, $t, $relation, $name, $from, $to) = @_;
	my $added = inexact_columns($t, $relation, $from);
	my $sums = sub { return "SELECT concat_ws(' ', sum(n), facts) AS facts, 1 AS count FROM ($_[0]) u GROUP BY u.facts HAVING sum(n) <> 0" };
	my $row = row_text('p', $added);

	my $sql = compare_bags(
		$sums->("SELECT $row AS facts, count AS n FROM (" . expected_rows($t, $name, $relation, $to) . ') b'
			  . " UNION ALL SELECT $row, -count FROM (" . expected_rows($t, $name, $relation, $from) . ') a'),
		$sums->('SELECT ' . row_text('v.r', $added) . ' AS facts, v.n'
			  . " FROM bemi.diff_table(NULL::$name, $from->{at}, $to->{at}, timeout => '60s') d,"
			  . " LATERAL (VALUES (d.before, -1, d.kind <> 'CREATE'), (d.after, 1, d.kind <> 'DELETE')) v(r, n, counts) WHERE v.counts"));
	judge('bemi.diff_table()', $t, $from, $sql, $session->query($sql));
	return;
}

sub check_diff_table
{
	my ($session, $t, $relation, $name, $from, $to) = @_;
	my $added = inexact_columns($t, $relation, $from);
	my @key = present_key($session, $t, $relation) or return check_diff_of_copies(@_);
	# With another key in between, rows are counted, and an UPDATE is a DELETE and a CREATE.
	return check_diff_of_copies(@_) if $tables{$t}{changes_key};
	my ($before, $after) = (row_text('a.p', $added), row_text('b.p', $added));

	my $sql = compare_bags(
		"SELECT concat_ws(' ', CASE WHEN a.count IS NULL THEN 'CREATE' WHEN b.count IS NULL THEN 'DELETE' ELSE 'UPDATE' END, $before, '->', $after) AS facts, 1 AS count"
		  . ' FROM (' . expected_rows($t, $name, $relation, $from) . ') a FULL JOIN (' . expected_rows($t, $name, $relation, $to) . ") b"
		  . " ON oracle.keys(to_jsonb(a.p), ARRAY[" . join(', ', map { "'" . s/"//gr . "'" } @key) . "]::text[]) = oracle.keys(to_jsonb(b.p), ARRAY[" . join(', ', map { "'" . s/"//gr . "'" } @key) . "]::text[])"
		  . " WHERE $before IS DISTINCT FROM $after",
		"SELECT concat_ws(' ', kind, " . row_text('before', $added) . ", '->', " . row_text('after', $added) . ') AS facts'
		  . " FROM bemi.diff_table(NULL::$name, $from->{at}, $to->{at}, timeout => '60s')"
		  # They may differ in the columns that were added.
		  . " WHERE kind <> 'UPDATE' OR " . row_text('before', $added) . ' <> ' . row_text('after', $added));
	judge('bemi.diff_table()', $t, $from, $sql, $session->query($sql));
	return;
}

# A view of bemi.past() has the rows of bemi.as_of().
sub check_schema_of_past
{
	my ($session, $t, $relation, $name) = @_;
	my $place = any_place($session);
	my $view = $name =~ s/^\w+\./was./r;

	facts_since($session, $t, $place);
	my $create = "SELECT count(*) FROM bemi.past('was', '@{[ schema_of($t) ]}', $place->{arguments})";
	my $created = $session->query($create);

	# It also locks the tables that others may be changing, and these wait for the one that is locked here.
	if ($created =~ /deadlock detected/)
	{
		note "other sessions were in the way: $created";
		return;
	}
	if ($created !~ /^\d+\z/)
	{
		judge('bemi.past()', $t, $place, $create, $created);
		return;
	}
	my $added = inexact_columns($t, $relation, $place);
	my $sql = compare_bags('SELECT ' . row_text('p', $added) . ' AS facts, count FROM (' . expected_rows($t, $name, $relation, $place) . ') s',
		"SELECT oracle.without(to_jsonb(p), $added)::text AS facts FROM (" . found_rows($session, $t, $relation, $place, $view, 'true') . ') p');
	judge('bemi.past()', $t, $place, $sql, $session->query($sql));
	return;
}

sub check_between
{
	my ($node, $session) = @_;

	load_truth($node);
	for my $check (\&check_versions, \&check_diff_table, chance(30) ? \&check_schema_of_past : ())
	{
		my $t = pick(sort keys %tables);
		my ($from, $to) = any_two_times($session);
		my ($relation, $name) = begin_with_table($session, $t);

		facts_since($session, $t, $from);
		$from->{future} ||= $session->query("SELECT $to->{at} > clock_timestamp()") eq 't';
		$check->($session, $t, $relation, $name, $from, $to);
		$session->query('ROLLBACK');
		last unless Test::More->builder->is_passing;
	}
	return;
}

1;
