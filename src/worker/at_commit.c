/*-------------------------------------------------------------------------
 *
 * at_commit.c
 *		Passes a session's change of bemi.sources on to the workers at commit.
 *
 * bemi.start(), bemi.stop() and bemi.drop_source() change a row, which is
 * invisible to others before the commit.  So the change of shared memory is
 * kept in this process until the transaction commits, and discarded if it
 * aborts.
 *
 * Errors are no longer possible at commit.  So the free entry for a new source
 * is checked before.  If another session takes the last one meanwhile, the log
 * shows it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "worker/worker_internal.h"

/*
 * Changes to make at commit; the lists are in the transaction's memory.
 */
typedef struct AtCommit
{
	bool		wake;			/* wake the workers of this database */
	List	   *added;			/* sources that get an entry */
	List	   *removed;		/* sources that lose theirs */
} AtCommit;

static AtCommit at_commit;

/*
 * Throws an error unless the source has an entry or there is a free one.
 * Another session may take the last one before this one commits; then the log
 * shows it.
 */
void
bemi_require_place(const char *source)
{
	if (!bemi_entry_has_place(MyDatabaseId, source))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("cannot start source \"%s\"", source),
				 errdetail("This server has %d sources already, in all its databases.",
						   bemi_max_sources),
				 errhint("Put this line into postgresql.conf and restart the server: bemi.max_sources = %d",
						 bemi_max_sources * 2)));
}

/*
 * Logs a source without an entry, when errors are no longer possible.
 */
void
bemi_report_no_place(const char *source)
{
	ereport(LOG,
			(errmsg("bemi: source \"%s\" is not started, %d others are",
					source, bemi_max_sources),
			 errhint("Put this line into postgresql.conf and restart the server: bemi.max_sources = %d",
					 bemi_max_sources * 2)));
}

/*
 * Called after a change of bemi.sources, which others can see only after the
 * commit.
 */
void
bemi_wake_workers_at_commit(void)
{
	at_commit.wake = (bemi_shared != NULL);
}

static List *
append_source(List *sources, const char *source)
{
	MemoryContext caller = MemoryContextSwitchTo(TopTransactionContext);

	sources = lappend(sources, pstrdup(source));
	MemoryContextSwitchTo(caller);
	return sources;
}

/*
 * The same, and adds an entry for a source that may have none yet.
 */
void
bemi_add_entry_at_commit(const char *source)
{
	at_commit.added = append_source(at_commit.added, source);
	bemi_wake_workers_at_commit();
}

/*
 * The same, and removes the entry of a source whose row was deleted.  At
 * commit this session still has the sources locked, so another one can start
 * the source again only after that.
 */
void
bemi_remove_entry_at_commit(const char *source)
{
	at_commit.removed = append_source(at_commit.removed, source);
	bemi_wake_workers_at_commit();
}

/*
 * Adds entries for new sources.  Errors are no longer possible, so a source
 * without a free entry is logged.
 */
static void
change_entries(void)
{
	ListCell   *cell;

	foreach(cell, at_commit.removed)
	{
		bemi_entry_remove_idle(MyDatabaseId, lfirst(cell));
	}
	foreach(cell, at_commit.added)
	{
		if (!bemi_entry_add(MyDatabaseId, lfirst(cell)))
			bemi_report_no_place(lfirst(cell));
	}
	bemi_entry_wake_all(MyDatabaseId);
}

static void
entries_at_transaction_end(XactEvent event, void *arg)
{
	if (!at_commit.wake)
		return;
	if (event == XACT_EVENT_PRE_PREPARE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot PREPARE a transaction that has started or stopped a source of bemi")));
	if (event == XACT_EVENT_COMMIT)
		change_entries();
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
		memset(&at_commit, 0, sizeof(at_commit));
}

void
bemi_at_commit_init(void)
{
	RegisterXactCallback(entries_at_transaction_end, NULL);
}
