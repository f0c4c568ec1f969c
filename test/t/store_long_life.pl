# A history that lives for years: every commit time finds a partition, old partitions are dropped
# and held ones stay, the others are vacuumed, frozen and analyzed, and all of it can be published
# to another server. None of this may ever stop the worker from storing the next change.
#
# A test cannot wait for years, so commit times are forged: pgoutput sends the origin's time if
# the transaction has one, and a superuser can set it. Prepared transactions hold locks, because
# they need no session.

use strict;
use warnings;

use Bemi;
use List::Util qw(shuffle);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{BEMI_SEED} // time;
srand($seed);
note "BEMI_SEED=$seed";

my $node = bemi_node(
	'main', conf => <<~CONF);
	max_prepared_transactions = 5
	autovacuum_naptime = '1s'
	autovacuum_vacuum_insert_threshold = 1000
	CONF

$node->safe_psql(
	'postgres', q{
	CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, wanted timestamptz);
	SELECT bemi.track('t');
	SELECT pg_replication_origin_create('forger');
	CALL bemi.start()});

# SQL of transactions that seem to commit at these times.
sub forge
{
	return forge_as('forger', @_);
}

# An origin can only be used by one session at a time.
sub forge_as
{
	my $origin = shift;

	return "SELECT pg_replication_origin_session_setup('$origin');\n" . join(
		'',
		map {
			qq{BEGIN;
			INSERT INTO t (wanted) VALUES ('$_');
			SELECT pg_replication_origin_xact_setup('0/1', '$_');
			COMMIT;
			}
		} @_) . "SELECT pg_replication_origin_session_reset();\n";
}

sub store
{
	$node->safe_psql('postgres', forge(@_) . q{SELECT bemi.sync('60s')});
	return;
}

# Changes a setting of the server, after which the worker does its maintenance at once.
sub set
{
	my ($name, $value) = @_;

	$node->safe_psql('postgres', "ALTER SYSTEM SET $name = '$value'");
	$node->reload;
	return;
}

# The bounds of a partition, as they are written.
sub bounds
{
	my ($partition) = @_;

	return $node->safe_psql(
		'postgres', qq{
		SELECT pg_get_expr(relpartbound, oid) FROM pg_class
		WHERE relname = '$partition' AND relnamespace = '_bemi'::regnamespace AND relispartition});
}

# Every row of t is stored once, with its time, where that time belongs, and the
# worker has not failed once.
sub check_all
{
	my ($name) = @_;

	is( $node->safe_psql(
			'postgres', q{
			SELECT bemi.sync('60s');
			SELECT (SELECT count(*) FROM t) - count(*), count(*) - count(DISTINCT c.primary_key),
				count(*) FILTER (WHERE c.committed_at <> t.wanted),
				count(*) FILTER (WHERE r.partition IS NULL)
			FROM bemi.changes c LEFT JOIN t ON t.id::text = c.primary_key
				LEFT JOIN _bemi.partition_ranges() r ON r.partition = c.tableoid
					AND (c.committed_at >= r.from_time AND c.committed_at < r.to_time
						OR c.committed_at = 'infinity' AND r.to_time = 'infinity');
			SELECT state, restarts, last_error FROM bemi.status}),
		"\n0|0|0|0\nstreaming|0|",
		"$name: all is stored, once, where it belongs");
	return;
}

#
# Commit times
#

my @ends = (
	'-infinity', 'infinity',
	'4714-11-24 00:00:00+00 BC', '294276-12-31 23:59:59.999999+00',
	'0044-03-15 BC', '12021-05-06',
	'2021-02-28 23:59:59.999999+00', '2021-02-01');
store(@ends, reverse @ends);
check_all('the ends of time, out of order');
is(bounds('changes_2021_02'),
	q{FOR VALUES FROM ('2021-02-01 00:00:00+00') TO ('2021-03-01 00:00:00+00')},
	'a partition is for a month');

# Neighbours of another make, above and below.
$node->safe_psql(
	'postgres', q{
	CREATE TABLE bemi.by_user PARTITION OF bemi.changes FOR VALUES FROM ('2010-01-10 12:00') TO ('2010-01-20');
	CREATE TABLE bemi.by_user_max PARTITION OF bemi.changes FOR VALUES FROM ('2010-02-03') TO ('2010-02-04')});
store('2010-01-15', '2010-01-25', '2010-01-10 11:59:59', '2010-02-10', '2010-02-02');
check_all("users' partitions");
is(bounds('changes_2010_01'),
	q{FOR VALUES FROM ('2010-01-20 00:00:00+00') TO ('2010-02-01 00:00:00+00')},
	'a partition takes no more than there is, above another');
is(bounds('changes_2010_01_1'),
	q{FOR VALUES FROM ('2010-01-01 00:00:00+00') TO ('2010-01-10 12:00:00+00')},
	'nor below');

# Another session creates the same partition, and has not committed yet.
$node->safe_psql(
	'postgres', q{
	BEGIN;
	SELECT _bemi.make_partition('2015-05-10');
	PREPARE TRANSACTION 'other worker';}
	  . forge('2015-05-20'));
$node->poll_query_until(
	'postgres', q{
	SELECT EXISTS (SELECT FROM pg_locks JOIN bemi.status USING (pid) WHERE NOT granted)})
  or die 'the worker does not wait';
$node->safe_psql('postgres', q{COMMIT PREPARED 'other worker'});
check_all('a partition that another one makes at the same time');
is( $node->safe_psql(
		'postgres', q{SELECT count(*) FROM pg_class WHERE relname LIKE 'changes\_2015\_05%' AND relkind = 'r'}),
	'1',
	'is made once');

# Any times in any order, while the setting changes: a few years of them, so that
# days and weeks are made between others.
foreach my $interval (qw(day week month day week))
{
	set('bemi.partition_interval', $interval);
	store(map { sprintf '%04d-%02d-%02d %02d:00', 2000 + rand 3, 1 + rand 12, 1 + rand 28, rand 24 }
		  (1 .. 20));
}
check_all('random times');
cmp_ok(
	$node->safe_psql(
		'postgres', q{
		SELECT count(*) FROM _bemi.partition_ranges() WHERE partition::text ~ '\.changes_200\d_\d\d_\d\d$'
			AND to_time = from_time + interval '1 day'}),
	'>', 5, 'there are partitions of a day');
set('bemi.partition_interval', 'month');

#
# Retention
#

# Waits until only these partitions have a part before a time.
sub wait_for_partitions
{
	my ($before, $expected) = @_;

	$node->poll_query_until(
		'postgres', qq{
		SELECT coalesce(string_agg(partition::text, ' ' ORDER BY from_time), '')
		FROM _bemi.partition_ranges() WHERE from_time < '$before'},
		$expected)
	  or die "partitions before $before are not \"$expected\"";
	return;
}

# Sets the retention, and waits for a line of the log.
sub log_of_retention
{
	my ($retention, $pattern, $name) = @_;
	my $offset = -s $node->logfile;

	set('bemi.retention', $retention);
	ok($node->wait_for_log($pattern, $offset), $name);
	return;
}

# The worker stores what comes.
sub works_on
{
	my ($name) = @_;

	is( $node->safe_psql(
			'postgres', q{
			INSERT INTO t DEFAULT VALUES;
			SELECT bemi.sync('60s');
			SELECT max(primary_key::int) = (SELECT max(id) FROM t) FROM bemi.changes}),
		"\nt",
		"$name: the worker goes on");
	return;
}

# What is to stay, or not, is some years old whenever the test is run.
my $this_year = 1900 + (gmtime)[5];
my ($old, $older) = ($this_year - 3, $this_year - 4);
store("$older-05-05", "$old-05-05", "$old-06-06");
my ($may, $june) = ("_bemi.changes_${old}_05", "_bemi.changes_${old}_06");

$node->safe_psql(
	'postgres', q{
	SELECT bemi.hold_partition('_bemi.changes_2021_02', reason => 'a case');
	SELECT bemi.hold(from_time => '2010-01-15', to_time => '2010-01-16')});
log_of_retention(
	'10 years',
	qr/LOG:  bemi: partition "changes_2015_05" of bemi\.changes was dropped/,
	'the log says what was dropped');
wait_for_partitions('2016-01-01', 'bemi.by_user');
is( $node->safe_psql('postgres',
		q{SELECT count(*), count(*) FILTER (WHERE tableoid <> 'bemi.by_user'::regclass) FROM bemi.changes WHERE committed_at < '2016-01-01'}),
	'1|0',
	'what is older than bemi.retention is gone, what is held is there');
is( $node->safe_psql('postgres',
		q{SELECT source, "table", reason, from_time, to_time FROM bemi.gaps WHERE source IS NULL}),
	'||retention|-infinity|2015-06-01 00:00:00+00',
	'and bemi.gaps says what is gone');

$node->safe_psql('postgres',
	q{SELECT bemi.release(from_time => '2010-01-15', to_time => '2010-01-16')});
set('bemi.retention', '3650 days');
wait_for_partitions('2016-01-01', '');
pass('what is released goes');

# What comes so late that it is too old is stored, and goes in its turn.
store('2015-05-05');
works_on('a very late change');
set('bemi.retention', '3651 days');
wait_for_partitions('2016-01-01', '');

#
# What stands in the way is logged, and not waited for
#

$node->safe_psql(
	'postgres', q{
	BEGIN;
	SELECT count(*) FROM bemi.changes;
	PREPARE TRANSACTION 'reader'});
log_of_retention(
	'730 days',
	qr/LOG:  bemi: could not drop a partition older than bemi\.retention, will try again: partition "changes_\d+_\d+" is in use/,
	'a reader is not waited for');
works_on('with a reader');
$node->safe_psql('postgres', q{COMMIT PREPARED 'reader'});

$node->safe_psql(
	'postgres', qq{
	BEGIN;
	SELECT bemi.hold_partition('$may');
	PREPARE TRANSACTION 'holder'});
log_of_retention(
	'731 days',
	qr/LOG:  bemi: could not drop .*: could not obtain lock on relation "bemi.holds"/,
	'a hold that is about to come is not overrun');
works_on('with a holder');
$node->safe_psql('postgres', q{COMMIT PREPARED 'holder'});

$node->safe_psql('postgres', "CREATE VIEW needs_june AS SELECT * FROM $june");
log_of_retention(
	'732 days',
	qr/LOG:  bemi: could not drop .*: cannot drop table \Q$june\E because other objects depend on it/,
	'what others depend on stays');
wait_for_partitions("$old-12-31", "_bemi.changes_2021_02 $may $june");
pass('and does not keep the rest from going');
works_on('with a view');
$node->safe_psql('postgres', 'DROP VIEW needs_june');

# The other way round: what is just being dropped can no longer be held.
$node->safe_psql(
	'postgres', qq{
	BEGIN;
	SELECT _bemi.drop_expired_partition('$june', '2 years');
	PREPARE TRANSACTION 'dropper'});
my ($stdout, $stderr) = ('', '');
my $holder = IPC::Run::start(
	[
		$node->installed_command('psql'), '-XAtq', '-d',
		$node->connstr('postgres'), '-c', "SELECT bemi.hold_partition('$june')"
	],
	'>', \$stdout, '2>', \$stderr, IPC::Run::timeout(120));
$node->poll_query_until('postgres',
	q{SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'bemi.holds'::regclass AND NOT granted)})
  or die 'hold() does not wait';
$node->safe_psql('postgres', q{COMMIT PREPARED 'dropper'});
$holder->finish;
like($stderr, qr/ERROR:  .* is not a partition of bemi\.changes/,
	'hold() waits for a drop, and then finds the partition gone');

# The database's own setting, and what becomes of the position when all this
# is followed by a crash: nothing comes twice.
$node->safe_psql(
	'postgres', qq{
	SELECT bemi.release_partition('$may');
	ALTER SYSTEM RESET bemi.retention;
	ALTER DATABASE postgres SET bemi.retention = '2 years'});
$node->reload;
my $rows = $node->safe_psql('postgres',
	'SELECT count(*) FROM bemi.changes WHERE committed_at > now() - interval \'1 year\'');
$node->safe_psql('postgres', 'CALL bemi.stop(); CALL bemi.start()');
$node->poll_query_until('postgres', "SELECT to_regclass('$may') IS NULL")
  or die "$may is not dropped";
$node->safe_psql('postgres', q{INSERT INTO t DEFAULT VALUES; SELECT bemi.sync('60s')});
$node->stop('immediate');
$node->start;
is( $node->safe_psql('postgres',
		q{SELECT bemi.sync('60s'); SELECT count(*), count(*) - count(DISTINCT id) FROM bemi.changes WHERE committed_at > now() - interval '1 year'}),
	"\n" . ($rows + 1) . '|0',
	'after a crash, nothing is stored twice');
is( $node->safe_psql('postgres',
		q{SELECT array_agg(partition::text) FROM _bemi.partition_ranges() WHERE to_time <= now() - interval '2 years'}),
	'{_bemi.changes_2021_02}',
	'what was held since long is still there');
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET bemi.retention; CALL bemi.stop(); CALL bemi.start()');

#
# Vacuum and statistics
#

my $partition = $node->safe_psql(
	'postgres', q{
	SELECT tableoid::regclass FROM bemi.changes WHERE committed_at BETWEEN now() - interval '1 day' AND now() LIMIT 1});
my $inserted = "SELECT pg_stat_get_tuples_inserted('$partition'::regclass)";
my $before = $node->safe_psql('postgres', $inserted);
$node->safe_psql('postgres',
	q{INSERT INTO t SELECT FROM generate_series(1, 5000); SELECT bemi.sync('60s')});
$node->safe_psql('postgres', q{INSERT INTO t SELECT FROM generate_series(1, 7); SELECT bemi.sync('60s')});
ok( $node->poll_query_until('postgres', "SELECT ($inserted) >= 5007"),
	'the last inserts before a pause reach the statistics');
ok( $node->poll_query_until(
		'postgres', qq{
		SELECT pg_stat_get_autovacuum_count(c.oid) > 0 AND age(c.relfrozenxid) < age(p.xmin)
		FROM pg_class c, (SELECT xmin FROM $partition ORDER BY id DESC LIMIT 1 OFFSET 100) p
		WHERE c.oid = '$partition'::regclass}),
	'autovacuum comes, and freezes what is there');

set('bemi.retention', '100 years');
ok( $node->poll_query_until(
		'postgres', q{
		SELECT pg_stat_get_last_analyze_time('bemi.changes'::regclass) IS NOT NULL
			AND EXISTS (SELECT FROM pg_stats WHERE schemaname = 'bemi' AND tablename = 'changes' AND inherited AND attname = 'context')}),
	'bemi.changes as a whole has statistics');
is($node->safe_psql('postgres', 'SELECT _bemi.needs_analyze()'), 'f', 'which is enough for a day');
works_on('after all this');

#
# The history published to another server
#

my $archive = bemi_node('archive', run => 0);
$archive->start;
$archive->safe_psql(
	'postgres', q{
	CREATE SCHEMA bemi;
	CREATE TABLE bemi.changes (
		id uuid PRIMARY KEY, database text, schema text, "table" text, primary_key text, operation text,
		before jsonb, after jsonb, context jsonb, committed_at timestamptz, queued_at timestamptz,
		created_at timestamptz, transaction_id bigint, position bigint, source text)});
$node->safe_psql('postgres',
	'CREATE PUBLICATION hist FOR TABLE bemi.changes WITH (publish_via_partition_root = true)');
my $connection = $node->connstr . ' dbname=postgres';
$archive->safe_psql('postgres',
	"CREATE SUBSCRIPTION archive CONNECTION '$connection' PUBLICATION hist");
$archive->wait_for_subscription_sync($node, 'archive');

my $all = q{SELECT count(*), md5(string_agg(c::text, '' ORDER BY id)) FROM bemi.changes c};
is( $archive->safe_psql('postgres', $all),
	$node->safe_psql('postgres', $all),
	'a subscriber of bemi.changes gets what is there');
$node->safe_psql(
	'postgres', q{
	SET bemi.context = '{"by": "ann"}';
	INSERT INTO t DEFAULT VALUES;
	UPDATE t SET wanted = NULL WHERE id = (SELECT max(id) FROM t);
	DELETE FROM t WHERE wanted IS NULL AND id < 100;
	TRUNCATE t});
store('2030-01-01', '1999-12-31', 'infinity');

# The worker's commits are asynchronous, so no position shows when they are on disk.
ok( $archive->poll_query_until('postgres', $all, $node->safe_psql('postgres', $all)),
	'and what comes, also in new partitions');
set('bemi.retention', '20 years');
$node->poll_query_until('postgres', q{SELECT to_regclass('_bemi.changes_1999_12') IS NULL})
  or die 'the partition is not dropped';
works_on('without that partition');
ok( $archive->poll_query_until(
		'postgres',
		q{SELECT count(*), count(*) FILTER (WHERE committed_at = '1999-12-31') FROM bemi.changes},
		1 + $node->safe_psql('postgres', 'SELECT count(*) FROM bemi.changes') . '|1'),
	'what is dropped here stays there');
is( $node->safe_psql(
		'postgres', q{
		SELECT count(*), count(*) FILTER (WHERE schemaname IN ('bemi', '_bemi')) FROM pg_publication_tables WHERE pubname = 'bemi'}),
	'1|0',
	'the publication that the worker reads does not have the history');
my $count = $node->safe_psql('postgres', 'SELECT count(*) FROM bemi.changes');
$node->safe_psql(
	'postgres', q{
	ALTER PUBLICATION bemi ADD TABLE bemi.changes;
	INSERT INTO t DEFAULT VALUES;
	SELECT bemi.sync('60s');
	INSERT INTO t DEFAULT VALUES;
	SELECT bemi.sync('60s');
	SELECT bemi.sync('60s');
	ALTER PUBLICATION bemi DROP TABLE bemi.changes});
is($node->safe_psql('postgres', 'SELECT count(*) FROM bemi.changes'),
	$count + 2,
	'and if somebody puts it there, it does not feed on itself');
command_like(
	[ $node->installed_command('pg_dump'), '-d', $connection, '--schema=bemi', '--extension=bemi' ],
	qr/^COPY bemi\.holds .*\n2021-02-01 .*\ta case\t/m,
	'a dump has the holds');

$archive->stop;

#
# Two workers in one house: they need the same partitions at the same time, and
# drop them
#

$node->safe_psql('postgres', 'DROP PUBLICATION hist; CREATE DATABASE second');
$node->safe_psql(
	'second', q{
	CREATE EXTENSION bemi;
	CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, wanted timestamptz);
	SELECT bemi.track('t');
	SELECT pg_replication_origin_create('second forger')});
$node->safe_psql('postgres',
	"CALL bemi.start('second', conninfo => '" . $node->connstr . " dbname=second')");
set('bemi.partition_interval', 'day');

my $stored = "SELECT count(*), count(DISTINCT id), count(DISTINCT tableoid) FROM bemi.changes WHERE committed_at BETWEEN '$old-01-01' AND '$old-03-01'";
my @days = map { sprintf "$old-%02d-%02d 12:00", $_ / 28 + 1, $_ % 28 + 1 } (0 .. 55);
my @writers = map {
	my ($database, $origin) = @$_;
	my @shuffled = shuffle(@days);
	my $sql = forge_as($origin, @shuffled);

	IPC::Run::start(
		[ $node->installed_command('psql'), '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr($database) ],
		'<', \$sql, '>', '/dev/null', IPC::Run::timeout(120))
} ([ 'postgres', 'forger' ], [ 'second', 'second forger' ]);
$_->finish foreach @writers;
ok($node->poll_query_until('postgres', $stored, '112|112|56'),
	'two workers make the same partitions once');
set('bemi.retention', '1 year');
wait_for_partitions("$old-12-31", '_bemi.changes_2021_02');
is( $node->safe_psql(
		'postgres', q{
		SELECT source, state, restarts, last_error FROM bemi.status ORDER BY source;
		SELECT count(*) FROM bemi.gaps WHERE reason = 'retention'}),
	"main|streaming|0|\nsecond|streaming|0|\n1",
	'and drop them, without a failure');
works_on('two workers');

$node->stop;
done_testing();
