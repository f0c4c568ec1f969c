# A source and its history that are restored from real backups, and what must be true of them
# afterwards.
#
# The clients' journal (Bemi::Clients) is restored with the source. So after each restore, it
# contains exactly the changes that the source still has. compare() compares it with the history:
# a change of the source that is not stored, and a stored change that the source no longer has,
# must be in a gap. Both are found by commit time and transaction ID, which the source keeps
# (pg_commit_ts).
#
# The source can move between two servers. The connection string names both, and libpq chooses the
# one that accepts writes.

package Bemi::Backups;

use strict;
use warnings;

use Bemi;
use Bemi::Clients;
use File::Path;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Bemi::Session;
use Test::More;

my $conf = <<'CONF';
log_statement = none
track_commit_timestamp = on
autovacuum = off
wal_keep_size = '128MB'
include_if_exists = 'restore.conf'
CONF

# What the source has.
my $truth = 'SELECT xid, k, operation, before, after, context, coalesce(committed_at, pg_xact_commit_timestamp(xmin)) FROM journal';

# Compares it with the history.  A time is not complete if it lacks a change, or has one
# that was undone.  KNOWN: faults that an earlier call has returned.
my $comparison = q{
	CREATE TEMP TABLE compared AS
		SELECT * FROM (
			SELECT xid, key, operation, before, after, context, at, count(*) AS expected FROM truth GROUP BY 1, 2, 3, 4, 5, 6, 7) t
		FULL JOIN (
			SELECT transaction_id AS xid, primary_key AS key, operation, before, after, context, committed_at AS at, count(*) AS found
			FROM bemi.changes WHERE source = 's' AND "table" = 'item' GROUP BY 1, 2, 3, 4, 5, 6, 7) c
		USING (xid, key, operation, before, after, context, at);
	CREATE TEMP TABLE amiss AS
		SELECT DISTINCT xid, at, CASE WHEN found IS NULL THEN 'lost' ELSE 'undone' END AS what
		FROM compared WHERE found IS NULL OR expected IS NULL;
	CREATE TEMP TABLE gaps AS
		SELECT * FROM bemi.gaps WHERE source = 's' AND "table" IS NULL;
	SELECT format('%s|%s %s', what, xid, at) FROM amiss
	UNION ALL SELECT format('%s but complete|%s %s', what, xid, at) FROM amiss
		WHERE format('%s %s %s', what, xid, at) <> ALL (ARRAY[KNOWN])
			AND (SELECT bool_and(complete) FROM bemi.source_completeness('s', 'public', 'item', at, at + interval '1 microsecond'))
	UNION ALL SELECT format('%s outside of gaps|%s %s', what, xid, at) FROM amiss
		WHERE NOT EXISTS (SELECT FROM gaps WHERE from_time <= at AND to_time > at)
	UNION ALL SELECT format('undone without a word|%s %s', xid, at) FROM amiss
		WHERE what = 'undone'
			AND NOT EXISTS (SELECT FROM gaps WHERE from_time <= at AND to_time > at AND detail LIKE '%The source went back to %')
	UNION ALL SELECT format('stored %s times instead of %s|%s %s', found, expected, xid, key) FROM compared
		WHERE found > expected OR found > 1
	UNION ALL SELECT format('same id|%s', id) FROM bemi.changes GROUP BY id HAVING count(*) > 1
};

# Makes the servers, and starts the source.  Parameters: seed.
sub new
{
	my ($class, %params) = @_;
	my $self = bless { marker => 0, gap => 0, known => {}, database => 'postgres' }, $class;

	for my $name ('history', 'source')
	{
		$self->{$name} = bemi_node($name, initdb => ['--wal-segsize=1'], run => 0, conf => $conf);
		$self->{$name}->enable_archiving;
		$self->{$name}->start;
		$self->{$name}->safe_psql('postgres', 'CREATE EXTENSION bemi');
	}
	$self->{standby} = PostgreSQL::Test::Cluster->new('standby');
	$self->{journal} = Bemi::Clients->new(
		node => $self->{source}, history => $self->{history}, source => 's', seed => $params{seed});
	$self->ask('ALTER TABLE journal ADD committed_at timestamptz; CREATE TABLE filler (x text)');
	$self->{history}->safe_psql('postgres', "CALL bemi.start('s', conninfo => '" . $self->conninfo . "')");
	$self->{began} = '-infinity';
	return $self;
}

sub conninfo
{
	my ($self) = @_;
	my @nodes = ($self->{source}, $self->{standby});

	return join(' ', 'dbname=postgres', 'target_session_attrs=read-write',
		'host=' . join(',', map { $_->host } @nodes), 'port=' . join(',', map { $_->port } @nodes));
}

#
# What happens at the source
#

# Where the clients work now.
sub node { return $_[0]{journal}{node}; }

sub move_to
{
	my ($self, $node) = @_;

	$self->{journal}{node} = $node;
	return;
}

sub ask
{
	my ($self, $query) = @_;

	return $self->node->safe_psql('postgres', $query);
}

# Has clients change some rows.
sub work
{
	my ($self) = @_;

	$self->{journal}->start_load(clients => 2, transactions => 8);
	$self->{journal}->finish_load or die 'the clients fail';
	return;
}

# Waits until they have changed something more.
sub wait_for_clients
{
	my ($self) = @_;
	my $entries = $self->ask('SELECT count(*) FROM journal');

	$self->node->poll_query_until('postgres', "SELECT count(*) > $entries FROM journal")
	  or die 'the clients do nothing';
	return;
}

# Runs code while clients change rows.
sub under_load
{
	my ($self, $code) = @_;

	$self->{journal}->start_load(clients => 2, rate => 100);
	$self->wait_for_clients;
	$code->();
	$self->wait_for_clients;
	$self->{journal}->stop_load;

	# What is about to commit would pass for a change that is lost.
	$self->node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pgbench'})
	  or die 'the clients do not end';
	return;
}

# Waits until the history's database has recorded that it is complete up to now, not only
# the worker: for a backup of it.
sub wait_until_noted
{
	my ($self) = @_;
	my $now = $self->ask('SELECT clock_timestamp()');

	$self->wait_until_complete;
	for (1 .. 1000)
	{
		# It is noted with changes, and not with all of them.
		$self->wait_until_stored;
		return if $self->tell("SELECT stored_until >= '$now' FROM _bemi.source_progress WHERE source = 's'") eq 't';
	}
	die 'it is not noted';
}

# Has them change some rows, and waits until the history is known to be complete.
sub work_and_complete
{
	my ($self) = @_;

	$self->work;
	$self->wait_until_complete;
	return;
}

# Lets the source write beyond a position.
sub write_past
{
	my ($self, $lsn) = @_;

	while ($self->ask("SELECT pg_current_wal_insert_lsn() <= '$lsn'") eq 't')
	{
		$self->ask(q{INSERT INTO filler SELECT repeat('x', 1000) FROM generate_series(1, 1000)});
	}
	return;
}

# Changes one row, waits until that is stored, and so is everything before it.
sub wait_until_stored
{
	my ($self) = @_;
	my $key = 50000 + ++$self->{marker};

	$self->node->poll_query_until('postgres',
		q{SELECT count(*) = 1 FROM pg_stat_replication WHERE application_name LIKE 'bemi%' AND state = 'streaming'})
	  or die 'the worker does not connect';
	$self->ask("SELECT work($key, 1, '{}')");
	$self->{history}->poll_query_until($self->{database},
		qq{SELECT count(*) = 1 FROM bemi.changes WHERE source = 's' AND primary_key = '$key'})
	  or die 'changes are not stored: ' . $self->tell('SELECT state, last_error FROM bemi.status');
	return;
}

sub stop_worker
{
	my ($self) = @_;

	$self->tell(q{CALL bemi.stop('s')});
	$self->{history}->poll_query_until($self->{database}, q{SELECT state = 'stopped' FROM bemi.status WHERE source = 's'})
	  or die 'the worker does not stop';
	return;
}

sub start_worker
{
	my ($self) = @_;

	$self->tell(q{CALL bemi.start('s')});
	return;
}

# Waits until the history is known to be complete up to now.  A worker finds out
# when it has connected, and then once in a while.
sub wait_until_complete
{
	my ($self) = @_;
	my $now;

	$self->wait_until_stored;
	$now = $self->{complete_until} = $self->ask('SELECT clock_timestamp()');
	$self->stop_worker;
	$self->start_worker;
	$self->{history}->poll_query_until($self->{database}, qq{
		SELECT complete FROM bemi.source_completeness('s', 'public', 'item', timestamptz '$now' - interval '1 microsecond', '$now')})
	  or die 'the history is not complete: ' . $self->tell('SELECT stored_until, state, last_error FROM bemi.status');
	return;
}

# Up to where the history has everything.
sub origin
{
	my ($self) = @_;

	return $self->tell(q{
		SELECT remote_lsn FROM pg_replication_origin_status JOIN pg_database d ON external_id = format('bemi_%s_s', d.oid)
		WHERE datname = current_database()});
}

#
# Backups
#

# Takes a base backup of a server while the clients work.
sub back_up
{
	my ($self, $node, $name, @options) = @_;

	unlink glob($node->archive_dir . '/*');
	$self->under_load(sub { $node->backup($name, backup_options => [@options]) });
	return $self->path_of($node, $name);
}

# Copies all files of the source, slots included, while the clients work.
sub copy_files
{
	my ($self, $name) = @_;
	my $source = $self->{source};
	my $to = $self->path_of($source, $name);
	my $session = Bemi::Session->new($source);
	my ($begin, $end) =
	  $source->pg_version >= 15
	  ? ("pg_backup_start('copy', true)", 'pg_backup_stop(false)')
	  : ("pg_start_backup('copy', true, false)", 'pg_stop_backup(false, false)');
	my $label;

	unlink glob($source->archive_dir . '/*');
	$self->under_load(sub {
		$session->query("SELECT $begin");
		copy_directory($source->data_dir, $to);
		$label = $session->query("SELECT labelfile FROM $end");
	});
	$session->quit;
	File::Path::rmtree("$to/pg_wal");
	copy_directory($source->data_dir . '/pg_wal', "$to/pg_wal");
	append_to_file("$to/backup_label", "$label\n");
	return $to;
}

# Takes a snapshot of the source while the clients work: all of its files at one moment.
sub snapshot
{
	my ($self, $name) = @_;
	my $source = $self->{source};
	my $to = $self->path_of($source, $name);

	$self->{journal}->start_load(clients => 2, rate => 100);
	$self->{journal}->wait_for_progress(50);
	$source->stop('immediate');
	$self->{journal}->stop_load;
	copy_directory($source->data_dir, $to);
	$source->start;
	$self->wait_until_stored;
	return $to;
}

# Makes a logical slot on a standby, for which it must see what runs at the primary.
sub make_slot_of_standby
{
	my ($self, $standby, $name) = @_;
	my $session = Bemi::Session->new($standby);

	$session->send("SELECT FROM pg_create_logical_replication_slot('$name', 'pgoutput')");
	$standby->poll_query_until('postgres', "SELECT restart_lsn IS NOT NULL FROM pg_replication_slots WHERE slot_name = '$name'")
	  or die 'the slot is not made';
	$self->ask('SELECT pg_log_standby_snapshot()');
	$session->result;
	$session->quit;
	return;
}

sub slot_name
{
	my ($self) = @_;

	return $self->ask(q{SELECT slot_name FROM pg_replication_slots WHERE plugin = 'pgoutput'});
}

# Waits until everything that a server has written is in its archive.
sub archive
{
	my ($self, $node) = @_;
	my $file = $node->safe_psql('postgres', 'SELECT pg_walfile_name(pg_switch_wal())');

	$node->poll_query_until('postgres', "SELECT last_archived_wal >= '$file' FROM pg_stat_archiver")
	  or die 'nothing is archived';
	return;
}

sub copy_directory
{
	my ($from, $to) = @_;

	# Some files of a running server vanish meanwhile.
	PostgreSQL::Test::Utils::system_log('cp', '-a', $from, $to);
	die "$from is not copied" unless -d $to;
	return;
}

# Settings for a recovery from the archive, up to a target.
sub from_archive
{
	my ($node, $target) = @_;
	my $archive = $node->archive_dir;

	return "restore_command = 'cp $archive/%f %p'\n$target\nrecovery_target_action = promote\n";
}

# Puts a directory in place of a server, and starts it.  recovery: settings for a
# recovery, after which it is on a new timeline; without, it starts as after a crash.
sub put_back
{
	my ($self, $node, $directory, $recovery) = @_;
	my $data = $node->data_dir;

	$node->stop('immediate');
	File::Path::rmtree($data);
	copy_directory($directory, $data);
	unlink(map { "$data/$_" } qw(restore.conf postmaster.pid standby.signal recovery.signal));
	if (defined $recovery)
	{
		append_to_file("$data/restore.conf", $recovery);
		append_to_file("$data/recovery.signal", '');
	}
	$node->start;
	$node->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()')
	  or die 'the server stays in recovery';
	return;
}

sub path_of
{
	my ($self, $node, $name) = @_;

	return $node->backup_dir . "/$name";
}

#
# What must be true
#

# Starts the source in another database of the history's server.
sub move_history_to
{
	my ($self, $database) = @_;

	$self->{database} = $database;
	$self->tell("CALL bemi.start('s', conninfo => '" . $self->conninfo . "')");
	return;
}

sub tell
{
	my ($self, $query) = @_;

	return $self->{history}->safe_psql($self->{database}, $query);
}

# Gaps of all tables since the last call: reason, and whether their detail mentions the restore.
sub new_gaps
{
	my ($self) = @_;
	my $gaps = $self->tell(qq{
		SELECT concat_ws(' ', reason, CASE WHEN detail ~ 'The source went back to [0-9A-F]+/[0-9A-F]+\\.' THEN 'back' END,
			CASE WHEN from_lsn > to_lsn OR from_time > to_time THEN 'which ends before it begins' END,
			CASE WHEN to_time IS NULL THEN 'which is open' END,
			CASE WHEN from_time < timestamptz '$self->{began}' - interval '2 seconds' THEN 'which begins too early' END)
		FROM bemi.gaps WHERE source = 's' AND "table" IS NULL AND id > $self->{gap} ORDER BY id});

	$self->{gap} = $self->tell('SELECT max(id) FROM bemi.gaps');
	return $gaps;
}

# Writes the commit times into the journal, for a dump.
sub keep_times
{
	my ($self) = @_;

	$self->ask('UPDATE journal SET committed_at = pg_xact_commit_timestamp(xmin) WHERE committed_at IS NULL');
	return;
}

# Keeps the journal of a source that is replaced from a dump.
sub keep_journal
{
	my ($self) = @_;

	$self->{past} = $self->{history}->basedir . '/past.copy';
	$self->ask("COPY ($truth) TO '$self->{past}'");
	return;
}

# Brings the journal to the history's server.
sub bring_truth
{
	my ($self) = @_;
	my $file = $self->{history}->basedir . '/truth.copy';

	$self->ask("COPY ($truth) TO '$file'");
	return qq{
		CREATE TEMP TABLE truth (xid bigint, key text, operation text, before jsonb, after jsonb, context jsonb, at timestamptz);
		COPY truth FROM '$file'}
	  . ($self->{past} ? qq{;
		CREATE TEMP TABLE past (LIKE truth);
		COPY past FROM '$self->{past}';
		INSERT INTO truth SELECT * FROM past EXCEPT SELECT * FROM truth} : '');
}

# What is lost, what is undone, and what is wrong with the history, each with a number,
# without what an earlier call has returned.
sub compare
{
	my ($self) = @_;
	my @known = grep { /^(lost|undone) / } map { s/\|/ /r } keys %{ $self->{known} };
	my $known = join(', ', map { "'$_'" } '', @known);
	my $rows = $self->tell($self->bring_truth . ';' . $comparison =~ s/KNOWN/$known/r);
	my %found;

	for my $row (split /\n/, $rows)
	{
		$found{ $row =~ s/\|.*//r }++ unless $self->{known}{$row}++;
	}
	return \%found;
}

# Waits until the worker reads again, and looks at what it has written down.  Parameters:
# gaps => as new_gaps() gives them; amiss => 'lost', 'undone', both or '': what must
# have happened, as a pattern, because otherwise the scenario proves nothing; todo => why it fails.
sub check
{
	my ($self, $name, %expected) = @_;
	local $TODO = $expected{todo};

	$self->wait_until_stored;
	$self->work;
	$self->wait_until_complete;
	my $found = $self->compare;
	my @amiss = grep { delete $found->{$_} } qw(lost undone);
	is(join(', ', map { "$found->{$_} $_" } sort keys %$found),
		'', "$name: what is lost or undone is in a gap, the rest is stored once");
	is($self->new_gaps, $expected{gaps}, "$name: the gaps");
	{
		local $TODO;
		like("@amiss", qr/^ ?$expected{amiss}$/, "$name: what has happened");
	}

	# A gap of what follows must not begin long before.
	$self->{began} = $self->{complete_until};
	return;
}

1;
