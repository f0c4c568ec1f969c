# The test of capture_random at a source without the extension: a role that owns the database and
# has REPLICATION, nothing more, has run bemi-source.sql. Every change must have the same context
# that it has with the extension.
#
# Two things are different, because a trigger in SQL only knows the text of the client's statement
# while it fires: several statements in one text have the same comment, and a deferred trigger gets
# the last comment of a statement that had a trigger fire. test/perl/Bemi/Random has both.

use strict;
use warnings;

use Bemi;
use Bemi::Random::Checker;
use Bemi::Random::Model;
use Bemi::Random::Sessions;
use Bemi::Source;
use PostgreSQL::Test::Cluster;
use Test::More;

my $history = bemi_node('history');
my $source = source_node('source', conf => $random_conf);
my %at = (
	node => $source,
	database => 'app',
	role => 'app',
	tables => tables_without_extension());

$without_extension = 1;
my @runs = make_sessions(\%at, 1200);

start_source($history, $source);
play_sessions(\%at, @runs);
wait_until_stored($history, $source);

collect_history($history);
check_session($history, $_) for @runs;
check_transaction_ids($history);
check_replay($history, $_, source => $source, database => 'app') for @runs;

$history->stop;
$source->stop;
done_testing();
