# DDL in the middle of the stream: changes before it are stored as they were then, even if the
# worker reads them much later.
#
# The same statements run twice: while the source is stopped, so that the worker reads every table
# long after it was changed or dropped, and while it streams, with other clients writing. The
# journal (see Bemi::Journal) has the expected history. track_ddl_random.pl has statements in any
# order.

use strict;
use warnings;

use Bemi;
use Bemi::Journal;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{BEMI_SEED} // int(rand(2**31));
note "random seed: $seed (BEMI_SEED=$seed repeats the statements)";

my $node = bemi_node('main', conf => "max_prepared_transactions = 2\n");

journal_install($node);
$node->safe_psql('postgres', 'CREATE ROLE other_owner');

# PostgreSQL's own extensions may be a package that is not installed.
my $has_citext = $node->safe_psql('postgres',
	q{SELECT count(*) FROM pg_available_extensions WHERE name = 'citext'});

# PostgreSQL 14 has null in the old row of a partition for a column that was added
# with a default, until the partition is rewritten.
my $rewrite = $node->pg_version < 15 ? 1 : 0;

# Name => statements.  They run in their own schema, which is the search_path.
my @scenarios = (
	'table made again' => q{
		CREATE TABLE remade (k int PRIMARY KEY, v text);
		SELECT journal.follow('remade');
		INSERT INTO remade SELECT n, 'first' FROM generate_series(1, 3) n;
		UPDATE remade SET v = 'still first' WHERE k = 2;
		DROP TABLE remade;
		CREATE TABLE remade (v bigint, more text DEFAULT 'more', k bigint PRIMARY KEY);
		SELECT journal.follow('remade');
		INSERT INTO remade (k, v) VALUES (1, 1), (2, 1);
		DELETE FROM remade WHERE k = 1;
		DROP TABLE remade;
		CREATE TABLE remade (k int PRIMARY KEY, v text);
		INSERT INTO remade VALUES (1, 'not tracked'), (2, 'not tracked');
		SELECT journal.follow('remade');
		UPDATE remade SET v = 'third' WHERE k = 2;
		INSERT INTO remade VALUES (3, 'third');
	},
	'made, filled and dropped in one transaction' => q{
		BEGIN;
		CREATE TABLE brief (k int PRIMARY KEY, v text);
		SELECT journal.follow('brief');
		INSERT INTO brief VALUES (1, 'a');
		ALTER TABLE brief RENAME TO short;
		UPDATE short SET v = 'b';
		DROP TABLE short;
		COMMIT;
	},
	'schema dropped with its tables' => q{
		CREATE SCHEMA :"mode_gone";
		CREATE TABLE :"mode_gone".t (k int PRIMARY KEY, v text);
		SELECT journal.follow(:'mode_gone' || '.t');
		INSERT INTO :"mode_gone".t VALUES (1, repeat('long ', 100000));
		UPDATE :"mode_gone".t SET k = 2;
		SET client_min_messages = warning;
		DROP SCHEMA :"mode_gone" CASCADE;
	},
	'renamed' => q{
		CREATE TABLE before_rename (k int PRIMARY KEY, v text);
		SELECT journal.follow('before_rename');
		INSERT INTO before_rename VALUES (1, 'a');
		ALTER TABLE before_rename RENAME TO after_rename;
		INSERT INTO after_rename VALUES (2, 'b');
		BEGIN;
		UPDATE after_rename SET v = 'c' WHERE k = 1;
		ALTER TABLE after_rename RENAME TO "After ""rename""";
		UPDATE "After ""rename""" SET v = 'd' WHERE k = 1;
		COMMIT;
		-- another one takes the name
		CREATE TABLE before_rename (k text PRIMARY KEY, v int);
		SELECT journal.follow('before_rename');
		INSERT INTO before_rename VALUES ('1', 1);
		INSERT INTO "After ""rename""" VALUES (3, 'e');
	},
	'names swapped' => q{
		CREATE TABLE left_one (k int PRIMARY KEY, v text);
		CREATE TABLE right_one (k text PRIMARY KEY, w int[]);
		SELECT journal.follow(t) FROM unnest('{left_one, right_one}'::regclass[]) t;
		INSERT INTO left_one VALUES (1, 'a');
		INSERT INTO right_one VALUES ('x', '{1, 2}');
		BEGIN;
		ALTER TABLE left_one RENAME TO between;
		ALTER TABLE right_one RENAME TO left_one;
		ALTER TABLE between RENAME TO right_one;
		COMMIT;
		UPDATE left_one SET w = '{3, NULL}';
		UPDATE right_one SET v = 'b';
	},
	'moved to another schema' => q{
		CREATE SCHEMA :"mode_other";
		CREATE TABLE moved (k int PRIMARY KEY, v text);
		SELECT journal.follow('moved');
		INSERT INTO moved VALUES (1, 'a');
		ALTER TABLE moved SET SCHEMA :"mode_other";
		UPDATE :"mode_other".moved SET v = 'b';
		ALTER TABLE :"mode_other".moved SET SCHEMA :"mode";
		UPDATE moved SET v = 'c';
	},
	'schema renamed' => q{
		CREATE SCHEMA :"mode_renamed";
		CREATE TABLE :"mode_renamed".t (k int PRIMARY KEY, v text);
		SELECT journal.follow(:'mode_renamed' || '.t');
		INSERT INTO :"mode_renamed".t VALUES (1, 'a');
		ALTER SCHEMA :"mode_renamed" RENAME TO :"mode_new_name";
		INSERT INTO :"mode_new_name".t VALUES (2, 'b');
		BEGIN;
		UPDATE :"mode_new_name".t SET v = 'c' WHERE k = 1;
		ALTER SCHEMA :"mode_new_name" RENAME TO :"mode_renamed";
		UPDATE :"mode_renamed".t SET v = 'd' WHERE k = 1;
		COMMIT;
	},
	'columns added' => q{
		CREATE TABLE wider (k int PRIMARY KEY);
		SELECT journal.follow('wider');
		INSERT INTO wider SELECT generate_series(1, 5);
		ALTER TABLE wider ADD COLUMN plain text;
		UPDATE wider SET plain = 'set' WHERE k = 1;
		ALTER TABLE wider ADD COLUMN filled text DEFAULT 'filled' NOT NULL;
		UPDATE wider SET plain = 'too' WHERE k = 2;
		ALTER TABLE wider ALTER COLUMN filled SET DEFAULT 'otherwise';
		INSERT INTO wider VALUES (6);
		UPDATE wider SET plain = 'three' WHERE k = 3;
		ALTER TABLE wider ADD COLUMN computed double precision DEFAULT random();
		UPDATE wider SET plain = 'four' WHERE k = 4;
		DELETE FROM wider;
	},
	'columns dropped, made again in another place' => q{
		CREATE TABLE narrow (a int, k int PRIMARY KEY, b text, c jsonb);
		SELECT journal.follow('narrow');
		INSERT INTO narrow VALUES (1, 1, 'b', '{"x": 1}'), (2, 2, NULL, 'null'), (3, 3, '', '[]');
		ALTER TABLE narrow DROP COLUMN b;
		UPDATE narrow SET a = 10 WHERE k = 1;
		ALTER TABLE narrow ADD COLUMN b int DEFAULT 7;
		UPDATE narrow SET a = 11 WHERE k = 1;
		DELETE FROM narrow WHERE k = 2;
		ALTER TABLE narrow DROP COLUMN a, ADD COLUMN a text;
		INSERT INTO narrow (k, a, b, c) VALUES (4, 'a', 1, '0');
		UPDATE narrow SET c = NULL;
	},
	'columns renamed, names swapped' => q{
		CREATE TABLE named (k int PRIMARY KEY, a int, b text);
		SELECT journal.follow('named');
		INSERT INTO named VALUES (1, 1, 'one');
		ALTER TABLE named RENAME a TO c;
		UPDATE named SET c = 2;
		BEGIN;
		ALTER TABLE named RENAME b TO a;
		ALTER TABLE named RENAME c TO b;
		UPDATE named SET b = 3, a = 'three';
		COMMIT;
		DELETE FROM named;
	},
	'columns retyped' => q{
		CREATE TABLE typed (k int PRIMARY KEY, v int, at timestamp, big text);
		SELECT journal.follow('typed');
		INSERT INTO typed VALUES (1, 1, '2020-02-29 12:00', repeat('x', 5000)), (2, 2, NULL, 'short');
		ALTER TABLE typed ALTER v TYPE bigint;
		UPDATE typed SET v = 5000000000 WHERE k = 1;
		ALTER TABLE typed ALTER v TYPE text;
		UPDATE typed SET v = v || '!' WHERE k = 1;
		ALTER TABLE typed ALTER v TYPE int USING length(v), ALTER at TYPE timestamptz USING at AT TIME ZONE 'UTC';
		UPDATE typed SET v = -v;
		ALTER TABLE typed ALTER v TYPE int[] USING ARRAY[v, NULL], ALTER at TYPE jsonb USING to_jsonb(at);
		UPDATE typed SET at = '{"a": [1.50]}' WHERE k = 2;
		ALTER TABLE typed ALTER big TYPE varchar(5) USING left(big, 5), ALTER k TYPE bigint;
		DELETE FROM typed;
	},
	'primary key changed' => q{
		CREATE TABLE keyed (k int PRIMARY KEY, a int UNIQUE NOT NULL, b text);
		SELECT journal.follow('keyed');
		INSERT INTO keyed VALUES (1, 10, 'x'), (2, 20, 'y');
		ALTER TABLE keyed DROP CONSTRAINT keyed_pkey;
		UPDATE keyed SET b = 'no key' WHERE k = 1;
		ALTER TABLE keyed ADD PRIMARY KEY (a);
		UPDATE keyed SET b = 'by a' WHERE k = 1;
		ALTER TABLE keyed DROP CONSTRAINT keyed_pkey, ADD PRIMARY KEY (b, k);
		UPDATE keyed SET b = 'by b and k' WHERE k = 1;
		ALTER TABLE keyed RENAME b TO c;
		UPDATE keyed SET c = 'by c and k' WHERE k = 2;
		DELETE FROM keyed;
	},
	'primary key taken away' => q{
		CREATE TABLE unkeyed (k int PRIMARY KEY, v text);
		SELECT journal.follow('unkeyed');
		INSERT INTO unkeyed VALUES (1, 'a'), (1000, 'b');
		ALTER TABLE unkeyed DROP CONSTRAINT unkeyed_pkey;
		INSERT INTO unkeyed VALUES (1, 'again');
		UPDATE unkeyed SET v = 'c' WHERE v = 'a';
	},
	'replica identity changed by hand' => q{
		CREATE TABLE identified (k int PRIMARY KEY, v text);
		SELECT journal.follow('identified');
		INSERT INTO identified VALUES (1, 'a'), (2, 'b');
		ALTER TABLE identified REPLICA IDENTITY DEFAULT;
		INSERT INTO identified VALUES (3, 'c');
		ALTER TABLE identified REPLICA IDENTITY FULL;
		UPDATE identified SET v = 'd';
	},
	'rewritten' => q{
		CREATE TABLE rewritten (k int PRIMARY KEY, v text, big text) WITH (autovacuum_enabled = off);
		ALTER TABLE rewritten ALTER big SET STORAGE EXTERNAL;
		SELECT journal.follow('rewritten');
		INSERT INTO rewritten SELECT n, 'v', repeat(n::text, 5000) FROM generate_series(1, 20) n;
		UPDATE rewritten SET v = 'before' WHERE k % 3 = 0;
		VACUUM FULL rewritten;
		UPDATE rewritten SET v = 'after vacuum' WHERE k % 4 = 0;
		CLUSTER rewritten USING rewritten_pkey;
		UPDATE rewritten SET v = 'after cluster' WHERE k % 5 = 0;
		BEGIN;
		UPDATE rewritten SET v = 'same transaction' WHERE k = 1;
		ALTER TABLE rewritten ALTER k TYPE bigint, ADD COLUMN w timestamptz DEFAULT clock_timestamp();
		UPDATE rewritten SET v = 'rewritten' WHERE k = 1;
		CLUSTER rewritten;
		DELETE FROM rewritten WHERE k = 1;
		COMMIT;
		ALTER TABLE rewritten SET TABLESPACE pg_default;
		REINDEX TABLE rewritten;
		DELETE FROM rewritten;
	},
	'truncated' => q{
		CREATE TABLE emptied (k int PRIMARY KEY, v text);
		CREATE TABLE refers (k int PRIMARY KEY, r int REFERENCES emptied);
		SELECT journal.follow(t) FROM unnest('{emptied, refers}'::regclass[]) t;
		INSERT INTO emptied VALUES (1, 'a'), (2, 'b');
		INSERT INTO refers VALUES (1, 1);
		SET client_min_messages = warning;
		TRUNCATE emptied CASCADE;
		INSERT INTO emptied VALUES (1, 'c');
		BEGIN;
		INSERT INTO refers VALUES (5, 1);
		TRUNCATE refers;
		INSERT INTO refers VALUES (5, 1);
		SAVEPOINT s;
		TRUNCATE emptied, refers;
		ROLLBACK TO s;
		DELETE FROM refers;
		COMMIT;
	},
	'partitions come, go and move' => q{
		CREATE TABLE parted (k int, v text, PRIMARY KEY (k)) PARTITION BY RANGE (k);
		CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100);
		SELECT journal.follow('parted');
		INSERT INTO parted VALUES (1, 'a'), (2, 'b');
		-- other places, other columns
		CREATE TABLE parted_2 (gone int, v text, k int NOT NULL PRIMARY KEY);
		ALTER TABLE parted_2 DROP COLUMN gone;
		INSERT INTO parted_2 VALUES ('not tracked', 150);
		ALTER TABLE parted ATTACH PARTITION parted_2 FOR VALUES FROM (100) TO (200);
		INSERT INTO parted VALUES (101, 'c');
		UPDATE parted SET k = k + 100 WHERE k = 2;
		UPDATE parted_2 SET v = 'by name' WHERE k = 150;
		ALTER TABLE parted DETACH PARTITION parted_1;
		SET journal.mode = off;
		UPDATE parted_1 SET v = 'not tracked';
		RESET journal.mode;
		-- tracked alone, attached again: stored by its own name, then by the root's
		SELECT journal.follow('parted_1');
		UPDATE parted_1 SET v = 'alone';
		DROP TRIGGER journal ON parted_1;
		ALTER TABLE parted ATTACH PARTITION parted_1 FOR VALUES FROM (-100) TO (100);
		INSERT INTO parted VALUES (-1, 'negative');
		INSERT INTO parted VALUES (10, 'old name');
		ALTER TABLE parted RENAME TO apart;
		INSERT INTO apart VALUES (11, 'new name');
		ALTER TABLE apart ADD COLUMN w int DEFAULT 3;
		\\if :rewrite
		VACUUM FULL apart;
		\\endif
		UPDATE apart SET k = k + 1 WHERE k IN (1, 150);
		BEGIN;
		INSERT INTO apart VALUES (5, 'in the same transaction');
		ALTER TABLE apart DETACH PARTITION parted_2;
		SET LOCAL journal.mode = off;
		INSERT INTO parted_2 VALUES ('not tracked', 160, 1);
		RESET journal.mode;
		CREATE TABLE parted_3 PARTITION OF apart FOR VALUES FROM (400) TO (600);
		INSERT INTO apart VALUES (500, 'new');
		COMMIT;
		ALTER TABLE apart DETACH PARTITION parted_3 CONCURRENTLY;
		DROP TABLE parted_1;
		CREATE TABLE parted_1 PARTITION OF apart FOR VALUES FROM (0) TO (100) PARTITION BY LIST (k);
		CREATE TABLE parted_1_1 PARTITION OF parted_1 FOR VALUES IN (1, 2, 3);
		INSERT INTO apart VALUES (1, 'deep');
		TRUNCATE apart;
	},
	'partition detached and tracked alone, and the other way round' => q{
		CREATE TABLE whole (k int PRIMARY KEY, v text) PARTITION BY RANGE (k);
		CREATE TABLE part_1 PARTITION OF whole FOR VALUES FROM (0) TO (100);
		CREATE TABLE part_2 (k int PRIMARY KEY, v text);
		SELECT journal.follow('whole');
		SELECT journal.follow('part_2');
		INSERT INTO whole VALUES (1, 'by the root');
		INSERT INTO part_2 VALUES (200, 'alone');
		ALTER TABLE whole DETACH PARTITION part_1;
		SELECT journal.follow('part_1');
		DROP TRIGGER journal ON part_2;
		ALTER TABLE whole ATTACH PARTITION part_2 FOR VALUES FROM (100) TO (300);
		UPDATE part_1 SET v = 'alone';
		UPDATE whole SET v = 'by the root';
	},
	'partitions whose root is renamed and moved' => q{
		CREATE SCHEMA :"mode_roots";
		CREATE TABLE root (k int PRIMARY KEY, v text) PARTITION BY RANGE (k);
		CREATE TABLE branch PARTITION OF root FOR VALUES FROM (0) TO (100) PARTITION BY RANGE (k);
		CREATE TABLE leaf PARTITION OF branch FOR VALUES FROM (0) TO (100);
		SELECT journal.follow('root');
		INSERT INTO root VALUES (1, 'a');
		ALTER TABLE root RENAME TO trunk;
		UPDATE trunk SET v = 'b';
		ALTER TABLE trunk SET SCHEMA :"mode_roots";
		UPDATE leaf SET v = 'c';
		BEGIN;
		DELETE FROM leaf;
		ALTER TABLE :"mode_roots".trunk RENAME TO root;
		INSERT INTO leaf VALUES (2, 'd');
		SAVEPOINT s;
		ALTER TABLE :"mode_roots".root RENAME TO other;
		UPDATE leaf SET v = 'rolled back';
		ROLLBACK TO s;
		UPDATE leaf SET v = 'e';
		COMMIT;
		TRUNCATE :"mode_roots".root;
	},
	'inheritance' => q{
		CREATE TABLE parent (k int PRIMARY KEY, v text);
		CREATE TABLE child (w int) INHERITS (parent);
		ALTER TABLE child ADD PRIMARY KEY (k);
		SELECT journal.follow(t) FROM unnest('{parent, child}'::regclass[]) t;
		INSERT INTO parent VALUES (1, 'a');
		INSERT INTO child VALUES (2, 'b', 2);
		UPDATE parent SET v = 'by way of the parent';
		ALTER TABLE parent ADD COLUMN x int DEFAULT 5;
		UPDATE parent SET x = 6;
		ALTER TABLE child NO INHERIT parent;
		UPDATE parent SET v = 'alone';
		UPDATE child SET v = 'free';
		DELETE FROM child;
		ALTER TABLE child INHERIT parent;
		TRUNCATE parent;
	},
	'unlogged and logged again' => q{
		CREATE TABLE unlog (k int PRIMARY KEY, v text);
		SELECT journal.follow('unlog');
		INSERT INTO unlog VALUES (1, 'logged');
		BEGIN;
		SELECT bemi.untrack('unlog');
		ALTER TABLE unlog SET UNLOGGED;
		COMMIT;
		SET journal.mode = off;
		INSERT INTO unlog VALUES (2, 'unlogged');
		RESET journal.mode;
		BEGIN;
		ALTER TABLE unlog SET LOGGED;
		SELECT bemi.track('unlog');
		COMMIT;
		UPDATE unlog SET v = 'logged again';
	},
	'types dropped' => q{
		CREATE TYPE mood AS ENUM ('sad', 'ok');
		CREATE DOMAIN positive AS int CHECK (VALUE > 0);
		CREATE TYPE pair AS (x int, y text);
		CREATE TABLE exotic (k int PRIMARY KEY, m mood, p positive, c pair, ms mood[], r int4multirange);
		SELECT journal.follow('exotic');
		INSERT INTO exotic VALUES (1, 'sad', 1, (1, 'y "q"'), '{ok, NULL}', '{[1, 2), [5,)}');
		INSERT INTO exotic VALUES (2);
		ALTER TYPE mood ADD VALUE 'happy' BEFORE 'ok';
		UPDATE exotic SET m = 'happy' WHERE k = 1;
		ALTER TYPE mood RENAME VALUE 'happy' TO 'glad';
		UPDATE exotic SET ms = '{glad}' WHERE k = 2;
		ALTER TYPE pair ADD ATTRIBUTE z int CASCADE;
		UPDATE exotic SET c = (1, NULL, 3) WHERE k = 2;
		ALTER TYPE mood RENAME TO temper;
		UPDATE exotic SET p = 2;
		SET client_min_messages = warning;
		DROP TYPE temper CASCADE;
		DELETE FROM exotic WHERE k = 1;
		BEGIN;
		UPDATE exotic SET p = 5;
		DROP DOMAIN positive CASCADE;
		UPDATE exotic SET c = (7, 'seven', 7);
		DROP TYPE pair CASCADE;
		UPDATE exotic SET k = 3;
		COMMIT;
	},
	'type of an extension dropped' => q{
		CREATE EXTENSION citext;
		CREATE TABLE stored (k int PRIMARY KEY, h citext);
		SELECT journal.follow('stored');
		INSERT INTO stored VALUES (1, 'Any Case');
		SET client_min_messages = warning;
		DROP EXTENSION citext CASCADE;
		UPDATE stored SET k = 2;
	},
	'owner changed' => q{
		CREATE TABLE owned (k int PRIMARY KEY, v text);
		SELECT journal.follow('owned');
		INSERT INTO owned VALUES (1, 'a');
		ALTER TABLE owned OWNER TO other_owner;
		UPDATE owned SET v = 'b';
		GRANT USAGE ON SCHEMA :"mode" TO other_owner;
		SET ROLE other_owner;
		UPDATE owned SET v = 'c';
		ALTER TABLE owned ADD COLUMN w int DEFAULT 1;
		DELETE FROM owned;
		RESET ROLE;
	},
	'DDL and rows in one transaction' => q{
		CREATE TABLE mixed (k int PRIMARY KEY, v text);
		SELECT journal.follow('mixed');
		BEGIN;
		INSERT INTO mixed VALUES (1, 'a');
		ALTER TABLE mixed ADD COLUMN w int DEFAULT 1;
		INSERT INTO mixed VALUES (2, 'b');
		SAVEPOINT s1;
		ALTER TABLE mixed DROP COLUMN v;
		ALTER TABLE mixed RENAME TO rolled_back;
		INSERT INTO rolled_back VALUES (3, 3);
		SAVEPOINT s2;
		ALTER TABLE rolled_back ALTER w TYPE text;
		UPDATE rolled_back SET w = 'four';
		ROLLBACK TO s2;
		UPDATE rolled_back SET w = 4;
		ROLLBACK TO s1;
		UPDATE mixed SET v = 'c';
		SAVEPOINT s3;
		DROP TABLE mixed;
		CREATE TABLE mixed (k text PRIMARY KEY);
		SELECT journal.follow('mixed');
		INSERT INTO mixed VALUES ('rolled back');
		ROLLBACK TO s3;
		SAVEPOINT s4;
		ALTER TABLE mixed ALTER w TYPE text USING 'w' || w;
		UPDATE mixed SET w = w || '!';
		RELEASE s4;
		CREATE TABLE mixed_too (k int PRIMARY KEY, r int);
		SELECT journal.follow('mixed_too');
		INSERT INTO mixed_too VALUES (1, 1);
		COMMIT;
		BEGIN;
		ALTER TABLE mixed RENAME w TO x;
		INSERT INTO mixed VALUES (10, 'rolled back', 'x');
		TRUNCATE mixed;
		ROLLBACK;
		DELETE FROM mixed;
		BEGIN;
		ALTER TABLE mixed_too ADD COLUMN p text DEFAULT 'p';
		INSERT INTO mixed_too VALUES (2, 2);
		PREPARE TRANSACTION :'mode';
		COMMIT PREPARED :'mode';
		DO $$ BEGIN
			FOR i IN 1 .. 5 LOOP
				EXECUTE format('ALTER TABLE mixed_too ADD COLUMN c%s int DEFAULT %s', i, i);
				BEGIN
					UPDATE mixed_too SET r = r + 1;
					EXECUTE format('ALTER TABLE mixed_too DROP COLUMN c%s', i);
					UPDATE mixed_too SET r = r + 1;
					IF i % 2 = 0 THEN
						RAISE EXCEPTION 'undo';
					END IF;
				EXCEPTION WHEN raise_exception THEN
					UPDATE mixed_too SET r = -r;
				END;
			END LOOP;
		END $$;
	},
	'tracked schema' => q{
		CREATE SCHEMA :"mode_whole";
		SELECT bemi.track_schema(:'mode_whole');
		CREATE TABLE :"mode_whole".t (k int PRIMARY KEY, v text);
		SELECT journal.follow(:'mode_whole' || '.t', false);
		INSERT INTO :"mode_whole".t VALUES (1, 'a');
		ALTER SCHEMA :"mode_whole" RENAME TO :"mode_all";
		CREATE TABLE :"mode_all".u (k int PRIMARY KEY, v text);
		SELECT journal.follow(:'mode_all' || '.u', false);
		INSERT INTO :"mode_all".u VALUES (1, 'b');
		CREATE TABLE :"mode_all".w AS SELECT 1 AS k;
		SELECT journal.follow(:'mode_all' || '.w', false);
		UPDATE :"mode_all".w SET k = 2;
		BEGIN;
		ALTER PUBLICATION bemi DROP TABLE :"mode_all".u;
		ALTER TABLE :"mode_all".u SET UNLOGGED;
		COMMIT;
		SET journal.mode = off;
		UPDATE :"mode_all".u SET v = 'unlogged';
		RESET journal.mode;
		ALTER TABLE :"mode_all".u SET LOGGED;
		UPDATE :"mode_all".u SET v = 'c';
	});

# Runs the statements of all scenarios, each in its own session.
sub run_scenarios
{
	my ($mode) = @_;

	$node->safe_psql('postgres', "CREATE SCHEMA $mode");
	for (my $i = 0; $i < @scenarios; $i += 2)
	{
		my ($name, $sql) = @scenarios[ $i, $i + 1 ];

		next if $name =~ /extension/ && !$has_citext;
		$node->safe_psql(
			'postgres',
			"SET search_path = $mode, public;\n"
			  . "SET bemi.context = '{\"scenario\": \"$name\"}';\n$sql",
			on_error_stop => 1,
			extra_params => [
				'-v', "mode=$mode", '-v', "rewrite=$rewrite",
				map { ('-v', "mode_$_=${mode}_$_") }
				  qw(gone other renamed new_name whole all roots)
			]);
	}
	return;
}

# Each scenario by itself, because then a failure has a name; then all in one, which
# also shows what is in no scenario.
sub check_scenarios
{
	my ($mode) = @_;

	$node->safe_psql('postgres', q{SELECT bemi.sync('120s')});
	for (my $i = 0; $i < @scenarios; $i += 2)
	{
		my $name = $scenarios[$i];

		next if $name =~ /extension/ && !$has_citext;
		my $where = qq{schema ~ '^$mode' AND context->>'scenario' = '$name'};

		cmp_ok(journal_entries($node, where => $where),
			'>', 1, "$mode: $name: there are changes");
		is(journal_differences($node, where => $where), '', "$mode: $name: all stored");
	}
	is(journal_differences($node, where => "schema ~ '^$mode'"),
		'', "$mode: nothing else, and in this order");
	return;
}

#
# The worker comes late
#

$node->safe_psql('postgres', 'CALL bemi.start(); CALL bemi.stop()');
run_scenarios('late');
$node->safe_psql('postgres', 'CALL bemi.start()');
check_scenarios('late');

#
# The worker streams, and others write
#

# Four clients write to three tables while a fifth one changes and moves them.
# A statement that comes at the wrong moment fails, and is not in the journal.
$node->safe_psql(
	'postgres', q{
	CREATE SCHEMA load;
	CREATE FUNCTION load.make(name text) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		EXECUTE format('CREATE TABLE load.%I (k int PRIMARY KEY, v int)', name);
		PERFORM journal.follow(format('load.%I', name)::regclass);
	END $$;
	SELECT load.make('t' || n) FROM generate_series(1, 3) n;
	CREATE SCHEMA load2;

	CREATE FUNCTION load.write(client int) RETURNS void LANGUAGE plpgsql
		SET lock_timeout = '1s' AS $$
	DECLARE
		t text := format('load.t%s', 1 + floor(random() * 3));
		k int := 1 + floor(random() * 30);
		v text := floor(random() * 1000);
	BEGIN
		FOR i IN 1 .. 3 LOOP
			PERFORM bemi.set_context(jsonb_build_object('client', client, 'statement', i));
			BEGIN
				CASE floor(random() * 4)
					WHEN 0 THEN EXECUTE format('DELETE FROM %s WHERE k = %s', t, k);
					WHEN 1 THEN EXECUTE format('UPDATE %s SET v = %L WHERE k = %s', t, v, k);
					ELSE EXECUTE format('INSERT INTO %s (k, v) VALUES (%s, %L)'
						' ON CONFLICT (k) DO UPDATE SET v = excluded.v', t, k, v);
				END CASE;
			EXCEPTION WHEN OTHERS THEN
				NULL;
			END;
		END LOOP;
	EXCEPTION WHEN OTHERS THEN
		NULL;
	END $$});
append_to_file($node->basedir . '/write.sql', "SELECT load.write(:client_id)\n");
my $load = IPC::Run::start(
	[
		$node->installed_command('pgbench'), '--no-vacuum', '-c', '4', '-j', '2',
		'-T', $PostgreSQL::Test::Utils::timeout_default,
		'-f', $node->basedir . '/write.sql', $node->connstr('postgres')
	],
	'>', \my $ignored, '2>&1',
	IPC::Run::timeout(2 * $PostgreSQL::Test::Utils::timeout_default));

$node->poll_query_until('postgres', 'SELECT count(*) > 100 FROM journal.entries WHERE schema = \'load\'')
  or die 'the clients write nothing';
run_scenarios('live');

my @ddl = (
	'ALTER TABLE load.t1 ADD COLUMN c text DEFAULT \'c\'',
	'ALTER TABLE load.t1 RENAME c TO d',
	'ALTER TABLE load.t1 DROP COLUMN d',
	'ALTER TABLE load.t1 ALTER v TYPE bigint',
	'ALTER TABLE load.t1 ALTER v TYPE text',
	'ALTER TABLE load.t1 ALTER v TYPE int USING length(v)',
	'ALTER TABLE load.t1 DROP CONSTRAINT t1_pkey; ALTER TABLE load.t1 ADD CONSTRAINT t1_pkey PRIMARY KEY (k)',
	'VACUUM FULL load.t2',
	'CLUSTER load.t2 USING t2_pkey',
	'TRUNCATE load.t2',
	'ALTER TABLE load.t2 RENAME TO t4; ALTER TABLE load.t3 RENAME TO t2; ALTER TABLE load.t4 RENAME TO t3',
	'ALTER TABLE load.t2 SET SCHEMA load2; UPDATE load2.t2 SET v = 0 WHERE k = 1; ALTER TABLE load2.t2 SET SCHEMA load',
	'BEGIN; DROP TABLE load.t3; SELECT load.make(\'t3\'); INSERT INTO load.t3 VALUES (1, 1); COMMIT',
	'BEGIN; ALTER TABLE load.t3 ADD COLUMN e int DEFAULT 1; UPDATE load.t3 SET e = 2; ALTER TABLE load.t3 DROP COLUMN e; COMMIT',
	'BEGIN; UPDATE load.t3 SET v = 7; ALTER TABLE load.t3 RENAME v TO w; UPDATE load.t3 SET w = 8; ROLLBACK');

srand($seed);
for my $round (1 .. 60)
{
	# A statement may fail, because of a lock or because it does not fit.
	$node->psql('postgres',
		"SET lock_timeout = '5s'; SET bemi.context = '{\"round\": $round}';\n"
		  . ($ddl[ int(rand(@ddl)) ] =~ s/; /;\n/gr));
}
$load->signal('TERM');
$load->finish;

check_scenarios('live');
note 'changes of the clients: ' . journal_entries($node, where => q{schema ~ '^load'});
is(journal_differences($node, order => 'row', where => q{schema ~ '^load'}),
	'', 'live: all changes of the clients are stored');

# What a version sends otherwise is warned of.
my (undef, undef, $warnings) = $node->psql('postgres', q{
	CREATE TABLE grows (k int) PARTITION BY RANGE (k);
	CREATE TABLE grows_1 PARTITION OF grows FOR VALUES FROM (0) TO (100);
	SELECT bemi.track('grows');
	ALTER TABLE grows ADD COLUMN w int DEFAULT 3;
	VACUUM FULL grows;
	ALTER TABLE grows ALTER COLUMN w DROP DEFAULT;
	DROP TABLE grows});
is( scalar(() = $warnings =~ /WARNING:  before is null for column "w" in changes of rows that partition "public.grows_1" has now/g),
	$rewrite, 'one warning from PostgreSQL 14, none from later ones');

$node->stop;
done_testing();
