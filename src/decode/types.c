/*-------------------------------------------------------------------------
 *
 * types.c
 *		Describes the types of the source's columns.
 *
 * Input: the OIDs of types in the stream and, for types that are not built in,
 * their parts from the source's catalog (track/describe.c,
 * stream/descriptions.c).  Output: descriptions by which row_json.c converts
 * the texts of values.
 *
 * The rules are those of jsonb_categorize_type() in the server's jsonb.c, or,
 * from 17 on, json_categorize_type() in jsonfuncs.c: a domain is treated as
 * its base type, arrays and composites are taken apart, a type with a cast to
 * json is cast, and most others are text.
 *
 * What must never happen: the worker, a superuser, runs a function that
 * another user could have written or can reach.  It calls only functions of
 * types that run no SQL and read nothing but their arguments.  The complete
 * list: array_in() for arrays of texts and of boxes, the input functions of
 * int2vector and oidvector, the output functions of box, int2 and oid,
 * record_in() for rows of texts, and the functions of hstore in
 * known_json_types[].  The input function of a domain is never called, because
 * its constraint may call any function, nor that of a composite with such a
 * field.  A cast to json is not safe because it is written in C: PostGIS'
 * geometry looks up its crs by SQL, in a table that another user may own.
 *
 * Each type is described once for a relation, however often it is used.
 * Otherwise a few composites, each with two fields of the one before, would
 * become millions.
 *
 * A description lives in the memory context that was current when it was
 * created, the relation's.  Needs a transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "access/tupdesc.h"
#include "catalog/pg_cast.h"
#include "catalog/pg_language_d.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "decode/decode_internal.h"
#include "stream/stream.h"

/*
 * Deeper than any real type; bounds the recursion if a source is broken.
 */
#define DEEPEST_TYPE	64

/* One type, while a relation's types are described. */
typedef struct TypeEntry
{
	Oid			oid;			/* hash key, must be first */
	List	   *parts;			/* of BemiTypePart, in order */
	const BemiType *described;	/* NULL: not yet */
} TypeEntry;

struct BemiTypes
{
	HTAB	   *entries;		/* by OID */
};

/* A function in C, as pg_proc names it. */
typedef struct KnownFunction
{
	const char *library;
	const char *symbol;
} KnownFunction;

/*
 * Types whose input function and cast to json may be called.  To add one, read
 * both functions: neither may run SQL, read catalogs, or keep more than one
 * chunk of memory in fn_extra.
 */
typedef struct KnownJsonType
{
	KnownFunction input;
	KnownFunction to_json;
} KnownJsonType;

static const KnownJsonType known_json_types[] = {
	{{"$libdir/hstore", "hstore_in"}, {"$libdir/hstore", "hstore_to_json"}}
};

static const BemiType *describe_type(BemiTypes *types, Oid oid, int depth);

static TypeEntry *
type_entry_for(BemiTypes *types, Oid oid)
{
	bool		found;
	TypeEntry  *entry = hash_search(types->entries, &oid, HASH_ENTER, &found);

	if (!found)
	{
		entry->parts = NIL;
		entry->described = NULL;
	}
	return entry;
}

/*
 * Creates a table of types from their parts, in the current memory context.
 */
BemiTypes *
bemi_types_create(const List *parts)
{
	BemiTypes  *types = palloc(sizeof(BemiTypes));
	HASHCTL		control = {0};
	ListCell   *cell;

	control.keysize = sizeof(Oid);
	control.entrysize = sizeof(TypeEntry);
	control.hcxt = CurrentMemoryContext;
	types->entries = hash_create("bemi types", 32, &control,
								 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	foreach(cell, parts)
	{
		BemiTypePart *part = lfirst(cell);
		TypeEntry  *entry = type_entry_for(types, part->type);

		entry->parts = lappend(entry->parts, part);
	}
	return types;
}

/*
 * Whether a type is built in, and so the same on every server.  Row types of
 * system catalogs do not count, because they differ between versions.
 */
static bool
type_is_built_in(Oid type)
{
	Oid			element = get_element_type(type);

	return type < FirstGenbkiObjectId &&
		get_typtype(OidIsValid(element) ? element : type) != TYPTYPE_COMPOSITE;
}

/*
 * Whether a type is built in or among the parts.
 */
bool
bemi_types_know(BemiTypes *types, Oid oid)
{
	return type_is_built_in(oid) ||
		hash_search(types->entries, &oid, HASH_FIND, NULL) != NULL;
}

static BemiType *
make_type(Oid oid, BemiTypeKind kind)
{
	BemiType   *type = palloc0(sizeof(BemiType));

	type->oid = oid;
	type->kind = kind;
	type->risky = (kind >= BEMI_TYPE_JSON);
	return type;
}

/*
 * Describes an array, which "input" parses as an array of "parsed_as".
 */
static BemiType *
make_array(Oid oid, const BemiType *element, Oid input, Oid parsed_as)
{
	BemiType   *type = make_type(oid, BEMI_TYPE_ARRAY);
	Oid			output;
	bool		is_varlena;

	type->element = element;
	type->parsed_as = parsed_as;
	type->input_parameter = parsed_as;
	type->input_typmod = -1;
	fmgr_info(input, &type->input);
	getTypeOutputInfo(parsed_as, &output, &is_varlena);
	fmgr_info(output, &type->output);
	return type;
}

/*
 * Describes a built-in array type.  It is parsed as an array of texts, except
 * if its notation (int2vector) or its delimiter (box[]) is different.
 */
static BemiType *
describe_known_array(BemiTypes *types, Oid oid, Oid element_oid)
{
	const BemiType *element = bemi_type_of(types, element_oid);
	Oid			input;
	Oid			output;
	Oid			parameter;
	int16		len;
	bool		by_value;
	char		align;
	char		delimiter;

	getTypeInputInfo(oid, &input, &parameter);
	get_type_io_data(element_oid, IOFunc_output, &len, &by_value, &align,
					 &delimiter, &parameter, &output);
	if (input == F_ARRAY_IN && delimiter == ',')
		return make_array(oid, element, F_ARRAY_IN, TEXTOID);
	return make_array(oid, element, input, element_oid);
}

/*
 * Describes a built-in type.
 */
static BemiType *
describe_known(BemiTypes *types, Oid oid)
{
	Oid			element;

	switch (oid)
	{
		case BOOLOID:
			return make_type(oid, BEMI_TYPE_BOOLEAN);
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case FLOAT4OID:
		case FLOAT8OID:
		case NUMERICOID:
			return make_type(oid, BEMI_TYPE_NUMBER);
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return make_type(oid, BEMI_TYPE_TIMESTAMP);
		case JSONOID:
		case JSONBOID:
			return make_type(oid, BEMI_TYPE_JSON);
	}

	/* A newer server may have types that this one lacks; they become text. */
	element = get_element_type(oid);
	if (OidIsValid(element))
		return describe_known_array(types, oid, element);
	return make_type(oid, BEMI_TYPE_TEXT);
}

/*
 * Describes an array of a type that is not built in.  It is parsed as an array
 * of texts if commas separate its elements, or as boxes if the element is a
 * box or a domain over it.
 */
static BemiType *
describe_array(BemiTypes *types, Oid oid, const BemiTypePart *part, int depth)
{
	const BemiType *element = describe_type(types, part->other, depth + 1);

	if (part->name != NULL && part->name[0] == ',')
		return make_array(oid, element, F_ARRAY_IN, TEXTOID);
	if (element->oid == BOXOID)
		return make_array(oid, element, F_ARRAY_IN, BOXOID);
	return make_type(oid, BEMI_TYPE_TEXT);
}

/*
 * Describes a composite type, which is parsed as a row of texts.
 */
static BemiType *
describe_composite(BemiTypes *types, TypeEntry *entry, int depth)
{
	BemiType   *type = make_type(entry->oid, BEMI_TYPE_COMPOSITE);
	int			limit = list_length(entry->parts);
	TupleDesc	row;
	ListCell   *cell;

	type->field_names = palloc(sizeof(char *) * limit);
	type->field_types = palloc(sizeof(BemiType *) * limit);
	foreach(cell, entry->parts)
	{
		const BemiTypePart *part = lfirst(cell);

		if (part->kind != 'f' || part->name == NULL)
			continue;
		type->field_names[type->field_count] = pstrdup(part->name);
		type->field_types[type->field_count] =
			describe_type(types, part->other, depth + 1);
		type->field_count++;
	}
	if (type->field_count > MaxTupleAttributeNumber)
		return make_type(entry->oid, BEMI_TYPE_TEXT);

	row = CreateTemplateTupleDesc(type->field_count);
	for (int i = 1; i <= type->field_count; i++)
		TupleDescInitEntry(row, i, NULL, TEXTOID, -1, 0);
	row = BlessTupleDesc(row);
	fmgr_info(F_RECORD_IN, &type->input);
	type->input_parameter = row->tdtypeid;
	type->input_typmod = row->tdtypmod;
	return type;
}

/*
 * Whether this is the known function, and written in C.
 */
static bool
is_known_function(Oid oid, const KnownFunction *known)
{
	HeapTuple	proc = SearchSysCache1(PROCOID, ObjectIdGetDatum(oid));
	Datum		library;
	Datum		symbol;
	bool		no_library;
	bool		no_symbol;
	bool		result;

	if (!HeapTupleIsValid(proc))
		return false;
	library = SysCacheGetAttr(PROCOID, proc, Anum_pg_proc_probin, &no_library);
	symbol = SysCacheGetAttr(PROCOID, proc, Anum_pg_proc_prosrc, &no_symbol);
	result = ((Form_pg_proc) GETSTRUCT(proc))->prolang == ClanguageId &&
		!no_library &&
		strcmp(TextDatumGetCString(library), known->library) == 0 &&
		!no_symbol &&
		strcmp(TextDatumGetCString(symbol), known->symbol) == 0;
	ReleaseSysCache(proc);
	return result;
}

/*
 * The function that casts a type to json, or InvalidOid.
 */
static Oid
json_cast_of(Oid type)
{
	HeapTuple	cast =
		SearchSysCache2(CASTSOURCETARGET, ObjectIdGetDatum(type),
						ObjectIdGetDatum(JSONOID));
	Oid			function = InvalidOid;

	if (HeapTupleIsValid(cast))
	{
		function = ((Form_pg_cast) GETSTRUCT(cast))->castfunc;
		ReleaseSysCache(cast);
	}
	return function;
}

/*
 * Whether the input function and the cast to json may be called.
 */
static bool
is_known_json_type(Oid input, Oid cast)
{
	for (int i = 0; i < lengthof(known_json_types); i++)
		if (is_known_function(input, &known_json_types[i].input) &&
			is_known_function(cast, &known_json_types[i].to_json))
			return true;
	return false;
}

/*
 * Describes a type with a cast to json.  It becomes text if the type or its
 * cast is not the one that was described, or may not be called.
 */
static BemiType *
describe_json_cast(Oid oid, Oid cast)
{
	BemiType   *type;
	Oid			input;
	Oid			parameter;

	if (get_typtype(oid) != TYPTYPE_BASE || json_cast_of(oid) != cast)
		return make_type(oid, BEMI_TYPE_TEXT);
	getTypeInputInfo(oid, &input, &parameter);
	if (!is_known_json_type(input, cast))
		return make_type(oid, BEMI_TYPE_TEXT);

	type = make_type(oid, BEMI_TYPE_JSON_CAST);
	type->input_parameter = parameter;
	type->input_typmod = -1;
	fmgr_info(input, &type->input);
	fmgr_info(cast, &type->output);
	return type;
}

/*
 * Describes a type from its parts.
 */
static const BemiType *
describe_parts(BemiTypes *types, TypeEntry *entry, int depth)
{
	ListCell   *cell;

	foreach(cell, entry->parts)
	{
		const BemiTypePart *part = lfirst(cell);

		switch (part->kind)
		{
			case 'd':
				return describe_type(types, part->other, depth + 1);
			case 'a':
				return describe_array(types, entry->oid, part, depth);
			case 'c':
				return describe_composite(types, entry, depth);
			case 'j':
				return describe_json_cast(entry->oid, part->other);
		}
	}
	return make_type(entry->oid, BEMI_TYPE_TEXT);
}

static const BemiType *
describe_type(BemiTypes *types, Oid oid, int depth)
{
	const BemiType *type;
	TypeEntry  *entry = type_entry_for(types, oid);

	CHECK_FOR_INTERRUPTS();
	if (entry->described != NULL)
		return entry->described;
	if (type_is_built_in(oid))
		type = describe_known(types, oid);
	else if (depth > DEEPEST_TYPE)
		type = make_type(oid, BEMI_TYPE_TEXT);
	else
		type = describe_parts(types, entry, depth);

	entry->described = type;
	return type;
}

/*
 * Describes a type.  A type without parts is text.
 */
const BemiType *
bemi_type_of(BemiTypes *types, Oid oid)
{
	return describe_type(types, oid, 0);
}

/*
 * The parts of a source elsewhere, without casts: they name functions to call,
 * which are valid only in this database.
 */
List *
bemi_type_parts_elsewhere(const List *parts)
{
	List	   *accepted = NIL;
	ListCell   *cell;

	foreach(cell, parts)
	{
		if (((BemiTypePart *) lfirst(cell))->kind != 'j')
			accepted = lappend(accepted, lfirst(cell));
	}
	return accepted;
}
