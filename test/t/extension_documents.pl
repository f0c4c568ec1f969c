# README and docs/ show what really happens: each block of SQL runs, and prints the output below
# it. The reference has each object of schema bemi and each setting, as the catalog has it, and no
# other. Links lead somewhere. Messages name documents, objects and settings that exist. Messages
# that documents quote exist.
#
# Nothing compiles documents. A renamed column or a reworded message breaks them silently, so the
# test runs them like a program. Pages share one server. Each runs alone, in a new database of the
# same name. What a page changes outside of its database is undone after it.
#
# docs/internals/writing-documents.md has the conventions. DOCUMENTS="path ..." runs only these
# pages.

use strict;
use warnings;

use Bemi;
use Bemi::Documents;
use Bemi::Session;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# Pages show "postgres" as the superuser, for any user who runs the tests.
$ENV{PGUSER} = 'postgres';
$ENV{PGTZ} = 'UTC';

# Sources elsewhere are databases of the same server.
my $services = PostgreSQL::Test::Utils::tempdir() . '/pg_service.conf';
$ENV{PGSERVICEFILE} = $services;

my $node = bemi_node('documents', run => 0, initdb => ['--username=postgres'], conf => <<~CONF);
	fsync = off
	statement_timeout = '60s'
	max_replication_slots = 20
	max_wal_senders = 20
	max_worker_processes = 20
	CONF
append_to_file($services, join '', map { "[$_]\nhost=" . $node->host . "\nport=" . $node->port . "\ndbname=$_\nuser=postgres\n" } qw(orders billing));
$node->start;

#
# Running pages
#

# One psql for a page, with what it writes to stdout and stderr in the order in which it writes it.
sub run_psql
{
	my ($input) = @_;
	my $output = '';
	my $psql = IPC::Run::start([ $node->installed_command('psql'), '-X', '-q', '-d', $node->connstr('shop') ],
		'<', \$input, '>&', \$output, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));

	eval { $psql->finish; 1 } or $psql->kill_kill;
	return $output;
}

# One session cleans up, and another one makes the database of the next page while a page runs.
my $admin = Bemi::Session->new($node);
my $maker = Bemi::Session->new($node);
my $version = int($admin->query('SHOW server_version_num') / 10000);
my $roles = $admin->query(q{SELECT string_agg(quote_literal(rolname), ', ') FROM pg_roles});

sub administer
{
	my $result = $admin->query($_[0]);

	die "$_[0]: $result" if $result =~ /^(ERROR|FATAL):/m;
	return $result;
}

sub make_next_database { return $maker->send('CREATE DATABASE next_page'); }

sub take_next_database
{
	die $maker->result if $maker->result ne '';
	return administer('ALTER DATABASE next_page RENAME TO shop');
}

my $pages_done = 0;

# What a page has left behind: settings first, because some keep a commit waiting, then databases with
# their workers and slots, then roles.
sub clean_up
{
	administer('ALTER SYSTEM RESET ALL');
	# The page may have changed settings so recently that this session does not have them yet. So a setting without
	# an effect here has another value after each page. With it, the postmaster has read the file without the others.
	administer(sprintf('ALTER SYSTEM SET log_statement_sample_rate = %.3f', ++$pages_done / 1000));
	administer('SELECT FROM pg_reload_conf()');
	$admin->poll_until('SHOW log_statement_sample_rate', $pages_done / 1000) or die 'settings are left';
	administer('DROP DATABASE shop WITH (FORCE)');
	$admin->poll_until(q{
		SELECT count(pg_drop_replication_slot(slot_name)) FROM pg_replication_slots WHERE NOT active AND slot_name LIKE 'bemi\_%'}, '0')
	  or die 'slots are left';
	administer(q{
		SELECT format('DROP DATABASE %I WITH (FORCE)', datname) FROM pg_database
			WHERE datname NOT IN ('postgres', 'template0', 'template1', 'next_page') \gexec
	});
	administer(qq{SELECT format('DROP ROLE %I', rolname) FROM pg_roles WHERE rolname NOT IN ($roles) \\gexec\n});
	administer('ALTER ROLE postgres RESET ALL');
	return;
}

# What the history has by now, and the log: whether a missing change came late, or not at all.
sub show_state
{
	my ($status, $changes, $errors) = $node->psql('shop', q{
		SELECT * FROM bemi.status;
		SELECT id, committed_at, operation, "table", primary_key FROM bemi.changes ORDER BY id DESC LIMIT 20});

	diag($changes, "\n", $errors, "\n", substr(slurp_file($node->logfile), -4000));
	return;
}

sub run_in_database
{
	my ($page) = @_;
	my @result;

	return ([], [], 0) if !grep { $_->{lang} =~ /^(sql|console)$/ } @{ $page->{blocks} };
	take_next_database();
	make_next_database();
	@result = run_page($page, $version, \&run_psql);
	show_state() if @{ $result[0] } && $page->{file} =~ /^docs/;
	clean_up();
	return @result;
}

make_next_database();
my @pages = map { read_page($_) } document_files('README.md', 'docs', glob 'clients/*/README.md');
my @wanted = split ' ', $ENV{DOCUMENTS} // '';
my @skips;
my $count = 0;

for my $page (@pages)
{
	next if @wanted && !grep { $_ eq $page->{file} } @wanted;
	my ($faults, $skips, $blocks) = run_in_database($page);

	ok(!@$faults, "$page->{file}: $blocks blocks run as they are shown") or diag(join "\n", @$faults);
	push @skips, @$skips;
	$count += $blocks;
}
note("$count blocks were run, " . scalar(@skips) . ' were not:');
note("  $_") for @skips;

# Each of the auditor's questions has a query of one line, which was run above, for one who copies it.
my ($auditor) = grep { $_->{file} =~ /answer-an-auditor/ } @pages;
my @questions = grep { $_->{text} =~ /^\d+\. / } @{ $auditor->{headings} };
my @long = grep {
	my $line = $_->{line};
	my ($first) = grep { $_->{lang} eq 'sql' && !$_->{marks}{test} && $_->{line} > $line } @{ $auditor->{blocks} };
	$first->{text} !~ /^SELECT [^\n]*;\n\z/
} @questions;

is(scalar @questions, 10, 'the auditor has ten questions');
is(join("\n", map { $_->{text} } @long), '', 'each is answered by one line');

#
# The reference
#

$node->safe_psql('postgres', 'CREATE EXTENSION bemi');

sub rows { return map { [ split /\|/, $_, -1 ] } split /\n/, $node->safe_psql('postgres', $_[0]); }

# The headings of some pages that name an object of schema bemi or a setting: name => text below it.
sub reference
{
	my (@files) = @_;
	my %text;

	for my $page (grep { my $page = $_; grep { $page->{file} eq "docs/reference/$_" } @files } @pages)
	{
		for my $heading (grep { $_->{text} =~ /^bemi\.\w+(\(\))?$/ } @{ $page->{headings} })
		{
			$text{ $heading->{text} } = section_of($page, $heading)->{text};
		}
	}
	return %text;
}

# Compares the names that have a heading with those that the server has.
sub compare_names
{
	my ($what, $documented, $existing) = @_;

	is(join("\n", sort keys %$documented), join("\n", sort @$existing), "each $what has its heading in the reference, and nothing else has");
	return;
}

# As users write types, without casts of defaults, and in one line.
sub plain_signature
{
	my ($signature) = @_;

	$signature =~ s/timestamp with time zone/timestamptz/g;
	$signature =~ s/::[a-z_ ]+(\[\])?//g;
	$signature =~ s/\bIN //g;
	$signature =~ s/\s+/ /g;
	$signature =~ s/\( | (?=\))//g;
	return $signature =~ s/^ | $//gr;
}

my %functions = reference('functions.md');
my @catalog = rows(q{
	SELECT 'bemi.' || proname || '()',
		'bemi.' || proname || '(' || pg_get_function_arguments(oid) || ')' || coalesce(' RETURNS ' || pg_get_function_result(oid), '')
	FROM pg_proc WHERE pronamespace = 'bemi'::regnamespace});

compare_names('function', \%functions, [ map { $_->[0] } @catalog ]);
for my $function (grep { exists $functions{ $_->[0] } } @catalog)
{
	my ($signature) = $functions{ $function->[0] } =~ /^```\n(.*?)^```/ms;
	is(plain_signature($signature // ''), plain_signature($function->[1]), "signature of $function->[0]");
}

my %relations = reference('views.md', 'changes.md');
my @relations = rows(q{
	SELECT 'bemi.' || c.relname, string_agg(format('%s %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum)
	FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
	WHERE c.relnamespace = 'bemi'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
	GROUP BY 1});

compare_names('table and view', \%relations, [ map { $_->[0] } @relations ]);
for my $relation (grep { exists $relations{ $_->[0] } } @relations)
{
	my $columns = join ', ', map { ($_->[0] =~ s/`//gr) . " $_->[1]" } first_table($relations{ $relation->[0] });
	is($columns, plain_signature($relation->[1]), "columns of $relation->[0]");
}

my %who = (user => 'anyone', superuser => 'superuser', sighup => '`postgresql.conf`', postmaster => '`postgresql.conf`, restart');
my %settings = reference('settings.md');
my @settings = rows(q{
	SELECT s.name, s.vartype || CASE WHEN s.unit <> '' THEN format(' (%s)', s.unit) ELSE '' END
		|| coalesce(': ' || (SELECT string_agg(format('`%s`', v), ', ' ORDER BY n) FROM unnest(s.enumvals) WITH ORDINALITY u(v, n)), '')
		|| CASE WHEN s.vartype IN ('integer', 'real') THEN format(', %s to %s', s.min_val, s.max_val) ELSE '' END,
		CASE WHEN s.boot_val = '' THEN 'empty' ELSE format('`%s`', current_setting(s.name)) END, s.context
	FROM pg_settings s WHERE s.name LIKE 'bemi.%'});

compare_names('setting', \%settings, [ map { $_->[0] } @settings ]);
for my $setting (grep { exists $settings{ $_->[0] } } @settings)
{
	my ($name, @expected) = @$setting;
	my ($row) = first_table($settings{$name});

	$expected[2] = $who{ $expected[2] };
	is(join(' | ', @{ $row // [] }), join(' | ', @expected), "$name: type, default and who may set it");
}

#
# Links
#

is(join("\n", link_faults(@pages, map { read_page($_) } 'CONTRIBUTING.md', 'SECURITY.md', 'bench/README.md')), '', 'links lead somewhere');

# An index leads to every page.
my %linked = map { my $page = $_; map { $_ => 1 } linked_files($page) } grep { $_->{file} =~ m{^docs/(internals/)?README\.md$} } @pages;
is(join("\n", grep { m{^docs/} && !m{^docs/README} && !$linked{$_} } map { $_->{file} } @pages), '', 'docs/README.md and docs/internals/README.md list every page');

# The proofs of the threat model are files and tests.
my ($proofs) = grep { $_->{file} =~ /threat-proofs/ } @pages;

sub is_no_proof
{
	my ($name) = @_;

	return !-e $name && !-e "src/$name" if $name =~ m{^\w+/[\w.]+$};
	return $name =~ /^[a-z]+_\w+$/ && !(grep { -e } map { "test/$_" } "t/$name.pl", "sql/$name.sql", "specs/$name.spec")
	  && $name !~ /^pg_/;
}

is( join("\n", grep { is_no_proof($_) } map { quoted_strings($_) } @{ ($proofs // read_page('docs/internals/threat-proofs.md'))->{lines} }),
	'', 'the threat model is proven by files and tests that exist');

#
# Messages
#

# Strings of our code, and those of other programs that users see.
my @sources = sort glob 'src/*.[ch] src/*/*.[ch]';
my @scripts = glob 'sql/*.sql sql/query/*.sql sql/revert/*.sql';
my @strings = ((map { c_strings(slurp_file($_)) } @sources), (map { sql_strings(slurp_file($_)) } @scripts));
my @foreign;
my %columns = map { $_->[0] => 1 } rows(q{SELECT DISTINCT column_name FROM information_schema.columns WHERE table_schema = 'bemi'});

sub foreign_strings
{
	my ($bindir, $libdir) = map { s/\s+\z//r } `pg_config --bindir --libdir`;
	my @files = ("$bindir/postgres", glob "$libdir/libpq.so.?");

	@foreign = ((map { slurp_file($_) =~ /[\x20-\x7e\n]{8,}/g } grep { -e } @files), map { local $! = $_; "$!" } 1 .. 40) if !@foreign;
	return @foreign;
}

sub message_exists
{
	my $pattern = message_pattern($_[0]);

	return 1 if $pattern eq '' || $columns{ $_[0] } || grep { /$pattern/ } @strings;
	return scalar grep { /$pattern/ } foreign_strings();
}

# Messages that pages quote: where the reference lists errors, and what one may look for.
sub quoted_messages
{
	my ($page) = @_;

	return map { quoted_strings($_) } $page->{file} =~ /troubleshooting/
	  ? map { /^\|([^|]*)\|/ } @{ $page->{lines} }
	  : join("\n", @{ $page->{lines} }) =~ /^Errors: (.*?)\n\n/msg;
}

for my $page (@pages)
{
	my @missing = grep { !message_exists($_) } quoted_messages($page);
	is(join("\n", @missing), '', "$page->{file}: messages exist as they are quoted") if @missing || quoted_messages($page);
}

# The other way round: what messages and comments name.
my %names = map { $_->[0] => 1 } rows(q{
	SELECT n.nspname || '.' || o.name FROM pg_namespace n, LATERAL (
		SELECT relname FROM pg_class WHERE relnamespace = n.oid UNION SELECT proname FROM pg_proc WHERE pronamespace = n.oid) o(name)
	WHERE n.nspname IN ('bemi', '_bemi') UNION SELECT name FROM pg_settings});

# Functions that only a source without the extension has.
$names{$_} = 1 for slurp_file('bemi-source.sql') =~ /^CREATE OR REPLACE FUNCTION (\w+\.\w+)/mg;

# Files, the site of another Bemi, and what the script makes for a moment.
$names{$_} = 1 for qw(bemi.control bemi.h bemi.io bemi.probe bemi.probe_procedure bemi.probe_table bemi.probe_view);
# Modules of the Python package.
$names{"bemi.$_"} = 1 for map { m{/(\w+)(?:\.py)?$} } glob 'clients/python/src/bemi/*';
my @wrong;

# Pages, too, because sentences can contain renamed objects.
for my $page (@pages)
{
	my @names = map { /(?<![\w.\/@-])(_?bemi\.[a-z]\w*)/g } @{ $page->{lines} };
	push @wrong, map { "$page->{file}: $_" } grep { !$names{$_} && !/\.changes_|_$/ } @names;
}

for my $file (@sources, @scripts, 'Makefile', 'bemi.control')
{
	my $text = slurp_file($file);
	my @literals = $file =~ /\.[ch]$/ ? c_strings($text) : $text;

	for (@literals)
	{
		push @wrong, map { "$file: $_" } grep { !$names{$_} && !/\.changes_/ } /(?<![\w.\/])(_?bemi\.[a-z]\w*)/g;
		push @wrong, map { "$file: setting $_" } grep { !$names{$_} } /\bALTER (?:SYSTEM|ROLE \S+|DATABASE \S+) SET ([a-z_.]+)/g, /"([a-z]+(?:_[a-z]+)+)" (?:must be|is|limits)\b/g,
		  /(?:restart the server|%s): ([a-z_.]+) = /g, map { /"([a-z_.]+)"/g } /\braise ("[a-z_.]+"(?: or "[a-z_.]+")?)/gi;
	}
	push @wrong, map { "$file: document $_" } grep { !-e } $text =~ m{((?:[\w-]+/)*[\w-]+\.md)\b}g;
}
is(join("\n", @wrong), '', 'objects, settings and documents that the source and pages name exist');

#
# The test itself
#

my $faulty = read_page('test/documents/faulty.md');
my ($faults, $skips) = run_in_database($faulty);
my @expected = (
	qr/: the last statement of the block has no semicolon/,
	qr/: a block is skipped without a reason/,
	qr/: ERROR:  column "no_such_column" does not exist/,
	qr/: the output is not what is shown below\n.*-4\n.*\+3\n/s,
	qr/: the output is not what is shown below\n.*-3\n.*\+2\n/s,
	qr/: an error was expected, but there was none/);

is(scalar @$faults, scalar @expected, 'a page with faults: each is found, and no other') or diag(join "\n", @$faults);
like($faults->[$_], $expected[$_], "fault $_") for 0 .. $#expected;
is(scalar @$skips, 1, 'a reason is printed for each block that is not run');
is(scalar(() = link_faults($faulty)), 2, 'links that lead nowhere');

$_->quit for $admin, $maker;
done_testing();
