# What can happen to the worker of source "main" between two statements.

package Bemi::Interruptions;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Cluster;

our @EXPORT = qw(kill_worker start_again interruptions);

sub kill_worker
{
	my ($on, $source) = @_;
	my $pid = $on->safe_psql('postgres', "SELECT pid FROM bemi.status WHERE source = '$source'");

	$on->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	$on->poll_query_until('postgres', "SELECT pid IS DISTINCT FROM $pid FROM bemi.status WHERE source = '$source'")
	  or die 'the worker does not end';
	return;
}

# Starts the source if it was stopped.
sub start_again
{
	my ($on) = @_;
	my $desired = $on->safe_psql('postgres', 'SELECT desired FROM bemi.sources');

	$on->safe_psql('postgres', 'CALL bemi.start()') if $desired eq 'stop';
	return;
}

# A list of subroutines, to be called in turn.
sub interruptions
{
	my ($on) = @_;

	return (
		sub { start_again($on); $on->safe_psql('postgres', q{SELECT bemi.sync('60s'); CALL bemi.stop(); CALL bemi.start()}) },
		sub { $on->safe_psql('postgres', 'CALL bemi.stop()') },
		sub { },
		sub { start_again($on) },
		sub { start_again($on); kill_worker($on, 'main') });
}

1;
