# A source and its history that are restored from real backups: does bemi notice what was lost or
# undone?
#
# worker_restores.pl simulates restores with cold copies. This test does what operators do:
# pg_basebackup of a running server, recovery from the archive to a time, a position or a name,
# failover, pg_rewind, pg_dump. The history has its own server. Before each restore it is known to
# be complete, so after a restore that is not noticed, bemi.source_complete() returns a wrong
# result, which Bemi::Backups detects.
#
# "Written past" means that, before the worker connects, the source has written more WAL than is
# stored, so positions prove nothing.
#
# By default, one scenario of each kind runs. PG_TEST_EXTRA=backups runs all of them, which takes
# a minute or two, and so does "make soak".

use strict;
use warnings;

use Bemi;
use Bemi::Backups;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{BEMI_SEED} // int(rand(2**31));
my $all = ($ENV{PG_TEST_EXTRA} // '') =~ /\bbackups\b/;

note "random seed: $seed (BEMI_SEED=$seed repeats the clients' choices)";

my $world = Bemi::Backups->new(seed => $seed);
my ($source, $standby, $history) = @$world{qw(source standby history)};

# A backup of the source, and its recovery from the archive.
sub recover_source
{
	my ($backup, $target) = @_;

	$world->put_back($source, $world->path_of($source, $backup), Bemi::Backups::from_archive($source, $target));
	return;
}

sub recover_history
{
	my ($backup, $target) = @_;

	$world->put_back($history, $world->path_of($history, $backup), Bemi::Backups::from_archive($history, $target));
	return;
}

sub now { return $world->ask('SELECT clock_timestamp()'); }

#
# Point-in-time recovery, which has no slot
#

sub recovered_to_time
{
	my $time;

	$world->back_up($source, 'time');
	$world->work_and_complete;
	$time = now();
	$world->work_and_complete;
	$world->archive($source);
	$world->stop_worker;
	recover_source('time', "recovery_target_time = '$time'");
	$world->work;
	$world->start_worker;
	$world->check('recovered to a time', gaps => 'timeline_changed back', amiss => 'lost undone');
	return;
}

sub recovered_to_position
{
	my ($position, $origin);

	$world->back_up($source, 'position', '--create-slot', '--slot=backup');
	$world->work_and_complete;
	$position = $world->ask('SELECT pg_current_wal_lsn()');
	$world->work_and_complete;
	$origin = $world->origin;
	$world->archive($source);
	$world->stop_worker;
	recover_source('position', "recovery_target_lsn = '$position'");
	$world->work;
	$world->write_past($origin);
	$world->work;
	$world->start_worker;
	$world->check('recovered to a position, and written past', gaps => 'timeline_changed back', amiss => 'lost undone');
	return;
}

sub recovered_to_name
{
	$world->back_up($source, 'name', '--wal-method=fetch');
	$world->work_and_complete;
	$world->ask(q{SELECT pg_create_restore_point('here')});
	$world->work_and_complete;
	$world->archive($source);
	recover_source('name', q{recovery_target_name = 'here'});
	$world->work;
	$world->check('recovered to a name, with a worker that tries all the while', gaps => 'timeline_changed back', amiss => '(lost )?undone');
	return;
}

sub recovered_to_what_was_not_stored
{
	my $position;

	$world->back_up($source, 'not_stored');
	$world->stop_worker;
	$world->work;
	$position = $world->ask('SELECT pg_current_wal_lsn()');
	$world->work;
	$world->archive($source);
	recover_source('not_stored', "recovery_target_lsn = '$position'");
	$world->work;
	$world->start_worker;
	$world->check('recovered to a position that the worker had not come to', gaps => 'timeline_changed', amiss => 'lost');
	return;
}

# Both get the same timeline, left at the same position: where the backup ends.  It takes some
# seconds, so that its WAL has changes from before the first gap: what is in a gap proves
# nothing the second time.
sub promoted_twice
{
	my $backup = $world->back_up($source, 'twice', '--max-rate=8M');
	my $began = $world->{began};

	for my $time ('first', 'second')
	{
		my $origin;

		$world->work_and_complete;
		$world->work_and_complete;
		$origin = $world->origin;
		$world->stop_worker;
		$world->{began} = $began;
		$world->put_back($source, $backup, "restore_command = 'false'\n");
		$world->work;
		$world->write_past($origin) if $time eq 'second';
		$world->work;
		$world->start_worker;
		$world->check("a backup promoted for the $time time",
			gaps => ($time eq 'first' ? 'timeline_changed' : 'source_went_back') . ' back',
			amiss => 'lost undone');
	}
	return;
}

#
# Started as after a crash: the same timeline
#

# Puts back a backup and has the source write, past what is stored or not.
sub start_after_crash
{
	my ($backup, $is_past) = @_;
	my $origin;

	# Without it, the two rounds of work would come beyond one.
	$world->write_past($world->ask(q{SELECT pg_current_wal_lsn() + 2000000})) unless $is_past;
	$world->work_and_complete;
	$origin = $world->origin;
	$world->stop_worker;
	$world->put_back($source, $backup);
	$world->work;
	$world->write_past($origin) if $is_past;
	$world->work;
	is($world->ask("SELECT pg_current_wal_lsn() > '$origin'"), $is_past ? 't' : 'f', 'how far the source has come');
	$world->start_worker;
	return;
}

sub crashed_without_slot
{
	start_after_crash($world->back_up($source, 'crash'), 0);
	$world->check('a backup without recovery.signal', gaps => 'source_went_back back', amiss => 'lost undone');
	return;
}

sub crashed_without_slot_and_past
{
	start_after_crash($world->back_up($source, 'crash and past'), 1);
	$world->check('a backup without recovery.signal, written past', gaps => 'source_went_back back', amiss => 'lost undone');
	return;
}

sub crashed_with_slot
{
	start_after_crash($world->copy_files('files'), 0);
	$world->check('a copy of all files', gaps => 'source_went_back back', amiss => 'undone');
	return;
}

sub crashed_with_slot_and_past
{
	start_after_crash($world->copy_files('files and past'), 1);
	$world->check('a copy of all files, written past', gaps => 'source_went_back back', amiss => 'undone');
	return;
}

# A copy of all files that is recovered from the archive has the slot, too.
sub recovered_with_slot
{
	my $time;

	$world->copy_files('files to recover');
	$world->work_and_complete;
	$time = now();
	$world->work_and_complete;
	$world->archive($source);
	recover_source('files to recover', "recovery_target_time = '$time'");
	$world->work;
	$world->check('a copy of all files, recovered to a time', gaps => 'timeline_changed back', amiss => 'undone');
	return;
}

# A snapshot is like a copy that was taken after a crash.
sub snapshot
{
	start_after_crash($world->snapshot('snapshot'), 1);
	$world->check('a snapshot of a server at work, written past', gaps => 'source_went_back back', amiss => 'undone');
	return;
}

# What was stored last cannot be queried.
sub snapshot_and_deletion
{
	my $snapshot = $world->snapshot('snapshot and deletion');
	my $last = $world->tell('SELECT max(id::text) FROM bemi.changes');
	my $origin;

	$world->work_and_complete;
	$origin = $world->origin;
	$world->tell("DELETE FROM bemi.changes WHERE id::text > '$last'");
	$world->stop_worker;
	$world->put_back($source, $snapshot);
	$world->work;
	$world->write_past($origin);
	$world->work;
	$world->start_worker;
	$world->check('a snapshot, and what was stored since is deleted', gaps => 'source_went_back back', amiss => '(lost )?undone');
	return;
}

#
# Failover
#

# Makes a standby, and lets the source lose the changes that it does not get.
sub fail_over
{
	$source->safe_psql('postgres', q{SELECT pg_create_physical_replication_slot('standby', true)});
	$world->back_up($source, 'standby', '--slot=standby');
	$standby->init_from_backup($source, 'standby', has_streaming => 1);
	$standby->append_conf('postgresql.conf', "primary_slot_name = 'standby'\nhot_standby_feedback = on\n");
	$standby->start;
	$source->wait_for_catchup($standby, 'replay', $source->lsn('insert'));
	$standby->stop;
	$world->work_and_complete;
	$source->stop('immediate');
	$standby->start;
	$standby->promote;
	$world->move_to($standby);
	$world->work;
	$world->check('failover to a standby that lacks changes and the slot', gaps => 'timeline_changed back', amiss => '(lost )?undone');
	return;
}

# The old primary becomes a standby of the new one.
sub rewind
{
	my $data = $source->data_dir;
	my $conf = slurp_file("$data/postgresql.conf");

	$standby->safe_psql('postgres', q{CHECKPOINT; SELECT pg_create_physical_replication_slot('standby', true)});
	$source->command_ok(
		[ 'pg_rewind', '--no-sync', "--target-pgdata=$data", '--source-server=' . $standby->connstr('postgres') ],
		'the old primary is rewound');
	unlink("$data/postgresql.conf") or die "could not unlink: $!";
	append_to_file("$data/postgresql.conf", $conf);
	unlink("$data/restore.conf");
	append_to_file("$data/restore.conf",
		"primary_conninfo = '" . $standby->connstr . "'\nprimary_slot_name = 'standby'\nhot_standby_feedback = on\n");
	append_to_file("$data/standby.signal", '');
	return;
}

# Has the source move back to its first server, which must have come so far.
sub switch_back
{
	$standby->wait_for_catchup($source, 'replay', $standby->lsn('insert'));
	$standby->stop;
	$source->promote;
	$world->move_to($source);
	$world->work;
	return;
}

# A slot's files are copied to a standby while it is down, as Patroni does it.
sub rewound_with_slot
{
	my $slot = '/pg_replslot/' . $world->slot_name;

	rewind();
	ok(!-e $source->data_dir . $slot, 'pg_rewind has removed the slot');
	Bemi::Backups::copy_directory($standby->data_dir . $slot, $source->data_dir . $slot);
	$source->start;
	$world->work_and_complete;
	switch_back();
	$world->check('switched back, with a copy of the slot', gaps => '', amiss => '');
	return;
}

# From PostgreSQL 16 on, a standby can have its own logical slots.
sub switched_over_with_slot_of_standby
{
	my $slot = $world->slot_name;

  SKIP:
	{
		skip 'before PostgreSQL 16, a standby has no logical slots to copy', 1 if $source->pg_version < 16;
		pass('a standby has logical slots');
	}
	return if $source->pg_version < 16;
	$world->back_up($source, 'slot of standby');
	File::Path::rmtree($standby->data_dir);
	$standby->init_from_backup($source, 'slot of standby', has_streaming => 1);
	$standby->append_conf('postgresql.conf', "primary_slot_name = ''\nhot_standby_feedback = on\n");
	$standby->start;
	$world->make_slot_of_standby($standby, 'keeper');
	$standby->safe_psql('postgres', qq{SELECT pg_copy_logical_replication_slot('keeper', '$slot')});
	$world->work_and_complete;
	$source->wait_for_catchup($standby, 'replay', $source->lsn('insert'));
	$source->stop;
	$standby->promote;
	$world->move_to($standby);
	$world->work;
	$world->check('switched over to a standby with a copied slot of its own', gaps => '', amiss => '');
	rewind();
	$source->start;
	$world->work_and_complete;
	switch_back();
	$world->check('switched back to a server that has its slot yet', gaps => '', amiss => '');
	return;
}

#
# The history's server
#

sub history_restored
{
	$world->wait_until_noted;
	$world->back_up($history, 'history');
	$world->work_and_complete;
	$world->put_back($history, $world->path_of($history, 'history'));
	$world->work;
	$world->check('the history restored from a backup', gaps => 'history_went_back', amiss => 'lost');
	return;
}

sub history_recovered
{
	my $time;

	$world->wait_until_noted;
	$world->back_up($history, 'history to recover');
	$world->work_and_complete;
	$time = now();
	$world->work_and_complete;
	$world->archive($history);
	recover_history('history to recover', "recovery_target_time = '$time'");
	$world->work;
	$world->check('the history recovered to a time', gaps => 'history_went_back', amiss => 'lost');
	return;
}

# Recovers both to a time, one to an earlier time than the other.
sub recover_both
{
	my ($first, $second) = @_;
	my %time;

	$world->wait_until_noted;
	$world->back_up($history, "both, $first first");
	$world->back_up($source, "both, $first first");
	$world->work_and_complete;
	$time{$first} = now();
	$world->work_and_complete;
	$time{$second} = now();
	$world->work_and_complete;
	$world->archive($source);
	$world->archive($history);
	# The history must not read the source in between, or its slot would keep what is lost.
	$history->stop('immediate');
	recover_source("both, $first first", "recovery_target_time = '$time{source}'");
	$world->work;
	recover_history("both, $first first", "recovery_target_time = '$time{history}'");
	return;
}

sub both_recovered_source_first
{
	recover_both('source', 'history');
	$world->check('both recovered, the source to an earlier time', gaps => 'timeline_changed back', amiss => 'lost undone');
	return;
}

sub both_recovered_history_first
{
	recover_both('history', 'source');
	$world->check('both recovered, the history to an earlier time', gaps => 'timeline_changed', amiss => 'lost');
	return;
}

# The history has recorded that the source went back, and is then restored to an earlier state.
sub history_forgets_way_back
{
	my $files = $world->copy_files('forgotten');
	my $began = $world->{began};
	my $gap;

	$world->work_and_complete;
	$world->wait_until_noted;
	$world->back_up($history, 'unknowing');
	$gap = $world->{gap};
	start_after_crash($files, 1);
	$world->check('a source that went back', gaps => 'source_went_back back', amiss => 'undone');
	$world->put_back($history, $world->path_of($history, 'unknowing'));
	@$world{qw(gap began)} = ($gap, $began);
	$world->work;
	$world->check('and a history that is put back to before', gaps => 'history_went_back back', amiss => 'lost');
	return;
}

#
# Dumps
#

# The source's WAL is the same as ever, only the slot went with the database.
sub source_dumped
{
	my $dump = $source->basedir . '/source.sql';
	my $slot = $world->slot_name;

	$world->keep_times;
	$source->command_ok([ 'pg_dump', '-f', $dump, $source->connstr('postgres') ], 'the source is dumped');
	$world->wait_until_noted;
	$world->back_up($history, 'dumped');
	$world->work_and_complete;
	$world->stop_worker;
	$world->keep_journal;
	$source->safe_psql('template1', $_)
	  for "SELECT pg_drop_replication_slot('$slot')", 'DROP DATABASE postgres', 'CREATE DATABASE postgres';
	$source->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $source->connstr('postgres') ], 'and restored');
	$history->stop('immediate');
	$world->work;
	$world->put_back($history, $world->path_of($history, 'dumped'));
	$world->check('a dump of the source, a backup of the history', gaps => 'slot_dropped', amiss => 'lost');
	return;
}

sub history_dumped
{
	my $dump = $history->basedir . '/history.sql';
	my $origin;

	$world->back_up($source, 'dumped');
	$world->work;
	$world->wait_until_noted;
	$origin = $world->origin;
	$world->stop_worker;
	$history->command_ok([ 'pg_dump', '-f', $dump, $history->connstr('postgres') ], 'the history is dumped');
	$history->safe_psql('postgres', 'CREATE DATABASE elsewhere');
	$history->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $history->connstr('elsewhere') ], 'and restored');
	$world->put_back($source, $world->path_of($source, 'dumped'), "restore_command = 'false'\n");
	$world->work;
	$world->write_past($origin);
	$world->work;
	$world->move_history_to('elsewhere');
	$world->check('a dump of the history, a backup of the source', gaps => 'history_moved back', amiss => 'lost undone');
	return;
}

#
# Each leaves the source and the history as the next one needs them
#

is($world->new_gaps, 'source_started', 'the source is read');

my @scenarios = (
	\&recovered_to_time,
	\&recovered_to_position,
	\&promoted_twice,
	\&crashed_without_slot_and_past,
	\&crashed_with_slot_and_past,
	\&fail_over,
	\&rewound_with_slot,
	\&both_recovered_source_first,
	\&history_forgets_way_back);

push @scenarios,
  \&recovered_to_name,
  \&recovered_to_what_was_not_stored,
  \&crashed_without_slot,
  \&crashed_with_slot,
  \&recovered_with_slot,
  \&snapshot,
  \&snapshot_and_deletion,
  \&switched_over_with_slot_of_standby,
  \&history_restored,
  \&history_recovered,
  \&both_recovered_history_first,
  \&source_dumped
  if $all;

# The last one, because the history moves.
push @scenarios, \&history_dumped;

$_->() for @scenarios;

$world->node->stop;
$history->stop;
done_testing();
