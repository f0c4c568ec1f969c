# CREATE EXTENSION takes over from bemi-source.sql: tracked tables stay tracked, the history goes on
# without a gap, and nothing that the owner of the source has put into its schemas runs with the
# rights of the superuser who creates the extension.
#
# The owner of a managed database can put anything there, and knows that a superuser will run the
# script one day. So he plants functions and operators with the names that the script uses, also on
# the database's search_path, and each records the rights with which it was called. Clients write
# all the time.

use strict;
use warnings;

use Bemi;
use Bemi::Source;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $history = bemi_node('history');
my $source = source_node('source');

as_app($source, q{
	CREATE TABLE todo (id int PRIMARY KEY, client int);
	CREATE TABLE keyed (code text NOT NULL UNIQUE);
	ALTER TABLE keyed REPLICA IDENTITY USING INDEX keyed_code_key;
	CREATE TABLE "Odd ""table" (id int PRIMARY KEY);
	ALTER TABLE "Odd ""table" REPLICA IDENTITY NOTHING;
	CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
	CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100);
	CREATE TABLE silent (id int PRIMARY KEY);
	CREATE TABLE with_rules (id int PRIMARY KEY, secret text);
	CREATE TABLE by_hand (id int PRIMARY KEY);
	SELECT bemi.track(t) FROM unnest('{todo,keyed,"\"Odd \"\"table\"",parted,silent,with_rules}'::regclass[]) t;
	ALTER TABLE silent DISABLE TRIGGER bemi_emit_context;
	DROP TRIGGER bemi_emit_context ON with_rules;
	CREATE TRIGGER bemi_emit_context BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON with_rules
		FOR EACH STATEMENT EXECUTE FUNCTION bemi.emit_context('x', 'y', 'z', '{"redact": ["*"]}', 'more');
	CREATE TABLE rooted (id int) PARTITION BY RANGE (id);
	CREATE TABLE rooted_1 PARTITION OF rooted DEFAULT;
	CREATE TRIGGER each_row AFTER INSERT ON rooted FOR EACH ROW EXECUTE FUNCTION bemi.reemit_context();
	CREATE TRIGGER by_hand BEFORE INSERT ON by_hand
		FOR EACH STATEMENT WHEN (current_setting('bemi.context', true) <> '') EXECUTE FUNCTION bemi.emit_context()});
as_app($source, q{
	CREATE VIEW seen AS SELECT * FROM todo;
	CREATE TRIGGER on_view AFTER INSERT ON seen FOR EACH STATEMENT EXECUTE FUNCTION bemi.reemit_context()});
as_app($source, q{SELECT bemi.set_default('bemi.tags', 'a, "b"')});
start_source($history, $source);

#
# What its owner plants
#

as_app($source, q{
	CREATE TABLE public.caught (rights name, plant text);
	GRANT ALL ON public.caught TO PUBLIC;
	CREATE FUNCTION public.catch(plant text) RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog
		AS $$ BEGIN INSERT INTO public.caught VALUES (current_user, plant); RETURN false; END $$;
	CREATE TABLE bemi.changes (id int);
	CREATE VIEW bemi.pg_proc AS SELECT p.* FROM pg_catalog.pg_proc p WHERE public.catch('pg_proc');
	CREATE VIEW bemi.pg_trigger AS SELECT p.* FROM pg_catalog.pg_trigger p WHERE public.catch('pg_trigger');
	CREATE VIEW bemi.uses_context AS SELECT bemi.current_context();
	CREATE PROCEDURE bemi.start() LANGUAGE sql AS $$ SELECT public.catch('start') $$;
	CREATE AGGREGATE bemi.emit_context(int) (sfunc = int4pl, stype = int);
	ALTER DATABASE app SET search_path = bemi, _bemi, public, pg_catalog});
for my $plant (
	'bemi.track(text) RETURNS void', 'bemi.format(text, VARIADIC text[]) RETURNS text', 'bemi.concat(text, text) RETURNS text',
	'bemi.set_config(text, text, boolean) RETURNS text', 'bemi.current_setting(text, boolean) RETURNS text',
	'_bemi.check_publication_owner() RETURNS void', '_bemi.ensure_publication() RETURNS void',
	'_bemi.replace(text, text, text) RETURNS text', 'bemi.to_regclass(text) RETURNS regclass',
	'bemi.encode(bytea, text) RETURNS text', 'bemi.same(name, text) RETURNS boolean', 'bemi.same(oid, oid) RETURNS boolean',
	'bemi.same(name, name) RETURNS boolean', 'bemi.same(text, text) RETURNS boolean')
{
	my ($name) = $plant =~ /^([^(]+)/;
	as_app($source, qq{CREATE FUNCTION $plant LANGUAGE plpgsql SET search_path = pg_catalog
		AS \$\$ BEGIN PERFORM public.catch('$name'); RETURN@{[ $plant =~ /void/ ? '' : ' NULL' ]}; END \$\$});
}
as_app($source, "CREATE OPERATOR bemi.= (FUNCTION = bemi.same, LEFTARG = $_->[0], RIGHTARG = $_->[1])")
  for [ 'name', 'text' ], [ 'oid', 'oid' ], [ 'name', 'name' ], [ 'text', 'text' ];

#
# Clients write meanwhile
#

my $script = $source->basedir . '/clients.sql';
append_to_file($script, <<~'SQL');
	BEGIN;
	SET LOCAL search_path = public;
	SET LOCAL bemi.context = '{"client": :client_id}';
	INSERT INTO todo SELECT nextval('ids'), :client_id;
	UPDATE todo SET client = client WHERE id = currval('ids');
	COMMIT;
	SQL
as_app($source, q{SET search_path = public; CREATE SEQUENCE ids});

my ($out, $err) = ('', '');
my $clients = IPC::Run::start(
	[
		$source->installed_command('pgbench'), '-n', '-c', '3', '-T', '600', '-f', $script, '-U', 'app',
		$source->connstr('app')
	],
	'<', \undef, '>', \$out, '2>', \$err);
END { $clients->kill_kill if $clients; }

sub wait_for_rows
{
	my ($more) = @_;
	my $rows = $source->safe_psql('app', 'SELECT coalesce(max(id), 0) FROM public.todo') + $more;

	$source->poll_query_until('app', "SELECT max(id) >= $rows FROM public.todo")
	  or die 'clients do not write';
	return;
}

wait_for_rows(100);

my ($status, $stdout, $stderr) = $source->psql('app', 'CREATE EXTENSION bemi');
is($status, 0, 'CREATE EXTENSION') or diag $stderr;
like($stderr, qr/WARNING:  trigger "by_hand" of table "(public\.)?by_hand" still runs a function of bemi-source\.sql\nHINT:  DROP TRIGGER by_hand ON (public\.)?by_hand; SELECT bemi\.track\('(public\.)?by_hand'\);/,
	'a trigger of another kind is left, with a warning');
like($stderr, qr/WARNING:  trigger "$_" of table/, "so is $_") for 'on_view', 'each_row';
like($stderr, qr/WARNING:  the value of "bemi\.tags" in bemi-source\.sql has no effect any more\nHINT:  ALTER DATABASE app SET "?bemi\.tags"? = 'a, "b"';/,
	'bemi.set_default() has its counterpart');
like($stderr, qr/WARNING:  schema "bemi" of bemi-source\.sql is called "bemi_source" now/,
	'so is a schema that has something else');
wait_for_rows(100);

# pgbench ends by a signal.
$clients->signal('TERM');
$clients->finish;
undef $clients;
unlike($err, qr/ERROR/, 'no client got an error');

is($source->safe_psql('app', 'SELECT DISTINCT rights, plant FROM public.caught WHERE rights <> \'app\''),
	'', 'nothing of the owner ran with the rights of the superuser');

#
# Tables
#

is( $source->safe_psql(
		'app', q{
		SET search_path = public;
		SELECT t.tgrelid::regclass, t.tgname, t.tgenabled, replace(encode(t.tgargs, 'escape'), '\000', ',')
			FROM pg_trigger t WHERE t.tgfoid = 'bemi.emit_context()'::regprocedure ORDER BY t.tgrelid::regclass::text COLLATE "C"}),
	<<~'END' =~ s/\n\z//r, 'each table has the trigger of the extension, with what the other one knew');
	"Odd ""table"|bemi_emit_context|O|n,,table,
	keyed|bemi_emit_context|O|i,keyed_code_key,table,
	parted|bemi_emit_context|O|d,,table,
	parted_1|bemi_emit_context|O|d,,partition,
	silent|bemi_emit_context|D|d,,table,
	todo|bemi_emit_context|O|d,,table,
	with_rules|bemi_emit_context|O|d,y,table,
	END
is( $source->safe_psql(
		'app', q{SET search_path = public; SELECT "table", problems FROM bemi.tracked WHERE problems <> '{}'}),
	'silent|{"a trigger is disabled"}', 'bemi.tracked finds nothing wrong');
is( $source->safe_psql(
		'app', q{SELECT t.tgname, n.nspname, p.proname FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
			WHERE NOT t.tgisinternal AND n.nspname <> 'bemi' ORDER BY t.tgname COLLATE "C"}),
	join("\n", 'by_hand|bemi_source|emit_context', ('each_row|bemi_source|reemit_context') x 2, 'on_view|bemi_source|reemit_context'),
	'no other trigger of bemi-source.sql is left');
is( $source->safe_psql(
		'app', q{SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
			WHERE n.nspname IN ('bemi_source', '_bemi_source') AND p.proname IN ('emit_context', 'set_context', 'current_context', 'track', 'prepare_table') ORDER BY 1}),
	join("\n", 'bemi_source.current_context()', 'bemi_source.emit_context()', 'bemi_source.emit_context(integer)', 'bemi_source.track(text)'),
	'its functions are gone, but for those that something needs');
is( $source->safe_psql(
		'app', q{SELECT n.nspname, n.nspowner = e.extowner, p.pubowner = e.extowner FROM pg_namespace n, pg_extension e, pg_publication p
			WHERE n.nspname IN ('bemi', '_bemi') AND e.extname = 'bemi' AND p.pubname = 'bemi' ORDER BY 1}),
	"_bemi|t|t\nbemi|t|t", 'schemas and publication belong to the owner of the extension');

$source->safe_psql('app', q{SET search_path = public; SELECT bemi.untrack('keyed'), bemi.untrack('"Odd ""table"')});
is( $source->safe_psql('app', q{SELECT relname, relreplident FROM pg_class WHERE relname IN ('keyed', 'Odd "table') ORDER BY 1}),
	"Odd \"table|n\nkeyed|i", 'bemi.untrack() restores what was before bemi-source.sql');

#
# The history
#

$source->safe_psql('app', q{SET search_path = public; SET bemi.context = '{"by": "extension"}'; INSERT INTO parted VALUES (1); INSERT INTO with_rules VALUES (1, 'x')});
wait_until_stored($history, $source);
is( $history->safe_psql(
		'postgres', q{SELECT count(*) FROM bemi.changes WHERE "table" = 'todo' AND context IS DISTINCT FROM jsonb_build_object('client', after -> 'client')}),
	'0', 'each change of the clients has its context');
is( $history->safe_psql('postgres', q{SELECT count(*) FROM bemi.changes WHERE "table" = 'todo' AND operation IN ('CREATE', 'UPDATE')}),
	$source->safe_psql('app', 'SELECT 2 * count(*) FROM public.todo'), 'none is missing');
is( $history->safe_psql('postgres', q{SELECT "table", after, context FROM bemi.changes WHERE "table" IN ('parted', 'with_rules') ORDER BY id}),
	qq{parted|{"id": 1}|{"by": "extension"}\nwith_rules|{"id": 1, "secret": "x"}|{"by": "extension"}},
	'the other tables are still tracked, without the rules that an owner gave himself');
is( $history->safe_psql('postgres', q{SELECT reason, "table" FROM bemi.gaps WHERE reason NOT IN ('source_started', 'tracking_began')
		AND NOT (reason = 'tracking_ended' AND "table" IN ('keyed', 'Odd "table'))}), '', 'there is no gap');

#
# Once more, without anything of others: then nothing is left. Also the other way round.
#

$source->safe_psql('postgres', 'CREATE DATABASE second OWNER app');
sub run_in_second { return $source->psql('second', undef, extra_params => [ '-U', 'app', '-v', 'ON_ERROR_STOP=1', '-qf', 'bemi-source.sql' ]); }
run_in_second();
$source->safe_psql('second', 'CREATE TABLE todo (id int PRIMARY KEY); SELECT bemi.track($$todo$$)', extra_params => [ '-U', 'app' ]);
$source->safe_psql('second', q{CREATE EVENT TRIGGER bemi_follow_ddl ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION _bemi.follow_ddl()});
($status, $stdout, $stderr) = $source->psql('second', 'CREATE EXTENSION bemi');
is("$status $stderr", '0 ', 'without anything of others, there is no warning');
is( $source->safe_psql('second', q{SELECT nspname FROM pg_namespace WHERE nspname LIKE '%source%'
		UNION ALL SELECT evtname FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid WHERE p.prolang <> (SELECT oid FROM pg_language WHERE lanname = 'c')}),
	'', 'and nothing is left');
($status, $stdout, $stderr) = run_in_second();
like($stderr, qr/ERROR:  extension bemi is in this database/, 'bemi-source.sql refuses a database with the extension');

$source->stop;
$history->stop;
done_testing();
