# An independent record of what clients have done, to compare with the history.
#
# Clients change rows of "item" through work(), which records each change in "journal", a plain
# table, in the same transaction. So after any failure, only committed work is in the journal. The
# journal does not use bemi. Only this shows that no change is missing or stored twice.
#
# A lock makes the order of "n" the order of the commits for each row, and "n" is ascending within
# a transaction. Both orders are compared, the second by transaction, so a transaction that was
# split or stored in part is noticed.
#
# check() compares what is new since the last check(), total() everything.

package Bemi::Clients;

use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $nothing = '00000000-0000-0000-0000-000000000000';

my $tables = <<'SQL';
CREATE TABLE item (k int PRIMARY KEY, v text NOT NULL);
CREATE TABLE journal (n bigserial PRIMARY KEY, xid bigint, k int, operation text,
	before jsonb, after jsonb, context jsonb);

-- Makes one change of one row, and notes it.  journal.padding makes rows wide.
CREATE FUNCTION work(k int, v int, context jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	padding text := repeat('x', coalesce(nullif(current_setting('journal.padding', true), ''), '0')::int);
	old_row item;
	new_row item := (work.k, 'value ' || work.v || padding);
	operation text := 'UPDATE';
BEGIN
	PERFORM pg_advisory_xact_lock(work.k);
	PERFORM bemi.set_context(work.context);
	SELECT * INTO old_row FROM item WHERE item.k = work.k;
	IF old_row IS NULL THEN
		operation := 'CREATE';
		INSERT INTO item SELECT new_row.*;
	ELSIF work.v % 4 = 0 THEN
		operation := 'DELETE';
		new_row := NULL;
		DELETE FROM item WHERE item.k = work.k;
	ELSE
		UPDATE item SET v = new_row.v WHERE item.k = work.k;
	END IF;
	INSERT INTO journal (xid, k, operation, before, after, context)
		VALUES (pg_current_xact_id()::text::bigint & 4294967295, work.k, operation,
			CASE WHEN old_row IS NULL THEN '{}' ELSE to_jsonb(old_row) END,
			CASE WHEN new_row IS NULL THEN '{}' ELSE to_jsonb(new_row) END,
			coalesce(work.context, '{}'));
END
$$;
SELECT bemi.track('item');
SQL

# Three changes in a transaction, with two contexts and without any, and a
# fourth that is rolled back.  Rows are locked in ascending order.
my $script = <<'SQL';
\set k random(1, KEYS)
\set v random(1, 1000000)
BEGIN;
SELECT work(:k, :v, jsonb_build_object('client', :client_id, 'v', :v));
SAVEPOINT a;
SELECT work(10000 + :k, :v, '{"rolled": "back"}');
ROLLBACK TO a;
SELECT work(20000 + :k, :v + 1, NULL);
SELECT work(30000 + :k, :v + 2, '{"last": true}');
COMMIT;
SQL

# Makes the tables.  Parameters: node => where the clients work; history => the
# node that has bemi.changes, if that is another one; source => its name; seed.
sub new
{
	my ($class, %params) = @_;
	my $self = bless {
		history => $params{node},
		source => 'main',
		seed => 1,
		n => 0,
		id => $nothing,
		%params
	}, $class;

	$self->{node}->safe_psql('postgres', $tables);
	return $self;
}

# Starts clients that work until they are stopped.  Parameters: clients, keys
# (how many rows each of the three changes chooses from), rate (transactions a
# second, none: as fast as they can), transactions (each client's, none: for
# ever), padding.  Errors of a client about a lost connection do not matter.
sub start_load
{
	my ($self, %params) = @_;
	my $keys = $params{keys} // 20;
	my $file = $self->{node}->basedir . "/work_$keys.sql";
	my $output = '';

	append_to_file($file, $script =~ s/KEYS/$keys/r) unless -e $file;
	local $ENV{PGOPTIONS} = '-c journal.padding=' . ($params{padding} // 0);
	$self->{load} = IPC::Run::start(
		[
			$self->{node}->installed_command('pgbench'),
			'--no-vacuum',
			'--client=' . ($params{clients} // 3),
			'--random-seed=' . $self->{seed}++,
			$params{transactions} ? "--transactions=$params{transactions}" : '--time=600',
			$params{rate} ? "--rate=$params{rate}" : (),
			"--file=$file",
			$self->{node}->connstr('postgres')
		],
		'<',
		\undef,
		'>',
		\$output,
		'2>',
		\$output,
		IPC::Run::timeout(600));
	return;
}

# Stops the clients, those that are still there.
sub stop_load
{
	my ($self) = @_;

	$self->{load}->signal('TERM');
	$self->{load}->finish;
	return;
}

# Waits for clients that stop by themselves.  True if all of them did so well.
sub finish_load
{
	my ($self) = @_;

	return $self->{load}->finish;
}

# Waits until so many more changes are stored.
sub wait_for_progress
{
	my ($self, $changes) = @_;
	my $history = $self->{history};
	my $last = $self->last_id;

	$history->poll_query_until('postgres',
		"SELECT count(*) = $changes FROM (SELECT FROM bemi.changes WHERE id > '$last' LIMIT $changes) c"
	) or die 'the worker stores nothing';
	return;
}

sub last_id
{
	my ($self) = @_;

	return $self->{history}->safe_psql('postgres',
		"SELECT coalesce((SELECT id FROM bemi.changes ORDER BY id DESC LIMIT 1), '$nothing')");
}

# Waits until everything that the clients have committed is stored.
sub catch_up
{
	my ($self) = @_;

	if ($self->{history} == $self->{node})
	{
		$self->{node}->safe_psql('postgres', q{SELECT bemi.sync('120s')});
		return;
	}

	# bemi.sync() does not know the WAL of another server.
	my $lsn = $self->{node}->safe_psql('postgres', 'SELECT pg_current_wal_lsn()');
	$self->{history}->poll_query_until('postgres',
		"SELECT stored_lsn >= '$lsn' FROM bemi.status WHERE source = '$self->{source}'")
	  or die 'the worker does not catch up';
	return;
}

# SQL that brings the journal to the server of the history, if it is another.
sub bring_journal
{
	my ($self, $n) = @_;
	my $file = $self->{node}->basedir . '/journal.copy';

	return '' if $self->{history} == $self->{node};
	$self->{node}->safe_psql('postgres',
		"COPY (SELECT * FROM journal WHERE n > $n) TO '$file'");
	return qq{
		CREATE TEMP TABLE journal (n bigint, xid bigint, k int, operation text,
			before jsonb, after jsonb, context jsonb);
		COPY journal FROM '$file';
		ANALYZE journal};
}

# Compares the journal after $n with the history after $id.
sub compare
{
	my ($self, $n, $id) = @_;
	my $answer = $self->{history}->safe_psql(
		'postgres', "SET work_mem = '256MB'; " . $self->bring_journal($n) . qq{;
		WITH expected AS MATERIALIZED (
			SELECT k::text AS key, xid, operation, before, after, context,
				row_number() OVER (PARTITION BY k ORDER BY n) AS of_key,
				row_number() OVER (PARTITION BY xid ORDER BY n) AS of_xid
			FROM journal WHERE n > $n
		), found AS MATERIALIZED (
			SELECT primary_key AS key, transaction_id AS xid, operation, before, after, context,
				row_number() OVER (PARTITION BY primary_key ORDER BY id) AS of_key,
				row_number() OVER (PARTITION BY transaction_id ORDER BY id) AS of_xid
			FROM bemi.changes WHERE "table" = 'item' AND id > '$id'
		), counted AS (
			SELECT sum(e) AS expected, sum(f) AS found
			FROM (SELECT key, xid, operation, before, after, context, 1 AS e, 0 AS f FROM expected
				UNION ALL SELECT key, xid, operation, before, after, context, 0, 1 FROM found) u
			GROUP BY key, xid, operation, before, after, context
		)
		SELECT coalesce(sum(greatest(expected - found, 0)), 0),
			coalesce(sum(greatest(found - expected, 0)), 0),
			(SELECT count(*) FROM expected e FULL JOIN found f USING (key, of_key)
				WHERE (e.xid, e.operation, e.before, e.after, e.context)
					IS DISTINCT FROM (f.xid, f.operation, f.before, f.after, f.context))
			+ (SELECT count(*) FROM expected e FULL JOIN found f USING (xid, of_xid)
				WHERE (e.key, e.operation, e.before, e.after, e.context)
					IS DISTINCT FROM (f.key, f.operation, f.before, f.after, f.context)),
			(SELECT count(*) - count(DISTINCT id) FROM bemi.changes WHERE id > '$id'),
			coalesce(sum(expected), 0)
		FROM counted});
	my ($missing, $twice, $misplaced, $ids, $compared) = split /\|/, $answer;

	return {
		differences => "$missing missing, " . ($twice + $ids) . " twice, $misplaced misplaced",
		missing => $missing,
		twice => $twice + $ids,
		misplaced => $misplaced,
		compared => $compared
	};
}

# To be called when the clients have stopped: compares what is new.
sub check
{
	my ($self, $name) = @_;

	$self->catch_up;
	my $result = $self->compare($self->{n}, $self->{id});
	is($result->{differences}, '0 missing, 0 twice, 0 misplaced', "$name: the history equals the journal");
	cmp_ok($result->{compared}, '>', 0, "$name: which has something in it");
	$self->{n} = $self->{node}->safe_psql('postgres', 'SELECT coalesce(max(n), 0) FROM journal');
	$self->{id} = $self->last_id;
	return;
}

# The same for everything from the beginning.  Returns the numbers.
sub total
{
	my ($self, $name) = @_;

	$self->catch_up;
	my $result = $self->compare(0, $nothing);
	is($result->{differences}, '0 missing, 0 twice, 0 misplaced', "$name: the history equals the journal");
	return $result;
}

1;
