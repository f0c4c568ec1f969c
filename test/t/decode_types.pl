# Values in "before" and "after" equal to_jsonb(row), for columns of any type.
#
# to_jsonb() looks into types: arrays, composites, domains and their parts. The worker has only
# texts, and OIDs that mean nothing on another server. So the test writes a list of types with
# unusual values to tables, and row triggers record to_jsonb(OLD) and to_jsonb(NEW) at that
# moment. The history must contain the same, in the source's own database and on another server,
# which has none of these types, and other types with the same OIDs.
#
# On both servers, settings that change the output of values are as unusual as possible.

use strict;
use warnings;

use Bemi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $odd_settings = <<'CONF';
timezone = 'Asia/Kolkata'
datestyle = 'German, DMY'
intervalstyle = 'sql_standard'
bytea_output = 'escape'
extra_float_digits = -5
quote_all_identifiers = on
CONF

my $node = bemi_node('main', conf => $odd_settings . "evil.client = 'no'\n");
my $remote = bemi_node('remote', conf => $odd_settings . "xmloption = document\n");

# Everything that is written on the source uses this, so the functions of "mallory"
# below can check who calls them.
sub write_sql
{
	my ($sql) = @_;

	local $ENV{PGOPTIONS} = '-c evil.client=yes';
	return $node->safe_psql('postgres', $sql);
}

# Other types with the same OIDs.
$remote->safe_psql('postgres', q{
	CREATE SCHEMA decoy;
	DO $$ BEGIN
		FOR i IN 1 .. 300 LOOP
			EXECUTE format('CREATE TYPE decoy.composite_%s AS (wrong int, also_wrong text)', i);
			EXECUTE format('CREATE TYPE decoy.enum_%s AS ENUM (''wrong'')', i);
			EXECUTE format('CREATE DOMAIN decoy.domain_%s AS int[] CHECK (VALUE IS NULL)', i);
		END LOOP;
	END $$});

#
# The journal
#

# Column "local" of journal.instead is what the history of the source's own
# database must show, "remote" what that on another server must show, as an
# expression of the row $1, where to_jsonb() is not the answer.
write_sql(q{
CREATE SCHEMA journal;
CREATE TABLE journal.instead ("table" text, "column" text, local text, remote text);
CREATE TABLE journal.entries (
	n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	"table" text, operation text,
	local_before jsonb, local_after jsonb, remote_before jsonb, remote_after jsonb);

CREATE FUNCTION journal.note() RETURNS trigger LANGUAGE plpgsql
	SET search_path = '' SET timezone = 'UTC' SET datestyle = 'ISO' SET intervalstyle = 'postgres'
	SET bytea_output = 'hex' SET extra_float_digits = 1 SET quote_all_identifiers = off AS $$
DECLARE
	local jsonb[] := '{NULL, NULL}';
	remote jsonb[];
	other journal.instead;
	value jsonb;
BEGIN
	IF TG_OP <> 'INSERT' THEN
		local[1] := to_jsonb(OLD);
	END IF;
	IF TG_OP <> 'DELETE' THEN
		local[2] := to_jsonb(NEW);
	END IF;
	remote := local;
	FOR other IN SELECT * FROM journal.instead i WHERE i."table" = TG_TABLE_NAME LOOP
		FOR i IN 1 .. 2 LOOP
			CONTINUE WHEN local[i] IS NULL;
			IF other.local IS NOT NULL THEN
				IF i = 1 THEN
					EXECUTE format('SELECT to_jsonb((%s))', other.local) INTO value USING OLD;
				ELSE
					EXECUTE format('SELECT to_jsonb((%s))', other.local) INTO value USING NEW;
				END IF;
				local[i] := local[i] || jsonb_build_object(other."column", value);
			END IF;
			IF i = 1 THEN
				EXECUTE format('SELECT to_jsonb((%s))', other.remote) INTO value USING OLD;
			ELSE
				EXECUTE format('SELECT to_jsonb((%s))', other.remote) INTO value USING NEW;
			END IF;
			remote[i] := remote[i] || jsonb_build_object(other."column", value);
		END LOOP;
	END LOOP;
	INSERT INTO journal.entries ("table", operation, local_before, local_after, remote_before, remote_after)
		VALUES (TG_TABLE_NAME, CASE TG_OP WHEN 'INSERT' THEN 'CREATE' ELSE TG_OP END,
			coalesce(local[1], '{}'), coalesce(local[2], '{}'), coalesce(remote[1], '{}'), coalesce(remote[2], '{}'));
	RETURN NULL;
END
$$;

CREATE FUNCTION journal.follow(target regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE TRIGGER journal AFTER INSERT OR UPDATE OR DELETE ON %s'
		' FOR EACH ROW EXECUTE FUNCTION journal.note()', target);
	PERFORM bemi.track(target);
END
$$});

sub where_of { return $_[0] == $remote ? 'remote' : 'local'; }

# The journal as it is now, on the other server.
sub copy_journal
{
	my $file = $node->basedir . '/journal.copy';

	$node->safe_psql('postgres', "COPY journal.entries TO '$file'");
	$remote->safe_psql('postgres', qq{
		SET client_min_messages = warning;
		DROP SCHEMA IF EXISTS journal CASCADE;
		CREATE SCHEMA journal;
		CREATE TABLE journal.entries (n bigint, "table" text, operation text,
			local_before jsonb, local_after jsonb, remote_before jsonb, remote_after jsonb);
		COPY journal.entries FROM '$file'});
	unlink $file;
	return;
}

# Waits until all is stored, here and there; a worker that has failed is not
# waited for.
sub catch_up
{
	my $lsn = $node->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');

	for my $history ($node, $remote)
	{
		$history->poll_query_until('postgres',
			"SELECT stored_lsn >= '$lsn' OR restarts > 0 OR state = 'failed' FROM bemi.status")
		  or diag where_of($history) . ': the worker does not catch up';
	}
	return;
}

# The first difference of each column, '' if there are none.  Texts are compared,
# as jsonb takes 1.5 and 1.50 for the same.  The last changes of a table are held
# against what the journal has of it, all of them unless it was emptied meanwhile.
sub differences
{
	my ($history, $table) = @_;
	my $where = where_of($history);

	return $history->safe_psql('postgres', qq{
		WITH expected AS (
			SELECT operation, ${where}_before AS before, ${where}_after AS after,
				row_number() OVER (ORDER BY n) AS number, row_number() OVER (ORDER BY n DESC) AS i
			FROM journal.entries WHERE "table" = '$table'
		), found AS (
			SELECT operation, before, after, row_number() OVER (ORDER BY id DESC) AS i
			FROM bemi.changes WHERE "table" = '$table'
		), pairs AS (
			SELECT e.number, e.operation, e.before, e.after, f.operation AS found_operation,
				f.before AS found_before, f.after AS found_after
			FROM expected e LEFT JOIN found f USING (i)
		), differing AS (
			SELECT DISTINCT ON (key) *
			FROM pairs, LATERAL (VALUES ('before', before, found_before), ('after', after, found_after),
				('change', jsonb_build_object('(operation)', operation), jsonb_build_object('(operation)', found_operation))) v (image, expected, found),
				LATERAL (SELECT key, x.value::text AS x, y.value::text AS y FROM jsonb_each(expected) x FULL JOIN jsonb_each(found) y USING (key)) c
			WHERE x IS DISTINCT FROM y AND (found_operation IS NOT NULL OR image = 'change')
			ORDER BY key, number, image DESC
		)
		SELECT 'nothing was written' WHERE NOT EXISTS (SELECT FROM expected)
		UNION ALL
		(SELECT concat('column ', key, ', change ', number, ', ', operation, ', ', image,
				E'\\n  expected ', coalesce(left(x, 300), '(no such column)'), E'\\n  found    ', coalesce(left(y, 300), '(no such column)'))
			FROM differing ORDER BY key LIMIT 20)});
}

# Everything that was written to a table is as it was, in both histories.
sub check
{
	my ($table, $name) = @_;

	is(differences($_, $table), '', "$name, " . where_of($_)) for ($node, $remote);
	return;
}

#
# Types of our own
#

write_sql(q{
CREATE ROLE alice;
CREATE ROLE "Odd, ""role""";
CREATE SCHEMA types;
CREATE SCHEMA "Odd, schema";
CREATE TABLE "Odd, schema"."a ""table""" (id int);
CREATE FUNCTION "Odd, schema"."f (" (int, text) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE TYPE "Odd, schema"."t,[]" AS ENUM ('x');
CREATE OPERATOR types.&&& (LEFTARG = int4, RIGHTARG = int4, FUNCTION = int4pl);
CREATE TABLE types.defaults (a int DEFAULT 1, b text DEFAULT 'b', c timestamptz DEFAULT now(), d int[] DEFAULT '{1}', e int DEFAULT 1 + 1);
SET search_path = types;

CREATE TYPE mood AS ENUM ('sad', 'ok', 'very, "happy"', 'it''s', ' spaces ', '日本語 😀', 'back\slash', '{br,ace}', 'NULL', 'null', '(a,b)', '');

CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN short_text AS text CHECK (length(VALUE) < 1000);
CREATE DOMAIN price AS numeric(10, 2) CHECK (VALUE >= 0);
CREATE DOMAIN moment AS timestamptz CHECK (VALUE > '1000-01-01 BC');
CREATE DOMAIN day AS date;
CREATE DOMAIN flag AS bool;
CREATE DOMAIN document AS json CHECK (json_typeof(VALUE) <> 'number');
CREATE DOMAIN binary_document AS jsonb;
CREATE DOMAIN more_positive AS positive CHECK (VALUE > 10);
CREATE DOMAIN most_positive AS more_positive NOT NULL;
CREATE DOMAIN numbers AS int[] CHECK (cardinality(VALUE) < 100);
CREATE DOMAIN positives AS positive[];
CREATE DOMAIN good_mood AS mood CHECK (VALUE <> 'sad');
CREATE DOMAIN span AS tstzrange;
CREATE DOMAIN fixed AS char(5);
CREATE DOMAIN real_number AS float8;

CREATE TYPE pair AS (x int, y text);
CREATE DOMAIN good_pair AS pair CHECK ((VALUE).x IS DISTINCT FROM 666);
CREATE DOMAIN pairs AS pair[];
CREATE DOMAIN corner AS box;
CREATE TYPE one AS (v text);
CREATE TYPE nothing AS ();
CREATE TYPE cut AS (gone_first int, a int, gone text, b text, gone_last bool);
ALTER TYPE cut DROP ATTRIBUTE gone_first;
ALTER TYPE cut DROP ATTRIBUTE gone;
ALTER TYPE cut DROP ATTRIBUTE gone_last;
CREATE TYPE rich AS ("a ""q"", key" text, b bool, n numeric, f float8, j json, jb jsonb, at timestamptz, d date,
	list text[], matrix int[], p pair, ps pair[], m mood, ms mood[], r int4range, i interval, raw bytea);
CREATE TYPE checked AS (p positive, t short_text, at moment, ps positives, j document, gp good_pair, gps good_pair[], m good_mood);
CREATE TYPE level1 AS (v text, n int);
CREATE TYPE level2 AS (v text, l level1[]);
CREATE TYPE level3 AS (v text, l level2);
CREATE TYPE level4 AS (v text, l level3[]);
CREATE TYPE level5 AS (v text, l level4, b box[]);
CREATE TYPE boxes AS (b box, bs box[], p path);

CREATE TYPE floatrange AS RANGE (subtype = float8, subtype_diff = float8mi, multirange_type_name = floatmultirange);
CREATE TYPE positive_range AS RANGE (subtype = positive, multirange_type_name = positive_multirange);
CREATE TYPE textrange AS RANGE (subtype = text, multirange_type_name = textmultirange);
CREATE TYPE momentrange AS RANGE (subtype = timestamptz, multirange_type_name = momentmultirange);

CREATE TABLE item (id int, gone int, name text, at timestamptz DEFAULT now(), tags text[], "generated" int GENERATED ALWAYS AS (1) STORED);
ALTER TABLE item DROP COLUMN gone;
CREATE VIEW items AS SELECT id, tags, name AS "the name" FROM item;
CREATE TABLE items_by_id (id int, p pair) PARTITION BY LIST (id);

-- Casts that to_jsonb() has no eye for: of types that are built in, and to jsonb.
CREATE FUNCTION wrong_json(inet) RETURNS json LANGUAGE sql AS $$ SELECT '{"wrong": true}'::json $$;
CREATE CAST (inet AS json) WITH FUNCTION wrong_json(inet);
CREATE FUNCTION wrong_jsonb(mood) RETURNS jsonb LANGUAGE sql AS $$ SELECT '{"wrong": true}'::jsonb $$;
CREATE CAST (mood AS jsonb) WITH FUNCTION wrong_jsonb(mood);
CREATE FUNCTION wrong_json(good_mood) RETURNS json LANGUAGE sql AS $$ SELECT '{"wrong": true}'::json $$;
SET client_min_messages = error;
CREATE CAST (good_mood AS json) WITH FUNCTION wrong_json(good_mood);
});

#
# The list: name => [ [type, values...], ... ].  A value is a literal, or a
# reference to an SQL expression.  NULL is added to all.  (This file's bytes are
# UTF-8, and go to the server as they are.)
#

sub utf8 { my $text = join '', map { chr } @_; utf8::encode($text); return $text; }

my $planes = utf8(map { $_ * 0x10000 + 0x1234 } 0 .. 16);
my $edges = utf8(0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFEFF, 0xFFFD, 0x10000, 0x10FFFF);
my $controls = join '', map { chr } 1 .. 31;
my $long = \q{(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 2000) n)};
my $digits = '1234567890' x 100;
my $deep = ('[' x 500) . ('{"a":' x 100) . '1' . ('}' x 100) . (']' x 500);
my $awkward_list = '{"",NULL,"NULL",null,"say \"hi\"","back\\\\slash","a,b","{c}"," ","it\'s","' . $planes . '"}';

my @types = (
	numbers => [
		[ 'bool', 't', 'f', 'yes', 'no', 'on', 'off' ],
		[ 'int2', 0, 1, -1, 32767, -32768 ],
		[ 'int4', 0, 1, -1, 2147483647, -2147483648 ],
		[ 'int8', 0, 1, -1, '9223372036854775807', '-9223372036854775808', '999999999999999999', '1000000000000000000' ],
		[ 'float4', 0, '-0', 1.1, '3.4028235e38', '1e-45', 'NaN', 'Infinity', '-Infinity', '1e15', '0.1' ],
		[
			'float8', 0, '-0', 0.1, '0.30000000000000004', '1.7976931348623157e308', '5e-324', 'NaN', 'Infinity', '-Infinity', '123456789012345680',
			'1e15', '-1.5e-7'
		],
		[
			'numeric', 0, '1.50', '-0.00', 'NaN', 'Infinity', '-Infinity', $digits, "-$digits.$digits", '0.' . ('0' x 999) . '1', '1e100',
			'-1e-100', '123456789012345678', '1234567890123456789'
		],
		[ 'numeric(10,3)', 1, '-1.5', '0.001', '9999999.999', 'NaN', '0' ],
		[ 'numeric(1000,0)', $digits, "-$digits", 0, 10, 'NaN' ],
		[ 'money', '1', '-1.23', '92233720368547758.07', '-92233720368547758.08', 0, '1234567' ],
		[ 'oid', 0, 1, 4294967295, 16384, 2147483648 ],
		[ 'xid', 0, 1, 4294967295, 3, 16384 ],
		[ 'xid8', 0, 1, '18446744073709551615', '4294967296', 3 ],
		[ 'cid', 0, 1, 4294967295, 2, 3 ],
		[ 'tid', '(0,0)', '(0,1)', '(4294967295,65535)', '(1,2)', '(42,7)' ],
		[ 'pg_lsn', '0/0', '0/1', 'FFFFFFFF/FFFFFFFF', '16/B374D848', '1/0' ],
	],
	texts => [
		[
			'text', '', ' ', 'NULL', 'null', q{quotes " and ' and \ and / and `}, '{"a": [1]}', $planes, $edges, $controls, "line\r\nline\ttab",
			'\u0041\n', $long, 'true', '1', ' lead and trail ', utf8(0x65, 0x301, 0x202E, 0x200D), 'y' x 100000
		],
		[ 'varchar', '', 'a', ' ', 'ok ', $planes ],
		[ 'varchar(5)', '', 'abcde', '日本語', 'a    ', '"\\"' ],
		[ 'char(1)', '', 'a', ' ', '"', '語' ],
		[ 'char(5)', '', 'a', 'abcde', ' a', '日' ],
		[ 'bpchar', '', 'a', 'abcdefgh', ' a ', '日' ],
		[ '"char"', '', 'a', '"', '\\', ' ', '~' ],
		[ 'name', '', 'a', 'Odd "name"', 'x' x 63, '日本' ],
		[ 'bytea', '', '\x', '\x00', '\xdeadbeef00ff', '\x' . ('27' x 100), \q{(SELECT decode(string_agg(md5(n::text), ''), 'hex') FROM generate_series(1, 2000) n)} ],
		[ 'refcursor', '', 'portal', '<unnamed portal 1>', '"q"', '日' ],
		[ 'bit(1)', 0, 1, 0, 1, 0, 1 ],
		[ 'bit(8)', '00000000', '11111111', '10101010', '00000001', '10000000' ],
		[ 'varbit', '', 0, 1, '101010101010101010', '1' x 200 ],
		[ 'varbit(10)', '', 0, 1, '1111111111', '01' ],
		[ 'uuid', '00000000-0000-0000-0000-000000000000', 'ffffffff-ffff-ffff-ffff-ffffffffffff', map { "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1$_" } 1 .. 3 ],
	],
	times => [
		[ 'date', '2020-02-29', '4713-01-01 BC', '5874897-12-31', 'infinity', '-infinity', '0001-01-01', '0001-12-31 BC', '10000-01-01', '1999-12-31' ],
		[ 'time', '00:00', '24:00:00', '23:59:59.999999', '12:34:56.7', '00:00:00.000001' ],
		[ 'time(3)', '00:00', '24:00:00', '23:59:59.9999', '12:34:56.789', '00:00:00.001' ],
		[ 'timetz', '00:00+00', '24:00:00-15:59:59', '23:59:59.999999+15:59:59', '12:34:56+02', '12:34:56.7-03:30' ],
		[
			'timestamp', '2020-02-29 12:34:56.789', '4713-01-01 00:00:00 BC', '294276-12-31 23:59:59.999999', 'infinity', '-infinity',
			'0044-03-15 12:00:00.5 BC', '10000-01-01', '1970-01-01', '0001-01-01'
		],
		[ 'timestamp(0)', '2020-02-29 12:34:56.5', '2020-12-31 23:59:59.999', 'infinity', '0001-01-01 BC', '99999-01-01' ],
		[
			'timestamptz', '2020-02-29 12:34:56.789+00', '4713-01-01 00:00:00+00 BC', '294276-12-31 23:59:59.999999+00', 'infinity', '-infinity',
			'0044-03-15 12:00:00.5+05:30 BC', '9999-12-31 23:59:59-15:59', '1900-01-01 00:00+05:53:28', '2020-06-01 12:00+02'
		],
		[ 'timestamptz(2)', '2020-02-29 12:34:56.789+00', '2020-12-31 23:59:59.999+00', 'infinity', '0001-01-01 00:00+00 BC', '99999-01-01 00:00+00' ],
		[
			'interval', '0', '1 year 2 mons 3 days 04:05:06.789', '-1 year -2 mons +3 days -04:05:06.000001', '178000000 years', '-178000000 years',
			'1 day -00:00:00.000001', '-1 mon +1 day', '2562047788:00:54.775807', '-00:00:01'
		],
		[ 'interval(2)', '0', '1.239 seconds', '-1.239 seconds', '1 day', '100 hours' ],
		[ 'interval year to month', '0', '1 year', '-13 months', '100 years', '1 month' ],
	],
	documents => [
		[
			'json', '{}', 'null', '"text"', '1.50', '{"a": 1, "b": {"c": [1, 2.0, "x", null, true]}, "a": 2}', '{"b":1,"a":2,"":3}', '[ ]', $deep,
			'{"\u00e9\ud83d\ude00": "\"\\\\\/\b\f\n\r\t\u0001"}', "{\"$planes\": 1e400}", '-0', '0.10', '1E+2', 'false',
			\q{(SELECT json_object_agg(n, md5(n::text)) FROM generate_series(1, 2000) n)}
		],
		[
			'jsonb', '{}', 'null', '"text"', '1.50', '{"a": 1, "b": {"c": [1, 2.0, "x", null, true]}, "a": 2}', '[]', $deep, "{\"$planes\": 1e400}",
			'-1e-10', 'false', \q{(SELECT jsonb_object_agg(n, md5(n::text)) FROM generate_series(1, 2000) n)}
		],
		[ 'jsonpath', '$', '$.a[*] ? (@.b == "x")', 'strict $.a', '$."quoted key".**', '($.a + 1.50).double()' ],
		[ 'xml', '', '<a/>', '<a b="c">d &amp; é</a>', 'text only', '<?xml version="1.0" encoding="ISO-8859-1"?><r>x</r>', '<!-- c --><x><![CDATA[<&]]></x>' ],
		[ 'tsvector', '', 'a fat cat', q{'a':1A 'b':2,3B}, q{'quo''te' 'sp ace' 'back\\\\slash'}, 'x:1 y:16383' ],
		[ 'tsquery', '', 'a & b', q{'a b' | !c}, 'a <-> b <2> c', 'a:*AB & (b | c)' ],
	],
	addresses => [
		[ 'inet', '::1', '10.0.0.1/8', '2001:db8::/32', '0.0.0.0/0', '255.255.255.255', '::ffff:1.2.3.4' ],
		[ 'cidr', '::/0', '10.0.0.0/8', '2001:db8::/32', '0.0.0.0/0', '192.168.100.128/25' ],
		[ 'macaddr', '08:00:2b:01:02:03', '00:00:00:00:00:00', 'ff:ff:ff:ff:ff:ff', '0800.2b01.0204', '08002b:010205' ],
		[ 'macaddr8', '08:00:2b:01:02:03:04:05', '00:00:00:00:00:00:00:00', 'ff:ff:ff:ff:ff:ff:ff:ff', '08:00:2b:01:02:03', '0102030405060708' ],
		[ 'point', '(0,0)', '(1.5,-2.25)', '(Infinity,-Infinity)', '(NaN,0.1)', '(1e300,1e-300)' ],
		[ 'line', '{1,2,3}', '{0,1,0}', '{-1,0,0.1}', '[(0,0),(1,1)]', '{1e300,1,1}' ],
		[ 'lseg', '[(0,0),(1,1)]', '[(1,1),(0,0)]', '[(0.1,0.2),(0.3,0.4)]', '[(-1,-1),(-1,-1)]', '[(1e300,0),(0,1e-300)]' ],
		[ 'box', '(1,1),(0,0)', '(0,0),(1,2)', '(0.1,0.2),(0.3,0.4)', '(-1,-1),(-1,-1)', '(Infinity,0),(0,-Infinity)' ],
		[ 'path', '[(0,0),(1,1)]', '((0,0),(1,1))', '[(0.1,0.2)]', '((1,2),(3,4),(5,6))', '[(-1,-1),(Infinity,NaN)]' ],
		[ 'polygon', '((0,0))', '((0,0),(1,1))', '((0.1,0.2),(0.3,0.4),(1,0))', '((1,2),(3,4),(5,6))', '((-1,-1),(1e300,0))' ],
		[ 'circle', '<(0,0),0>', '<(1,2),3>', '<(0.1,0.2),0.3>', '<(-1,-1),1e300>', '<(0,0),Infinity>' ],
	],
	catalog => [
		[ 'regclass', 'pg_class', 'types.item', '"Odd, schema"."a ""table"""', '-', '999999999' ],
		[ 'regtype', 'int4', 'text[]', 'timestamptz', 'types.pair', '"Odd, schema"."t,[]"[]', '-', '999999999' ],
		[ 'regproc', 'now', 'types.wrong_jsonb', '"Odd, schema"."f ("', '-', '999999999' ],
		[ 'regprocedure', 'now()', 'types.wrong_jsonb(types.mood)', '"Odd, schema"."f ("(int4,text)', '-', 'lower(text)' ],
		[ 'regoper', '||/', '0', 'types.&&&', '999999999', '!!' ],
		[ 'regoperator', '+(int4,int4)', '-(NONE,int4)', '0', '||(text,text)', '=(text,text)' ],
		[ 'regrole', 'alice', '"Odd, ""role"""', '-', '999999999', 'pg_monitor' ],
		[ 'regnamespace', 'types', '"Odd, schema"', '-', '999999999', 'pg_catalog' ],
		[ 'regconfig', 'english', 'simple', '-', '999999999', 'german' ],
		[ 'regdictionary', 'english_stem', 'simple', '-', '999999999', 'german_stem' ],
		[ 'regcollation', '"C"', '"POSIX"', '-', '999999999', '"default"' ],
		[ 'aclitem', 'alice=r/alice', '=arwdDxt/alice', '"Odd, ""role"""=r*w/alice', 'alice=/"Odd, ""role"""', 'pg_monitor=U/alice' ],
		[ 'int2vector', '', '1 2 3', '-1', '0', '32767 -32768' ],
		[ 'oidvector', '', '1 2 3', '4294967295', '0', '16384 16385' ],
		[ 'pg_snapshot', '10:20:10,14,15', '1:1:', '1:2:1', '10:20:', '12345678901:12345678902:' ],
		[ 'txid_snapshot', '10:20:10,14,15', '1:1:', '1:2:1', '10:20:', '12345678901:12345678902:' ],
		[ 'pg_node_tree', map { \"(SELECT adbin FROM pg_attrdef WHERE adrelid = 'types.defaults'::regclass AND adnum = $_)" } 1 .. 5 ],
	],
	ranges => [
		[ 'int4range', 'empty', '[1,5)', '(,5]', '[1,)', '(,)', '[1,1]' ],
		[ 'int8range', 'empty', '[1,5)', '(,5]', '[1,)', '(,)', '[-9223372036854775808,1)' ],
		[ 'numrange', 'empty', '[1.50,2.0)', '(,NaN]', '[0.1,Infinity)', '(1,)' ],
		[ 'tsrange', 'empty', '[2020-01-01 12:00,2020-01-02)', '(,infinity]', '[0044-03-15 BC,)', '(-infinity,10000-01-01]' ],
		[ 'tstzrange', 'empty', '[2020-01-01 12:00+05:30,2020-01-02 00:00+00)', '(,infinity]', '["0044-03-15 00:00+00 BC",)', '(-infinity,10000-01-01 00:00+00]' ],
		[ 'daterange', 'empty', '[2020-01-01,2020-02-29]', '(,infinity]', '["0044-03-15 BC",)', '(-infinity,10000-01-01)' ],
		[ 'int4multirange', '{}', '{[1,5)}', '{(,5],[10,)}', '{[1,2),[3,4),[5,6)}', '{(,)}' ],
		[ 'int8multirange', '{}', '{[1,5)}', '{(,5],[10,)}', '{[1,2),[3,4),[5,6)}', '{(,)}' ],
		[ 'nummultirange', '{}', '{[1.50,2.0)}', '{(,NaN]}', '{[0.1,0.2),(1,)}', '{(,)}' ],
		[ 'tsmultirange', '{}', '{[2020-01-01,2020-01-02)}', '{(,infinity]}', '{["0044-03-15 BC",)}', '{(,)}' ],
		[ 'tstzmultirange', '{}', '{[2020-01-01 00:00+00,2020-01-02 00:00+05:30)}', '{(,infinity]}', '{["0044-03-15 00:00+00 BC",)}', '{(,)}' ],
		[ 'datemultirange', '{}', '{[2020-01-01,2020-01-02]}', '{(,infinity]}', '{["0044-03-15 BC",2000-01-01)}', '{(,)}' ],
		[ 'types.floatrange', 'empty', '[0.1,0.30000000000000004)', '(,Infinity]', '[NaN,NaN]', '(-1e300,5e-324)' ],
		[ 'types.floatmultirange', '{}', '{[0.1,0.2),[0.3,0.4)}', '{(,Infinity]}', '{[NaN,NaN]}', '{(,)}' ],
		[ 'types.positive_range', 'empty', '[1,5)', '(,5]', '[1,)', '(7,8]' ],
		[ 'types.positive_multirange', '{}', '{[1,5)}', '{(,5]}', '{[1,2),[3,)}', '{(7,8]}' ],
		[ 'types.textrange', 'empty', '[a,b)', '["","a,b")', '["\"q\"","\\\\"]', '("(",)' ],
		[ 'types.textmultirange', '{}', '{[a,b)}', '{["","a,b")}', '{["\"q\"","\\\\"]}', '{("(",)}' ],
		[ 'types.momentrange', 'empty', '[2020-01-01 12:00+05:30,)', '(,infinity]', '("0044-03-15 00:00+00 BC",)', '(,)' ],
		[ 'types.momentmultirange', '{}', '{[2020-01-01 12:00+05:30,)}', '{(,infinity]}', '{("0044-03-15 00:00+00 BC",)}', '{(,)}' ],
		[ 'types.span', 'empty', '[2020-01-01 12:00+05:30,)', '(,infinity]', '("0044-03-15 00:00+00 BC",)', '(,)' ],
	],
	arrays_of_numbers => [
		[ 'bool[]', '{}', '{t,f,NULL}', '{{t,f},{f,t}}', '[0:1]={t,f}', '{NULL}' ],
		[ 'int2[]', '{}', '{1,-1,NULL}', '{{1,2},{3,4}}', '[-5:-4]={1,2}', '{32767,-32768}' ],
		[
			'int4[]', '{}', '{1,-1,NULL}', '{{{1},{2}},{{3},{4}}}', '[2:3][0:1]={{1,2},{3,4}}', '{NULL,NULL}', '{{{{{{7}}}}}}',
			\q{(SELECT array_agg(n) FROM generate_series(1, 20000) n)}
		],
		[ 'int8[]', '{}', '{1,-1,NULL}', '{{1,2},{3,4}}', '[5:5]={9223372036854775807}', '{-9223372036854775808}' ],
		[ 'float4[]', '{}', '{1.1,NaN,-Infinity,1e-45}', '{{0.1},{-0}}', '[0:0]={3.4028235e38}', '{NULL}' ],
		[ 'float8[]', '{}', '{0.30000000000000004,NaN,Infinity}', '{{0.1},{-0}}', '[0:0]={1.7976931348623157e308}', '{5e-324,NULL}' ],
		[ 'numeric[]', '{}', "{1.50,NaN,-Infinity,$digits}", '{{0.10},{-0.00}}', '[0:0]={1e100}', '{NULL}' ],
		[ 'numeric(5,2)[]', '{}', '{1.5,NaN,0}', '{{0.10},{-0.00}}', '[0:0]={999.99}', '{NULL}' ],
		[ 'money[]', '{}', '{1,-1.23}', '{{"1,000.00"},{2}}', '[0:0]={5}', '{NULL}' ],
		[ 'oid[]', '{}', '{0,4294967295}', '{{1},{2}}', '[0:0]={5}', '{NULL}' ],
		[ 'xid[]', '{}', '{0,4294967295}', '{{1},{2}}', '[0:0]={5}', '{NULL}' ],
		[ 'xid8[]', '{}', '{0,18446744073709551615}', '{{1},{2}}', '[0:0]={5}', '{NULL}' ],
		[ 'tid[]', '{}', '{"(0,1)","(1,2)"}', '{{"(0,1)"},{"(1,2)"}}', '[0:0]={"(0,1)"}', '{NULL}' ],
		[ 'pg_lsn[]', '{}', '{0/0,FFFFFFFF/FFFFFFFF}', '{{0/1},{0/2}}', '[0:0]={1/0}', '{NULL}' ],
		[ 'int2vector[]', '{}', '{"1 2","3",""}', '{{"1 2"},{"3"}}', '[0:0]={"1 2"}', '{NULL}' ],
		[ 'oidvector[]', '{}', '{"1 2","3",""}', '{{"1 2"},{"3"}}', '[0:0]={"1 2"}', '{NULL}' ],
	],
	arrays_of_texts => [
		[
			'text[]', '{}', $awkward_list, '{{a,b},{NULL,"NULL"}}', '[2:3][0:1]={{"",b},{"c d",NULL}}', '{"true",1}', "{\"$edges\"}",
			\"ARRAY[E'\\n\\t\\b\\x01\\x1f', U&'\\0085\\2028']", \q{(SELECT array_agg(md5(n::text)) FROM generate_series(1, 2000) n)}, '{z}'
		],
		[ 'varchar(5)[]', '{}', '{"",NULL,"NULL",abcde}', '{{a},{b}}', '[0:0]={"日本語"}', '{" "}' ],
		[ 'char(3)[]', '{}', '{"",NULL,"ab"}', '{{a},{b}}', '[0:0]={"日本語"}', '{" "}' ],
		[ '"char"[]', '{}', '{a,"\"","\\\\",","}', '{{a},{b}}', '[0:0]={" "}', '{NULL,""}' ],
		[ 'name[]', '{}', '{a,"Odd \"name\"",NULL}', '{{a},{b}}', '[0:0]={"日"}', '{""}' ],
		[ 'bytea[]', '{}', '{"\\\\x00","\\\\xdeadbeef"}', '{{"\\\\x01"},{"\\\\x02"}}', '[0:0]={"\\\\x"}', '{NULL}' ],
		[ 'uuid[]', '{}', '{00000000-0000-0000-0000-000000000000,NULL}', '{{ffffffff-ffff-ffff-ffff-ffffffffffff}}', '[0:0]={a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}', '{NULL}' ],
		[ 'bit(3)[]', '{}', '{101,010}', '{{111},{000}}', '[0:0]={001}', '{NULL}' ],
		[ 'varbit[]', '{}', '{101,"",0}', '{{1},{0}}', '[0:0]={001}', '{NULL}' ],
		[ 'refcursor[]', '{}', '{a,""}', '{{"\"q\""},{b}}', '[0:0]={c}', '{NULL}' ],
		[ 'json[]', '{}', '{"{\"a\": 1, \"a\": 2}","null",NULL,"[1.50]","\"s\""}', '{{1},{"{}"}}', '[0:0]={"\"\\\\u00e9\\\\\\\\\""}', '{true}' ],
		[ 'jsonb[]', '{}', '{"{\"b\": 1, \"a\": 2}","null",NULL,"[1.50]","\"s\""}', '{{1},{"{}"}}', '[0:0]={"\"\\\\u00e9\\\\\\\\\""}', '{true}' ],
		[ 'jsonpath[]', '{}', '{$,"$.a ? (@ == \"x\")"}', '{{$.b},{$}}', '[0:0]={"strict $"}', '{NULL}' ],
		[ 'xml[]', '{}', '{"<a b=\"c\">d, e</a>",NULL}', '{{<a/>},{<b/>}}', '[0:0]={"text"}', '{""}' ],
		[ 'tsvector[]', '{}', q({"'a':1A 'b':2,3B",""}), '{{"a b"},{c}}', '[0:0]={x}', '{NULL}' ],
		[ 'tsquery[]', '{}', q({"'a b' | !c",""}), '{{"a & b"},{c}}', '[0:0]={x}', '{NULL}' ],
	],
	arrays_of_times => [
		[ 'date[]', '{}', '{2020-02-29,infinity,-infinity,"0044-03-15 BC",NULL}', '{{5874897-12-31},{10000-01-01}}', '[0:0]={0001-01-01}', '{NULL}' ],
		[ 'time[]', '{}', '{24:00,23:59:59.999999}', '{{00:00},{01:00}}', '[0:0]={12:00}', '{NULL}' ],
		[ 'timetz[]', '{}', '{24:00-15:59,23:59:59.999999+00}', '{{00:00+01},{01:00+05:30}}', '[0:0]={12:00-03}', '{NULL}' ],
		[ 'timestamp[]', '{}', '{"2020-02-29 12:34:56.7",infinity,"0044-03-15 00:00 BC",NULL}', '{{294276-12-31},{10000-01-01}}', '[0:0]={0001-01-01}', '{-infinity}' ],
		[
			'timestamptz[]', '{}', '{"2020-02-29 12:34:56.7+05:30",infinity,"0044-03-15 00:00+00 BC",NULL}',
			'{{"294276-12-31 00:00+00"},{"10000-01-01 00:00+00"}}', '[0:0]={"0001-01-01 00:00+00"}', '{-infinity}'
		],
		[ 'timestamptz(0)[]', '{}', '{"2020-02-29 12:34:56.7+05:30"}', '{{"10000-01-01 00:00+00"}}', '[0:0]={"0001-01-01 00:00+00"}', '{-infinity}' ],
		[ 'interval[]', '{}', '{"1 year -2 mons +3 days -04:05:06.7","0"}', '{{"1 day"},{-00:00:01}}', '[0:0]={"178000000 years"}', '{NULL}' ],
	],
	arrays_of_addresses => [
		[ 'inet[]', '{}', '{::1,10.0.0.1/8,NULL}', '{{::},{0.0.0.0}}', '[0:0]={2001:db8::/32}', '{NULL}' ],
		[ 'cidr[]', '{}', '{::/0,10.0.0.0/8,NULL}', '{{::/1},{0.0.0.0/0}}', '[0:0]={2001:db8::/32}', '{NULL}' ],
		[ 'macaddr[]', '{}', '{08:00:2b:01:02:03,NULL}', '{{00:00:00:00:00:00}}', '[0:0]={ff:ff:ff:ff:ff:ff}', '{NULL}' ],
		[ 'macaddr8[]', '{}', '{08:00:2b:01:02:03:04:05,NULL}', '{{00:00:00:00:00:00:00:00}}', '[0:0]={ff:ff:ff:ff:ff:ff:ff:ff}', '{NULL}' ],
		[ 'point[]', '{}', '{"(0,0)","(Infinity,NaN)",NULL}', '{{"(1,2)"},{"(3,4)"}}', '[0:0]={"(0.1,1e300)"}', '{NULL}' ],
		[ 'line[]', '{}', '{"{1,2,3}",NULL}', '{{"{0,1,0}"},{"{1,1,1}"}}', '[0:0]={"{-1,0,0.1}"}', '{NULL}' ],
		[ 'lseg[]', '{}', '{"[(0,0),(1,1)]",NULL}', '{{"[(0,0),(1,2)]"},{"[(0,0),(2,1)]"}}', '[0:0]={"[(0.1,0),(1,1)]"}', '{NULL}' ],
		[ 'box[]', '{}', '{(1,1),(0,0);(3,3),(2,2)}', '{NULL;(1,1),(0,0)}', '{{(1,1),(0,0)};{(2,2),(1,1)}}', '[0:1]={(1,1),(0,0);(Infinity,1),(0,0.1)}', '{NULL}' ],
		[ 'path[]', '{}', '{"[(0,0),(1,1)]",NULL}', '{{"((0,0),(1,2))"},{"[(0,0),(2,1)]"}}', '[0:0]={"[(0.1,0),(1,1)]"}', '{NULL}' ],
		[ 'polygon[]', '{}', '{"((0,0),(1,1))",NULL}', '{{"((0,0),(1,2))"},{"((0,0),(2,1))"}}', '[0:0]={"((0.1,0),(1,1))"}', '{NULL}' ],
		[ 'circle[]', '{}', '{"<(0,0),1>",NULL}', '{{"<(0,0),2>"},{"<(0,0),3>"}}', '[0:0]={"<(0.1,0),1>"}', '{NULL}' ],
	],
	arrays_of_others => [
		[ 'regclass[]', '{}', '{pg_class,types.item,"\"Odd, schema\".\"a \"\"table\"\"\"","-",999999999}', '{{pg_type},{pg_proc}}', '[0:0]={pg_am}', '{NULL}' ],
		[ 'regtype[]', '{}', '{int4,text[],types.pair,"\"Odd, schema\".\"t,[]\"[]","-"}', '{{text},{"timestamp with time zone"}}', '[0:0]={bool}', '{NULL}' ],
		[ 'regproc[]', '{}', '{now,types.wrong_jsonb,"\"Odd, schema\".\"f (\""}', '{{now},{now}}', '[0:0]={now}', '{NULL}' ],
		[ 'regrole[]', '{}', '{alice,"\"Odd, \"\"role\"\"\"",NULL}', '{{alice},{alice}}', '[0:0]={alice}', '{NULL}' ],
		[ 'regnamespace[]', '{}', '{types,"\"Odd, schema\"",NULL}', '{{types},{types}}', '[0:0]={types}', '{NULL}' ],
		[ 'aclitem[]', '{}', '{alice=r/alice,"\"Odd, \"\"role\"\"\"=r/alice"}', '{{=r/alice},{=w/alice}}', '[0:0]={alice=rw/alice}', '{alice=/alice}' ],
		[ 'pg_snapshot[]', '{}', '{"10:20:10,14,15",1:1:}', '{{1:1:},{1:2:1}}', '[0:0]={10:20:}', '{NULL}' ],
		[ 'int4range[]', '{}', '{"[1,5)",empty,"(,)"}', '{{"[1,2)"},{"[3,4)"}}', '[0:0]={"[1,)"}', '{NULL}' ],
		[ 'tstzrange[]', '{}', '{"[2020-01-01 00:00+05:30,)",empty}', '{{"(,)"},{"(,infinity)"}}', '[0:0]={"[\"0044-03-15 00:00+00 BC\",)"}', '{NULL}' ],
		[ 'int4multirange[]', '{}', '{"{[1,5),[7,8)}","{}"}', '{{"{[1,2)}"},{"{}"}}', '[0:0]={"{[1,)}"}', '{NULL}' ],
		[ 'tstzmultirange[]', '{}', '{"{[2020-01-01 00:00+05:30,)}","{}"}', '{{"{(,)}"},{"{}"}}', '[0:0]={"{[\"0044-03-15 00:00+00 BC\",)}"}', '{NULL}' ],
		[ 'types.floatrange[]', '{}', '{"[0.1,0.30000000000000004)",empty}', '{{"(,)"},{"(1,2)"}}', '[0:0]={"(5e-324,)"}', '{NULL}' ],
		[ 'types.textrange[]', '{}', '{"[\"a,b\",c)",empty}', '{{"(,)"},{"(a,b)"}}', '[0:0]={"(\"}{\",)"}', '{NULL}' ],
		[ 'types.positive_multirange[]', '{}', '{"{[1,5),[7,8)}","{}"}', '{{"{[1,2)}"},{"{}"}}', '[0:0]={"{[1,)}"}', '{NULL}' ],
	],
	enums => [
		[ 'types.mood', 'sad', 'ok', 'very, "happy"', q{it's}, ' spaces ', '日本語 😀', 'back\slash', '{br,ace}', 'NULL', 'null', '(a,b)', '' ],
		[
			'types.mood[]', '{}', '{sad,NULL,"NULL","null","very, \"happy\""}', '{{"it\'s"},{" spaces "}}', '[2:3]={"日本語 😀","back\\\\slash"}',
			'{"{br,ace}","(a,b)",""}'
		],
		[ 'types.good_mood', 'ok', 'very, "happy"', q{it's}, '日本語 😀', 'NULL', '' ],
		[ 'types.good_mood[]', '{}', '{ok,NULL,"NULL"}', '{{"it\'s"},{ok}}', '[2:3]={"日本語 😀","back\\\\slash"}', '{"{br,ace}"}' ],
	],
	domains => [
		[ 'types.positive', 1 .. 5 ],
		[ 'types.short_text', '', 'a', q{"quotes" 'n' \\}, $planes, 'NULL' ],
		[ 'types.price', '0', '1.5', '99999999.99', '0.01', '100' ],
		[ 'types.moment', '2020-01-01 12:00:00.5+05:30', 'infinity', '0044-03-15 00:00+00 BC', '294276-01-01 00:00+00', '2020-06-01 00:00+00' ],
		[ 'types.day', '2020-01-01', 'infinity', '0044-03-15 BC', '10000-01-01', '-infinity' ],
		[ 'types.flag', 't', 'f', 't', 'f', 't', 'f' ],
		[ 'types.document', '{"a": 1, "a": 2.50}', 'null', '"text"', '[1, {"b": []}]', 'true' ],
		[ 'types.binary_document', '{"a": 1, "a": 2.50}', 'null', '"text"', '[1, {"b": []}]', '17' ],
		[ 'types.more_positive', 11 .. 15 ],
		[ 'types.most_positive', 11 .. 15 ],
		[ 'types.numbers', '{}', '{1,NULL,2}', '{{1,2},{3,4}}', '[2:3]={5,6}', '{7}' ],
		[ 'types.positives', '{}', '{1,NULL,2}', '{{1,2},{3,4}}', '[2:3]={5,6}', '{7}' ],
		[ 'types.good_pair', '(1,a)', '(,)', '(2,"")', '(,"a ""q"", (b) \\\\ c")', '(-1,NULL)' ],
		[ 'types.pairs', '{}', '{"(1,a)",NULL}', '{{"(,)"},{"(2,\"\")"}}', '[0:0]={"(,\"a \"\"q\"\", (b)\")"}', '{"(3,c)"}' ],
		[ 'types.fixed', '', 'a', 'abcde', '日', '     ' ],
		[ 'types.real_number', '0.30000000000000004', 'NaN', '-0', '5e-324', 'Infinity' ],
	],
	arrays_of_domains => [
		[ 'types.corner[]', '{}', '{(3,4),(1,2);NULL}', '{{(1,1),(0,0)};{(3,3),(2,2)}}', '[2:2]={(2,1),(0,0)}', '{NULL}' ],
		[ 'types.positive[]', '{}', '{1,NULL}', '{{1,2},{3,4}}', '[2:3]={5,6}', '{7}' ],
		[ 'types.short_text[]', '{}', $awkward_list, '{{a},{NULL}}', '[2:3]={"",b}', '{"NULL"}' ],
		[ 'types.price[]', '{}', '{1.5,NULL}', '{{1,2},{3,4}}', '[2:3]={5,6}', '{7.123}' ],
		[ 'types.moment[]', '{}', '{"2020-01-01 12:00:00.5+05:30",NULL,infinity}', '{{"0044-03-15 00:00+00 BC"}}', '[2:2]={"10000-01-01 00:00+00"}', '{NULL}' ],
		[ 'types.flag[]', '{}', '{t,f,NULL}', '{{t},{f}}', '[2:2]={t}', '{f}' ],
		[ 'types.document[]', '{}', '{"{\"a\": 1, \"a\": 2.50}",NULL,"null"}', '{{"[]"},{"\"s\""}}', '[2:2]={"{}"}', '{NULL}' ],
		[ 'types.more_positive[]', '{}', '{11,NULL}', '{{11,12},{13,14}}', '[2:3]={15,16}', '{17}' ],
		[ 'types.numbers[]', '{}', '{"{1,NULL,2}",NULL,"{}"}', '{{"{{1,2},{3,4}}"},{"{7}"}}', '[2:2]={"[2:3]={5,6}"}', '{NULL}' ],
		[ 'types.good_pair[]', '{}', '{"(1,a)",NULL}', '{{"(,)"},{"(2,\"\")"}}', '[0:0]={"(,\"a \"\"q\"\", (b)\")"}', '{"(3,c)"}' ],
		[ 'types.pairs[]', '{}', '{"{\"(1,a)\",NULL}",NULL}', '{{"{}"}}', '[0:0]={"{\"(1,b)\"}"}', '{NULL}' ],
		[ 'types.real_number[]', '{}', '{0.30000000000000004,NaN}', '{{-0}}', '[0:0]={5e-324}', '{NULL}' ],
	],
	of_the_information_schema => [
		[ 'information_schema.cardinal_number', 0 .. 4 ],
		[ 'information_schema.character_data', '', 'a', '"q"', $planes, 'NULL' ],
		[ 'information_schema.sql_identifier', '', 'a', '"q"', '日', 'NULL' ],
		[ 'information_schema.time_stamp', '2020-01-01 12:00:00.567+05:30', 'infinity', '0044-03-15 00:00+00 BC', '10000-01-01 00:00+00', '2020-06-01 00:00+00' ],
		[ 'information_schema.yes_or_no', 'YES', 'NO', 'YES', 'NO', 'YES', 'NO' ],
		[ 'information_schema.cardinal_number[]', '{}', '{1,NULL}', '{{1},{2}}', '[0:0]={7}', '{0}' ],
		[ 'information_schema.time_stamp[]', '{}', '{"2020-01-01 12:00:00.567+05:30",NULL}', '{{infinity}}', '[0:0]={"0044-03-15 00:00+00 BC"}', '{NULL}' ],
		[ 'information_schema.sql_identifier[]', '{}', '{a,NULL,"NULL"}', '{{"\"q\""}}', '[0:0]={""}', '{NULL}' ],
		[ 'information_schema.enabled_roles', '(a)', '("")', '()', '("""q""")', '("a b")' ],
		[ 'pg_am', map { \"(SELECT a FROM pg_am a ORDER BY oid OFFSET $_ LIMIT 1)" } 0 .. 4 ],
		[ 'pg_class', map { \"(SELECT c FROM pg_class c WHERE oid < 16384 ORDER BY relname OFFSET $_ LIMIT 1)" } 0 .. 4 ],
		[ 'pg_cast[]', '{}', map { \"ARRAY(SELECT c FROM pg_cast c ORDER BY oid OFFSET $_ LIMIT 3)" } 0 .. 4 ],
	],
	composites => [
		[ 'types.pair', '(1,a)', '(,)', '(2,"")', '(,"a ""q"", (b) \\\\ c")', '(-1,NULL)', '( 7 , x )', "(8,\"$planes\")", \"ROW(3, E'line\\r\\n\\t\\x01')" ],
		[ 'types.one', '(a)', '()', '("")', '("(a,b)")', '(" ")', '("""")', \q{ROW((SELECT string_agg(md5(n::text), '') FROM generate_series(1, 2000) n))} ],
		[ 'types.nothing', '()', \'NULL', '()', \'NULL', '()' ],
		[ 'types.cut', '(1,a)', '(,)', '(2,"")', '(,"a ""q"", (b)")', '(3,NULL)' ],
		[
			'types.rich',
			\q{NULL::types.rich},
			'(,,,,,,,,,,,,,,,,)',
			\q{ROW('a "q", \ (x)', true, 1.50, 0.30000000000000004, '{"b": 1, "a": [1.0, null], "b": 2}', '{"b": 1, "a": {}}', '2020-01-01 12:00+05:30',
				'0044-03-15 BC', '{"",NULL,"NULL","a \"b\"","c\\d","(e,f)"}', '[0:1][2:2]={{1},{2}}', (1, 'x'), ARRAY[(1, 'y "z"')::types.pair, NULL, (NULL, '')::types.pair],
				'very, "happy"', '{"very, \"happy\"",NULL}', '[1,5)', '-1 day 1 hour', '\x00ff')::types.rich},
			\q{ROW('', false, 'NaN', 'Infinity', 'null', 'null', 'infinity', 'infinity', '{}', '{}', (NULL, NULL), '{}', 'NULL', '{}', 'empty', '0', '')::types.rich},
			\q{ROW('NULL', NULL, '-Infinity', '-0', '"s"', '[]', '-infinity', '10000-01-01', '{{a,b},{c,d}}', '{NULL}', NULL, '{NULL}', '',
				'{NULL,"NULL"}', '(,)', '178000000 years', '\xde')::types.rich},
			\q{ROW((SELECT string_agg(md5(n::text), '') FROM generate_series(1, 500) n), true, repeat('9', 1000)::numeric, 1e300,
				(SELECT json_agg(n) FROM generate_series(1, 500) n), '1', '294276-12-31 23:59:59.999999+00', '4713-01-01 BC',
				(SELECT array_agg(md5(n::text)) FROM generate_series(1, 300) n), '{}', (1, repeat('"', 100)), '{}', 'sad', '{}',
				'[1,)', '1 sec', '\x01')::types.rich},
		],
		[
			'types.checked',
			\q{ROW(1, 'a "b"', '2020-01-01 12:00+05:30', '{1,NULL,3}', '{"a": 1, "a": 2}', (1, 'x'), ARRAY[(2, '')::types.good_pair, NULL], 'ok')::types.checked},
			'(,,,,,,,)',
			\q{ROW(2, '', 'infinity', '{}', 'null', (NULL, NULL), '{}', 'NULL')::types.checked},
			\q{ROW(3, '(a,b)', '0044-03-15 00:00+00 BC', '{{1},{2}}', '[]', NULL, NULL, '')::types.checked},
			\q{ROW(4, '\', NULL, '[3:3]={7}', '"s"', (9, '"'), ARRAY[(9, '"')::types.good_pair], '(a,b)')::types.checked},
		],
		[
			'types.level5',
			map { \qq{ROW($_, ROW($_, ARRAY[ROW($_, ROW($_, ARRAY[ROW($_, 1)::types.level1, ROW($_ || $_, NULL)::types.level1, NULL])::types.level2)::types.level3, NULL])::types.level4,
				'{(1,1),(0,0);(3,3),(2,2)}')::types.level5} } (q{'a'}, q{''}, q{'"'}, q{'\\'}, q{'{"(,)"}'}, 'NULL')
		],
		[ 'types.boxes', '("(1,1),(0,0)","{(1,1),(0,0);(3,3),(2,2)}","[(0,0)]")', '(,,)', '("(2,1),(0,0)",{},)', '(,"{NULL;(1,1),(0,0)}",)', '(,{NULL},"((1,2))")' ],
		[ 'types.item', '(1,a,"2020-01-01 12:00:00+05:30","{a,NULL}",1)', '(,,,,)', '(2,"",infinity,{},1)', '(3,"a ""q""",,"{""x y""}",1)', '(4,NULL,"0044-03-15 00:00:00+00 BC",,)' ],
		[ 'types.items', '(1,"{a,NULL}",a)', '(,,)', '(2,{},"")', '(3,"{""x y""}","a ""q""")', '(4,,NULL)' ],
		[ 'types.items_by_id', '(1,"(1,a)")', '(,)', '(2,"(,)")', '(3,"(2,""a """"q"""""")")', '(4,"(,NULL)")' ],
		[ '"Odd, schema"."a ""table"""', '(1)', '()', '(2)', '(3)', '(4)' ],
	],
	arrays_of_composites => [
		[
			'types.pair[]', '{}', '{"(1,a)",NULL,"(,)"}', '{{"(2,\"\")"},{"(3,\"a \"\"q\"\", {b} \\\\\\\\ c\")"}}', '[2:3]={"(4,x)","(5,NULL)"}',
			'{NULL}', \q{(SELECT array_agg((n, md5(n::text))::types.pair) FROM generate_series(1, 1000) n)}
		],
		[ 'types.one[]', '{}', '{(a),(),NULL}', '{{"(\"\")"},{"(\"(a,b)\")"}}', '[2:3]={(x),(NULL)}', '{NULL}' ],
		[ 'types.nothing[]', '{}', '{()}', '{(),NULL}', '{{()},{()}}', '[2:3]={(),()}' ],
		[ 'types.cut[]', '{}', '{"(1,a)",NULL,"(,)"}', '{{"(2,\"\")"}}', '[2:2]={"(4,x)"}', '{NULL}' ],
		[ 'types.rich[]', '{}', '{NULL}', '{"(,,,,,,,,,,,,,,,,)"}', map { \"ARRAY[$_, NULL, $_]::types.rich[]" }
			q{ROW('a "q", \ (x)', true, 1.50, 0.1, '{"b": [1.0]}', '{"b": 1}', '2020-01-01 12:00+05:30', '0044-03-15 BC', '{"",NULL,"NULL","a \"b\"","c\\d"}', '[0:1]={1,2}', (1, 'x'),
				ARRAY[(1, 'y "z"')::types.pair, NULL], 'very, "happy"', '{"very, \"happy\"",NULL}', '[1,5)', '-1 day', '\x00ff')},
			q{ROW('', false, 'NaN', 'Infinity', 'null', 'null', 'infinity', 'infinity', '{}', '{}', (NULL, NULL), '{}', 'NULL', '{}', 'empty', '0', '')} ],
		[ 'types.checked[]', '{}', '{NULL}', '{"(,,,,,,,)"}', '{"(1,a,infinity,\"{1,NULL}\",\"{\"\"a\"\": 1}\",\"(1,x)\",,ok)"}', '{{"(2,,,,,,,)"},{"(3,,,,,,,)"}}' ],
		[ 'types.boxes[]', '{}', '{NULL}', '{"(\"(1,1),(0,0)\",\"{(1,1),(0,0);(3,3),(2,2)}\",\"[(0,0)]\")"}', '{"(,,)"}', '{{"(,{},)"}}' ],
		[ 'types.item[]', '{}', '{NULL}', '{"(1,a,\"2020-01-01 12:00:00+05:30\",\"{a,NULL}\",1)"}', '{{"(,,,,)"}}', '[0:0]={"(2,,infinity,,)"}' ],
		[
			'types.level4[]', '{}', '{NULL}',
			map { \qq{ARRAY[ROW($_, ARRAY[ROW($_, ROW($_, ARRAY[ROW($_, 1)::types.level1, NULL])::types.level2)::types.level3, NULL])::types.level4]} }
			  (q{'a"'}, q{'\\'}, q{'{"(,)"}'})
		],
	]);

my %not_null = map { $_ => 1 } 'types.most_positive';

#
# Contrib, in a schema that is in no search_path
#

my @contrib;
write_sql('CREATE SCHEMA ext');
for my $extension ([
		hstore =>
		  [
			'ext.hstore', '', 'a=>1', 'a=>NULL, b=>""', q{"a b"=>"c, \"d\"", "\\\\"=>"=>"}, 't=>t, n=>1.50',
			\q{(SELECT ext.hstore(array_agg(n::text), array_agg(md5(n::text))) FROM generate_series(1, 500) n)}
		  ],
		[ 'ext.hstore[]', '{}', '{"\"a\"=>\"1\"",NULL}', '{{""},{"\"b\"=>NULL"}}', '[2:2]={"\"a b\"=>\"c, d\""}', '{NULL}' ],
		[ 'ext.attributes', '', 'a=>1', 'a=>NULL, b=>""', '"a b"=>"c"', 't=>t' ],
		[ 'ext.attributes[]', '{}', '{"\"a\"=>\"1\"",NULL}', '{{""}}', '[2:2]={"\"a\"=>NULL"}', '{NULL}' ],
		[ 'ext.with_attributes', '(1,"""a""=>""1""")', '(,)', '(2,)', '(3,"""b""=>NULL")', '(4,"")' ],
		[ 'ext.with_attributes[]', '{}', '{"(1,\"\"\"a\"\"=>\"\"1\"\"\")"}', '{"(,)"}', '{{"(2,)"}}', '[2:2]={"(4,\"\")"}' ]
	],
	[
		citext => [ 'ext.citext', '', 'A', 'a', 'É "q"', 'NULL' ],
		[ 'ext.citext[]', '{}', '{A,NULL,"NULL"}', '{{"a \"b\""},{""}}', '[2:2]={"É"}', '{NULL}' ],
		[ 'ext.email', 'A@b', 'a@b', 'É@"q"', '@', 'NULL@' ]
	],
	[
		ltree => [ 'ext.ltree', '', 'a', 'a.b', 'A_1.b.c', 'x.y.z' ],
		[ 'ext.ltree[]', '{}', '{a.b,NULL}', '{{a},{""}}', '[2:2]={x.y}', '{NULL}' ],
		[ 'ext.lquery', '*', 'a.*', 'a|b.*{1,2}', '!a', 'a@*%' ],
		[ 'ext.ltxtquery', 'a', 'a & b', 'a | !b', 'a@*', 'a & (b | c)' ]
	],
	[
		cube => [ 'ext.cube', '(1)', '(1,2,3)', '(1,2),(3,4)', '(0.1,-1e300)', '()' ],
		[ 'ext.cube[]', '{}', '{"(1)",NULL}', '{{"(1, 2)"},{"(3, 4)"}}', '[2:2]={"(1, 2),(3, 4)"}', '{NULL}' ]
	],
	[
		isn => [ 'ext.isbn', map { \"ext.isbn('$_')" } '0-393-04002-X', '978-0-393-04002-9', '0-201-03801-3', '0-201-03803-X', '0-201-03822-6' ],
		[ 'ext.isbn[]', '{}', '{NULL}', '{0-393-04002-X}', '{0-201-03801-3,NULL}', '[2:2]={0-201-03803-X}' ]
	],
	[ seg => [ 'ext.seg', '1', '1 .. 2', '~1.50', '<3', '.. 4' ], [ 'ext.seg[]', '{}', '{"1 .. 2",NULL}', '{{1},{2}}', '[2:2]={"1.50"}', '{NULL}' ] ],
	[ intarray => [ 'ext.query_int', '1', '1&2', '1|!2', '(1|2)&3', '!4' ] ])
{
	my ($name, @of_extension) = @$extension;
	my ($status, $stdout, $stderr) = $node->psql('postgres', "CREATE EXTENSION $name SCHEMA ext");

	if ($status)
	{
		note "no $name: $stderr";
		next;
	}
	write_sql('CREATE DOMAIN ext.attributes AS ext.hstore; CREATE TYPE ext.with_attributes AS (n int, h ext.hstore)')
	  if $name eq 'hstore';
	write_sql(q{CREATE DOMAIN ext.email AS ext.citext CHECK (VALUE::text ~ '@')}) if $name eq 'citext';
	push @contrib, "of_$name" => \@of_extension;
}
push @types, @contrib;

# hstore has a cast to json, which there is not on another server: text there.
# (pg_column_size() distinguishes NULL from a row of NULLs.)
write_sql(q{
	INSERT INTO journal.instead ("table", "column", remote) VALUES
		('of_hstore', 'ext.hstore', '($1)."ext.hstore"::text'),
		('of_hstore', 'ext.hstore[]', '($1)."ext.hstore[]"::text[]'),
		('of_hstore', 'ext.attributes', '($1)."ext.attributes"::text'),
		('of_hstore', 'ext.attributes[]', '($1)."ext.attributes[]"::text[]'),
		('of_hstore', 'ext.with_attributes', 'CASE WHEN pg_column_size(($1)."ext.with_attributes") > 0 THEN jsonb_build_object(
			''n'', ((($1)."ext.with_attributes")).n, ''h'', ((($1)."ext.with_attributes")).h::text) END'),
		('of_hstore', 'ext.with_attributes[]', 'CASE WHEN cardinality(($1)."ext.with_attributes[]") = 0 THEN ''[]'' ELSE
			(WITH flat AS (SELECT jsonb_agg(CASE WHEN pg_column_size(w) > 0 THEN jsonb_build_object(''n'', w.n, ''h'', w.h::text) END) AS list
				FROM unnest(($1)."ext.with_attributes[]") w)
			SELECT CASE array_ndims(($1)."ext.with_attributes[]") WHEN 1 THEN list WHEN 2 THEN jsonb_build_array(list) END FROM flat) END')})
  if grep { $_ eq 'of_hstore' } @contrib;

#
# Every value comes, goes, and takes another's place
#

sub quoted { return '"' . ($_[0] =~ s/"/""/gr) . '"'; }

sub literal
{
	my ($type, $value) = @_;

	return "NULL::$type" unless defined $value;
	return "($$value)::$type" if ref $value;
	return q{'} . ($value =~ s/'/''/gr) . qq{'::$type};
}

# Fills a table with a column for each type, which is its name.
sub exercise
{
	my ($table, @columns) = @_;
	my @names = map { quoted($_->[0]) } @columns;
	my $sql = "CREATE TABLE public.$table (k int PRIMARY KEY, "
	  . join(', ', map { "$names[$_] $columns[$_][0]" } 0 .. $#columns)
	  . ");\nSELECT journal.follow('public.$table');\n";
	my @values = map {
		my ($type, @list) = @$_;
		[ map { literal($type, $_) } @list, $not_null{$type} ? () : (undef) ]
	} @columns;
	my ($rows) = sort { $b <=> $a } map { scalar @$_ } @values;

	for my $row (0 .. $rows - 1)
	{
		$sql .= "INSERT INTO public.$table VALUES ($row, "
		  . join(', ', map { $_->[ $row % @$_ ] } @values) . ");\n";
	}
	for my $row (0 .. $rows - 1)
	{
		$sql .= "UPDATE public.$table SET "
		  . join(', ', map { "$names[$_] = " . $values[$_][ ($row + 1) % @{ $values[$_] } ] } 0 .. $#names)
		  . " WHERE k = $row;\n";
	}
	$sql .= "UPDATE public.$table SET k = k;\n";
	$sql .= "UPDATE public.$table SET k = k + 1000 WHERE k % 2 = 0;\n";
	$sql .= "DELETE FROM public.$table;\n";
	write_sql($sql);
	return;
}

# Not every PostgreSQL is built with it.
if ($node->psql('postgres', q{SELECT '<a/>'::xml}))
{
	note 'no xml';
	@$_ = grep { $_->[0] !~ /^xml/ } @$_ for grep { ref } @types;
}

my @all = map { @$_ } @types[ grep { $_ % 2 } 0 .. $#types ];
cmp_ok(scalar(@all), '>=', 80, scalar(@all) . ' types are tried');
is(join(', ', map { $_->[0] } grep { @$_ < 6 } @all), '', 'each with five values');

my $conninfo = $node->connstr('postgres') =~ s/'/''/gr;
is(start_error($node), '', 'the source is its own history');
is(start_error($remote, "CALL bemi.start('types', conninfo => '$conninfo')"), '', 'and has another on another server');

my @tables;
for (my $i = 0; $i < @types; $i += 2)
{
	push @tables, $types[$i];
	exercise($types[$i], @{ $types[ $i + 1 ] });
}

catch_up();
copy_journal();
check($_, $_ =~ tr/_/ /r) for @tables;

#
# What jsonb cannot hold is kept as text
#

write_sql(q{
	CREATE TYPE types.with_json AS (n int, j json);
	CREATE DOMAIN types.json_domain AS json;
	CREATE TABLE unholdable (k int PRIMARY KEY, v json, d types.json_domain, list json[], c types.with_json, beside text, beside_list int[]);
	SELECT bemi.track('unholdable')});
my @unholdable = ('{"a": "\u0000"}', '"\ud83d"', '"\ude00\ud83d"', '1e131073', '[1e-20000]', '{"\u0000": [1.50]}');
for my $k (0 .. $#unholdable)
{
	my $v = "'$unholdable[$k]'::json";

	write_sql("INSERT INTO unholdable VALUES ($k, $v, $v, ARRAY['[1]', $v, '{}']::json[], ROW(1, $v), 'text', '{1,2}')");
}
# Within an array or a composite, the text of the part that is at fault will do,
# and that of the whole will, too.
my @either = split /\n/, $node->safe_psql('postgres', q{
	SELECT jsonb_build_object('list', jsonb_build_array('[1]'::jsonb, v::text, '{}'::jsonb), 'c', jsonb_build_object('n', 1, 'j', v::text)) FROM unholdable ORDER BY k});
my @or = split /\n/, $node->safe_psql('postgres', q{SELECT jsonb_build_object('list', list::text, 'c', c::text) FROM unholdable ORDER BY k});
catch_up();
for my $history ($node, $remote)
{
	my $where = where_of($history);

	is( $history->safe_psql('postgres', q{
			SELECT after->>'k', after->>'v', jsonb_typeof(after->'v'), after->>'d', jsonb_typeof(after->'d'), after->>'beside', after->'beside_list'
			FROM bemi.changes WHERE "table" = 'unholdable' ORDER BY id}),
		join("\n", map { "$_|$unholdable[$_]|string|$unholdable[$_]|string|text|[1, 2]" } 0 .. $#unholdable),
		"json that jsonb cannot hold is text, and the columns beside it are as they are, $where");
	my @found = split /\n/, $history->safe_psql('postgres', q{
		SELECT jsonb_build_object('list', after->'list', 'c', after->'c') FROM bemi.changes WHERE "table" = 'unholdable' ORDER BY id});
	is( join("\n", map { $found[$_] eq $or[$_] ? $or[$_] : $found[$_] } 0 .. $#found),
		join("\n", map { $found[$_] eq $or[$_] ? $or[$_] : $either[$_] } 0 .. $#either),
		"so it is within arrays and composites, $where");
}

#
# Functions of others
#

# A session that is not marked as a client is the worker, or a walsender.  A sequence
# keeps its value after a rollback.
write_sql(q{
CREATE ROLE mallory;
CREATE SCHEMA evil AUTHORIZATION mallory;
GRANT CREATE ON SCHEMA public TO mallory;
SET SESSION AUTHORIZATION mallory;
CREATE SEQUENCE evil.calls MINVALUE 0;
CREATE TABLE evil.log (pid int, by text, what text);
CREATE FUNCTION evil.note(what text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF current_setting('evil.client', true) IS DISTINCT FROM 'yes' THEN
		PERFORM nextval('evil.calls');
		INSERT INTO evil.log VALUES (pg_backend_pid(), session_user, what);
		RAISE LOG 'evil: % called by %, %', what, session_user, current_setting('application_name', true);
	END IF;
END $$;
CREATE FUNCTION evil.fine(value text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	PERFORM evil.note('check of "' || value || '"');
	RETURN true;
END $$;
CREATE FUNCTION evil.refused(value text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	PERFORM evil.note('check of "' || value || '"');
	IF current_setting('evil.client', true) IS DISTINCT FROM 'yes' THEN
		RAISE 'no';
	END IF;
	RETURN true;
END $$;
CREATE DOMAIN evil.quiet AS text CHECK (evil.fine(VALUE));
CREATE DOMAIN evil.loud AS text CHECK (evil.refused(VALUE));
CREATE DOMAIN evil.number AS int CHECK (evil.refused(VALUE::text));
CREATE DOMAIN evil.upon AS evil.loud;
CREATE TYPE evil.composite AS (q evil.quiet, l evil.loud, n evil.number[]);
CREATE DOMAIN evil.composite_domain AS evil.composite CHECK (evil.refused(VALUE::text));
CREATE DOMAIN evil.list AS int[] CHECK (evil.refused(VALUE::text));
CREATE TYPE evil.color AS ENUM ('red', 'green');
CREATE FUNCTION evil.color_json(evil.color) RETURNS json LANGUAGE sql AS $$ SELECT evil.note('cast'); SELECT json_build_object('color', $1::text) $$;
CREATE CAST (evil.color AS json) WITH FUNCTION evil.color_json(evil.color) AS IMPLICIT;
CREATE DOMAIN evil.some_color AS evil.color;
CREATE TYPE evil.colored AS (c evil.color, cs evil.color[]);
CREATE TYPE evil.color_range AS RANGE (subtype = evil.color, multirange_type_name = evil.color_multirange);
CREATE FUNCTION evil.range_json(evil.color_range) RETURNS json LANGUAGE sql AS $$ SELECT evil.note('cast'); SELECT '"range"'::json $$;
CREATE CAST (evil.color_range AS json) WITH FUNCTION evil.range_json(evil.color_range);
CREATE TABLE public.of_mallory (k int PRIMARY KEY, q evil.quiet, l evil.loud, n evil.number, u evil.upon,
	qs evil.quiet[], ls evil.loud[], ns evil.number[], c evil.composite, cs evil.composite[], cd evil.composite_domain, list evil.list,
	color evil.color, colors evil.color[], some_color evil.some_color, some_colors evil.some_color[], colored evil.colored, coloreds evil.colored[],
	r evil.color_range, rs evil.color_range[]);
RESET SESSION AUTHORIZATION;
INSERT INTO journal.instead ("table", "column", local, remote)
	SELECT 'of_mallory', name, expression, expression FROM (VALUES
		('color', '($1).color::text'), ('colors', '($1).colors::text[]'), ('some_color', '($1).some_color::text'), ('some_colors', '($1).some_colors::text[]'),
		('colored', 'CASE WHEN pg_column_size(($1).colored) > 0 THEN jsonb_build_object(''c'', (($1).colored).c::text, ''cs'', (($1).colored).cs::text[]) END'),
		('coloreds', '(SELECT jsonb_agg(jsonb_build_object(''c'', c.c::text, ''cs'', c.cs::text[])) FROM unnest(($1).coloreds) c)'),
		('r', '($1).r::text'), ('rs', '($1).rs::text[]')) e (name, expression);
SELECT journal.follow('public.of_mallory');
GRANT USAGE ON SCHEMA journal TO mallory;
GRANT INSERT, SELECT ON ALL TABLES IN SCHEMA journal TO mallory;
SET SESSION AUTHORIZATION mallory;
INSERT INTO of_mallory VALUES (1, 'q', 'l', 1, 'u', '{q,NULL,"q, q"}', '{l}', '{1,2}', '(q,l,"{1,2}")', '{"(q,l,\"{3}\")"}', '(q,l,{})', '{1,2}',
	'red', '{red,NULL}', 'red', '{red}', '(red,"{red,green}")', '{"(green,{})"}', '[red,green]', '{"[red,green)"}');
UPDATE of_mallory SET q = 'q2', l = 'l2', n = 2, u = 'u2', qs = '{q2}', ls = '{l2,l3}', ns = '{}', c = '(q2,,)', cs = '{"(,l,)",NULL}', cd = '(,,)', list = '{}',
	color = 'green', colors = '{}', some_color = 'green', some_colors = '{green,NULL}', colored = '(,)', coloreds = '{"(red,)","(,)"}', r = 'empty', rs = '{empty,NULL}';
UPDATE of_mallory SET q = NULL, l = NULL, n = NULL, color = NULL, r = NULL, coloreds = NULL;
DELETE FROM of_mallory;
RESET SESSION AUTHORIZATION});
catch_up();
copy_journal();
check('of_mallory', 'functions of an ordinary role: values');
is($node->safe_psql('postgres', 'SELECT is_called FROM evil.calls'), 'f', 'functions of an ordinary role: never called by a worker')
  or diag $node->safe_psql('postgres', 'SELECT * FROM evil.log');
is($node->safe_psql('postgres', 'SELECT * FROM evil.log'), '', 'functions of an ordinary role: and nothing written in their name');
$node->safe_psql('postgres', q{SELECT 'q'::evil.quiet});
is($node->safe_psql('postgres', 'SELECT is_called, (SELECT count(*) FROM evil.log) FROM evil.calls'), 't|1', 'functions of an ordinary role: had they been, it would show');

#
# Types that change while the worker streams
#

write_sql(q{
CREATE SCHEMA changing;
CREATE TYPE changing.core AS (x int, y text);
CREATE TYPE changing.holder AS (i changing.core, list changing.core[]);
CREATE DOMAIN changing.of_core AS changing.core;
CREATE TABLE changing.of_row (id int, name text);
CREATE TYPE changing.grade AS ENUM ('a', 'b');
CREATE TYPE changing.graded AS (g changing.grade);
CREATE TABLE altered (k int PRIMARY KEY, i changing.core, list changing.core[], o changing.holder, d changing.of_core, r changing.of_row,
	g changing.grade, gs changing.graded[]);
SELECT journal.follow('altered');
INSERT INTO altered SELECT n, '(1,a)', '{"(2,b)",NULL}', '("(3,c)","{""(4,d)""}")', '(5,e)', '(6,f)', 'a', '{(a),(b)}' FROM generate_series(1, 3) n});
my $touch = 'UPDATE altered SET k = k + 10';
my @alterations = (
	'ALTER TYPE ... ADD ATTRIBUTE' => q{ALTER TYPE changing.core ADD ATTRIBUTE z timestamptz},
	'an added attribute is filled' => q{UPDATE altered SET i = '(1,a,"2020-01-01 00:00+05:30")', o = '("(3,c,infinity)",)' WHERE k % 10 = 1},
	'ALTER TYPE ... RENAME ATTRIBUTE' => q{ALTER TYPE changing.core RENAME ATTRIBUTE x TO "new ""x"""},
	'attributes swap their names' => q{
		ALTER TYPE changing.core RENAME ATTRIBUTE y TO t;
		ALTER TYPE changing.core RENAME ATTRIBUTE z TO y;
		ALTER TYPE changing.core RENAME ATTRIBUTE t TO z},
	'ALTER TYPE ... DROP ATTRIBUTE' => q{ALTER TYPE changing.core DROP ATTRIBUTE z},
	'ALTER TYPE ... DROP ATTRIBUTE, ADD ATTRIBUTE of the same name' => q{ALTER TYPE changing.core DROP ATTRIBUTE y, ADD ATTRIBUTE y int},
	'ALTER TYPE ... RENAME' => q{ALTER TYPE changing.core RENAME TO renamed; ALTER TYPE changing.renamed RENAME ATTRIBUTE y TO yy; ALTER TYPE changing.renamed RENAME TO core},
	'ALTER TYPE of what holds it' => q{ALTER TYPE changing.holder RENAME ATTRIBUTE i TO j},
	'a column is added to the table whose row it is' => q{ALTER TABLE changing.of_row ADD COLUMN more numeric[]},
	'a column of that table is renamed' => q{ALTER TABLE changing.of_row RENAME name TO "new name"},
	'a column of that table is dropped' => q{ALTER TABLE changing.of_row DROP COLUMN id},
	'an enum has another label' => q{ALTER TYPE changing.grade RENAME VALUE 'a' TO 'excellent'},
	'and one more' => q{ALTER TYPE changing.grade ADD VALUE 'c'},
	'which is used' => q{UPDATE altered SET g = 'c', gs = '{(c),(excellent)}' WHERE k % 10 = 1},
	'rolled back' => q{BEGIN; ALTER TYPE changing.core RENAME ATTRIBUTE yy TO never; ROLLBACK},
	'in the middle of a transaction' => qq{BEGIN; $touch; ALTER TYPE changing.core RENAME ATTRIBUTE yy TO yyy; $touch; COMMIT},
	'rolled back to a savepoint' => qq{BEGIN; $touch; SAVEPOINT s; ALTER TYPE changing.core RENAME ATTRIBUTE yyy TO never; $touch; ROLLBACK TO s; $touch; COMMIT},
	'by way of DO' => q{DO $$ BEGIN EXECUTE 'ALTER TYPE changing.core RENAME ATTRIBUTE yyy TO y'; END $$});
while (@alterations)
{
	my ($name, $alteration) = splice @alterations, 0, 2;

	write_sql("DELETE FROM journal.entries; $touch");
	catch_up();
	write_sql($alteration);
	write_sql("$touch; INSERT INTO altered (k) VALUES (0); DELETE FROM altered WHERE k = 0");
	catch_up();
	copy_journal();
	check('altered', "a type changes: $name");
}

# What was written before, and is read afterwards, has the names and types of then.
my @instead = ('bool', 'int', 'json', 'timestamptz', 'int[]', 'types.pair');
$node->safe_psql('postgres', 'CALL bemi.stop()');
$remote->safe_psql('postgres', q{CALL bemi.stop('types')});
write_sql(qq{
	DELETE FROM journal.entries;
	CREATE TYPE changing.late AS (a int, b text);
	CREATE TABLE late (k int PRIMARY KEY, v changing.late, list changing.late[]);
	SELECT journal.follow('late');
	INSERT INTO late VALUES (1, '(1,"a long ""text""")', '{"(2,c)"}');
	ALTER TYPE changing.late DROP ATTRIBUTE b;
	ALTER TYPE changing.late ADD ATTRIBUTE c bool;
	ALTER TYPE changing.late ADD ATTRIBUTE d int;
	INSERT INTO late VALUES (2, '(3,t,4)', '{"(5,f,6)"}');}
	  . join('', map { "CREATE TYPE changing.late_$_ AS (a int, b text);" } 0 .. $#instead)
	  . 'CREATE TABLE late_types (k int PRIMARY KEY,' . join(',', map { "v$_ changing.late_$_" } 0 .. $#instead) . ');'
	  . q{SELECT journal.follow('late_types'); INSERT INTO late_types VALUES (1,} . join(',', map { q{'(1,"tell ""it""")'} } @instead) . ');'
	  . join('', map { "ALTER TYPE changing.late_$_ DROP ATTRIBUTE b; ALTER TYPE changing.late_$_ ADD ATTRIBUTE b $instead[$_];" } 0 .. $#instead));
is(start_error($node), '', 'types have changed while nothing was read: local');
is(start_error($remote, q{CALL bemi.start('types')}), '', 'types have changed while nothing was read: remote');
catch_up();
copy_journal();
check('late', 'a type that has changed before its values are read');
check('late_types', 'types that have changed into what does not fit');
for my $history ($node, $remote)
{
	my $where = where_of($history);

	is( $history->safe_psql('postgres', q{
			SELECT after->>'k', CASE after->>'k' WHEN '1' THEN (after->>'v' LIKE '%a long %text%')::text ELSE (after - 'k')::text END
			FROM bemi.changes WHERE "table" = 'late' ORDER BY id}),
		qq(1|true\n2|{"v": {"a": 3, "c": true, "d": 4}, "list": [{"a": 5, "c": false, "d": 6}]}),
		"a type changes before its values are read, $where");
	is( $history->safe_psql('postgres', q{
			SELECT count(*), string_agg(key || ' ' || value, E'\n' ORDER BY key) FILTER (WHERE value NOT LIKE '%tell%it%')
			FROM bemi.changes, jsonb_each_text(after - 'k') WHERE "table" = 'late_types'}),
		@instead . '|',
		"into a type that does not fit: nothing is lost, $where");
}

# Types that are few, but would be very many if each were described wherever it takes
# part: two of the one before, twenty times. (More take PostgreSQL itself too long.)
write_sql(
	'CREATE TYPE changing.twice_0 AS (a int, b int);'
	  . join('', map { 'CREATE TYPE changing.twice_' . ($_ + 1) . " AS (a changing.twice_$_, b changing.twice_$_);" } 0 .. 19)
	  . q{CREATE TABLE many_times (k int PRIMARY KEY, v changing.twice_20);
	SELECT journal.follow('many_times'); INSERT INTO many_times VALUES (1, NULL), (2, ROW(NULL, NULL))});
catch_up();
copy_journal();
check('many_times', 'a type that is nested very often');

#
# Rows of every width
#

my @cycle = ([ 'bool', 't', 'f' ], [ 'int4', '-7', '1234567' ], [ '"char"', 'a', '"' ], [ 'date', '2020-02-29', '10000-01-01' ], [ 'int2', '0', '-1' ], [ 'text', '', 'é' ]);
my @of_column = map { $cycle[ $_ % @cycle ] } 2 .. 1600;
write_sql(
	'CREATE TABLE widest (k int PRIMARY KEY, '
	  . join(', ', map { "c$_ $of_column[$_ - 2][0]" } 2 .. 1600)
	  . "); SELECT journal.follow('widest'); INSERT INTO widest VALUES (1, "
	  . join(', ', map { "'$_->[1]'" } @of_column)
	  . '), (2, '
	  . join(', ', map { 'NULL' } @of_column)
	  . '); UPDATE widest SET ' . join(', ', map { "c$_ = '$of_column[$_ - 2][2]'" } 2 .. 1600)
	  . '; UPDATE widest SET c1600 = NULL; DELETE FROM widest');
write_sql(q{
	CREATE TABLE columnless ();
	CREATE TABLE no_longer_any (a int, b text);
	SELECT journal.follow('columnless');
	SELECT journal.follow('no_longer_any');
	INSERT INTO columnless DEFAULT VALUES;
	INSERT INTO columnless SELECT FROM generate_series(1, 3);
	INSERT INTO no_longer_any VALUES (1, 'one');
	ALTER TABLE no_longer_any DROP COLUMN a, DROP COLUMN b;
	INSERT INTO no_longer_any DEFAULT VALUES;
	DELETE FROM no_longer_any;
	DELETE FROM columnless});

#
# Columns that old rows do not have in them
#

write_sql(q{
	CREATE TABLE missing (k int PRIMARY KEY, v text);
	SELECT journal.follow('missing');
	INSERT INTO missing SELECT n, 'old' FROM generate_series(1, 6) n;
	ALTER TABLE missing ADD COLUMN b bool DEFAULT true, ADD COLUMN n numeric DEFAULT 1.50 NOT NULL, ADD COLUMN t text DEFAULT 'a "default"',
		ADD COLUMN nothing int, ADD COLUMN at timestamptz DEFAULT '2020-01-01 00:00+05:30', ADD COLUMN j json DEFAULT '{"a": 1, "a": 2}',
		ADD COLUMN list text[] DEFAULT '{a,NULL,"NULL"}', ADD COLUMN p types.pair DEFAULT '(1,"a b")', ADD COLUMN ps types.pair[] DEFAULT '{"(1,x)"}',
		ADD COLUMN m types.mood DEFAULT 'very, "happy"', ADD COLUMN d types.short_text DEFAULT 'domain', ADD COLUMN r int4range DEFAULT '[1,5]',
		ADD COLUMN long text DEFAULT repeat('long', 5000);
	INSERT INTO missing (k, v) VALUES (7, 'new');
	UPDATE missing SET v = 'updated' WHERE k IN (1, 7);
	UPDATE missing SET n = 2, p = NULL, list = NULL WHERE k = 2;
	ALTER TABLE missing ALTER n SET DEFAULT 3, ALTER t DROP DEFAULT, ALTER p SET DEFAULT '(2,later)', DROP COLUMN r;
	UPDATE missing SET v = 'again' WHERE k IN (1, 3);
	ALTER TYPE types.pair ADD ATTRIBUTE z int;
	UPDATE missing SET v = 'and again' WHERE k IN (1, 4, 7);
	DELETE FROM missing});

#
# An array is its elements, a composite its fields, in their order
#

write_sql(q{
	CREATE TABLE lists (k int PRIMARY KEY, t text[], n int[], m types.mood[], j json[], p types.one);
	SELECT journal.follow('lists');
	INSERT INTO lists VALUES (1, '{a,b}', '{1,2}', '{sad,ok}', '{"{\"a\": 1}","2"}', '()');
	UPDATE lists SET t = '{b,a}', n = '{2,1}', m = '{ok,sad}', j = '{"2","{\"a\": 1}"}', p = '("")';
	UPDATE lists SET t = '{b,a,NULL}', n = '{2,1,1}', m = '{ok,sad,sad}', j = '{"2","{\"a\": 1}","null"}', p = '(NULL)';
	UPDATE lists SET t = '{b,a,"NULL"}', n = '{{2,1,1}}', m = '{}', j = '{"2","{\"a\": 1}",NULL}', p = NULL});

catch_up();
copy_journal();
check('widest', 'a row of 1600 columns');
check('columnless', 'a table without any column');
check('no_longer_any', 'a table that has lost its columns');
check('missing', 'defaults that old rows do not have in them');
check('lists', 'lists');
for my $history ($node, $remote)
{
	is( $history->safe_psql('postgres', q{
			SELECT string_agg(concat_ws(',', (before->'t' <> after->'t')::text, (before->'n' <> after->'n')::text,
				(before->'m' <> after->'m')::text, (before->'j' IS DISTINCT FROM after->'j')::text, (before->'p' IS DISTINCT FROM after->'p')::text), ' ' ORDER BY id)
			FROM bemi.changes WHERE "table" = 'lists' AND operation = 'UPDATE'}),
		'true,true,true,true,true true,true,true,true,true true,true,true,false,true',
		'an element in another place, or one more, is a change that shows, ' . where_of($history));
	is( $history->safe_psql('postgres', 'SELECT state, restarts, invalid_messages FROM bemi.status'),
		'streaming|0|0',
		'no worker has failed, ' . where_of($history))
	  or diag $history->safe_psql('postgres', 'SELECT last_error FROM bemi.status');
}

$_->stop for ($remote, $node);
done_testing();
