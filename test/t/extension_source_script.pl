# bemi-source.sql installs only where nobody else can put something into its schemas, and upgrades
# in place.
#
# The owner of the database calls bemi.track() with his rights, and so does a superuser. An ordinary
# role that may create objects in schema bemi, or that has made the publication, could run code with
# these rights or take tables out of the history. So this test has such a role prepare a database in
# all ways that PostgreSQL allows. For the upgrade, clients write while the script runs again.

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
my $number = 0;

$source->safe_psql('postgres', 'CREATE ROLE mallory LOGIN; CREATE ROLE member LOGIN IN ROLE app; CREATE ROLE admin LOGIN SUPERUSER');

# A database of the owner app, prepared by statements of roles: [role, sql], ...
sub prepared
{
	my @statements = @_;
	my $database = 'prepared' . ++$number;

	$source->safe_psql('postgres', "CREATE DATABASE $database OWNER app");
	$source->safe_psql($database, $_->[1], extra_params => [ '-U', $_->[0] ]) for @statements;
	return $database;
}

# The messages of the script.
sub run_script
{
	my ($database, $role, $file) = @_;

	return ($source->psql($database, undef,
		extra_params => [ '-U', $role // 'app', '-v', 'ON_ERROR_STOP=1', '-qf', $file // 'bemi-source.sql' ]))[2];
}

sub refused
{
	my ($database, $expected, $name) = @_;
	my $before = $source->safe_psql($database, 'SELECT count(*) FROM pg_proc');

	like(run_script($database), $expected, $name);
	is($source->safe_psql($database, 'SELECT count(*) FROM pg_proc'), $before, "$name: nothing is left of the script");
	return;
}

# Objects of roles other than the owner in the schemas, and the rights to create some.
my $intrusion = q{
	SELECT pg_describe_object(d.classid, d.objid, 0) FROM pg_depend d JOIN pg_shdepend s ON s.classid = d.classid AND s.objid = d.objid AND s.deptype = 'o'
		WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid::regnamespace::text IN ('bemi', '_bemi') AND s.refobjid <> 'app'::regrole;
	SELECT n.nspname, a.grantee::regrole FROM pg_namespace n, aclexplode(n.nspacl) a WHERE n.nspname ~ 'bemi' AND a.privilege_type = 'CREATE' AND a.grantee <> n.nspowner};

#
# Rights to create something in the schemas
#

for my $whom ('mallory', 'PUBLIC')
{
	my $database = prepared([ app => "CREATE SCHEMA bemi; GRANT CREATE ON SCHEMA bemi TO $whom" ]);

	refused($database, qr/ERROR:  role "$whom" can create objects in schema "bemi"\nDETAIL:  .*\nHINT:  REVOKE CREATE ON SCHEMA bemi FROM $whom CASCADE;/, "CREATE for $whom");
	$source->safe_psql($database, "REVOKE CREATE ON SCHEMA bemi FROM $whom CASCADE", extra_params => [ '-U', 'app' ]);
	is(run_script($database), '', "CREATE for $whom: the hint can be pasted");
}
my $default = prepared([ app => 'ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO mallory, PUBLIC; ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO mallory WITH GRANT OPTION' ]);
is(run_script($default), '', 'default privileges');
is($source->safe_psql($default, $intrusion), '', 'default privileges give nobody the right to create');
is($source->safe_psql($default, q{SELECT has_schema_privilege('mallory', 'bemi', 'USAGE')}), 't', 'others are kept');
is(run_script($default), '', 'once more');

#
# Objects of others in the schemas
#

my $planted = [ app => 'CREATE SCHEMA bemi; CREATE SCHEMA _bemi; GRANT ALL ON SCHEMA bemi, _bemi TO mallory' ];
my $take_back = [ app => 'REVOKE ALL ON SCHEMA bemi, _bemi FROM mallory' ];
for my $object (
	[ 'FUNCTION bemi.track(text)', q{ RETURNS void LANGUAGE sql AS 'SELECT'} ],
	[ 'FUNCTION bemi.emit_context()', q{ RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'} ],
	[ 'FUNCTION _bemi.partitions(regclass)', q{ RETURNS SETOF regclass LANGUAGE sql AS 'SELECT $1'} ],
	[ 'PROCEDURE bemi.start()', q{ LANGUAGE sql AS 'SELECT'} ], [ 'TABLE bemi.changes', ' (id int)' ],
	[ 'TYPE bemi.text', q{ AS ENUM ('a')} ], [ 'OPERATOR _bemi.=', ' (FUNCTION = int4eq, LEFTARG = int, RIGHTARG = int)' ])
{
	my $database = prepared($planted, [ mallory => "CREATE $object->[0]$object->[1]" ], $take_back);

	my $message = run_script($database);

	like($message, qr/ERROR:  .* in schema "_?bemi" belongs to role "mallory"\nDETAIL:  .*\nHINT:  DROP .*;/, "$object->[0] of another role");
	is($source->safe_psql($database, q{SELECT to_regproc('bemi.untrack')}), '', "$object->[0] of another role: nothing is left of the script");
	$source->safe_psql($database, ($message =~ /HINT:  (.*)/)[0], extra_params => [ '-U', 'app' ]);
	is(run_script($database), '', "$object->[0] of another role: the hint can be pasted");
	is($source->safe_psql($database, $intrusion), '', "$object->[0] of another role: it is gone");
}
is(run_script(prepared([ app => 'CREATE SCHEMA bemi; CREATE FUNCTION bemi.mine() RETURNS int LANGUAGE sql AS $$SELECT 1$$' ])), '', 'an object of the owner is no obstacle');
is(run_script(prepared([ app => 'CREATE SCHEMA bemi' ], [ admin => 'CREATE VIEW bemi.v AS SELECT 1' ])), '', 'nor one of a superuser');

#
# The publication
#

my $published = prepared([ app => 'GRANT CREATE ON DATABASE prepared' . ($number + 1) . ' TO mallory' ], [ mallory => 'CREATE PUBLICATION bemi' ]);
refused($published, qr/ERROR:  publication "bemi" must not belong to role "mallory"\nDETAIL:  .*\nHINT:  ALTER PUBLICATION bemi OWNER TO app;/, 'a publication of another role');
$source->safe_psql($published, 'ALTER PUBLICATION bemi OWNER TO app');
is(run_script($published), '', 'a publication of another role: the hint can be pasted');
is(run_script(prepared([ app => 'CREATE PUBLICATION bemi' ])), '', 'one of the owner');
is(run_script(prepared([ admin => 'CREATE PUBLICATION bemi' ])), '', 'one of a superuser');

#
# What an ordinary role can put in front of the names that functions use
#

as_app($source, q{
	CREATE TABLE todo (id int PRIMARY KEY, expected jsonb);
	GRANT ALL ON todo TO PUBLIC;
	GRANT CREATE ON SCHEMA public TO PUBLIC;
	CREATE TABLE public.caught (rights name);
	GRANT ALL ON public.caught TO PUBLIC});
$source->safe_psql('app', q{
	CREATE FUNCTION public.catch(name, text) RETURNS boolean LANGUAGE plpgsql AS $$
		BEGIN INSERT INTO public.caught VALUES (current_user); RETURN false; END $$;
	CREATE FUNCTION public.catch("char", text) RETURNS boolean LANGUAGE plpgsql AS $$
		BEGIN INSERT INTO public.caught VALUES (current_user); RETURN false; END $$;
	CREATE OPERATOR public.= (FUNCTION = public.catch, LEFTARG = name, RIGHTARG = text);
	CREATE OPERATOR public.<> (FUNCTION = public.catch, LEFTARG = "char", RIGHTARG = text);
	CREATE FUNCTION public.format(text, regclass) RETURNS text LANGUAGE sql AS $$ INSERT INTO public.caught VALUES (current_user); SELECT 'SELECT 1'::text $$;
	CREATE FUNCTION public.track(regclass) RETURNS void LANGUAGE sql AS $$ INSERT INTO public.caught VALUES (current_user) $$;
	CREATE TABLE public.pg_class (LIKE pg_catalog.pg_class);
	CREATE TYPE public.regclass AS ENUM ('x')}, extra_params => [ '-U', 'mallory' ]);
for my $role ('app', 'member', 'admin')
{
	is( ($source->psql('app', q{
			SET search_path = pg_temp, public, bemi, pg_catalog;
			CREATE TEMP TABLE pg_class (LIKE pg_catalog.pg_class);
			CREATE TEMP TABLE pg_trigger (tgrelid oid, tgname name);
			SELECT bemi.track('todo'), bemi.untrack('todo');
			SELECT bemi.track('todo');
			INSERT INTO todo VALUES (1, '{}');
			DELETE FROM todo}, extra_params => [ '-U', $role ]))[2], '', "a path with names of others, as $role");
}
is($source->safe_psql('app', 'SELECT * FROM public.caught'), '', 'none of them is used');

# An event trigger fires for all roles, also for those that have no right on the schemas.
$source->safe_psql('app', q{
	CREATE EVENT TRIGGER bemi_follow_ddl ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE') EXECUTE FUNCTION _bemi.follow_ddl();
	REVOKE ALL ON SCHEMA bemi, _bemi FROM PUBLIC});
is( ($source->psql('app', q{
		SET search_path = public, pg_catalog;
		CREATE TABLE own (id int) PARTITION BY RANGE (id);
		CREATE TABLE own_1 PARTITION OF own FOR VALUES FROM (0) TO (1);
		CREATE TABLE own_2 (id int);
		ALTER TABLE own ATTACH PARTITION own_2 DEFAULT;
		ALTER TABLE own_1 ADD CHECK (id > 0);
		CREATE TEMP TABLE pg_trigger (tgrelid oid, tgname name);
		CREATE TABLE heir () INHERITS (own_2)}, extra_params => [ '-U', 'mallory' ]))[2] =~ /permission denied.*/ ? $& : '', '', 'tables of a role without rights do not need them');
$source->safe_psql('app', 'DROP EVENT TRIGGER bemi_follow_ddl; GRANT USAGE ON SCHEMA bemi, _bemi TO PUBLIC');
is($source->safe_psql('app', 'SELECT * FROM public.caught'), '', 'names of others are still not used');

#
# Upgrades
#

start_source($history, $source);
as_app($source, q{
	CREATE TABLE parted (id int PRIMARY KEY, expected jsonb) PARTITION BY RANGE (id);
	CREATE TABLE parted_1 PARTITION OF parted DEFAULT;
	SELECT bemi.track('parted'), bemi.set_default('bemi.tags', 'a');
	CREATE SEQUENCE ids});
my $tracked = q{
	SELECT c.oid::regclass, c.relreplident, t.tgname, t.oid, encode(t.tgargs, 'escape'), EXISTS (SELECT FROM pg_publication_rel r WHERE r.prrelid = c.oid)
		FROM pg_class c JOIN pg_trigger t ON t.tgrelid = c.oid WHERE t.tgname ~ '^bemi' ORDER BY 1, 3};
my $before = $source->safe_psql('app', $tracked);
my $file = $source->basedir . '/clients.sql';
append_to_file($file, <<~'SQL');
	\set n random(1, 1000000)
	INSERT INTO todo SELECT nextval('ids'), '{"n": :n}' /*Bemi {"n": :n} Bemi*/;
	BEGIN;
	SELECT bemi.set_context('{"m": :n}');
	INSERT INTO parted SELECT nextval('ids'), '{"m": :n}';
	COMMIT;
	SQL
my ($out, $err) = ('', '');
my $clients = IPC::Run::start(
	[ $source->installed_command('pgbench'), qw(-n -c 3 -R 150 -T 600 -U app -f), $file, $source->connstr('app') ],
	'<', \undef, '>', \$out, '2>', \$err);
END { $clients->kill_kill if $clients; }

sub wait_for_rows
{
	my $id = 100 + $source->safe_psql('app', 'SELECT last_value FROM ids');

	$source->poll_query_until('app', "SELECT last_value > $id FROM ids") or die 'clients do not write';
	return;
}

for (1 .. 5)
{
	wait_for_rows();
	is(run_script('app'), '', 'the script runs again while clients write');
}
wait_for_rows();
$clients->signal('TERM');
$clients->finish;
undef $clients;
unlike($err, qr/ERROR|FATAL|aborted/, 'no client got an error');
is($source->safe_psql('app', $tracked), $before, 'tracked tables stay tracked');
is(as_app($source, q{SELECT bemi.current_context() /*a='1'*/}), '{"_tags": {"a": "1"}}', 'bemi.set_default() stays');
wait_until_stored($history, $source);
is($history->safe_psql('postgres', q{SELECT "table", operation, after -> 'expected', context FROM bemi.changes WHERE operation <> 'DELETE' AND context IS DISTINCT FROM after -> 'expected' LIMIT 20}),
	'', 'each change has its context');
is($history->safe_psql('postgres', q{SELECT count(*) FROM bemi.changes WHERE operation = 'CREATE' AND after ->> 'expected' <> '{}'}),
	as_app($source, 'SELECT (SELECT count(*) FROM todo) + (SELECT count(*) FROM parted)'), 'once');

# An older file must not replace a newer one.
my ($version) = slurp_file('bemi.control') =~ /default_version = '(\S+)'/;
like($source->safe_psql('app', q{SELECT obj_description('_bemi'::regnamespace)}), qr/bemi-source\.sql \Q$version\E\z/, 'the version is known');
for my $other ('0.9', '1.0', '1.0.1', '1.10', '10.0')
{
	my $copy = $source->basedir . "/$other.sql";

	append_to_file($copy, slurp_file('bemi-source.sql') =~ s/('|bemi-source\.sql )\Q$version\E'/$1$other'/gr);
	is(run_script('app', 'app', $copy), '', "version $other over those before") if $other ne '0.9';
	like(run_script('app'), $other eq '1.0' ? qr/\A\z/
		: qr/ERROR:  version $other of bemi-source\.sql is in this database\nDETAIL:  This file is version 1\.0\.\nHINT:  /, "version 1.0 over version $other") if $other ne '0.9';
}
like(run_script('app', 'app', $source->basedir . '/0.9.sql'), qr/ERROR:  version 10\.0 of bemi-source\.sql is in this database/, 'nor an even older one');

$source->stop;
$history->stop;
done_testing();
