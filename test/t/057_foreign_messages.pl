# A source whose messages are not in English: the hint goes by the SQLSTATE.
#
# The languages of PostgreSQL's messages need locales that a test machine does not
# have.  So a process stands in for the source: it answers each attempt to connect
# with the error that it is given, as the protocol wants it.  The same error in
# English has a hint that says more, because its text can be read.

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

# Runs the stand-in.  Several fields of the error are those that PostgreSQL sends.
sub stand_in
{
	my ($sqlstate, $message) = @_;
	my $path = "$directory/.s.PGSQL.7777";

	unlink $path;
	my $listener = IO::Socket::UNIX->new(Local => $path, Listen => 5)
	  or die "could not listen on $path: $!";
	my $pid = fork() // die "no process: $!";
	return $pid if $pid;
	while (my $client = $listener->accept)
	{
		my $error = join('', map { "$_\0" } 'SFATAL', 'VFATAL', "C$sqlstate", "M$message",
			'Fauth.c', 'L335', 'Rauth_failed') . "\0";

		sysread $client, my $startup, 10000;
		syswrite $client, 'E' . pack('N', 4 + length $error) . $error;
		close $client;
	}
	POSIX::_exit(0);
}

sub refused
{
	my ($sqlstate, $message) = @_;
	my $pid = stand_in($sqlstate, $message);
	my $error = start_error($history, "CALL bemi.start('fremd', conninfo => '$conninfo')");

	# Not TERM, which the test's framework answers by stopping its servers.
	kill 'KILL', $pid;
	waitpid $pid, 0;
	return $error;
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
like(refused('28000', 'kein pg_hba-Eintrag'), qr/HINT:  At the source, see that role leser exists and may log in, and that pg_hba\.conf/,
	'a role that is not let in');
like(refused('53300', 'zu viele Verbindungen'), qr/HINT:  At the source, raise "max_connections".*ALTER ROLE leser CONNECTION LIMIT -1;/,
	'too many connections');
like(refused('53300', 'too many connections for role "leser"'), qr/HINT:  Run this at the source: ALTER ROLE leser CONNECTION LIMIT -1;/,
	'the English message says which limit it is');
unlike(refused('XX000', 'etwas anderes'), qr/HINT:  At the source/, 'an error that nobody knows a remedy for');

$history->stop;
done_testing();
