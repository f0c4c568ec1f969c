# Copies of the history's server: none of them may take changes away from the original.
#
# To the source, a copy looks like the original: it requests the same slot, with the same rights.
# So the copy itself must detect that it is one, for each way to make a copy: a copied directory,
# a base backup started as it is, a recovered backup, a promoted standby. The last is also how
# failover works, which must succeed without an operator. Each copy is also tested alone with the
# slot, because the original is restarted now and then.

use strict;
use warnings;

use Bemi;
use Bemi::Restores qw($has_clock with_clock set_clock);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# A reader that is gone is given up soon.
my $source = bemi_node('source', conf => "wal_sender_timeout = '2s'\n");
my $original = bemi_node('original');
my $conninfo = $source->connstr('postgres') =~ s/'/''/gr;
my $last_id = 0;

$source->safe_psql('postgres', q{
	CREATE TABLE t (id int PRIMARY KEY);
	SELECT bemi.track('t')});
$original->safe_psql('postgres', "CALL bemi.start('s', conninfo => '$conninfo')");
my $slot = $source->safe_psql('postgres', 'SELECT slot_name FROM pg_replication_slots');

# Writes a row and waits until this server has stored it.
sub stores
{
	my ($node, $name, $database) = @_;

	$last_id++;
	$source->safe_psql('postgres', "INSERT INTO t VALUES ($last_id)");
	ok( $node->poll_query_until($database // 'postgres', "SELECT count(*) = 1 FROM bemi.changes WHERE primary_key = '$last_id'"),
		$name);
	return;
}

# A copy, started.  how: as init_from_backup() takes it; recovery: with recovery.signal.
sub start_copy
{
	my ($name, $backup, %how) = @_;
	my $recovery = delete $how{recovery};
	my $copy = PostgreSQL::Test::Cluster->new($name);

	$copy->init_from_backup($original, $backup, %how);
	$copy->append_conf('postgresql.conf', "restore_command = 'false'") if $recovery;
	append_to_file($copy->data_dir . '/recovery.signal', '') if $recovery;
	$copy->start;
	$copy->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die if $recovery;
	return $copy;
}

# The copy must not read, neither while its original does nor while it is down.
sub refuses
{
	my ($copy, $error, $name) = @_;
	my $confirmed;

	ok($copy->poll_query_until('postgres', "SELECT state = 'failed' AND last_error LIKE '$error' FROM bemi.status WHERE source = 's'"),
		"$name does not read");
	is($copy->safe_psql('postgres', q{SELECT last_hint FROM bemi.status}),
		q{If this server replaces the other one: CALL bemi.start('s'); If not: CALL bemi.drop_source('s', force => true);},
		"$name: the hint");
	stores($original, "$name: the original goes on");

	$original->stop;
	$confirmed = $source->safe_psql('postgres', 'SELECT confirmed_flush_lsn FROM pg_replication_slots');
	$source->safe_psql('postgres', 'INSERT INTO t VALUES (' . ++$last_id . ')');
	$copy->restart;
	$copy->poll_query_until('postgres', "SELECT state = 'failed' FROM bemi.status WHERE source = 's'") or die;
	is($source->safe_psql('postgres', 'SELECT confirmed_flush_lsn, active FROM pg_replication_slots'),
		"$confirmed|f", "$name leaves the slot alone while nobody reads it");
	$original->start;
	stores($original, "$name: the original goes on after a restart");
	return;
}

my $for_another = 'source "s" was started for another server, and this one is a copy of it%';

#
# The original
#

stores($original, 'the source is read');
$original->restart;
stores($original, 'after a restart, too');

#
# The directory is copied
#

$original->stop;
$original->backup_fs_cold('cold');
$original->start;
my $copy = start_copy('cold', 'cold');
refuses($copy, "$for_another belongs to the server with data directory \"" . $original->data_dir . '"%', 'a cold copy');

my ($status, $stdout, $stderr) = $copy->psql('postgres', q{CALL bemi.drop_source('s')});
like($stderr, qr/could not drop source "s" yet.*was started for another server/s, 'nor does it drop the slot');

# An operator who makes the copy the reader must stop the original.
like(start_error($copy, q{CALL bemi.start('s')}),
	qr/another server reads slot "$slot".*HINT:  Stop that server, or the source there, and try again: CALL bemi\.start\('s'\);/s,
	'bemi.start() does not take the slot from a server that reads it');
ok($copy->poll_query_until('postgres', q{SELECT reader = '-' FROM bemi.sources}), 'and gives up when the reader is known to be alive');
refuses($copy, $for_another, 'a copy that has given up');
$original->stop;
is(start_error($copy, q{CALL bemi.start('s')}), '', 'bemi.start() makes the copy the reader when the original is down');
stores($copy, 'then it reads');
$copy->restart;
stores($copy, 'and goes on after a restart');
is($copy->safe_psql('postgres', 'SELECT reason FROM bemi.gaps WHERE "table" IS NULL ORDER BY id'),
	"source_started\nhistory_went_back", 'with a gap, for what the original has read');

# The original starts again, and is not aware of that.
$original->start;
ok($original->poll_query_until('postgres', q{SELECT last_error LIKE 'source reports: % is active for PID %' AND last_hint LIKE 'See who reads the slot%' FROM bemi.status}),
	'a server whose slot somebody else reads says so');
$copy->safe_psql('postgres', q{CALL bemi.stop('s')});
stores($original, 'and goes on when the slot is free');

# A copy that is meant to have its own history gets its own slot.
$copy->safe_psql('postgres', q{CALL bemi.drop_source('s', force => true)});
is(start_error($copy, "CALL bemi.start('s', conninfo => '$conninfo')"), '', 'a copy can read the source for itself');
stores($copy, 'it reads');
stores($original, 'and so does the original');
is($source->safe_psql('postgres', "SELECT count(*), bool_or(slot_name = '$slot') FROM pg_replication_slots WHERE active"),
	'2|t', 'each from its own slot');
$copy->safe_psql('postgres', q{CALL bemi.drop_source('s')});
is($source->safe_psql('postgres', 'SELECT slot_name FROM pg_replication_slots'), $slot, 'the copy drops its own');
$copy->stop;

#
# A base backup is started, with and without recovery.signal
#

$original->safe_psql('postgres', 'CREATE DATABASE second');
$original->backup('base');
$copy = start_copy('base', 'base');
refuses($copy, $for_another, 'a base backup');
($status, $stdout, $stderr) = $copy->psql('second', 'DROP DATABASE postgres');
is($stderr, '', 'DROP DATABASE does not ask for the slot to be dropped that the original reads');
$copy->stop;
$copy = start_copy('recovered', 'base', recovery => 1);
refuses($copy, $for_another, 'a recovered backup on a new timeline');
$copy->stop;

#
# A standby is promoted while the original lives
#

$source->safe_psql('postgres', q{ALTER SYSTEM SET wal_sender_timeout = '1h'; SELECT pg_reload_conf()});
$copy = with_clock(sub { start_copy('drill', 'base', has_streaming => 1) });
$original->wait_for_catchup($copy);
$copy->promote;
ok($copy->poll_query_until('postgres', q{SELECT last_error LIKE 'another server reads slot%' FROM bemi.status}),
	'a promoted standby does not read what its primary reads');
SKIP:
{
	skip 'no clock that can be set', 1 unless $has_clock;
	set_clock(7200);
	like(start_error($copy, q{CALL bemi.start('s')}), qr/another server reads slot/,
		'and does not take it for alive because the clock was set forward');
}
$source->safe_psql('postgres', q{ALTER SYSTEM RESET wal_sender_timeout; SELECT pg_reload_conf()});
refuses($copy, $for_another, 'a standby whose primary is known to be alive');
set_clock(0);
$copy->stop;

#
# A standby is promoted because the original is gone
#

my $heir = start_copy('heir', 'base', has_streaming => 1);
stores($original, 'the original reads');
$original->safe_psql('postgres', q{SELECT pg_logical_emit_message(true, 'flush', '')});
$original->wait_for_catchup($heir);
my $gaps = $original->safe_psql('postgres', 'SELECT count(*) FROM bemi.gaps WHERE "table" IS NULL');
# The host is lost: nothing closes the worker's connection, so the slot stays active until
# the source gives the reader up.
my $worker = $original->safe_psql('postgres', 'SELECT pid FROM bemi.status');
kill 'STOP', $worker;
$original->kill9;
$heir->promote;
stores($heir, 'after a failover, the standby goes on by itself');
kill 'KILL', $worker;
like(slurp_file($heir->logfile), qr/ERROR:  another server reads slot/, 'when the source has given the former reader up');
is($heir->safe_psql('postgres', 'SELECT count(*) FROM bemi.gaps WHERE "table" IS NULL'), $gaps, 'without a gap');
like(slurp_file($heir->logfile), qr/this server continues to read source "s" in place of its former reader/, 'and logs it');
$heir->restart;
stores($heir, 'it is the reader now');

#
# Other changes of a server: a new host, new files, both
#

# The row is changed instead, while the server is down for the worker.
sub restart_as_if
{
	my ($reader) = @_;

	$heir->safe_psql('postgres', qq{UPDATE bemi.sources SET reader = $reader});
	$heir->restart;
	return;
}

restart_as_if(q{regexp_replace(reader, '^(\S+) (\S+) \S+ ', '\1 \2 other-host ')});
stores($heir, 'a host that has got another name');
restart_as_if(q{regexp_replace(reader, '^(\S+) \S+ ', '\1 1 ')});
stores($heir, 'files that were put back in their place');
is($heir->safe_psql('postgres', 'SELECT reader = _bemi.this_reader() FROM bemi.sources'), 't', 'and the row is as it was');
restart_as_if(q{regexp_replace(reader, '^(\S+) \S+ \S+ ', '\1 1 other-host ')});
ok($heir->poll_query_until('postgres', "SELECT state = 'failed' AND last_error LIKE '$for_another' FROM bemi.status"),
	'other files on another host are a copy');
restart_as_if(q{regexp_replace(reader, '^\S+', '1')});
ok($heir->poll_query_until('postgres', "SELECT state = 'failed' AND last_error LIKE '$for_another' FROM bemi.status"),
	'and so is another system');
is(start_error($heir, q{CALL bemi.start('s')}), '', 'bemi.start() makes it the reader');
stores($heir, 'then it reads');
like(start_error($heir, q{CALL bemi.start('s')}), qr/source "s" is already started/, 'which it is now');

#
# The history is dumped, and restored on another server
#

# Its slot looks like that of a history that is only stopped, so it is named, not
# dropped.  What sources of the new server have themselves is not named.
my $elsewhere = bemi_node('elsewhere');
my $dump = $source->basedir . '/history.sql';

$heir->command_ok([ 'pg_dump', '-f', $dump, $heir->connstr('postgres') ], 'the history is dumped');
$heir->stop;
$elsewhere->safe_psql('postgres', 'CREATE DATABASE restored');
$elsewhere->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $dump, '-d', $elsewhere->connstr('restored') ], 'and restored');
$elsewhere->safe_psql('postgres', "CALL bemi.start('stopped', conninfo => '$conninfo')");
$elsewhere->safe_psql('postgres', q{CALL bemi.stop('stopped')});
# Nor a slot of a source whose database refuses all connections, also those of bemi.
$elsewhere->safe_psql('postgres', 'CREATE DATABASE closed');
$elsewhere->safe_psql('closed', "CREATE EXTENSION bemi; CALL bemi.start('closed', conninfo => '$conninfo'); CALL bemi.stop('closed')");
$elsewhere->safe_psql('postgres', 'ALTER DATABASE closed ALLOW_CONNECTIONS false');
$source->safe_psql('postgres', q{SELECT pg_switch_wal()});
$elsewhere->safe_psql('restored', "CALL bemi.start('s', conninfo => '$conninfo')");
$elsewhere->poll_query_until('restored', 'SELECT warning IS NOT NULL FROM bemi.status') or die 'there is no warning';
like($elsewhere->safe_psql('restored', 'SELECT warning FROM bemi.status'),
	qr/^slots without a reader keep write-ahead log at the source: $slot \(\d+ \w+\); each may belong to .*; to drop one, at the source: SELECT pg_drop_replication_slot\('$slot'\);$/,
	'the slot of the former server is named, and only that');
like(slurp_file($elsewhere->logfile), qr/LOG:  bemi: slots without a reader keep write-ahead log at source "s": $slot \(/, 'also in the log');
$source->safe_psql('postgres', "SELECT pg_drop_replication_slot('$slot')");
my $log_size = -s $elsewhere->logfile;
$elsewhere->restart;
stores($elsewhere, 'the new one reads', 'restored');
is($elsewhere->safe_psql('restored', 'SELECT warning FROM bemi.status'), '', 'without a warning when the slot is dropped');
unlike(substr(slurp_file($elsewhere->logfile), $log_size), qr/slots without a reader/,
	'nor is the slot of a source named that no worker has looked at since the restart, or whose database is closed');

$elsewhere->stop;
$source->stop;
done_testing();
