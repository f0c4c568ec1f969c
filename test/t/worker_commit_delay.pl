# bemi.commit_delay: transactions that arrive close to each other share a commit of the worker, and
# nobody waits for a worker that rests.
#
# A resting worker does not read the stream. So it could miss that a session waits for it, that it
# has to end, or that commits at the source wait for it. Each case is tried with the longest delay,
# 100 ms, and with as many transactions as make the worker rest. Times are compared with half of the
# delay, as the median of several rounds, because a busy machine makes single rounds slow.

use strict;
use warnings;

use Bemi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main', conf => "restart_after_crash = on\nbemi.commit_delay = '100ms'\n");
my $half = 50;
my $rounds = 15;
my $stored = q{EXISTS (SELECT FROM bemi.changes WHERE "table" = 't' AND primary_key = last::text)};

# A burst of transactions, then something is awaited, and its time measured.
my $procedures = q{
	CREATE TABLE t (id serial PRIMARY KEY);
	CREATE TABLE measured (name text, ms float8);
	CREATE PROCEDURE burst(transactions int, INOUT last int) LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1 .. transactions LOOP
			INSERT INTO t DEFAULT VALUES RETURNING id INTO last;
			COMMIT;
		END LOOP;
	END $$;
	-- Lets more time pass than the delay.
	CREATE PROCEDURE be_quiet() LANGUAGE plpgsql AS $$
	DECLARE
		until timestamptz := clock_timestamp() + interval '150 ms';
	BEGIN
		WHILE clock_timestamp() < until LOOP END LOOP;
	END $$};
$node->safe_psql('postgres', "$procedures; SELECT bemi.track('t'); CALL bemi.start()");

# The median of the milliseconds that "await" takes after a burst.  "await" is
# PL/pgSQL; the key of the burst's last row is "last".
sub median_ms
{
	my ($transactions, $await, $server, $before) = @_;

	$server //= $node;
	$before //= '';
	$server->safe_psql(
		'postgres', qq{
		TRUNCATE measured;
		DO \$\$
		DECLARE
			last int;
			begun timestamptz;
		BEGIN
			FOR round IN 1 .. $rounds LOOP
				$before
				CALL burst($transactions, last);
				begun := clock_timestamp();
				$await
				INSERT INTO measured VALUES ('', extract(epoch FROM clock_timestamp() - begun) * 1000);
				COMMIT;
			END LOOP;
		END \$\$});
	my ($median, $all) = split /\|/, $server->safe_psql(
		'postgres', q{SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY ms), string_agg(round(ms)::text, ' ') FROM measured});

	note "milliseconds: $all";
	return $median;
}

sub set_delay
{
	my ($delay) = @_;

	$node->safe_psql('postgres', "ALTER SYSTEM SET bemi.commit_delay = '$delay'; SELECT pg_reload_conf()");
	return;
}

# Each row of t is stored once by each source, whatever has happened.
sub check_once
{
	my ($name) = @_;

	$node->safe_psql('postgres', q{SELECT bemi.sync('60s')});
	is( $node->safe_psql('postgres', q{
			SELECT source, count(*) - (SELECT count(*) FROM t) AS more, count(*) - count(DISTINCT primary_key) AS twice
			FROM bemi.changes WHERE "table" = 't' AND source = 'main' GROUP BY source}),
		'main|0|0', "$name: each row is stored once");
	return;
}

# Writes for a second, and gives the numbers of source transactions and of the
# commits that have stored them.
sub write_for_a_second
{
	$node->safe_psql(
		'postgres', q{
		TRUNCATE measured;
		INSERT INTO measured SELECT 'from', coalesce(max(id), 0) FROM t;
		DO $$
		DECLARE
			until timestamptz := clock_timestamp() + interval '1 s';
		BEGIN
			WHILE clock_timestamp() < until LOOP
				INSERT INTO t DEFAULT VALUES;
				COMMIT;
				-- So that the worker keeps up.
				PERFORM sum(n) FROM generate_series(1, 10000) n;
			END LOOP;
		END $$});
	$node->safe_psql('postgres', q{SELECT bemi.sync('60s')});
	return split /\|/, $node->safe_psql(
		'postgres', q{
		SELECT count(*), count(DISTINCT c.xmin::text) FROM bemi.changes c, measured
		WHERE "table" = 't' AND name = 'from' AND primary_key::int > ms});
}

#
# Who reads the history by itself sees the delay
#

my $until_visible = "WHILE NOT $stored LOOP COMMIT; END LOOP;";

cmp_ok(median_ms(20, $until_visible), '>', $half, 'with many transactions, the last one is delayed');
cmp_ok(median_ms(1, $until_visible, $node, 'CALL be_quiet();'), '<', $half, 'one after a quiet moment is not');
my ($transactions, $commits) = write_for_a_second();
note "$transactions transactions in $commits commits";
cmp_ok($commits, '<=', 30, 'many transactions share a commit');

#
# Who waits for the worker does not
#

my %waits = (
	'bemi.sync()' => 'PERFORM bemi.sync();',
	'bemi.as_of()' => q{ASSERT (SELECT count(*) FROM bemi.as_of(NULL::t, clock_timestamp())) = (SELECT count(*) FROM t);},
	'bemi.row_as_of()' => q{ASSERT (SELECT count(*) FROM bemi.row_as_of(NULL::t, last::text, clock_timestamp())) = 1;});

$node->safe_psql('postgres', 'TRUNCATE t');
cmp_ok(median_ms(20, $waits{$_}), '<', $half, "$_ does not wait for the delay") for (sort keys %waits);
$node->safe_psql('postgres', 'DELETE FROM bemi.changes');

my $conninfo = $node->connstr('postgres') =~ s/'/''/gr;
$node->safe_psql('postgres', "CALL bemi.start('again', conninfo => '$conninfo')");
cmp_ok(median_ms(20, $waits{'bemi.sync()'}), '<', $half, 'nor for that of one of two sources');
is( $node->safe_psql('postgres', q{SELECT count(DISTINCT source) FROM bemi.changes WHERE primary_key = (SELECT max(id)::text FROM t)}),
	'2', 'both have stored the last row');
$node->safe_psql('postgres', q{CALL bemi.drop_source('again')});

#
# A worker that has to end while it rests
#

$node->safe_psql('postgres', 'TRUNCATE t');
$node->safe_psql('postgres', 'SELECT bemi.sync()');
$node->safe_psql('postgres', 'DELETE FROM bemi.changes');
for (1 .. 3)
{
	$node->safe_psql('postgres', 'CALL burst(20, NULL); CALL bemi.stop(); CALL burst(20, NULL); CALL bemi.start()');
}
check_once('stopped and started');
$node->safe_psql('postgres', 'CALL burst(20, NULL); SELECT pg_terminate_backend(pid) FROM bemi.status; CALL burst(20, NULL)') for (1 .. 3);
check_once('terminated');
for (1 .. 2)
{
	my $worker = $node->safe_psql('postgres', 'SELECT pid FROM bemi.status');
	my $offset = -s $node->logfile;

	$node->safe_psql('postgres', 'CALL burst(20, NULL)');
	kill('KILL', $worker) == 1 or die "no worker $worker";
	$node->wait_for_log(qr/database system is ready to accept connections/, $offset);
	wait_for_state($node, 'streaming');
}
check_once('killed');
$node->safe_psql('postgres', 'CALL burst(20, NULL)');
$node->stop('fast');
$node->start;
check_once('a shutdown');

#
# Other values
#

set_delay(0);
cmp_ok(median_ms(20, $until_visible), '<', $half, 'with 0, the worker does not rest');
my ($more_transactions, $more_commits) = write_for_a_second();
note "$more_transactions transactions in $more_commits commits";
cmp_ok($more_commits, '>', 2 * $commits, 'and fewer transactions share a commit');
set_delay('100ms');
cmp_ok(median_ms(20, $until_visible), '>', $half, 'a worker that runs takes over the value');

#
# A backlog
#

# The seconds from the start of the worker until it has stored a backlog.  A
# worker that rests does not read, and its walsender sends no more than the
# socket holds, which is some 200 of these transactions.
sub backlog_seconds
{
	my ($delay) = @_;

	set_delay($delay);
	$node->safe_psql(
		'postgres', qq{
		CALL bemi.stop();
		SET synchronous_commit = off;
		CALL burst(20000, NULL);
		SET synchronous_commit = on;
		CALL burst(1, NULL);
		CALL bemi.start();
		TRUNCATE measured;
		INSERT INTO measured VALUES ('begun', extract(epoch FROM clock_timestamp()));
		DO \$\$
		DECLARE
			last int := (SELECT max(id) FROM t);
		BEGIN
			$until_visible
		END \$\$});
	return $node->safe_psql('postgres', 'SELECT extract(epoch FROM clock_timestamp()) - ms FROM measured');
}

my $without = backlog_seconds(0);
my $with = backlog_seconds('100ms');
note "$without s without a delay, $with s with it";
cmp_ok($with, '<', 3 * $without + 1, 'a worker with a backlog does not rest');
check_once('a backlog');

#
# Commits at the source that wait for the worker
#

my $foreign = PostgreSQL::Test::Cluster->new('foreign');
$foreign->init(allows_streaming => 'logical');
$foreign->start;
$foreign->safe_psql(
	'postgres', qq{
	$procedures;
	ALTER TABLE t REPLICA IDENTITY FULL;
	CREATE PUBLICATION bemi FOR TABLE t WITH (publish_via_partition_root = true)});
$conninfo = $foreign->connstr('postgres') =~ s/'/''/gr;
$node->safe_psql('postgres', "CALL bemi.start('foreign', conninfo => '$conninfo')");
$foreign->safe_psql('postgres', q{ALTER SYSTEM SET synchronous_standby_names = '*'});
$foreign->reload;
$node->poll_query_until('postgres', q{SELECT warning LIKE '%synchronous_standby_names%' FROM bemi.status WHERE source = 'foreign'})
  or die 'the worker does not notice that commits wait for it';
# Only the last commit waits.
cmp_ok(median_ms(20, 'SET synchronous_commit = on; INSERT INTO t DEFAULT VALUES; COMMIT; SET synchronous_commit = local;',
		$foreign, 'SET synchronous_commit = local;'),
	'<', $half, 'with commits that wait for the worker, the worker does not rest');

$_->stop for ($foreign, $node);
done_testing();
