/*-------------------------------------------------------------------------
 *
 * as_of_columns.c
 *		Columns that the table has not always had, or of which changes are not
 *		stored.
 *
 * An image from before ADD COLUMN lacks the column.  The row got the default
 * of that command, without a change.  The catalog has it as the missing value
 * of the column, of a partitioned table in its partitions only.  VACUUM FULL,
 * CLUSTER and rewriting commands write it into the rows and remove it from the
 * catalog.  So if no partition has it:
 *
 *	the column was added after the place	NULL, as documented
 *	it was added without a default			NULL
 *	otherwise								nobody knows
 *
 * _bemi.as_of_unknown_columns() decides between the last two.
 *
 * All this is read when the first image lacks a column, because most never do.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "decode/decode.h"
#include "query/query_internal.h"

struct BemiMissing
{
	Bitmapset  *known;			/* columns whose value the catalog has */
	Bitmapset  *contradictory;	/* of which partitions have different ones */
	Bitmapset  *unknown;		/* others that may have had a default */
	Datum	   *values;
	bool	   *nulls;
};

/*
 * The columns that a query finds, for the table and what it was like from a
 * place on.
 */
static Bitmapset *
read_columns(const BemiPast *past, const pg_uuid_t *id, BemiValue time,
			 const char *query)
{
	BemiValue	arguments[] = {
		bemi_sql_oid(REGCLASSOID, RelationGetRelid(past->table)),
		bemi_sql_text(linitial(past->sources)), bemi_sql_uuid(id), time
	};
	Bitmapset  *columns = NULL;
	ListCell   *cell;

	PushActiveSnapshot(past->of_changes);
	foreach(cell, bemi_sql_read_oids(query, arguments, lengthof(arguments),
									 OIDOID))
	{
		columns = bms_add_member(columns, lfirst_oid(cell));
	}
	PopActiveSnapshot();
	return columns;
}

static BemiValue
time_of_place(const BemiPast *past)
{
	return bemi_sql_null_if(!past->is_time, bemi_sql_time(past->time));
}

/*
 * The columns that rules or a setting ignore, or that rules have ignored since
 * an id (NULL: the place).  A change of these alone is not stored.
 */
Bitmapset *
bemi_ignored_columns(const BemiPast *past, const pg_uuid_t *since)
{
	TupleDesc	columns = RelationGetDescr(past->table);
	Bitmapset  *ignored =
		read_columns(past, since ? since : &past->first_id,
					 bemi_sql_null_if(since != NULL, time_of_place(past)),
					 "SELECT c.attnum::pg_catalog.oid"
					 " FROM _bemi.as_of_ignored_columns($1, $2, $3, $4) c");

	for (int i = 0; i < columns->natts; i++)
	{
		if (bemi_is_ignored_everywhere(NameStr(TupleDescAttr(columns,
															 i)->attname)))
			ignored = bms_add_member(ignored, i + 1);
	}
	return ignored;
}

/*
 * The columns that were added since the place.
 */
Bitmapset *
bemi_added_columns(const BemiPast *past)
{
	return read_columns(past, &past->first_id, time_of_place(past),
						"SELECT c.attnum::pg_catalog.oid"
						" FROM _bemi.as_of_added_columns($1, $2, $3, $4) c");
}

/* ---------- missing values ---------- */

/*
 * The columns that the table had at the last place that is read, and that it
 * may have got with a default.
 */
static Bitmapset *
read_unknown(const BemiPast *past)
{
	const char *query = "SELECT c.attnum::pg_catalog.oid"
		" FROM _bemi.as_of_unknown_columns($1, $2, $3, $4) c";
	pg_uuid_t	last;

	if (past->until == past->time)
		return read_columns(past, &past->first_id, time_of_place(past), query);
	memset(&last, 0xFF, sizeof(last));
	return read_columns(past, &last, bemi_sql_time(past->until), query);
}

/*
 * Adds the missing value that a partition has of a column of the table.
 */
static void
add_missing(BemiMissing *missing, Form_pg_attribute column, Datum value,
			bool is_null)
{
	int			i = column->attnum - 1;

	if (!bms_is_member(column->attnum, missing->known))
	{
		missing->known = bms_add_member(missing->known, column->attnum);
		missing->values[i] = value;
		missing->nulls[i] = is_null;
	}
	else if (is_null != missing->nulls[i] ||
			 !datum_image_eq(value, missing->values[i], column->attbyval,
							 column->attlen))
		missing->contradictory =
			bms_add_member(missing->contradictory, column->attnum);
}

static void
add_missing_of_leaf(BemiMissing *missing, const BemiPast *past,
					const BemiPastLeaf *leaf)
{
	TupleDesc	columns = RelationGetDescr(past->table);
	TupleDesc	of_leaf = RelationGetDescr(leaf->table);

	for (int i = 0; i < columns->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(columns, i);
		AttrNumber	attnum = leaf->map == NULL ? i + 1 :
			leaf->map->attrMap->attnums[i];
		Datum		value;
		bool		is_null;

		if (column->attisdropped || attnum == 0 ||
			!TupleDescAttr(of_leaf, attnum - 1)->atthasmissing)
			continue;
		value = getmissingattr(of_leaf, attnum, &is_null);
		add_missing(missing, column, value, is_null);
	}
}

/*
 * What is known of the columns that images lack.  The values are those of the
 * open relations.
 */
static BemiMissing *
read_missing(const BemiPast *past)
{
	int			count = RelationGetDescr(past->table)->natts;
	BemiMissing *missing = palloc0(sizeof(BemiMissing));
	ListCell   *cell;

	missing->values = palloc0(sizeof(Datum) * count);
	missing->nulls = palloc0(sizeof(bool) * count);
	foreach(cell, past->leaves)
	{
		add_missing_of_leaf(missing, past, lfirst(cell));
	}
	missing->unknown = bms_add_members(read_unknown(past),
									   missing->contradictory);
	missing->known = bms_del_members(missing->known, missing->contradictory);
	return missing;
}

/*
 * Sets the value that a column was added with.  False if it is not known;
 * then the value is NULL.
 */
bool
bemi_missing_value(BemiPast *past, AttrNumber attnum, Datum *value,
				   bool *is_null)
{
	MemoryContext caller;

	if (past->missing == NULL)
	{
		caller = MemoryContextSwitchTo(past->memory);
		past->missing = read_missing(past);
		MemoryContextSwitchTo(caller);
	}
	*value = (Datum) 0;
	*is_null = true;
	if (bms_is_member(attnum, past->missing->known))
	{
		*value = past->missing->values[attnum - 1];
		*is_null = past->missing->nulls[attnum - 1];
		return true;
	}
	return past->allow_gaps || !bms_is_member(attnum, past->missing->unknown);
}
