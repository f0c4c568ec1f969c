/*-------------------------------------------------------------------------
 *
 * probe.c
 *		Short streams that find out something about a source before the real one.
 *
 * First: where a transaction commits that the source fails at before it sends
 * a BEGIN. pgoutput sends BEGIN with the first thing that a transaction has to
 * send.  An error before that, in a row filter for instance, does not tell at
 * which transaction it is; only the position of the row at fault comes with
 * it.  But the source passes over all transactions whose commit record starts
 * before the position that a stream is started from.  So a stream that is
 * started from anywhere up to the commit record fails at this row, and one
 * that is started from beyond does not.  A binary search between what is
 * stored and the end of the source's WAL finds the edge, in some twenty or
 * thirty short streams.  (Not from the row on: others may have committed since
 * it was written, and a stream from before that would send what is stored.)
 *
 * Second: which of the transactions after the slot's position are stored
 * already.  A source that was restored sends some of them again, and then
 * others.
 *
 * Each stream has a connection of its own, because a walsender must have
 * looked at no catalog before it streams.  None confirms a position, so the
 * slot stays where it is.
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

/* WAL records begin at multiples of this, and none is that short. */
#define RECORD_ALIGNMENT	8

/* How often the source is asked how far it has come. */
#define ASK_MS	500

/*
 * Reads until the source has come to the next transaction, whose BEGIN goes into
 * *begin, or to "end"; then it returns false.  An error is thrown.
 */
static bool
next_probed_begin(BemiStream *probe, XLogRecPtr end,
				  LogicalRepBeginData *begin)
{
	StringInfoData message;
	TimestampTz asked_at = GetCurrentTimestamp();

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
		/* Its first answer may come before it has read that far. */
		if (TimestampDifferenceExceeds(asked_at, GetCurrentTimestamp(),
									   ASK_MS))
		{
			bemi_stream_ask(probe);
			asked_at = GetCurrentTimestamp();
		}
		bemi_stream_wait(probe, ASK_MS);
		CHECK_FOR_INTERRUPTS();
		if (probe->on_wait)
			probe->on_wait(probe);
	}
}

/*
 * Opens a connection of its own for a short stream.
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
 * Within PG_CATCH: goes on after an error that is likely to come again, and
 * throws any other.
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
 * Any error but one that is likely to come again is thrown.
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
		failed = (bemi_stream_failed_at() == row);
	}
	PG_END_TRY();
	bemi_stream_close(probe);
	return failed;
}

/*
 * The position to start from so that the transaction is passed over that has
 * this row, and no other; "begin" if the source no longer fails there,
 * InvalidXLogRecPtr if it does from everywhere.  All up to "begin" is stored;
 * "end" is a position that the source has come to.
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
 * source sends and that is stored; InvalidXLogRecPtr if none is.  What comes
 * after a transaction that the source cannot decode is not looked at.
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
