# The publication is changed by hand: the place of a row in its transaction decides, and its place
# among the commits of others.
#
# A table that is removed from publication "bemi" and added again has rows on both sides of each
# change, and the walsender caches what is published. So rows are written before and after each
# change, in transactions and across those of another session, while the source is stopped and
# while it streams. The journal (Bemi::Journal) has those that are published.

use strict;
use warnings;

use Bemi;
use Bemi::Journal;
use Bemi::Session;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = bemi_node('main');

journal_install($node);
$node->safe_psql('postgres', 'CALL bemi.start()');

# Minor releases from before May 2025 do not invalidate in a running transaction what
# others change in a publication.
my $version = $node->safe_psql('postgres', 'SHOW server_version_num');
my %told_since = (14 => 140018, 15 => 150013, 16 => 160009, 17 => 170005);
my $told = $version >= ($told_since{ int($version / 10000) } // 0);

sub change_publication
{
	my ($mode) = @_;
	my ($writer, $changer) = map { Bemi::Session->new($node) } (1, 2);
	my @in = ("ALTER PUBLICATION bemi ADD TABLE published_$mode", 'RESET journal.mode');
	my @out = ("ALTER PUBLICATION bemi DROP TABLE published_$mode", 'SET journal.mode = off');

	for my $sql (
		"CREATE TABLE published_$mode (k int PRIMARY KEY, v text)",
		"SELECT journal.follow('published_$mode')",
		"INSERT INTO published_$mode VALUES (1, 'yes')",
		@out,
		"INSERT INTO published_$mode VALUES (2, 'no')",
		"UPDATE published_$mode SET v = 'no' WHERE k = 1",
		@in,
		"UPDATE published_$mode SET v = 'yes, with an old row that is not stored'",
		'BEGIN',
		"INSERT INTO published_$mode VALUES (3, 'yes')",
		@out,
		"INSERT INTO published_$mode VALUES (4, 'no')",
		@in,
		"INSERT INTO published_$mode VALUES (5, 'yes')",
		'SAVEPOINT s',
		@out,
		"INSERT INTO published_$mode VALUES (6, 'no')",
		'ROLLBACK TO s',
		"INSERT INTO published_$mode VALUES (7, 'yes')",
		'COMMIT')
	{
		$writer->query($sql);
	}

	# A transaction that began before the commit of another session's change.
	if ($told)
	{
		$writer->query("BEGIN; INSERT INTO published_$mode VALUES (10, 'yes')");
		$changer->query($out[0]);
		$writer->query("$out[1]; INSERT INTO published_$mode VALUES (11, 'no')");
		$changer->query($in[0]);
		$writer->query("$in[1]; INSERT INTO published_$mode VALUES (12, 'yes'); COMMIT");
		$changer->query($out[0]);
		$writer->query("BEGIN; $out[1]; INSERT INTO published_$mode VALUES (13, 'no')");
		$changer->query($in[0]);
		$writer->query("$in[1]; UPDATE published_$mode SET v = 'last'; COMMIT");
	}
	$_->quit for ($writer, $changer);
	return;
}

$node->safe_psql('postgres', 'CALL bemi.stop()');
change_publication('late');
$node->safe_psql('postgres', 'CALL bemi.start()');
change_publication('live');
$node->safe_psql('postgres', q{SELECT bemi.sync('60s')});
for my $mode ('late', 'live')
{
	my $where = qq{"table" = 'published_$mode'};

	is(journal_entries($node, where => $where), $told ? 18 : 6, "publication, $mode: there are changes");
	is(journal_differences($node, where => $where), '', "publication, $mode: what is published is stored");
}
is( $node->safe_psql('postgres', 'SELECT count(*) FROM bemi.tracked WHERE "table"::text ~ \'published\' AND problems = \'{}\''),
	'2', 'publication: bemi.tracked has nothing to complain of');

#
# The publication dropped, and created again under the same name: what was written
# while there was none cannot be read, up to PostgreSQL 17, which is a gap.  What
# was written before is stored, however close to that.
#

$node->safe_psql(
	'postgres', q{
	CALL bemi.stop();
	CREATE TABLE lost (k int PRIMARY KEY, v text);
	SELECT journal.follow('lost');
	INSERT INTO lost VALUES (1, 'stored');
	DROP PUBLICATION bemi;
	SET journal.mode = off;
	INSERT INTO lost VALUES (2, 'lost');
	SELECT bemi.track('lost')});
$node->psql('postgres', 'CALL bemi.start()');
if ($node->pg_version < 18)
{
	$node->poll_query_until('postgres',
		q{SELECT EXISTS (SELECT FROM bemi.gaps WHERE reason = 'slot_unreadable' AND to_time IS NOT NULL)})
	  or die 'there is no gap';
}
wait_for_state($node, 'streaming');
$node->safe_psql(
	'postgres', q{
	UPDATE lost SET v = 'stored again' WHERE k = 1;
	SELECT bemi.sync('60s')});
# From PostgreSQL 14, the row before the gap comes in one batch with the BEGIN of the
# transaction that fails, and may be in the gap.
is(journal_differences($node, where => q{"table" = 'lost'}
		  . ($node->pg_version < 15 ? q{ AND operation = 'UPDATE'} : '')),
	'', 'publication dropped: stored up to there, and from the end of the gap on');

$node->stop;
done_testing();
