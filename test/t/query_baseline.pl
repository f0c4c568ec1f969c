# bemi.baseline() stores the rows of a table exactly as of a position of its source, while others
# write, or stores nothing.
#
# The source is another server. Writers change a tracked table during all baselines. Each baseline
# must be what the changes before it lead to, and with the changes after it, it must lead to today's
# rows. Another session truncates and fills a table all the time: a copy of a part of its rows, or
# of none, would be wrong. Commands that would alter the table fail the call, and a call that is
# cancelled leaves no slot and no connection.

use strict;
use warnings;

use Bemi;
use Bemi::Proxy;
use Bemi::Session;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main');
my $source = bemi_node('source');
my $conninfo = $source->connstr('postgres') =~ s/'/''/gr;

sub sql { return $node->safe_psql('postgres', $_[0]) }
sub at_source { return $source->safe_psql('postgres', $_[0]) }

# Returns the errors of statements.
sub error_of
{
	my ($status, $stdout, $stderr) = $node->psql('postgres', $_[0]);

	return $stderr;
}

at_source(<<~'SQL');
	CREATE TYPE pair AS (x integer, y text);
	CREATE TABLE account (id integer PRIMARY KEY, name text, balance numeric);
	CREATE TABLE kinds (id bigint, no text, stamp timestamptz, span interval, f float8, doc jsonb,
		tags text[], secret text, hashed text, ignored integer, p pair, b bytea, PRIMARY KEY (id, no));
	CREATE TABLE item (part integer, no integer, PRIMARY KEY (part, no)) PARTITION BY LIST (part);
	CREATE TABLE item_0 PARTITION OF item FOR VALUES IN (0);
	CREATE TABLE item_1 PARTITION OF item FOR VALUES IN (1);
	CREATE TABLE parent (id integer PRIMARY KEY);
	CREATE TABLE child () INHERITS (parent);
	CREATE TABLE empty_one (id integer PRIMARY KEY);
	CREATE TABLE keyless (a integer);
	CREATE TABLE refilled (id integer PRIMARY KEY);
	CREATE SCHEMA other;
	CREATE TABLE other.account (id integer PRIMARY KEY);
	CREATE TABLE untracked (id integer PRIMARY KEY);
	ALTER TABLE kinds ADD dropped integer DEFAULT 1;
	INSERT INTO kinds SELECT n, 'n' || n, '2026-01-02 03:04:05.678+02', '1 day 02:03', 0.1 * n,
			'{"a": [1, 2.50]}', ARRAY['x', NULL, 'a,b'], 'secret', 'hashed', n, ROW(n, 'y"')::pair, '\x00ff', 1
		FROM generate_series(1, 3) n;
	ALTER TABLE kinds DROP dropped;
	ALTER TABLE kinds ADD late text DEFAULT 'late';
	INSERT INTO item VALUES (0, 1), (1, 2);
	INSERT INTO parent VALUES (1);
	INSERT INTO child VALUES (2);
	INSERT INTO keyless VALUES (1), (1), (NULL);
	SELECT bemi.track('account'), bemi.track('item'), bemi.track('parent'), bemi.track('empty_one'),
		bemi.track('keyless'), bemi.track('refilled'), bemi.track('other.account');
	SELECT bemi.track('kinds', redact => ARRAY['secret'], redact_hash => ARRAY['hashed'],
		ignore => ARRAY['ignored']);
	SQL
sql("CALL bemi.start('far', conninfo => '$conninfo')");

# What is in the history, by the changes of a key. A key that was changed counts as two.
sql(<<~'SQL');
	CREATE FUNCTION replay(from_id uuid, to_id uuid) RETURNS TABLE (id text, image jsonb) LANGUAGE sql AS $$
		SELECT key, image FROM (
			SELECT DISTINCT ON (key) key, image FROM (
				SELECT c.id, c.after ->> 'id' AS key, c.after AS image FROM bemi.changes c
					WHERE c.schema = 'public' AND c."table" = 'account' AND c.after <> '{}'
						AND c.id > from_id AND c.id < to_id
						AND (c.operation <> 'SNAPSHOT' OR c.committed_at =
							(SELECT b.taken_at FROM bemi.baselines b WHERE b.id = from_id))
				UNION ALL
				SELECT c.id, c.before ->> 'id', NULL FROM bemi.changes c
					WHERE c.schema = 'public' AND c."table" = 'account' AND c.before <> '{}'
						AND c.before ->> 'id' IS DISTINCT FROM c.after ->> 'id'
						AND c.id > from_id AND c.id < to_id) u
				ORDER BY key, u.id DESC) last
		WHERE image IS NOT NULL $$;
	SQL

my $script = PostgreSQL::Test::Utils::tempdir() . '/writer.sql';
append_to_file($script, <<~'SQL');	# no two clients write the same row
	\set id 3 * random(1, 20) + :client_id
	\set other 3 * random(1, 20) + :client_id
	BEGIN;
	INSERT INTO account VALUES (:id, 'new', :other) ON CONFLICT (id) DO UPDATE SET balance = account.balance + 1;
	UPDATE account SET name = 'u' || :other WHERE id = :other;
	DELETE FROM account WHERE id = :id + 3;
	UPDATE account SET id = 300 + :id WHERE id = :id + 6 AND NOT EXISTS (SELECT FROM account WHERE id = 300 + :id);
	COMMIT;
	SQL
my $refill = PostgreSQL::Test::Utils::tempdir() . '/refill.sql';
append_to_file($refill, <<~'SQL');
	BEGIN;
	TRUNCATE refilled;
	INSERT INTO refilled SELECT generate_series(1, 100);
	COMMIT;
	SQL
my @bench = ('pgbench', '-n', '-h', $source->host, '-p', $source->port);
my $writers = IPC::Run::start([ @bench, '-c', 3, '-T', 600, '-R', 60, '-f', $script, 'postgres' ],
	'>', \my $out, '2>', \my $err);
my $refiller = IPC::Run::start([ @bench, '-c', 1, '-T', 600, '-R', 20, '-f', $refill, 'postgres' ],
	'>', \my $out2, '2>', \my $err2);
$source->poll_query_until('postgres', 'SELECT count(*) > 20 FROM account') or die 'the writers do not write';

my ($whole, $altered) = (0, 0);
foreach my $round (1 .. 8)
{
	sql("CALL bemi.baseline('far', 'public.account')");
	my $error = error_of("CALL bemi.baseline('far', 'refilled')");
	$error eq '' ? $whole++ : $altered++;
	like($error, qr/^$|was altered while its copy began|canceling statement due to lock timeout/,
		"round $round: a copy of all rows or an error");
}
$writers->signal('TERM');
$refiller->signal('TERM');
$writers->finish;
$refiller->finish;
note "copies of the table that is refilled: $whole stored, $altered refused";
is(sql('SELECT count(*) FROM bemi.baselines WHERE "table" = \'refilled\' AND row_count <> 100'),
	'0', 'no copy has a part of the rows');

# Everything that the writers have committed is stored when this is.
at_source("INSERT INTO empty_one VALUES (1); DELETE FROM empty_one");
$node->poll_query_until('postgres',
	q{SELECT count(*) = 2 FROM bemi.changes WHERE "table" = 'empty_one'});

is(sql(q{SELECT count(*), count(*) FILTER (WHERE b.row_count = (SELECT count(*) FROM bemi.changes c
			WHERE c.operation = 'SNAPSHOT' AND c.schema = b.schema AND c."table" = b."table"
				AND c.committed_at = b.taken_at)) FROM bemi.baselines b}),
	(8 + $whole) . '|' . (8 + $whole), 'each baseline has the rows that it counts');
is(sql(q{SELECT count(*), string_agg(b.position::text, ' ') FILTER (WHERE EXISTS (
			(SELECT r.id, r.image FROM replay('00000000-0000-0000-0000-000000000000', b.id) r
			EXCEPT SELECT c.after ->> 'id', c.after FROM bemi.changes c
				WHERE c.operation = 'SNAPSHOT' AND c.committed_at = b.taken_at)
			UNION ALL
			(SELECT c.after ->> 'id', c.after FROM bemi.changes c
				WHERE c.operation = 'SNAPSHOT' AND c.committed_at = b.taken_at
			EXCEPT SELECT r.id, r.image FROM replay('00000000-0000-0000-0000-000000000000', b.id) r)))
		FROM bemi.baselines b WHERE b."table" = 'account'}),
	'8|', 'a baseline is what the changes before it lead to');
my $today = at_source(q{SELECT string_agg(to_jsonb(a)::text, E'\n' ORDER BY id::text COLLATE "C") FROM account a});
is(sql(q{SELECT count(DISTINCT r) FROM bemi.baselines b, LATERAL (
			SELECT string_agg(p.image::text, E'\n' ORDER BY p.id COLLATE "C")
				FROM replay(b.id, 'ffffffff-ffff-ffff-ffff-ffffffffffff') p) r
		WHERE b."table" = 'account'}),
	'1', 'all baselines and the changes after them lead to the same rows');
is(sql(q{SELECT string_agg(p.image::text, E'\n' ORDER BY p.id COLLATE "C") FROM replay(
			(SELECT max(b.id::text)::uuid FROM bemi.baselines b WHERE b."table" = 'account'),
			'ffffffff-ffff-ffff-ffff-ffffffffffff') p}),
	$today, 'these are today\'s');

# The past from the history alone, at the places of the baselines and between them. The time of a
# change may be that of others, so the last one with each time is compared.
$node->poll_query_until('postgres', q{SELECT stored_until > (SELECT max(committed_at) FROM bemi.changes)
	FROM bemi.status WHERE source = 'far'}) or die 'the history does not become complete';
is(sql(q{SELECT count(*), count(*) FILTER (WHERE past IS DISTINCT FROM copy) FROM (
		SELECT (SELECT string_agg(p.image::text, E'\n' ORDER BY p.id COLLATE "C") FROM replay(b.id, t.id) p) AS copy,
				(SELECT string_agg(j::text, E'\n' ORDER BY j ->> 'id' COLLATE "C")
					FROM bemi.source_as_of_json('far', 'public', 'account', before => t.id) j) AS past
			FROM bemi.baselines b, LATERAL (SELECT c.id FROM bemi.changes c
				WHERE c.id > b.id AND c.schema = 'public' AND c."table" = 'account' AND c.operation <> 'SNAPSHOT'
				ORDER BY md5(c.id::text) LIMIT 4) t
			WHERE b."table" = 'account') s}), '32|0', 'source_as_of_json() before changes');
is(sql(q{SELECT count(*), count(*) FILTER (WHERE past IS DISTINCT FROM copy) FROM (
		SELECT (SELECT string_agg(p.image::text, E'\n' ORDER BY p.id COLLATE "C") FROM replay(b.id,
					coalesce((SELECT min(n.id::text)::uuid FROM bemi.changes n WHERE n.committed_at > t.committed_at),
						'ffffffff-ffff-ffff-ffff-ffffffffffff')) p) AS copy,
				(SELECT string_agg(j::text, E'\n' ORDER BY j ->> 'id' COLLATE "C")
					FROM bemi.source_as_of_json('far', 'public', 'account', t.committed_at) j) AS past
			FROM bemi.baselines b, LATERAL (SELECT c.committed_at FROM bemi.changes c
				WHERE c.id > b.id AND c.schema = 'public' AND c."table" = 'account' AND c.operation <> 'SNAPSHOT'
				ORDER BY md5(c.id::text) LIMIT 4) t
			WHERE b."table" = 'account') s}), '32|0', 'and at times');
is(sql(q{SELECT min(n), max(n) FROM bemi.changes c, LATERAL (
			SELECT count(*) AS n FROM bemi.source_as_of_json('far', 'public', 'refilled', c.committed_at)) j
		WHERE c."table" = 'refilled' AND c.operation = 'TRUNCATE'}), '100|100', 'tables that were truncated since');
like(error_of(q{SELECT bemi.source_as_of_json('far', 'public', 'account', '2020-01-01')}),
	qr/rows that public.account had before its tracking are not known.*CALL bemi.baseline\('far', 'public.account'\)/s,
	'not before the first baseline');
like(error_of(q{SELECT bemi.source_as_of_json('far', 'public', 'account', now() + interval '1 hour')}),
	qr/history of public.account is not complete.*not_stored_yet/s, 'not in the future');
like(error_of(q{SELECT bemi.source_as_of_json('far', 'public', 'nosuch', now(), allow_gaps => true)}),
	qr/primary key of public.nosuch is not known/, 'no such table');
like(error_of(q{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT bemi.source_as_of_json('far', 'public', 'account', now())}),
	qr/read in READ COMMITTED only/, 'not in an old snapshot');
like(error_of(q{SELECT bemi.source_as_of_json('far', 'public', 'account', before => c.id) FROM bemi.changes c WHERE operation = 'SNAPSHOT' LIMIT 1}),
	qr/is not a change of source "far".*a row of a baseline/s, 'not within a baseline');
like(error_of(q{SELECT bemi.source_as_of_json('far', 'public', 'account')}),
	qr/either a time or a change must be given/, 'no time');
like(error_of(q{SELECT bemi.source_as_of_json('far', NULL, 'account', now())}), qr/must not be null/, 'no schema');

# Values, keys, rules, partitions, and tables of other kinds.
sql(qq{CALL bemi.baseline('far', '$_')}) foreach qw(kinds item parent empty_one keyless);
is(sql(q{SELECT after - '{hashed}'::text[] FROM bemi.changes WHERE "table" = 'kinds' ORDER BY id}),
	at_source(q{SET timezone = 'UTC';
		SELECT to_jsonb(k) - '{hashed}'::text[] || '{"secret": "[redacted]"}' FROM kinds k ORDER BY id}),
	'rows are as in changes, with redacted columns');
is(sql(q{SELECT primary_key, after ->> 'hashed' LIKE '[redacted:%' AND after ->> 'hashed' <> '[redacted]'
		FROM bemi.changes WHERE "table" = 'kinds' ORDER BY id}),
	qq{["1", "n1"]|t\n["2", "n2"]|t\n["3", "n3"]|t}, 'primary keys and hashes');
at_source("UPDATE kinds SET late = 'now' WHERE id = 1");
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM bemi.changes WHERE "table" = 'kinds' AND operation = 'UPDATE'});
is(sql(q{SELECT count(*) FROM bemi.changes u JOIN bemi.changes s USING ("table", primary_key)
		WHERE "table" = 'kinds' AND u.operation = 'UPDATE' AND s.operation = 'SNAPSHOT' AND u.before = s.after}),
	'1', 'a change has the same row in "before"');
is(sql(q{SELECT "table", primary_key, before, after, context, transaction_id, source FROM bemi.changes
		WHERE "table" IN ('item', 'parent', 'keyless') AND operation = 'SNAPSHOT' ORDER BY "table", after::text}),
	<<~'ROWS' =~ s/\n$//r, 'partitions, tables that others inherit from, tables without a key');
	item|["0", "1"]|{}|{"no": 1, "part": 0}|{}|0|far
	item|["1", "2"]|{}|{"no": 2, "part": 1}|{}|0|far
	keyless||{}|{"a": 1}|{}|0|far
	keyless||{}|{"a": 1}|{}|0|far
	keyless||{}|{"a": null}|{}|0|far
	parent|1|{}|{"id": 1}|{}|0|far
	ROWS
$node->poll_query_until('postgres', q{SELECT stored_until > (SELECT max(taken_at) FROM bemi.baselines)
	FROM bemi.status WHERE source = 'far'});
is(sql(q{SELECT j FROM bemi.baselines b, bemi.source_as_of_json('far', 'public', 'keyless', b.taken_at) j
		WHERE b."table" = 'keyless' ORDER BY 1}),
	qq({"a": null}\n{"a": 1}\n{"a": 1}), 'equal rows of a table without a key are counted');
is(sql(q{SELECT source, schema, row_count, stored_by, taken_at > now() - interval '1 hour', position > '0/0'
		FROM bemi.baselines WHERE "table" = 'empty_one'}),
	'far|public|0|' . $node->safe_psql('postgres', 'SELECT session_user') . '|t|t', 'an empty table has a baseline, too');
is(sql(q{SELECT count(*) FROM bemi.find_changes(operation => 'SNAPSHOT', source_name => 'far', newest => 3)}),
	'3', 'find_changes() finds them');
is(sql('SELECT count(*) FROM bemi.transactions WHERE transaction_id = 0'),
	'0', 'a baseline is no transaction');

at_source('CREATE TABLE rekeyed (a integer PRIMARY KEY, b integer); INSERT INTO rekeyed VALUES (1, 1)');
at_source("SELECT bemi.track('rekeyed')");
$node->poll_query_until('postgres', q{SELECT EXISTS (SELECT FROM _bemi.source_tables WHERE "table" = 'rekeyed')});
sql("CALL bemi.baseline('far', 'rekeyed')");
# Waits until the worker has stored all changes of a table, and returns its rows after the last one.
sub rows_at_end
{
	my ($table, $changes) = @_;

	$node->poll_query_until('postgres', qq{SELECT count(*) = $changes FROM bemi.changes WHERE "table" = '$table' AND operation <> 'SNAPSHOT'})
	  or die "the changes of $table do not come";
	$node->poll_query_until('postgres', qq{SELECT stored_until > (SELECT max(committed_at) FROM bemi.changes WHERE "table" = '$table')
		FROM bemi.status WHERE source = 'far'});
	return sql(qq{SELECT r FROM (SELECT max(committed_at) AS at FROM bemi.changes WHERE "table" = '$table') c,
		bemi.source_as_of_json('far', 'public', '$table', c.at) r ORDER BY r::text});
}

at_source('ALTER TABLE rekeyed DROP CONSTRAINT rekeyed_pkey, ADD PRIMARY KEY (a, b); INSERT INTO rekeyed VALUES (1, 2), (1, 3)');
at_source('DELETE FROM rekeyed WHERE b = 2; UPDATE rekeyed SET b = 4 WHERE b = 1');
is(rows_at_end('rekeyed', 4), qq({"a": 1, "b": 3}\n{"a": 1, "b": 4}), 'several rows have the key that the table had');

# Keys that are swapped by one statement, and rows without a key.
at_source(q{CREATE TABLE seat (id integer PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v integer);
	INSERT INTO seat SELECT n, n FROM generate_series(1, 5) n;
	CREATE TABLE bag (n numeric, t text); INSERT INTO bag VALUES (1.5, 'x'), (1.50, 'x'), (2, 'y'), (2, 'y'), (3, 'z')});
at_source(q{SELECT bemi.track('seat'), bemi.track('bag')});
$node->poll_query_until('postgres', q{SELECT count(*) = 2 FROM _bemi.source_tables WHERE "table" IN ('seat', 'bag')});
sql(qq{CALL bemi.baseline('far', '$_')}) foreach qw(seat bag);
at_source('UPDATE seat SET id = id % 4 + 1 WHERE id < 5');
is(rows_at_end('seat', 4), join("\n", map { qq({"v": $_->[1], "id": $_->[0]}) } [ 2, 1 ], [ 3, 2 ], [ 4, 3 ], [ 1, 4 ], [ 5, 5 ]), 'one statement has swapped keys');
at_source('BEGIN; INSERT INTO seat VALUES (1, 9); DELETE FROM seat WHERE v = 9; INSERT INTO seat VALUES (2, 8); DELETE FROM seat WHERE v = 1; COMMIT');
is(rows_at_end('seat', 8), join("\n", map { qq({"v": $_->[1], "id": $_->[0]}) } [ 3, 2 ], [ 4, 3 ], [ 1, 4 ], [ 5, 5 ], [ 2, 8 ]), 'two rows had one key for a moment');
at_source(q{DELETE FROM bag WHERE n::text = '1.50'; INSERT INTO bag VALUES (4, 'new')});
is(rows_at_end('bag', 2), qq({"n": 1.5, "t": "x"}\n{"n": 2, "t": "y"}\n{"n": 2, "t": "y"}\n{"n": 3, "t": "z"}\n{"n": 4, "t": "new"}), '1.5 and 1.50 differ');
at_source(q{ALTER TABLE bag ADD late integer DEFAULT 7; DELETE FROM bag WHERE ctid IN (SELECT ctid FROM bag WHERE n = 2 LIMIT 1); INSERT INTO bag VALUES (5, 'five', 5)});
is(rows_at_end('bag', 4), qq({"n": 1.5, "t": "x"}\n{"n": 2, "t": "y"}\n{"n": 3, "t": "z"}\n{"n": 4, "t": "new"}\n{"n": 5, "t": "five", "late": 5}),
	'a row was removed with a column that was added since');
at_source(q{INSERT INTO bag VALUES (3, 'w', 6); ALTER TABLE bag DROP t, DROP late; DELETE FROM bag WHERE ctid IN (SELECT ctid FROM bag WHERE n = 3 LIMIT 1)});
$node->poll_query_until('postgres', q{SELECT count(*) = 6 FROM bemi.changes WHERE "table" = 'bag' AND operation <> 'SNAPSHOT'});
$node->poll_query_until('postgres', q{SELECT stored_until > (SELECT max(committed_at) FROM bemi.changes WHERE "table" = 'bag') FROM bemi.status WHERE source = 'far'});
like(error_of(q{SELECT bemi.source_as_of_json('far', 'public', 'bag', max(committed_at)) FROM bemi.changes WHERE "table" = 'bag'}),
	qr/removes a row that is not there/, 'rows that differ in dropped columns only');

# The owner of a table puts a view in its place. Functions of the view must not run with the rights of the copy.
at_source(<<~'SQL');
	CREATE ROLE mallory LOGIN;
	CREATE SCHEMA den AUTHORIZATION mallory;
	SET SESSION AUTHORIZATION mallory;
	CREATE FUNCTION den.evil() RETURNS integer LANGUAGE plpgsql AS $$ BEGIN RAISE LOG 'evil code runs as %', current_user; RETURN 1; END $$;
	CREATE TABLE den.t (id integer PRIMARY KEY);
	INSERT INTO den.t VALUES (1);
	SQL
at_source("SELECT bemi.track('den.t')");
$node->poll_query_until('postgres', q{SELECT EXISTS (SELECT FROM _bemi.source_tables WHERE schema = 'den')});
my $swap = PostgreSQL::Test::Utils::tempdir() . '/swap.sql';
append_to_file($swap, <<~'SQL');
	BEGIN;
	ALTER TABLE den.t RENAME TO t2;
	CREATE VIEW den.t AS SELECT den.evil() AS id;
	COMMIT;
	\sleep 5 ms
	BEGIN;
	DROP VIEW den.t;
	ALTER TABLE den.t2 RENAME TO t;
	COMMIT;
	\sleep 5 ms
	SQL
my $swapper = IPC::Run::start([ @bench, '-c', 1, '-T', 600, '-U', 'mallory', '-f', $swap, 'postgres' ],
	'>', \my $out3, '2>', \my $err3);
$source->poll_query_until('postgres', q{SELECT to_regclass('den.t2') IS NOT NULL});
my @errors = map { error_of("CALL bemi.baseline('far', 'den.$_')") } ('t', 't2') x 8;
$swapper->signal('TERM');
$swapper->finish;
note @errors;
is(scalar(grep { !/^$|was altered while its copy began|does not track a table|view "t" is restricted|den.t2" does not exist/ } @errors),
	0, 'a copy of the table, or an error that explains it');
ok(slurp_file($source->logfile) !~ /LOG:  evil code runs/, 'the code of the view does not run');

# This database itself.
sql(<<~'SQL');
	CREATE TABLE here (id integer PRIMARY KEY, name text);
	INSERT INTO here VALUES (1, 'before tracking'), (2, 'x');
	SELECT bemi.track('here');
	SQL
sql('CALL bemi.start()');
# The worker must know the table.
sql('SELECT bemi.sync()');
sql(q{SET timezone = 'Asia/Tokyo'; SET datestyle = 'SQL, DMY'; CALL bemi.baseline('main', 'here'); UPDATE here SET name = 'y' WHERE id = 1; SELECT bemi.sync()});
is(sql(q{SELECT operation, changed FROM bemi.history('here', '1')}),
	qq{UPDATE|{"name": ["before tracking", "y"]}\nSNAPSHOT|{}}, 'history() shows a SNAPSHOT as no change');
is(sql(q{SELECT column_name, operation FROM bemi.blame('here', '1')}),
	qq{id|\nname|UPDATE}, 'blame() does not take it for one');

# While a transaction of the source is open, the call waits, and shows how far it is. Cancelled, it
# leaves nothing behind.
my $writer = Bemi::Session->new($source);
$writer->query('BEGIN; INSERT INTO untracked VALUES (1)');
my $caller = Bemi::Session->new($node);
$caller->send("CALL bemi.baseline('far', 'item')");
$source->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_replication_slots WHERE slot_name LIKE 'bemi_baseline%'});
is(sql('SELECT count(*) FROM pg_stat_progress_copy'), '1', 'pg_stat_progress_copy shows it');
is(sql(q{SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		WHERE a.query LIKE 'CALL bemi.baseline%' AND a.pid <> pg_backend_pid() AND l.locktype = 'relation'}),
	'0', 'it holds no lock here while it waits for the source');
sql(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL bemi.baseline%' AND pid <> pg_backend_pid()});
like($caller->result, qr/canceling statement due to user request/, 'it can be cancelled');
$source->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_replication_slots WHERE slot_name LIKE 'bemi_baseline%'})
  or fail('the slot is gone');
$source->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'bemi baseline'})
  or fail('the connections are closed');

# A table that is dropped while the call waits. Two calls that wait for the same transaction copy the table at the same
# position. Its rows are stored once.
at_source("CREATE TABLE gone (id integer PRIMARY KEY); SELECT bemi.track('gone')");
$node->poll_query_until('postgres', q{SELECT EXISTS (SELECT FROM _bemi.source_tables WHERE "table" = 'gone')});
my $waiting = q{count(*) = %d FROM pg_replication_slots WHERE slot_name LIKE 'bemi_baseline%%'};
$caller->send("CALL bemi.baseline('far', 'gone')");
$source->poll_query_until('postgres', 'SELECT ' . sprintf($waiting, 1)) or fail('a call waits');
at_source('DROP TABLE gone');
my $second = Bemi::Session->new($node);
$second->send("CALL bemi.baseline('far', 'keyless')");
$source->poll_query_until('postgres', 'SELECT ' . sprintf($waiting, 2)) or fail('a second call waits');
my $third = Bemi::Session->new($node);
$third->send("CALL bemi.baseline('far', 'keyless')");
$source->poll_query_until('postgres', 'SELECT ' . sprintf($waiting, 3)) or fail('a third call waits');
$writer->query('ROLLBACK');
like($caller->result, qr/table \d+ does not exist at the source/, 'a table that was dropped since');
unlike($_->result, qr/ERROR/, 'a second call for the same table') foreach ($second, $third);
is( sql(q{SELECT count(*), count(*) FILTER (WHERE n = 3) FROM bemi.baselines b, LATERAL (
			SELECT count(*) AS n FROM bemi.changes c
				WHERE c."table" = 'keyless' AND c.operation = 'SNAPSHOT' AND c.committed_at = b.taken_at) c
		WHERE b."table" = 'keyless'}) =~ s/^(\d+)\|\1$/whole/r,
	'whole', 'each baseline has all rows once');
$_->quit foreach ($second, $third);

# Defaults of the session do not count. The source is silent in the middle of the copy.
my $proxy = Bemi::Proxy->new($source, PostgreSQL::Test::Utils::tempdir_short());
at_source("CREATE TABLE bulky (id integer PRIMARY KEY, v text); SELECT bemi.track('bulky'); INSERT INTO bulky SELECT n, repeat('x', 500) FROM generate_series(1, 4000) n");
sql("CALL bemi.stop('far'); CALL bemi.start('far', conninfo => '" . $proxy->connstr('postgres') =~ s/'/''/gr . "')");
$node->poll_query_until('postgres', q{SELECT count(*) = 4000 FROM bemi.changes WHERE "table" = 'bulky'});
sql("CALL bemi.stop('far')");
$proxy->tell('hold after 400000');
$caller->query("SET default_transaction_isolation = 'repeatable read'");
$caller->send("CALL bemi.baseline('far', 'bulky')");
$node->poll_query_until('postgres', 'SELECT count(*) = 1 FROM pg_stat_progress_copy WHERE tuples_processed > 0') or fail('rows are collected');
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'CALL bemi.baseline%' AND wait_event_type IS DISTINCT FROM 'IO' AND backend_xmin IS NULL})
  or fail('it holds no snapshot while it waits for a row');
$proxy->tell('forward');
is($caller->result, '', 'a baseline of a session with REPEATABLE READ');
like($caller->query("SET default_transaction_read_only = on; CALL bemi.baseline('far', 'bulky')"),
	qr/cannot execute bemi.baseline\(\) in a read-only transaction/, 'and not of one that only reads');

# The copy ends in the middle: the connection is lost, or the temporary file becomes too large. Nothing is stored.
$caller->query("SET default_transaction_read_only = off; SET work_mem = '64kB'");
$proxy->tell('cut after 400000');
like($caller->query("CALL bemi.baseline('far', 'bulky')"), qr/lost the connection to source/, 'a connection that is lost');
$proxy->tell('forward');
like($caller->query("SET temp_file_limit = '500kB'; CALL bemi.baseline('far', 'bulky')"),
	qr/temporary file size exceeds temp_file_limit/, 'a temporary file that is too large');
is(sql(q{SELECT count(DISTINCT committed_at), (SELECT count(*) FROM bemi.baselines WHERE "table" = 'bulky'),
			(SELECT count(*) FROM pg_ls_tmpdir())
		FROM bemi.changes WHERE "table" = 'bulky' AND operation = 'SNAPSHOT'}), '1|1|0', 'these have stored nothing');
is($caller->query("RESET temp_file_limit"), '', 'the session goes on');
is($caller->query("CALL bemi.baseline('far', 'bulky')"), '', 'and can call it again, with a temporary file');
is(sql(q{SELECT count(*), count(DISTINCT after ->> 'id') FROM bemi.changes
		WHERE "table" = 'bulky' AND operation = 'SNAPSHOT' AND committed_at = (SELECT max(taken_at) FROM bemi.baselines)}),
	'4000|4000', 'which has all rows');
sql("CALL bemi.start('far', conninfo => '$conninfo')");

# Errors.
like(error_of("CALL bemi.baseline('far', NULL)"), qr/source and table must not be null/, 'no table');
like(error_of("BEGIN; CALL bemi.baseline('far', 'item')"),
	qr/cannot run inside a transaction block.*statement of its own/s, 'in a transaction block');
like(error_of("CALL bemi.baseline('nowhere', 'item')"), qr/source "nowhere" does not exist/, 'no such source');
like(error_of("CALL bemi.baseline('far', 'untracked')"),
	qr/does not track a table untracked.*SELECT bemi.track\('untracked'\)/s, 'a table that is not tracked');
like(error_of("CALL bemi.baseline('far', 'account')"),
	qr/several tables account.*CALL bemi.baseline\('far', 'other.account'\)/s, 'an ambiguous name');
sql(<<~'SQL');
	CREATE ROLE nobody_special LOGIN;
	CREATE ROLE controller LOGIN REPLICATION;
	GRANT USAGE ON SCHEMA bemi TO nobody_special, controller;
	GRANT EXECUTE ON PROCEDURE bemi.baseline(text, text) TO nobody_special, controller;
	SELECT bemi.set_source_owner('far', 'controller');
	SQL
like(error_of("SET SESSION AUTHORIZATION nobody_special; CALL bemi.baseline('far', 'item')"),
	qr/permission denied to call bemi.baseline\(\)/, 'a role that may not control the source');
is(error_of("SET SESSION AUTHORIZATION controller; CALL bemi.baseline('far', 'item')"),
	'', 'a role that may');
at_source('CREATE ROLE limited LOGIN REPLICATION; GRANT SELECT ON item TO limited;'
	  . ' ALTER TABLE item ENABLE ROW LEVEL SECURITY');
sql("CALL bemi.stop('far'); CALL bemi.start('far', conninfo => '$conninfo user=limited')");
like(error_of("CALL bemi.baseline('far', 'item')"),
	qr/affected by row-level security/, 'rows that the role may not see are an error');
like(error_of("CALL bemi.baseline('far', 'parent')"),
	qr/permission denied for table parent/, 'and so is a table that it may not read');
is(sql(q{SELECT count(*) FROM bemi.baselines WHERE "table" IN ('item', 'parent')}), '3', 'these have stored nothing');

done_testing();
