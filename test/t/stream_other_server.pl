# A source on another server, which only conninfo reaches.
#
# Here each side can fail alone, and a wrong confirmation of the worker can lose a change. On a
# single server, what loses a commit of the worker also sets back the slot. Commits of the worker
# are asynchronous, so a crash of the destination loses the last ones, and the worker must not
# have confirmed them. wal_writer_delay ensures that there are some to lose, and
# wal_sender_timeout that the source requests a reply before the crash, after half of it.
#
# bemi.sync() does not know the WAL of another server, so the test counts changes instead.

use strict;
use warnings;

use Bemi;
use PostgreSQL::Test::Cluster;
use Test::More;

my $source = bemi_node('source', conf => "wal_sender_timeout = '4s'\n");
my $destination = bemi_node('destination', conf => <<~CONF);
	wal_writer_delay = '10s'
	autovacuum = off
	CONF

$source->safe_psql('postgres', 'CREATE DATABASE app');
$source->safe_psql(
	'app', q{
	CREATE EXTENSION bemi;
	CREATE TABLE t (a int, b text, PRIMARY KEY (b, a));
	SELECT bemi.track('t')});
my $conninfo = $source->connstr('app') =~ s/'/''/gr;

sub write_rows
{
	my ($first, $last) = @_;

	$source->safe_psql(
		'app', qq{
		SET bemi.context = '{"rows": $first}';
		INSERT INTO t SELECT n, 'row' FROM generate_series($first, $last) n});
	return;
}

# Waits until so many changes are there, then looks whether they are the rows.
sub check
{
	my ($count, $name) = @_;

	$destination->poll_query_until('postgres',
		"SELECT count(*) >= $count FROM bemi.changes")
	  or die "changes do not come: $name";
	is( $destination->safe_psql(
			'postgres', q{
			SELECT count(*), count(DISTINCT id), min((after->>'a')::int), max((after->>'a')::int),
				count(DISTINCT after) FROM bemi.changes}),
		"$count|$count|1|$count|$count",
		$name);
	return;
}

is( start_error(
		$destination, "CALL bemi.start('app', conninfo => '$conninfo')"),
	'',
	'bemi.start() with a connection string');
write_rows(1, 1);
check(1, 'a change of another server arrives');
is( $destination->safe_psql('postgres',
		'SELECT database, schema, "table", primary_key, operation, before, after, context FROM bemi.changes'),
	'app|public|t|["row", "1"]|CREATE|{}|{"a": 1, "b": "row"}|{"rows": 1}',
	'with the database and the primary key of there');
is( $source->safe_psql('app',
		'SELECT slot_name, database, active FROM pg_replication_slots'),
	$destination->safe_psql('postgres',
		q{SELECT slot_name || '|app|t' FROM bemi.status WHERE source = 'app'}),
	'the slot is at the source');

my ($status, $stdout, $stderr) = $destination->psql('postgres', q{SELECT bemi.sync('10s')});
like($stderr,
	qr/no source of this database is started.*bemi\.sync\(\) does not wait for sources on other servers/s,
	'bemi.sync() has nothing to wait for, and says so');

# A worker that restarts confirms the position of its origin: that must be on disk,
# too.
sub restart_worker
{
	my $pid = $destination->safe_psql('postgres', 'SELECT pid FROM bemi.status');

	$destination->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	$destination->poll_query_until('postgres',
		"SELECT state = 'streaming' AND pid <> $pid FROM bemi.status")
	  or die 'no new worker came';
	$source->poll_query_until('app',
		q{SELECT flush_lsn IS NOT NULL FROM pg_stat_replication WHERE application_name LIKE 'bemi%app%'})
	  or die 'the worker does not answer';
	return;
}

#
# The destination crashes with commits that are not yet on disk
#

for my $round (1, 2)
{
	my $last = 1 + 100 * $round;

	write_rows($last - 99, $last);
	check($last, "round $round: changes arrive");

	# If the worker confirms too early, it does so with this.
	$source->poll_query_until('app',
		'SELECT write_lsn >= sent_lsn FROM pg_stat_replication')
	  or die 'the worker does not answer';
	restart_worker() if $round == 2;
	$destination->stop('immediate');
	$destination->start;
	check($last, "round $round: a crash of the destination loses nothing");
}

#
# The source restarts, or crashes
#

for my $mode ('fast', 'immediate')
{
	my $last = $mode eq 'fast' ? 300 : 400;

	$source->stop($mode);
	$destination->poll_query_until('postgres',
		q{SELECT state = 'failed' AND last_error <> '' FROM bemi.status})
	  or die 'the worker does not notice';
	$source->start;
	write_rows($mode eq 'fast' ? 202 : 301, $last);
	check($last, "the worker comes back after a stop of the source, mode $mode");
}

is($destination->safe_psql('postgres', 'SELECT reason FROM bemi.gaps WHERE "table" IS NULL'),
	'source_started', 'and nothing of this was a gap');

$destination->safe_psql('postgres', q{CALL bemi.drop_source('app')});
is(remains($source, 'app') . '; ' . remains($destination),
	'0 rows, 0 slots, 0 origins; 0 rows, 0 slots, 0 origins',
	'bemi.drop_source() leaves nothing on either server');

$destination->stop;
$source->stop;
done_testing();
