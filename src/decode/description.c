/*-------------------------------------------------------------------------
 *
 * description.c
 *		Applies the source's description of a table to its relation.
 *
 * Input: a relation from the stream (protocol.c), and a JSON object with the
 * facts that the stream lacks: the primary key, the parts of the columns'
 * types, and the rules for columns.  Output: the same relation, ready for its
 * rows.  _bemi.describe() (track/describe.c) writes the object; for a source
 * without the extension, stream/descriptions.c asks the catalog for the same.
 *
 * A missing or malformed member of the object is skipped: the table has no key
 * then, no column is ignored, and the values of unknown types are text.  A
 * redaction rule that cannot be read redacts all columns.  What must never
 * happen: a value is stored although a rule redacts it.  If the object may be
 * older or newer than the relation, a value is rather redacted without need.
 *
 * The result is in the relation's own memory.  Needs a transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"

#include "decode/decode_internal.h"
#include "stream/stream.h"
#include "track/track.h"

/*
 * The array that an object has under a key, or NULL.
 */
static JsonbContainer *
json_array_of(const Jsonb *object, const char *key, JsonbValue *value)
{
	if (!JB_ROOT_IS_OBJECT(object) ||
		getKeyJsonValueFromContainer((JsonbContainer *) &object->root, key,
									 strlen(key), value) == NULL ||
		value->type != jbvBinary ||
		!JsonContainerIsArray(value->val.binary.data))
		return NULL;
	return value->val.binary.data;
}

/*
 * A text in an array, palloc'd; NULL if there is none.
 */
static char *
json_text_at(JsonbContainer *array, uint32 place)
{
	JsonbValue *value = getIthJsonbValueFromContainer(array, place);

	if (value == NULL || value->type != jbvString)
		return NULL;
	return pnstrdup(value->val.string.val, value->val.string.len);
}

/*
 * The names that an array in the description lists.
 */
static List *
listed_names(const Jsonb *description, const char *key)
{
	JsonbValue	value;
	JsonbContainer *array = json_array_of(description, key, &value);
	List	   *names = NIL;

	for (uint32 i = 0; array != NULL && i < JsonContainerSize(array); i++)
	{
		char	   *name = json_text_at(array, i);

		if (name != NULL)
			names = lappend(names, name);
	}
	return names;
}

/*
 * The columns that a rule redacts: all of them if there is a rule that is not
 * a list of names.
 */
static List *
redacted_names(const Jsonb *description, const char *key)
{
	List	   *names = listed_names(description, key);
	JsonbValue	value;
	JsonbContainer *array = json_array_of(description, key, &value);
	bool		exists =
		JB_ROOT_IS_OBJECT(description) &&
		getKeyJsonValueFromContainer((JsonbContainer *) &description->root,
									 key, strlen(key), &value) != NULL;

	if (exists &&
		(array == NULL || list_length(names) != JsonContainerSize(array)))
		return list_make1("*");
	return names;
}

static bool
json_is_true(const Jsonb *description, const char *key)
{
	JsonbValue	value;

	return JB_ROOT_IS_OBJECT(description) &&
		getKeyJsonValueFromContainer((JsonbContainer *) &description->root,
									 key, strlen(key), &value) != NULL &&
		value.type == jbvBool && value.val.boolean;
}

/*
 * The parts of types that the description lists.
 */
static List *
listed_type_parts(const Jsonb *description)
{
	JsonbValue	value;
	JsonbContainer *array = json_array_of(description, "types", &value);
	List	   *parts = NIL;

	for (uint32 i = 0; array != NULL && i < JsonContainerSize(array); i++)
	{
		JsonbValue *element = getIthJsonbValueFromContainer(array, i);
		JsonbContainer *fields =
			element->type == jbvBinary &&
			JsonContainerIsArray(element->val.binary.data) ?
			element->val.binary.data :
			NULL;
		char	   *type = fields ? json_text_at(fields, 0) : NULL;
		char	   *kind = fields ? json_text_at(fields, 1) : NULL;
		char	   *other = fields ? json_text_at(fields, 2) : NULL;
		BemiTypePart *part;

		if (type == NULL || kind == NULL || other == NULL)
			continue;
		part = palloc(sizeof(BemiTypePart));
		part->type = strtoul(type, NULL, 10);
		part->kind = kind[0];
		part->other = strtoul(other, NULL, 10);
		part->name = json_text_at(fields, 3);
		parts = lappend(parts, part);
	}
	return parts;
}

/*
 * Place of a column, -1 if the stream does not carry it.
 */
static int
find_relation_column(const BemiRelation *relation, const char *name)
{
	for (int i = 0; i < relation->column_count; i++)
		if (strcmp(relation->columns[i].name, name) == 0)
			return i;
	return -1;
}

/*
 * Whether all names in a list are columns of the relation.
 */
static bool
has_columns(const BemiRelation *relation, const List *names)
{
	ListCell   *cell;

	foreach(cell, names)
	{
		if (find_relation_column(relation, lfirst(cell)) < 0 &&
			!bemi_rule_is_prefix(lfirst(cell)))
			return false;
	}
	return true;
}

/*
 * Whether a list of names has all of the relation's columns.
 */
static bool
lists_columns(const BemiRelation *relation, const List *names)
{
	for (int i = 0; i < relation->column_count; i++)
	{
		bool		found = false;
		ListCell   *cell;

		foreach(cell, names)
		{
			if (strcmp(relation->columns[i].name, lfirst(cell)) == 0)
				found = true;
		}
		if (!found)
			return false;
	}
	return true;
}

/*
 * Whether all of the relation's types are known.
 */
static bool
has_types(const BemiRelation *relation, BemiTypes *types)
{
	for (int i = 0; i < relation->column_count; i++)
		if (!bemi_types_know(types, relation->columns[i].type_oid))
			return false;
	return true;
}

/*
 * Whether the description fits the relation and is not stale.  If not, the
 * source must be asked.  A rule for a missing column is accepted, because the
 * column may have been dropped.
 */
bool
bemi_description_fits(const BemiRelation *relation, const Jsonb *description)
{
	Assert(IsTransactionState());
	return !json_is_true(description, "stale") &&
		has_columns(relation, listed_names(description, "key")) &&
		lists_columns(relation, listed_names(description, "columns")) &&
		has_types(relation, bemi_types_create(listed_type_parts(description)));
}

/*
 * Applies the primary key.  The relation gets no key if the stream lacks one
 * of its columns, because of a column list or a description of another time.
 */
static void
apply_key(BemiRelation *relation, const List *names)
{
	ListCell   *cell;

	relation->key_count = 0;
	relation->keys = palloc(sizeof(int) * Max(list_length(names), 1));
	foreach(cell, names)
	{
		int			column = find_relation_column(relation, lfirst(cell));

		if (column < 0)
		{
			relation->key_count = 0;
			return;
		}
		relation->keys[relation->key_count++] = column;
	}
}

static void
apply_types(BemiRelation *relation, BemiTypes *types)
{
	relation->risky = false;
	for (int i = 0; i < relation->column_count; i++)
	{
		BemiColumn *column = &relation->columns[i];

		column->type = bemi_type_of(types, column->type_oid);
		if (column->type->risky)
			relation->risky = true;
	}
}

/*
 * The described types.  Casts to json are functions that the worker would
 * call, so they are accepted only from its own database.
 */
static BemiTypes *
described_types(const Jsonb *description, bool is_local)
{
	List	   *parts = listed_type_parts(description);

	return bemi_types_create(is_local ? parts :
							 bemi_type_parts_elsewhere(parts));
}

/*
 * Applies one or two descriptions.  The first one takes precedence.  The
 * second one, of another time, is given if the first does not fit, and
 * provides a key or types if those of the first do not fit.  A value is
 * redacted if either description has a rule for it, because a rule may have
 * been added or removed between the two.
 *
 * hash_key is the key for hashes of redacted values; NULL: unknown.
 */
void
bemi_description_apply(BemiRelation *relation, const Jsonb *first,
					   const Jsonb *second, const char *hash_key,
					   bool is_local)
{
	MemoryContext caller;
	List	   *key = listed_names(first, "key");
	List	   *redact = redacted_names(first, "redact");
	List	   *redact_hash = redacted_names(first, "redact_hash");
	BemiTypes  *types;

	Assert(IsTransactionState());
	types = described_types(first, is_local);
	if (second != NULL)
	{
		redact = list_concat(redact, redacted_names(second, "redact"));
		redact_hash =
			list_concat(redact_hash, redacted_names(second, "redact_hash"));
		if (!has_columns(relation, key))
			key = listed_names(second, "key");
		if (!has_types(relation, types))
			types = described_types(second, is_local);
	}

	caller = MemoryContextSwitchTo(relation->memory);
	relation->identity_is_partial = json_is_true(first, "partly");
	bemi_row_order(relation);
	apply_key(relation, key);
	apply_types(relation, types);
	bemi_rules_apply(relation, listed_names(first, "ignore"), redact,
					 redact_hash, listed_names(first, "columns"), hash_key);
	MemoryContextSwitchTo(caller);
}
