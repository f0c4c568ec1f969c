/*-------------------------------------------------------------------------
 *
 * reader.c
 *		Decides whether this server may read a remote source and use its slot.
 *
 * A slot can have only one reader, because changes that one server has
 * confirmed are never sent to another.  A copy of the history's server has the
 * same rows, origins and names of slots, so it would take changes away from
 * its original. bemi.sources.reader contains the server that reads the source.
 * The worker compares it with its own server before it connects.
 *
 * A copy has all files of the original.  So a server is identified by
 * properties that are in none of them: the path of the data directory, the
 * inode of pg_control (which PostgreSQL overwrites in place and never
 * replaces), and the name of the host.  A server with other properties is a
 * copy, and does not read, with two exceptions:
 *
 * - A standby that was promoted: standby.signal was there when the postmaster started,
 *   and recovery has ended since.  (A restored backup has recovery.signal.)
 * - A server at the same path that differs in one of the others only: its host has another
 *   name (a new container, a cluster that moves a disk), or its files were put back.
 *
 * These continue by themselves if the slot has no reader.  Each of them can be
 * a clone whose original is alive.  Then the original's walsender keeps the
 * slot active.  If the slot is still active after the source would have ended
 * a dead reader's stream, its reader is alive.  Then this server renounces the
 * source, in its row, because otherwise it could begin to read while the
 * original restarts.
 *
 * bemi.start() makes this server the reader under the same condition: that the
 * slot has no other reader.
 *
 * What must never happen: this server reads or drops a slot whose reader is
 * alive.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "stream/stream.h"
#include "worker/worker_internal.h"

PG_FUNCTION_INFO_V1(bemi_this_reader);

#define HOST_NAME_LEN	256

/* bemi.sources.reader of a source that this server has renounced. */
#define NOBODY			"-"

/* A server, parsed from bemi.sources.reader. */
typedef struct Reader
{
	const char *system_identifier;
	const char *inode;			/* of pg_control */
	const char *host;
	const char *directory;
} Reader;

typedef enum Relationship
{
	THE_READER,
	SUCCESSOR,					/* if the slot has no reader */
	COPY
} Relationship;

/* The setting bemi.read_sources. */
static bool read_sources = true;

/*
 * Whether this server was started as a standby.  Set in the postmaster, so all
 * its children inherit it.
 */
static bool was_standby = false;

/*
 * Replaces characters that are not printable ASCII, in place.  Without
 * "words", spaces are replaced, too.
 */
static char *
make_printable(char *text, bool words)
{
	for (char *c = text; *c != '\0'; c++)
		if ((unsigned char) *c <= ' ' || (unsigned char) *c > '~')
			*c = (*c == ' ' && words) ? ' ' : '?';
	return text;
}

static char *
this_host(void)
{
	char		name[HOST_NAME_LEN] = "";

	if (gethostname(name, sizeof(name) - 1) != 0 || name[0] == '\0')
		return pstrdup("?");
	return make_printable(pstrdup(name), false);
}

static char *
this_directory(void)
{
	char		path[PATH_MAX];

	return make_printable(pstrdup(realpath(DataDir, path) ? path : DataDir),
						  true);
}

/*
 * The identification of this server, palloc'd.
 */
static char *
this_reader(void)
{
	struct stat file;

	if (stat(XLOG_CONTROL_FILE, &file) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not stat file \"%s\": %m", XLOG_CONTROL_FILE)));
	return psprintf(UINT64_FORMAT " " UINT64_FORMAT " %s %s",
					GetSystemIdentifier(), (uint64) file.st_ino, this_host(),
					this_directory());
}

/*
 * _bemi.this_reader()
 */
Datum
bemi_this_reader(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(this_reader()));
}

/*
 * Cuts the next word off a text; "" if there is none.
 */
static const char *
next_reader_word(char **text)
{
	char	   *word = *text;
	int			len = strcspn(word, " ");

	*text = word + len + (word[len] != '\0');
	word[len] = '\0';
	return word;
}

static void
parse_reader(const char *text, Reader *reader)
{
	char	   *rest = pstrdup(text);

	reader->system_identifier = next_reader_word(&rest);
	reader->inode = next_reader_word(&rest);
	reader->host = next_reader_word(&rest);
	reader->directory = rest;
}

/*
 * The relationship of this server to the source's reader.  If none is known,
 * the first server may read it.
 */
static Relationship
compare_readers(const BemiSourceRow *row)
{
	Reader		known;
	Reader		here;
	bool		same_file;
	bool		same_host;
	bool		same_directory;

	if (row->reader == NULL)
		return SUCCESSOR;
	parse_reader(row->reader, &known);
	parse_reader(this_reader(), &here);
	same_file = strcmp(known.inode, here.inode) == 0;
	same_host = strcmp(known.host, here.host) == 0;
	same_directory = strcmp(known.directory, here.directory) == 0;
	if (strcmp(known.system_identifier, here.system_identifier) != 0)
		return COPY;
	if (same_file && same_host && same_directory)
		return THE_READER;
	return was_standby || (same_directory && (same_file || same_host)) ?
		SUCCESSOR :
		COPY;
}

/*
 * The errdetail with the server that the source was started for, if that is
 * known.
 */
static int
reader_detail(const BemiSourceRow *row)
{
	Reader		reader;

	if (row->reader == NULL)
		return 0;
	parse_reader(row->reader, &reader);
	if (reader.directory[0] == '\0')
		return 0;
	return errdetail("Its slot \"%s\" belongs to the server with data directory \"%s\" on host \"%s\".",
					 row->slot_name, reader.directory, reader.host);
}

/*
 * Whether the slot of a source belongs to another server.
 */
bool
bemi_is_copy(const BemiSourceRow *row)
{
	return row->conninfo != NULL && compare_readers(row) == COPY;
}

/*
 * Throws an error if this server must not use slots of other servers, because
 * it may be a copy and the slots its original's.
 */
void
bemi_check_reading(const BemiSourceRow *row)
{
	if (row->conninfo == NULL)
		return;
	if (!read_sources)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"bemi.read_sources\" keeps this server from using slots of other servers"),
				 errhint("If the slots belong to this server: ALTER SYSTEM SET bemi.read_sources = on; SELECT pg_reload_conf();")));
	if (bemi_is_copy(row))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("source \"%s\" was started for another server, and this one is a copy of it",
						bemi_source_name),
				 reader_detail(row),
				 errhint("If this server replaces the other one: CALL bemi.start('%s'); If not: CALL bemi.drop_source('%s', force => true);",
						 bemi_source_name, bemi_source_name)));
}

/*
 * Stores which server reads the source.
 */
static void
set_reader(BemiSourceRow *row, const char *reader)
{
	BemiValue	arguments[] = {
		bemi_sql_text(bemi_source_name), bemi_sql_text(reader)
	};

	bemi_begin_transaction();
	bemi_sql_run("UPDATE bemi.sources SET reader = $2 WHERE name = $1",
				 arguments, lengthof(arguments));
	bemi_end_transaction();
	row->reader = pstrdup(reader);
}

/*
 * Whether the slot has been active for so long that its reader must be alive,
 * because the source ends the stream of a silent reader.  Without
 * wal_sender_timeout this can never be known.  The time of day is not used: if
 * the clock were set forward, this server would renounce the source.
 */
static bool
is_reader_alive(BemiStream *stream)
{
	double		source_timeout_ms = bemi_stream_read_timeout(stream);
	int64		contested_ms = bemi_facts_contest();

	return source_timeout_ms > 0 && contested_ms > source_timeout_ms * 1.5;
}

/*
 * Throws an error because another server reads the slot.  Renounces the source
 * if that server is certainly alive.
 */
static void
leave_to_reader(BemiStream *stream, BemiSourceRow *row)
{
	if (is_reader_alive(stream))
	{
		bemi_facts_end_contest();
		set_reader(row, NOBODY);
		bemi_check_reading(row);
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("another server reads slot \"%s\" of source \"%s\"",
					row->slot_name, bemi_source_name),
			 reader_detail(row),
			 errhint("Stop that server, or the source there, and try again: CALL bemi.start('%s');",
					 bemi_source_name)));
}

/*
 * Makes this server the reader, if it is not yet.  Throws an error if the slot
 * has another one.
 */
void
bemi_claim_source(BemiStream *stream, BemiSourceRow *row)
{
	BemiSlot	slot;

	if (row->conninfo == NULL || compare_readers(row) == THE_READER)
		return;
	bemi_stream_find_slot(stream, bemi_slot_name, &slot);
	if (slot.active)
		leave_to_reader(stream, row);
	if (row->reader != NULL)
		ereport(LOG,
				(errmsg("bemi: this server continues to read source \"%s\" in place of its former reader",
						bemi_source_name),
				 reader_detail(row)));
	bemi_facts_end_contest();
	set_reader(row, this_reader());
}

void
bemi_worker_reader_init(void)
{
	if (process_shared_preload_libraries_in_progress)
		was_standby = access(STANDBY_SIGNAL_FILE, F_OK) == 0;
	DefineCustomBoolVariable("bemi.read_sources",
							 "Sets whether this server reads sources on other servers and uses their slots.",
							 "Turn it off on a copy of a server that reads them.",
							 &read_sources, true, PGC_SIGHUP, 0, NULL, NULL,
							 NULL);
}
