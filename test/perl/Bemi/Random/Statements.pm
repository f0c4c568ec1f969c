# Statements of the random test (capture_random) that change rows or settings.
#
# Each function gives the text of a statement, without a semicolon, and plays it on
# the model.

package Bemi::Random::Statements;

use strict;
use warnings;

use Bemi::Random::Dice;
use Bemi::Random::Model;
use Exporter 'import';

our @EXPORT = qw($has_merge quoted comment_text any_statement copy_from execute_prepared
  change_context change_other_setting);

our $has_merge;    # whether the server has MERGE

#
# Texts
#

sub quoted { my ($text) = @_; return "'" . $text =~ s/'/''/gr . "'"; }

sub literal
{
	my ($value, $column) = @_;

	return 'NULL' unless defined $value;
	return "repeat('z', 3000)" if length $value == 3000;
	return $is_text{$column} ? quoted($value) : $value;
}

sub values_list
{
	my ($table, @rows) = @_;

	return join ', ', map {
		my $row = $_;
		'(' . join(', ', map { literal($row->{$_}, $_) } @{ $columns{$table} }) . ')'
	} @rows;
}

sub comment_text
{
	my ($context) = @_;

	return '' unless $context;
	return ' ' . '/*Bemi ' . context_json($context) . ' Bemi*/';
}

#
# Statements that change rows
#

sub insert_values
{
	my $table = writable_table();
	my @rows = random_rows($table, 1 + roll(4), 1) or return 'SELECT';
	my $context = context_now();

	insert_row($table, $_, $context) for @rows;
	return "INSERT INTO $table VALUES " . values_list($table, @rows);
}

sub update_range
{
	my $table = writable_table();
	my ($low, $high) = random_range($table);
	my $column = $range_column{$table};
	my $context = context_now();
	my $more = 1000 + roll(9);

	update_row($table, $_, { v => $model->{rows}{$table}{$_}{v} + $more }, $context)
	  for scan($table, sub { $_[0]{$column} >= $low && $_[0]{$column} <= $high });
	return "UPDATE $table SET v = v + $more WHERE $column BETWEEN $low AND $high";
}

sub delete_range
{
	my $table = writable_table();
	my ($low, $high) = random_range($table);
	my $column = $range_column{$table};
	my $context = context_now();

	delete_row($table, $_, $context)
	  for scan($table, sub { $_[0]{$column} >= $low && $_[0]{$column} <= $high });
	return "DELETE FROM $table WHERE $column BETWEEN $low AND $high"
	  . (chance(20) ? ' RETURNING *' : '');
}

sub update_key
{
	my ($name) = scan('item', sub { chance(10) }) or return 'SELECT';
	my $new = 1000 + ++$serial;

	update_row('item', $name, { id => $new, note => undef }, context_now());
	return "UPDATE item SET id = $new, note = NULL WHERE id = $name";
}

sub move_partition
{
	my ($low, $high) = random_range('part');
	my ($from, $to) = pick([ 1, 2 ], [ 2, 3 ], [ 1, 3 ], [ 2, 1 ], [ 3, 1 ])->@*;
	my $rows = $model->{rows}{part};
	my @names = scan('part',
		sub { $_[0]{id} >= $low && $_[0]{id} <= $high && $_[0]{region} == $from });

	return 'SELECT' if grep { $rows->{ key_text('part', { %{ $rows->{$_} }, region => $to }) } } @names;
	my $context = context_now();
	update_row('part', $_, { region => $to }, $context) for @names;
	return "UPDATE part SET region = $to WHERE id BETWEEN $low AND $high AND region = $from";
}

sub write_leaf
{
	my ($row) = random_rows('part', 1, 1) or return 'SELECT';
	my $leaf = "part$row->{region}";
	my $context = context_now();

	if (chance(50))
	{
		insert_row('part', $row, $context);
		return "INSERT INTO $leaf VALUES " . values_list('part', $row);
	}
	delete_row('part', $_, $context)
	  for scan('part', sub { $_[0]{region} == $row->{region} && $_[0]{id} < $row->{id} });
	return "DELETE FROM $leaf WHERE id < $row->{id}";
}

sub upsert
{
	my $table = pick('item', 'pair', 'part');
	my $nothing = chance(30);
	my $only_even = !$nothing && chance(30);
	my $context = context_now();
	my @rows = random_rows($table, 1 + roll(4));

	for my $row (@rows)
	{
		my $name = key_text($table, $row);
		my $old = $model->{rows}{$table}{$name};

		before_row_trigger($table, $row);
		write_row($table, $row, $context) unless $old;
		next if !$old || $nothing || $only_even && $old->{v} % 2;
		update_row($table, $name, { v => $row->{v} }, $context);
	}
	return "INSERT INTO $table VALUES " . values_list($table, @rows) . ' ON CONFLICT '
	  . ($nothing ? 'DO NOTHING'
		: '(' . join(', ', @{ $primary_key{$table} }) . ') DO UPDATE SET v = excluded.v'
		  . ($only_even ? " WHERE $table.v % 2 = 0" : ''));
}

# Comes with a context, and changes nothing: what follows must not care.
sub insert_nothing
{
	my $table = $only_slow ? 'slow' : pick('part', 'late');
	my ($name) = scan($table, sub { chance(20) }) or return 'SELECT';

	context_now();
	return "INSERT INTO $table VALUES "
	  . values_list($table, $model->{rows}{$table}{$name})
	  . ' ON CONFLICT DO NOTHING';
}

sub merge
{
	my $table = pick('item', 'pair', 'part');
	my $context = context_now();
	my $only_even = chance(50);
	my @rows = random_rows($table, 1 + roll(5));
	my $columns = join ', ', @{ $columns{$table} };
	my $sources = join ', ', map { "s.$_" } @{ $columns{$table} };
	my $match = join ' AND ', map { "t.$_ = s.$_" } @{ $primary_key{$table} };

	return upsert() unless $has_merge;
	for my $row (@rows)
	{
		my $name = key_text($table, $row);

		if ($model->{rows}{$table}{$name})
		{
			if ($row->{v} % 3 == 0) { delete_row($table, $name, $context); }
			else { update_row($table, $name, { v => $row->{v} }, $context); }
		}
		elsif (!$only_even || $row->{v} % 2 == 0)
		{
			insert_row($table, $row, $context);
		}
	}
	return "MERGE INTO $table t USING (VALUES "
	  . values_list($table, @rows) =~ s/NULL/NULL::text/gr
	  . ") AS s ($columns) ON $match"
	  . ' WHEN MATCHED AND s.v % 3 = 0 THEN DELETE'
	  . ' WHEN MATCHED THEN UPDATE SET v = s.v WHEN NOT MATCHED'
	  . ($only_even ? ' AND s.v % 2 = 0' : '')
	  . " THEN INSERT VALUES ($sources)";
}

# Two parts of one statement take turns, row by row.
sub move_by_cte
{
	my ($low, $high) = random_range('item');
	my $context = context_now();

	for my $name (scan('item', sub { $_[0]{id} >= $low && $_[0]{id} <= $high }))
	{
		my $row = delete_row('item', $name, $context);
		insert_row('loose', { k => $row->{id}, v => $row->{v} }, $context);
	}
	return "WITH gone AS (DELETE FROM item WHERE id BETWEEN $low AND $high RETURNING id, v)"
	  . ' INSERT INTO loose SELECT id, v FROM gone';
}

# Parts that the main one does not read run after it, in reverse order.
sub write_by_ctes
{
	my ($pair) = random_rows('pair', 1, 1) or return 'SELECT';
	my ($low, $high) = random_range('part');
	my ($loose) = random_rows('loose', 1);
	my $context = context_now();

	insert_row('pair', $pair, $context);
	insert_row('loose', $loose, $context);
	update_row('part', $_, { v => $model->{rows}{part}{$_}{v} + 1 }, $context)
	  for scan('part', sub { $_[0]{id} >= $low && $_[0]{id} <= $high });
	return "WITH a AS (UPDATE part SET v = v + 1 WHERE id BETWEEN $low AND $high),"
	  . ' b AS (INSERT INTO loose VALUES ' . values_list('loose', $loose) . ')'
	  . ' INSERT INTO pair VALUES ' . values_list('pair', $pair);
}

sub truncate_tables
{
	my %chosen = map { $_ => 1 } map { pick('item', 'pair', 'part', 'loose', 'log') } 1 .. 1 + roll(2);
	my @chosen = sort keys %chosen;

	for my $table (@chosen)
	{
		$model->{rows}{$table} = {};
		note_change($table, 'TRUNCATE', undef, undef, context_within());
	}
	return 'TRUNCATE ' . join(', ', @chosen);
}

# COPY collects the rows of each partition, in the order of their first rows.
sub copy_from
{
	my $table = writable_table();
	my @rows = random_rows($table, 1 + roll(6), 1) or return 'SELECT';
	my $context = context_now();
	my @ordered = @rows;

	if ($table eq 'part')
	{
		my %by_region;
		my @regions;

		for my $row (@rows)
		{
			push @regions, $row->{region} unless $by_region{ $row->{region} };
			push @{ $by_region{ $row->{region} } }, $row;
		}
		@ordered = map { @{ $by_region{$_} } } @regions;
	}
	insert_row($table, $_, $context) for @ordered;
	return ("COPY $table FROM STDIN", copy_data($table, @rows));
}

sub copy_data
{
	my ($table, @rows) = @_;

	return join '', map {
		my $row = $_;
		join("\t", map { $row->{$_} // '\N' } @{ $columns{$table} }) . "\n"
	} @rows;
}

# Between the outer statement's rows, a function writes other rows.
sub write_through_function
{
	my @rows = random_rows('item', 1 + roll(3), 1) or return 'SELECT';
	my $context = context_now();
	my $within = context_within({ function => '"noted"' });

	$_->{note} = undef for @rows;
	for my $row (@rows)
	{
		insert_row('loose', { k => $row->{id}, v => $row->{v} }, $within);
		insert_row('item', $row, $context);
	}
	return 'INSERT INTO item VALUES '
	  . join(', ', map { "($_->{id}, noted($_->{id}, $_->{v}), NULL)" } @rows);
}

sub update_through_function
{
	my ($low, $high) = random_range('part');
	my $context = context_now();
	my $within = context_within({ function => '"noted"' });

	for my $name (scan('part', sub { $_[0]{id} >= $low && $_[0]{id} <= $high }))
	{
		my $v = $model->{rows}{part}{$name}{v} + 1;

		insert_row('loose', { k => $model->{rows}{part}{$name}{id}, v => $v }, $within);
		update_row('part', $name, { v => $v }, $context);
	}
	return "UPDATE part SET v = noted(id, v + 1) WHERE id BETWEEN $low AND $high";
}

sub call_function
{
	my ($row) = random_rows('loose', 1);

	insert_row('loose', $row, context_within({ function => '"noted"' }));
	return "SELECT noted($row->{k}, $row->{v})";
}

sub call_function_that_sets
{
	my ($row) = random_rows('loose', 1);
	my $context = random_context();
	my $is_local = chance(50);
	my $next = { k => $row->{k}, v => $row->{v} + 1 };

	insert_row('loose', $row, context_within({ function => '"noted_after"' }));
	insert_row('loose', $next, context_within($context));
	set_value('context', $context, 0) unless $is_local;
	return 'SELECT noted_after(' . quoted(context_json($context))
	  . ($is_local ? ', true' : ', false')
	  . ", $row->{k}, $row->{v})";
}

sub call_sql_function
{
	my ($row) = random_rows('loose', 1);

	insert_row('loose', $_, context_within()) for $row, { k => $row->{k}, v => $row->{v} + 1 };
	return "SELECT noted_in_sql($row->{k}, $row->{v})";
}

# A statement that changes the setting does so too late for itself, but not for
# the statements of its triggers.
sub insert_and_set
{
	my ($row) = random_rows('item', 1, 1) or return 'SELECT';
	my $context = context_now();
	my $later = random_context();
	my $is_local = chance(50);

	$row->{note} = undef;
	set_value('context', $later, $is_local);
	insert_row('item', $row, $context);
	return "INSERT INTO item SELECT $row->{id}, $row->{v}, NULL FROM bemi.set_context("
	  . quoted(context_json($later))
	  . ($is_local ? ')' : ', false)');
}

sub insert_plain
{
	my @rows = random_rows('loose', 1 + roll(3));

	insert_row('loose', $_, context_within()) for @rows;
	return 'INSERT INTO plain VALUES ' . values_list('loose', @rows);
}

sub read_only
{
	return pick(
		'SELECT count(*) FROM item',
		'SELECT bemi.current_context()',
		'EXPLAIN INSERT INTO item VALUES (1, 1)',
		'SELECT FROM item WHERE id < 3 FOR UPDATE');
}

sub execute_prepared
{
	if (chance(30))
	{
		my ($row) = random_rows('item', 1, 1) or return 'SELECT';
		$row->{note} = undef;
		insert_row('item', $row, context_now());
		return "EXECUTE add_item($row->{id}, $row->{v})";
	}
	my $context = context_now();
	if (chance(50))
	{
		my ($low, $high) = random_range('item');
		update_row('item', $_, { v => $model->{rows}{item}{$_}{v} + 7 }, $context)
		  for scan('item', sub { $_[0]{id} >= $low && $_[0]{id} <= $high });
		return "EXECUTE change_items($low, $high, 7)";
	}
	my ($low, $high) = random_range('part');
	delete_row('part', $_, $context)
	  for scan('part', sub { $_[0]{id} >= $low && $_[0]{id} <= $high });
	return "EXECUTE delete_parts($low, $high)";
}

# Statements that stand anywhere, by how often they come.
my @anywhere = (
	(\&insert_values) x 6, (\&update_range) x 6, (\&delete_range) x 3,
	\&update_key, \&move_partition, \&move_partition, \&write_leaf, (\&upsert) x 3,
	(\&merge) x 3, (\&insert_nothing) x 3, \&move_by_cte, \&write_by_ctes, \&truncate_tables,
	\&write_through_function, \&update_through_function, \&call_function,
	\&call_function_that_sets, \&call_sql_function, \&insert_and_set, \&insert_plain,
	\&read_only);
my @on_slow = (\&insert_values, \&update_range, \&delete_range, \&insert_nothing);

sub any_statement
{
	my ($statement) = @_;
	my @text = ($statement // pick($only_slow ? @on_slow : @anywhere))->();

	end_statement();
	return wantarray ? @text : $text[0];
}

#
# Settings
#

# Gives a statement that changes the context; "perform" makes one that can be
# called in PL/pgSQL.
sub change_context
{
	my ($perform) = @_;
	my $select = $perform ? 'PERFORM' : 'SELECT';
	my $is_local = chance(60);
	my $scope = $is_local ? 'LOCAL' : 'SESSION';
	my $context = random_context();
	my $text = quoted(context_json($context));

	if (chance(20))
	{
		set_value('context', undef, $is_local);
		return pick("SET $scope bemi.context = ''", "SET $scope bemi.context TO DEFAULT",
			"$select bemi.set_context(NULL, " . ($is_local ? 'true)' : 'false)'));
	}
	if (chance(10))
	{
		set_value('context', undef, 0);
		return 'RESET bemi.context';
	}
	if (chance(25))
	{
		set_value('context', { %{ $model->{context}[0] // {} }, %$context }, $is_local);
		return "$select bemi.merge_context($text" . ($is_local ? ')' : ', false)');
	}
	set_value('context', $context, $is_local);
	return pick("SET $scope bemi.context = $text",
		"$select bemi.set_context($text" . ($is_local ? ')' : ', is_local => false)'),
		"$select set_config('bemi.context', $text, " . ($is_local ? 'true)' : 'false)'));
}

sub change_other_setting
{
	my $is_local = chance(60);
	my $scope = $is_local ? 'LOCAL' : 'SESSION';

	if (chance(30))
	{
		my $on = chance(60);
		set_value('comments', $on, $is_local);
		return "SET $scope bemi.read_comments = " . ($on ? 'on' : 'off');
	}
	return "SET $scope bemi.emit = " . pick('statement', 'changed');
}

1;
