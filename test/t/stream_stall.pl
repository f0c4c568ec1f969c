# A role that may write to one table cannot keep the changes of others from being stored.
#
# To describe a table, the worker may have to query the source's catalog. Here a session meanwhile
# holds locks on partitions, writes messages with wrong signatures, or changes the signing key.
# The server's log has every statement, so it shows the worker's queries, and the test measures
# nothing in seconds. The worker must continue, and still must not use a description that may be
# stale.

use strict;
use warnings;

use Bemi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Bemi::Session;
use Test::More;

my $node = bemi_node('main');
my $log = 0;

$node->safe_psql(
	'postgres', q{
	CREATE ROLE writer LOGIN;
	CREATE TABLE neutral (id int);
	SELECT bemi.track('neutral');
	CREATE TABLE parted (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
	CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
	CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (10) TO (20);
	CREATE TABLE other (id int PRIMARY KEY, card text);
	CREATE TABLE gone (id int PRIMARY KEY);
	GRANT ALL ON parted, parted_1, parted_2 TO writer;
	SELECT bemi.track(t) FROM unnest('{parted,other,gone}'::regclass[]) t;
	CALL bemi.start()});

# A message that any user can write, with a signature that is not the source's.
my $forged = q{SELECT pg_logical_emit_message(%s, '_bemi_tracking', repeat('0', 64) || '{"event": "ended", "relation": "1", "schema": "public", "table": "other", "transaction": "1"}')};
my $id = 0;

sub sync
{
	my ($status, $stdout, $stderr) = $node->psql('postgres', q{SELECT bemi.sync('30s')});
	return $stderr;
}

# How often the worker has sent a statement since the last call of begin_log().
sub begin_log { return $log = -s $node->logfile; }

sub asked
{
	my ($pattern) = @_;
	my @lines = slurp_file($node->logfile, $log) =~ /bemi_\d+_main LOG:  (?:statement|execute <unnamed>): $pattern/g;

	return scalar @lines;
}

sub make_stale
{
	return $node->safe_psql('postgres', q{UPDATE _bemi.source_relations SET description = description || '{"stale": true}'});
}

# Has the stream describe all tables again, but the one that the last stored change is of:
# the stream may begin with that change.
sub reconnect
{
	return $node->safe_psql('postgres', q{
		INSERT INTO neutral VALUES (1);
		SELECT bemi.sync('60s');
		CALL bemi.stop();
		CALL bemi.start()});
}

#
# Locks on partitions
#

for my $lock ('TRUNCATE parted', 'LOCK TABLE parted, parted_1, parted_2', 'TRUNCATE parted_2')
{
	my $session = Bemi::Session->new($node, user => 'writer');
	my $target = $lock eq 'TRUNCATE parted_2' ? 'parted' : 'other';

	reconnect();
	make_stale();
	begin_log();
	$session->query("BEGIN; $lock");
	$node->safe_psql('postgres', sprintf("$forged; INSERT INTO %s VALUES (%d, 'x')", 'true', $target, ++$id));
	is(sync(), '', "$lock, a wrong signature: the changes of others are stored");
	cmp_ok(asked('SELECT _bemi.describe'), '>', 0, 'although the worker has asked for a description');
	$session->query('COMMIT');
	$node->safe_psql('postgres', sprintf("INSERT INTO parted VALUES (%d, 'x')", ++$id));
	is(sync(), '', 'and the table itself afterwards');
	$session->quit;
}
is( $node->safe_psql('postgres', q{SELECT restarts, last_error IS NULL, invalid_messages FROM bemi.status}),
	'0|t|3', 'without a failure, and each message was counted');

#
# Messages with wrong signatures cost nothing, and change nothing
#

my $stale = q{SELECT count(*) FROM _bemi.source_relations WHERE description ? 'stale'};
$node->safe_psql('postgres', q{UPDATE _bemi.source_relations SET description = description - 'stale'});
reconnect();
$node->safe_psql('postgres', "INSERT INTO other VALUES (101, 'x'); INSERT INTO parted VALUES (9, 'x')");
is(sync(), '', 'all tables are known');
begin_log();
my $begun = time;
for my $transactional ('true', 'false')
{
	my $message = sprintf($forged, $transactional) =~ s/^SELECT/PERFORM/r;

	$node->safe_psql('postgres', qq{
		DO \$\$ BEGIN FOR n IN 1 .. 500 LOOP $message; COMMIT; END LOOP; END \$\$;
		ALTER TABLE other ADD added_$transactional int;
		INSERT INTO other VALUES (102, 'x') ON CONFLICT (id) DO UPDATE SET card = 'y'});
	is(sync(), '', "500 messages, transactional: $transactional");
}
my $most = time - $begun + 3;
cmp_ok(asked('SELECT value'), '<=', $most, 'the worker asks for the secret once a second at most');
is(asked('SELECT _bemi.describe'), 0, 'and for no description');
is($node->safe_psql('postgres', $stale), '0', 'nothing that the source has told is in doubt');

#
# A secret that was changed is noticed
#

sub change_secret { return q{UPDATE _bemi.signing_key SET value = gen_random_uuid()::text;}; }

# While the worker reads: what comes before with the former secret, what comes with
# one that was replaced before the worker could read it, and what comes after.
my $locker = Bemi::Session->new($node);
$locker->query('BEGIN; LOCK TABLE bemi.changes');
$node->safe_psql('postgres', "INSERT INTO other VALUES (103, 'x')");
$node->poll_query_until('postgres', q{
	SELECT count(*) = 1 FROM pg_locks WHERE relation = 'bemi.changes'::regclass AND NOT granted})
  or die 'the worker does not wait';
my $invalid = $node->safe_psql('postgres', 'SELECT invalid_messages FROM bemi.status');
$node->safe_psql('postgres', sprintf($forged, 'true'));
$node->safe_psql('postgres', q{SELECT bemi.untrack('gone')});
$node->safe_psql('postgres', change_secret());
$node->safe_psql('postgres', q{SELECT bemi.track('other', redact => '{card}')});
$node->safe_psql('postgres', change_secret());
$node->safe_psql('postgres', "INSERT INTO other VALUES (104, 'secret')");
$node->safe_psql('postgres', q{ALTER TABLE parted RENAME v TO w; INSERT INTO parted VALUES (8, 'x')});
$locker->query('COMMIT');
is(sync(), '', 'the secret changes while the worker is behind');
is( $node->safe_psql('postgres', q{SELECT reason FROM bemi.gaps WHERE "table" = 'gone' ORDER BY id DESC LIMIT 1}),
	'tracking_ended', 'a message that the former secret has signed counts');
is( $node->safe_psql('postgres', q{SELECT after ->> 'card' FROM bemi.changes WHERE "table" = 'other' AND primary_key = '104'}),
	'[redacted]', 'one of a secret that nobody has read is made up for by asking');
is( $node->safe_psql('postgres', q{
		SELECT string_agg(c.relname, ',' ORDER BY c.relname) FILTER (WHERE r.description ? 'stale')
		FROM _bemi.source_relations r JOIN pg_class c ON c.oid = r.relation}),
	'gone,neutral,other', 'what has been told since is not stale');
$locker->quit;

# Between two connections.
$node->safe_psql('postgres', q{SELECT bemi.track('gone'); SELECT bemi.sync(); CALL bemi.stop()});
$node->safe_psql('postgres', q{SELECT bemi.track('parted', redact => '{w}'); SELECT bemi.untrack('gone')});
$node->safe_psql('postgres', "INSERT INTO parted VALUES (7, 'secret');" . change_secret());
$node->safe_psql('postgres', 'CALL bemi.start()');
is(sync(), '', 'the secret changes while the worker is stopped');
is( $node->safe_psql('postgres', q{SELECT after ->> 'w' FROM bemi.changes WHERE "table" = 'parted' AND primary_key = '7'}),
	'[redacted]', 'rules that the former secret has signed are not passed over');
is( $node->safe_psql('postgres', q{SELECT reason FROM bemi.gaps WHERE "table" = 'gone' ORDER BY id DESC LIMIT 1}),
	'tracking_ended', 'nor the end of a table');
reconnect();
my ($secret, $row) = split(/\|/, $node->safe_psql('postgres', q{SELECT value, tableoid || ' ' || xmin FROM _bemi.signing_key}));
is( $node->safe_psql('postgres', 'SELECT DISTINCT signing_key_version FROM _bemi.source_progress'),
	derived_hmac($secret, 'bemi signing key version', $row),
	'the history keeps a code of the secret, from which nobody can tell the secret');

# During wrong signatures, when the worker must not query the source: it connects again.
$node->safe_psql('postgres', q{SELECT bemi.track('gone')});
for my $n (1 .. 20)
{
	$node->safe_psql('postgres', sprintf($forged, 'true'));
	$node->safe_psql('postgres', change_secret() . q{SELECT bemi.untrack('gone')}) if $n == 10;
}
$node->poll_query_until('postgres', q{
	SELECT reason = 'tracking_ended' FROM bemi.gaps WHERE "table" = 'gone' ORDER BY id DESC LIMIT 1})
  or fail('the end of a table is noticed, amid wrong signatures');
wait_for_state($node, 'streaming');

#
# A catalog that a superuser has locked: for the casts of a type that is not the server's own
#

$node->safe_psql(
	'postgres', q{
	CREATE TYPE own_int;
	CREATE FUNCTION own_int_in(cstring) RETURNS own_int IMMUTABLE STRICT LANGUAGE internal AS 'int4in';
	CREATE FUNCTION own_int_out(own_int) RETURNS cstring IMMUTABLE STRICT LANGUAGE internal AS 'int4out';
	CREATE TYPE own_int (INPUT = own_int_in, OUTPUT = own_int_out, LIKE = int4);
	CREATE TABLE own_typed (id int PRIMARY KEY, v own_int);
	SELECT bemi.track('own_typed')});
reconnect();
make_stale();
$locker = Bemi::Session->new($node);
begin_log();
$locker->query('BEGIN; LOCK TABLE pg_cast IN ACCESS EXCLUSIVE MODE');
$node->safe_psql('postgres', "INSERT INTO own_typed VALUES (1, '1'); INSERT INTO parted VALUES (0, 'secret')");
$node->wait_for_log(qr/source reports: canceling statement due to lock timeout/, $log);
pass('a query of the catalog does not wait for ever');
$locker->query('COMMIT');
$locker->quit;
wait_for_state($node, 'streaming');
is(sync(), '', 'the worker goes on when the lock is gone');
is( $node->safe_psql('postgres', q{SELECT after ->> 'w' FROM bemi.changes WHERE "table" = 'parted' AND primary_key = '0'}),
	'[redacted]', 'and has stored nothing without knowing the table');

$node->stop;
done_testing();
