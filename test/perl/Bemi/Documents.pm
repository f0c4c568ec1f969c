# Reads the Markdown of the documents, runs its blocks of SQL, and compares them with what
# psql prints.  docs/internals/writing-documents.md has the conventions.
#
# A page is run by one psql, whose input is all blocks of the page.  Lines that \echo prints
# separate the output of the blocks, and show where psql ended if it did not reach the end.
#
# Faults are strings that begin with file and line, and are collected rather than thrown, so
# that a run shows all of them.

package Bemi::Documents;

use strict;
use warnings;

use Exporter 'import';
use File::Basename;
use File::Find;
use File::Temp;
use IPC::Run;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(document_files read_page run_page link_faults linked_files section_of first_table quoted_strings
  c_strings sql_strings message_pattern);

# Markdown files below these, sorted.
sub document_files
{
	my (@roots) = @_;
	my @files;

	for my $root (@roots)
	{
		if (-f $root) { push @files, $root; next; }
		find({
				no_chdir => 1,
				wanted => sub {
					$File::Find::prune = 1 if /\/node_modules$/;
					push @files, $_ if /\.md$/;
				} }, $root);
	}
	return sort @files;
}

#
# Reading
#

# Returns a page: file, lines, headings (line, level, text, anchor), links (line, target) and blocks.
# A block has line, lang, text, and marks: "test" if readers do not see it, "error", "skip", "from".
sub read_page
{
	my ($file) = @_;
	my $page = { file => $file, lines => [ split /\n/, slurp_file($file) ], headings => [], links => [], blocks => [] };
	my %marks;

	for (my $i = 0; $i < @{ $page->{lines} }; $i++)
	{
		my $line = $page->{lines}[$i];

		if ($line =~ /^(\s*)```+\s*(\S*)/)
		{
			my $block = { line => $i + 1, lang => $2, marks => {%marks} };

			$block->{text} = read_to($page, \$i, qr/^\s*```+\s*$/, length $1);
			$block->{last_line} = $i + 1;
			push @{ $page->{blocks} }, $block;
			%marks = ();
		}
		elsif ($line =~ /^<!-- test$/)
		{
			my $block = { line => $i + 1, lang => 'sql', marks => { %marks, test => 1 } };

			$block->{text} = read_to($page, \$i, qr/^-->$/, 0);
			$block->{last_line} = $i + 1;
			push @{ $page->{blocks} }, $block;
			%marks = ();
		}
		elsif ($line =~ /^\s*<!-- (skip|error|from)\b:?\s*(.*?)\s*-->\s*$/) { $marks{$1} = $2; }
		elsif ($line =~ /\S/)
		{
			%marks = ();
			read_line($page, $i + 1, $line);
		}
	}
	return $page;
}

# The lines up to the one that ends the block, on which $i stands then.
sub read_to
{
	my ($page, $i, $end, $indent) = @_;
	my $text = '';

	while (++$$i < @{ $page->{lines} } && $page->{lines}[$$i] !~ $end)
	{
		$text .= ($page->{lines}[$$i] =~ s/^\s{0,$indent}//r) . "\n";
	}
	return $text;
}

sub read_line
{
	my ($page, $number, $line) = @_;

	if ($line =~ /^(#+) (.*?)\s*$/)
	{
		push @{ $page->{headings} }, { line => $number, level => length $1, text => $2, anchor => anchor_of($page, $2) };
	}
	$line =~ s/`[^`]*`//g;
	push @{ $page->{links} }, { line => $number, target => $1 } while $line =~ /\]\(([^)\s]+)\)/g;
	return;
}

# As code hosts make them of a heading.
sub anchor_of
{
	my ($page, $text) = @_;
	my $anchor = lc($text =~ s/\[([^\]]*)\]\([^)]*\)/$1/gr);

	$anchor =~ s/[^\w\- ]//g;
	$anchor =~ s/ /-/g;
	my $same = $page->{anchors}{$anchor}++;
	return $same ? "$anchor-$same" : $anchor;
}

# The lines below a heading, up to the next one of any level, with the number of the first.
sub section_of
{
	my ($page, $heading) = @_;
	my ($next) = grep { $_->{line} > $heading->{line} } @{ $page->{headings} };
	my $last = $next ? $next->{line} - 1 : scalar @{ $page->{lines} };

	return { from => $heading->{line} + 1, to => $last,
		text => join("\n", @{ $page->{lines} }[ $heading->{line} .. $last - 1 ]) . "\n" };
}

# Rows of the first table of a text, without its head, as lists of cells.
sub first_table
{
	my ($text) = @_;
	my ($table) = $text =~ /^\|[^\n]*\n\|[-| ]+\|\n((?:\|[^\n]*\n)*)/m or return;

	return map { [ map { s/^\s+|\s+$//gr } split /(?<!\\)\|/, s/^\|//r ] } split /\n/, $table;
}

sub quoted_strings { return $_[0] =~ /`([^`]+)`/g; }

#
# Links
#

# The files that a page leads to.
sub linked_files
{
	my ($page) = @_;

	return map { file_of($page, $_->{target} =~ s/#.*//r) } grep { $_->{target} !~ /^([a-z]+:|#)/ } @{ $page->{links} };
}

sub file_of
{
	my ($page, $path) = @_;
	my @parts;

	return $page->{file} if $path eq '';
	for my $part (grep { $_ ne '.' } split m{/}, dirname($page->{file}) . "/$path")
	{
		if ($part eq '..' && @parts && $parts[-1] ne '..') { pop @parts; }
		else { push @parts, $part; }
	}
	return join '/', @parts;
}

# Links that lead to no file or no heading.
sub link_faults
{
	my (@pages) = @_;
	my %known = map { $_->{file} => $_ } @pages;
	my @faults;

	for my $page (@pages)
	{
		for my $link (grep { $_->{target} !~ /^[a-z]+:/ } @{ $page->{links} })
		{
			my ($path, $anchor) = split /#/, $link->{target}, 2;
			my $file = file_of($page, $path);
			my $where = "$page->{file}:$link->{line}: the link $link->{target}";

			if (!-e $file) { push @faults, "$where leads to no file"; }
			elsif (defined $anchor && $file =~ /\.md$/)
			{
				my $target = $known{$file} //= read_page($file);
				push @faults, "$where leads to no heading of $file"
				  unless grep { $_->{anchor} eq $anchor } @{ $target->{headings} };
			}
		}
	}
	return @faults;
}

#
# Running
#

my $sign = '-- bemi documents --';

# Runs a page.  Returns the faults, the reasons of blocks that were not run, and the number of those that were.
# Parameters: the server's version, and a function that runs psql's input and returns its output.
sub run_page
{
	my ($page, $version, $run_psql) = @_;
	my ($units, $faults, $skips) = units_of($page, $version);
	my $input = '';

	for my $i (0 .. $#$units)
	{
		my $quiet = $units->[$i]{console} ? 'off' : 'on';
		$input .= "\\set QUIET $quiet\n$units->[$i]{input}\n\\set QUIET on\n\\r\n\\echo $sign $i\n";
	}
	my %output = outputs_of($run_psql->($input)) if @$units;
	for my $i (0 .. $#$units)
	{
		if (!exists $output{$i})
		{
			push @$faults, where($page, $units->[$i]) . "psql ended here, or waited for too long:\n" . ($output{rest} // '');
			last;
		}
		push @$faults, unit_faults($page, $units->[$i], $output{$i});
	}
	my %lines = map { $_->{block}{line} => 1 } @$units;
	return ($faults, $skips, scalar keys %lines);
}

# What psql runs in one piece: a block of SQL with the output below it, or one statement of a session.
sub units_of
{
	my ($page, $version) = @_;
	my (@units, @faults, @skips);
	my @blocks = @{ $page->{blocks} };

	for my $i (0 .. $#blocks)
	{
		my $block = $blocks[$i];
		next if $block->{lang} !~ /^(sql|console)$/;
		my $where = "$page->{file}:$block->{line}: ";

		if (defined(my $reason = $block->{marks}{skip}))
		{
			if ($reason eq '') { push @faults, "${where}a block is skipped without a reason"; }
			else { push @skips, $where . $reason; }
		}
		elsif ($version < ($block->{marks}{from} // 0)) { push @skips, "${where}PostgreSQL before $block->{marks}{from}"; }
		elsif ($block->{lang} eq 'console') { push @units, session_units($block); }
		elsif (!is_finished($block->{text})) { push @faults, "${where}the last statement of the block has no semicolon"; }
		else
		{
			push @units, { block => $block, line => $block->{line}, input => $block->{text}, shown => shown_output($page, $block, $blocks[ $i + 1 ]) };
		}
	}
	return (\@units, \@faults, \@skips);
}

# Ends the text with a semicolon, or with a command of psql?  Comments may follow.
sub is_finished
{
	my ($text) = @_;
	my $plain = $text =~ s{/\*.*?\*/}{}gsr;

	$plain =~ s/--[^\n]*//g;
	$plain =~ s/\s+\z//;
	return $plain eq '' || $plain =~ /;\z/ || $plain =~ /\\\S[^\n]*\z/;
}

# The output that is shown below a block: a block without a language right after it.
sub shown_output
{
	my ($page, $block, $next) = @_;

	return if !$next || $next->{lang} ne '' || $block->{marks}{test};
	for my $line ($block->{last_line} + 1 .. $next->{line} - 1)
	{
		return if $page->{lines}[ $line - 1 ] =~ /\S/;
	}
	return $next->{text};
}

# The statements of a psql session, each with what it has printed.
sub session_units
{
	my ($block) = @_;
	my @units;
	my $number = $block->{line};

	for my $line (split /\n/, $block->{text})
	{
		$number++;
		if ($line =~ /^\w+=[*!]?[#>] ?(.*)$/)
		{
			push @units, { block => $block, console => 1, line => $number, input => $1, shown => '' };
		}
		elsif ($line =~ /^\w+[-'"(*\$][*!]?[#>] ?(.*)$/ && @units && $units[-1]{shown} eq '') { $units[-1]{input} .= "\n$1"; }
		elsif (@units) { $units[-1]{shown} .= "$line\n"; }
	}
	return @units;
}

# Parts what psql has printed by the lines of \echo.
sub outputs_of
{
	my ($output) = @_;
	my ($i, %output) = (0, rest => '');

	for my $line (split /\n/, $output)
	{
		if ($line =~ /^\Q$sign\E (\d+)$/) { $output{$1} = $output{rest}; $output{rest} = ''; }
		else { $output{rest} .= "$line\n"; }
	}
	return %output;
}

sub where
{
	my ($page, $unit) = @_;

	return "$page->{file}:$unit->{line}: ";
}

sub unit_faults
{
	my ($page, $unit, $output) = @_;
	my $where = where($page, $unit);
	my @errors = $output =~ /^((?:psql:\S+ )?(?:ERROR|FATAL|PANIC):.*|invalid command.*|.*: No such file or directory)$/mg;
	my $marked = exists $unit->{block}{marks}{error};

	return "${where}an error was expected, but there was none" if $marked && !@errors;
	if (!defined $unit->{shown})
	{
		return if !@errors || $marked;
		return "${where}$errors[0]\n" . quote('psql has printed', $output);
	}
	return if shown_pattern($unit) && plain_output($output) =~ shown_pattern($unit);
	return "${where}the output is not what is shown below\n" . diff($unit->{shown}, $output) . quote('To paste, psql has printed', $output);
}

# What varies from run to run is replaced by names, and the layout of tables, which depends on it, is lost.
sub plain_output
{
	my ($text) = @_;

	$text =~ s/\d{4}-\d\d-\d\d[ T]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:[+-]\d\d(?::?\d\d)?|Z)?/<time>/g;
	$text =~ s/\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b/<uuid>/gi;
	$text =~ s{\b[0-9A-F]{1,8}/[0-9A-F]{1,8}\b}{<lsn>}g;
	$text =~ s/\bbemi_\d+_/bemi_<oid>_/g;
	return join '', map { "$_\n" } grep { $_ ne '' } map { plain_line($_) } split /\n/, $text;
}

sub plain_line
{
	my ($line) = @_;

	$line =~ s/[-+]{2,}/--/g if $line =~ /^[-+]+$|^-\[ RECORD/;
	$line =~ s/\s+/ /g;
	return $line =~ s/^ | $//gr;
}

# A whole session is compared, but of a block of SQL only the end of what it prints.
sub shown_pattern
{
	my ($unit) = @_;
	my $pattern = join '', map { $_ eq '...' ? '(?:.*\n)*?' : join('.*?', map { quotemeta } split(/\Q...\E/, $_, -1)) . '\n' }
	  split /\n/, plain_output($unit->{shown});

	return $unit->{console} ? qr/\A$pattern\z/ : qr/^$pattern\z/m;
}

sub quote
{
	my ($title, $text) = @_;

	return "  $title:\n" . join('', map { "    $_\n" } split /\n/, $text);
}

# Line by line, without what does not count, and from the end as far as lines are shown.
sub diff
{
	my ($shown, $output) = map { plain_output($_) } @_;
	my $count = ($shown =~ /^\Q...\E$/m) ? 1000 : ($shown =~ tr/\n//) + 5;
	my @printed = split /^/, $output;
	my @files = map { my $file = File::Temp->new; print $file $_; $file->flush; $file }
	  $shown, join('', @printed > $count ? @printed[ -$count .. -1 ] : @printed);
	my $diff = '';

	IPC::Run::run([ 'diff', '-U1000', '--label', 'shown', '--label', 'printed', map { $_->filename } @files ], '>', \$diff);
	return join '', map { "    $_\n" } split /\n/, $diff;
}

#
# Messages
#

# The string literals of C code, those that follow each other as one.
sub c_strings
{
	my ($code) = @_;

	$code =~ s/^#include.*//mg;
	$code =~ s{("(?:\\.|[^"\\\n])*")|/\*.*?\*/}{$1 // ' '}gse;
	return map { s/\\"/"/gr } map { join '', /"((?:\\.|[^"\\\n])*)"/g } $code =~ /((?:"(?:\\.|[^"\\\n])*"\s*(?:PRI\w+\s*)?)+)/g;
}

# Those of an SQL script, without comments.
sub sql_strings
{
	return map { s/''/'/gr } grep { defined } $_[0] =~ /--[^\n]*|'((?:[^']|'')*)'/g;
}

# A message as it is quoted in documents, to be found in what the source has for it: "..." is what varies.
# The source has a placeholder for other names and numbers, too.
sub message_pattern
{
	my ($message) = @_;

	return join '.+?', map { piece_pattern($_) } grep { $_ ne '' } split /\s*\Q...\E\s*/, $message;
}

sub piece_pattern
{
	return join '', map { /^("[\w.]+"|bemi\.\w+\(\)|\d+)$/ ? '(?:' . quotemeta . '|"?%\w*(?:\(\))?"?)' : quotemeta } split /("[\w.]+"|bemi\.\w+\(\)|\b\d+\b)/, $_[0];
}

1;
