# DDL in the middle of the stream, in any order: changes before it are stored as they were then.
#
# track_ddl_in_stream.pl has cases that were thought of. Here statements are random, in
# transactions that are rolled back in part, once while the source is stopped and once while it
# streams. The journal (Bemi::Journal) has the expected history.

use strict;
use warnings;

use Bemi;
use Bemi::Journal;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{BEMI_SEED} // int(rand(2**31));
note "random seed: $seed (BEMI_SEED=$seed repeats the statements)";
srand($seed);

my $node = bemi_node('main');

journal_install($node);
$node->safe_psql('postgres', 'CALL bemi.start()');

my $n = 0;

sub any { return $_[ int(rand(@_)) ]; }

sub random_statement
{
	my $t = any('r1', 'r2', 'r3');
	my $k = 1 + int(rand(20));
	my $column = any('v', 'w', 'x', 'y');
	my $type = any('int', 'bigint', 'text', 'numeric', 'jsonb', 'varchar(10)', 'text[]', 'color', 'timestamptz');
	my $default = any('', '', q{ DEFAULT NULL}, $type =~ /int|numeric|text$|jsonb/ ? q{ DEFAULT '17'} : '');

	$n++;
	return any(
		("INSERT INTO $t (k) VALUES ($k)") x 4,
		("INSERT INTO $t (k, $column) VALUES ($k, '$n')") x 4,
		("UPDATE $t SET $column = '$n' WHERE k BETWEEN $k AND $k + 3") x 4,
		("UPDATE $t SET k = k + 1000 WHERE k = $k") x 2,
		("DELETE FROM $t WHERE k = $k") x 3,
		"INSERT INTO $t (k) SELECT generate_series(100, 110)",
		"UPDATE $t SET $column = NULL",
		"TRUNCATE $t",
		("ALTER TABLE $t ADD COLUMN $column $type$default") x 3,
		"ALTER TABLE $t ADD COLUMN $column double precision DEFAULT random()",
		"ALTER TABLE $t DROP COLUMN $column",
		"ALTER TABLE $t RENAME $column TO " . any('v', 'w', 'x', 'y'),
		"ALTER TABLE $t ALTER $column TYPE $type USING NULL",
		"ALTER TABLE $t ALTER $column TYPE text USING $column\::text || '!'",
		"ALTER TABLE $t ALTER $column SET STORAGE EXTERNAL",
		"UPDATE $t SET $column = repeat('long', 2000) WHERE k = $k",
		"ALTER TABLE $t RENAME TO r4; ALTER TABLE r3 RENAME TO $t; ALTER TABLE r4 RENAME TO r3",
		"DROP TABLE $t; CREATE TABLE $t ($column int, k int, PRIMARY KEY (k)); SELECT journal.follow('$t')",
		"CREATE TABLE $t (k int PRIMARY KEY, v text); SELECT journal.follow('$t')",
		"ALTER TABLE $t DROP CONSTRAINT ${t}_pkey",
		"ALTER TABLE $t ADD CONSTRAINT ${t}_pkey PRIMARY KEY (k)",
		"CLUSTER $t USING ${t}_pkey",
		"ALTER TYPE color RENAME TO colour; ALTER TYPE colour RENAME TO color",
		"ALTER TYPE color ADD VALUE '$n'",
		("BEGIN") x 4,
		("COMMIT") x 6,
		"ROLLBACK",
		("SAVEPOINT s" . any(1, 2)) x 4,
		("ROLLBACK TO s" . any(1, 2)) x 3,
		("RELEASE s" . any(1, 2)) x 2);
}

# In a separate session. What fails is rolled back alone, so most
# transactions continue.
sub run_random
{
	my ($mode) = @_;

	$n = 0;
	$node->psql(
		'postgres', join(";\n",
			"CREATE SCHEMA random_$mode",
			"SET search_path = random_$mode, public",
			"CREATE TYPE color AS ENUM ('1', '2', '17')",
			(map { ("SELECT bemi.set_context('{\"n\": $_}', false)", random_statement()) } (1 .. 600)),
			"COMMIT;"),
		on_error_stop => 0,
		extra_params => [ '-v', 'ON_ERROR_ROLLBACK=on' ]);
	return;
}

$node->safe_psql('postgres', 'CALL bemi.stop()');
run_random('late');
$node->safe_psql('postgres', 'CALL bemi.start()');
run_random('live');
$node->safe_psql('postgres', q{SELECT bemi.sync('60s')});
for my $mode ('late', 'live')
{
	my $where = "schema = 'random_$mode'";

	cmp_ok(journal_entries($node, where => $where), '>', 0, "random, $mode: there are changes");
	is(journal_differences($node, where => $where), '', "random, $mode: all stored (seed $seed)");
}

$node->stop;
done_testing();
