# Keys that are added, dropped and changed, for the tests of the keys in the stream
# (track_keys_*).
#
# Each scenario is a list of steps, and each step that changes a row has the key of its change.
# The steps run in one of several ways, as single statements or in one transaction. The context of
# each row names its step.

package Bemi::KeyScenarios;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Cluster;
use Test::More;

our @EXPORT = qw(@scenarios @alone %ways add_extension_scenario steps statement run_scenarios check_scenarios changes_in);

# Name => steps.  A step is a statement, or [a statement that changes one row of a
# tracked table, the key of this change].  Each runs in its own schema, which
# is the search_path; {schema} is its name.
our @scenarios = (
	'key dropped' => [
		'CREATE TABLE dropped (id int PRIMARY KEY, v text)',
		q{SELECT bemi.track('dropped')},
		[ q{INSERT INTO dropped VALUES (1, 'a')} => '1' ],
		'ALTER TABLE dropped DROP CONSTRAINT dropped_pkey',
		[ q{UPDATE dropped SET v = 'b'} => undef ],
		[ q{INSERT INTO dropped VALUES (2, 'c')} => undef ],
		[ q{DELETE FROM dropped WHERE id = 1} => undef ],
	],
	'key added' => [
		'CREATE TABLE added (id int, v text)',
		q{SELECT bemi.track('added')},
		[ q{INSERT INTO added VALUES (1, 'a')} => undef ],
		'ALTER TABLE added ADD PRIMARY KEY (id)',
		[ q{UPDATE added SET v = 'b'} => '1' ],
		[ q{UPDATE added SET id = 2} => '2' ],
		[ q{DELETE FROM added} => '2' ],
		'ALTER TABLE added ADD COLUMN other int',
		[ q{INSERT INTO added VALUES (3, 'c', 4)} => '3' ],
	],
	'key added with its column' => [
		'CREATE TABLE late_column (v text)',
		q{SELECT bemi.track('late_column')},
		[ q{INSERT INTO late_column VALUES ('a')} => undef ],
		'ALTER TABLE late_column ADD COLUMN id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY',
		[ q{UPDATE late_column SET v = 'b'} => '1' ],
		'ALTER TABLE late_column DROP COLUMN id',
		[ q{UPDATE late_column SET v = 'c'} => undef ],
		'ALTER TABLE late_column ADD COLUMN id text PRIMARY KEY DEFAULT \'k\', ADD COLUMN w int',
		[ q{DELETE FROM late_column} => 'k' ],
	],
	'replaced by another column' => [
		'CREATE TABLE replaced (id int PRIMARY KEY, a int NOT NULL, v text)',
		q{SELECT bemi.track('replaced')},
		[ q{INSERT INTO replaced VALUES (1, 10, 'a')} => '1' ],
		'ALTER TABLE replaced DROP CONSTRAINT replaced_pkey',
		[ q{UPDATE replaced SET v = 'b'} => undef ],
		'ALTER TABLE replaced ADD PRIMARY KEY (a)',
		[ q{UPDATE replaced SET v = 'c'} => '10' ],
		'ALTER TABLE replaced DROP CONSTRAINT replaced_pkey, ADD CONSTRAINT other_name PRIMARY KEY (id)',
		[ q{UPDATE replaced SET v = 'd'} => '1' ],
		'CREATE UNIQUE INDEX by_a ON replaced (a)',
		[ q{UPDATE replaced SET v = 'e'} => '1' ],
		'ALTER TABLE replaced DROP CONSTRAINT other_name, ADD PRIMARY KEY USING INDEX by_a',
		[ q{UPDATE replaced SET id = 2, a = 20} => '20' ],
		[ q{DELETE FROM replaced} => '20' ],
	],
	'more columns, in another order' => [
		'CREATE TABLE wider (a int, b text, c int, PRIMARY KEY (a, b))',
		q{SELECT bemi.track('wider')},
		[ q{INSERT INTO wider VALUES (1, 'x', 3)} => '["1", "x"]' ],
		'ALTER TABLE wider DROP CONSTRAINT wider_pkey, ADD PRIMARY KEY (b, a)',
		[ q{UPDATE wider SET c = 4} => '["x", "1"]' ],
		'ALTER TABLE wider DROP CONSTRAINT wider_pkey, ADD PRIMARY KEY (b) INCLUDE (c)',
		[ q{UPDATE wider SET c = 5} => 'x' ],
		'ALTER TABLE wider DROP CONSTRAINT wider_pkey, ADD PRIMARY KEY (c, b, a)',
		[ q{UPDATE wider SET b = 'say "y"'} => '["5", "say \"y\"", "1"]' ],
		'ALTER TABLE wider DROP COLUMN c',
		[ q{UPDATE wider SET b = 'z'} => undef ],
	],
	'changed again and again, with and without rows between' => [
		'CREATE TABLE restless (id int PRIMARY KEY, a int NOT NULL, v text)',
		q{SELECT bemi.track('restless')},
		[ q{INSERT INTO restless VALUES (1, 10, '')} => '1' ],
		map {
			(
				'ALTER TABLE restless DROP CONSTRAINT restless_pkey',
				($_ % 3 ? () : [ q{UPDATE restless SET v = v || 'n'} => undef ]),
				'ALTER TABLE restless ADD PRIMARY KEY (a, id)',
				($_ % 4 ? [ q{UPDATE restless SET v = v || '2'} => '["10", "1"]' ] : ()),
				'ALTER TABLE restless DROP CONSTRAINT restless_pkey, ADD PRIMARY KEY (a)',
				'ALTER TABLE restless DROP CONSTRAINT restless_pkey, ADD PRIMARY KEY (id)',
				($_ % 2 ? [ q{UPDATE restless SET v = v || 'i'} => '1' ] : ()))
		} (1 .. 6)
	],
	'column renamed' => [
		'CREATE TABLE named (id int PRIMARY KEY, a int, v text)',
		q{SELECT bemi.track('named')},
		[ q{INSERT INTO named VALUES (1, 10, 'a')} => '1' ],
		'ALTER TABLE named RENAME id TO ident',
		[ q{UPDATE named SET v = 'b'} => '1' ],
		# another column takes the name
		'ALTER TABLE named RENAME a TO id',
		[ q{UPDATE named SET v = 'c'} => '1' ],
		'ALTER TABLE named RENAME ident TO "The ""key"""',
		[ q{UPDATE named SET v = 'd', "The ""key""" = 2} => '2' ],
		'ALTER TABLE named RENAME v TO ident',
		[ q{DELETE FROM named} => '2' ],
	],
	'columns of the key swap their names' => [
		'CREATE TABLE swapped (a int, b int, v text, PRIMARY KEY (a, b))',
		q{SELECT bemi.track('swapped')},
		[ q{INSERT INTO swapped VALUES (1, 2, 'a')} => '["1", "2"]' ],
		'ALTER TABLE swapped RENAME a TO c',
		'ALTER TABLE swapped RENAME b TO a',
		'ALTER TABLE swapped RENAME c TO b',
		[ q{UPDATE swapped SET v = 'b'} => '["1", "2"]' ],
		[ q{UPDATE swapped SET a = 5} => '["1", "5"]' ],
		[ q{DELETE FROM swapped} => '["1", "5"]' ],
	],
	'table renamed and moved' => [
		'CREATE TABLE before_rename (id int PRIMARY KEY, a int NOT NULL)',
		q{SELECT bemi.track('before_rename')},
		[ q{INSERT INTO before_rename VALUES (1, 10)} => '1' ],
		'ALTER TABLE before_rename RENAME TO after_rename',
		[ q{UPDATE after_rename SET a = 11} => '1' ],
		'ALTER TABLE after_rename DROP CONSTRAINT before_rename_pkey, ADD PRIMARY KEY (a)',
		[ q{UPDATE after_rename SET id = 2} => '11' ],
		'CREATE SCHEMA "{schema}_other"',
		'ALTER TABLE after_rename SET SCHEMA "{schema}_other"',
		[ q{UPDATE "{schema}_other".after_rename SET id = 3} => '11' ],
		'ALTER SCHEMA "{schema}_other" RENAME TO "{schema}_Other %"',
		[ q{UPDATE "{schema}_Other %".after_rename SET id = 4} => '11' ],
		'ALTER TABLE "{schema}_Other %".after_rename DROP CONSTRAINT after_rename_pkey',
		[ q{DELETE FROM "{schema}_Other %".after_rename} => undef ],
	],
	'tables swap their names' => [
		'CREATE TABLE left_one (id int PRIMARY KEY, a int)',
		'CREATE TABLE right_one (id int, a int PRIMARY KEY)',
		q{SELECT bemi.track('left_one'), bemi.track('right_one')},
		[ q{INSERT INTO left_one VALUES (1, 10)} => '1' ],
		[ q{INSERT INTO right_one VALUES (2, 20)} => '20' ],
		'ALTER TABLE left_one RENAME TO between',
		'ALTER TABLE right_one RENAME TO left_one',
		'ALTER TABLE between RENAME TO right_one',
		[ q{UPDATE left_one SET id = 3} => '20' ],
		[ q{UPDATE right_one SET a = 30} => '1' ],
	],
	'table dropped' => [
		'CREATE TABLE gone (b int, a int, v text, PRIMARY KEY (a, b))',
		q{SELECT bemi.track('gone')},
		[ q{INSERT INTO gone VALUES (2, 1, 'a')} => '["1", "2"]' ],
		'ALTER TABLE gone DROP CONSTRAINT gone_pkey, ADD PRIMARY KEY (b)',
		[ q{UPDATE gone SET v = 'b'} => '2' ],
		'DROP TABLE gone',
		# made again, with another key and other columns
		'CREATE TABLE gone (a text PRIMARY KEY, b int)',
		q{SELECT bemi.track('gone')},
		[ q{INSERT INTO gone VALUES ('x', 1)} => 'x' ],
		'DROP TABLE gone',
		'CREATE TABLE gone (a text, b int)',
		q{SELECT bemi.track('gone')},
		[ q{INSERT INTO gone VALUES ('y', 2)} => undef ],
		'DROP TABLE gone',
	],
	'schema dropped' => [
		'CREATE SCHEMA "{schema}_gone"',
		q{SELECT bemi.track_schema('"{schema}_gone"')},
		'CREATE TABLE "{schema}_gone".t (id int PRIMARY KEY, v text)',
		[ q{INSERT INTO "{schema}_gone".t VALUES (1, 'a')} => '1' ],
		'CREATE TABLE "{schema}_gone".u AS SELECT 1 AS id, 2 AS a',
		[ q{UPDATE "{schema}_gone".u SET a = 3} => undef ],
		'ALTER TABLE "{schema}_gone".u ADD PRIMARY KEY (a, id)',
		[ q{UPDATE "{schema}_gone".u SET a = 4} => '["4", "1"]' ],
		'SET client_min_messages = warning',
		'DROP SCHEMA "{schema}_gone" CASCADE',
		'RESET client_min_messages',
	],
	'type of the column changed' => [
		'CREATE TABLE typed (id int PRIMARY KEY, v text)',
		q{SELECT bemi.track('typed')},
		[ q{INSERT INTO typed VALUES (7, 'a')} => '7' ],
		'ALTER TABLE typed ALTER id TYPE bigint',
		[ q{UPDATE typed SET v = 'b'} => '7' ],
		'ALTER TABLE typed ALTER id TYPE numeric(10, 2)',
		[ q{UPDATE typed SET v = 'c'} => '7.00' ],
		q{ALTER TABLE typed ALTER id TYPE text USING 'k' || id},
		[ q{UPDATE typed SET v = 'd'} => 'k7.00' ],
		q{ALTER TABLE typed ALTER id TYPE int[] USING ARRAY[1, 2], ALTER v TYPE int USING 5},
		[ q{UPDATE typed SET v = 6} => '{1,2}' ],
		'ALTER TABLE typed DROP CONSTRAINT typed_pkey, ALTER id TYPE text, ADD PRIMARY KEY (v)',
		[ q{DELETE FROM typed} => '6' ],
	],
	'column dropped' => [
		'CREATE TABLE shrunk (a int, b int, v text, PRIMARY KEY (a, b))',
		q{SELECT bemi.track('shrunk')},
		[ q{INSERT INTO shrunk VALUES (1, 2, 'a')} => '["1", "2"]' ],
		'ALTER TABLE shrunk DROP COLUMN v',
		[ q{UPDATE shrunk SET b = 3} => '["1", "3"]' ],
		'ALTER TABLE shrunk DROP COLUMN b',
		[ q{UPDATE shrunk SET a = 4} => undef ],
		'ALTER TABLE shrunk ADD COLUMN b int DEFAULT 5, ADD PRIMARY KEY (b, a)',
		[ q{UPDATE shrunk SET a = 6} => '["5", "6"]' ],
	],
	'by way of a parent' => [
		'CREATE TABLE parent (id int, a int, v text)',
		'CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent)',
		'CREATE TABLE middle () INHERITS (parent)',
		'CREATE TABLE grandchild (w int, PRIMARY KEY (w, id)) INHERITS (middle)',
		q{SELECT bemi.track('child'), bemi.track('grandchild')},
		[ q{INSERT INTO child VALUES (1, 10, 'a')} => '1' ],
		[ q{INSERT INTO grandchild VALUES (2, 20, 'a', 200)} => '["200", "2"]' ],
		'ALTER TABLE parent RENAME id TO ident',
		[ q{UPDATE child SET v = 'b' WHERE ident = 1} => '1' ],
		[ q{UPDATE grandchild SET v = 'b'} => '["200", "2"]' ],
		'ALTER TABLE parent RENAME a TO id',
		[ q{UPDATE parent SET v = 'c' WHERE ident = 1} => '1' ],
		[ q{UPDATE parent SET v = 'c' WHERE ident = 2} => '["200", "2"]' ],
		q{ALTER TABLE parent ALTER ident TYPE text USING 'k' || ident},
		[ q{UPDATE child SET v = 'd' WHERE id = 10} => 'k1' ],
		[ q{UPDATE grandchild SET v = 'd'} => '["200", "k2"]' ],
		'ALTER TABLE child DROP CONSTRAINT child_pkey',
		[ q{UPDATE child SET v = 'e' WHERE id = 10} => undef ],
		[ q{UPDATE grandchild SET v = 'e'} => '["200", "k2"]' ],
		'ALTER TABLE child ADD PRIMARY KEY (id)',
		[ q{UPDATE child SET v = 'f' WHERE id = 10} => '10' ],
		'ALTER TABLE parent DROP COLUMN ident',
		[ q{UPDATE child SET v = 'g' WHERE id = 10} => '10' ],
		[ q{UPDATE grandchild SET v = 'g'} => undef ],
		'ALTER TABLE parent DROP COLUMN id',
		[ q{UPDATE parent SET v = 'h' WHERE v = 'g' AND tableoid = 'child'::regclass} => undef ],
		'SET client_min_messages = warning',
		'DROP TABLE parent CASCADE',
		'RESET client_min_messages',
	],
	'by way of the type of a typed table' => [
		'CREATE TYPE kind AS (id int, a int, v text)',
		'CREATE TABLE of_kind OF kind (PRIMARY KEY (id))',
		'CREATE TABLE of_kind_too OF kind (PRIMARY KEY (a, id))',
		q{SELECT bemi.track('of_kind'), bemi.track('of_kind_too')},
		[ q{INSERT INTO of_kind VALUES (1, 10, 'a')} => '1' ],
		[ q{INSERT INTO of_kind_too VALUES (2, 20, 'a')} => '["20", "2"]' ],
		'ALTER TYPE kind RENAME ATTRIBUTE id TO ident CASCADE',
		[ q{UPDATE of_kind SET v = 'b'} => '1' ],
		[ q{UPDATE of_kind_too SET v = 'b'} => '["20", "2"]' ],
		'ALTER TYPE kind RENAME ATTRIBUTE a TO id CASCADE',
		[ q{UPDATE of_kind SET v = 'c'} => '1' ],
		[ q{UPDATE of_kind_too SET v = 'c'} => '["20", "2"]' ],
		'ALTER TYPE kind ALTER ATTRIBUTE ident TYPE text CASCADE',
		[ q{UPDATE of_kind SET ident = 'k'} => 'k' ],
		'ALTER TYPE kind ADD ATTRIBUTE w int CASCADE',
		[ q{UPDATE of_kind SET w = 5} => 'k' ],
		'ALTER TYPE kind RENAME TO sort',
		[ q{UPDATE of_kind SET w = 6} => 'k' ],
		'ALTER TYPE sort DROP ATTRIBUTE ident CASCADE',
		[ q{UPDATE of_kind SET w = 7} => undef ],
		[ q{UPDATE of_kind_too SET w = 7} => undef ],
		'ALTER TABLE of_kind ADD PRIMARY KEY (id)',
		[ q{UPDATE of_kind SET w = 8} => '10' ],
		'ALTER TABLE of_kind NOT OF',
		[ q{UPDATE of_kind SET w = 9} => '10' ],
		'SET client_min_messages = warning',
		'DROP TYPE sort CASCADE',
		'RESET client_min_messages',
	],
	'partitions' => [
		'CREATE TABLE root (id int, area int, v text, PRIMARY KEY (id, area)) PARTITION BY LIST (area)',
		'CREATE TABLE leaf PARTITION OF root FOR VALUES IN (1)',
		'CREATE TABLE branch PARTITION OF root FOR VALUES IN (2, 3) PARTITION BY LIST (area)',
		'CREATE TABLE twig (v text, area int NOT NULL, id int NOT NULL)',
		'ALTER TABLE branch ATTACH PARTITION twig FOR VALUES IN (2)',
		q{SELECT bemi.track('root')},
		[ q{INSERT INTO root VALUES (5, 1, 'a')} => '["5", "1"]' ],
		[ q{INSERT INTO twig VALUES ('a', 2, 6)} => '["6", "2"]' ],
		'ALTER TABLE root DROP CONSTRAINT root_pkey',
		[ q{UPDATE root SET v = 'b' WHERE id = 5} => undef ],
		# its own key is not the root's
		'ALTER TABLE leaf ADD PRIMARY KEY (id)',
		[ q{UPDATE root SET v = 'c' WHERE id = 5} => undef ],
		'ALTER TABLE leaf DROP CONSTRAINT leaf_pkey',
		'ALTER TABLE root ADD PRIMARY KEY (area, id)',
		[ q{UPDATE leaf SET v = 'd'} => '["1", "5"]' ],
		[ q{UPDATE branch SET v = 'd'} => '["2", "6"]' ],
		'ALTER TABLE root RENAME id TO ident',
		[ q{UPDATE root SET v = 'e' WHERE ident = 5} => '["1", "5"]' ],
		'ALTER TABLE root RENAME v TO id',
		[ q{UPDATE twig SET id = 'f'} => '["2", "6"]' ],
		'ALTER TABLE root RENAME TO trunk',
		[ q{UPDATE trunk SET id = 'g' WHERE ident = 6} => '["2", "6"]' ],
		'ALTER TABLE trunk ALTER ident TYPE text',
		[ q{UPDATE trunk SET ident = 'k' WHERE ident = '6'} => '["2", "k"]' ],
		# alone, then back
		'ALTER TABLE trunk DETACH PARTITION leaf',
		q{SELECT bemi.track('leaf')},
		[ q{UPDATE leaf SET id = 'h'} => '["1", "5"]' ],
		'ALTER TABLE leaf DROP CONSTRAINT leaf_pkey, ADD PRIMARY KEY (ident)',
		[ q{UPDATE leaf SET id = 'i'} => '5' ],
		'ALTER TABLE leaf DROP CONSTRAINT leaf_pkey',
		[ q{UPDATE leaf SET id = 'j'} => undef ],
		'ALTER TABLE trunk ATTACH PARTITION leaf FOR VALUES IN (1)',
		[ q{UPDATE leaf SET id = 'k'} => '["1", "5"]' ],
		[ q{DELETE FROM trunk WHERE area = 2} => '["2", "k"]' ],
		'DROP TABLE leaf',
		'CREATE TABLE leaf PARTITION OF trunk FOR VALUES IN (1)',
		[ q{INSERT INTO trunk VALUES ('8', 1, 'l')} => '["1", "8"]' ],
		'DROP TABLE trunk',
	],
	'types of key columns dropped' => [
		q{CREATE TYPE mood AS ENUM ('glad')},
		'CREATE DOMAIN positive AS int',
		'CREATE COLLATION plain FROM "C"',
		'CREATE TABLE moody (id mood PRIMARY KEY, a int)',
		'CREATE TABLE positives (a int, id positive, PRIMARY KEY (id, a))',
		'CREATE TABLE plainly (id text COLLATE plain PRIMARY KEY, a int)',
		q{SELECT bemi.track('moody'), bemi.track('positives'), bemi.track('plainly')},
		[ q{INSERT INTO moody VALUES ('glad', 1)} => 'glad' ],
		[ q{INSERT INTO positives VALUES (1, 2)} => '["2", "1"]' ],
		[ q{INSERT INTO plainly VALUES ('x', 1)} => 'x' ],
		q{ALTER TYPE mood RENAME VALUE 'glad' TO 'merry'},
		[ q{UPDATE moody SET a = 2} => 'merry' ],
		'SET client_min_messages = warning',
		'DROP TYPE mood CASCADE',
		[ q{UPDATE moody SET a = 3} => undef ],
		'DROP DOMAIN positive CASCADE',
		[ q{UPDATE positives SET a = 2} => undef ],
		'DROP COLLATION plain CASCADE',
		[ q{UPDATE plainly SET a = 2} => undef ],
		'CREATE ROLE "{schema} owner"',
		'CREATE DOMAIN owned AS int',
		'ALTER DOMAIN owned OWNER TO "{schema} owner"',
		'ALTER TABLE positives ADD COLUMN id owned DEFAULT 7 PRIMARY KEY',
		[ q{UPDATE positives SET a = 3} => '7' ],
		'DROP OWNED BY "{schema} owner" CASCADE',
		[ q{UPDATE positives SET a = 4} => undef ],
		'DROP ROLE "{schema} owner"',
		'RESET client_min_messages',
	],
	'nothing of the key changed' => [
		'CREATE TABLE same (id int PRIMARY KEY, v text) WITH (autovacuum_enabled = off)',
		q{SELECT bemi.track('same')},
		[ q{INSERT INTO same VALUES (1, 'a')} => '1' ],
		'ALTER INDEX same_pkey RENAME TO same_again',
		[ q{UPDATE same SET v = 'b'} => '1' ],
		'ALTER TABLE same RENAME CONSTRAINT same_again TO once_more',
		[ q{UPDATE same SET v = 'c'} => '1' ],
		'REINDEX TABLE same',
		[ q{UPDATE same SET v = 'd'} => '1' ],
		'CLUSTER same USING once_more',
		[ q{UPDATE same SET v = 'e'} => '1' ],
		'ALTER TABLE same ADD COLUMN w double precision DEFAULT random()',
		[ q{UPDATE same SET v = 'f'} => '1' ],
		'CREATE UNIQUE INDEX on_v ON same (v)',
		'ALTER TABLE same ALTER v SET NOT NULL',
		[ q{UPDATE same SET v = 'g'} => '1' ],
		'COMMENT ON CONSTRAINT once_more ON same IS \'unchanged\'',
		[ q{TRUNCATE same} => undef ],
		[ q{INSERT INTO same VALUES (2, 'h')} => '2' ],
		'ALTER TABLE same REPLICA IDENTITY DEFAULT',
		[ q{UPDATE same SET v = 'i'} => '2' ],
		[ q{UPDATE same SET id = 3} => '3' ],
		'ALTER TABLE same REPLICA IDENTITY USING INDEX on_v',
		[ q{UPDATE same SET w = 1} => '3' ],
		# the WAL does not have it
		[ q{DELETE FROM same} => undef ],
		'ALTER TABLE same REPLICA IDENTITY FULL',
		[ q{INSERT INTO same VALUES (4, 'j')} => '4' ],
		[ q{DELETE FROM same} => '4' ],
	],
	'by the owner, who may do nothing else' => [
		'CREATE TABLE owned (id int PRIMARY KEY, a int NOT NULL)',
		'CREATE ROLE "{schema} other"',
		'GRANT USAGE, CREATE ON SCHEMA "{schema}" TO "{schema} other"',
		q{SELECT bemi.track('owned')},
		'ALTER TABLE owned OWNER TO "{schema} other"',
		'SET ROLE "{schema} other"',
		[ q{INSERT INTO owned VALUES (1, 10)} => '1' ],
		'ALTER TABLE owned DROP CONSTRAINT owned_pkey',
		[ q{UPDATE owned SET a = 11} => undef ],
		'ALTER TABLE owned ADD PRIMARY KEY (a)',
		[ q{UPDATE owned SET id = 2} => '11' ],
		'ALTER TABLE owned RENAME a TO b',
		[ q{UPDATE owned SET id = 3} => '11' ],
		'RESET ROLE',
	],
	'by a session that fires no ordinary triggers' => [
		'CREATE TABLE quiet (id int PRIMARY KEY, a int NOT NULL)',
		q{SELECT bemi.track('quiet')},
		[ q{INSERT INTO quiet VALUES (1, 10)} => '1' ],
		'SET session_replication_role = replica',
		'ALTER TABLE quiet DROP CONSTRAINT quiet_pkey',
		'RESET session_replication_role',
		[ q{UPDATE quiet SET a = 11} => undef ],
		'SET session_replication_role = replica',
		'ALTER TABLE quiet ADD PRIMARY KEY (a)',
		'ALTER TABLE quiet RENAME a TO b',
		'RESET session_replication_role',
		[ q{DELETE FROM quiet} => '11' ],
	],
	'not tracked meanwhile' => [
		'CREATE TABLE absent (id int PRIMARY KEY, a int NOT NULL)',
		'ALTER TABLE absent DROP CONSTRAINT absent_pkey, ADD PRIMARY KEY (a)',
		q{SELECT bemi.track('absent')},
		[ q{INSERT INTO absent VALUES (1, 10)} => '10' ],
		q{SELECT bemi.untrack('absent')},
		'ALTER TABLE absent DROP CONSTRAINT absent_pkey, ADD PRIMARY KEY (id)',
		'UPDATE absent SET a = 11',
		q{SELECT bemi.track('absent')},
		[ q{UPDATE absent SET a = 12} => '1' ],
		'ALTER PUBLICATION bemi DROP TABLE absent',
		'ALTER TABLE absent DROP CONSTRAINT absent_pkey',
		'UPDATE absent SET a = 13',
		'ALTER PUBLICATION bemi ADD TABLE absent',
		[ q{UPDATE absent SET a = 14} => undef ],
		'ALTER TABLE absent ADD PRIMARY KEY (a, id)',
		[ q{UPDATE absent SET a = 15} => '["15", "1"]' ],
	]);

# What cannot run in a transaction.
our @alone = (
	'indexes made anew beside their use' => [
		'CREATE TABLE beside (id int PRIMARY KEY, a int NOT NULL)',
		q{SELECT bemi.track('beside')},
		[ q{INSERT INTO beside VALUES (1, 10)} => '1' ],
		'REINDEX TABLE CONCURRENTLY beside',
		[ q{UPDATE beside SET a = 11} => '1' ],
		'VACUUM FULL beside',
		[ q{UPDATE beside SET a = 12} => '1' ],
		'CREATE UNIQUE INDEX CONCURRENTLY beside_a ON beside (a)',
		[ q{UPDATE beside SET a = 13} => '1' ],
		'ALTER TABLE beside DROP CONSTRAINT beside_pkey, ADD CONSTRAINT beside_pkey PRIMARY KEY USING INDEX beside_a',
		[ q{UPDATE beside SET id = 2} => '13' ],
		'REINDEX INDEX CONCURRENTLY beside_pkey',
		[ q{DELETE FROM beside} => '13' ],
	],
	'a partition detached beside its use' => [
		'CREATE TABLE base (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)',
		'CREATE TABLE part PARTITION OF base FOR VALUES FROM (0) TO (10)',
		q{SELECT bemi.track('base')},
		[ q{INSERT INTO base VALUES (1, 'a')} => '1' ],
		'ALTER TABLE base DETACH PARTITION part CONCURRENTLY',
		'ALTER TABLE part DROP CONSTRAINT part_pkey, ADD PRIMARY KEY (v)',
		q{SELECT bemi.track('part')},
		[ q{UPDATE part SET id = 2} => 'a' ],
	]);

# PostgreSQL's own extensions may be a package that is not installed.
sub add_extension_scenario
{
	my ($on) = @_;
	my $found = $on->safe_psql('postgres', q{SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'citext')});

	push @scenarios,
	  'type of an extension dropped' => [
		'CREATE EXTENSION citext',
		'CREATE TABLE folded (id citext PRIMARY KEY, a int)',
		q{SELECT bemi.track('folded')},
		[ q{INSERT INTO folded VALUES ('Key', 1)} => 'Key' ],
		'SET client_min_messages = warning',
		'DROP EXTENSION citext CASCADE',
		'RESET client_min_messages',
		[ q{UPDATE folded SET a = 2} => undef ],
	  ]
	  if $found eq 't';
	return;
}

#
# How the steps are run
#

# The context of a step: where it belongs, and which key its change must have.
sub context
{
	my ($schema, $scenario, $n, $key) = @_;
	my $json = defined $key ? '"' . ($key =~ s/(["\\])/\\$1/gr) . '"' : 'null';

	return qq({"run": "$schema", "scenario": "$scenario", "step": $n, "key": $json});
}

# All steps of a scenario as [statement, its context or nothing].
sub steps
{
	my ($schema, $scenario, $steps) = @_;
	my @result;

	for my $i (0 .. $#$steps)
	{
		my ($sql, $key) = ref $steps->[$i] ? @{ $steps->[$i] } : $steps->[$i];

		$sql =~ s/\{schema\}/$schema/g;
		push @result, [ $sql, ref $steps->[$i] ? context($schema, $scenario, $i, $key) : undef ];
	}
	return @result;
}

sub statement
{
	my ($step) = @_;

	return $step->[1] ? "$step->[0] /*Bemi $step->[1] Bemi*/;\n" : "$step->[0];\n";
}

# What a session sends for the steps, for each way to run them.
our %ways = (
	'each by itself' => sub { join '', map { statement($_) } @_ },
	'one transaction' => sub { join '', "BEGIN;\n", (map { statement($_) } @_), "COMMIT;\n" },
	'prepared' => sub {
		join '', "BEGIN;\n", (map { statement($_) } @_), "PREPARE TRANSACTION 'keys';\nCOMMIT PREPARED 'keys';\n";
	},
	# All of it is done, undone, and done again: DDL with the row that follows it.
	'undone and done again' => sub {
		my $sql = "BEGIN;\n";

		while (my $step = shift)
		{
			my $both = statement($step) . (!$step->[1] && @_ && $_[0][1] ? statement(shift) : '');

			$sql .= "SAVEPOINT s;\n${both}ROLLBACK TO s;\nSAVEPOINT t;\n${both}RELEASE t;\n";
		}
		return "${sql}COMMIT;\n";
	},
	'one function' => sub {
		join '', "DO \$do\$ BEGIN\n", (
			map {
				($_->[1] ? "PERFORM bemi.set_context(\$c\$$_->[1]\$c\$);\n" : '')
				  . "EXECUTE \$s\$$_->[0]\$s\$;\n"
			} @_), "END \$do\$;\n";
	});

sub run_scenarios
{
	my ($on, $schema, $way, @list) = @_;

	$on->safe_psql('postgres', qq{CREATE SCHEMA "$schema"});
	for (my $i = 0; $i < @list; $i += 2)
	{
		$on->safe_psql(
			'postgres',
			qq{SET search_path = "$schema";\n} . $ways{$way}->(steps($schema, @list[ $i, $i + 1 ])),
			on_error_stop => 1);
	}
	return;
}

# Compares a history with the steps, scenario by scenario.
sub check_scenarios
{
	my ($history, $schema, $name, $source, @list) = @_;

	for (my $i = 0; $i < @list; $i += 2)
	{
		my ($scenario, $steps) = @list[ $i, $i + 1 ];
		my @wanted = map { ref $steps->[$_] ? "$_: " . ($steps->[$_][1] // '(no key)') : () } (0 .. $#$steps);

		is( $history->safe_psql(
				'postgres', qq{
				SELECT concat(context->>'step', ': ', coalesce(primary_key, '(no key)')) FROM bemi.changes
				WHERE source = '$source' AND context @> '{"run": "$schema", "scenario": "$scenario"}' ORDER BY id}),
			join("\n", @wanted),
			"$name: $scenario");
	}
	is( $history->safe_psql('postgres',
			qq{SELECT count(*) FROM bemi.changes WHERE source = '$source' AND schema LIKE '$schema%' AND NOT context ?| '{key, middle}'}),
		'0', "$name: nothing else is stored");
	return;
}

sub changes_in
{
	my (@list) = @_;

	return scalar grep { ref } map { ref ? @$_ : () } @list;
}

1;
