/*-------------------------------------------------------------------------
 *
 * stray.c
 *		Stray slots: slots of bemi without a reader, at a source on another
 *		server.
 *
 * A history that was dumped and restored on another server creates a slot of
 * its own.  The slot of the former server stays at the source and keeps WAL
 * until it is dropped.  But no server can know whether it is still needed: it
 * may belong to a history that is only stopped, or whose server is down.  So
 * the worker shows such slots in bemi.status and in the log, with the line to
 * type.  What must never happen: it drops one.
 *
 * The worker asks when it connects, and when it checks its own slot
 * (slot_limit.c).  Slots of this server's own sources, in any database, are
 * left out, because bemi.status shows these sources.  They are recognized by
 * their origins, which exist before the slots.  Their entries in shared memory
 * are not enough: after a restart they are created only by a discovery worker,
 * which may be late, or cannot connect.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "lib/stringinfo.h"

#include "stream/stream.h"
#include "worker/worker_internal.h"

/*
 * Room for the longest name, the size of the WAL, and the number of omitted
 * slots.
 */
#define LONGEST_ENTRY	(NAMEDATALEN + 40)

/*
 * The origins of all sources of this server, in the current memory context.  A
 * destination transaction may be open.
 */
static List *
list_origins(void)
{
	MemoryContext caller = CurrentMemoryContext;
	List	   *origins;

	if (IsTransactionState())
		return bemi_list_origins(InvalidOid);
	bemi_begin_transaction();
	MemoryContextSwitchTo(caller);
	origins = bemi_list_origins(InvalidOid);
	bemi_end_transaction();
	return origins;
}

/* Copies of the entries of this server's sources. */
typedef struct Known
{
	BemiEntry  *entries;
	int			count;
	List	   *origins;
} Known;

/*
 * Whether a slot belongs to the source with this origin.  If no worker has
 * read the source's row since the server started, only the beginning of the
 * slot's name is known.
 */
static bool
is_slot_of(const Known *known, const char *origin, const char *slot)
{
	int			len = strlen(origin);

	for (int i = 0; i < known->count; i++)
	{
		const BemiEntry *entry = &known->entries[i];
		char		name[NAMEDATALEN];

		snprintf(name, NAMEDATALEN, "bemi_%u_%s", entry->database,
				 entry->source);
		if (entry->slot[0] != '\0' && strcmp(name, origin) == 0)
			return strcmp(entry->slot, slot) == 0;
	}
	return strncmp(origin, slot, len) == 0 &&
		(slot[len] == '_' || slot[len] == '\0');
}

/*
 * Whether a slot belongs to a source of this server.
 */
static bool
is_known_here(const Known *known, const char *slot)
{
	ListCell   *cell;

	foreach(cell, known->origins)
	{
		if (is_slot_of(known, lfirst(cell), slot))
			return true;
	}
	return false;
}

/*
 * The slots as "name (48 MB), ...", palloc'd.
 */
static char *
list_strays(const List *slots)
{
	StringInfoData list;
	Known		known = {0};
	ListCell   *cell;
	int			left_out = 0;

	if (slots != NIL)
	{
		known.origins = list_origins();
		known.count = bemi_entry_copy_all(&known.entries, NULL);
	}
	initStringInfo(&list);
	foreach(cell, slots)
	{
		BemiIdleSlot *slot = lfirst(cell);

		if (is_known_here(&known, slot->name))
			continue;
		if (list.len + LONGEST_ENTRY > BEMI_STRAYS_LEN)
			left_out++;
		else
			appendStringInfo(&list, "%s%s (%s)", list.len > 0 ? ", " : "",
							 slot->name, slot->kept);
	}
	if (left_out > 0)
		appendStringInfo(&list, " and %d more", left_out);
	return list.data;
}

/*
 * Asks the source for stray slots.  They are logged if there were none before.
 */
void
bemi_look_for_strays(BemiStream *stream)
{
	char	   *strays =
		list_strays(bemi_stream_idle_slots(stream, bemi_slot_name));

	if (bemi_facts_set_strays(strays))
		ereport(LOG,
				(errmsg("bemi: slots without a reader keep write-ahead log at source \"%s\": %s",
						bemi_source_name, strays),
				 errdetail("Each may belong to a former server of this history, or to a history that is only stopped."),
				 errhint("To drop one, at the source: SELECT pg_drop_replication_slot('%s');",
						 pnstrdup(strays, strcspn(strays, " ")))));
}
