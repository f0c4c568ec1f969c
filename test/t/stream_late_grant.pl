# GRANT SELECT on the source's signing key, after the worker has connected.
#
# Without the key the worker must not trust tracking messages in the stream. So it queries the key
# from time to time. When it can read it, it starts again, because it has ignored earlier
# messages.

use strict;
use warnings;

use Bemi;
use PostgreSQL::Test::Cluster;
use Test::More;

my $source = bemi_node('source');
# With a limit, the worker looks at the source every five seconds.
my $history = bemi_node('history', conf => "bemi.max_slot_lag = '10GB'\n");
my $conninfo = $source->connstr('postgres') =~ s/'/''/gr;
my $version = q{SELECT signing_key_version FROM _bemi.source_progress WHERE source = 's'};
my $tracked = q{SELECT string_agg("table", ',' ORDER BY "table") FROM _bemi.source_tables WHERE source = 's'};

$source->safe_psql('postgres', q{
	CREATE ROLE reader LOGIN REPLICATION;
	CREATE TABLE t (id int PRIMARY KEY);
	CREATE TABLE later (id int PRIMARY KEY);
	SELECT bemi.track('t')});
$history->safe_psql('postgres', "CALL bemi.start('s', conninfo => '$conninfo user=reader')");

sub stores
{
	my ($id) = @_;

	$source->safe_psql('postgres', "INSERT INTO t VALUES ($id)");
	$history->poll_query_until('postgres', "SELECT count(*) = 1 FROM bemi.changes WHERE primary_key = '$id'")
	  or die "row $id is not stored";
	return;
}

stores(1);
is($history->safe_psql('postgres', $version), '', 'the secret is not known');
$source->safe_psql('postgres', q{SELECT bemi.track('later')});
stores(2);
is($history->safe_psql('postgres', $tracked), 't', 'nor what is tracked since, without a change of it');
my $pid = $history->safe_psql('postgres', 'SELECT pid FROM bemi.status');

$source->safe_psql('postgres', 'GRANT SELECT ON _bemi.signing_key TO reader');
stores(3);
ok($history->poll_query_until('postgres', "SELECT EXISTS ($version AND signing_key_version IS NOT NULL)"),
	'it is known soon after the right was granted');
is($history->safe_psql('postgres', $tracked), 'later,t', 'and so is what is tracked');
stores(4);
isnt($history->safe_psql('postgres', 'SELECT pid FROM bemi.status'), $pid, 'by another worker');
is($history->safe_psql('postgres', 'SELECT restarts, last_error FROM bemi.status'), '0|', 'which is no failure');
$source->safe_psql('postgres', q{SELECT bemi.untrack('later')});
ok($history->poll_query_until('postgres', $tracked, 't'), 'from now on, the source tells it in the stream');
is($history->safe_psql('postgres', q{SELECT string_agg(primary_key, ',' ORDER BY id) FROM bemi.changes}), '1,2,3,4', 'each change is stored once');

$history->stop;
$source->stop;
done_testing();
