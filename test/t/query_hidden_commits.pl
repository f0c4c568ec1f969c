# bemi.as_of() waits for a commit that is in the history, but that no query sees yet.
#
# A commit that waits for a synchronous standby is in the WAL, so the worker stores it. Snapshots see
# it only when the standby has answered. The standby of this test does not exist, and the test ends
# the wait by a cancel. This is the only way to make the moment between the two as long as needed.

use strict;
use warnings;

use Bemi;
use Bemi::Session;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main', conf => "max_prepared_transactions = 5\n");

sub sql { return $node->safe_psql('postgres', "SET synchronous_commit = local; $_[0]") }

# Returns the errors of statements.
sub error_of
{
	my ($status, $stdout, $stderr) = $node->psql('postgres', $_[0]);

	return $stderr;
}

sub now { return sql('SELECT clock_timestamp()') }

sub end_of_wal { return sql('SELECT pg_current_wal_insert_lsn()') }

# Waits until the commit of a session waits for the standby.
sub wait_until_hidden
{
	my ($session) = @_;

	$node->poll_query_until('postgres',
		'SELECT wait_event FROM pg_stat_activity WHERE pid = ' . $session->pid, 'SyncRep')
	  or die 'the commit does not wait';
	return;
}

# Ends this wait. The commit then becomes visible.
sub show
{
	my ($session) = @_;

	sql('SELECT pg_cancel_backend(' . $session->pid . ')');
	like($session->result, qr/canceling wait for synchronous replication/, 'the wait ends');
	return;
}

sql(<<~'SQL');
	CREATE TABLE t (id integer PRIMARY KEY, v integer);
	CREATE TABLE other (id integer PRIMARY KEY, v integer);
	CREATE TABLE parts (id integer PRIMARY KEY, v integer) PARTITION BY LIST (id);
	CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN (1);
	CREATE TABLE part_2 PARTITION OF parts FOR VALUES IN (2);
	CREATE TABLE bag (v integer);
	INSERT INTO bag VALUES (1), (1), (2);
	SELECT bemi.track('t'), bemi.track('other'), bemi.track('parts'), bemi.track('bag');
	CALL bemi.start();
	INSERT INTO t VALUES (1, 1), (2, 1), (3, 1);
	INSERT INTO other VALUES (1, 1);
	INSERT INTO parts VALUES (1, 1), (2, 1);
	SELECT bemi.sync();
	SQL
$node->append_conf('postgresql.conf', "synchronous_standby_names = 'nobody'");
$node->reload;
$node->poll_query_until('postgres', 'SHOW synchronous_standby_names', 'nobody') or die 'no standby is awaited';

my $earlier = now();
my $position = end_of_wal();
my $writer = Bemi::Session->new($node);
my $reader = Bemi::Session->new($node);
my $short = "timeout => '300 ms'";
my $error = qr/a commit takes too long.*waits for a synchronous standby.*HINT:  SELECT \* FROM pg_stat_activity/s;

# The commit belongs to the past.
$writer->send('UPDATE t SET v = 2 WHERE id < 3');
wait_until_hidden($writer);
my $at = now();
my $later_position = end_of_wal();
is(sql('SELECT sum(v) FROM t'), '3', 'a query does not see the commit');
like(error_of("SELECT * FROM bemi.as_of(NULL::t, '$at', $short)"), $error, 'as_of waits, and gives up');
like(error_of("SELECT * FROM bemi.row_as_of(NULL::t, '1', '$at', $short)"), $error, 'row_as_of');
like(error_of("SELECT * FROM bemi.as_of_json('t', '$at', $short)"), $error, 'as_of_json');
like(error_of("SELECT * FROM bemi.as_of(NULL::t, at_lsn => '$later_position', $short)"), $error, 'at a position');
like(error_of("SELECT * FROM bemi.versions(NULL::t, '$at', clock_timestamp(), $short)"), $error, 'versions since then');

# It does not.
is(sql("SELECT sum(v) FROM bemi.as_of(NULL::t, '$earlier', $short)"), '3', 'an earlier time');
is(sql("SELECT v FROM bemi.row_as_of(NULL::t, '1', '$earlier', $short)"), '1', 'a row of it');
is(sql("SELECT sum(v) FROM bemi.as_of(NULL::t, at_lsn => '$position', $short)"), '3', 'an earlier position');
is(sql("SELECT sum(v) FROM bemi.as_of(NULL::other, '$at', $short)"), '1', 'another table');
is( sql("SELECT kind, (before).v, (after).v FROM bemi.diff_table(NULL::t, '$earlier', '$at', $short) ORDER BY (after).id"),
	"UPDATE|1|2\nUPDATE|1|2",
	'diff_table has it from the history');

# In the middle of the hidden transaction.
my ($first, $second) = split /\n/, sql(q{SELECT id FROM bemi.changes WHERE "table" = 't' AND operation = 'UPDATE' ORDER BY id});
like(error_of("SELECT * FROM bemi.as_of(NULL::t, before => '$second', $short)"), $error, 'between two changes of it');

# The wait goes on until the commit is visible.
$reader->send("SELECT v, count(*) FROM bemi.as_of(NULL::t, '$at', timeout => NULL) GROUP BY v ORDER BY v");
$node->poll_query_until('postgres',
	'SELECT state = $$active$$ AND wait_event_type = $$Extension$$ FROM pg_stat_activity WHERE pid = ' . $reader->pid)
  or die 'the reader does not wait';
show($writer);
is($reader->result, "1|1\n2|2", 'as_of has the commit when it is visible');
is(sql("SELECT sum(v) FROM bemi.as_of(NULL::t, before => '$second', $short)"), '4', 'so has the place between two changes');
is(sql("SELECT sum(v) FROM bemi.as_of(NULL::t, before => '$first', $short)"), '3', 'the place before it');

# The wait can be cancelled.
$writer->send('BEGIN; SAVEPOINT a; UPDATE t SET v = 3; RELEASE a; COMMIT');
wait_until_hidden($writer);
$at = now();
like(error_of("SET statement_timeout = '200 ms'; SELECT * FROM bemi.as_of(NULL::t, '$at')"),
	qr/canceling statement due to statement timeout/, 'the wait for a change in a savepoint is cancelled');
show($writer);
is(sql("SELECT sum(v) FROM bemi.as_of(NULL::t, '$at', $short)"), '9', 'then it is there');

# A commit that has locked the table and changed nothing in it, or only in a savepoint that was undone. Both have
# changes of another table.
$writer->send('BEGIN; DELETE FROM t WHERE v = 77; UPDATE other SET v = 5; COMMIT');
wait_until_hidden($writer);
$at = now();
is(sql("SELECT sum(v) FROM bemi.as_of(NULL::t, '$at', $short)"), '9', 'a commit without a change of the table is not waited for');
like(error_of("SELECT * FROM bemi.as_of(NULL::other, '$at', $short)"), $error, 'one with a change is');
show($writer);
$writer->send('BEGIN; SAVEPOINT a; UPDATE t SET v = 77; ROLLBACK TO a; UPDATE other SET v = 6; COMMIT');
wait_until_hidden($writer);
$at = now();
is(sql("SELECT sum(v) FROM bemi.as_of(NULL::t, '$at', $short)"), '9', 'nor is one whose changes were undone');
show($writer);

# COMMIT PREPARED, in a partition.
$writer->query("BEGIN; UPDATE parts SET v = 2 WHERE id = 2");
$writer->send("PREPARE TRANSACTION 'p'");
wait_until_hidden($writer);
is(sql("SELECT sum(v) FROM bemi.as_of(NULL::parts, clock_timestamp(), $short)"), '2', 'PREPARE TRANSACTION commits nothing');
show($writer);
$writer->send("COMMIT PREPARED 'p'");
wait_until_hidden($writer);
$at = now();
like(error_of("SELECT * FROM bemi.as_of(NULL::parts, '$at', $short)"), $error, 'COMMIT PREPARED');
show($writer);
is(sql("SELECT sum(v) FROM bemi.as_of(NULL::parts, '$at', $short)"), '3', 'then it is there');

# Without a key, the changes that the table's snapshot sees count, and no others.
my $bag = "SELECT string_agg(v::text, ' ' ORDER BY v) FROM bemi.as_of(NULL::bag";
$earlier = now();
$position = end_of_wal();
sql('INSERT INTO bag VALUES (1)');
my $middle = now();
$writer->send('BEGIN; DELETE FROM bag WHERE ctid IN (SELECT ctid FROM bag WHERE v = 1 LIMIT 2); SAVEPOINT a; INSERT INTO bag VALUES (2), (3); RELEASE a; COMMIT');
wait_until_hidden($writer);
$at = now();
sql("INSERT INTO bag VALUES (3); UPDATE bag SET v = 4 WHERE v = 2");
is(sql("SELECT string_agg(v::text, ' ' ORDER BY v) FROM bag"), '1 1 1 3 4', 'a query does not see the commit');
is(sql("$bag, '$earlier', $short)"), '1 1 2', 'rows without a key at an earlier time');
is(sql("$bag, at_lsn => '$position', $short)"), '1 1 2', 'at an earlier position');
is(sql("$bag, '$middle', $short)"), '1 1 1 2', 'after a commit that is seen');
like(error_of("$bag, '$at', $short)"), $error, 'after the commit that is not');
is( sql("SELECT kind, coalesce((before).v, (after).v) FROM bemi.diff_table(NULL::bag, '$middle', '$at', $short) ORDER BY 1, 2"),
	"CREATE|2\nCREATE|3\nDELETE|1\nDELETE|1",
	'diff_table has it from the history');
show($writer);
is(sql("$bag, '$earlier', $short)"), '1 1 2', 'when it is visible, the earlier time is as before');
is(sql("$bag, '$at', $short)"), '1 2 2 3', 'and so the commit is part of the later one');

$writer->quit;
$reader->quit;
$node->stop;
done_testing();
