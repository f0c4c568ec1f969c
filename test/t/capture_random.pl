# Every change carries the context of the statement that made it, however
# statements, savepoints, functions, triggers and settings are mixed.
#
# The ways to mix them cannot be listed, so they are drawn at random.  A
# generator makes up transactions as psql scripts and plays each statement on a
# model: tables, the setting bemi.context as PostgreSQL's manual describes SET
# and SET LOCAL, savepoints, triggers.  The model knows nothing of messages or
# of the WAL; it notes each change with the context that it must carry, and
# takes the notes back when the script rolls back.  Afterwards bemi.changes
# must hold these notes, row by row.  A second check knows nothing of the model:
# playing bemi.changes must lead to what is in the tables.
#
# Several scripts run at once, each with a seed and a schema of its own, so that
# their transactions are interleaved in the WAL; every other one begins with
# bemi.emit = changed, which must make no difference.  A failure is repeated with the
# seed that is printed, and shows the transaction in which it begins.

use strict;
use warnings;

use Bemi;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{BEMI_SEED} // 1;
my $sessions = 4;
my $transactions = $ENV{BEMI_TRANSACTIONS} // 4000;

note "seeds $seed and following (BEMI_SEED=$seed repeats them),"
  . " $transactions transactions (BEMI_TRANSACTIONS)";

# The order in which an UPDATE meets its rows is part of the expectation; with
# these settings it is the order of an index.  A server that crashed and did not
# restart would end the tests before they can tell what they saw.
my $node = bemi_node('main', conf => <<~CONF);
	max_prepared_transactions = 20
	enable_seqscan = off
	enable_bitmapscan = off
	enable_hashjoin = off
	enable_mergejoin = off
	enable_sort = off
	jit = off
	restart_after_crash = on
	log_statement = none
	CONF

my $has_merge = $node->pg_version >= 15;

#
# The tables.  "log" is written by triggers, one of each time of firing:
# at the end of the statement (item), between its rows (pair, with a context
# of its own), and at commit (late).  A trigger of a table that is not tracked
# (plain) writes to "loose".
#

my $tables = <<'SQL';
CREATE TABLE item (id int PRIMARY KEY, v int NOT NULL, note text);
ALTER TABLE item ALTER note SET STORAGE EXTERNAL;
CREATE TABLE pair (a int, b int, v int NOT NULL, PRIMARY KEY (a, b));
CREATE TABLE part (id int, region int, v int NOT NULL, PRIMARY KEY (id, region))
	PARTITION BY LIST (region);
CREATE TABLE part1 PARTITION OF part FOR VALUES IN (1);
CREATE TABLE part2 PARTITION OF part FOR VALUES IN (2);
CREATE TABLE part3 PARTITION OF part FOR VALUES IN (3);
CREATE TABLE loose (k int, v int);
CREATE INDEX ON loose (k, v);
CREATE TABLE log (source text, k int, v int);
CREATE INDEX ON log (k, v, source);
CREATE TABLE late (id int PRIMARY KEY, v int NOT NULL);
CREATE TABLE slow (id int PRIMARY KEY, v int NOT NULL);
CREATE TABLE plain (id int, v int);

CREATE FUNCTION log_row() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF TG_OP = 'DELETE' THEN
			INSERT INTO log VALUES (TG_TABLE_NAME, OLD.id, OLD.v);
		ELSE
			INSERT INTO log VALUES (TG_TABLE_NAME, NEW.id, NEW.v);
		END IF;
		RETURN NULL;
	END $$;
CREATE TRIGGER log_row AFTER INSERT OR UPDATE OR DELETE ON item
	FOR EACH ROW EXECUTE FUNCTION log_row();
CREATE CONSTRAINT TRIGGER log_row AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION log_row();

CREATE FUNCTION log_pair() RETURNS trigger LANGUAGE plpgsql
	SET bemi.context = '{"trigger": "log_pair"}' AS $$
	BEGIN
		INSERT INTO log VALUES ('pair', NEW.a, NEW.v);
		RETURN NEW;
	END $$;
CREATE TRIGGER log_pair BEFORE INSERT OR UPDATE ON pair
	FOR EACH ROW EXECUTE FUNCTION log_pair();

CREATE FUNCTION copy_plain() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO loose VALUES (NEW.id, NEW.v);
		RETURN NULL;
	END $$;
CREATE TRIGGER copy_plain AFTER INSERT ON plain
	FOR EACH ROW EXECUTE FUNCTION copy_plain();

-- Writes, with a context of its own, what it returns.
CREATE FUNCTION noted(k int, v int) RETURNS int LANGUAGE plpgsql
	SET bemi.context = '{"function": "noted"}' AS $$
	BEGIN
		INSERT INTO loose VALUES (k, v);
		RETURN v;
	END $$;

-- A SET in a function outlives the function's own SET clause, a SET LOCAL does not.
CREATE FUNCTION noted_after(context text, is_local bool, k int, v int) RETURNS int LANGUAGE plpgsql
	SET bemi.context = '{"function": "noted_after"}' AS $$
	BEGIN
		INSERT INTO loose VALUES (k, v);
		PERFORM set_config('bemi.context', context, is_local);
		INSERT INTO loose VALUES (k, v + 1);
		RETURN v;
	END $$;

CREATE FUNCTION noted_in_sql(k int, v int) RETURNS int LANGUAGE sql AS $$
	INSERT INTO loose VALUES (k, v);
	INSERT INTO loose VALUES (k, v + 1) RETURNING v
$$;

-- Fail when they have written two rows and are about to write a third.
CREATE FUNCTION fail_midway() RETURNS void LANGUAGE plpgsql
	SET bemi.context = '{"function": "fail_midway"}' AS $$
	BEGIN
		INSERT INTO loose SELECT i, 1 / (3 - i) FROM generate_series(1, 4) i;
	END $$;
CREATE FUNCTION fail_midway_in_sql() RETURNS void LANGUAGE sql AS $$
	INSERT INTO loose SELECT i, 1 / (3 - i) FROM generate_series(1, 4) i
$$;

SELECT bemi.track(t::regclass) FROM unnest('{item,pair,part,loose,log,late,slow}'::text[]) t;
SQL

# What a session prepares.
my $prepares = <<'SQL';
PREPARE add_item (int, int) AS INSERT INTO item VALUES ($1, $2, NULL);
PREPARE change_items (int, int, int) AS UPDATE item SET v = v + $3 WHERE id BETWEEN $1 AND $2;
PREPARE delete_parts (int, int) AS DELETE FROM part WHERE id BETWEEN $1 AND $2;
SQL

my %columns = (
	item => [ 'id', 'v', 'note' ],
	pair => [ 'a', 'b', 'v' ],
	part => [ 'id', 'region', 'v' ],
	loose => [ 'k', 'v' ],
	log => [ 'source', 'k', 'v' ],
	late => [ 'id', 'v' ],
	slow => [ 'id', 'v' ]);
my %primary_key = (
	item => ['id'],
	pair => [ 'a', 'b' ],
	part => [ 'id', 'region' ],
	late => ['id'],
	slow => ['id']);
my %is_text = (note => 1, source => 1);

# The column that WHERE clauses are about, and the order of a scan.
my %range_column =
  (item => 'id', pair => 'a', part => 'id', loose => 'k', log => 'k', late => 'id', slow => 'id');
my %scan_order = (
	item => ['id'],
	pair => [ 'a', 'b' ],
	part => [ 'region', 'id' ],
	loose => [ 'k', 'v' ],
	log => [ 'k', 'v', 'source' ],
	late => ['id'],
	slow => ['id']);
my %key_range = (item => 40, pair => 6, part => 25, loose => 12, log => 40, late => 200, slow => 15);

#
# The model of one session
#

my $model;       # see new_model(); a transaction or savepoint copies it whole
my $savepoints;  # of the transaction: [name, copy of the model], outermost first
my $at_begin;    # the copy made when the transaction began
my $only_slow;   # no other table is to be written to
my $prepared;    # a prepared transaction on "slow" that is yet to be finished
our $comment;    # context in the comment of what the client sends
our $own;        # context in the comment of a statement within a DO block
my @fired;       # rows whose AFTER triggers wait for the end of the statement

my @script;      # lines for psql
my @history;     # committed changes, each with the number of its transaction
my @starts;      # where in the script each transaction's lines begin
my $errors;      # statements that must fail
my $serial;      # makes rows and contexts distinct

# A setting has two values: the one in force, and the one that a commit brings
# (they differ after SET LOCAL).  A rolled-back (sub)transaction brings both
# back.  A context is a hash of JSON texts, undef for none.
sub new_model
{
	return {
		context => [ undef, undef ],
		comments => [ 1, 1 ],
		rows => { map { $_ => {} } keys %columns },
		late => [],
		last_comment => undef,
		changes => []
	};
}

# Rows are never modified in place, so their hashes can be shared.
sub copy_of
{
	my ($from) = @_;

	return {
		context => [ @{ $from->{context} } ],
		comments => [ @{ $from->{comments} } ],
		rows => { map { $_ => { %{ $from->{rows}{$_} } } } keys %{ $from->{rows} } },
		late => [ @{ $from->{late} } ],
		last_comment => $from->{last_comment},
		changes => [ @{ $from->{changes} } ]
	};
}

sub set_value
{
	my ($setting, $value, $is_local) = @_;

	$model->{$setting}[0] = $value;
	$model->{$setting}[1] = $value unless $is_local;
	return;
}

sub context_json
{
	my ($context) = @_;

	return '{' . join(', ', map { qq{"$_": $context->{$_}} } sort keys %$context) . '}';
}

# The context of a statement that begins now: its own comment, else that of what
# the client sent, else what its function says, else the setting.
sub context_now
{
	my ($function) = @_;
	my $context;

	$context = $own // $comment if $model->{comments}[0];
	$context //= $function // $model->{context}[0];
	return context_json($context // {});
}

# The same for a statement in a function that the statement calls.
sub context_within
{
	local $own = undef;
	return context_now(@_);
}

sub row_json
{
	my ($table, $row) = @_;
	my @pairs;

	return '{}' unless $row;
	for my $column (@{ $columns{$table} })
	{
		my $value = $row->{$column};

		push @pairs,
		  qq{"$column": }
		  . (!defined $value ? 'null' : $is_text{$column} ? qq{"$value"} : $value);
	}
	return '{' . join(', ', @pairs) . '}';
}

sub key_text
{
	my ($table, $row) = @_;
	my @values = map { $row->{$_} } @{ $primary_key{$table} // [] };

	return undef unless @values;    ## no critic
	return @values == 1 ? "$values[0]" : '[' . join(', ', map { qq{"$_"} } @values) . ']';
}

sub note_change
{
	my ($table, $operation, $before, $after, $context) = @_;

	push @{ $model->{changes} },
	  [
		$table, $operation eq 'TRUNCATE' ? undef : key_text($table, $after // $before),
		$operation, row_json($table, $before),
		row_json($table, $after), $context
	  ];
	return;
}

# Rows are filed under their primary key; where there is none, under a number.
sub file_name
{
	my ($table, $row) = @_;

	return key_text($table, $row) // 'row ' . ++$serial;
}

sub write_log
{
	my ($source, $k, $v, $context) = @_;

	write_row('log', { source => $source, k => $k, v => $v }, $context);
	return;
}

sub before_row_trigger
{
	my ($table, $row) = @_;

	write_log('pair', $row->{a}, $row->{v}, context_within({ trigger => '"log_pair"' }))
	  if $table eq 'pair';
	return;
}

sub write_row
{
	my ($table, $row, $context) = @_;

	$model->{rows}{$table}{ file_name($table, $row) } = $row;
	note_change($table, 'CREATE', undef, $row, $context);
	push @fired, $row if $table eq 'item';
	push @{ $model->{late} }, $row if $table eq 'late';
	return;
}

sub insert_row
{
	my ($table, $row, $context) = @_;

	before_row_trigger($table, $row);
	write_row($table, $row, $context);
	return;
}

# A row that moves to another partition is deleted and inserted.
sub update_row
{
	my ($table, $name, $new, $context) = @_;
	my $old = $model->{rows}{$table}{$name};
	my $row = { %$old, %$new };

	before_row_trigger($table, $row);
	delete $model->{rows}{$table}{$name};
	$model->{rows}{$table}{ file_name($table, $row) } = $row;
	if ($table eq 'part' && $old->{region} != $row->{region})
	{
		note_change($table, 'DELETE', $old, undef, $context);
		note_change($table, 'CREATE', undef, $row, $context);
	}
	else
	{
		note_change($table, 'UPDATE', $old, $row, $context);
	}
	push @fired, $row if $table eq 'item';
	return;
}

sub delete_row
{
	my ($table, $name, $context) = @_;
	my $row = delete $model->{rows}{$table}{$name};

	note_change($table, 'DELETE', $row, undef, $context);
	push @fired, $row if $table eq 'item';
	return $row;
}

sub end_statement
{
	write_log('item', $_->{id}, $_->{v}, context_within()) for splice @fired;
	return;
}

# The names of the rows that a scan finds, in its order.
sub scan
{
	my ($table, $condition) = @_;
	my $rows = $model->{rows}{$table};
	my $by_columns = sub {
		for my $column (@{ $scan_order{$table} })
		{
			my ($x, $y) = map { $rows->{$_}{$column} } @_;
			my $order = $is_text{$column} ? $x cmp $y : $x <=> $y;
			return $order if $order;
		}
		return 0;
	};

	return sort { $by_columns->($a, $b) } grep { $condition->($rows->{$_}) } sort keys %$rows;
}

#
# Transactions, of the model
#

sub begin
{
	$savepoints = [];
	$model->{changes} = [];
	$model->{last_comment} = undef;
	$at_begin = copy_of($model);
	return;
}

# Where the client's COMMIT has no comment, its last one holds.
sub fire_deferred_triggers
{
	local $comment = $comment // $model->{last_comment};

	write_log('late', $_->{id}, $_->{v}, context_within()) for splice @{ $model->{late} };
	return;
}

sub end_local_settings
{
	$model->{$_}[0] = $model->{$_}[1] for 'context', 'comments';
	return;
}

sub keep_changes
{
	my ($changes) = @_;

	push @history, [ scalar(@starts), @$_ ] for @$changes;
	return;
}

sub commit
{
	fire_deferred_triggers();
	end_local_settings();
	keep_changes($model->{changes});
	return;
}

sub rollback
{
	$model = copy_of($at_begin);
	return;
}

#
# Dice
#

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
# Statements.  Each function gives the text, without a semicolon, and plays the
# statement on the model.
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
	my $context = context_now();
	my @names = scan('part',
		sub { $_[0]{id} >= $low && $_[0]{id} <= $high && $_[0]{region} == $from });

	return 'SELECT' if grep { $rows->{ key_text('part', { %{ $rows->{$_} }, region => $to }) } } @names;
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

# Parts that nobody reads run after the main one, the last of them first.
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

# Within the outer statement's rows, a function writes rows of its own.
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

# What a statement does to the setting comes too late for itself, but not for
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
	my $context = context_now();

	if (chance(30))
	{
		my ($row) = random_rows('item', 1, 1) or return 'SELECT';
		$row->{note} = undef;
		insert_row('item', $row, $context);
		return "EXECUTE add_item($row->{id}, $row->{v})";
	}
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

#
# DO blocks
#

sub block_statement
{
	local $own = chance(10) ? random_context() : undef;
	my $text = any_statement();

	if ($text =~ /^TRUNCATE/)
	{
		return "$text;\n";
	}
	if ($text =~ /^SELECT|^EXPLAIN|RETURNING \*$/)
	{
		return 'EXECUTE ' . quoted($text . comment_text($own)) . ";\n";
	}
	return pick("$text" . comment_text($own), 'EXECUTE ' . quoted($text . comment_text($own))) . ";\n";
}

# Statements of a block; now and then one is a block that an exception ends.
sub block_body
{
	my ($depth) = @_;
	my $text = '';

	for (1 .. 1 + roll(4))
	{
		if ($depth < 3 && chance(25)) { $text .= block_with_handler($depth + 1); }
		elsif (chance(30)) { $text .= change_context('perform') . ";\n"; }
		else { $text .= block_statement(); }
	}
	return $text;
}

sub block_with_handler
{
	my ($depth) = @_;
	my $before = copy_of($model);
	my $text = "BEGIN\n" . block_body($depth);
	my $fails = chance(60);

	if ($fails)
	{
		$text .= pick('RAISE division_by_zero', 'PERFORM 1 / 0',
			'PERFORM fail_midway()', 'PERFORM fail_midway_in_sql()',
			'INSERT INTO item SELECT 90000 + i, 1 / (2 - i) FROM generate_series(1, 3) i')
		  . ";\n";
		$model = $before;
	}
	$text .= "EXCEPTION WHEN division_by_zero THEN\n";
	if ($fails) { $text .= block_body($depth); }
	else { $text .= "NULL;\n"; }
	return $text . "END;\n";
}

sub do_block
{
	my ($alone) = @_;
	my $text = block_body(0);

	# Outside of a transaction block it can end transactions.
	while ($alone && chance(30))
	{
		my $commits = chance(60);

		if ($commits) { commit(); $text .= "COMMIT;\n"; }
		else { rollback(); $text .= "ROLLBACK;\n"; }
		push @starts, scalar @script;
		begin();
		$text .= block_body(0);
	}
	return "DO \$do\$ BEGIN\n${text}END \$do\$";
}

#
# What the client sends
#

sub send_text
{
	my ($text, $data) = @_;

	push @script, $text . comment_text($comment) . ";\n" . (defined $data ? "$data\\.\n" : '');
	return;
}

# The client's statement begins, with its comment.
sub say_comment
{
	$model->{last_comment} = $comment if defined $comment && $model->{comments}[0];
	return;
}

# One statement, or several in one query, each with a comment of its own.
sub client_statement
{
	my ($alone) = @_;

	return change_context() if chance(25);
	return change_other_setting() if chance(5);
	return any_statement() if $only_slow;
	return do_block($alone) if chance(15);
	return any_statement(\&copy_from) if chance(8);
	return any_statement(\&execute_prepared) if chance(8);
	return any_statement() if chance(90);
	return join ' \; ', (map { several_statement(random_comment()) } 1 .. 1 + roll(3)), several_statement();
}

# One of several, with its comment, or without the last one's, which is put behind the whole.
sub several_statement
{
	local $comment = $_[0] if @_;

	say_comment();
	my $text = pick(\&any_statement, \&any_statement, \&change_context)->();
	return @_ ? $text . comment_text($comment) : $text;
}

# Outside of a transaction block it is a transaction, whose deferred triggers
# fire while the statement is still the client's.
sub send_statement
{
	my ($alone) = @_;

	local $comment = random_comment();
	say_comment();
	send_text(client_statement($alone));
	commit() if $alone;
	return;
}

sub use_cursor
{
	my ($name) = scan('item', sub { chance(20) }) or return;

	send_text("DECLARE c CURSOR FOR SELECT FROM item WHERE id = $name FOR UPDATE");
	send_text('FETCH c');
	local $comment = random_comment();
	say_comment();
	my $context = context_now();
	if (chance(50))
	{
		update_row('item', $name, { v => $model->{rows}{item}{$name}{v} + 5 }, $context);
		send_text('UPDATE item SET v = v + 5 WHERE CURRENT OF c');
	}
	else
	{
		delete_row('item', $name, $context);
		send_text('DELETE FROM item WHERE CURRENT OF c');
	}
	end_statement();
	$comment = undef;
	send_text('CLOSE c');
	return;
}

# A statement that fails after it has written rows.
sub send_failing_statement
{
	local $comment = random_comment();
	my $before = copy_of($model);

	$errors++;
	if (chance(20))
	{
		send_text('COPY item FROM STDIN', "91000\t1\t\\N\n91001\tnonsense\t\\N\n");
	}
	elsif (chance(30))
	{
		send_text(change_context() . ' \; ' . any_statement() . ' \; SELECT 1 / 0');
	}
	else
	{
		send_text(
			pick(
				'INSERT INTO item SELECT 92000 + i, 1 / (3 - i) FROM generate_series(1, 4) i',
				'INSERT INTO item VALUES (93000, 1), (93001, 1), (93000, 1)',
				'SELECT fail_midway()',
				'SELECT fail_midway_in_sql()',
				'INSERT INTO plain SELECT 1, 1 FROM fail_midway()',
				'DO $do$ BEGIN INSERT INTO item SELECT 96000 + i, 1 / (3 - i)'
				  . ' FROM generate_series(1, 4) i; END $do$',
				'INSERT INTO item SELECT 95000 + i, noted(95000 + i, i) / (2 - i) FROM generate_series(1, 3) i',
				'WITH a AS (INSERT INTO loose VALUES (1, 1), (2, 2) RETURNING k)'
				  . ' INSERT INTO late SELECT 94000 + k, 1 / (2 - k) FROM a',
				"DO \$do\$ BEGIN PERFORM bemi.set_context('{}', false);"
				  . " INSERT INTO loose VALUES (1, 1); PERFORM 1 / 0; END \$do\$"));
	}
	$model = $before;
	return;
}

sub find_savepoint
{
	my ($name) = @_;

	for my $i (reverse 0 .. $#$savepoints)
	{
		return $i if $savepoints->[$i][0] eq $name;
	}
	return;
}

sub roll_back_to_savepoint
{
	my $name = pick(map { $_->[0] } @$savepoints);
	my $i = find_savepoint($name);

	$#$savepoints = $i;
	$model = copy_of($savepoints->[$i][1]);
	send_text("ROLLBACK TO $name");
	return;
}

# One step of a transaction block.  False: it has failed beyond rescue.
sub step
{
	if (chance(12) && @$savepoints < 6)
	{
		my $name = pick('a', 'b', 'c', 'd');
		push @$savepoints, [ $name, copy_of($model) ];
		send_text("SAVEPOINT $name");
	}
	elsif (chance(12) && @$savepoints)
	{
		my $name = pick(map { $_->[0] } @$savepoints);
		splice @$savepoints, find_savepoint($name);
		send_text("RELEASE $name");
	}
	elsif (chance(12) && @$savepoints)
	{
		roll_back_to_savepoint();
	}
	elsif (chance(4) && !$only_slow)
	{
		send_failing_statement();
		return 0 if !@$savepoints || chance(20);
		roll_back_to_savepoint();
	}
	elsif (chance(4) && !$only_slow)
	{
		use_cursor();
	}
	else
	{
		send_statement();
	}
	return 1;
}

# Finishes the prepared transaction that holds locks on "slow".
sub finish_prepared
{
	if (chance(70))
	{
		keep_changes($prepared->{changes});
		send_text("COMMIT PREPARED '$prepared->{name}'");
	}
	else
	{
		$model->{rows}{slow} = $prepared->{rows};
		send_text("ROLLBACK PREPARED '$prepared->{name}'");
	}
	$prepared = undef;
	return;
}

# PREPARE TRANSACTION is a commit to settings and deferred triggers.  A
# transaction on "slow" alone is finished some transactions later, any other
# one, whose locks would be in the way, at once.
sub prepare_transaction
{
	my ($schema) = @_;
	my $name = "$schema " . @starts;

	send_text("PREPARE TRANSACTION '$name'");
	fire_deferred_triggers();
	end_local_settings();
	if ($only_slow)
	{
		$prepared = {
			name => $name,
			changes => $model->{changes},
			rows => $at_begin->{rows}{slow}
		};
	}
	elsif (chance(70))
	{
		keep_changes($model->{changes});
		send_text("COMMIT PREPARED '$name'");
	}
	else
	{
		$model->{rows} = copy_of($at_begin)->{rows};
		send_text("ROLLBACK PREPARED '$name'");
	}
	return;
}

sub end_block
{
	my ($schema) = @_;

	if ($only_slow || chance(6)) { prepare_transaction($schema); }
	elsif (chance(12))
	{
		rollback();
		send_text('ROLLBACK');
	}
	else
	{
		local $comment = random_comment();
		send_text('COMMIT');
		commit();
	}
	return;
}

sub transaction_block
{
	my ($schema) = @_;
	my $alive = 1;

	$only_slow = !$prepared && chance(6);
	begin();
	send_text('BEGIN');
	for (1 .. 1 + roll(9))
	{
		$alive &&= step();
	}
	if ($alive) { end_block($schema); }
	else
	{
		rollback();
		send_text('ROLLBACK');
	}
	$only_slow = 0;
	return;
}

sub single_statement
{
	begin();
	if (chance(5))
	{
		send_failing_statement();
		rollback();
		return;
	}
	send_statement('alone');
	return;
}

sub discard_all
{
	begin();
	send_text('DISCARD ALL');
	push @script, $prepares;
	set_value('context', undef, 0);
	set_value('comments', 1, 0);
	commit();
	return;
}

sub make_session
{
	my ($schema, $count) = @_;

	$model = new_model();
	$prepared = undef;
	@history = @starts = ();
	$errors = $serial = 0;
	@script = ($prepares);
	while (@starts < $count)
	{
		push @starts, scalar @script;
		if ($prepared && chance(25)) { finish_prepared(); }
		elsif (chance(2)) { discard_all(); }
		elsif (chance(40)) { single_statement(); }
		else { transaction_block($schema); }
	}
	push @starts, scalar @script;
	finish_prepared() if $prepared;
	return;
}

#
# The scripts run
#

my @runs;

for my $i (0 .. $sessions - 1)
{
	my $schema = "random$i";
	my $file = $node->basedir . "/$schema.sql";

	srand($seed + $i);
	make_session($schema, $transactions / $sessions);
	append_to_file($file, join '', @script);
	push @runs,
	  {
		schema => $schema,
		file => $file,
		script => [@script],
		starts => [@starts],
		history => [@history],
		errors => $errors
	  };
	$node->safe_psql('postgres', "CREATE SCHEMA $schema; SET search_path = $schema; $tables");
}

$node->safe_psql('postgres', 'CALL bemi.start()');
for my $i (0 .. $#runs)
{
	my $run = $runs[$i];
	local $ENV{PGOPTIONS} =
	  "-c search_path=$run->{schema} -c bemi.emit=" . ($i % 2 ? 'changed' : 'statement');

	$run->{psql} = IPC::Run::start(
		[
			$node->installed_command('psql'), '-XAtq', '-d',
			$node->connstr('postgres'), '-f', $run->{file}
		],
		'<', \undef, '>', \$run->{stdout}, '2>', \$run->{stderr},
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
}
$_->{psql}->finish for @runs;
$node->safe_psql('postgres', q{SELECT bemi.sync('120s')});

#
# The history is what the model says
#

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
	my ($run) = @_;
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
	diag "seed $seed, $run->{schema}: " . join("\n", (split /\n/, $differences)[ 0 .. 9 ])
	  =~ s/z{3000}/z.../gr;
	diag "transaction $transaction:\n" . join('', @{ $run->{script} }[ $from .. $to - 1 ]);
	return;
}

for my $run (@runs)
{
	my @errors = $run->{stderr} =~ /ERROR:  .*/g;
	my $schema = $run->{schema};

	load_expected($run);
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
}

is( $node->safe_psql(
		'postgres', q{
		SELECT count(DISTINCT (schema, e.transaction)) - count(DISTINCT f.transaction),
			count(DISTINCT (schema, e.transaction)) - count(DISTINCT (schema, e.transaction, f.transaction))
		FROM account.expected e JOIN account.found f USING (schema, n)}),
	'0|0',
	'the changes of one transaction, and no others, bear one transaction id');

#
# And it leads to what is in the tables
#

sub replayed
{
	my ($schema) = @_;
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

for my $run (@runs)
{
	my $content = $node->safe_psql('postgres', join ' UNION ALL ',
		map { "SELECT '$_ ' || to_jsonb(t)::text FROM $run->{schema}.$_ t" } sort keys %columns);

	ok(replayed($run->{schema}) eq join("\n", sort split /\n/, $content),
		"$run->{schema}: the history, played from the beginning, leads to the tables' content");
}

$node->stop;
done_testing();
