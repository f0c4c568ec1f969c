# No setting of a database, a role or a configuration file changes what is stored, or stops the
# worker.
#
# An application sets defaults for its sessions, and every process of the server inherits them:
# the launcher, the worker, its walsender, and sessions that track tables. So the test tries each
# case that once failed alone. Then it sets all settings of the server to unusual values, in every
# place where a default can be set, and bemi must work as without them. The list of settings comes
# from the server, so it includes those of newer versions.

use strict;
use warnings;

use Bemi;
use Bemi::Proxy;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $workers = "max_worker_processes = 32\n";
my $node = bemi_node('main', conf => $workers);
my $remote = bemi_node('remote', conf => $workers);
for my $in ($node, $remote)
{
	$in->safe_psql($_, 'CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler') for 'postgres', 'template1';
	$in->safe_psql('postgres', 'CREATE ROLE shop_owner');
}
my $owner = $node->safe_psql('postgres', 'SELECT current_user');

# As options of a session: settings that even a test needs, if the server has them, and the
# defaults of settings that change the output of values, for queries of the right values.
my $patient = join ' ', map { "-c $_" } split /\n/, $node->safe_psql(
	'postgres', q{
	SELECT v.name || '=' || v.value FROM (VALUES ('statement_timeout', '60s'), ('lock_timeout', '0'),
			('idle_session_timeout', '0'), ('idle_in_transaction_session_timeout', '0'), ('transaction_timeout', '0'),
			('default_transaction_read_only', 'off'), ('session_replication_role', 'origin'),
			('restrict_nonsystem_relation_kind', ''), ('client_min_messages', 'warning')) v(name, value)
		JOIN pg_settings USING (name)});
my $plain = "$patient -c role=none -c timezone=UTC -c datestyle=ISO -c intervalstyle=postgres"
  . ' -c extra_float_digits=1 -c bytea_output=hex -c array_nulls=on -c quote_all_identifiers=off'
  . ' -c search_path=pg_catalog -c client_encoding=UTF8 -c standard_conforming_strings=on'
  . ' -c exit_on_error=off';

# The result of a query in a session with defaults.
sub ask
{
	my ($in, $query, $database) = @_;

	local $ENV{PGOPTIONS} = $plain;
	return $in->safe_psql($database // 'postgres', $query);
}

# Rows of the history of a table, and what they should be, as long as they are not the same.
sub differences
{
	my ($from, $to, $table, $source, $database) = @_;
	my $stored = ask($to, qq{SELECT primary_key, after FROM bemi.changes
		WHERE source = '$source' AND "table" = '$table' AND operation = 'CREATE' ORDER BY primary_key}, $database);
	my $right = ask($from, "SELECT id, to_jsonb(whole) FROM public.$table whole ORDER BY id::text COLLATE \"C\"",
		$from == $to ? $database : undef);

	return $stored eq $right ? '' : "stored: $stored\nright: $right";
}

# Waits until all that is committed in $from is stored in $to, as bemi.sync() does only
# for sources on its own server.
sub wait_for_history
{
	my ($from, $to, $source, $database) = @_;
	my $position = ask($from, 'SELECT pg_current_wal_lsn()');

	local $ENV{PGOPTIONS} = $plain;
	$to->poll_query_until($database // 'postgres', "SELECT stored_lsn >= '$position' FROM bemi.status WHERE source = '$source'")
	  or die "source $source is not stored";
	return;
}

#
# Each case alone, in its own database
#

sub case_database
{
	my ($name, $sql) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $name");
	$node->safe_psql($name, 'CREATE EXTENSION bemi');
	$node->safe_psql($name, $sql);
	return;
}

sub synced
{
	my ($database) = @_;

	return ask($node, q{SELECT bemi.sync('60s')}, $database);
}

case_database('array_nulls', q{
	CREATE TABLE f1 (id int PRIMARY KEY, a int[], t text[], d date[]);
	SELECT bemi.track('f1');
	ALTER DATABASE array_nulls SET array_nulls = off;
	CALL bemi.start()});
ask($node, q{INSERT INTO public.f1 VALUES (1, ARRAY[1, NULL], ARRAY['x', NULL, 'NULL'], ARRAY[NULL, '2026-01-01'::date])}, 'array_nulls');
synced('array_nulls');
is(differences($node, $node, 'f1', 'main', 'array_nulls'), '', 'array_nulls = off: NULL elements stay null');

case_database('statement_timeout', q{
	CREATE TABLE t (id int PRIMARY KEY);
	SELECT bemi.track('t');
	ALTER DATABASE statement_timeout SET statement_timeout = '1ms';
	ALTER DATABASE statement_timeout SET lock_timeout = '1ms';
	ALTER DATABASE statement_timeout SET idle_session_timeout = '1ms';
	ALTER DATABASE statement_timeout SET idle_in_transaction_session_timeout = '1ms'});
{
	local $ENV{PGOPTIONS} = $patient;
	is(start_error($node, undef, 'statement_timeout'), '', 'statement_timeout = 1ms: a source is started');
	$node->safe_psql('statement_timeout', q{INSERT INTO t VALUES (1); SELECT bemi.sync('60s')});
	is(changes($node, undef, 'statement_timeout'), 't|1|CREATE|{}|{"id": 1}|{}', 'and read');
}

# ALTER TABLE is followed under the settings of the role that runs it.
case_database('rules_lost', q{
	CREATE TABLE red (id int PRIMARY KEY, card text);
	SELECT bemi.track('red', redact => '{card}');
	CALL bemi.start()});
my $stderr;
$node->psql('rules_lost', q{
		SET standard_conforming_strings = off;
		SET backslash_quote = on;
		ALTER TABLE red RENAME card TO card_no;
		SELECT bemi.track('red');
		CREATE TABLE other (id int PRIMARY KEY);
		SELECT bemi.track('other', redact => '{id}'), bemi.untrack('other')},
	stderr => \$stderr);
is($stderr, '', 'standard_conforming_strings = off: a column is renamed, a table tracked and untracked');
$node->safe_psql('rules_lost', q{
	ALTER TABLE red ADD note text;
	INSERT INTO red VALUES (1, '4111-secret');
	SELECT bemi.sync('60s')});
is( $node->safe_psql('rules_lost', 'SELECT after FROM bemi.changes'),
	'{"id": 1, "note": null, "card_no": "[redacted]"}',
	'and the rule goes with the renamed column');

# A type that prints as many digits as a setting requests.
SKIP:
{
	skip 'extension "unit" is not installed', 1
	  unless $node->safe_psql('postgres', q{SELECT count(*) FROM pg_available_extensions WHERE name = 'unit'});
	case_database('float_types', q{
		CREATE EXTENSION unit;
		CREATE TABLE f4 (id int PRIMARY KEY, u unit, k unit[]);
		SELECT bemi.track('f4');
		CALL bemi.start();
		INSERT INTO f4 VALUES (1, '9.81 m/s^2', ARRAY['0.1 kg'::unit])});
	synced('float_types');
	is(differences($node, $node, 'f4', 'main', 'float_types'), '', 'types print with the digits of to_jsonb()');
}

# The server starts again, so this comes last.
case_database('default_role', q{
	CREATE TABLE t (id int PRIMARY KEY);
	SELECT bemi.track('t');
	CALL bemi.start();
	ALTER DATABASE default_role SET role = shop_owner});
case_database('default_session', q{
	CREATE TABLE t (id int PRIMARY KEY);
	SELECT bemi.track('t');
	CALL bemi.start();
	ALTER DATABASE default_session SET session_authorization = shop_owner});
$node->restart;
for my $database (qw(default_role default_session))
{
	ask($node, 'INSERT INTO public.t VALUES (1)', $database);
	synced($database);
	is(ask($node, 'SELECT after FROM bemi.changes', $database), '{"id": 1}', "$database: the worker goes on");
}

#
# All of them at once
#

# Left as they are: what would keep a test, or any session, from its own work; what turns
# off what bemi is; what applies to one transaction; and limits of the machine.
my %excluded = map { $_ => 1 } qw(
  local_preload_libraries bemi.asynchronous bemi.max_context_size bemi.max_context_keys
  bemi.ignore_columns bemi.include bemi.noop_updates bemi.require_context bemi.retention
  transaction_isolation transaction_read_only transaction_deferrable
  event_triggers output_plugin_libraries dynamic_library_path extension_control_path extension_destdir
  max_stack_depth temp_file_limit ignore_checksum_failure zero_damaged_pages
  lc_messages lc_monetary lc_numeric lc_time
  log_min_messages log_statement_stats debug_print_parse debug_print_plan debug_print_rewritten
  log_parser_stats log_planner_stats log_executor_stats trace_notify
  debug_discard_caches);

# For a text, its description does not give another value.
my %texts = (
	'application_name' => q{'shop'},
	'backtrace_functions' => q{'no_such_function'},
	'bemi.context' => q{'{"job": "nightly"}'},
	'bemi.partition_interval' => q{'day'},
	'bemi.tags' => q{'*'},
	'bemi.tags_format' => q{'sqlcommenter, marginalia'},
	'client_encoding' => q{'LATIN1'},
	'createrole_self_grant' => q{'set'},
	'DateStyle' => q{'SQL, DMY'},
	'default_table_access_method' => q{'heap2'},
	'default_tablespace' => q{'odd'},
	'default_text_search_config' => q{'pg_catalog.german'},
	'plpgsql.extra_errors' => q{'all'},
	'plpgsql.extra_warnings' => q{'all'},
	'restrict_nonsystem_relation_kind' => q{'view, foreign-table'},
	'search_path' => q{evil, public, pg_catalog},
	'session_preload_libraries' => q{'auto_explain'},
	'synchronized_standby_slots' => q{''},
	'temp_tablespaces' => q{'odd'},
	'TimeZone' => q{'Pacific/Chatham'},
	'timezone_abbreviations' => q{'India'},
	'wal_consistency_checking' => q{'heap'});

# The settings of a server, each with a value that is not its default, as SQL.
sub bent_settings
{
	my ($in) = @_;
	my (%bent, @unknown);

	for my $line (
		split /\n/, $in->safe_psql('postgres', q{
			LOAD 'plpgsql';
			SELECT name, vartype, CASE vartype
				WHEN 'bool' THEN CASE boot_val WHEN 'on' THEN 'off' ELSE 'on' END
				WHEN 'enum' THEN (SELECT v FROM unnest(enumvals) WITH ORDINALITY u(v, n) WHERE v <> boot_val ORDER BY n LIMIT 1)
				WHEN 'string' THEN NULL
				ELSE CASE WHEN min_val::float8 < boot_val::float8 AND min_val <> '-1' THEN min_val
					WHEN boot_val::float8 + 1 <= max_val::float8 THEN (boot_val::float8 + 1)::text ELSE min_val END END
			FROM pg_settings WHERE context IN ('user', 'superuser') AND boot_val IS NOT NULL}))
	{
		my ($name, $type, $value) = split /\|/, $line, -1;

		# A setting with only one possible value in this build cannot be changed.
		next if $excluded{$name} || $type eq 'enum' && $value eq '';
		$value = $type eq 'string' ? $texts{$name} : "'$value'";
		push @unknown, $name if !defined $value;
		$bent{$name} = $value;
	}
	is("@unknown", '', 'each setting is bent, or excluded with a reason');
	return %bent;
}

# Wherever a default can be set.
sub places
{
	my ($database) = @_;

	return ('SYSTEM', "DATABASE $database", "ROLE $owner", "ROLE $owner IN DATABASE $database");
}

# Sets them all; those of a language are not known before it is loaded, which is too
# late for a file.
sub bend
{
	my ($in, $database) = @_;
	my %bent = bent_settings($in);

	mkdir $in->basedir . '/odd';
	$in->safe_psql('postgres', qq{CREATE TABLESPACE odd LOCATION '${\ $in->basedir}/odd'});
	$in->safe_psql($database, q{
		CREATE SCHEMA evil;
		CREATE FUNCTION evil.concat(text, text) RETURNS text LANGUAGE sql AS 'SELECT $1';
		CREATE FUNCTION evil.differ(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false';
		CREATE OPERATOR evil.|| (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.concat);
		CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.differ);
		CREATE TABLE evil.pg_publication (pubname text, evil int);
		CREATE TABLE evil.pg_class (oid oid, evil int)});
	my $sql = '';
	for my $name (sort keys %bent)
	{
		$sql .= "ALTER $_ SET $name = $bent{$name};\n"
		  for grep { $_ ne 'SYSTEM' || $name !~ /^plpgsql/ } places($database);
	}
	$sql .= "ALTER DATABASE $database SET role = shop_owner;\n";
	$sql .= "ALTER DATABASE $database SET shop.tenant = 'x';\n";
	$in->safe_psql('postgres', $sql);
	$in->restart;

	# A session without own settings has them, so there is something to be pinned.
	local $ENV{PGOPTIONS} = $patient;
	my $got = $in->safe_psql($database, q{SELECT current_setting('array_nulls'), current_setting('datestyle'),
		current_setting('extra_float_digits'), current_setting('exit_on_error'), current_user});
	is($got, 'off|SQL, DMY|-15|on|shop_owner', 'they are bent');
	return;
}

my $application = "$patient -c role=none";

# What an application does, whose sessions have all the odd settings but those which
# keep it from its work.
sub run_sql
{
	my ($in, $sql) = @_;

	local $ENV{PGOPTIONS} = $application;
	return $in->safe_psql('postgres', $sql);
}

# Values whose texts depend on settings, also within others; written so that they
# themselves depend on none.
my $columns = q{
	ints int[], texts text[], dates date[], f4 real, f8 double precision, f8s double precision[],
	iv interval, ivs interval[], d date, tz timetz, ts timestamp, tstz timestamptz, tstzs timestamptz[],
	m money, ms money[], b bytea, bs bytea[], x xml, r tstzrange, rs tstzrange[], mr datemultirange,
	p public.pair, ps public.pair[], am public.amounts, j json, jb jsonb, reg regclass, regs regtype[],
	c "char", bits varbit, net inet, tsv tsvector, "select" text};
my $values = q{
	ARRAY[1, NULL], ARRAY['x', NULL, 'NULL', 'null'], ARRAY[NULL, make_date(2026, 2, 1)], 1.0 / 3, 1.0 / 3, ARRAY[0.1::float8 + 0.2, 'NaN', NULL],
	make_interval(1, 2, 0, -3, 4, 5, 6.7), ARRAY[make_interval(days => -1, hours => 1)], make_date(2026, 2, 1), '12:00:00.5+05:45',
	make_timestamp(2026, 2, 1, 3, 4, 5.6), make_timestamptz(2026, 2, 1, 3, 4, 5.6, 'Asia/Kolkata'), ARRAY[make_timestamptz(2026, 2, 1, 3, 4, 5, 'UTC'), NULL, 'infinity'],
	1234.5::numeric::money, ARRAY[(-0.5)::numeric::money], decode('005cff', 'hex'), ARRAY[decode('005cff', 'hex')], '<a b="1">&amp;</a>',
	tstzrange(make_timestamptz(2026, 2, 1, 3, 4, 5, 'UTC'), NULL), ARRAY[tstzrange(NULL, make_timestamptz(2026, 2, 1, 3, 4, 5, 'UTC'))],
	datemultirange(daterange(make_date(2026, 2, 1), make_date(2026, 3, 1))),
	ROW(NULL, 'NULL', make_timestamptz(2026, 2, 1, 3, 4, 5, 'UTC'), ARRAY[1.0 / 3, NULL], make_interval(days => -1, hours => 1), decode('5cff', 'hex'))::public.pair,
	ARRAY[ROW(1, '', 'infinity', NULL, NULL, NULL)::public.pair, NULL], ARRAY[1.50, NULL], json_build_object('a', ARRAY[1, NULL]), jsonb_build_object('a', 1.0 / 3),
	'public.v', ARRAY['public.pair'::regtype, 'int'::regtype, 'timestamptz[]'::regtype], 'x', B'0101', '10.0.0.1/8', to_tsvector('simple', 'a b a'), 'NULL'};

# The same after the type has got one attribute more.
my $later_values = $values =~ s/\)::public.pair/, ARRAY[make_interval(days => -1, hours => 1)])::public.pair/gr;

# Whether what was written to $from is what $to holds.
sub compare
{
	my ($from, $to, $source, $what) = @_;

	wait_for_history($from, $to, $source);
	is(differences($from, $to, 'v', $source), '', "$what: values are those of to_jsonb()");
	is(differences($from, $to, 'p', $source), '', "$what: those of partitions, too");
	is( ask($to, q{SELECT count(*) FROM bemi.changes c WHERE c::text ~ '4111-secret|4111@example'}),
		'0', "$what: nothing is stored that is redacted");
	is( ask($to, qq{SELECT state, last_error, restarts FROM bemi.status WHERE source = '$source'}),
		'streaming||0', "$what: and the worker has not failed");
	return;
}

sub start
{
	my ($to, $source, $conninfo) = @_;

	local $ENV{PGOPTIONS} = $application;
	is( start_error($to, "CALL bemi.start('$source'" . ($conninfo ? ", \$\$$conninfo\$\$)" : ')')),
		'', "source $source is started");
	return;
}

# Everything that bemi does, with $from read into $to.
sub scenario
{
	my ($from, $to, $source, $conninfo) = @_;

	run_sql($from, qq{
		CREATE TYPE public.pair AS (a int, b text, c timestamptz, d float8[], e interval, f bytea);
		CREATE DOMAIN public.amounts AS numeric[];
		CREATE TABLE public.v (id int PRIMARY KEY, card text, mail text, $columns);
		SELECT bemi.track('public.v', redact => '{card}', redact_hash => '{mail}');
		CREATE TABLE public.p (id int PRIMARY KEY, at timestamptz DEFAULT make_timestamptz(2026, 2, 1, 3, 4, 5, 'UTC')) PARTITION BY RANGE (id);
		CREATE TABLE public.p1 PARTITION OF public.p FOR VALUES FROM (0) TO (10);
		SELECT bemi.track('public.p')});
	start($to, $source, $conninfo);
	run_sql($from, qq{
		SET bemi.context = '{"who": "me"}';
		INSERT INTO public.v SELECT 1, NULL, NULL, $values;
		ALTER TABLE public.v RENAME card TO card_no;
		ALTER TABLE public.v RENAME mail TO e_mail;
		ALTER TYPE public.pair ADD ATTRIBUTE g interval[];
		ALTER TABLE public.v ADD extra interval[] DEFAULT ARRAY[make_interval(days => -1, hours => 1), NULL];
		CREATE TABLE public.p2 PARTITION OF public.p FOR VALUES FROM (10) TO (20);
		CREATE TABLE public.p3 (LIKE public.p INCLUDING ALL);
		ALTER TABLE public.p ATTACH PARTITION public.p3 FOR VALUES FROM (20) TO (30);
		INSERT INTO public.p VALUES (1), (11), (21);
		UPDATE public.v SET card_no = '4111-secret', e_mail = '4111\@example.com';
		UPDATE public.v SET card_no = NULL, e_mail = NULL, id = 3 WHERE public.v.id = 1});
	run_sql($from, "INSERT INTO public.v SELECT 1, NULL, NULL, $later_values; DELETE FROM public.v WHERE public.v.id = 3");
	wait_for_history($from, $to, $source);
	is( ask($to, qq{SELECT string_agg(format('%s %s', operation, context ->> 'who'), ', ' ORDER BY id)
			FROM bemi.changes WHERE source = '$source' AND "table" = 'v'}),
		'CREATE me, UPDATE me, UPDATE me, CREATE , DELETE ', "$source: changes have their contexts");
	is( ask($from, q{SELECT "table", redact, redact_hash, problems FROM bemi.tracked WHERE redact <> '{}'}),
		'public.v|{card_no}|{e_mail}|{}', "$source: rules are kept");
	# That row no longer exists.
	ask($to, q{DELETE FROM bemi.changes WHERE "table" = 'v' AND after ? 'card'});
	compare($from, $to, $source, $source);

	# The slot is given up, and what is written until the next start is a gap.
	run_sql($to, "CALL bemi.drop_source('$source')");
	run_sql($from, 'INSERT INTO public.p VALUES (2)');
	start($to, $source, $conninfo);
	run_sql($from, 'DELETE FROM public.p WHERE public.p.id = 2; INSERT INTO public.p VALUES (3)');
	compare($from, $to, $source, "$source, started again");
	is( ask($to, qq{SELECT string_agg(reason, ', ' ORDER BY id) FROM bemi.gaps WHERE source = '$source' AND "table" IS NULL}),
		'source_started, source_dropped', "$source: gaps are written down");
	return;
}

bend($_, 'postgres') for $node, $remote;
scenario($node, $node, 'main');
scenario($remote, $node, 'elsewhere', $remote->connstr('postgres') . " user=$owner");

# The configuration is read again, old partitions are dropped, and a worker is
# started by the server.
run_sql($node, q{SELECT _bemi.make_partition('2001-02-03 12:00+00')});
$node->append_conf('postgresql.conf', "bemi.retention = '90 days'\narray_nulls = off\nextra_float_digits = -3\n");
$node->reload;
{
	local $ENV{PGOPTIONS} = $plain;
	$node->poll_query_until('postgres', q{SELECT to_time FROM bemi.gaps WHERE reason = 'retention'}, '2001-02-04 00:00:00+00')
	  or die 'no partition was dropped';
}
run_sql($node, "INSERT INTO public.v SELECT 2, NULL, NULL, $later_values");
compare($node, $node, 'main', 'reloaded');
$node->stop;
$remote->restart;
$node->start;
run_sql($_, "INSERT INTO public.v SELECT 4, NULL, NULL, $later_values") for $node, $remote;
compare($node, $node, 'main', 'restarted');
compare($remote, $node, 'elsewhere', 'restarted');

#
# What is between the worker and the source may not let startup options pass
#
# Then settings are set by commands, for which no time-out of a millisecond leaves time.
#

for my $place (places('postgres'))
{
	run_sql($remote, "ALTER $place RESET $_") for grep { /timeout/ } $patient =~ /-c (\w+)/g;
}
$remote->reload;

my $proxy = Bemi::Proxy->new($remote, PostgreSQL::Test::Utils::tempdir_short);
for my $treatment ('reject', 'drop')
{
	my $database = "history_$treatment";

	local $ENV{PGOPTIONS} = $application;
	$proxy->tell("$treatment options");
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, 'CREATE EXTENSION bemi');
	is( start_error($node, "CALL bemi.start('elsewhere', '" . $proxy->connstr('postgres') . " user=$owner')", $database),
		'', "a way that ${treatment}s options: a source is started");
	run_sql($remote, 'DELETE FROM public.v; DELETE FROM public.p; INSERT INTO public.v SELECT 7, NULL, NULL, ' . $later_values);
	wait_for_history($remote, $node, 'elsewhere', $database);
	is(differences($remote, $node, 'v', 'elsewhere', $database), '', 'and values are those of to_jsonb()');
}
$proxy->stop;

done_testing();
