# bemi.as_of() gives the rows of a time before a gap from the history alone, if that is complete from a
# baseline, a TRUNCATE or the creation of the table up to that time. Otherwise it fails.
#
# Partitions that come and go with their rows are the commonest gaps: a table by months, from which a
# job drops the oldest month. Also tested: places and gaps after a clock was set back, places that
# schema changes name, and tables that others inherit from.

use strict;
use warnings;

use Bemi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main');

sub sql { return $node->safe_psql('postgres', $_[0]) }

# Returns the errors of statements.
sub error_of
{
	my ($status, $stdout, $stderr) = $node->psql('postgres', $_[0]);

	return $stderr;
}

sub now { return sql('SELECT clock_timestamp()') }

# All rows of a table, now or as a function returns them.
sub rows_of
{
	my ($from) = @_;

	return sql("SELECT string_agg(r::text, ' ' ORDER BY r) FROM $from r");
}

# The same as of a time, read one by one.
sub single_rows
{
	my ($table, $keys, $at) = @_;

	return sql("SELECT string_agg(r::text, ' ' ORDER BY r) FROM $keys k(key), bemi.row_as_of(NULL::$table, k.key, '$at') r");
}

sql(<<~'SQL');
	CREATE SCHEMA app;
	SELECT bemi.track_schema('app');
	CALL bemi.start();
	SELECT bemi.sync();
	SQL

# A table by months, whose first rows are in the history. Each command is at a time of its own.
my (@names, @times, @rows);

sub step
{
	my ($name, $statements) = @_;

	sql($statements);
	push @names, $name;
	push @times, now();
	push @rows, rows_of('app.event');
	return;
}

my $before = now();
step('made', <<~'SQL');
	CREATE TABLE app.event (id integer, month integer, v text, PRIMARY KEY (id, month)) PARTITION BY RANGE (month);
	CREATE TABLE app.event_1 PARTITION OF app.event FOR VALUES FROM (1) TO (2);
	CREATE TABLE app.event_2 PARTITION OF app.event FOR VALUES FROM (2) TO (3);
	INSERT INTO app.event SELECT n, 1 + n % 2, 'first' FROM generate_series(1, 6) n;
	UPDATE app.event SET v = 'u' WHERE id = 1;
	DELETE FROM app.event WHERE id = 2;
	SQL
step('a partition is made', q{CREATE TABLE app.event_3 PARTITION OF app.event FOR VALUES FROM (3) TO (4); INSERT INTO app.event VALUES (7, 3, 'new')});
step('an empty table is attached',
	q{CREATE TABLE app.event_4 (LIKE app.event INCLUDING ALL); ALTER TABLE app.event ATTACH PARTITION app.event_4 FOR VALUES FROM (4) TO (5); INSERT INTO app.event VALUES (8, 4, 'new')});
step('a row moves', q{UPDATE app.event SET month = 4, v = 'moved' WHERE id = 7});
is(sql(q{SELECT count(*) FROM bemi.gaps WHERE reason = 'rows_changed_by_ddl'}), '0', 'empty partitions make no gap');
my $last = $#times;
my $lsn = sql('SELECT pg_current_wal_insert_lsn()');
is(rows_of("bemi.as_of(NULL::app.event, '$times[$_]')"), $rows[$_], "no gap: $names[$_]") for 0 .. $last;

for my $command (
	['truncated', 'TRUNCATE app.event_2'],
	['detached', 'ALTER TABLE app.event DETACH PARTITION app.event_3'],
	['dropped', 'DROP TABLE app.event_1'],
	['attached', q{CREATE TABLE app.old (LIKE app.event INCLUDING ALL); INSERT INTO app.old VALUES (1, 0, 'attached'); ALTER TABLE app.event ATTACH PARTITION app.old FOR VALUES FROM (0) TO (1)}],
	['retyped', 'ALTER TABLE app.event ALTER v TYPE varchar(40), ADD w integer GENERATED ALWAYS AS (id + 1) STORED; ALTER TABLE app.event DROP w'])
{
	sql("INSERT INTO app.event VALUES (20, 2, '$command->[0]') ON CONFLICT DO NOTHING; $command->[1]; INSERT INTO app.event VALUES (9, 4, 'later') ON CONFLICT (id, month) DO UPDATE SET v = event.v || '!'");
	for my $n (0 .. $last)
	{
		is(rows_of("bemi.as_of(NULL::app.event, '$times[$n]')"), $rows[$n], "a partition was $command->[0] since: $names[$n]");
	}
}
is(rows_of("bemi.as_of(NULL::app.event, '$before')"), '', 'before the table was made');
for my $n (0, $last)
{
	my $keys = q{(SELECT json_build_object('id', i, 'month', m)::text FROM generate_series(1, 9) i, generate_series(0, 5) m)};

	is(single_rows('app.event', $keys, $times[$n]), $rows[$n], "one by one: $names[$n]");
	is(sql("SELECT string_agg(j.r ->> 'v', ' ' ORDER BY (j.r ->> 'id')::integer, j.r ->> 'month') FROM bemi.as_of_json('app.event', '$times[$n]') j(r)"),
		sql("SELECT string_agg(v, ' ' ORDER BY id, month::text) FROM bemi.as_of(NULL::app.event, '$times[$n]')"), "as JSON: $names[$n]");
}
is(rows_of("bemi.as_of(NULL::app.event, at_lsn => '$lsn')"), $rows[$last], 'at a position');
is(sql("SELECT string_agg(DISTINCT kind || (coalesce(after, before)).id, ' ' ORDER BY kind || (coalesce(after, before)).id) FROM bemi.diff_table(NULL::app.event, '$times[0]', '$times[$last]')"),
	'CREATE7 CREATE8', 'a difference between two times before the gaps');
is(sql("SELECT count(*) FROM bemi.versions(NULL::app.event, '$times[0]', '$times[$last]')"), '8', 'versions between them');

# Between the gaps nothing is known, and after them all is.
my $between = now();
my $today = rows_of('app.event');
is(rows_of("bemi.as_of(NULL::app.event, '$between')"), $today, 'after the gaps');
sql('DROP TABLE app.event_4');
like(error_of("SELECT * FROM bemi.as_of(NULL::app.event, '$between')"),
	qr/history of table "event" is not complete since .*DETAIL:  rows_changed_by_ddl.*Partition app.event_4 was dropped with its rows.*HINT:  .*allow_gaps.*CALL bemi.baseline\('main', 'app.event'\)/s,
	'between gaps');
like(error_of("SELECT * FROM bemi.row_as_of(NULL::app.event, '{\"id\": 9, \"month\": 4}', '$between')"), qr/is not complete since/, 'one row between gaps');
like(error_of("SELECT * FROM bemi.versions(NULL::app.event, '$times[0]', clock_timestamp())"), qr/is not complete since/, 'versions across gaps');
like(error_of("SELECT * FROM bemi.diff_table(NULL::app.event, '$times[0]', clock_timestamp())"), qr/is not complete since/, 'a difference across gaps');
is(rows_of("bemi.as_of(NULL::app.event, '$between', allow_gaps => true)"), rows_of('app.event'), 'allow_gaps: what is there');
is(rows_of("bemi.as_of(NULL::app.event, '$times[0]', allow_gaps => true)"), $rows[0], 'allow_gaps: the history is better');
is(rows_of("bemi.as_of(NULL::app.event, '" . now() . "')"), rows_of('app.event'), 'after the last one');

# A job that drops the oldest partition, and stores a baseline then.
sql(q{INSERT INTO app.event VALUES (50, 0, 'old'), (51, 2, 'new')});
sql(q{CALL bemi.baseline('main', 'app.event')});
sql(q{UPDATE app.event SET v = 'after the job' WHERE id = 51});
my $month = now();
my $of_month = rows_of('app.event');
sql(q{DROP TABLE app.old});
sql(q{UPDATE app.event SET v = 'later'});
is(rows_of("bemi.as_of(NULL::app.event, '$month')"), $of_month, 'between two runs of a job, with a baseline');
like(error_of("SELECT * FROM bemi.as_of(NULL::app.event, '$between')"), qr/is not complete since/, 'before the baseline');

# A table that is older than the history, until a baseline has its rows. A time between baselines and gaps is exact, too.
sql(<<~'SQL');
	CREATE TABLE plain (id integer PRIMARY KEY, v text);
	INSERT INTO plain SELECT n, 'old' FROM generate_series(1, 5) n;
	SELECT bemi.track('plain');
	UPDATE plain SET v = 'first' WHERE id = 1;
	SQL
my $early = now();
sql(q{CALL bemi.baseline('main', 'plain')});
sql(q{UPDATE plain SET v = 'second' WHERE id = 1; DELETE FROM plain WHERE id = 2; UPDATE plain SET id = 33 WHERE id = 3});
my $second = now();
my $second_rows = rows_of('plain');
sql('ALTER TABLE plain RENAME TO former; ALTER TABLE former RENAME v TO w; ALTER TABLE former ALTER w TYPE varchar(40)');
sql(q{INSERT INTO former VALUES (6, 'new')});
sql('ALTER TABLE former RENAME TO plain; ALTER TABLE plain RENAME w TO v');
is(rows_of("bemi.as_of(NULL::plain, '$second')"), $second_rows, 'after a baseline and before a gap, under another name');
is(sql("SELECT string_agg(r::text, ' ' ORDER BY r) FROM generate_series(1, 40) k, bemi.row_as_of(NULL::plain, k::text, '$second') r"), $second_rows, 'one by one');
like(error_of("SELECT * FROM bemi.as_of(NULL::plain, '$early')"), qr/is not complete since .*rows_changed_by_ddl.*Table public.former was rewritten/s, 'before the baseline');
sql('TRUNCATE plain');
is(rows_of("bemi.as_of(NULL::plain, '$second')"), $second_rows, 'a TRUNCATE and a baseline');
like(error_of("SELECT * FROM bemi.as_of(NULL::plain, '$early')"), qr/is not complete since/, 'and before it');
sql(q{INSERT INTO plain VALUES (1, 'base')});
sql(q{CALL bemi.baseline('main', 'plain')});
sql(q{INSERT INTO plain VALUES (2, 'later')});
my $third = now();
sql(q{TRUNCATE plain; INSERT INTO plain VALUES (1, 'end')});
is(rows_of("bemi.as_of(NULL::plain, '$third')"), '(1,base) (2,later)', 'TRUNCATE, baseline, TRUNCATE');

# JSON has columns that were dropped after the gap, too.
sql(q{CREATE TABLE app.narrow (id integer PRIMARY KEY, v text, gone integer); INSERT INTO app.narrow VALUES (1, 'a', 5)});
my $wide = now();
sql(q{ALTER TABLE app.narrow ALTER v TYPE varchar(9)});
sql(q{UPDATE app.narrow SET gone = 6; ALTER TABLE app.narrow DROP gone});
is(sql("SELECT r FROM bemi.as_of_json('app.narrow', '$wide') r"), '{"v": "a", "id": 1, "gone": 5}', 'as JSON, with a column that was dropped');

# Columns that were added between the last change of a row and the place. The row got the default of ADD COLUMN, which the
# catalog has in the partitions, until a command rewrites them.
sql(<<~'SQL');
	CREATE TABLE app.grown (id integer, part integer, v integer, PRIMARY KEY (id, part)) PARTITION BY RANGE (part);
	CREATE TABLE app.grown_1 (part integer NOT NULL, gone text, id integer NOT NULL, v integer);
	ALTER TABLE app.grown_1 DROP gone;
	ALTER TABLE app.grown ATTACH PARTITION app.grown_1 FOR VALUES FROM (1) TO (2);
	CREATE TABLE app.grown_2 PARTITION OF app.grown FOR VALUES FROM (2) TO (3);
	INSERT INTO app.grown VALUES (1, 1, 1), (2, 2, 2), (3, 1, 3);
	ALTER TABLE app.grown ADD w text DEFAULT 'new';
	ALTER TABLE app.grown ADD x integer;
	INSERT INTO app.grown VALUES (4, 2, 4, 'own');
	CREATE TABLE app.single (id integer PRIMARY KEY, v integer);
	CREATE TABLE app.bag (v integer);
	INSERT INTO app.single VALUES (1, 1), (2, 2);
	INSERT INTO app.bag VALUES (1), (1), (2);
	ALTER TABLE app.single ADD w text DEFAULT 'new';
	ALTER TABLE app.single ADD x integer;
	ALTER TABLE app.bag ADD w text DEFAULT 'new';
	UPDATE app.single SET v = 3 WHERE id = 2;
	DELETE FROM app.bag WHERE v = 2;
	SQL
my $grown = now();
my %grown_rows = map { $_ => rows_of("app.$_") } qw(grown single bag);
sql('TRUNCATE app.grown, app.single, app.bag');
for my $table (sort keys %grown_rows)
{
	is(rows_of("bemi.as_of(NULL::app.$table, '$grown')"), $grown_rows{$table}, "$table: a column was added before the place");
}
is(sql("SELECT r FROM bemi.row_as_of(NULL::app.grown, '[1, 1]', '$grown') r"), '(1,1,1,new,)', 'one row');
sql('VACUUM FULL app.grown_1; VACUUM FULL app.single; VACUUM FULL app.bag');
is(rows_of("bemi.as_of(NULL::app.grown, '$grown')"), $grown_rows{grown}, 'another partition has the default');
sql('VACUUM FULL app.grown_2');
like(error_of("SELECT * FROM bemi.as_of(NULL::app.$_->[0], '$grown')"),
	qr/row $_->[1] of table "$_->[0]" cannot be restored\n.*Column "w" was added later, and it is not known with which default/, "$_->[0]: the default is lost")
  for (['grown', '\["1", "1"\]'], ['single', '1'], ['bag', 'without a key']);
is(sql("SELECT string_agg(id || ' ' || v || coalesce(x, 0), ', ' ORDER BY id) FROM bemi.as_of(NULL::app.grown, '$grown')"), '1 10, 2 20, 3 30, 4 40', 'columns without a default');
is(sql("SELECT w FROM bemi.row_as_of(NULL::app.single, '2', '$grown')"), 'new', 'a row that was changed since');
is(sql("SELECT count(w) || ' ' || count(*) FROM bemi.as_of(NULL::app.single, '$grown', allow_gaps => true)"), '1 2', 'allow_gaps');

# The clock was set back before a gap: its times are those of two hours ago.
sql(q{CREATE TABLE clocked (id integer PRIMARY KEY, v integer); INSERT INTO clocked VALUES (1, 1); SELECT bemi.track('clocked')});
my $clock = now();
sql('UPDATE clocked SET v = 2');
sql('ALTER TABLE clocked ALTER v TYPE bigint');
sql('SELECT bemi.sync()');
sql(q{UPDATE bemi.gaps SET from_time = from_time - interval '2 hours', to_time = to_time - interval '2 hours'
	WHERE "table" = 'clocked' AND reason = 'rows_changed_by_ddl'});
like(error_of("SELECT * FROM bemi.as_of(NULL::clocked, '$clock')"), qr/is not complete since .*rows_changed_by_ddl/s, 'a gap after the place, with an earlier time');
is(sql("SELECT v FROM bemi.as_of(NULL::clocked, '" . now() . "')"), '2', 'a time after it');

# A schema change is a place between the changes.
sql(<<~'SQL');
	CREATE TABLE app.shaped (id integer PRIMARY KEY, v integer);
	INSERT INTO app.shaped VALUES (1, 1);
	BEGIN;
	UPDATE app.shaped SET v = 2;
	ALTER TABLE app.shaped ADD w integer DEFAULT 7;
	UPDATE app.shaped SET v = 3;
	COMMIT;
	ALTER TABLE app.shaped RENAME v TO x;
	UPDATE app.shaped SET x = 4;
	SELECT bemi.sync();
	SQL
my ($create, $add, $rename) = split /\n/, sql(q{SELECT id FROM bemi.schema_changes WHERE "table" = 'shaped' ORDER BY id});
is(rows_of("bemi.as_of(NULL::app.shaped, before => '$create')"), '', 'before CREATE TABLE');
is(rows_of("bemi.as_of(NULL::app.shaped, before => '$add')"), '(1,2,7)', 'before ADD COLUMN, in the middle of a transaction');
is(rows_of("bemi.as_of(NULL::app.shaped, before => '$rename')"), '(1,3,7)', 'before RENAME');
is(sql("SELECT x FROM bemi.row_as_of(NULL::app.shaped, '1', before => '$add')"), '2', 'one row');
is(sql("SELECT bemi.as_of_json('app.shaped', before => '$rename') ->> 'x'"), '3', 'as JSON');
sql(q{TRUNCATE app.shaped; INSERT INTO app.shaped VALUES (2, 2); ALTER TABLE app.shaped ADD y integer; UPDATE app.shaped SET x = 3; SELECT bemi.sync()});
my $y = sql(q{SELECT id FROM bemi.schema_changes WHERE "table" = 'shaped' AND 'y' = ANY (added)});
is(sql("SELECT r ->> 'x' FROM bemi.source_as_of_json('main', 'app', 'shaped', before => '$y') r"), '2', 'from the history alone');
like(error_of("SELECT * FROM bemi.as_of(NULL::app.shaped, before => '00000000-0000-8000-8000-000000000000')"), qr/change .* does not exist/, 'no change at all');

# The history alone has the rows also if the table is no longer tracked, has another key, was renamed or dropped.
# There is no baseline, so only the schema history has the key.
sub alone { return sql("SELECT string_agg(r::text, ' ' ORDER BY r) FROM bemi.source_as_of_json('main', 'public', '$_[0]', $_[1]) r") }
sql(<<~'SQL');
	CREATE TABLE alone (id integer PRIMARY KEY, v integer);
	SELECT bemi.track('alone');
	TRUNCATE alone;
	INSERT INTO alone VALUES (1, 1), (2, 2);
	UPDATE alone SET v = 3 WHERE id = 2;
	SQL
my $alone = now();
my $alone_rows = '{"v": 1, "id": 1} {"v": 3, "id": 2}';
for my $command (
	q{SELECT bemi.untrack('alone')},
	q{SELECT bemi.track('alone')},
	q{ALTER TABLE alone DROP CONSTRAINT alone_pkey, ADD PRIMARY KEY (v)},
	q{ALTER TABLE alone DROP CONSTRAINT alone_pkey},
	q{ALTER TABLE alone RENAME id TO number},
	q{ALTER TABLE alone RENAME TO renamed},
	q{DROP TABLE renamed},
	q{CREATE TABLE alone (v integer PRIMARY KEY); SELECT bemi.track('alone')})
{
	sql("$command; SELECT bemi.sync()");
	is(alone('alone', "'$alone'"), $alone_rows, "from the history alone, after $command");
}
my ($untrack) = sql(q{SELECT id FROM bemi.schema_changes WHERE "table" = 'alone' AND event = 'ended' ORDER BY id LIMIT 1});
is(alone('alone', "before => '$untrack'"), $alone_rows, 'before it was untracked');
like(error_of("SELECT bemi.source_as_of_json('main', 'public', 'alone', clock_timestamp() - interval '1 microsecond')"),
	qr/history of public.alone is not complete from .*tracking_ended/s, 'and later not');

# Changes that were not tracked, in the transaction of the TRUNCATE with which the rows begin. The worker knows the
# place of both by the commit only, so the order within it does not count.
sql(<<~'SQL');
	CREATE TABLE within (id integer PRIMARY KEY);
	SELECT bemi.track('within');
	BEGIN;
	TRUNCATE within;
	SELECT bemi.untrack('within');
	INSERT INTO within VALUES (1);
	SELECT bemi.track('within');
	COMMIT;
	INSERT INTO within VALUES (2);
	SQL
my $within = now();
sql('TRUNCATE within; INSERT INTO within VALUES (3); SELECT bemi.sync()');
like(error_of("SELECT bemi.source_as_of_json('main', 'public', 'within', '$within')"), qr/is not complete from .*tracking_ended/s, 'a gap in the commit of a TRUNCATE');
like(error_of("SELECT * FROM bemi.as_of(NULL::within, '$within')"), qr/is not complete since .*tracking_ended/s, 'and if the table is read');
my $after = now();
sql('SELECT bemi.sync()');
is(alone('within', "'$after'"), '{"id": 3}', 'not after another TRUNCATE');

# The transaction that ends the tracking goes on. The time of its commit has its changes, too.
sql(<<~'SQL');
	CREATE TABLE ending (id integer PRIMARY KEY);
	SELECT bemi.track('ending');
	TRUNCATE ending;
	INSERT INTO ending VALUES (1);
	BEGIN;
	INSERT INTO ending VALUES (2);
	SELECT bemi.untrack('ending');
	INSERT INTO ending VALUES (3);
	COMMIT;
	SELECT bemi.track('ending'), bemi.sync();
	SQL
my ($end) = sql(q{SELECT max(committed_at) FROM bemi.changes WHERE "table" = 'ending'});
is(alone('ending', "timestamptz '$end' - interval '1 microsecond'"), '{"id": 1}', 'before the transaction that ends the tracking');
like(error_of("SELECT bemi.source_as_of_json('main', 'public', 'ending', '$end')"), qr/is not complete from .*tracking_ended/s, 'at its commit');
like(error_of("SELECT * FROM bemi.as_of(NULL::ending, '$end')"), qr/is not complete since .*tracking_ended/s, 'and if the table is read');

# A baseline after the time, with changes between that are not tracked, and none that is.
sql(q{CREATE TABLE of_later (id integer PRIMARY KEY); SELECT bemi.track('of_later'); INSERT INTO of_later VALUES (1)});
my $before_later = now();
sql(q{SELECT bemi.untrack('of_later'); INSERT INTO of_later VALUES (2); SELECT bemi.track('of_later'), bemi.sync()});
sql(q{CALL bemi.baseline('main', 'of_later')});
sql('SELECT bemi.sync()');
like(error_of("SELECT bemi.source_as_of_json('main', 'public', 'of_later', '$before_later')"), qr/the rows that public.of_later had before its tracking are not known/, 'a baseline after the time');

# The clock was set back between the TRUNCATE and the gap.
sql(<<~'SQL');
	CREATE TABLE set_back (id integer PRIMARY KEY);
	SELECT bemi.track('set_back');
	TRUNCATE set_back;
	SELECT bemi.untrack('set_back');
	INSERT INTO set_back VALUES (1);
	SELECT bemi.track('set_back');
	INSERT INTO set_back VALUES (2);
	SELECT bemi.sync();
	UPDATE bemi.gaps SET from_time = from_time - interval '2 hours', to_time = to_time - interval '2 hours'
		WHERE "table" = 'set_back' AND reason = 'tracking_ended';
	SQL
my $place = now();
sql('INSERT INTO set_back VALUES (4); SELECT bemi.sync()');
my ($fourth) = sql(q{SELECT id FROM bemi.changes WHERE "table" = 'set_back' AND primary_key = '4'});
like(error_of("SELECT bemi.source_as_of_json('main', 'public', 'set_back', $_)"), qr/is not complete from .*tracking_ended/s, "a gap with an earlier time: $_")
  for "'$place'", "before => '$fourth'";
# Now its times are later than those of the changes after it.
sql(q{UPDATE bemi.gaps SET from_time = from_time + interval '6 hours', to_time = to_time + interval '6 hours' WHERE "table" = 'set_back' AND reason = 'tracking_ended'});
like(error_of("SELECT bemi.source_as_of_json('main', 'public', 'set_back', $_)"), qr/is not complete from .*tracking_ended/s, "a gap with a later time: $_")
  for "'$place'", "before => '$fourth'";

# A dropped column, whose value was changed in the gap. By its times, the gap is before the change that the history has.
sql(<<~'SQL');
	CREATE TABLE lost (id integer PRIMARY KEY, v integer, gone integer);
	SELECT bemi.track('lost');
	INSERT INTO lost VALUES (1, 1, 1);
	SELECT bemi.untrack('lost');
	UPDATE lost SET gone = 2;
	SELECT bemi.track('lost');
	INSERT INTO lost VALUES (2, 2, 2);
	SELECT bemi.sync();
	SQL
my $lost = now();
sql(q{ALTER TABLE lost DROP gone; UPDATE lost SET v = 3; SELECT bemi.sync()});
for my $hours (0, 2)
{
	sql(qq{UPDATE bemi.gaps SET from_time = from_time - interval '$hours hours', to_time = to_time - interval '$hours hours' WHERE "table" = 'lost'});
	like(error_of("SELECT bemi.as_of_json('lost', '$lost')"), qr/has no value of dropped column gone.*"id": 1/s, "a value from before a gap, whose times are $hours hours too early");
}
is(sql("SELECT bemi.as_of_json('lost', '$lost', allow_gaps => true) ->> 'gone'"), "1\n2", 'allow_gaps');

# A gap under a former name, after which the clock was set back.
sql(q{CREATE TABLE former_name (id integer PRIMARY KEY); INSERT INTO former_name VALUES (1); SELECT bemi.track('former_name'); INSERT INTO former_name VALUES (2)});
my $former = now();
sql(<<~'SQL');
	ALTER TABLE former_name ALTER id TYPE bigint;
	ALTER TABLE former_name RENAME TO later_name;
	SELECT bemi.sync();
	UPDATE bemi.gaps SET from_time = from_time + interval '2 hours', to_time = to_time + interval '2 hours'
		WHERE "table" = 'former_name' AND reason = 'rows_changed_by_ddl';
	SQL
like(error_of("SELECT * FROM bemi.as_of(NULL::later_name, '$former')"), qr/is not complete since .*rows_changed_by_ddl/s, 'a gap under a former name, with a later time');

# A table that others inherit from.
sql(<<~'SQL');
	CREATE TABLE app.parent (id integer PRIMARY KEY);
	CREATE TABLE app.child (PRIMARY KEY (id)) INHERITS (app.parent);
	INSERT INTO app.parent VALUES (1);
	INSERT INTO app.child VALUES (2);
	SQL
my $inherited = now();
sql('DELETE FROM app.parent');
like(error_of("SELECT * FROM bemi.as_of(NULL::app.parent, '$inherited')"),
	qr/cannot read the past of table "parent"\n.*Other tables inherit from it.*HINT:.*bemi.as_of\(NULL::app.child, .*allow_gaps/s, 'a table that others inherit from');
is(sql("SELECT id FROM bemi.as_of(NULL::app.parent, '$inherited', allow_gaps => true)"), '1', 'its own rows');
is(sql("SELECT id FROM bemi.as_of(NULL::app.child, '$inherited')"), '2', 'one that inherits');
sql('DROP TABLE app.child');
is(sql("SELECT id FROM bemi.as_of(NULL::app.parent, '$inherited')"), '1', 'nothing inherits any more');

$node->stop;
done_testing();
