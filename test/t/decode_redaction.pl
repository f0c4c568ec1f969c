# Redacted values on their way to a history on another server.
#
# No file there may contain them: no table, no index, no WAL, and no message about an error. So
# the test searches the data directory and the log for every secret byte sequence. This must hold
# whether the worker reads the rule from the stream, from the catalog because it cannot read the
# source's signing key, under a new signing key, or from a dump.

use strict;
use warnings;

use Bemi;
use File::Find;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Bemi::Session;
use Test::More;

my $source = bemi_node('source');
my $history = bemi_node('history');
my $connstr = $source->connstr('postgres') . ' user=postgres';

# Every text with this prefix is secret. The rest makes each one different.
my $secret = 'S3CR3T';

sub sync
{
	my ($name) = @_;
	my $lsn = $source->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');

	$source->safe_psql('postgres', q{SELECT pg_logical_emit_message(true, '_bemi', '{}')});
	$history->poll_query_until('history',
		"SELECT stored_lsn >= '$lsn' FROM bemi.status WHERE source = '$name'")
	  or die "$name is late: " . $history->safe_psql('history', 'SELECT * FROM bemi.status');
	return;
}

# Files of the server in which the secret stands.
sub files_with_secret
{
	my ($node) = @_;
	my @found;

	find(
		{
			no_chdir => 1,
			wanted => sub {
				return if !-f $_;
				my $content = eval { slurp_file($_) } // '';
				push @found, $_ if index($content, $secret) >= 0;
			}
		},
		$node->data_dir, $node->logfile);
	return join(' ', sort @found);
}

$history->safe_psql('postgres', 'CREATE DATABASE history');
$history->safe_psql('history', 'CREATE EXTENSION bemi');
$source->safe_psql(
	'postgres', qq{
	CREATE TYPE place AS (street text, town text);
	CREATE TABLE person (id int, email text, name text, place place, tags text[], doc json, big text, v int,
		PRIMARY KEY (id, email));
	ALTER TABLE person ALTER big SET STORAGE EXTERNAL;
	SELECT bemi.track('person', redact => '{email,place,tags,doc}', redact_hash => '{name,big}');
	CREATE FUNCTION big(n int) RETURNS text LANGUAGE sql AS
		\$\$SELECT string_agg('$secret' || md5((n * 1000 + m)::text), '') FROM generate_series(1, 1000) m\$\$});
$history->safe_psql('history', "CALL bemi.start('person', conninfo => \$c\$$connstr\$c\$)");

$source->safe_psql(
	'postgres', qq{
	SET bemi.context = '{"why": "test"}';
	INSERT INTO person SELECT n, '$secret-email-' || n, '$secret-name', ROW('$secret-street'::text, '$secret-town'::text)::place,
		ARRAY['$secret-tag', NULL], '{"$secret": "\\u0000"}', big(n), 0 FROM generate_series(1, 20) n;
	UPDATE person SET v = 1;
	UPDATE person SET email = '$secret-other-' || id, place = NULL;
	UPDATE person SET name = '$secret-renamed' WHERE id = 1;
	UPDATE person SET big = big(21) WHERE id = 2;
	DELETE FROM person WHERE id > 10});
sync('person');
is( $history->safe_psql(
		'history', q{
		SELECT operation, count(*), count(DISTINCT primary_key), bool_and(context = '{"why": "test"}'),
			bool_and((before || after) ->> 'email' = '[redacted]' AND (before || after) ->> 'doc' = '[redacted]'
				AND primary_key ~ '^\["\d+", "\[redacted\]"\]$'),
			count(*) FILTER (WHERE before ->> 'name' <> after ->> 'name'), count(*) FILTER (WHERE before ->> 'big' <> after ->> 'big')
		FROM bemi.changes GROUP BY operation ORDER BY operation}),
	"CREATE|20|20|t|t|0|0\nDELETE|10|10|t|t|0|0\nUPDATE|42|20|t|t|1|1",
	'all changes are there, redacted, and hashes show what has changed');

# Storing them fails: the server logs what it could not store.
$history->safe_psql('history',
	q{ALTER TABLE bemi.changes ADD CONSTRAINT refuse CHECK (after ->> 'v' <> '2')});
$source->safe_psql('postgres', 'UPDATE person SET v = 2 WHERE id = 3');
ok( $history->poll_query_until('history',
		q{SELECT last_error LIKE '%refuse%' FROM bemi.status}),
	'the worker fails');
$history->safe_psql('history', 'ALTER TABLE bemi.changes DROP CONSTRAINT refuse');
sync('person');

$history->safe_psql('history', 'CHECKPOINT');
is(files_with_secret($history), '', 'no redacted value is in any file of the history\'s server');
isnt(files_with_secret($source), '', 'while the source has them');

#
# What the worker may not read
#

# Without the signing key it cannot verify messages, but must not store the
# value either; there is no key for hashes.
$source->safe_psql(
	'postgres', qq{
	CREATE ROLE reader LOGIN REPLICATION;
	CREATE TABLE open (id int PRIMARY KEY, a text, b text, c text);
	SELECT bemi.track('open', redact => '{a}', redact_hash => '{b}')});
$history->safe_psql('history', "CALL bemi.drop_source('person')");
$history->safe_psql('history',
	q{CALL bemi.start('reader', conninfo => $c$} . $source->connstr('postgres') . q{ user=reader$c$)});
$source->safe_psql(
	'postgres', qq{
	INSERT INTO open VALUES (1, '$secret', '$secret', 'open');
	SELECT bemi.track('open', redact => '{a,c}');
	INSERT INTO open VALUES (2, '$secret', '$secret', '$secret');
	ALTER TABLE open RENAME a TO z;
	INSERT INTO open VALUES (3, '$secret', '$secret', '$secret')});
sync('reader');
# (What was added later may or may not have been known when the worker came to the
# first row.)
is( $history->safe_psql(
		'history', q{
		SELECT after - CASE primary_key WHEN '1' THEN 'c' ELSE '' END FROM bemi.changes WHERE "table" = 'open' ORDER BY id}),
	<<~'END' =~ s/\n\z//r, 'without the secret, values are redacted as a whole');
	{"a": "[redacted]", "b": "[redacted]", "id": 1}
	{"a": "[redacted]", "b": "[redacted]", "c": "[redacted]", "id": 2}
	{"b": "[redacted]", "c": "[redacted]", "z": "[redacted]", "id": 3}
	END

# Granted while the worker reads: the next message about a table is understood.
$source->safe_psql(
	'postgres', qq{
	GRANT SELECT ON _bemi.signing_key TO reader;
	SELECT bemi.track('open', redact_hash => '{b,c}', redact => '{}');
	INSERT INTO open VALUES (4, 'open', '$secret', '$secret')});
sync('reader');
is( $history->safe_psql('history',
		q{SELECT after ->> 'z', after ->> 'b' ~ '^\[redacted:[0-9a-f]{32}\]$', after ->> 'b' <> after ->> 'c' FROM bemi.changes
			WHERE "table" = 'open' AND primary_key = '4'}),
	'open|t|t', 'with it, there are hashes, which are a column\'s own');

#
# The extension is created again at the source, with another signing key
#

$source->safe_psql(
	'postgres', qq{
	SELECT bemi.untrack('open'), bemi.untrack('person');
	DROP EXTENSION bemi;
	CREATE EXTENSION bemi;
	GRANT SELECT ON _bemi.signing_key TO reader;
	SELECT bemi.track('open', redact => '{b}', redact_hash => '{z,c}');
	INSERT INTO open VALUES (5, '$secret', '$secret', '$secret')});
sync('reader');
is( $history->safe_psql('history',
		q{SELECT after ->> 'b', after ->> 'c' ~ '^\[redacted:[0-9a-f]{32}\]$',
			after ->> 'c' <> (SELECT after ->> 'c' FROM bemi.changes WHERE "table" = 'open' AND primary_key = '4')
		FROM bemi.changes WHERE "table" = 'open' AND primary_key = '5'}),
	'[redacted]|t|t', 'a secret that was made anew is noticed, and makes other hashes');

#
# The worker comes late, to tables that are not what they were
#

my $has_filters = $source->safe_psql(
	'postgres', qq{
	SELECT bemi.untrack('open');
	CREATE TABLE dropped_column (id int PRIMARY KEY, ssn text, old text);
	CREATE TABLE unpublished (id int PRIMARY KEY, ssn text);
	CREATE TABLE filtered (id int PRIMARY KEY, ssn text);
	CREATE TABLE generated (id int PRIMARY KEY, ssn text, lower text GENERATED ALWAYS AS (lower(ssn)) STORED);
	SELECT bemi.track(t, redact => '{ssn}') FROM unnest('{unpublished,filtered}'::regclass[]) t;
	SELECT bemi.track('dropped_column', redact => '{ssn,old}');
	SELECT bemi.track('generated', redact => '{ssn,lower}');
	ALTER TABLE dropped_column DROP old;
	SELECT current_setting('server_version_num')::int >= 150000});
$source->safe_psql('postgres',
	'ALTER PUBLICATION bemi DROP TABLE ONLY filtered; ALTER PUBLICATION bemi ADD TABLE ONLY filtered WHERE (id > 0)')
  if $has_filters =~ /t$/;
$history->safe_psql('history',
	q{CALL bemi.start('late', conninfo => $c$} . $source->connstr('postgres') . q{ user=postgres$c$)});
$history->safe_psql('history', q{CALL bemi.stop('late')});
my $writer = Bemi::Session->new($source);
$writer->query("BEGIN; INSERT INTO unpublished VALUES (1, '$secret')");
$source->safe_psql(
	'postgres', qq{
	INSERT INTO dropped_column VALUES (1, '$secret');
	ALTER TABLE dropped_column RENAME ssn TO number;
	INSERT INTO dropped_column VALUES (2, '$secret');
	DROP TABLE dropped_column;
	INSERT INTO generated VALUES (1, '$secret');
	ALTER TABLE generated RENAME ssn TO number;
	INSERT INTO generated VALUES (2, '$secret');
	SELECT bemi.track('generated', redact => '{}');
	INSERT INTO filtered VALUES (1, '$secret');
	ALTER TABLE filtered RENAME ssn TO number;
	SELECT bemi.untrack('filtered');
	ALTER PUBLICATION bemi DROP TABLE unpublished});
$writer->query('COMMIT');
$writer->quit;
$source->safe_psql('postgres', 'DROP TABLE unpublished, filtered');
$history->safe_psql('history', q{CALL bemi.start('late')});
sync('late');
is( $history->safe_psql(
		'history', q{
		SELECT "table", after - 'lower' FROM bemi.changes WHERE source = 'late' ORDER BY "table", id}),
	<<~'END' =~ s/\n\z//r, 'a worker that comes late knows what the rules were');
	dropped_column|{"id": 1, "ssn": "[redacted]"}
	dropped_column|{"id": 2, "number": "[redacted]"}
	filtered|{"id": 1, "ssn": "[redacted]"}
	generated|{"id": 1, "ssn": "[redacted]"}
	generated|{"id": 2, "number": "[redacted]"}
	unpublished|{"id": 1, "ssn": "[redacted]"}
	END

# A source that had a signing key has none any more: its messages stay valid.
$source->safe_psql('postgres',
	"CREATE TABLE last (id int PRIMARY KEY, ssn text); SELECT bemi.track('last', redact => '{ssn}')");
sync('late');
$history->safe_psql('history', q{CALL bemi.stop('late')});
$source->safe_psql(
	'postgres', qq{
	INSERT INTO last VALUES (1, '$secret');
	SET client_min_messages = warning;
	DROP EXTENSION bemi CASCADE;
	INSERT INTO last VALUES (2, '$secret')});
$history->safe_psql('history', q{CALL bemi.start('late')});
sync('late');
is( $history->safe_psql('history',
		q{SELECT count(*), bool_and(after ->> 'ssn' = '[redacted]') FROM bemi.changes
			WHERE source = 'late' AND "table" = 'last'}),
	'2|t', 'rules outlive the extension at the source');

# An empty secret is none, and no reason to fall over.
$source->safe_psql(
	'postgres', qq{
	CREATE EXTENSION bemi;
	DELETE FROM _bemi.signing_key;
	GRANT SELECT ON _bemi.signing_key TO reader;
	INSERT INTO last VALUES (3, '$secret')});
$history->safe_psql('history', q{CALL bemi.stop('late'); CALL bemi.start('late')});
sync('late');
is( $history->safe_psql('history', q{SELECT state, restarts FROM bemi.status WHERE source = 'late'}),
	'streaming|0', 'a source without a secret is read');
$source->safe_psql('postgres', "INSERT INTO _bemi.signing_key VALUES ('a new one')");
$history->safe_psql('history', q{CALL bemi.drop_source('late')});

# A rule waits for those who are writing to a partition, so that nothing is stored
# under another one than it was written under.
$source->safe_psql(
	'postgres', q{
	CREATE TABLE part (id int PRIMARY KEY, ssn text) PARTITION BY RANGE (id);
	CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
	SELECT bemi.track('part', redact => '{ssn}')});
$writer = Bemi::Session->new($source);
$writer->query("BEGIN; INSERT INTO part_1 VALUES (1, '$secret')");
my $tracker = Bemi::Session->new($source);
$tracker->send(q{SELECT bemi.track('part', redact => '{}')});
$tracker->wait_until_it_waits;
$writer->query('COMMIT');
like($tracker->result, qr/^\s*$/, 'a change of rules waits for writers of a partition');
$_->quit for $writer, $tracker;
$source->safe_psql('postgres', "SELECT bemi.untrack('part'); SELECT bemi.track('open', redact => '{b}', redact_hash => '{z,c}')");

#
# A dump carries the rules, and what reads the copy follows them
#

$source->safe_psql('postgres', 'CREATE DATABASE copy');
$source->command_ok(
	[ 'sh', '-c', 'pg_dump -d "$0" | psql -X -q -v ON_ERROR_STOP=1 -d "$1"', $source->connstr('postgres'), $source->connstr('copy') ],
	'a dump is restored');
is( $source->safe_psql('copy', q{SELECT redact, redact_hash, problems FROM bemi.tracked WHERE "table" = 'open'::regclass}),
	'{b}|{z,c}|{}', 'with its rules');
$history->safe_psql('history',
	q{CALL bemi.start('copy', conninfo => $c$} . $source->connstr('copy') . q{ user=postgres$c$)});
$source->safe_psql('copy', qq{INSERT INTO open VALUES (6, '$secret', '$secret', '$secret')});
$history->poll_query_until('history',
	q{SELECT count(*) = 1 FROM bemi.changes WHERE source = 'copy' AND after ->> 'b' = '[redacted]'})
  or die 'the copy is not read';

$history->safe_psql('history', 'CHECKPOINT');
is(files_with_secret($history), '', 'nor did any value get through by one of these ways');

$history->safe_psql('history',
	q{CALL bemi.drop_source('copy'); CALL bemi.drop_source('reader')});
$history->stop;
$source->stop;
done_testing();
