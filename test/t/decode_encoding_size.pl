# The limits of a row and a context: another encoding than UTF-8, characters that it lacks, and
# very large values.
#
# Each encoding needs its own database, and large values pass the buffers of trigger, WAL,
# walsender, libpq and worker. Only the whole path shows that none of them truncates or converts.
# Large values are compared by their digests.

use strict;
use warnings;
use utf8;

use Bemi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main', conf => "log_statement = none\n");

#
# LATIN1
#

$node->safe_psql('postgres',
	q{CREATE DATABASE latin1 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0}
);
$node->safe_psql(
	'latin1', q{
	CREATE EXTENSION bemi;
	CREATE TABLE guest (id int PRIMARY KEY, name text, json jsonb, list text[]);
	SELECT bemi.track('guest');
	CALL bemi.start()});

# Written in escapes, so neither this file's nor the client's encoding has
# a part in it: chr() takes the code of the database's encoding, and 233 is an
# e with acute accent in LATIN1.
$node->safe_psql(
	'latin1', q{
	SELECT set_config('bemi.context', '{"by": "Ren' || chr(233) || '"}', false);
	INSERT INTO guest VALUES (1, 'Zo' || chr(235),
		jsonb_build_object('k' || chr(233), chr(255)), ARRAY[chr(233), 'b "' || chr(224)]);
	UPDATE guest SET name = chr(192) WHERE id = 1;
	SELECT bemi.sync('60s')});
is( $node->safe_psql(
		'latin1', q{
		SELECT operation, after = (SELECT to_jsonb(g) || jsonb_build_object('name',
				CASE operation WHEN 'CREATE' THEN 'Zo' || chr(235) ELSE chr(192) END) FROM guest g),
			context = jsonb_build_object('by', 'Ren' || chr(233)),
			octet_length(context->>'by')
		FROM bemi.changes ORDER BY id}),
	"CREATE|t|t|4\nUPDATE|t|t|4",
	'LATIN1: row and context are stored as they were');

# A client with UTF-8 sends a comment, and reads back what it sent.
my $eacute = "\xc3\xa9";
my ($status, $stdout, $stderr) = $node->psql(
	'latin1', qq{
	SET client_encoding = 'UTF8';
	INSERT INTO guest VALUES (2) /*Bemi {"by": "Ren$eacute"} Bemi*/;
	SELECT bemi.sync('60s');
	SELECT context->>'by' FROM bemi.changes WHERE primary_key = '2'});
is($stdout . $stderr, "\nRen$eacute", 'LATIN1: a client in UTF-8 is understood');

# The euro sign is not in LATIN1, so jsonb cannot hold it there.  A context
# with it must not be accepted and then lost, and must never break the query.
my $euro = '\u20ac';
($status, $stdout, $stderr) =
  $node->psql('latin1', qq{SET bemi.context = '{"price": "1 $euro"}'});
like($stderr, qr/ERROR: /, 'LATIN1: SET refuses what the encoding lacks');
($status, $stdout, $stderr) = $node->psql(
	'latin1', qq{
	SET bemi.context = '{"by": "setting"}';
	INSERT INTO guest VALUES (3) /*Bemi {"price": "1 $euro"} Bemi*/});
like($stderr, qr/^[^\n]*WARNING:  context in the query's comment is not valid/,
	'LATIN1: in a comment it is a warning');
is($status, 0, 'LATIN1: and the query runs');
$node->safe_psql(
	'latin1', qq{
	BEGIN;
	SELECT pg_logical_emit_message(true, '_bemi', '{"price": "1 $euro"}');
	SELECT pg_logical_emit_message(true, '_bemi', '\\xff00fe'::bytea);
	COMMIT;
	INSERT INTO guest VALUES (4);
	SELECT bemi.sync('60s')});
is( $node->safe_psql('latin1',
		q{SELECT primary_key, context FROM bemi.changes WHERE primary_key IN ('3', '4') ORDER BY id}),
	qq(3|{"by": "setting"}\n4|{}),
	'LATIN1: nor does it stop the worker');
is( $node->safe_psql('latin1',
		'SELECT state, invalid_messages, restarts FROM bemi.status'),
	'streaming|1|0',
	'LATIN1: which counts those that say nothing in any encoding');

#
# Large values
#

$node->safe_psql(
	'postgres', q{
	CREATE TABLE doc (id int PRIMARY KEY, body text, n int);
	SELECT bemi.track('doc');
	CALL bemi.start();
	-- 900 kB that do not compress well
	SELECT set_config('bemi.context', jsonb_build_object('note', string_agg(md5(n::text), ''))::text, false)
		FROM generate_series(1, 28125) n \gset
	-- 20 MB, likewise
	INSERT INTO doc SELECT 1, string_agg(md5(n::text), '') FROM generate_series(1, 655360) n;
	-- the large value stays where it is, and is not in the WAL
	UPDATE doc SET n = 2;
	DELETE FROM doc;
	SELECT bemi.sync('120s')});
is( $node->safe_psql(
		'postgres', q{
		WITH sent AS (
			SELECT (SELECT md5(string_agg(md5(n::text), '')) FROM generate_series(1, 655360) n) AS body,
				(SELECT md5(string_agg(md5(n::text), '')) FROM generate_series(1, 28125) n) AS note)
		SELECT operation, length(coalesce(before->>'body', '')), length(coalesce(after->>'body', '')),
			coalesce(md5(before->>'body') = body, true) AND coalesce(md5(after->>'body') = body, true),
			length(context->>'note') = 900000 AND md5(context->>'note') = note
		FROM bemi.changes, sent ORDER BY id}),
	<<~END =~ s/\n\z//r, 'a text of 20 MB and a context of 900 kB are stored whole');
	CREATE|0|20971520|t|t
	UPDATE|20971520|20971520|t|t
	DELETE|20971520|0|t|t
	END

# One message, many rows: the first of them holds the large context for all.
$node->safe_psql(
	'postgres', q{
	SELECT set_config('bemi.context', jsonb_build_object('note', repeat('x', 900000))::text, false) \gset
	INSERT INTO doc SELECT n, 'short' FROM generate_series(1, 200) n;
	SELECT bemi.sync('120s')});
is( $node->safe_psql('postgres',
		q{SELECT count(*), count(context->>'note'), count(*) FILTER (WHERE length(bemi.full_context(c)->>'note') = 900000)
			FROM bemi.changes c WHERE after->>'body' = 'short'}
	),
	'200|1|200',
	'many rows share a large context');

$node->stop;
done_testing();
