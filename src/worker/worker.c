/*-------------------------------------------------------------------------
 *
 * worker.c
 *		The worker: the process that reads one source.
 *
 * The worker enters the entry that the launcher has started it for, and reads
 * its row of bemi.sources.  Then it streams (pipeline.c), drops its source
 * (source.c), or ends.
 *
 * Each error ends the process: it is recorded for bemi.status, the exit rolls
 * back the destination transaction, and the launcher starts a new worker after
 * a delay.  The origin's position is committed with the changes.  So the new
 * worker continues exactly after the last commit, and no state in memory needs
 * to be repaired.
 *
 * Memory: "bemi worker" lives as long as the stream.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "replication/origin.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "extension/extension.h"
#include "stream/stream.h"
#include "worker/worker_internal.h"

/*
 * Called during waits for the source.  Creating a slot may take as long as
 * other transactions last.  If the worker's row has changed meanwhile, the
 * process ends, and the next worker reads the row.
 */
void
bemi_leave_if_woken(BemiStream *stream)
{
	if (!bemi_entry_is_woken())
		return;

	bemi_stream_cancel(stream);
	bemi_entry_stop(false);
	proc_exit(0);
}

/*
 * Records in shared memory what others need of the row: the slot, whether DROP
 * DATABASE would leave it behind, and whether bemi.sync() waits for the
 * source.  The last is preliminary until there is a connection.
 */
static void
record_row(const BemiSourceRow *row)
{
	bool		is_remote = row->conninfo != NULL &&
		(row->system_identifier == NULL ||
		 strtoull(row->system_identifier, NULL, 10) != GetSystemIdentifier());

	bemi_entry_record_slot(row->slot_name,
						   row->slot_made && row->conninfo != NULL &&
						   !bemi_is_copy(row));
	if (!row->exists)
		return;
	bemi_facts_record_place(false, is_remote);
	bemi_slot_name = row->slot_name;
}

/*
 * Whether the slot was given up because of bemi.max_slot_lag.
 */
static bool
slot_was_given_up(void)
{
	BemiFacts	known;

	bemi_facts_copy_mine(&known);
	return known.give_up == BEMI_GIVE_UP_LAG;
}

static void
load_progress(void)
{
	bemi_begin_transaction();
	bemi_load_progress();
	bemi_end_transaction();
}

/*
 * Runs the worker until its row is stopped or dropped.
 */
static void
run_worker(BemiPipeline *pipeline)
{
	BemiSourceRow row;

	(void) bemi_entry_drain_wake();
	bemi_read_source(&row);
	if (row.exists)
		load_progress();
	record_row(&row);
	if (row.run)
		bemi_stream_changes(pipeline, &row);
	else if (row.exists && !row.drop && row.slot_made &&
			 slot_was_given_up())
		bemi_record_given_up();
	if ((row.drop || !row.exists) && bemi_remove_source(&row))
		return;

	bemi_entry_stop(row.run);
}

/*
 * Records the error that ends this process, with its detail.
 */
static void
record_error(const BemiPipeline *pipeline)
{
	ErrorData  *error;
	char	   *text;

	MemoryContextSwitchTo(TopMemoryContext);
	error = CopyErrorData();
	text = error->detail ? psprintf("%s (%s)", error->message, error->detail) :
		error->message;

	if (error->sqlerrcode == BEMI_ERRCODE_UNREADABLE)
	{
		bemi_forget_unreadable();
		(void) bemi_facts_give_up(BEMI_GIVE_UP_UNREADABLE);
	}
	else if (error->sqlerrcode == BEMI_ERRCODE_REPEATABLE ||
			 error->sqlerrcode == BEMI_ERRCODE_ROW_AT_FAULT)
		bemi_record_unreadable(replorigin_session_get_progress(false),
							   bemi_pipeline_failed_at(pipeline),
							   error->sqlerrcode == BEMI_ERRCODE_ROW_AT_FAULT);
	bemi_entry_fail(text, error->hint);
}

/*
 * before_shmem_exit callback: publishes the worker's end in shared memory.
 */
static void
worker_onexit(int code, Datum arg)
{
	bemi_entry_leave();
}

/*
 * Takes over the entry for which the launcher has started this process.
 */
static void
worker_enter(int number, BemiEntry *entry)
{
	if (!bemi_entry_enter(number, entry))
		proc_exit(0);
	before_shmem_exit(worker_onexit, (Datum) 0);

	MemoryContextSwitchTo(TopMemoryContext);
	bemi_source_name = pstrdup(entry->source);
	bemi_origin_name =
		psprintf("bemi_%u_%s", entry->database, entry->source);
	bemi_slot_name = bemi_origin_name;
	bemi_load_unreadable();
}

/*
 * Entry point of the worker's process; the argument is its entry.
 */
void
bemi_worker_main(Datum arg)
{
	BemiEntry	entry;
	BemiPipeline *pipeline;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();

	worker_enter(DatumGetInt32(arg), &entry);
	BackgroundWorkerInitializeConnectionByOid(entry.database, InvalidOid, 0);
	bemi_pin_settings();

	MemoryContextSwitchTo(AllocSetContextCreate(TopMemoryContext,
												"bemi worker",
												ALLOCSET_DEFAULT_SIZES));
	pipeline = bemi_pipeline_create();
	PG_TRY();
	{
		run_worker(pipeline);
	}
	PG_CATCH();
	{
		record_error(pipeline);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

void
bemi_worker_init(void)
{
	bemi_shared_init();
	bemi_at_commit_init();
	bemi_worker_launcher_init();
	bemi_worker_reader_init();
	bemi_worker_pace_init();
	bemi_slot_limit_init();
	bemi_worker_pause_init();
	bemi_database_ddl_init();
	bemi_worker_standby_init();
}
