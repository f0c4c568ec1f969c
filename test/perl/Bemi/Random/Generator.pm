# Makes up the sessions of the random test (capture_random): scripts for psql, whose
# statements stand alone, in transaction blocks with savepoints, in DO blocks, behind
# cursors and in prepared transactions.

package Bemi::Random::Generator;

use strict;
use warnings;

use Bemi::Random::Dice;
use Bemi::Random::Model;
use Bemi::Random::Statements;
use Exporter 'import';

our @EXPORT = qw(make_session);

#
# DO blocks
#

sub block_statement
{
	local $comment_of{statement} = chance(10) ? random_context() : undef;
	my $text = any_statement();

	if ($text =~ /^TRUNCATE/)
	{
		return "$text;\n";
	}
	if ($text =~ /^SELECT|^EXPLAIN|RETURNING \*$/)
	{
		return 'EXECUTE ' . quoted($text . comment_text($comment_of{statement})) . ";\n";
	}
	return pick("$text" . comment_text($comment_of{statement}), 'EXECUTE ' . quoted($text . comment_text($comment_of{statement}))) . ";\n";
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

	push @script, $text . comment_text($comment_of{query}) . ";\n" . (defined $data ? "$data\\.\n" : '');
	return;
}

# The client's statement begins, with its comment.
sub say_comment
{
	keep_comment() unless $without_extension;
	return;
}

# One statement, or several in one query, each with its own comment.
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
	# Without the extension, the statement that runs is not known. So all have the same comment.
	return join comment_text($comment_of{query}) . ' \; ', map { several_statement() } 1 .. 2 + roll(3)
	  if $without_extension;
	return join ' \; ', (map { several_statement(random_comment()) } 1 .. 1 + roll(3)), several_statement();
}

# One of several, with its comment, or without the last one's, which is put behind the whole.
sub several_statement
{
	local $comment_of{query} = $_[0] if @_;

	say_comment();
	my $text = pick(\&any_statement, \&any_statement, \&change_context)->();
	return @_ ? $text . comment_text($comment_of{query}) : $text;
}

# Outside of a transaction block it is a transaction, whose deferred triggers
# fire while the statement is still the client's.
sub send_statement
{
	my ($alone) = @_;

	local $comment_of{query} = random_comment();
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
	local $comment_of{query} = random_comment();
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
	$comment_of{query} = undef;
	send_text('CLOSE c');
	return;
}

# A statement that fails after it has written rows.
sub send_failing_statement
{
	local $comment_of{query} = random_comment();
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
		local $comment_of{query} = random_comment();
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

# A session of so many transactions, in a schema.  Gives its script, where in it each
# transaction starts, how many statements must fail, and the changes that the
# history must hold.
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
	return {
		schema => $schema,
		script => [@script],
		starts => [@starts],
		history => [@history],
		errors => $errors
	};
}

1;
