/*-------------------------------------------------------------------------
 *
 * bemi.c
 *		The map: bemi keeps the history of every row, with the reason for
 *		each change.
 *
 * bemi is a logical-replication subscriber that keeps the history instead of
 * the state, plus triggers that write the application's context into the
 * write-ahead log (WAL).  The way of one change:
 *
 *	application         source database           destination database
 *	-----------         ---------------           --------------------
 *	SET bemi.context -> context/  checks it
 *	INSERT, UPDATE.. -> capture/  writes the
 *	                    context message, then
 *	                    the row's own WAL
 *	                    walsender decodes it  ->  stream/  connection
 *	                    with pgoutput             decode/  bytes -> changes
 *	                                              store/   -> bemi.changes
 *
 * The rooms, from the ground up.  A room includes only public headers of rooms
 * that come before it in this list.  test/rooms checks that.
 *
 *	extension/	the extension's own objects, calls of SQL, rights, settings,
 *				signatures
 *	context/	the context of a statement, and what the server adds to it
 *	track/		which tables are tracked; follows DDL
 *	capture/	the hooks that write the context into the WAL
 *	stream/		the connection to a source, its stream, and queries to it
 *	store/		writes bemi.changes and maintains it
 *	decode/		turns pgoutput into changes with context; calls store/
 *	worker/		the processes that read sources, and their control
 *	query/		reads the history
 *	revert/		takes changes back
 *
 * docs/internals/rooms.md names each file.  The SQL is in sql/, by room, too.
 * compat.h has the differences between versions of PostgreSQL.
 *
 * Words, the same in C, SQL and documents:
 *
 *	context			the JSON object that the application sets: who, where, how
 *	context message	the context as a transactional logical message in the WAL,
 *					prefix "_bemi"
 *	change			one row inserted, updated or deleted, or one table
 *					truncated: one row of bemi.changes
 *	tracked table	a table with bemi's statement trigger, REPLICA IDENTITY
 *					FULL, and a row in the publication "bemi"
 *	source			a database whose WAL is read
 *	destination		the database that holds bemi.changes; by default the
 *					source itself
 *	worker			the process that reads one source and writes its changes
 *	rule			excludes parts of a tracked table: ignored columns, redacted
 *					values
 *	gap				a time from which changes may be missing: one row of
 *					bemi.gaps
 *	slot, origin	the worker's position, recorded at the source (replication
 *					slot) and at the destination (replication origin)
 *	signing key		verifies that a tracking message comes from the source
 *	tracking message	a signed message in the WAL: tracking of a table begins
 *					or ends, and its description
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "capture/capture.h"
#include "context/context.h"
#include "decode/decode.h"
#include "extension/extension.h"
#include "query/query.h"
#include "store/store.h"
#include "track/track.h"
#include "worker/worker.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

/*
 * If the library is preloaded, everything works.  If it is loaded later, by
 * the first call of one of its functions, contexts are captured, and functions
 * that need workers throw an error with the missing setting.
 */
void
_PG_init(void)
{
	bemi_extension_init();
	bemi_context_init();
	bemi_capture_init();
	bemi_truncate_init();
	bemi_rules_init();
	bemi_store_maintenance_init();
	bemi_worker_init();
	bemi_as_of_plan_init();

	MarkGUCPrefixReserved("bemi");
}
