/*-------------------------------------------------------------------------
 *
 * writer.c
 *		Writes changes into bemi.changes, each source transaction exactly once.
 *
 * In flow changes (decode/stitch.c) and the ends of source transactions; out
 * flow rows of bemi.changes.  A source transaction is stored whole, within one
 * destination transaction, whose commit record also carries how far the source
 * has been read (its replication origin, as in native logical replication).
 * So after a crash either both are there or neither is, and the stream goes on
 * where the origin says.  While the stream does not pause, several source
 * transactions share one destination transaction.
 *
 * Commits are asynchronous: a commit lost in a crash is sent again, because
 * the source is only told of what is flushed (bemi_store_is_flushed).
 *
 * Changes are copied into a buffer and written in runs, each into one
 * partition (partition.c).  The buffer's memory context is reset with each
 * flush.  What must never happen: a commit in the middle of a source
 * transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "pgstat.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "decode/decode_internal.h"
#include "store/store_internal.h"
#include "stream/stream.h"

/* A flush writes at most so many changes, or somewhat more bytes than this. */
#define BUFFERED_CHANGES	BEMI_PARTITION_SLOTS
#define BUFFERED_BYTES		(8 * 1024 * 1024)

/* A destination transaction that could go on ends after so much. */
#define COMMIT_CHANGES		10000
#define COMMIT_INTERVAL_MS	100

/* Counts are written down at most so often; dead rows would pile up else. */
#define PROGRESS_INTERVAL_MS	1000

/*
 * A source that has nothing to tell still writes WAL, which its slot should
 * let go.  To note that writes WAL here, so it is done after this many bytes,
 * or fewer if some time has gone by; never for the few of a server that idles.
 */
#define ADVANCE_BYTES		(1024 * 1024)
#define ADVANCE_LESS_BYTES	(64 * 1024)
#define ADVANCE_LESS_MS		60000

/*
 * A text that one row after another is likely to have, and so share: as it
 * came, and as the row has it.  In the buffer's memory; NULL: none yet.
 */
typedef struct SharedText
{
	char	   *text;
	Datum		value;
} SharedText;

/* A commit here, and the source's position that it stands for. */
typedef struct UnflushedCommit
{
	XLogRecPtr	local_end;
	XLogRecPtr	source_end;
} UnflushedCommit;

struct BemiStore
{
	MemoryContext memory;		/* holds this struct */
	const char *source;
	const char *database;
	const char *server;			/* as _bemi.source_tables names it */
	Datum		source_value;	/* the same, and others, as the rows have them */
	Datum		database_value;
	Datum		empty;			/* {} */

	/* the buffer; what its rows point to is in its memory, or lives as long */
	MemoryContext buffer_memory;
	int			buffered;
	BemiStoreRow buffer[BUFFERED_CHANGES];
	SharedText	schema;			/* of the last change */
	SharedText	table;
	SharedText	operation;
	Datum		context;		/* copy of the last change's; 0: none */
	uint64		context_serial;

	/* the destination transaction */
	bool		open;
	bool		whole;			/* ends with the end of a source transaction */
	TimestampTz opened_at;
	BemiCounts	counts;			/* of this transaction */
	int64		transaction_changes;	/* of the source transaction */
	XLogRecPtr	end_lsn;		/* of the last source transaction in it */
	TimestampTz end_time;
	BemiPartition *partition;	/* that rows go to; NULL: none is open */

	/* what is committed, but not in _bemi.source_progress yet */
	BemiCounts	uncounted;
	BemiUntil	until;			/* everything committed before is stored */
	TimestampTz progress_at;	/* when it was written down last */

	BemiCounts	news;			/* for bemi_store_drain_counts() */
	BemiUntil	given_until;	/* as it has told last */
	XLogRecPtr	origin;			/* as the last commit has left it */
	List	   *unflushed;		/* of UnflushedCommit, oldest first */
	XLogRecPtr	flushed;
	bool		flush_commits;	/* instead of leaving that to the WAL writer */
};

/*
 * Starts a history of one source, whose origin stands there; lives in the
 * current memory context.
 */
BemiStore *
bemi_store_create(const char *source, const BemiSourceIdentity *identity,
				  XLogRecPtr origin)
{
	BemiStore  *store = palloc0(sizeof(BemiStore));

	store->memory = CurrentMemoryContext;
	store->source = pstrdup(source);
	store->database = pstrdup(identity->database);
	store->server = psprintf(UINT64_FORMAT "/%s", identity->system_identifier,
							 identity->database);
	store->origin = store->flushed = origin;
	store->source_value = CStringGetTextDatum(source);
	store->database_value = CStringGetTextDatum(identity->database);
	store->empty = DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"));
	store->buffer_memory = AllocSetContextCreate(CurrentMemoryContext,
												 "bemi change buffer",
												 ALLOCSET_DEFAULT_SIZES);
	store->whole = true;
	return store;
}

/*
 * Begins a destination transaction, unless one is open.
 */
void
bemi_store_open(BemiStore *store)
{
	MemoryContext caller = CurrentMemoryContext;

	if (store->open)
		return;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(caller);

	store->open = true;
	store->opened_at = GetCurrentTimestamp();
}

/*
 * A source transaction begins: from here to its end, nothing is committed.
 */
void
bemi_store_begin_transaction(BemiStore *store)
{
	bemi_store_open(store);
	store->whole = false;
	store->transaction_changes = 0;
}

/*
 * Commit time of a row in the buffer.
 */
static TimestampTz
row_committed_at(const BemiStore *store, int i)
{
	return DatumGetTimestampTz(
							   store->buffer[i].values[BEMI_STORE_COMMITTED_AT]);
}

/*
 * Where the run of rows ends that begins there and belongs to the open
 * partition.
 */
static int
end_of_partition_run(const BemiStore *store, int first)
{
	int			end = first + 1;

	while (end < store->buffered &&
		   (row_committed_at(store, end) == row_committed_at(store, end - 1) ||
			bemi_partition_contains(store->partition,
									row_committed_at(store, end))))
		end++;
	return end;
}

/*
 * Writes the buffer and empties it.
 */
static void
write_rows(BemiStore *store)
{
	int			first = 0;

	while (first < store->buffered)
	{
		Datum		now;
		int			end;

		store->partition = bemi_partition_for(store->partition,
											  row_committed_at(store, first));
		end = end_of_partition_run(store, first);
		now = TimestampTzGetDatum(GetCurrentTimestamp());
		for (int i = first; i < end; i++)
			store->buffer[i].values[BEMI_STORE_CREATED_AT] = now;
		bemi_partition_insert(store->partition, &store->buffer[first],
							  end - first);
		first = end;
		CHECK_FOR_INTERRUPTS();
	}
	store->buffered = 0;
	store->context = (Datum) 0;
	store->schema.text = store->table.text = store->operation.text = NULL;
	MemoryContextReset(store->buffer_memory);
}

/*
 * The value of a text that may be the same as that of the row before.
 */
static Datum
shared_text(SharedText *shared, const char *text)
{
	if (shared->text == NULL || strcmp(shared->text, text) != 0)
	{
		shared->text = pstrdup(text);
		shared->value = CStringGetTextDatum(text);
	}
	return shared->value;
}

/*
 * Copy of a jsonb in the current memory context, {} for NULL.
 */
static Datum
copy_jsonb(const BemiStore *store, const Jsonb *jsonb)
{
	Jsonb	   *copy;

	if (jsonb == NULL)
		return store->empty;
	copy = palloc(VARSIZE(jsonb));
	memcpy(copy, jsonb, VARSIZE(jsonb));
	return JsonbPGetDatum(copy);
}

/*
 * The context of a change.  Changes that share one share one copy of it, or a
 * large context would be kept once for each row; and index.c knows them by
 * that.
 */
static Datum
shared_context(BemiStore *store, const BemiChange *change)
{
	if (store->context == (Datum) 0 ||
		store->context_serial != change->context_serial)
	{
		store->context = copy_jsonb(store, change->context);
		store->context_serial = change->context_serial;
	}
	return store->context;
}

/*
 * Copies a change into a row, in the order of bemi_store_columns; all but the
 * time when it is stored.
 */
static void
fill_store_row(BemiStore *store, BemiStoreRow *row, const BemiChange *change)
{
	Datum	   *values = row->values;
	pg_uuid_t  *id = palloc(sizeof(pg_uuid_t));
	int			n = 0;

	*id = change->id;
	memset(row->nulls, false, sizeof(row->nulls));
	values[n++] = UUIDPGetDatum(id);
	values[n++] = store->database_value;
	values[n++] = shared_text(&store->schema, change->schema);
	values[n++] = shared_text(&store->table, change->table);
	row->nulls[n] = (change->primary_key == NULL);
	values[n++] = change->primary_key ?
		CStringGetTextDatum(change->primary_key) :
		(Datum) 0;
	values[n++] = shared_text(&store->operation, change->operation);
	values[n++] = copy_jsonb(store, change->before);
	values[n++] = copy_jsonb(store, change->after);
	Assert(n == BEMI_STORE_CONTEXT);
	values[n++] = shared_context(store, change);
	Assert(n == BEMI_STORE_COMMITTED_AT);
	values[n++] = TimestampTzGetDatum(change->committed_at);
	values[n++] = TimestampTzGetDatum(change->queued_at);
	Assert(n == BEMI_STORE_CREATED_AT);
	n++;
	values[n++] = Int64GetDatum((int64) change->xid);
	values[n++] = Int64GetDatum((int64) change->position);
	values[n++] = store->source_value;
	Assert(n == BEMI_STORE_COLUMNS);
}

/*
 * Takes a change, copying all of it.
 */
void
bemi_store_add(BemiStore *store, const BemiChange *change)
{
	MemoryContext caller;

	Assert(store->open && !store->whole);

	caller = MemoryContextSwitchTo(store->buffer_memory);
	fill_store_row(store, &store->buffer[store->buffered], change);
	MemoryContextSwitchTo(caller);

	store->buffered++;
	store->counts.changes++;
	store->transaction_changes++;
	if (store->buffered == BUFFERED_CHANGES ||
		MemoryContextMemAllocated(store->buffer_memory, false) >
		BUFFERED_BYTES)
		write_rows(store);
}

/*
 * Runs one of the functions of bemi--1.0.sql within the open transaction.
 * True if it returns true.
 */
static bool
call_store_function(const char *statement, int count, Oid *types,
					Datum *values, const char *nulls)
{
	bool		is_null;
	bool		result;

	Assert(IsTransactionState());
	SPI_connect();
	if (SPI_execute_with_args(statement, count, types, values, nulls, false,
							  0) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "could not run \"%s\"", statement);
	result = SPI_gettypeid(SPI_tuptable->tupdesc, 1) == BOOLOID &&
		DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0],
								   SPI_tuptable->tupdesc, 1, &is_null));
	SPI_finish();
	return result;
}

/*
 * A table is in the stream, of a source that does not tell from when on it is
 * tracked.  If that is news, then it was not tracked before.
 */
void
bemi_store_begin_tracking(BemiStore *store, const BemiRelation *relation,
						  XLogRecPtr at_lsn, TimestampTz at_time)
{
	Oid			types[] = {TEXTOID, TEXTOID, OIDOID, TEXTOID,
	TEXTOID, PG_LSNOID, TIMESTAMPTZOID};
	Datum		values[] = {CStringGetTextDatum(store->source),
		CStringGetTextDatum(store->server),
		ObjectIdGetDatum(relation->oid),
		CStringGetTextDatum(relation->schema),
		CStringGetTextDatum(relation->table),
		LSNGetDatum(at_lsn),
	TimestampTzGetDatum(at_time)};

	(void)
		call_store_function("SELECT CASE WHEN NOT _bemi.is_tracking_known($1, $4, $5, $6, $7)"
							" THEN _bemi.begin_tracking($1, $2, $3, $4, $5, $6, $7) END",
							lengthof(types), types, values, NULL);
}

/*
 * Takes a tracking message whose signature is right; false if it
 * comes with another transaction than it was written in.
 */
bool
bemi_store_apply_tracking(BemiStore *store, const Jsonb *message,
						  TransactionId xid, XLogRecPtr at_lsn,
						  TimestampTz at_time)
{
	Oid			types[] = {TEXTOID, TEXTOID, XIDOID,
	JSONBOID, PG_LSNOID, TIMESTAMPTZOID};
	Datum		values[] = {CStringGetTextDatum(store->source),
		CStringGetTextDatum(store->server),
		TransactionIdGetDatum(xid),
		JsonbPGetDatum(message),
		LSNGetDatum(at_lsn),
	TimestampTzGetDatum(at_time)};

	return call_store_function("SELECT _bemi.apply_tracking($1, $2, $3, $4, $5, $6)",
							   lengthof(types), types, values, NULL);
}

/*
 * The source has another secret.  If that is news, stored descriptions become
 * stale.
 */
void
bemi_store_record_signing_key(BemiStore *store, const char *version)
{
	Oid			types[] = {TEXTOID, TEXTOID};
	Datum		values[] = {CStringGetTextDatum(store->source),
	CStringGetTextDatum(version)};

	(void) call_store_function("SELECT _bemi.record_key_version($1, $2)",
							   lengthof(types), types, values, NULL);
}

/*
 * What the source has told last of a table, as _bemi.describe() says it,
 * palloc'd; NULL if it has not.
 */
Jsonb *
bemi_store_description(BemiStore *store, const BemiRelation *relation)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[] = {TEXTOID, OIDOID};
	Datum		values[] = {CStringGetTextDatum(store->source),
	ObjectIdGetDatum(relation->oid)};
	Jsonb	   *description = NULL;
	bool		is_null;

	Assert(IsTransactionState());
	SPI_connect();
	if (SPI_execute_with_args("SELECT description FROM _bemi.source_relations"
							  " WHERE source = $1 AND relation = $2",
							  lengthof(types), types, values, NULL, false,
							  1) != SPI_OK_SELECT)
		elog(ERROR, "could not read _bemi.source_relations");
	if (SPI_processed == 1)
	{
		Datum		value = SPI_getbinval(SPI_tuptable->vals[0],
										  SPI_tuptable->tupdesc, 1, &is_null);

		MemoryContextSwitchTo(caller);
		description = DatumGetJsonbPCopy(value);
	}
	SPI_finish();
	return description;
}

/*
 * Counts a message that was not valid, for bemi.status.  Between transactions,
 * it is written down as time goes by: to begin one for each would let anybody
 * who can write messages keep the worker busy.
 */
void
bemi_store_count_invalid(BemiStore *store)
{
	if (store->open)
		store->counts.invalid_messages++;
	else
	{
		store->uncounted.invalid_messages++;
		store->news.invalid_messages++;
	}
}

/*
 * A source transaction has ended; what was added is whole.
 */
void
bemi_store_end_transaction(BemiStore *store, const BemiStored *transaction,
						   XLogRecPtr end_lsn)
{
	store->whole = true;
	store->end_lsn = end_lsn;
	store->end_time = transaction->committed_at;
	if (store->transaction_changes > 0)
	{
		store->counts.transactions++;
		store->counts.changed = *transaction;
	}
}

/*
 * All that the source has committed before this time is stored, and has its
 * records before the position.  An earlier time than before shows that the
 * source's clock was set back: what it commits now may be of any time from
 * there on.
 */
void
bemi_store_is_complete_until(BemiStore *store, TimestampTz time,
							 XLogRecPtr position)
{
	if (TIMESTAMP_NOT_FINITE(time))
		return;
	store->until.time = time;
	store->until.position = position;
}

/*
 * Whether commits are to be flushed at once, because the source waits for
 * them.
 */
void
bemi_store_flush_commits(BemiStore *store, bool flush)
{
	store->flush_commits = flush;
}

/*
 * Whether the open transaction should be committed although more is coming.
 */
bool
bemi_store_is_due(const BemiStore *store)
{
	return store->open && store->whole &&
		(store->counts.changes >= COMMIT_CHANGES ||
		 bemi_has_passed(store->opened_at, COMMIT_INTERVAL_MS));
}

/*
 * Whether all that was received is committed.
 */
bool
bemi_store_is_stored(const BemiStore *store)
{
	return !store->open;
}

static void
add_message_counts(BemiCounts *to, const BemiCounts *counts)
{
	to->changes += counts->changes;
	to->transactions += counts->transactions;
	to->invalid_messages += counts->invalid_messages;
	if (!XLogRecPtrIsInvalid(counts->changed.commit_lsn))
		to->changed = counts->changed;
}

/*
 * Writes down what was counted, within the open transaction.
 */
static void
update_progress(BemiStore *store)
{
	const BemiCounts *counts = &store->uncounted;
	Oid			types[] = {TEXTOID, INT8OID, INT8OID,
		INT8OID, TIMESTAMPTZOID, PG_LSNOID,
	PG_LSNOID, TIMESTAMPTZOID, INT8OID};
	char		nulls[] = "         ";
	Datum		values[] = {CStringGetTextDatum(store->source),
		Int64GetDatum(counts->changes),
		Int64GetDatum(counts->transactions),
		Int64GetDatum(counts->invalid_messages),
		TimestampTzGetDatum(store->until.time),
		LSNGetDatum(store->until.position),
		LSNGetDatum(counts->changed.commit_lsn),
		TimestampTzGetDatum(counts->changed.committed_at),
	Int64GetDatum((int64) counts->changed.xid)};

	if (store->until.time == 0)
		nulls[4] = nulls[5] = 'n';
	if (XLogRecPtrIsInvalid(counts->changed.commit_lsn))
		nulls[6] = nulls[7] = nulls[8] = 'n';
	(void)
		call_store_function("SELECT _bemi.update_progress($1, $2, $3, $4, $5, $6, $7, $8, $9)",
							lengthof(types), types, values, nulls);
	memset(&store->uncounted, 0, sizeof(BemiCounts));
	store->progress_at = GetCurrentTimestamp();
}

/*
 * Remembers a commit until it is flushed.
 */
static void
remember_commit(BemiStore *store)
{
	MemoryContext caller = MemoryContextSwitchTo(store->memory);
	UnflushedCommit *commit = palloc(sizeof(UnflushedCommit));

	commit->local_end = XactLastCommitEnd;
	commit->source_end = store->end_lsn;
	store->unflushed = lappend(store->unflushed, commit);
	store->origin = store->end_lsn;
	MemoryContextSwitchTo(caller);
}

/*
 * Commits the open transaction with the position of the last source
 * transaction in it.  One that has written nothing has no commit record, and
 * does not move the origin.
 */
static void
commit_with_origin(BemiStore *store)
{
	MemoryContext caller = CurrentMemoryContext;
	bool		wrote = TransactionIdIsValid(GetTopTransactionIdIfAny());

	PopActiveSnapshot();
	replorigin_session_origin_lsn = store->end_lsn;
	replorigin_session_origin_timestamp = store->end_time;
	if (store->flush_commits)
		ForceSyncCommit();
	CommitTransactionCommand();
	pgstat_report_stat(false);
	MemoryContextSwitchTo(caller);

	if (wrote)
		remember_commit(store);
	store->open = false;
}

/*
 * Commits the open transaction, if there is one.  In the middle of a source
 * transaction it does nothing: the rest will come.
 */
void
bemi_store_commit(BemiStore *store)
{
	BemiCounts *counts = &store->counts;

	if (!store->open || !store->whole)
		return;

	write_rows(store);
	bemi_partition_close(store->partition);
	store->partition = NULL;
	add_message_counts(&store->uncounted, counts);
	add_message_counts(&store->news, counts);
	memset(counts, 0, sizeof(BemiCounts));
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()) &&
		bemi_has_passed(store->progress_at, PROGRESS_INTERVAL_MS))
		update_progress(store);
	commit_with_origin(store);
}

/*
 * Whether it is time to note that the source has come to "received" without
 * anything to store; sooner if it asks for that.
 */
bool
bemi_store_may_advance(const BemiStore *store, XLogRecPtr received,
					   bool is_asked)
{
	bool		uncounted = store->uncounted.changes > 0 ||
		store->uncounted.invalid_messages > 0;
	uint64		bytes =
		received > store->origin ? received - store->origin : 0;

	if (store->open)
		return false;
	if (is_asked && bytes > 0)
		return true;
	if (!bemi_has_passed(store->progress_at, PROGRESS_INTERVAL_MS))
		return false;
	return uncounted || bytes >= ADVANCE_BYTES ||
		(bytes >= ADVANCE_LESS_BYTES &&
		 bemi_has_passed(store->progress_at, ADVANCE_LESS_MS));
}

/*
 * Notes that there is nothing to store up to "received".  The slot is never
 * confirmed beyond the origin: so a destination that was restored from a
 * backup, or is a standby that lags, can see that it has missed something.
 */
void
bemi_store_advance(BemiStore *store, XLogRecPtr received)
{
	bemi_store_open(store);
	store->end_lsn = Max(received, store->origin);
	store->end_time = store->until.time;
	update_progress(store);
	commit_with_origin(store);
}

/*
 * Up to where source transactions are stored and flushed.
 */
XLogRecPtr
bemi_store_flushed(BemiStore *store)
{
	XLogRecPtr	flushed_here = bemi_flush_position();

	while (store->unflushed != NIL)
	{
		UnflushedCommit *commit = linitial(store->unflushed);

		if (commit->local_end > flushed_here)
			break;
		store->flushed = commit->source_end;
		store->unflushed = list_delete_first(store->unflushed);
		pfree(commit);
	}
	return store->flushed;
}

/*
 * Whether something stored is not yet flushed, or not yet counted.
 */
bool
bemi_store_awaits_flush(const BemiStore *store)
{
	return store->unflushed != NIL ||
		store->uncounted.changes > 0 || store->uncounted.invalid_messages > 0;
}

/*
 * Whether a commit is stored whose time is not yet known to be complete.  One
 * from the future is not worth waiting for.
 */
bool
bemi_store_awaits_time(const BemiStore *store)
{
	return store->until.time < store->end_time &&
		store->end_time <= GetCurrentTimestamp();
}

/*
 * Gives what was stored since the last call, and the time before which
 * everything is, 0 if that is not known, or no news.
 */
void
bemi_store_drain_counts(BemiStore *store, BemiCounts *counts, BemiUntil *until)
{
	*counts = store->news;
	memset(&store->news, 0, sizeof(BemiCounts));
	memset(until, 0, sizeof(BemiUntil));
	if (store->until.time != store->given_until.time ||
		store->until.position != store->given_until.position)
		*until = store->until;
	store->given_until = store->until;
}
