# What rows, messages, DDL of users and other roles can do to the worker.
#
# The worker is a superuser's process that reads what every role writes. It must not stop because
# of that, and must not do for a role what the role cannot do itself. Each part here has once
# stopped the worker, crashed the server, or worse. So each checks at the end that the worker
# stores the next change.

use strict;
use warnings;

use Bemi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main', conf => "max_prepared_transactions = 5\n");

$node->safe_psql(
	'postgres', q{
	CREATE TABLE probe (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
	CREATE TABLE by_bytes (key bytea PRIMARY KEY);
	CREATE TABLE by_two (a text, b text, PRIMARY KEY (a, b));
	CREATE TABLE wide_json (id int PRIMARY KEY, j json);
	SELECT bemi.track(t::regclass) FROM unnest('{probe, by_bytes, by_two, wide_json}'::text[]) t;
	CALL bemi.start()});

my $probes = 0;

sub works_on
{
	my ($name) = @_;

	$probes++;
	is( $node->safe_psql(
			'postgres', q{
			INSERT INTO probe DEFAULT VALUES;
			SELECT bemi.sync('60s');
			SELECT count(*) FROM bemi.changes WHERE "table" = 'probe'}),
		"\n$probes",
		"$name: the worker goes on");
	return;
}

#
# Rows and messages
#

$node->safe_psql(
	'postgres', q{
	INSERT INTO by_bytes SELECT decode(repeat(md5('key ' || n), 100), 'hex') FROM generate_series(1, 3) n;
	INSERT INTO by_two VALUES (repeat('"', 1000), repeat('\\', 1000))});
works_on('keys that are too long for an index of ours');
is( $node->safe_psql(
		'postgres', q{
		SELECT count(DISTINCT primary_key), bool_and(primary_key ~ '^\\\\x[0-9a-f]+\.\.\.md5:[0-9a-f]{32}$')
		FROM bemi.changes WHERE "table" = 'by_bytes'}),
	'3|t',
	'such keys are cut, and still differ');

# More elements than a jsonb value can have, which is an internal error.
my $too_many = q{('{"a":[' || repeat('0,', 17000000) || '0]}')};
$node->safe_psql('postgres',
	"SELECT pg_logical_emit_message(true, '_bemi', $too_many)");
works_on('a message with 17 million elements');
$node->safe_psql('postgres', "INSERT INTO wide_json VALUES (1, ${too_many}::json)");
works_on('a json value with 17 million elements');
is( $node->safe_psql(
		'postgres', q{
		SELECT jsonb_typeof(after->'j'), length(after->>'j') FROM bemi.changes WHERE "table" = 'wide_json'}),
	'string|34000009',
	'such a value is kept as its text');

#
# Users' DDL on the history
#

$node->safe_psql(
	'postgres', q{
	ALTER TABLE bemi.changes ADD COLUMN seen text DEFAULT 'no',
		ADD COLUMN by_user text GENERATED ALWAYS AS (context->>'userId') STORED;
	SET bemi.context = '{"userId": 7}';
	INSERT INTO by_two VALUES ('a', 'b')});
works_on("users' columns");
is( $node->safe_psql('postgres',
		q{SELECT seen, by_user FROM bemi.changes WHERE primary_key = '["a", "b"]'}),
	'no|7',
	'defaults and generated columns are filled');

my $month = $node->safe_psql('postgres',
	q{SELECT format('_bemi.%I', relname) FROM pg_class WHERE relname ~ '^changes_\d{4}_\d\d$'});
$node->safe_psql(
	'postgres', qq{
	ALTER TABLE bemi.changes DETACH PARTITION $month;
	CREATE TABLE bemi.mine PARTITION OF bemi.changes DEFAULT PARTITION BY RANGE (committed_at);
	INSERT INTO by_two VALUES ('c', 'd')});
wait_for_state($node, 'failed');
like(
	$node->safe_psql('postgres', 'SELECT last_error FROM bemi.status'),
	qr/partition "mine" of bemi.changes is not a plain table/,
	'a partition with partitions: the worker says what is wrong');
$node->safe_psql('postgres', 'DROP TABLE bemi.mine');
$node->safe_psql('postgres', q{SELECT bemi.sync('60s')});
is( $node->safe_psql('postgres', q{SELECT tableoid::regclass FROM bemi.changes}),
	"${month}_1",
	'when it is gone, the worker makes one of its own beside the detached one');
$probes = 0;
works_on('partitions of users');

#
# A worker that waits for an old transaction of another role can be terminated
#

$node->safe_psql('postgres', q{CALL bemi.drop_source('main')});
$node->safe_psql('postgres',
	q{BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'old'});
$node->safe_psql('postgres', 'CALL bemi.start(wait => false)');
wait_for_state($node, 'making slot');
$node->safe_psql('postgres', q{CALL bemi.drop_source('main')});
$node->poll_query_until(
	'postgres', q{SELECT NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name LIKE 'bemi%')})
  or die 'the half-made slot stays';
is(remains($node), '0 rows, 0 slots, 0 origins',
	'a source whose slot waits for an old transaction can be dropped');
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'old'});
is(start_error($node), '', 'and started again');
works_on('after that');

#
# Other roles
#

$node->safe_psql(
	'postgres', q{
	CREATE DATABASE lent;
	CREATE ROLE owner SUPERUSER});
$node->safe_psql(
	'lent', q{
	SET ROLE owner;
	CREATE EXTENSION bemi;
	SELECT _bemi.make_partition(now());
	INSERT INTO bemi.changes SELECT gen_random_uuid(), '', '', '', '', '', '{}', '{}', '{}', now(), now(), now(), 0, 0, ''});
my ($status, $stdout, $stderr) = $node->psql('lent', 'DROP OWNED BY owner');
like(
	$stderr,
	qr/ERROR:  cannot drop extension bemi because it holds history/,
	'DROP OWNED does not delete the history by the way');

# The extension is dropped unnoticed, and another role creates what the worker
# would read.
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
$node->safe_psql(
	'postgres', q{
	SET client_min_messages = warning;
	DROP EXTENSION bemi CASCADE;
	CREATE ROLE mallory LOGIN;
	GRANT CREATE ON DATABASE postgres TO mallory});
$node->safe_psql(
	'postgres', q{
	CREATE SCHEMA bemi;
	CREATE FUNCTION bemi.trap() RETURNS text LANGUAGE plpgsql AS
		$$ BEGIN ALTER ROLE mallory SUPERUSER; RETURN 'run'; END $$;
	CREATE VIEW bemi.sources AS SELECT 'main'::text AS name, bemi.trap() AS desired,
		true AS slot_made, NULL::text AS conninfo},
	extra_params => [ '-U', 'mallory' ]);
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'bemi'");
$node->restart;
$node->poll_query_until(
	'postgres', q{SELECT NOT EXISTS (SELECT FROM pg_replication_origin WHERE roname LIKE 'bemi%')})
  or die 'the origin stays';
is($node->safe_psql('postgres', q{SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'}),
	'f', 'the worker reads nothing that is not of the extension');

$node->stop;
done_testing();
