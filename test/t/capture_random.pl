# Every change has the context of the statement that made it, for any mixture of statements,
# savepoints, functions, triggers and settings.
#
# The mixtures cannot be listed, so they are random. A generator creates transactions as psql
# scripts and runs each statement on a model, which records each change with the expected context.
# Afterwards bemi.changes must contain exactly these records, row by row. A second check does not
# use the model: replaying bemi.changes must lead to the contents of the tables. All parts are in
# test/perl/Bemi/Random.
#
# Several scripts run at once, each with its own seed and schema, so that their transactions are
# interleaved in the WAL. Every other script begins with bemi.emit = changed, which must make no
# difference. To repeat a failure, use the seed that is printed. The output shows the transaction
# in which the failure begins.

use strict;
use warnings;

use Bemi;
use Bemi::Random::Checker;
use Bemi::Random::Model;
use Bemi::Random::Sessions;
use PostgreSQL::Test::Cluster;
use Test::More;

my $node = bemi_node('main', conf => $random_conf);
my %at = (
	node => $node,
	database => 'postgres',
	role => $node->safe_psql('postgres', 'SELECT current_user'),
	tables => $tables);
my @runs = make_sessions(\%at, 4000);

$node->safe_psql('postgres', 'CALL bemi.start()');
play_sessions(\%at, @runs);
$node->safe_psql('postgres', q{SELECT bemi.sync('120s')});

collect_history($node);
check_session($node, $_) for @runs;
check_transaction_ids($node);
check_replay($node, $_) for @runs;

$node->stop;
done_testing();
