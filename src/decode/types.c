/*-------------------------------------------------------------------------
 *
 * types.c
 *		What the types of the source's columns are made of.
 *
 * In flow the OIDs that the stream gives and, for types that are not the
 * server's own, the parts that the source's catalog gives
 * (stream/descriptions.c); out flow descriptions by which row_json.c converts
 * the texts of values.
 *
 * The rules are those of jsonb_categorize_type() in the server's jsonb.c, or,
 * from 17 on, json_categorize_type() in jsonfuncs.c: a domain is what it is
 * over, arrays and composites are taken apart, a type with a cast to json is
 * what that makes of it, most others are their text.
 *
 * The worker is a superuser, so it calls no function of a type but those that
 * are known to run no SQL and to look at nothing beside their arguments.  The
 * whole list: array_in() for arrays of texts and of boxes, the inputs of
 * int2vector and oidvector, the outputs of box, int2 and oid, record_in() for
 * rows of texts, and the functions of hstore in known_json_types[].  So the
 * input of a domain, whose constraint calls what its owner likes, is never
 * called, nor that of a composite with such a field.  That a cast to json is
 * written in C proves nothing: PostGIS' geometry looks up its crs by SQL, in a
 * table that somebody else may own.
 *
 * Each type is described once for a relation, however often it takes part: a
 * few composites, each with two fields of the one before, would else be
 * millions.
 *
 * A description lives in the memory context that was current when it was made,
 * the relation's.  Needs a transaction.
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
 * Deeper than any type that somebody needs; what a broken source may say ends
 * there.
 */
#define DEEPEST_TYPE	64

/* What is known of one type while a relation's types are described. */
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
 * Types whose cast to json may be called, by the functions that make json out
 * of their text.  To add one, read both functions: neither may run SQL, look
 * into catalogs, or keep anything in fn_extra that is more than one chunk of
 * memory.
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
 * Begins to describe types, of which these are the parts; lives in the current
 * memory context.
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
 * Whether something is known of a type.
 */
bool
bemi_types_know(BemiTypes *types, Oid oid)
{
	return bemi_type_is_known(oid) ||
		hash_search(types->entries, &oid, HASH_FIND, NULL) != NULL;
}

/*
 * Whether a type is one of the server's own, which is the same everywhere.
 * Rows of system catalogs are not: they differ between versions.
 */
bool
bemi_type_is_known(Oid type)
{
	Oid			element = get_element_type(type);

	return type < FirstGenbkiObjectId &&
		get_typtype(OidIsValid(element) ? element : type) != TYPTYPE_COMPOSITE;
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
 * An array, which "input" reads as one of the type "parsed_as".
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
 * One of the server's own array types.  Those with another way to write them
 * (int2vector), or another delimiter than the comma (box[]), are read as what
 * they are.
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
 * One of the server's own types.
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

	/* A newer server may have some that this one has not: texts, then. */
	element = get_element_type(oid);
	if (OidIsValid(element))
		return describe_known_array(types, oid, element);
	return make_type(oid, BEMI_TYPE_TEXT);
}

/*
 * An array of a type that is not the server's own.  Its elements are read as
 * texts if commas separate them, or as boxes if they are that, or a domain
 * over it.
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
 * A composite: read as a row of texts, one for each field.
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
 * Whether a function is in C and this one.
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
 * Whether a type is still what it was when it was described, and its cast to
 * json one that may be called.
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
 * A type with a cast to json.
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
 * A type that is made of parts.
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
	if (bemi_type_is_known(oid))
		type = describe_known(types, oid);
	else if (depth > DEEPEST_TYPE)
		type = make_type(oid, BEMI_TYPE_TEXT);
	else
		type = describe_parts(types, entry, depth);

	entry->described = type;
	return type;
}

/*
 * Describes a type.  What its parts leave out is taken for a text.
 */
const BemiType *
bemi_type_of(BemiTypes *types, Oid oid)
{
	return describe_type(types, oid, 0);
}

/*
 * The parts without what is only to be believed of this very database: casts,
 * which are functions to be called.
 */
List *
bemi_type_parts_elsewhere(const List *parts)
{
	List	   *believed = NIL;
	ListCell   *cell;

	foreach(cell, parts)
	{
		if (((BemiTypePart *) lfirst(cell))->kind != 'j')
			believed = lappend(believed, lfirst(cell));
	}
	return believed;
}
