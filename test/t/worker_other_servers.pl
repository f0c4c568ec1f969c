# Sources that are not what they were: other servers, new timelines, old copies.
#
# One history reads several servers at once: two databases of the same name, and one without the
# extension, where a PL/pgSQL trigger writes the context messages. Then servers are replaced as
# operators replace them: by a promoted standby, an older copy, another server at the same
# address. bemi.gaps must show where changes are lost, or where stored changes are no longer true,
# and must show nothing elsewhere.

use strict;
use warnings;

use Bemi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $east = bemi_node('east');
my $west = bemi_node('west');
my $history = bemi_node('history', conf => "max_worker_processes = 16\n");

# A server that bemi is not installed on.
my $plain = PostgreSQL::Test::Cluster->new('plain');
$plain->init(allows_streaming => 'logical', extra => [ '--no-locale', '--encoding=UTF8' ]);
$plain->append_conf('postgresql.conf', "timezone = 'UTC'\nmax_connections = 20\n");
$plain->start;

sub start
{
	my ($node, $name) = @_;
	my $conninfo = $node->connstr('postgres') =~ s/'/''/gr;

	return start_error($history, "CALL bemi.start('$name', conninfo => '$conninfo')");
}

sub wait_for
{
	my ($count, $where) = @_;

	$history->poll_query_until('postgres',
		"SELECT count(*) >= $count FROM bemi.changes WHERE $where")
	  or die "changes do not come: $where";
	return;
}

sub wait_for_source
{
	my ($source) = @_;

	$history->poll_query_until('postgres',
		"SELECT state = 'streaming' FROM bemi.status WHERE source = '$source'")
	  or die "$source does not stream";
	return;
}

# Gaps of all tables of a source, but the first.
sub gaps
{
	my ($source) = @_;

	return $history->safe_psql('postgres', qq{
		SELECT concat_ws(' ', reason, CASE WHEN to_time IS NULL THEN 'open' END)
		FROM bemi.gaps WHERE source = '$source' AND "table" IS NULL AND reason <> 'source_started'
		ORDER BY noticed_at});
}

#
# Several sources
#

for my $node ($east, $west)
{
	$node->safe_psql(
		'postgres', q{
		CREATE TABLE t (id int PRIMARY KEY, v text);
		SELECT bemi.track('t')});
}
is(start($east, 'east'), '', 'one source');
is(start($west, 'west'), '', 'another, whose database has the same name');
$east->safe_psql('postgres', q{SET bemi.context = '{"at": "east"}'; INSERT INTO t VALUES (1, 'e')});
$west->safe_psql('postgres', q{SET bemi.context = '{"at": "west"}'; INSERT INTO t VALUES (1, 'w')});
wait_for(2, 'true');
is( $history->safe_psql('postgres',
		'SELECT source, database, after, context FROM bemi.changes ORDER BY source'),
	qq(east|postgres|{"v": "e", "id": 1}|{"at": "east"}\nwest|postgres|{"v": "w", "id": 1}|{"at": "west"}),
	'the source tells them apart');

# Another history of the same source, under the same name, in a database of the
# same OID: each has its own slot, also the source's own worker.
my $conninfo_of_east = $east->connstr('postgres') =~ s/'/''/gr;
$east->safe_psql('postgres', q{CALL bemi.start('east')});
is( start_error($west, "CALL bemi.start('east', conninfo => '$conninfo_of_east')"), '', 'two more histories of one source');
is($east->safe_psql('postgres', 'SELECT count(*), count(*) FILTER (WHERE active) FROM pg_replication_slots'), '3|3', 'each has a slot');
$west->safe_psql('postgres', q{CALL bemi.drop_source('east')});
is($east->safe_psql('postgres', 'SELECT count(*), count(*) FILTER (WHERE active) FROM pg_replication_slots'), '2|2', 'which goes with it');
$east->safe_psql('postgres', q{CALL bemi.drop_source('east')});

#
# Without the extension
#

like(
	start($plain, 'plain'),
	qr/publication "bemi" does not exist at the source.*HINT:  In the source's database: CREATE PUBLICATION bemi/s,
	'without a publication, an error says what to do');
$plain->safe_psql(
	'postgres', q{
	CREATE TABLE p (id int PRIMARY KEY, v text);
	ALTER TABLE p REPLICA IDENTITY FULL;
	CREATE FUNCTION emit() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM pg_logical_emit_message(true, '_bemi', coalesce(nullif(current_setting('app.context', true), ''), '{}'));
		RETURN NULL;
	END $$;
	CREATE TRIGGER emit BEFORE INSERT OR UPDATE OR DELETE ON p FOR EACH STATEMENT EXECUTE FUNCTION emit();
	CREATE PUBLICATION bemi FOR TABLE p WITH (publish_via_partition_root = true)});
is(start($plain, 'plain'), '', 'with one, it is read');
$plain->safe_psql(
	'postgres', q{
	SET app.context = '{"who": "plain"}';
	INSERT INTO p VALUES (1, 'a');
	UPDATE p SET v = 'b';
	RESET app.context;
	DELETE FROM p});
wait_for(3, q{source = 'plain'});
is( $history->safe_psql('postgres',
		q{SELECT "table", primary_key, operation, before, after, context FROM bemi.changes WHERE source = 'plain' ORDER BY id}),
	join("\n",
		'p|1|CREATE|{}|{"v": "a", "id": 1}|{"who": "plain"}',
		'p|1|UPDATE|{"v": "a", "id": 1}|{"v": "b", "id": 1}|{"who": "plain"}',
		'p|1|DELETE|{"v": "b", "id": 1}|{}|{}'),
	'rows and contexts');
$plain->safe_psql('postgres', q{
	CREATE TABLE q (id int PRIMARY KEY);
	ALTER PUBLICATION bemi ADD TABLE q;
	INSERT INTO q VALUES (1)});
wait_for(1, q{"table" = 'q'});
$history->poll_query_until('postgres', q{
	SELECT s.stored_until > h.committed_at FROM bemi.status s, bemi.changes h WHERE s.source = 'plain' AND h."table" = 'q'})
  or die 'the time of the change is never complete';
is( $history->safe_psql('postgres', q{
		SELECT c.complete, c.reason FROM bemi.changes h, bemi.source_completeness('plain', 'public', 'q', h.committed_at, h.committed_at) c
		WHERE h."table" = 'q'}),
	't|',
	'a table that came later is complete from its first change on');
is( $history->safe_psql('postgres', q{
		SELECT string_agg(c.reason, ',' ORDER BY c.reason) FROM bemi.source_completeness('plain', 'public', 'q', '-infinity', '2020-01-01') c}),
	'source_started,tracking_began',
	'and not before');
$plain->safe_psql('postgres', 'ALTER PUBLICATION bemi DROP TABLE q');
$history->safe_psql('postgres', q{CALL bemi.stop('plain'); CALL bemi.start('plain')});
is( $history->safe_psql('postgres', q{SELECT reason FROM bemi.gaps WHERE source = 'plain' AND "table" = 'q' AND to_time IS NULL}),
	'tracking_ended',
	'that it is no longer published is noticed with the next connection');
is( $history->safe_psql('postgres', q{SELECT conninfo IS NOT NULL FROM bemi.sources WHERE name = 'plain'}),
	't', 'to start a source again, its connection string need not be given');

# What a slot costs on another server is shown here.
$history->poll_query_until('postgres', q{
	SELECT bool_and(wal_kept > 0 AND wal_status = 'reserved' AND catalog_xmin_age >= 0
		AND lag_bytes IS NOT NULL AND database = 'postgres') FROM bemi.status})
  or die 'bemi.status does not show the slots';
pass('bemi.status shows slots on other servers');

# And kept within bounds.
$history->safe_psql('postgres', q{
	ALTER SYSTEM SET bemi.max_slot_lag = '4MB';
	ALTER SYSTEM SET bemi.max_slot_lag_action = 'drop';
	SELECT pg_reload_conf();
	CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
	CREATE TRIGGER refuse BEFORE INSERT ON bemi.changes FOR EACH ROW WHEN (NEW.source = 'plain') EXECUTE FUNCTION refuse();
	ALTER TABLE bemi.changes ENABLE ALWAYS TRIGGER refuse});
$plain->safe_psql('postgres', q{
	INSERT INTO p SELECT i, repeat('x', 1000) FROM generate_series(10, 6000) i;
	SELECT pg_switch_wal(); CHECKPOINT});
$history->poll_query_until('postgres',
	q{SELECT EXISTS (SELECT FROM bemi.gaps WHERE source = 'plain' AND reason = 'max_slot_lag' AND to_time IS NOT NULL)})
  or die 'the slot is not given up';
$history->safe_psql('postgres', q{
	DROP TRIGGER refuse ON bemi.changes;
	ALTER SYSTEM RESET bemi.max_slot_lag; ALTER SYSTEM RESET bemi.max_slot_lag_action; SELECT pg_reload_conf()});
wait_for_source('plain');
$plain->safe_psql('postgres', q{INSERT INTO p VALUES (2, 'after')});
wait_for(1, q{source = 'plain' AND primary_key = '2'});
pass('a slot on another server is given up when it keeps too much');
$history->safe_psql('postgres', q{CALL bemi.drop_source('plain')});
is( $plain->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots'), '0', 'its slot is dropped there');

#
# A source goes back to an older copy, which has the slot
#

$east->stop;
$east->backup_fs_cold('copy');
$east->start;
wait_for_source('east');
$east->safe_psql('postgres', q{INSERT INTO t SELECT i, 'gone' FROM generate_series(10, 20) i});
wait_for(12, q{source = 'east'});

# Puts the copy in the place of the server.
sub restore_copy
{
	my ($new_timeline) = @_;
	my $data = $east->data_dir;

	$east->stop;
	rename($data, "$data.old") or die "could not rename: $!";
	PostgreSQL::Test::RecursiveCopy::copypath($east->backup_dir . '/copy', $data);
	chmod(0700, $data);
	$east->append_conf('postgresql.conf', "port = " . $east->port . "\nrestore_command = 'false'\n");
	append_to_file("$data/recovery.signal", '') if $new_timeline;
	File::Path::rmtree("$data.old");
	$east->start;
	return;
}

restore_copy(1);
wait_for_source('east');
is(gaps('east'), 'timeline_changed', 'an older copy on a new timeline');
$east->safe_psql('postgres', q{INSERT INTO t SELECT i, 'anew' FROM generate_series(10, 20) i});
wait_for(23, q{source = 'east'});
is( $history->safe_psql('postgres', q{
		SELECT count(*), count(DISTINCT id), count(*) FILTER (WHERE after ->> 'v' = 'anew') FROM bemi.changes WHERE source = 'east'}),
	'23|23|11',
	'all that is written from then on is stored');
is( $history->safe_psql('postgres', q{
		SELECT bool_and(from_lsn < to_lsn AND from_time < to_time AND detail IS NOT NULL) FROM bemi.gaps WHERE reason = 'timeline_changed'}),
	't',
	'the gap covers what is no longer true');

# Without a new timeline nothing is certain, but the end of the WAL shows it.
restore_copy(0);
wait_for_source('east');
is(gaps('east'), "timeline_changed\ntimeline_changed", 'back on the former timeline');
$east->safe_psql('postgres', q{INSERT INTO t SELECT i, 'third' FROM generate_series(10, 20) i});
wait_for(34, q{source = 'east'});
$east->stop;
File::Path::rmtree($east->backup_dir . '/copy');
$east->backup_fs_cold('copy');
$east->start;
wait_for_source('east');
$east->safe_psql('postgres', q{INSERT INTO t SELECT i, 'gone' FROM generate_series(30, 3000) i});
wait_for(34 + 2971, q{source = 'east'});
restore_copy(0);
wait_for_source('east');
is(gaps('east'), "timeline_changed\ntimeline_changed\nsource_went_back", 'an older copy on the same timeline');
$east->safe_psql('postgres', q{INSERT INTO t SELECT i, 'fourth' FROM generate_series(30, 3000) i});
wait_for(34 + 2 * 2971, q{source = 'east'});
is( $history->safe_psql('postgres', q{
		SELECT count(*) - count(DISTINCT id), count(*) FILTER (WHERE after ->> 'v' = 'fourth') FROM bemi.changes WHERE source = 'east'}),
	'0|2971',
	'and all is stored, with ids of its own, though positions come again');

#
# A source is replaced by its standby, which has no slot
#

$west->backup('standby');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($west, 'standby', has_streaming => 1);
$standby->start;
$west->safe_psql('postgres', q{INSERT INTO t VALUES (2, 'before')});
$west->wait_for_catchup($standby);
wait_for(2, q{source = 'west'});
$west->stop('immediate');
$standby->promote;
$standby->safe_psql('postgres', q{INSERT INTO t VALUES (3, 'lost')});
my $conninfo = $standby->connstr('postgres') =~ s/'/''/gr;
$history->safe_psql('postgres', q{CALL bemi.stop('west')});
is(start($standby, 'west'), '', 'a promoted standby is read in place of its primary');
$standby->safe_psql('postgres', q{INSERT INTO t VALUES (4, 'after')});
wait_for(3, q{source = 'west'});
is( $history->safe_psql('postgres', q{SELECT string_agg(primary_key, ',' ORDER BY id) FROM bemi.changes WHERE source = 'west'}),
	'1,2,4', 'it has no slot: what was written before is lost');
is(gaps('west'), 'timeline_changed', 'as the gap says');

#
# Another server under the same address
#

$history->safe_psql('postgres', q{CALL bemi.stop('west')});
$plain->safe_psql('postgres', q{CREATE TABLE t (id int PRIMARY KEY, v text); ALTER PUBLICATION bemi ADD TABLE t});
is(start($plain, 'west'), '', 'quite another server');
$plain->safe_psql('postgres', q{INSERT INTO t VALUES (5, 'other')});
wait_for(4, q{source = 'west'});
is(gaps('west'), "timeline_changed\nserver_changed", 'is a gap');

#
# The history's own server is replaced by its standby
#

$history->safe_psql(
	'postgres', q{
	CREATE TABLE own (id int PRIMARY KEY, v text);
	SELECT bemi.track('own');
	CALL bemi.start();
	INSERT INTO own VALUES (1, 'a');
	SELECT bemi.sync('60s')});
$history->backup('standby');
my $heir = PostgreSQL::Test::Cluster->new('heir');
$heir->init_from_backup($history, 'standby', has_streaming => 1);
$heir->start;
is($heir->safe_psql('postgres', q{SELECT state, lag_bytes IS NULL FROM bemi.status WHERE source = 'main'}),
	'not running|t', 'bemi.status can be read on a standby');
# The end of the backup has switched WAL, which the worker notes.
$history->poll_query_until('postgres', q{
	SELECT p.stored_until > c.committed_at + interval '100 milliseconds' FROM _bemi.source_progress p, bemi.changes c
	WHERE p.source = 'main' AND c."table" = 'own'})
  or die 'it is not noted that the first row is stored';
$history->safe_psql('postgres', q{INSERT INTO own VALUES (2, 'b'); SELECT bemi.sync('60s')});
# The worker does not wait for its commits to be flushed; this one is, and with it all before.
$history->safe_psql('postgres', q{SELECT pg_logical_emit_message(true, 'flush', '')});
$history->wait_for_catchup($heir);
$history->stop('immediate');
$heir->promote;
$heir->safe_psql('postgres', q{INSERT INTO own VALUES (3, 'perhaps')});
$history = $heir;
wait_for_source('main');
$heir->safe_psql('postgres', q{INSERT INTO own VALUES (4, 'd'); SELECT bemi.sync('60s')});
is( $heir->safe_psql('postgres', q{SELECT string_agg(primary_key, ',' ORDER BY id) FROM bemi.changes WHERE "table" = 'own' AND primary_key <> '3'}),
	'1,2,4', 'the launcher carries on');
is(gaps('main'), 'timeline_changed', 'and the gap is written, as the slot did not come along');
is( $heir->safe_psql('postgres', q{
		SELECT bool_and(complete) FROM bemi.changes h, bemi.completeness('own', h.committed_at, h.committed_at) c
		WHERE h."table" = 'own' AND h.primary_key IN ('1', '4')}),
	't',
	'what is stored is known to be whole, but for the last change before, with whose time the gap begins');
wait_for_source('east');
$east->safe_psql('postgres', q{INSERT INTO t VALUES (5000, 'heir')});
wait_for(1, q{source = 'east' AND primary_key = '5000'});
is( gaps('east'), "timeline_changed\ntimeline_changed\nsource_went_back",
	'sources on other servers go on without a gap');

#
# A source is gone for good
#

$east->stop;
my ($status, $stdout, $stderr) = $heir->psql('postgres', q{CALL bemi.drop_source('east')});
like($stderr,
	qr/could not drop source "east" yet.*HINT:  The worker tries again. If the source no longer exists: CALL bemi.drop_source\('east', force => true\);/s,
	'its slot cannot be dropped');
$heir->safe_psql('postgres', q{CALL bemi.drop_source('east', force => true)});
is( $heir->safe_psql('postgres', q{
		SELECT (SELECT count(*) FROM bemi.sources WHERE name = 'east'), count(*) FROM pg_replication_origin WHERE roname LIKE '%_east'}),
	'0|0',
	'but it can be forgotten');

$_->stop for ($heir, $plain, $standby);
done_testing();
