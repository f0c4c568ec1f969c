/*-------------------------------------------------------------------------
 *
 * settings.c
 *		The settings that bemi pins, in its own processes and in its sessions
 *		at a source.
 *
 * A configuration file, ALTER DATABASE and ALTER ROLE set defaults for every
 * process, the worker and its walsender among them.  Such a default must not
 * change what is stored, and must not keep the worker from its work.  So each
 * setting that can do one or the other has one value here.
 *
 * In a process of ours, the values come from PGC_S_OVERRIDE.  That source
 * beats pg_db_role_setting, which is applied while the process connects, and
 * every later reload of the configuration.  In a session at a source, the
 * values are startup options: they beat pg_db_role_setting, too, they hold
 * before the first command, and no SQL needs to run on the replication
 * connection (stream/source_queries.c says why that matters).
 *
 * What is not listed remains the user's, because nothing that bemi calls reads
 * it, or because it is a choice about the history itself: lc_monetary (money
 * is stored as its database prints it), default_tablespace, temp_tablespaces,
 * default_toast_compression, memory and planner settings, what is logged,
 * time-outs of the network, and bemi's own settings.
 *
 * A function in SQL has no list: it is written so that no setting changes what
 * it does.
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
 * Dates are printed in the same way whatever their order in input is.  So a
 * session has an order that hardly any server has by default, and that the
 * source reports: it shows that the options have arrived.  A pooler may drop
 * them.
 */
#define SESSION_DATESTYLE	"ISO, YMD"

typedef struct PinnedSetting
{
	const char *name;
	const char *in_process;		/* NULL: not pinned there */
	const char *in_session;		/* NULL: not pinned there */
	int			since;			/* first version that has it, 0: all */
} PinnedSetting;

/*
 * An ordinary role can set all that is pinned in a session, since the role
 * that reads a source need not be a superuser. statement_timeout comes first,
 * because it would apply to the command that sets the others.
 */
static const PinnedSetting pinned_settings[] = {
	/* Time-outs and limits of the application are not meant for us. */
	{"statement_timeout", "0", "0", 0},
	{"lock_timeout", "0", "0", 0},
	{"idle_session_timeout", "0", "0", 0},
	{"idle_in_transaction_session_timeout", "0", "0", 0},
	{"transaction_timeout", "0", "0", 170000},
	{"exit_on_error", "off", "off", 0},

	/* Who we are, and what we may see. */
	{"role", "none", "none", 0},
	{"row_security", "off", "off", 0},
	{"restrict_nonsystem_relation_kind", "", NULL, 0},

	/* What a name or a text in SQL means. */
	{"search_path", "pg_catalog", "pg_catalog", 0},
	{"standard_conforming_strings", "on", "on", 0},
	{"transform_null_equals", "off", "off", 0},

	/*
	 * What the text of a value means, and how a value is printed: as
	 * to_jsonb() does.
	 */
	{"timezone", "UTC", "UTC", 0},
	{"datestyle", "ISO, MDY", SESSION_DATESTYLE, 0},
	{"intervalstyle", "postgres", "postgres", 0},
	{"extra_float_digits", "1", "1", 0},
	{"bytea_output", "hex", "hex", 0},
	{"array_nulls", "on", "on", 0},
	{"quote_all_identifiers", "off", "off", 0},

	/* What a transaction is like. */
	{"default_transaction_isolation", "read committed", "read committed", 0},
	{"default_transaction_read_only", "off", "off", 0},
	{"default_transaction_deferrable", "off", "off", 0},
	{"synchronous_commit", "off", NULL, 0},

	/*
	 * Other people's triggers are not for our own DDL and rows, see
	 * store/user_code.c.
	 */
	{"session_replication_role", "replica", NULL, 0},
	{"event_triggers", "off", NULL, 0},

	/* The history writes to the tables that it makes in heap's own ways. */
	{"default_table_access_method", "heap", NULL, 0},

	/* Small queries are neither compiled nor shared out to other processes. */
	{"jit", "off", "off", 0},
	{"max_parallel_workers_per_gather", "0", "0", 0}
};

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
 * ALTER DATABASE ... SET session_authorization changes who a process is that
 * has not logged in.
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
 * Pins the settings of this process.  To be called right after it has
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
 * The settings of a session as startup options, palloc'd, after those that a
 * connection string has, or NULL.  A source that is older than this server may
 * not know all of them, and then refuses the connection.
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
 * The commands that set what the options have not, palloc'd; NULL if there are
 * none.  "datestyle" and "timezone" are as the session reports them.
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
