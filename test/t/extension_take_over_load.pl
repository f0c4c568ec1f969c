# CREATE EXTENSION takes over from bemi-source.sql while applications write, in transactions that
# use several tables in different orders.
#
# The extension needs locks on all tracked tables at once. An application must not become the
# victim of a deadlock, it must not wait for a transaction of somebody else for long, and each of
# its changes must have its context once, also in a session and in a transaction that began before.
# Each row has the context that its change must have, so the history shows by itself what is wrong.

use strict;
use warnings;

use Bemi;
use Bemi::Session;
use Bemi::Source;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $history = bemi_node('history');

# Without preloading, a session loads the library in the middle of its first statement.
my $source = source_node('source', conf => "shared_preload_libraries = 'bemi'\n");

as_app($source, q{
	CREATE SEQUENCE ids;
	CREATE TABLE a (id bigint PRIMARY KEY DEFAULT nextval('ids'), expected jsonb NOT NULL);
	CREATE TABLE b (LIKE a INCLUDING ALL);
	CREATE TABLE log (LIKE a INCLUDING ALL);
	CREATE TABLE parted (LIKE a INCLUDING ALL) PARTITION BY RANGE (id);
	CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100);
	CREATE TABLE parted_2 PARTITION OF parted DEFAULT;
	CREATE FUNCTION log_b() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN INSERT INTO public.log (expected) VALUES (NEW.expected); RETURN NULL; END $$;
	CREATE TRIGGER log_b AFTER INSERT ON b FOR EACH ROW EXECUTE FUNCTION log_b();
	CREATE FUNCTION add(n int) RETURNS void LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO public.a (expected) VALUES ('{"own": 1}') /*Bemi {"own": 1} Bemi*/;
			PERFORM bemi.set_context(jsonb_build_object('function', n));
			INSERT INTO public.b (expected) VALUES (jsonb_build_object('function', n));
		END $$;
	SELECT bemi.track(t) FROM unnest('{a,b,log,parted}'::regclass[]) t});
start_source($history, $source);

# What there is of bemi, to compare before and after an error.
my $state = q{
	SELECT t.tgrelid::regclass, t.tgname, t.tgfoid::regproc, encode(t.tgargs, 'escape') FROM pg_trigger t WHERE t.tgname ~ '^bemi' ORDER BY 1, 2;
	SELECT n.nspname, n.nspowner::regrole, array_agg(p.oid::regprocedure::text ORDER BY p.oid) FROM pg_namespace n
		LEFT JOIN pg_proc p ON p.pronamespace = n.oid WHERE n.nspname ~ 'bemi' GROUP BY n.oid ORDER BY 1;
	SELECT p.pubname, p.pubowner::regrole, array_agg(r.prrelid::regclass ORDER BY 1) FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid GROUP BY p.oid;
	SELECT evtname FROM pg_event_trigger;
	SELECT extname FROM pg_extension WHERE extname = 'bemi'};
my $before = $source->safe_psql('app', $state);
my $writer = Bemi::Session->new($source, database => 'app', user => 'app');
my $other = Bemi::Session->new($source, database => 'app', user => 'app');
my $admin = Bemi::Session->new($source, database => 'app');

#
# It cannot have a table: it gives up, and nothing of it remains
#

$writer->query(q{BEGIN; SET LOCAL bemi.context = '{"long": 1}'; INSERT INTO b (expected) VALUES ('{"long": 1}')});
$admin->query(q{SET lock_timeout = '2s'});
$admin->send('CREATE EXTENSION bemi');
$other->query(q{SET lock_timeout = '10s'; INSERT INTO a (expected) VALUES ('{}')});
like($admin->result,
	qr/\AERROR:  could not lock the tables that bemi-source\.sql tracks\nDETAIL:  Transactions have used table "public\.b" for 2 s\.\nHINT:  .*CREATE EXTENSION bemi;/,
	'a transaction that does not end: an error');
is($source->safe_psql('app', $state), $before, 'and nothing has changed');
is($writer->query(q{INSERT INTO a (expected) VALUES ('{"long": 1}')}), '', 'the transaction goes on');
is($writer->query('COMMIT'), '', 'and commits');
is($writer->query(q{INSERT INTO a (expected) VALUES ('{}')}), '', 'the application writes');

#
# A transaction that has a table writes to another one, which CREATE EXTENSION has or wants
#

# Its server would find the deadlock at once.
$source->append_conf('postgresql.conf', "deadlock_timeout = '600ms'\n");
$source->reload;

$writer->query(q{BEGIN; SET LOCAL bemi.context = '{"order": 1}'; SELECT count(*) FROM a; INSERT INTO b (expected) VALUES ('{"order": 1}')});
$admin->query('BEGIN; SET LOCAL lock_timeout = 0');
$admin->send('CREATE EXTENSION bemi');
$admin->wait_until_it_waits;
is($writer->query(q{INSERT INTO a (expected) VALUES ('{"order": 1}')}), '', 'no deadlock with a transaction that writes to another table');
$admin->wait_until_it_waits;
is($writer->query(q{INSERT INTO parted (expected) VALUES ('{"order": 1}')}), '', 'nor with one more table');
is($other->query(q{INSERT INTO log (expected) VALUES ('{}')}), '', 'another session writes to a third table meanwhile');
is($writer->query('COMMIT'), '', 'the transaction commits');
is($admin->result, '', 'then CREATE EXTENSION has all tables');
is($admin->query('ROLLBACK'), '', 'and rolls back');
is($source->safe_psql('app', $state), $before, 'which brings all back');
is($admin->query('SHOW deadlock_timeout; SHOW lock_timeout'), "600ms\n2s", 'with the settings of the session');

#
# Clients write all the time, and sessions are in the middle of transactions
#

my %scripts = (
	setting => q{
		BEGIN;
		SET LOCAL bemi.context = '{"setting": :n}';
		INSERT INTO a (expected) VALUES ('{"setting": :n}');
		INSERT INTO b (expected) VALUES ('{"setting": :n}');
		COMMIT;},
	comment => q{
		BEGIN;
		INSERT INTO b (expected) VALUES ('{"b": :n}') /*Bemi {"b": :n} Bemi*/;
		INSERT INTO parted (expected) VALUES ('{"p": :n}') /*Bemi {"p": :n} Bemi*/;
		INSERT INTO a (expected) VALUES ('{"a": :n}'), ('{"a": :n}') /*Bemi {"a": :n} Bemi*/;
		COMMIT;},
	function => q{
		BEGIN;
		SELECT count(*) FROM log WHERE id = :n;
		SELECT add(:n);
		INSERT INTO log (expected) VALUES ('{"function": :n}');
		COMMIT;},
	none => q{
		INSERT INTO log (expected) VALUES ('{}');
		INSERT INTO a (expected) VALUES ('{}');});
my @files;
for my $name (sort keys %scripts)
{
	push @files, '-f', $source->basedir . "/$name.sql";
	append_to_file($files[-1], "\\set n random(1, 1000000)\n$scripts{$name}\n");
}
my ($out, $err) = ('', '');
my $clients = IPC::Run::start(
	[ $source->installed_command('pgbench'), qw(-n -c 4 -R 150 -T 600 -U app), @files, $source->connstr('app') ],
	'<', \undef, '>', \$out, '2>', \$err);
END { $clients->kill_kill if $clients; }

sub wait_for_rows
{
	my $id = 600 + $source->safe_psql('app', 'SELECT last_value FROM ids');

	$source->poll_query_until('app', "SELECT last_value > $id FROM ids") or die 'clients do not write';
	return;
}

# Sessions from before, in all states.
my %sessions = map { ($_ => Bemi::Session->new($source, database => 'app', user => 'app')) } qw(session local rolled_back prepared idle);
$sessions{session}->query(q{SELECT bemi.set_context('{"session": 1}', is_local => false)});
$sessions{local}->query(q{BEGIN; SELECT bemi.set_context('{"local": 1}')});
$sessions{rolled_back}->query(q{BEGIN; SAVEPOINT s; SET LOCAL bemi.context = '{"gone": 1}'; INSERT INTO a (expected) VALUES ('{"gone": 1}'); ROLLBACK TO s});
$sessions{prepared}->query(q{PREPARE p AS INSERT INTO a (expected) VALUES ($1); PREPARE s AS SELECT bemi.set_context($1, false); EXECUTE s('{"prepared": 1}'); EXECUTE p('{"prepared": 1}')});

wait_for_rows();
is($admin->query(q{SET lock_timeout = 0; CREATE EXTENSION bemi}), '', 'CREATE EXTENSION under load');
is($sessions{session}->query(q{INSERT INTO a (expected) VALUES ('{"session": 1}')}), '', 'the context of a session from before');
is($sessions{local}->query(q{INSERT INTO b (expected) VALUES ('{"local": 1}'); COMMIT}), '', 'of a transaction from before');
is($sessions{rolled_back}->query(q{INSERT INTO b (expected) VALUES ('{}'); INSERT INTO a (expected) VALUES ('{"c": 1}') /*Bemi {"c": 1} Bemi*/; COMMIT}), '',
	'of a transaction that has rolled back to a savepoint');
$sessions{prepared}->query(q{EXECUTE p('{"prepared": 1}'); EXECUTE s('{"prepared": 2}'); EXECUTE p('{"prepared": 2}')});
is($sessions{idle}->query(q{INSERT INTO a (expected) VALUES ('{"first": 1}') /*Bemi {"first": 1} Bemi*/}), '', 'of a first statement with a comment');
wait_for_rows();
$clients->signal('TERM');
$clients->finish;
undef $clients;
unlike($err, qr/ERROR|FATAL|aborted/, 'no client got an error');
$_->quit for values(%sessions), $writer, $other, $admin;

wait_until_stored($history, $source);
is($history->safe_psql('postgres', q{SELECT "table", operation, after -> 'expected', context FROM bemi.changes WHERE context IS DISTINCT FROM after -> 'expected' ORDER BY id LIMIT 20}),
	'', 'each change has its context');
is($history->safe_psql('postgres', q{SELECT count(*), count(DISTINCT after ->> 'id') FROM bemi.changes}),
	$source->safe_psql('app', q{SELECT count(*), count(*) FROM (SELECT id FROM a UNION ALL SELECT id FROM b UNION ALL SELECT id FROM log UNION ALL SELECT id FROM parted) r}),
	'each row is there exactly once');
is($history->safe_psql('postgres', q{SELECT reason, "table" FROM bemi.gaps WHERE reason NOT IN ('source_started', 'tracking_began')}), '', 'there is no gap');
is($source->safe_psql('app', q{SELECT nspname FROM pg_namespace WHERE nspname LIKE '%source%' UNION ALL
		SELECT tgname FROM pg_trigger WHERE tgname = 'bemi_reemit_context'}), '', 'nothing of bemi-source.sql is left');

$source->stop;
$history->stop;
done_testing();
