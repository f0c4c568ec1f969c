# Sessions that write to the tables of query_oracle, and what they write.
#
# A session runs one script of random transactions after the other. Each statement may fail, and is
# then rolled back alone. What was written is in the journal, so nothing here needs to know it.
#
# The scripts depend only on the seed. In which order the sessions run them depends on the machine.

package Bemi::Oracle::Writers;

use strict;
use warnings;

use Bemi::Oracle::Tables;
use Exporter 'import';
use IPC::Run;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(roll chance pick seeded keep_writing end_writing written random_key @often @altered @other_commands $renames_tables $has_merge);

our @often = ('item', 'line', 'item', 'seat');                                     # tables that are written to more often
our @altered = ('item', 'line', 'word', 'event', 'loose', 'seat', 'animal');       # tables that get other columns
our @other_commands = (\&change_partitions);                                       # subs that give other DDL
our $renames_tables = 1;                                                            # whether they are renamed
our $has_merge;

sub roll { my ($n) = @_; return int(rand($n)); }
sub chance { my ($percent) = @_; return rand(100) < $percent; }
sub pick { return $_[ roll(scalar @_) ]; }

# Runs code with random numbers that depend only on these numbers.
sub seeded
{
	my ($code, @numbers) = @_;
	my $after = int(rand(2**31));
	my $seed = 0;

	$seed = ($seed * 1_000_003 + $_ + 1) % 2_147_483_647 for @numbers;
	srand($seed);
	my @result = $code->();
	srand($after);
	return @result;
}

my $json = JSON::PP->new->utf8(0)->canonical;

#
# Values, as text; undef is NULL
#

my @words = ('a', 'b', 'B', 'ä', '', ' x', q{O'H}, '\\', '"q"', '{,}', "t\tn", '%s', 'null', 'ZZ');
my %random = (
	int => sub { roll(40) },
	smallint => sub { roll(5) },
	region => sub { roll(4) },
	text => sub { pick(@words, 'word ' . roll(9)) },
	word => sub { pick(@words[ 0 .. 11 ]) },
	long => sub { chance(60) ? 'short' : substr(join('', map { $_ * 7919 } roll(999) .. 4000), 0, 2500 + roll(3000)) },
	numeric => sub { pick('0', '1.5', '1.50', '-0.01', '100', '12.345', '99999') },
	scaled => sub { pick('1', '1.0', '1.5', '1.50', '2', '-3', '0.001', '1e3') },
	float => sub { pick('0.1', '1e300', '-1e-5', '3', 'Infinity', 'NaN', '123456.789') },
	bool => sub { pick('t', 'f') },
	ints => sub { pick('{}', '{1,2}', '{NULL,3}', '{{1,2},{3,4}}') },
	texts => sub { pick('{}', '{a,"b c"}', '{NULL,"NULL","\\\\",""}', '{"{x}"}') },
	jsonb => sub { pick('{"a": 1.50, "b": [null, {"c": "ü"}]}', '[]', '"text"', 'null', '17', '{"a":   1}') },
	bytea => sub { pick('\x', '\x00ff', '\xdeadbeef') },
	mood => sub { pick('bad', 'so so', 'good') },
	span => sub { pick('[1,5)', 'empty', '(,3)', '[7,]') },
	uuid => sub { sprintf '%08x-0000-4000-8000-%012x', roll(9), roll(2) },
	inet => sub { pick('10.0.0.1', '::1/64', '192.168.0.0/16') },
	pair => sub { pick('(1,a)', '(,"b c")', '(2,)') },
	bits => sub { pick('000', '101', '111') },
	moment => sub { sprintf '2026-03-29 0%d:30:0%d.12%s', roll(4), roll(3), pick('+00', '+02') },
	timestamptz => sub { pick('2026-10-25 01:30:00+02', 'infinity', '-infinity', '1999-12-31 23:59:59.999999+00', '0044-03-15 12:00:00+00 BC') },
	timestamp => sub { pick('2026-01-01 00:00:00', 'infinity', '2000-02-29 12:34:56.7') },
	date => sub { pick('2026-02-28', 'infinity', '0001-01-01 BC') },
	time => sub { pick('00:00', '24:00', '12:34:56.789') },
	interval => sub { pick('1 day', '-1 mon 3 days 04:05:06.7', '0') });

sub random_value { my ($type) = @_; return chance(12) ? undef : $random{$type}->(); }

sub quoted { my ($text) = @_; return defined $text ? "'" . $text =~ s/'/''/gr . "'" : 'NULL'; }

sub copied { my ($text) = @_; return '\N' unless defined $text; return $text =~ s/\\/\\\\/gr =~ s/\t/\\t/gr =~ s/\n/\\n/gr; }

sub is_key { my ($t, $column) = @_; return scalar grep { $_ eq $column } @{ $tables{$t}{key} }; }

# Column => value, for the key and some of the others.
sub random_row
{
	my ($t) = @_;
	my $types = $tables{$t}{columns};
	my @others = grep { !is_key($t, $_) && chance(70) } sort keys %$types;

	@others = ('v') unless @others || !$types->{v};
	return { (map { $_ => $random{ $types->{$_} }->() } @{ $tables{$t}{key} }), map { $_ => random_value($types->{$_}) } @others };
}

# Rows with the same columns and different keys.
sub random_rows
{
	my ($t, $count) = @_;
	my $types = $tables{$t}{columns};
	my $first = random_row($t);
	my %rows = ();

	for my $row ($first, map { my %r = map { $_ => is_key($t, $_) ? $random{ $types->{$_} }->() : random_value($types->{$_}) } keys %$first; \%r } 2 .. $count)
	{
		my $key = join '|', @{ $tables{$t}{key} } ? (map { $row->{$_} } @{ $tables{$t}{key} }) : scalar keys %rows;
		$rows{$key} = $row;
	}
	return @rows{ sort keys %rows };
}

# A key as a user writes it for bemi.history().
sub random_key
{
	my ($t) = @_;
	my @key = @{ $tables{$t}{key} };
	my %values = map { $_ => $random{ $tables{$t}{columns}{$_} }->() } @key;

	return $values{ $key[0] } if @key == 1;
	return '{' . join(', ', map { "\"$_\": $values{$_}" } @key) . '}';
}

sub values_list
{
	my (@rows) = @_;
	my @columns = sort keys %{ $rows[0] };

	return join ', ', map { my $r = $_; '(' . join(', ', map { quoted($r->{$_}) } @columns) . ')' } @rows;
}

sub column_list { my (@rows) = @_; return join ', ', sort keys %{ $rows[0] }; }

# Some of the rows.
sub condition
{
	my ($t) = @_;
	my @key = @{ $tables{$t}{key} };
	my $type = $tables{$t}{columns}{ $key[0] // 'v' };
	my $values = join ', ', map { quoted($random{$type}->()) } 0 .. roll(5);

	return 'k % ' . (2 + roll(6)) . ' = 0' if @key && chance(30);
	return ($key[0] // 'v') . " IN ($values)";
}

#
# Statements; "<table>" stands for the name
#

sub insert
{
	my ($t) = @_;
	my @rows = random_rows($t, 1 + roll(5));

	return 'INSERT INTO <table> (' . column_list(@rows) . ') VALUES ' . values_list(@rows) . (chance(70) && !$tables{$t}{deferrable} ? ' ON CONFLICT DO NOTHING' : '');
}

sub upsert
{
	my ($t) = @_;
	my @rows = random_rows($t, 1 + roll(4));
	my @set = grep { !is_key($t, $_) } sort keys %{ $rows[0] };

	return insert($t) if !@set || !@{ $tables{$t}{key} } || $tables{$t}{deferrable};
	return
		'INSERT INTO <table> (' . column_list(@rows) . ') VALUES ' . values_list(@rows)
	  . ' ON CONFLICT (' . join(', ', @{ $tables{$t}{key} }) . ') DO UPDATE SET '
	  . join(', ', map { "$_ = excluded.$_" } @set);
}

sub update
{
	my ($t) = @_;
	my $types = $tables{$t}{columns};
	my @columns = grep { !is_key($t, $_) } sort keys %$types;
	my %set = map { $_ => 1 } map { pick(@columns) } 0 .. roll(3);

	return 'UPDATE <table> SET '
	  . join(', ', map { chance(15) ? "$_ = $_" : "$_ = " . quoted(random_value($types->{$_})) } sort keys %set)
	  . ' WHERE ' . condition($t);
}

sub delete_some { my ($t) = @_; return 'DELETE FROM <table> WHERE ' . condition($t); }

sub merge
{
	my ($t) = @_;
	my @key = @{ $tables{$t}{key} };
	my @rows = random_rows($t, 1 + roll(4));

	return upsert($t) if !$has_merge || !@key || !grep { $_ eq 'v' } keys %{ $rows[0] };
	my $columns = column_list(@rows);
	my $source = quoted($json->encode([ map { my $r = $_; +{ map { (s/"//gr => $r->{$_}) } keys %$r } } @rows ]));

	return "MERGE INTO <table> t USING json_populate_recordset(NULL::<table>, $source) s"
	  . ' ON ' . join(' AND ', map { "t.$_ = s.$_" } @key)
	  . ' WHEN MATCHED AND t.k % 3 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET v = s.v'
	  . " WHEN NOT MATCHED THEN INSERT ($columns) VALUES (" . join(', ', map { "s.$_" } sort keys %{ $rows[0] }) . ')';
}

sub change_key
{
	my ($t) = @_;
	my @key = @{ $tables{$t}{key} } or return update($t);
	my $column = pick(@key);
	my $type = $tables{$t}{columns}{$column};
	my $from = quoted($random{$type}->());
	my $to = quoted($random{$type}->());

	return "UPDATE <table> SET $column = $to WHERE $column = $from" . (chance(50) ? " AND k % 2 = 0" : '');
}

# All keys of a table are shifted or swapped; for a deferrable key also by one statement.
sub swap_keys
{
	my ($t) = @_;
	my @key = @{ $tables{$t}{key} } or return update($t);
	my $column = $key[0];
	my $type = $tables{$t}{columns}{$column};
	my ($a, $b) = map { quoted($random{$type}->()) } 1, 2;

	return pick('UPDATE <table> SET id = id + 1 WHERE id < 30', "UPDATE <table> SET id = CASE id WHEN $a THEN $b ELSE $a END WHERE id IN ($a, $b)")
	  if $tables{$t}{deferrable} && chance(80);
	return "UPDATE <table> SET $column = -id WHERE id IN ($a, $b)" if $type eq 'int' && chance(20) && @key == 1;
	my $free = { int => '1000', smallint => '1000', word => q{'free'}, uuid => q{'00000000-0000-4000-8000-ffffffffffff'}, scaled => '1000' }->{$type}
	  or return change_key($t);
	return "UPDATE <table> SET $column = $free WHERE $column = $a; UPDATE <table> SET $column = $a WHERE $column = $b;"
	  . " UPDATE <table> SET $column = $b WHERE $column = $free";
}

sub truncate_table { my ($t) = @_; return 'TRUNCATE <table>' . ($tables{loose} && chance(20) ? ', live.loose' : ''); }

sub touch_added
{
	my ($t) = @_;

	return "UPDATE <table> SET x" . (1 + roll(3)) . ' = ' . quoted(pick(undef, '12', '13')) . ' WHERE ' . condition($t);
}

my @kinds = (
	(\&insert) x 7, (\&upsert) x 4, (\&update) x 9, (\&delete_some) x 3, (\&merge) x 3, (\&change_key) x 3, (\&swap_keys) x 2, \&touch_added);

sub any_table { return pick(sort(keys %tables), @often); }

# Lines of a script.
sub statement
{
	my $t = any_table();
	my $sql = chance(0.8) ? truncate_table($t) : pick(@kinds)->($t);

	return copy_from($t) if chance(6);
	return change_table() if chance(3);
	return "SELECT oracle.run(\$n\$$t\$n\$, \$q\$$sql\$q\$);\n" if chance(40);
	return $sql =~ s/<table>/qualified($t)/ger . ";\n";
}

sub copy_from
{
	my ($t) = @_;
	my @rows = random_rows($t, 1 + roll(3));
	my @columns = sort keys %{ $rows[0] };

	return "COPY " . qualified($t) . " (" . column_list(@rows) . ") FROM STDIN;\n"
	  . join('', map { my $r = $_; join("\t", map { copied($r->{$_}) } @columns) . "\n" } @rows) . "\\.\n";
}

our @ddl = (
	sub { my $x = 'x' . (1 + roll(3)); return "ALTER TABLE <table> ADD COLUMN $x " . pick('int', 'text', q{int DEFAULT 7}, q{text DEFAULT 'new'}) },
	sub { my $x = 'x' . (1 + roll(3)); return "ALTER TABLE <table> DROP COLUMN $x" },
	sub { return 'ALTER TABLE <table> RENAME x' . (1 + roll(3)) . ' TO x' . (1 + roll(3)) },
	sub { return 'ALTER TABLE <table> RENAME v TO v_gone; ALTER TABLE <table> RENAME v_gone TO v' },
	sub { my $x = 'x' . (1 + roll(3)); return "ALTER TABLE <table> ALTER COLUMN $x TYPE text" });

# A table gets another name and, later, its own back. Or two tables swap their names.
sub rename_table
{
	my $t = pick('word', 'line', 'event');

	return "SELECT oracle.ddl('$t', 'ALTER TABLE <table> RENAME TO ${t}_2');\n" if chance(20);
	return "SELECT oracle.ddl('$t', 'ALTER TABLE <table> RENAME TO $t');\n" if chance(60);
	return "SELECT oracle.ddl('rate', 'LOCK TABLE live.rate, live.seat IN ACCESS EXCLUSIVE MODE; ALTER TABLE live.rate RENAME TO aside; ALTER TABLE live.seat RENAME TO rate; ALTER TABLE live.aside RENAME TO seat'), oracle.ddl('seat', 'SELECT');\n";
}

# Rows come and go with a partition. A new partition must not have rows in the default one.
sub change_partitions
{
	return "SELECT oracle.ddl('event', '" . pick(
		'ALTER TABLE <table> DETACH PARTITION live.event_1',
		'DROP TABLE live.event_1',
		('DELETE FROM <table> WHERE region = 1; ALTER TABLE <table> ATTACH PARTITION live.event_1 FOR VALUES IN (1)') x 2,
		('DELETE FROM <table> WHERE region = 1; CREATE TABLE live.event_1 PARTITION OF <table> FOR VALUES IN (1)') x 2) . "');\n";
}

sub change_table
{
	return rename_table() if $renames_tables && chance(25);
	return pick(@other_commands)->() if !@altered || chance(8);

	my $t = pick(@altered);

	return "SELECT oracle.ddl(\$n\$$t\$n\$, \$q\$" . pick(@ddl)->() . "\$q\$);\n";
}

sub random_context
{
	my $local = pick('true', 'true', 'false');

	return '' if chance(30);
	return "SELECT bemi.set_context(NULL, $local);\n" if chance(15);
	return "SELECT bemi.set_context(jsonb_build_object('userId', " . roll(4) . ", 'filling', repeat('y', 3000)), $local);\n" if chance(4);
	return "SELECT bemi.set_context('{\"userId\": " . roll(4) . ', "request": "' . roll(1000) . "\"}', $local);\n";
}

# Statements, some of them in savepoints, and in savepoints of savepoints.
sub random_transaction
{
	my $sql = "BEGIN;\nSELECT pg_advisory_xact_lock_shared(42);\n" . random_context();
	my @savepoints;

	for (0 .. roll(7))
	{
		if (chance(25))
		{
			push @savepoints, 's' . scalar @savepoints;
			$sql .= "SAVEPOINT $savepoints[-1];\n";
		}
		$sql .= random_context() if chance(20);
		$sql .= statement();
		next unless @savepoints && chance(40);
		my $savepoint = pick(@savepoints);
		my $end = pick('ROLLBACK TO', 'RELEASE');
		$sql .= "$end $savepoint;\n";
		pop @savepoints while @savepoints && ($savepoints[-1] cmp $savepoint) >= ($end eq 'RELEASE' ? 0 : 1);
	}
	# A moment in which the others write, too.
	return $sql . pick(('COMMIT') x 9, 'ROLLBACK') . ";\nSELECT pg_sleep(0.004);\n";
}

#
# Sessions
#

my %sessions;
my $scripts = 0;
my %errors;

sub session_script
{
	my ($seed, $number) = @_;
	my ($sql) = seeded(sub { return join '', map { random_transaction() } 1 .. 8 }, $seed, $number);

	return "\\set ON_ERROR_ROLLBACK on\nSET lock_timeout = '10s';\n$sql";
}

sub is_running
{
	my ($session) = @_;

	# It dies if psql ends meanwhile.
	eval { $session->{run}->pump_nb for 1 .. 3 };
	return $session->{run}->pumpable;
}

# Counts the errors by their first words.
sub report
{
	my ($session) = @_;

	eval { $session->{run}->finish };
	$errors{$1}++ while $session->{out} =~ /ERROR:  (\S+ \S+ \S+)/g;
	return;
}

# Starts the sessions that have ended, each with the next script.
sub keep_writing
{
	my ($node, $seed, $count) = @_;

	for my $number (1 .. $count)
	{
		my $session = $sessions{$number};

		next if $session && is_running($session);
		report($session) if $session;
		$sessions{$number} = $session = { file => $node->basedir . "/writer$number.sql", out => '' };
		open(my $file, '>', $session->{file}) or die "$session->{file}: $!";
		print $file session_script($seed, ++$scripts);
		close $file;
		$session->{run} = IPC::Run::start(
			[ $node->installed_command('psql'), '-XAtq', '-d', $node->connstr('postgres'), '-f', $session->{file} ],
			'<', \undef, '>', \$session->{out}, '2>&1', IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	}
	return;
}

# Waits until the scripts that run have ended.
sub end_writing
{
	report($_) for values %sessions;
	%sessions = ();
	return;
}

sub written { return "$scripts scripts, with errors: " . join ', ', map { "$_ ($errors{$_})" } sort { $errors{$b} <=> $errors{$a} } keys %errors; }

1;
