# Schema changes of sources on another server, over crashes and restarts, and beside other sessions.
#
# bemi.schema_changes must name each command once and in its place, however often the worker reads the stream again.
# The source does not preload bemi here, so the first command of a session comes before the library. Of a source whose
# messages cannot be verified, and of one without the extension, only the results are known.

use strict;
use warnings;

use Bemi;
use Bemi::Session;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main');
my $source = bemi_node('source', conf => "shared_preload_libraries = ''\n");
my $conninfo = $source->connstr('postgres') =~ s/'/''/gr;

sub here { return $node->safe_psql('postgres', $_[0]) }
sub there { return $source->safe_psql('postgres', $_[0]) }

# One line for each schema change of a source.
sub told
{
	my ($name) = @_;

	return here(qq{
		SELECT "table", event, command, statement, context, concat_ws(' ', added, dropped, renamed, retyped)
		FROM bemi.schema_changes WHERE source = '$name' ORDER BY id, "table"});
}

sub wait_for
{
	my ($name, $where) = @_;

	$node->poll_query_until('postgres', "SELECT EXISTS (SELECT FROM bemi.changes WHERE source = '$name' AND $where)")
	  or diag "of $name, a change does not come";
	return;
}

#
# Another server
#
there(q{
	CREATE ROLE reader LOGIN REPLICATION;
	CREATE ROLE blind LOGIN REPLICATION;
	GRANT SELECT ON _bemi.signing_key TO reader;
	CREATE TABLE todo (id int PRIMARY KEY, a int);
	SELECT bemi.track('todo')});
here("CALL bemi.start('far', conninfo => '$conninfo user=reader'); CALL bemi.start('dim', conninfo => '$conninfo user=blind')");

# Each call is a session of its own, with the command first.
there(q{ALTER TABLE todo ADD b int /*Bemi {"deploy": 1} Bemi*/});
there(q{SET bemi.context = '{"deploy": 2}'; ALTER TABLE todo RENAME a TO c});
there(q{INSERT INTO todo VALUES (1, 10, 100)});
there(q{DO 'BEGIN ALTER TABLE todo ADD d int; END'});
here(q{CALL bemi.stop('far'); CALL bemi.stop('dim')});
there(q{
	UPDATE todo SET c = 11;
	ALTER TABLE todo RENAME TO task;
	UPDATE task SET c = 12;
	BEGIN;
	SET LOCAL bemi.context = '{"deploy": 3}';
	ALTER TABLE task DROP b;
	INSERT INTO task VALUES (2);
	COMMIT});
here("CALL bemi.start('far')");
wait_for('far', q{primary_key = '2'});
$node->stop('immediate');
there(q{ALTER TABLE task ADD e int; INSERT INTO task VALUES (3)});
$source->stop('immediate');
$source->start;
$node->start;
wait_for('far', q{primary_key = '3'});

my $expected = <<'END' =~ s/\n\z//r;
todo|began|||{}|{} {} {} {}
todo|altered|ALTER TABLE|ALTER TABLE todo ADD b int|{"deploy": 1}|{b} {} {} {}
todo|altered|ALTER TABLE|ALTER TABLE todo RENAME a TO c|{"deploy": 2}|{} {} {"c": "a"} {}
todo|altered|||{}|{d} {} {} {}
task|altered|ALTER TABLE|ALTER TABLE todo RENAME TO task|{}|{} {} {} {}
task|altered|ALTER TABLE|ALTER TABLE task DROP b|{"deploy": 3}|{} {b} {} {}
task|altered|ALTER TABLE|ALTER TABLE task ADD e int|{}|{e} {} {} {}
END
is(told('far'), $expected, 'another server: each command once, after crashes on both sides');

my $names = q{
	SELECT n.schema_name, n.table_name, n.columns, string_agg(c.operation || ' ' || c.primary_key, ', ' ORDER BY c.id)
	FROM (SELECT relation FROM _bemi.schema_changes WHERE source = 'SOURCE' LIMIT 1) r,
		_bemi.table_names('{SOURCE}', r.relation, 'public', 'task') n
		LEFT JOIN bemi.changes c ON c.source = 'SOURCE' AND (c.schema, c."table") = (n.schema_name, n.table_name)
			AND coalesce(c.id > n.from_id, true) AND coalesce(c.id < n.to_id, true)
	GROUP BY 1, 2, 3 ORDER BY max(c.id::text) DESC NULLS LAST};
is(here($names =~ s/SOURCE/far/gr), <<'END' =~ s/\n\z//r, 'another server: under which names the changes are stored');
public|task||UPDATE 1, CREATE 2, CREATE 3
public|todo||CREATE 1, UPDATE 1
public|todo|{"a": "c", "id": "id"}|
public|todo|{"a": "c", "b": "b", "id": "id"}|
END

# Messages that cannot be verified.
here("CALL bemi.start('dim')");
wait_for('dim', q{primary_key = '3'});
like(told('dim'), qr/\Atodo\|began\|\|\|\{\}\|.*\ntask\|altered\|\|\|\{\}\|.*\z/s, 'a source whose messages cannot be verified: what it was like');
unlike(told('dim'), qr/ALTER/, 'and no commands');

# A slot that is lost.
here(q{CALL bemi.stop('far')});
there(q{
	SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE 'bemi%' AND NOT active;
	ALTER TABLE task DROP e});
here(q{CALL bemi.start('far')});
there(q{INSERT INTO task VALUES (4)});
wait_for('far', q{primary_key = '4'});
is(told('far'), "$expected\ntask|altered|||{}|{} {e} {} {}", 'a new slot: what has changed without it');
here(q{CALL bemi.drop_source('far'); CALL bemi.drop_source('dim')});
$source->stop;

#
# A server without the extension
#
my $plain = PostgreSQL::Test::Cluster->new('plain');
$plain->init(allows_streaming => 'logical', extra => [ '--no-locale', '--encoding=UTF8' ]);
$plain->append_conf('postgresql.conf', "timezone = 'UTC'\nmax_connections = 20\n");
$plain->start;
$plain->safe_psql('postgres', q{
	CREATE TABLE task (id int PRIMARY KEY, a int);
	ALTER TABLE task REPLICA IDENTITY FULL;
	CREATE PUBLICATION bemi FOR TABLE task WITH (publish_via_partition_root = true)});
$conninfo = $plain->connstr('postgres') =~ s/'/''/gr;
here("CALL bemi.start('plain', conninfo => '$conninfo')");
$plain->safe_psql('postgres', q{INSERT INTO task VALUES (1, 2)});
wait_for('plain', q{primary_key = '1'});
# Its catalog is asked for the description. So the change and the command are in transactions of their own: until the
# server has ended a transaction, it shows the former catalog, although the change comes already.
$plain->safe_psql('postgres', q{UPDATE task SET a = 3});
wait_for('plain', q{after -> 'a' = '3'});
$plain->safe_psql('postgres', q{ALTER TABLE task RENAME a TO b});
$plain->safe_psql('postgres', q{UPDATE task SET b = 4});
wait_for('plain', q{after -> 'b' = '4'});
is(told('plain'), "task|began|||{}|{} {} {} {}\ntask|altered|||{}|{} {} {\"b\": \"a\"} {}", 'a server without the extension');
is(here($names =~ s/SOURCE/plain/gr), <<'END' =~ s/\n\z//r, 'and under which names its changes are stored');
public|task||UPDATE 1
public|task|{"a": "b", "id": "id"}|CREATE 1, UPDATE 1
END
here(q{CALL bemi.drop_source('plain')});
$plain->stop;

#
# Other sessions
#
# ALTER SCHEMA does not wait for them. They write under the former name, and commit later.
here(q{
	CREATE SCHEMA shop;
	CREATE TABLE shop.item (id int PRIMARY KEY, v int);
	SELECT bemi.track('shop.item');
	CALL bemi.start();
	INSERT INTO shop.item VALUES (1, 0)});
my $writer = Bemi::Session->new($node);
$writer->query('BEGIN; UPDATE shop.item SET v = 1');
here('ALTER SCHEMA shop RENAME TO store');
$writer->query('COMMIT');
here('UPDATE store.item SET v = 2');
here(q{SELECT bemi.sync()});
is(here(q{SELECT changed FROM bemi.history('store.item', '1')}), <<'END' =~ s/\n\z//r, 'a write beside ALTER SCHEMA is in the history of the table');
{"v": [1, 2]}
{"v": [0, 1]}
{"v": [null, 0], "id": [null, 1]}
END
# A new table of the former name does not get it.
here(q{
	CREATE SCHEMA shop;
	SELECT bemi.track_schema('shop');
	CREATE TABLE shop.item (id int PRIMARY KEY, v int);
	INSERT INTO shop.item VALUES (1, 9);
	SELECT bemi.sync()});
is(here(q{SELECT changed FROM bemi.history('shop.item', '1')}), '{"v": [null, 9], "id": [null, 1]}', 'nor has another table of the former name');
is(here(q{SELECT count(*) FROM bemi.history('store.item', '1')}), '3', 'and the first one keeps it');

# A command that waits for a writer comes after its changes.
$writer->query('BEGIN; UPDATE shop.item SET v = 10');
my $owner = Bemi::Session->new($node);
$owner->send('ALTER TABLE shop.item RENAME v TO w');
$owner->wait_until_it_waits;
$writer->query('COMMIT');
$owner->result;
here(q{UPDATE shop.item SET w = 11; SELECT bemi.sync()});
is(here(q{SELECT changed FROM bemi.history('shop.item', '1', 2)}), "{\"w\": [10, 11]}\n{\"w\": [9, 10]}", 'a rename that waits');
is( here(q{
		SELECT count(*) FROM bemi.schema_changes s WHERE s.renamed = '{"w": "v"}'
			AND s.id > (SELECT max(id::text)::uuid FROM bemi.changes WHERE after -> 'v' = '10')
			AND s.id < (SELECT id FROM bemi.changes WHERE after -> 'w' = '11')}),
	'1', 'comes between the changes');
$writer->quit;
$owner->quit;
$node->stop;

done_testing();
