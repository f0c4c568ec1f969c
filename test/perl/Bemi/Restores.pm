# What the tests of restores share: a history on its own server, as it must be to survive a
# restore, a source that is restored, and the check of both afterwards.
#
# The rows of table "t" have numbers from one sequence, so the tests set $last_id back when a
# restore has undone some.

package Bemi::Restores;

use strict;
use warnings;

use Bemi;
use Exporter 'import';
use File::Path;
use File::Temp;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

our @EXPORT = qw($history $source $conninfo $last_id $has_clock start_restores with_clock set_clock start_source
  put wait_until_stored wait_until_known stop_worker start_worker origin write_past
  take_snapshot put_back new_gaps faults lost);

our ($history, $source, $conninfo);
our $last_id = 0;

# The source has a clock that can be set (test/clock.c), where that can be made.
my $clock = File::Temp::tempdir(CLEANUP => 1) . '/clock';
my $library = "$clock.so";
our $has_clock = $^O eq 'linux'
  && system("cc -shared -fPIC -o '$library' test/clock.c >'$clock.log' 2>&1") == 0;

append_to_file($clock, pack('q', 0));

# Runs code that starts the source, or another server whose clock will be set.
sub with_clock
{
	my ($start) = @_;

	local $ENV{LD_PRELOAD} = $library if $has_clock;
	local $ENV{BEMI_TEST_CLOCK} = $clock;
	return $start->();
}

sub set_clock
{
	my ($seconds) = @_;

	open(my $file, '+<:raw', $clock) or die "could not open $clock: $!";
	print $file pack('q', $seconds * 1_000_000);
	close($file) or die "could not write $clock: $!";
	return;
}

# Makes both servers, and starts to read the source.  conf: lines for its postgresql.conf.
sub start_restores
{
	my ($conf) = @_;

	$history = bemi_node('history');
	$source = with_clock(sub { bemi_node('source', conf => "restore_command = 'false'\n" . ($conf // '')) });
	$conninfo = $source->connstr('postgres') =~ s/'/''/gr;
	$source->safe_psql('postgres', q{
		CREATE TABLE t (id int PRIMARY KEY, v text, at timestamptz NOT NULL DEFAULT clock_timestamp());
		CREATE TABLE filler (x text);
		SELECT bemi.track('t')});
	$history->safe_psql('postgres', "CALL bemi.start('s', conninfo => '$conninfo')");
	return;
}

sub start_source
{
	with_clock(sub { $source->start });
	return;
}

# Writes rows, each in its own transaction.
sub put
{
	my ($value, $count) = @_;

	for (1 .. $count)
	{
		$last_id++;
		$source->safe_psql('postgres', "INSERT INTO t VALUES ($last_id, '$value')");
	}
	return;
}

# Waits until everything that the source has written is stored.
sub wait_until_stored
{
	my $lsn = $source->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');

	$source->safe_psql('postgres', q{SELECT pg_logical_emit_message(false, 'flush', ''), pg_switch_wal()});
	$history->poll_query_until('postgres',
		"SELECT state = 'streaming' AND stored_lsn >= '$lsn' FROM bemi.status WHERE source = 's'")
	  or die 'changes are not stored';
	return;
}

# Waits until it is known that all is stored that there is: a new worker looks at once.
sub wait_until_known
{
	stop_worker();
	start_worker();
	$history->poll_query_until('postgres', q{
		SELECT stored_until >= (SELECT max(committed_at) FROM bemi.changes WHERE committed_at < now()) FROM bemi.status})
	  or die 'it is not known what is stored';
	return;
}

sub stop_worker
{
	$history->safe_psql('postgres', q{CALL bemi.stop('s')});
	$history->poll_query_until('postgres', q{SELECT state = 'stopped' FROM bemi.status WHERE source = 's'})
	  or die 'the worker does not stop';
	return;
}

sub start_worker
{
	$history->safe_psql('postgres', q{CALL bemi.start('s')});
	wait_until_stored();
	return;
}

sub origin
{
	return $history->safe_psql('postgres', q{SELECT remote_lsn FROM pg_replication_origin_status});
}

# Lets the source write beyond a position.
sub write_past
{
	my ($lsn) = @_;

	while ($source->safe_psql('postgres', "SELECT pg_current_wal_insert_lsn() <= '$lsn'") eq 't')
	{
		$source->safe_psql('postgres', q{INSERT INTO filler SELECT repeat('x', 1000) FROM generate_series(1, 2000)});
	}
	return;
}

# Copies the data directory of the source, as it is after a crash.
sub take_snapshot
{
	my ($name) = @_;

	$source->stop('immediate');
	PostgreSQL::Test::RecursiveCopy::copypath($source->data_dir, $source->backup_dir . "/$name");
	start_source();
	return;
}

# Puts such a copy in place of the source.  recovery: as a backup, which gets a new
# timeline; slotless: as backups are, without slots.
sub put_back
{
	my ($name, %how) = @_;
	my $data = $source->data_dir;

	$source->stop('immediate');
	File::Path::rmtree($data);
	PostgreSQL::Test::RecursiveCopy::copypath($source->backup_dir . "/$name", $data);
	chmod(0700, $data) or die "could not chmod: $!";
	File::Path::rmtree("$data/pg_replslot", { keep_root => 1 }) if $how{slotless};
	append_to_file("$data/recovery.signal", '') if $how{recovery};
	start_source();
	$source->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()')
	  or die 'the source stays in recovery';
	return;
}

# Gaps of all tables since the last call: reason, and whether they are well-formed.
my $gaps_seen = 0;

sub new_gaps
{
	my $gaps = $history->safe_psql('postgres', qq{
		SELECT concat_ws(' ', reason, CASE WHEN from_lsn <= to_lsn AND from_time <= to_time THEN 'closed' END,
			CASE WHEN detail LIKE 'The source went back to %' THEN 'back' END)
		FROM bemi.gaps WHERE source = 's' AND "table" IS NULL AND id > $gaps_seen ORDER BY id});

	$gaps_seen = $history->safe_psql('postgres', 'SELECT max(id) FROM bemi.gaps');
	return $gaps;
}

# What is wrong with the history, compared with the source: changes that the source
# does not have, and rows that are not stored, outside of gaps; changes stored twice.
sub faults
{
	my $rows = $source->safe_psql('postgres', q{SELECT json_agg(t) FROM t});

	return $history->safe_psql('postgres', qq{
		WITH r AS (SELECT * FROM json_to_recordset(\$rows\$$rows\$rows\$) r(id text, v text, at timestamptz)),
			c AS (SELECT primary_key, after ->> 'v' AS v, committed_at FROM bemi.changes WHERE source = 's')
		SELECT string_agg(f, ', ' ORDER BY f) FROM (
			SELECT format('%s %s is undone', c.primary_key, c.v) FROM c
				WHERE NOT EXISTS (SELECT FROM r WHERE r.id = c.primary_key AND r.v = c.v)
				AND (SELECT bool_and(complete) FROM bemi.source_completeness('s', 'public', 't', c.committed_at - interval '1 microsecond', c.committed_at))
			UNION ALL SELECT format('%s %s is lost', r.id, r.v) FROM r
				WHERE NOT EXISTS (SELECT FROM c WHERE r.id = c.primary_key AND r.v = c.v)
				AND (SELECT bool_and(complete) FROM bemi.source_completeness('s', 'public', 't', r.at, r.at + interval '1 microsecond'))
			UNION ALL SELECT format('%s %s is stored %s times', primary_key, v, count(*)) FROM c GROUP BY primary_key, v HAVING count(*) > 1
		) AS faults(f)});
}

sub lost
{
	my ($value) = @_;

	return $source->safe_psql('postgres', "SELECT count(*) FROM t WHERE v = '$value'")
	  - $history->safe_psql('postgres', "SELECT count(*) FROM bemi.changes WHERE after ->> 'v' = '$value'");
}

1;
