# A row that the source can never decode costs only its transaction. Before that, bemi.status
# warns.
#
# In practice such a row has a value whose text exceeds 1 GB (worker_huge.pl). Here it is an enum
# whose label was deleted from the catalog, and a row filter that divides by zero. Both fail only
# in the walsender. If a row filter fails at the first row of a transaction, no BEGIN was sent,
# and the worker searches for the transaction. That runs in parallel with the other tests.

use strict;
use warnings;

use Bemi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main', conf => "max_prepared_transactions = 1\n");
my $filters = $node->safe_psql('postgres', 'SHOW server_version_num') >= 150000;

# Gaps of a source, as text; with their tables if the detail names them.
sub gaps
{
	my ($reason) = @_;

	return $node->safe_psql('postgres', qq{
		SELECT coalesce(substring(detail FROM 'had changed these tables: (.*)'), '-') FROM bemi.gaps
		WHERE reason = '$reason' ORDER BY id});
}

sub ids
{
	return $node->safe_psql('postgres', q{
		SELECT string_agg(primary_key, ',' ORDER BY id) FROM bemi.changes WHERE "table" = 't'});
}

sub wait_until
{
	my ($query, $what, $database) = @_;

	$node->poll_query_until($database // 'postgres', $query) or die "$what: it does not happen";
	pass($what);
	return;
}

#
# Without a BEGIN it is not known which transaction to skip: it has to be searched for
#

if ($filters)
{
	my $conninfo = 'host=' . $node->host . ' port=' . $node->port . ' dbname=plain';

	# A separate history, because otherwise bemi.sync() would wait for it.
	$node->safe_psql('postgres', 'CREATE DATABASE plain');
	$node->safe_psql('postgres', 'CREATE DATABASE history');
	$node->safe_psql('history', 'CREATE EXTENSION bemi');
	$node->safe_psql('plain', q{
		CREATE TABLE p (id int PRIMARY KEY);
		CREATE PUBLICATION bemi FOR TABLE p WHERE (100 / (id % 10 - 7) <> 0)});
	$node->safe_psql('history', qq{CALL bemi.start('plain', conninfo => '$conninfo')});
	$node->safe_psql('plain', q{INSERT INTO p VALUES (1)});
	# One that commits when others have since its row was written.
	$node->safe_psql('plain', q{BEGIN; INSERT INTO p VALUES (27); PREPARE TRANSACTION 'late'});
	$node->safe_psql('plain', "INSERT INTO p VALUES ($_)") for (7, 8, 17, 9);
	$node->safe_psql('plain', q{COMMIT PREPARED 'late'});
	$node->safe_psql('plain', 'INSERT INTO p VALUES (10)');
}

#
# One transaction, and a restart of the server before it is skipped
#

$node->safe_psql('postgres', q{
	CREATE TYPE mood AS ENUM ('well', 'gone');
	CREATE TABLE seed (v mood);
	INSERT INTO seed VALUES ('gone');
	DELETE FROM pg_enum WHERE enumlabel = 'gone';
	CREATE TABLE t (id int PRIMARY KEY);
	CREATE TABLE bad (id int PRIMARY KEY, v mood);
	SELECT bemi.track('t'); SELECT bemi.track('bad');
	CALL bemi.start();
	INSERT INTO t VALUES (1);
	SELECT bemi.sync('60s');
	BEGIN;
	INSERT INTO t VALUES (2);
	INSERT INTO bad SELECT 2, v FROM seed;
	COMMIT;
	INSERT INTO t VALUES (3);
});
wait_until(q{
	SELECT warning ~ '^the source fails to decode the transaction committed at [0-9A-F]+/[0-9A-F]+ \(\d times so far\)'
		AND last_error LIKE 'source reports: invalid internal value for enum%'
	FROM bemi.status WHERE source = 'main'}, 'bemi.status warns');
is(gaps('transaction_unreadable'), '', 'before there is a gap');
$node->restart;
wait_until(q{SELECT EXISTS (SELECT FROM bemi.changes WHERE "table" = 't' AND primary_key = '3')},
	'what comes after is stored, also after a restart of the server');
is(ids(), '1,3', 'what comes before is, too, and the transaction is missing as a whole');
is(gaps('transaction_unreadable'), 'public.t, public.bad. It failed at a row of the last table.',
	'there is one gap, which names the tables');
$node->safe_psql('postgres', q{SELECT bemi.sync('60s')});
is( $node->safe_psql('postgres', q{
		SELECT g.to_time - g.from_time, g.from_lsn < g.to_lsn, "table" IS NULL,
			(SELECT count(*) FROM bemi.changes c WHERE c.committed_at BETWEEN g.from_time AND g.to_time),
			(SELECT string_agg(c.complete || coalesce(' ' || c.reason, ''), ', ') FROM bemi.completeness('t', g.from_time, g.to_time) c),
			(SELECT string_agg(c.reason, ', ') FROM bemi.completeness('t', g.to_time, g.to_time) c),
			(SELECT string_agg(c.complete || coalesce(' ' || c.reason, ''), ', ') FROM bemi.completeness('bad', g.to_time, (SELECT max(committed_at) FROM bemi.changes)) c)
		FROM bemi.gaps g WHERE g.reason = 'transaction_unreadable'}),
	'00:00:00.000002|t|t|0|false transaction_unreadable||true',
	'it is as short as the transaction, and bemi.complete() goes by it');
is( $node->safe_psql('postgres', q{
		SELECT state, coalesce(warning, 'none'), last_error IS NOT NULL FROM bemi.status}),
	'streaming|none|t', 'the warning is gone');
is( $node->safe_psql('postgres', q{
		SELECT count(*) FROM bemi.gaps WHERE reason NOT IN ('transaction_unreadable', 'source_started', 'tracking_began')}),
	'0', 'there is no other gap');

#
# Many, among others that share a destination transaction with them
#

my @expected = (1, 3);
my $sql = "CALL bemi.stop();\n";
for my $n (10 .. 49)
{
	my $is_bad = ($n % 10 == 5 || $n == 36);

	$sql .= "BEGIN; INSERT INTO t VALUES ($n); "
	  . ($is_bad ? "INSERT INTO bad SELECT $n, v FROM seed; INSERT INTO t VALUES (${n}00); " : '')
	  . "COMMIT;\n";
	push @expected, $n unless $is_bad;
}
$node->safe_psql('postgres', $sql);
# If the worker fails before bemi.start() has seen it stream, bemi.start() reports that.
$node->psql('postgres', 'CALL bemi.start()');
$node->safe_psql('postgres', q{SELECT bemi.sync('100s')});
is(ids(), join(',', @expected), 'transactions before, between and after are stored, once');
is( $node->safe_psql('postgres', q{SELECT count(*) FROM bemi.gaps WHERE reason = 'transaction_unreadable'}),
	'6', 'each that was skipped has its gap');
is( $node->safe_psql('postgres', q{
		SELECT count(*) FROM bemi.gaps g JOIN bemi.changes c
			ON c.position > g.from_lsn - '0/0' AND c.position < g.to_lsn - '0/0'
		WHERE g.reason = 'transaction_unreadable' AND c.committed_at BETWEEN g.from_time AND g.to_time}),
	'0', 'and nothing in it is stored');

#
# A table that the transaction began to track is tracked from then on
#

$node->safe_psql('postgres', q{
	BEGIN;
	CREATE TABLE late (id int PRIMARY KEY);
	SELECT bemi.track('late');
	INSERT INTO late VALUES (1);
	INSERT INTO bad SELECT 60, v FROM seed;
	COMMIT;
	INSERT INTO late VALUES (2);
	SELECT bemi.sync('60s');
});
is( $node->safe_psql('postgres', q{SELECT string_agg(primary_key, ',') FROM bemi.changes WHERE "table" = 'late'}),
	'2', 'what comes after that is stored');
is( $node->safe_psql('postgres', q{
		SELECT c.reason, c.missing_from FROM bemi.completeness('late') c WHERE c.reason = 'tracking_began'}),
	'tracking_began|-infinity', 'and it is known from when on it is tracked');

#
# Recording the gap twice, as after a crash, changes nothing
#

is( $node->safe_psql('postgres', q{
		SELECT _bemi.record_skipped(source, from_lsn, to_lsn, from_time, to_time, 'again') FROM bemi.gaps
			WHERE reason = 'transaction_unreadable';
		SELECT count(*) FROM bemi.gaps WHERE reason = 'transaction_unreadable'}) =~ s/^\n+//r,
	'7', 'a gap that is written again is the same');

#
# What the destination refuses is no gap, however often
#

my $restarts = $node->safe_psql('postgres', q{SELECT restarts FROM bemi.status});
$node->safe_psql('postgres', q{
	ALTER TABLE bemi.changes ADD CONSTRAINT refuse CHECK (primary_key <> '70');
	INSERT INTO t VALUES (70);
	INSERT INTO t VALUES (71)});
wait_until(qq{SELECT restarts >= $restarts + 3 AND state = 'failed' FROM bemi.status},
	'a CHECK of the user\'s stops the worker');
is( $node->safe_psql('postgres', q{
		SELECT last_error LIKE '%violates check constraint%', coalesce(warning, 'none') FROM bemi.status}),
	't|none', 'that does not count');

#
# By now the other source has gone on
#

SKIP:
{
	skip 'row filters came with PostgreSQL 15', 5 unless $filters;

	wait_until(q{SELECT string_agg(primary_key, ',' ORDER BY id) = '1,8,9,10' FROM bemi.changes},
		'without a BEGIN, the transaction is searched for, and skipped', 'history');
	is( $node->safe_psql('history', q{
			SELECT reason, detail, from_lsn < to_lsn, to_time IS NOT NULL FROM bemi.gaps
			WHERE "table" IS NULL AND reason <> 'source_started'}),
		join("\n", ('transaction_unreadable|The source fails to decode its write-ahead log: source reports: division by zero.|t|t') x 3),
		'the gaps say why, and there are no others');
	is( $node->safe_psql('history', q{
			SELECT g.from_lsn, g.to_lsn, c.primary_key, c.position FROM bemi.gaps g JOIN bemi.changes c
			ON c.position >= g.from_lsn - '0/0' AND c.position < g.to_lsn - '0/0'
			WHERE g.reason = 'transaction_unreadable'}), '', 'nothing in them is stored');

	# With a context, its message comes first, and so does the BEGIN.
	$node->safe_psql('postgres', q{
		ALTER TABLE bemi.changes DROP CONSTRAINT refuse;
		CALL bemi.stop(); CALL bemi.start();
		CREATE TABLE filtered (id int PRIMARY KEY);
		ALTER PUBLICATION bemi ADD TABLE ONLY filtered WHERE (100 / (id - 7) <> 0);
		SELECT bemi.track('filtered');
		INSERT INTO filtered VALUES (7) /*Bemi {"n": 7} Bemi*/;
		INSERT INTO filtered VALUES (8);
		SELECT bemi.sync('60s')});
	is(gaps('transaction_unreadable') =~ s/.*\n//sr, '-', 'a row filter that fails, with a context: the transaction is skipped');
	is( $node->safe_psql('postgres', q{SELECT string_agg(primary_key, ',') FROM bemi.changes WHERE "table" = 'filtered'}),
		'8', 'and nothing else');
}

$node->safe_psql('postgres', 'ALTER TABLE bemi.changes DROP CONSTRAINT IF EXISTS refuse');
$node->safe_psql('postgres', q{SELECT bemi.sync('60s')});
is(ids(), join(',', @expected, 70, 71), 'once the CHECK is gone, all it refused is stored');

$node->stop;
done_testing();
