# A psql session that stays open, for tests in which several sessions are in the
# middle of something at once.  (PostgreSQL's own BackgroundPsql is there from 16
# on only.)

package Bemi::Session;

use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(usleep);

# Parameters: database, user.
sub new
{
	my ($class, $node, %params) = @_;
	my $self = bless { stdin => '', output => '', node => $node }, $class;
	my @user = $params{user} ? ('-U', $params{user}) : ();

	$self->{run} = IPC::Run::start(
		[
			$node->installed_command('psql'), '-XAtq', @user,
			'-d', $node->connstr($params{database} // 'postgres')
		],
		'<', \$self->{stdin}, '>', \$self->{output}, '2>&1',
		IPC::Run::timeout(2 * $PostgreSQL::Test::Utils::timeout_default));
	$self->{pid} = $self->query('SELECT pg_backend_pid()');
	return $self;
}

sub pid { return $_[0]{pid}; }

# Begins a statement without waiting for its end.
sub send
{
	my ($self, $sql) = @_;

	$self->{output} = '';
	$self->{stdin} .= "$sql;\n\\echo -- done --\n";
	$self->{run}->pump_nb;
	return;
}

# Waits for its end, and gives what it has printed, errors included.
sub result
{
	my ($self) = @_;

	$self->{run}->pump until $self->{output} =~ /^-- done --$/m || !$self->{run}->pumpable;
	return $self->{output} =~ s/^-- done --\n//mr =~ s/^psql:<stdin>:\d+: //gmr =~ s/\n\z//r;
}

sub query
{
	my ($self, $sql) = @_;

	$self->send($sql);
	return $self->result;
}

# As poll_query_until, for what only this session can query.
sub poll_until
{
	my ($self, $sql, $expected) = @_;

	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return 1 if $self->query($sql) eq $expected;
		usleep(100_000);
	}
	return 0;
}

# Ends the session, also one that was terminated.
sub quit
{
	my ($self) = @_;

	eval { $self->{stdin} .= "\\q\n"; $self->{run}->finish; };
	return;
}

# Waits until the session's backend waits for something of this type, by default
# for a lock.
sub wait_until_it_waits
{
	my ($self, $type) = @_;

	$type //= 'Lock';
	$self->{run}->pump_nb;
	$self->{node}->poll_query_until('postgres',
		"SELECT wait_event_type = '$type' FROM pg_stat_activity WHERE pid = $self->{pid}")
	  or die "the session does not wait for $type";
	return;
}

1;
