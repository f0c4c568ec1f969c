/*-------------------------------------------------------------------------
 *
 * hint.c
 *		Hints: the line to type when a source refuses a connection or a
 *		command.
 *
 * Input: the source's error message and its SQLSTATE.  Output: a hint, or
 * NULL.  The language of the message is that of the source's lc_messages, so
 * the text is compared only where the SQLSTATE is not specific enough.
 *
 * libpq shows the SQLSTATE of a refused connection only as a part of its text,
 * and only if the connection is verbose.  So connections are verbose until
 * they are established, and bemi_cut_sqlstate() removes the additions from the
 * text.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "miscadmin.h"
#include "replication/slot.h"
#include "replication/walsender.h"
#include "utils/builtins.h"

#include "stream/stream_internal.h"

#define SQLSTATE_LEN	5

/*
 * Messages of a source that refuses a connection, and the statements that
 * repair it.
 */
static const struct
{
	const char *message;
	const char *hint;			/* %s: the last quoted name of the message */
}			refusals[] =

{{"is not permitted to log in",
"Run this at the source: ALTER ROLE %s LOGIN;"},
{"too many connections for role",
"Run this at the source: ALTER ROLE %s CONNECTION LIMIT -1;"},
{"too many connections for database",
"Run this at the source: ALTER DATABASE %s CONNECTION LIMIT -1;"},
{"is not currently accepting connections",
"Run this at the source: ALTER DATABASE %s ALLOW_CONNECTIONS true;"},
{"cannot connect to invalid database",
"A DROP DATABASE was interrupted. Run it again: DROP DATABASE %s;"}};

/*
 * The last name that the first line of a message quotes, as an identifier.
 */
static const char *
last_quoted(const char *message)
{
	char	   *line = pnstrdup(message, strcspn(message, "\n"));
	char	   *end = strrchr(line, '"');
	char	   *begin;

	if (end == NULL)
		return "...";
	*end = '\0';
	begin = strrchr(line, '"');
	return begin ? quote_identifier(begin + 1) : "...";
}

static const char *
refusal_hint(const char *message)
{
	for (int i = 0; i < lengthof(refusals); i++)
		if (strstr(message, refusals[i].message))
			return psprintf(refusals[i].hint, last_quoted(message));
	return NULL;
}

/*
 * The hint for a setting of the source that is too small.
 */
static const char *
setting_hint(const char *message)
{
	const char *place =
		"Put this line into postgresql.conf of the source and restart it";

	if (strstr(message, "max_wal_senders"))
		return psprintf("%s: max_wal_senders = %d", place,
						max_wal_senders + 5);
	if (strstr(message, "replication slots are in use") ||
		strstr(message, "max_replication_slots"))
		return psprintf("Drop an unused slot, or put this line into postgresql.conf of the source and restart it: max_replication_slots = %d",
						max_replication_slots + 5);
	if (strstr(message, "too many clients") ||
		strstr(message, "connection slots are reserved"))
		return psprintf("%s: max_connections = %d", place,
						MaxConnections + 20);
	if (strstr(message, "wal_level"))
		return psprintf("%s: wal_level = logical", place);
	return NULL;
}

static bool
is_state(const char *sqlstate, const char *expected)
{
	return sqlstate != NULL && strcmp(sqlstate, expected) == 0;
}

/*
 * The hint for a role that may log in, but not replicate.
 */
static const char *
right_hint(const BemiStream *stream)
{
	return psprintf("At the source: ALTER ROLE %s REPLICATION;",
					quote_identifier(PQuser(stream->replication)));
}

/*
 * The hint for a source that does not let the worker log in.
 */
static const char *
authentication_hint(const BemiStream *stream)
{
	if (stream->conninfo == NULL)
		return psprintf("Put this line before the others in pg_hba.conf and reload: local \"%s\" \"%s\" peer",
						stream->database, stream->user);
	return "Let pg_hba.conf of the source admit this connection, with a line such as: host DATABASE USER ADDRESS scram-sha-256";
}

static const char *
password_hint(const BemiStream *stream)
{
	return psprintf("Give the connection string with the right user and password: CALL bemi.stop('%s'); CALL bemi.start('%s', conninfo => '...');",
					stream->source, stream->source);
}

/*
 * The hint for a refused connection, by its SQLSTATE.  It names all possible
 * reasons, because the text may be in any language.
 */
static const char *
state_hint(const BemiStream *stream, const char *sqlstate)
{
	const char *user = quote_identifier(PQuser(stream->replication));
	const char *database = quote_identifier(PQdb(stream->replication));

	if (is_state(sqlstate, "28P01") && stream->conninfo != NULL)	/* invalid_password */
		return password_hint(stream);
	if (is_state(sqlstate, "28P01"))
		return authentication_hint(stream);
	if (is_state(sqlstate, "28000"))	/* invalid_authorization_specification */
		return psprintf("At the source, check that role %s exists and may log in, and that pg_hba.conf admits this connection.",
						user);
	if (is_state(sqlstate, "42501"))	/* insufficient_privilege */
		return psprintf("%s GRANT CONNECT ON DATABASE %s TO %s;",
						right_hint(stream), database, user);
	if (is_state(sqlstate, "53300"))	/* too_many_connections */
		return psprintf("At the source, raise \"max_connections\" or \"max_wal_senders\", or run: ALTER ROLE %s CONNECTION LIMIT -1; ALTER DATABASE %s CONNECTION LIMIT -1;",
						user, database);
	return NULL;
}

/*
 * The hint for a slot that another process reads.
 */
static const char *
slot_hint(const BemiStream *stream)
{
	return psprintf("See who reads the slot; at the source: SELECT a.* FROM pg_stat_activity a JOIN pg_replication_slots s ON s.active_pid = a.pid WHERE s.slot_name = %s;",
					quote_literal_cstr(stream->name));
}

/*
 * The hint for a mistake in the set-up, found by the message and its SQLSTATE.
 * Returns NULL if there is none.
 */
const char *
bemi_stream_hint(const BemiStream *stream, const char *message,
				 const char *sqlstate)
{
	const char *hint = refusal_hint(message);

	if (hint != NULL)
		return hint;
	if (is_state(sqlstate, "55P03"))	/* lock_not_available */
		return "Another session locks a catalog of the source: SELECT pid, relation::regclass FROM pg_locks WHERE granted AND mode = 'AccessExclusiveLock';";
	if (is_state(sqlstate, "55006"))	/* object_in_use */
		return slot_hint(stream);
	if (strstr(message, "password authentication failed") &&
		stream->conninfo != NULL)
		return password_hint(stream);
	if (strstr(message, "replication role to start walsender") ||	/* up to 15 */
		strstr(message, "permission denied to start WAL sender"))
		return right_hint(stream);
	if (strstr(message, "pg_hba.conf") ||
		strstr(message, "authentication failed"))
		return authentication_hint(stream);
	if (stream->conninfo == NULL &&
		strstr(message, "No such file or directory"))
		return "The server's Unix socket has been removed. Restart the server.";
	return setting_hint(message);
}

/*
 * The same for a connection that was refused or lost.
 */
const char *
bemi_connection_hint(const BemiStream *stream, const char *message,
					 const char *sqlstate)
{
	const char *hint = bemi_stream_hint(stream, message, sqlstate);

	return hint ? hint : state_hint(stream, sqlstate);
}

/*
 * Whether this is the place of the SQLSTATE in a server's message.  It looks
 * like ": 28P01: " and comes after the severity, which is translated.
 */
static bool
is_sqlstate(const char *place)
{
	if (strncmp(place, ":  ", 3) != 0 ||
		strspn(place + 3, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") !=
		SQLSTATE_LEN)
		return false;
	return strncmp(place + 3 + SQLSTATE_LEN, ": ", 2) == 0;
}

/*
 * Whether a line is "LOCATION: auth_failed, auth.c:335", in any language.
 */
static bool
is_location(const char *line, int len)
{
	int			digits = 0;

	while (digits < len && isdigit((unsigned char) line[len - 1 - digits]))
		digits++;
	return digits > 0 && len > digits + 3 &&
		strncmp(&line[len - digits - 3], ".c:", 3) == 0;
}

/*
 * Removes the lines of a text that name places in the server's code.
 */
static void
remove_locations(char *message)
{
	char	   *to = message;

	for (char *line = message; *line != '\0';)
	{
		int			len = strcspn(line, "\n");
		int			whole = len + (line[len] == '\n');

		if (!is_location(line, len))
		{
			memmove(to, line, whole);
			to += whole;
		}
		line += whole;
	}
	*to = '\0';
	if (to > message && to[-1] == '\n')
		to[-1] = '\0';
}

/*
 * Removes the additions of a verbose connection from a message, in place.
 * Returns its SQLSTATE, palloc'd, or NULL if there is none.  If several hosts
 * were tried, it is the last one's.
 */
char *
bemi_cut_sqlstate(char *message)
{
	char	   *sqlstate = NULL;

	for (char *place = message; *place != '\0'; place++)
	{
		char	   *code = place + 3;

		if (!is_sqlstate(place))
			continue;
		sqlstate = pnstrdup(code, SQLSTATE_LEN);
		memmove(code, code + SQLSTATE_LEN + 2,
				strlen(code + SQLSTATE_LEN + 2) + 1);
	}
	remove_locations(message);
	return sqlstate;
}
