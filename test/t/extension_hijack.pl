# Nobody can make bemi run his code with bemi's rights, or with those of a superuser.
#
# A role that may create objects in "public" plants functions, operators, types and views with the
# names that bemi's SQL uses. It does so before CREATE EXTENSION and with the exact argument
# types, so the plants win if a search_path includes them. The database's path has them before
# pg_catalog. Each plant records the rights with which it was called. The plants are derived from
# bemi--1.0.sql and the catalog, so they also cover SQL that is added later.
#
# A second part checks the same by rule, from what the catalog has about bemi's objects.

use strict;
use warnings;

use Bemi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main', run => 0);
$node->start;

my $script_file = $node->config_data('--sharedir') . '/extension/bemi--1.0.sql';
my $script = slurp_file($script_file);

#
# The plants
#

$node->safe_psql(
	'postgres', q{
	CREATE ROLE mallory LOGIN;
	CREATE ROLE alice LOGIN;
	CREATE DATABASE evil});
$node->safe_psql(
	'evil', q{
	CREATE TABLE public.caught (rights name, plant text);
	GRANT INSERT, SELECT ON public.caught TO PUBLIC;
	GRANT CREATE ON SCHEMA public TO mallory;
	CREATE SCHEMA evil AUTHORIZATION mallory;
	GRANT USAGE ON SCHEMA evil TO PUBLIC});

# As mallory, with a path that is not his own trap.
sub plant
{
	my ($sql) = @_;

	return $node->safe_psql('evil', "SET search_path = pg_catalog;\n$sql",
		extra_params => [ '-U', 'mallory' ]);
}

# Not one that is planted returns anything of use; to be called is bad enough.
plant(
	q{
	CREATE FUNCTION evil.catch(plant text) RETURNS boolean LANGUAGE plpgsql
		SET search_path = pg_catalog AS
		$$ BEGIN INSERT INTO public.caught VALUES (current_user, plant); RETURN true; END $$;
	CREATE PROCEDURE evil.try(statement text) LANGUAGE plpgsql SET search_path = pg_catalog AS $$
	BEGIN
		EXECUTE statement;
	EXCEPTION WHEN OTHERS THEN
		RAISE LOG '%: %', SQLERRM, statement;	-- "any", internal: nobody can
	END $$});

# Functions: all of pg_catalog's whose name the script has before a parenthesis,
# and of those with an OID another one for each type that can replace it.
my %words = map { ($_ => 1) } $script =~ /\b([a-z_0-9]+)\s*\(/g;
my $names = join(', ', map { "'$_'" } sort keys %words);
plant(qq{
	DO \$do\$ DECLARE f record; alias text; schema text; BEGIN
		FOR f IN SELECT p.oid, proname, pg_get_function_arguments(p.oid) AS arguments,
				pg_get_function_result(p.oid) AS result
			FROM pg_proc p WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind IN ('f', 'a')
				AND proname IN ($names)
		LOOP
			FOREACH alias IN ARRAY '{oid, regclass, regnamespace, regprocedure}'::text[] LOOP
				FOREACH schema IN ARRAY '{public, evil}'::text[] LOOP
					CALL evil.try(format('CREATE FUNCTION %I.%I(%s) RETURNS %s LANGUAGE plpgsql'
						' AS \$\$ BEGIN PERFORM evil.catch(%L); RETURN%s; END \$\$',
						schema, f.proname, regexp_replace(f.arguments, '\\moid\\M', alias, 'g'), f.result,
						f.oid::regprocedure,
						CASE WHEN f.result ~ '^(TABLE|SETOF)' OR f.arguments ~ '\\mOUT\\M' OR f.result = 'void' THEN '' ELSE ' NULL' END));
				END LOOP;
			END LOOP;
		END LOOP;
	END \$do\$});

# Those with arguments of type "any", in the forms that would be called.
for my $types ('text, text', 'text, name', 'text, name, name', 'text, name, name, text', 'text, regclass',
	'text, oid', 'text, text, oid', 'text, name, name, text, text, text', 'text, oid, text',
	'text, name, regclass', 'text, name, timestamptz, timestamptz', 'text, VARIADIC text[]')
{
	for my $schema ('public', 'evil')
	{
		plant(qq{CREATE FUNCTION $schema.format($types) RETURNS text LANGUAGE plpgsql
			AS \$\$ BEGIN PERFORM evil.catch('format($types)'); RETURN ''; END \$\$});
	}
}

# Operators: any two types of those that bemi's SQL handles.
my @types = qw(text name oid regclass regnamespace regprocedure "char" bytea text[] name[]
  bigint integer smallint boolean timestamptz interval jsonb pg_lsn oidvector int2vector uuid);
for my $result ('boolean', 'text')
{
	my @operators = split / /, $result eq 'boolean' ? '= <> < > <= >= ~ !~ ~~ @> ?' : '|| + - * & -> ->> #> #>>';
	my $sql = '';

	for my $left (@types)
	{
		for my $right (@types)
		{
			$sql .= "CREATE FUNCTION evil.${result}_operator($left, $right) RETURNS $result LANGUAGE plpgsql"
			  . " AS \$\$ BEGIN PERFORM evil.catch('operator ($left, $right)'); RETURN NULL; END \$\$;\n";
			for my $operator (@operators)
			{
				$sql .= "CREATE OPERATOR $_.$operator (LEFTARG = $left, RIGHTARG = $right,"
				  . " FUNCTION = evil.${result}_operator);\n"
				  for ('evil', $left eq $right ? 'public' : ());
			}
		}
	}
	plant($sql);
}

# Types: a cast to one of them would call its check.  And a cast that he creates.
for my $type (qw(text name oid regclass regnamespace regprocedure bytea timestamptz jsonb interval))
{
	for my $schema ('public', 'evil')
	{
		plant("CREATE DOMAIN $schema.$type AS pg_catalog.$type CHECK (evil.catch('type $type') OR VALUE IS NULL)");
	}
}
plant(
	q{
	CREATE TYPE evil.wrapped AS (t text);
	CREATE FUNCTION evil.wrap(text) RETURNS evil.wrapped LANGUAGE plpgsql AS
		$$ BEGIN PERFORM evil.catch('cast'); RETURN NULL; END $$;
	CREATE CAST (text AS evil.wrapped) WITH FUNCTION evil.wrap(text) AS IMPLICIT});

# Tables: the catalogs that the script names, and bemi's own.
my %catalogs = map { ($_ => 1) } $script =~ /\b(pg_[a-z_]+)\b/g;
$names = join(', ', map { "'$_'" } sort keys %catalogs);
plant(qq{
	DO \$do\$ DECLARE name text; BEGIN
		FOR name IN SELECT relname FROM pg_class
			WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind IN ('r', 'v') AND relname IN ($names)
		LOOP
			CALL evil.try(format('CREATE VIEW evil.%1\$I AS SELECT c.* FROM pg_catalog.%1\$I c WHERE evil.catch(%1\$L)', name));
			CALL evil.try(format('CREATE VIEW public.%1\$I AS SELECT c.* FROM pg_catalog.%1\$I c WHERE evil.catch(%1\$L)', name));
			CALL evil.try(format('GRANT SELECT ON evil.%1\$I, public.%1\$I TO PUBLIC', name));
		END LOOP;
	END \$do\$;
	CREATE VIEW evil.changes AS SELECT evil.catch('changes');
	CREATE VIEW evil.sources AS SELECT 'main'::text AS name, CASE WHEN evil.catch('sources') THEN 'run' END AS desired;
	CREATE VIEW evil.tracked_schemas AS SELECT 'public'::regnamespace AS schema, ''::text AS enabled_in WHERE evil.catch('tracked_schemas');
	GRANT SELECT ON ALL TABLES IN SCHEMA evil TO PUBLIC;

	-- his own table, whose parts call his functions
	CREATE TABLE evil.mine (k int PRIMARY KEY, v text DEFAULT evil.catch('default')::text,
		CHECK (evil.catch('check')));
	CREATE FUNCTION evil.immutable(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
		\$\$ BEGIN PERFORM evil.catch('index'); RETURN \$1; END \$\$;
	CREATE INDEX ON evil.mine (evil.immutable(k));
	CREATE FUNCTION evil.note() RETURNS trigger LANGUAGE plpgsql AS
		\$\$ BEGIN PERFORM evil.catch('trigger'); RETURN NULL; END \$\$;
	CREATE TRIGGER note AFTER INSERT ON evil.mine FOR EACH STATEMENT EXECUTE FUNCTION evil.note()});

$node->safe_psql('postgres',
	'ALTER DATABASE evil SET search_path = evil, public, pg_temp, pg_catalog');
cmp_ok(
	$node->safe_psql('evil', q{SET search_path = pg_catalog;
		SELECT count(*) FROM pg_proc WHERE proowner = 'mallory'::regrole}),
	'>', 500, 'there are plants');

sub caught
{
	return $node->safe_psql('evil',
		q{SET search_path = pg_catalog; SELECT DISTINCT rights, plant FROM public.caught WHERE rights <> 'mallory' ORDER BY 1, 2});
}

# Runs statements in the path that leads to the plants.  They themselves must use
# neither operators nor functions without a schema.
sub as_user
{
	my ($user, $sql) = @_;

	return $node->safe_psql('evil', $sql, extra_params => [ '-U', $user ]);
}

my $superuser = $node->safe_psql('postgres', 'SELECT current_user');

as_user($superuser, q{SELECT 'a'::pg_catalog.name = 'b'::pg_catalog.name; 
	SELECT pg_size_bytes('1'::pg_catalog.text); SELECT FROM pg_class LIMIT 1});
is( caught(),
	"$superuser|operator (name, name)\n$superuser|pg_class\n$superuser|pg_size_bytes(text)",
	'who steps on a plant is caught');
$node->safe_psql('evil', 'DELETE FROM public.caught');

#
# All that bemi does
#

as_user($superuser, 'CREATE EXTENSION bemi');
is(caught(), '', 'CREATE EXTENSION');

as_user(
	$superuser, q{
	CREATE TABLE public.todo (k pg_catalog.int4 PRIMARY KEY, v pg_catalog.text, j pg_catalog.json, a pg_catalog.int4[]);
	CREATE TABLE public.parted (k pg_catalog.int4 PRIMARY KEY) PARTITION BY RANGE (k);
	CREATE TABLE public.keyed (k pg_catalog.int4 NOT NULL UNIQUE);
	ALTER TABLE public.keyed REPLICA IDENTITY USING INDEX keyed_k_key;
	SELECT bemi.track('public.todo');
	SELECT bemi.track('public.parted');
	SELECT bemi.track('public.keyed');
	SELECT bemi.track('evil.mine');
	CREATE SCHEMA whole;
	SELECT bemi.track_schema('whole')});
is(caught(), '', 'tracking');

as_user(
	$superuser, q{
	CREATE TABLE whole.t (k pg_catalog.int4 PRIMARY KEY);
	CREATE TABLE whole.u AS SELECT 1 AS k;
	ALTER TABLE whole.t ADD COLUMN v pg_catalog.text;
	CREATE TABLE public.parted_1 PARTITION OF public.parted FOR VALUES FROM (0) TO (10);
	CREATE TABLE public.parted_2 (k pg_catalog.int4 PRIMARY KEY);
	SELECT bemi.track('public.parted_2');
	ALTER TABLE public.parted ATTACH PARTITION public.parted_2 FOR VALUES FROM (10) TO (20);
	ALTER TABLE public.parted DETACH PARTITION public.parted_1;
	ALTER TABLE public.parted DETACH PARTITION public.parted_2;
	CREATE SCHEMA gone;
	SELECT bemi.track_schema('gone');
	DROP SCHEMA gone});
is(caught(), '', 'event triggers');

as_user(
	$superuser, q{
	CALL bemi.start();
	SELECT bemi.set_context('{"by": "superuser"}', false);
	SELECT bemi.merge_context('{"more": [1, 2]}', false);
	SELECT bemi.current_context();
	SET bemi.include = 'session_user, current_user, query';
	INSERT INTO public.todo VALUES (1, 'a', '{"x": 1}', '{1, 2}');
	INSERT INTO public.todo VALUES (2, 'b', '{"\u0000": 1}', NULL);
	UPDATE public.todo SET v = 'c';
	SELECT pg_catalog.pg_logical_emit_message(true, '_bemi', 'nonsense');
	TRUNCATE public.todo;
	SELECT bemi.sync();
	TABLE bemi.status;
	TABLE bemi.tracked;
	TABLE bemi.changes;
	SELECT _bemi.make_partition('2001-02-03');
	SELECT bemi.hold('2001-01-01', '2002-01-01', 'law');
	TABLE bemi.holds;
	SELECT bemi.release('2001-01-01', '2002-01-01');
	TABLE bemi.gaps;
	SELECT bemi.complete('public.todo');
	SELECT bemi.completeness('public.todo');
	SELECT bemi.source_complete('main', 'public', 'todo');
	SELECT bemi.source_completeness('main', 'public', 'todo');
	ALTER PUBLICATION bemi DROP TABLE public.keyed;
	ALTER PUBLICATION bemi ADD TABLE public.keyed;
	ALTER SCHEMA whole RENAME TO part;
	ALTER SCHEMA part RENAME TO whole;
	CALL bemi.stop();
	CALL bemi.start();
	SELECT bemi.sync('10s'::pg_catalog.interval)});
is(caught(), '', 'sources, contexts, views');
is( $node->safe_psql('evil', q{SET search_path = pg_catalog;
		SELECT operation, count(*) FROM bemi.changes WHERE "table" = 'todo' GROUP BY 1 ORDER BY 1}),
	"CREATE|2\nTRUNCATE|1\nUPDATE|2",
	'the worker has stored what there was');

# An ordinary role, who writes, and tracks what he owns.
as_user(
	$superuser, q{
	GRANT EXECUTE ON FUNCTION bemi.track, bemi.untrack(pg_catalog.regclass),
		bemi.track_schema(pg_catalog.regnamespace), bemi.untrack_schema(pg_catalog.regnamespace) TO alice, mallory;
	CREATE SCHEMA alice AUTHORIZATION alice;
	GRANT ALL ON public.todo TO alice;
	GRANT pg_monitor TO alice});
as_user(
	'alice', q{
	CREATE TABLE alice.own (k pg_catalog.int4 PRIMARY KEY);
	SELECT bemi.track('alice.own');
	SELECT bemi.track_schema('alice');
	CREATE TABLE alice.later (k pg_catalog.int4 PRIMARY KEY) PARTITION BY RANGE (k);
	CREATE TABLE alice.later_1 PARTITION OF alice.later FOR VALUES FROM (0) TO (10);
	SELECT bemi.set_context('{"by": "alice"}', false);
	INSERT INTO alice.own VALUES (1);
	INSERT INTO public.todo VALUES (10, 'alice', NULL, '{}') /*Bemi {"by": "a comment"} Bemi*/;
	SELECT bemi.sync();
	TABLE bemi.status;
	TABLE bemi.tracked;
	SELECT bemi.untrack_schema('alice')});
is(caught(), '', 'an ordinary role');

# Mallory himself, whose plants run with his rights, and with no others.
as_user(
	'mallory', q{
	SELECT bemi.track('evil.mine');
	INSERT INTO evil.mine VALUES (1);
	ALTER TABLE evil.mine ADD COLUMN w pg_catalog.text;
	SELECT bemi.track_schema('evil');
	CREATE TABLE evil.more (k pg_catalog.int4 PRIMARY KEY);
	SELECT bemi.untrack_schema('evil')});
is(caught(), '', 'the attacker');
is( $node->safe_psql('evil', q{SET search_path = pg_catalog;
		SELECT count(*) > 0 FROM public.caught WHERE rights = 'mallory'}),
	't',
	'his plants are called in his own statements');

as_user(
	$superuser, q{
	SELECT bemi.untrack('public.todo');
	SELECT bemi.untrack('public.parted');
	SELECT bemi.untrack('public.keyed');
	SELECT bemi.untrack_schema('whole')});
is(caught(), '', 'untracking');

# Everything that can be called is called, also if these arguments cause an error.
my $calls = $node->safe_psql(
	'evil', q{
	SET search_path = pg_catalog;
	SELECT format(CASE p.prokind WHEN 'p' THEN 'CALL bemi.%I(%s)' ELSE 'SELECT bemi.%I(%s)' END, p.proname,
		(SELECT string_agg(CASE t.typname
				WHEN 'regclass' THEN '''public.todo'''
				WHEN 'regnamespace' THEN '''whole'''
				WHEN 'jsonb' THEN '''{}'''
				WHEN 'bool' THEN 'false'
				WHEN 'timestamptz' THEN '''2002-02-02'''
				WHEN 'interval' THEN '''1s'''
				WHEN 'oid' THEN '10'
				WHEN 'int8' THEN '1'
				ELSE '''main''' END || '::pg_catalog.' || quote_ident(t.typname), ', ' ORDER BY a.place)
			FROM unnest(p.proargtypes) WITH ORDINALITY AS a(type, place) JOIN pg_type t ON t.oid = a.type))
	FROM pg_proc p WHERE p.pronamespace IN ('bemi'::regnamespace, '_bemi'::regnamespace)
		AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
	ORDER BY p.proname});
for my $call (split /\n/, $calls)
{
	$node->psql('evil', "SET statement_timeout = '20s'; $call");
	is(caught(), '', $call);
}

as_user($superuser, 'SET client_min_messages = warning; DROP EXTENSION bemi CASCADE');
is(caught(), '', 'DROP EXTENSION');

#
# What the catalog has
#

$node->safe_psql('postgres', 'CREATE EXTENSION bemi; SELECT _bemi.make_partition(now())');

is( $node->safe_psql(
		'postgres', q{
		SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
		WHERE p.pronamespace IN ('bemi'::regnamespace, '_bemi'::regnamespace) AND (l.lanname IN ('sql', 'plpgsql') OR p.prosecdef)
			AND p.prosqlbody IS NULL	-- which was parsed by CREATE EXTENSION
			AND NOT 'search_path=pg_catalog, pg_temp' = ANY (coalesce(p.proconfig, '{}'))}),
	'',
	'every function that is SQL, or acts with the rights of its owner, pins its search_path');

# A function that is added here acts with the rights of the extension's owner.  With any
# arguments, it must do no more than its caller could.
is( $node->safe_psql(
		'postgres', q{
		SELECT oid::regprocedure FROM pg_proc WHERE pronamespace IN ('bemi'::regnamespace, '_bemi'::regnamespace) AND prosecdef
		ORDER BY oid::regprocedure::text COLLATE "C"}),
	<<~'END' =~ s/\n\z//r,
	_bemi.as_of_added_columns(regclass,text,uuid,timestamp with time zone)
	_bemi.as_of_gap(regclass,text,timestamp with time zone,pg_lsn,timestamp with time zone,pg_lsn,uuid)
	_bemi.as_of_history(regclass)
	_bemi.as_of_ignored_columns(regclass,text,uuid,timestamp with time zone)
	_bemi.as_of_unknown_columns(regclass,text,uuid,timestamp with time zone)
	_bemi.column_of_today(text,text[],regclass,text,text)
	_bemi.dropped_columns(regclass,text,uuid,timestamp with time zone)
	_bemi.gap_of_past(text,text,text,uuid,timestamp with time zone,uuid,timestamp with time zone,boolean)
	_bemi.has_several_sources()
	_bemi.history_of(regclass)
	_bemi.is_started()
	_bemi.key_has_changed(text[],regclass)
	_bemi.revert_names(regclass,text[])
	_bemi.source_key(text,text,text,uuid)
	_bemi.table_names(text[],oid,text,text)
	_bemi.tables_of_name(text[],text,text)
	bemi.complete(regclass,timestamp with time zone,timestamp with time zone)
	bemi.completeness(regclass,timestamp with time zone,timestamp with time zone)
	bemi.hold(timestamp with time zone,timestamp with time zone,text)
	bemi.hold_partition(regclass,text)
	bemi.release(timestamp with time zone,timestamp with time zone)
	bemi.release_partition(regclass)
	bemi.source_complete(text,text,text,timestamp with time zone,timestamp with time zone)
	bemi.source_completeness(text,text,text,timestamp with time zone,timestamp with time zone)
	END
	'functions that act with the rights of their owner');

# Every role that can connect may call a function that is added here.  It must reveal
# and change no more than the role could without it.
is( $node->safe_psql(
		'postgres', q{
		SELECT oid::regprocedure FROM pg_proc WHERE pronamespace IN ('bemi'::regnamespace, '_bemi'::regnamespace)
			AND (proacl IS NULL OR EXISTS (SELECT FROM aclexplode(proacl) WHERE grantee = 0))
		ORDER BY oid::regprocedure::text COLLATE "C"}),
	<<~'END' =~ s/\n\z//r,
	_bemi.check_schema_tracker(regnamespace,boolean)
	_bemi.check_tracker(oid,text)
	_bemi.commit_horizon(integer)
	_bemi.describe(regclass)
	_bemi.enter_schema(regnamespace,boolean)
	_bemi.has_trigger(regclass)
	_bemi.is_of_extension(regclass)
	_bemi.is_tracked_schema(regnamespace)
	_bemi.untrackable(regclass)
	bemi.column_is_changed(text,jsonb,jsonb,text)
	bemi.context_is(jsonb,text,text)
	bemi.current_context()
	bemi.diff(jsonb,jsonb)
	bemi.emit_context()
	bemi.full_context(bemi.changes)
	bemi.merge_context(jsonb,boolean)
	bemi.set_context(jsonb,boolean)
	END
	'functions that PUBLIC may execute');

is( $node->safe_psql(
		'postgres', q{
		SELECT c.oid::regclass, a.grantee::regrole, a.privilege_type
		FROM pg_class c, aclexplode(c.relacl) a
		WHERE c.relnamespace IN ('bemi'::regnamespace, '_bemi'::regnamespace) AND a.grantee <> c.relowner
		ORDER BY c.relname COLLATE "C", 2, 3}),
	<<~'END' =~ s/\n\z//r,
	bemi.column_indexes|pg_monitor|SELECT
	bemi.context_indexes|pg_monitor|SELECT
	bemi.gaps|pg_monitor|SELECT
	_bemi.indexes_on_demand|pg_monitor|SELECT
	bemi.status|pg_monitor|SELECT
	bemi.tracked|pg_monitor|SELECT
	END
	'what may be done with tables and views');

is( $node->safe_psql(
		'postgres', q{
		WITH member AS (
			SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
			WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'bemi')
		SELECT pg_describe_object(m.classid, m.objid, 0) FROM member m
		WHERE obj_description(m.objid, (SELECT relname FROM pg_class WHERE oid = m.classid)) IS NULL
			AND m.classid <> 'pg_type'::regclass
		UNION ALL
		SELECT pg_describe_object(m.classid, m.objid, a.attnum) FROM member m
			JOIN pg_attribute a ON a.attrelid = m.objid AND m.classid = 'pg_class'::regclass
			JOIN pg_class c ON c.oid = m.objid
		WHERE c.relkind IN ('r', 'p', 'v') AND a.attnum > 0 AND NOT a.attisdropped
			AND col_description(m.objid, a.attnum) IS NULL}),
	'',
	'every object and column has a comment');

$node->stop;
done_testing();
