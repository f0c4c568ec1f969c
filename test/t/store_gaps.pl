# If the history may be incomplete, bemi.gaps and bemi.complete() show it.
#
# The test tries everything that can come between a source and its history, with writes before,
# during and after it. Each time it compares the writes in bemi.changes with the gaps. It records
# the time of each write, so a change may be missing only if bemi.complete() returns false for its
# time, and the other way round.

use strict;
use warnings;

use Bemi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main', conf => "max_slot_wal_keep_size = -1\nmax_prepared_transactions = 2\n");

$node->safe_psql(
	'postgres', q{
	CREATE TABLE t (id serial PRIMARY KEY, at timestamptz NOT NULL);
	CREATE TABLE u (id serial PRIMARY KEY, at timestamptz NOT NULL);
	CREATE TABLE never (id serial PRIMARY KEY)});

# Writes a row into a table, at a different time: the one that it records is
# not that of any other event.
sub put
{
	my ($table, $on) = @_;

	$on //= $node;
	return $on->safe_psql('postgres',
		"INSERT INTO $table (at) VALUES (clock_timestamp()) RETURNING id");
}

# The rows of a table that are missing, and those that by bemi.complete() may
# be missing.  (A commit is later than its row's own time, by less than anything
# that happens here; its time in the history is what counts where it is there.)
sub missing
{
	my ($table, $on) = @_;

	$on //= $node;
	$on->safe_psql('postgres', q{SELECT bemi.sync('60s')});
	return $on->safe_psql(
		'postgres', qq{
		SELECT coalesce(string_agg(x.id::text, ',' ORDER BY x.id) FILTER (WHERE c.id IS NULL), 'none')
			|| ' / ' || coalesce(string_agg(x.id::text, ',' ORDER BY x.id) FILTER (WHERE NOT whole), 'none')
		FROM $table x LEFT JOIN bemi.changes c ON c."table" = '$table' AND c.primary_key = x.id::text,
			LATERAL (SELECT bool_and(complete) AS whole FROM bemi.completeness('$table',
				coalesce(c.committed_at - interval '1 microsecond', x.at),
				coalesce(c.committed_at, x.at + interval '1 microsecond'))) AS w});
}

# All gaps, oldest first: reason, table, closed or open.
sub gaps
{
	my ($on) = @_;

	$on //= $node;
	return $on->safe_psql('postgres', q{
		SELECT concat_ws(' ', reason, "table", CASE WHEN to_time IS NULL THEN 'open' END)
		FROM bemi.gaps ORDER BY noticed_at});
}

sub last_gap
{
	my ($on) = @_;

	return (split /\n/, gaps($on))[-1];
}

sub reason
{
	my ($table) = @_;

	return $node->safe_psql('postgres',
		"SELECT string_agg(reason, ',' ORDER BY reason) FILTER (WHERE reason <> 'not_stored_yet') FROM bemi.completeness('$table')");
}

# A gap begins a tenth of a second before the time up to which all is known to be stored.
# Waits until that is after the last change.
sub settle
{
	$node->safe_psql('postgres', q{SELECT bemi.sync('60s')});
	$node->poll_query_until('postgres',
		q{SELECT coalesce(max(committed_at), '-infinity') < clock_timestamp() - interval '200 milliseconds' FROM bemi.changes})
	  or die 'time stands still';
	$node->safe_psql('postgres', q{SELECT bemi.sync('60s')});
	return;
}

# Waits until the worker's walsender has let go of the slot.
sub wait_for_free_slot
{
	$node->poll_query_until('postgres',
		'SELECT count(*) = 0 FROM pg_replication_slots WHERE active')
	  or die 'the slot stays active';
	return;
}

#
# Before anything is read
#

is(reason('t'), 'no_source', 'no_source');
put('t');
$node->safe_psql('postgres', q{SELECT bemi.track('t')});
put('t');
$node->safe_psql('postgres', 'CALL bemi.start()');
put('t');
is(missing('t'), '1,2 / 1,2', 'what was written before the start is missing');
is(gaps(), 'source_started', 'as the first gap says');
is( $node->safe_psql('postgres',
		q{SELECT bool_or(from_time = '-infinity' AND from_lsn IS NULL AND to_lsn > '0/0') FROM bemi.gaps}),
	't',
	'which has no beginning');

# Untracked while the slot waits for an older transaction.
settle();
$node->safe_psql(
	'postgres', q{
	CALL bemi.drop_source('main');
	CREATE TABLE early (id serial PRIMARY KEY, at timestamptz NOT NULL);
	SELECT bemi.track('early');
	BEGIN; CREATE TABLE other (); PREPARE TRANSACTION 'older';
	CALL bemi.start(wait => false)});
$node->poll_query_until('postgres', q{SELECT state = 'making slot' FROM bemi.status})
  or die 'the slot does not wait';
$node->safe_psql('postgres', q{SELECT bemi.untrack('early'); ROLLBACK PREPARED 'older'; SELECT bemi.sync('60s')});
put('early');
is( $node->safe_psql('postgres', q{
		SELECT bemi.sync('60s'); SELECT bool_or(c.complete) FROM early x, bemi.completeness('early', x.at, x.at + interval '1 microsecond') c}),
	"\nf",
	'a table that is untracked while the slot is made is not complete');
$node->safe_psql('postgres', q{DROP TABLE early; DELETE FROM t WHERE id > 3});

#
# Tables
#

put('u');
$node->safe_psql('postgres', q{SELECT bemi.track('u')});
put('u');
is(missing('u'), '1 / 1', 'a table that is tracked later');
is(last_gap(), 'tracking_began u', 'its gap');
$node->safe_psql('postgres', q{SELECT bemi.untrack('u')});
put('u');
is(missing('u'), '1,3 / 1,3', 'a table that is untracked');
is(last_gap(), 'tracking_ended u open', 'its gap is open');
$node->safe_psql('postgres', q{SELECT bemi.track('u')});
put('u');
is(missing('u'), '1,3 / 1,3', 'tracked once more');
is(last_gap(), 'tracking_ended u', 'its gap is closed');
$node->safe_psql('postgres', q{SELECT bemi.track('u')});
is(last_gap(), 'tracking_ended u', 'to track it twice is no gap');

$node->safe_psql('postgres', 'ALTER PUBLICATION bemi DROP TABLE u');
put('u');
$node->safe_psql('postgres', 'ALTER PUBLICATION bemi ADD TABLE u');
put('u');
is(missing('u'), '1,3,5 / 1,3,5', 'untracked by hand, and back');
$node->safe_psql('postgres', q{ALTER PUBLICATION bemi SET (publish = 'update')});
put('u');
$node->safe_psql('postgres', q{ALTER PUBLICATION bemi SET (publish = 'insert, update, delete, truncate')});
put('u');
is(missing('u'), '1,3,5,7 / 1,3,5,7', 'a publication that leaves something out');
$node->safe_psql('postgres', q{ALTER PUBLICATION bemi SET TABLE t});
put('u');
$node->safe_psql('postgres', q{ALTER PUBLICATION bemi SET TABLE t, u});
put('u');
is(missing('u'), '1,3,5,7,9 / 1,3,5,7,9', 'a publication whose list is replaced');

# Another table of that name has its own history, from where it is tracked.
$node->safe_psql(
	'postgres', q{
	DROP TABLE u;
	CREATE TABLE u (id serial PRIMARY KEY, at timestamptz NOT NULL);
	ALTER SEQUENCE u_id_seq RESTART 101});
put('u');
$node->safe_psql('postgres', q{SELECT bemi.track('u')});
put('u');
is(missing('u'), '101 / 101', 'dropped and made again');
$node->safe_psql('postgres', 'ALTER TABLE u RENAME TO v');
put('v');
is( $node->safe_psql('postgres', q{SELECT bemi.sync('60s'); SELECT count(*) FROM bemi.changes WHERE "table" = 'v'}),
	"\n1",
	'a renamed table');
is( $node->safe_psql(
		'postgres', q{
		SELECT bool_and(c.complete) FROM bemi.changes h, bemi.completeness('v', h.committed_at, h.committed_at) c WHERE h."table" = 'v'}),
	't',
	'has a history under its new name');
like(gaps(), qr/tracking_ended u open\ntracking_began v$/, 'and a gap before');
is(reason('never'),
	'not_tracked,source_dropped,source_started',
	'a table that never was tracked');
is(missing('t'), '1,2 / 1,2', 'all that did not concern the other table');

# The everyday swap of tables: what is written to the new one is not tracked.
$node->safe_psql(
	'postgres', q{
	CREATE TABLE swap (id serial PRIMARY KEY, at timestamptz NOT NULL);
	SELECT bemi.track('swap')});
put('swap');
$node->safe_psql('postgres', q{
	ALTER TABLE swap RENAME TO swap_old;
	CREATE TABLE swap (id serial PRIMARY KEY, at timestamptz NOT NULL)});
put('swap');
is( $node->safe_psql('postgres', q{
		SELECT bemi.sync('60s'); SELECT bool_and(c.complete) FROM swap x, bemi.completeness('swap', x.at, x.at + interval '1 microsecond') c}),
	"\nf",
	'a table that has taken the name of another is not tracked');
$node->safe_psql('postgres', q{DROP TABLE swap; SELECT bemi.untrack('swap_old'); ALTER TABLE swap_old RENAME TO swap});
put('swap');
is( $node->safe_psql('postgres', q{
		SELECT bemi.sync('60s'); SELECT string_agg(c.complete::text, ',' ORDER BY x.id) FROM swap x LEFT JOIN bemi.changes h
			ON h."table" = 'swap' AND h.primary_key = x.id::text,
			bemi.completeness('swap', coalesce(h.committed_at - interval '1 microsecond', x.at), coalesce(h.committed_at, x.at + interval '1 microsecond')) c}),
	"\ntrue,false",
	'untracked under another name, and renamed back');

# What the publication leaves out is missing, too.
my $filters = $node->safe_psql('postgres', q{SELECT current_setting('server_version_num')::int >= 150000}) eq 't';
SKIP:
{
	skip 'no row filters and column lists before PostgreSQL 15', 4 unless $filters;
	for my $part ('WHERE (id > 1000)', '(id)')
	{
		$node->safe_psql('postgres', "ALTER PUBLICATION bemi SET TABLE t, v $part");
		my $id = put('v');
		is( $node->safe_psql('postgres', qq{
				SELECT bemi.sync('60s'); SELECT bool_and(c.complete) FROM v x, bemi.completeness('v', x.at, x.at + interval '1 microsecond') c WHERE id = $id}),
			"\nf",
			"a table published $part is not complete");
		like($node->safe_psql('postgres', q{SELECT problems FROM bemi.tracked WHERE "table" = 'v'::regclass}),
			qr/changes are stored in part/, '... as bemi.tracked says');
	}
	$node->safe_psql('postgres', 'ALTER PUBLICATION bemi SET TABLE t, v');
}
for my $sql ('ALTER PUBLICATION bemi ADD TABLES IN SCHEMA public', 'DROP PUBLICATION bemi; CREATE PUBLICATION bemi FOR ALL TABLES')
{
	last unless $filters;
	my ($status, $stdout, $stderr) = $node->psql('postgres', "BEGIN; $sql");
	like($stderr, qr/publication "bemi" must list its tables/, "$sql is refused");
}

# Another publication of all tables does not stop the worker.
$node->safe_psql('postgres', q{
	CREATE PUBLICATION everything FOR ALL TABLES;
	SELECT bemi.untrack('v'); SELECT bemi.track('v'); SELECT bemi.sync('60s');
	DROP PUBLICATION everything});

# The future is not stored yet, and times are checked.
is( $node->safe_psql('postgres', q{SELECT complete, reason FROM bemi.completeness('t', '2999-01-01', '2999-01-02')}),
	'f|not_stored_yet', 'the future');
for my $call (q{'t', '2020-01-02', '2020-01-01'}, q{'t', NULL, '2020-01-01'}, '0')
{
	my ($status, $stdout, $stderr) = $node->psql('postgres', "SELECT * FROM bemi.completeness($call)");
	like($stderr, qr/time range from .* is not valid|must not be null|there is no such table/, "bemi.complete($call)");
}

# Any message with the prefix, by any user.
my $forged = '{"event": "ended", "relation": "1", "schema": "public", "table": "t", "transaction": "1"}';
my ($with_guess, $with_secret) = map { derived_hmac($_, 'bemi tracking message', $forged) }
  ('guess', $node->safe_psql('postgres', 'SELECT value FROM _bemi.signing_key'));
$node->safe_psql(
	'postgres', qq{
	SELECT bemi.sync();
	CREATE TABLE gaps_before AS SELECT * FROM bemi.gaps;
	CREATE TABLE invalid_before AS SELECT invalid_messages AS n FROM bemi.status;
	SELECT pg_logical_emit_message(true, '_bemi_tracking', m) FROM unnest(ARRAY['', 'x', '1', '[]', '{}',
		'{"event": "began"}', '{"event": "began", "relation": 99999999999, "schema": "s", "table": "t"}',
		'{"event": "began", "relation": "-1", "schema": "s", "table": "t"}',
		'{"event": "began", "relation": 1, "schema": {}, "table": null}',
		'{"event": "other", "relation": 1, "schema": "s", "table": "t"}',
		'{"event": "began", "relation": 1, "schema": "s", "table": "' || repeat('t', 1000) || '"}']) m;
	-- well-formed, but not signed, wrongly signed, or signed for another transaction
	SELECT pg_logical_emit_message(true, '_bemi_tracking', repeat('0', 64) || m),
		pg_logical_emit_message(true, '_bemi_tracking', '$with_guess' || m),
		pg_logical_emit_message(true, '_bemi_tracking', '$with_secret' || m)
	FROM (SELECT '$forged') f(m);
	SELECT pg_logical_emit_message(true, '_bemi_tracking', '\\x00ff'::bytea);
	SELECT pg_logical_emit_message(false, '_bemi_tracking', '{"event": "began", "relation": 1, "schema": "s", "table": "t"}');
	SELECT bemi.sync('60s')});
is( $node->safe_psql(
		'postgres', q{
		SELECT (SELECT count(*) FROM bemi.gaps) - (SELECT count(*) FROM gaps_before),
			(SELECT invalid_messages FROM bemi.status) - (SELECT n FROM invalid_before)}),
	'0|16',
	'messages that are not valid are counted, and nothing comes of them');

#
# A worker that fails to store, for any reason, is no reason to give up
#

$node->safe_psql(
	'postgres', q{
	CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM current_setting('no.such_setting'); RETURN NEW; END $$;
	CREATE TRIGGER fail BEFORE INSERT ON bemi.changes FOR EACH ROW EXECUTE FUNCTION fail();
	ALTER TABLE bemi.changes ENABLE ALWAYS TRIGGER fail});
my $gaps_so_far = gaps();
put('t');
$node->poll_query_until('postgres', q{SELECT state = 'failed' AND last_error LIKE '%no.such_setting%' AND restarts > 0 FROM bemi.status})
  or die 'the worker does not fail';
$node->safe_psql('postgres', 'DROP TRIGGER fail ON bemi.changes');
is(missing('t'), '1,2 / 1,2', 'an error that looks like one of the source loses nothing');
is(gaps(), $gaps_so_far, 'and is no gap');

#
# Stops
#

$node->safe_psql('postgres', 'CALL bemi.stop()');
put('t');
is( $node->safe_psql('postgres', q{SELECT complete, reason FROM bemi.completeness('t', now(), now())}),
	'f|not_stored_yet',
	'stopped: not stored yet');
my $gaps = gaps();
$node->safe_psql('postgres', 'CALL bemi.start()');
is(missing('t'), '1,2 / 1,2', 'a stop that keeps the slot loses nothing');
is(gaps(), $gaps, 'and is no gap');

settle();
$node->safe_psql('postgres', q{CALL bemi.drop_source('main')});
is(remains($node), '0 rows, 0 slots, 0 origins', 'nothing is left behind');
is(last_gap(), 'source_dropped open', 'but the gap');
my $lost = put('t');
$node->safe_psql('postgres', 'CALL bemi.start()');
put('t');
is(missing('t'), "1,2,$lost / 1,2,$lost", 'a stop that drops the slot loses what is written meanwhile');
is(last_gap(), 'source_dropped', 'and is a gap');

# Under another name, neither source has all, but each its own time.
settle();
$node->safe_psql('postgres', q{CALL bemi.drop_source('main')});
my $lost_too = put('t');
$node->safe_psql('postgres', q{CALL bemi.start('other')});
put('t');
is(missing('t'), "1,2,$lost,$lost_too / 1,2,$lost,$lost_too", 'another source goes on');
$node->safe_psql('postgres', q{CALL bemi.drop_source('other'); DELETE FROM t; CALL bemi.start()});

#
# The slot
#

# Waits until the worker has noticed, and continues.  A publication is missing for
# the walsender only when it comes to the first change that it should publish.
sub wait_for_gap
{
	my ($reason) = @_;

	$node->poll_query_until('postgres', qq{
		SELECT EXISTS (SELECT FROM bemi.gaps WHERE reason = '$reason' AND to_time IS NOT NULL)
			AND state = 'streaming' FROM bemi.status})
	  or die 'the gap is not noticed';
	return;
}

# What is done while the worker cannot see it, and is gone then.
sub lose
{
	my ($what, $reason, $do, %expect) = @_;

	settle();
	$node->safe_psql('postgres', 'CALL bemi.stop()');
	wait_for_free_slot();
	my $id = put('t');
	$do->();
	$node->safe_psql('postgres', 'CALL bemi.start()');
	wait_for_gap($reason);
	put('t');
	like(missing('t'), $expect{missing} // qr{^$id / $id$}, "$what: what was lost is known");
	is( $node->safe_psql('postgres',
			'SELECT reason FROM bemi.gaps WHERE "table" IS NULL ORDER BY noticed_at DESC LIMIT 1'),
		$reason, "$what: and by what");
	is( $node->safe_psql('postgres', q{
			SELECT count(*) FROM bemi.gaps WHERE "table" IS NULL AND source = 'main'
				AND (to_time IS NULL OR from_lsn > to_lsn OR from_time > to_time)}),
		'0',
		"$what: gaps are closed, and have an extent");
	$node->safe_psql('postgres', 'DELETE FROM t');
	return;
}

lose('slot dropped by hand', 'slot_dropped',
	sub { $node->safe_psql('postgres', 'SELECT pg_drop_replication_slot(slot_name) FROM bemi.status') });

lose(
	'slot invalidated',
	'slot_lost',
	sub {
		$node->safe_psql('postgres', q{
			ALTER SYSTEM SET max_slot_wal_keep_size = '1MB';
			SELECT pg_reload_conf()});
		for (1 .. 4)
		{
			$node->safe_psql('postgres', q{
				CREATE TABLE filler AS SELECT 1; DROP TABLE filler; SELECT pg_switch_wal()});
		}
		$node->safe_psql('postgres', 'CHECKPOINT');
		is( $node->safe_psql('postgres', 'SELECT wal_status, warning FROM bemi.status'),
			'lost|the slot is lost: changes are missing from the history; the worker records a gap in bemi.gaps when it connects',
			'bemi.status shows it before');
		$node->safe_psql('postgres', q{
			ALTER SYSTEM RESET max_slot_wal_keep_size;
			SELECT pg_reload_conf()});
	});

lose(
	'slot advanced by hand',
	'history_went_back',
	sub {
		$node->safe_psql('postgres', q{
			SELECT pg_replication_slot_advance(slot_name, pg_current_wal_lsn()) FROM bemi.status});
	});

lose(
	'publication dropped',
	'slot_unreadable',
	sub {
		$node->safe_psql('postgres', q{
			DROP PUBLICATION bemi;
			UPDATE t SET at = at;
			SELECT bemi.track('t')});
	},
	# The row was written before that, and can be read.  Whether it is known to be the
	# last one of its time depends on how soon the source fails after it.
	# PostgreSQL 14 has sent the BEGIN of the transaction at which it fails: the one before it
	# shares its commit here, and may be in the gap, too.
	missing => $node->pg_version < 15 ? qr{^(?:(\d+) / \g1|none / (?:none|\d+))$} : qr{^none / (none|\d+)$});

# Dropped while the worker reads, and not restored: the error has a hint.
settle();
$node->safe_psql('postgres', 'DROP PUBLICATION bemi');
put('t');
$node->poll_query_until('postgres',
	q{SELECT state = 'failed' AND last_error LIKE 'publication "bemi" does not exist%' FROM bemi.status})
  or die 'bemi.status does not tell';
my $last = put('t');
$node->safe_psql('postgres', q{
	DELETE FROM bemi.gaps WHERE reason = 'slot_unreadable';
	SELECT bemi.track('t'); CALL bemi.stop(); CALL bemi.start()});
wait_for_gap('slot_unreadable');
put('t');
is(missing('t'), ($last - 1) . ",$last / " . ($last - 1) . ",$last", 'publication dropped under the worker');
$node->safe_psql('postgres', 'DELETE FROM t');

#
# A slot that keeps too much
#

sub fill
{
	$node->safe_psql('postgres', q{
		CREATE TABLE IF NOT EXISTS filler (x text);
		INSERT INTO filler SELECT repeat('x', 1000) FROM generate_series(1, 6000)});
	return;
}

settle();
$node->safe_psql('postgres', q{
	CALL bemi.stop();
	ALTER SYSTEM SET bemi.max_slot_lag = '4MB';
	SELECT pg_reload_conf()});
my $offset = -s $node->logfile;
fill();
$node->wait_for_log(qr/slot of source "main" keeps \d+ MB of WAL, more than "bemi.max_slot_lag"/, $offset);
pass('too much is kept for a source that is stopped: a warning in the log');
is( $node->safe_psql('postgres', 'SELECT state, warning FROM bemi.status'),
	'stopped|the slot keeps more WAL than bemi.max_slot_lag',
	'and in bemi.status');
$lost = put('t');
$node->safe_psql('postgres', q{
	ALTER SYSTEM SET bemi.max_slot_lag_action = 'drop';
	SELECT pg_reload_conf()});
$node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_replication_slots')
  or die 'the slot is not dropped';
$node->poll_query_until('postgres',
	q{SELECT EXISTS (SELECT FROM bemi.gaps WHERE reason = 'max_slot_lag' AND to_time IS NULL)})
  or die 'the gap is not written down';
pass('then the slot is dropped, and a gap is open');
is($node->safe_psql('postgres', 'SELECT state FROM bemi.status'), 'stopped', 'the source stays stopped');
$node->safe_psql('postgres', 'CALL bemi.start()');
put('t');
is(missing('t'), "$lost / $lost", 'started again, the gap is closed');
is(last_gap(), 'max_slot_lag', 'and says why');

# While the worker reads, but cannot store.
settle();
$node->safe_psql(
	'postgres', q{
	CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
	CREATE TRIGGER refuse BEFORE INSERT ON bemi.changes FOR EACH ROW EXECUTE FUNCTION refuse();
	ALTER TABLE bemi.changes ENABLE ALWAYS TRIGGER refuse});
my $lost_then = put('t');
fill();
$node->poll_query_until('postgres',
	q{SELECT count(*) = 2 FROM bemi.gaps WHERE reason = 'max_slot_lag'})
  or die 'the slot is not given up';
$node->poll_query_until('postgres', q{SELECT state = 'streaming' FROM bemi.status})
  or die 'the worker does not go on';
$node->safe_psql('postgres', 'DROP TRIGGER refuse ON bemi.changes');
put('t');
is(missing('t'), "$lost,$lost_then / $lost,$lost_then", 'a worker that cannot store: its slot is given up, too');
$node->safe_psql('postgres', q{
	ALTER SYSTEM RESET bemi.max_slot_lag; ALTER SYSTEM RESET bemi.max_slot_lag_action;
	SELECT pg_reload_conf(); DELETE FROM t});

# An idle table does not hold the slot back.
$node->safe_psql('postgres', q{SELECT bemi.sync('60s')});
fill();
$node->poll_query_until('postgres',
	q{SELECT pg_current_wal_lsn() - confirmed_flush_lsn < 2000000 FROM pg_replication_slots})
  or die 'the slot does not move on';
pass('the slot moves on while tracked tables are idle');

#
# Server and timeline
#

$node->safe_psql('postgres', q{SELECT bemi.sync('60s')});
my $timeline = $node->safe_psql('postgres', 'SELECT timeline FROM bemi.sources');
$gaps = gaps();
$node->stop;
$node->append_conf('postgresql.conf', "restore_command = 'false'");
append_to_file($node->data_dir . '/recovery.signal', '');
$node->start;
$node->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()')
  or die 'the server stays in recovery';
put('t');
is(missing('t'), 'none / none', 'a new timeline, with the slot: nothing is lost');
is(gaps(), $gaps, 'and there is no gap');
is( $node->safe_psql('postgres', 'SELECT timeline FROM bemi.sources'),
	$timeline + 1,
	'the new timeline is known');

$node->stop;
done_testing();
