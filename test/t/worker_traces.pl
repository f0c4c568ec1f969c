# A source whose slot is gone: does it still have the stored changes?
#
# A base backup that is started as if after a crash, and a dropped slot, look the same to the
# worker: no slot, the same system identifier, the same timeline. Only the WAL of the source
# distinguishes them, as long as the source has it. So each scenario uses real servers, with and
# without that WAL, and with each kind of commit record as the last stored one. See also
# worker_restores.pl.

use strict;
use warnings;

use Bemi;
use Bemi::Restores;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# Subtransactions make a commit record so long that it covers several pages.
start_restores("max_prepared_transactions = 2\nwal_keep_size = '320MB'\n");
put('first', 3);
wait_until_stored();

sub drop_slot
{
	$source->safe_psql('postgres', q{SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots});
	return;
}

# Lets the source remove the WAL that holds what is stored.
sub remove_wal
{
	my $file = $source->safe_psql('postgres', q{SELECT pg_walfile_name(pg_current_wal_lsn())});

	for (1 .. 3)
	{
		$source->safe_psql('postgres', q{INSERT INTO filler VALUES ('x'); SELECT pg_switch_wal()});
		$source->safe_psql('postgres', 'CHECKPOINT');
	}
	is($source->safe_psql('postgres', "SELECT count(*) FROM pg_ls_waldir() WHERE name = '$file'"), '0', 'the WAL is removed');
	return;
}

sub restart_source
{
	$source->stop;
	start_source();
	return;
}

# Gaps since the last call: reason, and where they begin: with the history, or near the
# last change.
my $seen = 0;

sub begins
{
	my $gaps = $history->safe_psql('postgres', qq{
		SELECT concat_ws(' ', reason, CASE WHEN from_time = '-infinity' THEN 'ever' WHEN from_time > now() - interval '10 minutes' THEN 'lately' END,
			CASE WHEN to_time IS NULL THEN 'open' END)
		FROM bemi.gaps WHERE source = 's' AND "table" IS NULL AND id > $seen ORDER BY id});

	$seen = $history->safe_psql('postgres', 'SELECT max(id) FROM bemi.gaps');
	return $gaps;
}

begins();

#
# The slot is dropped, and the source has the WAL
#

# The WAL is read page by page, so records of all kinds and sizes must be recognised.
my %commits = (
	'a commit' => q{INSERT INTO t VALUES (:id, 'plain')},
	'a prepared transaction' => q{BEGIN; INSERT INTO t VALUES (:id, 'prepared'); PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p'},
	'a commit over several pages' => q{DO $$
		BEGIN
			INSERT INTO t VALUES (:id, 'large');
			FOR i IN 1 .. 6000 LOOP
				BEGIN
					INSERT INTO filler VALUES ('x');
				EXCEPTION WHEN division_by_zero THEN NULL;
				END;
			END LOOP;
		END $$},
	'a commit that a subscription has applied' => q{
		SELECT pg_replication_origin_create('o');
		SELECT pg_replication_origin_session_setup('o');
		BEGIN;
		SELECT pg_replication_origin_xact_setup('0/1234', now() - interval '3 seconds');
		DO $$
		BEGIN
			INSERT INTO t VALUES (:id, 'applied', now() - interval '3 seconds');
			FOR i IN 1 .. 3000 LOOP
				BEGIN
					INSERT INTO filler VALUES ('x');
				EXCEPTION WHEN division_by_zero THEN NULL;
				END;
			END LOOP;
		END $$;
		COMMIT});

for my $kind (sort keys %commits)
{
	$last_id++;
	$source->safe_psql('postgres', $commits{$kind} =~ s/:id/$last_id/gr);
	wait_until_stored();
	stop_worker();
	drop_slot();
	restart_source();
	put('lost', 1);
	start_worker();
	is(begins(), 'slot_dropped lately', "$kind is found in the WAL");
	is($history->safe_psql('postgres', q{SELECT detail = _bemi.default_detail('slot_dropped') FROM bemi.gaps ORDER BY id DESC LIMIT 1}), 't', 'and proves that nothing is undone');
}
is($source->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_replication}), '1', 'no other stream is left behind');
# A psql of this test that has just ended may be told of a shutdown.
unlike(
	join("\n", grep { !/worker_traces\.pl/ } split /\n/, slurp_file($source->logfile)),
	qr/could not send data|unexpected EOF|Broken pipe|Connection reset/, 'nor a word in the log');

#
# A copy that is started as if after a crash, without slots
#

# Plays it and returns the reason of the gap and where it begins.
sub play
{
	my ($name, %how) = @_;

	put("$name before", 2);
	wait_until_stored();
	wait_until_known();
	stop_worker();
	$how{backup} ? $source->backup($name) : take_snapshot($name);
	start_worker();
	put("$name undone", 3);
	put("$name undone last", 2);
	if ($how{short})
	{
		write_past($source->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()'));
		put("$name undone last", 1);
	}
	wait_until_stored();
	stop_worker();
	$history->safe_psql('postgres', "DELETE FROM bemi.changes WHERE after ->> 'v' = '$name undone last'") if $how{erase};
	my $origin = origin();
	put_back($name, slotless => 1);
	$last_id -= $how{short} ? 6 : 5;
	put("$name anew", 3);
	write_past($origin) unless $how{short};
	is($source->safe_psql('postgres', "SELECT pg_current_wal_insert_lsn() > '$origin'"), $how{short} ? 'f' : 't', "$name: as it is meant");
	start_worker();
	put("$name later", 1);
	wait_until_stored();
	is(faults(), '', "$name: what is lost and what is undone is in a gap");
	return begins();
}

is(play('snapshot'), 'source_went_back lately', 'its gap begins where the source went back to');
like($history->safe_psql('postgres', q{SELECT detail FROM bemi.gaps WHERE to_lsn > from_lsn ORDER BY id DESC LIMIT 1}),
	qr/^The source went back to [0-9A-F]+\/[0-9A-F]+\. Later changes/, 'as it says');
is(play('short snapshot', short => 1), 'source_went_back lately', 'also if its WAL ends before what is stored');
is(play('snapshot and erased', erase => 1), 'source_went_back lately', 'or what was stored last is erased from the history');

# A base backup has no WAL of the time before it.
is(play('base backup', backup => 1), 'source_went_back ever', 'a base backup does not show how far it went back');
my $detail = $history->safe_psql('postgres', q{SELECT detail FROM bemi.gaps ORDER BY id DESC LIMIT 1});
like($detail, qr/^The source went back to an unknown position before .* If you know the time to which it went back: UPDATE bemi\.gaps SET from_time = '\.\.\.' WHERE id = \d+;$/, 'as its gap says');
my ($update) = $detail =~ /(UPDATE .*;)$/;
my $time = $history->safe_psql('postgres', q{SELECT max(committed_at) FROM bemi.changes WHERE after ->> 'v' = 'base backup before'});
$history->safe_psql('postgres', $update =~ s/\.\.\./$time/r);
is(faults(), '', 'who knows when the backup was made shortens the gap');

#
# A dump of the history, which has neither slot nor origin, while a snapshot is put back
#

# Dumps the history and restores it into a new database.
sub dump_history
{
	my ($database) = @_;
	my $dump = $history->basedir . "/$database.sql";

	$history->command_ok([ 'pg_dump', '-f', $dump, $history->connstr('postgres') ], "$database: the history is dumped");
	$history->safe_psql('postgres', "CREATE DATABASE $database");
	$history->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $dump, '-d', $history->connstr($database) ], "$database: and restored");
	return;
}

# Writes rows, and waits until the history's tables have that all before is stored: it is
# noted with some changes.
sub put_and_note
{
	my ($value) = @_;
	my $now;

	put($value, 3);
	$now = $source->safe_psql('postgres', 'SELECT clock_timestamp()');
	wait_until_known();
	$history->poll_query_until('postgres', "SELECT stored_until > '$now' FROM bemi.status") or die 'it is not known';

	# Without wait_until_stored(), which takes a segment of WAL.
	for (1 .. 1000)
	{
		put("after $value", 1);
		$history->poll_query_until('postgres', "SELECT count(*) > 0 FROM bemi.changes WHERE primary_key = '$last_id' AND after ->> 'v' = 'after $value'")
		  or die 'a change is not stored';
		return if $history->safe_psql('postgres', "SELECT stored_until > '$now' FROM _bemi.source_progress") eq 't';
	}
	die 'it is not noted';
}

# The reason of the latest gap, its detail, and whether it has the times of
# what is undone and of what is lost, and no time long before what is stored.
sub moved
{
	my ($database) = @_;
	my $lost = $source->safe_psql('postgres', q{SELECT min(at) FROM t WHERE v = 'lost to the dump'});
	my $gap;

	$history->safe_psql($database, "CALL bemi.start('s', conninfo => '$conninfo')");
	$gap = $history->safe_psql($database, qq{
		SELECT concat_ws(' ', reason, CASE WHEN detail ~ 'The source went back to [0-9A-F]+/[0-9A-F]+\\.' THEN 'back' END,
			CASE WHEN from_time < (SELECT min(committed_at) FROM bemi.changes WHERE after ->> 'v' = 'undone in the dump') THEN 'undone' END,
			CASE WHEN '$lost' BETWEEN from_time AND to_time THEN 'lost' END,
			CASE WHEN from_time < (SELECT min(committed_at) - interval '1.1 seconds' FROM bemi.changes WHERE after ->> 'v' = 'stored in the dump') THEN 'stored' END,
			CASE WHEN from_lsn > to_lsn THEN 'which ends before it begins' END)
		FROM bemi.gaps WHERE "table" IS NULL ORDER BY id DESC LIMIT 1});
	$history->safe_psql($database, q{CALL bemi.drop_source('s')});
	return $gap;
}

put_and_note('stored in the dump');
dump_history('same');
stop_worker();
take_snapshot('dumped');
start_worker();
my $id = $last_id;
put_and_note('undone in the dump');
stop_worker();
dump_history('older');
dump_history('open');
$history->safe_psql('open', q{INSERT INTO bemi.gaps (source, reason, from_lsn, from_time, detail)
	SELECT source, 'slot_lost', changed_lsn, stored_until, 'As it was.' FROM _bemi.source_progress});
my $reached = origin();
put_back('dumped');
$last_id = $id;
put('lost to the dump', 1);
write_past($reached);
is(moved('same'), 'history_moved lost', 'a dump of which nothing is undone');
is(moved('older'), 'history_moved back undone lost', 'a dump that has what is undone, on the same timeline');
is(moved('open'), 'slot_lost back undone lost', 'the same with a gap that is open');
is($history->safe_psql('open', q{SELECT detail LIKE 'As it was. The source went back to %' FROM bemi.gaps WHERE reason = 'slot_lost' ORDER BY id DESC LIMIT 1}),
	't', 'which keeps what it says');
start_worker();
put('later', 1);
wait_until_stored();
is(faults(), '', 'and the history itself finds it out by its slot');
begins();

#
# The source has removed the WAL
#

$source->safe_psql('postgres', q{ALTER SYSTEM SET wal_keep_size = 0; SELECT pg_reload_conf()});

# A server that was not restarted is as it was.
put('stored', 2);
wait_until_stored();
stop_worker();
drop_slot();
remove_wal();
put('lost', 1);
start_worker();
is(begins(), 'slot_dropped lately', 'the WAL is gone, but the source was not restarted');

# The slot itself proves what it has confirmed.
put('stored', 2);
my $lsn = $source->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
wait_until_stored();
$source->poll_query_until('postgres', "SELECT confirmed_flush_lsn >= '$lsn' FROM pg_replication_slots") or die;
stop_worker();
$source->safe_psql('postgres', q{ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'; SELECT pg_reload_conf()});
remove_wal();
is($source->safe_psql('postgres', q{SELECT wal_status FROM pg_replication_slots}), 'lost', 'the slot is lost');
restart_source();
put('lost', 1);
start_worker();
is(begins(), 'slot_lost lately', 'and proves that the source has what is stored, although it was restarted');
$source->safe_psql('postgres', q{ALTER SYSTEM RESET max_slot_wal_keep_size; SELECT pg_reload_conf()});

# But not what came after. The state of a slot is saved when it has passed a checkpoint's record,
# so the second change is confirmed only in memory, and after a crash is not.
sub put_and_confirm
{
	my $lsn = $source->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');

	put('after that', 1);
	$source->poll_query_until('postgres', "SELECT confirmed_flush_lsn > '$lsn' FROM pg_replication_slots") or die 'nothing is confirmed';
	return;
}

$source->safe_psql('postgres', 'CHECKPOINT');
put_and_confirm();
put_and_confirm();
stop_worker();
$lsn = origin();
$source->stop('immediate');
start_source();
is($source->safe_psql('postgres', "SELECT confirmed_flush_lsn < '$lsn' FROM pg_replication_slots"), 't', 'the slot has forgotten what was confirmed');
my $confirmed = $source->safe_psql('postgres', 'SELECT confirmed_flush_lsn FROM pg_replication_slots');
$source->safe_psql('postgres', q{ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'; SELECT pg_reload_conf()});
remove_wal();
put('lost', 1);
start_worker();
is(begins(), 'slot_lost lately', 'what the slot has not confirmed is in doubt');
like($history->safe_psql('postgres', q{SELECT concat_ws(' ', from_lsn, to_lsn > from_lsn, detail) FROM bemi.gaps ORDER BY id DESC LIMIT 1}),
	qr/^$confirmed t Nothing proves that the source still has the changes that are stored after $confirmed: it was restarted.*removed\)\.$/,
	'and nothing else');
is(faults(), '', 'nothing else is lost');
$source->safe_psql('postgres', q{ALTER SYSTEM RESET max_slot_wal_keep_size; SELECT pg_reload_conf()});

# Nothing proves anything.
put('stored', 2);
wait_until_stored();
wait_until_known();
stop_worker();
drop_slot();
remove_wal();
restart_source();
put('lost', 1);
start_worker();
is(begins(), 'slot_dropped ever', 'the WAL is gone, and the source was restarted: nothing is claimed');
$detail = $history->safe_psql('postgres', q{SELECT detail FROM bemi.gaps ORDER BY id DESC LIMIT 1});
like($detail, qr/^Nothing proves that the source still has the changes that are stored: it was restarted, and transaction \d+ at [0-9A-F\/]+ cannot be found in its WAL \(requested WAL segment \w+ has already been removed\)\. If it has them: UPDATE bemi\.gaps SET from_time = '[^']+' WHERE id = \d+;$/,
	'as the gap says');
($update) = $detail =~ /(UPDATE .*;)$/;
$history->safe_psql('postgres', $update);
is(faults(), '', 'who knows that nothing was undone shortens the gap');
is( $history->safe_psql('postgres', q{
		SELECT bool_and(c.complete) FROM bemi.changes h, bemi.source_completeness('s', 'public', 't', h.committed_at, h.committed_at + interval '1 microsecond') c
		WHERE h.id = (SELECT id FROM bemi.changes WHERE after ->> 'v' = 'stored' ORDER BY id DESC OFFSET 1 LIMIT 1)}),
	't', 'and with that, what is stored is complete');

$source->stop;
$history->stop;
done_testing();
