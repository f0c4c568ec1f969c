/*-------------------------------------------------------------------------
 *
 * query_internal.h
 *		The open partitions of bemi.changes and their indexes, and the past of
 *		a table.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BEMI_QUERY_INTERNAL_H
#define BEMI_QUERY_INTERNAL_H

#include "access/attmap.h"
#include "access/relscan.h"
#include "access/tupconvert.h"
#include "executor/tuptable.h"
#include "lib/binaryheap.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/resowner.h"
#include "utils/snapshot.h"
#include "utils/tuplesort.h"

#include "query/query.h"
#include "worker/worker.h"

/* The kinds of indexes that a scan uses. */
typedef enum BemiIndexKind
{
	BEMI_INDEX_ID,				/* (id) */
	BEMI_INDEX_KEY,				/* ("table", primary_key, schema, id) */
	BEMI_INDEX_TABLE,			/* ("table", id) */
	BEMI_INDEX_DELETES,			/* the same, of deletes */
	BEMI_INDEX_TIMES,			/* BRIN (committed_at) */
	BEMI_INDEX_CONTEXT,			/* GIN (context) */
	BEMI_INDEX_MEMBER,			/* a key of the context, and id */
	BEMI_INDEX_COLUMN			/* the same as TABLE, by operation, of changes
								 * of a column */
} BemiIndexKind;

#define BEMI_INDEX_KINDS	(BEMI_INDEX_COLUMN + 1)

/*
 * An index on a key of the context has so many characters of the value, as in
 * _bemi.index_definition().
 */
#define BEMI_INDEXED_LENGTH	200

/* An open index of a partition. */
typedef struct BemiLeafIndex
{
	Relation	relation;
	const char *name;			/* of MEMBER the key, of COLUMN the column */
} BemiLeafIndex;

/* A partition that is a table.  It is opened when it is first used. */
typedef struct BemiLeaf
{
	Oid			oid;
	MemoryContext memory;		/* of the history */
	Relation	relation;		/* NULL: not open */
	bool		is_gone;		/* it was detached and dropped */
	AttrNumber	columns[BEMI_CHANGE_COLUMNS];
	bool		has_map;
	AttrMap    *map;			/* to a row of bemi.changes; NULL: the same */
	bool		has_indexes[BEMI_INDEX_KINDS];	/* they were looked for */
	List	   *indexes[BEMI_INDEX_KINDS];	/* of BemiLeafIndex */
} BemiLeaf;

/* A range of committed_at, and the tables that have all its changes. */
typedef struct BemiPiece
{
	TimestampTz from;			/* inclusive */
	TimestampTz to;				/* exclusive, if "has_to" */
	bool		has_to;
	bool		is_shared;		/* the tables have other times, too */
	List	   *leaves;			/* of BemiLeaf */
} BemiPiece;

struct BemiHistory
{
	MemoryContext memory;
	Relation	changes;
	AttrNumber	columns[BEMI_CHANGE_COLUMNS];
	bool		is_readable;
	List	   *leaves;			/* all */
	int			piece_count;
	BemiPiece  *pieces;			/* from late to early times */
};

/* history.c */
extern void bemi_check_select(Relation table);
extern bool bemi_leaf_open(const BemiHistory *history, BemiLeaf *leaf);
extern AttrMap *bemi_leaf_map(const BemiHistory *history, BemiLeaf *leaf);

/* changes_index.c */
extern List *bemi_leaf_indexes(BemiLeaf *leaf, BemiIndexKind kind);
extern Relation bemi_leaf_index(BemiLeaf *leaf, BemiIndexKind kind);
extern Relation bemi_leaf_column_index(BemiLeaf *leaf, const char *column);

/* diff.c */
extern bool bemi_change_sets_column(const text * operation, Jsonb *before,
									Jsonb *after, const char *name, int len);

/* changes_contexts.c */
extern List *bemi_contexts_to_find(const BemiChangesQuery *query);

/* changes_filter.c */
extern bool bemi_text_is(const BemiLeaf *leaf, TupleTableSlot *slot,
						 BemiChangeColumn column, const char *expected);
extern bool bemi_wants_operation(const BemiChangesQuery *query,
								 const char *operation);
extern bool bemi_wants_only(const BemiChangesQuery *query,
							const char *operation);
extern bool bemi_piece_continues(const BemiChangesQuery *query,
								 const BemiPiece *piece);
extern bool bemi_plain_member(const Jsonb *object, const char *key,
							  Datum *value, bool *is_number);
extern bool bemi_filter_matches(const BemiChangesQuery *query,
								const BemiPiece *piece, const BemiLeaf *leaf,
								TupleTableSlot *slot);

/* changes_stream.c */

typedef enum BemiChangesStreamKind
{
	BEMI_STREAM_ALL,
	BEMI_STREAM_KEY,			/* of the row */
	BEMI_STREAM_TRUNCATES,		/* of the row's table */
	BEMI_STREAM_CREATES,		/* that set the column */
	BEMI_STREAM_UPDATES,
	BEMI_STREAM_DELETES
} BemiChangesStreamKind;

/* In the order in which they are tried. */
typedef enum BemiOtherWay
{
	BEMI_WAY_CONTEXTS,			/* a bitmap of changes by their contexts */
	BEMI_WAY_TIMES,				/* a bitmap of pages by their times */
	BEMI_WAY_GATHER,			/* entries of another index, sorted */
	BEMI_WAY_NONE
} BemiOtherWay;

typedef struct BemiChangesStream
{
	BemiChangesScan *scan;
	const BemiPiece *piece;
	BemiLeaf   *leaf;
	BemiChangesStreamKind kind;

	TupleTableSlot *slot;		/* current change, in the partition's columns */
	pg_uuid_t	id;				/* its id */
	TimestampTz time;			/* its time, for the order by time */

	IndexScanDesc walk;			/* NULL: reads sorted */
	BemiOtherWay other_way;		/* that may be better than the walk */
	int			unwanted;		/* see WALK_STEP */
	bool		has_walked;		/* up to this id, before it began to sort */
	pg_uuid_t	walked;

	IndexScanDesc gather;		/* NULL: not begun, or ended */
	AttrNumber	gathered_id;	/* column of its entries */
	Tuplesortstate *sorted;
	bool		places_are_rows;	/* not entries of an index */
	IndexFetchTableData *fetch;
} BemiChangesStream;

extern BemiChangesStream *bemi_changes_stream_open(BemiChangesScan *scan,
												   const BemiPiece *piece,
												   BemiLeaf *leaf,
												   BemiChangesStreamKind kind);
extern bool bemi_leaf_has_ids(BemiChangesScan *scan, const BemiPiece *piece,
							  BemiLeaf *leaf);
extern bool bemi_changes_stream_next(BemiChangesStream *stream);
extern void bemi_changes_stream_park(BemiChangesStream *stream);
extern void bemi_changes_stream_close(BemiChangesStream *stream);
extern void bemi_changes_stream_sort_slots(BemiChangesScan *scan);

/* changes_scan.c */

struct BemiChangesScan
{
	BemiHistory *history;
	BemiChangesQuery query;
	MemoryContext memory;
	MemoryContext per_change;
	Snapshot	snapshot;
	ScanDirection direction;
	int64		returned;

	Datum		table;			/* texts of the query */
	Datum		schema;
	Datum		primary_key;
	List	   *contexts;		/* see bemi_contexts_to_find() */

	int			next_piece;
	binaryheap *streams;		/* the next change first */
	BemiChangesStream *last;	/* of the last change; NULL: it is closed */
	TupleTableSlot *converted;	/* a row of bemi.changes */

	bool		other_way_pays; /* it was better in the last partition */
	TupleDesc	sort_columns;
	TupleTableSlot *into_sort;
	TupleTableSlot *from_sort;
};

/* ---------- the past of a table: bemi.as_of() ---------- */

/* as_of_image.c */

/* "before" or "after" of a change, or columns that a user has given. */
typedef struct BemiRowImage
{
	Jsonb	   *row;
	bool		is_before;
	Jsonb	   *after;			/* of the same change; NULL: none */
	const pg_uuid_t *change;	/* NULL: no change */
	text	   *key_text;		/* NULL: none */
} BemiRowImage;

typedef struct BemiRowMaker BemiRowMaker;
typedef struct BemiPast BemiPast;

extern BemiRowMaker *bemi_row_maker_create(BemiPast *past,
										   const Bitmapset *needed);
extern void bemi_row_maker_set_names(BemiRowMaker *maker, Jsonb *names);
extern void bemi_make_row(BemiRowMaker *maker, const BemiRowImage *image,
						  Datum *values, bool *nulls);
extern Datum bemi_make_column(BemiRowMaker *maker, AttrNumber attnum,
							  const BemiRowImage *image, bool *is_null);
extern char *bemi_id_text(const pg_uuid_t *id);

/* as_of_keys.c */

/* The columns of a primary key, and how keys are compared. */
typedef struct BemiKey
{
	Oid			index;
	int			count;
	AttrNumber	attnums[INDEX_MAX_KEYS];	/* of the table */
	bool		is_in_images;	/* two keys never have the same image */
	bool		tells_apart;	/* and they are checked at once */
	bool		by_value;		/* one column, equal if its datum is */
	bool		by_image;		/* equal if the bytes are */
	bool		values_by_value[INDEX_MAX_KEYS];
	int16		lens[INDEX_MAX_KEYS];
	Oid			collations[INDEX_MAX_KEYS];
	FmgrInfo	hash[INDEX_MAX_KEYS];
	FmgrInfo	equals[INDEX_MAX_KEYS];
} BemiKey;

typedef struct BemiKeySet BemiKeySet;

extern BemiKey *bemi_key_create(Relation table);
extern Datum bemi_stored_form(Datum value, bool by_value, int16 len);
extern void bemi_key_to_stored_form(const BemiKey *key, Datum *values);
extern bool bemi_key_of_image(const BemiKey *key, BemiRowMaker *maker,
							  const BemiRowImage *image, Datum *values);
extern bool bemi_key_of_slot(const BemiKey *key, TupleTableSlot *slot,
							 Datum *values);
extern bool bemi_keys_equal(const BemiKey *key, const Datum *a,
							const Datum *b);
extern BemiKeySet *bemi_key_set_create(const BemiKey *key);
extern bool bemi_key_set_add(BemiKeySet *set, const Datum *values);
extern bool bemi_key_set_contains(BemiKeySet *set, const Datum *values);
extern void bemi_key_set_number(BemiKeySet *set, const Datum *values,
								int64 number);
extern int64 bemi_key_set_number_of(BemiKeySet *set, const Datum *values);
extern bool bemi_key_set_is_empty(const BemiKeySet *set);

/* as_of_begin.c */

/* The arguments of a call. */
typedef struct BemiAsOfCall
{
	Oid			table;
	BemiValue	at;				/* one of these three is not NULL */
	BemiValue	before;
	BemiValue	at_lsn;
	BemiValue	allow_gaps;
	BemiValue	timeout;
	TimestampTz upto;			/* a later time that is read, too; 0: none */
	bool		only_changes;	/* up to it; and rows only after a TRUNCATE */
} BemiAsOfCall;

/* A table that has rows: the table itself, or a partition. */
typedef struct BemiPastLeaf
{
	Relation	table;
	TupleConversionMap *map;	/* to the table's columns; NULL: the same */
	TupleTableSlot *slot;
	Oid			key_index;		/* InvalidOid: not looked up yet */
} BemiPastLeaf;

/* Names of the table and its columns, and the ids between which they count. */
typedef struct BemiPastNames
{
	pg_uuid_t	from_id;		/* both inclusive */
	pg_uuid_t	to_id;
	const char *schema;
	const char *table;
	BemiRowMaker *maker;
	BemiRowMaker *key_maker;	/* of the columns of the key */
} BemiPastNames;

typedef struct BemiPastScan BemiPastScan;
typedef struct BemiCopies BemiCopies;

typedef struct BemiMissing BemiMissing;

/* The past of a table, open. */
struct BemiPast
{
	MemoryContext memory;		/* holds this struct and all below */
	ResourceOwner owner;

	/* as_of_begin.c */
	Relation	table;
	List	   *leaves;			/* of BemiPastLeaf */
	BemiKey    *key;			/* NULL: none */
	bool		is_counted;		/* no key tells the rows apart at each place */
	bool		has_former_key; /* other columns were the key, or none */
	bool		is_open;		/* how rows are read is decided */
	Snapshot	of_table;
	pg_uuid_t	table_id;		/* later commits may be hidden from it */
	Snapshot	of_changes;
	BemiHistory *history;
	List	   *sources;		/* one char * */
	const char *schema_name;
	const char *table_name;
	pg_uuid_t	key_text_since; /* from here on, texts of keys find changes */
	bool		allow_gaps;
	Jsonb	   *periods;		/* of other names; NULL: none */
	List	   *names;			/* of BemiPastNames, oldest first */
	TimestampTz created_at;		/* of the table; DT_NOBEGIN: not known */
	pg_uuid_t	first_id;		/* that does not belong to the past */
	bool		is_time;		/* that names the place */
	bool		splits_commit;	/* perhaps; only if a change names the place */
	TimestampTz time;			/* up to which nothing need be complete */
	XLogRecPtr	position;		/* commits before it belong to the past */
	TimestampTz until;			/* up to which the history is read alone */
	bool		from_history;	/* without the table */
	XLogRecPtr	stored_until;	/* changes beyond it may follow missing ones */

	/* as_of_changes.c */
	BemiRowMaker *maker;		/* for the names of today */
	BemiRowMaker *key_maker;
	AttrNumber	last_column;	/* of those needed and of the key */

	/* as_of_rows.c */
	TupleTableSlot *made;		/* a row of an image */
	TupleTableSlot *mapped;		/* a row of a partition */
	MemoryContext row_memory;	/* reset with each change */
	MemoryContext scan_memory;	/* reset when reading begins again */
	BemiKeySet *seen;			/* keys that were changed; NULL: not begun */
	BemiPastScan *changes;		/* NULL: all read */
	int			leaf;			/* that is being read */
	TableScanDesc scan;			/* of it; NULL: not begun */

	BemiCopies *copies;			/* if they are counted; NULL: not begun */

	/* as_of_replay.c */
	bool		has_base;		/* that was found to be complete */
	pg_uuid_t	base_id;		/* where the rows of the place begin */
	TimestampTz base_time;
	BemiKeySet *last_changes;	/* number of the last change of each key */
	BemiPastScan *replay;		/* NULL: not begun */
	int64		replayed;		/* number of the last change read */

	/* as_of_columns.c */
	BemiMissing *missing;		/* values of added columns; NULL: not read */
};

extern BemiPast *bemi_past_begin(const BemiAsOfCall *call,
								 const Bitmapset *needed);
extern void bemi_past_end_at(BemiPast *past, TimestampTz at, pg_uuid_t *id);
extern void bemi_past_end(BemiPast *past);

extern char *bemi_past_find_gap(BemiPast *past, TimestampTz since,
								XLogRecPtr position, bool up_to_now);
extern void bemi_past_refuse_gap(const BemiPast *past, TimestampTz since,
								 const char *gap);
extern void bemi_past_check_stored(const BemiPast *past, const pg_uuid_t *id);

/* as_of_changes.c */

/* A change of the table. */
typedef struct BemiPastChange
{
	pg_uuid_t	id;
	char		operation;		/* first letter */
	TimestampTz time;
	TransactionId xid;
	Jsonb	   *before;
	Jsonb	   *after;
	Datum		context;		/* may be toasted */
	text	   *key_text;		/* NULL: none */
	const BemiPastNames *names;
} BemiPastChange;

extern void bemi_past_read_names(BemiPast *past, const Bitmapset *needed);
extern BemiPastScan *bemi_past_scan_begin(BemiPast *past,
										  const pg_uuid_t *from_id,
										  const pg_uuid_t *to_id,
										  const char *key_text);
extern bool bemi_past_scan_next(BemiPastScan *scan, BemiPastChange *change);
extern void bemi_past_scan_end(BemiPastScan *scan);
extern bool bemi_change_removes(const BemiPastChange *change);
extern bool bemi_change_adds(const BemiPastChange *change);
extern bool bemi_removed_key(const BemiPast *past,
							 const BemiPastChange *change, Datum *values);
extern bool bemi_added_key(const BemiPast *past, const BemiPastChange *change,
						   Datum *values);
extern TupleTableSlot *bemi_row_of_change(BemiPast *past,
										  const BemiPastChange *change,
										  bool before);

extern Datum bemi_row_datum(TupleDesc columns, TupleTableSlot *row);

/* as_of_hidden.c */

/* A commit that snapshots do not see yet. */
typedef struct BemiHiddenCommit
{
	TransactionId xid;
	VirtualTransactionId vxid;
	const PGPROC *proc;			/* may have ended the transaction since */
	bool		is_writer;		/* of the table */
} BemiHiddenCommit;

typedef struct BemiHidden
{
	int			count;
	BemiHiddenCommit *commits;
} BemiHidden;

extern bool bemi_hidden_find(BemiHidden *hidden, const BemiPast *past,
							 const BemiWait *wait);
extern bool bemi_hidden_keep_past(BemiHidden *hidden, BemiPast *past);
extern void bemi_hidden_wait(const BemiHidden *hidden, const BemiWait *wait);

/* as_of_equality.c */

typedef struct BemiDigest
{
	uint64		words[2];
} BemiDigest;

typedef struct BemiEquality BemiEquality;

extern BemiEquality *bemi_equality_create(Relation table,
										  const Bitmapset *left_out);
extern void bemi_equality_digest(BemiEquality *equality, TupleTableSlot *row,
								 BemiDigest *digest);

/* as_of_columns.c */
extern Bitmapset *bemi_ignored_columns(const BemiPast *past,
									   const pg_uuid_t *since);
extern Bitmapset *bemi_added_columns(const BemiPast *past);
extern bool bemi_missing_value(BemiPast *past, AttrNumber attnum,
							   Datum *value, bool *is_null);

/* as_of_copies.c */
extern const Bitmapset *bemi_counted_columns(Relation table,
											 const Bitmapset *needed);
extern BemiCopies *bemi_copies_create(BemiPast *past);
extern TupleTableSlot *bemi_copies_next(BemiCopies *copies);
extern bool bemi_copies_next_part(BemiCopies *copies);
extern bool bemi_copies_use_table(const BemiCopies *copies);
extern TupleTableSlot *bemi_copies_row_of_table(BemiCopies *copies,
												TupleTableSlot *row);
extern void bemi_copies_check(const BemiCopies *copies);
extern void bemi_copies_end(BemiCopies *copies);

/* as_of_replay.c */
extern char *bemi_replay_find_base(BemiPast *past);
extern void bemi_replay_need_base(BemiPast *past);
extern BemiPastScan *bemi_replay_scan_begin(BemiPast *past);
extern bool bemi_replay_scan_next(const BemiPast *past, BemiPastScan *scan,
								  BemiPastChange *change);
extern void bemi_replay_begin(BemiPast *past);
extern TupleTableSlot *bemi_replay_next(BemiPast *past);
extern TupleTableSlot *bemi_replay_find(BemiPast *past, const Datum *values);
extern void bemi_replay_end(BemiPast *past);

/* as_of_ranges.c */
extern bool bemi_leaf_lower_bound(const BemiPast *past, const BemiLeaf *leaf,
								  TimestampTz at, pg_uuid_t *bound);

/* as_of_key_text.c */
extern bool bemi_has_one_key_text(Relation table, const BemiKey *key);
extern bool bemi_one_key_text(const BemiPast *past, const Datum *values,
							  const char **text);

/* as_of_place.c */
extern void bemi_past_find_end(BemiPast *past, const BemiAsOfCall *call);

/* as_of_rows.c */
extern TupleTableSlot *bemi_past_next(BemiPast *past);
extern TupleTableSlot *bemi_past_probe(BemiPast *past, const Datum *values,
									   const char *key_text);
extern void bemi_past_rewind(BemiPast *past);
extern void bemi_past_rows_init(BemiPast *past);
extern void bemi_past_rows_end(BemiPast *past);

/* as_of.c */
extern void bemi_check_as_of_call(const BemiAsOfCall *call);
extern void bemi_refuse_future(TimestampTz time) pg_attribute_noreturn();

/* as_of_node.c */

#define BEMI_AS_OF_ARGUMENTS	6

extern const Oid bemi_as_of_argument_types[BEMI_AS_OF_ARGUMENTS];
extern const struct CustomScanMethods bemi_as_of_scan_methods;
extern void bemi_refuse_changed_table(Relation table);

#endif							/* BEMI_QUERY_INTERNAL_H */
