/*-------------------------------------------------------------------------
 *
 * track_rules.c
 *		The rules for a tracked table's columns, as its trigger keeps them.
 *
 * Rules are lists of column names, and a name that ends in "*" stands for all
 * columns that begin so: {"ignore": [...], "redact": [...], "redact_hash": [...]}.
 * They are the last argument of the trigger that bemi.track() makes, so they are
 * dumped, restored and dropped with the table.
 *
 * In flows a table's OID; out flow its rules, in the current memory context.  Nothing here throws because of what the trigger holds: the owner of a
 * table can make a trigger with any arguments.  What must never happen: rules that
 * cannot be read count as none.  They redact all columns.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/json.h"

#include "track.h"

/*
 * The list for one kind of rule, NULL if there is no such kind.
 */
static List **
list_of_kind(BemiRules *rules, const JsonbValue *kind)
{
	struct
	{
		const char *name;
		List	  **list;
	}			kinds[] = {{"ignore", &rules->ignore}, {"redact", &rules->redact},
	{"redact_hash", &rules->redact_hash}};

	for (int i = 0; i < lengthof(kinds); i++)
		if (kind->val.string.len == strlen(kinds[i].name) &&
			memcmp(kind->val.string.val, kinds[i].name, kind->val.string.len) == 0)
			return kinds[i].list;
	return NULL;
}

/*
 * Appends the names in a JSON array; false if something else is among them.
 */
static bool
append_names(List **names, const JsonbValue *array)
{
	JsonbContainer *elements;

	if (array->type != jbvBinary || !JsonContainerIsArray(array->val.binary.data))
		return false;
	elements = array->val.binary.data;
	for (uint32 i = 0; i < JsonContainerSize(elements); i++)
	{
		JsonbValue *element = getIthJsonbValueFromContainer(elements, i);

		if (element->type != jbvString)
			return false;
		*names = lappend(*names, pnstrdup(element->val.string.val, element->val.string.len));
	}
	return true;
}

/*
 * Reads rules from their text; false if it is not a list of names for each kind.
 */
static bool
parse_rules(const char *text, BemiRules *rules)
{
	Jsonb	   *object;
	JsonbIterator *iterator;
	JsonbValue	value;

	if (!bemi_is_json_object(text, strlen(text)))
		return false;
	object = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
	iterator = JsonbIteratorInit(&object->root);
	(void) JsonbIteratorNext(&iterator, &value, true);
	while (JsonbIteratorNext(&iterator, &value, true) == WJB_KEY)
	{
		List	  **list = list_of_kind(rules, &value);

		(void) JsonbIteratorNext(&iterator, &value, true);
		if (list == NULL || !append_names(list, &value))
			return false;
	}
	return true;
}

/*
 * The rules of a table, as the snapshot sees it.
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
	rules->readable = count <= BEMI_RULES ||
		(count == BEMI_RULES + 1 && parse_rules(list_nth(trigger.arguments, BEMI_RULES), rules));
	if (rules->readable)
		return;
	rules->ignore = rules->redact_hash = NIL;
	rules->redact = list_make1("*");
}

static void
append_list(StringInfo text, const char *kind, const List *names)
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
 * The rules as a JSON object, palloc'd.  An empty list is left out.
 */
char *
bemi_rules_text(const BemiRules *rules)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoChar(&text, '{');
	append_list(&text, "ignore", rules->ignore);
	append_list(&text, "redact", rules->redact);
	append_list(&text, "redact_hash", rules->redact_hash);
	appendStringInfoChar(&text, '}');
	return text.data;
}
