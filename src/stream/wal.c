/*-------------------------------------------------------------------------
 *
 * wal.c
 *		Traces a transaction: is it still in the source's WAL?
 *
 * A logical slot does not send a confirmed transaction again, and a new slot
 * sends no old one.  But a physical stream can read the WAL as long as the
 * source keeps it.  Input: the position, time and xid of a commit.  A short
 * physical stream from the page of that position shows whether the record
 * there is this commit.  WAL is linear, so a source that has it also has all
 * earlier commits.
 *
 * The layout of pages, of record headers and of the beginning of a commit
 * record has been the same since PostgreSQL 14, and does not depend on the
 * version of this server.  The page's header contains the position of the
 * page.  If it is wrong, the byte order or the layout is another one, and the
 * result is "unknown".
 *
 * What must never happen: the bytes of a source are trusted.  They are read
 * only within their frame and before the end of the source's WAL, and a length
 * in a record is used only to skip bytes.
 *
 * The stream has a connection of its own, like those of probe.c.  It
 * uses no slot and confirms nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/rmgr.h"
#include "access/xact.h"
#include "access/xlog_internal.h"
#include "access/xlogrecord.h"
#include "utils/timestamp.h"

#include "stream/remote_sql.h"
#include "stream/stream_internal.h"

/* Interval at which a wait calls on_wait and checks for interrupts. */
#define LOOK_MS		500

/* The byte of a page's magic number that all versions share. */
#define MAGIC_BYTE	0xFF00

typedef struct WalReader
{
	BemiStream *probe;
	StringInfoData frame;		/* its rest is still to be read */
	XLogRecPtr	position;		/* of the next byte */
	XLogRecPtr	end;			/* end of the source's WAL */
	uint32		page_size;
	char	   *refusal;		/* why the WAL cannot be read; NULL: it can */
} WalReader;

/*
 * Whether an error may disappear by itself.  These are the classes connection
 * exception, transaction rollback, insufficient resources, object not in
 * prerequisite state and operator intervention.  An I/O error does not prove
 * that WAL is lost, so it counts, too.
 */
static bool
error_is_passing(const char *sqlstate)
{
	static const char *const classes[] = {"08", "40", "53", "55", "57"};

	for (int i = 0; i < lengthof(classes); i++)
		if (strncmp(sqlstate, classes[i], 2) == 0)
			return true;
	return strcmp(sqlstate, "58030") == 0;	/* io_error */
}

/*
 * Records why the source does not send WAL, and frees the result.  An error
 * that may disappear is thrown.
 */
static void
record_wal_refusal(WalReader *reader, PGresult *result)
{
	const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);

	if (sqlstate == NULL || message == NULL || error_is_passing(sqlstate))
		bemi_stream_report_refusal(reader->probe, result);
	reader->refusal = bemi_stream_string(reader->probe, message);
	PQclear(result);
}

/*
 * Waits shortly for the next frame.  The timeouts of streams apply.
 */
static void
wait_for_wal_frame(BemiStream *probe)
{
	bemi_stream_wait(probe, LOOK_MS);
	CHECK_FOR_INTERRUPTS();
	if (probe->on_wait)
		probe->on_wait(probe);
}

/*
 * Receives the frame that begins at the reader's position; false if the source
 * cannot send it.
 */
static bool
receive_wal_frame(WalReader *reader)
{
	BemiStream *probe = reader->probe;

	CHECK_FOR_INTERRUPTS();
	while (!bemi_stream_receive(probe, &reader->frame))
	{
		if (probe->ended)
		{
			record_wal_refusal(reader,
							   bemi_stream_await_result(probe,
														probe->replication));
			return false;
		}
		wait_for_wal_frame(probe);
	}
	if (bemi_stream_position(probe) != reader->position)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("source sent WAL of %X/%X instead of %X/%X",
						LSN_FORMAT_ARGS(bemi_stream_position(probe)),
						LSN_FORMAT_ARGS(reader->position))));
	return true;
}

/*
 * Reads the next bytes, or skips them if "to" is NULL.  Returns false if there
 * are not enough.
 */
static bool
read_wal_bytes(WalReader *reader, void *to, uint64 count)
{
	char	   *next = to;
	StringInfo	frame = &reader->frame;

	if (count > reader->end - reader->position)
		return false;
	while (count > 0)
	{
		int			n = Min(count, (uint64) (frame->len - frame->cursor));

		if (n == 0 && !receive_wal_frame(reader))
			return false;
		if (next != NULL)
		{
			memcpy(next, frame->data + frame->cursor, n);
			next += n;
		}
		frame->cursor += n;
		reader->position += n;
		count -= n;
	}
	return true;
}

/*
 * Reads and checks the header of a page.
 */
static bool
read_page_header(WalReader *reader)
{
	XLogRecPtr	page = reader->position;
	XLogPageHeaderData header;

	if (!read_wal_bytes(reader, &header, sizeof(header)))
		return false;
	if ((header.xlp_magic & MAGIC_BYTE) != (XLOG_PAGE_MAGIC & MAGIC_BYTE) ||
		header.xlp_pageaddr != page)
	{
		reader->refusal = pstrdup("the WAL has an unknown layout");
		return false;
	}
	return read_wal_bytes(reader, NULL,
						  XLogPageHeaderSize(&header) - sizeof(header));
}

/*
 * Reads bytes of a record, and skips the headers of pages within it.
 */
static bool
read_record_bytes(WalReader *reader, void *to, uint64 count)
{
	char	   *next = to;

	while (count > 0)
	{
		uint64		n;

		if (reader->position % reader->page_size == 0 &&
			!read_page_header(reader))
			return false;
		n = Min(count,
				reader->page_size - reader->position % reader->page_size);
		if (!read_wal_bytes(reader, next, n))
			return false;
		if (next != NULL)
			next += n;
		count -= n;
	}
	return true;
}

/*
 * Skips the part of a commit record between its header and its data.  Returns
 * the length of the data, 0 if this is not a commit record.
 */
static uint32
skip_to_commit_data(WalReader *reader)
{
	uint8		id;
	uint8		short_length;
	uint32		length;

	while (read_record_bytes(reader, &id, sizeof(id)))
	{
		if (id == XLR_BLOCK_ID_DATA_SHORT)
			return read_record_bytes(reader, &short_length,
									 sizeof(short_length)) ?
				short_length :
				0;
		if (id == XLR_BLOCK_ID_DATA_LONG)
			return read_record_bytes(reader, &length, sizeof(length)) ?
				length :
				0;
		if (id != XLR_BLOCK_ID_ORIGIN && id != XLR_BLOCK_ID_TOPLEVEL_XID)
			return 0;
		if (!read_record_bytes(reader, NULL,
							   id == XLR_BLOCK_ID_ORIGIN ?
							   sizeof(RepOriginId) :
							   sizeof(TransactionId)))
			return 0;
	}
	return 0;
}

/*
 * Whether a commit has this time.  For a commit that a subscription has
 * applied, the logical stream shows the publisher's time, which is at the end
 * of the data.
 */
static bool
commit_has_time(WalReader *reader, uint8 info, TimestampTz time)
{
	uint32		length = skip_to_commit_data(reader);
	TimestampTz commit_time;
	uint32		xinfo;

	if (length < sizeof(commit_time) ||
		!read_record_bytes(reader, &commit_time, sizeof(commit_time)))
		return false;
	if (commit_time == time)
		return true;
	if (!(info & XLOG_XACT_HAS_INFO) ||
		length <
		sizeof(commit_time) + sizeof(xinfo) + sizeof(xl_xact_origin) ||
		!read_record_bytes(reader, &xinfo, sizeof(xinfo)) ||
		!(xinfo & XACT_XINFO_HAS_ORIGIN))
		return false;
	return read_record_bytes(reader, NULL,
							 length - sizeof(commit_time) - sizeof(xinfo) -
							 sizeof(commit_time)) &&
		read_record_bytes(reader, &commit_time, sizeof(commit_time)) &&
		commit_time == time;
}

/*
 * Whether the record that begins here is the commit of a transaction.  The xid
 * of a prepared transaction is not compared, because it comes after much other
 * data.  Position and time are enough for it.
 */
static bool
is_commit_of(WalReader *reader, const BemiStored *transaction)
{
	XLogRecord	record;
	uint8		operation;

	if (!read_record_bytes(reader, &record, SizeOfXLogRecord) ||
		record.xl_rmid != RM_XACT_ID)
		return false;
	operation = record.xl_info & XLOG_XACT_OPMASK;
	if (operation == XLOG_XACT_COMMIT ? record.xl_xid != transaction->xid :
		operation != XLOG_XACT_COMMIT_PREPARED)
		return false;
	return commit_has_time(reader, record.xl_info, transaction->committed_at);
}

/*
 * Page size of the source's WAL.
 */
static uint32
find_page_size(BemiStream *stream)
{
	PGresult   *result =
		bemi_stream_query(stream, BEMI_SQL_WAL_BLOCK_SIZE);
	uint32		size =
		PQntuples(result) == 1 ? bemi_answer_number(result, 0, 0) : 0;

	PQclear(result);
	if (size < sizeof(XLogLongPageHeaderData) || (size & (size - 1)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("source has WAL pages of %u bytes", size)));
	return size;
}

/*
 * Starts a physical stream at the reader's position.  Returns false if the
 * source refuses it.
 */
static bool
start_reading_wal(WalReader *reader, uint32 timeline)
{
	BemiStream *probe = reader->probe;
	PGresult   *result =
		bemi_stream_run_any_command(probe, probe->replication,
									psprintf("START_REPLICATION PHYSICAL %X/%X TIMELINE %u",
											 LSN_FORMAT_ARGS(reader->position),
											 timeline));

	if (PQresultStatus(result) != PGRES_COPY_BOTH)
	{
		record_wal_refusal(reader, result);
		return false;
	}
	PQclear(result);
	bemi_stream_record_answer(probe);
	return true;
}

/*
 * Ends the stream, and waits until the source has ended it, because otherwise
 * the source would log a lost client.
 */
static void
end_reading_wal(BemiStream *probe)
{
	StringInfoData frame;

	if (PQputCopyEnd(probe->replication, NULL) <= 0 ||
		PQflush(probe->replication) != 0)
		bemi_stream_report_failure(probe, probe->replication,
								   "could not answer source");
	while (!probe->ended)
		if (bemi_stream_receive(probe, &frame))
			CHECK_FOR_INTERRUPTS();
		else if (!probe->ended)
			wait_for_wal_frame(probe);
	PQclear(bemi_stream_await_result(probe, probe->replication));
}

/*
 * Looks for a transaction in the source's WAL, on the timeline that has its
 * position.  "end" is a position that the source has reached.  If the WAL
 * cannot be read, *refusal is the reason, palloc'd.
 */
BemiTrace
bemi_stream_trace(BemiStream *stream, uint32 timeline, XLogRecPtr end,
				  const BemiStored *transaction, char **refusal)
{
	WalReader	reader = {.end = end};
	bool		found;

	reader.page_size = find_page_size(stream);
	reader.position =
		transaction->commit_lsn - transaction->commit_lsn % reader.page_size;
	if (reader.position >= end)
		return BEMI_TRACE_GONE;
	reader.probe = bemi_stream_open_probe(stream);
	found = start_reading_wal(&reader, timeline) &&
		read_page_header(&reader) &&
		reader.position <= transaction->commit_lsn &&
		read_wal_bytes(&reader, NULL,
					   transaction->commit_lsn - reader.position) &&
		is_commit_of(&reader, transaction);
	if (reader.refusal == NULL)
		end_reading_wal(reader.probe);
	bemi_stream_close(reader.probe);
	*refusal = reader.refusal;
	if (found)
		return BEMI_TRACE_FOUND;
	return reader.refusal != NULL ? BEMI_TRACE_UNKNOWN : BEMI_TRACE_GONE;
}
