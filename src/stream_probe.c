/*-------------------------------------------------------------------------
 *
 * stream_probe.c
 *		Where a transaction commits that the source fails at before it sends a BEGIN.
 *
 * pgoutput sends BEGIN with the first thing that a transaction has to send.  An
 * error before that, in a row filter for instance, does not tell at which
 * transaction it is; only the position of the row at fault comes with it.  But
 * the source passes over all transactions whose commit record starts before the
 * position that a stream is started from.  So a stream that is started from
 * anywhere up to the commit record fails at this row, and one that is started
 * from beyond does not.  A binary search between the row and the end of the
 * source's WAL finds the edge, in some twenty or thirty short streams.
 *
 * Each stream has a connection of its own, because a walsender must have looked at
 * no catalog before it streams.  None confirms a position, so the slot stays where
 * it is.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "replication/logicalproto.h"
#include "replication/walreceiver.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "stream.h"

/* WAL records begin at multiples of this, and none is that short. */
#define RECORD_ALIGNMENT	8

/* How often the source is asked how far it has come. */
#define ASK_MS	500

/*
 * Reads until the source has failed, or has come to the next transaction, or to
 * "end".  An error is thrown.
 */
static void
read_until(BemiStream *probe, XLogRecPtr end)
{
	StringInfoData message;
	TimestampTz asked_at = 0;

	while (probe->received < end)
	{
		/* Its first answer may come before it has read that far. */
		if (TimestampDifferenceExceeds(asked_at, GetCurrentTimestamp(), ASK_MS))
		{
			bemi_stream_ask(probe);
			asked_at = GetCurrentTimestamp();
		}
		while (bemi_stream_receive(probe, &message))
			if (message.len > message.cursor &&
				message.data[message.cursor] == LOGICAL_REP_MSG_BEGIN)
				return;
		bemi_stream_wait(probe, ASK_MS);
		if (probe->on_wait)
			probe->on_wait(probe);
	}
}

/*
 * Whether a stream that is started from "position" fails at the row at fault.  Any
 * error but one that is likely to come again is thrown.
 */
static bool
fails_at(const BemiStream *stream, const char *slot, XLogRecPtr position,
		 XLogRecPtr row, XLogRecPtr end)
{
	MemoryContext caller = CurrentMemoryContext;
	BemiStream *probe = palloc(sizeof(BemiStream));
	volatile bool failed = false;

	*probe = *stream;
	probe->frame = NULL;
	probe->received = InvalidXLogRecPtr;
	probe->ended = false;
	probe->asked_at = 0;
	probe->catalog = NULL;
	bemi_stream_open_connection(probe, true);
	PG_TRY();
	{
		bemi_stream_start(probe, slot, position);
		read_until(probe, end);
	}
	PG_CATCH();
	{
		if (geterrcode() != BEMI_ERRCODE_REPEATABLE && geterrcode() != BEMI_ERRCODE_ROW_AT_FAULT)
			PG_RE_THROW();
		MemoryContextSwitchTo(caller);
		FlushErrorState();
		failed = (bemi_stream_failed_at() == row);
	}
	PG_END_TRY();
	PQfreemem(probe->frame);
	PQfinish(probe->replication);
	pfree(probe);
	return failed;
}

/*
 * The position to start from so that the transaction is passed over that has this
 * row, and no other; InvalidXLogRecPtr if the source fails there from everywhere.
 * "end" is a position that the source has come to.
 */
XLogRecPtr
bemi_stream_find_commit(BemiStream *stream, const char *slot, XLogRecPtr row, XLogRecPtr end)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext memory = AllocSetContextCreate(caller, "bemi probe", ALLOCSET_DEFAULT_SIZES);
	XLogRecPtr	fails = row;
	XLogRecPtr	passes = end;

	MemoryContextSwitchTo(memory);
	if (row >= end || fails_at(stream, slot, end, row, end))
		passes = InvalidXLogRecPtr;
	while (!XLogRecPtrIsInvalid(passes) && passes - fails > RECORD_ALIGNMENT)
	{
		XLogRecPtr	middle = fails + (passes - fails) / 2;

		if (fails_at(stream, slot, middle, row, end))
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
