/*-------------------------------------------------------------------------
 *
 * worker_internal.h
 *		Entries and facts in shared memory, the worker's own state, and the
 *		functions that only the files of this room use.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BEMI_WORKER_INTERNAL_H
#define BEMI_WORKER_INTERNAL_H

#include "postmaster/bgworker.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/lockdefs.h"
#include "storage/lwlock.h"

#include "decode/decode.h"
#include "store/store.h"
#include "stream/stream.h"
#include "worker/worker.h"

/*
 * Setting bemi.max_sources: sources that this server can read, in all its
 * databases.
 */
extern int	bemi_max_sources;

/* Databases that can be paused at the same time. */
#define BEMI_MAX_PAUSES			16

/* Longest name that bemi.sources allows, and the zero byte. */
#define BEMI_SOURCE_NAME_LEN	33

/* The delay before a process is started again doubles between these. */
#define BEMI_FIRST_DELAY_MS		1000
#define BEMI_LONGEST_DELAY_MS	60000

/* Longer texts are cut. */
#define BEMI_ERROR_LEN			1024

typedef enum BemiState
{
	BEMI_STATE_STARTING,
	BEMI_STATE_CONNECTING,
	BEMI_STATE_MAKING_SLOT,
	BEMI_STATE_STREAMING,
	BEMI_STATE_DROPPING,
	BEMI_STATE_PAUSED,
	BEMI_STATE_FAILED,
	BEMI_STATE_STOPPED
} BemiState;

/* Why a slot must be given up. */
typedef enum BemiGiveUp
{
	BEMI_KEEP_SLOT,
	BEMI_GIVE_UP_LAG,			/* bemi.max_slot_lag */
	BEMI_GIVE_UP_UNREADABLE,	/* the source cannot decode the next WAL */
	BEMI_GIVE_UP_TRANSACTION	/* only the next transaction, not the slot */
} BemiGiveUp;

/* Names of tables that do not fit are left out. */
#define BEMI_TABLES_LEN			512

/* The same for slots without a reader. */
#define BEMI_STRAYS_LEN			512

/* The place where the source fails, see unreadable.c. */
typedef struct BemiUnreadable
{
	int			tries;			/* failures there; 0: it does not fail */
	int64		first_at;		/* the first, by bemi_monotonic_ms() */
	XLogRecPtr	commit_lsn;		/* of the transaction; InvalidXLogRecPtr:
								 * unknown, it comes after ... */
	XLogRecPtr	stored;			/* ... this position */
	XLogRecPtr	row;			/* at which the source failed; may be unknown */
	TimestampTz committed_at;
	TransactionId xid;
	bool		at_new_table;	/* failed right after a table's description */
	char		tables[BEMI_TABLES_LEN];	/* that it has changed before */
	int64		skipped_at;		/* the last skip; 0: never */
} BemiUnreadable;

/*
 * One source and its worker: a copy of the entry in shared memory, which only
 * entry.c can access.
 */
typedef struct BemiEntry
{
	bool		in_use;			/* as long as the source's origin exists */
	Oid			database;
	char		source[BEMI_SOURCE_NAME_LEN];
	char		slot[NAMEDATALEN];	/* "" until a worker has read its row */
	bool		slot_elsewhere; /* created over a connection string */

	/* the process */
	BemiState	state;
	bool		launched;		/* registered, and not yet ended */
	pid_t		pid;			/* 0 unless it runs */
	Latch	   *latch;
	pid_t		walsender;		/* its walsender on this server, 0: elsewhere */
	bool		wake;			/* its row of bemi.sources may have changed */
	bool		asked_to_leave; /* its end is no failure */
	int64		next_start;		/* earliest restart after a failure; by
								 * bemi_monotonic_ms(), 0: not decided */
	int			failures;		/* in a row */
	int64		restarts;

	/* attempts, see bemi_entry_begin_attempt() */
	int64		attempt;		/* number of the last one */
	int64		run_attempt;	/* of the last one with desired state "run" */
	int64		failed_attempt; /* attempt that caused the error below */
	int64		error_count;
	TimestampTz error_at;
	char		error[BEMI_ERROR_LEN];
	char		hint[BEMI_ERROR_LEN];
} BemiEntry;

/*
 * Facts about a source, for sessions and its next worker: a copy of those in
 * shared memory, which only facts.c can access.
 */
typedef struct BemiFacts
{
	bool		is_local;		/* it reads this server */
	bool		is_remote;		/* it reads another one; neither: unknown yet */
	XLogRecPtr	received;
	XLogRecPtr	stored;
	XLogRecPtr	awaited;		/* markers that bemi.sync() waits for: the
								 * first that is not stored, and the last */
	XLogRecPtr	awaited_last;
	BemiUntil	until;			/* all earlier commits are stored, as the
								 * worker has determined ... */
	BemiUntil	synced;			/* ... and as bemi.sync() has */
	BemiCounts	counts;
	bool		counted;		/* until and counts are up to date */
	BemiSlotCost cost;			/* of a slot on another server */
	bool		warned;			/* of what the slot costs */
	char		strays[BEMI_STRAYS_LEN];	/* slots at the source without a
											 * reader */
	char		advice[BEMI_ERROR_LEN]; /* statement to type if commits at the
										 * source may wait for the worker, or
										 * "" */

	/* for the next worker */
	BemiGiveUp	give_up;
	int64		given_up_at;	/* for bemi.max_slot_lag; not again for some
								 * time */
	BemiUnreadable unreadable;
	bool		must_compare;	/* the source lacks a stored transaction */
	int64		contested_at;	/* since when another server reads the slot;
								 * 0: none */
} BemiFacts;

/* A database that a session has paused for a command. */
typedef struct BemiPause
{
	pid_t		session;		/* 0: free */
	Oid			database;
} BemiPause;

/*
 * In shared memory, with the entries (entry.c) and the facts (facts.c).  The
 * lock protects all of it except itself and the condition variable.  It is
 * never held during a wait, an allocation, or anything that can fail.
 */
typedef struct BemiShared
{
	LWLock	   *lock;
	ConditionVariable changed;	/* broadcast with each change of a worker's
								 * state, position or error */
	pid_t		launcher_pid;
	Latch	   *launcher_latch;
	Oid			discovered;		/* database of the last finished discovery
								 * worker */
	BemiPause	pauses[BEMI_MAX_PAUSES];
} BemiShared;

/* NULL unless the library is in shared_preload_libraries. */
extern BemiShared *bemi_shared;

/* shared.c */
extern void bemi_shared_init(void);
extern bool bemi_launcher_is_running(void);
extern void bemi_enter_launcher(void);
extern void bemi_wake_launcher(void);

/* entry.c, in the order of its parts */
extern Size bemi_entry_memory_size(void);
extern void bemi_entry_attach(void);
extern bool bemi_entry_copy(Oid database, const char *source,
							BemiEntry *copy);
extern int	bemi_entry_copy_all(BemiEntry **entries, BemiFacts **facts);
extern bool bemi_entry_is_of(int i, Oid database);
extern void bemi_entry_slot_name(const BemiEntry *entry, char *name);
extern int	bemi_entry_find_slot(const char *slot, BemiEntry *copy);
extern int64 bemi_entry_last_attempt(void);

extern bool bemi_entry_has_place(Oid database, const char *source);
extern bool bemi_entry_add(Oid database, const char *source);
extern void bemi_entry_remove_idle(Oid database, const char *source);
extern void bemi_entry_wake_all(Oid database);
extern void bemi_entry_wake(int i);
extern void bemi_entry_set_latch(int i);
extern bool bemi_entry_stop_all(Oid database, pid_t *signalled);
extern void bemi_entry_forget_all(Oid database);

extern long bemi_delay_after(int failures);
extern bool bemi_entry_begin_start(int i, BemiEntry *copy, long *timeout_ms);
extern bool bemi_entry_refuse_start(int i, const char *error,
									const char *hint);
extern void bemi_entry_process_is_gone(int i);
extern void bemi_entry_forget(int i);
extern void bemi_entry_forget_unborn(void);

extern bool bemi_entry_enter(int i, BemiEntry *copy);
extern void bemi_entry_leave(void);
extern int	bemi_entry_mine(void);
extern void bemi_entry_copy_mine(BemiEntry *copy);
extern void bemi_entry_begin_attempt(void);
extern void bemi_entry_is_to_run(void);
extern void bemi_entry_record_slot(const char *slot, bool elsewhere);
extern void bemi_entry_record_walsender(pid_t walsender);
extern void bemi_entry_set_state(BemiState state);
extern void bemi_entry_stop(bool again);
extern void bemi_entry_fail(const char *error, const char *hint);
extern void bemi_entry_recover(void);
extern void bemi_entry_remove(void);
extern bool bemi_entry_is_woken(void);
extern bool bemi_entry_drain_wake(void);

/* facts.c, in the order of its parts */
extern Size bemi_facts_memory_size(void);
extern void bemi_facts_attach(void);
extern void bemi_facts_reset(int i);
extern void bemi_facts_get(int i, BemiFacts *copy);
extern void bemi_facts_copy_mine(BemiFacts *copy);

extern void bemi_facts_expect_marker(void);
extern void bemi_facts_await_marker(Oid database, XLogRecPtr position);
extern bool bemi_facts_is_awaited(XLogRecPtr position);
extern void bemi_facts_record_synced(Oid database, XLogRecPtr position,
									 TimestampTz time);

extern void bemi_facts_record_place(bool is_local, bool is_remote);
extern void bemi_facts_load_progress(const BemiCounts *counts,
									 const BemiUntil *until);
extern void bemi_facts_add_progress(XLogRecPtr received, bool all_stored,
									const BemiCounts *counts,
									const BemiUntil *until);
extern void bemi_facts_forget_positions(XLogRecPtr position, TimestampTz now);
extern void bemi_facts_begin_reading(BemiGiveUp given_up);
extern void bemi_facts_set_back(XLogRecPtr position);
extern void bemi_facts_require_comparison(void);
extern void bemi_facts_last_changed(BemiStored *changed);

extern bool bemi_facts_set_advice(const char *advice);
extern bool bemi_facts_set_strays(const char *strays);
extern void bemi_facts_set_cost(const BemiSlotCost *cost);
extern bool bemi_facts_set_warned(int i, bool warned);
extern bool bemi_facts_give_up_lag(int i, int again_ms, bool *is_new);
extern BemiGiveUp bemi_facts_give_up(BemiGiveUp reason);
extern void bemi_facts_keep_slot(BemiGiveUp given_up);
extern void bemi_facts_set_unreadable(const BemiUnreadable *unreadable);
extern int64 bemi_facts_contest(void);
extern void bemi_facts_end_contest(void);

/* control.c */
extern void bemi_require_preload(void);
extern void bemi_require_workers(const char *function, const char *hint);
extern void bemi_wait_for_news(int64 timeout_ms);

/* at_commit.c */
extern void bemi_at_commit_init(void);
extern void bemi_require_place(const char *source);
extern void bemi_report_no_place(const char *source);
extern void bemi_add_entry_at_commit(const char *source);
extern void bemi_remove_entry_at_commit(const char *source);
extern void bemi_wake_workers_at_commit(void);

/* status.c */
extern const char *bemi_state_name(BemiState state);

/* The worker's row of bemi.sources. */
typedef struct BemiSourceRow
{
	bool		exists;
	bool		run;			/* desired */
	bool		drop;			/* desired */
	bool		force;			/* drop without its slot on another server */
	bool		slot_made;
	char	   *conninfo;		/* NULL: this server */
	char	   *system_identifier;	/* where the slot was created; NULL: not
									 * yet */
	uint32		timeline;
	char	   *ancestors;		/* of the timeline; NULL: not known */
	TimestampTz started_at;		/* the source's server, at the last
								 * connection; 0: not known */
	char	   *database;
	char	   *slot_name;
	char	   *reader;			/* server that reads it; NULL: none yet */
	bool		gap_open;		/* that concerns all tables */
	bool		was_read;		/* by this history, here or on a former server */
} BemiSourceRow;

/* source.c */
extern char *bemi_source_name;
extern char *bemi_origin_name;
extern char *bemi_slot_name;
extern bool bemi_source_is_local;
extern void bemi_begin_transaction(void);
extern void bemi_end_transaction(void);
extern void bemi_read_source(BemiSourceRow *row);
extern bool bemi_remove_source(BemiSourceRow *row);
extern int	bemi_count_gaps(void);
extern XLogRecPtr bemi_origin_position(void);
extern void bemi_set_origin(XLogRecPtr position);
extern void bemi_load_progress(void);
extern XLogRecPtr bemi_acquire_origin(void);

/* reader.c */
extern bool bemi_is_copy(const BemiSourceRow *row);
extern void bemi_check_reading(const BemiSourceRow *row);
extern void bemi_claim_source(BemiStream *stream, BemiSourceRow *row);
extern void bemi_worker_reader_init(void);

/* A stored transaction that the stream must begin with, see witness.c. */
typedef struct BemiWitness
{
	BemiStored	stored;			/* commit_lsn InvalidXLogRecPtr: none */
	bool		begun;			/* it is being received */
} BemiWitness;

/* timeline.c */
#define BEMI_SAME_TIMELINE	PG_UINT64_MAX

extern uint32 bemi_timeline_at(uint32 today, const char *ancestors,
							   XLogRecPtr position);
extern XLogRecPtr bemi_timelines_part_at(uint32 former,
										 const char *former_ancestors,
										 uint32 today, const char *ancestors);

/* witness.c */
extern void bemi_find_witness(XLogRecPtr from, XLogRecPtr to,
							  BemiWitness *witness);
extern bool bemi_witness_event(BemiWitness *witness, const BemiEvent *event);
extern void bemi_check_witness(const BemiWitness *witness,
							   XLogRecPtr received);
extern XLogRecPtr bemi_find_last_common(BemiStream *stream, XLogRecPtr from,
										XLogRecPtr to);
extern bool bemi_find_last_outside(XLogRecPtr from, XLogRecPtr to,
								   BemiStored *stored);
extern bool bemi_stores_undone(XLogRecPtr from, XLogRecPtr to);

/* trace.c */
extern BemiTrace bemi_trace_last(BemiStream *stream,
								 const BemiSourceIdentity *identity,
								 XLogRecPtr from, XLogRecPtr to,
								 BemiStored *stored, char **refusal);
extern XLogRecPtr bemi_trace_common(BemiStream *stream,
									const BemiSourceIdentity *identity,
									XLogRecPtr from, XLogRecPtr to);

/* loss_check.c */
extern void bemi_secure_slot(BemiStream *stream,
							 const BemiSourceIdentity *identity,
							 const BemiSourceRow *row, BemiWitness *witness);
extern void bemi_record_stop(void);
extern void bemi_record_given_up(void);

/* unreadable.c */
extern void bemi_load_unreadable(void);
extern bool bemi_watch_event(const BemiEvent *event);
extern void bemi_watch_progress(XLogRecPtr stored);
extern void bemi_record_unreadable(XLogRecPtr stored, XLogRecPtr row,
								   bool row_at_fault);
extern void bemi_forget_unreadable(void);
extern void bemi_record_skipped_transaction(void);

/* slot_limit.c */
extern void bemi_slot_limit_init(void);
extern void bemi_limit_local_slots(long *timeout_ms);
extern void bemi_limit_slot(BemiStream *stream);

/* stray.c */
extern void bemi_look_for_strays(BemiStream *stream);

/*
 * A time and a position such that all commits with earlier times are before
 * the position.
 */
typedef struct BemiHorizon
{
	TimestampTz time;
	XLogRecPtr	position;		/* InvalidXLogRecPtr: unknown yet */
	int			count;			/* commits that are waited for */
	VirtualTransactionId *committing;
} BemiHorizon;

/* horizon.c */
extern void bemi_horizon_begin(BemiHorizon *horizon, TimestampTz time);
extern bool bemi_horizon_is_settled(BemiHorizon *horizon);
extern bool bemi_horizon_wait(BemiHorizon *horizon, TimestampTz time,
							  int64 timeout_ms);

/* launcher.c */
extern void bemi_worker_launcher_init(void);
extern void bemi_describe_process(BackgroundWorker *process, const char *kind,
								  const char *function);
extern bool bemi_register_process(BackgroundWorker *process,
								  BackgroundWorkerHandle **handle);
extern PGDLLEXPORT void bemi_launcher_main(Datum arg);

/* Whether a process of ours can connect to a database. */
typedef enum BemiDatabaseState
{
	BEMI_DATABASE_GONE,
	BEMI_DATABASE_INVALID,		/* DROP DATABASE was interrupted */
	BEMI_DATABASE_CLOSED,		/* ALLOW_CONNECTIONS is false */
	BEMI_DATABASE_OPEN
} BemiDatabaseState;

/* discovery.c */
extern List *bemi_list_origins(Oid database);
extern BemiDatabaseState bemi_check_database(Oid oid, NameData *name);
extern void bemi_explain_closed_database(BemiDatabaseState state,
										 const NameData *name, char **error,
										 char **hint);
extern void bemi_discover_all_databases(void);
extern long bemi_start_discovery(void);
extern PGDLLEXPORT void bemi_discovery_main(Datum arg);

/* pause.c */
extern bool bemi_is_paused(Oid database);
extern bool bemi_is_connected(pid_t pid, Oid database);
extern bool bemi_pause_database(Oid database);
extern void bemi_stop_readers(Oid database);
extern bool bemi_has_other_readers(Oid database);
extern void bemi_forget_entries_at_commit(Oid database);
extern void bemi_worker_pause_init(void);

/* standby.c */
extern void bemi_ask_for_election(BemiStream *stream);
extern void bemi_watch_election(BemiStream *stream);
extern bool bemi_is_elected(void);
extern void bemi_worker_standby_init(void);

/* The worker rests if so many transactions come within bemi.commit_delay. */
#define BEMI_BUSY_TRANSACTIONS	5

/* When the last source transactions with changes were committed. */
typedef struct BemiPace
{
	int64		stored_at[BEMI_BUSY_TRANSACTIONS];	/* newest first; 0: none */
} BemiPace;

/* pace.c */
extern void bemi_pace_record(BemiPace *pace, int64 transactions);
extern long bemi_pace_rest_ms(const BemiPace *pace);
extern void bemi_pace_rest(long rest_ms);
extern void bemi_worker_pace_init(void);

/* database_ddl.c */
extern void bemi_database_ddl_init(void);

/* pipeline.c */
typedef struct BemiPipeline BemiPipeline;

extern BemiPipeline *bemi_pipeline_create(void);
extern void bemi_stream_changes(BemiPipeline *pipeline, BemiSourceRow *row);
extern XLogRecPtr bemi_pipeline_failed_at(const BemiPipeline *pipeline);

/* worker.c */
extern void bemi_leave_if_woken(BemiStream *stream);
extern PGDLLEXPORT void bemi_worker_main(Datum arg);

#endif							/* BEMI_WORKER_INTERNAL_H */
