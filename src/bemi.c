/*-------------------------------------------------------------------------
 *
 * bemi.c
 *		The map: bemi keeps the history of every row, with the reason for
 *		each change.
 *
 * bemi is a logical-replication subscriber that keeps the history instead of
 * the state, plus the triggers that put the application's context into the
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
 * The rooms, each with one public header:
 *
 *	extension/	Ground floor.  settings.c pins settings, hmac.c signs.
 *	context/	context.c checks the setting, comment.c finds the comment behind
 *				a statement, server_fields.c adds what bemi.include asks for.
 *	capture/	capture.c has the hooks, statement.c how statements nest,
 *				message.c which message is valid.
 *	track/		track.c is bemi.track(); table.c has trigger and replica identity
 *				of one table, publication.c its place in the publication,
 *				schema.c the tracked schemas.  ddl.c follows commands, which
 *				command.c lists; listing.c follows the publication, rows.c rows
 *				that change without DML.  message.c and describe.c write what
 *				the worker must know; rules.c has the rules for columns.
 *				refuse.c refuses commands, restore.c is for tables that are
 *				restored alone, rights.c and catalog.c check and look up.
 *	stream/		connection.c is libpq, replication.c the stream,
 *				source_queries.c and answer.c ask the source, descriptions.c
 *				asks it for tables, encoding.c converts, probe.c finds where an
 *				undecodable transaction ends, wal.c reads WAL bytes, verify.c
 *				checks signatures, hint.c knows what to type.
 *	decode/		protocol.c reads pgoutput, types.c and row_json.c make JSON,
 *				description.c and rules.c apply what is known of a table,
 *				stitch.c joins change and context, stitch_context.c shortens it.
 *	store/		writer.c writes bemi.changes, partition.c and index.c know where,
 *				user_code.c as whom users' code runs, stored.c reads back,
 *				maintenance.c drops old partitions, drop_protection.c guards
 *				DROP EXTENSION.
 *	worker/		worker.c is the loop, entry.c its place in shared memory,
 *				launcher.c starts it, source.c has its row, slot and origin,
 *				control.c is bemi.start() and its like.  loss_check.c finds what
 *				was lost, with witness.c, trace.c and timeline.c; reader.c finds
 *				out whether this server is a copy, stray.c slots without a
 *				reader, slot_limit.c slots that keep too much, unreadable.c
 *				what the source cannot decode, horizon.c up to which time the
 *				history is complete, standby.c why the worker is no synchronous
 *				standby.  database_ddl.c and pause.c give way to DROP DATABASE.
 *
 * The SQL is in sql/, by room, too. compat.h knows the versions of PostgreSQL.
 *
 * Words, the same in C, SQL and documents:
 *
 *	context			the JSON object that the application sets: who, where, how
 *	context message	the context as a transactional logical message in the WAL,
 *					prefix "_bemi"
 *	change			one row inserted, updated or deleted, or one table
 *					truncated: one row of bemi.changes
 *	tracked table	a table with bemi's statement trigger, REPLICA IDENTITY
 *					FULL, and a place in the publication "bemi"
 *	source			a database whose WAL is read
 *	destination		the database that holds bemi.changes; by default the
 *					source itself
 *	worker			the process that reads one source and writes its changes
 *	rule			says what of a tracked table is not kept: ignored columns,
 *					redacted values
 *	gap				a time from which changes may be missing: one row of
 *					bemi.gaps
 *	slot, origin	the source's and the destination's record of how far the
 *					worker has come (the server's replication slot and
 *					replication origin)
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "capture/capture.h"
#include "context/context.h"
#include "decode/decode_internal.h"
#include "extension/extension.h"
#include "store/store.h"
#include "worker/worker_internal.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

/*
 * Loaded by shared_preload_libraries, all of bemi works.  Loaded later, by the
 * first call of one of its functions, contexts are captured, and what needs
 * the workers says what is missing.
 */
void
_PG_init(void)
{
	bemi_extension_init();
	bemi_context_init();
	bemi_capture_init();
	bemi_rules_init();
	bemi_store_maintenance_init();
	bemi_worker_init();

	MarkGUCPrefixReserved("bemi");
}
