# The same text has the same context with the extension and with bemi-source.sql.
#
# The extension finds the end of a statement with the server's scanner (src/context/comment.c), the
# script with regular expressions (sql/source/read_comment.plpgsql). Where the two do not agree, one
# of them takes a string for a comment, or a comment for a string. So random texts, made of all
# that can hide a comment, are sent to a database of each kind.
#
# BEMI_SEED repeats the texts, BEMI_ROUNDS makes more than 2000.

use strict;
use warnings;
use utf8;

use Bemi;
use Encode ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main');

for my $encoding ('UTF8', 'EUC_JP')
{
	$node->safe_psql('postgres', "CREATE DATABASE ${_}_$encoding ENCODING '$encoding' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
	  for 'extension', 'script';
	$node->safe_psql("extension_\L$encoding", 'CREATE EXTENSION bemi');
	$node->psql("script_\L$encoding", undef, extra_params => [ '-qf', 'bemi-source.sql' ]);
}

# Runs each text as one simple query, all in one session.  Gives what each has printed, with its errors
# and warnings.
sub results
{
	my ($database, @texts) = @_;

	local $ENV{PGCLIENTENCODING} = 'UTF8';
	my ($stdout, $stderr) = run_command(
		[
			$node->installed_command('psql'),
			'-XAtq', '-d', $node->connstr($database),
			map { ('-c', Encode::encode('UTF-8', $_), '-c', '\echo #', '-c', '\warn #') } @texts
		]);
	my @out = split /^#\n/m, "$stdout\n", -1;
	my @err = split /^#\n/m, "$stderr\n", -1;
	return map { "$out[$_]$err[$_]" } 0 .. $#texts;
}

my $seed = $ENV{BEMI_SEED} // int(rand(2**31));
my $rounds = $ENV{BEMI_ROUNDS} // 2000;
note "random seed $seed";
srand($seed);

sub one_of { return $_[ rand @_ ]; }

my @comments = (
	'/*c*/', '/**/', '/***/', q{/* ' */}, q{/* " */}, '/* $$ */', '/* $a$ */', '/* -- */', "/* \n */", '/*/ */', '/* ; */', '/*/ /**/*/', '/*é漢*/',
	'/* /* n */ */', '/*/**/*/', '/*/*/*x*/*/*/', q{/* ' /* " */ */}, '/*+ Hint */', '/*\\*/',
	'/*Bemi*/', '/*Bemi Bemi*/', '/*Bemi {} Bemi*/', '/* Bemi {"n": 9} Bemi*/', '/*Bemi {"n": 9} Bemi */', '/*Bemi [1] Bemi*/',
	'/*Bemi {"n": "/* x */"} Bemi*/', '/*Bemi /**/Bemi*/', '/*Bemi{"n":1}Bemi*/', '/*Bemi {"n": "--"} Bemi*/', q{/*Bemi {"n": "'"} Bemi*/},
	'/*Bemi {"_tags": {"a": "forged"}, "n": 4} Bemi*/', '/*Bemi {"é": "漢"} Bemi*/',
	q{/*a='1'*/}, q{/*a=1,b='2'*/}, q{/*a='%41%C3%A9',%62=2*/}, q{/*a='%C3'*/}, q{/*a='\\''*/}, q{/*a='1',a='2'*/}, q{/*x:y,z: 1 */},
	q{/*a:b='%E9'*/}, q{/* a = b; c */}, q{/*a='/*'*/*/}, q{/*é='漢'*/}, '/*"a"=1*/');
my @line_comments = ('-- x', '--', q{-- '}, '-- "', '-- /*', '-- */', '-- /*Bemi {"n": 8} Bemi*/', q{-- /*a='8'*/}, '-- $$', '---', '--é');
my @literals = (
	q{'x'}, q{''}, q{''''}, q{'it''s'}, q{'/*'}, q{'*/'}, q{'--'}, q{'\\'}, q{'$$'}, q{'"'}, q{';'}, q{'/*Bemi {"n": 7} Bemi*/'}, q{'/*Bemi {"n": 7} Bemi*/ --'},
	q{E''}, q{e'\\''}, q{E'\\\\'}, q{E'a\\'/*b'}, q{E'''\\''''}, qq{E'a'\n'b\\\\'''}, qq{E'a' -- '\n  'b\\'/*'}, qq{E'a'\r--x\n\n'\\''}, qq{'a'\n'b''c'}, qq{'a' -- x\n'--'},
	q{$$ ' $$}, q{$$$$}, q{$$ /* $$}, q{$$ $a$ $ $$}, q{$a$ $$ ' " $a$}, q{$a$$b$$a$}, q{$é1_$ -- $é$ $é1_$}, q{$_$/*Bemi {"n": 7} Bemi*/ --$_$},
	q{U&'\\0041'}, q{U&'d!0061' UESCAPE '!'}, q{N'x'}, q{B'01'}, q{X'1F'}, '1', '1.5e-3', '1-1', '1 - -1', '2/1', '2*-1', '1-/*c*/-1', "1--\n-1", '@ -1', '||/27', '(1)');
my @names = ('a', 'E', 'é', '"a"', '"a""b"', '"/*"', '"--"', '"$$"', q{"'"}, 'a$1', 'a$$', 'a$b$', 'é$', 'U&"\\0061"', 'e$e');

# What may stand between two tokens.
sub gap
{
	return join '', map {
		rand() < 0.55 ? one_of(' ', ' ', "\n", "\t", "\r", "\f", ' ')
		  : rand() < 0.8 ? one_of(rand() < 0.3 ? @comments[ -12 .. -1 ] : @comments)
		  : one_of(@line_comments) . one_of("\n", "\r")
	} 1 .. 1 + rand one_of(2, 2, 4);
}

sub literal { return rand() < 0.4 ? join gap(), map({ ('(', one_of(@literals), ')::text', '||') } 1 .. 1 + rand 2), q{''} : one_of(@literals); }

sub statement
{
	my ($behind) = @_;
	my @tokens = ('SELECT', 'bemi.current_context()');

	push @tokens, 'AS', one_of(@names) if rand() < 0.3;
	push @tokens, 'WHERE', map({ ('(' . literal() . ')', 'IS', 'NOT', 'NULL', 'AND') } 1 .. rand 4), 'true' if rand() < 0.8;
	return (rand() < 0.3 ? gap() : '') . join('', map { $_ . gap() } @tokens[ 0 .. $#tokens - 1 ]) . $tokens[-1] . $behind;
}

# A text of several statements has the same comment of bemi behind each, because the script does
# not know which of them runs.
sub random_text
{
	my $behind = rand() < 0.8 ? ' ' . gap() : '';

	return join(one_of(';', '; ', ";\n"), map { statement(q{ /*Bemi {"n": 1} Bemi*/}) } 1 .. 1 + rand 4) . one_of('', ';') if rand() < 0.15;
	$behind .= one_of(' ', ';', '; ;') . gap() for 1 .. rand 3;
	$behind .= one_of(@line_comments) if rand() < 0.2;
	my $text = statement($behind);
	# Something that is missing or added may be valid.
	substr($text, rand length $text, one_of(0, 1, 1, 2), one_of('', q{'}, '/', '*', '-', '$', '"', '\\', ';', "\n", 'E', '/*', '*/')) if rand() < 0.25;
	return $text;
}

# What the script cannot know.
sub is_of_several { return $_[0] =~ /^DETAIL:  The text has several statements/m; }

my %count = map { ($_ => 0) } qw(context tags warning error several);
my @wrong;
for my $encoding ('utf8', 'euc_jp')
{
	my @texts = map { random_text() } 1 .. $rounds / 2;
	my @settings = ([ '', 'sqlcommenter' ], [ '*', 'sqlcommenter' ], [ 'a, é', 'sqlcommenter, marginalia' ]);

	while (my @some = splice @texts, 0, 100)
	{
		my $setting = one_of(@settings);
		my @set = ("SET bemi.tags = '$setting->[0]'", "SET bemi.tags_format = '$setting->[1]'", 'SET escape_string_warning = off');
		my @there = results("extension_$encoding", @set, @some);
		my @here = results("script_$encoding", @set, @some);

		for my $n (0 .. $#some)
		{
			my ($there, $here) = ($there[ $n + @set ], $here[ $n + @set ]);
			my $several = () = $there =~ /^\{/mg;

			$count{context}++ if $there =~ /^\{"n": /m;
			$count{tags}++ if $there =~ /"_tags"/;
			$count{warning}++ if $there =~ /^WARNING/m;
			$count{error}++ if $there =~ /^ERROR/m;
			if (is_of_several($here) || $several > 1)
			{
				$count{several}++;
				# It may only leave out.
				$here =~ s/^(?:WARNING|DETAIL|HINT):.*\n//mg;
				$here = $there = '' if $here =~ /^(?:\{\}\n)*$/;
				s/, "_tags": \{.*?\}|"_tags": \{.*?\}(?:, )?//g for $there, $here;
			}
			push @wrong, "$encoding, bemi.tags = '$setting->[0]':\n$some[$n]\n-- the extension:\n$there-- the script:\n$here" if $there ne $here;
		}
	}
}
is(join("\n", @wrong[ 0 .. ($#wrong > 9 ? 9 : $#wrong) ]), '', "the script finds what the extension finds (seed $seed)");
note join ', ', map { "$_ $count{$_}" } sort keys %count;
cmp_ok($count{$_}, '>=', $rounds / 50 - 5, "some texts had: $_") for qw(context tags warning error several);

$node->stop;
done_testing();
