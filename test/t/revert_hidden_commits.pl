# bemi.plan_revert() does not take a commit into account that queries do not see yet.
#
# A commit that waits for a synchronous standby is in the WAL, so the worker stores it, and the tables
# lack it. A plan that took it from the history would find that a row which the set has inserted is
# not there, and would do nothing, without an error. The standby of this test does not exist, and the
# test ends the wait by a cancel.

use strict;
use warnings;

use Bemi;
use Bemi::Session;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main', conf => "max_prepared_transactions = 5\n");

sub sql { return $node->safe_psql('postgres', "SET synchronous_commit = local; $_[0]") }

sub error_of
{
	my ($status, $stdout, $stderr) = $node->psql('postgres', "SET synchronous_commit = local; $_[0]");

	return $stderr;
}

# A session whose commit waits for the standby, when the worker has stored it.
sub hidden_commit
{
	my ($context, $statement) = @_;
	my $session = Bemi::Session->new($node);

	$session->query("SET bemi.context = '$context'");
	$session->send($statement);
	$node->poll_query_until('postgres', 'SELECT wait_event FROM pg_stat_activity WHERE pid = ' . $session->pid, 'SyncRep')
	  or die 'the commit does not wait';
	sql("SELECT bemi.sync('60s')");
	return $session;
}

# Ends this wait. The commit then becomes visible.
sub show
{
	my ($session) = @_;

	sql('SELECT pg_cancel_backend(' . $session->pid . ')');
	like($session->result, qr/canceling wait for synchronous replication/, 'the wait ends');
	$session->quit;
	return;
}

sql(<<~'SQL');
	CREATE TABLE t (id integer PRIMARY KEY, v integer, w integer);
	SELECT bemi.track('t');
	CALL bemi.start();
	INSERT INTO t VALUES (1, 1, 1), (2, 1, 1), (3, 1, 1), (4, 1, 1);
	SELECT bemi.sync();
	SQL
$node->append_conf('postgresql.conf', "synchronous_standby_names = 'nobody'");
$node->reload;
$node->poll_query_until('postgres', 'SHOW synchronous_standby_names', 'nobody') or die 'no standby is awaited';

my $short = "timeout => '300 ms'";
my $error = qr/a commit takes too long.*waits for a synchronous standby.*HINT:  SELECT \* FROM pg_stat_activity/s;

# What is to be taken back is hidden.
my $set = q{context => '{"by": "hidden"}'};
my $writer = hidden_commit('{"by": "hidden"}', 'INSERT INTO t VALUES (5, 5, 5)');
my $change = sql(q{SELECT id FROM bemi.changes WHERE context @> '{"by": "hidden"}'});
like(error_of("SELECT bemi.revert($set, $short)"), $error, 'by context');
like(error_of("SELECT bemi.plan_revert($set, $short)"), $error, 'a plan');
like(error_of("SELECT bemi.plan_revert(transaction_of => '$change', $short)"), $error, 'by transaction');
like(error_of("SELECT bemi.plan_revert(changes => '{$change}', $short)"), $error, 'by id');
like(error_of("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT bemi.plan_revert($set, $short)"), $error, 'in REPEATABLE READ');

# It goes on when the commit is visible, also in a transaction whose snapshot is older.
my $reverter = Bemi::Session->new($node);
my $old = Bemi::Session->new($node);
$reverter->query('SET synchronous_commit = local');
$old->query('SET synchronous_commit = local; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM t');
$reverter->send("SELECT steps FROM bemi.revert($set, timeout => '60s')");
$reverter->wait_until_it_waits('Extension');
show($writer);
is($reverter->result, '1', 'it waits for the commit');
is(sql('SELECT count(*) FROM t WHERE id = 5'), '0', 'and takes it back');
$reverter->quit;

# A commit after the first snapshot of the transaction: the plan sees it, and the write cannot.
sql(q{SET bemi.context = '{"by": "later"}'; UPDATE t SET v = 7 WHERE id = 3});
is($old->query(q{SELECT key || verdict FROM bemi.plan_revert(context => '{"by": "later"}')}), '3ok', 'a plan in REPEATABLE READ is of now');
like($old->query(q{SELECT bemi.revert(context => '{"by": "later"}')}), qr/could not serialize|has changed since/, 'its snapshot does not have the row');
$old->query('ROLLBACK');
is(sql(q{SELECT steps FROM bemi.revert(context => '{"by": "later"}')}), '1', 'another transaction does it');
$old->quit;

# A hidden change of others: the plan is that of what queries see, and the step meets the lock.
sql(q{SET bemi.context = '{"by": "seen"}'; UPDATE t SET v = 2 WHERE id <= 2});
$set = q{context => '{"by": "seen"}'};
$writer = hidden_commit('{"by": "other"}', 'UPDATE t SET v = 3 WHERE id = 1');
is(sql("SELECT string_agg(key || verdict, ',' ORDER BY key) FROM bemi.plan_revert($set, $short)"), '1ok,2ok', 'a hidden change does not count');
$reverter = Bemi::Session->new($node);
$reverter->query('SET synchronous_commit = local');
$reverter->send("SELECT steps FROM bemi.revert($set)");
$reverter->wait_until_it_waits;
show($writer);
like($reverter->result, qr/has changed since the plan was made/, 'the step waits for the lock, and fails');
is(sql('SELECT v FROM t WHERE id <= 2 ORDER BY id'), "3\n2", 'and nothing is done');
is(sql("SELECT string_agg(key || verdict, ',' ORDER BY key) FROM bemi.plan_revert($set)"), '1conflict,2ok', 'then it counts');

# Commits of others that touch nothing of the plan are not waited for.
$writer = hidden_commit('{"by": "other"}', 'UPDATE t SET v = 9 WHERE id = 4');
is(sql("SELECT steps || ' ' || skipped FROM bemi.revert($set, mode => 'skip', $short)"), '1 1', 'a commit to other rows');
show($writer);
$reverter->quit;
$node->stop;
done_testing();
