/*-------------------------------------------------------------------------
 *
 * as_of_plan.c
 *		bemi.as_of() in FROM as a node of the plan, "Bemi As Of".
 *
 * As a function, bemi.as_of() must return all rows before the query gets the
 * first one, and conditions of the query are applied afterwards.  As a node,
 * it returns rows one by one, makes only the columns that the query uses, and
 * with an equality for each column of the primary key it reads one row by the
 * indexes.
 *
 * set_rel_pathlist_hook replaces the paths of the function by a path of ours,
 * and adds one for each way to have the key: from constants and parameters, or
 * from other tables of the query.  as_of_node.c executes the plan.
 *
 * The plan refers to columns of the table by number and type.  They are
 * compared with the table when the plan is made, and when the past is opened,
 * because a stored query is not analyzed again when the table changes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "nodes/extensible.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/plancat.h"
#include "optimizer/restrictinfo.h"
#include "parser/parse_coerce.h"
#include "parser/parsetree.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "query/query_internal.h"

/*
 * What the planner expects: pages of indexes that a probe reads, and pages of
 * the history that reading all rows takes.  How many changes there are since
 * the time is not known yet.
 */
#define PROBE_PAGES		6
#define CHANGES_PAGES	1000

static set_rel_pathlist_hook_type former_hook = NULL;

/* What a path is made of. */
typedef struct AsOfPlanning
{
	PlannerInfo *root;
	RelOptInfo *rel;
	Relation	table;
	Relation	index;			/* primary key; NULL: it finds no rows */
	AttrNumber	column;			/* of the key, for which a clause is wanted */
} AsOfPlanning;

/*
 * The call of bemi.as_of() in the range table; NULL: something else.
 */
static FuncExpr *
as_of_call(const RangeTblEntry *rte)
{
	RangeTblFunction *function;
	FuncExpr   *call;
	char	   *name;

	if (rte->rtekind != RTE_FUNCTION || rte->funcordinality ||
		list_length(rte->functions) != 1)
		return NULL;
	function = linitial(rte->functions);
	if (!IsA(function->funcexpr, FuncExpr))
		return NULL;
	call = (FuncExpr *) function->funcexpr;
	name = get_func_name(call->funcid);
	if (name == NULL || strcmp(name, "as_of") != 0 ||
		list_length(call->args) != BEMI_AS_OF_ARGUMENTS ||
		call->funcid != bemi_own_function("as_of", BEMI_AS_OF_ARGUMENTS,
										  bemi_as_of_argument_types))
		return NULL;
	return call;
}

static bool
is_column(Node *node, Index relation, AttrNumber column)
{
	while (IsA(node, RelabelType))
		node = (Node *) ((RelabelType *) node)->arg;
	return IsA(node, Var) && ((Var *) node)->varno == relation &&
		((Var *) node)->varattno == column && ((Var *) node)->varlevelsup == 0;
}

/*
 * A value of the column's type that is equal to the expression, if such a
 * value exists; NULL: not possible.  A wider integer may have no such value.
 */
static Expr *
as_column_type(Expr *value, Form_pg_attribute column)
{
	Oid			type = exprType((Node *) value);
	Oid			wanted = getBaseType(column->atttypid);
	bool		is_wider = (type == INT2OID &&
							(wanted == INT4OID || wanted == INT8OID)) ||
		(type == INT4OID && wanted == INT8OID);

	if (type == wanted || IsBinaryCoercible(type, wanted))
		return value;
	if (!is_wider)
		return NULL;
	return (Expr *) coerce_to_target_type(NULL, (Node *) value, type, wanted,
										  -1, COERCION_IMPLICIT,
										  COERCE_IMPLICIT_CAST, -1);
}

/*
 * The value that the clause requires of a column of the key; NULL: it is no
 * such clause.
 */
static Expr *
required_value(const AsOfPlanning *planning, int i, RestrictInfo *restriction)
{
	Index		relation = planning->rel->relid;
	AttrNumber	column = planning->index->rd_index->indkey.values[i];
	OpExpr	   *clause = (OpExpr *) restriction->clause;
	Oid			operator;
	Node	   *value;

	if (!IsA(clause, OpExpr) || list_length(clause->args) != 2)
		return NULL;
	operator = clause->opno;
	value = lsecond(clause->args);
	if (!is_column(linitial(clause->args), relation, column))
	{
		if (!is_column(value, relation, column))
			return NULL;
		operator = get_commutator(operator);
		value = linitial(clause->args);
	}
	if (get_op_opfamily_strategy(operator, planning->index->rd_opfamily[i]) !=
		BTEqualStrategyNumber ||
		bms_is_member(relation, pull_varnos(planning->root, value)) ||
		contain_volatile_functions(value) ||
		(OidIsValid(planning->index->rd_indcollation[i]) &&
		 clause->inputcollid != planning->index->rd_indcollation[i]))
		return NULL;
	return as_column_type((Expr *) value,
						  TupleDescAttr(RelationGetDescr(planning->table),
										column - 1));
}

/*
 * Callback: whether a member of an equivalence class is the wanted column.
 */
static bool
is_wanted_column(PlannerInfo *root, RelOptInfo *rel, EquivalenceClass * ec,
				 EquivalenceMember * em, void *arg)
{
	return is_column((Node *) em->em_expr, rel->relid,
					 ((AsOfPlanning *) arg)->column);
}

/*
 * Finds the value of a column of the key among the clauses.
 */
static Expr *
find_value(const AsOfPlanning *planning, int i, List *clauses, bool movable)
{
	ListCell   *cell;

	foreach(cell, clauses)
	{
		RestrictInfo *restriction = lfirst(cell);
		Expr	   *value;

		if (movable &&
			!join_clause_is_movable_to(restriction, planning->rel))
			continue;
		value = required_value(planning, i, restriction);
		if (value != NULL)
			return value;
	}
	return NULL;
}

/*
 * The value of a column of the key from other tables of the query.
 */
static Expr *
find_join_value(AsOfPlanning *planning, int i)
{
	RelOptInfo *rel = planning->rel;
	Expr	   *value = find_value(planning, i, rel->joininfo, true);

	if (value != NULL || !rel->has_eclass_joins)
		return value;
	planning->column = planning->index->rd_index->indkey.values[i];
	return find_value(planning, i,
					  generate_implied_equalities_for_column(planning
															 ->root,
															 rel,
															 is_wanted_column,
															 planning,
															 rel->lateral_referencers),
					  false);
}

/*
 * The values of all columns of the key, NIL if not all are known.
 */
static List *
find_key(AsOfPlanning *planning, bool with_joins)
{
	List	   *key = NIL;

	if (planning->index == NULL)
		return NIL;
	for (int i = 0;
		 i < IndexRelationGetNumberOfKeyAttributes(planning->index); i++)
	{
		Expr	   *value = find_value(planning, i,
									   planning->rel->baserestrictinfo, false);

		if (value == NULL && with_joins)
			value = find_join_value(planning, i);
		if (value == NULL)
			return NIL;
		key = lappend(key, value);
	}
	return key;
}

/*
 * The numbers of the columns of the key.
 */
static List *
key_columns(const AsOfPlanning *planning)
{
	List	   *columns = NIL;

	for (int i = 0;
		 i < IndexRelationGetNumberOfKeyAttributes(planning->index); i++)
		columns = lappend_int(columns,
							  planning->index->rd_index->indkey.values[i]);
	return columns;
}

static const CustomPathMethods path_methods;

/*
 * Adds a path that reads all rows, or one row by its key.
 */
static void
add_as_of_path(const AsOfPlanning *planning, FuncExpr *call, List *key)
{
	RelOptInfo *rel = planning->rel;
	CustomPath *path = makeNode(CustomPath);
	Relids		outer = bms_union(rel->lateral_relids,
								  pull_varnos(planning->root, (Node *) key));

	path->path.pathtype = T_CustomScan;
	path->path.parent = rel;
	path->path.pathtarget = rel->reltarget;
	path->path.param_info =
		get_baserel_parampathinfo(planning->root, rel,
								  bms_is_empty(outer) ? NULL : outer);
	path->path.rows = path->path.param_info ?
		path->path.param_info->ppi_rows : rel->rows;
	path->path.startup_cost = 0;
	path->path.total_cost = key != NIL ? PROBE_PAGES * random_page_cost :
		(rel->pages + CHANGES_PAGES) * seq_page_cost +
		rel->tuples * cpu_tuple_cost * 2;
	path->flags = BEMI_CUSTOMPATH_PROJECTS;
	path->custom_private = list_make5(list_make1_oid(planning->table->rd_id),
									  list_make1_oid(call->funcid),
									  list_copy_tail(call->args, 1), key,
									  key != NIL ? key_columns(planning) :
									  NIL);
	path->methods = &path_methods;
	add_path(rel, (Path *) path);
}

/*
 * Opens the primary key of the table, if it is not deferrable and equal keys
 * have equal texts in primary_key of bemi.changes.
 */
static Relation
open_key_index(Relation table)
{
	BemiKey    *key = bemi_key_create(table);

	return key != NULL && key->tells_apart &&
		(key->by_image || bemi_has_one_key_text(table, key)) ?
		index_open(key->index, AccessShareLock) : NULL;
}

/*
 * Adds the size of a partition.  Before its first ANALYZE, pg_class has none,
 * so the partition is opened.
 */
static void
add_partition_size(RelOptInfo *rel, Oid partition)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(partition));
	FormData_pg_class class;
	Relation	relation = NULL;
	BlockNumber pages;
	double		rows;
	double		all_visible;

	if (!HeapTupleIsValid(tuple))
		return;
	memcpy(&class, GETSTRUCT(tuple), CLASS_TUPLE_SIZE);
	ReleaseSysCache(tuple);
	if (class.relkind != RELKIND_RELATION)
		return;
	pages = class.relpages;
	rows = class.reltuples;
	if (rows < 0)
		relation = try_relation_open(partition, AccessShareLock);
	if (relation != NULL)
	{
		estimate_rel_size(relation, NULL, &pages, &rows, &all_visible);
		relation_close(relation, NoLock);
	}
	rel->pages += pages;
	rel->tuples += Max(rows, 0);
}

/*
 * Estimates the size of the table, with its partitions.
 */
static void
estimate_size(const AsOfPlanning *planning)
{
	RelOptInfo *rel = planning->rel;
	Relation	table = planning->table;
	ListCell   *cell;
	double		all_visible;

	if (table->rd_rel->relkind == RELKIND_RELATION)
		estimate_rel_size(table, NULL, &rel->pages, &rel->tuples,
						  &all_visible);
	else
	{
		rel->pages = 0;
		rel->tuples = 0;
		foreach(cell,
				find_all_inheritors(RelationGetRelid(table), NoLock, NULL))
		{
			add_partition_size(rel, lfirst_oid(cell));
		}
	}
	set_baserel_size_estimates(planning->root, rel);
}

static void
plan_as_of(AsOfPlanning *planning, FuncExpr *call)
{
	RelOptInfo *rel = planning->rel;
	List	   *key;

	estimate_size(planning);
	rel->pathlist = NIL;
	planning->index = open_key_index(planning->table);
	add_as_of_path(planning, call, NIL);
	key = find_key(planning, false);
	if (key == NIL)
		key = find_key(planning, true);
	if (key != NIL)
		add_as_of_path(planning, call, key);
	if (planning->index != NULL)
		index_close(planning->index, NoLock);
}

static void
replace_paths(PlannerInfo *root, RelOptInfo *rel, Index index,
			  RangeTblEntry *rte)
{
	AsOfPlanning planning = {.root = root,.rel = rel};
	FuncExpr   *call;
	Oid			table;

	if (former_hook != NULL)
		former_hook(root, rel, index, rte);
	call = as_of_call(rte);
	if (call == NULL)
		return;
	/* Without a table, the function throws the error. */
	table = get_typ_typrelid(exprType(linitial(call->args)));
	if (!OidIsValid(table))
		return;
	planning.table = try_relation_open(table, AccessShareLock);
	if (planning.table == NULL)
		return;
	if (planning.table->rd_rel->relkind == RELKIND_RELATION ||
		planning.table->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		plan_as_of(&planning, call);
	relation_close(planning.table, NoLock);
}

/*
 * The columns of the node: those of the table, and the row if the query uses
 * it.
 */
static List *
scan_columns(RelOptInfo *rel, RangeTblEntry *rte, Relation table,
			 bool whole_row)
{
	TupleDesc	columns = RelationGetDescr(table);
	List	   *result = NIL;

	for (int i = 0; i < columns->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(columns, i);
		Expr	   *expr = column->attisdropped ?
			(Expr *) makeNullConst(INT4OID, -1, InvalidOid) :
			(Expr *) makeVar(rel->relid, i + 1, column->atttypid,
							 column->atttypmod, column->attcollation, 0);

		result = lappend(result, makeTargetEntry(expr, i + 1, NULL, false));
	}
	if (whole_row)
		result =
			lappend(result,
					makeTargetEntry((Expr *) makeWholeRowVar(rte, rel->relid,
															 0, false),
									columns->natts + 1, NULL, false));
	return result;
}

/*
 * Throws an error if the table does not have the columns that the query uses,
 * because a stored query is planned again without an analysis.
 */
static void
check_query_columns(RelOptInfo *rel, Relation table, List *expressions)
{
	List	   *variables = pull_var_clause((Node *) expressions,
											PVC_RECURSE_AGGREGATES |
											PVC_RECURSE_WINDOWFUNCS |
											PVC_RECURSE_PLACEHOLDERS);
	TupleDesc	columns = RelationGetDescr(table);
	ListCell   *cell;

	foreach(cell, variables)
	{
		Var		   *variable = lfirst(cell);

		if (variable->varno != rel->relid || variable->varattno == 0)
			continue;
		if (variable->varattno > columns->natts ||
			TupleDescAttr(columns, variable->varattno - 1)->attisdropped ||
			TupleDescAttr(columns, variable->varattno - 1)->atttypid !=
			variable->vartype)
			bemi_refuse_changed_table(table);
	}
}

/*
 * The columns that the query uses, as in BemiPast: with 0, so that the set is
 * never empty.  NIL: all.
 */
static List *
needed_columns(RelOptInfo *rel, List *expressions, bool *whole_row)
{
	Bitmapset  *used = NULL;
	List	   *result = list_make1_int(0);
	int			member = -1;

	pull_varattnos((Node *) expressions, rel->relid, &used);
	*whole_row = bms_is_member(0 - FirstLowInvalidHeapAttributeNumber, used);
	if (*whole_row)
		return NIL;
	while ((member = bms_next_member(used, member)) >= 0)
		result = lappend_int(result,
							 member + FirstLowInvalidHeapAttributeNumber);
	return result;
}

static Plan *
make_plan(PlannerInfo *root, RelOptInfo *rel, CustomPath *path,
		  List *targets, List *clauses, List *plans)
{
	CustomScan *scan = makeNode(CustomScan);
	Oid			oid = linitial_oid(linitial(path->custom_private));
	Relation	table = table_open(oid, AccessShareLock);
	List	   *quals = extract_actual_clauses(clauses, false);
	List	   *used = list_concat_copy(rel->reltarget->exprs, quals);
	bool		whole_row;
	List	   *needed = needed_columns(rel, used, &whole_row);

	/* The planner may replace the targets later. */
	check_query_columns(rel, table, used);
	scan->scan.plan.targetlist = targets;
	scan->scan.plan.qual = quals;
	scan->scan.scanrelid = 0;
	scan->flags = path->flags;
	scan->custom_exprs = list_concat_copy(lthird(path->custom_private),
										  lfourth(path->custom_private));
	scan->custom_private = list_make5(linitial(path->custom_private),
									  lsecond(path->custom_private), needed,
									  list_make1_int(whole_row),
									  list_nth(path->custom_private, 4));
	scan->custom_scan_tlist = scan_columns(rel,
										   planner_rt_fetch(rel->relid, root),
										   table, whole_row);
	scan->methods = &bemi_as_of_scan_methods;
	/* The plan is made again when the table changes. */
	root->glob->relationOids = lappend_oid(root->glob->relationOids, oid);
	table_close(table, NoLock);
	return &scan->scan.plan;
}

static const CustomPathMethods path_methods = {
	.CustomName = "Bemi As Of",
	.PlanCustomPath = make_plan
};

/*
 * Called when the library is loaded.
 */
void
bemi_as_of_plan_init(void)
{
	RegisterCustomScanMethods(&bemi_as_of_scan_methods);
	former_hook = set_rel_pathlist_hook;
	set_rel_pathlist_hook = replace_paths;
}
