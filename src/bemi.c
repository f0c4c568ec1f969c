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
 *	SET bemi.context -> context.c  checks it
 *	INSERT, UPDATE.. -> capture.c  writes the
 *	                    context message, then
 *	                    the row's own WAL
 *	                    walsender  decodes it   ->  stream.c    connection
 *	                    with pgoutput               protocol.c  bytes -> events
 *	                                                stitch.c    + context
 *	                                                row_json.c  values -> jsonb
 *	                                                history.c   -> bemi.changes
 *
 * worker.c owns the loop of the right-hand side and its faults.  Around it are
 * worker_source.c (its row, slot and origin), worker_reader.c (is this the server
 * that may read the source, or a copy of it?), worker_gap.c (has anything been
 * lost?) with worker_witness.c and worker_timeline.c (has the source gone back?),
 * worker_unreadable.c (what the source cannot decode), worker_guard.c
 * (slots that keep too much), worker_stray.c (slots that nobody reads),
 * worker_launcher.c (keeps the workers running),
 * worker_state.c (what they say of themselves, in shared memory),
 * worker_control.c (bemi.start(), bemi.stop(), bemi.drop_source(), bemi.sync()),
 * worker_horizon.c (up to which time the history is complete),
 * worker_standby.c (why they are no synchronous standbys), and
 * worker_yield.c with worker_pause.c (how they give way to DROP DATABASE).
 *
 * Other steps have second files, too: context_comment.c (the comment behind a
 * statement), context_facts.c (bemi.include, bemi.require_context), capture_statement.c (how statements nest),
 * capture_message.c (which message stands), stitch_context.c (what is kept of a context),
 * stream_connection.c (libpq), stream_hint.c (what to type when a source refuses),
 * stream_encoding.c (texts in other encodings),
 * stream_source.c (what else is asked of a source), stream_answer.c (takes values out of
 * the answers), stream_description.c (what a
 * table is like beside its columns), stream_probe.c (where a transaction ends that the
 * source cannot send), stream_secret.c (what it signs that with),
 * row_description.c (applies that), row_type.c (what types are made of),
 * row_rules.c (what is ignored or redacted), history_partition.c (where rows go),
 * history_index.c (how they are found), history_stored.c (what the worker reads
 * there), history_code.c (what users have put on the history, and as whom it runs),
 * history_retention.c (how long they stay),
 * history_protect.c (DROP EXTENSION).
 * Which tables are tracked: track.c (bemi.track()), track_table.c (trigger and replica
 * identity of one table), track_publication.c (its place in the publication),
 * track_schema.c (schemas that are tracked), track_ddl.c (follows commands),
 * track_command.c (what a command has done), track_listing.c (what the publication
 * lists), track_rows.c (rows that change without a change), track_message.c (tells the
 * worker, signed by hmac.c), track_describe.c (what a table is like), track_rules.c (rules
 * for its columns), track_refuse.c (commands that are refused), track_restore.c (tables
 * that are restored alone), track_rights.c and
 * track_catalog.c (for whom, and look-ups).
 * Gaps, the tables and the views are in bemi--1.0.sql.  compat.h knows
 * the versions of PostgreSQL.
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

#include "bemi.h"

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
	bemi_history_retention_init();
	bemi_worker_init();

	MarkGUCPrefixReserved("bemi");
}
