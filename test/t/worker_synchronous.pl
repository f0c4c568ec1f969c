# Synchronous replication at the source.
#
# The server treats each walsender whose name matches synchronous_standby_names as a standby, and
# '*' matches that of bemi's worker. Then a commit would be acknowledged because the history has
# it, although no standby has it. And without changes to store, a commit would wait until the
# worker confirms something. So each setting is tested with a real standby that runs, is killed,
# and returns. The worker must not change when a commit waits. Meanwhile bemi.sync() and the
# workers' own commits must not wait for a standby.
#
# A walsender with its own application_name is treated as one on a server without the library,
# where the worker can only reduce the effect.

use strict;
use warnings;

use Bemi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Bemi::Session;
use Test::More;

my $node = bemi_node('main', conf => "wal_sender_timeout = '20s'\nbemi.max_slot_lag = '10GB'\n");
$node->safe_psql(
	'postgres', q{
	CREATE TABLE t (id int PRIMARY KEY);
	CREATE TABLE untracked (id int);
	SELECT bemi.track('t');
	CALL bemi.start()});
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->append_conf('postgresql.conf', "shared_preload_libraries = ''\nwal_receiver_status_interval = '1s'\n");
my $walsender = q{SELECT sync_priority FROM pg_stat_replication WHERE application_name LIKE 'bemi_%'};
my $rows = 0;

sub set_names
{
	my ($names, $server) = @_;

	$server //= $node;
	$server->safe_psql('postgres', "ALTER SYSTEM SET synchronous_standby_names = '$names'");
	$server->reload;
	$server->poll_query_until('postgres', "SELECT current_setting('synchronous_standby_names') = '$names'")
	  or die "the setting does not come: $names";
	return;
}

sub wait_for
{
	my ($server, $condition, $name) = @_;

	ok($server->poll_query_until('postgres', "SELECT $condition"), $name);
	return;
}

# A session whose commit waits for a synchronous standby.
sub waiting_commit
{
	my ($sql) = @_;
	my $session = Bemi::Session->new($node);

	$session->send($sql);
	$session->wait_until_it_waits('IPC');
	return $session;
}

# What bemi and the applications do while no standby is there.  A commit waits,
# and continues when "release" is called.
sub commits_wait
{
	my ($names, $release) = @_;

	$rows++;
	my $tracked = waiting_commit("INSERT INTO t VALUES ($rows)");
	my $untracked = waiting_commit("INSERT INTO untracked VALUES ($rows)");
	is($node->safe_psql('postgres', qq{SET statement_timeout = '20s'; SELECT bemi.sync(); SELECT count(*) FROM bemi.changes}),
		"\n$rows", "$names: bemi.sync() and the worker wait for no standby");
	is( $node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity
			WHERE wait_event = 'SyncRep' AND backend_type = 'client backend'}),
		'2', "$names: what is stored by bemi does not count as a standby's word");
	$release->();
	is($_->result, '', "$names: a commit returns with the standby") for ($tracked, $untracked);
	$_->quit for ($tracked, $untracked);
	return;
}

is($node->safe_psql('postgres', $walsender), '0', 'without synchronous standbys');
$standby->start;
for my $names ('*', 'ANY 1 (*)', 'FIRST 1 (standby, *)')
{
	set_names($names);
	wait_for($node, q{count(*) = 1 FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')
			AND application_name = 'standby'}, "$names: the standby is elected");
	is($node->safe_psql('postgres', $walsender), '0', "$names: the worker's walsender is not");
	$standby->stop('immediate');
	wait_for($node, q{count(*) = 1 FROM pg_stat_replication}, "$names: the standby is killed");
	commits_wait($names, sub { $standby->start });
}
is($node->safe_psql('postgres', 'SELECT warning IS NULL FROM bemi.status'), 't', 'nothing to warn of');

#
# Without a standby, sources are started and stopped
#

set_names('*');
$standby->stop;
wait_for($node, q{count(*) = 1 FROM pg_stat_replication}, 'the standby is stopped');
is($node->safe_psql('postgres', q{SET synchronous_commit = local; CALL bemi.stop(); CALL bemi.start(); SELECT state FROM bemi.status}),
	'streaming', 'bemi.stop() and bemi.start() by a session that waits for no standby');
is($node->safe_psql('postgres', $walsender), '0', 'the new walsender declines as well');
my $starter = waiting_commit(q{CALL bemi.stop()});
$node->safe_psql('postgres', 'SELECT pg_cancel_backend(' . $starter->pid . ')');
like($starter->result, qr/canceling wait for synchronous replication/, 'bemi.stop() by another can be canceled');
$starter->quit;
wait_for($node, q{state = 'stopped' FROM bemi.status}, 'and takes effect');

# A restart sends out the discovery workers, which have an origin to drop.
$node->safe_psql('postgres', q{
	SET synchronous_commit = local;
	SELECT pg_replication_origin_create('bemi_1_gone');
	CALL bemi.start()});
$node->stop('fast');
$node->start;
wait_for($node, q{count(*) = 1 FROM bemi.status WHERE state = 'streaming'}, 'the worker comes back after a restart');
wait_for($node, q{count(*) = 0 FROM pg_replication_origin WHERE roname = 'bemi_1_gone'}, 'a discovery worker waits for no standby');

my $conninfo = $node->connstr('postgres') =~ s/'/''/gr;
set_names('');

#
# With another application_name, the walsender counts, and bemi reduces the effect
#

$node->safe_psql(
	'postgres', qq{
	CALL bemi.drop_source('main');
	CALL bemi.start('own', conninfo => '$conninfo application_name=audit')});
my $log = -s $node->logfile;
set_names('*');
wait_for($node, q{count(*) = 1 FROM pg_stat_replication WHERE application_name = 'audit' AND sync_state = 'sync'},
	'a name of its own is elected');
wait_for($node, q{warning LIKE '%at the source: ALTER SYSTEM SET synchronous_standby_names = ''standby1''; SELECT pg_reload_conf();'
		FROM bemi.status}, 'a warning says what to write instead');
like(slurp_file($node->logfile, $log), qr/commits at source "own" may wait for its worker instead of a standby/, 'so does the log');
$standby->start;
wait_for($node, q{warning LIKE '%synchronous_standby_names = ''standby''%' FROM bemi.status}, 'with the names of the standbys');
$standby->stop;
$rows++;
my $begun = time;
$node->safe_psql('postgres', "INSERT INTO untracked VALUES ($_)") for (1 .. 5);
$node->safe_psql('postgres', "INSERT INTO t VALUES ($rows)");
cmp_ok(time - $begun, '<', 10, 'commits wait for a moment only');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'}), '0', 'and nobody is left');
set_names('audit');
wait_for($node, 'warning IS NULL FROM bemi.status', 'who lists the name means it');
$node->safe_psql('postgres', "INSERT INTO untracked VALUES (1)");
set_names('');
$node->safe_psql('postgres', q{CALL bemi.drop_source('own')});

#
# A server without the library
#

my $foreign = PostgreSQL::Test::Cluster->new('foreign');
$foreign->init(allows_streaming => 'logical');
$foreign->append_conf('postgresql.conf', "max_connections = 10\n");
$foreign->start;
$foreign->safe_psql(
	'postgres', q{
	CREATE ROLE reader REPLICATION LOGIN;
	CREATE TABLE f (id int PRIMARY KEY);
	CREATE TABLE untracked (id int);
	ALTER TABLE f REPLICA IDENTITY FULL;
	GRANT SELECT ON f TO reader;
	CREATE PUBLICATION bemi FOR TABLE f WITH (publish_via_partition_root = true)});
$conninfo = $foreign->connstr('postgres') =~ s/'/''/gr;
$node->safe_psql('postgres', "CALL bemi.start('foreign', conninfo => '$conninfo user=reader')");
wait_for($node, q{warning IS NULL AND wal_kept IS NOT NULL FROM bemi.status}, 'a server without the library: no warning');
set_names('ANY 1 (*)', $foreign);
wait_for($foreign, q{count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'quorum'}, 'the worker is elected');
$begun = time;
$foreign->safe_psql('postgres', 'INSERT INTO f VALUES (1)');
$foreign->safe_psql('postgres', 'INSERT INTO untracked VALUES (1)');
cmp_ok(time - $begun, '<', 40, 'no commit hangs for long until that is noticed');
wait_for($node, q{warning LIKE '%synchronous_standby_names = ''ANY 1 (standby1)''%' FROM bemi.status},
	'which a role can do that may not see priorities');
$begun = time;
$foreign->safe_psql('postgres', "INSERT INTO untracked VALUES ($_)") for (1 .. 5);
cmp_ok(time - $begun, '<', 10, 'nor for more than a moment from then on');
set_names('', $foreign);
$node->safe_psql('postgres', q{CALL bemi.drop_source('foreign')});

$_->stop for ($foreign, $node);
done_testing();
