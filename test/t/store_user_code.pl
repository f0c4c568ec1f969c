# Code of users that the worker runs. The worker is a superuser, and it meets objects of other
# roles: types whose casts run SQL, triggers, defaults, checks and index expressions on
# bemi.changes, partitions, event triggers. A role that may create one of them tries to become a
# superuser, and no role may have done so at the end. Code that an owner has agreed to runs as
# that owner. Only code that fails stops the worker, and the error names its owner and the
# solution.

use strict;
use warnings;

use Bemi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Bemi::Session;
use Test::More;

my $node = bemi_node('main');
my $version = $node->safe_psql('postgres', q{SELECT current_setting('server_version_num')::int / 10000});

sub sql { return $node->safe_psql('postgres', $_[0]); }

sub sync { return sql(q{SELECT bemi.sync('60s')}); }

# Makes a change; true if it is stored, and nobody becomes a superuser by it.
my $k = 0;
sub store
{
	my ($what) = @_;

	$k++;
	sql("INSERT INTO t VALUES ($k)");
	sync();
	is(sql(qq{SELECT count(*) FROM bemi.changes WHERE "table" = 't' AND primary_key = '$k'}),
		1, "$what: stored");
	is(sql('SELECT string_agg(rolname, $$,$$) FROM pg_roles WHERE rolsuper'),
		$node->safe_psql('postgres', 'SELECT rolname FROM pg_roles WHERE oid = 10'), "$what: nobody has risen");
	return;
}

sub worker_fails_with
{
	my ($error, $what) = @_;

	$k++;
	sql("INSERT INTO t VALUES ($k)");
	$node->poll_query_until('postgres', qq{SELECT last_error || last_hint ~ \$e\$$error\$e\$ AND state = 'failed' FROM bemi.status})
	  or die sql('SELECT state, last_error, last_hint FROM bemi.status');
	pass($what);
	return;
}

sub warning { return sql('SELECT warning FROM bemi.status'); }

# What makes its caller a superuser if it can.
my $rise = 'BEGIN ALTER ROLE aud SUPERUSER; EXCEPTION WHEN insufficient_privilege THEN NULL; END;';

sql(q{
	CREATE ROLE aud LOGIN;
	CREATE ROLE keeper LOGIN;
	CREATE ROLE third;
	CREATE SCHEMA aud AUTHORIZATION aud;
	CREATE SCHEMA keeper AUTHORIZATION keeper;
	CREATE TABLE t (id int PRIMARY KEY);
	SELECT bemi.track('t');
	CREATE TABLE public.seen (place text, who text, detail text);
	GRANT ALL ON public.seen TO PUBLIC});
my $superuser = sql('SELECT rolname FROM pg_roles WHERE oid = 10');

#
# Types
#
# As PostGIS' geometry: the cast to json is in C, and runs SQL that others have a hand
# in.  PL/pgSQL's own handler is such a C function: it runs what is in
# the catalog for the function that it is called as.
#

sql(q{
	CREATE TYPE shape;
	CREATE FUNCTION shape_in(cstring) RETURNS shape LANGUAGE internal IMMUTABLE STRICT AS 'textin';
	CREATE FUNCTION shape_out(shape) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
	CREATE TYPE shape (INPUT = shape_in, OUTPUT = shape_out, LIKE = text);
	CREATE FUNCTION shape_to_json(shape) RETURNS json LANGUAGE c STRICT AS '$libdir/plpgsql', 'plpgsql_call_handler';
	CREATE CAST (shape AS json) WITH FUNCTION shape_to_json(shape);
	CREATE TABLE g (id int PRIMARY KEY, s shape, digits shape);
	SELECT bemi.track('g');
	CALL bemi.start();
	INSERT INTO g VALUES (1, '{"a": 1}', '0101000020');
	SELECT bemi.sync('60s')});
is(sql(q{SELECT after FROM bemi.changes WHERE "table" = 'g'}),
	'{"s": "{\"a\": 1}", "id": 1, "digits": "0101000020"}', 'a type with a cast to json in C: its text, whatever that looks like');

SKIP:
{
	my ($status) = $node->psql('postgres', 'CREATE EXTENSION hstore');
	skip 'no hstore', 3 if $status;

	# The cast is called, but no longer after a role has replaced it.
	sql(q{
		CREATE TABLE h (id int PRIMARY KEY, h hstore, hs hstore[]);
		SELECT bemi.track('h');
		INSERT INTO h VALUES (1, 'a=>1', ARRAY['b=>2'::hstore])});
	sync();
	is(sql(q{SELECT after FROM bemi.changes WHERE "table" = 'h'}), '{"h": {"a": "1"}, "hs": [{"b": "2"}], "id": 1}', 'hstore is cast');
	sql(q{
		ALTER EXTENSION hstore DROP CAST (hstore AS json);
		DROP CAST (hstore AS json);
		CREATE FUNCTION other_json(hstore) RETURNS json LANGUAGE c STRICT AS '$libdir/plpgsql', 'plpgsql_call_handler';
		CREATE CAST (hstore AS json) WITH FUNCTION other_json(hstore);
		ALTER TABLE h ADD more int;
		INSERT INTO h VALUES (2, 'a=>1', ARRAY['b=>2'::hstore])});
	sync();
	is(sql(q{SELECT after FROM bemi.changes WHERE "table" = 'h' AND primary_key = '2'}),
		'{"h": "\"a\"=>\"1\"", "hs": ["\"b\"=>\"2\""], "id": 2, "more": null}', 'with another cast, it is not');
	is(sql(q{SELECT last_error IS NULL FROM bemi.status}), 't', 'no worker has failed');
}

# After an error that is caught, the next rows are converted as if there had been none.
sql(q{
	CREATE TYPE pair AS (a int, j json);
	CREATE TABLE p (id int PRIMARY KEY, l pair[], j json[], b box[]);
	SELECT bemi.track('p')});
for my $n (0 .. 2)
{
	my $bad = 'ARRAY[ROW(1, $${"x": "\u0000"}$$)::pair], ARRAY[$${"x": "\u0000"}$$]::json[]';
	my $good = 'ARRAY[ROW(1, $${"x": "y"}$$)::pair], ARRAY[$${"x": "y"}$$]::json[]';

	sql("INSERT INTO p VALUES (10 * $n, $bad, ARRAY['(1,1),(0,0)'::box]), (10 * $n + 1, $good, ARRAY['(1,1),(0,0)'::box])");
}
sync();
is(sql(q{SELECT string_agg(DISTINCT (after - 'id')::text, chr(10)) FROM bemi.changes WHERE "table" = 'p' AND primary_key LIKE '%1'}),
	'{"b": ["(1,1),(0,0)"], "j": [{"x": "y"}], "l": [{"a": 1, "j": {"x": "y"}}]}', 'after errors, values are what they are');

#
# Triggers
#

my $trigger = 'CREATE OR REPLACE TRIGGER tr AFTER INSERT ON bemi.changes FOR EACH ROW';
sub as_aud { return sql("SET SESSION AUTHORIZATION aud; $_[0]"); }

sql('GRANT ALL ON ALL TABLES IN SCHEMA bemi, _bemi TO aud');
as_aud(qq{
	CREATE FUNCTION aud.f() RETURNS trigger LANGUAGE plpgsql AS \$\$
		BEGIN $rise INSERT INTO public.seen VALUES ('trigger', current_user, TG_NAME); RETURN NEW; END \$\$;
	CREATE FUNCTION aud.g(text) RETURNS boolean LANGUAGE plpgsql AS \$\$
		BEGIN $rise INSERT INTO public.seen VALUES ('when', current_user, \$1); RETURN true; END \$\$;
	$trigger EXECUTE FUNCTION aud.f();
	CREATE TRIGGER wh BEFORE INSERT ON bemi.changes FOR EACH ROW
		WHEN (aud.g(NEW.primary_key) AND query_to_xml('SELECT aud.g(''q'')', true, true, '') IS NOT NULL) EXECUTE FUNCTION aud.f();
	CREATE TRIGGER st AFTER INSERT ON bemi.changes EXECUTE FUNCTION aud.f();
	CREATE CONSTRAINT TRIGGER de AFTER INSERT ON bemi.changes DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION aud.f()});
store('triggers of somebody who may make them');
for my $table ('bemi.baselines', 'bemi.gaps', 'bemi.holds', 'bemi.sources', 'bemi.tracked_schemas',
	'_bemi.source_progress', '_bemi.source_tables', '_bemi.source_relations', '_bemi.signing_key')
{
	my ($status, $stdout, $stderr) = $node->psql('postgres', qq{
		SET SESSION AUTHORIZATION aud;
		CREATE TRIGGER tr AFTER INSERT OR UPDATE OR DELETE ON $table FOR EACH ROW EXECUTE FUNCTION aud.f()});

	like($stderr, qr/permission denied to create trigger on table "\Q$table\E"/, "none on $table");
}
is(sql('SELECT count(*) FROM seen'), 0, 'none of them has fired');
like(warning(), qr/trigger tr of bemi\.changes does not fire: ALTER TABLE bemi\.changes ENABLE ALWAYS TRIGGER tr;/, 'and bemi.status says so');

sql(q{ALTER TABLE bemi.changes ENABLE ALWAYS TRIGGER tr; ALTER TABLE bemi.changes ENABLE ALWAYS TRIGGER wh; ALTER TABLE bemi.changes ENABLE ALWAYS TRIGGER de});
store('enabled by the owner, with functions that somebody else can replace');
is(sql('SELECT count(*) FROM seen'), 0, 'they do not fire either');
like(warning(), qr/because another role owns a function that it calls: ALTER FUNCTION aud\.f\(\) OWNER TO \Q$superuser\E;/, 'and bemi.status says so');

# What the owner has agreed to does.
sql(qq{
	CREATE FUNCTION keeper.f() RETURNS trigger LANGUAGE plpgsql AS \$\$
		BEGIN
			INSERT INTO public.seen VALUES (TG_NAME, current_user, current_setting('session_replication_role'));
			PERFORM pg_notify('changes', NEW.primary_key);
			RETURN NEW;
		END \$\$;
	GRANT USAGE ON SCHEMA keeper TO PUBLIC;
	DROP TRIGGER wh ON bemi.changes; DROP TRIGGER st ON bemi.changes;
	DROP TRIGGER de ON bemi.changes;
	SET SESSION AUTHORIZATION aud;
	$trigger EXECUTE FUNCTION keeper.f();
	CREATE CONSTRAINT TRIGGER de AFTER INSERT ON bemi.changes DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION keeper.f()});
store('replaced: no longer enabled');
is(sql('SELECT count(*) FROM seen'), 0, 'a trigger that was replaced must be enabled again');
my $listener = Bemi::Session->new($node);
$listener->query('LISTEN changes');
sql('ALTER TABLE bemi.changes ENABLE ALWAYS TRIGGER tr; ALTER TABLE bemi.changes ENABLE ALWAYS TRIGGER de');
store('enabled');
is(sql('SELECT place, who, detail FROM seen ORDER BY 1'), "de|$superuser|replica\ntr|$superuser|replica", 'both have fired, the deferred one, too');
my $heard = '';
for (my $try = 0; $try < 1000 && $heard !~ /changes/; $try++)
{
	$heard = $listener->query('SELECT 1');
}
like($heard, qr/notification "changes" with payload "$k"/, 'somebody who listens has heard of it');
is(sql(q{SELECT count(*) FROM pg_trigger WHERE tgname = 'tr' AND tgenabled = 'A'}),
	sql(q{SELECT 1 + count(*) FROM pg_inherits WHERE inhparent = 'bemi.changes'::regclass}), 'partitions have it likewise');
sql(q{SELECT _bemi.make_partition('1999-01-01')});
is(sql(q{SELECT tgenabled FROM pg_trigger WHERE tgname = 'tr' AND tgrelid = '_bemi.changes_1999_01'::regclass}),
	'A', 'new ones, too');

# An owner who is no superuser.
sql(q{
	TRUNCATE seen;
	ALTER TABLE bemi.changes OWNER TO keeper;
	ALTER FUNCTION keeper.f() OWNER TO keeper});
store('owner without rights');
is(sql('SELECT DISTINCT who FROM seen'), 'keeper', 'triggers run as the owner, though the partition is a superuser\'s');
sql(qq{
	TRUNCATE seen;
	SET SESSION AUTHORIZATION keeper;
	CREATE OR REPLACE FUNCTION keeper.f() RETURNS trigger LANGUAGE plpgsql AS \$\$
		BEGIN
			BEGIN RESET ROLE; EXCEPTION WHEN OTHERS THEN INSERT INTO public.seen VALUES ('reset role', current_user, SQLSTATE); END;
			BEGIN RESET SESSION AUTHORIZATION; EXCEPTION WHEN OTHERS THEN INSERT INTO public.seen VALUES ('reset session', current_user, SQLSTATE); END;
			BEGIN EXECUTE 'SET ROLE $superuser'; EXCEPTION WHEN OTHERS THEN INSERT INTO public.seen VALUES ('set role', current_user, SQLSTATE); END;
			BEGIN ALTER ROLE keeper SUPERUSER; EXCEPTION WHEN OTHERS THEN INSERT INTO public.seen VALUES ('rise', current_user, SQLSTATE); END;
			BEGIN PERFORM set_config('session_replication_role', 'origin', false);
				EXCEPTION WHEN OTHERS THEN INSERT INTO public.seen VALUES ('triggers', current_user, SQLSTATE); END;
			BEGIN CREATE TEMP TABLE pg_trick (); EXCEPTION WHEN OTHERS THEN INSERT INTO public.seen VALUES ('temp', current_user, SQLSTATE); END;
			PERFORM set_config('search_path', 'keeper', false), set_config('row_security', 'on', false), set_config('datestyle', 'German', false);
			INSERT INTO public.seen VALUES ('path', current_user, current_setting('search_path'));
			RETURN NEW;
		END \$\$;
	-- what the worker would find if it looked there
	CREATE FUNCTION keeper.now() RETURNS timestamptz LANGUAGE plpgsql AS \$\$ BEGIN ALTER ROLE keeper SUPERUSER; RETURN pg_catalog.now(); END \$\$;
	ALTER TABLE bemi.changes DISABLE TRIGGER de});
store('an owner who tries');
store('and once more');
is( sql('SELECT place, who, detail, count(*) FROM seen GROUP BY 1, 2, 3 ORDER BY 1'),
	join("\n", 'path|keeper|keeper|2', map { "$_|keeper|42501|2" } 'reset role', 'reset session', 'rise', 'set role', 'temp', 'triggers'),
	'he gets nowhere');

# A trigger that fails stops the worker, and the error names its owner.
sql(qq{
	SET SESSION AUTHORIZATION keeper;
	CREATE OR REPLACE FUNCTION keeper.f() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN RAISE 'not today'; END \$\$});
worker_fails_with('not today.*These triggers of bemi\.changes have run: tr \(keeper\.f\(\)\).*DISABLE TRIGGER', 'a trigger that fails is named');
sql('ALTER TABLE bemi.changes DISABLE TRIGGER tr');
sync();
store('without it');

#
# Expressions, of an owner without rights and of others
#

sql(qq{
	GRANT CREATE ON SCHEMA keeper TO PUBLIC;
	GRANT CREATE ON SCHEMA bemi, _bemi TO keeper;
	DO \$\$ DECLARE part regclass; BEGIN
		FOR part IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'bemi.changes'::regclass LOOP
			EXECUTE format('ALTER TABLE %s OWNER TO keeper', part);
		END LOOP;
	END \$\$;
	SET SESSION AUTHORIZATION keeper;
	DROP TRIGGER tr ON bemi.changes; DROP TRIGGER de ON bemi.changes;
	CREATE FUNCTION keeper.e(text, text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS \$\$
		BEGIN
			BEGIN ALTER ROLE keeper SUPERUSER; EXCEPTION WHEN insufficient_privilege OR feature_not_supported THEN NULL; END;
			RETURN current_user;
		END \$\$;
	ALTER TABLE bemi.changes ADD COLUMN by_default text;
	ALTER TABLE bemi.changes ALTER COLUMN by_default SET DEFAULT keeper.e('default', random()::text);
	ALTER TABLE bemi.changes ADD CONSTRAINT kept CHECK (keeper.e('check', operation) <> keeper.e('constant', 'folded') || '!');
	CREATE INDEX kept_index ON bemi.changes (keeper.e('index', operation)) WHERE keeper.e('where', operation) <> '!';
	RESET SESSION AUTHORIZATION;
	REVOKE CREATE ON SCHEMA bemi, _bemi FROM keeper});
store('expressions of the owner');
is(sql(qq{SELECT by_default, keeper.e('', '') <> '' FROM bemi.changes WHERE "table" = 't' AND primary_key = '$k'}), 'keeper|t', 'they run as the owner');
# The worker looks into the history when it starts, and to plan that computes constants.
sql(q{
	GRANT CREATE ON SCHEMA bemi, _bemi TO keeper;
	SET SESSION AUTHORIZATION keeper;
	CREATE FUNCTION keeper.volatile() RETURNS text LANGUAGE plpgsql AS $$
		BEGIN
			BEGIN ALTER ROLE keeper SUPERUSER; EXCEPTION WHEN insufficient_privilege OR object_not_in_prerequisite_state THEN NULL; END;
			RETURN current_user;
		END $$;
	CREATE FUNCTION keeper.constant(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
		BEGIN
			PERFORM keeper.volatile();
			RETURN 'x';
		END $$;
	ALTER TABLE bemi.changes ADD CONSTRAINT constant CHECK (keeper.constant('a') <> operation);
	CREATE INDEX constant_index ON bemi.changes ((operation || keeper.constant('b')));
	RESET SESSION AUTHORIZATION;
	REVOKE CREATE ON SCHEMA bemi, _bemi FROM keeper});
sql('CALL bemi.stop()');
sql('CALL bemi.start()');
$k++;
sql("INSERT INTO t VALUES ($k)");
sync();
is(sql('SELECT rolsuper FROM pg_roles WHERE rolname = $$keeper$$'), 'f', 'constants in expressions of the owner: he has not risen');
# No other session may read it before: a superuser who does computes them, too.
sql('ALTER TABLE bemi.changes DROP CONSTRAINT constant; DROP INDEX bemi.constant_index');
store('constants in expressions of the owner');
# a new partition computes what can be computed of CHECK constraints
sql(q{SELECT _bemi.make_partition('1998-01-01')});
is(sql(q{SELECT relowner::regrole, count(*) FROM pg_class WHERE relname LIKE 'changes_1998_01%' AND relkind IN ('r', 'i') GROUP BY 1}), 'keeper|7', 'a new partition belongs to the same owner');
is(sql('SELECT rolsuper FROM pg_roles WHERE rolname = $$keeper$$'), 'f', 'who has not risen by it');

# With another role's function in an expression, nothing of it is computed: with
# whose rights it ever ran, either he would have the owner's, or the owner his.
my $depends = 'depends on another role.*ALTER FUNCTION %s OWNER TO';
sql(q{
	ALTER TABLE bemi.changes DROP CONSTRAINT kept;
	DROP INDEX bemi.kept_index;
	ALTER FUNCTION keeper.e(text, text) OWNER TO aud});
worker_fails_with(sprintf($depends, 'keeper\.e\(text,text\)'), 'a default that calls a function of somebody else');
sql('ALTER TABLE bemi.changes DROP COLUMN by_default');
sync();
store('and gone');

# A column without a default has that of its domain, whose owner writes what is in it.
sql(qq{
	GRANT USAGE ON SCHEMA aud, keeper TO PUBLIC;
	CREATE DOMAIN aud.place AS text;
	ALTER DOMAIN aud.place OWNER TO aud;
	ALTER TABLE bemi.changes ADD COLUMN by_domain aud.place;
	SET SESSION AUTHORIZATION aud;
	CREATE FUNCTION aud.d() RETURNS text LANGUAGE plpgsql AS \$\$ BEGIN $rise RETURN current_user; END \$\$;
	ALTER DOMAIN aud.place SET DEFAULT aud.d()});
worker_fails_with(sprintf($depends, 'aud\.d\(\)'), 'the default of a domain');
# So it is with the constraints of a domain that a domain is made of.
sql(q{
	ALTER TABLE bemi.changes DROP COLUMN by_domain;
	ALTER DOMAIN aud.place DROP DEFAULT;
	CREATE DOMAIN keeper.outer_place AS aud.place;
	ALTER DOMAIN keeper.outer_place OWNER TO keeper});
sync();
sql(q{
	ALTER TABLE bemi.changes ADD COLUMN by_default text;
	ALTER TABLE bemi.changes ALTER COLUMN by_default SET DEFAULT ('x'::text)::keeper.outer_place;
	SET SESSION AUTHORIZATION aud;
	ALTER DOMAIN aud.place ADD CHECK (aud.d() = 'aud') NOT VALID});
worker_fails_with('depends on another role.*ALTER DOMAIN aud\.place OWNER TO', 'a domain of a domain');
# And if they call another role's function.
sql('ALTER DOMAIN aud.place OWNER TO keeper');
worker_fails_with(sprintf($depends, 'aud\.d\(\)'), 'a function in the constraint of a domain');
sql(q{ALTER TABLE bemi.changes DROP COLUMN by_default});
sync();
store('and without');

# Its owner replaces a body that superusers have agreed to. What is constant in a CHECK or
# an index is computed while a partition is made, before any row.
for my $place ("ADD CONSTRAINT risky CHECK (aud.ok('constant', 'folded') AND aud.ok('row', operation))",
	"ADD COLUMN risky boolean GENERATED ALWAYS AS (aud.ok('constant', 'folded')) STORED")
{
	sql(qq{
		SET SESSION AUTHORIZATION aud;
		CREATE OR REPLACE FUNCTION aud.rise() RETURNS boolean LANGUAGE plpgsql AS \$\$ BEGIN ALTER ROLE aud SUPERUSER; RETURN true; END \$\$;
		CREATE OR REPLACE FUNCTION aud.ok(text, text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS \$\$ BEGIN RETURN true; END \$\$;
		RESET SESSION AUTHORIZATION;
		ALTER TABLE bemi.changes OWNER TO CURRENT_USER;
		ALTER TABLE bemi.changes $place;
		SET SESSION AUTHORIZATION aud;
		CREATE OR REPLACE FUNCTION aud.ok(text, text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS \$\$ BEGIN RETURN aud.rise(); END \$\$});
	isnt(scalar $node->psql('postgres', q{SELECT _bemi.make_partition('1996-01-01')}), 0, 'no partition is made');
	worker_fails_with(sprintf($depends, 'aud\.ok\(text,text\)'), "nothing is computed: $place");
	is(sql('SELECT rolsuper FROM pg_roles WHERE rolname = $$aud$$'), 'f', 'so nobody rises by it');
	sql($place =~ /COLUMN/ ? 'ALTER TABLE bemi.changes DROP COLUMN risky' : 'ALTER TABLE bemi.changes DROP CONSTRAINT risky');
	sync();
	store('without it');
}

#
# Constraints and indexes of users, before and after there are partitions
#

sql(q{
	TRUNCATE seen;
	ALTER TABLE bemi.changes ADD PRIMARY KEY (id, committed_at);
	ALTER TABLE bemi.changes ADD CONSTRAINT by_position UNIQUE (id, position, committed_at) DEFERRABLE INITIALLY DEFERRED;
	CREATE TABLE known (name text PRIMARY KEY);
	INSERT INTO known VALUES ('t'), ('g');
	DELETE FROM bemi.changes WHERE "table" NOT IN ('t', 'g');
	ALTER TABLE bemi.changes ADD CONSTRAINT is_known FOREIGN KEY ("table") REFERENCES known});
store('keys of users');
sql(q{CREATE TABLE other (id int PRIMARY KEY); SELECT bemi.track('other'); INSERT INTO other VALUES (2)});
$node->poll_query_until('postgres', q{SELECT last_error ~ 'is_known' FROM bemi.status}) or die 'a foreign key is not checked';
pass('a foreign key of the history is checked');
sql(q{INSERT INTO known VALUES ('other')});
sync();
sql(q{SELECT _bemi.make_partition('1997-01-01')});
is( sql(q{SELECT count(*) FILTER (WHERE indisprimary), count(*), count(*) FILTER (WHERE indisreplident) FROM pg_index WHERE indrelid = '_bemi.changes_1997_01'::regclass}),
	'1|7|1', 'a new partition has the keys of bemi.changes, and its own');
sql('ALTER TABLE bemi.changes DROP CONSTRAINT is_known, DROP CONSTRAINT by_position, DROP CONSTRAINT changes_pkey');

$node->safe_psql('postgres', 'CREATE DATABASE fresh');
is( $node->safe_psql('fresh', q{
		CREATE EXTENSION bemi;
		ALTER TABLE bemi.changes ADD PRIMARY KEY (id, committed_at);
		CREATE TABLE f (id int PRIMARY KEY);
		SELECT bemi.track('f');
		CALL bemi.start();
		INSERT INTO f VALUES (1);
		SELECT bemi.sync('60s');
		SELECT count(*) FROM bemi.changes;
		CALL bemi.drop_source('main')}) =~ s/\s+//gr,
	'1', 'ADD PRIMARY KEY before the first partition');

#
# A partition whose DETACH CONCURRENTLY was interrupted
#

my $current = sql(q{SELECT tableoid::regclass FROM bemi.changes WHERE "table" = 't' ORDER BY id DESC LIMIT 1});
my $reader = Bemi::Session->new($node);
for my $partition ($current, '_bemi.changes_1997_01')
{
	my $what = $partition eq $current ? 'the current partition' : 'an old one';

	$reader->query('BEGIN; SELECT count(*) FROM bemi.changes');
	my ($status) = $node->psql('postgres', "SET statement_timeout = '300ms'; ALTER TABLE bemi.changes DETACH PARTITION $partition CONCURRENTLY");
	$reader->query('COMMIT');
	is(sql(qq{SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = '$partition'::regclass}), 't', "$what is half detached");
	like(warning(), qr/ALTER TABLE bemi\.changes DETACH PARTITION \Q$partition\E FINALIZE;/, "$what: bemi.status says how to finish it");
	store($what);
}
is(sql(q{SELECT string_agg(inhrelid::regclass::text, ',') FROM pg_inherits WHERE inhdetachpending}),
	'_bemi.changes_1997_01', 'the worker has finished the one that was in its way, and no other');
like(slurp_file($node->logfile), qr/partition ".*" of bemi\.changes is detached now/, 'and says so');
sql(q{ALTER SYSTEM SET bemi.retention = '20 years'; SELECT pg_reload_conf()});
$node->poll_query_until('postgres', q{SELECT to_regclass('_bemi.changes_1998_01') IS NULL AND to_regclass('_bemi.changes_1999_01') IS NULL})
  or die 'retention does not go on';
is(sql(q{SELECT to_regclass('_bemi.changes_1997_01')}), '_bemi.changes_1997_01', 'retention goes on, and leaves what is half detached');
sql('ALTER TABLE bemi.changes DETACH PARTITION _bemi.changes_1997_01 FINALIZE; ALTER SYSTEM RESET bemi.retention; SELECT pg_reload_conf()');
is(warning(), '', 'nothing is wrong any more');

#
# Event triggers of others
#

sql(q{
	CREATE PROCEDURE public.note_table() LANGUAGE plpgsql AS $$ BEGIN RAISE DEBUG 'made'; END $$;
	CREATE FUNCTION on_create() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN CALL note_table(); END $$;
	CREATE EVENT TRIGGER of_others ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION on_create()});
sub detach_current
{
	my $partition = sql(q{SELECT tableoid::regclass FROM bemi.changes WHERE "table" = 't' ORDER BY id DESC LIMIT 1});

	return sql("ALTER TABLE bemi.changes DETACH PARTITION $partition");
}
detach_current();
store('an event trigger of others');
detach_current();
sql('ALTER EVENT TRIGGER of_others ENABLE ALWAYS');
if ($version >= 17)
{
	store('one that fires always');
}
else
{
	worker_fails_with('note_table.*of_others.*ALTER EVENT TRIGGER', 'one that fires always is named');
	sql('ALTER EVENT TRIGGER of_others ENABLE');
	sync();

	sql(q{
		CREATE FUNCTION on_drop() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'kept'; END $$;
		DROP EVENT TRIGGER of_others;
		SELECT _bemi.make_partition('1995-01-01');
		CREATE EVENT TRIGGER on_drop ON sql_drop EXECUTE FUNCTION on_drop();
		ALTER EVENT TRIGGER on_drop ENABLE ALWAYS;
		ALTER SYSTEM SET bemi.retention = '20 years'; SELECT pg_reload_conf()});
	$node->wait_for_log(qr/could not drop a partition.*kept\n.*HINT:  These event triggers have run .*on_drop/);
	pass('retention names it, too');
	sql('DROP EVENT TRIGGER on_drop; ALTER SYSTEM RESET bemi.retention; SELECT pg_reload_conf()');
}
sql('DROP EVENT TRIGGER IF EXISTS of_others');
store('at the end');
unlike(slurp_file($node->logfile), qr/reference leak|leaked/, 'the worker leaves nothing open');

$node->stop;
done_testing();
