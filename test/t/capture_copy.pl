# COPY writes many rows into one WAL record, so they share one position (LSN). Only the place in
# the stream distinguishes and orders them. COPY runs no plan, so the trigger itself emits the
# context. One message covers all rows.
#
# The keys are shuffled, so only the order of the file passes the test. The test counts the
# messages in the stream that the worker reads.

use strict;
use warnings;

use Bemi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $rows = 100_000;
my $node = bemi_node('main');

$node->safe_psql(
	'postgres', q{
	CREATE TABLE reading (id int PRIMARY KEY, line int NOT NULL);
	SELECT bemi.track('reading');
	CALL bemi.start();
	SELECT pg_create_logical_replication_slot('witness', 'pgoutput')});

# 100 003 is a prime: no key comes twice.
my $file = $node->basedir . '/readings.txt';
append_to_file($file,
	join('', map { ($_ * 7919 % 100_003) . "\t$_\n" } (1 .. $rows)));
$node->safe_psql(
	'postgres', qq{
	SET bemi.context = '{"import": "readings.txt"}';
	COPY reading FROM '$file'});
$node->safe_psql('postgres', q{SELECT bemi.sync('120s')});

is( $node->safe_psql('postgres',
		'SELECT count(*), count(DISTINCT id), count(DISTINCT transaction_id) FROM bemi.changes'),
	"$rows|$rows|1",
	'one COPY, as many changes as rows, each with an id of its own');
cmp_ok(
	$node->safe_psql('postgres',
		'SELECT count(DISTINCT position) FROM bemi.changes'),
	'<', $rows, 'though rows share positions');
is( $node->safe_psql(
		'postgres', q{
		SELECT count(*)
		FROM (SELECT after, row_number() OVER (ORDER BY id) AS line FROM bemi.changes) AS c
		WHERE after <> jsonb_build_object('line', line, 'id', line * 7919 % 100003)}),
	'0',
	'ORDER BY id gives the lines of the file, in their order');
is( $node->safe_psql('postgres',
		'SELECT DISTINCT operation, before, context FROM bemi.changes'),
	'CREATE|{}|{"import": "readings.txt"}',
	'all have the context');

# 'M' is 77, a logical message; 'I' is 73, an insert.
is( $node->safe_psql(
		'postgres', q{
		SELECT get_byte(data, 0), count(*)
		FROM pg_logical_slot_get_binary_changes('witness', NULL, NULL,
			'proto_version', '1', 'publication_names', 'bemi', 'messages', 'true')
		WHERE get_byte(data, 0) IN (73, 77)
			AND position('_bemi_sync'::bytea IN data) = 0
		GROUP BY 1 ORDER BY 1}),
	"73|$rows\n77|1",
	'one message explains them all');

# Each COPY of a transaction has its own context, the one without has none.
$node->safe_psql(
	'postgres', <<~SQL);
	BEGIN;
	TRUNCATE reading;
	SET LOCAL bemi.context = '{"part": 1}';
	COPY reading FROM stdin;
	1	1
	2	2
	\\.
	SET LOCAL bemi.context = '';
	COPY reading FROM stdin;
	3	3
	\\.
	SET LOCAL bemi.context = '{"part": 3}';
	COPY reading FROM stdin;
	4	4
	\\.
	COMMIT;
	SELECT bemi.sync('60s')
	SQL
is( changes($node, 'transaction_id = (SELECT max(transaction_id) FROM bemi.changes)'),
	<<~END =~ s/\n\z//r, 'several COPY in one transaction keep their contexts apart');
	reading||TRUNCATE|{}|{}|{}
	reading|1|CREATE|{}|{"id": 1, "line": 1}|{"part": 1}
	reading|2|CREATE|{}|{"id": 2, "line": 2}|{"part": 1}
	reading|3|CREATE|{}|{"id": 3, "line": 3}|{}
	reading|4|CREATE|{}|{"id": 4, "line": 4}|{"part": 3}
	END

$node->stop;
done_testing();
