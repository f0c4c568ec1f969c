# A source on a server where nothing can be installed, as a managed host is: the library of bemi is
# not loaded, and the role "app" owns the database "app" and has REPLICATION, nothing more. It has
# run bemi-source.sql.

package Bemi::Source;

use strict;
use warnings;

use Bemi;
use Exporter 'import';
use PostgreSQL::Test::Cluster;
use Test::More;

our @EXPORT = qw(source_node run_source_script as_app start_source wait_until_stored);

# Parameters: conf => lines for postgresql.conf, run => 0 without bemi-source.sql.
sub source_node
{
	my ($name, %params) = @_;
	my $node = bemi_node($name, run => 0, conf => "shared_preload_libraries = ''\n" . ($params{conf} // ''));

	$node->start;
	$node->safe_psql('postgres', 'CREATE ROLE app LOGIN REPLICATION');
	$node->safe_psql('postgres', 'CREATE DATABASE app OWNER app');
	run_source_script($node) if $params{run} // 1;
	return $node;
}

# Runs bemi-source.sql as a role.
sub run_source_script
{
	my ($node, $role) = @_;

	return $node->psql('app', undef,
		extra_params => [ '-U', $role // 'app', '-v', 'ON_ERROR_STOP=1', '-f', 'bemi-source.sql' ]);
}

sub as_app
{
	my ($node, $sql) = @_;

	return $node->safe_psql('app', $sql, extra_params => [ '-U', 'app' ]);
}

# The server of the history begins to read the source.
sub start_source
{
	my ($history, $source) = @_;
	my $conninfo = ($source->connstr('app') . ' user=app') =~ s/'/''/gr;

	$history->safe_psql('postgres', "CALL bemi.start('app', conninfo => '$conninfo')");
	return;
}

# Waits until all that the source has written is in the history.
sub wait_until_stored
{
	my ($history, $source) = @_;
	my $end = $source->safe_psql('app', 'SELECT pg_current_wal_insert_lsn()');

	$history->poll_query_until('postgres',
		"SELECT stored_lsn >= '$end' FROM bemi.status WHERE source = 'app'")
	  or die 'changes of the source do not come';
	return;
}

1;
