# bemi.revert() never overwrites what another session writes at the same time.
#
# Between the plan and the revert, and between the snapshot of a revert and its first write, others
# may change the same rows, delete them, or insert rows that refer to them. Locks hold the sessions at
# these places. Also: isolation levels, a transaction that has written itself, a worker that is behind,
# cancelling, and a large revert, which reports its progress.

use strict;
use warnings;

use Bemi;
use Bemi::Session;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main');

sub sql { return $node->safe_psql('postgres', $_[0]) }

sub error_of
{
	my ($status, $stdout, $stderr) = $node->psql('postgres', $_[0]);

	return $stderr;
}

sql(q{
	CREATE TABLE item (id integer PRIMARY KEY, name text, price integer);
	CREATE TABLE part (id integer PRIMARY KEY, item integer REFERENCES item ON DELETE CASCADE);
	SELECT bemi.track('item'), bemi.track('part');
	CALL bemi.start()});
sql(q{INSERT INTO item SELECT i, 'name', 1 FROM generate_series(1, 5) i});
my $request = 0;

# Runs a statement as a request of its own, and returns how to name it.
sub request
{
	my ($statement) = @_;

	$request++;
	sql("SET bemi.context = '{\"request\": $request}'; $statement");
	return "context => '{\"request\": $request}'";
}

# A write between plan and revert is refused, and remains.
my $set = request('UPDATE item SET price = 2 WHERE id <= 2');
my $hash = sql("SELECT max(plan_hash) FROM bemi.plan_revert($set)");
is(sql("SELECT max(plan_hash) FROM bemi.plan_revert($set)"), $hash, 'the hash is the same for the same plan');
sql('UPDATE item SET name = $$other$$ WHERE id = 1');
is(sql("SELECT max(plan_hash) FROM bemi.plan_revert($set)"), $hash, 'a change of another column does not change the plan');
sql('UPDATE item SET price = 3 WHERE id = 1');
like(error_of("SELECT bemi.revert($set, expect => '$hash')"), qr/the plan is not the same any more/, 'another write between plan and revert');
is(sql('SELECT price FROM item WHERE id <= 2 ORDER BY id'), "3\n2", 'both remain');

# A session writes after the snapshot of the revert.
sub race
{
	my ($name, $set, $hold, $expected, %params) = @_;
	my $writer = Bemi::Session->new($node);
	my $reverter = Bemi::Session->new($node);

	$writer->query('BEGIN');
	$writer->query($hold);
	$reverter->query('BEGIN ISOLATION LEVEL ' . ($params{isolation} // 'READ COMMITTED'));
	$reverter->query('SELECT count(*) FROM item');
	$reverter->send("SELECT steps FROM bemi.revert($set)");
	$reverter->wait_until_it_waits;
	$writer->query($params{end} // 'COMMIT');
	like($reverter->result, $expected, $name);
	$reverter->query('ROLLBACK');
	$reverter->quit;
	$writer->quit;
	return;
}

$set = request('UPDATE item SET price = 20 WHERE id = 3');
race('a row that is changed meanwhile', $set, 'UPDATE item SET name = $$mine$$ WHERE id = 3', qr/has changed since the plan was made/);
race('in REPEATABLE READ', $set, 'UPDATE item SET name = $$mine too$$ WHERE id = 3', qr/could not serialize access/, isolation => 'REPEATABLE READ');
race('a writer that rolls back', $set, 'UPDATE item SET name = $$never$$ WHERE id = 3', qr/^1$/, end => 'ROLLBACK');
is(sql('SELECT name, price FROM item WHERE id = 3'), 'mine too|20', 'what the others have written remains');
sql('INSERT INTO item VALUES (6, $$six$$, 1)');
$set = request('UPDATE item SET price = 20 WHERE id = 6');
race('a row that is deleted meanwhile', $set, 'DELETE FROM item WHERE id = 6', qr/has changed since the plan was made/);
is(sql('SELECT count(*) FROM item WHERE id = 6'), '0', 'it remains deleted');
$set = request('DELETE FROM item WHERE id = 3');
race('a key that is taken meanwhile', $set, 'INSERT INTO item VALUES (3, $$taken$$)', qr/duplicate key value/);
is(sql('SELECT name FROM item WHERE id = 3'), 'taken', 'the row of the other remains');

# A row that refers to one that the revert deletes would be deleted by the foreign key.
$set = request('INSERT INTO item VALUES (10, $$ten$$, 1), (11, $$eleven$$, 1)');
race('a reference that is inserted meanwhile', $set, 'INSERT INTO part VALUES (1, 11)', qr/rows that refer to a row of the plan have been inserted/);
is(sql('SELECT count(*) FROM part'), '1', 'it remains');
is(sql("SELECT string_agg(key || verdict, ',' ORDER BY key) FROM bemi.plan_revert($set)"), '10ok,11conflict', 'and is a conflict of the next plan');

# A row that refers to one that gets another key would refer to none.
sql(q{
	CREATE TABLE shop (id integer PRIMARY KEY, code text UNIQUE, place text);
	CREATE TABLE stock (id integer PRIMARY KEY, shop integer REFERENCES shop ON UPDATE SET NULL,
		code text REFERENCES shop (code) ON UPDATE SET NULL);
	SELECT bemi.track('shop'), bemi.track('stock')});
sql(q{INSERT INTO shop SELECT i, 'code ' || i, 'here' FROM generate_series(1, 5) i});
my $in_plan = qr/rows that refer to a row of the plan have been inserted/;
$set = request('UPDATE shop SET id = 20 WHERE id = 2');
race('a reference to a key that changes', $set, 'INSERT INTO stock VALUES (1, 20)', $in_plan);
$set = request(q{UPDATE shop SET code = 'new' WHERE id = 3});
race('a reference to a unique value that changes', $set, q{INSERT INTO stock VALUES (2, NULL, 'new')}, $in_plan);
is(sql('SELECT id, shop, code FROM stock ORDER BY id'), "1|20|\n2||new", 'they remain');
# A value that goes from row to row, and a row that refers to it by its own step
sql(q{INSERT INTO stock VALUES (3, NULL, 'code 4')});
$set = request(q{UPDATE shop SET code = 'free' WHERE id = 4; UPDATE shop SET code = 'code 4' WHERE id = 5});
is(sql("SELECT steps FROM bemi.revert($set); SELECT code FROM stock WHERE id = 3; SELECT code FROM shop WHERE id >= 4 AND id < 6 ORDER BY id"),
	"3\ncode 4\ncode 4\ncode 5", 'a unique value that is handed on');

# The caller's own uncommitted writes are not in the history, and not overwritten.
$set = request('UPDATE item SET price = 7 WHERE id IN (4, 5)');
my $session = Bemi::Session->new($node);
$session->query('BEGIN; UPDATE item SET price = 8 WHERE id = 4');
is($session->query("SELECT key || verdict || coalesce(reason, '') FROM bemi.plan_revert($set) ORDER BY key"), "4conflictvalue is not in the history\n5ok", 'own writes');
is($session->query("SELECT steps, skipped FROM bemi.revert($set, mode => 'skip'); COMMIT; SELECT price FROM item WHERE id IN (4, 5) ORDER BY id"), "1|1\n8\n1", 'own writes are kept');

# A savepoint takes a revert back.
$set = request('UPDATE item SET price = 9 WHERE id = 5');
is($session->query("BEGIN; SAVEPOINT s; SELECT steps FROM bemi.revert($set); ROLLBACK TO s; SELECT bemi.current_context(); SELECT steps FROM bemi.revert($set); COMMIT; SELECT price FROM item WHERE id = 5"), "1\n{}\n1\n1", 'savepoints');
sql("SELECT bemi.sync('60s')");
is($session->query("BEGIN READ ONLY; SELECT verdict FROM bemi.plan_revert(transaction_of => (SELECT max(id::text)::uuid FROM bemi.changes)); COMMIT"), 'ok', 'a plan in a transaction that is read only');

# The worker is behind: the revert waits for it, and not for ever.
sql('CALL bemi.stop()');
like(error_of("SELECT bemi.plan_revert($set)"), qr/no source of this database is started/, 'no worker');
sql('CALL bemi.start()');
my $holder = Bemi::Session->new($node);
$holder->query('BEGIN; LOCK TABLE bemi.changes IN SHARE ROW EXCLUSIVE MODE');
sql('UPDATE item SET price = 10 WHERE id = 5');
like(error_of("SELECT bemi.revert($set, timeout => '100ms')"), qr/ERROR.*(?:sync|timeout|stored)/s, 'timeout');
$session->send("SELECT verdict FROM bemi.plan_revert(transaction_of => (SELECT max(id::text)::uuid FROM bemi.changes), timeout => '60s')");
$holder->query('COMMIT');
like($session->result, qr/^(?:ok|skip|conflict)$/, 'it goes on when the worker does');
$holder->quit;

# A large revert: progress and cancelling.
sql('CREATE TABLE big (id integer PRIMARY KEY, v integer, pad text)');
sql("SELECT bemi.track('big')");
sql("INSERT INTO big SELECT i, 1, repeat('x', 20) FROM generate_series(1, 120000) i");
$set = request('UPDATE big SET v = 2');
my ($status, $stdout, $stderr) = $node->psql('postgres', "SELECT bemi.sync('60s'); SELECT steps FROM bemi.revert($set, timeout => '60s'); SELECT count(*) FROM big WHERE v = 1");
like($stdout, qr/120000\n120000$/, 'a large revert');
like($stderr, qr/NOTICE: .*100000 of 120000 steps are carried out/, 'reports its progress');
$set = request('UPDATE big SET v = 3');
sql("SELECT bemi.sync('60s')");
$session->query("SET statement_timeout = '150ms'");
like($session->query("SELECT steps FROM bemi.revert($set)"), qr/canceling statement due to statement timeout/, 'can be cancelled');
is(sql('SELECT count(*) FROM big WHERE v = 3'), '120000', 'and leaves nothing');
$session->quit;
$node->stop;
done_testing();
