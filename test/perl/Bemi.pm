# What the TAP tests of bemi share: a throwaway server with the settings that bemi needs, and the
# queries that most tests run.
#
# Every wait has a bound: the server cancels a statement that hangs, and waits of PostgreSQL's
# framework end after PG_TEST_TIMEOUT_DEFAULT seconds.

package Bemi;

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256_hex);
use Exporter 'import';
use PostgreSQL::Test::Cluster;

# PostgreSQL 14 ships the framework of 15 under former names, without these two.
*PostgreSQL::Test::Cluster::pg_version = sub { return $_[0]->{_pg_version} }
  unless PostgreSQL::Test::Cluster->can('pg_version');
*PostgreSQL::Test::RecursiveCopy::copypath = \&RecursiveCopy::copypath
  unless defined &PostgreSQL::Test::RecursiveCopy::copypath;

our @EXPORT = qw(bemi_node wait_for_state start_error changes remains derived_hmac);

# Starts a node that can run bemi, with the extension made in database
# "postgres".  Parameters: conf => lines for postgresql.conf, initdb => further
# options of initdb, run => 0 for a stopped server without the extension.
sub bemi_node
{
	my ($name, %params) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(
		allows_streaming => 'logical',
		extra => [ '--no-locale', '--encoding=UTF8', @{ $params{initdb} // [] } ]);
	$node->append_conf('postgresql.conf', <<~CONF);
		shared_preload_libraries = 'bemi'
		shared_buffers = '32MB'
		max_connections = 30
		timezone = 'UTC'
		statement_timeout = '120s'
		CONF
	$node->append_conf('postgresql.conf', $params{conf}) if $params{conf};
	if ($params{run} // 1)
	{
		$node->start;
		$node->safe_psql('postgres', 'CREATE EXTENSION bemi');
	}
	return $node;
}

# Waits until bemi.status shows the source "main" in a state.
sub wait_for_state
{
	my ($node, $state, $database) = @_;

	$node->poll_query_until($database // 'postgres',
		"SELECT state FROM bemi.status WHERE source = 'main'", $state)
	  or die "source is not $state";
	return;
}

# Calls bemi.start() and returns its messages, '' if it succeeds.
sub start_error
{
	my ($node, $call, $database) = @_;
	my ($status, $stdout, $stderr) =
	  $node->psql($database // 'postgres', $call // 'CALL bemi.start()');

	return $stderr;
}

# HMAC-SHA-256 under the key that is derived from a secret for one purpose, see
# src/extension/hmac.c.  Computed here without the server, whose functions bemi uses.
sub derived_hmac
{
	my ($secret, $purpose, $bytes) = @_;

	return hmac_sha256_hex($bytes, hmac_sha256_hex($purpose, $secret));
}

# The history in commit order, one line for each change, columns separated by
# "|".  "where" is SQL.
sub changes
{
	my ($node, $where, $database) = @_;

	return $node->safe_psql($database // 'postgres',
		'SELECT "table", primary_key, operation, before, after, context'
		  . ' FROM bemi.changes WHERE '
		  . ($where // 'true')
		  . ' ORDER BY id');
}

# Numbers of rows, replication slots and replication origins of sources.
sub remains
{
	my ($node, $database) = @_;

	return $node->safe_psql(
		$database // 'postgres', q{
		SELECT (SELECT count(*) FROM bemi.sources) || ' rows, '
			|| (SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'bemi%') || ' slots, '
			|| (SELECT count(*) FROM pg_replication_origin WHERE roname LIKE 'bemi%') || ' origins'});
}

1;
