# The history's own server fails over to a standby that has a copy of the slot.  No change is lost
# or stored twice, there is no gap, and nobody calls a function.
#
# From PostgreSQL 17 on, slots are made with "failover", and a standby with
# sync_replication_slots keeps copies of them.  The position of the history comes to the standby
# with physical replication.  That of the slot comes by another process, a little later.  So the
# promoted standby has two positions that differ, and this is what is tested.
#
# docs/operations/failover.md has the settings.

use strict;
use warnings;

use Bemi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = bemi_node('primary', run => 0);
plan skip_all => 'slots are synchronized from PostgreSQL 17 on' if $primary->pg_version < 17;
$primary->start;

$primary->safe_psql(
	'postgres', q{
	CREATE EXTENSION bemi;
	SELECT pg_create_physical_replication_slot('standby');
	CREATE TABLE t (k int PRIMARY KEY, v text);
	SELECT bemi.track('t');
	CALL bemi.start();
	INSERT INTO t SELECT n, 'before' FROM generate_series(1, 100) n;
	SELECT bemi.sync('60s')});
is($primary->safe_psql('postgres', q{SELECT failover FROM pg_replication_slots WHERE slot_name LIKE 'bemi%'}), 't', 'the slot is made with "failover"');

$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
my $conninfo = $primary->connstr('postgres');
$standby->append_conf('postgresql.conf', <<~CONF);
	primary_slot_name = 'standby'
	primary_conninfo = '@{[ $conninfo =~ s/'/''/gr ]}'
	hot_standby_feedback = on
	sync_replication_slots = on
	CONF
$standby->start;
$primary->append_conf('postgresql.conf', "synchronized_standby_slots = 'standby'");
$primary->reload;

# A copy is "temporary" until it is usable, which takes WAL and a snapshot of running transactions.
my $usable = q{SELECT count(*) = 1 FROM pg_replication_slots WHERE slot_name LIKE 'bemi%' AND synced AND NOT temporary};
for my $try (1 .. 60)
{
	$primary->safe_psql('postgres', qq{SELECT pg_log_standby_snapshot(); INSERT INTO t VALUES (1000 + $try, 'meanwhile'); SELECT bemi.sync('60s')});
	last if $standby->safe_psql('postgres', $usable) eq 't';
	$standby->poll_query_until('postgres', $usable) and last;
}
is($standby->safe_psql('postgres', $usable), 't', 'the standby has a copy of the slot');

# The last changes: the standby has them, and may have them in its history or not.
$primary->safe_psql('postgres', q{SET bemi.context = '{"last": true}'; UPDATE t SET v = 'last' WHERE k <= 10});
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
my $gaps = q{SELECT count(*) FROM bemi.gaps WHERE "table" IS NULL};
my $gaps_before = $primary->safe_psql('postgres', $gaps);
$primary->stop('immediate');
$standby->promote;
wait_for_state($standby, 'streaming');

$standby->safe_psql('postgres', q{INSERT INTO t VALUES (2000, 'after'); SELECT bemi.sync('60s')});
is($standby->safe_psql('postgres', q{SELECT count(*) FROM bemi.changes WHERE after ->> 'v' = 'last' AND context = '{"last": true}'}), '10',
	'the last changes before the failover are stored once');
is($standby->safe_psql('postgres', q{SELECT count(*), count(DISTINCT id) FROM bemi.changes WHERE after ->> 'v' = 'before'}), '100|100', 'so are the first');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM bemi.changes WHERE primary_key = '2000'}), '1', 'and those after it');
is($standby->safe_psql('postgres', $gaps), $gaps_before, 'without a gap');

$standby->stop;
done_testing();
