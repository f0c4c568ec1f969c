# A large text has the same context with the extension and with bemi-source.sql, and neither takes
# long to read it.
#
# The script reads the rest of the text in each of its turns (sql/source/read_comment.plpgsql), so
# its time could grow with the square of the text. Time is not measured: a statement_timeout bounds
# each statement. The texts beyond the limits of the script run without an error, and are read
# without a context.

use strict;
use warnings;
use utf8;

use Bemi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main');

for my $kind ('extension', 'script')
{
	$node->safe_psql('postgres', "CREATE DATABASE ${kind}_utf8 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
}
$node->safe_psql('extension_utf8', 'CREATE EXTENSION bemi');
$node->psql('script_utf8', undef, extra_params => [ '-qf', 'bemi-source.sql' ]);
$node->safe_psql("${_}_utf8", q{CREATE TABLE tracked (id int); SELECT bemi.track('tracked')}) for 'extension', 'script';

# The script that sends a text which an expression of SQL makes.  Gives what is printed.
sub result_of
{
	my ($kind, $expression, @settings) = @_;
	my (undef, $stdout, $stderr) = $node->psql("${kind}_utf8", join('', map({ "$_;\n" } @settings), "SET statement_timeout = '60s';\nSET bemi.tags = '*';\n") . "SELECT $expression \\gexec\n",
		on_error_stop => 0);

	# psql has a prefix for errors.
	return "$stdout\n" . ($stderr =~ s/^psql:\S+ //r);
}

my $begin = q{'SELECT bemi.current_context() '};
my $ours = q{' /*Bemi {"n": 1} Bemi*/'};
my $blob = q{'WHERE '''' <> ''' || repeat('x', 10000000) || ''''};

for my $case (
	[ 'a string of 10 MB', "$begin || $blob || $ours", '{"n": 1}' ],
	[ 'a string of 10 MB of marks', "$begin || replace($blob, 'xx', '/*') || $ours", '{"n": 1}' ],
	[ 'a string of 10 MB of other characters', "$begin || replace($blob, 'xx', 'é') || $ours", '{"n": 1}' ],
	[ 'a string of 10 MB in dollars', "$begin || replace($blob, '''', '\$a\$') || $ours", qr/^(?:\{"n": 1\}|ERROR.*)\n/s ],
	[ '900 comments, then 10 MB', "repeat('/*c*/ ', 900) || $begin || $blob || $ours", '{"n": 1}' ],
	[ '900 comments between tokens, then 10 MB', "'SELECT' || repeat('/*c*/ ', 900) || ' bemi.current_context() ' || $blob || $ours", '{"n": 1}' ],
	[ '100 000 comments in front', "repeat('/*c*/ ', 100000) || $begin || $ours", '{"n": 1}' ],
	[ '100 000 comments between tokens', "'SELECT ' || repeat('/*c*/ ', 100000) || 'bemi.current_context()' || $ours", '{"n": 1}' ],
	[ '100 000 comments behind', "$begin || repeat('/*c*/ ', 100000) || $ours", '{"n": 1}' ],
	[ '100 000 comments behind ours', "$begin || $ours || repeat('/*c*/ ', 100000)", '{"n": 1}' ],
	[ '100 000 comments that begin with --', "$begin || repeat('-- ''' || chr(10), 100000) || $ours", '{"n": 1}' ],
	[ 'a million semicolons', "$begin || $ours || repeat(';', 1000000)", '{"n": 1}' ],
	[ 'a comment of 10 MB in front of ours', "$begin || '/*' || repeat('x', 10000000) || '*/' || $ours", '{"n": 1}' ],
	[ 'a comment of ours that is too large', "$begin || '/*Bemi {\"a\": \"' || repeat('x', 10000000) || '\"} Bemi*/'", qr/^\{\}\nWARNING/ ],
	[ 'tags that are too large', "$begin || '/*a=' || repeat('x', 1048576) || '*/ /*b=1*/'", '{"_tags": {"b": "1"}}' ],
	[ 'as many tags as a context has keys', "$begin || (SELECT '/*' || string_agg('key' || n || '=1', ',') || '*/' FROM generate_series(1, 9999) n)", qr/^\{"_tags": \{"key1": / ],
	[ 'one more', "$begin || (SELECT '/*' || string_agg('key' || n || '=1', ',') || '*/' FROM generate_series(1, 10000) n)", '{}' ],
	[ 'one more, with the context', "$begin || (SELECT '/*' || string_agg('key' || n || '=1', ',') || '*/' FROM generate_series(1, 9999) n) || $ours", '{"n": 1}' ],
	[ 'as many tags of the same name', "$begin || repeat('/*a=1*/', 10000)", '{}' ],
	[ '20 000 comments with the sign of tags', "$begin || repeat('/* a = b; c */', 20000) || $ours", '{"n": 1}' ])
{
	my ($name, $expression, $expected) = @$case;
	my $there = result_of('extension', $expression);

	ref $expected ? like($there, $expected, "$name: the extension") : is($there, "$expected\n", "$name: the extension");
	is(result_of('script', $expression), $there, "$name: the script");
}

# The limits of the script. Each trigger of a text uses what the first one found, but each
# bemi.current_context() reads the text.
for my $case (
	[ '2000 strings in dollars', qq{$begin || 'WHERE '''' <> (' || repeat('\$a\$x\$a\$ || ', 2000) || ''''')'}, 'The text has too many statements, strings in dollars and nested comments' ],
	[ '3000 statements', "repeat('INSERT INTO tracked VALUES (1)' || $ours || ';', 3000) || $begin", 'The text has too many statements' ],
	[ '100 000 nested comments', "$begin || repeat('/*a', 100000) || repeat('*/', 100000)", 'The text has too many statements' ],
	[ 'ten strings of 10 MB in dollars', qq{$begin || 'WHERE '''' <> (' || repeat('\$a\$' || repeat('x', 6000000) || '\$a\$ || ', 10) || ''''')'}, 'The text has too many statements' ],
	[ 'a text of 64 MB', "$begin || replace($blob, 'x', 'xxxxxxx')", 'The text is 70000' ])
{
	my ($name, $expression, $detail) = @$case;
	my $result = result_of('script', "$expression || $ours");

	like($result, qr/^\{\}\n.*WARNING:  context in the query's comment is not valid and was left out\nDETAIL:  $detail/s, "$name: the script");
	unlike($result, qr/"n"|ERROR/, "$name: no context and no error");
	like(result_of('extension', "$expression || $ours"), qr/^\{"n": 1\}\n/, "$name: the extension reads it");
}

$node->stop;
done_testing();
