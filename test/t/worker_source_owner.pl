# Who can start and stop sources, and what others can see.
#
# The server connects to a source with its own account, so only superusers choose the target.
# After that, the owner of a source can start and stop it. Only superusers can see the connection
# string.

use strict;
use warnings;

use Bemi;
use PostgreSQL::Test::Cluster;
use Test::More;

my $node = bemi_node('main');

$node->safe_psql(
	'postgres', q{
	CREATE ROLE ops REPLICATION LOGIN;
	CREATE ROLE ops_member LOGIN REPLICATION IN ROLE ops;
	CREATE ROLE other REPLICATION LOGIN;
	CREATE ROLE plain LOGIN;
	CREATE ROLE watcher LOGIN IN ROLE pg_monitor;
	GRANT EXECUTE ON PROCEDURE bemi.start, bemi.stop, bemi.drop_source
		TO ops, ops_member, other, plain;
	CREATE TABLE t (id int PRIMARY KEY);
	SELECT bemi.track('t')});

# What a role gets for a statement: '' or the error with its detail.
sub as_role
{
	my ($role, $sql) = @_;
	my ($status, $stdout, $stderr) =
	  $node->psql('postgres', $sql, extra_params => [ '-U', $role ]);

	return $stderr;
}

my $denied = qr/ERROR:  permission denied to call bemi\.(start|stop|drop_source)\(\)/;

like(as_role('watcher', 'CALL bemi.start()'),
	qr/permission denied for procedure start/, 'without a grant, nobody starts a source');
like(as_role('plain', 'CALL bemi.start()'), $denied, 'nor without REPLICATION');
like(as_role('ops', q{CALL bemi.start('far', conninfo => 'host=localhost')}),
	qr/$denied.*DETAIL:  Only a superuser may give a connection string/s,
	'a connection string is for superusers');

is(as_role('ops', 'CALL bemi.start()'), '', 'with both, a source of this database is started');
is($node->safe_psql('postgres', 'SELECT owner FROM bemi.sources'), 'ops', 'who started it owns it');
$node->safe_psql('postgres', q{INSERT INTO t VALUES (1); SELECT bemi.sync('60s')});
is(changes($node), 't|1|CREATE|{}|{"id": 1}|{}', 'it works');

like(as_role('other', 'CALL bemi.stop()'),
	qr/$denied.*DETAIL:  You must be a superuser, or have REPLICATION and own source "main"/s,
	'another does not stop it');
like(as_role('other', q{CALL bemi.drop_source('main')}),
	qr/permission denied to call bemi\.drop_source\(\)/, 'nor drops it');
is(as_role('ops_member', 'CALL bemi.stop()'), '', 'a member of the owner does');
like(as_role('other', 'CALL bemi.start()'), $denied, 'another does not start it');
$node->safe_psql('postgres', 'ALTER ROLE ops NOREPLICATION');
like(as_role('ops', 'CALL bemi.start()'), $denied, 'nor the owner without REPLICATION');
$node->safe_psql('postgres', q{SELECT bemi.set_source_owner('main', 'other')});
is(as_role('other', 'CALL bemi.start()'), '', 'bemi.set_source_owner() gives it to another');
like(as_role('ops_member', 'CALL bemi.stop()'), $denied, 'and takes it from who had it');
is(as_role('other', q{CALL bemi.drop_source('main')}), '', 'who can drop it, too');
is(remains($node), '0 rows, 0 slots, 0 origins', 'and nothing is left');
like(as_role('other', q{SELECT bemi.set_source_owner('main', 'other')}),
	qr/permission denied for function set_source_owner/, 'nobody takes a source by himself');
my ($status, $stdout, $stderr) =
  $node->psql('postgres', q{SELECT bemi.set_source_owner('nosuch', 'other')});
like($stderr, qr/source "nosuch" or its new owner does not exist/, 'which must exist');

# A source elsewhere, that the owner may start and stop, but not see into.
my $conninfo = $node->connstr('postgres') =~ s/'/''/gr;
$node->safe_psql(
	'postgres', qq{
	CALL bemi.start('far', conninfo => '$conninfo password=sekrit');
	SELECT bemi.set_source_owner('far', 'other')});
is( $node->safe_psql('postgres', q{INSERT INTO t VALUES (2); SELECT bemi.sync('30s'); SELECT count(*) FROM bemi.changes WHERE source = 'far'}),
	"\n1", 'it leads back to this server, so bemi.sync() waits for it');
is(as_role('other', q{CALL bemi.stop('far')}), '', 'the owner stops a source with a connection string');
is(as_role('other', q{CALL bemi.start('far')}), '', 'and starts it');
is( $node->safe_psql('postgres', q{SELECT conninfo LIKE '%sekrit' FROM bemi.sources}),
	't',
	'with the same connection string');
for my $role ('other', 'watcher', 'plain')
{
	like(as_role($role, 'SELECT * FROM bemi.sources'),
		qr/permission denied for table sources/, "$role cannot read connection strings");
}

# Every role that reads bemi.status sees what the worker reports.
$node->safe_psql('postgres', q{
	CALL bemi.drop_source('far');
	CALL bemi.start('nowhere', conninfo => 'host=/nonexistent user=x password=sekrit', wait => false)});
$node->poll_query_until('postgres', q{SELECT last_error LIKE '%/nonexistent%' FROM bemi.status})
  or die 'bemi.status does not tell';
is( $node->safe_psql('postgres', q{SELECT last_error LIKE '%sekrit%' FROM bemi.status}),
	'f',
	'an error of the connection does not tell the password');
like(
	start_error($node, q{CALL bemi.start('bad', conninfo => 'host=x pass word=sekrit')}),
	qr/^psql:<stdin>:1: ERROR:  invalid connection string: /,
	'a connection string that cannot be read is an error at once');
is($node->safe_psql('postgres', q{SELECT count(*) FROM bemi.sources WHERE name = 'bad'}),
	'0', 'and leaves nothing');

$node->stop;
done_testing();
