# Commands that need a database for themselves get it while workers use it: DROP DATABASE, CREATE
# DATABASE with a template, ALTER DATABASE ... RENAME. If the database still exists afterwards,
# its workers continue, and nothing counts as a failure. If not, nothing of them is left. A role
# without the right to the command disturbs nobody. The same holds for SET TABLESPACE, after which
# the server could not decode WAL that is not read yet.
#
# A copy of a database begins its own history, after bemi.start() there.
#
# SQL does not show a worker that remains in shared memory. But it is restarted, and then the log
# has an error about a missing database.

use strict;
use warnings;

use Bemi;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main', conf => "max_wal_size = 2GB\n");

my $extension = q{
	CREATE EXTENSION bemi;
	CREATE TABLE t (id int PRIMARY KEY);
	SELECT bemi.track('t')};

# Makes a database with a tracked table, and returns its OID.
sub make
{
	my ($name, @then) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $name");
	$node->safe_psql($name, $_) for $extension, @then;
	return $node->safe_psql('postgres',
		"SELECT oid FROM pg_database WHERE datname = '$name'");
}

sub make_streaming
{
	my ($name) = @_;

	return make($name,
		q{CALL bemi.start(); INSERT INTO t VALUES (1); SELECT bemi.sync('60s')});
}

# Runs a command from another database, and returns the client's messages.
sub command
{
	my ($sql, %params) = @_;
	my ($status, $stdout, $stderr) =
	  $node->psql($params{from} // 'postgres', $sql, %params);

	return $stderr;
}

# The same, in the background.
sub start_command
{
	my ($sql, $output) = @_;

	return IPC::Run::start(
		[
			$node->installed_command('psql'), '-XAtq',
			'-d', $node->connstr('postgres'), '-c', $sql
		],
		'<', \undef, '>', $output, '2>', $output,
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
}

# What is there of a database: slots and origins.
sub left_of
{
	my ($oid) = @_;

	return $node->safe_psql(
		'postgres', qq{
		SELECT (SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'bemi\\_$oid\\_%') || ' slots, '
			|| (SELECT count(*) FROM pg_replication_origin WHERE roname LIKE 'bemi\\_$oid\\_%') || ' origins'});
}

sub is_dropped
{
	my ($name, $oid, $what, $options) = @_;

	is(command("DROP DATABASE $name" . ($options // '')),
		'', "DROP DATABASE $what");
	is(left_of($oid), '0 slots, 0 origins', '... leaves nothing');
	return;
}

# A database's source continues: it streams, did not fail, and has stored every
# row of t exactly once.
sub goes_on
{
	my ($name, $what) = @_;

	$node->safe_psql($name, 'INSERT INTO t SELECT max(id) + 1 FROM t');
	wait_for_state($node, 'streaming', $name);
	is( $node->safe_psql(
			$name, q{
			SELECT bemi.sync('100s');
			SELECT state, restarts, last_error FROM bemi.status;
			SELECT (SELECT count(*) FROM t) - count(*), count(*) - count(DISTINCT primary_key)
				FROM bemi.changes WHERE "table" = 't'}),
		"\nstreaming|0|\n0|0",
		"$what: the source goes on");
	return;
}

sub worker_of
{
	my ($name) = @_;

	return $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'bemi worker' AND datname = '$name'"
	);
}

# Many rows in one transaction; returns when the worker is storing them.
sub keep_busy
{
	my ($name) = @_;

	$node->safe_psql($name,
		'INSERT INTO t SELECT m + n FROM (SELECT max(id) AS m FROM t) t, generate_series(1, 300000) n');
	$node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'bemi worker' AND datname = '$name' AND backend_xid IS NOT NULL"
	) or die 'the worker does not store';
	return;
}

#
# DROP DATABASE, in any state of the worker
#

is_dropped('app', make_streaming('app'), 'while the worker streams');
is_dropped('app', make_streaming('app'), 'with FORCE', ' WITH (FORCE)');

my $oid = make_streaming('app');
my $session = $node->background_psql('app');
$session->query_safe('SELECT 1');
is_dropped('app', $oid, 'with FORCE, and a session', ' WITH (FORCE)');
$session->{run}->kill_kill;

$oid = make_streaming('app');
keep_busy('app');
is_dropped('app', $oid, 'in the middle of a large transaction');

$oid = make_streaming('app');
$node->safe_psql(
	'app', q{
	ALTER TABLE bemi.changes RENAME COLUMN context TO reason;
	INSERT INTO t VALUES (2)});
wait_for_state($node, 'failed', 'app');
is_dropped('app', $oid, 'while the worker fails');

$oid = make('app');
my $waited_for = $node->background_psql('postgres');
$waited_for->query_safe('BEGIN; SELECT pg_current_xact_id()');
$node->safe_psql('app', 'CALL bemi.start(wait => false)');
wait_for_state($node, 'making slot', 'app');
$node->poll_query_until('postgres',
	"SELECT count(*) = 1 FROM pg_replication_slots WHERE slot_name = 'bemi_${oid}_main' AND active"
) or die 'no slot is being made';
is_dropped('app', $oid, 'while the slot is made');
$waited_for->query_safe('COMMIT');

is_dropped('app', make('app', 'CALL bemi.start()', 'CALL bemi.stop()'),
	'with a stopped source');
is_dropped('app', make('app'), 'without a source');
is(command('DROP DATABASE IF EXISTS app'),
	'psql:<stdin>:1: NOTICE:  database "app" does not exist, skipping',
	'DROP DATABASE without the database');

for my $round (1 .. 10)
{
	$oid = make_streaming('app');
	$node->safe_psql('postgres', 'DROP DATABASE app');
}
is( $node->safe_psql(
		'postgres', q{
		SELECT (SELECT count(*) FROM pg_replication_slots), (SELECT count(*) FROM pg_replication_origin)}),
	'0|0',
	'ten times in a row, and nothing is left');

#
# DROP DATABASE fails
#

$oid = make_streaming('app');
$session = $node->background_psql('app');
$session->query_safe('SELECT 1');

my $output = '';
my $drop = start_command('DROP DATABASE app', \$output);
$session->query_until(qr/^paused$/m,
	"SELECT state FROM bemi.status \\watch 0.01\n");
$drop->finish;
like($output, qr/ERROR:  database "app" is being accessed by other users/,
	'DROP DATABASE fails while somebody is connected; bemi.status says "paused" meanwhile'
);
$session->{run}->kill_kill;
goes_on('app', 'after a DROP DATABASE that fails');

$session = $node->background_psql('app');
$session->query_safe('SELECT 1');
keep_busy('app');
like(
	command(q{SET statement_timeout = '1s'; DROP DATABASE app}),
	qr/ERROR:  canceling statement due to statement timeout/,
	'DROP DATABASE is canceled');
goes_on('app', 'after a DROP DATABASE that is canceled');

$output = '';
$drop = start_command('DROP DATABASE app', \$output);
$node->poll_query_until('postgres',
	q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'bemi worker'}
) or die 'the worker does not give way';
$node->safe_psql('postgres',
	q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'DROP DATABASE%'}
);
$drop->finish;
like($output, qr/FATAL:  terminating connection/, 'its session is terminated');
goes_on('app', 'after that');
$session->quit;

#
# A role without the right to the command disturbs nobody
#

$node->safe_psql(
	'postgres', q{
	CREATE ROLE stranger LOGIN CREATEDB;
	CREATE DATABASE another});
my $worker = worker_of('app');
my @stranger = (extra_params => [ '-U', 'stranger' ]);

like(command('DROP DATABASE app', @stranger),
	qr/must be owner of database app/, 'DROP by a stranger');
like(command('DROP DATABASE app WITH (FORCE)', @stranger),
	qr/must be owner of database app/, 'DROP with FORCE by a stranger');
like(command('ALTER DATABASE app RENAME TO mine', @stranger),
	qr/must be owner of database app/, 'RENAME by a stranger');
like(command('ALTER DATABASE app SET TABLESPACE pg_default', @stranger),
	qr/must be owner of database app/, 'SET TABLESPACE by a stranger');
like(command('CREATE DATABASE mine TEMPLATE app', @stranger),
	qr/permission denied to copy database "app"/, 'copy by a stranger');
like(command('BEGIN; DROP DATABASE app'),
	qr/cannot run inside a transaction block/, 'DROP in a transaction');
like(command('BEGIN; CREATE DATABASE mine TEMPLATE app'),
	qr/cannot run inside a transaction block/, 'copy in a transaction');
like(command(q{DO $$ BEGIN EXECUTE 'DROP DATABASE app'; END $$}),
	qr/cannot be executed from a function/, 'DROP in a function');
like(command('DROP DATABASE app', from => 'app'),
	qr/cannot drop the currently open database/, 'DROP from within');
like(command('ALTER DATABASE app RENAME TO another'),
	qr/database "another" already exists/, 'RENAME to a name that is taken');
like(command('CREATE DATABASE another TEMPLATE app'),
	qr/database "another" already exists/, 'copy to a name that is taken');
like(command('ALTER DATABASE app SET TABLESPACE nowhere'),
	qr/tablespace "nowhere" does not exist/, 'SET TABLESPACE without it');
$node->safe_psql('postgres', 'ALTER DATABASE app IS_TEMPLATE true');
like(command('DROP DATABASE app'),
	qr/cannot drop a template database/, 'DROP of a template database');
$node->safe_psql('postgres', 'ALTER DATABASE app IS_TEMPLATE false');

$node->safe_psql('app',
	q{SELECT pg_create_logical_replication_slot('other', 'pgoutput')});
my $reader = IPC::Run::start(
	[
		$node->installed_command('pg_recvlogical'), '--start',
		'--no-loop', '--slot=other',
		'-o', 'proto_version=1',
		'-o', 'publication_names=bemi',
		'-d', $node->connstr('app'), '-f',
		'/dev/null'
	],
	'<', \undef, '>', \$output, '2>', \$output,
	IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
$node->poll_query_until('postgres',
	q{SELECT active FROM pg_replication_slots WHERE slot_name = 'other'})
  or die 'pg_recvlogical does not stream';
like(command('DROP DATABASE app'),
	qr/is used by an active logical replication slot/,
	'DROP while somebody else reads a slot');
$reader->kill_kill;
$node->poll_query_until('postgres',
	q{SELECT NOT active FROM pg_replication_slots WHERE slot_name = 'other'})
  or die 'the slot stays active';
$node->safe_psql('postgres', q{SELECT pg_drop_replication_slot('other')});
is(worker_of('app'), $worker, 'the worker is the same as before');

# Its owner can, who need not be a superuser.
$oid = make_streaming('owned');
$node->safe_psql('postgres', 'ALTER DATABASE owned OWNER TO stranger');
is(command('ALTER DATABASE owned RENAME TO mine', @stranger),
	'', 'RENAME by the owner');
goes_on('mine', 'after that');
is(command('CREATE DATABASE mine2 TEMPLATE mine', @stranger),
	'', 'copy by the owner');
goes_on('mine', 'after that');
is(command('DROP DATABASE mine', @stranger), '', 'DROP by the owner');
is(left_of($oid), '0 slots, 0 origins', '... leaves nothing');
is(command('DROP DATABASE mine2', @stranger), '', 'DROP of the copy');

#
# RENAME and SET TABLESPACE
#

is(command('BEGIN; ALTER DATABASE app RENAME TO app2; ROLLBACK'),
	'', 'RENAME in a transaction');
goes_on('app', 'after a RENAME that is rolled back');
isnt(worker_of('app'), $worker, '... with another worker');
is(command(q{DO $$ BEGIN EXECUTE 'ALTER DATABASE app RENAME TO "App 2"'; END $$}),
	'', 'RENAME in a function');
goes_on('App 2', 'after RENAME');
is( $node->safe_psql(
		'App 2', q{SELECT database FROM bemi.changes ORDER BY id DESC LIMIT 1}),
	'App 2',
	'... under the new name');
is(command('ALTER DATABASE "App 2" RENAME TO app'), '', 'RENAME');

my $place = PostgreSQL::Test::Utils::tempdir();
$node->safe_psql('postgres', "CREATE TABLESPACE elsewhere LOCATION '$place'");
$worker = worker_of('app');
like(command('ALTER DATABASE app SET TABLESPACE elsewhere'),
	qr/ERROR:  database "app" is being accessed by other users/,
	'SET TABLESPACE is refused while the worker runs');
is(worker_of('app'), $worker, '... which it does not disturb');
$node->safe_psql('app', 'CALL bemi.stop()');
my $warning = command('ALTER DATABASE app SET TABLESPACE elsewhere');
like($warning, qr/WARNING:  replication slot "bemi_\d+_main" may not be readable/,
	'SET TABLESPACE warns where there is a slot');
my ($hint) = $warning =~ /HINT: .*?: (CALL .*;)$/m;
$node->safe_psql('app', $hint // '');
goes_on('app', 'after SET TABLESPACE and what its hint says');
$node->safe_psql('app', q{CALL bemi.drop_source('main')});
is(command('ALTER DATABASE app SET TABLESPACE pg_default'),
	'', '... which is not there without a slot');
$node->safe_psql('app', 'CALL bemi.start()');
goes_on('app', 'after SET TABLESPACE without a slot');

#
# Template databases
#

$node->safe_psql('app',
	q{CREATE SCHEMA whole; SELECT bemi.track_schema('whole'); CREATE TABLE whole.first (id int PRIMARY KEY)}
);
keep_busy('app');
is(command('CREATE DATABASE copy TEMPLATE app'),
	'', 'CREATE DATABASE in the middle of a large transaction');
my $strategy = $node->pg_version >= 15 ? 'STRATEGY file_copy' : '';
is(command("CREATE DATABASE copy2 TEMPLATE app $strategy"),
	'', '... and with the other strategy');
goes_on('app', 'after CREATE DATABASE');
is(command('CREATE DATABASE copy3 TEMPLATE app', from => 'app'),
	'', '... from within the template');

$oid = $node->safe_psql('postgres',
	q{SELECT oid FROM pg_database WHERE datname = 'copy'});
$node->safe_psql('app',
	q{INSERT INTO t VALUES (-1); INSERT INTO whole.first VALUES (1); SELECT bemi.sync('60s')}
);
is( $node->safe_psql('copy', 'SELECT source, state, pid, slot_name FROM bemi.status'),
	'main|not running||',
	'the source of the copy does not start by itself');
like(
	command(q{SELECT bemi.sync('60s')}, from => 'copy'),
	qr/ERROR:  no source of this database is started/,
	'bemi.sync() in the copy says so');
$node->safe_psql('copy',
	q{CREATE TABLE whole.asleep (id int PRIMARY KEY); INSERT INTO t VALUES (-2)});
is( $node->safe_psql('copy',
		q{SELECT "table", published FROM bemi.tracked ORDER BY "table"::text}),
	"t|t\nwhole.first|t",
	'its tracked schema sleeps');
is(left_of($oid), '0 slots, 0 origins', 'nothing is read');

my $stored = $node->safe_psql('copy',
	'SELECT count(*), md5(string_agg(c::text, NULL ORDER BY id)) FROM bemi.changes c');
$node->safe_psql('copy', 'CALL bemi.start()');
is(left_of($oid), '1 slots, 1 origins', 'bemi.start() in the copy');
$node->safe_psql('copy',
	q{CREATE TABLE whole.awake (id int PRIMARY KEY); INSERT INTO whole.awake VALUES (1), (2)}
);
$node->safe_psql('copy',
	q{SET bemi.context = '{"by": "the copy"}'; INSERT INTO t VALUES (-3); DELETE FROM t WHERE id = 1});
$node->safe_psql('app',
	q{SET bemi.context = '{"by": "the original"}'; INSERT INTO t VALUES (-3); SELECT bemi.sync('60s')}
);
is( $node->safe_psql(
		'copy', q{
		SELECT bemi.sync('60s');
		SELECT database, "table", operation, primary_key, context FROM bemi.changes WHERE database = 'copy' ORDER BY id}
	),
	"\n"
	  . join("\n",
		'copy|awake|CREATE|1|{}', 'copy|awake|CREATE|2|{}',
		'copy|t|CREATE|-3|{"by": "the copy"}',
		'copy|t|DELETE|1|{"by": "the copy"}'),
	'the copy has its own changes');
is( $node->safe_psql('copy',
		q{SELECT count(*), md5(string_agg(c::text, NULL ORDER BY id)) FROM bemi.changes c WHERE database <> 'copy'}
	),
	$stored,
	'... after those that it came with');
is( $node->safe_psql(
		'app',
		q{SELECT "table", operation, primary_key, context FROM bemi.changes WHERE primary_key IN ('-1', '-2', '-3') OR "table" <> 't' ORDER BY id}
	),
	join("\n",
		't|CREATE|-1|{}', 'first|CREATE|1|{}',
		't|CREATE|-3|{"by": "the original"}'),
	'the original has its own');

# The row of bemi.sources that came along names the original's slot and origin.
$node->safe_psql('copy2', q{CALL bemi.drop_source('main')});
is(remains($node, 'copy2'), '0 rows, 2 slots, 2 origins',
	'bemi.drop_source() in a copy forgets the row, and nothing else');
$node->safe_psql('copy3',
	q{CALL bemi.start('another'); INSERT INTO t VALUES (-4); SELECT bemi.sync('60s')});
is(changes($node, 'primary_key = \'-4\'', 'copy3'),
	't|-4|CREATE|{}|{"id": -4}|{}', 'a source of another name in a copy');
goes_on('app', 'after all of this');

is_dropped('copy', $oid, 'of a copy');
$node->safe_psql('postgres', "DROP DATABASE $_") for qw(copy2 copy3);
goes_on('app', 'after its copies are dropped');

$node->safe_psql('template1', 'CREATE EXTENSION bemi');
$node->safe_psql('postgres', 'CREATE DATABASE fresh');
$node->safe_psql(
	'fresh', q{
	CREATE TABLE t (id int PRIMARY KEY);
	SELECT bemi.track('t');
	CALL bemi.start();
	INSERT INTO t VALUES (1)});
goes_on('fresh', 'the extension in template1');
$node->safe_psql('template1',
	q{CREATE TABLE t (id int PRIMARY KEY); SELECT bemi.track('t'); CALL bemi.start(); INSERT INTO t VALUES (1)}
);
is(command('CREATE DATABASE fresh2'),
	'', 'CREATE DATABASE while template1 itself is read');
goes_on('template1', 'after that');
$node->safe_psql('template1',
	q{CALL bemi.drop_source('main'); DROP EXTENSION bemi CASCADE; DROP TABLE t});
$node->safe_psql('postgres', "DROP DATABASE $_") for qw(fresh fresh2);

#
# A source in another database: its slot is not the server's to drop
#

my $conninfo = $node->connstr('app') =~ s/'/''/gr;

$oid = make('archive', "CALL bemi.start('app', conninfo => '$conninfo')");
$node->safe_psql('app', 'INSERT INTO t VALUES (-5)');
$node->poll_query_until('archive',
	q{SELECT count(*) = 1 FROM bemi.changes WHERE primary_key = '-5'})
  or die 'the change does not come';
$worker = worker_of('archive');
like(command('DROP DATABASE app'),
	qr/is used by an active logical replication slot/,
	'DROP of a database that another one reads');
is(worker_of('archive'), $worker, '... does not disturb the reader');

$warning = command('DROP DATABASE archive');
like($warning,
	qr/WARNING:  replication slot "bemi_${oid}_app_[0-9a-f]{8}" stays at the source/,
	'DROP of a database that reads another one warns');
unlike($warning, qr/ERROR/, '... and succeeds');
is(left_of($oid), '1 slots, 0 origins', '... and leaves the slot');
($hint) = $warning =~ /HINT: .*: (SELECT .*);$/m;
$node->poll_query_until('postgres',
	"SELECT NOT active FROM pg_replication_slots WHERE slot_name LIKE 'bemi_${oid}_app_%'")
  or die 'the slot stays active';
$node->safe_psql('postgres', $hint // '');
is(left_of($oid), '0 slots, 0 origins', 'the hint drops the slot');

$conninfo = $node->connstr('archive') =~ s/'/''/gr;
is_dropped('archive',
	make('archive', "CALL bemi.start(conninfo => '$conninfo')"),
	'that is read by its own worker over a connection string');

goes_on('app', 'at the end');
$node->safe_psql('postgres', 'DROP DATABASE app');

# Gives a worker that should not be there the time to come.
$node->restart;
make_streaming('app');
goes_on('app', 'after a restart');
$node->safe_psql('postgres', 'DROP DATABASE app');
$node->stop;

my $log = slurp_file($node->logfile);
unlike($log, qr/FATAL:  database "?\d+"? does not exist/,
	'no worker came for a database that is gone');
unlike($log, qr/PANIC|TRAP|terminated by signal|was not released|leaked/i,
	'nothing else went wrong');

done_testing();
