/*-------------------------------------------------------------------------
 *
 * writer.c
 *		Writes changes into bemi.changes, each source transaction exactly once.
 *
 * Input: changes (decode/stitch.c) and the ends of source transactions.
 * Output: rows of bemi.changes.  All changes of a source transaction are
 * stored by one destination transaction.  Its commit record also contains the
 * position of the source (the replication origin, as in native logical
 * replication).  So after a crash either both are there or neither is, and the
 * stream continues at the origin.  While the stream does not pause, several
 * source transactions share one destination transaction.
 *
 * Commits are asynchronous.  A commit that is lost in a crash is sent again,
 * because only flushed positions are confirmed to the source
 * (bemi_store_flushed()).
 *
 * Changes are copied into a buffer and written in runs, each into one
 * partition (partition.c).  The buffer's memory context is reset when the
 * buffer has been written.  What must never happen: a commit in the middle of
 * a source transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type_d.h"
#include "pgstat.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "store/store_internal.h"
#include "stream/stream.h"

/* The buffer is written when it has this many changes or bytes. */
#define BUFFERED_CHANGES	BEMI_PARTITION_SLOTS
#define BUFFERED_BYTES		(8 * 1024 * 1024)

/*
 * A destination transaction is committed after this much, even if more comes.
 */
#define COMMIT_CHANGES		10000
#define COMMIT_INTERVAL_MS	100

/*
 * Least interval of updates of the progress, because each leaves a dead row.
 */
#define PROGRESS_INTERVAL_MS	1000

/*
 * A source without tracked changes still writes WAL, which its slot should
 * release.  Recording the new position writes WAL here, so it is done after
 * this many bytes, or after fewer if some time has passed.  An idle server
 * writes less and never causes it.
 */
#define ADVANCE_BYTES		(1024 * 1024)
#define ADVANCE_LESS_BYTES	(64 * 1024)
#define ADVANCE_LESS_MS		60000

/*
 * A text that successive rows are likely to have in common: as a string, and
 * as a datum that the rows share.  In the buffer's memory; NULL: none yet.
 */
typedef struct SharedText
{
	char	   *text;
	Datum		value;
} SharedText;

/* A commit at the destination, and the source's position that it stores. */
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
	const char *server;			/* as in _bemi.source_tables */
	Datum		source_value;	/* source, as a datum for rows */
	Datum		database_value;
	Datum		empty;			/* {} */

	/* the buffer; the rows' values are in its memory or live longer */
	MemoryContext buffer_memory;
	int			buffered;
	BemiStoreRow buffer[BUFFERED_CHANGES];
	SharedText	schema;			/* of the last change */
	SharedText	table;
	SharedText	operation;
	Datum		context;		/* copy of the last change's context; 0: none */
	uint64		context_serial;

	/* the destination transaction */
	bool		open;
	bool		is_complete;	/* ends at the end of a source transaction */
	int64		opened_at;
	BemiCounts	counts;			/* of this transaction */
	int64		transaction_changes;	/* of the source transaction */
	XLogRecPtr	end_lsn;		/* of the last source transaction in it */
	TimestampTz end_time;
	BemiPartition *partition;	/* open partition; NULL: none */

	/* committed, but not in _bemi.source_progress yet */
	BemiCounts	uncounted;
	BemiUntil	until;			/* all earlier commits are stored */
	int64		progress_at;	/* time of the last update */

	BemiCounts	undrained;		/* for bemi_store_drain_counts() */
	BemiUntil	drained_until;	/* as drained last */
	XLogRecPtr	origin;			/* after the last commit */
	List	   *unflushed;		/* of UnflushedCommit, oldest first */
	XLogRecPtr	flushed;
	bool		flush_commits;	/* do not leave it to the WAL writer */
};

static BemiStore *
create_store(const char *source, const char *database)
{
	BemiStore  *store = palloc0(sizeof(BemiStore));

	store->memory = CurrentMemoryContext;
	store->source = pstrdup(source);
	store->database = pstrdup(database);
	store->source_value = CStringGetTextDatum(source);
	store->database_value = CStringGetTextDatum(database);
	store->empty = DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"));
	store->buffer_memory = AllocSetContextCreate(CurrentMemoryContext,
												 "bemi change buffer",
												 ALLOCSET_DEFAULT_SIZES);
	return store;
}

/*
 * Creates a store for one source with this origin, in the current memory
 * context.
 */
BemiStore *
bemi_store_create(const char *source, const BemiSourceIdentity *identity,
				  XLogRecPtr origin)
{
	BemiStore  *store = create_store(source, identity->database);

	store->server = psprintf(UINT64_FORMAT "/%s", identity->system_identifier,
							 identity->database);
	store->origin = store->flushed = origin;
	store->is_complete = true;
	return store;
}

/*
 * Begins to store changes that have not come in a stream, in the transaction
 * of a session, which has the rights of the extension's owner, pinned settings
 * (bemi_pin_settings_of_call()) and an active snapshot.  Then come
 * bemi_store_add() and bemi_store_end_import().
 */
BemiStore *
bemi_store_begin_import(const char *source, const char *database)
{
	BemiStore  *store = create_store(source, database);

	bemi_store_find_changes();
	store->open = true;
	return store;
}

/*
 * Begins a destination transaction, unless one is open.
 */
static void
open_transaction(BemiStore *store)
{
	MemoryContext caller = CurrentMemoryContext;

	if (store->open)
		return;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(caller);

	store->open = true;
	store->opened_at = bemi_monotonic_ms();
}

/*
 * Begins a source transaction.  Nothing is committed until it ends.
 */
void
bemi_store_begin_transaction(BemiStore *store)
{
	open_transaction(store);
	store->is_complete = false;
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
 * The end of the run of rows that begins at "first" and belongs to the open
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
 * Writes the buffer into bemi.changes and empties it.
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
 * The datum of a text, shared with the row before if it is the same.
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
 * The context of a change.  Successive changes with the same context share one
 * copy.  This saves memory, and index.c recognizes such changes by the
 * pointer.
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
 * Copies a change into a row, in the order of bemi_store_columns. created_at
 * is set when the row is written.
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
 * Adds a copy of a change to the buffer.
 */
void
bemi_store_add(BemiStore *store, const BemiChange *change)
{
	MemoryContext caller;

	Assert(store->open && !store->is_complete);

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
 * Records that a table is tracked because it is in the stream.  This is for
 * sources whose tracking messages cannot be verified.  If the table is new, it
 * counts as tracked from here on.
 */
void
bemi_store_begin_tracking(BemiStore *store, Oid relation, const char *schema,
						  const char *table, XLogRecPtr at_lsn,
						  TimestampTz at_time)
{
	BemiValue	arguments[] = {
		bemi_sql_text(store->source), bemi_sql_text(store->server),
		bemi_sql_oid(OIDOID, relation),
		bemi_sql_text(schema), bemi_sql_text(table),
		bemi_sql_lsn(at_lsn), bemi_sql_time(at_time)
	};

	Assert(store->open);
	bemi_sql_run("SELECT CASE WHEN NOT _bemi.is_tracking_known($1, $4, $5, $6, $7)"
				 " THEN _bemi.begin_tracking($1, $2, $3, $4, $5, $6, $7) END",
				 arguments, lengthof(arguments));
}

/*
 * Records what a table of such a source is like.
 */
void
bemi_store_record_seen(BemiStore *store, Oid relation, const char *schema,
					   const char *table, const Jsonb *description,
					   const BemiSchemaChange *change)
{
	BemiValue	arguments[] = {
		bemi_sql_text(store->source), bemi_sql_text(store->server),
		bemi_sql_oid(OIDOID, relation),
		bemi_sql_text(schema), bemi_sql_text(table),
		bemi_sql_jsonb(description), bemi_sql_uuid(&change->id),
		bemi_sql_time(change->committed_at)
	};

	Assert(store->open);
	bemi_sql_run("SELECT _bemi.record_seen_table($1, $2, $3, $4, $5, $6, $7, $8)",
				 arguments, lengthof(arguments));
}

/*
 * Applies a tracking message with a valid signature.  Returns false if it was
 * written by another transaction than the one it came with.
 */
bool
bemi_store_apply_tracking(BemiStore *store, const Jsonb *message,
						  const BemiSchemaChange *change)
{
	BemiValue	arguments[] = {
		bemi_sql_text(store->source), bemi_sql_text(store->server),
		bemi_sql_text(store->database),
		bemi_sql_xid(change->xid), bemi_sql_jsonb(message),
		bemi_sql_lsn(change->commit_lsn), bemi_sql_time(change->committed_at),
		bemi_sql_uuid(&change->id),
		bemi_sql_jsonb(change->context)
	};

	Assert(store->open);
	return bemi_sql_run_bool("SELECT _bemi.apply_tracking($1, $2, $3, $4, $5, $6, $7, $8, $9)",
							 arguments, lengthof(arguments));
}

/*
 * Records the version of the source's signing key.  If it is new, stored
 * descriptions become stale.
 */
void
bemi_store_record_signing_key(BemiStore *store, const char *version)
{
	BemiValue	arguments[] = {
		bemi_sql_text(store->source), bemi_sql_text(version)
	};

	Assert(IsTransactionState());
	(void) bemi_sql_run_bool("SELECT _bemi.record_key_version($1, $2)",
							 arguments, lengthof(arguments));
}

/*
 * The last description of a table that the source has sent (see
 * _bemi.describe()), palloc'd; NULL if there is none.
 */
Jsonb *
bemi_store_description(BemiStore *store, Oid relation)
{
	BemiValue	arguments[] = {
		bemi_sql_text(store->source), bemi_sql_oid(OIDOID, relation)
	};
	BemiValue	description = {.type = JSONBOID};

	Assert(IsTransactionState());
	if (!bemi_sql_run_row("SELECT description FROM _bemi.source_relations"
						  " WHERE source = $1 AND relation = $2",
						  arguments, lengthof(arguments), &description, 1) ||
		description.is_null)
		return NULL;
	return DatumGetJsonbP(description.datum);
}

/*
 * Counts an invalid message, for bemi.status.  Between transactions, the count
 * is stored later.  A transaction for each message would let anybody who can
 * write messages keep the worker busy.
 */
void
bemi_store_count_invalid(BemiStore *store)
{
	if (store->open)
		store->counts.invalid_messages++;
	else
	{
		store->uncounted.invalid_messages++;
		store->undrained.invalid_messages++;
	}
}

/*
 * Ends a source transaction, after all its changes were added.
 */
void
bemi_store_end_transaction(BemiStore *store, const BemiStored *transaction,
						   XLogRecPtr end_lsn)
{
	store->is_complete = true;
	store->end_lsn = end_lsn;
	store->end_time = transaction->committed_at;
	if (store->transaction_changes > 0)
	{
		store->counts.transactions++;
		store->counts.changed = *transaction;
	}
}

/*
 * Records that all commits of the source before this time are stored and have
 * their records before the position.  The time may be earlier than the last
 * one if the source's clock was set back, because new commits may then have
 * any time from there on.
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
 * Sets whether commits are flushed at once, because the source waits for them.
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
	return store->open && store->is_complete &&
		(store->counts.changes >= COMMIT_CHANGES ||
		 bemi_has_passed(store->opened_at, COMMIT_INTERVAL_MS));
}

/*
 * Whether everything that was received is committed.
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
 * Stores the counts in _bemi.source_progress, within the open transaction.
 */
static void
update_progress(BemiStore *store)
{
	const BemiCounts *counts = &store->uncounted;
	bool		no_time = store->until.time == 0;
	bool		no_changes = XLogRecPtrIsInvalid(counts->changed.commit_lsn);
	BemiValue	arguments[] = {
		bemi_sql_text(store->source),
		bemi_sql_int8(counts->changes),
		bemi_sql_int8(counts->transactions),
		bemi_sql_int8(counts->invalid_messages),
		bemi_sql_null_if(no_time, bemi_sql_time(store->until.time)),
		bemi_sql_null_if(no_time, bemi_sql_lsn(store->until.position)),
		bemi_sql_null_if(no_changes, bemi_sql_lsn(counts->changed.commit_lsn)),
		bemi_sql_null_if(no_changes,
						 bemi_sql_time(counts->changed.committed_at)),
		bemi_sql_null_if(no_changes,
						 bemi_sql_int8((int64) counts->changed.xid))
	};

	bemi_sql_run("SELECT _bemi.update_progress($1, $2, $3, $4, $5, $6, $7, $8, $9)",
				 arguments, lengthof(arguments));
	memset(&store->uncounted, 0, sizeof(BemiCounts));
	store->progress_at = bemi_monotonic_ms();
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
 * Commits the open transaction with the position of its last source
 * transaction.  If it has written nothing, there is no commit record, and the
 * origin does not move.
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
 * Commits the open transaction, if there is one.  Does nothing in the middle
 * of a source transaction.
 */
void
bemi_store_commit(BemiStore *store)
{
	BemiCounts *counts = &store->counts;

	if (!store->open || !store->is_complete)
		return;

	write_rows(store);
	bemi_partition_close(store->partition);
	store->partition = NULL;
	add_message_counts(&store->uncounted, counts);
	add_message_counts(&store->undrained, counts);
	memset(counts, 0, sizeof(BemiCounts));
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()) &&
		bemi_has_passed(store->progress_at, PROGRESS_INTERVAL_MS))
		update_progress(store);
	commit_with_origin(store);
}

/*
 * Writes the last changes of an import.  The session commits them.
 */
void
bemi_store_end_import(BemiStore *store)
{
	write_rows(store);
	bemi_partition_close(store->partition);
	store->partition = NULL;
}

/*
 * Whether stored changes are not yet counted in _bemi.source_progress.
 */
bool
bemi_store_awaits_count(const BemiStore *store)
{
	return store->uncounted.changes > 0 ||
		store->uncounted.invalid_messages > 0;
}

/*
 * Whether to record now that the source has reached "received" without
 * anything to store; sooner if the source asks for a confirmation.
 */
bool
bemi_store_may_advance(const BemiStore *store, XLogRecPtr received,
					   bool is_asked)
{
	uint64		bytes =
		received > store->origin ? received - store->origin : 0;

	if (store->open)
		return false;
	if (is_asked && bytes > 0)
		return true;
	if (!bemi_has_passed(store->progress_at, PROGRESS_INTERVAL_MS))
		return false;
	return bemi_store_awaits_count(store) || bytes >= ADVANCE_BYTES ||
		(bytes >= ADVANCE_LESS_BYTES &&
		 bemi_has_passed(store->progress_at, ADVANCE_LESS_MS));
}

/*
 * Records that there is nothing to store up to "received".  The slot is never
 * confirmed beyond the origin.  So a destination that was restored from a
 * backup, or is a lagging standby, notices that it has missed something.
 */
void
bemi_store_advance(BemiStore *store, XLogRecPtr received)
{
	open_transaction(store);
	store->end_lsn = Max(received, store->origin);
	store->end_time = store->until.time;
	update_progress(store);
	commit_with_origin(store);
}

/*
 * The position up to which source transactions are stored and flushed.
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
 * Whether stored changes are not yet flushed or not yet counted.
 */
bool
bemi_store_awaits_flush(const BemiStore *store)
{
	return store->unflushed != NIL || bemi_store_awaits_count(store);
}

/*
 * Whether a stored commit is later than the time up to which the history is
 * complete.  A commit time in the future does not count.
 */
bool
bemi_store_awaits_time(const BemiStore *store)
{
	return store->until.time < store->end_time &&
		store->end_time <= GetCurrentTimestamp();
}

/*
 * Returns the counts since the last call, and the time up to which the history
 * is complete; 0 if that is unknown or has not changed.
 */
void
bemi_store_drain_counts(BemiStore *store, BemiCounts *counts, BemiUntil *until)
{
	*counts = store->undrained;
	memset(&store->undrained, 0, sizeof(BemiCounts));
	memset(until, 0, sizeof(BemiUntil));
	if (store->until.time != store->drained_until.time ||
		store->until.position != store->drained_until.position)
		*until = store->until;
	store->drained_until = store->until;
}
