/*-------------------------------------------------------------------------
 *
 * rules.c
 *		The column rules of a tracked table, which its trigger stores.
 *
 * Rules are lists of column names: {"ignore": [...], "redact": [...],
 * "redact_hash": [...]}.  A name that ends in "*" matches all columns that
 * begin with the rest.  Rules are the last argument of the trigger that
 * bemi.track() creates, so they are dumped, restored and dropped with the
 * table.
 *
 * Input: a table's OID.  Output: its rules, in the current memory context.
 * The functions that set rules write the trigger with the rights of the
 * extension's owner.  Their callers have checked the user's rights and locked
 * the table.  Reading never throws an error, because a table's owner can
 * create a trigger with any arguments.  What must never happen: rules that
 * cannot be read count as no rules.  They redact all columns.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "context/context.h"
#include "track/track_internal.h"

PG_FUNCTION_INFO_V1(bemi_rules);
PG_FUNCTION_INFO_V1(bemi_has_bad_rules);
PG_FUNCTION_INFO_V1(bemi_columnless_rules);

/*
 * The list for one kind of rule, NULL if there is no such kind.
 */
static List **
rule_list_of_kind(BemiRules *rules, const JsonbValue *kind)
{
	struct
	{
		const char *name;
		List	  **list;
	}			kinds[] = {{"ignore", &rules->ignore},
	{"redact", &rules->redact},
	{"redact_hash", &rules->redact_hash}};

	for (int i = 0; i < lengthof(kinds); i++)
		if (kind->val.string.len == strlen(kinds[i].name) &&
			memcmp(kind->val.string.val, kinds[i].name,
				   kind->val.string.len) == 0)
			return kinds[i].list;
	return NULL;
}

/*
 * Appends the names in a JSON array.  Returns false if it has other elements.
 */
static bool
append_rule_names(List **names, const JsonbValue *array)
{
	JsonbContainer *elements;

	if (array->type != jbvBinary ||
		!JsonContainerIsArray(array->val.binary.data))
		return false;
	elements = array->val.binary.data;
	for (uint32 i = 0; i < JsonContainerSize(elements); i++)
	{
		JsonbValue *element = getIthJsonbValueFromContainer(elements, i);

		if (element->type != jbvString)
			return false;
		*names = lappend(*names, pnstrdup(element->val.string.val,
										  element->val.string.len));
	}
	return true;
}

/*
 * Parses the text of rules.  Returns false unless it has a list of names for
 * each kind.
 */
static bool
parse_rules(const char *text, BemiRules *rules)
{
	Jsonb	   *object;
	JsonbIterator *iterator;
	JsonbValue	value;

	if (!bemi_is_json_object(text, strlen(text)))
		return false;
	object =
		DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
	iterator = JsonbIteratorInit(&object->root);
	(void) JsonbIteratorNext(&iterator, &value, true);
	while (JsonbIteratorNext(&iterator, &value, true) == WJB_KEY)
	{
		List	  **list = rule_list_of_kind(rules, &value);

		(void) JsonbIteratorNext(&iterator, &value, true);
		if (list == NULL || !append_rule_names(list, &value))
			return false;
	}
	return true;
}

/*
 * Reads the rules of a table with a snapshot.
 */
void
bemi_read_rules(Oid relation, Snapshot snapshot, BemiRules *rules)
{
	BemiTrigger trigger;
	int			count;

	memset(rules, 0, sizeof(BemiRules));
	bemi_table_trigger_at(relation, snapshot, &trigger);
	count = list_length(trigger.arguments);
	rules->known = count > 0;
	rules->readable =
		count <= BEMI_RULES ||
		(count == BEMI_RULES + 1 &&
		 parse_rules(list_nth(trigger.arguments, BEMI_RULES), rules));
	if (rules->readable)
		return;
	rules->ignore = rules->redact_hash = NIL;
	rules->redact = list_make1("*");
}

/*
 * The names of a list, separated by commas.
 */
static char *
joined_names(const List *names)
{
	StringInfoData text;
	ListCell   *cell;

	initStringInfo(&text);
	foreach(cell, names)
	{
		appendStringInfo(&text, "%s%s", cell == list_head(names) ? "" : ", ",
						 (char *) lfirst(cell));
	}
	return text.data;
}

/*
 * Whether a table has rules that cannot be read.
 */
static bool
has_bad_rules(Oid relation)
{
	BemiRules	rules;

	bemi_read_rules(relation, NULL, &rules);
	return !rules.readable;
}

static void
append_rule_list(StringInfo text, const char *kind, const List *names)
{
	ListCell   *cell;

	if (names == NIL)
		return;
	appendStringInfo(text, "%s\"%s\": [", text->len > 1 ? ", " : "", kind);
	foreach(cell, names)
	{
		if (cell != list_head(names))
			appendStringInfoString(text, ", ");
		escape_json(text, lfirst(cell));
	}
	appendStringInfoChar(text, ']');
}

/*
 * The text of rules as a JSON object, palloc'd.  Empty lists are left out.
 */
char *
bemi_rules_text(const BemiRules *rules)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoChar(&text, '{');
	append_rule_list(&text, "ignore", rules->ignore);
	append_rule_list(&text, "redact", rules->redact);
	append_rule_list(&text, "redact_hash", rules->redact_hash);
	appendStringInfoChar(&text, '}');
	return text.data;
}

/*
 * Writes rules into a table's trigger, unless it has the same.
 */
static void
write_rules(const BemiTable *table, const BemiRules *rules)
{
	BemiTrigger trigger;
	char	   *text = bemi_rules_text(rules);

	bemi_table_trigger(table->oid, &trigger);
	if (list_length(trigger.arguments) == BEMI_RULES + 1 &&
		strcmp(list_nth(trigger.arguments, BEMI_RULES), text) == 0)
		return;
	trigger.arguments =
		lappend(list_truncate(trigger.arguments, BEMI_RULES), text);
	bemi_table_set_trigger(table->oid, trigger.arguments);
	if (bemi_is_published(table->oid))
	{
		bemi_emit_tracked(table->oid);
		bemi_table_invalidate_tree(table);
	}
}

/*
 * Names of a table's columns.
 */
static List *
table_column_names(const BemiTable *table)
{
	List	   *names = NIL;

	for (AttrNumber i = 1; i <= table->natts; i++)
	{
		char	   *name = get_attname(table->oid, i, true);

		if (name != NULL)
			names = lappend(names, name);
	}
	return names;
}

/*
 * The first column that matches a rule; NULL if none does.
 */
static char *
first_matching_column(const List *columns, const List *rules)
{
	ListCell   *cell;

	foreach(cell, columns)
	{
		if (bemi_rules_match(lfirst(cell), rules))
			return lfirst(cell);
	}
	return NULL;
}

static void
report_null_name(const BemiTable *table, const char *kind)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("column name in rule \"%s\" must not be null", kind),
			 errdetail("The rule is a list of column names."),
			 errhint("To remove the rule: SELECT bemi.track(%s, %s => '{}');",
					 quote_literal_cstr(bemi_relation_name(table->oid)),
					 kind)));
}

static void
report_unknown_column(const BemiTable *table, const char *kind,
					  const char *rule)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_COLUMN),
			 errmsg("column \"%s\" of table \"%s\" does not exist", rule,
					NameStr(table->name)),
			 errdetail("It cannot be in the rule \"%s\".", kind),
			 errhint("Write names as in the catalog, without quotes. A name that ends in * matches all names with this prefix.")));
}

static bool
name_is_listed(const List *names, const char *name)
{
	ListCell   *cell;

	foreach(cell, names)
	{
		if (strcmp(lfirst(cell), name) == 0)
			return true;
	}
	return false;
}

/*
 * Checks the names that the user has given for a rule, and removes duplicates.
 */
static List *
checked_rule_names(const BemiTable *table, const char *kind, ArrayType *array)
{
	List	   *columns = table_column_names(table);
	List	   *names = NIL;
	Datum	   *elements;
	bool	   *nulls;
	int			count;

	deconstruct_array(array, NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR,
					  &elements, &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		char	   *name =
			nulls[i] ? NULL : NameStr(*DatumGetName(elements[i]));

		if (name == NULL)
			report_null_name(table, kind);
		if (first_matching_column(columns, list_make1(name)) == NULL)
			report_unknown_column(table, kind, name);
		if (!name_is_listed(names, name))
			names = lappend(names, pstrdup(name));
	}
	return names;
}

/*
 * A list of names as the literal of an array, without those that match a
 * column.
 */
static char *
rule_array_text(const List *names, const char *without)
{
	ArrayBuildState *state =
		initArrayResult(TEXTOID, CurrentMemoryContext, false);
	ListCell   *cell;

	foreach(cell, names)
	{
		if (without == NULL || !bemi_rule_matches(without, lfirst(cell)))
			state = accumArrayResult(state, CStringGetTextDatum(lfirst(cell)),
									 false, TEXTOID, CurrentMemoryContext);
	}
	return quote_literal_cstr(
							  OidOutputFunctionCall(F_ARRAY_OUT,
													makeArrayResult(state,
																	CurrentMemoryContext)));
}

/*
 * Throws an error if a column would be both redacted and hashed.  "kind" is
 * the rule that was given now.
 */
static void
check_redacted_once(const BemiTable *table, const BemiRules *rules,
					const char *kind)
{
	ListCell   *cell;

	foreach(cell, table_column_names(table))
	{
		const char *column = lfirst(cell);
		bool		is_hash = strcmp(kind, "redact_hash") == 0;
		const char *other = is_hash ? "redact" : "redact_hash";

		if (!bemi_rules_match(column, rules->redact) ||
			!bemi_rules_match(column, rules->redact_hash))
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("column \"%s\" of table \"%s\" cannot be both redacted and hashed",
						column, NameStr(table->name)),
				 errdetail("It is in the rule \"%s\" already.", other),
				 errhint("Give both lists: SELECT bemi.track(%s, %s => %s, %s => %s);",
						 quote_literal_cstr(bemi_relation_name(table->oid)),
						 kind,
						 rule_array_text(is_hash ? rules->redact_hash :
										 rules->redact,
										 NULL),
						 other,
						 rule_array_text(is_hash ? rules->redact :
										 rules->redact_hash,
										 column))));
	}
}

/*
 * Sets the rules that are given.  NULL does not change a rule, and an empty
 * list removes it.
 */
void
bemi_set_rules(Oid relation, ArrayType *ignore, ArrayType *redact,
			   ArrayType *redact_hash)
{
	BemiRules	rules;
	BemiTable	table;

	if (!bemi_table_look_up(relation, &table))
		return;
	bemi_read_rules(relation, NULL, &rules);
	if (!rules.known)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot keep rules for table \"%s\"",
						NameStr(table.name)),
				 errdetail("Its trigger \"%s\" was not created by bemi.track().",
						   BEMI_TRIGGER),
				 errhint("DROP TRIGGER %s ON %s;", BEMI_TRIGGER,
						 bemi_relation_name(relation))));
	if (ignore != NULL)
		rules.ignore = checked_rule_names(&table, "ignore", ignore);
	if (redact != NULL)
		rules.redact = checked_rule_names(&table, "redact", redact);
	if (redact_hash != NULL)
		rules.redact_hash =
			checked_rule_names(&table, "redact_hash", redact_hash);
	check_redacted_once(&table, &rules,
						redact_hash != NULL &&
						ArrayGetNItems(ARR_NDIM(redact_hash),
									   ARR_DIMS(redact_hash)) > 0 ?
						"redact_hash" :
						"redact");
	write_rules(&table, &rules);
}

/*
 * Replaces a column's former name in one list.  If only a prefix matched the
 * former name, and no rule matches the new one, the new name is added.
 */
static List *
carry_rule_list(List *names, const char *former, const char *present)
{
	List	   *carried = NIL;
	ListCell   *cell;

	foreach(cell, names)
	{
		if (strcmp(lfirst(cell), former) != 0)
			carried = lappend(carried, lfirst(cell));
	}
	if (list_length(carried) < list_length(names) ||
		(bemi_rules_match(former, names) && !bemi_rules_match(present, names)))
		carried = lappend(carried, pstrdup(present));
	return carried;
}

/*
 * Updates the rules of one table for a renamed column.
 */
static void
carry_rules(const BemiTable *table, const char *former, const char *present)
{
	BemiRules	rules;

	bemi_read_rules(table->oid, NULL, &rules);
	if (!rules.readable || (rules.ignore == NIL && rules.redact == NIL &&
							rules.redact_hash == NIL))
		return;
	rules.ignore = carry_rule_list(rules.ignore, former, present);
	rules.redact = carry_rule_list(rules.redact, former, present);
	rules.redact_hash = carry_rule_list(rules.redact_hash, former, present);
	write_rules(table, &rules);
}

static Oid
type_of_table(Oid relation)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	Oid			type = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		type = ((Form_pg_class) GETSTRUCT(tuple))->reloftype;
		ReleaseSysCache(tuple);
	}
	return type;
}

/*
 * The tables OF a composite type. pg_class has no index for them, but they
 * depend on the type.
 */
static List *
typed_tables(Oid type)
{
	List	   *tables = NIL;
	ListCell   *cell;

	foreach(cell, bemi_type_dependents(type))
	{
		const ObjectAddress *object = lfirst(cell);

		if (object->classId == RelationRelationId &&
			type_of_table(object->objectId) == type)
			tables = list_append_unique_oid(tables, object->objectId);
	}
	return tables;
}

/*
 * Updates rules for a renamed column of a table, or attribute of a composite
 * type.  The columns of inheriting and typed tables were renamed with it.
 * Untracked ones among these tables have no rules, so they need not be
 * excluded.
 */
void
bemi_carry_rules(const BemiTable *table, const char *former,
				 const char *present)
{
	List	   *roots =
		OidIsValid(table->row_type) && table->kind == RELKIND_COMPOSITE_TYPE ?
		typed_tables(table->row_type) :
		list_make1_oid(table->oid);
	ListCell   *root;
	ListCell   *cell;

	foreach(root, roots)
	{
		foreach(cell, find_all_inheritors(lfirst_oid(root), NoLock, NULL))
		{
			BemiTable	renamed;

			CHECK_FOR_INTERRUPTS();
			if (!bemi_table_look_up(lfirst_oid(cell), &renamed) ||
				(renamed.kind != RELKIND_RELATION &&
				 renamed.kind != RELKIND_PARTITIONED_TABLE))
				continue;
			carry_rules(&renamed, former, present);
			/* The column may belong to the primary key. */
			if (renamed.oid != table->oid)
				bemi_emit_tracked(renamed.oid);
		}
	}
}

/*
 * Throws an error if a trigger has rules that cannot be read.
 */
void
bemi_check_rules(Oid relation)
{
	BemiTrigger trigger;

	if (!has_bad_rules(relation))
		return;
	bemi_table_trigger(relation, &trigger);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("rules of table \"%s\" are not valid",
					bemi_relation_name(relation)),
			 errdetail("They are: %s",
					   joined_names(list_copy_tail(trigger.arguments,
												   BEMI_RULES))),
			 errhint("Set rules with bemi.track(), not with arguments of the trigger.")));
}

static bool
column_is_redacted(const BemiRules *rules, const char *column)
{
	return bemi_rules_match(column, rules->redact) ||
		bemi_rules_match(column, rules->redact_hash);
}

/*
 * Warns if an attached table's own rules redacted a column and those of its
 * root do not.
 */
void
bemi_warn_of_lost_redaction(const BemiTable *table)
{
	BemiRules	own;
	BemiRules	of_root;
	ListCell   *cell;

	bemi_read_rules(table->oid, NULL, &own);
	bemi_read_rules(table->root, NULL, &of_root);
	foreach(cell, table_column_names(table))
	{
		const char *column = lfirst(cell);

		if (column_is_redacted(&own, column) &&
			!column_is_redacted(&of_root, column))
			ereport(WARNING,
					(errmsg("column \"%s\" of partition \"%s\" is no longer redacted",
							column, bemi_relation_name(table->oid)),
					 errdetail("It uses the rules of the partitioned table now."),
					 errhint("SELECT bemi.track(%s, redact => ...);",
							 quote_literal_cstr(
												bemi_relation_name(table->root)))));
	}
}

/*
 * _bemi.rules(target regclass) returns jsonb, for bemi.tracked
 */
Datum
bemi_rules(PG_FUNCTION_ARGS)
{
	BemiRules	rules;

	bemi_read_rules(PG_GETARG_OID(0), NULL, &rules);
	return DirectFunctionCall1(jsonb_in,
							   CStringGetDatum(bemi_rules_text(&rules)));
}

/*
 * _bemi.has_bad_rules(target regclass), for bemi.tracked
 */
Datum
bemi_has_bad_rules(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(has_bad_rules(PG_GETARG_OID(0)));
}

/*
 * _bemi.columnless_rules(target regclass, source regclass) returns text, for
 * bemi.tracked: names in rules of the source that match no column of the
 * target, NULL if there are none.
 */
Datum
bemi_columnless_rules(PG_FUNCTION_ARGS)
{
	BemiRules	rules;
	BemiTable	table;
	List	   *names;
	List	   *columns;
	List	   *unmatched = NIL;
	ListCell   *cell;

	if (!bemi_table_look_up(PG_GETARG_OID(0), &table))
		PG_RETURN_NULL();
	bemi_read_rules(PG_GETARG_OID(1), NULL, &rules);
	columns = table_column_names(&table);
	names = list_concat(list_concat(rules.ignore, rules.redact),
						rules.redact_hash);
	foreach(cell, names)
	{
		if (first_matching_column(columns, list_make1(lfirst(cell))) == NULL &&
			!name_is_listed(unmatched, lfirst(cell)))
			unmatched = lappend(unmatched, lfirst(cell));
	}
	if (unmatched == NIL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(joined_names(unmatched)));
}
