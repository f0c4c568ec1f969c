# The context in a trailing comment, as the Bemi packages for ORMs send it.
#
# What counts as the end of a query depends on how a client sends it, so the
# queries come from real clients over both protocols: "psql -c" sends its text
# whole, as a simple query; psql that reads a script, and pgbench, cut the
# script at the semicolons; pgbench sends extended and prepared queries, too.

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

query(q{INSERT INTO tag VALUES (8); INSERT INTO tag VALUES (9) /*Bemi {"by": "both"} Bemi*/});
is(news(), qq{tag 8 {"by": "both"}\ntag 9 {"by": "both"}},
	'statements that are sent as one text share its comment');

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
	q{INSERT INTO tag VALUES (18) /*Bemi {"forged": 1} Bemi*/ -- the end},
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

is( query(
		q{SET bemi.read_comments = off},
		q{INSERT INTO tag VALUES (200) /*Bemi nonsense Bemi*/},
		q{INSERT INTO tag VALUES (201) /*Bemi {"by": "comment"} Bemi*/}),
	'',
	'bemi.read_comments = off: not even a warning');
is(news(), "tag 200 {}\ntag 201 {}", 'bemi.read_comments = off: no context');

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
