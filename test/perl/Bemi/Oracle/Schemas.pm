# Compares bemi.schema_changes with what query_oracle has noted before and after each of its commands.

package Bemi::Oracle::Schemas;

use strict;
use warnings;

use Bemi::Oracle::Differences;
use Bemi::Oracle::Truth;
use Exporter 'import';
use Test::More;

our @EXPORT = qw(check_schema_changes);

# Numbers, names and types of columns, one a row.
sub columns { my ($json) = @_; return "(SELECT (c ->> 0)::int AS number, c ->> 1 AS name, c ->> 2 AS type FROM jsonb_array_elements($json) c)"; }

# The columns with which both states differ, by their numbers.
sub differences
{
	my $both = columns('r.columns_before') . ' b FULL JOIN ' . columns('r.columns_after') . ' a USING (number)';

	return "concat_ws(' / ',"
	  . " ARRAY(SELECT a.name FROM $both WHERE b.name IS NULL ORDER BY number), ARRAY(SELECT b.name FROM $both WHERE a.name IS NULL ORDER BY number),"
	  . " (SELECT coalesce(jsonb_object_agg(a.name, b.name), '{}') FROM $both WHERE a.name <> b.name),"
	  . " (SELECT coalesce(jsonb_object_agg(a.name, jsonb_build_array(b.type, a.type)), '{}') FROM $both WHERE a.type <> b.type))";
}

# Changes of rules, and a table that is made again, are left out. For each table in commit order, and in the order of the commands within a transaction.
sub check_schema_changes
{
	my ($node) = @_;

	load_truth($node);
	my $sql = q{
		SELECT coalesce(string_agg(format(E'%s expected %s\n%s    found %s', i, x.facts, i, f.facts), E'\n' ORDER BY i)
				FILTER (WHERE x.facts IS DISTINCT FROM f.facts), 'same ' || count(*)) FROM
		(SELECT r.table_after || row_number() OVER (PARTITION BY r.table_after ORDER BY c.lsn, r.n) AS i, concat_ws(' ', r.xid, c.committed_at, r.table_before, r.table_after, 'ALTER TABLE',
				r.context, r.columns_before, r.columns_after, r.key_before, r.key_after, } . differences() . q{) AS facts
			FROM oracle.reshaped r JOIN oracle.commits c USING (xid)) x
		FULL JOIN
		(SELECT s."table" || row_number() OVER (PARTITION BY s."table" ORDER BY s.id) AS i, concat_ws(' ', s.transaction_id, s.committed_at, s.former_table, s."table", s.command,
				s.context, s.columns_before, s.columns_after, ARRAY(SELECT jsonb_array_elements_text(s.key_before)),
				ARRAY(SELECT jsonb_array_elements_text(s.key_after)), concat_ws(' / ', s.added, s.dropped, s.renamed, s.retyped)) AS facts
			FROM bemi.schema_changes s WHERE s.schema = 'live' AND s.event = 'altered'
				AND s.rules_before IS NOT DISTINCT FROM s.rules_after AND s."table" <> 'fresh') f USING (i)};

	$node->safe_psql('postgres', 'SELECT bemi.sync()');
	my $result = $node->safe_psql('postgres', $sql);
	$sql =~ s/^\t\t//gm;
	return if ok($result =~ /^same \d+\z/, 'bemi.schema_changes has each command');
	my $all = q{SELECT id, transaction_id, committed_at, "table", event, command, statement, detail, columns_before, columns_after FROM bemi.schema_changes ORDER BY id};
	show_differences($sql, $result);
	show_differences($all, $node->safe_psql('postgres', $all));
	return;
}

1;
