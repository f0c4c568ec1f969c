/*-------------------------------------------------------------------------
 *
 * running.c
 *		The DDL command that is running: its tag, its text, its context.
 *
 * They go into tracking messages (message.c), so that the history can tell who
 * has altered a table, and how.  The ProcessUtility hook (capture/capture.c)
 * puts each DDL command on a stack while it runs, because commands nest: a
 * function that a command calls can execute others.  A server that does not
 * preload bemi has no hook at the first command of a session.  Then the
 * command is that of the active portal.
 *
 * The text that a client sends may hold several statements, and one of them
 * may set a password.  So only the statement's own part is taken, and only if
 * the server knows its place.  Comments around it are left out.  A query
 * within the command, options of a foreign table, and an expression that
 * converts values can contain secrets, too.  Such a command has no text, only
 * its tag.
 *
 * A message is written by a function such as bemi.track() if no command runs.
 * It has no tag and no text.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "nodes/parsenodes.h"
#include "tcop/cmdtag.h"
#include "tcop/pquery.h"
#include "tcop/utility.h"
#include "utils/portal.h"

#include "track/track_internal.h"

/* A longer text is cut. */
#define LONGEST_TEXT	8192

/*
 * A longer context is left out, because stream/verify.c accepts no longer
 * message.  Only a raised bemi.max_context_size allows one.
 */
#define LONGEST_CONTEXT	(4 * 1024 * 1024)

/* Innermost first; the entries are on the stack of the hook. */
static BemiRunningCommand *running_commands = NULL;

/*
 * Whether a utility command may create, alter or drop something.
 */
bool
bemi_is_ddl(Node *command)
{
	return GetCommandLogLevel(command) == LOGSTMT_DDL;
}

/*
 * Called when a DDL command begins.
 */
void
bemi_running_begin(BemiRunningCommand *running, const char *text,
				   const PlannedStmt *statement)
{
	running->outer = running_commands;
	running->text = bemi_statement_text(text, statement);
	running->command = statement->utilityStmt;
	running_commands = running;
}

/*
 * Called when it has ended or failed.
 */
void
bemi_running_end(BemiRunningCommand *running)
{
	running_commands = running->outer;
}

/*
 * Sets *running to the innermost DDL command.  Returns false if there is none.
 */
static bool
find_running(BemiRunningCommand *running)
{
	const PlannedStmt *statement;

	if (running_commands != NULL)
	{
		*running = *running_commands;
		return true;
	}
	if (ActivePortal == NULL || list_length(ActivePortal->stmts) != 1)
		return false;
	statement = linitial_node(PlannedStmt, ActivePortal->stmts);
	if (statement->utilityStmt == NULL ||
		!bemi_is_ddl(statement->utilityStmt))
		return false;
	running->text = bemi_statement_text(ActivePortal->sourceText, statement);
	running->command = statement->utilityStmt;
	return true;
}

/*
 * Whether a part of ALTER TABLE can contain a secret.
 */
static bool
is_private_part(const AlterTableCmd *part)
{
	if (part->subtype == AT_AlterColumnType)
		return part->def != NULL &&
			((const ColumnDef *) part->def)->raw_default != NULL;
	return part->subtype == AT_GenericOptions ||
		part->subtype == AT_AlterColumnGenericOptions;
}

/*
 * Whether the text of a command may be shown to readers of the history.
 */
static bool
text_is_public(const Node *command)
{
	ListCell   *cell;

	switch (nodeTag(command))
	{
		case T_CreateStmt:
		case T_RenameStmt:
		case T_AlterObjectSchemaStmt:
		case T_DropStmt:
		case T_DropOwnedStmt:
		case T_CreateTrigStmt:
		case T_AlterPublicationStmt:
		case T_CreatePublicationStmt:
			return true;
		case T_AlterTableStmt:
			foreach(cell, ((const AlterTableStmt *) command)->cmds)
			{
				if (is_private_part(lfirst(cell)))
					return false;
			}
			return true;
		default:
			return false;
	}
}

/*
 * The tag of the command, such as "ALTER TABLE"; NULL if none runs.
 */
const char *
bemi_running_tag(void)
{
	BemiRunningCommand running;

	if (!find_running(&running))
		return NULL;
	return GetCommandTagName(CreateCommandTag(running.command));
}

/*
 * The text of the command, palloc'd; NULL if it is not known or not public.
 */
char *
bemi_running_text(void)
{
	BemiRunningCommand running;
	char	   *text;
	int			len;

	if (!find_running(&running) || !text_is_public(running.command))
		return NULL;
	text = bemi_statement_command(&running.text);
	if (text == NULL || (len = strlen(text)) <= LONGEST_TEXT)
		return text;
	text[pg_mbcliplen(text, len, LONGEST_TEXT)] = '\0';
	return psprintf("%s...", text);
}

/*
 * The context of the command, or of the function that is called if none runs,
 * as a row would get it.  NULL if there is none.
 */
const char *
bemi_running_context(void)
{
	BemiRunningCommand running;
	const BemiStatementText *text =
		find_running(&running) ? &running.text : NULL;
	const char *context =
		bemi_context_with_additions(bemi_context_of_statement(text),
									bemi_tags_of_statement(text));

	return context != NULL && strlen(context) <= LONGEST_CONTEXT ? context :
		NULL;
}
