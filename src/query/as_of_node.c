/*-------------------------------------------------------------------------
 *
 * as_of_node.c
 *		Executes the node "Bemi As Of" (as_of_plan.c).
 *
 * The past is opened when the first row is requested, so EXPLAIN reads
 * nothing.  A rescan keeps it open, as long as the arguments are the same.
 *
 * What must never happen: the node returns what the function would refuse.  So
 * it checks the right to execute the function when the query begins, as the
 * executor does for functions, and opens the past by bemi_past_begin(), which
 * checks all other rights.  If the role has changed in between, as it can for
 * a cursor, that is an error.  So it is if the table no longer has the columns
 * and the key of the plan.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/explain.h"
#include "executor/execdesc.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/extensible.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"

#include "decode/decode.h"
#include "query/query_internal.h"

/* Arguments of bemi.as_of() after the first one. */
#define ARGUMENTS	(BEMI_AS_OF_ARGUMENTS - 1)

const Oid	bemi_as_of_argument_types[BEMI_AS_OF_ARGUMENTS] = {
	ANYELEMENTOID, TIMESTAMPTZOID, UUIDOID, PG_LSNOID, BOOLOID, INTERVALOID
};

/* The node. */
typedef struct AsOfState
{
	CustomScanState css;		/* must be first */
	Oid			function;
	Oid			user;			/* who has begun the query */
	Index		relation;		/* in the range table */
	Bitmapset  *needed;			/* columns; NULL: all */
	int			column_count;	/* those needed */
	AttrNumber *columns;
	bool		whole_row;		/* the last column is the row */
	AttrNumber	last_column;	/* the highest that is needed */
	ExprState  *arguments[ARGUMENTS];
	List	   *keys;			/* of ExprState, in key order; NIL: all rows */
	List	   *key_columns;	/* their numbers when the query was planned */

	BemiAsOfCall call;
	BemiPast   *past;			/* NULL: not open */
	bool		rescanned;		/* arguments may have changed */
	bool		probed;
} AsOfState;

void
bemi_refuse_changed_table(Relation table)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("table \"%s\" has been changed since the query was analyzed",
					RelationGetRelationName(table)),
			 errhint("Prepare the query again.")));
}

static const CustomExecMethods exec_methods;

static Node *
create_state(CustomScan *scan)
{
	AsOfState  *state = palloc0(sizeof(AsOfState));

	NodeSetTag(state, T_CustomScanState);
	state->css.methods = &exec_methods;
	return (Node *) state;
}

/*
 * The same check as for a function in FROM.
 */
static void
check_function(const AsOfState *state)
{
	AclResult	result = bemi_function_aclcheck(state->function, GetUserId());

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_FUNCTION,
					   get_func_name(state->function));
	InvokeFunctionExecuteHook(state->function);
}

/*
 * All other columns of the slot stay NULL.
 */
static void
read_needed_columns(AsOfState *state, List *columns)
{
	TupleTableSlot *slot = state->css.ss.ss_ScanTupleSlot;
	ListCell   *cell;

	memset(slot->tts_isnull, true,
		   sizeof(bool) * slot->tts_tupleDescriptor->natts);
	state->columns = palloc(sizeof(AttrNumber) * list_length(columns));
	foreach(cell, columns)
	{
		if (lfirst_int(cell) > 0)
			state->columns[state->column_count++] = lfirst_int(cell);
		state->needed = bms_add_member(state->needed, lfirst_int(cell));
		state->last_column = Max(state->last_column, lfirst_int(cell));
	}
}

static void
begin_scan(CustomScanState *node, EState *estate, int flags)
{
	AsOfState  *state = (AsOfState *) node;
	CustomScan *scan = (CustomScan *) node->ss.ps.plan;
	List	   *keys = list_copy_tail(scan->custom_exprs, ARGUMENTS);

	state->call.table = linitial_oid(linitial(scan->custom_private));
	state->function = linitial_oid(lsecond(scan->custom_private));
	state->whole_row = linitial_int(lfourth(scan->custom_private));
	state->key_columns = list_nth(scan->custom_private, 4);
	state->relation = bms_singleton_member(scan->custom_relids);
	state->user = GetUserId();
	check_function(state);
	read_needed_columns(state, lthird(scan->custom_private));
	for (int i = 0; i < ARGUMENTS; i++)
		state->arguments[i] =
			ExecInitExpr(list_nth(scan->custom_exprs, i), &node->ss.ps);
	state->keys = ExecInitExprList(keys, &node->ss.ps);
}

/*
 * Evaluates an argument, in the memory of the row.
 */
static BemiValue
evaluate_argument(AsOfState *state, int i)
{
	BemiValue	value = {bemi_as_of_argument_types[i + 1], false, (Datum) 0};

	value.datum =
		ExecEvalExprSwitchContext(state->arguments[i],
								  state->css.ss.ps.ps_ExprContext,
								  &value.is_null);
	return value;
}

static BemiValue
copy_value(BemiValue value)
{
	int16		len;
	bool		by_value;

	get_typlenbyval(value.type, &len, &by_value);
	if (!value.is_null)
		value.datum = datumCopy(value.datum, by_value, len);
	return value;
}

static bool
values_equal(const BemiValue *a, const BemiValue *b)
{
	int16		len;
	bool		by_value;

	get_typlenbyval(a->type, &len, &by_value);
	return a->is_null == b->is_null &&
		(a->is_null || datumIsEqual(a->datum, b->datum, by_value, len));
}

/*
 * Evaluates the arguments.  Returns whether they are those of the past that is
 * open.  Only others are copied, because rescans can be many.
 */
static bool
evaluate_call(AsOfState *state)
{
	BemiValue  *places[] = {
		&state->call.at, &state->call.before, &state->call.at_lsn,
		&state->call.allow_gaps, &state->call.timeout
	};
	bool		same = state->past != NULL;

	StaticAssertStmt(lengthof(places) == ARGUMENTS,
					 "each argument has a place");
	for (int i = 0; i < ARGUMENTS; i++)
	{
		BemiValue	value = evaluate_argument(state, i);

		if (state->past != NULL && values_equal(places[i], &value))
			continue;
		*places[i] = copy_value(value);
		same = false;
	}
	return same;
}

static void
check_user(const AsOfState *state)
{
	if (GetUserId() != state->user)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to read the past"),
				 errdetail("The role has changed since the query began.")));
}

/*
 * Whether the values of the plan are those of the table's key.
 */
static bool
key_is_planned(const AsOfState *state)
{
	const BemiKey *key = state->past->key;
	int			i = 0;
	ListCell   *cell;

	if (state->keys == NIL)
		return true;
	if (key == NULL || !key->tells_apart ||
		key->count != list_length(state->key_columns))
		return false;
	foreach(cell, state->key_columns)
	{
		if (key->attnums[i++] != lfirst_int(cell))
			return false;
	}
	return true;
}

/*
 * Throws an error if the table no longer has the columns and the key of the
 * plan.
 */
static void
check_columns(const AsOfState *state)
{
	TupleDesc	planned = state->css.ss.ss_ScanTupleSlot->tts_tupleDescriptor;
	TupleDesc	columns = RelationGetDescr(state->past->table);
	int			count = planned->natts - (state->whole_row ? 1 : 0);
	bool		same = count <= columns->natts &&
		(!state->whole_row || count == columns->natts) &&
		key_is_planned(state);

	for (int i = 0; i < count && same; i++)
	{
		Form_pg_attribute column = TupleDescAttr(columns, i);

		if (state->needed == NULL ? !column->attisdropped :
			bms_is_member(i + 1, state->needed))
			same = !column->attisdropped &&
				column->atttypid == TupleDescAttr(planned, i)->atttypid;
	}
	if (!same)
		bemi_refuse_changed_table(state->past->table);
}

static void
close_past(AsOfState *state)
{
	if (state->past != NULL)
		bemi_past_end(state->past);
	state->past = NULL;
}

/*
 * Opens the past before the first row, and again if arguments have changed.
 */
static void
open_past(AsOfState *state)
{
	EState	   *estate = state->css.ss.ps.state;
	MemoryContext caller = MemoryContextSwitchTo(estate->es_query_cxt);

	if (!evaluate_call(state))
	{
		close_past(state);
		check_user(state);
		bemi_check_as_of_call(&state->call);
		state->past = bemi_past_begin(&state->call, state->needed);
		check_columns(state);
		if (state->needed == NULL)
			state->last_column = RelationGetDescr(state->past->table)->natts;
	}
	else
		bemi_past_rewind(state->past);
	state->rescanned = false;
	MemoryContextSwitchTo(caller);
}

/* ---------- keys ---------- */

/*
 * Types whose texts depend on no setting.
 */
static bool
has_one_text(Oid type)
{
	switch (type)
	{
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case OIDOID:
		case BOOLOID:
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case NAMEOID:
		case UUIDOID:
			return true;
		default:
			return false;
	}
}

static char *
text_of_column(const BemiPast *past, int i, Datum value)
{
	Form_pg_attribute column = TupleDescAttr(RelationGetDescr(past->table),
											 past->key->attnums[i] - 1);
	Oid			output;
	bool		is_varlena;
	char	   *text;
	int			level;

	getTypeOutputInfo(column->atttypid, &output, &is_varlena);
	if (has_one_text(column->atttypid))
		return OidOutputFunctionCall(output, value);
	level = bemi_pin_settings_of_texts();
	text = OidOutputFunctionCall(output, value);
	AtEOXact_GUC(true, level);
	return text;
}

/*
 * Reads the row with the key; NULL if there was none.
 */
static TupleTableSlot *
probe_past(AsOfState *state)
{
	ExprContext *context = state->css.ss.ps.ps_ExprContext;
	MemoryContext caller =
		MemoryContextSwitchTo(context->ecxt_per_tuple_memory);
	Datum		values[INDEX_MAX_KEYS];
	char	   *texts[INDEX_MAX_KEYS];
	TupleTableSlot *row = NULL;
	bool		is_null = false;
	int			i = 0;
	ListCell   *cell;

	foreach(cell, state->keys)
	{
		values[i] =
			ExecEvalExpr((ExprState *) lfirst(cell), context, &is_null);
		if (is_null)
			break;
		texts[i] = text_of_column(state->past, i, values[i]);
		i++;
	}
	if (!is_null)
	{
		bemi_key_to_stored_form(state->past->key, values);
		row = bemi_past_probe(state->past, values,
							  bemi_key_of_texts(texts, i));
	}
	MemoryContextSwitchTo(caller);
	return row;
}

/* ---------- rows ---------- */

/*
 * Copies the columns of a row.  Its values stay where they are.
 */
static void
copy_columns(const AsOfState *state, TupleTableSlot *slot,
			 const TupleTableSlot *row)
{
	if (state->needed == NULL)
	{
		memcpy(slot->tts_values, row->tts_values,
			   sizeof(Datum) * state->last_column);
		memcpy(slot->tts_isnull, row->tts_isnull,
			   sizeof(bool) * state->last_column);
	}
	for (int i = 0; i < state->column_count; i++)
	{
		int			column = state->columns[i] - 1;

		slot->tts_values[column] = row->tts_values[column];
		slot->tts_isnull[column] = row->tts_isnull[column];
	}
}

/*
 * Copies a row of the table into the slot of the node.
 */
static TupleTableSlot *
store_row(AsOfState *state, TupleTableSlot *row, TupleDesc columns)
{
	TupleTableSlot *slot = state->css.ss.ss_ScanTupleSlot;
	int			count = slot->tts_tupleDescriptor->natts;

	ExecClearTuple(slot);
	if (state->last_column > 0)
	{
		slot_getsomeattrs(row, state->last_column);
		copy_columns(state, slot, row);
	}
	if (state->whole_row)
	{
		MemoryContext caller = MemoryContextSwitchTo(
													 state->css.ss.ps.ps_ExprContext->ecxt_per_tuple_memory);

		slot->tts_values[count - 1] = bemi_row_datum(columns, row);
		slot->tts_isnull[count - 1] = false;
		MemoryContextSwitchTo(caller);
	}
	return ExecStoreVirtualTuple(slot);
}

static TupleTableSlot *
next_row(ScanState * scan)
{
	AsOfState  *state = (AsOfState *) scan;
	TupleTableSlot *row = NULL;

	if (state->past == NULL || state->rescanned)
		open_past(state);
	/* If rows are counted, several can have the key.  Quals find them. */
	if (state->keys == NIL || state->past->is_counted)
		row = bemi_past_next(state->past);
	else if (!state->probed)
		row = probe_past(state);
	state->probed = true;
	return row ? store_row(state, row, RelationGetDescr(state->past->table)) :
		ExecClearTuple(scan->ss_ScanTupleSlot);
}

/*
 * EvalPlanQual: the row that the query has had, which was copied.
 */
static bool
recheck_row(ScanState * scan, TupleTableSlot *slot)
{
	AsOfState  *state = (AsOfState *) scan;
	EPQState   *epq = scan->ps.state->es_epq_active;
	int			i = state->relation - 1;
	TupleTableSlot *copy = epq->relsubs_slot[i];

	if (epq->relsubs_done[i])
		return false;
	epq->relsubs_done[i] = true;
	if (copy == NULL)
	{
		Relation	table = table_open(state->call.table, AccessShareLock);

		copy = ExecInitExtraTupleSlot(scan->ps.state,
									  CreateTupleDescCopy(
														  RelationGetDescr(table)),
									  &TTSOpsVirtual);
		table_close(table, NoLock);
		if (epq->relsubs_rowmark[i] == NULL ||
			!EvalPlanQualFetchRowMark(epq, state->relation, copy))
			return false;
	}
	if (TupIsNull(copy))
		return false;
	if (state->needed == NULL)
		state->last_column = copy->tts_tupleDescriptor->natts;
	store_row(state, copy, copy->tts_tupleDescriptor);
	return true;
}

static TupleTableSlot *
execute_scan(CustomScanState *node)
{
	return ExecScan(&node->ss, next_row, recheck_row);
}

static void
rescan(CustomScanState *node)
{
	AsOfState  *state = (AsOfState *) node;

	ExecScanReScan(&node->ss);
	state->rescanned = true;
	state->probed = false;
}

static void
end_scan(CustomScanState *node)
{
	ExecClearTuple(node->ss.ss_ScanTupleSlot);
	close_past((AsOfState *) node);
}

/* ---------- EXPLAIN ---------- */

static void
explain_scan(CustomScanState *node, List *ancestors, ExplainState *es)
{
	AsOfState  *state = (AsOfState *) node;
	CustomScan *scan = (CustomScan *) node->ss.ps.plan;
	List	   *keys = list_copy_tail(scan->custom_exprs, ARGUMENTS);
	List	   *context =
		set_deparse_context_plan(es->deparse_cxt, node->ss.ps.plan, ancestors);

	ExplainPropertyText("Table", get_rel_name(state->call.table), es);
	if (keys != NIL)
		ExplainPropertyText("Key",
							deparse_expression((Node *) keys, context,
											   es->verbose, false), es);
}

const		CustomScanMethods bemi_as_of_scan_methods = {
	.CustomName = "Bemi As Of",
	.CreateCustomScanState = create_state
};

static const CustomExecMethods exec_methods = {
	.CustomName = "Bemi As Of",
	.BeginCustomScan = begin_scan,
	.ExecCustomScan = execute_scan,
	.ReScanCustomScan = rescan,
	.EndCustomScan = end_scan,
	.ExplainCustomScan = explain_scan
};
