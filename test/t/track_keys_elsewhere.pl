# The primary key of a change is the one that the table had when the change was made, also if the
# source is another server.
#
# There the worker cannot read the catalog as of that moment, and a crash on either side sends it
# back in the stream. The scenarios are those of track_keys_in_stream.pl. Two more sources send no
# key that can be trusted: one with an unreadable signing key, and one without the extension. All
# changes from them are stored nevertheless.

use strict;
use warnings;

use Bemi;
use Bemi::KeyScenarios;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main');

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
add_extension_scenario($source);

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

# For a table that is new to the worker, and a known one, after a crash on either side.
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

# A worker that may not read the signing key trusts no description of keys. All is stored.
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

# A source without the extension sends no descriptions, so the key is that of today, or
# none.  The requirement is that the worker continues, and no change is missing.
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

$node->stop;
done_testing();
