# bemi-source.sql at a server where nothing can be installed: what a role can do that owns the
# database and has REPLICATION, nothing more.
#
# capture_random_source has the contexts of random statements. This test has what is not random:
# texts that look like comments, hostile contexts, hardened rights, partitions, COPY, deferred
# triggers, foreign keys, errors. Where the extension answers, the answers are compared with its
# own: the same statements run in a database with the extension, too.

use strict;
use warnings;

use Bemi;
use Bemi::Source;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $history = bemi_node('history');
my $source = source_node('source', conf => "max_prepared_transactions = 5\n");

#
# Rights: default privileges of the owner give PUBLIC nothing, a writer has only rights on the table
#

$source->safe_psql('postgres', 'CREATE ROLE writer LOGIN');
$source->safe_psql('postgres', 'CREATE ROLE other LOGIN');
as_app($source, q{
	DROP SCHEMA bemi, _bemi CASCADE;
	ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
	ALTER DEFAULT PRIVILEGES REVOKE USAGE ON SCHEMAS FROM PUBLIC});
run_source_script($source);
is((run_source_script($source))[0], 0, 'running the script again is no error');

my $tables = q{
	CREATE TABLE todo (id int PRIMARY KEY, body text);
	CREATE TABLE log (id int, body text);
	CREATE TABLE parent (id int PRIMARY KEY);
	CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE);
	CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
	CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100);
	CREATE FUNCTION log_todo() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN INSERT INTO log VALUES (NEW.id, NEW.body); RETURN NEW; END $$;
	CREATE FUNCTION log_child() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM set_config('bemi.context', '{"in": "trigger"}', true);
			INSERT INTO log VALUES (OLD.id, 'gone') /*Bemi {"own": true} Bemi*/;
			PERFORM set_config('bemi.context', '', true);
			RETURN NULL;
		END $$;
	CREATE TRIGGER log_child AFTER DELETE ON child FOR EACH ROW EXECUTE FUNCTION log_child();
	CREATE FUNCTION add_two(a int) RETURNS void LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO todo VALUES (a) /*Bemi {"n": 1} Bemi*/;
			INSERT INTO todo VALUES (a + 1);
			EXECUTE format('INSERT INTO todo VALUES (%s, %L) /*Bemi {"n": 3} Bemi*/', a + 2, E'"\nPL/pgSQL function x\n/*Bemi {"forged": 1} Bemi*/ --');
			EXECUTE format('INSERT INTO todo VALUES (%s, %L)', a + 3, E'"\nPL/pgSQL function x "\nSQL statement "SELECT 1 /*Bemi {"forged": 1} Bemi*/"');
		END $$;
	SELECT bemi.track(t) FROM unnest('{todo,log,parent,child,parted}'::regclass[]) t;
};
as_app($source, $tables . q{GRANT ALL ON ALL TABLES IN SCHEMA public TO writer});
start_source($history, $source);

# The other side: the extension, in a database of the history's server.
$history->safe_psql('postgres', 'CREATE DATABASE app');
$history->safe_psql('app', "CREATE EXTENSION bemi; CALL bemi.start(); $tables");

# Runs texts as one session each way, each a simple query, and compares what is in the history.
my ($seen, $seen_there) = ('00000000-0000-0000-0000-000000000000') x 2;

sub run_texts
{
	my ($node, $role, @texts) = @_;
	my ($stdout, $stderr) = run_command(
		[ $node->installed_command('psql'), '-XAtq', '-U', $role, '-d', $node->connstr('app'), map { ('-c', $_) } @texts ]);

	# Functions in PL/pgSQL have a call stack, those in C have none.
	$stderr =~ s/^CONTEXT:  PL\/pgSQL function bemi\..*\n?//mg;
	return $stderr =~ s/\n\z//r;
	return $stderr;
}

sub rows_since
{
	my ($node, $database, $seen) = @_;
	my $rows = $node->safe_psql($database, qq{
		SELECT concat_ws(' ', "table", operation, coalesce(after ->> 'id', before ->> 'id'), context)
			FROM bemi.changes WHERE id > '$$seen' ORDER BY id});

	$$seen = $node->safe_psql($database, "SELECT coalesce(max(id::text), '$$seen') FROM bemi.changes");
	return $rows;
}

sub both
{
	my ($name, @texts) = @_;
	my $here = run_texts($source, 'app', @texts);
	my $there = run_texts($history, 'postgres', @texts);

	is($here, $there, "$name: the same messages");
	wait_until_stored($history, $source);
	$history->safe_psql('app', q{SELECT bemi.sync('60s')});
	my $rows = rows_since($history, 'postgres', \$seen);
	is($rows, rows_since($history, 'app', \$seen_there), "$name: the same contexts");
	return $rows;
}

#
# Comments, strings and names
#

my $id = 0;
my @texts;
for my $literal (
	q{'/*Bemi {"forged": 1} Bemi*/ --'}, q{'it''s /*Bemi {"forged": 1} Bemi*/ -- '''},
	q{E'\\\\' || ' /*Bemi {"forged": 1} Bemi*/ -- '}, q{E'\\' /*Bemi {"forged": 1} Bemi*/ -- '},
	q{U&'\\0041 /*Bemi {"forged": 1} Bemi*/ -- '}, q{$a$ /*Bemi {"forged": 1} Bemi*/ -- $b$ $a$},
	qq{'a'\n'/*Bemi {"forged": 1} Bemi*/ -- '}, qq{E'a' -- x\n '\\' /*Bemi {"forged": 1} Bemi*/ -- '},
	q{$$ ' $$ || $_ä$ /*Bemi {"forged": 1} Bemi*/ -- $_ä$}, q{type'\\' || 'a'}, q{'C:\\'})
{
	$id++;
	for my $end ('', q{ /*Bemi {"by": "Ann"} Bemi*/}, q{ /* x */ -- /*Bemi {} Bemi*/})
	{
		my $text = $literal =~ s/^type/text/r;

		push @texts, "INSERT INTO todo SELECT " . (1000 + @texts) . " WHERE 'x' <> $text$end";
	}
}
for my $text (
	'%d /*Bemi {"n": 1} Bemi*/ /*Bemi {"n": 2} Bemi*/ -- y', '%d; /*Bemi {"n": 1} Bemi*/ ;; ', '%d /*Bemi {"n": 1} Bemi*/ + 0',
	'%d AS "/*Bemi {} Bemi*/"', '%d /* a /*Bemi {"forged": 1} Bemi*/ */', '%d /* a /* b */ */ /*Bemi {"n": 3} Bemi*/ /*/ */',
	'%d - 0 /*Bemi {"n": 4} Bemi*/', '%d*/*Bemi {"n": 5} Bemi*/1', '%d --/*Bemi {"n": 6} Bemi*/', "%d --\n/*Bemi {\"n\": 7} Bemi*/",
	'%d /*Bemi {"a": "/* x */"} Bemi*/', '%d /*Bemi nonsense Bemi*/', '%d /*Bemi Bemi*/', '%d /*Bemi [1] Bemi*/', '%d /*Bemi {"a": 1e999999} Bemi*/',
	'%d /*Bemi {"a": "\u0000"} Bemi*/', '%d /*Bemi {"a": 1} {"b": 2} Bemi*/', '%d /*BemiBemi*/', '%d /*Bemi*/', '%d::int4 /*Bemi {"n": 8} Bemi*/',
	"%d WHERE 'a\$b' = 'a\$b' /*Bemi {\"n\": 9} Bemi*/", '%d AS a$b$c /*Bemi {"n": 10} Bemi*/',
	'%d /*bemi {"n": 12} bemi*/', "%d AS \xc3\xa9e /*Bemi {\"n\": \"\xc3\xa9\"} Bemi*/")
{
	push @texts, sprintf "INSERT INTO todo SELECT $text", 1000 + @texts;
}
my $rows = both('comments', @texts);
unlike($rows, qr/forged/, 'no string passes for a comment');
is(() = $rows =~ /"by": "Ann"/g, 11, 'each comment is found behind each string');

both('settings and comments',
	q{SET bemi.context = '{"by": "setting"}'}, 'INSERT INTO todo VALUES (1)', q{INSERT INTO todo VALUES (2) /*Bemi {"by": "comment"} Bemi*/},
	q{SET bemi.read_comments = off}, q{INSERT INTO todo VALUES (3) /*Bemi nonsense Bemi*/}, 'RESET bemi.read_comments', 'RESET bemi.context',
	q{INSERT INTO todo VALUES (4) /*Bemi {} Bemi*/}, q{SELECT bemi.set_context('{"a": 1, "b": {"c": 2}}', false)}, 'INSERT INTO todo VALUES (5)',
	q{SELECT bemi.merge_context('{"a": 3, "d": null}', is_local => false)}, 'INSERT INTO todo VALUES (6)', q{SELECT bemi.merge_context(NULL)},
	'BEGIN', 'SAVEPOINT a', q{SELECT bemi.set_context('{"in": "savepoint"}')}, 'INSERT INTO todo VALUES (7)', 'ROLLBACK TO a', 'INSERT INTO todo VALUES (8)',
	'SAVEPOINT b', q{SELECT bemi.set_context('{"in": "b"}')}, 'UPDATE todo SET body = body WHERE false', 'RELEASE b', 'INSERT INTO todo VALUES (9)', 'COMMIT',
	q{SELECT bemi.set_context(NULL, false)}, 'INSERT INTO todo VALUES (10)');
both('warnings',
	q{SELECT bemi.set_context('{"a": 1}')}, q{SELECT * FROM bemi.merge_context('{"a": 1}')}, q{SELECT bemi.set_context('{"a": 1}'), 1});
for my $call (
	q{bemi.set_context('[1]')}, q{bemi.set_context('1')}, q{bemi.merge_context('"x"')},
	q{bemi.set_context(jsonb_build_object('a', repeat('x', 10000000)), false)},
	q{bemi.set_context((SELECT jsonb_object_agg(n, n) FROM generate_series(1, 10001) n), false)},
	q{bemi.set_context(('{"a": ' || repeat('[', 1000) || repeat(']', 1000) || '}')::jsonb, false)},
	q{bemi.set_context(('{"a": ' || repeat('[', 999) || repeat(']', 999) || '}')::jsonb, false)},
	q{bemi.track('pg_class')}, q{bemi.track('parted_1')}, q{bemi.untrack('parted_1')}, q{bemi.track(NULL)}, q{bemi.untrack('1'::oid::regclass)})
{
	is(run_texts($source, 'app', "SELECT $call"), run_texts($history, 'postgres', "SELECT $call"), "$call: the same message");
}
for my $what ([ 'VIEW v AS SELECT 1', 'v' ], [ 'TEMP TABLE tmp ()', 'tmp' ], [ 'UNLOGGED TABLE un ()', 'un' ], [ 'SEQUENCE s', 's' ],
	[ 'MATERIALIZED VIEW mv AS SELECT 1', 'mv' ])
{
	my @error = ("CREATE $what->[0]", "SELECT bemi.track('$what->[1]')");
	is(run_texts($source, 'app', @error), run_texts($history, 'postgres', @error), "$what->[0]: the same message");
}

# Contexts of 10 MB and others that SET does not check here, as it does with the extension.
for my $case (
	[ q{repeat('x', 10)}, 'WARNING:  invalid value for parameter "bemi.context"\nDETAIL:  The context is not a JSON object.' ],
	[ q{jsonb_build_object('a', repeat('x', 10000000))::text}, 'WARNING:  invalid value for parameter "bemi.context"\nDETAIL:  The context is 10000009 bytes long, "bemi.max_context_size" allows 1048576.' ],
	[ "'{\"a\": '", '' ], [ q{'{"a": "\u0000"}'}, '' ])
{
	like(run_texts($source, 'app', "SELECT set_config('bemi.context', $case->[0], false)", 'INSERT INTO todo VALUES (' . ++$id . '0000)'),
		qr/^$case->[1]/, "a setting that is no context does not fail the statement: $case->[0]");
	wait_until_stored($history, $source);
	like(rows_since($history, 'postgres', \$seen), qr/^todo CREATE \d+ \{\}$/, 'and is no context');
}
run_texts($source, 'app', q{SELECT set_config('bemi.context', jsonb_build_object('a', repeat('x', 1000000))::text, false)}, 'INSERT INTO todo VALUES (900000), (900001)');
wait_until_stored($history, $source);
is($history->safe_psql('postgres', q{SELECT length(bemi.full_context(c) ->> 'a') FROM bemi.changes c ORDER BY id DESC LIMIT 2}), "1000000\n1000000", 'a context of 1 MB is stored');
rows_since($history, 'postgres', \$seen);

#
# Several statements in one text
#

both('several statements',
	q{INSERT INTO todo VALUES (20) /*Bemi {"n": 1} Bemi*/; INSERT INTO todo VALUES (21) /*Bemi {"n": 1} Bemi*/},
	q{INSERT INTO todo VALUES (22); INSERT INTO todo VALUES (23);});
like(run_texts($source, 'app', q{SET bemi.context = '{"by": "setting"}'},
		q{INSERT INTO todo VALUES (24) /*Bemi {"n": 1} Bemi*/; INSERT INTO todo VALUES (25)}),
	qr/^WARNING:  context in the query's comment is not valid and was left out\nDETAIL:  The text has several statements.*\nHINT:  Send each statement by itself, or set bemi\.context\.$/,
	'different comments: one warning');
wait_until_stored($history, $source);
is(rows_since($history, 'postgres', \$seen), qq{todo CREATE 24 {"by": "setting"}\ntodo CREATE 25 {"by": "setting"}}, 'and the setting holds');

like(run_texts($source, 'app', q{INSERT INTO todo SELECT 26 WHERE '' <> (} . join(' || ', ('$a$x$a$') x 600) . q{) /*Bemi {"n": 1} Bemi*/}),
	qr/^WARNING:  .*\nDETAIL:  The text has too many statements, strings in dollars and nested comments/, 'a text that would take too long is not searched');
wait_until_stored($history, $source);
is(rows_since($history, 'postgres', \$seen), 'todo CREATE 26 {}', 'and the comment behind it is not read');

#
# Nested statements, foreign keys, COPY, TRUNCATE, prepared statements, deferred triggers
#

both('functions', q{SELECT add_two(30) /*Bemi {"by": "client"} Bemi*/}, q{SELECT add_two(40)}, q{DO 'BEGIN PERFORM add_two(50); END' /*Bemi {"by": "client"} Bemi*/});
both('foreign keys', 'INSERT INTO parent VALUES (1), (2), (3); INSERT INTO child SELECT n, 1 + n % 3 FROM generate_series(1, 9) n',
	q{DELETE FROM parent /*Bemi {"by": "client"} Bemi*/});
both('prepared statements', 'PREPARE p AS INSERT INTO todo VALUES ($1)', q{EXECUTE p(70) /*Bemi {"n": 1} Bemi*/}, 'EXECUTE p(71)',
	q{EXPLAIN ANALYZE INSERT INTO todo VALUES (72) /*Bemi {"n": 3} Bemi*/}, q{TRUNCATE log, child /*Bemi {"n": 4} Bemi*/},
	q{WITH a AS (INSERT INTO log VALUES (73)) INSERT INTO todo VALUES (73) /*Bemi {"n": 5} Bemi*/},
	q{INSERT INTO todo VALUES (73) ON CONFLICT (id) DO UPDATE SET body = 'x' /*Bemi {"n": 6} Bemi*/});
my @late = (q{CREATE CONSTRAINT TRIGGER late AFTER INSERT ON parent DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION log_late()},
	q{INSERT INTO parent VALUES (80) /*Bemi {"n": 1} Bemi*/}, 'BEGIN', q{INSERT INTO parent VALUES (81) /*Bemi {"n": 2} Bemi*/}, 'COMMIT',
	'BEGIN', q{INSERT INTO parent VALUES (82) /*Bemi {"n": 3} Bemi*/}, '  /* x */ -- y' . "\nCOMMIT" . q{ /*Bemi {"n": 4} Bemi*/},
	'BEGIN', q{INSERT INTO parent VALUES (83) /*Bemi {"n": 5} Bemi*/}, 'SET CONSTRAINTS ALL IMMEDIATE', 'COMMIT',
	'BEGIN', q{INSERT INTO parent VALUES (86) /*Bemi {"n": 7} Bemi*/}, "-- end\nINSERT INTO todo VALUES (86)", '/* /* */ commit */ INSERT INTO todo VALUES (87)', 'COMMIT',
	'BEGIN', 'INSERT INTO parent VALUES (84)', 'SAVEPOINT a', q{INSERT INTO parent VALUES (85) /*Bemi {"n": 6} Bemi*/}, 'ROLLBACK TO a', 'COMMIT');
both('deferred triggers', q{CREATE FUNCTION log_late() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO log VALUES (NEW.id); RETURN NULL; END'}, @late);
both('tags', q{SET bemi.tags = 'a, c'}, q{INSERT INTO todo VALUES (100) /*a='1',b='2'*/}, q{/*c='3'*/ SELECT add_two(101) /*Bemi {"by": "client"} Bemi*/ /*a='%C3%BC'*/},
	'BEGIN', q{INSERT INTO parent VALUES (100) /*a='1'*/}, 'COMMIT', 'BEGIN', q{INSERT INTO parent VALUES (101) /*a='1'*/}, q{INSERT INTO parent VALUES (102)}, 'COMMIT',
	q{SET bemi.context = '{"by": "setting", "_tags": {"a": "forged"}}'}, 'INSERT INTO todo VALUES (110)', q{INSERT INTO todo VALUES (111) /* a = 'x' , c = y */},
	q{SET bemi.tags_format = 'sqlcommenter, marginalia'}, 'INSERT INTO todo VALUES (112) /*a:b c*/', 'RESET bemi.tags', q{INSERT INTO todo VALUES (113) /*a='1'*/});
my $copy = $source->basedir . '/copy.sql';
append_to_file($copy, qq{CREATE TRIGGER log_todo BEFORE INSERT ON todo FOR EACH ROW EXECUTE FUNCTION log_todo();\n}
	  . qq{COPY todo FROM STDIN /*Bemi {"by": "copy"} Bemi*/;\n90\tx\n91\ty\n\\.\nDROP TRIGGER log_todo ON todo;\n});
$source->safe_psql('app', undef, extra_params => [ '-U', 'app', '-f', $copy ]);
$history->safe_psql('app', undef, extra_params => [ '-f', $copy ]);
like(both('COPY'), qr/todo CREATE 91 \{"by": "copy"\}/, 'COPY has its comment');

#
# Partitions: by hand
#

both('partitions', 'INSERT INTO parted VALUES (1) /*Bemi {"n": 1} Bemi*/', 'INSERT INTO parted_1 VALUES (2) /*Bemi {"n": 2} Bemi*/',
	'CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (100) TO (200)', q{SELECT bemi.track('parted')},
	'INSERT INTO parted VALUES (101) /*Bemi {"n": 3} Bemi*/', 'UPDATE parted_2 SET id = 102 /*Bemi {"n": 4} Bemi*/', 'DELETE FROM parted WHERE id = 102 /*Bemi {"n": 5} Bemi*/');
as_app($source, q{
	CREATE TABLE loner (id int PRIMARY KEY);
	SELECT bemi.track('loner');
	ALTER TABLE parted ATTACH PARTITION loner FOR VALUES FROM (200) TO (300);
	SELECT bemi.track('parted')});
my $triggers = q{SELECT tgrelid::regclass, replace(encode(tgargs, 'escape'), '\000', ','), relreplident, EXISTS (SELECT FROM pg_publication_rel r WHERE r.prrelid = c.oid)
	FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE tgname = 'bemi_emit_context' AND relname ~ '^(parted|loner)' ORDER BY relname};
is(as_app($source, $triggers), "loner|d,,attached,|f|f\nparted|d,,table,|f|t\nparted_1|d,,partition,|f|f\nparted_2|d,,partition,|f|f", 'a tracked table that was attached is published with its root');
as_app($source, q{SELECT bemi.untrack('parted')});
is(as_app($source, $triggers) . as_app($source, q{SELECT string_agg(relreplident, '') FROM pg_class WHERE relname ~ '^(parted(_[12])?|loner)$'}), 'dddd', 'bemi.untrack() restores all');

# An event trigger, where a superuser made it.
$source->safe_psql('app', q{CREATE EVENT TRIGGER bemi_follow_ddl ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE') EXECUTE FUNCTION _bemi.follow_ddl()});
as_app($source, q{
	SELECT bemi.track('parted');
	CREATE TABLE parted_3 PARTITION OF parted FOR VALUES FROM (300) TO (400);
	CREATE TABLE parted_4 (id int PRIMARY KEY);
	ALTER TABLE parted ATTACH PARTITION parted_4 FOR VALUES FROM (400) TO (500);
	CREATE TABLE ordinary (id int)});
like(as_app($source, $triggers), qr/parted_3\|d,,partition,\|f\|f\nparted_4\|d,,partition,\|f\|f/, 'an event trigger tracks new partitions');
$source->safe_psql('app', 'DROP EVENT TRIGGER bemi_follow_ddl');

#
# What the worker knows of the table: names of its columns, its key, rows that were there before
#

as_app($source, q{
	SET bemi.context = '{"by": "Ann"}';
	CREATE TABLE named (id int PRIMARY KEY, old text, other int NOT NULL);
	SELECT bemi.track('named');
	INSERT INTO named VALUES (1, 'a', 10)});
wait_until_stored($history, $source);
as_app($source, q{
	SET bemi.context = '{"by": "Bob"}';
	ALTER TABLE named RENAME old TO new;
	UPDATE named SET new = 'b'});
# Without the extension, the key is the one that the catalog has when the worker reads the change.
wait_until_stored($history, $source);
as_app($source, q{
	SET bemi.context = '{"by": "Bob"}';
	ALTER TABLE named DROP CONSTRAINT named_pkey, ADD PRIMARY KEY (other, id), ADD added text DEFAULT 'd';
	UPDATE named SET new = 'c';
	ALTER TABLE named RENAME TO renamed;
	DELETE FROM renamed});
wait_until_stored($history, $source);
is($history->safe_psql('postgres', q{SELECT "table", operation, primary_key, before, after, context ->> 'by' FROM bemi.changes WHERE "table" IN ('named', 'renamed') ORDER BY id}),
	<<~'END' =~ s/\n\z//r, 'columns, keys and tables that get other names');
	named|CREATE|1|{}|{"id": 1, "old": "a", "other": 10}|Ann
	named|UPDATE|1|{"id": 1, "new": "a", "other": 10}|{"id": 1, "new": "b", "other": 10}|Bob
	named|UPDATE|["10", "1"]|{"id": 1, "new": "b", "added": "d", "other": 10}|{"id": 1, "new": "c", "added": "d", "other": 10}|Bob
	renamed|DELETE|["10", "1"]|{"id": 1, "new": "c", "added": "d", "other": 10}|{}|Bob
	END
$history->safe_psql('postgres', q{CALL bemi.baseline('app', 'todo')});
is($history->safe_psql('postgres', q{SELECT count(*) FROM bemi.changes WHERE "table" = 'todo' AND operation = 'SNAPSHOT'}),
	as_app($source, 'SELECT count(*) FROM todo'), 'bemi.baseline() copies its rows');
is($history->safe_psql('postgres', q{SELECT state, last_error, warning FROM bemi.status}), 'streaming||', 'bemi.status has nothing to warn of');
rows_since($history, 'postgres', \$seen);

#
# Rules need the extension
#

like(run_texts($source, 'app', q{SELECT bemi.track('todo', redact => '{body}')}),
	qr/^ERROR:  cannot set rules for table "todo"\nDETAIL:  Rules for columns need extension bemi in this database\.\nHINT:  bemi\.ignore_columns/, 'rules are refused');
is(run_texts($source, 'app', q{SELECT bemi.track('todo', ignore => '{}', redact => NULL)}), '', 'but not an empty list');

#
# Rights
#

$source->safe_psql('app', 'REVOKE ALL ON SCHEMA bemi, _bemi FROM PUBLIC; REVOKE ALL ON ALL FUNCTIONS IN SCHEMA bemi, _bemi FROM PUBLIC');
is(run_texts($source, 'writer', q{SET bemi.tags = '*'}, q{SET bemi.include = 'session_user, current_user'}, q{INSERT INTO todo VALUES (1001000) /*a='b'*/ /*Bemi {"by": "writer"} Bemi*/}, 'INSERT INTO parent VALUES (1001001)'), '',
	'a role that only writes rows needs no right on the schemas');
wait_until_stored($history, $source);
like(rows_since($history, 'postgres', \$seen), qr/todo CREATE 1001000 \{"by": "writer", "_db": \{"current_user": "writer", "session_user": "writer"\}, "_tags": \{"a": "b"\}\}/, 'and gets its context');
like(run_texts($source, 'writer', q{SELECT bemi.track('todo')}), qr/permission denied for schema bemi/, 'it may not track');
as_app($source, 'GRANT USAGE ON SCHEMA bemi, _bemi TO PUBLIC; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA bemi, _bemi TO other');
$source->safe_psql('app', 'CREATE TABLE of_other (id int); ALTER TABLE of_other OWNER TO other');
like(run_texts($source, 'other', q{SELECT bemi.track('todo')}), qr/^ERROR:  permission denied to track table "todo"\nDETAIL:  You must own it/, 'nor may a role track a table of another');
like(run_texts($source, 'other', q{SELECT bemi.track('of_other')}), qr/must be owner of publication bemi/, 'the publication belongs to the owner of the database');
is(as_app($source, q{SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname IN ('bemi', '_bemi')
		AND (p.prosecdef OR NOT coalesce(p.proconfig, '{}') @> '{"search_path=pg_catalog, pg_temp"}')}), '0', 'no function runs with rights of others, and each pins its search_path');

# Settings for all sessions, which a session cannot take back.
as_app($source, q{SELECT bemi.set_default('bemi.tags', 'a, "b c"'), bemi.set_default('bemi.include', 'current_user')});
run_source_script($source);
$source->safe_psql('app', 'REVOKE ALL ON SCHEMA bemi, _bemi FROM PUBLIC');
run_texts($source, 'writer', q{SET bemi.tags = ''}, q{SET bemi.include = 'backend_pid'}, q{INSERT INTO todo VALUES (1001010) /*a='1',c='2'*/});
wait_until_stored($history, $source);
is(rows_since($history, 'postgres', \$seen), 'todo CREATE 1001010 {"_db": {"current_user": "writer"}, "_tags": {"a": "1"}}',
	'bemi.set_default() is for all sessions, and running the script again keeps it');
like(run_texts($source, 'app', q{SELECT bemi.set_default('bemi.context', '')}), qr/^ERROR:  setting "bemi\.context" has no default here/, 'not for other settings');
like(run_texts($source, 'app', q{SELECT bemi.set_default('bemi.tags', $$' || (SELECT 1) || '$$)}), qr/^ERROR:  invalid value for parameter "bemi\.tags"/, 'nor for a text that is no list');
as_app($source, q{SELECT bemi.set_default('bemi.tags', ''), bemi.set_default('bemi.include', NULL)});
as_app($source, 'GRANT USAGE ON SCHEMA bemi, _bemi TO PUBLIC');
is(as_app($source, q{SELECT bemi.current_context() /*a='1'*/}), '{}', 'and can be taken back');

# A definer's function that writes, called with a path of an enemy: his operators are not used.
as_app($source, q{
	CREATE SCHEMA evil; GRANT ALL ON SCHEMA evil TO writer;
	CREATE FUNCTION add_todo(id int) RETURNS void LANGUAGE sql SECURITY DEFINER AS 'INSERT INTO public.todo VALUES (id)';
	GRANT EXECUTE ON FUNCTION add_todo(int) TO writer});
run_texts($source, 'writer', q{CREATE FUNCTION evil.same(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'caught: %', current_user; RETURN false; END $$},
	(map { "CREATE OPERATOR evil.$_ (FUNCTION = evil.same, LEFTARG = text, RIGHTARG = text)" } '=', '<>', '~*', '||'),
	'CREATE FUNCTION evil.current_query() RETURNS text LANGUAGE sql AS $$ SELECT 1/0 $$');
is(run_texts($source, 'writer', 'SET search_path = evil, public, pg_catalog', q{SELECT public.add_todo(1002000) /*Bemi {"by": "definer"} Bemi*/}), '', 'operators of the caller are not used');
wait_until_stored($history, $source);
is(rows_since($history, 'postgres', \$seen), 'todo CREATE 1002000 {"by": "definer"}', 'and the context is right');

$source->safe_psql('app', 'CREATE DATABASE foreign_schema');
$source->safe_psql('foreign_schema', 'CREATE SCHEMA bemi AUTHORIZATION other; GRANT ALL ON DATABASE foreign_schema TO app; GRANT ALL ON SCHEMA bemi TO app');
like(($source->psql('foreign_schema', undef, extra_params => [ '-U', 'app', '-qf', 'bemi-source.sql' ]))[2],
	qr/ERROR:  schema "bemi" belongs to role "other"/, 'a schema of another role is refused');
$source->safe_psql('postgres', 'CREATE ROLE member LOGIN IN ROLE other');
$source->safe_psql('foreign_schema', 'GRANT ALL ON DATABASE foreign_schema TO member');
like(($source->psql('foreign_schema', undef, extra_params => [ '-U', $_, '-qf', 'bemi-source.sql' ]))[2],
	qr/ERROR:  schema "bemi" belongs to role "other".*HINT:  SET ROLE other;/s, "for $_, too, because the role could replace functions")
  for 'member', $source->safe_psql('postgres', 'SELECT current_user');

# The commands of docs/how-to/read-other-servers.md that remove it.
$source->safe_psql('postgres', 'CREATE DATABASE gone OWNER app');
$source->psql('gone', undef, extra_params => [ '-U', 'app', '-qf', 'bemi-source.sql' ]);
$source->safe_psql('gone', 'CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE p (id int) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p DEFAULT; SELECT bemi.track($$t$$), bemi.track($$p$$)',
	extra_params => [ '-U', 'app' ]);
$source->safe_psql('gone', (slurp_file('docs/how-to/read-other-servers.md') =~ /#### Remove it.*?```sql\n(.*?)```/s)[0], extra_params => [ '-U', 'app' ]);
is($source->safe_psql('gone', q{SELECT relname FROM pg_class WHERE relreplident = 'f' OR relname IN (SELECT tgrelid::regclass::text FROM pg_trigger)
	UNION ALL SELECT pubname FROM pg_publication UNION ALL SELECT nspname FROM pg_namespace WHERE nspname ~ 'bemi'}), '', 'it can be removed without a trace');

#
# Tags, as the extension reads them: test/vectors/tags.json
#

SKIP:
{
	skip 'there are no vectors', 1 unless -e 'test/vectors/tags.json';
	my $vectors = decode_json(slurp_file('test/vectors/tags.json'));
	my $json = JSON::PP->new->canonical->allow_nonref;
	my @cases = (
		map({ { %$_, text => "SELECT bemi.current_context() /*$_->{comment}*/", context => $_->{tags} ? { _tags => $_->{tags} } : {} } }
			@{ $vectors->{comments} }),
		# Of several statements in one text, the one that runs is not known.
		map({ { %$_, context => $_->{results}[0] } } grep { @{ $_->{results} } == 1 && $_->{text} !~ /;\s*\S*SELECT/s } @{ $vectors->{texts} }));
	my @wrong;

	# psql splits a script at semicolons, but not what it gets with -c.
	sub settings { my ($case) = @_; return map({ "SET bemi.$_->[0] = '" . ($_->[1] =~ s/'/''/gr) . "'" } [ 'tags', $case->{names} // '*' ], [ 'tags_format', $case->{format} // 'sqlcommenter' ]); }
	my @whole = grep { $_->{text} =~ /;/ } @cases;
	@cases = ((grep { $_->{text} !~ /;/ } @cases), @whole);
	my @found = split /^#\n/m, $source->safe_psql('app', join('', map { join(";\n", settings($_)) . ";\n$_->{text}\n\\g\n\\echo '#'\n" } grep { $_->{text} !~ /;/ } @cases)
		  . "SELECT 1\n\\echo '#'\n", extra_params => [ '-U', 'app' ]);
	$#found = $#cases - @whole;
	push @found, (run_command([ $source->installed_command('psql'), '-XAtq', '-U', 'app', '-d', $source->connstr('app'), map { ('-c', $_) } settings($_), $_->{text} ]))[0] for @whole;
	for my $n (0 .. $#cases)
	{
		my $found = $found[$n] =~ s/\n\z//r;

		push @wrong, "$cases[$n]{name}: $found" unless $json->encode(eval { decode_json($found) }) eq $json->encode($cases[$n]{context});
	}
	is(join("\n", @wrong), '', scalar(@cases) . ' statements have the same tags as with the extension');
}

$source->stop;
$history->stop;
done_testing();
