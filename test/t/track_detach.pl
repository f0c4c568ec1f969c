# A detached partition takes its rows away, also if DETACH is interrupted.
#
# DETACH PARTITION ... CONCURRENTLY commits in its middle. From then on the root lacks these rows,
# and the stream lacks their changes. Then it waits for all transactions that use the root. So a
# second session uses it here. While the command waits, it is cancelled, crashes or completes,
# rows of the partition change, and FINALIZE comes later. At each such moment the history must
# have a gap, and bemi.tracked must show a half detached partition. The same holds for a history
# on another server.

use strict;
use warnings;

use Bemi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Bemi::Session;
use Test::More;

my $node = bemi_node('main', conf => "autovacuum = off\n");

sub sql { return $node->safe_psql('postgres', $_[0]); }

sql(q{
	CREATE TABLE root (id int, v text) PARTITION BY RANGE (id);
	CREATE TABLE low PARTITION OF root FOR VALUES FROM (0) TO (1000) PARTITION BY RANGE (id);
	CREATE ROLE stranger LOGIN;
	CREATE DATABASE history;
	SELECT bemi.track('root')});
sql("CREATE TABLE p$_ PARTITION OF root FOR VALUES FROM (${_}000) TO (${_}999); INSERT INTO root VALUES (${_}000, 'v'), (${_}001, 'v')") for 1 .. 6;
sql(q{CREATE TABLE p7 PARTITION OF root FOR VALUES FROM (7000) TO (7999); CREATE TABLE low_1 PARTITION OF low FOR VALUES FROM (0) TO (10); INSERT INTO root VALUES (1, 'v')});
is(start_error($node), '', 'the source is started');
$node->safe_psql('history', 'CREATE EXTENSION bemi');
my $conninfo = $node->connstr('postgres') =~ s/'/''/gr;
is(start_error($node, "CALL bemi.start('reader', conninfo => '$conninfo')", 'history'), '', 'another elsewhere');

sub now { return sql('SELECT clock_timestamp()'); }

# What is wrong with the root's history between two times, '' if it is complete.
sub wrong
{
	my ($from, $to) = @_;

	sql(q{SELECT bemi.sync('60s')});
	return sql(qq{SELECT string_agg(concat_ws(': ', reason, detail), '; ' ORDER BY missing_from, detail)
		FROM bemi.source_completeness('main', 'public', 'root', '$from', '$to') WHERE NOT complete});
}

sub gap { return join '; ', map { "rows_changed_by_ddl: Partition public.$_." } @_; }

# Problems of all tables, except those of the detached partition.
sub problems
{
	return sql(q{SELECT string_agg("table" || ': ' || array_to_string(problems, ', '), '; ' ORDER BY "table"::text)
		FROM bemi.tracked WHERE problems <> '{}'});
}

sub pending
{
	my ($partition, $parent) = @_;
	$parent //= 'root';
	my $text = "partition public.$partition is half detached, its changes are not stored: ALTER TABLE public.$parent DETACH PARTITION public.$partition FINALIZE;";

	return join '; ', sort "$parent: $text", qq($partition: not in publication "bemi": changes are not stored, $text);
}

my $holder = Bemi::Session->new($node);

# Begins to detach a partition, and gives the session when it has come to its wait.
sub begin_detach
{
	my ($partition, $parent) = @_;
	$parent //= 'root';
	my $session = Bemi::Session->new($node);

	$holder->query("BEGIN; SELECT count(*) FROM $parent");
	$session->send("ALTER TABLE $parent DETACH PARTITION $partition CONCURRENTLY");
	$session->wait_until_it_waits;
	is(sql(qq{SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = '$partition'::regclass}), 't', "$partition is half detached");
	return $session;
}

#
# Between the two transactions
#

my $before = now();
my $session = begin_detach('p1');
my $between = now();
is(wrong($before, $between), gap('p1 was detached concurrently'), 'the first transaction makes a gap');
is(problems(), pending('p1'), 'bemi.tracked tells of it');
sql(q{UPDATE p1 SET v = 'w'; DELETE FROM p1 WHERE id = 1000; INSERT INTO root VALUES (2002, 'v')});
my $later = now();
is(wrong($between, $later), '', 'meanwhile the root goes on, and its history with it');
$holder->query('COMMIT');
is($session->result, '', 'the command ends');
is(wrong($later, now()), gap('p1 was detached with its rows'), 'the second transaction says it again');
is(problems(), '', 'nothing is wrong any more');
is(sql(q{SELECT relreplident FROM pg_class WHERE oid = 'p1'::regclass}), 'd', 'the partition is as it was');
is(changes($node, "primary_key = '' OR (after ->> 'id')::int BETWEEN 1000 AND 1999 AND operation <> 'CREATE'"), '', 'its changes are not in the history');

#
# Cancelled
#

$before = now();
$session = begin_detach('p2');
sql('SELECT pg_cancel_backend(' . $session->pid . ')');
like($session->result, qr/canceling statement due to user request/, 'the wait is cancelled');
$holder->query('COMMIT');
$between = now();
is(wrong($before, $between), gap('p2 was detached concurrently'), 'there is a gap all the same');
is(problems(), pending('p2'), 'and a problem');
sql(q{DELETE FROM p2});
like(start_error($node, 'ALTER TABLE root DETACH PARTITION p3 CONCURRENTLY'), qr/already pending detach/, 'another one waits for FINALIZE');
is(wrong($between, now()), '', 'and its message is taken back');
$before = now();
sql('ALTER TABLE root DETACH PARTITION p2 FINALIZE');
is(wrong($before, now()), gap('p2 was detached with its rows'), 'FINALIZE makes a gap, though no row is left');
is(problems(), '', 'nothing is wrong any more');

#
# A crash
#

$before = now();
$session = begin_detach('p3');
$node->stop('immediate');
$_->quit for $holder, $session;
$node->start;
$holder = Bemi::Session->new($node);
wait_for_state($node, 'streaming');
$between = now();
is(wrong($before, $between), gap('p3 was detached concurrently'), 'after a crash, there is a gap');
is(problems(), pending('p3'), 'and a problem');
sql(q{UPDATE p3 SET v = 'lost'; TRUNCATE p3});
$later = now();
is(wrong($between, $later), '', 'what happens to the partition is not of the root');
sql('ALTER TABLE root DETACH PARTITION p3 FINALIZE');
is(wrong($later, now()), '', 'an empty partition has nothing to take away');
is(problems(), '', 'nothing is wrong any more');

# Dropped instead of finalized.
$session = begin_detach('p4');
sql('SELECT pg_cancel_backend(' . $session->pid . ')');
$session->result;
$holder->query('COMMIT');
sql('DROP TABLE p4');
is(problems(), '', 'a partition that is half detached can be dropped');

#
# Rows of others, levels, and commands that fail
#

# A session has written a row, and has not committed yet: the partition was empty.
$before = now();
my $writer = Bemi::Session->new($node);
$writer->query(q{BEGIN; INSERT INTO root VALUES (7000, 'v')});
$session = Bemi::Session->new($node);
$session->send('ALTER TABLE root DETACH PARTITION p7 CONCURRENTLY');
$session->wait_until_it_waits;
$writer->query(q{UPDATE p7 SET v = 'w'; COMMIT});
is($session->result, '', 'an empty partition is detached under a writer');
is(wrong($before, now()), gap('p7 was detached concurrently', 'p7 was detached with its rows'), 'his row was of the root');

$before = now();
$session = begin_detach('low_1', 'low');
is(problems(), pending('low_1', 'low'), 'below a partition');
$holder->query('COMMIT');
is($session->result, '', 'the command ends');
is(wrong($before, now()), gap('low_1 was detached concurrently', 'low_1 was detached with its rows'), 'there are gaps, too');

$before = now();
for my $failure (
	[ 'BEGIN; ALTER TABLE root DETACH PARTITION p5 CONCURRENTLY' => 'cannot run inside a transaction block' ],
	[ 'ALTER TABLE root DETACH PARTITION p1 CONCURRENTLY' => 'is not a partition of relation' ],
	[ 'ALTER TABLE root DETACH PARTITION nosuch CONCURRENTLY' => 'relation "nosuch" does not exist' ],
	[ 'ALTER TABLE nosuch DETACH PARTITION p5 CONCURRENTLY' => 'relation "nosuch" does not exist' ],
	[ 'SET ROLE stranger; ALTER TABLE root DETACH PARTITION p5 CONCURRENTLY' => 'must be owner of table root' ],
	[ q{DO $$ BEGIN EXECUTE 'ALTER TABLE root DETACH PARTITION p5 CONCURRENTLY'; EXCEPTION WHEN OTHERS THEN RAISE '%', SQLERRM; END $$} => 'cannot (run inside a transaction block|be executed from a function)' ])
{
	like(start_error($node, $failure->[0]), qr/ERROR:  .*$failure->[1]/, $failure->[0]);
}
sql(q{DO $$ BEGIN EXECUTE 'ALTER TABLE root DETACH PARTITION p5 CONCURRENTLY'; EXCEPTION WHEN OTHERS THEN END $$});
like(sql('ALTER TABLE IF EXISTS nosuch DETACH PARTITION p5 CONCURRENTLY; SELECT 1'), qr/1/, 'a table that need not exist');
is(wrong($before, now()), '', 'a command that fails makes no gap');

#
# Which rows count
#

# Dead rows are not looked through without end.
sql(q{CREATE TABLE dead (id int, v text) WITH (fillfactor = 10); ALTER TABLE dead ALTER v SET STORAGE PLAIN});
for my $step ([ 900 => '' ], [ 1200 => gap('dead was attached with its rows') ])
{
	my ($blocks, $expected) = @$step;

	sql(qq{TRUNCATE dead; INSERT INTO dead SELECT 8000, repeat('v', 5000) FROM generate_series(1, $blocks); DELETE FROM dead});
	$before = now();
	sql('ALTER TABLE root ATTACH PARTITION dead FOR VALUES FROM (8000) TO (8999)');
	is(wrong($before, now()), $expected, "$blocks blocks of dead rows");
	sql('ALTER TABLE root DETACH PARTITION dead');
}

# An empty partition changes its root, gets a row, and is dropped, at once. Its row of pg_inherits
# takes the place of an earlier one, so the order in the catalog is not that of time.
sql(q{CREATE TABLE root2 (id int, v text) PARTITION BY RANGE (id); SELECT bemi.track('root2');
	TRUNCATE p5; VACUUM pg_inherits});
$before = now();
sql(q{BEGIN; ALTER TABLE p5 ADD CHECK (id > 0); ALTER TABLE root DETACH PARTITION p5; ALTER TABLE root2 ATTACH PARTITION p5 FOR VALUES FROM (5000) TO (5999);
	INSERT INTO root2 VALUES (5000, 'v'); ALTER TABLE p5 ADD CHECK (id > 1); DROP TABLE p5; COMMIT});
wrong($before, now());
is(sql(q{SELECT string_agg(detail, ', ') FROM bemi.gaps WHERE "table" = 'root2' AND reason = 'rows_changed_by_ddl'}),
	'Partition public.p5 was dropped with its rows.', 'the last root has a gap');

# A row that was only locked is not deleted.
$before = now();
sql(q{BEGIN; SELECT oid FROM pg_class WHERE relname = 'p6' FOR UPDATE; SELECT inhrelid FROM pg_inherits WHERE inhrelid = 'p6'::regclass FOR UPDATE; DROP TABLE p6; COMMIT});
is(wrong($before, now()), gap('p6 was dropped with its rows'), 'catalog rows may be locked before');

#
# Elsewhere
#

my $gaps = q{SELECT "table", to_time, detail FROM bemi.gaps WHERE source = '%s' AND reason = 'rows_changed_by_ddl' ORDER BY 1, 2, 3};
my $last = sql('SELECT pg_current_wal_insert_lsn()');
$node->poll_query_until('history', qq{SELECT stored_lsn >= '$last' FROM bemi.status WHERE source = 'reader'}) or die 'the reader is late';
is($node->safe_psql('history', sprintf($gaps, 'reader')), sql(sprintf($gaps, 'main')), 'a reader elsewhere has the same gaps');

$_->quit for $holder, $writer, $session;
$node->stop;
done_testing();
