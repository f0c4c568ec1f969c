# Compares tables of the past with the copies and the journal of query_oracle.
#
# A place is where the past ends: a commit, or a change in the middle of one. It is named by a time,
# a position, or a change. The rows there are those of a copy, or a sum over the journal.
#
# Expected rows have today's columns, found by their numbers. Columns that were added after the place
# have the default that they were added with, or NULL. Which of both depends on what else was done to the table.

package Bemi::Oracle::Past;

use strict;
use warnings;

use Bemi::Oracle::Differences;
use Bemi::Oracle::Tables;
use Bemi::Oracle::Truth;
use Bemi::Oracle::Writers;
use Exporter 'import';
use Test::More;

our @EXPORT = qw(%answered %refused install_past check_copies check_past any_place judge facts_since names_array inexact_columns found_rows present_key expected_images expected_rows compare_rows begin_with_table);

our %answered;    # function and table => how often
our %refused;     # function and table => reason => how often

my $past_sql = <<'SQL';
-- No commit from a place on has an earlier time, also if the clock was set back, and if none is known yet.
CREATE FUNCTION oracle.earliest_since(at pg_lsn) RETURNS timestamptz LANGUAGE sql STABLE AS $$
	SELECT least(clock_timestamp(), min(c.committed_at)) FROM oracle.commits c
		WHERE c.lsn >= coalesce((SELECT max(b.lsn) FROM oracle.commits b WHERE b.lsn < at), '0/0')
$$;

-- Names of the columns that were not there.
CREATE FUNCTION oracle.added_since(target oid, at pg_lsn, before_n bigint) RETURNS text[] LANGUAGE sql STABLE AS $$
	SELECT coalesce(array_agg(a.attname::text), '{}')
		FROM oracle.columns o JOIN pg_attribute a ON a.attrelid = o.relation AND a.attnum = o.attnum LEFT JOIN oracle.commits c USING (xid)
		WHERE o.relation = target AND o.xid <> 0 AND (c.lsn, o.n) < (at, before_n) IS NOT TRUE
$$;

CREATE FUNCTION oracle.copy_differs(this int, at pg_lsn, target oid) RETURNS TABLE (image text, in_journal bigint, in_copy bigint) LANGUAGE sql STABLE AS $$
	SELECT image, s.count, c.count
		FROM (SELECT image::text AS image, count FROM oracle.state(target, at)) s
			FULL JOIN (SELECT image::text AS image, count(*) FROM oracle.copies WHERE instant = this AND relation = target GROUP BY 1) c USING (image)
		WHERE s.count IS DISTINCT FROM c.count
$$;

-- A row without columns that were added since, if they have a value that they had from the beginning.
CREATE FUNCTION oracle.without(image jsonb, added text[]) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
	SELECT jsonb_object_agg(key, value) FROM jsonb_each(image) WHERE key <> ALL (added) OR value NOT IN ('null', '7', '"7"', '"new"')
$$;

-- The values of a key. As jsonb, because 1.5 and 1.50 are one key.
CREATE FUNCTION oracle.keys(image jsonb, names text[]) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
	SELECT jsonb_agg(image -> name ORDER BY name) FROM unnest(names) name
$$;

-- A row by today's names.
CREATE FUNCTION oracle.named(target oid, image jsonb) RETURNS jsonb LANGUAGE sql STABLE AS $$
	SELECT jsonb_object_agg(attname, image -> attnum::text) FROM pg_attribute
		WHERE attrelid = target AND attnum > 0 AND NOT attisdropped AND image ? attnum::text
$$;
SQL

sub install_past
{
	my ($node) = @_;

	$node->safe_psql('postgres', $past_sql);
	return;
}

# The journal itself is right: at each instant, its sum is the copy.
sub check_copies
{
	my ($node) = @_;

	load_truth($node);
	my $differences = $node->safe_psql('postgres', q{
		SELECT i.instant, t.name, d.* FROM oracle.instants i, oracle.tables t, oracle.copy_differs(i.instant, i.lsn, t.relation) d LIMIT 5});

	is($differences, '', 'the journal agrees with the copies');
	return;
}

sub sql_literal { my ($text) = @_; return q{'} . $text =~ s/'/''/gr . q{'}; }

# Arguments of a function, and where the past ends.
sub any_place
{
	my ($session) = @_;
	my $change = any_change(last_commit());
	my $commit = commit_of($change->{xid});

	if (chance(30))
	{
		# If the clock was set back, the prefix of this time can end earlier.
		my ($instant, $at, $lsn, $all) = split /\|/, $session->query(
			'SELECT instant, at, lsn, oracle.prefix(at) >= lsn FROM oracle.instants ORDER BY random() LIMIT 1');
		return { instant => $instant, arguments => $all eq 't' ? pick("at => '$at'", "at_lsn => '$lsn'") : "at_lsn => '$lsn'", lsn => "pg_lsn '$lsn'", n => 0 }
		  if defined $lsn;
	}
	if (chance(30))
	{
		my $id = $session->query("SELECT c.id FROM bemi.changes c WHERE c.transaction_id = $change->{xid} ORDER BY c.id OFFSET "
			  . (grep { $_->{xid} == $change->{xid} && $_->{n} < $change->{n} } changes_up_to($commit)) . ' LIMIT 1');
		return { arguments => "before => '$id'", lsn => "'$commit->{lsn}'", n => $change->{n} };
	}
	if (chance(40))
	{
		my ($lsn, $shift) = ($commit->{lsn}, roll(3));
		return { arguments => "at_lsn => pg_lsn '$lsn' + $shift", lsn => "pg_lsn '$lsn' + $shift", n => 0 };
	}
	my $at = "timestamptz '$commit->{at}' + " . pick('0', '1', '-1') . " * interval '1 microsecond'";
	return { arguments => "at => $at", lsn => "oracle.prefix($at)", n => 0 };
}

# Errors that the documents name, and when they may come.
my @refusals = (
	[ 'truncated', qr/the history of table .* is not complete since .*(source_started|tracking_began)/s, sub { $_[1]->{truncated} } ],
	[ 'rewritten', qr/the history of table \S+.*? is not complete since .*rows_changed_by_ddl/s, sub { reshaped($_[1]) } ],
	[ 'table renamed', qr/the history of table \S+.*? is not complete since .*(tracking_ended|not_tracked)/s, sub { reshaped($_[1]) } ],
	[ 'perhaps renamed', qr/cannot be restored.*perhaps by renaming/s, sub { reshaped($_[1]) } ],
	[ 'default unknown', qr/was added later, and it is not known with which default/, sub { reshaped($_[1]) } ],
	[ 'dropped value unknown', qr/the history has no value of dropped column/, sub { reshaped($_[1]) } ],
	[ 'dropped, without a key', qr/cannot read dropped columns of table/, sub { reshaped($_[1]) && (!@{ $tables{ $_[0] }{key} } || $tables{ $_[0] }{deferrable}) } ],
	[ 'no base', qr/the rows that \S+.* had before its tracking are not known/, sub { $_[1]->{alone}{no_base} } ],
	[ 'reshaped', qr/the history of \S+.* is not complete from|lacks a column of the primary key|cannot be told apart|removes a row that is not there/, sub { $_[1]->{alone}{reshaped} } ],
	[ 'another key', qr/the history of table \S+.*? is not complete since .*key_changed/s, sub { reshaped($_[1]) && ($tables{ $_[0] }{changes_key} || $tables{ $_[0] }{is_made_again}) } ],
	[ 'redacted', qr/redacted/, sub { $tables{ $_[0] }{redacted} && !$_[1]->{unredacted} } ],
	[ 'not tracked', qr/the history of \S+.*? is not complete (since|from) .*(tracking_ended|not_tracked|tracking_began)|the past of \S+ is not known.*It is not tracked/s, sub { $tables{ $_[0] }{lapses} } ],
	[ 'created with rows', qr/the history of table \S+.*? is not complete since .*(CREATE TABLE AS|SELECT INTO|tracking_began|tracking_ended)/s, sub { reshaped($_[1]) && $tables{ $_[0] }{is_made_again} } ],
	[ 'has children', qr/Other tables inherit from it/, sub { $_[0] eq 'animal' } ],
	[ 'future', qr/(time|position) \S+ ?\S* is in the future/, sub { $_[1]->{future} } ],
	[ 'own lock', qr/cannot read the past of .* in this transaction/s, sub { $_[1]->{locked} } ]);

# What was truncated since is read from an earlier place on.
sub reshaped { my ($place) = @_; return $place->{columns_changed} || $place->{truncated}; }

sub judge
{
	my ($function, $t, $place, $sql, $result) = @_;

	if ($result =~ /^same (\d+)\z/ && $place->{must_refuse})
	{
		fail("$function of $t, $place->{arguments} must be refused, because $place->{must_refuse}");
		return 0;
	}
	if ($result =~ /^same (\d+)\z/)
	{
		$answered{"$function of $t"}++;
		return 1;
	}
	for my $refusal (@refusals)
	{
		my ($reason, $error, $may) = @$refusal;

		next unless $result =~ $error && $may->($t, $place);
		$refused{"$function of $t"}{$reason}++;
		return 0;
	}
	fail("$function of $t, $place->{arguments}");
	show_differences($sql, $result);
	return 0;
}

# What has happened to a table since a place.
sub facts_since
{
	my ($session, $t, $place) = @_;
	my $since = "e.relation = (SELECT relation FROM oracle.tables WHERE name = '$t') AND ((c.lsn, e.n) >= ($place->{lsn}, $place->{n}) IS NOT FALSE"
	  # Gaps have times, and the clock may have been set back.
	  . " OR c.committed_at >= (SELECT oracle.earliest_since($place->{lsn})))";

	my ($at) = $place->{arguments} =~ /^at => (.*)/;

	$place->{future} = $at && $session->query("SELECT $at > clock_timestamp()") eq 't';
	($place->{truncated}, $place->{columns_changed}) = map { $_ eq 't' } split /\|/, $session->query(
		"SELECT coalesce(bool_or(e.operation = 'TRUNCATE'), false), coalesce(bool_or(e.operation = 'RESET'), false)"
		  . " FROM journal.entries e LEFT JOIN oracle.commits c USING (xid) WHERE $since");
	return;
}

sub expected_images
{
	my ($relation, $place) = @_;

	return "SELECT image, 1 AS count FROM oracle.copies WHERE instant = $place->{instant} AND relation = $relation" if $place->{instant};
	return "SELECT image, count FROM oracle.state($relation, $place->{lsn}, $place->{n})";
}

sub expected_rows
{
	my ($t, $name, $relation, $place) = @_;

	return "SELECT jsonb_populate_record(NULL::$name, oracle.named($relation, image)) AS p, count FROM (" . expected_images($relation, $place) . ') s';
}

sub compare_rows
{
	my ($added, $expected, $found) = @_;

	return qq{
		WITH added AS MATERIALIZED (SELECT $added AS names)
		SELECT coalesce(string_agg(format(E'%s times expected, %s times found: %s', x.count, f.count, r), E'\\n')
				FILTER (WHERE x.count IS DISTINCT FROM f.count), 'same ' || count(*))
			FROM (SELECT oracle.no_hashes((to_jsonb(p) - names)::text) AS r, sum(count) AS count FROM ($expected) e, added GROUP BY 1) x
				FULL JOIN (SELECT oracle.no_hashes(oracle.without(to_jsonb(p), names)::text) AS r, count(*) AS count FROM ($found) f, added GROUP BY 1) f USING (r)};
}

# SQL of the columns that are not compared, or only in part: those that were added after the place, ignored
# ones, which can be younger, and redacted ones that are not asked for.
sub inexact_columns
{
	my ($t, $relation, $place) = @_;

	return "(oracle.added_since($relation, $place->{lsn}, $place->{n}) || "
	  . names_array('ignored', $t) . ($place->{unredacted} ? ' || ' . names_array('redacted', $t) : '') . ')';
}

sub names_array { my ($which, $t) = @_; return 'ARRAY[' . join(', ', map { "'$_'" } @{ $tables{$t}{$which} // [] }) . ']::text[]'; }

# A query of rows "p" of a function, without the columns that are ignored. If the place says so, it also
# does without the columns that are redacted.
sub found_rows
{
	my ($session, $t, $relation, $place, $from, $where) = @_;
	my $without = names_array('ignored', $t) . ' || ' . names_array('redacted', $t);

	return "SELECT p FROM $from p WHERE $where" unless $tables{$t}{ignored} || $place->{unredacted};
	my $columns = $session->query("SELECT string_agg('p.' || attname, ', ') FROM pg_attribute WHERE attrelid = $relation AND attnum > 0 AND NOT attisdropped"
		  . " AND attname <> ALL ($without)");
	return "SELECT p FROM (SELECT $columns FROM $from p WHERE $where) p";
}

# The columns of the primary key, which can be other ones than at the beginning.
sub present_key
{
	my ($session, $t, $relation) = @_;

	return map { s/"//gr } @{ $tables{$t}{key} } unless $tables{$t}{changes_key};
	return split /,/, $session->query("SELECT array_to_string(key, ',') FROM oracle.shape($relation)");
}

# Begins a transaction in which the table cannot change its columns. Gives its OID and its present name.
sub begin_with_table
{
	my ($session, $t) = @_;
	my $find = "SELECT relation, relation::regclass FROM oracle.tables WHERE name = \$n\$$t\$n\$";

	# Before it is locked, another session may rename it, and give its name to another table.
	for (1 .. 100)
	{
		$session->query('BEGIN' . (chance(30) ? ' ISOLATION LEVEL REPEATABLE READ' : ''));
		my $found = $session->query($find);
		my ($relation, $name) = split /\|/, $found;

		$session->query("LOCK TABLE $name IN ACCESS SHARE MODE");
		return ($relation, $name) if $session->query($find) eq $found;
		$session->query('ROLLBACK');
	}
	die "$t was renamed again and again";
}

# Changes that the transaction has not committed do not count. After some commands the past cannot be read.
sub write_uncommitted
{
	my ($session, $name, $place) = @_;
	my $result = $session->query("DELETE FROM $name WHERE ctid IN (SELECT ctid FROM $name LIMIT 3)");

	return $result if $result;
	return '' if chance(80);
	$place->{locked} = 1;
	return $session->query("LOCK TABLE $name IN SHARE MODE");
}

# A key as text, as an argument, and as a condition on "p".
sub any_key
{
	my ($session, $t, $relation) = @_;
	my $change = any_change(last_commit(), $t);
	my @key = present_key($session, $t, $relation);
	my $key = $tables{$t}{changes_key} ? join(',', '', (map { roll(40) } @key), '') : $change && pick($change->{key}, $change->{key_before} // ()) // random_key($t);
	$key =~ s/,//g if @key == 1 && $tables{$t}{changes_key};
	my @texts = @key == 1 ? ($key) : $key =~ /(-?\d+)"?[,}\]]/g;
	my $where = join ' AND ', map { "(p).$key[$_] = " . sql_literal($texts[$_]) } 0 .. $#key;

	$key = '{' . join(', ', map { "\"$key[$_]\": $texts[$_]" } 0 .. $#key) . '}' if @key > 1;
	return (sql_literal($key), $where);
}

sub check_as_of
{
	my ($session, $t) = @_;
	my $place = any_place($session);
	my ($relation, $name) = begin_with_table($session, $t);
	my $failed = chance(15) ? write_uncommitted($session, $name, $place) : '';

	facts_since($session, $t, $place);
	$place->{unredacted} = 1 if $tables{$t}{redacted} && chance(60);
	my $added = inexact_columns($t, $relation, $place);
	my $found = sub { found_rows($session, $t, $relation, $place, @_) };
	my $expected = expected_rows($t, $name, $relation, $place);
	my $arguments = "$place->{arguments}, timeout => '60s'";
	# Without this, a table from which others inherit cannot be read.
	$arguments .= ', allow_gaps => true' if $t eq 'animal' && !reshaped($place) && !$place->{future} && chance(80);
	my ($key, $where) = @{ $tables{$t}{key} } ? any_key($session, $t, $relation) : ("''", '(p).v = 2');
	my ($function, $sql);

	$where = '(p).v % 3 = 1' if chance(30) && $tables{$t}{columns}{v};
	if ($failed)
	{
		note "other sessions were in the way: $failed";
	}
	elsif (chance(50))
	{
		($function, $sql) = ('bemi.as_of()', compare_rows($added, $expected, $found->("bemi.as_of(NULL::$name, $arguments)", 'true')));
	}
	elsif (chance(40) || !@{ $tables{$t}{key} })
	{
		($function, $sql) = ('bemi.as_of() WHERE', compare_rows($added, "SELECT * FROM ($expected) e WHERE $where",
				$found->("bemi.as_of(NULL::$name, $arguments)", $where =~ s/\(p\)/p/gr)));
	}
	else
	{
		($key, $where) = any_key($session, $t, $relation);
		# It makes all columns.
		delete $place->{unredacted};
		$added = inexact_columns($t, $relation, $place);
		($function, $sql) = ('bemi.row_as_of()', compare_rows($added, "SELECT * FROM ($expected) e WHERE $where",
				$found->("bemi.row_as_of(NULL::$name, $key, $arguments)", 'true')));
	}
	judge($function, $t, $place, $sql, chance(25) ? query_while_behind($session, $t, $sql) : $session->query($sql)) if $sql;
	$session->query('ROLLBACK');
	return;
}

# While the call begins, the worker stands still and the table has changes that are not stored.
sub query_while_behind
{
	my ($session, $t, $sql) = @_;
	my $node = $session->{node};
	my $worker = $node->safe_psql('postgres', 'SELECT pid FROM bemi.status') or return $session->query($sql);
	my $is_stuck;

	kill('STOP', $worker);
	# It fails if others are in the way. If the worker was stopped in the middle of something that all need, nothing goes on.
	$node->psql('postgres', "SET lock_timeout = '1s'; BEGIN; SELECT pg_advisory_xact_lock_shared(42);"
		  . " SELECT oracle.run(\$n\$$t\$n\$, 'DELETE FROM <table> WHERE ctid IN (SELECT ctid FROM <table> LIMIT 4)'); COMMIT", timeout => 20, timed_out => \$is_stuck);
	if ($is_stuck)
	{
		kill('CONT', $worker);
		return $session->query($sql);
	}
	$session->send($sql);
	$session->{run}->pump_nb;
	$node->poll_query_until('postgres', "SELECT state <> 'active' OR wait_event IS NOT NULL FROM pg_stat_activity WHERE pid = $session->{pid}")
	  or diag('the call neither waits nor ends');
	kill('CONT', $worker);
	return $session->result;
}

sub check_past
{
	my ($node, $session) = @_;

	load_truth($node);
	for (1 .. 5)
	{
		check_as_of($session, pick(sort keys %tables));
		last unless Test::More->builder->is_passing;
	}
	return;
}

1;
