# A session can last for months, so nothing that bemi allocates for a statement, a message or a
# savepoint may outlive it.
#
# The server reports the size of its memory contexts, and the kernel the memory of the process
# (the value of a setting is in no context). Each kind of work is done twice in new sessions, on a
# tracked and on an untracked table. A little of the same work fills the caches first. The growth
# with the tracked table, less the growth with the other one, must be below 10 bytes for each
# statement or savepoint.

use strict;
use warnings;

use Bemi;
use List::Util 'max';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# The WAL grows fast, and no worker reads it.
my $node = bemi_node('main', conf => <<~CONF);
	max_wal_size = 2GB
	wal_buffers = 16MB
	autovacuum = off
	statement_timeout = 180s
	CONF

my @columns = ('used', 'total', 'top', 'transaction', 'cache', 'process');

$node->safe_psql(
	'postgres', q{
	CREATE VIEW memory AS
		SELECT sum(used_bytes) AS used, sum(total_bytes) AS total,
			sum(used_bytes) FILTER (WHERE name = 'TopMemoryContext') AS top,
			coalesce(sum(used_bytes) FILTER (WHERE name = 'TopTransactionContext'), 0) AS transaction,
			sum(used_bytes) FILTER (WHERE name = 'CacheMemoryContext') AS cache,
			1024 * coalesce(substring(pg_read_file('/proc/self/status', 0, 100000, true) FROM 'RssAnon:\s*(\d+)')::bigint, 0) AS process
		FROM pg_backend_memory_contexts});

for my $table ('tracked', 'untracked')
{
	$node->safe_psql(
		'postgres', qq{
		CREATE TABLE $table (id int PRIMARY KEY, v int);
		CREATE SCHEMA on_$table;

		-- Four statements in each turn. One of them changes no row.
		CREATE PROCEDURE on_$table.write_rows(turns int) LANGUAGE plpgsql AS \$\$
			BEGIN
				FOR i IN 1 .. turns LOOP
					IF i % 2 = 0 THEN
						PERFORM bemi.set_context(jsonb_build_object('turn', i, 'text', repeat('x', i % 200)));
					ELSE
						PERFORM set_config('bemi.context', '{"turn": 0}', i % 3 = 0);
					END IF;
					INSERT INTO $table VALUES (i, i);
					UPDATE $table SET v = v + 1 WHERE id = i;
					UPDATE $table SET v = v + 1 WHERE id = -i;
					DELETE FROM $table WHERE id = i;
					IF i % 100 = 0 THEN
						COMMIT;
					END IF;
				END LOOP;
			END \$\$;

		CREATE PROCEDURE on_$table.use_savepoints(savepoints int, fail boolean) LANGUAGE plpgsql AS \$\$
			BEGIN
				FOR i IN 1 .. savepoints LOOP
					BEGIN
						PERFORM bemi.set_context(jsonb_build_object('savepoint', i % 10));
						INSERT INTO $table VALUES (i, i);
						IF fail THEN
							RAISE division_by_zero;
						END IF;
					EXCEPTION WHEN division_by_zero THEN
					END;
				END LOOP;
			END \$\$;

		-- Each statement fails when it has written two rows.
		CREATE PROCEDURE on_$table.fail_midway(statements int) LANGUAGE plpgsql AS \$\$
			BEGIN
				FOR i IN 1 .. statements LOOP
					BEGIN
						INSERT INTO $table SELECT n, 1 / (3 - n) FROM generate_series(1, 4) n;
					EXCEPTION WHEN division_by_zero THEN
					END;
				END LOOP;
			END \$\$;

		-- Leaves cursors open, on statements that write.
		CREATE PROCEDURE on_$table.open_cursors(cursors int) LANGUAGE plpgsql AS \$\$
			DECLARE
				c refcursor;
				found int;
			BEGIN
				FOR i IN 1 .. cursors LOOP
					c := NULL;
					OPEN c FOR WITH w AS (INSERT INTO $table VALUES (i, i) RETURNING id) SELECT id FROM w;
					FETCH c INTO found;
					IF found IS DISTINCT FROM i THEN
						RAISE EXCEPTION 'cursor % fetched %', i, found;
					END IF;
				END LOOP;
			END \$\$;

		-- Writes when the client's statement has ended.
		CREATE TABLE on_$table.late (id int);
		CREATE FUNCTION on_$table.write_late() RETURNS trigger LANGUAGE plpgsql AS \$\$
			BEGIN
				INSERT INTO $table VALUES (NEW.id, 0);
				RETURN NULL;
			END \$\$;
		CREATE CONSTRAINT TRIGGER write_late AFTER INSERT ON on_$table.late DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW EXECUTE FUNCTION on_$table.write_late();

		-- Statements within statements.
		CREATE FUNCTION on_$table.nest(depth int, base int) RETURNS int LANGUAGE plpgsql AS \$\$
			BEGIN
				IF depth > 0 THEN
					PERFORM bemi.set_context(jsonb_build_object('depth', depth));
					INSERT INTO $table VALUES (base + depth, on_$table.nest(depth - 1, base));
				END IF;
				RETURN depth;
			END \$\$;
		CREATE PROCEDURE on_$table.nest_often(times int) LANGUAGE plpgsql AS \$\$
			BEGIN
				FOR i IN 1 .. times LOOP
					PERFORM on_$table.nest(50, 100 * i);
				END LOOP;
			END \$\$});
}

# PostgreSQL itself keeps 8 kB for each released savepoint in which a statement
# trigger was fired, until the transaction ends.  So the other table has one, too.
$node->safe_psql(
	'postgres', q{
	SELECT bemi.track('tracked');
	CREATE FUNCTION do_nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
	CREATE TRIGGER do_nothing BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON untracked
		FOR EACH STATEMENT EXECUTE FUNCTION do_nothing()});

# How much a session grows by its work, by column of "memory".
sub growth
{
	my ($table, $few, $many) = @_;
	my ($before, $after) = (
		split /\n/,
		$node->safe_psql(
			'postgres',
			"SET search_path = on_$table, public; SET bemi.context = '{\"setting\": 1}';"
			  . " SELECT count(*) FROM memory \\g /dev/null\n"
			  . "$few; ROLLBACK; SELECT * FROM memory; $many"))[ 0, 1 ];
	my @before = split /\|/, $before;
	my @after = split /\|/, $after;

	return map { $after[$_] - $before[$_] } 0 .. $#columns;
}

# The growth of a session by the same work on a table that is tracked, and on one that is not.
sub both_growths
{
	my ($name, $few, $many) = @_;
	my @tracked = growth('tracked', $few =~ s/TABLE/tracked/gr, $many =~ s/TABLE/tracked/gr);
	my @untracked = growth('untracked', $few =~ s/TABLE/untracked/gr, $many =~ s/TABLE/untracked/gr);

	note "$name: bytes of growth: "
	  . join(', ', map { "$columns[$_] $tracked[$_] (untracked $untracked[$_])" } 0 .. $#columns);
	return (\@tracked, \@untracked);
}

# What was freed stays with the process in pieces, in proportion to what it once had, and from half
# to twice as much in one session as in another. What leaks is there in each.
sub process_is_bounded
{
	my ($bound, $tracked, $untracked) = @_;

	return $tracked->[-1] - $untracked->[-1] < $bound + max(4 * 1024 * 1024, $untracked->[-1] / 2);
}

# $few and $many are SQL, with very different numbers of repetitions; $many reads the memory when it
# is done.  $count: statements or savepoints in $many.
sub check_memory
{
	my ($name, $count, $few, $many) = @_;
	my ($tracked, $untracked) = both_growths($name, $few, $many);
	my %more = map { $columns[$_] => $tracked->[$_] - $untracked->[$_] } 0 .. $#columns;
	my $bound = 10 * $count;
	my $is_bounded = process_is_bounded($bound, $tracked, $untracked);

	cmp_ok($more{$_}, '<', $bound, "$name: $_")
	  for grep { $_ ne 'total' && $_ ne 'process' } @columns;

	# Memory comes in blocks, so somewhat more may be had than is used.
	cmp_ok($more{total}, '<', $bound + 4 * 1024 * 1024, "$name: total");
	for (my $session = 2; $session <= 5 && !$is_bounded; $session++)
	{
		$is_bounded = process_is_bounded($bound, both_growths("$name, session $session", $few, $many));
	}
	ok($is_bounded, "$name: process");
	return;
}

check_memory('1000000 statements', 1_000_000,
	'CALL write_rows(3000)',
	'CALL write_rows(250000); SELECT * FROM memory');

# Within their transaction, which keeps messages in mind, not behind it.
check_memory('100000 savepoints, released',
	100_000,
	'BEGIN; CALL use_savepoints(1000, false)',
	'BEGIN; CALL use_savepoints(100000, false); SELECT * FROM memory; ROLLBACK');
check_memory('100000 savepoints, rolled back',
	100_000,
	'BEGIN; CALL use_savepoints(1000, true)',
	'BEGIN; CALL use_savepoints(100000, true); SELECT * FROM memory; ROLLBACK');
check_memory('100000 statements that fail',
	100_000,
	'BEGIN; CALL fail_midway(1000)',
	'BEGIN; CALL fail_midway(100000); SELECT * FROM memory; ROLLBACK');

# Nested: all of them open at once, and then ended by one command.
sub nested_savepoints
{
	my ($depth, $end) = @_;

	return join '', "BEGIN;\n",
	  "SAVEPOINT outermost;\n",
	  (map { "SAVEPOINT s; SET LOCAL bemi.context = '{\"depth\": $_}'; INSERT INTO TABLE VALUES ($_, $_);\n" }
		  1 .. $depth),
	  "$end outermost";
}

for my $end ('RELEASE', 'ROLLBACK TO')
{
	check_memory("4000 nested savepoints, $end",
		4000,
		nested_savepoints(100, $end),
		nested_savepoints(4000, $end) . '; SELECT * FROM memory; ROLLBACK');
}

# Deferred triggers have the comment of a statement whose text is kept, until another text takes its place.
sub late_writes
{
	my ($statements) = @_;
	my $comment = '/*Bemi {"body": "' . 'x' x 1000 . '"} Bemi*/';

	return "BEGIN;\n" . join '',
	  map { "INSERT INTO late VALUES ($_) $comment;\nSET CONSTRAINTS ALL IMMEDIATE;\nSET CONSTRAINTS ALL DEFERRED;\n" } 1 .. $statements;
}

check_memory('4000 comments for deferred triggers', 4000, late_writes(100),
	late_writes(4000) . 'SELECT * FROM memory; ROLLBACK');

check_memory('10000 open cursors', 10_000,
	'BEGIN; CALL open_cursors(10000)',
	'BEGIN; CALL open_cursors(10000); ROLLBACK; SELECT * FROM memory');
check_memory('500 times 50 nested statements',
	25_000,
	'BEGIN; CALL nest_often(20)',
	'BEGIN; CALL nest_often(500); SELECT * FROM memory; ROLLBACK');

$node->stop;
done_testing();
