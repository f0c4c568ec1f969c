# A history with another encoding than its source.
#
# Databases in four encodings and a server with a fifth one are each the source of a history in
# every one of them. Names of tables and columns, values of all kinds, primary keys and contexts
# must arrive unchanged. A character that the history's encoding lacks must be replaced by
# something that identifies it. Nothing of this may stop a worker, or lose a change.
#
# Texts to a server are in its source's encoding, or in UTF-8. Texts from a history are compared
# byte by byte, in the history's encoding. Strings in this file consist of characters, except
# those for SQL_ASCII, which are bytes.

use strict;
use warnings;
use utf8;

use Bemi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $room = <<'CONF';
max_worker_processes = 50
max_replication_slots = 50
max_wal_senders = 50
max_connections = 100
bemi.max_slot_lag = '10GB'
CONF

my $node = bemi_node('main', conf => $room);
my $far = bemi_node('far', initdb => ['--encoding=EUC_JP']);

my %encoding = (
	utf8 => 'UTF8',
	latin1 => 'LATIN1',
	eucjp => 'EUC_JP',
	ascii => 'SQL_ASCII',
	far => 'EUC_JP');
my @histories = qw(utf8 latin1 eucjp ascii);

$node->safe_psql('postgres', 'CREATE ROLE reader SUPERUSER LOGIN REPLICATION');
$far->safe_psql('postgres', 'CREATE ROLE reader SUPERUSER LOGIN REPLICATION');
for my $name (@histories)
{
	$node->safe_psql('postgres', "CREATE DATABASE $name ENCODING '$encoding{$name}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
	$node->safe_psql($name, 'CREATE EXTENSION bemi');
}

sub place { return $_[0] eq 'far' ? ($far, 'postgres') : ($node, $_[0]); }

# Runs SQL that is bytes already, in that encoding.  An error is a failure, but not
# the end of the test.
sub run_bytes
{
	my ($name, $encoding, $sql) = @_;
	my ($at, $database) = place($name);

	# Perl may keep bytes as wide characters, and IPC::Run would write those.
	utf8::downgrade($sql);
	local $ENV{PGCLIENTENCODING} = $encoding;
	my ($status, $stdout, $stderr) = $at->psql($database, $sql, on_error_stop => 0);
	fail("$name: " . ($stderr =~ /(ERROR: .*)/)[0]) if $stderr =~ /ERROR: /;
	return $stdout;
}

# Runs SQL at a source.  Of a SQL_ASCII one it is bytes, of others characters.
sub at_source
{
	my ($name, $sql) = @_;

	utf8::encode($sql) if $name ne 'ascii';
	return run_bytes($name, $name eq 'ascii' ? 'SQL_ASCII' : 'UTF8', $sql);
}

sub at_history
{
	my ($name, $sql) = @_;

	return run_bytes($name, $encoding{$name}, $sql);
}

#
# What there is to write: words for names, and values
#

my $of_latin1 = join '', map { chr } 0xA0 .. 0xFF;
my %word = (
	utf8 => 'é日€😀',
	latin1 => 'éÿ',
	eucjp => '顧客é',
	ascii => "\xE4\xC3\xA9",
	far => '番号ｱ');
my %values = (
	utf8 => [
		'plain', 'é', 'aé½×ÿz', '日本ｱ', '€', '1 €', '😀', "ł\x{10FFFD}\x{FEFF}z", "e\x{301}", "\x{80}\x{9F}\x{A0}", '[U+20AC] is not €', 'Ω≠ω'
	],
	latin1 => [ 'plain', 'é', $of_latin1, "\x{80}\x{85}\x{9F}", 'naïve', '½', 'Zoë' ],
	eucjp => [ 'plain', '日', '日本語', 'ｱｲｳ', 'é×ł', 'ソ表能', 'a日b' ],
	ascii => [
		'plain', "\xE9", "a\xE9z", "Ren\xE9", "\xC3\xA9", "\xFF\xFE", "\xC0\xAF", "\xED\xA0\x80", "\xF0\x9F\x98", "\xF0\x9F\x98\x80", "\xF0\xC3\xA9",
		"\xF4\x90\x80\x80", "\xC6\xFC\xCB\xDC", "\x8E", "\x8F\xA1", "\x8E\xB1", "\x8F\xAB\xB1", "\x80\x85z", "\xA1", "\xC3\xA9\xC3"
	],
	far => [ 'plain', '日本語', 'é', 'ﾃｽﾄ' ]);

# How PostgreSQL writes a character in an encoding, if it can.
my %bytes;
{
	my %seen = map { $_ => 1 } map { split // } map { ($word{$_}, @{ $values{$_} }) } grep { $_ ne 'ascii' } keys %word;

	at_source('utf8', q{
		CREATE FUNCTION try_convert(c text, encoding name) RETURNS text LANGUAGE plpgsql AS $$
		BEGIN
			RETURN encode(convert_to(c, encoding), 'hex');
		EXCEPTION WHEN untranslatable_character THEN
			RETURN '';
		END $$});
	for my $encoding ('UTF8', 'LATIN1', 'EUC_JP')
	{
		for (split /\n/, at_source('utf8', 'SELECT ascii(c), try_convert(c, ' . "'$encoding'" . ') FROM unnest(ARRAY['
			. join(', ', map { sprintf 'chr(%d)', ord } sort keys %seen) . ']) c'))
		{
			my ($code, $hex) = split /\|/;

			$bytes{$encoding}{ chr $code } = pack 'H*', $hex if $hex;
		}
	}
}
ok($bytes{LATIN1}{'é'} eq "\xE9" && !exists $bytes{LATIN1}{'日'} && $bytes{EUC_JP}{'é'} eq "\x8F\xAB\xB1" && !exists $bytes{EUC_JP}{'€'},
	'characters that one encoding has, and the other has not');

# What is a character in an encoding.
my %valid = (
	UTF8 => qr/[\x00-\x7F]|[\xC2-\xDF][\x80-\xBF]|\xE0[\xA0-\xBF][\x80-\xBF]|[\xE1-\xEC\xEE\xEF][\x80-\xBF]{2}|\xED[\x80-\x9F][\x80-\xBF]
		|\xF0[\x90-\xBF][\x80-\xBF]{2}|[\xF1-\xF3][\x80-\xBF]{3}|\xF4[\x80-\x8F][\x80-\xBF]{2}/x,
	LATIN1 => qr/[\x00-\xFF]/,
	EUC_JP => qr/[\x00-\x7F]|\x8E[\xA1-\xDF]|\x8F[\xA1-\xFE]{2}|[\xA1-\xFE]{2}/,
	SQL_ASCII => qr/[\x00-\xFF]/);

# The bytes that a history must have for a source's text.
sub expected
{
	my ($source, $history, $text) = @_;
	my ($from, $to) = ($encoding{$source}, $encoding{$history});

	# The meaning of bytes is unknown, so they are stored if that is possible.
	return $text =~ s/($valid{$to})|(.)/defined $1 ? $1 : sprintf '[0x%02X]', ord $2/gesr if $from eq 'SQL_ASCII';
	# SQL_ASCII takes everything as it is.
	$to = $from if $to eq 'SQL_ASCII';
	return join '', map { ord() < 0x80 ? $_ : $bytes{$to}{$_} // sprintf '[U+%04X]', ord } split //, $text;
}

#
# Sources
#

sub literal { return "'" . ($_[0] =~ s/'/''/gr) . "'"; }

sub set_up
{
	my ($source) = @_;
	my $w = $word{$source};

	my ($at, $database) = place($source);

	at_source($source, qq{
		CREATE TYPE "mood_$w" AS ENUM ('$w', 'other $w');
		CREATE TYPE "pair_$w" AS ("f_$w" text, "list_$w" text[]);
		CREATE TABLE "table_$w" ("k_$w" text PRIMARY KEY, "t_$w" text, "j_$w" json, "jb_$w" jsonb, "l_$w" text[], "c_$w" "pair_$w", "e_$w" "mood_$w");
		CREATE TABLE "two_$w" ("a_$w" text, "b_$w" varchar(200), PRIMARY KEY ("b_$w", "a_$w"));
		SELECT bemi.track(t) FROM unnest('{"table_$w","two_$w"}'::regclass[]) t});
	return;
}

# Every value in every place, also in the context, which is set in all ways.
sub fill
{
	my ($source) = @_;
	my $w = $word{$source};
	my $sql = qq{CREATE TABLE "later_$w" (id int PRIMARY KEY, "t_$w" text); SELECT bemi.track('"later_$w"'::regclass);\n};

	for my $v (@{ $values{$source} })
	{
		$sql .= qq{
			SET bemi.context = '{"by": "$v", "$v": ["$v"]}';
			INSERT INTO "table_$w" VALUES ('key $v', '$v', '{"$v": ["$v", {"x": "$v"}]}', '{"$v": ["$v", {"x": "$v"}]}',
				ARRAY['$v', 'say "$v"', NULL], ROW('$v', ARRAY['$v', '{$v}']), '$w');
			INSERT INTO "two_$w" VALUES ('$v', 'b $v');
			INSERT INTO "later_$w" SELECT count(*), '$v' FROM "later_$w";
			RESET bemi.context;
			UPDATE "table_$w" SET "t_$w" = "t_$w" || '!$v' WHERE "k_$w" = 'key $v' /*Bemi {"note": "$v"} Bemi*/;
			BEGIN;
			SELECT bemi.set_context(jsonb_build_object('gone', '$v'));
			DELETE FROM "table_$w" WHERE "k_$w" = 'key $v';
			COMMIT;
		};
	}
	at_source($source, $sql . qq{TRUNCATE "two_$w"});
	return;
}

set_up($_) for sort keys %encoding;

# Which sources a history has: all, from another database or its own.  The far
# server is read by those whose encodings are not its own.
my %sources = map { $_ => [@histories] } @histories;
push @{ $sources{$_} }, 'far' for ('utf8', 'latin1');

for my $history (@histories)
{
	for my $source (@{ $sources{$history} })
	{
		my ($at, $database) = place($source);
		my $conninfo = $source eq $history ? '' : ', conninfo => ' . literal($at->connstr($database) . ' user=reader');

		is(start_error($node, "CALL bemi.start('from_$source'$conninfo)", $history), '', "$history reads $source");
	}
}

fill($_) for sort keys %encoding;

# Waits until all that is written is stored; workers that have failed are not
# waited for.
sub catch_up
{
	my %lsn = map { my ($at) = place($_); $_ => $at->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()') } keys %encoding;

	for my $history (@histories)
	{
		my $behind = join ' OR ', map { "source = 'from_$_' AND stored_lsn < '$lsn{$_}'" } @{ $sources{$history} };

		$node->poll_query_until($history, "SELECT NOT EXISTS (SELECT FROM bemi.status WHERE ($behind) AND restarts = 0)")
		  or diag "workers of $history do not catch up";
	}
	return;
}

catch_up();

#
# Histories
#

# Compares the result of a query with a list of rows, whose columns are a source's
# texts.
sub compare
{
	my ($source, $history, $sql, $rows, $name) = @_;
	my @found = split /\n/, at_history($history, $sql);
	my @expected = map { join '|', map { expected($source, $history, $_) } @$_ } @$rows;
	my ($first) = grep { ($found[$_] // '') ne ($expected[$_] // '') } 0 .. ($#found > $#expected ? $#found : $#expected);

	ok(!defined $first, "$source -> $history: $name")
	  or diag @found . " rows, where it should be " . @expected . "; the first that differs:\n  expected "
	  . ($expected[$first] // '(none)') . "\n  found    " . ($found[$first] // '(none)');
	return;
}

sub check_pair
{
	my ($source, $history) = @_;
	my @values = @{ $values{$source} };
	my $w = $word{$source};
	# SQL in the history's encoding: $n->('t') is the name of a column or table
	# there, $key->($v) that of an attribute.
	my $n = sub { return literal(expected($source, $history, "$_[0]_$w")); };
	my $from = "FROM bemi.changes WHERE source = 'from_$source' AND";
	my ($k, $t, $j, $jb, $l, $c, $f, $list, $e) = map { $n->($_) } qw(k t j jb l c f list e);
	my ($table, $two, $later) = map { qq{"table" = } . $n->($_) } qw(table two later);
	my $keys = q{(SELECT string_agg(x, ',') FROM jsonb_object_keys(%s) x)};

	compare($source, $history, qq{
		SELECT primary_key, after->>$k, after->>$t, after->>$e $from $table AND operation = 'CREATE' ORDER BY id},
		[ map { [ "key $_", "key $_", $_, $w ] } @values ],
		'names, primary keys, texts');
	for my $json ($j, $jb)
	{
		compare($source, $history, qq{
			SELECT x.key, x.value->>0, x.value->1->>'x' FROM (SELECT id, after $from $table AND operation = 'CREATE') h,
				jsonb_each(CASE jsonb_typeof(after->$json) WHEN 'object' THEN after->$json END) x ORDER BY id},
			[ map { [ $_, $_, $_ ] } @values ],
			$json eq $j ? 'json' : 'jsonb');
	}
	compare($source, $history, qq{
		SELECT after->$l->>0, after->$l->>1, after->$l->2 $from $table AND operation = 'CREATE' ORDER BY id},
		[ map { [ $_, qq(say "$_"), 'null' ] } @values ],
		'arrays');
	compare($source, $history, qq{
		SELECT after->$c->>$f, after->$c->$list->>0, after->$c->$list->>1 $from $table AND operation = 'CREATE' ORDER BY id},
		[ map { [ $_, $_, "{$_}" ] } @values ],
		'composites');
	compare($source, $history, qq{
		SELECT context->>'by', x.key, x.value->>0 $from $table AND operation = 'CREATE' ORDER BY id}
		  =~ s/ FROM bemi.changes/ FROM bemi.changes, jsonb_each(context - 'by') x/r,
		[ map { [ $_, $_, $_ ] } @values ],
		'contexts: setting');
	compare($source, $history, qq{
		SELECT primary_key, before->>$t, after->>$t, context->>'note' $from $table AND operation = 'UPDATE' ORDER BY id},
		[ map { [ "key $_", $_, "$_!$_", $_ ] } @values ],
		'contexts: trailing comment; before and after');
	compare($source, $history, qq{
		SELECT primary_key, before->>$t, after, context->>'gone' $from $table AND operation = 'DELETE' ORDER BY id},
		[ map { [ "key $_", "$_!$_", '{}', $_ ] } @values ],
		'contexts: function');
	compare($source, $history, qq{
		SELECT primary_key::jsonb->>0, primary_key::jsonb->>1, operation $from $two ORDER BY id},
		[ (map { [ "b $_", $_, 'CREATE' ] } @values), [ '', '', 'TRUNCATE' ] ],
		'primary keys of two columns, TRUNCATE');
	compare($source, $history, qq{
		SELECT primary_key, after->>$t, context->>'by' $from $later ORDER BY id},
		[ map { [ $_, $values[$_], $values[$_] ] } 0 .. $#values ],
		'a table that was made later');
	# For a source on another server, stored_until is some seconds late.
	$node->poll_query_until($history, qq{
		SELECT s.stored_until > max(c.committed_at) FROM bemi.status s JOIN bemi.changes c USING (source)
		WHERE source = 'from_$source' GROUP BY s.stored_until}) or die 'not all is known to be stored';
	is( at_history($history, qq{
			SELECT "table" IN (} . $n->('table') . ', ' . $n->('later') . qq{), bool_and(c.complete), string_agg(c.reason, ', ')
			FROM (SELECT "table", min(committed_at) AS at $from operation = 'CREATE' GROUP BY 1) h,
				bemi.source_completeness('from_$source', 'public', h."table", h.at, h.at) c GROUP BY 1 ORDER BY 1}),
		"f|t|\nt|t|",
		"$source -> $history: and known to be complete, by its name there");
	is( at_history($history, qq{
			SELECT string_agg(c.reason, ',' ORDER BY c.reason) FROM bemi.source_completeness('from_$source', 'public', } . $n->('later') . q{, '-infinity', '2020-01-01') c}),
		'source_started,tracking_began',
		"$source -> $history: from when on it is tracked is known, too");
	is( at_history($history, qq{
			SELECT state, restarts, invalid_messages, last_error FROM bemi.status WHERE source = 'from_$source'}),
		'streaming|0|0|',
		"$source -> $history: the worker has not stopped, no context was invalid");
	return;
}

for my $history (@histories)
{
	check_pair($_, $history) for @{ $sources{$history} };
}

#
# What json has in escapes, names of full length, texts that grow by the replacement
#

my $long_name = '😀' x 15 . 'abc';
my $long_column = '日' x 21;
at_source('utf8', qq{
	CREATE TABLE escaped (k int PRIMARY KEY, j json, list json[], t text);
	CREATE TABLE "$long_name" ("$long_column" int PRIMARY KEY, t text);
	SELECT bemi.track(t) FROM unnest('{escaped,"$long_name"}'::regclass[]) t;
	SET bemi.context = '{"price\\u20ac": "\\u20ac \\ud83d\\ude00 \\u00e9 \\\\u20ac \\"\\u65e5\\""}';
	INSERT INTO escaped VALUES (1, '{"a\\u20ac": "\\u20ac \\ud83d\\ude00 \\u00e9 \\\\u20ac \\"\\u65e5\\""}',
		'{"\\"\\\\u20ac\\"","\\"\\\\u00e9\\\\n\\""}', '\\u20ac');
	INSERT INTO "$long_name" VALUES (1, repeat('€', 100000))});
at_source('latin1', q{
	CREATE TABLE escaped (k int PRIMARY KEY, j json);
	SELECT bemi.track('escaped');
	INSERT INTO escaped VALUES (1, '{"a": "\u20ac", "b": "\u00e9"}')});
catch_up();

my %sign = (
	utf8 => { euro => '€', smile => '😀', acute => 'é', day => '日' },
	latin1 => { euro => '[U+20AC]', smile => '[U+1F600]', acute => 'é', day => '[U+65E5]' },
	eucjp => { euro => '[U+20AC]', smile => '[U+1F600]', acute => 'é', day => '日' });

# Compares in UTF-8, which has all that there is in these three.
sub compare_in_utf8
{
	my ($history, $sql, $expected, $name) = @_;

	utf8::encode($_) for ($sql, $expected);
	is(run_bytes($history, 'UTF8', $sql), $expected, $name);
	return;
}

for my $history ('utf8', 'latin1', 'eucjp')
{
	my %s = %{ $sign{$history} };
	my $text = qq($s{euro} $s{smile} $s{acute} \\u20ac "$s{day}");

	compare_in_utf8($history, qq{
		SELECT after->'j'->>'a$s{euro}', after->'list'->>0, after->'list'->>1, after->>'t', context->>'price$s{euro}'
		FROM bemi.changes WHERE source = 'from_utf8' AND "table" = 'escaped'},
		join('|', $text, $s{euro}, "$s{acute}\n", '\u20ac', $text),
		"utf8 -> $history: escapes in json are characters, and a backslash is none");
	compare_in_utf8($history, qq{
		SELECT "table", primary_key, after ? '} . $s{day} x 21 . qq{', after->>'t' = repeat('$s{euro}', 100000)
		FROM bemi.changes WHERE source = 'from_utf8' AND after->>'t' LIKE '%$s{euro}$s{euro}'},
		$s{smile} x 15 . 'abc|1|t|t',
		"utf8 -> $history: names of full length, and a long text");
	compare_in_utf8($history,
		q{SELECT state, restarts, invalid_messages FROM bemi.status WHERE source = 'from_utf8'},
		'streaming|0|0',
		"utf8 -> $history: no message was invalid");
}

# SQL_ASCII has no characters, so it may have these in the source's encoding, or
# replaced; but it must have them.
is( at_history('ascii', qq{
		SELECT after->>'j' ~* '20ac|\xE2\x82\xAC', context::text ~* 'price.*(20ac|\xE2\x82\xAC).*u20ac', context <> '{}',
			(SELECT invalid_messages FROM bemi.status WHERE source = 'from_utf8')
		FROM bemi.changes WHERE source = 'from_utf8' AND "table" = 'escaped'}),
	't|t|t|0',
	'utf8 -> ascii: escapes in json');

# In the source itself, to_jsonb() fails. Nothing is lost here either.
compare_in_utf8('latin1', q{
	SELECT after->>'j' ~* '20ac', after->>'j' ~ 'é|u00e9' FROM bemi.changes WHERE source = 'from_latin1' AND "table" = 'escaped'},
	't|t',
	'latin1 -> latin1: an escape of what there is not');
compare_in_utf8('utf8',
	q{SELECT after->'j' FROM bemi.changes WHERE source = 'from_latin1' AND "table" = 'escaped'},
	'{"a": "€", "b": "é"}',
	'latin1 -> utf8: where there is, it is a character');

# EUC_JP has places for characters that Unicode has not.
run_bytes('eucjp', 'EUC_JP', qq{
	CREATE TABLE unassigned (k text PRIMARY KEY);
	SELECT bemi.track('unassigned');
	SET bemi.context = '{"by": "a\xA9\xA1z"}';
	INSERT INTO unassigned VALUES ('a\xA9\xA1z')});
catch_up();
for my $history (@histories)
{
	my $expected = $history =~ /utf8|latin1/ ? 'a[0xA9][0xA1]z' : "a\xA9\xA1z";

	is( at_history($history, q{
			SELECT primary_key, after->>'k', context->>'by' FROM bemi.changes WHERE source = 'from_eucjp' AND "table" = 'unassigned'}),
		join('|', ($expected) x 3),
		"eucjp -> $history: what is no character of Unicode is bytes");
}

#
# The message of a source that refuses
#

# The library does not exist, and the server reports this in its own encoding, before
# anything else.  Names are long, so that the message is cut somewhere.
my %library = (utf8 => 'プラグイン' x 60, latin1 => 'naïve' x 120, eucjp => 'プラグイン' x 60, ascii => "na\xEFve" x 120, far => 'x' . 'プラグイン' x 60);

for my $source (sort keys %library)
{
	my ($at, $database) = place($source);

	at_source($source, "ALTER ROLE reader IN DATABASE $database SET session_preload_libraries = '$library{$source}'");
}
my $since = $node->safe_psql('postgres', 'SELECT clock_timestamp()');
$_->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'reader'}) for ($node, $far);
for my $history (@histories)
{
	$node->poll_query_until($history, qq{
		SELECT NOT EXISTS (SELECT FROM bemi.status WHERE source <> 'from_$history'
			AND (last_error_at >= '$since' AND last_error !~ 'terminating') IS NOT TRUE)})
	  or diag "$history: " . at_history($history, 'SELECT source, state, last_error FROM bemi.status');
	for my $source (grep { $_ ne $history } @{ $sources{$history} })
	{
		# Converted to its own encoding, text is verified.
		is( at_history($history, qq{
				SELECT length(convert_to(last_error, '$encoding{$history}')) > 0 AND last_error ~ 'could not access file' FROM bemi.status WHERE source = 'from_$source'}),
			't',
			"$source -> $history: the error message of a source is valid text");
	}
}

# And it continues from there.
for my $source (sort keys %library)
{
	my ($at, $database) = place($source);
	my $w = $word{$source};

	$at->safe_psql('postgres', "ALTER ROLE reader IN DATABASE $database RESET session_preload_libraries");
	at_source($source, qq{INSERT INTO "table_$w" ("k_$w") VALUES ('after $w')});
}
for my $history (@histories)
{
	my $count = @{ $sources{$history} };

	# Without waiting for the next try.
	at_history($history, "CALL bemi.stop('from_$_'); CALL bemi.start('from_$_')") for grep { $_ ne $history } @{ $sources{$history} };
	$node->poll_query_until($history, "SELECT count(*) >= $count FROM bemi.changes WHERE primary_key LIKE 'after %'")
	  or diag "$history: changes do not come";
	is( at_history($history, q{SELECT source, primary_key FROM bemi.changes WHERE primary_key LIKE 'after %' ORDER BY source COLLATE "C"}),
		join("\n", map { "from_$_|" . expected($_, $history, "after $word{$_}") } sort @{ $sources{$history} }),
		"$history: all sources are read again");
	is( at_history($history, q{SELECT count(*) FROM bemi.gaps WHERE reason NOT IN ('source_started', 'tracking_began')}),
		'0', "$history: nothing was a gap");
}

$_->stop for ($far, $node);
done_testing();
