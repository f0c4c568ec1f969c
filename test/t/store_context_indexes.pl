# bemi.index_context() and bemi.index_column() build an index on the partition that the worker is writing to. Neither the
# worker nor a reader may wait for it, and every change must be in it, also those that are stored
# meanwhile. If a call is interrupted, the next one completes its work.
#
# So the worker stores changes while a build is held up by an old snapshot, and each index is
# compared with its table by amcheck. Then: calls at the same time, a new partition while a call
# runs, a value too long for a B-tree, a crash, and a dump that is restored.

use strict;
use warnings;

use Bemi;
use Bemi::Session;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main', conf => "autovacuum = off\nbemi.partition_interval = 'day'");

sub sql { return $node->safe_psql('postgres', join ';', @_); }

# Stores changes in a transaction of its own for each user.
sub store
{
	my ($from, $to) = @_;

	sql(qq{DO \$\$ BEGIN
			FOR n IN $from .. $to LOOP
				PERFORM bemi.set_context(jsonb_build_object('userId', n % 5, 'job', 'job ' || n));
				INSERT INTO item VALUES (n);
				COMMIT;
			END LOOP;
		END \$\$}, q{SELECT bemi.sync('60s')});
	return;
}

# Keys, with the number of partitions and how many have a valid index.
# Both kinds of calls are one code, so columns are tried where their indexes differ: in what is entered, and after a dump.
sub column_indexes { return sql(q{SELECT string_agg(column_name || ' ' || partitions || ' ' || indexed, ', ' ORDER BY column_name) FROM bemi.column_indexes}); }

sub indexes { return sql(q{SELECT string_agg(key || ' ' || partitions || ' ' || indexed, ', ' ORDER BY key) FROM bemi.context_indexes}); }

# All rows of the table are in each valid index. Prints their number.
sub check_indexes
{
	my ($name) = @_;

	sql(q{SELECT bt_index_check(indexrelid, true) FROM pg_index
		WHERE indrelid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'bemi.changes'::regclass)
			AND indisvalid AND pg_get_indexdef(indexrelid) LIKE '%USING btree%'});
	is( sql(q{SET enable_seqscan = off; SELECT count(*) FROM bemi.changes WHERE bemi.context_is(context, 'userId', '3')}),
		sql(q{SELECT count(*) FROM bemi.changes WHERE context @> '{"userId": 3}'}),
		"$name: the index has all rows");
	return;
}

# Waits until a session waits in a step of an index build or drop.
sub wait_until_waiting
{
	my ($session) = @_;

	$node->poll_query_until('postgres', 'SELECT wait_event_type = \'Lock\' FROM pg_stat_activity WHERE pid = ' . $session->pid)
	  or die 'the session does not wait';
	return;
}

sql('CREATE EXTENSION amcheck', 'CREATE TABLE item (id int PRIMARY KEY)', q{SELECT bemi.track('item')}, 'CALL bemi.start()');
store(1, 50);

#
# While the worker writes
#

# A transaction with an old snapshot holds up the build, as a long report does.
my $reader = Bemi::Session->new($node);
$reader->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
$reader->query('SELECT count(*) FROM bemi.changes');
my $dba = Bemi::Session->new($node);
$dba->send(q{CALL bemi.index_context('userId')});
wait_until_waiting($dba);
store(51, 100);
is(sql('SELECT count(*) FROM bemi.changes'), '100', 'the worker and readers go on while an index is built');
is(indexes(), 'userId 1 0', 'it is not valid yet');

# Another call waits for the first one, without a deadlock.
my $second = Bemi::Session->new($node);
$second->send(q{CALL bemi.index_context('job')});
wait_until_waiting($second);

# A partition that is created meanwhile has the index from the beginning.
sql(q{SELECT _bemi.make_partition('2020-01-01')});
is(indexes(), 'userId 2 1', 'a new partition has it');

$reader->query('COMMIT');
is($dba->result, '', 'the build ends');
is($second->result, '', 'and so does the other one');
is(indexes(), 'job 2 2, userId 2 2', 'both are complete');
store(101, 150);
check_indexes('built while the worker stores');

#
# Interrupted
#

$reader->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
$reader->query('SELECT count(*) FROM bemi.changes');
$dba->send(q{CALL bemi.drop_index_context('userId')});
wait_until_waiting($dba);
store(151, 160);
$reader->query('COMMIT');
is($dba->result, '', 'an index is dropped while the worker stores');
is(indexes(), 'job 2 2', 'it is gone');

for my $end ('pg_cancel_backend', 'pg_terminate_backend')
{
	my $victim = Bemi::Session->new($node);

	$reader->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
	$reader->query('SELECT count(*) FROM bemi.changes');
	$victim->send(q{CALL bemi.index_context('userId')});
	wait_until_waiting($victim);
	sql("SELECT $end(" . $victim->pid . ')');
	like($victim->result, qr/canceling statement|terminating connection/, "$end: the call ends");
	$node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_locks WHERE mode = \'ShareUpdateExclusiveLock\' AND pid = ' . $victim->pid);
	$reader->query('COMMIT');
	like(indexes(), qr/userId 2 [01]$/, 'an index is missing');
	store($end eq 'pg_cancel_backend' ? (161, 170) : (171, 180));
	is(sql(q{CALL bemi.index_context('userId')}), '', 'the next call');
	is(indexes(), 'job 2 2, userId 2 2', 'completes it');
	is(sql(q{SELECT count(*) FROM pg_index WHERE NOT indisvalid}), '0', 'and leaves nothing invalid');
	check_indexes($end);
	sql(q{CALL bemi.drop_index_context('userId')}) if $end eq 'pg_cancel_backend';
}

#
# Values
#

# Too long for a B-tree, whether it can be compressed or not.
sql(q{SELECT bemi.set_context(jsonb_build_object('userId', (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 1000) n)), false);
	INSERT INTO item VALUES (1001);
	SELECT bemi.set_context(jsonb_build_object('userId', repeat('3', 10000)), false);
	INSERT INTO item VALUES (1002);
	SELECT bemi.set_context('{"userId": {"a": [1, null]}}', false);
	INSERT INTO item VALUES (1003);
	SELECT bemi.set_context('{"userId": null}', false);
	INSERT INTO item VALUES (1004);
	SELECT bemi.sync('60s')});
is(sql(q{SELECT count(*) FROM bemi.changes WHERE primary_key::int > 1000}), '4', 'no value stops the worker');
is(sql(q{SET enable_seqscan = off; SELECT primary_key FROM bemi.changes WHERE bemi.context_is(context, 'userId', repeat('3', 10000))}), '1002', 'a long value is found');
check_indexes('values');

#
# Columns
#

sql('ALTER TABLE item ADD price numeric, ADD doc jsonb', q{CALL bemi.index_column('price')}, q{CALL bemi.index_column('doc')});
is(column_indexes(), 'doc 2 2, price 2 2', 'columns are indexed');
sql(q{INSERT INTO item SELECT n, CASE WHEN n % 2 = 0 THEN n END, '{"a": [1]}' FROM generate_series(3001, 3020) n},
	'UPDATE item SET price = price + 1, doc = doc WHERE id BETWEEN 3001 AND 3010', q{UPDATE item SET doc = '{"a": [2]}' WHERE id = 3001},
	'DELETE FROM item WHERE id = 3002', q{UPDATE item SET doc = to_jsonb(repeat('long', 5000)) WHERE id = 3003}, q{SELECT bemi.sync('60s')});
for my $column ('price', 'doc')
{
	my $changes = q{SELECT string_agg(primary_key || operation, ' ' ORDER BY id) FROM bemi.changes WHERE "table" = 'item' AND bemi.column_is_changed(operation, before, after, '} . "$column')";

	is(sql('SET enable_seqscan = off', $changes), sql('SET enable_indexscan = off', 'SET enable_bitmapscan = off', $changes), "column $column: the index has all changes");
	like(sql('SET enable_seqscan = off', "EXPLAIN $changes"), qr/Scan (using|on) \S+_table_operation_id/, 'and is used');
	is(sql(qq{SELECT string_agg(primary_key || operation, ' ' ORDER BY id) FROM bemi.find_changes('item', column_name => '$column', newest => NULL)}),
		sql('SET enable_indexscan = off', 'SET enable_bitmapscan = off', $changes), 'bemi.find_changes() has the same answer');
}
check_indexes('columns');

#
# Crash and dump
#

$node->stop('immediate');
$node->start;
store(2001, 2010);
check_indexes('after a crash');

my $dump = $node->basedir . '/app.dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, $node->connstr('postgres') ], 'dump');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('restored'), $dump ], 'restore');
is($node->safe_psql('restored', q{SELECT string_agg(key || ' ' || partitions || ' ' || indexed, ', ' ORDER BY key) FROM bemi.context_indexes}),
	indexes(), 'a dump has the indexes and the keys');
is($node->safe_psql('restored', q{SELECT string_agg(column_name || ' ' || partitions || ' ' || indexed, ', ' ORDER BY column_name) FROM bemi.column_indexes}),
	column_indexes(), 'and those of columns');
$node->safe_psql('restored', q{SELECT _bemi.make_partition('2021-01-01')});
is($node->safe_psql('restored', q{SELECT min(indexed) FROM (SELECT indexed FROM bemi.context_indexes UNION ALL SELECT indexed FROM bemi.column_indexes) i}), '3', 'a new partition of the restored history has them');

done_testing();
