# DDL of tracked tables needs few locks, and the whole command fails if the lock table is full.
#
# All sessions share the lock table, which has a fixed size. If an error from it were swallowed, a
# new partition would be published without a replica identity, and the application's next UPDATE
# would fail. So the test fills it with advisory locks, and releases them one by one until a
# command succeeds. Each attempt must either fail and leave nothing, or do everything. The test
# has its own server, because others would run out of locks, too.
#
# The number of locks that a command takes must not depend on the number of the partition's
# siblings.

use strict;
use warnings;

use Bemi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main', conf => "max_locks_per_transaction = 10\nautovacuum = off\n");

$node->safe_psql(
	'postgres', q{
	CREATE SCHEMA shop;
	SELECT bemi.track_schema('shop');
	CREATE TABLE root (id integer) PARTITION BY LIST (id);
	SELECT bemi.track('root');
	CREATE TABLE alone (id integer);
	-- Takes locks until there are no more.
	CREATE PROCEDURE fill() LANGUAGE plpgsql AS $$
	DECLARE
		i bigint := 0;
	BEGIN
		LOOP
			i := i + 1;
			BEGIN
				PERFORM pg_advisory_lock(i);
			EXCEPTION WHEN out_of_memory THEN
				RETURN;
			END;
		END LOOP;
	END $$;
	-- Gives one lock after the other back until the command succeeds. Returns how many it took, and
	-- the SQLSTATEs of the failures.
	CREATE FUNCTION attempt(command text, made text) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE
		states text[] := '{}';
		state text;
	BEGIN
		FOR i IN 1 .. 500 LOOP
			BEGIN
				EXECUTE command;
				RETURN i || ' ' || array_to_string(ARRAY(SELECT DISTINCT unnest(states)), ',');
			EXCEPTION WHEN OTHERS THEN
				GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE;
				states := states || state;
			END;
			IF to_regclass(made) IS NOT NULL THEN
				RETURN 'made by halves';
			END IF;
			PERFORM pg_advisory_unlock(i);
		END LOOP;
		RETURN 'never';
	END $$});

# The locks that a command needs, as a number; dies unless all it fails with is "out of shared memory".
sub locks_needed
{
	my ($command, $made) = @_;
	my $result = $node->safe_psql('postgres',
		"CALL fill(); SELECT attempt('$command', '$made'); SELECT pg_advisory_unlock_all()");

	like($result, qr/^\d+ 53200$/m, "fails with the right error only: $command");
	return $result =~ /^(\d+) /m ? $1 : 0;
}

locks_needed('CREATE TABLE one PARTITION OF root FOR VALUES IN (1)', 'one');
locks_needed('CREATE TABLE shop.made (id integer)', 'shop.made');
is( $node->safe_psql('postgres', 'SELECT "table", identity, published, problems FROM bemi.tracked ORDER BY "table"::text'),
	"one|FULL|t|{}\nroot|FULL|t|{}\nshop.made|FULL|t|{}",
	'what has been made is tracked');
$node->safe_psql('postgres', 'INSERT INTO root VALUES (1); UPDATE root SET id = 1; INSERT INTO shop.made VALUES (1); UPDATE shop.made SET id = 2');
pass('and can be updated');

#
# Among many siblings
#

$node->append_conf('postgresql.conf', 'max_locks_per_transaction = 64');
$node->restart;
$node->safe_psql('postgres', q{DO $$ BEGIN
	FOR i IN 2 .. 200 LOOP EXECUTE format('CREATE TABLE p%s PARTITION OF root FOR VALUES IN (%1$s)', i); END LOOP; END $$});

# Partitions on which a command has a lock.
sub locked_by
{
	my ($command) = @_;

	return $node->safe_psql(
		'postgres', qq{
		BEGIN;
		$command;
		SELECT string_agg(DISTINCT l.relation::regclass::text, ' ') FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
			WHERE l.pid = pg_backend_pid() AND c.relispartition AND c.relkind = 'r';
		ROLLBACK});
}

is(locked_by('CREATE TABLE new PARTITION OF root FOR VALUES IN (1000)'), 'new', 'CREATE TABLE ... PARTITION OF locks no sibling');
is(locked_by('ALTER TABLE p7 ALTER id SET DEFAULT 7'), 'p7', 'ALTER TABLE of a partition locks no sibling');
is(locked_by('ALTER TABLE p7 REPLICA IDENTITY DEFAULT'), 'p7', 'nor does REPLICA IDENTITY');
is(locked_by('ALTER TABLE root ATTACH PARTITION alone FOR VALUES IN (1001)'), 'alone', 'ATTACH PARTITION locks no sibling');
is(locked_by('ALTER TABLE root DETACH PARTITION p7'), '', 'DETACH PARTITION locks no sibling');
is(locked_by('ALTER TABLE root RENAME TO renamed'), '', 'RENAME locks no partition');

done_testing();
