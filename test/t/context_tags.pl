# Tags in comments of frameworks and tracers (bemi.tags): what is read, and what is not.
#
# Those who write them do not know bemi, so nothing in a comment may make a statement fail or warn.
# test/vectors/tags.json has texts and results, which other readers of tags are tested with, too. In
# addition, a reader in Perl that is written with the grammar of the documents, not with the C code,
# must agree on comments by chance, made of all pieces that have a meaning. Then the clients:
# protocols, encodings, large texts, triggers that fire when the text is gone, and the history.
#
# BEMI_SEED repeats the comments, BEMI_ROUNDS makes more than 2000.

use strict;
use warnings;
use utf8;

use Bemi;
use Encode ();
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

my $node = bemi_node('main');
my $json = JSON::PP->new->canonical->allow_nonref;
my $vectors = JSON::PP->new->utf8->decode(slurp_file('test/vectors/tags.json'));

for (['latin1', 'LATIN1'], ['eucjp', 'EUC_JP'], ['ascii', 'SQL_ASCII'])
{
	$node->safe_psql('postgres', "CREATE DATABASE $_->[0] ENCODING '$_->[1]' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
	$node->safe_psql($_->[0], 'CREATE EXTENSION bemi');
}

# Runs each text as one simple query, all in one session.  Gives the lines of the results, and what
# psql writes to stderr.  The texts are characters, the database may have any encoding.
sub query
{
	my ($database, @texts) = @_;

	local $ENV{PGCLIENTENCODING} = 'UTF8';
	my ($stdout, $stderr) = run_command(
		[
			$node->installed_command('psql'),
			'-XAtq', '-d', $node->connstr($database),
			map { ('-c', Encode::encode('UTF-8', $_)) } @texts
		]);
	return ([ split /\n/, Encode::decode('UTF-8', $stdout) ], $stderr);
}

# Settings for a case of the vectors.
sub settings
{
	my ($case) = @_;
	my ($names, $format) = ($case->{names} // '*', $case->{format} // 'sqlcommenter');

	return ("SET bemi.tags = '$names'", "SET bemi.tags_format = '$format'");
}

# As text with sorted keys.
sub text_of { return $json->encode($_[0]); }

#
# The text is scanned once more
#

{
	my $name = 'n' x 70;
	my ($contexts, $errors) = query('postgres', q{SET bemi.tags = '*'}, qq{SELECT bemi.current_context() AS $name /*a=1*/});
	my @notices = $errors =~ /NOTICE/g;

	is(scalar(@notices), 1, 'the server reports a truncated name once');
	# The setting under which it was parsed is not known any more.
	$node->safe_psql('postgres', q{CREATE TABLE scanned (id int); SELECT bemi.track('scanned')});
	($contexts, $errors) = query('postgres', q{SET bemi.tags = '*'}, q{PREPARE p AS INSERT INTO scanned SELECT 1 WHERE U&'\0041' <> '' RETURNING id /*a=1*/},
		q{SET standard_conforming_strings = off}, q{EXECUTE p});
	is("@$contexts $errors", '1 ', 'a text that cannot be scanned under another setting does not fail');
}

#
# The vectors
#

# PostgreSQL 14's psql prints only the last result of a text.
my $prints_all = $node->pg_version >= 15;

for my $database ('postgres', 'latin1')
{
	my @comments = grep { $database eq 'postgres' || !$_->{utf8_only} } @{ $vectors->{comments} };
	my ($contexts, $errors) = query($database, map { (settings($_), "SELECT bemi.current_context() /*$_->{comment}*/") } @comments);

	is($errors, '', "$database: no comment makes an error or a warning");
	is(scalar(@$contexts), scalar(@comments), "$database: each has a result");
	for my $case (@comments)
	{
		my $context = $json->decode(shift @$contexts // '{}');

		is(text_of($context), text_of($case->{tags} ? { _tags => $case->{tags} } : {}), "$database: $case->{name}");
	}
	for my $case (@{ $vectors->{texts} })
	{
		my @expected = map { text_of($_) } @{ $case->{results} };

		($contexts, $errors) = query($database, settings($case), $case->{text});
		my @results = map { text_of($json->decode($_)) } @$contexts;
		@expected = $expected[-1] if !$prints_all;
		is("@results$errors", "@expected", "$database: $case->{name}");
	}
}

#
# Comments by chance, and a reader that is written with the grammar
#

my $seed = $ENV{BEMI_SEED} // int(rand(2**31));
my $rounds = $ENV{BEMI_ROUNDS} // 2000;
note "random seed $seed";
srand($seed);

my $space = qr/[ \t\n\r\f\x0b]/;
my $escape = qr/%?%[0-9A-Fa-f]{2}/;
my $name = qr/(?:[^ \t\n\r\f\x0b,='"\\%]|$escape|\\')+/;
my $quoted = qr/'(?:[^'\\%]|$escape|\\'|\\)*+'/;
my $unquoted = qr/(?:[A-Za-z0-9._~-]|$escape)+/;
my $pair = qr/($name)$space*=$space*($quoted|$unquoted)/;

# Gives the text of what is escaped, undef if it is no text.
sub unescape
{
	my ($text) = @_;
	my $valid = 1;

	$text =~ s{((?:$escape)+)|\\'}{defined $1 ? decode_escapes($1) // ($valid = 0) : "'"}ge;
	return $valid ? $text : undef;
}

sub decode_escapes
{
	my $bytes = $_[0] =~ s/%?%([0-9A-Fa-f]{2})/chr hex $1/ger;
	my $text = eval { Encode::decode('UTF-8', $bytes, Encode::FB_CROAK) };

	return defined $text && index($text, "\0") < 0 ? $text : undef;
}

# Gives the tags of the inside of a comment, undef if there are none.
sub tags_of
{
	my ($inside) = @_;
	my %tags;

	return undef if $inside =~ m{/\*|\*/} || $inside !~ /\A$space*$pair(?:$space*,$space*$pair)*$space*\z/;
	while ($inside =~ /\G$space*,?$space*$pair/gc)
	{
		my ($key, $value) = ($1, $2);

		$value =~ s/\A'(.*)'\z/$1/s;
		($key, $value) = (unescape($key), unescape($value));
		return undef if !defined $key || !defined $value;
		$tags{$key} = $value;
	}
	return \%tags;
}

my @pieces = (
	q{'}, q{'}, q{'}, '=', '=', ',', ',', q{\\'}, '\\', '%', '%%', '%41', '%%42', '%C3%A9', '%c3', '%A9', '%E2%82%AC', '%F0%9F%98%80',
	'%00', '%27', '%5C', '%2C', '%ED%A0%80', '%zz', ' ', "\n", "\t", "\x01", '"', ';', ':', '*', '/', '--', '$$', '+', 'a', 'b', 'c', 'é', '€', '😀', '1', '-1.5',
	q{='x'}, q{a='1'}, q{,b='2'}, q{ , c = 3 }, '{"a": 1}', 'Bemi');

sub piece { return $pieces[ rand @pieces ]; }

# Most of them are almost well-formed.
sub random_comment
{
	return join '', map { piece() } 1 .. rand 8 if rand() < 0.3;
	return join ',', map {
		my $value = join '', map { piece() } 1 .. rand 4;
		join('', map { piece() =~ s/[ \n\t=,'"\\]//gr } 1 .. 1 + rand 2) . '=' . (rand() < 0.8 ? "'$value'" : $value)
	} 1 .. 1 + rand 3;
}

# Without marks of comments, and without those of bemi, which warn.
my @comments = grep { !m{/\*|\*/|\A/|[*]\z|/\z|\ABemi.*Bemi\z}s } map { random_comment() } 1 .. $rounds;
my $readable = 0;
my @wrong;
while (my @some = splice @comments, 0, 200)
{
	my ($contexts, $errors) = query('postgres', q{SET bemi.tags = '*'}, map { "SELECT bemi.current_context() /*$_*/" } @some);

	push @wrong, "errors: $errors" if $errors ne '';
	for my $comment (@some)
	{
		my $tags = tags_of($comment);
		my $context = text_of($json->decode(shift @$contexts // 'null'));
		my $expected = text_of($tags ? { _tags => $tags } : {});

		$readable++ if $tags;
		push @wrong, "/*$comment*/ gives $context instead of $expected" if $context ne $expected;
	}
}
is(join("\n", @wrong), '', "comments by chance are read as the grammar says (seed $seed)");
cmp_ok($readable, '>=', $rounds / 20 - 5, "and $readable of them have tags");

#
# Encodings of the database
#

sub context_in { return (query($_[0], q{SET bemi.tags = '*'}, "SELECT bemi.current_context() $_[1]"))[0][0]; }

is(context_in('latin1', q{/*a='%E2%82%AC'*/}), '{}', 'LATIN1: a comment with a character that the encoding lacks is left out');
is(context_in('latin1', q{/*a='1'*/ /*b='%E6%BC%A2'*/ /*c='%C3%A9'*/}), '{"_tags": {"a": "1", "c": "é"}}', 'LATIN1: the others are read');
is(context_in('eucjp', q{/*a='%E6%BC%A2',%E5%AD%97='字'*/}), '{"_tags": {"a": "漢", "字": "字"}}', 'EUC_JP: escapes are UTF-8');
is(context_in('eucjp', q{/*a='%F0%9F%98%80'*/}), '{}', 'EUC_JP: no emoji');
is(context_in('eucjp', q{/*a='%B4%C1'*/}), '{}', 'EUC_JP: bytes of EUC are not read');
is(context_in('ascii', q{/*a='%E6%BC%A2'*/}), '{"_tags": {"a": "漢"}}', 'SQL_ASCII: bytes remain');
is(context_in('ascii', q{/*a='%E6%BC'*/}), '{}', 'SQL_ASCII: they must be UTF-8');
my ($named) = query('latin1', q{SET bemi.tags = 'café'}, q{SELECT bemi.current_context() /*caf%C3%A9='1',x='2'*/});
is($named->[0], '{"_tags": {"café": "1"}}', 'LATIN1: names are compared after conversion');

# A conversion that a user made does not take the place of the server's own.
$node->safe_psql('latin1', 'CREATE SCHEMA own; CREATE DEFAULT CONVERSION own.mine FOR \'UTF8\' TO \'LATIN1\' FROM utf8_to_iso8859_1');
($named) = query('latin1', 'SET search_path = own, pg_catalog, bemi', q{SET bemi.tags = '*'}, q{SELECT bemi.current_context() /*a='%C3%A9'*/});
is($named->[0], '{"_tags": {"a": "é"}}', 'LATIN1: a conversion in the search path changes nothing');

#
# Strings
#

my ($unlike) = query(
	'postgres', q{SET bemi.tags = '*'},
	q{SET standard_conforming_strings = off}, q{SET escape_string_warning = off},
	q{SELECT bemi.current_context() WHERE '' <> '\\' /*a=1*/ --'},
	q{SELECT bemi.current_context() WHERE '' <> 'x\\\\' /*a=1*/ --'},
	q{SET standard_conforming_strings = on; SELECT bemi.current_context() WHERE '' <> '\\' /*a=1*/ --'},
	q{SELECT bemi.current_context() WHERE '' <> 'x\\' /*a=1*/ --'},
	q{/*a=1*/ PREPARE p AS SELECT bemi.current_context() WHERE '' <> '\\' /*b=2*/}, q{SET standard_conforming_strings = off}, q{EXECUTE p});
is_deeply(
	$unlike, [ '{}', '{"_tags": {"a": "1"}}', '{}', '{"_tags": {"a": "1"}}', '{}' ],
	'strings end where they ended when the text was parsed');

#
# Large texts
#

my $dir = $node->basedir;
my $x = 'x' x 1000;

sub file_result
{
	my ($file, @parts) = @_;

	open my $out, '>:raw', "$dir/$file" or die "$file: $!";
	print $out "SET bemi.tags = '*';\n", @parts;
	close $out or die "$file: $!";
	my $begin = Time::HiRes::time();
	my ($stdout, $stderr) = run_command([ $node->installed_command('psql'), '-XAtq', '-d', $node->connstr('postgres'), '-f', "$dir/$file" ]);
	note "$file: " . int((Time::HiRes::time() - $begin) * 1000) . ' ms';
	return $stdout . $stderr;
}

is(file_result('string.sql', q{SELECT bemi.current_context() WHERE '' <> '}, ("$x /*a=1*/") x 10000, q{' /*a='1'*/;}),
	'{"_tags": {"a": "1"}}', 'a string of 10 MB');
is(file_result('tags.sql', q{SELECT bemi.current_context() /*a='}, ($x) x 10000, q{'*/ /*b='1'*/;}),
	'{"_tags": {"b": "1"}}', 'a comment of 10 MB is left out');
is(file_result('many.sql', q{SELECT bemi.current_context() /*a='1'}, (",$x='1'") x 500, q{*/;}) =~ /^\{"_tags": \{"a": "1", "x{1000}": "1"\}\}$/ ? 1 : 0,
	1, 'a comment of 500 kB is read');
is(file_result('keys.sql', q{SELECT bemi.current_context() /*a='1'}, (map { ",b$_='1'" } 1 .. 10000), q{*/;}),
	'{}', 'more tags than a context may have keys are left out');
is(file_result('comments.sql', 'SELECT bemi.current_context() ', (q{/*a='1'*/ }) x 20000, ';'),
	'{}', 'so are more comments than that');
is(file_result('prose.sql', 'SELECT bemi.current_context() ', (q{/* a = b; c */ }) x 500000, q{/*a='1'*/;}),
	'{"_tags": {"a": "1"}}', 'half a million comments without tags');
is(file_result('escapes.sql', q{SELECT bemi.current_context() /*a='}, ('%C3%A9x') x 100000, q{'*/;}) eq '{"_tags": {"a": "' . "\xc3\xa9x" x 100000 . '"}}' ? 1 : 0,
	1, 'a hundred thousand escapes');
my ($statements) = query('postgres', q{SET bemi.tags = '*'; CREATE TABLE seen (tags text)},
	join '; ', map { "/*a='$_'*/ INSERT INTO seen SELECT bemi.current_context() -> '_tags' ->> 'a' /*b='$_'*/" } 1 .. 1000);
is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT tags), min(tags::int), max(tags::int) FROM seen'), '1000|1000|1|1000', 'a thousand statements in a text have theirs');

#
# Protocols, and what is stored
#

$node->safe_psql(
	'postgres', q{
	CREATE TABLE note (id int PRIMARY KEY, body text);
	CREATE TABLE note_log (id int PRIMARY KEY);
	SELECT bemi.track('note'), bemi.track('note_log');
	CREATE FUNCTION log_note() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO note_log VALUES (NEW.id);
			RETURN NULL;
		END $$;
	CREATE CONSTRAINT TRIGGER log_note AFTER INSERT ON note DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION log_note();
	CREATE ROLE shop LOGIN SUPERUSER;
	ALTER ROLE shop SET bemi.tags = 'controller, action';
	CALL bemi.start()});

my $script = "$dir/protocols.sql";
append_to_file($script, <<'SQL');
\set id :base + 1
BEGIN /*controller='begin'*/;
SET LOCAL bemi.context = '{"userId": 1}';
INSERT INTO note VALUES (:id) /*controller='orders',action='create',pid='1'*/;
SELECT 1 /*controller='reads'*/;
/*action='front'*/ INSERT INTO note VALUES (:id + 1) /*Bemi {"userId": 2} Bemi*/;
UPDATE note SET body = 'x' WHERE id = :id;
COMMIT;
INSERT INTO note VALUES (:id + 2) /*controller='orders'*/;
\set base :base + 10
SQL
my $seen = '00000000-0000-0000-0000-000000000000';
for my $mode ('simple', 'extended', 'prepared')
{
	my $base = { simple => 1000, extended => 2000, prepared => 3000 }->{$mode};

	command_ok(
		[
			$node->installed_command('pgbench'), '--no-vacuum', '-M', $mode, '-t', '3', '-D', "base=$base", '-f', $script, '-U', 'shop',
			$node->connstr('postgres')
		],
		"pgbench runs statements with tags in mode $mode");
	my $expected = join "\n", map {
		my ($first, $second, $third) = ($base + $_ * 10 + 1, $base + $_ * 10 + 2, $base + $_ * 10 + 3);

		qq{note $first {"_tags": {"action": "create", "controller": "orders"}, "userId": 1}},
		  qq{note $second {"_tags": {"action": "front"}, "userId": 2}},
		  qq{note $first {"userId": 1}},
		  qq{note_log $first {"_tags": {"action": "front"}, "userId": 2}},
		  qq{note_log $second {"_tags": {"action": "front"}, "userId": 2}},
		  qq{note $third {"_tags": {"controller": "orders"}}},
		  qq{note_log $third {"_tags": {"controller": "orders"}}}
	} 0 .. 2;
	my $stored = $node->safe_psql(
		'postgres', qq{
		SELECT bemi.sync('60s');
		SELECT concat_ws(' ', "table", primary_key, context) FROM bemi.changes WHERE id > '$seen' ORDER BY id});
	is($stored =~ s/^\n//r, $expected, "mode $mode: they are stored, also those of deferred triggers");
	$seen = $node->safe_psql('postgres', 'SELECT id FROM bemi.changes ORDER BY id DESC LIMIT 1');
}
is( $node->safe_psql('postgres', q{SELECT count(*) FROM bemi.changes WHERE context @> '{"_tags": {"controller": "orders"}}'}),
	'27', 'and are found by a condition on the context');

my $last = $node->safe_psql('postgres', q{SELECT id FROM bemi.changes WHERE "table" = 'note' AND primary_key = '1001' ORDER BY id DESC LIMIT 1});
query('postgres', q{SET bemi.tags = 'job'; SET bemi.context = '{"_tags": {"a": "forged"}, "userId": 3}'},
	qq{SELECT FROM bemi.revert(ARRAY['$last'::uuid]) /*job='undo'*/});
is( $node->safe_psql('postgres', q{SELECT bemi.sync('60s'); SELECT context - 'revertOf' FROM bemi.changes ORDER BY id DESC LIMIT 1}) =~ s/^\n//r,
	'{"_tags": {"job": "undo"}, "userId": 3}', 'rows that bemi.revert() writes have the tags of its statement');

$node->stop;
done_testing();
