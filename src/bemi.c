/*-------------------------------------------------------------------------
 *
 * bemi.c
 *		The map: bemi keeps the history of every row, with the reason for
 *		each change.
 *
 * bemi is a logical-replication subscriber that keeps the history instead of
 * the state, plus the triggers that put the application's context into the
 * write-ahead log (WAL).  The way of one change, one file for each step:
 *
 *	application         source database             destination database
 *	-----------         ---------------             --------------------
 *	SET bemi.context -> context/context.c  checks it
 *	INSERT, UPDATE.. -> capture/capture.c  writes the
 *	                    context message, then
 *	                    the row's own WAL
 *	                    walsender  decodes it   ->  stream/replication.c    connection
 *	                    with pgoutput               decode/protocol.c  bytes -> events
 *	                                                decode/stitch.c    + context
 *	                                                decode/row_json.c  values -> jsonb
 *	                                                store/writer.c   -> bemi.changes
 *
 * worker/worker.c owns the loop of the right-hand side and its faults.  Around
 * it are worker/source.c (its row, slot and origin), worker/reader.c (is this
 * the server that may read the source, or a copy of it?), worker/loss_check.c
 * (has anything been lost?) with worker/witness.c and worker/timeline.c (has
 * the source gone back?), worker/unreadable.c (what the source cannot decode),
 * worker/slot_limit.c (slots that keep too much), worker/stray.c (slots that
 * nobody reads), worker/launcher.c (keeps the workers running), worker/entry.c
 * (what they say of themselves, in shared memory), worker/control.c
 * (bemi.start(), bemi.stop(), bemi.drop_source(), bemi.sync()),
 * worker/horizon.c (up to which time the history is complete),
 * worker/standby.c (why they are no synchronous standbys), and
 * worker/database_ddl.c with worker/pause.c (how they give way to DROP
 * DATABASE).
 *
 * Other steps have second files, too: context/comment.c (the comment behind a
 * statement), context/server_fields.c (bemi.include, bemi.require_context),
 * capture/statement.c (how statements nest), capture/message.c (which message
 * stands), decode/stitch_context.c (what is kept of a context),
 * stream/connection.c (libpq), stream/hint.c (what to type when a source
 * refuses), stream/encoding.c (texts in other encodings),
 * stream/source_queries.c (what else is asked of a source), stream/answer.c
 * (takes values out of the answers), stream/descriptions.c (what a table is
 * like beside its columns), stream/probe.c (where a transaction ends that the
 * source cannot send), stream/verify.c (what it signs that with),
 * decode/description.c (applies that), decode/types.c (what types are made
 * of), decode/rules.c (what is ignored or redacted), store/partition.c (where
 * rows go), store/index.c (how they are found), store/stored.c (what the
 * worker reads there), store/user_code.c (what users have put on the history,
 * and as whom it runs), store/maintenance.c (how long they stay),
 * store/drop_protection.c (DROP EXTENSION).  Which tables are tracked:
 * track/track.c (bemi.track()), track/table.c (trigger and replica identity of
 * one table), track/publication.c (its place in the publication),
 * track/schema.c (schemas that are tracked), track/ddl.c (follows commands),
 * track/command.c (what a command has done), track/listing.c (what the
 * publication lists), track/rows.c (rows that change without a change),
 * track/message.c (tells the worker, signed by extension/hmac.c),
 * track/describe.c (what a table is like), track/rules.c (rules for its
 * columns), track/refuse.c (commands that are refused), track/restore.c
 * (tables that are restored alone), track/rights.c and track/catalog.c (for
 * whom, and look-ups).  Gaps, the tables and the views are in bemi--1.0.sql.
 * compat.h knows the versions of PostgreSQL.
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
#include "decode/decode.h"
#include "store/store.h"
#include "worker/worker.h"

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
	bemi_context_init();
	bemi_capture_init();
	bemi_rules_init();
	bemi_store_maintenance_init();
	bemi_worker_init();

	MarkGUCPrefixReserved("bemi");
}
