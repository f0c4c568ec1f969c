# Queries that a monitoring system runs work for a member of pg_monitor, who can read no history.
#
# docs/operations/postgres_exporter.yaml is read by a program that this project does not build, so
# what can be checked is checked here: each query runs as such a role, returns the columns that
# the file describes, one row for each set of labels, and numbers where numbers are due.  It runs
# where there is a source, before there is one, and on a standby.  docs/operations/alerts.md uses the
# metrics by name, so those names must exist.  The queries of the pages themselves are run by
# extension_documents, as such a role, too.

use strict;
use warnings;

use Bemi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Scalar::Util qw(looks_like_number);
use Test::More;

my $file = 'docs/operations/postgres_exporter.yaml';

# Reads the part of YAML that the file is written in: names, "key: value" and blocks of text, by indentation.
# Returns name => { query, columns => [ [ name, usage, description ] ] }.
sub read_metrics
{
	my (%metrics, $name);

	for my $line (grep { !/^\s*(#.*)?$/ } split /\n/, slurp_file($file))
	{
		if ($line =~ /^(\w+):$/) { $metrics{ $name = $1 } = { query => '', columns => [] }; }
		elsif ($line =~ /^  (query: \||metrics:|master: true|cache_seconds: \d+)$/) { next; }
		elsif ($line =~ /^    - (\w+):$/) { push @{ $metrics{$name}{columns} }, [$1]; }
		elsif ($line =~ /^        (?:usage|description): "([^"]+)"$/) { push @{ $metrics{$name}{columns}[-1] }, $1; }
		elsif ($line =~ /^    (.*)$/ && !@{ $metrics{$name}{columns} }) { $metrics{$name}{query} .= "$1\n"; }
		else { die "$file: what does this line mean? $line"; }
	}
	return \%metrics;
}

my $metrics = read_metrics();
my %sources = map { ("bemi_source_$_->[0]" => 1) } @{ $metrics->{bemi_source}{columns} };
ok($sources{bemi_source_streaming}, 'the file has metrics');

my $node = bemi_node('monitored');
$node->safe_psql(
	'postgres', q{
	CREATE ROLE monitor LOGIN;
	GRANT pg_monitor TO monitor;
	CREATE TABLE todo (id integer PRIMARY KEY, task text);
	SELECT bemi.track('todo');
	ALTER TABLE todo DISABLE TRIGGER bemi_emit_context});

# What is wrong with the result of a query, and its rows.
sub check_query
{
	my ($server, $name) = @_;
	my @columns = @{ $metrics->{$name}{columns} };
	my ($status, $output, $errors) = $server->psql('postgres', "\\pset footer off\n$metrics->{$name}{query};",
		extra_params => [ '--username=monitor', '--no-align', '--field-separator=|', '--pset=tuples_only=off' ]);
	my ($head, @rows) = split /\n/, $output;
	my (@faults, %seen);

	push @faults, $errors if $errors ne '';
	push @faults, "columns: $head" if ($head // '') ne join '|', map { $_->[0] } @columns;
	for my $row (@rows)
	{
		my @values = split /\|/, $row, -1;
		push @faults, "labels come twice: $row" if $seen{ join '|', @values[ grep { $columns[$_][1] eq 'LABEL' } 0 .. $#columns ] }++;
		push @faults, map { "$columns[$_][0] is no number: $row" }
		  grep { $columns[$_][1] ne 'LABEL' && $values[$_] ne '' && !looks_like_number($values[$_]) } 0 .. $#columns;
	}
	is(join("\n", @faults), '', "$name: the query runs, and returns what the file describes");
	return @rows;
}

sub value_of
{
	my ($server, $name, $column) = @_;
	my ($row) = check_query($server, $name);
	my ($i) = grep { $metrics->{$name}{columns}[$_][0] eq $column } 0 .. $#{ $metrics->{$name}{columns} };

	return (split /\|/, $row // '', -1)[$i];
}

for my $name (sort keys %$metrics)
{
	is_deeply([ grep { @$_ != 3 || $_->[1] !~ /^(LABEL|GAUGE|COUNTER)$/ } @{ $metrics->{$name}{columns} } ], [],
		"$name: each column has a usage and a description");
	check_query($node, $name);
}

$node->safe_psql('postgres', q{CALL bemi.start(); INSERT INTO todo VALUES (1, 'Sleep'); SELECT bemi.sync('60s')});
is(value_of($node, 'bemi_source', 'streaming'), '1', 'a source that streams');
is(value_of($node, 'bemi_tracked', 'with_problems'), '1', 'a table with a problem');
cmp_ok(value_of($node, 'bemi_history', 'bytes'), '>', 0, 'the history has a size');
like(join("\n", check_query($node, 'bemi_gaps')), qr/^main\|source_started\|1\|/m, 'gaps are counted by reason');
$node->safe_psql('postgres', 'CALL bemi.stop()');
is(value_of($node, 'bemi_source', 'stopped'), '1', 'a source that is stopped');

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
check_query($standby, $_) for sort keys %$metrics;

# Names of metrics in the page of alerts.
my %known = map { my $name = $_; map { ("${name}_$_->[0]" => 1) } grep { $_->[1] ne 'LABEL' } @{ $metrics->{$name}{columns} } } keys %$metrics;
my @used = slurp_file('docs/operations/alerts.md') =~ /\b(bemi_(?:source|gaps|tracked|history)_\w+)/g;
cmp_ok(scalar @used, '>', 5, 'the alerts use metrics');
is(join(' ', grep { !$known{$_} } @used), '', 'and all of them exist');

done_testing();
