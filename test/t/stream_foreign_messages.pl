# Unusual sources: messages in other languages than English, and results with missing rows or
# columns.
#
# The hint depends on the SQLSTATE, in any language.
#
# PostgreSQL's translated messages need locales that a test machine lacks. So a process acts as
# the source and answers each attempt to connect with a given error, in the protocol's format. The
# same error in English has a more precise hint, because its text can be read.
#
# A second process accepts every connection, and answers each command with a wrong number of rows
# and columns, as a pooler may. No such result may crash the server of the history.

use strict;
use warnings;

use Bemi;
use IO::Socket::UNIX;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $history = bemi_node('history');
my $directory = PostgreSQL::Test::Utils::tempdir_short();
my $conninfo = "host=$directory port=7777 user=leser dbname=laden password=x";

# Runs a stand-in, which calls a function for each client, in a separate process: the
# worker has two connections.
sub stand_in
{
	my ($serve) = @_;
	my $path = "$directory/.s.PGSQL.7777";

	unlink $path;
	my $listener = IO::Socket::UNIX->new(Local => $path, Listen => 5)
	  or die "could not listen on $path: $!";
	my $pid = fork() // die "no process: $!";
	return $pid if $pid;
	$SIG{PIPE} = $SIG{CHLD} = 'IGNORE';
	while (1)
	{
		my $client = $listener->accept // next;

		if (fork() == 0)
		{
			$serve->($client);
			POSIX::_exit(0);
		}
		close $client;
	}
}

# Refuses a client.  Several fields of the error are those that PostgreSQL sends.
sub refuse
{
	my ($sqlstate, $message) = @_;

	return sub {
		my ($client) = @_;
		my $error = join('', map { "$_\0" } 'SFATAL', 'VFATAL', "C$sqlstate", "M$message",
			'Fauth.c', 'L335', 'Rauth_failed') . "\0";

		sysread $client, my $startup, 10000;
		syswrite $client, message('E', $error);
	};
}

# A message of the protocol.
sub message
{
	my ($type, $content) = @_;

	return $type . pack('N', 4 + length $content) . $content;
}

# Lets a client in, and answers its commands with what a function makes of them: undef for a
# command without a result, or a row, or a reference to an empty array for columns without one.
sub answer
{
	my ($answer) = @_;

	return sub {
		my ($client) = @_;

		sysread $client, my $startup, 10000;
		syswrite $client, message('R', pack('N', 0))
		  . join('', map { message('S', "$_\0") } "server_version\0" . '15.0', "server_encoding\0UTF8", "client_encoding\0SQL_ASCII", "integer_datetimes\0on")
		  . message('K', pack('NN', 1, 1)) . message('Z', 'I');
		while (sysread $client, my $command, 100000)
		{
			# A query by itself, or with values: then Parse, with an empty name before the text, to Sync
			# come together.
			my ($kind, $text) = unpack 'a1 x4 a*', $command;
			last unless $kind =~ /[QP]/;
			my $row = $answer->($kind eq 'P' ? substr $text, 1 : $text);
			my $reply = $kind eq 'P' ? message('1', '') . message('2', '') : '';

			if ($row)
			{
				my $columns = @$row || 1;

				$reply .= message('T', pack('n', $columns) . join('', map { "c$_\0" . pack('NnNnNn', 0, 0, 25, 65535, 4294967295, 0) } 1 .. $columns));
				$reply .= message('D', pack('n', scalar @$row) . join('', map { defined ? pack('N', length) . $_ : pack('N', 4294967295) } @$row)) if @$row;
			}
			syswrite $client, $reply . message('C', ($row ? 'SELECT 1' : 'SET') . "\0") . message('Z', 'I');
		}
	};
}

# The messages of bemi.start() for a source that such a function simulates.
sub error_with
{
	my ($serve) = @_;
	my $pid = stand_in($serve);
	my $error = start_error($history, "CALL bemi.start('fremd', conninfo => '$conninfo')");

	# Not TERM, which the test's framework answers by stopping its servers.
	kill 'KILL', $pid;
	waitpid $pid, 0;
	return $error;
}

sub refused
{
	return error_with(refuse(@_));
}

my $error = refused('28P01', 'Passwort-Authentifizierung für Benutzer »leser« fehlgeschlagen');
like($error,
	qr/HINT:  .*the right user and password: CALL bemi\.stop\('fremd'\); CALL bemi\.start\('fremd', conninfo => '\.\.\.'\);/,
	'a wrong password: the hint names the source');
like($error, qr/failed: FATAL:  Passwort-Authentifizierung für Benutzer »leser« fehlgeschlagen\)?$/m,
	'the message is as the source has sent it');
unlike($error, qr/28P01|auth\.c/, 'without what only the hint needs');
is($error, refused('28P01', 'password authentication failed for user "leser"') =~ s/password authentication failed for user "leser"/Passwort-Authentifizierung für Benutzer »leser« fehlgeschlagen/r,
	'it is the hint of the English message');
like(refused('42501', 'keine Berechtigung'),
	qr/HINT:  At the source: ALTER ROLE leser REPLICATION; GRANT CONNECT ON DATABASE laden TO leser;/,
	'a right that is missing');
like(refused('28000', 'kein pg_hba-Eintrag'), qr/HINT:  At the source, check that role leser exists and may log in, and that pg_hba\.conf/,
	'a role that is not let in');
like(refused('53300', 'zu viele Verbindungen'), qr/HINT:  At the source, raise "max_connections".*ALTER ROLE leser CONNECTION LIMIT -1;/,
	'too many connections');
like(refused('53300', 'too many connections for role "leser"'), qr/HINT:  Run this at the source: ALTER ROLE leser CONNECTION LIMIT -1;/,
	'the English message says which limit it is');
unlike(refused('XX000', 'etwas anderes'), qr/HINT:  At the source/, 'an error that nobody knows a remedy for');

#
# Results with missing rows or columns
#

# The queries of a worker, the results of a source without tables, and what may be missing.
my @questions = (
	[ 'who it is', qr/^IDENTIFY_SYSTEM/, [ '7000000000000000000', '1', '0/2000000', 'laden' ] ],
	[ 'when it was started', qr/pg_postmaster_start_time/, ['1700000000000000'] ],
	[ 'the end of its WAL', qr/^SELECT CASE WHEN pg_is_in_recovery/, ['0/2000000'], 'NULL' ],
	[ 'whether its key is readable', qr/has_table_privilege/, [ 't', 't' ], 'no row' ],
	[ 'its key', qr/FROM _bemi\.signing_key/, [ 'secret', '1 1' ], 'no row', 'NULL' ],
	[ 'the publication', qr/pg_get_publication_tables\(p/, ['[]'], 'no row' ],
	[ 'the slot', qr/^SELECT confirmed_flush_lsn/, [ '0/1000000', 'f', 't', 'f' ], 'no row' ],
	[ 'to drop the slot', qr/^DROP_REPLICATION_SLOT/ ],
	[ 'another slot', qr/^CREATE_REPLICATION_SLOT/, [ 'slot', '0/2000000', '1-1', 'pgoutput' ] ],
	[ 'its tables', qr/bemi\.describe/, ['[]'] ],
	[ 'the time', qr/clock_timestamp/, ['1700000000000000'] ],
	[ 'its patience', qr/wal_sender_timeout/, ['60000'], 'no row' ]);

# Returns the right results, except for one query.
sub answer_wrong
{
	my ($number, $wrong) = @_;

	return answer(sub {
		my ($command) = @_;

		for my $i (0 .. $#questions)
		{
			next unless $command =~ $questions[$i][1];
			return $i == $number ? $wrong : $questions[$i][2];
		}
		return undef;
	});
}

for my $i (grep { $questions[$_][2] } 0 .. $#questions)
{
	my ($question, undef, $right, @allowed) = @{ $questions[$i] };
	my %wrong = ('no row' => [], 'NULL' => [undef]);

	$wrong{'too few columns'} = [ $right->[0] ] if @$right > 1;
	for my $what (sort keys %wrong)
	{
		my $error = error_with(answer_wrong($i, $wrong{$what}));
		my $is_allowed = grep { $_ eq $what } @allowed;

		# Up to START_REPLICATION, or to the query for a publication, if it is allowed.
		like($error, $is_allowed ? qr/could not start source "fremd"/ : qr/source has sent an incomplete answer/,
			"asked for $question, the source answers with $what");
		$history->psql('postgres', q{CALL bemi.drop_source('fremd', force => true)});
	}
}
unlike(slurp_file($history->logfile), qr/was terminated by signal/, 'no answer has crashed the server');

$history->stop;
done_testing();
