# What the journal of query_oracle knows, in commit order: which changes a row has had.
#
# Keys are bytes here, as psql prints them.

package Bemi::Oracle::Truth;

use strict;
use warnings;

use Exporter 'import';
use JSON::PP;

our @EXPORT = qw(load_truth commit_of last_commit commits_up_to changes_up_to row_history any_change any_commit);

my @commits = (undef);    # by number
my %number_of;            # xid => number
my %changes_of;           # table => changes in commit order
my @all;

my $json = JSON::PP->new->utf8(0);

# Perl may have stored them as UTF-8 of bytes, and IPC::Run sends what is stored.
sub bytes
{
	my ($row) = @_;

	defined && utf8::downgrade($_) for values %$row;
	return $row;
}

sub rows
{
	my ($node, $sql) = @_;

	return map { bytes($json->decode($_)) } split /\n/, $node->safe_psql('postgres', $sql);
}

# Reads what was committed since the last call. is_locked: the caller has the lock that those who write need.
sub load_truth
{
	my ($node, %params) = @_;
	my $loaded = $#commits;

	$node->safe_psql('postgres', 'CALL oracle.read_commits(' . ($params{is_locked} ? 'false' : 'true') . ')');
	for (rows($node, qq{SELECT json_build_object('number', c.number, 'xid', c.xid, 'lsn', c.lsn, 'end_lsn', c.end_lsn, 'at', c.committed_at)
		FROM (SELECT *, row_number() OVER (ORDER BY lsn) AS place FROM oracle.commits) c WHERE place > $loaded ORDER BY place}))
	{
		push @commits, $_;
		$_->{number} = $#commits;
		$number_of{ $_->{xid} } = $#commits;
	}
	for (rows($node, qq{SELECT json_build_object('xid', e.xid, 'table', t.name, 'n', e.n, 'operation', e.operation, 'key', e.key,
			'key_before', e.key_before, 'k', e.k)
		FROM (SELECT *, row_number() OVER (ORDER BY lsn) AS place FROM oracle.commits) c
			JOIN journal.entries e USING (xid) JOIN (SELECT name, relation FROM oracle.tables UNION SELECT * FROM oracle.former) t USING (relation)
		WHERE place > $loaded AND e.stored ORDER BY place, e.n}))
	{
		$_->{number} = $number_of{ $_->{xid} };
		push @all, $_;
		push @{ $changes_of{ $_->{table} } }, $_;
	}
	return;
}

sub commit_of { my ($xid) = @_; return $commits[ $number_of{$xid} // die "no commit of $xid" ]; }

sub commits_up_to { my ($last) = @_; return @commits[ 1 .. $last->{number} ]; }

sub last_commit { return $commits[-1]; }

sub any_commit { return $commits[ 1 + int(rand($#commits)) ]; }

sub changes_up_to
{
	my ($last, $table) = @_;
	my $changes = $table ? $changes_of{$table} // [] : \@all;

	return grep { $_->{number} <= $last->{number} } @$changes;
}

sub any_change { my ($last, $table) = @_; my @c = changes_up_to($last, $table); return $c[ int(rand(@c)) ]; }

# The changes that bemi.history() returns, newest first: of the row that had this key last, back to
# its creation, and then those of the row that had the key of that moment before. "k" tells rows
# apart, also if one statement swaps their keys.
sub row_history
{
	my ($last, $table, $key) = @_;
	my ($row, @history);

	for my $change (reverse changes_up_to($last, $table))
	{
		if ($change->{operation} eq 'TRUNCATE')
		{
			push @history, $change;
			undef $row;
			next;
		}
		next unless defined $row ? $change->{k} == $row : $change->{key} eq $key;
		push @history, $change;
		$row = $change->{operation} eq 'CREATE' ? undef : $change->{k};
		$key = $change->{key_before} if $change->{operation} eq 'UPDATE';
		$key = $change->{key} if $change->{operation} eq 'CREATE';
	}
	return @history;
}

1;
