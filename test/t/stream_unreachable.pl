# A source whose host swallows packets.
#
# A dead host and most firewalls leave a connection without an answer. It must not block the
# worker. The worker must report it, give up in time, and exit when it is asked to: when the
# source is stopped, and when the server shuts down. Of several hosts, the worker must find the
# one that answers. A listening socket with a full backlog drops packets like this, so the test
# uses TCP on the loopback interface.

use strict;
use warnings;

use Bemi;
use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Socket;
use Test::More;

my $node = bemi_node('main');

# The listener, and connections until one is no longer answered.
my $listener = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1', Proto => 'tcp')
  or die "could not listen: $!";
my $hole = $listener->sockport;
my @fillers = map {
	IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $hole, Proto => 'tcp', Blocking => 0)
} 1 .. 8;
my $probe = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $hole, Proto => 'tcp', Timeout => 2);
plan skip_all => 'this system answers whatever the backlog' if $probe;

my $conninfo = "host=127.0.0.1 port=$hole dbname=postgres";

sub wait_for_source
{
	my ($condition) = @_;

	$node->poll_query_until('postgres', "SELECT $condition FROM bemi.status WHERE source = 'hole'")
	  or die "not so: $condition";
	return;
}

$node->safe_psql('postgres', "CALL bemi.start('hole', conninfo => '$conninfo', wait => false)");
wait_for_source(q{state = 'connecting'});
is( $node->safe_psql('postgres', q{
		SET statement_timeout = '15s';
		CALL bemi.drop_source('hole', force => true)}),
	'',
	'told to, a worker leaves that is being kept waiting');
is(remains($node), '0 rows, 0 slots, 0 origins', 'and nothing is left');

$node->safe_psql('postgres', "CALL bemi.start('hole', conninfo => '$conninfo', wait => false)");
wait_for_source(q{state = 'connecting'});
$node->stop('fast');
pass('a server shuts down with such a worker');

$node->append_conf('postgresql.conf', "wal_receiver_timeout = '3s'\n");
$node->start;
wait_for_source(q{state = 'failed' AND last_error LIKE 'could not connect to source: %'});
pass('the worker gives up in time, and says so');
is( $node->safe_psql('postgres', q{SELECT lag IS NULL, lag_bytes IS NULL FROM bemi.status}),
	't|t', 'nobody knows how late it is');
$node->safe_psql('postgres', q{
	CREATE TABLE t (id int PRIMARY KEY);
	SELECT bemi.track('t');
	CALL bemi.start()});
is( $node->safe_psql('postgres', q{INSERT INTO t VALUES (1); SELECT bemi.sync('30s'); SELECT count(*) FROM bemi.changes}),
	"\n1", 'bemi.sync() does not wait for sources elsewhere');
$node->safe_psql('postgres', q{
	CALL bemi.drop_source('hole', force => true);
	CALL bemi.drop_source('main')});

# The second host answers.
my $source = bemi_node('source', conf => "listen_addresses = '127.0.0.1'\n");
append_to_file($source->data_dir . '/pg_hba.conf',
	"host all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n");
$source->restart;
$source->safe_psql('postgres', q{CREATE TABLE t (id int PRIMARY KEY); SELECT bemi.track('t')});
$node->append_conf('postgresql.conf', "wal_receiver_timeout = '60s'\n");
$node->reload;
my ($good, $user) = split /\|/, $source->safe_psql('postgres', q{SELECT current_setting('port'), current_user});
is( start_error($node,
		"CALL bemi.start('hole', conninfo => 'host=127.0.0.1,127.0.0.1 port=$hole,$good dbname=postgres user=$user')"),
	'',
	'of two hosts, the one that answers is found');

$_->stop for ($node, $source);
done_testing();
