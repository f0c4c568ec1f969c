# The context in a trailing comment, as the Bemi packages for ORMs send it, also if other tools
# append comments, if one text has many statements, or if triggers fire after the text is gone.
#
# The end of a query depends on how a client sends it, so real clients send the queries over both
# protocols. "psql -c" sends its text whole, as a simple query. psql with a script, and pgbench,
# split the script at the semicolons. pgbench also sends extended and prepared queries.

use strict;
use warnings;

use Bemi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main');

# A row of "note" is copied to "note_log" by a trigger.
$node->safe_psql(
	'postgres', q{
	CREATE TABLE note (id int PRIMARY KEY, body text);
	CREATE TABLE note_log (id int PRIMARY KEY, body text);
	CREATE TABLE "tag" (id int PRIMARY KEY);
	SELECT bemi.track('note'), bemi.track('note_log'), bemi.track('tag');

	CREATE FUNCTION copy_note() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO note_log VALUES (NEW.id, NEW.body);
			RETURN NEW;
		END $$;
	CREATE TRIGGER copy_note AFTER INSERT ON note
		FOR EACH ROW EXECUTE FUNCTION copy_note();

	CREATE FUNCTION add_tags(first int, last int) RETURNS void LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO tag VALUES (first);
			INSERT INTO tag VALUES (last);
		END $$;
	CALL bemi.start()});

# Runs each text as one simple query, all in one session.  Gives what psql
# writes to stderr.
sub query
{
	my ($stdout, $stderr) = run_command(
		[
			$node->installed_command('psql'),
			'-XAtq', '-d', $node->connstr('postgres'),
			map { ('-c', $_) } @_
		]);

	return $stderr;
}

# What has come into the history since the last call, as "table key context".
my $seen = '00000000-0000-0000-0000-000000000000';

sub news
{
	my $rows = $node->safe_psql(
		'postgres', qq{
		SELECT bemi.sync('60s');
		SELECT concat_ws(' ', "table", primary_key, context)
			FROM bemi.changes WHERE id > '$seen' ORDER BY id});

	$seen = $node->safe_psql('postgres',
		'SELECT id FROM bemi.changes ORDER BY id DESC LIMIT 1');
	return $rows =~ s/^\n//r;
}

#
# Simple queries
#

query(q{INSERT INTO tag VALUES (1) /*Bemi {"by": "Ann"} Bemi*/});
is(news(), 'tag 1 {"by": "Ann"}', 'the comment is the context');

query(q{INSERT INTO tag VALUES (2) /*Bemi {"by": "Ann"} Bemi*/;});
query(qq{INSERT INTO tag VALUES (3) /*Bemi {"by": "Ann"} Bemi*/ ;;\n\t; });
query(qq{INSERT INTO tag VALUES (4); /*Bemi\n{"by":\n"Ann"}\nBemi*/\n});
is(news(),
	qq{tag 2 {"by": "Ann"}\ntag 3 {"by": "Ann"}\ntag 4 {"by": "Ann"}},
	'semicolons and white space may follow, and stand in between');

query(
	q{SET bemi.context = '{"by": "setting"}'},
	q{INSERT INTO tag VALUES (5)},
	q{INSERT INTO tag VALUES (6) /*Bemi {"by": "comment"} Bemi*/},
	q{INSERT INTO tag VALUES (7)});
is( news(),
	qq{tag 5 {"by": "setting"}\ntag 6 {"by": "comment"}\ntag 7 {"by": "setting"}},
	'the comment wins over the setting, for its own statement only');

query(q{INSERT INTO tag VALUES (8) /*Bemi {"n": 1} Bemi*/; INSERT INTO tag VALUES (9);}
	  . q{ INSERT INTO tag VALUES (90); /*Bemi {"n": 3} Bemi*/ ; INSERT INTO tag VALUES (91) /*Bemi {"n": 4} Bemi*/});
is(news(), qq{tag 8 {"n": 1}\ntag 9 {}\ntag 90 {"n": 3}\ntag 91 {"n": 4}},
	'of statements that are sent as one text, each has the comment behind it');

my $tools = 400;
for my $behind (
	q{/*application='App',action='create'*/}, q{/*application:App*/},
	q{/*traceparent='00-5bd66ef5095369c7b0d1f8f4bd33716a-c532cb4098ac3dd2-01'*/ ;},
	qq{-- x\n}, q{-- 'x'}, qq{;-- x\r\n/* y /* z */ */ -- "\n;}, q{/*+ SeqScan(tag) */}, q{/**/},
	q{/* Bemi*/}, q{/* /* Bemi*/ */}, q{/*/ */})
{
	$tools++;
	query(qq{/* a */ INSERT INTO tag VALUES ($tools) /* b */ /*Bemi {"by": "Ann"} Bemi*/ $behind});
	is(news(), qq{tag $tools {"by": "Ann"}}, "comments of others may follow: $behind");
}
query(q{INSERT INTO tag VALUES (420) /*Bemi {"n": 1} Bemi*/ /* x */ /*Bemi {"n": 2} Bemi*/ -- y});
is(news(), 'tag 420 {"n": 2}', 'of several comments of ours, the last one counts');

query(q{INSERT INTO note VALUES (1, 'x') /*Bemi {"by": "trigger"} Bemi*/});
is( news(),
	qq{note 1 {"by": "trigger"}\nnote_log 1 {"by": "trigger"}},
	'rows that a trigger writes get it');

query(q{SELECT add_tags(10, 11) /*Bemi {"by": "function"} Bemi*/});
query(q{DO 'BEGIN PERFORM add_tags(12, 13); END' /*Bemi {"by": "block"} Bemi*/});
is( news(),
	qq{tag 10 {"by": "function"}\ntag 11 {"by": "function"}\n}
	  . qq{tag 12 {"by": "block"}\ntag 13 {"by": "block"}},
	'rows that a function or a DO block writes get it');

#
# What only looks like it
#

query(
	q{INSERT INTO note VALUES (2, 'x /*Bemi {"forged": 1} Bemi*/')},
	q{INSERT INTO note SELECT 3, '/*Bemi {"forged": 1} Bemi*/'},
	q{INSERT INTO note SELECT 4, $$ /*Bemi {"forged": 1} Bemi*/$$;},
	q{INSERT INTO tag SELECT 14 AS "/*Bemi {} Bemi*/"},
	q{/*Bemi {"forged": 1} Bemi*/ INSERT INTO tag VALUES (15)},
	q{INSERT INTO tag VALUES (16) /*Bemi {"forged": 1} Bemi*/ RETURNING id},
	q{INSERT INTO tag VALUES (17) /* a /*Bemi {"forged": 1} Bemi*/ */},
	q{INSERT INTO tag VALUES (18) -- /*Bemi {"forged": 1} Bemi*/},
	q!INSERT INTO note VALUES (19, '/*Bemi {"forged": "') /* x"} Bemi*/!,
	q!INSERT INTO note VALUES (20, '/*Bemi {"forged": "') /*Bemi {"by": "Ann"} Bemi*/!);
is( news(), <<~'END' =~ s/\n\z//r,
	note 2 {}
	note_log 2 {}
	note 3 {}
	note_log 3 {}
	note 4 {}
	note_log 4 {}
	tag 14 {}
	tag 15 {}
	tag 16 {}
	tag 17 {}
	tag 18 {}
	note 19 {}
	note_log 19 {}
	note 20 {"by": "Ann"}
	note_log 20 {"by": "Ann"}
	END
	'no string, name, nested comment, or comment elsewhere passes for it');

# Texts of values that would count as a context if strings counted as comments.
my $strings = 500;
for my $literal (
	q{'/*Bemi {"forged": 1} Bemi*/ --'}, q{'it''s /*Bemi {"forged": 1} Bemi*/ -- '''},
	q{E'\\\\' || ' /*Bemi {"forged": 1} Bemi*/ -- '}, q{E'\\' /*Bemi {"forged": 1} Bemi*/ -- '},
	q{U&'\\0041 /*Bemi {"forged": 1} Bemi*/ -- '}, q{$a$ /*Bemi {"forged": 1} Bemi*/ -- $b$ $a$},
	qq{'a'\n'/*Bemi {"forged": 1} Bemi*/ -- '})
{
	$strings++;
	query(qq{INSERT INTO tag SELECT $strings WHERE 'x' <> $literal});
	is(news(), "tag $strings {}", "a string is no comment: $literal");
}
query(
	q{SET standard_conforming_strings = off}, q{SET escape_string_warning = on},
	q{INSERT INTO tag SELECT 520 WHERE 'x' <> '\\' /*Bemi {"forged": 1} Bemi*/ -- '});
is(news(), 'tag 520 {}', 'nor is it one where backslashes escape');
is( query(
		q{PREPARE p AS INSERT INTO tag SELECT 521 WHERE 'x' <> '\\' /*Bemi {"by": "Ann"} Bemi*/},
		q{SET standard_conforming_strings = off}, q{EXECUTE p}),
	'', 'a text that cannot be read any more does not break its statement');
is(news(), 'tag 521 {}', 'it has no context then');

# The client's text is read under the setting of the time when it was parsed, in spite of what it runs.
$node->safe_psql(
	'postgres', q{
	CREATE FUNCTION add_escaped(id int, name text) RETURNS void LANGUAGE plpgsql
		SET standard_conforming_strings = off AS $$ BEGIN INSERT INTO tag VALUES (id); END $$;
	CREATE TABLE escaped (id int PRIMARY KEY);
	CREATE FUNCTION log_escaped() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO tag VALUES (NEW.id);
			RETURN NULL;
		END $$;
	CREATE CONSTRAINT TRIGGER log_escaped AFTER INSERT ON escaped DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION log_escaped();});
for my $case (
	[ 530, q{SELECT add_escaped(530, 'C:\') /*Bemi {"by": "Ann"} Bemi*/}, '{"by": "Ann"}' ],
	[ 531, q{SELECT add_escaped(531, 'a\' || ' /*Bemi {"forged": 1} Bemi*/ -- ')}, '{}' ],
	[ 532, q{SET standard_conforming_strings = off; INSERT INTO tag SELECT 532 WHERE 'x' <> 'C:\' /*Bemi {"by": "Ann"} Bemi*/}, '{"by": "Ann"}' ],
	[ 533, q{SET standard_conforming_strings = off; INSERT INTO tag SELECT 533 WHERE 'x' <> 'a\' || ' /*Bemi {"forged": 1} Bemi*/ -- '}, '{}' ],
	[ 534, q{BEGIN; INSERT INTO escaped SELECT 534 WHERE 'x' <> 'C:\' /*Bemi {"by": "Ann"} Bemi*/; SET standard_conforming_strings = off; COMMIT}, '{"by": "Ann"}' ])
{
	my ($id, $text, $context) = @$case;

	is(query($text), '', "a setting that changes within breaks nothing: $text");
	is(news(), "tag $id $context", 'nor does it change where strings end');
}

my $id = 100;
for my $text ('nonsense', '', '[1]', '"text"', 'null', '{"a": "\u0000"}',
	'{"a": 1', '{"a": 1} {"b": 2}')
{
	$id++;
	like(
		query(
			q{SET bemi.context = '{"by": "setting"}'},
			qq{INSERT INTO tag VALUES ($id) /*Bemi $text Bemi*/}),
		qr/^WARNING:  context in the query's comment is not valid and was left out\nDETAIL:  \S/,
		"a comment of '$text' is worth a warning");
	is( news(),
		qq{tag $id {"by": "setting"}},
		"'$text' leaves the row its setting");
}

like(
	query(q{INSERT INTO tag VALUES (210) /*Bemi {"a": "/* x */"} Bemi*/}),
	qr/^WARNING:  context in the query's comment is not valid and was left out\nDETAIL:  The comment contains another comment mark/,
	'a comment within the comment is worth a warning');
my $warnings = () = query(q{INSERT INTO note SELECT n, '' FROM generate_series(211, 215) n /*Bemi nonsense Bemi*/}) =~ /WARNING/g;
is($warnings, 1, 'a broken comment is reported once for all that is nested in its statement');
news();

is( query(
		q{SET bemi.read_comments = off},
		q{INSERT INTO tag VALUES (200) /*Bemi nonsense Bemi*/},
		q{INSERT INTO tag VALUES (201) /*Bemi {"by": "comment"} Bemi*/}),
	'',
	'bemi.read_comments = off: not even a warning');
is(news(), "tag 200 {}\ntag 201 {}", 'bemi.read_comments = off: no context');

#
# Statements in statements
#

$node->safe_psql(
	'postgres', q{
	CREATE FUNCTION add_two(a int, b int) RETURNS void LANGUAGE sql AS $$
		INSERT INTO tag VALUES (a) /*Bemi {"n": 1} Bemi*/;
		INSERT INTO tag VALUES (b);
	$$;
	CREATE FUNCTION add_atomic(a int) RETURNS void LANGUAGE sql
	BEGIN ATOMIC
		INSERT INTO tag VALUES (a); INSERT INTO tag VALUES (a + 1) /*Bemi {"forged": 1} Bemi*/;
	END;
	CREATE VIEW tags AS SELECT * FROM tag;
	CREATE RULE twice AS ON INSERT TO tags DO INSTEAD
		(INSERT INTO tag VALUES (NEW.id); INSERT INTO tag VALUES (NEW.id + 1));
	CREATE PROCEDURE add_committed(a int) LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO tag VALUES (a);
			COMMIT;
			INSERT INTO tag VALUES (a + 1);
		END $$;});

query(q{SELECT 1 /*Bemi {"n": 0} Bemi*/; SELECT add_two(600, 601) /*Bemi {"n": 2} Bemi*/; SELECT 1 /*Bemi {"n": 3} Bemi*/});
is(news(), qq{tag 600 {"n": 1}\ntag 601 {"n": 2}}, 'the nearest comment wins');
query(q{SELECT 1; SELECT add_atomic(602) /*Bemi {"n": 2} Bemi*/; SELECT 1 /*Bemi {"n": 3} Bemi*/});
is(news(), qq{tag 602 {"n": 2}\ntag 603 {"n": 2}}, 'a function in standard SQL has no text of its own');
query(q{SELECT 1; INSERT INTO tags VALUES (604) /*Bemi {"n": 2} Bemi*/; SELECT 1 /*Bemi {"n": 3} Bemi*/});
is(news(), qq{tag 604 {"n": 2}\ntag 605 {"n": 2}}, 'what a rule makes of a statement has its comment');
query(q{SELECT 1; EXPLAIN ANALYZE INSERT INTO tag VALUES (606) /*Bemi {"n": 2} Bemi*/; SELECT 1 /*Bemi {"n": 3} Bemi*/});
is(news(), qq{tag 606 {"n": 2}}, 'so has what EXPLAIN ANALYZE runs');
query(q{CALL add_committed(607) /*Bemi {"n": 2} Bemi*/});
is(news(), qq{tag 607 {"n": 2}\ntag 608 {"n": 2}}, 'a procedure keeps its comment over COMMIT');
query(
	q{PREPARE p AS INSERT INTO tag VALUES ($1); EXECUTE p(609) /*Bemi {"n": 2} Bemi*/; EXECUTE p(610) /*Bemi {"n": 3} Bemi*/},
	q{PREPARE q AS INSERT INTO tag VALUES ($1) /*Bemi {"n": 1} Bemi*/}, q{EXECUTE q(611) /*Bemi {"n": 2} Bemi*/});
is(news(), qq{tag 609 {"n": 2}\ntag 610 {"n": 3}\ntag 611 {"n": 1}}, 'EXECUTE has its own comment, unless PREPARE had one');
query(q{PREPARE q AS INSERT INTO tag VALUES ($1) /*Bemi {"n": 1} Bemi*/; EXECUTE q(613) /*Bemi {"n": 2} Bemi*/; EXECUTE q(614); }
	  . q{EXPLAIN ANALYZE EXECUTE q(615) /*Bemi {"n": 2} Bemi*/; SELECT 1 /*Bemi {"n": 3} Bemi*/});
is(news(), qq{tag 613 {"n": 1}\ntag 614 {"n": 1}\ntag 615 {"n": 1}}, 'the same in one text');
query(q{PREPARE q AS INSERT INTO tag VALUES ($1); EXECUTE q(616) /*Bemi {"n": 2} Bemi*/; EXECUTE q(617); SELECT 1 /*Bemi {"n": 3} Bemi*/});
is(news(), qq{tag 616 {"n": 2}\ntag 617 {}}, 'and without a comment behind PREPARE');
query(q{TRUNCATE "tag" /*Bemi {"n": 1} Bemi*/; INSERT INTO tag VALUES (612)});
is(news(), qq{tag {"n": 1}\ntag 612 {}}, 'so have utility commands');

#
# Triggers that fire at the end of the transaction, when the text is gone
#

$node->safe_psql(
	'postgres', q{
	CREATE TABLE late (id int PRIMARY KEY);
	CREATE TABLE late_log (id int PRIMARY KEY);
	SELECT bemi.track('late'), bemi.track('late_log');
	CREATE FUNCTION log_late() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO late_log VALUES (NEW.id);
			RETURN NULL;
		END $$;
	CREATE CONSTRAINT TRIGGER log_late AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION log_late();
	-- This one is not tracked.
	CREATE TABLE later (id int PRIMARY KEY);
	CREATE CONSTRAINT TRIGGER log_later AFTER INSERT ON later DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION log_late();
	CREATE ROLE strict LOGIN SUPERUSER;
	ALTER ROLE strict SET bemi.require_context = 'error';});
my $late = $node->basedir . '/late.sql';
append_to_file($late, <<'SQL');
INSERT INTO late VALUES (:id) /*Bemi {"by": "Ann"} Bemi*/;
BEGIN;
SET LOCAL bemi.context = '{"by": "setting"}';
INSERT INTO late VALUES (:id + 1) /*Bemi {"by": "Bob"} Bemi*/;
SELECT 1;
COMMIT;
BEGIN;
INSERT INTO late VALUES (:id + 2) /*Bemi {"by": "Cid"} Bemi*/;
SET CONSTRAINTS ALL IMMEDIATE;
COMMIT;
BEGIN;
INSERT INTO later VALUES (:id + 3) /*Bemi {"by": "Dan"} Bemi*/;
SAVEPOINT s;
INSERT INTO later VALUES (:id + 4) /*Bemi {"by": "Eve"} Bemi*/;
ROLLBACK TO s;
SELECT '/*Bemi {"by": "Eve"} Bemi*/ --';
COMMIT;
BEGIN;
INSERT INTO later VALUES (:id + 5);
COMMIT /*Bemi {"by": "Fay"} Bemi*/;
INSERT INTO later VALUES (:id + 6) /*Bemi {"by": "Gil"} Bemi*/;
SQL
for my $mode ('simple', 'extended', 'prepared')
{
	my $id = { simple => 10, extended => 20, prepared => 30 }->{$mode};

	command_ok(
		[
			$node->installed_command('pgbench'), '--no-vacuum',
			'-M', $mode, '-t', '1', '-D', "id=$id", '-f', $late, '-U', 'strict',
			$node->connstr('postgres')
		],
		"pgbench has deferred triggers fire in mode $mode");
	is( news(),
		join("\n",
			(map { ("late $_->[0] $_->[1]", "late_log $_->[0] $_->[1]") }
				[ $id, '{"by": "Ann"}' ], [ $id + 1, '{"by": "Bob"}' ], [ $id + 2, '{"by": "Cid"}' ]),
			(map { "late_log $_->[0] $_->[1]" }
				[ $id + 3, '{"by": "Dan"}' ], [ $id + 5, '{"by": "Fay"}' ], [ $id + 6, '{"by": "Gil"}' ])),
		"mode $mode: deferred triggers have the client's last comment");
}

#
# Scripts: psql and pgbench send statement by statement
#

$node->safe_psql(
	'postgres', q{
	INSERT INTO tag VALUES (300) /*Bemi {"line": 1} Bemi*/;
	INSERT INTO tag VALUES (301);
	INSERT INTO tag VALUES (302) /*Bemi {"line": 3} Bemi*/;});
is(news(), qq{tag 300 {"line": 1}\ntag 301 {}\ntag 302 {"line": 3}},
	'a script has a comment for each statement');

# In one transaction, since then a context might live on; the last statement is
# executed again and again.
my $script = $node->basedir . '/comments.sql';
append_to_file($script, <<'SQL');
\set id :base + 1
BEGIN;
SET LOCAL bemi.context = '{"by": "setting"}';
INSERT INTO tag VALUES (:id) /*Bemi {"by": "first"} Bemi*/;
INSERT INTO tag VALUES (:id + 1);
INSERT INTO note VALUES (:id, 'x') /*Bemi {"by": "third"} Bemi*/;
SELECT add_tags(:id + 2, :id + 3) /*Bemi {"by": "fourth"} Bemi*/;
COMMIT;
\set base :base + 10
SQL

for my $mode ('simple', 'extended', 'prepared')
{
	my $base = { simple => 1000, extended => 2000, prepared => 3000 }->{$mode};
	my $expected = '';

	for my $id ($base + 1, $base + 11, $base + 21)
	{
		$expected .= join('',
			map { "$_\n" } (
				qq{tag $id {"by": "first"}},
				qq{tag @{[ $id + 1 ]} {"by": "setting"}},
				qq{note $id {"by": "third"}},
				qq{note_log $id {"by": "third"}},
				qq{tag @{[ $id + 2 ]} {"by": "fourth"}},
				qq{tag @{[ $id + 3 ]} {"by": "fourth"}}));
	}
	command_ok(
		[
			$node->installed_command('pgbench'), '--no-vacuum',
			'-M', $mode, '-t', '3', '-D', "base=$base", '-f', $script,
			$node->connstr('postgres')
		],
		"pgbench runs its script in mode $mode");
	is(news() . "\n", $expected, "pgbench, mode $mode: each has its own context");
}

$node->stop;
done_testing();
