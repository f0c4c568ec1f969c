# Sources that are restored from snapshots and backups: does bemi notice what was lost or undone?
#
# The history has its own server, as it must have to survive a restore. Each scenario keeps a copy
# of the source's data directory, stores changes that the restore then undoes, and puts the copy
# back as operators do. It lets the source write more WAL than is stored before the worker
# connects, so positions prove nothing. After each, every stored change that the source lacks, and
# every row of the source that is not stored, must be in a gap. Each change must be stored once.
# If nothing was lost, there must be no gap.

use strict;
use warnings;

use Bemi;
use Bemi::Restores;
use File::Path;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

start_restores();

put('first', 3);
wait_until_stored();
is(new_gaps(), 'source_started', 'the source is read');

#
# A crash loses nothing
#

# The slot's position on disk is behind what is stored, so the source sends it again.
$source->safe_psql('postgres', 'CHECKPOINT');
put('before crash', 5);
wait_until_stored();
$source->stop('immediate');
start_source();
put('after crash', 2);
wait_until_stored();
stop_worker();
$source->stop('immediate');
start_source();
put('after another', 2);
start_worker();
is(faults(), '', 'after a crash of the source, each change is stored once');
is(new_gaps(), '', 'and there is no gap');
is($history->safe_psql('postgres', q{SELECT count(*) FROM bemi.changes}), 12, 'they all are');

# What was deleted from the history does not come back.
$source->safe_psql('postgres', 'CHECKPOINT');
put('erased', 3);
wait_until_stored();
$history->poll_query_until('postgres', q{
	SELECT p.changed_lsn = l.commit_lsn FROM _bemi.source_progress p, _bemi.last_stored('s', '0/0', 'FFFFFFFF/FFFFFFFF') l})
  or die 'the last transaction is not noted';
$history->safe_psql('postgres', q{DELETE FROM bemi.changes WHERE after ->> 'v' = 'erased'});
$source->stop('immediate');
$history->restart;
start_source();
put('after restart', 1);
wait_until_stored();
is( $history->safe_psql('postgres', q{
		SELECT count(*) FILTER (WHERE after ->> 'v' = 'erased'), count(*) FILTER (WHERE after ->> 'v' = 'after restart') FROM bemi.changes}),
	'0|1', 'changes that were erased from the history are not stored again');
is(new_gaps(), '', 'nor is that a gap');
$source->safe_psql('postgres', q{DELETE FROM t WHERE v = 'erased'});

# What the worker reads again of tracked tables is known already.
$source->safe_psql('postgres', q{
	CHECKPOINT;
	CREATE TABLE u (id int PRIMARY KEY, v text);
	SELECT bemi.track('u')});
$source->safe_psql('postgres', q{SELECT bemi.track('u', ignore => '{v}')});
$source->safe_psql('postgres', q{SELECT bemi.untrack('u')});
wait_until_stored();
my $of_u = q{SELECT string_agg(reason || coalesce(to_time::text, ' open'), ',' ORDER BY id) FROM bemi.gaps WHERE "table" = 'u'};
my $gaps_of_u = $history->safe_psql('postgres', $of_u);
stop_worker();
$source->stop('immediate');
start_source();
start_worker();
is($history->safe_psql('postgres', $of_u), $gaps_of_u, 'what was tracked and untracked is noted once');
new_gaps();

#
# Snapshots
#

stop_worker();
take_snapshot('snapshot');
start_worker();
put('undone', 5);
wait_until_stored();
stop_worker();
my $origin = origin();
put_back('snapshot');
$last_id -= 5;
put('anew', 3);
write_past($origin);
put('later', 2);
start_worker();
is(lost('anew') + lost('later'), 0, 'a snapshot, written past what is stored: nothing is lost');
is(faults(), '', 'and what it has undone is in a gap');
is(new_gaps(), 'source_went_back closed back', 'as the gap says');

# Only WAL without changes was undone: what takes its place is stored.
stop_worker();
take_snapshot('snapshot 2');
start_worker();
$source->safe_psql('postgres', q{INSERT INTO filler SELECT repeat('x', 1000) FROM generate_series(1, 3000)});
wait_until_stored();
$history->poll_query_until('postgres', q{SELECT remote_lsn > (SELECT max(to_lsn) FROM bemi.gaps) FROM pg_replication_origin_status});
stop_worker();
$origin = origin();
put_back('snapshot 2');
put('in its place', 3);
write_past($origin);
start_worker();
is(lost('in its place'), 0, 'a snapshot that undoes nothing that is stored');
is(faults(), '', 'is no fault');
is(new_gaps(), '', 'and no gap');

# What was stored last has been erased from the history, and is undone, too.
stop_worker();
take_snapshot('snapshot of more');
start_worker();
put('undone in part', 3);
put('undone and erased', 2);
wait_until_stored();
stop_worker();
$history->safe_psql('postgres', q{DELETE FROM bemi.changes WHERE after ->> 'v' = 'undone and erased'});
$origin = origin();
put_back('snapshot of more');
$last_id -= 5;
put('after erasure', 3);
write_past($origin);
start_worker();
is(lost('after erasure'), 0, 'a snapshot that undoes what was erased: nothing is lost');
is(faults(), '', 'and the rest of what is undone is in a gap');
is(new_gaps(), 'source_went_back closed back', 'as the gap says');

# The worker was not stopped, and connects by itself.
take_snapshot('snapshot 3');
put('undone again', 3);
wait_until_stored();
$origin = origin();
$history->stop;
put_back('snapshot 3');
$last_id -= 3;
put('instead', 2);
write_past($origin);
$history->start;
wait_until_stored();
is(lost('instead'), 0, 'the server of the history was down meanwhile');
is(faults(), '', 'its worker notices, too');
is(new_gaps(), 'source_went_back closed back', 'and says so');

#
# Backups, promoted
#

stop_worker();
take_snapshot('backup');
for my $time ('first', 'second')
{
	put_back('backup', recovery => 1);
	is($source->safe_psql('postgres', 'SELECT timeline_id FROM pg_control_checkpoint()'), 2, "promoted for the $time time: timeline 2");
	put("$time timeline", 2);
	write_past($origin) if $time eq 'second';
	start_worker();
	is(lost("$time timeline"), 0, 'nothing is lost');
	is(faults(), '', 'each change is stored once, or in a gap');
	put("end of the $time", 3);
	wait_until_stored();
	stop_worker();
	$origin = origin();
	$last_id -= 5 if $time eq 'first';
}
is(new_gaps(), 'source_went_back closed back', 'the same number of a timeline is not taken for the same timeline');

# Without the slot, as a rule.  Both get the same number, from different places.
take_snapshot('third');
write_past($source->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()'));
take_snapshot('fourth');
start_worker();
put('undone', 5);
wait_until_stored();
stop_worker();
$origin = origin();
is(new_gaps(), '', 'nothing is lost so far');
for my $time ('third', 'fourth')
{
	put_back($time, recovery => 1, slotless => 1);
	$last_id -= 5;
	put("$time timeline", 2);
	write_past($origin);
	start_worker();
	put("end of the $time", 3);
	wait_until_stored();
	is(faults(), '', "without the slot, $time time: what is lost and what is undone is in a gap");
	is(new_gaps(), 'timeline_changed closed back', 'which begins where the source went back to');
	stop_worker();
	$origin = origin();
}

# A source that was promoted to yet another timeline, without its slot, and lost nothing.
$source->stop;
File::Path::rmtree($source->data_dir . '/pg_replslot', { keep_root => 1 });
append_to_file($source->data_dir . '/recovery.signal', '');
start_source();
$source->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die;
put('lost', 1);
start_worker();
is(faults(), '', 'only the slot is gone');
is(new_gaps(), 'timeline_changed closed', 'and nothing was undone');

#
# Clocks
#

SKIP:
{
	skip 'no clock can be made', 5 unless $has_clock;

	# The last change comes after the clock was set back by two hours, and what is lost, too.
	put('before', 1);
	wait_until_stored();
	set_clock(-7200);
	put('last', 1);
	wait_until_stored();
	stop_worker();
	put('lost after that', 1);
	$source->safe_psql('postgres', q{SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots});
	start_worker();
	is( $history->safe_psql('postgres', q{
			SELECT g.reason, c.committed_at - g.from_time FROM bemi.gaps g, bemi.changes c
			WHERE c.after ->> 'v' = 'last' ORDER BY g.id DESC LIMIT 1}),
		'slot_dropped|00:00:01',
		'a gap begins a second before the last change in commit order, whatever the clock showed before');
	is(faults(), '', 'and has what is lost');
	set_clock(0);
	put('in time', 1);
	wait_until_stored();

	# By less than the time in which the worker looks up to when all is stored.  Then the clock is
	# as far as it was again.
	wait_until_known();
	my $until = $history->safe_psql('postgres', q{SELECT stored_until FROM bemi.status});
	set_clock(-3);
	put('last after a little', 1);
	my $last_put = time;
	wait_until_stored();
	stop_worker();
	# However long that took, the clock shows nearly the same time as then.
	set_clock(-3 - (time - $last_put));
	put('lost after a little', 1);
	set_clock(-3);
	$source->safe_psql('postgres', q{SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots});
	is($source->safe_psql('postgres', "SELECT max(at) < '$until' FROM t WHERE v = 'lost after a little'"),
		't', 'what is lost has an earlier time than what was complete before');
	$source->poll_query_until('postgres', "SELECT clock_timestamp() > '$until'") or die;
	start_worker();
	is(faults(), '', 'it is in the gap, although the clock was set back by a little only');

	# What was complete is so no longer.
	wait_until_known();
	$until = $history->safe_psql('postgres', q{SELECT stored_until FROM bemi.status});
	set_clock(-6);
	stop_worker();
	start_worker();
	$history->poll_query_until('postgres', "SELECT stored_until < '$until' FROM bemi.status")
	  or die 'the clock that was set back is not noticed';
	pass('bemi.status follows a clock that was set back');
	set_clock(0);
}

#
# A copy of the history's server
#

# Both look the same to the source, so the copy is changed before it starts.
stop_worker();
put('for production', 1);
$history->safe_psql('postgres', q{UPDATE bemi.sources SET desired = 'run'});
$history->stop;
$history->backup_fs_cold('copy');
my $copy = PostgreSQL::Test::Cluster->new('copy');
$copy->init_from_backup($history, 'copy');
$copy->append_conf('postgresql.conf', 'bemi.read_sources = off');
my $confirmed = $source->safe_psql('postgres', 'SELECT confirmed_flush_lsn FROM pg_replication_slots');
$copy->start;
$copy->poll_query_until('postgres', q{
	SELECT state = 'failed' AND last_error LIKE '"bemi.read_sources" keeps this server from using slots of other servers%' FROM bemi.status})
  or die 'the copy does not say that it does not read';
is($source->safe_psql('postgres', 'SELECT confirmed_flush_lsn, active FROM pg_replication_slots'),
	"$confirmed|f", 'a copy with bemi.read_sources = off leaves the slot alone');
my ($status, $stdout, $stderr) = $copy->psql('postgres', q{CALL bemi.drop_source('s')});
like($stderr, qr/could not drop source "s" yet.*bemi.read_sources.*force => true/s, 'and cannot drop it');
$copy->safe_psql('postgres', q{CALL bemi.drop_source('s', force => true)});
is($source->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots'), '1', 'but can forget the source');
$copy->stop;
$history->start;
wait_until_stored();
is(lost('for production'), 0, 'nothing is taken away from the original');
$history->safe_psql('postgres', q{ALTER SYSTEM SET bemi.read_sources = off; SELECT pg_reload_conf()});
$history->poll_query_until('postgres', q{SELECT state = 'failed' FROM bemi.status})
  or die 'the worker does not end';
pass('a worker that reads ends when the setting is turned off');
$history->safe_psql('postgres', q{ALTER SYSTEM RESET bemi.read_sources; SELECT pg_reload_conf()});

#
# A history that is dumped, and restored elsewhere
#

my $dump = $history->data_dir . '/../history.sql';
$history->command_ok([ 'pg_dump', '-f', $dump, $history->connstr('postgres') ], 'the history is dumped');
$history->safe_psql('postgres', q{CREATE DATABASE elsewhere});
$history->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $dump, '-d', $history->connstr('elsewhere') ], 'and restored');
$history->safe_psql('postgres', q{CALL bemi.stop('s')});
$history->safe_psql('elsewhere', "CALL bemi.start('s', conninfo => '$conninfo')");
is( $history->safe_psql('elsewhere', q{SELECT reason, detail LIKE '%SELECT slot_name FROM pg_replication_slots%' FROM bemi.gaps WHERE "table" IS NULL ORDER BY id DESC LIMIT 1}),
	'history_moved|t', 'its gap has a reason of its own, and speaks of the former slot');
$history->safe_psql('elsewhere', q{CALL bemi.drop_source('s')});
$history->safe_psql('postgres', q{CALL bemi.start('s')});

#
# Rights at the source
#

$source->safe_psql('postgres', 'CREATE ROLE reader LOGIN');
like(start_error($history, "CALL bemi.start('r', conninfo => '$conninfo user=reader')"),
	qr/HINT:  At the source: ALTER ROLE reader REPLICATION;/, 'a role without REPLICATION: the line to type');

$source->safe_psql('postgres', q{SET password_encryption = 'scram-sha-256'; CREATE ROLE rotated LOGIN REPLICATION PASSWORD 'new'});
my $hba = slurp_file($source->data_dir . '/pg_hba.conf');
unlink($source->data_dir . '/pg_hba.conf') or die "could not unlink: $!";
append_to_file($source->data_dir . '/pg_hba.conf', "local all rotated scram-sha-256\nhost all rotated all scram-sha-256\n$hba");
$source->reload;
like(start_error($history, "CALL bemi.start('r', conninfo => '$conninfo user=rotated password=old')"),
	qr/HINT:  Give the connection string with the right user and password/, 'a password that has changed');

$source->stop;
$history->stop;
done_testing();
