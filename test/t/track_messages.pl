# Tracking messages: what the source sends to the worker about its tables, through the WAL.
#
# C code describes a table in a message (src/track/describe.c). For a source without the
# extension, a query does the same (sql/remote/description.sql). Both must return the same for
# every table, because otherwise a change would be stored in two ways. So the test runs the query
# from the source file and compares.

use strict;
use warnings;

use Bemi;
use Bemi::Completeness;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Bemi::Session;
use Test::More;

my $node = bemi_node('main');

sub is_available
{
	my ($extension) = @_;
	return $node->safe_psql('postgres', "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = '$extension')") eq 't';
}

#
# Descriptions
#

my $query = slurp_file('sql/remote/description.sql');

sub by_query
{
	my ($relation) = @_;

	return "SET search_path = pg_catalog; " . $query =~ s/\$1\b/$relation/gr;
}

$node->safe_psql(
	'postgres', q{
	CREATE SCHEMA "odd ""schema";
	CREATE TYPE mood AS ENUM ('fine', 'not fine');
	CREATE DOMAIN positive AS int CHECK (VALUE > 0);
	CREATE DOMAIN positives AS positive[];
	CREATE DOMAIN over_domain AS positives;
	CREATE TYPE inner_pair AS (a positive, "b ""quoted""" mood[]);
	CREATE TYPE outer_pair AS (x inner_pair, y inner_pair[], z text);
	ALTER TYPE outer_pair DROP ATTRIBUTE z;
	CREATE TYPE span AS RANGE (subtype = float8);
	CREATE TABLE plain (id int PRIMARY KEY, v text);
	CREATE TABLE keyless (v text, w name, x oidvector, y int2vector, z point);
	CREATE TABLE columnless ();
	CREATE TABLE "odd ""schema"."odd \table" ("a\b" int, "Ünï" text, "c""d" int, "e
f" int, PRIMARY KEY ("Ünï", "a\b") INCLUDE ("c""d"));
	CREATE TABLE dropped (a int, b text, c mood, PRIMARY KEY (c, a));
	ALTER TABLE dropped DROP COLUMN b;
	CREATE TABLE typed (id int PRIMARY KEY DEFERRABLE, m mood, ms mood[], p positive, ps positives, o over_domain, oa over_domain[],
		i inner_pair, ia inner_pair[], q outer_pair, qa outer_pair[], s span, sa span[],
		c pg_class, ca pg_namespace[], b box[], j json, n numeric(10, 2)[], self plain, r int4multirange, f information_schema.cardinal_number);
	CREATE TABLE rooted (id int, v mood) PARTITION BY RANGE (id);
	CREATE TABLE rooted_1 PARTITION OF rooted FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (id);
	CREATE TABLE rooted_1_1 PARTITION OF rooted_1 FOR VALUES FROM (0) TO (5);
	CREATE TABLE full_rooted (id int) PARTITION BY RANGE (id);
	CREATE TABLE full_rooted_1 PARTITION OF full_rooted FOR VALUES FROM (0) TO (10);
	ALTER TABLE full_rooted_1 REPLICA IDENTITY FULL});

# A type with a cast to json, in C.
$node->safe_psql('postgres', 'CREATE EXTENSION hstore; ALTER TABLE typed ADD h hstore, ADD ha hstore[]')
  if is_available('hstore');

my $json = JSON::PP->new->canonical;
for my $table (
	qw(plain keyless columnless dropped typed rooted rooted_1 rooted_1_1 full_rooted full_rooted_1 pg_class information_schema.columns),
	q("odd ""schema"."odd \table"))
{
	my $oid = $node->safe_psql('postgres', "SELECT '$table'::regclass::oid");
	my $in_c = $json->decode($node->safe_psql('postgres', "SELECT _bemi.describe($oid)"));
	my $asked = $json->decode($node->safe_psql('postgres', by_query($oid)));

	is(delete $in_c->{rules}, 'unknown', "$table: no trigger, no rules");
	is(delete $in_c->{stale} ? 't' : 'f',
		$node->safe_psql('postgres', "SELECT relispartition FROM pg_class WHERE oid = $oid"),
		"$table: stale, if it is a partition");
	is($json->encode($in_c), $json->encode($asked), "$table: the same description");
}
# As of a snapshot, which a worker that creates a slot uses.
my $earlier = Bemi::Session->new($node);
$earlier->query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
my $before = $earlier->query(q{SELECT _bemi.describe('typed')});
$node->safe_psql(
	'postgres', q{
	ALTER TABLE typed DROP CONSTRAINT typed_pkey, ADD PRIMARY KEY (p), ADD COLUMN late int, ALTER COLUMN n TYPE text;
	ALTER TABLE typed RENAME j TO k;
	ALTER TYPE inner_pair RENAME ATTRIBUTE a TO other;
	SELECT bemi.track('typed', redact => '{k}')});
is($earlier->query(q{SELECT _bemi.describe('typed')}), $before, 'a table is described as the snapshot of the caller sees it');
$earlier->query('COMMIT');
isnt($earlier->query(q{SELECT _bemi.describe('typed')}), $before, 'or as it is now');
$earlier->quit;

is($node->safe_psql('postgres', q{SELECT _bemi.describe(1)}),
	'{"key": [], "rules": "unknown", "types": [], "partly": false, "columns": [], "attributes": []}',
	'a table that is gone can be described');


#
# What the worker makes of messages
#

is(start_error($node), '', 'the source is started');

#
# A table can be dropped with anything that it depends on.  Nobody tracks another one
# of its name.
#

my %dropped_by = (
	'DROP TABLE' => [ 'CREATE TABLE %s (id int, v text) PARTITION BY RANGE (id)', 'DROP TABLE %s' ],
	'DROP DOMAIN' => [ 'CREATE DOMAIN key_domain AS int; CREATE TABLE %s (id key_domain, v text) PARTITION BY RANGE (id)', 'DROP DOMAIN key_domain CASCADE' ],
	'DROP TYPE' => [ q{CREATE TYPE key_type AS ENUM ('a'); CREATE TABLE %s (id key_type, v text) PARTITION BY LIST (id)}, 'DROP TYPE key_type CASCADE' ],
	'DROP FUNCTION' => [
		q{CREATE FUNCTION key_function(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1';
			CREATE TABLE %s (id int, v text) PARTITION BY RANGE (key_function(id))},
		'DROP FUNCTION key_function CASCADE' ],
	'DROP COLLATION' => [
		q{CREATE COLLATION key_collation FROM "C"; CREATE TABLE %s (id int, v text) PARTITION BY RANGE (v COLLATE key_collation)},
		'DROP COLLATION key_collation CASCADE' ],
	'DROP OPERATOR CLASS' => [
		q{CREATE OPERATOR CLASS key_class FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >,
			FUNCTION 1 btint4cmp(int, int);
			CREATE TABLE %s (id int, v text) PARTITION BY RANGE (id key_class)},
		'DROP OPERATOR CLASS key_class USING btree CASCADE' ],
	'DROP OPERATOR FAMILY' => [
		q{CREATE OPERATOR FAMILY key_family USING btree;
			CREATE OPERATOR CLASS key_class FOR TYPE int USING btree FAMILY key_family AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >,
			FUNCTION 1 btint4cmp(int, int);
			CREATE TABLE %s (id int, v text) PARTITION BY RANGE (id key_class)},
		'DROP OPERATOR FAMILY key_family USING btree CASCADE' ],
	'DROP LANGUAGE' => [
		q{CREATE FUNCTION key_handler() RETURNS language_handler LANGUAGE c AS '$libdir/plpgsql', 'plpgsql_call_handler';
			CREATE LANGUAGE key_language HANDLER key_handler;
			CREATE FUNCTION key_function(int) RETURNS int IMMUTABLE LANGUAGE key_language AS 'BEGIN RETURN $1; END';
			CREATE TABLE %s (id int, v text) PARTITION BY RANGE (key_function(id))},
		'DROP LANGUAGE key_language CASCADE; DROP FUNCTION key_handler()' ],
	'DROP EXTENSION' => [ 'CREATE EXTENSION citext; CREATE TABLE %s (id citext, v text) PARTITION BY RANGE (id)', 'DROP EXTENSION citext CASCADE' ],
	'DROP ACCESS METHOD' => [
		'CREATE ACCESS METHOD key_method TYPE TABLE HANDLER heap_tableam_handler; CREATE TABLE %s (id int, v text) USING key_method',
		'DROP ACCESS METHOD key_method CASCADE' ],
	'DROP SCHEMA' => [ 'CREATE SCHEMA key_schema; CREATE TABLE %s (id int, v text)', 'DROP SCHEMA key_schema CASCADE; CREATE SCHEMA key_schema', 'key_schema' ],
	'DROP OWNED' => [ 'CREATE ROLE key_owner; CREATE TABLE %s (id int, v text); ALTER TABLE %1$s OWNER TO key_owner', 'DROP OWNED BY key_owner' ],
	'in a function' => [
		q{CREATE TABLE %s (id int, v text); CREATE FUNCTION drop_it(text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'DROP TABLE ' || $1; END $$},
		q{SELECT drop_it('%s')} ]);

delete $dropped_by{'DROP EXTENSION'} unless is_available('citext');

my (%tracked, %untracked);
my $i = 0;
for my $way (sort keys %dropped_by)
{
	my ($create, $drop, $schema) = @{ $dropped_by{$way} };
	my $table = ($schema // 'public') . '.dropped_' . ++$i;

	$dropped_by{$way}[3] = $table;
	$node->safe_psql('postgres', sprintf("$create; SELECT bemi.track('%1\$s')", $table));
	$tracked{$way} = [ now($node), now($node) ];
	$node->safe_psql('postgres', sprintf("$drop; CREATE TABLE %1\$s (id int PRIMARY KEY, v text)", $table));
	$untracked{$way} = now($node);
	$node->safe_psql('postgres', "INSERT INTO $table VALUES (1, 'nobody tracks this')");
}
for my $way (sort keys %dropped_by)
{
	my $table = $dropped_by{$way}[3];

	is(complete($node, $table, @{ $tracked{$way} }), 'complete', "$way: a table is tracked");
	is(complete($node, $table, $untracked{$way}), 'tracking_ended', "$way: another table of its name is not");
}
$node->safe_psql('postgres', 'CALL bemi.stop(); CALL bemi.start()');
is(join(', ', map { complete($node, $dropped_by{$_}[3], $untracked{$_}) } sort keys %dropped_by),
	join(', ', ('tracking_ended') x keys %dropped_by),
	'after stop and start, too');

# The message was not written: event triggers were disabled.  When the worker hears of the
# new table, the worker knows that the other one is gone, but not since when.
$node->safe_psql(
	'postgres', q{
	CREATE TABLE unseen (id int PRIMARY KEY);
	SELECT bemi.track('unseen');
	INSERT INTO unseen VALUES (1);
	ALTER EVENT TRIGGER bemi_follow_unpublished DISABLE;
	DROP TABLE unseen;
	ALTER EVENT TRIGGER bemi_follow_unpublished ENABLE ALWAYS;
	CREATE TABLE unseen (id int PRIMARY KEY);
	INSERT INTO unseen VALUES (2)});
my $unseen_since = now($node);
$node->safe_psql('postgres', q{INSERT INTO unseen VALUES (3); SELECT bemi.track('unseen')});
is(complete($node, 'unseen', $unseen_since), 'tracking_ended: Another table of this name was dropped at an unknown time.',
	'a table whose end was not seen');
is(complete($node, 'unseen', now($node)), 'complete', 'is tracked from then on');

#
# Partitions whose rows are not in the write-ahead log
#

$node->safe_psql(
	'postgres', q{
	-- no worker reads them here
	CREATE FOREIGN DATA WRAPPER nothing;
	CREATE SERVER files FOREIGN DATA WRAPPER nothing;
	CREATE SCHEMA unstored;
	SET search_path = unstored;
	CREATE TABLE f (id int, v text) PARTITION BY RANGE (id);
	CREATE TABLE f_1 PARTITION OF f FOR VALUES FROM (0) TO (100);
	CREATE FOREIGN TABLE f_2 PARTITION OF f FOR VALUES FROM (100) TO (200) SERVER files;
	SELECT bemi.track('f')});
is(complete($node, 'unstored.f', now($node)), 'not_tracked', 'a foreign table as partition: not complete');
is( $node->safe_psql('postgres', q{SELECT "table", problems FROM bemi.tracked WHERE "table"::text LIKE 'unstored.f%' ORDER BY 1}),
	qq(unstored.f|{"partition unstored.f_2 is a foreign table: its changes are not stored"}\nunstored.f_1|{}\nunstored.f_2|{"foreign table: changes are not stored"}),
	'and bemi.tracked says why');

# A worker on another server gets the same. One that cannot read the signing key queries the catalog.
$node->safe_psql('postgres', 'CREATE DATABASE history; CREATE ROLE blind LOGIN REPLICATION');
$node->safe_psql('history', 'CREATE EXTENSION bemi');
my $conninfo = $node->connstr('postgres') =~ s/'/''/gr;
is(start_error($node, "CALL bemi.start('reader', conninfo => '$conninfo')", 'history'), '', 'a reader elsewhere');
is(start_error($node, "CALL bemi.start('blind', conninfo => '$conninfo user=blind')", 'history'), '', 'another without the secret');
is( $node->safe_psql('history', q{
		SELECT s.source, c.complete, c.reason FROM (VALUES ('blind'), ('reader')) s(source),
			bemi.source_completeness(s.source, 'unstored', 'f', clock_timestamp() - interval '1 microsecond', clock_timestamp()) c
		WHERE c.reason IS DISTINCT FROM 'not_stored_yet' AND c.reason IS DISTINCT FROM 'source_started' ORDER BY 1}),
	"blind|f|not_tracked\nreader|f|not_tracked", 'both know of the foreign table');

my $is_foreign = 'tracking_ended: Partition unstored.f_2 is a foreign table.';
my $is_unlogged = 'tracking_ended: Partition unstored.f_3 is unlogged.';
run_steps($node,
	unstored => 'after',
	[ f => 'ALTER TABLE f DETACH PARTITION f_2' => 'complete' ],
	[ f => 'ALTER TABLE f ATTACH PARTITION f_2 FOR VALUES FROM (100) TO (200)' => $is_foreign ],
	[ f => 'DROP FOREIGN TABLE f_2' => 'complete' ],
	[ f => q{CREATE FOREIGN TABLE f_2 PARTITION OF f FOR VALUES FROM (100) TO (200) SERVER files} => $is_foreign ],
	[ f => 'DROP SERVER files CASCADE' => 'complete' ],
	[ f => 'CREATE UNLOGGED TABLE f_3 PARTITION OF f FOR VALUES FROM (200) TO (300)' => $is_unlogged ],
	[ f => 'ALTER TABLE f_3 SET LOGGED' => 'complete' ],
	[ f => 'ALTER TABLE f_3 SET UNLOGGED' => $is_unlogged ],
	[ f => 'DROP TABLE f_3' => 'complete' ]);

#
# Rows that change without a change
#

$node->safe_psql(
	'postgres', q{
	CREATE SCHEMA moved;
	SET search_path = moved;
	CREATE TABLE pt (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
	CREATE TABLE pt_1 PARTITION OF pt FOR VALUES FROM (0) TO (100);
	CREATE TABLE pt_2 PARTITION OF pt FOR VALUES FROM (100) TO (200) PARTITION BY RANGE (id);
	CREATE TABLE pt_2_1 PARTITION OF pt_2 FOR VALUES FROM (100) TO (150);
	CREATE TABLE full_one (id int PRIMARY KEY, v text);
	INSERT INTO full_one VALUES (301, 'v');
	CREATE TABLE empty_one (id int PRIMARY KEY, v text);
	CREATE TABLE emptied_one (id int PRIMARY KEY, v text);
	INSERT INTO emptied_one VALUES (501, 'v');
	DELETE FROM emptied_one;
	CREATE TABLE plain (id int PRIMARY KEY, n int, v text);
	CREATE TABLE nothing_in_it (id int PRIMARY KEY, n int, v text);
	CREATE TYPE kind AS (id int, n int);
	CREATE TABLE typed OF kind;
	CREATE TABLE parent (id int, n int);
	CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
	SELECT bemi.track('pt'), bemi.track('plain'), bemi.track('nothing_in_it'), bemi.track('typed'), bemi.track('child');
	INSERT INTO typed VALUES (1, 1);
	INSERT INTO child VALUES (1, 1);
	INSERT INTO pt VALUES (1, 'honest'), (2, 'money 100'), (101, 'v');
	INSERT INTO plain VALUES (1, 1, 'v')});

my $gap = 'rows_changed_by_ddl: ';
run_steps($node,
	moved => 'with',
	[ pt => q{BEGIN; ALTER TABLE pt DETACH PARTITION pt_1; UPDATE pt_1 SET v = 'money 1000000' WHERE id = 2; DELETE FROM pt_1 WHERE id = 1;
		ALTER TABLE pt ATTACH PARTITION pt_1 FOR VALUES FROM (0) TO (100); COMMIT} => "${gap}Partition moved.pt_1 was detached with its rows." ],
	[ pt => 'ALTER TABLE pt DETACH PARTITION pt_1' => "${gap}Partition moved.pt_1 was detached with its rows." ],
	[ pt => 'ALTER TABLE pt ATTACH PARTITION pt_1 FOR VALUES FROM (0) TO (100)' => "${gap}Partition moved.pt_1 was attached with its rows." ],
	[ pt => 'ALTER TABLE pt DETACH PARTITION pt_1 CONCURRENTLY' => "${gap}Partition moved.pt_1 was detached concurrently.; ${gap}Partition moved.pt_1 was detached with its rows." ],
	[ pt => 'ALTER TABLE pt DETACH PARTITION pt_2' => "${gap}Partition moved.pt_2 was detached with its rows." ],
	[ pt => 'ALTER TABLE pt ATTACH PARTITION pt_2 FOR VALUES FROM (100) TO (200)' => "${gap}Partition moved.pt_2 was attached with its rows." ],
	[ pt => 'ALTER TABLE pt ATTACH PARTITION full_one FOR VALUES FROM (300) TO (400)' => "${gap}Partition moved.full_one was attached with its rows." ],
	[ pt => 'ALTER TABLE pt ATTACH PARTITION empty_one FOR VALUES FROM (400) TO (500)' => 'complete' ],
	[ pt => 'ALTER TABLE pt ATTACH PARTITION emptied_one FOR VALUES FROM (500) TO (600)' => 'complete' ],
	[ pt => 'ALTER TABLE pt DETACH PARTITION empty_one' => 'complete' ],
	[ pt => 'BEGIN; ALTER TABLE pt DETACH PARTITION full_one; ROLLBACK' => 'complete' ],
	[ pt => q{DO $$ BEGIN ALTER TABLE pt DETACH PARTITION full_one; RAISE 'no'; EXCEPTION WHEN raise_exception THEN NULL; END $$} => 'complete' ],
	[ pt => 'CREATE TABLE pt_6 PARTITION OF pt FOR VALUES FROM (600) TO (700)' => 'complete' ],
	[ pt => 'DROP TABLE pt_6' => 'complete' ],
	[ pt => 'TRUNCATE full_one' => "${gap}Partition moved.full_one was truncated." ],
	[ pt => 'TRUNCATE full_one' => 'complete' ],
	[ pt => q{INSERT INTO pt VALUES (302, 'v'); TRUNCATE full_one, pt; INSERT INTO pt VALUES (102, 'v'), (303, 'v')} => 'complete' ],
	[ pt => 'TRUNCATE pt_2' => "${gap}Partition moved.pt_2_1 was truncated." ],
	[ pt => q{INSERT INTO pt VALUES (103, 'v')} => 'complete' ],
	[ pt => 'DROP TABLE full_one' => "${gap}Partition moved.full_one was dropped with its rows." ],
	[ pt => 'DROP TABLE pt_2' => "${gap}Partition moved.pt_2_1 was dropped with its rows." ],
	[ pt => q{INSERT INTO pt_1 VALUES (1, 'v'); ALTER TABLE pt ATTACH PARTITION pt_1 FOR VALUES FROM (0) TO (100)} => "${gap}Partition moved.pt_1 was attached with its rows." ],
	[ pt => q{ALTER TABLE pt ALTER v TYPE varchar USING upper(v)} => "${gap}Table moved.pt_1 was rewritten: the type of a column has changed." ],
	[ plain => q{ALTER TABLE plain ALTER n TYPE bigint USING n + 1} => "${gap}Table moved.plain was rewritten: the type of a column has changed." ],
	[ plain => q{ALTER TABLE plain ALTER v TYPE varchar} => 'complete' ],
	[ plain => q{ALTER TABLE plain ADD u uuid DEFAULT gen_random_uuid()} => "${gap}Table moved.plain was rewritten: a column was computed for each row." ],
	[ plain => q{ALTER TABLE plain ADD i int GENERATED BY DEFAULT AS IDENTITY} => "${gap}Table moved.plain was rewritten: a column was computed for each row." ],
	[ plain => q{ALTER TABLE plain ADD g int GENERATED ALWAYS AS (id + 1) STORED} => "${gap}Table moved.plain was rewritten: a column was computed for each row." ],
	[ plain => q{ALTER TABLE plain ADD c int DEFAULT 1} => 'complete' ],
	[ plain => q{ALTER TABLE plain ADD t timestamptz NOT NULL DEFAULT now()} => 'complete' ],
	[ plain => q{ALTER TABLE plain DROP g} => 'complete' ],
	[ plain => q{ALTER TABLE plain ALTER c DROP DEFAULT, ALTER c SET NOT NULL} => 'complete' ],
	[ plain => q{CLUSTER plain USING plain_pkey} => 'complete' ],
	[ plain => q{VACUUM FULL plain} => 'complete' ],
	[ typed => q{ALTER TYPE kind ALTER ATTRIBUTE n TYPE text CASCADE} => "${gap}Table moved.typed was rewritten: the type of a column has changed." ],
	[ child => q{ALTER TABLE parent ALTER n TYPE text} => "${gap}Table moved.child was rewritten: the type of a column has changed." ],
	[ nothing_in_it => q{ALTER TABLE nothing_in_it ALTER n TYPE text, ADD u uuid DEFAULT gen_random_uuid()} => 'complete' ]);
is(complete($node, 'moved.plain', now($node)), 'complete', 'before and after such a moment, the history is complete');

my $gaps = q{SELECT schema, "table", to_time, detail FROM bemi.gaps WHERE source = '%s' AND reason = 'rows_changed_by_ddl' ORDER BY 1, 2, 3};
my $last = $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
$node->poll_query_until('history', qq{SELECT stored_lsn >= '$last' FROM bemi.status WHERE source = 'reader'}) or die 'the reader is late';
is($node->safe_psql('history', sprintf($gaps, 'reader')), $node->safe_psql('postgres', sprintf($gaps, 'main')), 'a reader elsewhere has the same gaps');

# A message that is read again makes no second gap; commit times can be any.
is( $node->safe_psql(
		'postgres', q{
		DO $$ BEGIN PERFORM _bemi.record_changed_rows('main', t.server, t.relation, '1/1', c.at, 'twice')
			FROM _bemi.source_tables t, unnest('{2020-01-01, -infinity, infinity, 4714-11-24 00:00:00+00 BC, 294276-12-31 23:59:59.999999+00}'::timestamptz[]) c(at),
				generate_series(1, 2)
			WHERE t.schema = 'moved' AND t."table" = 'plain'; END $$;
		SELECT g.from_time, g.to_time FROM bemi.gaps g WHERE g.detail = 'twice' ORDER BY g.to_time, g.from_time}),
	<<~'END' =~ s/\n\z//r,
	-infinity|-infinity
	4714-11-24 00:00:00+00 BC|4714-11-24 00:00:00.000001+00 BC
	2019-12-31 23:59:59.999999+00|2020-01-01 00:00:00.000001+00
	294276-12-31 23:59:59.999998+00|294276-12-31 23:59:59.999999+00
	infinity|infinity
	END
	'one gap for each commit');

#
# Tables that should be tracked, and are not
#

$node->safe_psql(
	'postgres', q{
	CREATE SCHEMA forgotten;
	CREATE SERVER others FOREIGN DATA WRAPPER nothing;
	SELECT bemi.track_schema('forgotten');
	ALTER EVENT TRIGGER bemi_follow_ddl DISABLE;
	CREATE TABLE forgotten.t (id int PRIMARY KEY);
	CREATE TABLE forgotten.p (id int) PARTITION BY RANGE (id);
	CREATE TABLE forgotten.p_1 PARTITION OF forgotten.p FOR VALUES FROM (0) TO (10);
	CREATE UNLOGGED TABLE forgotten.u (id int);
	CREATE FOREIGN TABLE forgotten.f (v text) SERVER others;
	ALTER EVENT TRIGGER bemi_follow_ddl ENABLE ALWAYS;
	CREATE TABLE forgotten.u2 (id int);
	CREATE TABLE forgotten.other_trigger (id int);
	DROP TABLE forgotten.u2});
is( $node->safe_psql('postgres', q{SELECT "table", published, problems FROM bemi.tracked WHERE "table"::text LIKE 'forgotten.%' AND problems <> '{}' ORDER BY 1}),
	qq(forgotten.t|f|{"its schema is tracked, but it is not: SELECT bemi.track('forgotten.t');"}\n)
	  . qq(forgotten.p|f|{"its schema is tracked, but it is not: SELECT bemi.track('forgotten.p');"}),
	'tables of a tracked schema that are not tracked are shown as a problem');
$node->safe_psql('postgres', q{SELECT bemi.track_schema('forgotten')});
is( $node->safe_psql('postgres', q{SELECT "table" FROM bemi.tracked WHERE "table"::text LIKE 'forgotten.%' AND problems <> '{}'}),
	'', 'and bemi.track_schema() tracks them');

done_testing();
