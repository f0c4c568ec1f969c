/*-------------------------------------------------------------------------
 *
 * trace.c
 *		Traces stored transactions in the source's WAL, if no slot proves them.
 *
 * A new slot does not show whether the source was restored.  A base backup
 * that is started like a crashed server has no slots, the same system
 * identifier and the same timeline.  If it has written beyond the stored
 * position, positions prove nothing, either.  A slot that is ahead of a
 * restored history proves nothing, and a history that came with a dump has no
 * slot.
 *
 * So the last transaction with changes is looked up in the source's WAL
 * (stream/wal.c).  If it is not there, a binary search finds the last stored
 * transaction that is.  If the source has removed the WAL, the result is
 * "unknown".
 *
 * Transactions within gaps do not count, because the gap already declares that
 * they may be undone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "stream/stream.h"
#include "worker/worker_internal.h"

/*
 * Finds the last transaction with changes in this range that is in no gap.
 * Returns false if there is none.  The one that the worker remembers is later
 * than all gaps.
 */
static bool
find_last_stored(XLogRecPtr from, XLogRecPtr to, BemiStored *stored)
{
	BemiStored	changed;
	bool		remembers;
	bool		found;

	bemi_facts_last_changed(&changed);
	remembers = !XLogRecPtrIsInvalid(changed.commit_lsn) &&
		changed.commit_lsn >= from && changed.commit_lsn < to;
	bemi_begin_transaction();
	found = bemi_find_last_outside(remembers ? changed.commit_lsn + 1 : from,
								   to, stored);
	bemi_end_transaction();
	if (!found && remembers)
		*stored = changed;
	return found || remembers;
}

/*
 * Looks for a transaction in the source's WAL.
 */
static BemiTrace
trace_stored_transaction(BemiStream *stream,
						 const BemiSourceIdentity *identity,
						 const BemiStored *stored, char **refusal)
{
	uint32		timeline =
		bemi_timeline_at(identity->timeline, identity->ancestors,
						 stored->commit_lsn);

	return bemi_stream_trace(stream, timeline, identity->position, stored,
							 refusal);
}

/*
 * Whether the source still has the last transaction with changes in this
 * range, which is put into *stored.  BEMI_TRACE_FOUND if there is none.
 */
BemiTrace
bemi_trace_last(BemiStream *stream, const BemiSourceIdentity *identity,
				XLogRecPtr from, XLogRecPtr to, BemiStored *stored,
				char **refusal)
{
	if (from >= to || !find_last_stored(from, to, stored))
		return BEMI_TRACE_FOUND;
	return trace_stored_transaction(stream, identity, stored, refusal);
}

/*
 * Commit position of the last transaction with changes in this range that the
 * source still has; InvalidXLogRecPtr if none is known.  The source has all
 * before it and none after it, so a binary search finds it.
 */
XLogRecPtr
bemi_trace_common(BemiStream *stream, const BemiSourceIdentity *identity,
				  XLogRecPtr from, XLogRecPtr to)
{
	XLogRecPtr	common = InvalidXLogRecPtr;

	while (from < to)
	{
		XLogRecPtr	middle = from + (to - from) / 2;
		BemiStored	stored;
		char	   *refusal;
		BemiTrace	found = BEMI_TRACE_UNKNOWN;

		CHECK_FOR_INTERRUPTS();
		if (find_last_stored(from, middle + 1, &stored))
			found =
				trace_stored_transaction(stream, identity, &stored, &refusal);
		if (found == BEMI_TRACE_FOUND)
			common = stored.commit_lsn;
		if (found == BEMI_TRACE_GONE)
			to = stored.commit_lsn;
		else
			from = middle + 1;
	}
	return common;
}
