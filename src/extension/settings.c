/*-------------------------------------------------------------------------
 *
 * settings.c
 *		The settings that bemi pins, in its own processes and in its sessions
 *		at a source.
 *
 * A configuration file, ALTER DATABASE and ALTER ROLE set defaults for every
 * process, the worker and its walsender among them.  Such a default must not
 * change what is stored, and must not keep the worker from its work.  So each
 * setting that could do one of these has a fixed value here.
 *
 * In a process of ours, the values come from PGC_S_OVERRIDE.  That source
 * beats pg_db_role_setting, which is applied while the process connects, and
 * every later reload of the configuration.  In a session at a source, the
 * values are startup options: they beat pg_db_role_setting, too, they hold
 * before the first command, and no SQL needs to run on the replication
 * connection (see stream/source_queries.c).
 *
 * In an application's session that stores changes or converts values, they
 * hold for the time of the call, on a level of settings of their own.
 *
 * Other settings remain the user's choice, because nothing that bemi calls
 * reads them, or because they concern the history itself: lc_monetary (money
 * is stored as its database prints it), default_tablespace, temp_tablespaces,
 * default_toast_compression, memory and planner settings, what is logged,
 * time-outs of the network, and bemi's own settings.
 *
 * A function in SQL has no list, because it is written in such a way that no
 * setting changes its result.  What must never happen: a default of a database
 * or a role changes a stored value.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "extension/extension.h"

/*
 * The order of dates affects only input, not output.  So a session uses an
 * order that is hardly any server's default, and that the source reports.  It
 * shows that the options have arrived, because a pooler may drop them.
 */
#define SESSION_DATESTYLE	"ISO, YMD"

/*
 * For what an application's session pins a setting, to the value of our
 * processes.
 */
#define FOR_STORING	0x01		/* it stores changes */
#define FOR_TEXTS	0x02		/* it makes values of texts, or texts of
								 * values */

typedef struct PinnedSetting
{
	const char *name;
	const char *in_process;		/* NULL: not pinned there */
	const char *in_session;		/* NULL: not pinned there */
	int			since;			/* first version that has it, 0: all */
	int			in_application; /* FOR_... */
} PinnedSetting;

/*
 * Any role can set the settings that are pinned in a session, because the role
 * that reads a source need not be a superuser. statement_timeout comes first,
 * because it would apply to the command that sets the others.
 */
static const PinnedSetting pinned_settings[] = {
	/* Timeouts and limits of applications must not end our processes. */
	{"statement_timeout", "0", "0", 0, 0},
	{"lock_timeout", "0", "0", 0, 0},
	{"idle_session_timeout", "0", "0", 0, 0},
	{"idle_in_transaction_session_timeout", "0", "0", 0, 0},
	{"transaction_timeout", "0", "0", 170000, 0},
	{"exit_on_error", "off", "off", 0, 0},

	/* The role, and the visible rows. */
	{"role", "none", "none", 0, 0},
	{"row_security", "off", "off", 0, 0},
	{"restrict_nonsystem_relation_kind", "", NULL, 0, 0},

	/*
	 * The meaning of names and literals in SQL.  If pg_temp is not in the
	 * path, temporary tables come first.
	 */
	{"search_path", "pg_catalog, pg_temp", "pg_catalog", 0,
	FOR_STORING | FOR_TEXTS},
	{"standard_conforming_strings", "on", "on", 0, FOR_STORING},
	{"transform_null_equals", "off", "off", 0, FOR_STORING},

	/*
	 * Input and output of values: as to_jsonb() prints them.
	 */
	{"timezone", "UTC", "UTC", 0, FOR_STORING | FOR_TEXTS},
	{"datestyle", "ISO, MDY", SESSION_DATESTYLE, 0, FOR_STORING | FOR_TEXTS},
	{"intervalstyle", "postgres", "postgres", 0, FOR_STORING | FOR_TEXTS},
	{"extra_float_digits", "1", "1", 0, FOR_STORING | FOR_TEXTS},
	{"bytea_output", "hex", "hex", 0, FOR_STORING | FOR_TEXTS},
	{"array_nulls", "on", "on", 0, FOR_STORING},
	{"quote_all_identifiers", "off", "off", 0, FOR_STORING},

	/* Properties of transactions. */
	{"default_transaction_isolation", "read committed", "read committed", 0,
	0},
	{"default_transaction_read_only", "off", "off", 0, 0},
	{"default_transaction_deferrable", "off", "off", 0, 0},
	{"synchronous_commit", "off", NULL, 0, 0},

	/*
	 * Users' triggers must not fire for our own DDL and rows, see
	 * store/user_code.c.
	 */
	{"session_replication_role", "replica", NULL, 0, FOR_STORING},
	{"event_triggers", "off", NULL, 0, FOR_STORING},

	/* The worker writes to partitions with functions of heap. */
	{"default_table_access_method", "heap", NULL, 0, FOR_STORING},

	/* Small queries need neither JIT nor parallel workers. */
	{"jit", "off", "off", 0, 0},
{"max_parallel_workers_per_gather", "0", "0", 0, 0}};

/*
 * Whether this server has the setting; not every minor release has all of
 * them.
 */
static bool
setting_is_known(const PinnedSetting *setting)
{
	return GetConfigOption(setting->name, true, false) != NULL;
}

/*
 * Resets the session user, because ALTER DATABASE ...  SET
 * session_authorization changes it for processes that have not logged in.
 */
static void
pin_session_user(void)
{
	if (GetSessionUserId() == BOOTSTRAP_SUPERUSERID)
		return;
	StartTransactionCommand();
	SetConfigOption("session_authorization",
					GetUserNameFromId(BOOTSTRAP_SUPERUSERID, false), PGC_SUSET,
					PGC_S_OVERRIDE);
	CommitTransactionCommand();
}

/*
 * Pins the settings of this process.  Must be called right after it has
 * connected, outside of a transaction.
 */
void
bemi_pin_settings(void)
{
	for (int i = 0; i < lengthof(pinned_settings); i++)
	{
		const PinnedSetting *setting = &pinned_settings[i];

		if (setting->in_process != NULL && setting_is_known(setting))
			SetConfigOption(setting->name, setting->in_process, PGC_SUSET,
							PGC_S_OVERRIDE);
	}
	if (OidIsValid(MyDatabaseId))
		pin_session_user();
}

/*
 * Pins the settings for this purpose on a new level, which is returned.
 */
static int
pin_in_application(int purpose, GucContext context)
{
	int			level = NewGUCNestLevel();

	for (int i = 0; i < lengthof(pinned_settings); i++)
	{
		const PinnedSetting *setting = &pinned_settings[i];

		if ((setting->in_application & purpose) && setting_is_known(setting))
			(void) set_config_option(setting->name, setting->in_process,
									 context, PGC_S_SESSION, GUC_ACTION_SAVE,
									 true, 0, false);
	}
	return level;
}

/*
 * Pins settings in a session, until the caller ends this level of settings or
 * the transaction ends.  Timeouts, and properties of transactions, remain the
 * session's.  The caller has the rights of the extension's owner.
 */
int
bemi_pin_settings_of_call(void)
{
	return pin_in_application(FOR_STORING, PGC_SUSET);
}

/*
 * Pins the settings on which texts of values depend, until the caller ends
 * this level of settings.  Every role can set them.
 */
int
bemi_pin_settings_of_texts(void)
{
	return pin_in_application(FOR_TEXTS, PGC_USERSET);
}

/*
 * The settings of a session as startup options, palloc'd, appended to the
 * options of a connection string (or NULL).  A source that is older than this
 * server may not know all of them, and then refuses the connection.
 */
char *
bemi_settings_as_options(const char *options)
{
	StringInfoData result;

	initStringInfo(&result);
	appendStringInfoString(&result, options ? options : "");
	for (int i = 0; i < lengthof(pinned_settings); i++)
	{
		const PinnedSetting *setting = &pinned_settings[i];

		if (setting->in_session == NULL || !setting_is_known(setting))
			continue;
		appendStringInfo(&result, " -c %s=", setting->name);
		for (const char *c = setting->in_session; *c; c++)
		{
			if (*c == ' ')
				appendStringInfoChar(&result, '\\');
			appendStringInfoChar(&result, *c);
		}
	}
	return result.data;
}

/*
 * Whether a source refused a connection because of the options.  In any
 * language, the message of an older server names the setting that it does not
 * know, and that of a pooler either the first one of all or "options".
 */
bool
bemi_settings_are_refused(const char *message)
{
	bool		refused = strstr(message, "options") != NULL ||
		strstr(message, pinned_settings[0].name) != NULL;

	for (int i = 0; i < lengthof(pinned_settings) && !refused; i++)
		refused = pinned_settings[i].since > 0 &&
			strstr(message, pinned_settings[i].name) != NULL;
	return refused;
}

/*
 * The commands that set what the options could not set, palloc'd; NULL if
 * there are none.  "datestyle" and "timezone" are the values that the session
 * reports.
 */
char *
bemi_settings_as_commands(int server_version, const char *datestyle,
						  const char *timezone)
{
	bool		arrived = datestyle &&
		strcmp(datestyle, SESSION_DATESTYLE) == 0 &&
		timezone && strcmp(timezone, "UTC") == 0;
	StringInfoData result;

	initStringInfo(&result);
	for (int i = 0; i < lengthof(pinned_settings); i++)
	{
		const PinnedSetting *setting = &pinned_settings[i];

		if (setting->in_session != NULL && setting->since <= server_version &&
			!(arrived && setting_is_known(setting)))
			appendStringInfo(&result, "SET %s = '%s';", setting->name,
							 setting->in_session);
	}
	return result.len > 0 ? result.data : NULL;
}
