# A connection to a server that can be cut, closed, or become silent.
#
# A separate process listens on a Unix socket and forwards bytes to the server's,
# in both directions, in the mode that was last set:
#
#   forward          forwards everything
#   cut              breaks all connections, forwards new ones
#   refuse           breaks them, and refuses new ones
#   hold             neither breaks nor forwards anything, also of new
#                    connections
#   hold up          the same, only for what is sent to the server
#   hold down        the same, only for what the server sends
#   cut after N      breaks a connection when N more bytes of the server's have
#                    been forwarded, in the middle of a message or not
#   hold after N     then holds both ways
#   drop options     forwards, but removes the startup options of new connections
#   reject options   forwards, but refuses new connections with startup options
#
# It ends with the test that started it.

package Bemi::Proxy;

use strict;
use warnings;

use IO::Handle;
use IO::Select;
use IO::Socket::UNIX;
use POSIX ();
use Socket;

my $chunk = 65536;

# Parameters: the node to forward to, and a directory for the socket.
sub new
{
	my ($class, $node, $directory) = @_;
	my $port = $node->port;
	my $self = bless {
		node => $node,
		directory => $directory,
		path => "$directory/.s.PGSQL.$port",
		target => $node->host . "/.s.PGSQL.$port"
	}, $class;

	socketpair(my $mine, my $its, AF_UNIX, SOCK_STREAM, PF_UNSPEC)
	  or die "no socket pair: $!";
	my $pid = fork() // die "no process: $!";
	if ($pid == 0)
	{
		close $mine;
		$self->{control} = $its;
		eval { $self->run };
		print STDERR "proxy: $@" if $@;
		POSIX::_exit(0);
	}
	close $its;
	$self->{control} = $mine;
	$self->{pid} = $pid;
	$self->{control}->autoflush(1);
	$self->tell('forward');
	return $self;
}

# A connection string that leads through it.
sub connstr
{
	my ($self, $database) = @_;

	return "host=$self->{directory} port=" . $self->{node}->port . " dbname=$database";
}

# Sets the mode, and returns when it is in force.
sub tell
{
	my ($self, $command) = @_;

	print { $self->{control} } "$command\n";
	my $answer = readline($self->{control}) // 'none';
	$answer eq "ok\n" or die "proxy answers: $answer";
	return;
}

sub stop
{
	my ($self) = @_;

	close $self->{control};
	waitpid $self->{pid}, 0;
	return;
}

#
# What follows runs in the other process
#

sub listen_to
{
	my ($self) = @_;

	unlink $self->{path};
	$self->{listener} = IO::Socket::UNIX->new(Local => $self->{path}, Listen => 20)
	  or die "could not listen on $self->{path}: $!";
	return;
}

sub obey
{
	my ($self, $command) = @_;
	my ($verb, $what, $count) = $command =~ /^(\w+)(?: (\w+))?(?: (\d+))?$/;

	$what //= '';
	$self->{hold_up} = $verb eq 'hold' && ($what eq '' || $what eq 'up');
	$self->{hold_down} = $verb eq 'hold' && ($what eq '' || $what eq 'down');
	$self->{left} = $what eq 'after' ? $count : undef;
	$self->{then} = $verb;
	$self->{options} = $what eq 'options' ? $verb : 'forward';
	$self->break_all if $verb eq 'refuse' || $command eq 'cut';
	if ($verb eq 'refuse')
	{
		close $self->{listener};
		unlink $self->{path};
		undef $self->{listener};
	}
	elsif (!$self->{listener})
	{
		$self->listen_to;
	}
	return;
}

sub break_all
{
	my ($self) = @_;

	close $_->{client}, close $_->{server} for @{ $self->{pairs} };
	$self->{pairs} = [];
	return;
}

sub accept_client
{
	my ($self) = @_;
	my $client = $self->{listener}->accept or return;
	my $server = IO::Socket::UNIX->new(Peer => $self->{target});

	# The server may be down.
	if (!$server)
	{
		close $client;
		return;
	}
	$_->blocking(0) for $client, $server;
	push @{ $self->{pairs} }, { client => $client, server => $server, up => '', down => '' };
	return;
}

# The server has sent so many bytes more.
sub count_down
{
	my ($self, $bytes) = @_;

	return if !defined $self->{left};
	$self->{left} -= $bytes;
	return if $self->{left} > 0;
	undef $self->{left};
	if ($self->{then} eq 'cut')
	{
		$self->break_all;
	}
	else
	{
		$self->{hold_up} = $self->{hold_down} = 1;
	}
	return;
}

# Does to the startup packet of a new connection what a pooler may do.  False if the
# client is refused.
sub greet
{
	my ($self, $pair) = @_;
	my ($length, $version) = unpack('NN', $pair->{up});
	my %parameters = split /\0/, substr($pair->{up}, 8, $length - 9);

	# That of a request to cancel has no parameters.
	return 1 if $self->{options} eq 'forward' || $version != 3 << 16 || !exists $parameters{options};
	if ($self->{options} eq 'reject')
	{
		my $error = "SFATAL\0VFATAL\0C08P01\0Munsupported startup parameter: options\0\0";

		syswrite($pair->{client}, pack('aNa*', 'E', 4 + length $error, $error));
		return 0;
	}
	delete $parameters{options};
	my $rest = join('', map { "$_\0" } %parameters) . "\0";
	$pair->{up} = pack('NNa*', 8 + length $rest, $version, $rest);
	return 1;
}

# Moves bytes one way.  False if that way has come to its end.
sub move
{
	my ($self, $pair, $from, $to, $way) = @_;
	my $limit = $way eq 'down' && defined $self->{left} && $self->{left} < $chunk ? $self->{left} : $chunk;
	my $ended = 0;

	if (length $pair->{$way} == 0 && $limit > 0)
	{
		my $got = sysread($pair->{$from}, $pair->{$way}, $limit);
		$ended = defined $got ? $got == 0 : !$!{EAGAIN} && !$!{EINTR};
		return 0 if $way eq 'up' && $got && !$pair->{greeted}++ && !$self->greet($pair);
	}
	if (length $pair->{$way} > 0)
	{
		my $put = syswrite($pair->{$to}, $pair->{$way});
		return $!{EAGAIN} || $!{EINTR} if !defined $put;
		substr($pair->{$way}, 0, $put, '');
		$self->count_down($put) if $way eq 'down';
	}
	return !$ended;
}

# The files to wait for: to read from where a way is empty, to write to where
# it is not.
sub wait_for
{
	my ($self, $way, $from, $to, $readers, $writers) = @_;

	for my $pair (@{ $self->{pairs} })
	{
		if (length $pair->{$way})
		{
			$writers->add($pair->{$to});
		}
		else
		{
			$readers->add($pair->{$from});
		}
	}
	return;
}

sub forward
{
	my ($self) = @_;
	my @pairs = @{ $self->{pairs} };

	for my $pair (@pairs)
	{
		my $open = 1;

		next if !defined fileno($pair->{client});
		$open = $self->move($pair, 'server', 'client', 'down') unless $self->{hold_down};
		$open &&= $self->move($pair, 'client', 'server', 'up')
		  if !$self->{hold_up} && defined fileno($pair->{client});
		next if $open;
		close $pair->{client};
		close $pair->{server};
	}
	$self->{pairs} = [ grep { defined fileno($_->{client}) } @{ $self->{pairs} } ];
	return;
}

sub run
{
	my ($self) = @_;
	my $commands = '';

	local $SIG{PIPE} = 'IGNORE';
	$self->{pairs} = [];
	$self->listen_to;
	for (;;)
	{
		my $readers = IO::Select->new($self->{control});
		my $writers = IO::Select->new;

		$readers->add($self->{listener})
		  if $self->{listener} && !($self->{hold_up} && $self->{hold_down});
		$self->wait_for('up', 'client', 'server', $readers, $writers) unless $self->{hold_up};
		$self->wait_for('down', 'server', 'client', $readers, $writers) unless $self->{hold_down};
		my ($readable) = IO::Select->select($readers, $writers, undef, undef);

		if (grep { $_ == $self->{control} } @{ $readable // [] })
		{
			return if !sysread($self->{control}, $commands, 1000, length $commands);
			while ($commands =~ s/^(.*)\n//)
			{
				$self->obey($1);
				syswrite($self->{control}, "ok\n");
			}
			next;
		}
		$self->accept_client
		  if $self->{listener} && grep { $_ == $self->{listener} } @{ $readable // [] };
		$self->forward;
	}
	return;
}

1;
