# What bemi.completeness() returns for a table's history at the time of each of several commands.
#
# The checks are about times, so all commands run first, one after the other. The checks follow
# when the worker has read all of them.

package Bemi::Completeness;

use strict;
use warnings;

use Exporter 'import';
use Test::More;

our @EXPORT = qw(now complete run_steps);

sub now
{
	my ($node) = @_;

	return $node->safe_psql('postgres', 'SELECT clock_timestamp()');
}

# Is a table's history complete between two times?  If not, why.
sub complete
{
	my ($node, $table, $from, $to) = @_;
	my ($schema, $name) = $table =~ /^(\w+)\.(\w+)$/ ? ($1, $2) : ('public', $table);

	$to //= now($node);
	$node->safe_psql('postgres', q{SELECT bemi.sync('60s')});
	return $node->safe_psql('postgres', qq{
		SELECT string_agg(concat_ws(': ', CASE WHEN complete THEN 'complete' END, reason, nullif(detail, _bemi.default_detail(reason))), '; ' ORDER BY c.missing_from, detail)
		FROM bemi.source_completeness('main', '$schema', '$name', '$from', '$to') c});
}

# Runs commands in a schema, each with a table and the expected result for its history.
# $when is "with" for the time from before the command until after it, or "after" for
# that from then until the next command.
sub run_steps
{
	my ($node, $schema, $when, @steps) = @_;
	my (@before, @after);

	for my $step (@steps)
	{
		my ($before, $after) = (split /\n/, $node->safe_psql('postgres', qq{
			SET search_path = $schema;
			SELECT clock_timestamp();
			$step->[1];
			SELECT clock_timestamp()}))[ 0, -1 ];

		push @before, $before;
		push @after, $after;
	}
	push @before, now($node);
	for my $i (0 .. $#steps)
	{
		my ($table, $command, $expected) = @{ $steps[$i] };
		my @time = $when eq 'with' ? ($before[$i], $after[$i]) : ($after[$i], $before[ $i + 1 ]);

		is(complete($node, "$schema.$table", @time), $expected, $command);
	}
	return;
}

1;
