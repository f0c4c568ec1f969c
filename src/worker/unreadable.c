/*-------------------------------------------------------------------------
 *
 * unreadable.c
 *		Counts failures at a transaction that the source cannot decode.
 *
 * Some rows make the source's walsender fail each time it decodes them: the
 * text of a value or of a complete row exceeds 1 GB, or the output function of
 * a type or a row filter raises an error.  Each new worker fails at the same
 * place, and no later change of this source would ever be stored.  So the
 * worker counts the failures at one place.  After enough failures, the next
 * worker skips the transaction and records a gap (loss_check.c).
 *
 * Input: events of the stream, and the error that ends the worker.  The place
 * is the commit position of the transaction that was being received, which is
 * in its BEGIN.  If an error comes without a BEGIN, the place is the origin,
 * and the next worker must search for the transaction's commit
 * (stream/probe.c).  If there is none, because the WAL itself cannot be
 * decoded, it creates a new slot, with a gap up to now.
 *
 * stream/connection.c decides by the SQLSTATE whether an error is likely to
 * repeat.  Lack of memory, disk or connections, locks, shutdowns and rights do
 * not count.  Errors of this database, such as a CHECK on bemi.changes, do not
 * count, either.  After these are repaired, nothing is lost.
 *
 * What must never happen: a transaction is skipped together with others.
 * Earlier transactions may share a destination transaction with it and be
 * rolled back.  So from the first failure on, the worker commits each source
 * transaction by itself, and at the second failure everything before the place
 * is stored.
 *
 * The count is in shared memory.  A restart of the server resets it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "decode/decode.h"
#include "worker/worker_internal.h"

/*
 * A transaction is skipped after this many failures, and not before this time.
 */
#define SKIP_TRIES		4
#define SKIP_MS			5000

/* The same for an error that is not at a row, which ends in a new slot. */
#define NEW_SLOT_TRIES	5
#define NEW_SLOT_MS		15000

/*
 * If a transaction was skipped recently, the next one with a row at fault gets
 * only this many tries, without delay.  Otherwise a user could delay the
 * history of all tables with a few such rows a minute.
 */
#define SKIP_AGAIN_TRIES	2
#define SKIP_AGAIN_MS		(60 * 60 * 1000)

/* The transaction that is being received. */
typedef struct Receiving
{
	XLogRecPtr	commit_lsn;		/* InvalidXLogRecPtr: none */
	TimestampTz committed_at;
	TransactionId xid;
	BemiEventKind last;			/* its last event */
	int			table_count;	/* in the two below */
	Oid			tables[16];
	char		names[BEMI_TABLES_LEN];
} Receiving;

/*
 * State of this process: its stream, and a copy of the failures in shared
 * memory, which no other process writes while this one runs.
 */
typedef struct Watch
{
	Receiving	receiving;
	BemiUnreadable failures;
} Watch;

static Watch watch;

/*
 * Loads the place that the former worker has recorded.
 */
void
bemi_load_unreadable(void)
{
	BemiFacts	known;

	bemi_facts_copy_mine(&known);
	watch.failures = known.unreadable;
}

/*
 * Whether the source has failed at a place that it has not passed yet.
 */
static bool
failure_is_expected(void)
{
	return watch.failures.tries > 0;
}

/*
 * Whether a transaction with this commit position comes after the place where
 * the source has failed.  If the place is unknown, all come after it.
 */
static bool
is_beyond_failure(XLogRecPtr position)
{
	return position >= watch.failures.commit_lsn;
}

/*
 * Forgets the failures, because the source has passed the place.
 */
void
bemi_forget_unreadable(void)
{
	watch.failures.tries = 0;
	watch.failures.commit_lsn = watch.failures.stored = InvalidXLogRecPtr;
	bemi_facts_set_unreadable(&watch.failures);
	bemi_facts_keep_slot(BEMI_GIVE_UP_TRANSACTION);
}

/*
 * Adds a table to those that the transaction is known to change.
 */
static void
add_unreadable_table(const BemiRelation *relation)
{
	const char *name;
	int			used = strlen(watch.receiving.names);

	for (int i = 0; i < watch.receiving.table_count; i++)
		if (watch.receiving.tables[i] == relation->oid)
			return;
	if (watch.receiving.table_count == lengthof(watch.receiving.tables))
		return;
	watch.receiving.tables[watch.receiving.table_count++] = relation->oid;

	name = quote_qualified_identifier(relation->schema, relation->table);
	if (used + strlen(name) + sizeof(", ") <= BEMI_TABLES_LEN)
		snprintf(watch.receiving.names + used, BEMI_TABLES_LEN - used, "%s%s",
				 used > 0 ? ", " : "", name);
}

/*
 * Records an event before it is stored.  Returns true if the destination
 * transaction must be committed after it, because the source may fail at the
 * next transaction.
 */
bool
bemi_watch_event(const BemiEvent *event)
{
	ListCell   *cell;

	if (event->kind == BEMI_EVENT_BEGIN)
	{
		memset(&watch.receiving, 0, sizeof(Receiving));
		watch.receiving.commit_lsn = event->commit_lsn;
		watch.receiving.committed_at = event->committed_at;
		watch.receiving.xid = event->xid;
	}
	if (event->kind != BEMI_EVENT_NOTHING)
		watch.receiving.last = event->kind;
	if (event->kind == BEMI_EVENT_COMMIT)
		watch.receiving.commit_lsn = InvalidXLogRecPtr;
	if (!failure_is_expected())
		return false;

	if (event->relation != NULL)
		add_unreadable_table(event->relation);
	foreach(cell, event->truncated)
	{
		add_unreadable_table(lfirst(cell));
	}
	if (event->kind == BEMI_EVENT_COMMIT &&
		is_beyond_failure(event->commit_lsn))
		bemi_forget_unreadable();
	return event->kind == BEMI_EVENT_COMMIT;
}

/*
 * Called when everything up to this position is stored.
 */
void
bemi_watch_progress(XLogRecPtr stored)
{
	if (failure_is_expected() &&
		!XLogRecPtrIsInvalid(watch.failures.commit_lsn) &&
		stored > watch.failures.commit_lsn)
		bemi_forget_unreadable();
}

/*
 * Counts a failure at this place.
 */
static void
count_failure(XLogRecPtr stored, XLogRecPtr row)
{
	/*
	 * If the transaction is known, others before it may still be stored, so
	 * the origin does not identify the place.
	 */
	if (!XLogRecPtrIsInvalid(watch.receiving.commit_lsn))
		stored = InvalidXLogRecPtr;
	if (watch.failures.tries == 0 ||
		watch.failures.commit_lsn != watch.receiving.commit_lsn ||
		watch.failures.stored != stored)
	{
		watch.failures.tries = 0;
		watch.failures.first_at = bemi_monotonic_ms();
	}
	watch.failures.tries++;
	watch.failures.commit_lsn = watch.receiving.commit_lsn;
	watch.failures.stored = stored;
	watch.failures.row = row;
	watch.failures.committed_at = watch.receiving.committed_at;
	watch.failures.xid = watch.receiving.xid;
	watch.failures.at_new_table =
		(watch.receiving.last == BEMI_EVENT_RELATION);
	strlcpy(watch.failures.tables, watch.receiving.names, BEMI_TABLES_LEN);
}

/*
 * Whether the failure is at a row, which means that one transaction is at
 * fault.
 */
static bool
failure_is_at_row(void)
{
	return !XLogRecPtrIsInvalid(watch.failures.commit_lsn) ||
		!XLogRecPtrIsInvalid(watch.failures.row);
}

/*
 * Whether there were enough tries at the place, over enough time.
 */
static bool
was_tried_enough(bool hurry)
{
	bool		known = failure_is_at_row();

	if (hurry)
		return watch.failures.tries >= SKIP_AGAIN_TRIES;
	return watch.failures.tries >= (known ? SKIP_TRIES : NEW_SLOT_TRIES) &&
		bemi_has_passed(watch.failures.first_at,
						known ? SKIP_MS : NEW_SLOT_MS);
}

/*
 * Records an error of the source that is likely to repeat at the same place.
 * "stored" is the origin's position, "row" the position of the row if known,
 * "row_at_fault" whether only the values of a row cause such an error.
 */
void
bemi_record_unreadable(XLogRecPtr stored, XLogRecPtr row, bool row_at_fault)
{
	BemiGiveUp	give_up = BEMI_KEEP_SLOT;
	bool		hurry;

	count_failure(stored, row);
	bemi_facts_set_unreadable(&watch.failures);
	hurry = row_at_fault && failure_is_at_row() &&
		watch.failures.skipped_at != 0 &&
		!bemi_has_passed(watch.failures.skipped_at, SKIP_AGAIN_MS);
	if (was_tried_enough(hurry))
		give_up = XLogRecPtrIsInvalid(watch.failures.commit_lsn) ?
			BEMI_GIVE_UP_UNREADABLE : BEMI_GIVE_UP_TRANSACTION;
	if (bemi_facts_give_up(give_up) != BEMI_KEEP_SLOT || hurry)
		bemi_entry_wake(bemi_entry_mine());
}

/*
 * Records that a transaction was skipped.
 */
void
bemi_record_skipped_transaction(void)
{
	watch.failures.skipped_at = bemi_monotonic_ms();
	bemi_forget_unreadable();
}
