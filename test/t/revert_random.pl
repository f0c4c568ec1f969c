# bemi.revert() takes back what it was asked for, and nothing else, whatever the changes were.
#
# Three parts, all random:
#
# 1. Any statements on tables with foreign keys of all kinds, keys that change, partitions, unique
#    values and a table without a key. After each transaction, it is taken back, which must restore
#    the former contents, and the revert is taken back, which must bring it again. A plan must change
#    nothing, and an error in the middle must leave nothing.
# 2. Requests of several users that set columns of the same rows. The expected contents are known
#    without the history: they are those of a replay without the request (mode skip), with the
#    values before it (mode force), or with those before it and all that built on it (mode cascade).
#    The order in which changes are named must make no difference.
# 3. Transactions of two users with any statements. Taking back both must restore the former contents.
#    Taking back one of them, in any mode, must lead to exactly the contents that the plan has announced.
#    The rows that it may touch are those that differed before and after his transactions.
#
# The seed is printed, and BEMI_SEED repeats a run. After BEMI_SECONDS, no more rounds begin.

use strict;
use warnings;

use Bemi;
use Bemi::Session;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{BEMI_SEED} // time;
my $rounds = $ENV{BEMI_TRANSACTIONS} // 60;
my $seconds = $ENV{BEMI_SECONDS} // 20;

srand($seed);
note "seed $seed (BEMI_SEED=$seed repeats it), $rounds transactions (BEMI_TRANSACTIONS)";

my $node = bemi_node('main');
my $session;
my @log;

sub dice { return int(rand($_[0])) }
sub pick { return $_[ dice(scalar @_) ] }

# Runs SQL and fails the test with its seed if it has an error, unless that is expected.
sub sql
{
	my ($sql, %params) = @_;
	my $output = $session->query($sql);

	push @log, $sql;
	die "seed $seed: $output\nafter:\n" . join(";\n", @log[ ($#log > 12 ? $#log - 12 : 0) .. $#log ]) . "\n"
	  if $output =~ /ERROR/ && !$params{may_fail};
	return $output;
}

sub setup
{
	$session = Bemi::Session->new($node);
	sql(q{
		SET client_min_messages = error;
		CREATE TABLE parent (id integer PRIMARY KEY, code text UNIQUE, n integer);
		CREATE TABLE child (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text,
			parent integer REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE,
			twice text GENERATED ALWAYS AS (v || v) STORED);
		CREATE TABLE watcher (person text, parent integer REFERENCES parent ON DELETE SET NULL ON UPDATE CASCADE, PRIMARY KEY (person));
		CREATE TABLE part (day integer, n integer, v numeric, PRIMARY KEY (day, n)) PARTITION BY RANGE (day);
		CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (5);
		CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (5) TO (10);
		CREATE TABLE bag (a integer, b text);
		CREATE TABLE boom (id integer);
		CREATE FUNCTION explode() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF random() < 0.3 THEN RAISE 'boom'; END IF; RETURN NULL; END $$;
		CREATE TRIGGER explodes AFTER INSERT OR UPDATE OR DELETE ON parent FOR EACH ROW EXECUTE FUNCTION explode();
		CREATE TRIGGER explodes AFTER INSERT OR UPDATE OR DELETE ON bag FOR EACH ROW EXECUTE FUNCTION explode();
		ALTER TABLE parent DISABLE TRIGGER explodes;
		ALTER TABLE bag DISABLE TRIGGER explodes;
		SELECT bemi.track(t) FROM unnest('{parent,child,watcher,part,bag}'::regclass[]) t;
		CREATE FUNCTION state() RETURNS text LANGUAGE sql AS $$
			SELECT md5(string_agg(r, E'\n' ORDER BY r COLLATE "C")) FROM (
				SELECT 'parent' || t FROM parent t UNION ALL SELECT 'child' || t FROM child t
				UNION ALL SELECT 'watcher' || t FROM watcher t UNION ALL SELECT 'part' || t FROM part t
				UNION ALL SELECT 'bag' || t FROM bag t) s(r) $$;
		CREATE FUNCTION contents() RETURNS TABLE (name text, key text, image jsonb) LANGUAGE sql AS $$
			SELECT 'public.parent', id::text, to_jsonb(t) FROM parent t UNION ALL SELECT 'public.child', id::text, to_jsonb(t) - 'twice' FROM child t
			UNION ALL SELECT 'public.watcher', person, to_jsonb(t) FROM watcher t
			UNION ALL SELECT 'public.part', jsonb_build_array(day::text, n::text)::text, to_jsonb(t) FROM part t
			UNION ALL SELECT 'public.bag', to_jsonb(t)::text, to_jsonb(t) FROM bag t $$;
		CREATE FUNCTION last_change() RETURNS uuid LANGUAGE sql AS $$
			SELECT id FROM bemi.changes ORDER BY id DESC LIMIT 1 $$;
		INSERT INTO parent SELECT i, 'c' || i, i FROM generate_series(1, 6) i;
		INSERT INTO child (v, parent) SELECT 'v' || i, 1 + i % 6 FROM generate_series(1, 12) i;
		INSERT INTO watcher SELECT 'p' || i, 1 + i % 6 FROM generate_series(1, 6) i;
		INSERT INTO part SELECT i % 10, i, i * 1.50 FROM generate_series(1, 20) i;
		INSERT INTO bag SELECT i, 'b' || i FROM generate_series(1, 6) i});
	return;
}

sub random_statement
{
	my $id = 1 + dice(9);
	my $value = "'w" . dice(1000) . "'";

	return pick(
		"UPDATE parent SET n = n + 1 WHERE id % 2 = " . dice(2),
		"UPDATE parent SET code = code || $value WHERE id = $id",
		"UPDATE parent SET id = id + 10 WHERE id = $id AND NOT EXISTS (SELECT FROM parent p WHERE p.id = $id + 10)",
		"UPDATE parent SET id = id - 10 WHERE id = $id + 10 AND NOT EXISTS (SELECT FROM parent p WHERE p.id = $id)",
		"DELETE FROM parent WHERE id = $id",
		"INSERT INTO parent VALUES ($id, 'c' || $id, 0) ON CONFLICT DO NOTHING",
		"INSERT INTO child (v, parent) SELECT $value, id FROM parent ORDER BY random() LIMIT 2",
		"UPDATE child SET v = $value WHERE id % 3 = " . dice(3),
		"UPDATE child SET parent = (SELECT max(id) FROM parent) WHERE id % 4 = " . dice(4),
		"DELETE FROM child WHERE id % 5 = " . dice(5),
		"INSERT INTO watcher VALUES ('p$id', (SELECT min(id) FROM parent)) ON CONFLICT (person) DO UPDATE SET parent = EXCLUDED.parent",
		"DELETE FROM watcher WHERE person = 'p$id'",
		"UPDATE part SET v = v + 0.50 WHERE n % 4 = " . dice(4),
		"UPDATE part SET day = (day + 5) % 10 WHERE n % 7 = " . dice(7),
		"DELETE FROM part WHERE n % 9 = " . dice(9),
		"INSERT INTO part SELECT $id, 1 + max(n), 1 FROM part",
		"UPDATE bag SET b = b || $value WHERE a = $id",
		"DELETE FROM bag WHERE a = $id",
		"INSERT INTO bag SELECT 1 + coalesce(max(a), 0), $value FROM bag");
}

# ------------------------------------------------------------------ any statements

# Rows that a revert has written, and the transaction had not.
sub touched_besides
{
	my ($number) = @_;
	my $rows = q{SELECT "table", unnest(ARRAY[primary_key, CASE WHEN "table" = 'part' THEN format('{"n": %s, "day": %s}', before -> 'n', before -> 'day') ELSE before ->> 'id' END]) FROM bemi.changes WHERE "table" <> 'bag' AND context @> };

	return qq{SELECT bemi.sync(); SELECT * FROM (SELECT DISTINCT "table", primary_key FROM bemi.changes WHERE "table" <> 'bag' AND context \@> '{"undo": $number}' EXCEPT $rows '{"tx": $number}') t};
}

sub check_transaction
{
	my ($number) = @_;
	my $before = sql('SELECT state()');
	my @statements = map { random_statement() } 0 .. dice(6);

	sql("SET bemi.context = '{\"tx\": $number}'");
	sql('BEGIN; ' . join('; ', @statements) . '; COMMIT');
	my $after = sql('SELECT state()');
	sql("SET bemi.context = '{\"undo\": $number}'");

	my $plan = sql("SELECT coalesce(max(plan_hash), 'none'), count(*) FILTER (WHERE verdict = 'ok'), count(*) FILTER (WHERE verdict <> 'ok') FROM bemi.plan_revert(context => '{\"tx\": $number}')");
	my ($hash, $ok, $other) = split /\|/, $plan;
	return 0 if $ok == 0 && $other == 0;

	# Rows of the table without a key may be equal, and are refused then.
	return 0 if $other > 0 && sql("SELECT count(*) FROM bag") ne sql("SELECT count(*) FROM (SELECT DISTINCT a, b FROM bag) b");
	my $what = join("; ", @statements);
	is($other, 0, "nothing is in the way: $what") or diag("seed $seed\n" . sql("SELECT key, verdict, reason FROM bemi.plan_revert(context => '{\"tx\": $number}')"));
	return 0 if $other > 0;
	is(sql('SELECT state()'), $after, 'a plan changes nothing');

	sql('ALTER TABLE parent ENABLE TRIGGER explodes; ALTER TABLE bag ENABLE TRIGGER explodes');
	my $failed = sql("BEGIN; SAVEPOINT s; SELECT steps FROM bemi.revert(context => '{\"tx\": $number}')", may_fail => 1) =~ /boom/;
	sql('ROLLBACK TO s');
	is(sql('SELECT state(), bemi.current_context()'), "$after|{\"undo\": $number}", 'an error in the middle leaves nothing') if $failed;
	sql('ROLLBACK; ALTER TABLE parent DISABLE TRIGGER explodes; ALTER TABLE bag DISABLE TRIGGER explodes');

	sql("SELECT steps FROM bemi.revert(context => '{\"tx\": $number}', expect => '$hash')");
	is(sql('SELECT state()'), $before, "the former contents: $what") or diag("seed $seed");
	# Actions of foreign keys are changes of the transaction, too. The slots of bag are its rows.
	is(sql(touched_besides($number)), '', 'no other row is touched') or diag("seed $seed: $what");
	like(sql("SELECT bemi.revert(context => '{\"tx\": $number}')", may_fail => 1), qr/nothing left to take back/, 'it has been done')
	  if $ok > 0;
	sql("SET bemi.context = '{\"redo\": $number}'");
	sql("SELECT steps FROM bemi.revert(context => '{\"undo\": $number}')") if $before ne $after;
	is(sql('SELECT state()'), $after, "the revert is taken back: $what") or diag("seed $seed");
	is(sql("SELECT count(*) FROM bemi.transactions t WHERE t.contexts \@> ARRAY[jsonb_build_object('tx', $number)] AND cardinality(t.reverted_by) >= 1"), '1', 'bemi.transactions.reverted_by')
	  if $before ne $after && $number % 10 == 0;
	return 1;
}

# ------------------------------------------------------------------ any statements of two users

# A transaction, and which rows it has touched.
sub write_as
{
	my ($number, $who) = @_;
	my @statements = map { random_statement() } 0 .. dice(4);

	sql("CREATE TEMP TABLE former AS SELECT * FROM contents()");
	sql("SET bemi.context = '{\"set\": $number, \"who\": \"$who\"}'");
	sql('BEGIN; ' . join('; ', @statements) . '; COMMIT');
	sql("SET bemi.context = '{\"by\": \"support\"}'");
	sql(qq{INSERT INTO touched SELECT '$who', name, key FROM (
			(TABLE former EXCEPT ALL SELECT * FROM contents()) UNION ALL (SELECT * FROM contents() EXCEPT ALL TABLE former)) t;
		DROP TABLE former});
	return;
}

# The contents if the steps of the plan are carried out, and nothing else. Rows that refer to a key follow it
# (ON UPDATE CASCADE).
my $announced = q{
	SELECT r.name, r.image || CASE WHEN m.key IS NULL THEN '{}' ELSE jsonb_build_object('parent', m.value_after -> 'id') END AS image FROM (
		SELECT n.name, n.image, false AS refers FROM present n WHERE NOT EXISTS (SELECT FROM plan p WHERE p.verdict = 'ok' AND (p.table_name, p.key) = (n.name, n.key))
		UNION ALL SELECT p.table_name, coalesce(n.image, '{}') || p.value_after, p.value_after ? 'parent'
			FROM plan p LEFT JOIN present n ON (p.table_name, p.key) = (n.name, n.key) WHERE p.verdict = 'ok' AND p.columns IS NOT NULL) r
		LEFT JOIN plan m ON m.verdict = 'ok' AND m.table_name = 'public.parent' AND m.value_after ? 'id'
			AND r.name IN ('public.child', 'public.watcher') AND NOT r.refers AND m.value_now -> 'id' = r.image -> 'parent'};

# Rows as text, of which some are in one query only.
sub difference
{
	my ($expected, $found) = @_;
	my ($x, $f) = map { "SELECT name, image::text FROM ($_) q" } $expected, $found;

	return "(SELECT 'announced', * FROM ($x EXCEPT ALL $f) x UNION ALL SELECT 'found', * FROM ($f EXCEPT ALL $x) f)";
}

sub check_mode
{
	my ($number, $who, $mode) = @_;
	my $what = "context => '{\"set\": $number, \"who\": \"$who\"}', mode => '$mode'";

	sql('BEGIN; CREATE TEMP TABLE present ON COMMIT DROP AS SELECT * FROM contents()');
	sql("CREATE TEMP TABLE plan ON COMMIT DROP AS SELECT * FROM bemi.plan_revert($what)");
	is(sql("SELECT table_name, key FROM plan WHERE verdict = 'ok' EXCEPT SELECT name, key FROM touched WHERE who = '$who'"), '', "$mode: only rows that he touched")
	  or diag("seed $seed, set $number")
	  if $mode ne 'cascade';
	sql('SAVEPOINT s');
	my $result = sql("SELECT bemi.revert($what, expect => (SELECT max(plan_hash) FROM plan))", may_fail => 1);
	if ($result =~ /ERROR/)
	{
		my $is_refused = like($result, qr/nothing left to take back|there are no such changes|because of conflicts/, "$mode: it is refused");
		sql('ROLLBACK TO s');
		diag("seed $seed, set $number: " . sql('SELECT step, statement, key, columns, value_now, value_after, verdict, reason FROM plan')) unless $is_refused;
		is(sql('SELECT * FROM ' . difference('SELECT name, image FROM present', 'SELECT * FROM contents()') . ' d'), '', "$mode: an error leaves nothing");
		is(sql('SELECT bemi.current_context()'), '{"by": "support"}', 'nor a context');
	}
	else
	{
		is(sql('SELECT * FROM ' . difference($announced, 'SELECT * FROM contents()') . ' d'), '', "$mode: the contents are as announced")
		  or diag("seed $seed, set $number: " . sql('SELECT step, statement, key, columns, value_now, value_after, verdict, reason FROM plan'));
	}
	sql('ROLLBACK');
	return;
}

# Rows of the table without a key may be equal, and are refused then.
sub check_set
{
	my ($number) = @_;
	my $before = sql('SELECT state()');

	sql('TRUNCATE touched');
	write_as($number, pick('a', 'b')) for 0 .. 2 + dice(3);
	my $all = "context => '{\"set\": $number}'";
	my $ids = sql("SELECT bemi.sync(); SELECT string_agg(quote_literal(id), ',' ORDER BY random()) FROM bemi.changes WHERE context \@> '{\"set\": $number}'");
	$ids =~ s/^\s+//;
	return if $ids eq '';
	my $after = sql('SELECT state()');
	my $hash = sql("SELECT max(plan_hash) FROM bemi.plan_revert($all)");
	is(sql("SELECT max(plan_hash) FROM bemi.plan_revert(changes => ARRAY[$ids]::uuid[])"), $hash, 'the order in which changes are named makes no difference');
	my $refused = sql("SELECT reason FROM bemi.plan_revert($all) WHERE verdict <> 'ok' AND reason <> 'row is not unique'");
	is($refused, '', 'nothing is in the way of both') or diag("seed $seed, set $number");
	if ($refused eq '' && sql("SELECT count(*) FROM bemi.plan_revert($all) WHERE verdict <> 'ok'") eq '0')
	{
		sql('BEGIN');
		sql("SELECT bemi.revert(changes => ARRAY[$ids]::uuid[], expect => '$hash')") if $before ne $after;
		is(sql('SELECT state()'), $before, 'the contents before both') or diag("seed $seed, set $number");
		sql('ROLLBACK');
	}
	foreach my $who ('a', 'b')
	{
		check_mode($number, $who, $_) foreach qw(refuse skip force cascade);
	}
	return;
}

# ------------------------------------------------------------------ requests on the same rows

my @columns = qw(a b c);

# Values of one row and column: [request, value], in the order of the writes, the first one of no request.
my %writes;

# All writes: [request, row, {column => value}].
my @updates;
my $next_value = 0;

sub write_values
{
	my ($request) = @_;
	my %set = map { $_ => ++$next_value } grep { dice(2) } @columns;
	my $row = 1 + dice(5);

	return unless %set;
	sql("SET bemi.context = '{\"request\": $request}'");
	sql("UPDATE grid SET " . join(', ', map { "$_ = $set{$_}" } sort keys %set) . " WHERE id = $row");
	push @{ $writes{"$row$_"} }, [ $request, $set{$_} ] foreach keys %set;
	push @updates, [ $request, $row, \%set ];
	return;
}

# The value that remains if the writes of a request had not been, and the one before its first write.
sub expected_value
{
	my ($mode, $request, @writes) = @_;
	my @others = grep { $_->[0] != $request } @writes;

	return $others[-1][1] if $mode eq 'skip';
	foreach my $i (0 .. $#writes)
	{
		return $writes[ $i - 1 ][1] if $writes[$i][0] == $request;
	}
	return $writes[-1][1];
}

# A later write of a column that is taken back is taken back with all of its columns.
sub cascaded_grid
{
	my ($request) = @_;
	my %value = map { $_ => $writes{$_}[0][1] } keys %writes;
	my %former;

	foreach my $update (@updates)
	{
		my ($by, $row, $set) = @$update;
		my $taken_back = $by == $request || grep { exists $former{"$row$_"} } keys %$set;

		foreach my $column (keys %$set)
		{
			$former{"$row$column"} //= $value{"$row$column"} if $taken_back;
			$value{"$row$column"} = $set->{$column};
		}
	}
	%value = (%value, %former);
	return join("\n", map { my $row = $_; join('|', $row, map { $value{"$row$_"} } @columns) } 1 .. 5);
}

sub expected_grid
{
	my ($mode, $request) = @_;

	return cascaded_grid($request) if $mode eq 'cascade';
	return join("\n", map { my $row = $_; join('|', $row, map { expected_value($mode, $request, @{ $writes{"$row$_"} }) } @columns) } 1 .. 5);
}

# Whether a later write of others is in the way.
sub has_conflict
{
	my ($request) = @_;

	foreach my $writes (values %writes)
	{
		my $seen = 0;
		foreach my $write (@$writes)
		{
			return 1 if $seen && $write->[0] != $request;
			$seen ||= $write->[0] == $request;
		}
	}
	return 0;
}

sub check_requests
{
	my ($round) = @_;
	my @requests = map { 10 * $round + $_ } 1 .. 3;

	%writes = ();
	@updates = ();
	sql('RESET bemi.context');
	sql('DELETE FROM grid');
	foreach my $row (1 .. 5)
	{
		my @values = map { ++$next_value } @columns;
		sql("INSERT INTO grid VALUES ($row, " . join(', ', @values) . ')');
		$writes{"$row$columns[$_]"} = [ [ 0, $values[$_] ] ] foreach 0 .. $#columns;
	}
	# With known numbers of rows, bemi.revert() may read tables completely.
	sql('ANALYZE grid') if dice(2);
	write_values(pick(@requests)) foreach 0 .. dice(15);
	sql("SET bemi.context = '{\"by\": \"support\"}'");

	foreach my $request (@requests)
	{
		my $context = "'{\"request\": $request}'";
		my $ids = sql("SELECT bemi.sync(); SELECT string_agg(quote_literal(id), ',' ORDER BY random()) FROM bemi.changes WHERE context \@> $context");
		$ids =~ s/^\s+//;
		next if $ids eq '';
		my $hash = sql("SELECT max(plan_hash) FROM bemi.plan_revert(context => $context)");
		is(sql("SELECT max(plan_hash) FROM bemi.plan_revert(changes => ARRAY[$ids]::uuid[])"), $hash, 'the order in which changes are named makes no difference');
		is(sql("SELECT count(*) > 0 FROM bemi.plan_revert(context => $context) WHERE verdict = 'conflict'"), has_conflict($request) ? 't' : 'f', 'conflicts are found')
		  or diag("seed $seed");
		foreach my $mode (qw(skip force cascade))
		{
			sql('BEGIN');
			sql("CREATE TEMP TABLE announced ON COMMIT DROP AS SELECT key, value_after FROM bemi.plan_revert(context => $context, mode => '$mode') WHERE verdict = 'ok'");
			sql("SELECT bemi.revert(context => $context, mode => '$mode')", may_fail => 1);
			is(sql('SELECT * FROM grid ORDER BY id'), expected_grid($mode, $request), "mode $mode") or diag("seed $seed, request $request");
			is(sql("SELECT count(*) FROM announced p JOIN grid g ON g.id::text = p.key WHERE NOT to_jsonb(g) \@> p.value_after"), '0', 'the contents are as announced');
			sql('ROLLBACK');
		}
	}
	return;
}

setup();
sql('SELECT setseed(' . ($seed % 1000) / 1000 . ')');
sql('CALL bemi.start()');
sql('CREATE TABLE grid (id integer PRIMARY KEY, a integer, b integer, c integer)');
sql("SELECT bemi.track('grid')");
sql('CREATE TABLE touched (who text, name text, key text)');

# Turn by turn, so that a slow machine leaves out some of each part.
my $end = time + $seconds;
my ($done, $checked) = (0, 0);
for my $round (1 .. $rounds / 10)
{
	last if $done && time > $end;
	for my $number (map { 10 * $round + $_ } 1 .. 10)
	{
		last if $number % 10 > 4 && time > $end;
		$checked += check_transaction($number);
		$done++;
	}
	check_requests($round);
	check_set($round);
}
note "$done transactions, of which $checked changed something";
# Of few, by chance only some.
cmp_ok($checked, '>', $done < 30 ? 0 : $done / 4, 'transactions changed something');
$session->quit;
$node->stop;
done_testing();
