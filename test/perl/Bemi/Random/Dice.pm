# What the random test (capture_random) draws by lot: contexts, rows, ranges of keys, tables.

package Bemi::Random::Dice;

use strict;
use warnings;

use Bemi::Random::Model;
use Exporter 'import';

our @EXPORT = qw(roll chance pick random_context random_comment random_range random_rows writable_table);

sub roll { my ($n) = @_; return int(rand($n)); }
sub chance { my ($percent) = @_; return rand(100) < $percent; }
sub pick { return $_[ roll(scalar @_) ]; }

sub random_context
{
	my %context = (n => 0 + ++$serial);

	return {} if chance(5);
	return { n => roll(3) } if chance(35);    # comes again
	$context{who} = pick('"Ann"', q{"O'Neill"}, '"say \"hi\""', '"\u00fc;"', 'null') if chance(50);
	$context{deep} = '{"list": [1, {"x": true}]}' if chance(20);
	return \%context;
}

sub random_comment
{
	return chance(20) ? random_context() : undef;
}

# A range of keys that a WHERE clause is about; often it hits nothing.
sub random_range
{
	my ($table) = @_;
	my $low = 1 + roll($key_range{$table});

	return (0, 0) if chance(10);
	return ($low, $low + roll(chance(70) ? 2 : 6));
}

# Up to $count rows with different keys, that are, or are not, in the table.
sub random_rows
{
	my ($table, $count, $must_be_new) = @_;
	my %rows;

	for (1 .. 20 * $count)
	{
		my $row = random_row($table);
		my $name = key_text($table, $row) // 'row ' . ++$serial;

		next if $must_be_new && exists $model->{rows}{$table}{$name};
		next if exists $rows{$name};
		$rows{$name} = $row;
		last if keys %rows == $count;
	}
	return @rows{ sort keys %rows };
}

sub random_row
{
	my ($table) = @_;
	my $key = 1 + roll($key_range{$table});
	my $v = 0 + ++$serial;

	return { id => $key, v => $v, note => pick(undef, 'short', 'z' x 3000) } if $table eq 'item';
	return { a => $key, b => 1 + roll(6), v => $v } if $table eq 'pair';
	return { id => $key, region => 1 + roll(3), v => $v } if $table eq 'part';
	return { k => $key, v => $v } if $table eq 'loose';
	return { source => 'hand', k => $key, v => $v } if $table eq 'log';
	return { id => $key, v => $v };
}

sub writable_table
{
	return 'slow' if $only_slow;
	return pick('item', 'item', 'pair', 'pair', 'part', 'part', 'loose', 'log', 'late',
		$prepared ? () : ('slow'));
}

1;
