# Compares the history with what the model of the random test (capture_random) expects,
# and, without the model, with what is in the tables.

package Bemi::Random::Checker;

use strict;
use warnings;

use Bemi::Random::Model;
use Exporter 'import';
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(collect_history check_session check_transaction_ids check_replay);

# Numbers the changes of each schema's session as the history has them, next to a table for
# what is expected.
sub collect_history
{
	my ($node) = @_;

	$node->safe_psql(
		'postgres', q{
		CREATE SCHEMA account;
		CREATE TABLE account.expected (schema text COLLATE "C", n int, transaction int,
			"table" text COLLATE "C", primary_key text COLLATE "C", operation text COLLATE "C",
			before jsonb, after jsonb, context jsonb, PRIMARY KEY (schema, n));
		CREATE TABLE account.found (LIKE account.expected INCLUDING ALL);
		INSERT INTO account.found SELECT schema,
				row_number() OVER (PARTITION BY schema ORDER BY id), transaction_id,
				"table", primary_key, operation, before, after, context
			FROM bemi.changes});
	return;
}

# The data of COPY, in its text format.
sub history_data
{
	my ($run) = @_;
	my $n = 0;
	my $data = '';

	for my $change (@{ $run->{history} })
	{
		$data .= join("\t",
			$run->{schema}, ++$n, map { defined $_ ? s/\\/\\\\/gr : '\N' } @$change) . "\n";
	}
	return $data;
}

sub load_expected
{
	my ($node, $run) = @_;
	my $file = "$run->{file}.expected";

	append_to_file($file, history_data($run));
	$node->safe_psql('postgres', "COPY account.expected FROM '$file'");
	return;
}

# The first differences, and the script of the transaction where they begin.
sub show_differences
{
	my ($run, $differences) = @_;
	my $transaction = ($differences =~ /transaction (\d+)/)[0] // 1;
	my ($from, $to) = @{ $run->{starts} }[ $transaction - 1, $transaction ];

	$to //= @{ $run->{script} };
	diag "seed $run->{seed}, $run->{schema}: " . join("\n", (split /\n/, $differences)[ 0 .. 9 ])
	  =~ s/z{3000}/z.../gr;
	diag "transaction $transaction:\n" . join('', @{ $run->{script} }[ $from .. $to - 1 ]);
	return;
}

# The errors of a session, and its changes, are those that the model expects.
sub check_session
{
	my ($node, $run) = @_;
	my @errors = $run->{stderr} =~ /ERROR:  .*/g;
	my $schema = $run->{schema};

	load_expected($node, $run);
	is(scalar(grep { !/division by zero|duplicate key|invalid input syntax/ } @errors),
		0, "$schema: no statement fails that should not")
	  or diag join "\n", @errors;
	is(scalar(@errors), $run->{errors}, "$schema: what should fail does");

	my $differences = $node->safe_psql(
		'postgres', qq{
		SELECT 'transaction ' || coalesce(e.transaction, 0), n, E'\nexpected', e."table", e.primary_key, e.operation,
			e.before, e.after, e.context, E'\nfound', f."table", f.primary_key, f.operation, f.before, f.after, f.context
		FROM (SELECT * FROM account.expected WHERE schema = '$schema') e
			FULL JOIN (SELECT * FROM account.found WHERE schema = '$schema') f USING (n)
		WHERE (e."table", e.primary_key, e.operation, e.before, e.after, e.context)
			IS DISTINCT FROM (f."table", f.primary_key, f.operation, f.before, f.after, f.context)
		ORDER BY n LIMIT 10});
	ok($differences eq '',
		"$schema: " . @{ $run->{history} } . ' changes are as expected, in order, with their contexts')
	  or show_differences($run, $differences);
	return;
}

sub check_transaction_ids
{
	my ($node) = @_;

	is( $node->safe_psql(
			'postgres', q{
			SELECT count(DISTINCT (schema, e.transaction)) - count(DISTINCT f.transaction),
				count(DISTINCT (schema, e.transaction)) - count(DISTINCT (schema, e.transaction, f.transaction))
			FROM account.expected e JOIN account.found f USING (schema, n)}),
		'0|0',
		'the changes of one transaction, and no others, bear one transaction id');
	return;
}

# The rows that are left when the history is played from the beginning.
sub replayed
{
	my ($node, $schema) = @_;
	my %count;

	for (split /\n/,
		$node->safe_psql('postgres',
			'SELECT "table", operation, before, after FROM bemi.changes'
			  . " WHERE schema = '$schema' ORDER BY id"))
	{
		my ($table, $operation, $before, $after) = split /\|/;

		$count{$table} = {} if $operation eq 'TRUNCATE';
		$count{$table}{$before}-- if $before ne '{}';
		$count{$table}{$after}++ if $after ne '{}';
	}
	return join "\n", sort map {
		my $table = $_;
		map { ("$table $_") x $count{$table}{$_} } keys %{ $count{$table} }
	} keys %count;
}

# The history of a session leads to what is in its tables.  "source" is the node with these, and
# "database" the database, if not the history's.
sub check_replay
{
	my ($node, $run, %params) = @_;
	my $content = ($params{source} // $node)->safe_psql($params{database} // 'postgres', join ' UNION ALL ',
		map { "SELECT '$_ ' || to_jsonb(t)::text FROM $run->{schema}.$_ t" } sort keys %columns);

	ok(replayed($node, $run->{schema}) eq join("\n", sort split /\n/, $content),
		"$run->{schema}: the history, played from the beginning, leads to the tables' content");
	return;
}

1;
