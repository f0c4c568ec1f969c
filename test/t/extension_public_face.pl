# What users call and read: every documented call works as written, and every reason of a gap is a
# documented code.
#
# The names of functions and arguments and the codes of bemi.gaps are an interface that cannot
# change after a release. If an argument's name is a reserved word, a documented call fails only
# for the reader who copies it. So the test makes each call once, with all arguments by name, and
# compares its list with the catalog. It also compares the reasons with
# docs/reference/gap-reasons.md and with the strings in the C code, because otherwise a missing
# one is noticed only on the day when changes are lost.

use strict;
use warnings;

use Bemi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main', conf => "bemi.max_sources = 8\n");

sub sql { return $node->safe_psql('postgres', $_[0]); }

sub error_of
{
	my ($statement) = @_;
	my ($status, $stdout, $stderr) = $node->psql('postgres', $statement);

	return $stderr;
}

sql(q{
	CREATE SCHEMA shop;
	CREATE ROLE operator REPLICATION;
	CREATE TABLE todo (id int PRIMARY KEY, task text, note text, mail text);
	CREATE TABLE by_hand (id int PRIMARY KEY)});

#
# Calls
#

my $conninfo = $node->connstr('postgres') =~ s/'/''/gr;

my @calls = (
	[ q{SELECT bemi.track('todo')}, '' ],
	[ q{SELECT bemi.track(target => 'todo', ignore => '{note}', redact => '{mail}', redact_hash => '{task}')}, '' ],
	[ q{SELECT bemi.untrack(target => 'todo')}, '' ],
	[ q{SELECT bemi.track_schema('shop')}, '' ],
	[ q{SELECT bemi.untrack_schema('shop')}, '' ],
	[ q{SELECT bemi.track('todo', ignore => '{}', redact => '{}', redact_hash => '{}')}, '' ],
	[ q{CREATE TRIGGER context BEFORE INSERT ON by_hand FOR EACH STATEMENT EXECUTE FUNCTION bemi.emit_context()}, '' ],
	[ q{CALL bemi.start()}, '' ],
	[ q{CALL bemi.stop()}, '' ],
	[ q{CALL bemi.start(name => 'main', wait => false)}, '' ],
	[ q{CALL bemi.stop(name => 'main')}, '' ],
	[ q{CALL bemi.start('main')}, '' ],
	[ q{SELECT bemi.set_source_owner(source => 'main', owner => 'operator')}, '' ],
	[ qq{CALL bemi.start('orders', conninfo => '$conninfo')}, '' ],

	[ q{SELECT bemi.set_context('{"user": 1}', is_local => false)}, '' ],
	[ q{BEGIN; SELECT bemi.set_context('{"user": 1}'); SELECT bemi.merge_context('{"n": 2}', is_local => true); COMMIT}, "\n" ],
	[ q{SELECT bemi.set_context('{"user": 1}', is_local => false); SELECT bemi.current_context()}, qq{\n{"user": 1}} ],
	[ q{INSERT INTO todo VALUES (1, 'task'); SELECT bemi.sync(timeout => '60s')}, '' ],
	[ q{SELECT bemi.full_context(c) FROM bemi.changes c WHERE source = 'main'}, '{}' ],
	[ q{SELECT bemi.sync()}, '' ],

	[ q{SELECT bemi.complete('todo')}, 'f' ],
	[ q{SELECT bemi.complete('todo', '2026-11-01', '2026-11-23')}, qr/^[tf]$/ ],
	[ q{SELECT bemi.complete('todo', from_time => '2026-11-01', to_time => '2026-11-23')}, qr/^[tf]$/ ],
	[ q{SELECT bemi.complete(target => 'todo', from_time => committed_at, to_time => committed_at) FROM bemi.changes WHERE source = 'main'}, 't' ],
	[ q{BEGIN; SELECT bemi.sync(); SELECT bool_or(complete), string_agg(reason, ',' ORDER BY reason),
			bool_and(source = 'main' AND missing_from = '-infinity' AND missing_to < now() AND detail LIKE '%.')
		FROM bemi.completeness('todo'); COMMIT},
		"\nf|source_started|t" ],
	[ q{SELECT x.* FROM bemi.changes, bemi.completeness(target => 'todo', from_time => committed_at, to_time => committed_at) x WHERE changes.source = 'main'}, qr/^t\|(main|orders)\|\|\|\|$/ ],
	[ q{SELECT bemi.source_complete('orders', 'public', 'todo')}, 'f' ],
	[ q{SELECT bemi.source_complete(source_name => 'orders', schema_name => 'public', table_name => 'todo', from_time => '2001-01-01', to_time => '2001-01-02')}, 'f' ],
	[ q{SELECT complete, source, reason FROM bemi.source_completeness('orders', 'public', 'nosuch', from_time => '2001-01-01', to_time => '2001-01-02') ORDER BY reason},
		"f|orders|not_tracked\nf|orders|source_started" ],
	[ q{SELECT count(*) FROM bemi.source_completeness(source_name => 'orders', schema_name => 'public', table_name => 'todo', from_time => '-infinity', to_time => now())}, qr/^[12]$/ ],
	[ q{BEGIN; SELECT bemi.sync(); SELECT bemi.complete('todo', from_time => now()); COMMIT}, "\nt" ],
	[ q{SELECT count(*) FROM bemi.as_of(NULL::todo, now())}, qr/^\d+$/ ],
	[ q{SELECT count(*) FROM bemi.as_of(target => NULL::todo, at => now(), before => NULL, at_lsn => NULL, allow_gaps => true, timeout => '10 s')}, qr/^\d+$/ ],
	[ q{SELECT count(*) FROM bemi.row_as_of(NULL::todo, '1', now())}, qr/^\d+$/ ],
	[ q{SELECT count(*) FROM bemi.row_as_of(target => NULL::todo, key => '1', at => now(), before => NULL, at_lsn => NULL, allow_gaps => true, timeout => '10 s')}, qr/^\d+$/ ],

	[ q{SELECT bemi.diff(before => '{"n": 1}', after => '{"n": 2}')}, '{"n": [1, 2]}' ],
	[ q{SELECT operation, primary_key, changed -> 'id', context FROM bemi.history('todo', '1')}, 'CREATE|1|[null, 1]|{}' ],	# source "orders" reads it, too
	[ q{SELECT count(*) FROM bemi.history(target => 'todo', key => '1', newest => 1, before_id => NULL)}, '1' ],
	[ q{SELECT column_name, value, operation, context FROM bemi.blame(target => 'todo', key => '1') WHERE column_name = 'task'}, 'task|"task"|CREATE|{}' ],
	[ q{SELECT x.id = t.change_id FROM bemi.transactions t, bemi.transaction(change_id => t.change_id) x WHERE t.source = 'main'}, 't' ],
	[ q{SELECT count(*) FROM bemi.find_changes()}, qr/^[12]$/ ],
	[ q{SELECT operation FROM bemi.find_changes(target => 'todo', operation => 'CREATE', column_name => 'id', context => '{}', from_time => '-infinity', to_time => 'infinity',
			source_name => 'main', newest => 100, before_id => NULL, context_is => '{}')}, 'CREATE' ],

	[ q{SELECT count(*) FROM bemi.changes_by_id(change_ids => ARRAY(SELECT id FROM bemi.changes) || NULL::uuid || gen_random_uuid()) c, bemi.changes d WHERE c = d HAVING count(*) = (SELECT count(*) FROM bemi.changes)}, qr/^[12]$/ ],
	[ q{SELECT count(*) FROM bemi.changes_by_id(NULL)}, '0' ],

	[ q{SELECT bemi.hold('2026-01-01', '2026-04-01')}, '' ],
	[ q{SELECT bemi.release('2026-01-01', '2026-04-01')}, '' ],
	[ q{SELECT bemi.hold(from_time => '2026-01-01', to_time => '2026-04-01', reason => 'audit')}, '' ],
	[ q{SELECT _bemi.make_partition('2020-02-03')}, '' ],
	[ q{SELECT bemi.hold_partition('_bemi.changes_2020_02', reason => 'case 12')}, '' ],
	[ q{SELECT reason, to_time - from_time FROM bemi.holds ORDER BY from_time}, "case 12|29 days\naudit|90 days" ],
	[ q{SELECT bemi.release(from_time => '2026-01-01', to_time => '2026-04-01')}, '' ],
	[ q{SELECT bemi.release_partition('_bemi.changes_2020_02')}, '' ],
	[ q{SELECT bemi.hold_partition(partition => '_bemi.changes_2020_02')}, '' ],
	[ q{SELECT bemi.release_partition(partition => '_bemi.changes_2020_02'); SELECT count(*) FROM bemi.holds}, "\n0" ],

	[ q{GRANT EXECUTE ON FUNCTION bemi.track, bemi.untrack, bemi.hold, bemi.release, bemi.hold_partition, bemi.release_partition,
		bemi.complete, bemi.completeness, bemi.source_complete, bemi.source_completeness TO operator}, '' ],
	[ q{GRANT EXECUTE ON PROCEDURE bemi.start, bemi.stop, bemi.drop_source TO operator}, '' ],

	[ q{SELECT bemi.grant_read('operator'); SELECT bemi.revoke_read(reader => 'operator')}, "\n" ],

	[ q{SELECT count(*) FROM bemi.as_of_json('todo', clock_timestamp(), allow_gaps => true)}, qr/^\d+$/ ],
	[ q{SELECT count(*) FROM bemi.as_of_json(target => 'todo', at => now(), before => NULL, at_lsn => NULL, allow_gaps => true, timeout => '10 s')}, qr/^\d+$/ ],
	[ q{SELECT count(*) FROM bemi.versions(NULL::todo, clock_timestamp(), clock_timestamp())}, qr/^\d+$/ ],
	[ q{SELECT count(*) FROM bemi.versions(target => NULL::todo, from_time => now(), to_time => now(), allow_gaps => true, timeout => '10 s')}, qr/^\d+$/ ],
	[ q{SELECT count(*) FROM bemi.diff_table(NULL::todo, clock_timestamp(), clock_timestamp())}, '0' ],
	[ q{SELECT count(*) FROM bemi.diff_table(target => NULL::todo, from_time => now(), to_time => now(), allow_gaps => true, timeout => '10 s')}, '0' ],
	[ q{CREATE SCHEMA app; SELECT count(*) FROM bemi.past('past', 'app', now())}, '0' ],
	[ q{SELECT count(*) FROM bemi.past(schema_name => 'past2', source => 'app', at => now(), before => NULL, at_lsn => NULL, allow_gaps => true)}, '0' ],
	[ q{CALL bemi.baseline('main', 'todo')}, '' ],
	[ q{CALL bemi.baseline(source => 'main', table_name => 'public.todo')}, '' ],
	[ q{SELECT row_count FROM bemi.baselines}, "1\n1" ],
	[ q{SELECT bemi.sync(); SELECT r ->> 'id' FROM bemi.baselines b, bemi.source_as_of_json('main', 'public', 'todo', b.taken_at) r LIMIT 1}, "\n1" ],
	[ q{SELECT r ->> 'id' FROM bemi.source_as_of_json(source_name => 'main', schema_name => 'public', table_name => 'todo', at => '2001-01-01', before => NULL, allow_gaps => true) r}, '' ],

	[ q{SELECT count(*) > 0 FROM bemi.plan_revert(transaction_of => (SELECT min(id::text)::uuid FROM bemi.changes WHERE source = 'main' AND operation <> 'SNAPSHOT'))}, 't' ],
	[ q{SELECT count(*) > 0 FROM bemi.plan_revert(changes => NULL, transaction_of => NULL, context => '{}', from_time => '2001-01-01', to_time => now(), mode => 'skip', timeout => '10s', choices => '[]')}, 't' ],
	[ q{BEGIN; SELECT steps >= 0 FROM bemi.revert(context => '{}', from_time => '2024-01-01', mode => 'skip', expect => NULL, timeout => '10s', choices => NULL); ROLLBACK}, 't' ],
	[ q{SELECT action FROM bemi.restore('todo', '1', at => now(), before => NULL, at_lsn => NULL, timeout => '10s')}, 'NONE' ],

	[ q{CALL bemi.index_context('user')}, '' ],
	[ q{SELECT indexed = partitions FROM bemi.context_indexes}, 't' ],
	[ q{SELECT count(*) FROM bemi.changes WHERE bemi.context_is(context, 'user', '1') AND bemi.context_is(context, key => 'user', value => '2')}, '0' ],
	[ q{CALL bemi.drop_index_context(key => 'user')}, '' ],

	[ q{CALL bemi.index_column('task')}, '' ],
	[ q{SELECT indexed = partitions FROM bemi.column_indexes}, 't' ],
	[ q{SELECT bemi.column_is_changed('UPDATE', '{"a": 1}', '{"a": 2}', column_name => 'a')}, 't' ],
	[ q{CALL bemi.drop_index_column(column_name => 'task')}, '' ],

	[ q{CALL bemi.drop_source('orders')}, '' ],
	[ qq{CALL bemi.start('orders', conninfo => '$conninfo'); CALL bemi.drop_source('orders', force => true)}, '' ],
	[ q{SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE '%\_orders\_%'}, '' ],
	[ q{CALL bemi.drop_source(name => 'main', force => false)}, '' ],
	[ q{SELECT count(*) FROM bemi.sources UNION ALL SELECT count(*) FROM pg_replication_slots UNION ALL SELECT count(*) FROM bemi.changes WHERE source = 'main'}, "0\n0\n3" ],
);

for my $call (@calls)
{
	my ($statement, $expected) = @$call;
	my ($status, $stdout, $stderr) = $node->psql('postgres', $statement);
	my $name = $statement =~ s/\s+/ /gr;

	is($stderr, '', "$name: no message");
	ref $expected ? like($stdout, $expected, $name) : is($stdout, $expected, $name);
}

# By their comments, these are the functions that users call.
my $public = q{pg_proc p WHERE p.pronamespace = 'bemi'::regnamespace
	AND coalesce(obj_description(p.oid, 'pg_proc'), '') !~ '^(internal:|event trigger function)'};
is( sql(q{
		SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'bemi'::regnamespace
			AND obj_description(p.oid, 'pg_proc') ~ '^(internal:|event trigger function)' AND p.proname <> 'emit_context'}),
	'', 'what is internal is in schema _bemi');
is( sql(q{
		SELECT pg_describe_object(d.classid, d.objid, 0) FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
		WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'bemi'
			AND obj_description(d.objid, d.classid::regclass::name) IS NULL
		UNION ALL SELECT format('column %s of %s', a.attname, c.oid::regclass) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
		WHERE c.relnamespace IN ('bemi'::regnamespace, '_bemi'::regnamespace) AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
			AND a.attnum > 0 AND NOT a.attisdropped AND col_description(c.oid, a.attnum) IS NULL}),
	'', 'each object of the extension, and each column of its tables and views, has a comment');

# Completeness of the list above.
my $made = join ' ', map { $_->[0] } @calls;
my @uncalled = grep { $made !~ /bemi\.$_\b/ } split /\n/, sql("SELECT DISTINCT p.proname FROM $public");
is("@uncalled", '', 'no public function or procedure is without its call here');

is(slurp_file('bemi--1.0.sql'), join('', map { slurp_file($_) } glob 'sql/[0-8]*.sql sql/query/*.sql sql/revert/*.sql sql/9*.sql'), 'the script is what sql/ has: make bemi--1.0.sql');
my ($version) = slurp_file('bemi.control') =~ /^default_version = '(.*)'/m;
is(slurp_file('bemi-source.sql'), (run_command([ 'awk', '-v', "version=$version", '-f', 'sql/source/include.awk', glob 'sql/source/*.sql' ]))[0] . "\n",
	'the script for sources is what sql/source/ has: make bemi-source.sql');

for my $file (glob 'sql/remote/*.sql')
{
	my ($comment) = slurp_file($file) =~ /\A((?:--.*\n)+)/;

	like($comment, qr/^-- Servers: .*^-- Returns /ms, "$file: says where it runs and what it returns");
}

my $functions = slurp_file('docs/reference/functions.md');
my @undocumented = grep { $functions !~ /^### bemi\.$_\(\)$/m } split /\n/, sql("SELECT DISTINCT p.proname FROM $public");
is("@undocumented", '', 'nor without its heading in the reference');

# Category U and T may name arguments without quotes, all others may not.
is( sql(qq{
		SELECT p.proname, a.name FROM (SELECT p.proname, p.proargnames FROM $public) p, unnest(p.proargnames) a(name)
		WHERE a.name !~ '^[a-z_]+\$' OR EXISTS (SELECT FROM pg_get_keywords() k WHERE k.word = a.name AND k.catcode NOT IN ('U', 'T'))}),
	'', 'no argument or result has a name that needs quotes');
is(sql("SELECT p.proname FROM $public GROUP BY 1 HAVING count(*) > 1"), '', 'no two functions share a name');

# Names that changed before the first release: the former ones are gone.
like(error_of(q{CALL bemi.stop('main', drop_slot => true)}), qr/procedure bemi\.stop\(unknown, drop_slot => boolean\) does not exist/, 'stop() only stops');
like(error_of(q{CALL bemi.drop_source()}), qr/procedure bemi\.drop_source\(\) does not exist/, 'what is dropped is named');
like(error_of(q{SELECT bemi.complete('todo', '2026-11-23', '2026-11-01')}), qr/time range from .* is not valid/, 'complete() checks times as completeness() does');
like(error_of(q{SELECT bemi.source_complete('main', NULL, 'todo')}), qr/source, table and times must not be null/, 'and source_complete()');
is(sql(q{SELECT reason, detail FROM bemi.completeness('by_hand')}) =~ s/\n.*//sr, 'not_tracked|No time is known at which the table was tracked.', 'a table that is not tracked');
sql('CREATE DATABASE bare');
$node->safe_psql('bare', 'CREATE EXTENSION bemi; CREATE TABLE t ()');
is($node->safe_psql('bare', q{SELECT bemi.complete('t'); SELECT * FROM bemi.completeness('t')}), "f\nf||no_source|-infinity||No source reads this database.", 'a database that is not read');

#
# Reasons
#

my @documented = sort grep { $_ ne 'reason' } slurp_file('docs/reference/gap-reasons.md') =~ /^\| `([a-z_]+)` \|/mg;
my @storable = split /\n/, sql(q{
	SELECT m[1] FROM regexp_matches((SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'gaps_reason_check'), '''(\w+)''', 'g') m});
my @computed = qw(not_stored_yet not_tracked no_source);

is("@documented", join(' ', sort @storable, @computed), 'the reference has a row for each reason, and for no other');
my %storable = map { $_ => 1 } @storable;

# Every reason has its own sentence.
my $list = join ', ', map { "('$_')" } @documented;
is( sql(qq{SELECT count(DISTINCT _bemi.default_detail(v.code)) FROM (VALUES $list) v(code)}),
	scalar @documented, 'each has a sentence of its own');
is(sql(qq{SELECT v.code FROM (VALUES $list) v(code) WHERE _bemi.default_detail(v.code) !~ '^[A-Z].*[.]\$'}), '', 'with a beginning and an end');
is(sql(q{SELECT _bemi.default_detail('nonsense') IS NULL}), 't', 'what is no reason has none');

# No other can be stored, nor any without a sentence.
like(error_of(q{INSERT INTO bemi.gaps (reason, from_time, detail) VALUES ('slot dropped', '-infinity', 'x')}),
	qr/violates check constraint "gaps_reason_check"/, 'no other reason is stored');
like(error_of(q{INSERT INTO bemi.gaps (reason, from_time) VALUES ('retention', '-infinity')}),
	qr/null value in column "detail"/, 'nor one without a sentence');

# Those that the worker uses.  The tests of losses may not cause each of them.
my @given = map { slurp_file($_) =~ /(?:\breason =|\bopen_gap\()([^;]*);/g } glob 'src/*.c src/*/*.c';
my %codes = map { $_ => 1 } map { /"([a-z]\w*)"/g } @given;
cmp_ok(scalar keys %codes, '>=', 10, 'the C code is searched for reasons');
is(join(' ', grep { !$storable{$_} } sort keys %codes), '', 'each of them can be stored');

is(sql('SELECT DISTINCT reason FROM bemi.gaps ORDER BY 1'), "source_dropped\nsource_started", 'what the calls above have left');
is( sql(q{SELECT DISTINCT detail FROM bemi.gaps ORDER BY 1}),
	"The source was dropped. What is committed until it is started again is not in the history.\n"
	  . 'The source was started for the first time. What was committed before is not in the history.',
	'is explained');

done_testing();
