/*-------------------------------------------------------------------------
 *
 * stitch_context.c
 *		The stored form of a context.
 *
 * Input: the content of a context message, which any SQL user may have
 * written.  Output: the jsonb that is stored with the changes after it, in the
 * current memory context.
 *
 * First the limits.  The sessions of the source have checked
 * bemi.max_context_size and bemi.max_context_keys, but a forged message skips
 * this check, and the source may have other settings.  So the worker checks
 * its own settings, on the bytes in the stream's buffer: a message that is too
 * large is neither copied nor converted nor parsed.  An allowance is made for
 * the fields that bemi.include has added after the session's check.
 *
 * Then the copies.  All rows of a statement have its context, and applications
 * put complete request bodies there: a thousand rows with a context of 1 MB
 * would be a history of 1 GB.  So only the first change in a transaction with
 * a large context stores all of it.  Those after it store its small members,
 * by which queries and the GIN index still find them, and the id of that first
 * change under the reserved key "_whole". bemi.full_context() follows this
 * key.  Both changes have one commit time, so they are in one partition, and
 * retention drops them together.
 *
 * What must never happen: a "_whole" that the worker has not written is
 * stored.  The client's own is removed from every context, whatever its size.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "context/context.h"
#include "decode/decode_internal.h"
#include "stream/stream.h"

/*
 * Reserved keys: the id of the change with the complete context, and the
 * fields of bemi.include.
 */
#define WHOLE_KEY		"_whole"
#define SERVER_FIELDS_KEY	"_db"

/*
 * A context that is larger as jsonb is stored once in a transaction.  At about
 * this size PostgreSQL begins to compress a row and to move values out of
 * line, which costs more than the context's own size (bench/contexts).
 */
#define LARGE_CONTEXT	2048

/*
 * The changes after the first one keep members with values of at most
 * SMALL_VALUE bytes, until ROOM is used.  Most rows then stay below the size
 * at which PostgreSQL compresses them.
 */
#define SMALL_VALUE		256
#define ROOM			768

/* A member takes this much in addition to its key and value, with padding. */
#define MEMBER_OVERHEAD	(2 * sizeof(JEntry) + 3)

/* The small members of a context, while they are collected. */
typedef struct SmallMembers
{
	JsonbParseState *state;
	int			room;			/* bytes that are left */
} SmallMembers;

static JsonbValue *
find_member(const Jsonb *context, const char *key, JsonbValue *value)
{
	return getKeyJsonValueFromContainer((JsonbContainer *) &context->root,
										key, strlen(key), value);
}

/*
 * The context that is in a text of this database's encoding, palloc'd; NULL if
 * it is not a valid one.
 */
static Jsonb *
context_of_text(const char *text, int len)
{
	Jsonb	   *context = bemi_text_to_jsonb(text, len);
	JsonbValue	value;

	if (context == NULL || !JB_ROOT_IS_OBJECT(context))
		return NULL;
	if (find_member(context, WHOLE_KEY, &value) != NULL)
		context = DatumGetJsonbP(
								 DirectFunctionCall2(jsonb_delete, JsonbPGetDatum(context),
													 PointerGetDatum(
																	 cstring_to_text(WHOLE_KEY))));
	return context;
}

/*
 * The context of a message, palloc'd; NULL if it is not a valid one.
 */
Jsonb *
bemi_context_of_message(BemiStream *stream, const char *content, int len)
{
	char	   *text;

	Assert(IsTransactionState());
	if (bemi_context_is_too_large(content, len) ||
		memchr(content, '\0', len) != NULL)
		return NULL;
	text = bemi_stream_text(stream, (char *) content, &len);
	return context_of_text(text, len);
}

/*
 * The context in a tracking message, palloc'd; NULL if there is none, or it is
 * not a valid one.
 */
Jsonb *
bemi_context_of_tracking(const Jsonb *message)
{
	JsonbValue	value;

	if (find_member(message, "context", &value) == NULL ||
		value.type != jbvString ||
		bemi_context_is_too_large(value.val.string.val, value.val.string.len))
		return NULL;
	return context_of_text(value.val.string.val, value.val.string.len);
}

/*
 * Whether the context is stored only once in a transaction.
 */
bool
bemi_context_is_large(const Jsonb *context)
{
	return VARSIZE(context) > LARGE_CONTEXT;
}

/*
 * Size of a value within a jsonb.
 */
static int
json_value_size(const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvString:
			return value->val.string.len;
		case jbvNumeric:
			return VARSIZE_ANY(value->val.numeric);
		case jbvBinary:
			return value->val.binary.len;
		default:
			return 0;
	}
}

/*
 * Reserves room for a member.  Returns false if there is not enough.
 */
static bool
reserve_member_room(SmallMembers *members, const JsonbValue *key, int size)
{
	int			needed = key->val.string.len + size + MEMBER_OVERHEAD;

	if (needed > members->room)
		return false;
	members->room -= needed;
	return true;
}

static void push_object(SmallMembers *members, JsonbContainer *object);

/*
 * Pushes a member if it is small, otherwise the small members in it.
 */
static void
push_member(SmallMembers *members, JsonbValue *key, JsonbValue *value)
{
	bool		is_small = json_value_size(value) <= SMALL_VALUE;
	bool		is_object = value->type == jbvBinary &&
		JsonContainerIsObject(value->val.binary.data);

	if ((!is_small && !is_object) ||
		!reserve_member_room(members, key,
							 is_small ? json_value_size(value) : 0))
		return;
	(void) pushJsonbValue(&members->state, WJB_KEY, key);
	if (is_small)
		(void) pushJsonbValue(&members->state, WJB_VALUE, value);
	else
		push_object(members, value->val.binary.data);
}

/*
 * Pushes either the scalars among the members of an object, or the others.
 */
static void
push_members(SmallMembers *members, JsonbContainer *object, bool scalars)
{
	JsonbIterator *iterator = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue	key;
	JsonbValue	value;

	(void) JsonbIteratorNext(&iterator, &key, true);	/* the object begins */
	while (members->room > 0 &&
		   (token = JsonbIteratorNext(&iterator, &key, true)) == WJB_KEY)
	{
		(void) JsonbIteratorNext(&iterator, &value, true);
		if (key.val.string.len == strlen(SERVER_FIELDS_KEY) &&
			members->state->next == NULL &&
			memcmp(key.val.string.val, SERVER_FIELDS_KEY,
				   strlen(SERVER_FIELDS_KEY)) == 0)
			continue;			/* already pushed */
		if ((value.type != jbvBinary) == scalars)
			push_member(members, &key, &value);
	}
}

/*
 * Pushes an object with its small members.  The scalars come first, because
 * most queries search for those.  Each level takes room, which bounds the
 * recursion.
 */
static void
push_object(SmallMembers *members, JsonbContainer *object)
{
	(void) pushJsonbValue(&members->state, WJB_BEGIN_OBJECT, NULL);
	push_members(members, object, true);
	push_members(members, object, false);
	(void) pushJsonbValue(&members->state, WJB_END_OBJECT, NULL);
}

static void
push_text_key(SmallMembers *members, const char *name)
{
	JsonbValue	key = {.type = jbvString};

	key.val.string.val = (char *) name;
	key.val.string.len = strlen(name);
	(void) pushJsonbValue(&members->state, WJB_KEY, &key);
}

/*
 * The small members of a large context, for the changes after the one that has
 * all of it; in the current memory context.  The fields of bemi.include have
 * room of their own, because no client's keys may displace them.
 */
Jsonb *
bemi_context_small_members(const Jsonb *context, const pg_uuid_t *holder)
{
	SmallMembers members = {NULL, ROOM};
	JsonbContainer *root = (JsonbContainer *) &context->root;
	JsonbValue	fields;
	JsonbValue	id = {.type = jbvString};

	Assert(JB_ROOT_IS_OBJECT(context));
	id.val.string.val =
		DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(holder)));
	id.val.string.len = strlen(id.val.string.val);

	(void) pushJsonbValue(&members.state, WJB_BEGIN_OBJECT, NULL);
	push_text_key(&members, WHOLE_KEY);
	(void) pushJsonbValue(&members.state, WJB_VALUE, &id);
	if (find_member(context, SERVER_FIELDS_KEY, &fields) != NULL &&
		fields.type == jbvBinary &&
		JsonContainerIsObject(fields.val.binary.data))
	{
		push_text_key(&members, SERVER_FIELDS_KEY);
		push_object(&members, fields.val.binary.data);
		members.room = ROOM;
	}
	push_members(&members, root, true);
	push_members(&members, root, false);
	return JsonbValueToJsonb(
							 pushJsonbValue(&members.state, WJB_END_OBJECT, NULL));
}
