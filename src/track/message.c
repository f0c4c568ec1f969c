/*-------------------------------------------------------------------------
 *
 * message.c
 *		Writes tracking messages: which tables are tracked, through the WAL.
 *
 * Input: a table and the event.  Output: a transactional logical message with
 * the prefix "_bemi_tracking": BEMI_HMAC_LEN hexadecimal digits, which are the
 * signature of the rest, and a JSON object:
 *
 *	{"event": "began", "relation": 16385, "schema": "public", "table": "todo",
 *	 "description": {...}, "detail": null, "transaction": "733",
 *	 "command": "ALTER TABLE", "statement": "ALTER TABLE todo ...",
 *	 "context": "{\"userId\": 1}"}
 *
 * The worker receives the message in its place between the changes, and
 * applies it together with the transaction's changes.  Any user can write
 * logical messages, also copies of ours.  The signature and the transaction's
 * id show which ones are genuine.
 *
 * The signing key is the row of _bemi.signing_key.  Only superusers can read
 * that table, so it is read here, in C, within any user's DDL.  Only
 * signatures leave this file.
 *
 * What must never happen: an error rolls back a message, but not the DDL.  So
 * no caller may catch errors around these functions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xloginsert.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_control.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_publication.h"
#include "catalog/pg_publication_rel.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "extension/extension.h"
#include "track/track_internal.h"

PG_FUNCTION_INFO_V1(bemi_unstored_partition);

/*
 * The worker rejects messages of more than 32 MB (stream/verify.c).  If there
 * is no description, it asks for one.
 */
#define LONGEST_DESCRIPTION	16000000

/*
 * The value in _bemi.signing_key, palloc'd; NULL if there is none.
 */
static char *
read_signing_key_value(Relation signing_key)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *slot = table_slot_create(signing_key, NULL);
	TableScanDesc scan = table_beginscan(signing_key, snapshot, 0, NULL);
	char	   *value = NULL;

	if (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool		is_null;
		Datum		datum = slot_getattr(slot, 1, &is_null);

		if (!is_null)
			value = TextDatumGetCString(datum);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	return value;
}

/*
 * The signing key, palloc'd; NULL if there is none.  Without the extension, a
 * user's table can have that name.
 */
static char *
read_signing_key(void)
{
	Oid			relation = bemi_signing_key_oid();
	Relation	signing_key;
	char	   *value = NULL;

	if (!OidIsValid(relation) || get_rel_relkind(relation) != RELKIND_RELATION)
		return NULL;
	signing_key = try_table_open(relation, AccessShareLock);
	if (signing_key == NULL)
		return NULL;
	if (RelationGetDescr(signing_key)->natts > 0 &&
		TupleDescAttr(RelationGetDescr(signing_key), 0)->atttypid == TEXTOID)
		value = read_signing_key_value(signing_key);
	table_close(signing_key, AccessShareLock);
	return value;
}

/*
 * The key for messages that is derived from a signing key.  The last one is
 * kept, because deriving it takes as long as signing a message.
 */
static const char *
message_key(const char *signing_key)
{
	static char last_signing_key[NAMEDATALEN * 2] = "";
	static char last_key[BEMI_HMAC_LEN + 1];
	char	   *key;

	if (last_signing_key[0] != '\0' &&
		strcmp(signing_key, last_signing_key) == 0)
		return last_key;
	key = bemi_derive_key(signing_key, BEMI_KEY_TRACKING);
	if (strlen(signing_key) < sizeof(last_signing_key))
	{
		strcpy(last_key, key);
		strcpy(last_signing_key, signing_key);
	}
	return key;
}

/*
 * Signs a message and writes it.
 *
 * A row that is written next, in another subtransaction, could overtake the
 * message (see capture/message.c): an event trigger function may run in a
 * subtransaction of its own, or the client may begin one.  So a record without
 * effect is written after it.
 */
static void
write_signed_message(const char *signing_key, const char *message)
{
	const char *key = message_key(signing_key);
	StringInfoData content;

	initStringInfo(&content);
	appendStringInfoString(&content, bemi_hmac(key, message, strlen(message)));
	appendStringInfoString(&content, message);
	(void) bemi_log_message(BEMI_TRACKING_PREFIX, content.data, content.len,
							true);
	XLogBeginInsert();
	(void) XLogInsert(RM_XLOG_ID, XLOG_NOOP);
}

static void
append_message_text(StringInfo message, const char *key, const char *text)
{
	appendStringInfo(message, "\"%s\": ", key);
	if (text != NULL)
		escape_json(message, text);
	else
		appendStringInfoString(message, "null");
	appendStringInfoString(message, ", ");
}

/*
 * Writes a message.  "description" is JSON text, or NULL if the table has been
 * dropped; "detail" is a sentence for bemi.gaps, or NULL.
 */
void
bemi_emit_tracking_message(const char *event, Oid relation, const char *schema,
						   const char *table, const char *description,
						   const char *detail)
{
	char	   *signing_key =
		XLogLogicalInfoActive() ? read_signing_key() : NULL;
	StringInfoData message;

	if (signing_key == NULL)
		return;					/* it could not be read, or not be verified */
	initStringInfo(&message);
	appendStringInfoChar(&message, '{');
	append_message_text(&message, "event", event);
	appendStringInfo(&message, "\"relation\": \"%u\", ", relation);
	append_message_text(&message, "schema", schema);
	append_message_text(&message, "table", table);
	append_message_text(&message, "detail", detail);
	append_message_text(&message, "command", bemi_running_tag());
	append_message_text(&message, "statement", bemi_running_text());
	append_message_text(&message, "context", bemi_running_context());
	appendStringInfo(&message, "\"transaction\": \"%u\", ",
					 GetTopTransactionId());
	appendStringInfo(&message, "\"description\": %s}",
					 description && strlen(description) < LONGEST_DESCRIPTION ?
					 description :
					 "null");
	write_signed_message(signing_key, message.data);
}

/*
 * The first partition with rows that are not in this server's WAL, or
 * InvalidOid.
 */
static Oid
find_unlogged_partition(Oid root)
{
	ListCell   *cell;

	foreach(cell, find_all_inheritors(root, NoLock, NULL))
	{
		Oid			partition = lfirst_oid(cell);
		char		kind = get_rel_relkind(partition);

		CHECK_FOR_INTERRUPTS();
		if (kind == RELKIND_FOREIGN_TABLE ||
			(kind == RELKIND_RELATION &&
			 get_rel_persistence(partition) == RELPERSISTENCE_UNLOGGED))
			return partition;
	}
	return InvalidOid;
}

/*
 * Describes that partition, palloc'd; NULL if there is none.
 */
static char *
describe_unlogged_partition(Oid root)
{
	Oid			partition = find_unlogged_partition(root);

	if (!OidIsValid(partition))
		return NULL;
	return psprintf("%s is %s", bemi_relation_name(partition),
					get_rel_relkind(partition) == RELKIND_FOREIGN_TABLE ?
					"a foreign table" :
					"unlogged");
}

/*
 * _bemi.unstored_partition(root regclass)
 */
Datum
bemi_unstored_partition(PG_FUNCTION_ARGS)
{
	char	   *partition = describe_unlogged_partition(PG_GETARG_OID(0));

	if (partition == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(partition));
}

/*
 * Why not all changes of a published table are in the stream under its name,
 * palloc'd; NULL if all are.
 */
static char *
why_stream_is_incomplete(HeapTuple published, const Publication *publication)
{
	Oid			relation =
		((Form_pg_publication_rel) GETSTRUCT(published))->prrelid;
	Oid			root = bemi_partition_root(relation);
	const PublicationActions *actions = &publication->pubactions;
	bool		is_partitioned =
		get_rel_relkind(relation) == RELKIND_PARTITIONED_TABLE;
	char	   *unlogged;

	if (root != relation)
		return psprintf("Its changes are stored under the name of %s.",
						bemi_relation_name(root));
	if (!actions->pubinsert || !actions->pubupdate || !actions->pubdelete ||
		!actions->pubtruncate)
		return pstrdup("The publication does not publish all operations.");
	if ((is_partitioned || get_rel_relispartition(relation)) &&
		!publication->pubviaroot)
		return pstrdup("The publication does not publish changes under the name of the partition root.");
	if (!bemi_publishes_whole_rows(published))
		return pstrdup("The publication has a row filter or a column list.");
	unlogged = is_partitioned ? describe_unlogged_partition(relation) : NULL;
	return unlogged ? psprintf("Partition %s.", unlogged) : NULL;
}

/*
 * Tells what a table that the publication lists is called and what it is like,
 * and whether all changes of it are published under that name.
 */
void
bemi_emit_tracked(Oid relation)
{
	Oid			publication = get_publication_oid(BEMI_PUBLICATION, true);
	HeapTuple	published =
		SearchSysCache2(PUBLICATIONRELMAP, ObjectIdGetDatum(relation),
						ObjectIdGetDatum(publication));
	char	   *table = get_rel_name(relation);
	char	   *detail;

	if (!HeapTupleIsValid(published))
		return;
	if (table != NULL)
	{
		detail =
			why_stream_is_incomplete(published, GetPublication(publication));
		bemi_emit_tracking_message(detail ? BEMI_EVENT_ENDED :
								   BEMI_EVENT_BEGAN,
								   relation,
								   get_namespace_name(
													  get_rel_namespace(relation)),
								   table,
								   bemi_describe(relation, NULL),
								   detail);
	}
	ReleaseSysCache(published);
}

/*
 * The same for a table and all its partitions.  If the publication begins or
 * ceases to list a table, the changes of listed partitions below it are stored
 * under another name.
 */
void
bemi_emit_tracked_tree(Oid relation)
{
	ListCell   *cell;

	bemi_emit_tracked(relation);
	if (get_rel_relkind(relation) != RELKIND_PARTITIONED_TABLE)
		return;
	foreach(cell, find_all_inheritors(relation, NoLock, NULL))
	{
		CHECK_FOR_INTERRUPTS();
		if (lfirst_oid(cell) != relation)
			bemi_emit_tracked(lfirst_oid(cell));
	}
}

/*
 * Emits that a table is no longer published, or was dropped.  The message
 * contains its description, because other transactions may have written to it
 * and commit later.
 */
void
bemi_emit_tracking_ended(Oid relation, const char *schema, const char *table)
{
	bool		is_there =
		OidIsValid(relation) && get_rel_relkind(relation) != '\0';

	bemi_emit_tracking_message(BEMI_EVENT_ENDED, relation, schema, table,
							   is_there ? bemi_describe(relation, NULL) : NULL,
							   NULL);
}
