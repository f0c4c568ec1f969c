/*-------------------------------------------------------------------------
 *
 * probe.c
 *		Probes: short streams that examine a source before the real stream.
 *
 * First use: find the commit position of a transaction at which the source
 * fails before it sends BEGIN. pgoutput sends BEGIN together with the first
 * change of a transaction.  An error before that, as in a row filter, comes
 * only with the position of the row at fault.  But the source skips all
 * transactions whose commit record starts before the position that a stream is
 * started from.  So a stream that starts at or before the commit record fails
 * at this row, and a stream that starts after it does not.  A binary search
 * between the last stored position and the end of the source's WAL finds the
 * commit record, in twenty to thirty short streams.  (The search cannot begin
 * at the row, because other transactions may have committed since it was
 * written, and a stream from there would send them again.)
 *
 * Second use: find out which of the transactions after the slot's position are
 * stored already.  A source that was restored from a backup sends some of them
 * again, and then new ones.
 *
 * Each probe has a connection of its own, because a walsender must not have
 * read a catalog before it streams (see source_queries.c).  What must never
 * happen: a probe confirms a position, because the slot would move.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "libpq/pqformat.h"
#include "replication/logicalproto.h"
#include "replication/walreceiver.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "stream/stream_internal.h"

/* WAL records begin at multiples of this, and each is longer. */
#define RECORD_ALIGNMENT	8

/* Interval of requests for the source's position. */
#define ASK_MS	500

/*
 * Reads the BEGIN of the next transaction into *begin.  Returns false if the
 * source has reached "end" first.  Throws the source's errors.
 */
static bool
next_probed_begin(BemiStream *probe, XLogRecPtr end,
				  LogicalRepBeginData *begin)
{
	StringInfoData message;
	int64		asked_at = bemi_monotonic_ms();

	for (;;)
	{
		while (bemi_stream_receive(probe, &message))
			if (message.len > message.cursor &&
				pq_getmsgbyte(&message) == LOGICAL_REP_MSG_BEGIN)
			{
				logicalrep_read_begin(&message, begin);
				return true;
			}
		if (probe->received >= end)
			return false;
		/* Its first answer may come before it has read to the end. */
		if (bemi_has_passed(asked_at, ASK_MS))
		{
			bemi_stream_ask(probe);
			asked_at = bemi_monotonic_ms();
		}
		bemi_stream_wait(probe, ASK_MS);
		CHECK_FOR_INTERRUPTS();
		if (probe->on_wait)
			probe->on_wait(probe);
	}
}

/*
 * Opens a connection for a probe.
 */
BemiStream *
bemi_stream_open_probe(const BemiStream *stream)
{
	BemiStream *probe = palloc(sizeof(BemiStream));

	*probe = *stream;
	probe->frame = NULL;
	probe->received = InvalidXLogRecPtr;
	probe->ended = false;
	probe->asked_at = 0;
	probe->catalog = NULL;
	probe->wait_set = NULL;
	bemi_stream_open_connection(probe, true);
	return probe;
}

/*
 * For PG_CATCH: swallows an error that is likely to repeat, and throws others.
 */
static void
catch_repeatable_error(MemoryContext caller)
{
	if (geterrcode() != BEMI_ERRCODE_REPEATABLE &&
		geterrcode() != BEMI_ERRCODE_ROW_AT_FAULT)
		PG_RE_THROW();
	MemoryContextSwitchTo(caller);
	FlushErrorState();
}

/*
 * Whether a stream that is started from "position" fails at the row at fault.
 * An error that is not likely to repeat is thrown.
 */
static bool
decoding_fails_at(const BemiStream *stream, const char *slot,
				  XLogRecPtr position, XLogRecPtr row, XLogRecPtr end)
{
	MemoryContext caller = CurrentMemoryContext;
	BemiStream *probe = bemi_stream_open_probe(stream);
	volatile bool failed = false;
	LogicalRepBeginData begin;

	PG_TRY();
	{
		bemi_stream_start(probe, slot, position);
		(void) next_probed_begin(probe, end, &begin);
	}
	PG_CATCH();
	{
		catch_repeatable_error(caller);
		failed = (bemi_stream_failed_at(probe) == row);
	}
	PG_END_TRY();
	bemi_stream_close(probe);
	return failed;
}

/*
 * Finds the position from which a stream skips the transaction with this row,
 * and no other.  Returns "begin" if the source no longer fails from there, and
 * InvalidXLogRecPtr if it fails from everywhere.  All up to "begin" is stored.
 * "end" is a position that the source has reached.
 */
XLogRecPtr
bemi_stream_find_commit(BemiStream *stream, const char *slot, XLogRecPtr row,
						XLogRecPtr begin, XLogRecPtr end)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext memory =
		AllocSetContextCreate(caller, "bemi probe", ALLOCSET_DEFAULT_SIZES);
	XLogRecPtr	fails = begin;
	XLogRecPtr	passes = end;

	MemoryContextSwitchTo(memory);
	if (begin >= end || !decoding_fails_at(stream, slot, begin, row, end))
		passes = begin;
	else if (decoding_fails_at(stream, slot, end, row, end))
		passes = InvalidXLogRecPtr;
	while (!XLogRecPtrIsInvalid(passes) && passes > fails + RECORD_ALIGNMENT)
	{
		XLogRecPtr	middle = fails + (passes - fails) / 2;

		if (decoding_fails_at(stream, slot, middle, row, end))
			fails = middle;
		else
			passes = middle;
		MemoryContextReset(memory);
		CHECK_FOR_INTERRUPTS();
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(memory);
	return passes;
}

/*
 * Commit position of the last transaction between "from" and "end" that the
 * source sends and that is stored; InvalidXLogRecPtr if there is none.  The
 * search ends at a transaction that the source cannot decode.
 */
XLogRecPtr
bemi_stream_last_common(BemiStream *stream, const char *slot, XLogRecPtr from,
						XLogRecPtr end,
						bool (*is_stored) (XLogRecPtr, TimestampTz,
										   TransactionId))
{
	MemoryContext caller = CurrentMemoryContext;
	BemiStream *probe = bemi_stream_open_probe(stream);
	volatile XLogRecPtr common = InvalidXLogRecPtr;
	LogicalRepBeginData begin;

	PG_TRY();
	{
		bemi_stream_start(probe, slot, from);
		while (next_probed_begin(probe, end, &begin) && begin.final_lsn < end)
			if (is_stored(begin.final_lsn, begin.committime, begin.xid))
				common = begin.final_lsn;
	}
	PG_CATCH();
	{
		catch_repeatable_error(caller);
	}
	PG_END_TRY();
	bemi_stream_close(probe);
	return common;
}
