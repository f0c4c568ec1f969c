/*-------------------------------------------------------------------------
 *
 * timeline.c
 *		Finds the position at which the source's timelines differ from former
 *		ones.
 *
 * A server's WAL is a path through timelines, with a position at each switch
 * to the next one.  The worker stores the path of its last connection
 * (bemi.sources.timeline and timeline_ancestors) and compares it with today's.
 * The number of a timeline proves nothing by itself: if a backup is promoted
 * twice, there are two timelines with the same number.
 *
 * Input: two paths, each as the number of its last timeline and the lines of
 * BemiSourceIdentity.ancestors.  Output: a position.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "worker/worker_internal.h"

/*
 * Reads the next timeline of a path.  The last one has no switch.
 */
static void
parse_timeline(const char **ancestors, uint32 last, uint32 *timeline,
			   XLogRecPtr *left_at)
{
	uint32		high;
	uint32		low;

	if (sscanf(*ancestors, "%u %X/%X", timeline, &high, &low) == 3)
	{
		*left_at = ((XLogRecPtr) high) << 32 | low;
		*ancestors = strchr(*ancestors, '\n') + 1;
	}
	else
	{
		*timeline = last;
		*left_at = BEMI_SAME_TIMELINE;
	}
}

/*
 * The timeline that contains a position.
 */
uint32
bemi_timeline_at(uint32 today, const char *ancestors, XLogRecPtr position)
{
	uint32		timeline;
	XLogRecPtr	left_at;

	if (ancestors == NULL)
		return today;
	do
	{
		parse_timeline(&ancestors, today, &timeline, &left_at);
	} while (left_at <= position);
	return timeline;
}

/*
 * The position up to which both paths have the same WAL; BEMI_SAME_TIMELINE if
 * they do not differ, InvalidXLogRecPtr if that is unknown.
 */
XLogRecPtr
bemi_timelines_part_at(uint32 former, const char *former_ancestors,
					   uint32 today, const char *ancestors)
{
	XLogRecPtr	common = InvalidXLogRecPtr;

	if (former_ancestors == NULL || ancestors == NULL)
		return former == today ? BEMI_SAME_TIMELINE : InvalidXLogRecPtr;
	for (;;)
	{
		uint32		timelines[2];
		XLogRecPtr	left_at[2];

		parse_timeline(&former_ancestors, former, &timelines[0], &left_at[0]);
		parse_timeline(&ancestors, today, &timelines[1], &left_at[1]);
		if (timelines[0] != timelines[1])
			return common;
		common = Min(left_at[0], left_at[1]);
		if (left_at[0] != left_at[1] || common == BEMI_SAME_TIMELINE)
			return common;
	}
}
