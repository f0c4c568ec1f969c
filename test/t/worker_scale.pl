# Large things: a transaction of many rows, a large value, many tables, many writers. The stored
# changes must be right, and the worker's memory must not grow with them, or must shrink
# afterwards.
#
# The memory is what the kernel reports for the worker's process during and after the work: all of
# its RAM, less shared memory. BEMI_LARGE_ROWS is the number of rows of the transaction. "make
# soak" uses 5000000.

use strict;
use warnings;

use Bemi;
use Bemi::Clients;
use List::Util qw(max);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $rows = $ENV{BEMI_LARGE_ROWS} // 300_000;
my $seed = $ENV{BEMI_SEED} // int(rand(2**31));

note "random seed: $seed (BEMI_SEED=$seed repeats the clients' choices), $rows rows (BEMI_LARGE_ROWS)";

# Locks are for the 5000 tables that are tracked at once, their indexes and their
# TOAST tables.
my $node = bemi_node('main', conf => <<~CONF);
	max_connections = 80
	max_locks_per_transaction = 512
	max_wal_size = 4GB
	log_statement = none
	statement_timeout = 0
	CONF
my $journal = Bemi::Clients->new(node => $node, seed => $seed);

$node->safe_psql('postgres', 'CALL bemi.start()');

#
# Memory of a process, in kB
#

sub memory
{
	my ($pid) = @_;
	open(my $file, '<', "/proc/$pid/status") or return 0;
	my %value = join('', <$file>) =~ /^(\w+):\s+(\d+) kB$/mg;

	return ($value{VmRSS} // 0) - ($value{RssShmem} // 0);
}

# The same as the server counts it, without the memory of libpq.
sub memory_contexts
{
	my ($pid) = @_;
	my $offset = -s $node->logfile;
	my $pattern = qr/\[$pid\] LOG:  Grand total: (\d+) bytes/;

	$node->safe_psql('postgres', "SELECT pg_log_backend_memory_contexts($pid)");
	$node->wait_for_log($pattern, $offset);
	my ($bytes) = slurp_file($node->logfile, $offset) =~ $pattern;
	return $bytes / 1024;
}

sub pids
{
	return split /\|/,
	  $node->safe_psql('postgres',
		'SELECT b.pid, s.pid FROM bemi.status b JOIN pg_stat_replication s ON s.application_name = b.slot_name');
}

# Runs SQL and waits until all of it is stored.  Returns the seconds that it took
# from the end of the SQL, and the highest memory of worker and walsender.
sub work_and_watch
{
	my ($sql) = @_;
	my ($worker, $walsender) = pids();
	my ($stdout, $stderr) = ('', '');
	my %peak = (worker => memory($worker), walsender => memory($walsender));

	my $restarts = $node->safe_psql('postgres', $sql . '; SELECT restarts FROM bemi.status');
	my $begun = time;
	my $sync = IPC::Run::start(
		[ $node->installed_command('psql'), '-XAtq', '-d', $node->connstr('postgres'), '-c', 'SELECT bemi.sync()' ],
		'<', \undef, '>', \$stdout, '2>', \$stderr,
		IPC::Run::timeout(1800));
	while ($sync->pumpable)
	{
		$sync->pump_nb;
		$peak{worker} = max($peak{worker}, memory($worker));
		$peak{walsender} = max($peak{walsender}, memory($walsender));
		usleep(10_000);
	}
	$sync->finish or die "bemi.sync(): $stderr";
	my $seconds = time - $begun;
	is( join(' ', (pids())[0], $node->safe_psql('postgres', 'SELECT restarts FROM bemi.status')),
		"$worker $restarts",
		'the worker is the same as before');
	return ($seconds, \%peak);
}

sub megabytes
{
	return sprintf '%.1f MB', $_[0] / 1024;
}

#
# A transaction of many rows, which are changed by a second one
#

$node->safe_psql(
	'postgres', q{
	CREATE TABLE large (id int PRIMARY KEY, a text, b numeric);
	SELECT bemi.track('large')});

for my $part (
	[ 'inserted', "INSERT INTO large SELECT n, 'row ' || n, n * 1.5 FROM generate_series(1, $rows) n" ],
	[ 'updated and deleted', qq{
		UPDATE large SET b = -id WHERE id <= $rows / 10;
		DELETE FROM large WHERE id > $rows - $rows / 10} ])
{
	my ($name, $sql) = @$part;
	my ($seconds, $peak) = work_and_watch(
		"BEGIN; SET LOCAL bemi.context = '{\"part\": \"$name\"}'; $sql; COMMIT");

	cmp_ok($peak->{worker}, '<', 128 * 1024, "$name: the worker's memory stays under 128 MB");
	note sprintf 'one transaction, %d rows, %s: %.1f s behind, worker at most %s above shared memory, walsender %s',
	  $rows, $name, $seconds, megabytes($peak->{worker}), megabytes($peak->{walsender});
}

is( $node->safe_psql(
		'postgres', q{
		SELECT context->>'part', operation, count(*), count(DISTINCT id), min(primary_key::int), max(primary_key::int),
			sum((after->>'b')::numeric), sum((before->>'b')::numeric)
		FROM bemi.changes WHERE "table" = 'large' GROUP BY 1, 2 ORDER BY 1, 2}),
	$node->safe_psql(
		'postgres', qq{
		SELECT 'inserted', 'CREATE', $rows, $rows, 1, $rows, sum(n * 1.5), NULL FROM generate_series(1, $rows) n;
		SELECT 'updated and deleted', 'DELETE', $rows / 10, $rows / 10, $rows - $rows / 10 + 1, $rows, NULL, sum(n * 1.5)
			FROM generate_series($rows - $rows / 10 + 1, $rows) n;
		SELECT 'updated and deleted', 'UPDATE', $rows / 10, $rows / 10, 1, $rows / 10, sum(-n), sum(n * 1.5)
			FROM generate_series(1, $rows / 10) n}),
	'the changes are there, by their sums');
is( $node->safe_psql(
		'postgres', qq{
		SET work_mem = '256MB';
		SELECT count(*) FROM generate_series(1, $rows) n
			FULL JOIN (SELECT after->>'id' AS id, after, before, primary_key FROM bemi.changes
				WHERE "table" = 'large' AND operation = 'CREATE') c ON c.id::int = n
		WHERE (c.after, c.before, c.primary_key) IS DISTINCT FROM
			(jsonb_build_object('id', n, 'a', 'row ' || n, 'b', n * 1.5), '{}'::jsonb, n::text)}),
	'0',
	'and row by row');
is( $node->safe_psql(
		'postgres', q{
		SET work_mem = '256MB';
		SELECT count(*) FROM (SELECT primary_key::int - lag(primary_key::int) OVER (ORDER BY id) AS step
			FROM bemi.changes WHERE "table" = 'large' AND operation = 'CREATE') s WHERE step <> 1}),
	'0',
	'in the order in which they were written');

#
# A value of 50 MB
#

$node->safe_psql(
	'postgres', q{
	CREATE TABLE document (id int PRIMARY KEY, title text, content text);
	SELECT bemi.track('document')});
$node->restart;
wait_for_state($node, 'streaming');

# The same work on a small scale fills the caches.
my $content = q{(SELECT string_agg(md5(n::text), '') FROM generate_series(%d, %d) n)};
my ($first, $second) = map { sprintf $content, $_ * 10, 50 * 1024 * 1024 / 32 + $_ * 10 - 1 } 1, 2;
my @steps = (
	[ 'inserted', "INSERT INTO document VALUES (%d, 'first', $first)" ],
	[ 'another column updated', "UPDATE document SET title = 'second' WHERE id = %d" ],
	[ 'updated', "UPDATE document SET content = $second WHERE id = %d" ],
	[ 'deleted', 'DELETE FROM document WHERE id = %d' ]);

$node->safe_psql('postgres', q{
	INSERT INTO document VALUES (0, 'small', repeat('x', 20000)), (3, 'updated later', 'small');
	UPDATE document SET title = 'warm' WHERE id = 0;
	DELETE FROM document WHERE id = 0;
	SELECT bemi.sync('60s')});
my $before = memory((pids())[0]);

for my $step (@steps)
{
	my ($name, $sql) = @$step;
	my ($seconds, $peak) = work_and_watch(sprintf $sql, 1);

	note sprintf '50 MB value, %s: %.1f s behind, worker at most %s above shared memory, walsender %s',
	  $name, $seconds, megabytes($peak->{worker}), megabytes($peak->{walsender});
}
is( $node->safe_psql(
		'postgres', qq{
		WITH v AS MATERIALIZED (SELECT $first AS first, $second AS second), images AS (
			SELECT operation, image, document FROM bemi.changes, LATERAL
				(VALUES ('before', before), ('after', after)) i (image, document)
			WHERE "table" = 'document' AND primary_key = '1' ORDER BY id, image DESC)
		SELECT operation, image, document->>'title', octet_length(document->>'content'),
			CASE document->>'content' WHEN v.first THEN 'first' WHEN v.second THEN 'second' ELSE 'neither' END
		FROM images, v WHERE document <> '{}'}),
	join("\n",
		'CREATE|after|first|52428800|first',
		'UPDATE|before|first|52428800|first', 'UPDATE|after|second|52428800|first',
		'UPDATE|before|second|52428800|first', 'UPDATE|after|second|52428800|second',
		'DELETE|before|second|52428800|second'),
	'a value of 50 MB is stored rightly, changed or not');
is( $node->safe_psql('postgres',
		q{SELECT count(*) FROM bemi.changes WHERE "table" = 'document' AND (before::text LIKE '%[bemi:%' OR after::text LIKE '%[bemi:%')}),
	'0',
	'and not replaced by a note');

# The memory of the values is freed, except libpq's input buffer, which stays
# as large as the largest message for as long as the connection lasts: an
# update's, with both values.  (So it does in the server's own apply workers.)
# It is there once, however often such messages come.
my $small = q{
	INSERT INTO document VALUES (2, 'small', 'small') ON CONFLICT (id) DO UPDATE SET content = 'smaller';
	SELECT bemi.sync('60s')};
$node->safe_psql('postgres', $small);
my $once = memory((pids())[0]);
work_and_watch("UPDATE document SET content = $second WHERE id = 3") for 1, 2;
$node->safe_psql('postgres', $small);
my $often = memory((pids())[0]);

note 'worker before the values of 50 MB: ' . megabytes($before) . ', afterwards: '
  . megabytes($once) . ', after more of them: ' . megabytes($often)
  . ', in memory contexts: ' . megabytes(memory_contexts((pids())[0]));
cmp_ok(memory_contexts((pids())[0]), '<', 16 * 1024, 'the memory for large values is given back');
cmp_ok($once, '<', $before + 128 * 1024, 'but for the buffer of one message');
cmp_ok($often, '<', $once + 16 * 1024, 'which is no more after many');

#
# Many tables
#

my $tables = 5000;
my $begun = time;
$node->safe_psql(
	'postgres', qq{
	CREATE SCHEMA many;
	DO \$\$ BEGIN
		FOR n IN 1 .. $tables LOOP
			EXECUTE format('CREATE TABLE many.t%s (id int PRIMARY KEY, v text)', n);
		END LOOP;
	END \$\$});
my $made = time;
$node->safe_psql('postgres', q{SELECT bemi.track_schema('many')});
note sprintf '%d tables: made in %.1f s, tracked in %.1f s', $tables, $made - $begun, time - $made;
is($node->safe_psql('postgres', q{SELECT count(*) FROM bemi.tracked WHERE "table"::text LIKE 'many.%' AND problems = '{}'}),
	$tables, 'all tables are tracked');

my ($seconds, $peak) = work_and_watch(
	qq{
	DO \$\$ BEGIN
		FOR n IN 1 .. $tables LOOP
			EXECUTE format('INSERT INTO many.t%1\$s VALUES (%1\$s, ''table'')', n);
			IF n % 100 = 0 THEN
				COMMIT;
			END IF;
		END LOOP;
	END \$\$});
note sprintf '%d tables, a change of each: %.1f s behind, worker at most %s above shared memory, walsender %s',
  $tables, $seconds, megabytes($peak->{worker}), megabytes($peak->{walsender});
is( $node->safe_psql(
		'postgres', q{
		SELECT count(*), count(DISTINCT "table"),
			count(*) FILTER (WHERE "table" = 't' || primary_key AND operation = 'CREATE'
				AND after = jsonb_build_object('id', primary_key::int, 'v', 'table'))
		FROM bemi.changes WHERE schema = 'many'}),
	"$tables|$tables|$tables",
	'a change of each is there');

#
# Many writers
#

$journal->start_load(clients => 50, keys => 200, transactions => 60);
ok($journal->finish_load, '50 clients have worked');
my $total = $journal->total('50 concurrent writers');
note "50 concurrent writers: $total->{missing} missing, $total->{twice} twice, "
  . "$total->{misplaced} misplaced, $total->{compared} changes compared";

$node->stop;
done_testing();
