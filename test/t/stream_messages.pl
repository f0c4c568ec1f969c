# Logical messages, which any SQL user can send to the worker.
#
# pg_logical_emit_message() needs no grant, accepts any prefix and any bytes, and can write
# outside of a transaction. Such messages have crashed the server several times, and one of 200 MB
# has made the worker grow to 1.6 GB. So the test sends messages of all kinds at every moment:
# while the worker idles, in a large transaction, while a slot is created, before the worker
# starts, during bemi.sync(). After each round, the worker must be the same process, rows that
# were written meanwhile must be stored once and with the right context, and the worker's memory
# must be what libpq needs for the largest message.
#
# Named cases come first, then random rounds. BEMI_MINUTES=n (make fuzz) gives the rounds more
# time and larger messages. BEMI_SEED repeats the choices.

use strict;
use warnings;

use Bemi;
use List::Util qw(max);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Bemi::Session;
use Test::More;

use constant MB => 1024 * 1024;

my $minutes = $ENV{BEMI_MINUTES} // 0;
my $seed = $ENV{BEMI_SEED} // 1;
my $short_rounds = 8;
srand($seed);
note "random seed: $seed (BEMI_SEED=$seed repeats the choices), "
  . ($minutes ? "$minutes minutes (BEMI_MINUTES)" : "$short_rounds rounds");

my $node = bemi_node(
	'main',
	conf => <<~CONF);
	max_prepared_transactions = 5
	max_wal_size = 4GB
	statement_timeout = 300s
	autovacuum = off
	log_statement = none
	CONF

$node->safe_psql(
	'postgres', q{
	CREATE ROLE nobody_special LOGIN;
	CREATE ROLE writer LOGIN;
	CREATE TABLE written (id int PRIMARY KEY, v text);
	CREATE TABLE bulk (id int PRIMARY KEY, v text);
	CREATE TABLE expected (id int PRIMARY KEY, context jsonb NOT NULL);
	GRANT ALL ON written, bulk, expected TO writer;
	SELECT bemi.track('written'), bemi.track('bulk');
	CALL bemi.start()});

my $admin = Bemi::Session->new($node);
my $nobody = Bemi::Session->new($node, user => 'nobody_special');
my $writer = Bemi::Session->new($node, user => 'writer');
my $next_id = 1;
my $bulk_rows = 0;
my $largest = 0;       # bytes of a message since the worker has started
my $worker = status('pid');
my %sent;

sub status
{
	my ($column) = @_;
	return $node->safe_psql('postgres', "SELECT $column FROM bemi.status WHERE source = 'main'");
}

sub synced
{
	return $admin->query(q{SELECT bemi.sync('120s')});
}

# The worker has been started again, and that was meant.
sub expect_another_worker
{
	wait_for_state($node, 'streaming');
	$worker = status('pid');
	$largest = 0;
	return;
}

# A row that must be stored with this context, an SQL expression.
sub row_with
{
	my ($expression) = @_;
	my $id = $next_id++;

	return ("INSERT INTO written VALUES ($id, 'v')", "INSERT INTO expected VALUES ($id, $expression)");
}

sub statements { return join(";\n", @_); }

sub message
{
	my ($transactional, $prefix, $content) = @_;
	return "SELECT pg_logical_emit_message($transactional, '$prefix', $content)";
}

# kB of the worker's memory that is its own, now; and the most that it has had in all.
sub memory
{
	my %kb = slurp_file("/proc/$worker/status") =~ /^(VmHWM|RssAnon):\s*(\d+)/mg;
	return ($kb{RssAnon}, $kb{VmHWM});
}

# What libpq needs for the largest message: a buffer that it doubles, and a copy.  Of
# the rest, most is shared memory and the buffer of changes.
sub memory_limit
{
	my $buffer = 1;

	$buffer *= 2 while $buffer < $largest;
	return ($buffer + $largest) / 1024 + 120 * 1024;
}

# Empty if all is as it should be.
sub complaints
{
	my @complaints;
	my $sync = synced();
	my $found = $node->safe_psql('postgres', q{
		SELECT string_agg(format('%s: %s times, context %s, expected %s', e.id, count, left(stored::text, 200), left(e.context::text, 200)), E'\n')
		FROM expected e LEFT JOIN (SELECT primary_key::int AS id, count(*), max(bemi.full_context(c)::text)::jsonb AS stored
			FROM bemi.changes c WHERE "table" = 'written' GROUP BY 1) s USING (id)
		WHERE count IS DISTINCT FROM 1 OR stored IS DISTINCT FROM e.context});
	my $bulk = $node->safe_psql('postgres', q{SELECT count(*) FROM bemi.changes WHERE "table" = 'bulk'});
	my $state = status(q{pid || ' ' || state});

	push @complaints, "sync: $sync" if $sync ne '';
	push @complaints, $found if $found ne '';
	push @complaints, "$bulk rows of $bulk_rows" if $bulk != $bulk_rows;
	push @complaints, "worker is $state and was $worker" if $state ne "$worker streaming";
	push @complaints, 'the server has crashed'
	  if slurp_file($node->logfile) =~ /terminated by signal|TRAP:/;
	if (-d "/proc/$worker" && !@complaints)
	{
		my ($own, $most) = memory();
		push @complaints, "memory $own kB, at most $most kB, limit " . memory_limit()
		  if $most > memory_limit();
	}
	return join("\n", @complaints);
}

sub goes_on
{
	my ($name) = @_;
	return is(complaints(), '', $name);
}

my $invalid = 0;

sub counts_invalid
{
	my ($count, $name) = @_;
	my $now;

	synced();
	$now = status('invalid_messages');
	is($now - $invalid, $count, $name);
	$invalid = $now;
	return;
}

#
# Outside of a transaction
#

my @prefixes = ('_bemi', '_bemi_tracking', '_bemi_sync', '_bemi_', '_bemi_x', '_bemi_tracking2', '_bem', '', '_BEMI', 'b' x 2000);
my $prefixes = join(', ', map { "'$_'" } @prefixes);

$nobody->query("SELECT pg_logical_emit_message(false, '_bemi_tracking', repeat('a', 80))");
counts_invalid(1, 'a message as long as a signed one, by a role without grants, while the worker idles');
$nobody->query(qq{
	SELECT count(pg_logical_emit_message(false, prefix, repeat('a', size)))
	FROM unnest(ARRAY[$prefixes]) prefix, unnest('{0, 1, 63, 64, 65, 80, 100000, 20000000}'::int[]) size});
$largest = 20 * MB;
counts_invalid(16, 'the same with each prefix and many lengths: those under ours are invalid');
$nobody->query(q{SELECT pg_logical_emit_message(false, '_bemi', '{"userId": 1}')});
counts_invalid(1, 'a context is invalid, too');
goes_on('the worker goes on after these');

my $commits = q{SELECT xact_commit FROM pg_stat_database WHERE datname = 'postgres'};
my $before = $node->safe_psql('postgres', $commits);
$nobody->query(q{
	SELECT count(pg_logical_emit_message(false, prefix, 'a'))
	FROM generate_series(1, 10000), unnest('{_bemi, _bemi_tracking, _bemi_sync}'::text[]) prefix});
counts_invalid(20000, 'a flood of messages is counted');
$node->poll_query_until('postgres', "SELECT invalid_messages = $invalid FROM _bemi.source_progress WHERE source = 'main'")
  or die 'invalid messages are not written down';
cmp_ok($node->safe_psql('postgres', $commits) - $before,
	'<', 1000, 'and does not begin a transaction for each');

#
# Within a transaction: too large, or of too many keys
#

sub transaction_with
{
	my ($content, $expected, $prefix) = @_;

	return $writer->query(statements('BEGIN', message('true', $prefix // '_bemi', $content),
			row_with($expected), 'COMMIT'));
}

my $limit = MB;
my $slack = 64 * 1024;    # what bemi.include may add
my $more_keys = 8;
transaction_with(qq{'{"a": "' || repeat('x', $limit) || '"}'}, qq{jsonb_build_object('a', repeat('x', $limit))});
counts_invalid(0, 'a message may be larger than bemi.max_context_size by what the server adds');
transaction_with(qq{'{"a": "' || repeat('x', $limit + $slack) || '"}'}, q{'{}'});
counts_invalid(1, 'not by more');
my $many = q{(SELECT json_object_agg('k' || n, n) FROM generate_series(1, %d) n)::text};
transaction_with(sprintf($many, 10000), sprintf("$many\::jsonb", 10000));
counts_invalid(0, 'as many keys as bemi.max_context_keys allows');
transaction_with(sprintf($many, 10009), q{'{}'});
counts_invalid(1, 'more');
transaction_with(q{'{"a": [' || repeat('0,', 20000) || '0]}'}, q{'{}'});
counts_invalid(1, 'elements of arrays count');
$largest = 201 * MB;
my ($own_before) = memory();
transaction_with(q{'{"a": "' || repeat('x', 200 * 1024 * 1024) || '"}'}, q{'{}'});
counts_invalid(1, '200 MB');
transaction_with(q{repeat('a', 200 * 1024 * 1024)}, q{'{}'}, '_bemi_tracking');
counts_invalid(1, '200 MB that pass for a description');
transaction_with(q{'{"b": "' || repeat('x', 200 * 1024 * 1024) || '"}'}, q{'{}'}, '_bemi_other');
counts_invalid(0, '200 MB under a prefix that is nobody\'s');
goes_on('the worker has taken no more memory than libpq needs for them');

# The limits that count are those of the worker's server.
$admin->query(q{SET bemi.max_context_size = '2MB'; SET bemi.max_context_keys = 100000});
$admin->query(statements('BEGIN', q{SELECT bemi.set_context(jsonb_build_object('a', repeat('x', 1500000)))}, row_with(q{'{}'}), 'COMMIT'));
$admin->query(statements('BEGIN', qq{SELECT bemi.set_context((SELECT jsonb_object_agg('k' || n, n) FROM generate_series(1, 20000) n))}, row_with(q{'{}'}), 'COMMIT'));
counts_invalid(2, 'contexts larger than the worker\'s own settings allow');
$node->safe_psql('postgres', q{ALTER SYSTEM SET bemi.max_context_size = '2MB'});
$node->reload;
$admin->query(q{RESET bemi.max_context_size; RESET bemi.max_context_keys});
$node->poll_query_until('postgres', q{SELECT current_setting('bemi.max_context_size') = '2MB'}) or die;
$admin->query(statements('BEGIN', q{SELECT bemi.set_context(jsonb_build_object('a', repeat('x', 1500000)))},
		row_with(q{jsonb_build_object('a', repeat('x', 1500000))}), 'COMMIT'));
counts_invalid(0, 'with the setting, the worker takes them');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET bemi.max_context_size');
$node->reload;

# What the server adds fits, however long the query.
$node->poll_query_until('postgres', "SELECT invalid_messages = $invalid FROM _bemi.source_progress WHERE source = 'main'")
  or die 'invalid messages are not written down';
$node->append_conf('postgresql.conf', "track_activity_query_size = '1MB'");
$node->restart;
expect_another_worker();
($admin, $nobody, $writer) =
  (Bemi::Session->new($node), Bemi::Session->new($node, user => 'nobody_special'), Bemi::Session->new($node, user => 'writer'));
$admin->query(q{SET bemi.include = 'session_user, current_user, application_name, client_addr, backend_pid, query'});
$admin->query(q{SET application_name = 'so \"quoted\"'});
$admin->query(qq{SELECT set_config('bemi.context', '{"a": "' || repeat('x', $limit - 9) || '"}', false)});
my $id = $next_id++;
$admin->query("INSERT INTO written SELECT $id, '" . ("\x01\"\t" x 20000) . "'");
$admin->query('RESET bemi.include; RESET bemi.context');
counts_invalid(0, 'the largest context, and facts of the server with a long query, are valid');
is( $node->safe_psql(
		'postgres', qq{
		SELECT length(context ->> 'a'), length(context -> '_db' ->> 'query') BETWEEN 10000 AND 60000,
			context -> '_db' ->> 'session_user' = current_user
		FROM bemi.changes WHERE primary_key = '$id'}),
	$limit - 9 . '|t|t',
	'the query is cut');
$node->safe_psql('postgres', qq{
	INSERT INTO expected SELECT $id, context FROM bemi.changes WHERE primary_key = '$id'});

#
# Signed messages that were copied, cut or changed; and at the moments of a start
#

$node->safe_psql('postgres', q{
	SELECT pg_create_logical_replication_slot('spy', 'test_decoding');
	CREATE TABLE described (id int PRIMARY KEY, v text);
	SELECT bemi.track('described')});
my ($signed) = $node->safe_psql('postgres', q{
	SELECT data FROM pg_logical_slot_get_changes('spy', NULL, NULL) WHERE data LIKE '%prefix: \_bemi\_tracking%'})
  =~ /content:([0-9a-f]{64}\{[^\n]*"began"[^\n]*)/
  or die 'no signed message in the log';
$node->safe_psql('postgres', q{SELECT pg_drop_replication_slot('spy')});
my $copy = "'" . $signed =~ s/'/''/gr . "'";
synced();
transaction_with($copy, q{'{}'}, '_bemi_tracking');
counts_invalid(1, 'a signed message in another transaction');
transaction_with("left($copy, -1)", q{'{}'}, '_bemi_tracking');
transaction_with("overlay($copy PLACING 'x' FROM 100)", q{'{}'}, '_bemi_tracking');
transaction_with("left($copy, 64)", q{'{}'}, '_bemi_tracking');
transaction_with($copy, q{'{}'});
counts_invalid(4, 'cut, changed, a signature alone, under the prefix of contexts');
$nobody->query(message('false', '_bemi_tracking', $copy));
counts_invalid(1, 'outside of a transaction');
transaction_with(q{'sync'}, q{'{}'}, '_bemi_sync');
counts_invalid(0, 'a marker within a transaction is nothing');

$node->safe_psql('postgres', 'CALL bemi.stop()');
$nobody->query(message('false', $_, $copy)) foreach ('_bemi_tracking', '_bemi');
$writer->query(statements('BEGIN', message('true', '_bemi_tracking', $copy), row_with(q{'{}'}), 'COMMIT'));
$node->safe_psql('postgres', 'CALL bemi.start()');
expect_another_worker();
counts_invalid(3, 'messages that are the first that a worker reads');

# Markers that no session waits for do not separate source transactions that could share
# one of the destination.
$node->safe_psql('postgres', 'CALL bemi.stop()');
$node->safe_psql(
	'postgres', q{
	DO $$ BEGIN
		FOR n IN 1 .. 2000 LOOP
			INSERT INTO bulk VALUES (-n, 'v');
			COMMIT;
			PERFORM pg_logical_emit_message(false, '_bemi_sync', 'sync');
		END LOOP;
	END $$;
	CALL bemi.start()});
$bulk_rows += 2000;
expect_another_worker();
goes_on('markers between small transactions');
cmp_ok($node->safe_psql('postgres', q{SELECT count(DISTINCT xmin::text) FROM bemi.changes WHERE "table" = 'bulk'}),
	'<', 500, 'these share destination transactions');
$node->safe_psql('postgres', 'DELETE FROM bemi.changes WHERE "table" = \'bulk\'');
$bulk_rows = 0;

sub start_while_others_write
{
	my (@messages) = @_;

	$node->safe_psql('postgres', q{CALL bemi.drop_source('main')});
	$admin->query(statements('BEGIN', 'SELECT pg_current_xact_id()', "PREPARE TRANSACTION 'old'"));
	$node->safe_psql('postgres', 'CALL bemi.start(wait => false)');
	wait_for_state($node, 'making slot');
	$nobody->query($_) foreach (@messages);
	$admin->query(q{ROLLBACK PREPARED 'old'});
	$nobody->query($_) foreach (@messages);
	expect_another_worker();
	$nobody->query($_) foreach (@messages);
	return;
}

start_while_others_write(map { message($_, '_bemi_tracking', $copy) } ('false', 'true'));
goes_on('messages while a slot is made');

# In the middle of a large transaction, and while a session waits in bemi.sync().
$writer->query('BEGIN');
$writer->query('INSERT INTO bulk SELECT n, md5(n::text) FROM generate_series(1, 20000) n');
$bulk_rows = 20000;
$nobody->query(message('false', '_bemi_tracking', $copy));
$writer->query(statements(message('true', '_bemi_tracking', $copy), message('false', '_bemi', q{'{}'}), row_with(q{'{}'})));
$admin->send(q{SELECT bemi.sync('120s')});
$nobody->query(q{SELECT count(pg_logical_emit_message(false, '_bemi_sync', 'sync')) FROM generate_series(1, 20000)});
$writer->query('COMMIT');
is($admin->result, '', 'bemi.sync() returns in a flood of markers');
goes_on('messages in and around a large transaction');

#
# A source in another database, over a connection string, and in another encoding
#

$node->safe_psql('postgres', q{
	CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0});
$node->safe_psql('latin', q{
	CREATE EXTENSION bemi;
	CREATE TABLE far (id int PRIMARY KEY);
	GRANT ALL ON far TO writer;
	SELECT bemi.track('far')});
my $conninfo = $node->connstr('latin') =~ s/'/''/gr;
is(start_error($node, "CALL bemi.start('far', conninfo => '$conninfo')"), '', 'a source in another encoding');
my $far = Bemi::Session->new($node, database => 'latin', user => 'writer');
$far->query(message('false', $_, bytes("{\xe9}" x 30))) foreach ('_bemi', '_bemi_tracking', '_bemi_sync');
$far->query(statements(
		'BEGIN',
		message('true', '_bemi', bytes(qq({"a": "\xe9"}))), 'INSERT INTO far VALUES (1)',
		message('true', '_bemi', "repeat('x', 3000000)"), 'INSERT INTO far VALUES (2)',
		message('true', '_bemi_tracking', bytes("\xe9" x 80)), 'COMMIT'));
$node->poll_query_until('postgres', q{SELECT count(*) = 2 FROM bemi.changes WHERE source = 'far'})
  or die 'changes of the other database are not stored';
is( $node->safe_psql('postgres', q{
		SELECT primary_key, context = CASE primary_key WHEN '1' THEN '{"a": "\u00e9"}' ELSE '{}' END::jsonb
		FROM bemi.changes WHERE source = 'far' ORDER BY id}),
	"1|t\n2|t",
	'its contexts are those of valid messages');
$node->poll_query_until('postgres', q{SELECT invalid_messages = 4 FROM bemi.status WHERE source = 'far'})
  or die 'invalid messages of the other database are not counted';
is($node->safe_psql('postgres', q{SELECT restarts, last_error IS NULL FROM bemi.status WHERE source = 'far'}),
	'0|t', 'its worker goes on');
$node->safe_psql('postgres', q{CALL bemi.drop_source('far')});

#
# By chance
#

sub choice { return $_[ rand @_ ]; }
sub below { return int(rand($_[0])); }

# Few are large.
sub size
{
	my $most = rand() < 0.01 ? ($minutes ? 300 : 20) * MB : rand() < 0.1 ? 2 * MB : 10000;
	return int($most**rand());
}

sub random_bytes
{
	my ($len, @from) = @_;
	return join('', map { chr(@from ? choice(@from) : below(256)) } 1 .. $len);
}

sub bytes { return "decode('" . unpack('H*', $_[0]) . "', 'hex')"; }

# Contents as SQL expressions, each with the context that it makes: an SQL expression,
# or undef if it is not valid, or if that is unknown.
my %contents = (
	nothing => sub { return (q{''::bytea}, undef) },
	bytes => sub { return (bytes(random_bytes(1 + below(3000))), undef) },
	zeros => sub { return (bytes('{"a": 1' . chr(0) . '}' . random_bytes(below(100), 0, 1)), undef) },
	bad_utf8 => sub { return (bytes('{"a": "' . random_bytes(1 + below(20), 0x80 .. 0xff) . '!"}'), undef) },
	marks => sub { return (bytes('{' . random_bytes(below(300), map { ord } split //, '{}[]",:\\u01 ') . 'x'), undef) },
	deep => sub {
		my $depth = 1 + below(choice(50, 1000, 200000));
		my $text = "repeat('{\"a\":', $depth) || '1' || repeat('}', $depth)";
		return $depth <= 1000 ? ("($text)", "($text)::jsonb") : ("($text || 'x')", undef);
	},
	keys => sub {
		my $count = 1 + below(choice(10, 3000, 30000));
		my $text = sprintf($many, $count);
		return ($text, $count <= 10000 + $more_keys ? "($text)::jsonb" : undef);
	},
	text => sub {
		my $size = size();
		my $text = "jsonb_build_object('userId', 7, 'text', repeat('x', $size))";
		$largest = max($largest, $size);
		# As text, with its punctuation, it is some 30 bytes longer.
		return ("$text\::text", $size + 100 <= $limit + $slack ? $text : undef) if abs($size - $limit - $slack) > 100;
		return (q{'x'}, undef);
	},
	forged => sub {
		my $number = below(1000);
		return (qq{'{"_whole": "00000000-0000-0000-0000-000000000000", "_db": {"n": $number}}'}, qq{'{"_db": {"n": $number}}'});
	},
	signed => sub { return ($copy, undef) },
	cut => sub { return ("left($copy, " . below(length $signed) . ')', undef) },
	flipped => sub {
		my $flipped = $signed;
		substr($flipped, below(length $flipped), 1) ^= chr(1 << below(7));
		return (bytes($flipped), undef);
	},
	long => sub {
		my $size = size();
		$largest = max($largest, $size);
		return ("repeat('a', $size)", undef);
	});
my @kinds = sort keys %contents;

# A message of any kind, and the context that it gives to the rows that follow it: 0 if
# it is not under the prefix of contexts.
sub any_message
{
	my ($must_be_outside) = @_;
	my $prefix = rand() < 0.7 ? choice('_bemi', '_bemi_tracking') : choice(@prefixes);
	my $transactional = !$must_be_outside && rand() < 0.6 ? 'true' : 'false';
	my $kind = choice(@kinds);
	my ($content, $context) = $contents{$kind}->();

	$sent{$kind}++;
	return (message($transactional, $prefix, $content),
		$transactional eq 'true' && $prefix eq '_bemi' ? $context // q{'{}'} : 0);
}

# Rows with a context, rows without one, and messages between them.
sub any_transaction
{
	my @statements = ('BEGIN');
	my $context = q{'{}'};

	for (1 .. 1 + below(8))
	{
		my $act = below(10);

		if ($act < 5)
		{
			my ($message, $new) = any_message();
			push @statements, $message;
			$context = $new if $new;
		}
		elsif ($act < 8)
		{
			my $own = "jsonb_build_object('n', $next_id, 'text', repeat('y', " . below(choice(100, 10000)) . '))';
			push @statements, "SELECT bemi.set_context($own)", row_with($own), row_with($own), q{SELECT bemi.set_context(NULL)};
			# A statement without a context ends the context.
			push @statements, row_with(q{'{}'});
			$context = q{'{}'};
		}
		else
		{
			# bemi writes no message for it, unless one was written before.
			push @statements, row_with($context) if !grep { /set_context/ } @statements;
		}
	}
	push @statements, 'COMMIT';
	return statements(@statements);
}

sub large_transaction
{
	my $rows = 1000 + below(10000);

	$writer->query('BEGIN');
	for (1 .. 3)
	{
		$writer->query("INSERT INTO bulk SELECT n, md5(n::text) FROM generate_series($bulk_rows + 1, $bulk_rows + $rows) n");
		$bulk_rows += $rows;
		$nobody->query((any_message(1))[0]);
		$writer->query((any_message())[0]);
	}
	$writer->query('COMMIT');
	return;
}

my %moments = (
	idle => sub { $nobody->query((any_message())[0]) for 1 .. 10; },
	transactions => sub { $writer->query(any_transaction()) for 1 .. 10; },
	large => \&large_transaction,
	sync => sub {
		$admin->send(q{SELECT bemi.sync('120s')});
		$nobody->query(q{SELECT count(pg_logical_emit_message(false, '_bemi_sync', 'a')) FROM generate_series(1, 2000)});
		$writer->query(any_transaction());
		$admin->result;
	},
	start => sub {
		$node->safe_psql('postgres', 'CALL bemi.stop()');
		$nobody->query((any_message())[0]) for 1 .. 3;
		$writer->query(any_transaction());
		$node->safe_psql('postgres', 'CALL bemi.start()');
		my $size = $largest;
		expect_another_worker();
		$largest = $size;
	},
	killed => sub {
		my $size = $largest;
		$writer->query('BEGIN');
		$writer->query("INSERT INTO bulk SELECT n, md5(n::text) FROM generate_series($bulk_rows + 1, $bulk_rows + 30000) n");
		$bulk_rows += 30000;
		$writer->query('COMMIT');
		$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
		$writer->query(any_transaction());
		$node->poll_query_until('postgres', "SELECT pid <> $worker AND state = 'streaming' FROM bemi.status WHERE source = 'main'")
		  or die 'there is no other worker';
		expect_another_worker();
		$largest = $size;
	},
	slot => sub {
		synced();
		$largest = 0;
		my @messages = map { (any_message())[0] } 1 .. 3;
		my $size = $largest;
		start_while_others_write(@messages);
		$largest = $size;
	});
my @moments = ('idle', 'transactions', 'transactions', 'large', 'sync', 'start', 'slot', 'killed');
my $end = time + 60 * $minutes;
my $rounds = 0;
my $failed = 0;
my %seen;

while (!$failed && ($minutes ? time < $end : $rounds < $short_rounds))
{
	my $moment = $rounds < @moments ? $moments[$rounds] : choice(@moments);
	my $complaints;

	$rounds++;
	$seen{$moment}++;
	$moments{$moment}->();
	$complaints = complaints();
	$failed = $complaints ne '';
	diag "seed $seed, round $rounds ($moment): $complaints" if $failed;
}
ok(!$failed, 'messages by chance');
note "$rounds rounds: " . join(', ', map { "$_ $seen{$_}" } sort keys %seen);
note 'messages: ' . join(', ', map { "$_ $sent{$_}" } sort keys %sent);
note(($next_id - 1) . " rows and $bulk_rows in large transactions compared");

$node->stop;
done_testing();
