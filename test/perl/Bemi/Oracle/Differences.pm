# Shows a query that compares, and what it has found: complete in a file, and abridged in the test's output.

package Bemi::Oracle::Differences;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(show_differences);

my $shown = 0;

sub show_differences
{
	my ($sql, $result) = @_;
	my $file = "$PostgreSQL::Test::Utils::log_path/differences" . ++$shown . '.sql';
	my @lines = split /\n/, $result;

	append_to_file($file, "$sql;\n/*\n$result\n*/\n");
	diag("complete in $file:");
	diag(map { s/(.)\g1{30,}/$1.../gr . "\n" } $sql, grep { defined } @lines[ 0 .. 39 ]);
	diag('and ' . (@lines - 40) . ' more lines') if @lines > 40;
	return;
}

1;
