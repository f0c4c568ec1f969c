/*-------------------------------------------------------------------------
 *
 * as_of_keys.c
 *		Primary keys as native values, and sets of them.
 *
 * Two keys are equal if the primary key's index would refuse the second one.
 * For most types that means that their bytes are equal (BTEQUALIMAGE_PROC of
 * the index).  Other keys, such as numeric, are compared by the operators of
 * their types.  A primary key always has the default operator class.
 *
 * A set grows with the number of keys that changed since the time, and is in
 * memory.  A key that is one number takes at most 64 bytes in it.  Most rows
 * of a table have not changed, and to find that out in a hash table takes
 * several cache misses.  So a bitmap says first which hashes it has.  It has
 * at least 8 bits for each entry, so that a cache of the processor can hold
 * it.
 *
 * Rows with neighbouring numbers are often neighbours in the table, too.  So
 * an entry stands for a block of 64 numbers, and the last one asked for is
 * kept.  Only a set that gives keys numbers of its own has an entry for each.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/nbtree.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/typcache.h"

#include "query/query_internal.h"

/* An entry: the value, a pointer to the values, or the number of a block. */
typedef struct KeyEntry
{
	Datum		value;
	union
	{
		int64		number;		/* of the caller */
		uint64		members;	/* keys of the block, a bit for each */
	};
	uint32		hash;
	char		status;
} KeyEntry;

static uint32 hash_key(const BemiKey *key, Datum entry);
static bool entries_equal(const BemiKey *key, Datum a, Datum b);

#define SH_PREFIX		keys
#define SH_ELEMENT_TYPE	KeyEntry
#define SH_KEY_TYPE		Datum
#define SH_KEY			value
#define SH_HASH_KEY(tb, entry)	\
	hash_key((const BemiKey *) (tb)->private_data, entry)
#define SH_EQUAL(tb, a, b)	\
	entries_equal((const BemiKey *) (tb)->private_data, a, b)
#define SH_STORE_HASH
#define SH_GET_HASH(tb, a)	(a)->hash
#define SH_SCOPE		static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* Bits of the bitmap of hashes, and bits for a key, as powers of 2. */
#define LEAST_BITS		12
#define MOST_BITS		30
#define BITS_PER_KEY	3

/* Keys of a block, as a power of 2. */
#define BLOCK_BITS		6

struct BemiKeySet
{
	const BemiKey *key;
	int			bits;			/* size of "hashes", as a power of 2 */
	uint64	   *hashes;			/* those that the set has */
	MemoryContext memory;		/* of the values */
	keys_hash  *entries;
	Datum		last_block;		/* asked for, if the key is a number */
	uint64		last_members;	/* of it */
};

/*
 * Hash of one value.  Only the set uses it, so it may differ between servers.
 */
static uint32
hash_value(const BemiKey *key, int i, Datum value)
{
	if (key->by_image)
		return datum_image_hash(value, key->values_by_value[i], key->lens[i]);
	return DatumGetUInt32(FunctionCall1Coll((FmgrInfo *) &key->hash[i],
											key->collations[i], value));
}

static uint32
hash_key(const BemiKey *key, Datum entry)
{
	const Datum *values = (const Datum *) DatumGetPointer(entry);
	uint32		hash = 0;

	if (key->by_value)
		return murmurhash32((uint32) ((uint64) entry >> 32) ^ (uint32) entry);
	for (int i = 0; i < key->count; i++)
		hash = hash_combine(hash, hash_value(key, i, values[i]));
	return murmurhash32(hash);
}

static bool
values_equal(const BemiKey *key, int i, Datum a, Datum b)
{
	if (key->by_image)
		return datum_image_eq(a, b, key->values_by_value[i], key->lens[i]);
	return DatumGetBool(FunctionCall2Coll((FmgrInfo *) &key->equals[i],
										  key->collations[i], a, b));
}

bool
bemi_keys_equal(const BemiKey *key, const Datum *a, const Datum *b)
{
	for (int i = 0; i < key->count; i++)
	{
		if (!values_equal(key, i, a[i], b[i]))
			return false;
	}
	return true;
}

static bool
entries_equal(const BemiKey *key, Datum a, Datum b)
{
	if (key->by_value)
		return a == b;
	return bemi_keys_equal(key, (const Datum *) DatumGetPointer(a),
						   (const Datum *) DatumGetPointer(b));
}

/* ---------- the key of a table ---------- */

/*
 * How the values of a column are compared.  Throws an error if its type has no
 * hash function, which some types of extensions lack.
 */
static void
prepare_comparison(BemiKey *key, int i, Form_pg_attribute column)
{
	TypeCacheEntry *type;

	key->values_by_value[i] = column->attbyval;
	key->lens[i] = column->attlen;
	key->collations[i] = column->attcollation;
	if (key->by_image)
		return;
	type = lookup_type_cache(column->atttypid,
							 TYPECACHE_EQ_OPR_FINFO |
							 TYPECACHE_HASH_PROC_FINFO);
	if (!OidIsValid(type->hash_proc_finfo.fn_oid) ||
		!OidIsValid(type->eq_opr_finfo.fn_oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("could not identify a hash function for type %s",
						format_type_be(column->atttypid))));
	fmgr_info(type->hash_proc_finfo.fn_oid, &key->hash[i]);
	fmgr_info(type->eq_opr_finfo.fn_oid, &key->equals[i]);
}

/*
 * Whether a type is an array, or composed of some.  JSON lacks the first
 * number of an array, so two different ones can have the same image.
 */
static bool
contains_array(Oid type)
{
	TupleDesc	fields;
	bool		found = false;

	check_stack_depth();
	type = getBaseType(type);
	if (OidIsValid(get_element_type(type)))
		return true;
	if (get_typtype(type) != TYPTYPE_COMPOSITE)
		return false;
	fields = lookup_rowtype_tupdesc(type, -1);
	for (int i = 0; i < fields->natts && !found; i++)
		found = !TupleDescAttr(fields, i)->attisdropped &&
			contains_array(TupleDescAttr(fields, i)->atttypid);
	ReleaseTupleDesc(fields);
	return found;
}

static bool
is_usable(Relation index)
{
	return index->rd_index->indisprimary && index->rd_index->indisvalid &&
		index->rd_rel->relam == BTREE_AM_OID;
}

static BemiKey *
make_key(Relation table, Relation index)
{
	BemiKey    *key = palloc0(sizeof(BemiKey));

	key->index = RelationGetRelid(index);
	key->count = IndexRelationGetNumberOfKeyAttributes(index);
	key->is_in_images = true;
	key->by_image = _bt_allequalimage(index, false);
	for (int i = 0; i < key->count; i++)
	{
		AttrNumber	attnum = index->rd_index->indkey.values[i];

		Form_pg_attribute column =
			TupleDescAttr(RelationGetDescr(table), attnum - 1);

		key->attnums[i] = attnum;
		prepare_comparison(key, i, column);
		if (contains_array(column->atttypid))
			key->is_in_images = false;
	}
	key->tells_apart = key->is_in_images && index->rd_index->indimmediate;
	key->by_value = key->count == 1 && key->by_image &&
		key->values_by_value[0];
	return key;
}

/*
 * The primary key of a table, in the current memory context; NULL if it has
 * none.
 */
BemiKey *
bemi_key_create(Relation table)
{
	List	   *indexes = RelationGetIndexList(table);
	BemiKey    *key = NULL;
	ListCell   *cell;

	foreach(cell, indexes)
	{
		Relation	index = index_open(lfirst_oid(cell), AccessShareLock);

		if (is_usable(index))
			key = make_key(table, index);
		index_close(index, NoLock);
	}
	list_free(indexes);
	return key;
}

/*
 * A value in the form that it has in a table's row.  The upper bits of one
 * that is passed by value depend on where it comes from: input functions of
 * unsigned types and JIT code leave them 0, fetch_att() extends the sign.
 */
Datum
bemi_stored_form(Datum value, bool by_value, int16 len)
{
	Datum		bytes = 0;

	if (!by_value)
		return value;
	store_att_byval(&bytes, value, len);
	return fetch_att(&bytes, true, len);
}

/*
 * The same for the values of a key, in place.
 */
void
bemi_key_to_stored_form(const BemiKey *key, Datum *values)
{
	for (int i = 0; i < key->count; i++)
		values[i] = bemi_stored_form(values[i], key->values_by_value[i],
									 key->lens[i]);
}

/*
 * The key of an image.  False if it lacks a part of it.
 */
bool
bemi_key_of_image(const BemiKey *key, BemiRowMaker *maker,
				  const BemiRowImage *image, Datum *values)
{
	for (int i = 0; i < key->count; i++)
	{
		bool		is_null;

		values[i] = bemi_make_column(maker, key->attnums[i], image, &is_null);
		if (is_null)
			return false;
	}
	bemi_key_to_stored_form(key, values);
	return true;
}

/*
 * The key of a row of the table.  The values point into the slot.  False if a
 * part of it is NULL, because it was not the key then.
 */
bool
bemi_key_of_slot(const BemiKey *key, TupleTableSlot *slot, Datum *values)
{
	for (int i = 0; i < key->count; i++)
	{
		bool		is_null;

		values[i] = slot_getattr(slot, key->attnums[i], &is_null);
		if (is_null)
			return false;
	}
	bemi_key_to_stored_form(key, values);
	return true;
}

/* ---------- sets ---------- */

static uint64 *
word_of_hash(const BemiKeySet *set, uint32 hash, uint64 *bit)
{
	uint32		number = hash >> (32 - set->bits);

	*bit = UINT64CONST(1) << (number % 64);
	return &set->hashes[number / 64];
}

static void
add_hash(BemiKeySet *set, uint32 hash)
{
	uint64		bit;

	*word_of_hash(set, hash, &bit) |= bit;
}

/*
 * Makes a bitmap of this size, of all entries.
 */
static void
make_hashes(BemiKeySet *set, int bits)
{
	keys_iterator place;
	const KeyEntry *entry;

	if (set->hashes != NULL)
		pfree(set->hashes);
	set->bits = bits;
	set->hashes =
		MemoryContextAllocZero(set->memory, ((Size) 1 << bits) / 8);
	keys_start_iterate(set->entries, &place);
	while ((entry = keys_iterate(set->entries, &place)) != NULL)
		add_hash(set, entry->hash);
}

/*
 * An empty set, in the current memory context.
 */
BemiKeySet *
bemi_key_set_create(const BemiKey *key)
{
	BemiKeySet *set = palloc0(sizeof(BemiKeySet));

	set->key = key;
	set->memory = AllocSetContextCreate(CurrentMemoryContext, "bemi keys",
										ALLOCSET_DEFAULT_SIZES);
	set->entries = keys_create(CurrentMemoryContext, 256, (void *) key);
	make_hashes(set, LEAST_BITS);
	return set;
}

static Datum
copy_values(BemiKeySet *set, const Datum *values)
{
	const BemiKey *key = set->key;
	MemoryContext caller = MemoryContextSwitchTo(set->memory);
	Datum	   *copy = palloc(sizeof(Datum) * key->count);

	for (int i = 0; i < key->count; i++)
		copy[i] = key->lens[i] == -1 ?
			PointerGetDatum(PG_DETOAST_DATUM_COPY(values[i])) :
			datumCopy(values[i], key->values_by_value[i], key->lens[i]);
	MemoryContextSwitchTo(caller);
	return PointerGetDatum(copy);
}

static KeyEntry *
insert_key(BemiKeySet *set, const Datum *values, bool *found)
{
	Datum		entry =
		set->key->by_value ? values[0] : PointerGetDatum(values);
	uint32		hash = hash_key(set->key, entry);
	KeyEntry   *place = keys_insert_hash(set->entries, entry, hash, found);

	if (*found)
		return place;
	place->number = 0;
	if (!set->key->by_value)
		place->value = copy_values(set, values);
	if (set->entries->members > ((uint64) 1 << (set->bits - BITS_PER_KEY)) &&
		set->bits < MOST_BITS)
		make_hashes(set, set->bits + 1);
	else
		add_hash(set, hash);
	return place;
}

static uint64
bit_in_block(Datum value)
{
	return UINT64CONST(1) << (value & ((1 << BLOCK_BITS) - 1));
}

/*
 * Adds a number to its block.  False if the set has it already.
 */
static bool
add_to_block(BemiKeySet *set, Datum value)
{
	Datum		block = value >> BLOCK_BITS;
	uint64		bit = bit_in_block(value);
	KeyEntry   *place;
	bool		found;

	/* An UPDATE adds the key that it removes. */
	if (block == set->last_block && (set->last_members & bit) != 0)
		return false;
	place = insert_key(set, &block, &found);
	found = (place->members & bit) != 0;
	place->members |= bit;
	set->last_block = block;
	set->last_members = place->members;
	return !found;
}

/*
 * Adds a copy of a key.  False if the set has it already.
 */
bool
bemi_key_set_add(BemiKeySet *set, const Datum *values)
{
	bool		found;

	if (set->key->by_value)
		return add_to_block(set, values[0]);
	(void) insert_key(set, values, &found);
	return !found;
}

/*
 * Gives a key a number, and adds it if the set does not have it.
 */
void
bemi_key_set_number(BemiKeySet *set, const Datum *values, int64 number)
{
	bool		found;

	insert_key(set, values, &found)->number = number;
}

/*
 * The number of a key; 0 if it has none.
 */
int64
bemi_key_set_number_of(BemiKeySet *set, const Datum *values)
{
	Datum		entry =
		set->key->by_value ? values[0] : PointerGetDatum(values);
	const KeyEntry *place = keys_lookup(set->entries, entry);

	return place ? place->number : 0;
}

static const KeyEntry *
find_entry(const BemiKeySet *set, Datum entry)
{
	uint32		hash = hash_key(set->key, entry);
	uint64		bit;

	return (*word_of_hash(set, hash, &bit) & bit) == 0 ? NULL :
		keys_lookup_hash(set->entries, entry, hash);
}

/*
 * Whether a set that gives no numbers has a key.
 */
bool
bemi_key_set_contains(BemiKeySet *set, const Datum *values)
{
	const KeyEntry *place;
	Datum		block;

	if (!set->key->by_value)
		return find_entry(set, PointerGetDatum(values)) != NULL;
	block = values[0] >> BLOCK_BITS;
	if (block != set->last_block)
	{
		place = find_entry(set, block);
		set->last_members = place ? place->members : 0;
		set->last_block = block;
	}
	return (set->last_members & bit_in_block(values[0])) != 0;
}

bool
bemi_key_set_is_empty(const BemiKeySet *set)
{
	return set->entries->members == 0;
}
