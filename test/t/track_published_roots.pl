# The name under which the changes of a partition are stored, and what must use the same name.
#
# pgoutput publishes a change under the topmost ancestor that is in the publication, which need
# not be the topmost one. A tracked partitioned table can be attached below an untracked one,
# below a tracked one, or be published by hand together with one above it. If a gap were recorded
# for another table, or for none, the history would count as complete although rows have come or
# gone without a change. So for each command, the test reads bemi.completeness() for the time of
# the command, and compares what is stored with the table.
#
# TRUNCATE of a partition is not published. The gap for it must not depend on a trigger, because
# the partition's owner can disable that.

use strict;
use warnings;

use Bemi;
use Bemi::Completeness;
use Bemi::Session;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main');
my $gap = 'rows_changed_by_ddl: ';

sub run { return $node->safe_psql('postgres', "SET search_path = below; $_[0]"); }

# The rows that the changes of a table add up to since they began, and its rows.
sub is_replayed
{
	my ($table, $test) = @_;

	run(q{SELECT bemi.sync('60s')});
	return is(
		run(qq{
			WITH change AS (SELECT id, operation, before, after FROM bemi.changes WHERE schema = 'below' AND "table" = '$table'),
				start AS (SELECT max(id::text)::uuid AS id FROM (SELECT id FROM change WHERE operation = 'TRUNCATE'
					UNION ALL SELECT '00000000-0000-0000-0000-000000000000') i)
			SELECT row, sum(n) FROM (
					SELECT after AS row, 1 AS n FROM change, start WHERE change.id > start.id AND operation IN ('CREATE', 'UPDATE')
					UNION ALL SELECT before, -1 FROM change, start WHERE change.id > start.id AND operation IN ('UPDATE', 'DELETE')
				) r GROUP BY 1 HAVING sum(n) <> 0 ORDER BY row::text COLLATE "C"}),
		run(qq{SELECT to_jsonb(t), count(*) FROM $table t GROUP BY 1 ORDER BY to_jsonb(t)::text COLLATE "C"}),
		$test);
}

$node->safe_psql(
	'postgres', q{
	CREATE SCHEMA below;
	SET search_path = below;
	CREATE TABLE top (id int, v text) PARTITION BY RANGE (id);
	CREATE TABLE mid (id int, v text) PARTITION BY RANGE (id);
	CREATE TABLE mid_1 PARTITION OF mid FOR VALUES FROM (0) TO (100);
	CREATE TABLE mid_2 PARTITION OF mid FOR VALUES FROM (100) TO (200) PARTITION BY RANGE (id);
	CREATE TABLE mid_2_1 PARTITION OF mid_2 FOR VALUES FROM (100) TO (150);
	CREATE TABLE loose (id int, v text);
	INSERT INTO loose VALUES (301, 'v');
	SELECT bemi.track('mid');
	CALL bemi.start();
	INSERT INTO mid VALUES (1, 'v'), (101, 'v')});
#
# Below an untracked table
#

run_steps($node,
	below => 'with',
	[ mid => 'ALTER TABLE top ATTACH PARTITION mid FOR VALUES FROM (0) TO (1000)' => 'complete' ],
	[ mid => q{INSERT INTO top VALUES (2, 'v'), (102, 'v'); UPDATE top SET id = id + 100 WHERE id = 2; DELETE FROM mid_2 WHERE id = 101} => 'complete' ]);
is_replayed('mid', 'rows that are written by way of an untracked table');
run_steps($node,
	below => 'with',
	[ mid => 'TRUNCATE mid_1' => "${gap}Partition below.mid_1 was truncated." ],
	[ mid => 'TRUNCATE mid_1' => 'complete' ],
	[ mid => 'TRUNCATE mid_2' => "${gap}Partition below.mid_2_1 was truncated." ],
	[ mid => q{INSERT INTO mid VALUES (1, 'v'); TRUNCATE mid_1, mid} => 'complete' ],
	[ mid => q{INSERT INTO mid VALUES (1, 'v'); TRUNCATE top} => 'complete' ],
	[ mid => 'CREATE TABLE mid_3 PARTITION OF mid FOR VALUES FROM (200) TO (300)' => 'complete' ],
	[ mid => q{INSERT INTO top VALUES (1, 'v'), (101, 'v'), (200, 'v'), (201, 'v'); UPDATE mid_3 SET v = 'w'; DELETE FROM mid WHERE id = 201} => 'complete' ]);
is_replayed('mid', 'a TRUNCATE of an untracked table empties the tracked one, which gets a new partition');
run_steps($node,
	below => 'with',
	[ mid => 'ALTER TABLE mid ATTACH PARTITION loose FOR VALUES FROM (300) TO (400)' => "${gap}Partition below.loose was attached with its rows." ],
	[ mid => 'ALTER TABLE mid DETACH PARTITION loose' => "${gap}Partition below.loose was detached with its rows." ],
	[ mid => 'DROP TABLE mid_3' => "${gap}Partition below.mid_3 was dropped with its rows." ],
	[ mid => 'ALTER TABLE top ALTER v TYPE varchar USING upper(v)' => "${gap}Table below.mid_1 was rewritten: the type of a column has changed." ],
	[ mid => q{TRUNCATE mid; ALTER TABLE top ADD PRIMARY KEY (id); ALTER TABLE top ADD n int; ALTER TABLE top RENAME v TO w} => 'complete' ],
	[ mid => q{INSERT INTO mid VALUES (3, 'v'); UPDATE mid SET w = 'changed'} => 'complete' ]);
is_replayed('mid', 'columns that are renamed with the untracked table');
is(run(q{SELECT DISTINCT primary_key FROM bemi.changes WHERE "table" = 'mid' AND after ->> 'w' = 'changed'}), '3', 'and a key that comes with it');
is(run(q{SELECT "table", published, ignore, problems FROM bemi.tracked ORDER BY "table"::text}),
	<<~'END' =~ s/\n\z//r, 'what bemi.tracked shows');
	mid|t|{}|{"partition of an untracked table: rows written through it come without context"}
	mid_1|t|{}|{}
	mid_2|t|{}|{}
	mid_2_1|t|{}|{}
	END
is(run(q{SELECT bemi.complete('mid_2_1', now()) = bemi.complete('mid', now())}), 't', 'completeness of a leaf is that of the published table');

# Rules are those of the published table, and untracking what is above leaves it alone.
run(q{SELECT bemi.track('mid', redact => '{w}'); INSERT INTO top VALUES (4, 'secret'); SELECT bemi.untrack('top'); UPDATE mid SET n = 1 WHERE id = 4});
run(q{SELECT bemi.sync('60s')});
is(run(q{SELECT DISTINCT before ->> 'w', after ->> 'w' FROM bemi.changes WHERE "table" = 'mid' AND primary_key = '4' ORDER BY 1}),
	"[redacted]|[redacted]\n|[redacted]", 'rules of a table below an untracked one');
run(q{SELECT bemi.track('mid', redact => '{}')});

#
# Below a tracked table, and back
#

run(q{CREATE TABLE root (LIKE mid) PARTITION BY RANGE (id); SELECT bemi.track('root')});
my $under_top = 'tracking_ended: Its changes are stored under the name of below.top.';
my $attach_mid = 'ALTER TABLE %s ATTACH PARTITION mid FOR VALUES FROM (0) TO (1000)';
my $attach_top = 'ALTER TABLE root ATTACH PARTITION top FOR VALUES FROM (0) TO (1000)';
run_steps($node,
	below => 'after',
	[ mid => 'ALTER TABLE top DETACH PARTITION mid' => 'complete' ],
	[ mid => sprintf($attach_mid, 'root') => 'tracking_ended' ],
	[ root => q{INSERT INTO mid VALUES (5, 'v')} => 'complete' ],
	[ mid => 'ALTER TABLE root DETACH PARTITION mid' => 'complete' ],
	[ root => 'SELECT' => 'complete' ],
	[ mid => sprintf("BEGIN; $attach_mid; ALTER TABLE root DETACH PARTITION mid; COMMIT", 'root') => 'complete' ],
	[ mid => sprintf("$attach_mid; BEGIN; ALTER TABLE root DETACH PARTITION mid; $attach_mid; COMMIT", 'root', 'root') => 'tracking_ended' ],
	[ mid => 'ALTER TABLE root DETACH PARTITION mid' => 'complete' ],

	# with the untracked table between
	[ mid => sprintf($attach_mid, 'top') . "; $attach_top" => 'tracking_ended' ],
	[ root => q{INSERT INTO top VALUES (6, 'v')} => 'complete' ],
	[ mid => 'ALTER TABLE root DETACH PARTITION top' => 'tracking_ended' ],
	[ top => q{SELECT bemi.untrack('top')} => 'tracking_began' ],
	[ mid => q{ALTER TABLE top DETACH PARTITION mid; SELECT bemi.track('mid')} => 'complete' ],

	# tracked by bemi.track() of the table above
	[ mid => sprintf($attach_mid, 'top') => 'complete' ],
	[ top => q{SELECT bemi.track('top')} => 'complete' ],
	[ mid => 'SELECT' => 'tracking_ended' ],
	[ mid => 'CREATE TABLE mid_3 PARTITION OF mid FOR VALUES FROM (200) TO (300); ALTER TABLE top DETACH PARTITION mid' => 'complete' ],
	[ top => q{SELECT bemi.untrack('top')} => 'tracking_ended' ],

	# the publication is changed by hand, while it lists a table below
	[ mid => sprintf($attach_mid, 'top') => 'complete' ],
	[ mid => 'ALTER PUBLICATION bemi ADD TABLE top' => $under_top ],
	[ top => q{INSERT INTO top VALUES (7, 'v')} => 'complete' ],
	[ mid => 'ALTER PUBLICATION bemi DROP TABLE top' => 'complete' ],
	[ top => 'SELECT' => 'tracking_ended' ],
	[ mid => "$attach_top; ALTER PUBLICATION bemi ADD TABLE mid" => 'tracking_ended' ],
	[ mid => q{ALTER TABLE root DETACH PARTITION top; UPDATE mid SET n = 8} => 'complete' ]);
is(run(q{SELECT "table", identity, published, problems FROM bemi.tracked ORDER BY "table"::text}),
	<<~'END' =~ s/\n\z//r, 'what is tracked in the end');
	mid|FULL|t|{"partition of an untracked table: rows written through it come without context"}
	mid_1|FULL|t|{}
	mid_2|FULL|t|{}
	mid_2_1|FULL|t|{}
	mid_3|FULL|t|{}
	root|FULL|t|{}
	END
run_steps($node, below => 'with', [ mid => q{TRUNCATE mid; INSERT INTO top VALUES (7, 'v'); UPDATE top SET n = 8; DELETE FROM mid WHERE id = 8} => 'complete' ]);
is_replayed('mid', 'as which it is stored');

# A worker on another server creates its slot in this state: the slot's snapshot has the descriptions.
is($node->safe_psql('postgres', q{SELECT _bemi.describe('below.mid') ? 'stale', _bemi.describe('below.mid_1') ? 'stale', _bemi.describe('below.top') ? 'stale'}),
	'f|t|f', 'only what is stored under another name has a stale description');

#
# TRUNCATE that no trigger sees, or that changes nothing
#

run(q{
	CREATE ROLE leaf_owner;
	ALTER TABLE mid_1 OWNER TO leaf_owner;
	GRANT USAGE, CREATE ON SCHEMA below TO leaf_owner;
	CREATE TABLE referenced (id int PRIMARY KEY);
	CREATE TABLE refers (id int, r int REFERENCES referenced) PARTITION BY RANGE (id);
	CREATE TABLE refers_1 PARTITION OF refers FOR VALUES FROM (0) TO (100);
	CREATE TABLE alone (id int PRIMARY KEY);
	CREATE TABLE refers_2 PARTITION OF refers FOR VALUES FROM (100) TO (200);
	ALTER TABLE refers_2 ADD FOREIGN KEY (r) REFERENCES alone;
	CREATE TABLE inner_one (id int PRIMARY KEY);
	CREATE FUNCTION truncate_mid_1() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN TRUNCATE mid_1; RETURN NULL; END $$;
	CREATE TRIGGER t BEFORE TRUNCATE ON inner_one EXECUTE FUNCTION truncate_mid_1();
	SELECT bemi.track('refers')});
my $is_truncated = "${gap}Partition below.mid_1 was truncated.";
my $fill = 'INSERT INTO mid (id) VALUES (1), (2)';
run_steps($node,
	below => 'with',
	[ mid => "$fill; SET ROLE leaf_owner; ALTER TABLE mid_1 DISABLE TRIGGER USER; TRUNCATE mid_1; ALTER TABLE mid_1 ENABLE TRIGGER USER" => $is_truncated ],
	[ mid => "$fill; SET session_replication_role = replica; TRUNCATE ONLY mid_1" => $is_truncated ],
	[ mid => "$fill; SET session_replication_role = replica; TRUNCATE top" => 'complete' ],
	[ refers => 'INSERT INTO referenced VALUES (1); INSERT INTO refers VALUES (1, 1); TRUNCATE referenced CASCADE' => 'complete' ],
	[ refers => 'INSERT INTO alone VALUES (1); INSERT INTO referenced VALUES (1); INSERT INTO refers VALUES (100, 1); TRUNCATE alone CASCADE' =>
		"${gap}Partition below.refers_2 was truncated." ],
	[ mid => "$fill; TRUNCATE inner_one" => $is_truncated ],
	[ mid => "$fill; TRUNCATE mid_1, mid_1" => $is_truncated ],
	[ mid => "$fill; BEGIN; TRUNCATE mid_1; ROLLBACK" => 'complete' ],
	[ mid => 'BEGIN; SAVEPOINT a; TRUNCATE mid_1; ROLLBACK TO a; INSERT INTO mid (id) VALUES (3); COMMIT' => 'complete' ],
	[ mid => q{DO $$ BEGIN TRUNCATE mid_1, top, nowhere; EXCEPTION WHEN undefined_table THEN INSERT INTO mid (id) VALUES (4); END $$} => 'complete' ],
	[ mid => q{DO $$ BEGIN BEGIN TRUNCATE top, nowhere; EXCEPTION WHEN undefined_table THEN NULL; END; TRUNCATE mid_1; END $$} => $is_truncated ],
	[ mid => "$fill; BEGIN; LOCK TABLE mid_1; DELETE FROM mid_1; TRUNCATE mid_1; COMMIT" => 'complete' ],
	[ mid => "BEGIN; GRANT SELECT ON mid_1 TO leaf_owner; $fill; TRUNCATE mid_1; COMMIT" => $is_truncated ],
	[ mid => "$fill; BEGIN; TRUNCATE mid; $fill; TRUNCATE mid_1; COMMIT" => $is_truncated ],
	[ mid => 'BEGIN; CREATE TABLE mid_4 PARTITION OF mid FOR VALUES FROM (300) TO (400); INSERT INTO mid (id) VALUES (300); TRUNCATE mid_4; COMMIT' =>
		"${gap}Partition below.mid_4 was truncated." ],
	[ mid => 'BEGIN; CREATE TABLE mid_5 PARTITION OF mid FOR VALUES FROM (400) TO (500); TRUNCATE mid_5; COPY mid_5 (id) FROM PROGRAM $$echo 400$$ (FREEZE); COMMIT' => 'complete' ],
	[ mid => 'CREATE TEMP TABLE mid_1 (id int); INSERT INTO mid_1 VALUES (1); TRUNCATE mid_1' => 'complete' ],
	[ mid => "$fill; " . 'TRUNCATE mid; ' . $fill . '; UPDATE mid SET n = 1; DELETE FROM mid WHERE id = 1' => 'complete' ]);
is_replayed('mid', 'what is stored of it');

# The table is not locked when the statement begins: it gets a row, or another name.
sub while_it_waits
{
	my ($table, $statement, $meanwhile) = @_;
	my $holder = Bemi::Session->new($node);
	my $waiter = Bemi::Session->new($node);
	my $before = now($node);

	$holder->query("SET search_path = below; BEGIN; LOCK TABLE $table IN ACCESS EXCLUSIVE MODE");
	$waiter->query('SET search_path = below');
	$waiter->send($statement);
	$node->poll_query_until('postgres', 'SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = ' . $waiter->pid . ')')
	  or die "$statement does not wait";
	$holder->query("$meanwhile; COMMIT");
	is($waiter->result, '', "$statement has waited");
	$_->quit for $holder, $waiter;
	return complete($node, 'below.mid', $before, now($node));
}

run('TRUNCATE mid');
is(while_it_waits('mid_1', 'TRUNCATE mid_1', 'INSERT INTO mid_1 (id) VALUES (1)'), $is_truncated, 'a row that came while TRUNCATE waited');
run($fill);
is( while_it_waits('mid, mid_1', 'TRUNCATE mid', 'ALTER TABLE mid RENAME TO hidden; ALTER TABLE mid_1 RENAME TO mid; ALTER TABLE hidden RENAME TO mid_1'),
	'tracking_ended: It was renamed to below.hidden.', 'the names are those of other tables');
is($node->safe_psql('postgres', q{SELECT detail FROM bemi.gaps WHERE "table" = 'mid_1' AND reason = 'rows_changed_by_ddl'}),
	'Partition below.mid was truncated.', 'TRUNCATE of a table that was not meant makes a gap of its root');

done_testing();
