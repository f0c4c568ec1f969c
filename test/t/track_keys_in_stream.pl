# The primary key of a change is the one that the table had when the change was
# made, however late the worker comes to it, and whatever has become of the key,
# its columns or the table since.
#
# The stream tells nothing of keys, so they must be told with it, in the right
# place between the rows.  Here keys come, go and change by every command that
# does such a thing, also by those that do not name the table; in transactions of
# their own, in one, rolled back, prepared, and in a function; while the worker is
# stopped, blocked, streaming, or begins anew after each statement.
#
# Each row that is written says in its context which key its change must have: it
# was written down by hand, in the scenarios below.  At the end, random statements
# are compared with a journal (see Bemi::Journal).

use strict;
use warnings;

use Bemi;
use IPC::Run;
use Bemi::Journal;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Bemi::Session;
use Test::More;

my $seed = $ENV{BEMI_SEED} // int(rand(2**31));
note "random seed: $seed (BEMI_SEED=$seed repeats the random statements)";

my $node = bemi_node('main', conf => "max_prepared_transactions = 2\n");

# Name => steps.  A step is a statement, or [a statement that changes one row of a
# tracked table, the key of this change].  Each runs in a schema of its own, which
# is the search_path; {schema} is its name.
my @scenarios = (
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
		# one of its own is not the root's
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
my @alone = (
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
  if $node->safe_psql('postgres', q{SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'citext')}) eq 't';

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

# What a session sends for the steps, by the way in which they are to run.
my %ways = (
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

# Compares what a history has with what the steps say, scenario by scenario.
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

sub sync
{
	$node->safe_psql('postgres', q{SELECT bemi.sync('60s')});
	return;
}

#
# What was tracked, and changed, before anything is read
#

$node->safe_psql(
	'postgres', q{
	CREATE TABLE early (id int PRIMARY KEY, a int NOT NULL);
	CREATE TABLE early_too (id int PRIMARY KEY, a int NOT NULL);
	SELECT bemi.track('early'), bemi.track('early_too');
	ALTER TABLE early DROP CONSTRAINT early_pkey, ADD PRIMARY KEY (a);
	INSERT INTO early VALUES (1, 10);
	CALL bemi.start();
	CALL bemi.stop();
	UPDATE early SET a = 11 /*Bemi {"early": "11"} Bemi*/;
	INSERT INTO early_too VALUES (2, 20) /*Bemi {"early": "2"} Bemi*/;
	ALTER TABLE early DROP CONSTRAINT early_pkey;
	ALTER TABLE early_too RENAME id TO ident;
	ALTER TABLE early_too RENAME a TO id;
	UPDATE early SET a = 12 /*Bemi {"early": null} Bemi*/;
	UPDATE early_too SET id = 21 /*Bemi {"early": "2"} Bemi*/;
	DROP TABLE early_too;
	CALL bemi.start()});
sync();
my $early = q{SELECT "table", context->>'early', primary_key FROM bemi.changes WHERE context ? 'early' ORDER BY id};
is($node->safe_psql('postgres', $early), "early|11|11\nearly_too|2|2\nearly||\nearly_too|2|2", 'tables that were tracked before the first start');

#
# The worker comes late: it was stopped
#

$node->safe_psql('postgres', 'CALL bemi.stop()');
for my $way (sort keys %ways)
{
	run_scenarios($node, "late $way", $way, @scenarios);
}
run_scenarios($node, 'late alone', 'each by itself', @alone);
$node->safe_psql('postgres', 'CALL bemi.start()');
sync();
for my $way (sort keys %ways)
{
	check_scenarios($node, "late $way", "stopped, $way", 'main', @scenarios);
}
check_scenarios($node, 'late alone', 'stopped', 'main', @alone);

#
# It streams, but cannot store
#

my $lock = Bemi::Session->new($node);

$lock->query('BEGIN; LOCK TABLE bemi.changes IN SHARE ROW EXCLUSIVE MODE');
run_scenarios($node, 'blocked', 'each by itself', @scenarios);
run_scenarios($node, 'blocked once', 'one transaction', @scenarios);
$lock->query('COMMIT');
sync();
check_scenarios($node, 'blocked', 'blocked, each by itself', 'main', @scenarios);
check_scenarios($node, 'blocked once', 'blocked, one transaction', 'main', @scenarios);

#
# It streams
#

run_scenarios($node, 'live', 'each by itself', @scenarios, @alone);
sync();
check_scenarios($node, 'live', 'streaming', 'main', @scenarios, @alone);

#
# It begins anew, somewhere between the steps
#

sub kill_worker
{
	my ($on, $source) = @_;
	my $pid = $on->safe_psql('postgres', "SELECT pid FROM bemi.status WHERE source = '$source'");

	$on->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	$on->poll_query_until('postgres', "SELECT pid IS DISTINCT FROM $pid FROM bemi.status WHERE source = '$source'")
	  or die 'the worker does not end';
	return;
}

sub start_again
{
	my $desired = $node->safe_psql('postgres', 'SELECT desired FROM bemi.sources');

	$node->safe_psql('postgres', 'CALL bemi.start()') if $desired eq 'stop';
	return;
}

# What happens between two steps.
my @interruptions = (
	sub { start_again(); sync(); $node->safe_psql('postgres', 'CALL bemi.stop(); CALL bemi.start()') },
	sub { $node->safe_psql('postgres', 'CALL bemi.stop()') },
	sub { },
	sub { start_again() },
	sub { start_again(); kill_worker($node, 'main') });

{
	my %few = (@scenarios, @alone);
	my @few = map { ($_ => $few{$_}) } ('replaced by another column', 'columns of the key swap their names', 'by way of a parent',
		'by way of the type of a typed table', 'indexes made anew beside their use', 'table dropped');
	my $schema = 'restarted';
	my $n = 0;

	$node->safe_psql('postgres', "CREATE SCHEMA $schema");
	for (my $i = 0; $i < @few; $i += 2)
	{
		for my $step (steps($schema, @few[ $i, $i + 1 ]))
		{
			$node->safe_psql('postgres', "SET search_path = $schema;\n" . statement($step), on_error_stop => 1);
			$interruptions[ $n++ % @interruptions ]->();
		}
	}
	start_again();
	sync();
	check_scenarios($node, $schema, 'restarted between the steps', 'main', @few);
}

# In the middle of what has heaped up: the worker is stopped at a row, after it has
# stored those before.  10,000 changes are more than it stores at once.
$node->safe_psql(
	'postgres', q{
	CREATE TABLE filler (id int PRIMARY KEY);
	SELECT bemi.track('filler');
	CREATE FUNCTION wait_here() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NEW; END $$;
	CREATE TRIGGER wait_here BEFORE INSERT ON bemi.changes FOR EACH ROW
		WHEN (NEW."table" = 'filler' AND NEW.primary_key IN ('11000', '22000', '33000')) EXECUTE FUNCTION wait_here();
	ALTER TABLE bemi.changes ENABLE ALWAYS TRIGGER wait_here});
for my $end ('worker', 'server stopped', 'server crashed')
{
	my $first = { worker => 0, 'server stopped' => 11_000, 'server crashed' => 22_000 }->{$end};

	$node->safe_psql('postgres', 'CALL bemi.stop()');
	$lock->query('SELECT pg_advisory_lock(42)');
	run_scenarios($node, "before $end", 'each by itself', @scenarios);
	$node->safe_psql('postgres', sprintf('INSERT INTO filler SELECT generate_series(%d, %d)', $first + 1, $first + 10_999));
	# the same tables go on in the other part
	$node->safe_psql('postgres', qq{
		INSERT INTO "before $end".replaced VALUES (5, 50, 'x') /*Bemi {"middle": "50"} Bemi*/;
		INSERT INTO "before $end".of_kind VALUES (5, 50) /*Bemi {"middle": "5"} Bemi*/;
		INSERT INTO "before $end".dropped VALUES (5, 'x') /*Bemi {"middle": null} Bemi*/});
	$node->safe_psql('postgres', sprintf('INSERT INTO filler VALUES (%d)', $first + 11_000));
	$node->safe_psql('postgres', qq{
		UPDATE "before $end".replaced SET v = 'y' /*Bemi {"middle": "50"} Bemi*/;
		ALTER TABLE "before $end".replaced DROP CONSTRAINT by_a, ADD PRIMARY KEY (id);
		UPDATE "before $end".replaced SET v = 'z' /*Bemi {"middle": "5"} Bemi*/;
		DROP TABLE "before $end".replaced});
	run_scenarios($node, "after $end", 'each by itself', @scenarios);
	$node->safe_psql('postgres', 'CALL bemi.start(wait => false)');
	$node->poll_query_until('postgres',
		q{SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)})
	  or die 'the worker does not come to the row';
	is( $node->safe_psql('postgres', qq{SELECT count(*) > 10000 FROM bemi.changes WHERE "table" = 'filler' AND primary_key::int > $first}),
		't', "middle, $end: a part is stored");
	if ($end eq 'worker')
	{
		kill_worker($node, 'main');
		$lock->query('SELECT pg_advisory_unlock(42)');
	}
	else
	{
		$lock->quit;
		$node->stop($end eq 'server crashed' ? 'immediate' : 'fast');
		$node->start;
		$lock = Bemi::Session->new($node);
	}
	sync();
	check_scenarios($node, "before $end", "before the middle, $end", 'main', @scenarios);
	check_scenarios($node, "after $end", "after the middle, $end", 'main', @scenarios);
	is( $node->safe_psql('postgres', qq{
			SELECT "table", context->>'middle', primary_key FROM bemi.changes
			WHERE schema = 'before $end' AND context ? 'middle' ORDER BY id}),
		"replaced|50|50\nof_kind|5|5\ndropped||\nreplaced|50|50\nreplaced|5|5",
		"middle, $end: tables on both sides of it");
}
$node->safe_psql('postgres', 'DROP TRIGGER wait_here ON bemi.changes');
$lock->quit;

#
# The slot is dropped, and made again: what has changed meanwhile was not in the
# stream
#

$node->safe_psql(
	'postgres', q{
	CREATE TABLE lasting (id int PRIMARY KEY, a int NOT NULL, b int);
	CREATE TABLE lasting_too (id int PRIMARY KEY, a int NOT NULL, b int);
	SELECT bemi.track('lasting'), bemi.track('lasting_too');
	INSERT INTO lasting VALUES (1, 10) /*Bemi {"lasting": "1"} Bemi*/;
	SELECT bemi.sync('60s');
	CALL bemi.drop_source('main');
	ALTER TABLE lasting DROP CONSTRAINT lasting_pkey, ADD PRIMARY KEY (a);
	ALTER TABLE lasting_too RENAME id TO ident;
	ALTER TABLE lasting_too RENAME a TO id;
	CALL bemi.start();
	CALL bemi.stop();
	UPDATE lasting SET b = 1 /*Bemi {"lasting": "10"} Bemi*/;
	INSERT INTO lasting_too VALUES (2, 20) /*Bemi {"lasting": "2"} Bemi*/;
	ALTER TABLE lasting DROP CONSTRAINT lasting_pkey;
	ALTER TABLE lasting_too DROP CONSTRAINT lasting_too_pkey;
	UPDATE lasting SET b = 2 /*Bemi {"lasting": null} Bemi*/;
	UPDATE lasting_too SET b = 2 /*Bemi {"lasting": null} Bemi*/;
	CALL bemi.start()});
run_scenarios($node, 'anew', 'each by itself', @scenarios, @alone);
sync();
is( $node->safe_psql('postgres', q{SELECT "table", context->>'lasting', primary_key FROM bemi.changes WHERE context ? 'lasting' ORDER BY id}),
	"lasting|1|1\nlasting|10|10\nlasting_too|2|2\nlasting||\nlasting_too||",
	'a new slot: keys that have changed while there was none');
check_scenarios($node, 'anew', 'a new slot', 'main', @scenarios, @alone);

# Keys change all the time, while the worker, or the slot, begins anew: what is
# stored has the right one.
$node->safe_psql(
	'postgres', q{
	CREATE TABLE race (id int CONSTRAINT race_key PRIMARY KEY, a int NOT NULL, n int);
	SELECT bemi.track('race');
	INSERT INTO race VALUES (1, 10, 0) /*Bemi {"race": "1"} Bemi*/});
append_to_file($node->basedir . '/race.sql', <<~'END');
	ALTER TABLE race DROP CONSTRAINT race_key, ADD CONSTRAINT race_key PRIMARY KEY (a, id);
	SET bemi.context = '{"race": "[\"10\", \"1\"]"}';
	UPDATE race SET n = n + 1;
	BEGIN;
	ALTER TABLE race RENAME id TO x;
	ALTER TABLE race RENAME a TO id;
	ALTER TABLE race RENAME x TO a;
	ALTER TABLE race DROP CONSTRAINT race_key;
	SET LOCAL bemi.context = '{"race": null}';
	UPDATE race SET n = n + 1;
	COMMIT;
	ALTER TABLE race ADD CONSTRAINT race_key PRIMARY KEY (id);
	SET bemi.context = '{"race": "10"}';
	UPDATE race SET n = n + 1;
	ALTER TABLE race DROP CONSTRAINT race_key, ADD CONSTRAINT race_key PRIMARY KEY (a);
	SET bemi.context = '{"race": "1"}';
	UPDATE race SET n = n + 1;
	BEGIN;
	ALTER TABLE race RENAME id TO x;
	ALTER TABLE race RENAME a TO id;
	ALTER TABLE race RENAME x TO a;
	COMMIT;
	UPDATE race SET n = n + 1;
	END
my $load = IPC::Run::start(
	[
		$node->installed_command('pgbench'), '--no-vacuum', '-c', '1',
		'-T', $PostgreSQL::Test::Utils::timeout_default,
		'-f', $node->basedir . '/race.sql', $node->connstr('postgres')
	],
	'>', \my $output, '2>&1',
	IPC::Run::timeout(2 * $PostgreSQL::Test::Utils::timeout_default));
for my $round (1 .. 16)
{
	my $stored = $node->safe_psql('postgres', q{SELECT count(*) FROM bemi.changes WHERE "table" = 'race'});

	if ($round % 4 == 0)
	{
		kill_worker($node, 'main');
	}
	else
	{
		my $how = $round % 2 ? "drop_source('main')" : 'stop()';

		$node->safe_psql('postgres', "CALL bemi.$how; CALL bemi.start()");
	}
	$node->poll_query_until('postgres', qq{SELECT count(*) > $stored + 10 FROM bemi.changes WHERE "table" = 'race'})
	  or die 'nothing more is stored';
}
$load->signal('TERM');
$load->finish;
unlike($output, qr/ERROR/, 'a race: no statement has failed');
sync();
is( $node->safe_psql('postgres', q{
		SELECT context, coalesce(primary_key, '(no key)'), count(*) FROM bemi.changes
		WHERE "table" = 'race' AND context->>'race' IS DISTINCT FROM primary_key GROUP BY 1, 2 ORDER BY 1, 2}),
	'', 'a race: whatever begins anew between changes of the key, all changes have the right one');

# A worker may die when it has made the slot, and not yet noted it: what tables were
# like there, nobody knows any more, so the slot is made anew.
$node->safe_psql(
	'postgres', q{
	CALL bemi.drop_source('main');
	CREATE TABLE left_over (id int PRIMARY KEY, a int NOT NULL);
	SELECT bemi.track('left_over');
	SELECT pg_create_logical_replication_slot(_bemi.origin_of('main'), 'pgoutput');
	INSERT INTO left_over VALUES (1, 10);
	ALTER TABLE left_over DROP CONSTRAINT left_over_pkey, ADD PRIMARY KEY (a);
	CALL bemi.start();
	UPDATE left_over SET id = 2});
sync();
is( $node->safe_psql('postgres', q{SELECT operation, primary_key FROM bemi.changes WHERE "table" = 'left_over'}),
	'UPDATE|10', 'a slot that an earlier worker has left is made anew');

#
# The source is another server
#

my $source = bemi_node('source', conf => "max_prepared_transactions = 2\n");
my $conninfo = $source->connstr('postgres') =~ s/'/''/gr;

$source->safe_psql(
	'postgres', q{
	CREATE ROLE reader LOGIN REPLICATION;
	CREATE ROLE blind LOGIN REPLICATION;
	GRANT SELECT ON _bemi.signing_key TO reader;
	CREATE TABLE early (id int PRIMARY KEY, a int NOT NULL);
	SELECT bemi.track('early');
	ALTER TABLE early DROP CONSTRAINT early_pkey, ADD PRIMARY KEY (a)});

sub start_far
{
	my ($name, $user) = @_;

	$node->safe_psql('postgres', "CALL bemi.start('$name', conninfo => '$conninfo user=$user')");
	return;
}

sub wait_for
{
	my ($name, $count) = @_;

	$node->poll_query_until('postgres', "SELECT count(*) >= $count FROM bemi.changes WHERE source = '$name'")
	  or diag "of $name, some changes do not come";
	return;
}

start_far('far', 'reader');
start_far('dim', 'blind');
$node->safe_psql('postgres', q{CALL bemi.stop('far'); CALL bemi.stop('dim')});
$source->safe_psql('postgres', q{
	INSERT INTO early VALUES (1, 10);
	ALTER TABLE early DROP CONSTRAINT early_pkey;
	UPDATE early SET a = 11});
my $far_count = 2;
for my $way ('each by itself', 'one transaction', 'undone and done again')
{
	run_scenarios($source, "far $way", $way, @scenarios);
	$far_count += changes_in(@scenarios);
}
start_far('far', 'reader');
start_far('dim', 'blind');
wait_for('far', $far_count);
for my $way ('each by itself', 'one transaction', 'undone and done again')
{
	check_scenarios($node, "far $way", "another server, stopped, $way", 'far', @scenarios);
}
is( $node->safe_psql('postgres', q{SELECT coalesce(primary_key, '(no key)') FROM bemi.changes WHERE source = 'far' AND "table" = 'early' ORDER BY id}),
	"10\n(no key)", 'another server: a table that was tracked before the first start');

# Of a table that is met now, and of one that is known, after a crash on either side.
run_scenarios($source, 'far crash', 'each by itself', @scenarios);
$far_count += changes_in(@scenarios);
$node->stop('immediate');
run_scenarios($source, 'far later', 'each by itself', @scenarios);
$far_count += changes_in(@scenarios);
$source->stop('immediate');
$source->start;
$node->start;
wait_for('far', $far_count);
check_scenarios($node, 'far crash', 'another server, before a crash', 'far', @scenarios);
check_scenarios($node, 'far later', 'another server, after a crash', 'far', @scenarios);

# Who may not read the source's secret is told nothing of keys; all is stored.
wait_for('dim', $far_count);
is( $node->safe_psql('postgres', q{SELECT count(*), (SELECT state FROM bemi.status WHERE source = 'dim') FROM bemi.changes WHERE source = 'dim'}),
	"$far_count|streaming", 'another server, whose secret is not known: the worker goes on');

# A new slot.
$node->safe_psql('postgres', q{CALL bemi.drop_source('far'); CALL bemi.drop_source('dim')});
$source->safe_psql('postgres', 'ALTER TABLE early ADD PRIMARY KEY (id)');
start_far('far', 'reader');
$node->safe_psql('postgres', q{CALL bemi.stop('far')});
$source->safe_psql('postgres', q{
	UPDATE early SET a = 12;
	ALTER TABLE early RENAME id TO ident;
	ALTER TABLE early RENAME a TO id;
	UPDATE early SET id = 13});
run_scenarios($source, 'far anew', 'each by itself', @scenarios);
start_far('far', 'reader');
$far_count += 2 + changes_in(@scenarios);
wait_for('far', $far_count);
check_scenarios($node, 'far anew', 'another server, a new slot', 'far', @scenarios);
is( $node->safe_psql('postgres', q{SELECT primary_key FROM bemi.changes WHERE source = 'far' AND "table" = 'early' ORDER BY id OFFSET 2}),
	"1\n1", 'another server, a new slot: a key that has changed while there was none');
$node->safe_psql('postgres', q{CALL bemi.drop_source('far')});
$source->stop;

# One without the extension tells nothing, so the key is that of today, or none.
# What can be asked is that the worker goes on, and that no change is missing.
my $plain = PostgreSQL::Test::Cluster->new('plain');
$plain->init(allows_streaming => 'logical', extra => [ '--no-locale', '--encoding=UTF8' ]);
$plain->append_conf('postgresql.conf', "timezone = 'UTC'\nmax_connections = 20\n");
$plain->start;
$plain->safe_psql('postgres', q{
	CREATE PUBLICATION bemi WITH (publish_via_partition_root = true);
	CREATE FUNCTION follow(VARIADIC tables regclass[]) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		target regclass;
	BEGIN
		FOREACH target IN ARRAY tables LOOP
			EXECUTE format('ALTER PUBLICATION bemi ADD TABLE ONLY %s', target);
			FOR target IN SELECT target UNION SELECT relid FROM pg_partition_tree(target) LOOP
				EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', target);
			END LOOP;
		END LOOP;
	END $$});
$conninfo = $plain->connstr('postgres') =~ s/'/''/gr;
$node->safe_psql('postgres', "CALL bemi.start('plain', conninfo => '$conninfo'); CALL bemi.stop('plain')");
my $plain_count = 0;
for (my $i = 0; $i < @scenarios; $i += 2)
{
	my ($name, $steps) = @scenarios[ $i, $i + 1 ];
	my @sql = map { ref ? $_->[0] : $_ } @$steps;

	next if grep { /untrack|track_schema/ } @sql;
	s/bemi\.track\(('\w+')\)(?:, bemi\.track\(('\w+')\))?(?:, bemi\.track\(('\w+')\))?/'public.follow(' . join(', ', grep { defined } $1, $2, $3) . ')'/e
	  for @sql;
	s/\{schema\}/plain/g for @sql;
	$plain_count += grep { ref } @$steps;
	$plain->safe_psql('postgres',
		"CREATE SCHEMA IF NOT EXISTS plain;\nSET search_path = plain;\n" . join('', map { "$_;\n" } @sql),
		on_error_stop => 1);
}
$node->safe_psql('postgres', q{CALL bemi.start('plain')});
$plain->safe_psql('postgres', q{
	CREATE TABLE last (id int PRIMARY KEY);
	SELECT follow('last');
	INSERT INTO last VALUES (1)});
$node->poll_query_until('postgres', q{SELECT EXISTS (SELECT FROM bemi.changes WHERE source = 'plain' AND "table" = 'last')})
  or diag 'the last change does not come';
is( $node->safe_psql('postgres', q{
		SELECT count(*), (SELECT concat_ws(' ', state, last_error) FROM bemi.status WHERE source = 'plain') FROM bemi.changes WHERE source = 'plain'}),
	($plain_count + 1) . '|streaming', 'a server without the extension: the worker goes on');
$node->safe_psql('postgres', q{CALL bemi.drop_source('plain')});
$plain->stop;

#
# Any statements, in any order, late and with restarts between; here the journal
# says which key there was
#

journal_install($node);

# What a statement needs to know of the table as it is at that moment.
$node->safe_psql(
	'postgres', q{
	CREATE FUNCTION columns_of(target text) RETURNS text[] LANGUAGE sql AS $$
		SELECT array_agg(format('%I', attname) ORDER BY attnum) FROM pg_attribute
		WHERE attrelid = to_regclass(target) AND attnum > 0 AND NOT attisdropped
	$$;
	CREATE FUNCTION put(target text, n int) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		EXECUTE format('INSERT INTO %s (%s) SELECT %s', target, array_to_string(columns_of(target), ', '),
			(SELECT string_agg(quote_literal(n + i), ', ') FROM generate_series(1, cardinality(columns_of(target))) i));
	END $$;
	CREATE FUNCTION touch(target text, n int) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		EXECUTE format('UPDATE %1$s SET %2$s = %3$L WHERE ctid = (SELECT ctid FROM %1$s ORDER BY ctid OFFSET %4$s LIMIT 1)',
			target, (columns_of(target))[1 + n % cardinality(columns_of(target))], n, n % 3);
	END $$;
	-- the key dropped, or another one made of one to three columns
	CREATE FUNCTION rekey(target text, n int, anew boolean DEFAULT true) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		key text := (SELECT conname FROM pg_constraint WHERE conrelid = to_regclass(target) AND contype = 'p');
		wanted text := (SELECT string_agg(c, ', ') FROM (SELECT c FROM unnest(columns_of(target)) c
			ORDER BY md5(c || n) LIMIT 1 + n % 3) d);
	BEGIN
		EXECUTE format('ALTER TABLE %s ', target) || concat_ws(', ', 'DROP CONSTRAINT ' || quote_ident(key),
			CASE WHEN anew OR key IS NULL THEN format('ADD PRIMARY KEY (%s)', wanted) END);
	END $$;
	-- a column gets another name, or two swap theirs
	CREATE FUNCTION rename(target text, n int, command text DEFAULT 'ALTER TABLE %s RENAME %s TO %s') RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		a text := (columns_of(target))[1 + n % cardinality(columns_of(target))];
		b text := (columns_of(target))[1 + n / 10 % cardinality(columns_of(target))];
	BEGIN
		EXECUTE format(command, target, a, 'n' || n);
		IF a <> b THEN
			EXECUTE format(command, target, b, a);
			EXECUTE format(command, target, 'n' || n, b);
		END IF;
	END $$;
	CREATE FUNCTION swap_tables() RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		ALTER TABLE r1 RENAME TO r3;
		ALTER TABLE r2 RENAME TO r1;
		ALTER TABLE r3 RENAME TO r2;
	END $$;
	CREATE FUNCTION remake(target text, what text) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		EXECUTE format('DROP TABLE %s; CREATE TABLE %1$s %s', target, what);
		PERFORM journal.follow(target::regclass);
	END $$});
my $n = 0;

sub any { return $_[ int(rand(@_)) ]; }

sub random_statement
{
	my $t = any('r1', 'r2', 'c1', 'o1');
	my $attribute = 'ALTER TYPE %s RENAME ATTRIBUTE %s TO %s CASCADE';
	my $new = any('a', 'b', 'c', 'd', 'e');

	$n += 10;
	return any(
		("SELECT put('$t', $n)") x 8,
		("SELECT touch('$t', $n)") x 12,
		"UPDATE base SET $new = '$n'",
		"DELETE FROM $t WHERE ctid IN (SELECT ctid FROM $t OFFSET 4)",
		"TRUNCATE $t",
		("SELECT rekey('$t', $n + " . any(0 .. 9) . ')') x 8,
		("SELECT rekey('$t', $n + " . any(0 .. 9) . ', false)') x 2,
		("SELECT rename('$t', $n + " . any(0 .. 9) . ')') x 4,
		("SELECT rename('base', $n + " . any(0 .. 9) . ')') x 2,
		("SELECT rename('kind', $n + " . any(0 .. 9) . ", '$attribute')") x 2,
		"ALTER TABLE $t ADD COLUMN $new int GENERATED BY DEFAULT AS IDENTITY (START $n)",
		"ALTER TABLE $t DROP COLUMN $new",
		"ALTER TABLE base ADD COLUMN $new text",
		"ALTER TABLE base DROP COLUMN $new",
		"ALTER TYPE kind ADD ATTRIBUTE $new text CASCADE",
		"ALTER TYPE kind DROP ATTRIBUTE $new CASCADE",
		"ALTER TABLE " . any($t, 'base') . " ALTER $new TYPE text",
		"ALTER TYPE kind ALTER ATTRIBUTE $new TYPE text CASCADE",
		"ALTER TABLE $t ALTER $new TYPE int USING $n",
		'SELECT swap_tables()',
		"SELECT remake('r1', '(c text, a int, b int PRIMARY KEY)')",
		"SELECT remake('c1', '(e int) INHERITS (base)')",
		"SELECT remake('o1', 'OF kind')",
		("BEGIN") x 4,
		("COMMIT") x 6,
		"ROLLBACK",
		("SAVEPOINT s" . any(1, 2)) x 4,
		("ROLLBACK TO s" . any(1, 2)) x 3,
		("RELEASE s" . any(1, 2)) x 2);
}

# In a session of its own; what fails takes only itself back, so that most
# transactions go on.
sub run_random
{
	my ($schema, $count) = @_;

	$node->psql(
		'postgres',
		join(";\n",
			"SET search_path = $schema, public",
			(map { my $sql = random_statement(); ("SELECT bemi.set_context('{\"n\": $n}', false)", $sql) } (1 .. $count)),
			"COMMIT;"),
		on_error_stop => 0,
		extra_params => [ '-v', 'ON_ERROR_ROLLBACK=on' ]);
	return;
}

srand($seed);
for my $mode ('late', 'restarted')
{
	my $schema = "random_$mode";

	$n = 0;
	$node->safe_psql(
		'postgres', qq{
		CREATE SCHEMA $schema;
		SET search_path = $schema, public;
		CREATE TABLE r1 (a int PRIMARY KEY, b int, c text);
		CREATE TABLE r2 (a int, b int, c text, d int, PRIMARY KEY (b, a));
		CREATE TABLE base (a int, b int, c text);
		CREATE TABLE c1 (e int, PRIMARY KEY (a)) INHERITS (base);
		CREATE TYPE kind AS (a int, b int, c text);
		CREATE TABLE o1 OF kind (PRIMARY KEY (b, a));
		SELECT journal.follow(t) FROM unnest('{r1, r2, c1, o1}'::regclass[]) t});
	$node->safe_psql('postgres', 'CALL bemi.stop()') if $mode eq 'late';
	for my $part (1 .. 12)
	{
		run_random($schema, 80);
		$interruptions[ $part % 5 ]->() if $mode eq 'restarted';
	}
	start_again();
	sync();
	note journal_entries($node, where => "schema = '$schema'") . ' changes';
	cmp_ok(journal_entries($node, where => "schema = '$schema'"), '>', 50, "random, $mode: there are changes");
	is(journal_differences($node, where => "schema = '$schema'"), '', "random, $mode: all stored, with the keys of then (seed $seed)");
}

$node->stop;
done_testing();
