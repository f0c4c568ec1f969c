# Changes that no ordinary session of an ordinary client makes.
#
# The writer decides which of the server's code paths a row takes. A logical replication worker
# fires no statement triggers. Another session can commit a prepared transaction after a restart.
# A session can begin to write before the library is loaded. pgbench uses the extended protocol. A
# parallel worker receives its settings in another way than SET. Each case needs a server or two
# with its own settings, so SQL tests cannot have it.

use strict;
use warnings;

use Bemi;
use Bemi::Completeness;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main', conf => "max_prepared_transactions = 5\n");

$node->safe_psql(
	'postgres', q{
	CREATE TABLE mail (id int PRIMARY KEY, body text);
	SELECT bemi.track('mail');
	CALL bemi.start()});

my $seen = '00000000-0000-0000-0000-000000000000';

# What has come into the history since the last call.
sub news
{
	$node->safe_psql('postgres', q{SELECT bemi.sync('60s')});
	my $news = changes($node, "id > '$seen'");
	$seen = $node->safe_psql('postgres', 'SELECT id FROM bemi.changes ORDER BY id DESC LIMIT 1')
	  || $seen;
	return $news;
}

#
# A logical replication worker
#

my $publisher = PostgreSQL::Test::Cluster->new('publisher');
$publisher->init(allows_streaming => 'logical', extra => [ '--no-locale', '--encoding=UTF8' ]);
$publisher->start;
$publisher->safe_psql(
	'postgres', q{
	CREATE TABLE mail (id int PRIMARY KEY, body text);
	INSERT INTO mail VALUES (1, 'first'), (2, 'second');
	CREATE PUBLICATION mail FOR TABLE mail});

# A context that the database gives to its sessions is not the replicated
# statement's, unless the trigger is ENABLE ALWAYS.
$node->safe_psql('postgres', q{ALTER DATABASE postgres SET bemi.context = '{"by": "default"}'});
$node->safe_psql('postgres',
	"CREATE SUBSCRIPTION mail CONNECTION '"
	  . ($publisher->connstr('postgres') =~ s/'/''/gr)
	  . "' PUBLICATION mail");
$node->wait_for_subscription_sync($publisher, 'mail');
is( news(),
	qq{mail|1|CREATE|{}|{"id": 1, "body": "first"}|{}\n}
	  . q{mail|2|CREATE|{}|{"id": 2, "body": "second"}|{}},
	'the first copy of a subscribed table');

for my $mode ('ORIGIN', 'ALWAYS')
{
	$node->safe_psql('postgres', 'ALTER TABLE mail ENABLE ALWAYS TRIGGER bemi_emit_context')
	  if $mode eq 'ALWAYS';
	$publisher->safe_psql(
		'postgres', q{
		INSERT INTO mail VALUES (3, 'third');
		UPDATE mail SET body = upper(body) WHERE id = 3;
		DELETE FROM mail WHERE id = 3;
		TRUNCATE mail});
	$publisher->wait_for_catchup('mail');

	# Of the triggers for a statement, the worker fires those of TRUNCATE alone.
	my $context = $mode eq 'ALWAYS' ? '{"by": "default"}' : '{}';
	is( news(), <<~END =~ s/\n\z//r,
		mail|3|CREATE|{}|{"id": 3, "body": "third"}|{}
		mail|3|UPDATE|{"id": 3, "body": "third"}|{"id": 3, "body": "THIRD"}|{}
		mail|3|DELETE|{"id": 3, "body": "THIRD"}|{}|{}
		mail||TRUNCATE|{}|{}|$context
		END
		"rows of the apply worker, trigger enabled as $mode");
}
$node->safe_psql(
	'postgres', q{
	DROP SUBSCRIPTION mail;
	ALTER DATABASE postgres RESET bemi.context;
	ALTER TABLE mail ENABLE TRIGGER bemi_emit_context});

# TRUNCATE of a partition alone is not in the stream, and no trigger or command of this
# server emits a message for it.  One publication sends partitions, the other their root.
my $parted = q{
	CREATE TABLE %1$s (id int) PARTITION BY RANGE (id);
	CREATE TABLE %1$s_1 PARTITION OF %1$s FOR VALUES FROM (0) TO (10);
	CREATE TABLE %1$s_2 PARTITION OF %1$s FOR VALUES FROM (10) TO (20)};
my $truncate = 'INSERT INTO %1$s VALUES (1), (11); TRUNCATE %1$s_1; INSERT INTO %1$s VALUES (2); TRUNCATE %1$s';
my @parted = ('apart', 'together');

$publisher->safe_psql('postgres', join ';', map { sprintf $parted, $_ } @parted);
$publisher->safe_psql('postgres', q{
	CREATE PUBLICATION apart FOR TABLE apart;
	CREATE PUBLICATION together FOR TABLE together WITH (publish_via_partition_root)});
$node->safe_psql('postgres', join ';', map { sprintf("$parted; SELECT bemi.track('%1\$s')", $_) } @parted);
$node->safe_psql('postgres',
	"CREATE SUBSCRIPTION parted CONNECTION '" . ($publisher->connstr('postgres') =~ s/'/''/gr) . "' PUBLICATION apart, together");
$node->wait_for_subscription_sync($publisher, 'parted');
my $before_truncate = now($node);
$publisher->safe_psql('postgres', 'BEGIN; INSERT INTO apart VALUES (1); INSERT INTO together VALUES (1); TRUNCATE together; TRUNCATE apart_2; COMMIT');
$publisher->wait_for_catchup('parted');
is(join(' ', map { complete($node, $_, $before_truncate) } @parted), 'complete complete', 'a root, and an empty partition, truncated by the apply worker');
for my $table (@parted)
{
	$publisher->safe_psql('postgres', sprintf $truncate, $table);
}
$publisher->wait_for_catchup('parted');
is( join("\n", map { complete($node, $_, $before_truncate) } @parted), <<~'END' =~ s/\n\z//r, 'partitions truncated by the apply worker');
	rows_changed_by_ddl: Partition public.apart_1 was truncated.; rows_changed_by_ddl: Partition public.apart_1 was truncated.
	complete
	END
is(scalar(() = news() =~ /^together\|\|TRUNCATE/mg), 2, 'and their root');
$node->safe_psql('postgres', q{DROP SUBSCRIPTION parted; SELECT bemi.untrack('apart'), bemi.untrack('together')});
$publisher->stop;

#
# Two-phase commit across a restart
#

$node->safe_psql(
	'postgres', q{
	BEGIN;
	SET LOCAL bemi.context = '{"prepared": 1}';
	INSERT INTO mail VALUES (10, 'prepared');
	SAVEPOINT a;
	SET LOCAL bemi.context = '{"prepared": 2}';
	INSERT INTO mail VALUES (11, 'prepared');
	RELEASE a;
	PREPARE TRANSACTION 'kept';
	BEGIN;
	SET LOCAL bemi.context = '{"prepared": 3}';
	INSERT INTO mail VALUES (12, 'prepared');
	PREPARE TRANSACTION 'given up'});
for my $mode ('fast', 'immediate')
{
	$node->stop($mode);
	$node->start;
	wait_for_state($node, 'streaming');
}
$node->safe_psql('postgres', q{INSERT INTO mail VALUES (13, 'meanwhile')});
is(news(), 'mail|13|CREATE|{}|{"id": 13, "body": "meanwhile"}|{}',
	'a prepared transaction is not stored before its commit');
$node->safe_psql(
	'postgres', q{
	SET bemi.context = '{"by": "who commits"}';
	ROLLBACK PREPARED 'given up';
	COMMIT PREPARED 'kept' /*Bemi {"by": "who commits"} Bemi*/});
is( news(),
	qq{mail|10|CREATE|{}|{"id": 10, "body": "prepared"}|{"prepared": 1}\n}
	  . q{mail|11|CREATE|{}|{"id": 11, "body": "prepared"}|{"prepared": 2}},
	'then it comes with its own contexts, two restarts later');

#
# The extended protocol, four clients at once
#

# Each row has the context that its columns contain.
my $script = $node->basedir . '/mails.sql';
append_to_file($script, <<'SQL');
\set id 1000 * (:base + :client_id) + :n
\set n :n + 1
BEGIN;
SELECT bemi.set_context(jsonb_build_object('mail', :id::int));
INSERT INTO mail VALUES (:id, 'function');
INSERT INTO mail VALUES (-:id::int, 'comment') /*Bemi {"mail": "comment"} Bemi*/;
SET LOCAL bemi.context = '{"mail": "setting"}';
UPDATE mail SET body = 'setting' WHERE id = -:id::int;
COMMIT;
DELETE FROM mail WHERE id = :id;
DELETE FROM mail WHERE id = -:id::int /*Bemi {"mail": "gone"} Bemi*/;
SQL

for my $mode ('extended', 'prepared')
{
	my $base = $mode eq 'prepared' ? 10 : 20;

	command_ok(
		[
			$node->installed_command('pgbench'), '--no-vacuum',
			'-M', $mode, '-c', '4', '-t', '50', '-D', "base=$base", '-D', 'n=1',
			'-f', $script, $node->connstr('postgres')
		],
		"pgbench, mode $mode");
	$node->safe_psql('postgres', q{SELECT bemi.sync('60s')});
	is( $node->safe_psql(
			'postgres', qq{
			SELECT operation, primary_key::int > 0 AS plain, count(*),
				count(*) FILTER (WHERE CASE
					WHEN operation = 'DELETE' AND primary_key::int > 0 THEN context = '{}'
					WHEN operation = 'DELETE' THEN context = '{"mail": "gone"}'
					WHEN after->>'body' = 'function' THEN context = jsonb_build_object('mail', primary_key::int)
					ELSE context = jsonb_build_object('mail', after->>'body') END)
			FROM bemi.changes WHERE id > '$seen' GROUP BY 1, 2 ORDER BY 1, 2}),
		<<~'END' =~ s/\n\z//r,
		CREATE|f|200|200
		CREATE|t|200|200
		DELETE|f|200|200
		DELETE|t|200|200
		UPDATE|f|200|200
		END
		"pgbench, mode $mode: each row has its own context");
	news();
}

#
# Parallel workers
#

# Makes every query of a session that can do so run in a parallel worker, the
# setting's name being another one since 16.
my $parallel =
  ($node->pg_version >= 16 ? 'debug_parallel_query' : 'force_parallel_mode') . ' = on';

$node->safe_psql(
	'postgres', qq{
	SET $parallel;
	SET bemi.context = '{"by": "session"}';
	BEGIN;
	SET LOCAL bemi.context = '{"by": "transaction"}';
	INSERT INTO mail VALUES (50, 'x');
	SELECT count(*) FROM mail;
	INSERT INTO mail VALUES (51, current_setting('bemi.context'));
	SELECT bemi.current_context();
	SET LOCAL bemi.context = '';
	SELECT count(*) FROM mail;
	INSERT INTO mail SELECT 52, max(body) FROM mail WHERE id = 50;
	COMMIT;
	INSERT INTO mail SELECT 53, max(body) FROM mail WHERE id = 50});
is( news(), <<~'END' =~ s/\n\z//r,
	mail|50|CREATE|{}|{"id": 50, "body": "x"}|{"by": "transaction"}
	mail|51|CREATE|{}|{"id": 51, "body": "{\"by\": \"transaction\"}"}|{"by": "transaction"}
	mail|52|CREATE|{}|{"id": 52, "body": "x"}|{}
	mail|53|CREATE|{}|{"id": 53, "body": "x"}|{"by": "session"}
	END
	'a session that runs parallel queries');

# A worker checks the context again when it receives the session's settings, of
# which bemi.max_context_size may be one.
my %settings = (
	'a larger bemi.max_context_size' => <<~'SQL',
		SET bemi.max_context_size = '2MB';
		SELECT bemi.set_context(jsonb_build_object('t', repeat('x', 1500000)), false) \g /dev/null
		SQL
	'a bemi.max_context_size below a context set before' => <<~'SQL');
		SELECT bemi.set_context(jsonb_build_object('t', repeat('x', 100)), false) \g /dev/null
		SET bemi.max_context_size = '16B';
		SQL
for my $name (sort keys %settings)
{
	my ($status, $stdout) = $node->psql('postgres',
		"$settings{$name} SET $parallel; SELECT count(*) FROM mail WHERE id = 50");

	is($stdout, '1', "a session that runs parallel queries, with $name");
}

$node->stop;

#
# The library is loaded by the first statement that needs it
#

my $lazy = bemi_node('lazy', conf => "shared_preload_libraries = ''\n");

$lazy->safe_psql(
	'postgres', q{
	CREATE TABLE mail (id int PRIMARY KEY, body text);
	CREATE TABLE log (id int, body text);
	CREATE FUNCTION log_mail(id int) RETURNS text LANGUAGE plpgsql
		SET bemi.context = '{"by": "function"}' AS $$
		BEGIN
			INSERT INTO log VALUES (id, 'log');
			RETURN 'mail';
		END $$;
	SELECT bemi.track('mail'), bemi.track('log');
	SELECT pg_create_logical_replication_slot('wal', 'test_decoding')});

# Gives what a new session has written, rows and messages, and its warnings.
sub session
{
	my ($sql) = @_;
	my ($status, $stdout, $stderr) = $lazy->psql('postgres', $sql);
	my $wal = $lazy->safe_psql(
		'postgres', q{
		SELECT coalesce(substring(data FROM 'content:(.*)'), substring(data FROM 'public\.(.*)'))
		FROM pg_logical_slot_get_changes('wal', NULL, NULL,
			'include-xids', '0', 'skip-empty-xacts', '1')
		WHERE data NOT IN ('BEGIN', 'COMMIT')});

	return ($wal, $stderr =~ s/^psql:<stdin>:\d+: //gmr);
}

sub session_writes
{
	my ($sql, $wal, $name) = @_;
	my ($got_wal, $got_stderr) = session($sql);

	is($got_wal, join("\n", @$wal), $name);
	is($got_stderr, '', "$name: without a word");
	return;
}

session_writes(
	q{SET bemi.context = '{"by": "setting"}';
		INSERT INTO mail VALUES (1, 'a'); INSERT INTO mail VALUES (2, 'b')},
	[
		q({"by": "setting"}), q(mail: INSERT: id[integer]:1 body[text]:'a'),
		q({"by": "setting"}), q(mail: INSERT: id[integer]:2 body[text]:'b')
	],
	'a context set before the library is loaded counts, from the first statement on');
session_writes(
	q{INSERT INTO mail VALUES (3, 'c') /*Bemi {"by": "comment"} Bemi*/;
		UPDATE mail SET body = 'd' WHERE id = 3},
	[
		q({"by": "comment"}), q(mail: INSERT: id[integer]:3 body[text]:'c'),
		q(mail: UPDATE: old-key: id[integer]:3 body[text]:'c' new-tuple: id[integer]:3 body[text]:'d')
	],
	'so does a comment');
session_writes(
	q{SELECT bemi.set_context('{"by": "function"}', is_local => false);
		DELETE FROM mail WHERE id = 3},
	[ q({"by": "function"}), q(mail: DELETE: id[integer]:3 body[text]:'d') ],
	'so does a context set by function');

for my $context ('nonsense', '[1]', '{"a": "\u0000"}')
{
	my ($wal, $stderr) = session(
		qq{SET bemi.context = '$context';
			INSERT INTO mail VALUES (6, 'e'); DELETE FROM mail WHERE id = 6;
			SELECT 1 / (current_setting('bemi.context') = '')::int});

	is( $wal,
		qq(mail: INSERT: id[integer]:6 body[text]:'e'\n)
		  . q(mail: DELETE: id[integer]:6 body[text]:'e'),
		"'$context', set before, does not count");
	like($stderr, qr/\AWARNING:  invalid value for parameter "bemi.context": .*\nDETAIL:  \S.*\n.*\z/,
		"'$context' is worth a warning, and no context stays");
}

# TRUNCATE of a partition is not in the stream, so it makes a gap; also if the trigger loads the
# library, after the server has called the hook that would have seen it.
$lazy->safe_psql('postgres', sprintf("$parted; SELECT bemi.track('%1\$s')", 'parted'));
for my $step (
	[ 'TRUNCATE parted_1' => 'parted_1' ],
	[ 'TRUNCATE parted_1, parted_2' => 'parted_1 parted_2' ],
	[ 'TRUNCATE parted' => '' ],
	[ 'BEGIN; TRUNCATE parted_2; ROLLBACK' => '' ])
{
	$lazy->safe_psql('postgres', 'INSERT INTO parted VALUES (1), (11)');
	is(join(' ', (session($step->[0]))[0] =~ /"Partition public\.(\w+) was truncated\."/g), $step->[1], "$step->[0]: gaps");
}
is((session('TRUNCATE parted; TRUNCATE parted_1'))[0] =~ /was truncated/ ? 'a gap' : '', '', 'an empty partition makes none');

$lazy->stop;
done_testing();
