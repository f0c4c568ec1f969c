/*-------------------------------------------------------------------------
 *
 * server_fields.c
 *		Fields that the server adds to a context, and statements without one.
 *
 * Input: the context that the application gave, or NULL.  Output: the same
 * with the fields of bemi.include under the reserved key "_db".  As
 * bemi.require_context demands, a statement without a context is reported or
 * refused.
 *
 * The fields are appended behind the application's own keys, as text, without
 * parsing. jsonb keeps the last of two equal keys, so "_db" overrides a key of
 * that name that the client has sent.
 *
 * What must never happen: the client sets a field itself, or its context makes
 * the code here fail.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "pgstat.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/rel.h"
#include "utils/varlena.h"

#include "context/context_internal.h"

/*
 * All fields but the query fit into this many bytes, even if each character is
 * escaped.
 */
#define ROOM_FOR_OTHERS	4096

/* Returns a field as text, palloc'd or longer lived; NULL if it is not set. */
typedef const char *(*FieldReader) (void);

static const char *
session_user_name(void)
{
	return GetUserNameFromId(GetSessionUserId(), true);
}

static const char *
current_user_name(void)
{
	return GetUserNameFromId(GetUserId(), true);
}

static const char *
client_application(void)
{
	return application_name;
}

static const char *
client_address(void)
{
	LOCAL_FCINFO(fcinfo, 0);
	Datum		address;

	InitFunctionCallInfoData(*fcinfo, NULL, 0, InvalidOid, NULL, NULL);
	address = inet_client_addr(fcinfo);
	if (fcinfo->isnull)
		return NULL;			/* a Unix socket, or no client at all */
	return TextDatumGetCString(DirectFunctionCall1(network_host, address));
}

static const char *
backend_pid(void)
{
	return psprintf("%d", MyProcPid);
}

/*
 * Length of the longest beginning of a text, at most len bytes, that
 * escape_json() turns into no more than room bytes.
 */
static int
escaped_length_within(const char *text, int len, int room)
{
	int			i;

	for (i = 0; i < len && room > 0; i++)
	{
		unsigned char c = text[i];

		room -= c < ' ' ? strlen("\\u0000") : c == '"' || c == '\\' ? 2 : 1;
	}
	return room < 0 ? i - 1 : i;
}

/*
 * The text that the client sent, cut to the length that pg_stat_activity shows
 * and that BEMI_SERVER_FIELDS_SIZE leaves for it.
 */
static const char *
client_query(void)
{
	int			len;
	int			limit;

	if (debug_query_string == NULL)
		return NULL;
	len = strlen(debug_query_string);
	limit =
		escaped_length_within(debug_query_string,
							  Min(len, pgstat_track_activity_query_size - 1),
							  BEMI_SERVER_FIELDS_SIZE - ROOM_FOR_OTHERS);
	return pnstrdup(debug_query_string,
					pg_mbcliplen(debug_query_string, len, limit));
}

static const struct
{
	const char *name;
	FieldReader read_field;
	bool		is_number;
}			server_fields[] = {
	{"session_user", session_user_name, false},
	{"current_user", current_user_name, false},
	{"application_name", client_application, false},
	{"client_addr", client_address, false},
	{"backend_pid", backend_pid, true},
	{"query", client_query, false}
};

static char *include_setting = NULL;
static uint32 included_fields = 0;	/* bit n for server_fields[n] */

static const struct config_enum_entry require_modes[] = {
	{"off", 0, false},
	{"warn", WARNING, false},
	{"error", ERROR, false},
	{NULL, 0, false}
};

static int	require_level = 0;

/*
 * Check hook of bemi.include: names of fields, separated by commas.
 */
static bool
check_include(char **newval, void **extra, GucSource source)
{
	char	   *copy = pstrdup(*newval ? *newval : "");
	uint32		bits = 0;
	List	   *names;
	ListCell   *cell;

	if (!SplitIdentifierString(copy, ',', &names))
	{
		GUC_check_errdetail("List syntax is invalid.");
		return false;
	}
	foreach(cell, names)
	{
		int			n = 0;

		while (n < lengthof(server_fields) &&
			   strcmp(server_fields[n].name, lfirst(cell)) != 0)
			n++;
		if (n == lengthof(server_fields))
		{
			GUC_check_errdetail("\"%s\" is not a field that can be included.",
								(char *) lfirst(cell));
			GUC_check_errhint("The fields are session_user, current_user, application_name, client_addr, backend_pid and query.");
			return false;
		}
		bits |= (uint32) 1 << n;
	}
	list_free(names);
	pfree(copy);

	*extra = bemi_guc_malloc(sizeof(uint32));
	if (*extra == NULL)
		return false;
	memcpy(*extra, &bits, sizeof(uint32));
	return true;
}

static void
assign_include(const char *newval, void *extra)
{
	memcpy(&included_fields, extra, sizeof(uint32));
}

/*
 * Whether a JSON object has no keys.
 */
bool
bemi_context_is_empty(const char *object)
{
	const char *inside = strchr(object, '{') + 1;

	return inside[strspn(inside, " \t\r\n")] == '}';
}

/*
 * Appends {"session_user": ..., ...}.
 */
static void
append_server_fields(StringInfo buffer)
{
	const char *separator = "{";

	for (int n = 0; n < lengthof(server_fields); n++)
	{
		const char *value;

		if ((included_fields & (uint32) 1 << n) == 0)
			continue;
		value = server_fields[n].read_field();
		appendStringInfo(buffer, "%s\"%s\": ", separator,
						 server_fields[n].name);
		if (value == NULL)
			appendStringInfoString(buffer, "null");
		else if (server_fields[n].is_number)
			appendStringInfoString(buffer, value);
		else
			escape_json(buffer, value);
		separator = ", ";
	}
	appendStringInfoChar(buffer, '}');
}

bool
bemi_server_fields_are_included(void)
{
	return included_fields != 0;
}

/*
 * Adds the fields of bemi.include to a context, which is NULL or a valid JSON
 * object.  Returns the same pointer if there are none to add, otherwise a
 * palloc'd text.
 */
const char *
bemi_context_with_server_fields(const char *context)
{
	StringInfoData buffer;

	if (included_fields == 0)
		return context;

	initStringInfo(&buffer);
	appendStringInfoString(&buffer, context ? context : "{}");
	while (buffer.data[buffer.len - 1] != '}')
		buffer.len--;			/* white space behind the object */
	buffer.data[--buffer.len] = '\0';

	if (context != NULL && !bemi_context_is_empty(context))
		appendStringInfoString(&buffer, ", ");
	appendStringInfoString(&buffer, "\"_db\": ");
	append_server_fields(&buffer);
	appendStringInfoChar(&buffer, '}');
	return buffer.data;
}

/*
 * Reports or refuses a statement that changes a tracked table without a
 * context, as bemi.require_context demands.  An empty object counts as none.
 * Tags and fields of the server are not part of "context", because they do not
 * name who acts.
 */
void
bemi_require_context(const char *context, Relation table)
{
	if (require_level == 0 ||
		(context != NULL && !bemi_context_is_empty(context)))
		return;
	ereport(require_level,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("table \"%s\" is changed without a context",
					RelationGetRelationName(table)),
			 errdetail("\"bemi.require_context\" demands a context."),
			 errhint("Set who acts and why: SET LOCAL bemi.context = '{\"userId\": 1}';")));
}

void
bemi_server_fields_init(void)
{
	DefineCustomStringVariable("bemi.include",
							   "Sets the fields that are added to each context under the key \"_db\".",
							   "A list of session_user, current_user, application_name, client_addr, backend_pid, query.",
							   &include_setting, "", PGC_SUSET, GUC_LIST_INPUT,
							   check_include, assign_include, NULL);

	DefineCustomEnumVariable("bemi.require_context",
							 "Sets what happens to a statement that changes a tracked table without a context.",
							 NULL, &require_level, 0, require_modes, PGC_SUSET,
							 0, NULL, NULL, NULL);
}
