/*-------------------------------------------------------------------------
 *
 * revert_internal.h
 *		Shared by the files of the room that takes changes back.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BEMI_REVERT_INTERNAL_H
#define BEMI_REVERT_INTERNAL_H

#include "common/sha2.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "storage/itemptr.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#include "extension/extension.h"
#include "worker/worker.h"

/*
 * What to do with a change of others that is later, and touches what a change
 * of the set has written.
 */
typedef enum BemiRevertMode
{
	BEMI_REVERT_REFUSE,			/* the step is a conflict */
	BEMI_REVERT_SKIP,			/* the step is left out */
	BEMI_REVERT_FORCE,			/* it is overwritten */
	BEMI_REVERT_CASCADE			/* it is taken back, too */
} BemiRevertMode;

/* What was chosen for single rows and columns. */
typedef struct BemiRevertChoices BemiRevertChoices;

#define BEMI_REVERT_SET_ARGUMENTS	5

/* The arguments of a call. */
typedef struct BemiRevertCall
{
	BemiValue	set[BEMI_REVERT_SET_ARGUMENTS]; /* of _bemi.revert_condition() */
	BemiRevertMode mode;
	BemiRevertChoices *choices; /* NULL: none */
	bool		with_text;		/* the statements are shown */
	BemiValue	timeout;
} BemiRevertCall;

/* At most so many changes, and transactions, are shown in the context. */
#define BEMI_REVERT_OF_LIMIT	20

/* A table of a plan. */
typedef struct BemiRevertTable
{
	Oid			relation;		/* 0: it does not exist any more */
	char	   *name;
	char	  **columns;		/* that can be written */
	int			column_count;
	char	  **key;			/* columns of the primary key */
	int			key_count;
	char	   *source;			/* NULL: it is not plain, see set.c */
	char	   *schema;
	char	   *table;
	char	   *reading;		/* query, see reader.c; NULL: none */
	bool		mends;			/* its BEFORE triggers can change rows */
} BemiRevertTable;

/*
 * Columns of the steps, as the queries of sql/revert/ read them.  A plan is
 * its steps, in order, with their statements, if these are shown.
 */
enum
{
	BEMI_STEP_TABLE, BEMI_STEP_KEY, BEMI_STEP_PLACE, BEMI_STEP_PART,
	BEMI_STEP_DEPTH, BEMI_STEP_KIND, BEMI_STEP_COLUMNS, BEMI_STEP_ROW_NOW,
	BEMI_STEP_NOW, BEMI_STEP_AFTER, BEMI_STEP_VERDICT, BEMI_STEP_REASON,
	BEMI_STEP_CHANGES, BEMI_STEP_ARRIVED, BEMI_STEP_LEFT, BEMI_STEP_CTID,
	BEMI_STEP_TABLEOID, BEMI_STEP_STATEMENT,
	BEMI_STEP_COUNT = BEMI_STEP_STATEMENT
};

/*
 * Steps whose changes ascend, in a tuplestore.  The order in which changes are
 * stored is nearly that of commits, so steps are a few of these.
 */
typedef struct BemiRevertRun
{
	int64		start;			/* the first step */
	int64		left;			/* of those that are still to be read */
	int			pointer;		/* of the tuplestore */
	TupleTableSlot *row;		/* the next one to be read; NULL: no pointer */
} BemiRevertRun;

#define BEMI_REVERT_RUNS	16

/* A row of a plan, for messages. */
typedef struct BemiRevertRow
{
	const char *table;
	char	   *key;
	char	   *reason;
} BemiRevertRow;

typedef struct BemiRevertPlan
{
	BemiRevertTable *tables;
	int			table_count;
	BemiRows	rows;			/* BEMI_STEP_...; no columns: no changes */
	bool		is_reversed;	/* the order of the plan is the reverse one */
	BemiRevertRun runs[BEMI_REVERT_RUNS];
	int			run_count;
	BemiRevertRun *current;
	char		hash[2 * PG_SHA256_DIGEST_LENGTH + 1];
	BemiValue	revert_of;
	char	   *new_children;	/* query; NULL: there are no foreign keys */
	bool		settles;		/* triggers may change what steps have written */
	int64		ok;
	int64		skipped;
	int64		conflicts;
	bool		skips_conflicts;
	BemiRevertRow first_conflict;
	BemiRevertRow first_skipped;
} BemiRevertPlan;

/* Kinds of events. */
#define CREATED		'C'
#define UPDATED		'U'
#define DELETED		'D'
#define LEFT		'L'			/* an update has changed its key */
#define ARRIVED		'A'			/* the same, in the slot of its new key */
#define TRUNCATED	'T'
#define IS_NOW		'N'			/* no change: the row as it is now */

/* Columns of the events, as _bemi.revert_events() returns them. */
enum
{
	BEMI_EVENT_TABLE,
	BEMI_EVENT_SLOT,
	BEMI_EVENT_ID,
	BEMI_EVENT_KIND,
	BEMI_EVENT_IN_SET,
	BEMI_EVENT_BEFORE,
	BEMI_EVENT_AFTER,
	BEMI_EVENT_TIME,
	BEMI_EVENT_CONTEXT,
	BEMI_EVENT_CTID,
	BEMI_EVENT_TABLEOID,
	BEMI_EVENT_COUNT
};

typedef struct BemiRevertEvent
{
	char		kind;
	bool		in_set;
	pg_uuid_t	id;
	Jsonb	   *before;
	Jsonb	   *after;
	TimestampTz time;
	Jsonb	   *context;
	bool		kept;			/* the walk refers to it */
} BemiRevertEvent;

/* A column that the set has changed. */
typedef struct BemiRevertColumn
{
	char	   *name;
	int			length;
	Jsonb	   *first;
	Jsonb	   *base;			/* NULL: nothing can be taken back */
	BemiRevertEvent *blocker;	/* last change of others; NULL: none */
	bool		lost;			/* the blocker has removed the row */
	bool		unknown;		/* a change lacks the value before */
} BemiRevertColumn;

typedef struct BemiRevertWalk
{
	BemiRevertMode mode;
	BemiRevertChoices *choices; /* NULL: none */
	const BemiRevertTable *tables;
	BemiRows   *steps;
	MemoryContext slot_memory;
	MemoryContext table_memory;
	int			table;
	List	   *truncations;	/* of the table: BemiRevertEvent * */
	bool		has_moved;		/* any row */
	bool		has_lost_key;	/* an update that should be two events */
	bool		has_inserts;	/* any step */
	bool		keeps_rows;		/* steps have the row as it is now */
	bool		is_ordered;		/* the steps are these runs */
	BemiRevertRun runs[BEMI_REVERT_RUNS];
	int			run_count;
	pg_uuid_t	place;			/* of the last step */

	/* The slot. */
	char	   *slot;
	int			truncation;		/* the next one */
	List	   *columns;		/* BemiRevertColumn * */
	List	   *changes;		/* of the set: pg_uuid_t * */
	BemiRevertEvent *last;		/* the last change */
	BemiRevertEvent *held;		/* a change of others, see walk_others() */
	bool		whole;			/* the set has inserted or deleted the row */
	Jsonb	   *whole_first;	/* NULL: there was no row */
	Jsonb	   *whole_base;
	BemiRevertEvent *whole_blocker;
	BemiRevertEvent *removal;	/* of a row that the set has inserted */
	BemiRevertEvent *arrival;	/* by which the row that is there has come */
	BemiRevertEvent *departure; /* by which the former row has gone */
	Jsonb	   *now;			/* NULL: there is no row */
	ItemPointerData ctid;
	Oid			tableoid;
	int			rows;			/* that are in the slot now */
	int			parts;			/* steps */
} BemiRevertWalk;

/*
 * Whether there is a row in the slot after the last change.
 */
static inline bool
bemi_revert_is_occupied(const BemiRevertWalk *walk)
{
	return walk->last != NULL && (walk->last->kind == CREATED ||
								  walk->last->kind == UPDATED ||
								  walk->last->kind == ARRIVED);
}

/* A column of a tuplestore. */
typedef struct BemiRevertColumnType
{
	const char *name;
	Oid			type;
} BemiRevertColumnType;

/* The changes that are to be taken back. */
typedef struct BemiRevertSet
{
	char	   *condition;		/* on bemi.changes c */
	BemiValue	running;		/* transactions that do not count, as int8[] */
	char	   *added;			/* ids of later changes, as uuid[]; NULL: none */
	BemiRows	changes;		/* "bemi_changes" */
	List	   *groups;
	struct Counts *counts;		/* of slots */
	BemiRows	group_rows;		/* the same for SQL */
	BemiValue	without_gap;	/* the set has all changes from its first one
								 * to this id */
	BemiValue	revert_of;
} BemiRevertSet;

/* plan.c */
extern BemiRows bemi_revert_make_rows(const char *name, TupleDesc columns);
extern TupleDesc bemi_revert_columns(const BemiRevertColumnType *types,
									 int count);
extern BemiRevertCall bemi_revert_arguments(FunctionCallInfo fcinfo,
											bool with_text, int timeout);
extern void bemi_revert_make_restore(const BemiValue *arguments, int count,
									 BemiRevertPlan *plan);
extern void bemi_revert_make_plan(const BemiRevertCall *call,
								  BemiRevertPlan *plan);
extern void bemi_revert_begin_steps(BemiRevertPlan *plan);
extern TupleTableSlot *bemi_revert_next_step(BemiRevertPlan *plan);
extern void bemi_revert_end_steps(BemiRevertPlan *plan);
extern const BemiRevertTable *bemi_revert_table_of(const BemiRevertPlan *plan,
												   TupleTableSlot *row);

/* set.c */
extern void bemi_revert_read_set(const BemiRevertCall *call,
								 BemiRevertSet *set);
extern void bemi_revert_end_set(BemiRevertSet *set);
extern void bemi_revert_walk_set(BemiRevertSet *set,
								 const BemiRevertTable *tables, int count,
								 const char *rows_now, bool reads_tables,
								 BemiRevertWalk *walk, BemiRows *events);

/* reader.c */
typedef struct BemiRevertReader BemiRevertReader;

/* The number of the change of a key, or -1. */
typedef int64 (*BemiRevertFind) (const char *key, int length, void *argument);

extern BemiRevertReader *bemi_revert_read_table(const BemiRevertTable *table,
												int64 changes, int64 numbers,
												BemiRevertFind find,
												void *argument);
extern ItemPointer bemi_revert_find_same(const BemiRevertReader *reader,
										 int64 number, const text * key,
										 Jsonb *after);
extern Oid	bemi_revert_relation(const BemiRevertReader *reader);
extern void bemi_revert_end_reader(BemiRevertReader *reader);

/* values.c */
extern Jsonb *bemi_revert_member(Jsonb *row, const char *name, int length);
extern bool bemi_revert_is_same(const Jsonb *a, const Jsonb *b);
extern bool bemi_revert_is_same_value(const JsonbValue *a,
									  const JsonbValue *b);
extern bool bemi_revert_is_placeholder(Jsonb *value);
extern bool bemi_revert_has_placeholder(Jsonb *row);
extern void bemi_revert_push_member(JsonbParseState **state, char *name,
									int length, Jsonb *value);
extern void bemi_revert_list_members(Jsonb *row, Jsonb *other, List **names,
									 List **now, List **after);
extern Jsonb *bemi_revert_object(List *columns, List *values);

/* choices.c */
extern BemiRevertChoices *bemi_revert_read_choices(const BemiValue *argument);
extern bool bemi_revert_keeps_any(const BemiRevertChoices *choices);
extern BemiRevertMode bemi_revert_mode_of(const BemiRevertWalk *walk,
										  const char *column);
extern void bemi_revert_keep_chosen(BemiRevertChoices *choices,
									const BemiRevertTable *tables,
									BemiRows *steps);
extern void bemi_revert_use_choices(BemiRevertChoices *choices,
									const char *table, TupleTableSlot *row);
extern void bemi_revert_check_choices(const BemiRevertChoices *choices);

/* input.c */

/* How JSON becomes a value of a type. */
typedef struct BemiInput
{
	Oid			type;
	Oid			parameter;
	FmgrInfo	function;
} BemiInput;

extern void bemi_revert_prepare_input(BemiInput *input, Oid type);
extern Datum bemi_revert_input(BemiInput *input, JsonbValue *value,
							   bool *is_null);

/* steps.c */
extern TupleDesc bemi_revert_step_columns(void);
extern TupleDesc bemi_revert_event_columns(void);
extern void bemi_revert_emit_link(BemiRevertWalk *walk,
								  const BemiRevertEvent *departure);
extern void bemi_revert_finish(BemiRevertWalk *walk);

/* order.c */
extern bool bemi_revert_put_in_order(BemiRows *steps, const char *pairs,
									 BemiRevertMode mode);

/* visible.c */
extern BemiValue bemi_revert_running(Snapshot snapshot);
extern void bemi_revert_push_snapshot(const BemiRevertCall *call,
									  const BemiWait *wait);

/* walk.c */
extern void bemi_revert_begin_walk(BemiRevertWalk *walk,
								   const BemiRevertCall *call,
								   const BemiRevertTable *tables,
								   BemiRows *steps);
extern void bemi_revert_walk_event(BemiRevertWalk *walk, const Datum *values,
								   bool has_slot);
extern void bemi_revert_walk_rows(BemiRevertWalk *walk,
								  const BemiRows *events);
extern void bemi_revert_walk_same(BemiRevertWalk *walk, int table, Datum slot,
								  BemiRevertEvent *event, ItemPointer place,
								  Oid relation);
extern void bemi_revert_end_walk(BemiRevertWalk *walk);

#endif							/* BEMI_REVERT_INTERNAL_H */
