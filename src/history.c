/*-------------------------------------------------------------------------
 *
 * history.c
 *		Writes changes into bemi.changes, each source transaction exactly once.
 *
 * In flow changes (stitch.c) and the ends of source transactions; out flow
 * rows of bemi.changes.  A source transaction is stored whole, within one
 * destination transaction, whose commit record also carries how far the source
 * has been read (its replication origin, as in native logical replication).
 * So after a crash either both are there or neither is, and the stream goes on
 * where the origin says.  While the stream does not pause, several source
 * transactions share one destination transaction.
 *
 * Commits are asynchronous: a commit lost in a crash is sent again, because
 * the source is only told of what is flushed (bemi_history_is_flushed).
 *
 * Changes are copied into a buffer and written in runs, each into one partition
 * (history_partition.c).  The buffer's memory context is reset with each
 * flush.  What must never happen: a commit in the middle of a source
 * transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "pgstat.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "history.h"

/* A flush writes at most so many changes, or somewhat more bytes than this. */
#define BUFFERED_CHANGES	BEMI_PARTITION_SLOTS
#define BUFFERED_BYTES		(8 * 1024 * 1024)

/* A destination transaction that could go on ends after so much. */
#define COMMIT_CHANGES		10000
#define COMMIT_INTERVAL_MS	100

/* A change in the buffer; what it points to is in the buffer's memory. */
typedef struct BufferedChange
{
	BemiChange	change;
	TimestampTz queued_at;
} BufferedChange;

/* A commit here, and the source's position that it stands for. */
typedef struct UnflushedCommit
{
	XLogRecPtr	local_end;
	XLogRecPtr	source_end;
} UnflushedCommit;

struct BemiHistory
{
	MemoryContext memory;		/* holds this struct */
	const char *source;
	const char *database;
	Jsonb	   *empty;			/* {} */

	/* the buffer */
	MemoryContext buffer_memory;
	int			buffered;
	BufferedChange buffer[BUFFERED_CHANGES];
	Jsonb	   *context;		/* copy of the last change's context */
	uint64		context_serial;

	/* the destination transaction */
	bool		open;
	bool		whole;			/* ends with the end of a source transaction */
	TimestampTz opened_at;
	int64		changes;
	int64		invalid_messages;
	XLogRecPtr	end_lsn;		/* of the last source transaction in it */
	TimestampTz end_time;
	BemiPartition *partition;	/* that rows go to; NULL: none is open */

	List	   *unflushed;		/* of UnflushedCommit, oldest first */
	XLogRecPtr	flushed;
};

/*
 * Starts a history of one source; lives in the current memory context.
 */
BemiHistory *
bemi_history_begin(const char *source, const char *database)
{
	BemiHistory *history = palloc0(sizeof(BemiHistory));
	Datum		empty = DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"));

	history->memory = CurrentMemoryContext;
	history->source = pstrdup(source);
	history->database = pstrdup(database);
	history->empty = DatumGetJsonbP(empty);
	history->buffer_memory = AllocSetContextCreate(CurrentMemoryContext,
												   "bemi change buffer",
												   ALLOCSET_DEFAULT_SIZES);
	history->whole = true;
	return history;
}

/*
 * Begins a destination transaction, unless one is open.
 */
void
bemi_history_open(BemiHistory *history)
{
	MemoryContext caller = CurrentMemoryContext;

	if (history->open)
		return;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(caller);

	history->open = true;
	history->opened_at = GetCurrentTimestamp();
}

/*
 * A source transaction begins: from here to its end, nothing is committed.
 */
void
bemi_history_begin_transaction(BemiHistory *history)
{
	bemi_history_open(history);
	history->whole = false;
}

/*
 * A text datum in the current memory context, NULL to NULL.
 */
static Datum
text_value(const char *text, bool *is_null)
{
	*is_null = (text == NULL);
	return text ? CStringGetTextDatum(text) : (Datum) 0;
}

/*
 * The values of one change, in the order of bemi_history_columns.
 */
static void
change_values(const BemiHistory *history, const BufferedChange *buffered,
			  Datum *values, bool *nulls)
{
	const BemiChange *change = &buffered->change;
	int			n = 0;

	memset(nulls, false, sizeof(bool) * BEMI_HISTORY_COLUMNS);
	values[n++] = UUIDPGetDatum(&change->id);
	values[n] = text_value(history->database, &nulls[n]), n++;
	values[n] = text_value(change->schema, &nulls[n]), n++;
	values[n] = text_value(change->table, &nulls[n]), n++;
	values[n] = text_value(change->primary_key, &nulls[n]), n++;
	values[n] = text_value(change->operation, &nulls[n]), n++;
	values[n++] = JsonbPGetDatum(change->before);
	values[n++] = JsonbPGetDatum(change->after);
	values[n++] = JsonbPGetDatum(change->context);
	values[n++] = TimestampTzGetDatum(change->committed_at);
	values[n++] = TimestampTzGetDatum(buffered->queued_at);
	values[n++] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[n++] = Int64GetDatum((int64) change->xid);
	values[n++] = Int64GetDatum((int64) change->position);
	Assert(n == BEMI_HISTORY_COLUMNS);
}

/*
 * Writes a run of buffered changes that all belong to the open partition.
 */
static void
insert_run(BemiHistory *history, int first, int count)
{
	MemoryContext caller = MemoryContextSwitchTo(history->buffer_memory);

	for (int i = 0; i < count; i++)
	{
		Datum		values[BEMI_HISTORY_COLUMNS];
		bool		nulls[BEMI_HISTORY_COLUMNS];

		change_values(history, &history->buffer[first + i], values, nulls);
		bemi_partition_put(history->partition, i, values, nulls);
	}
	MemoryContextSwitchTo(caller);
	bemi_partition_insert(history->partition, count);
}

/*
 * Writes the buffer and empties it.
 */
static void
flush(BemiHistory *history)
{
	int			first = 0;

	while (first < history->buffered)
	{
		TimestampTz committed_at = history->buffer[first].change.committed_at;
		int			end = first + 1;

		history->partition = bemi_partition_for(history->partition, committed_at);
		while (end < history->buffered)
		{
			TimestampTz next = history->buffer[end].change.committed_at;

			if (next != committed_at && !bemi_partition_takes(history->partition, next))
				break;
			committed_at = next;
			end++;
		}
		insert_run(history, first, end - first);
		first = end;
		CHECK_FOR_INTERRUPTS();
	}
	history->buffered = 0;
	history->context = NULL;
	MemoryContextReset(history->buffer_memory);
}

/*
 * Copy of a jsonb in the current memory context, of {} for NULL.
 */
static Jsonb *
copy_jsonb(const BemiHistory *history, const Jsonb *jsonb)
{
	Jsonb	   *copy;

	if (jsonb == NULL)
		return history->empty;
	copy = palloc(VARSIZE(jsonb));
	memcpy(copy, jsonb, VARSIZE(jsonb));
	return copy;
}

/*
 * Takes a change, copying all of it.  Changes that share a context share one
 * copy of it, or a large context would be kept once for each row.
 */
void
bemi_history_add(BemiHistory *history, const BemiChange *change)
{
	BufferedChange *buffered = &history->buffer[history->buffered];
	MemoryContext caller;

	Assert(history->open && !history->whole);

	caller = MemoryContextSwitchTo(history->buffer_memory);
	if (history->context == NULL || history->context_serial != change->context_serial)
	{
		history->context = copy_jsonb(history, change->context);
		history->context_serial = change->context_serial;
	}
	buffered->change = *change;
	buffered->change.schema = pstrdup(change->schema);
	buffered->change.table = pstrdup(change->table);
	buffered->change.primary_key = change->primary_key ? pstrdup(change->primary_key) : NULL;
	buffered->change.before = copy_jsonb(history, change->before);
	buffered->change.after = copy_jsonb(history, change->after);
	buffered->change.context = history->context;
	buffered->queued_at = GetCurrentTimestamp();
	MemoryContextSwitchTo(caller);

	history->buffered++;
	history->changes++;
	if (history->buffered == BUFFERED_CHANGES ||
		MemoryContextMemAllocated(history->buffer_memory, false) > BUFFERED_BYTES)
		flush(history);
}

/*
 * Counts a context message that was not valid, for bemi.status.
 */
void
bemi_history_count_invalid(BemiHistory *history)
{
	history->invalid_messages++;
}

/*
 * A source transaction has ended; what was added is whole.
 */
void
bemi_history_end_transaction(BemiHistory *history, XLogRecPtr end_lsn,
							 TimestampTz committed_at)
{
	history->whole = true;
	history->end_lsn = end_lsn;
	history->end_time = committed_at;
}

/*
 * Whether the open transaction should be committed although more is coming.
 */
bool
bemi_history_is_due(const BemiHistory *history)
{
	return history->open && history->whole &&
		(history->changes >= COMMIT_CHANGES ||
		 TimestampDifferenceExceeds(history->opened_at, GetCurrentTimestamp(),
									COMMIT_INTERVAL_MS));
}

/*
 * Whether all that was received is committed.
 */
bool
bemi_history_is_stored(const BemiHistory *history)
{
	return !history->open;
}

static void
store_invalid_messages(BemiHistory *history)
{
	Oid			types[] = {TEXTOID, INT8OID};
	Datum		values[] = {CStringGetTextDatum(history->source),
	Int64GetDatum(history->invalid_messages)};

	SPI_connect();
	if (SPI_execute_with_args("SELECT bemi.count_invalid_messages($1, $2)",
							  2, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not count invalid messages");
	SPI_finish();
}

/*
 * Remembers a commit until it is flushed.
 */
static void
remember_commit(BemiHistory *history)
{
	MemoryContext caller = MemoryContextSwitchTo(history->memory);
	UnflushedCommit *commit = palloc(sizeof(UnflushedCommit));

	commit->local_end = XactLastCommitEnd;
	commit->source_end = history->end_lsn;
	history->unflushed = lappend(history->unflushed, commit);
	MemoryContextSwitchTo(caller);
}

/*
 * Commits the open transaction, if there is one, with the position of the
 * last source transaction in it.  In the middle of a source transaction it
 * does nothing: the rest will come.
 */
void
bemi_history_commit(BemiHistory *history)
{
	MemoryContext caller = CurrentMemoryContext;
	bool		wrote = history->changes > 0 || history->invalid_messages > 0;

	if (!history->open || !history->whole)
		return;

	flush(history);
	bemi_partition_close(history->partition);
	history->partition = NULL;
	if (history->invalid_messages > 0)
		store_invalid_messages(history);
	PopActiveSnapshot();

	replorigin_session_origin_lsn = history->end_lsn;
	replorigin_session_origin_timestamp = history->end_time;
	CommitTransactionCommand();
	pgstat_report_stat(false);
	MemoryContextSwitchTo(caller);

	if (wrote)
		remember_commit(history);
	history->open = false;
	history->changes = 0;
	history->invalid_messages = 0;
}

/*
 * Gives in *end_lsn up to where source transactions are stored and flushed.
 * True if nothing stored still waits for its flush.
 */
bool
bemi_history_is_flushed(BemiHistory *history, XLogRecPtr *end_lsn)
{
	XLogRecPtr	flushed_here = bemi_flush_position();

	while (history->unflushed != NIL)
	{
		UnflushedCommit *commit = linitial(history->unflushed);

		if (commit->local_end > flushed_here)
			break;
		history->flushed = commit->source_end;
		history->unflushed = list_delete_first(history->unflushed);
		pfree(commit);
	}
	*end_lsn = history->flushed;
	return history->unflushed == NIL && !history->open;
}
