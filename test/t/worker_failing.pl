# A worker that fails says so, tries again after growing delays, and goes on
# by itself once the cause is gone, without losing a change.
#
# The delays are read from the log: each failure is there with its time.  Only
# lower bounds are tested, for a busy machine may always be slower.

use strict;
use warnings;

use Bemi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main', conf => "log_line_prefix = '%n [%p] %b '\n");

$node->safe_psql(
	'postgres', q{
	CREATE TABLE t (id int PRIMARY KEY);
	SELECT bemi.track('t');
	CALL bemi.start();
	INSERT INTO t VALUES (1);
	SELECT bemi.sync('60s')});

#
# The history cannot be written
#

my $offset = -s $node->logfile;
$node->safe_psql(
	'postgres', q{
	ALTER TABLE bemi.changes RENAME COLUMN context TO reason;
	INSERT INTO t VALUES (2)});
$node->poll_query_until('postgres', 'SELECT restarts >= 3 FROM bemi.status')
  or die 'the worker is not started again';
wait_for_state($node, 'failed');
like(
	$node->safe_psql(
		'postgres', q{
		SELECT source, pid, last_error, last_hint, last_error_at BETWEEN now() - interval '1 minute' AND now()
			FROM bemi.status}),
	qr/^main\|\|column "context" of table "changes_\d+_\d+" is missing\|Columns of bemi\.changes must not be renamed or dropped\.\|t$/,
	'bemi.status says what is wrong, and when it went wrong');

my ($status, $stdout, $stderr) =
  $node->psql('postgres', q{SELECT bemi.sync('100ms')});
like($stderr, qr/ERROR:  bemi\.sync\(\) timed out/, 'bemi.sync() times out');
like(
	$stderr,
	qr/HINT:  Its last error was: column "context" .* is missing/,
	'and tells why');

my @times = slurp_file($node->logfile, $offset) =~
  /^([\d.]+) \[\d+\] bemi worker ERROR:  column "context"/mg;
cmp_ok($times[1] - $times[0], '>=', 0.9, 'the first delay is a second');
cmp_ok($times[2] - $times[1], '>=', 1.9, 'the second is two');
cmp_ok($times[3] - $times[2], '>=', 3.9, 'the third is four');

$node->safe_psql('postgres',
	'ALTER TABLE bemi.changes RENAME COLUMN reason TO context');
wait_for_state($node, 'streaming');
$node->safe_psql('postgres',
	q{INSERT INTO t VALUES (3); SELECT bemi.sync('60s')});
is( changes($node),
	join("\n", map { qq(t|$_|CREATE|{}|{"id": $_}|{}) } (1 .. 3)),
	'once mended, it goes on, and nothing is lost');

#
# Nobody waits for the next try: start says at once that it is mended
#

$node->safe_psql(
	'postgres', q{
	ALTER TABLE bemi.changes RENAME COLUMN context TO reason;
	INSERT INTO t VALUES (4)});
wait_for_state($node, 'failed');
$node->safe_psql('postgres',
	'ALTER TABLE bemi.changes RENAME COLUMN reason TO context');
$node->safe_psql('postgres',
	q{CALL bemi.stop(); CALL bemi.start(); SELECT bemi.sync('60s')});
is(changes($node, 'primary_key::int > 3'),
	't|4|CREATE|{}|{"id": 4}|{}',
	'bemi.stop() and bemi.start() try at once');

#
# The slot is gone: that is written down, and the worker goes on
#

$node->safe_psql('postgres', 'CALL bemi.stop()');

# The walsender follows the worker.
$node->poll_query_until('postgres',
	'SELECT NOT active FROM pg_replication_slots')
  or die 'the slot stays active';
$node->safe_psql(
	'postgres', q{
	SELECT pg_drop_replication_slot(slot_name) FROM bemi.status;
	INSERT INTO t VALUES (5);
	CALL bemi.start();
	INSERT INTO t VALUES (6);
	SELECT bemi.sync('60s')});
is( changes($node, 'primary_key::int > 4'),
	't|6|CREATE|{}|{"id": 6}|{}',
	'what was written without a slot is lost, what comes after is not');
is( $node->safe_psql('postgres',
		q{SELECT from_time < to_time FROM bemi.gaps WHERE reason = 'slot_dropped'}),
	't',
	'the gap is written down');

#
# A worker that fails after bemi.stop() or bemi.start(), but has not seen it yet
#

# The worker is suspended, so that it has read its row before and fails afterwards.
my $worker = $node->safe_psql('postgres', 'SELECT pid FROM bemi.status');
kill 'STOP', $worker;
my $session = $node->background_psql('postgres', on_error_stop => 0);
$session->query_until(qr/begun/, q{
	\echo begun
	CALL bemi.stop();
	\echo ended
});
$node->poll_query_until('postgres', q{SELECT desired = 'stop' FROM bemi.sources})
  or die 'bemi.stop() has not committed';
kill 'TERM', $worker;
kill 'CONT', $worker;
$session->query_until(qr/ended/, '');
is($session->{stderr}, '', 'bemi.stop() does not report the error of a worker that knew nothing of it');
is($node->safe_psql('postgres', 'SELECT state, last_error FROM bemi.status'), 'stopped|worker was terminated',
	'but waits for the next one');
$session->quit;

$node->stop;
done_testing();
