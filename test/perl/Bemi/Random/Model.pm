# The model of a session in the random test (capture_random): tables, settings, savepoints,
# triggers, and the changes that the history must contain.
#
# It does not use messages or the WAL. It follows what SQL and PostgreSQL's manual promise,
# records each change with its expected context, and removes the records when the script rolls
# back. Sessions are generated one at a time, so their state is in variables of this package.

package Bemi::Random::Model;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT = qw($without_extension $tables tables_without_extension $prepares %columns %primary_key %is_text %range_column %key_range
  $model $savepoints $at_begin $only_slow $prepared %comment_of @script @history @starts $errors $serial
  new_model copy_of keep_comment set_value context_json context_now context_within key_text note_change
  before_row_trigger write_row insert_row update_row delete_row end_statement scan
  begin fire_deferred_triggers end_local_settings keep_changes commit rollback);

# Whether the sessions run at a source without the extension (bemi-source.sql).  There, the text
# of a statement is known only when one of its triggers fires.
our $without_extension = 0;

#
# The tables.  "log" is written by triggers, one of each time of firing:
# at the end of the statement (item), between its rows (pair, with a context
# set by the trigger), and at commit (late).  A trigger of a table that is not tracked
# (plain) writes to "loose".
#

our $tables = <<'SQL';
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

-- Writes what it returns, with another context.
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

# The same for a role that is no superuser, at a source without the extension: such a role cannot
# make a function with SET bemi.context.  So its functions set the context when they begin, and set
# it back when they end.
sub tables_without_extension
{
	my $sql = $tables;

	$sql =~ s{\n\tSET bemi\.context = ('.*?') AS \$\$\n\tBEGIN\n}
		{ AS \$\$\n\tDECLARE former text := current_setting('bemi.context', true);
	BEGIN
		PERFORM set_config('bemi.context', $1, true);\n}g;
	$sql =~ s{(\n\t\tINSERT INTO (?:log|loose) VALUES \('pair', NEW\.a, NEW\.v\);|\n\t\tINSERT INTO loose VALUES \(k, v\);)(\n\t\tRETURN)}
		{$1\n\t\tPERFORM set_config('bemi.context', former, true);$2}g;
	$sql =~ s{(\n\t\tINSERT INTO loose VALUES \(k, v \+ 1\);)(\n\t\tRETURN)}
		{$1\n\t\tIF is_local THEN PERFORM set_config('bemi.context', former, true); END IF;$2};
	die 'a function keeps its SET clause' if $sql =~ /SET bemi/;
	return $sql;
}

# What a session prepares.
our $prepares = <<'SQL';
PREPARE add_item (int, int) AS INSERT INTO item VALUES ($1, $2, NULL);
PREPARE change_items (int, int, int) AS UPDATE item SET v = v + $3 WHERE id BETWEEN $1 AND $2;
PREPARE delete_parts (int, int) AS DELETE FROM part WHERE id BETWEEN $1 AND $2;
SQL

our %columns = (
	item => [ 'id', 'v', 'note' ],
	pair => [ 'a', 'b', 'v' ],
	part => [ 'id', 'region', 'v' ],
	loose => [ 'k', 'v' ],
	log => [ 'source', 'k', 'v' ],
	late => [ 'id', 'v' ],
	slow => [ 'id', 'v' ]);
our %primary_key = (
	item => ['id'],
	pair => [ 'a', 'b' ],
	part => [ 'id', 'region' ],
	late => ['id'],
	slow => ['id']);
our %is_text = (note => 1, source => 1);

# The column that WHERE clauses are about, and the order of a scan.
our %range_column =
  (item => 'id', pair => 'a', part => 'id', loose => 'k', log => 'k', late => 'id', slow => 'id');
my %scan_order = (
	item => ['id'],
	pair => [ 'a', 'b' ],
	part => [ 'region', 'id' ],
	loose => [ 'k', 'v' ],
	log => [ 'k', 'v', 'source' ],
	late => ['id'],
	slow => ['id']);
our %key_range = (item => 40, pair => 6, part => 25, loose => 12, log => 40, late => 200, slow => 15);

#
# The model of one session
#

# The state of the session that is being made.
our $model;         # see new_model(); a transaction or savepoint copies it whole
our $savepoints;    # of the transaction: [name, copy of the model], outermost first
our $at_begin;      # the copy made when the transaction began
our $only_slow;     # no other table is to be written to
our $prepared;      # a prepared transaction on "slow" that is not finished yet
our %comment_of;    # contexts in comments: of the client's "query", of a "statement" in a DO block

our @script;        # lines for psql
our @history;       # committed changes, each with the number of its transaction
our @starts;        # where in the script each transaction's lines begin
our $errors;        # statements that must fail
our $serial;        # makes rows and contexts distinct

my @fired;          # rows whose AFTER triggers wait for the end of the statement

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

# The client's statement has a comment, which deferred triggers may get later.
sub keep_comment
{
	$model->{last_comment} = $comment_of{query} if defined $comment_of{query} && $model->{comments}[0];
	return;
}

# The context of a statement that begins now: that of its own comment, of the
# comment in what the client sent, of its function, or the setting. The first wins.
sub context_now
{
	my ($function) = @_;
	my $context;

	keep_comment() if $without_extension;
	$context = $comment_of{statement} // $comment_of{query} if $model->{comments}[0];
	$context //= $function // $model->{context}[0];
	return context_json($context // {});
}

# The same for a statement in a function that the statement calls.
sub context_within
{
	local $comment_of{statement} = undef;
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
	local $comment_of{query} = $comment_of{query} // $model->{last_comment};

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

1;
