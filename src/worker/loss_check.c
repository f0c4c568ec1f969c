/*-------------------------------------------------------------------------
 *
 * loss_check.c
 *		Loss check: before it streams, a worker checks whether changes were
 *		lost.
 *
 * The destination has the position up to which it has stored (the origin), and
 * the source's identity at the last connection (the row of bemi.sources).  The
 * source reports its identity now, and the state of its slot.  If these do not
 * fit, changes may be missing.  Then a gap is written into bemi.gaps and
 * flushed first, and only after that is a new slot created or the origin
 * moved.  If a worker dies in between, the next one closes the open gap.  What
 * must never happen: a new slot without a recorded gap.
 *
 * If the source cannot decode a transaction (unreadable.c), only this one is
 * skipped.  The source sends no transaction whose commit record starts before
 * the position that the stream is started from.  So the origin moves one byte
 * beyond the start of that record, and the slot stays.  The gap is closed and
 * covers only this transaction.  Writing it twice changes nothing.
 *
 * Whether the source was restored to an earlier state, and whether a new slot
 * is needed, are two questions.  The first is answered by its timelines
 * (timeline.c), by the end of its WAL, by the transactions that it sends again
 * (witness.c), and by reading its WAL (trace.c) if there is no slot or the
 * slot is ahead of the history.  If none of these proves anything, the gap
 * begins with the history.
 *
 * The slot is never confirmed beyond the origin (see bemi_store_advance()).
 * So a slot that is ahead of the origin shows that the destination has lost
 * changes, for example because it was restored from a backup.  A history that
 * came with a dump has no slot and no origin.  But it has the identity of its
 * source and its last transaction (_bemi.source_progress), so it is compared
 * with the source, too.
 *
 * The stream contains which tables are tracked.  At its beginning they are
 * read from the source's catalog.  This is repeated once if the signing key
 * has changed, and at each connection if the source has no extension.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/timestamp.h"

#include "store/store.h"
#include "stream/stream.h"
#include "worker/worker_internal.h"

/* The result of comparing a source with the history. */
typedef struct Finding
{
	const BemiSourceIdentity *identity;
	char	   *system_identifier;
	BemiSlot	slot;
	XLogRecPtr	origin;
	BemiFacts	known;			/* what earlier workers have left */
	char	   *published;		/* tables of the publication */

	const char *reason;			/* code of bemi.gaps; NULL: nothing was lost */
	const char *detail;			/* for bemi.gaps; NULL: the default sentence
								 * of the code */
	const char *unproven;		/* for bemi.gaps: what is not proven, and what
								 * to do */
	XLogRecPtr	proven;			/* up to here the slot proves that the source
								 * has the stored changes; InvalidXLogRecPtr:
								 * it proves nothing */
	bool		history_is_old; /* the history was restored, not the source */
	XLogRecPtr	resume;			/* where to continue with this slot;
								 * InvalidXLogRecPtr: create another one */
	XLogRecPtr	parted_at;		/* the source still has the WAL before this
								 * position */
	bool		went_back;		/* and stored changes after it are undone */
	BemiWitness witness;		/* to be awaited, if nothing was lost */
	bool		skips;			/* only one transaction is lost */
} Finding;

/*
 * Whether the database has been renamed since the last connection.
 */
static bool
is_renamed(const Finding *finding, const BemiSourceRow *row)
{
	return row->database == NULL ||
		strcmp(row->database, finding->identity->database) != 0;
}

/*
 * Whether this is not the source that the slot was created on.  A slot belongs
 * to a database's OID, so it shows that a database was only renamed.
 */
static bool
is_another_source(const Finding *finding, const BemiSourceRow *row)
{
	if (row->system_identifier != NULL &&
		strcmp(row->system_identifier, finding->system_identifier) != 0)
		return true;
	return finding->slot.exists ? !finding->slot.here :
		is_renamed(finding, row);
}

/*
 * Records that the source lacks the changes that are stored after "position".
 */
static void
record_way_back(Finding *finding, XLogRecPtr position)
{
	finding->went_back = true;
	finding->parted_at = position;
}

/*
 * The first position at which the source's WAL is known to differ from the WAL
 * that was read: by its timelines, or because it ends there.
 */
static XLogRecPtr
find_divergence(const Finding *finding, const BemiSourceRow *row)
{
	const BemiSourceIdentity *identity = finding->identity;

	return Min(identity->position,
			   bemi_timelines_part_at(row->timeline, row->ancestors,
									  identity->timeline,
									  identity->ancestors));
}

/*
 * Compares transactions, because the source may have been restored.  The slot
 * sends all transactions since its position again.  Reading continues after
 * the last of these that is stored.
 */
static void
compare_commits(BemiStream *stream, Finding *finding, const BemiSourceRow *row)
{
	XLogRecPtr	end = Min(finding->origin, finding->identity->position);
	XLogRecPtr	common =
		bemi_find_last_common(stream, finding->slot.confirmed, end);
	bool		undone;

	finding->resume =
		XLogRecPtrIsInvalid(common) ? finding->slot.confirmed : common + 1;
	undone = bemi_stores_undone(finding->resume, finding->origin);
	if (undone)
	{
		finding->reason = row->timeline != finding->identity->timeline ?
			"timeline_changed" : "source_went_back";
		record_way_back(finding, finding->resume);
	}
}

/*
 * Finds the witness: the transaction that the source must still have.
 */
static void
find_witness(Finding *finding)
{
	BemiStored *stored = &finding->witness.stored;

	bemi_find_witness(finding->slot.confirmed, finding->origin,
					  &finding->witness);
	finding->resume = XLogRecPtrIsInvalid(stored->commit_lsn) ?
		finding->slot.confirmed : stored->commit_lsn + 1;
}

/*
 * Finds losses if the slot is intact: the source or the destination may have
 * been restored to an earlier state.
 */
static void
compare_positions(BemiStream *stream, Finding *finding,
				  const BemiSourceRow *row)
{
	XLogRecPtr	confirmed = finding->slot.confirmed;

	if (finding->parted_at < Min(finding->origin, confirmed))
	{
		finding->reason = "timeline_changed";
		finding->resume = finding->parted_at;
		record_way_back(finding, finding->parted_at);
	}
	else if (confirmed > finding->origin)
	{
		finding->reason = "history_went_back";
		finding->resume = confirmed;
		finding->history_is_old = true;
		finding->detail =
			"This database was restored to an earlier state, or a standby was promoted without changes that were confirmed to the source.";
	}
	else if (finding->parted_at < finding->origin ||
			 finding->known.must_compare)
		compare_commits(stream, finding, row);
	else
		find_witness(finding);
}

/*
 * Whether the source's WAL differs from the WAL that was read.
 */
static bool
is_on_other_path(const Finding *finding, const BemiSourceRow *row)
{
	return row->timeline != finding->identity->timeline ||
		finding->parted_at < finding->identity->position;
}

/*
 * Finds the reason why there is no slot.
 */
static void
find_lost_slot(Finding *finding, const BemiSourceRow *row)
{
	if (row->timeline != finding->identity->timeline ||
		finding->parted_at < Min(finding->origin, finding->identity->position))
		finding->reason = "timeline_changed";
	else if (finding->parted_at < finding->origin)
		finding->reason = "source_went_back";
	else
		finding->reason = finding->slot.made ? "slot_lost" : "slot_dropped";
}

/*
 * The error that has ended the former worker, palloc'd.
 */
static char *
last_error(void)
{
	BemiEntry	entry;

	bemi_entry_copy_mine(&entry);
	return pstrdup(entry.error);
}

/*
 * Keeps the slot after all, and resets the count of failures.
 */
static void
keep_slot(const Finding *finding)
{
	bemi_facts_keep_slot(finding->known.give_up);
	bemi_forget_unreadable();
}

/*
 * Finds the loss after the source has failed several times.  It is one
 * transaction if that can be found, otherwise everything that the slot has not
 * sent.
 */
static void
find_failed_commit(BemiStream *stream, Finding *finding,
				   const BemiSourceRow *row)
{
	XLogRecPtr	at_row = finding->known.unreadable.row;

	finding->reason = "slot_unreadable";
	finding->detail =
		psprintf("The source fails to decode its write-ahead log: %s.",
				 last_error());
	if (finding->known.unreadable.tries == 0 || XLogRecPtrIsInvalid(at_row) ||
		!finding->slot.made || finding->slot.lost)
		return;
	/* Transactions that committed after the row was written may be stored. */
	finding->resume =
		bemi_stream_find_commit(stream, bemi_slot_name, at_row,
								finding->origin, finding->identity->position);
	if (finding->resume == finding->origin)
	{
		/*
		 * It no longer fails, or only at a stored transaction.  So no witness
		 * is needed.
		 */
		keep_slot(finding);
		finding->reason = finding->detail = NULL;
		finding->resume = InvalidXLogRecPtr;
		compare_positions(stream, finding, row);
		memset(&finding->witness, 0, sizeof(BemiWitness));
	}
	else if (!XLogRecPtrIsInvalid(finding->resume))
	{
		finding->reason = "transaction_unreadable";
		finding->skips = true;
	}
}

/*
 * Finds what was lost, for a source that had a slot.
 */
static void
find_loss(BemiStream *stream, Finding *finding, const BemiSourceRow *row)
{
	finding->parted_at = find_divergence(finding, row);
	if (is_another_source(finding, row))
	{
		finding->reason = "server_changed";
		finding->detail =
			psprintf("The former source was database \"%s\" of system %s. Slot \"%s\" may still exist there.",
					 row->database, row->system_identifier, bemi_slot_name);
	}
	else if (finding->known.give_up == BEMI_GIVE_UP_LAG)
		finding->reason = "max_slot_lag";
	else if (finding->known.give_up == BEMI_GIVE_UP_UNREADABLE)
		find_failed_commit(stream, finding, row);
	else if (!finding->slot.made || finding->slot.lost)
		find_lost_slot(finding, row);
	else
		compare_positions(stream, finding, row);
}

/*
 * The source no longer has the last stored transaction.  Finds how many of the
 * stored ones it has.
 */
static void
find_undone(BemiStream *stream, Finding *finding, const BemiSourceRow *row,
			XLogRecPtr gone)
{
	XLogRecPtr	common =
		bemi_trace_common(stream, finding->identity, finding->proven, gone);
	XLogRecPtr	parted_at =
		XLogRecPtrIsInvalid(common) ? finding->proven : common + 1;

	if (!bemi_stores_undone(parted_at, finding->origin))
		return;
	if (!is_on_other_path(finding, row) && !finding->history_is_old)
		finding->reason = "source_went_back";
	finding->parted_at = parted_at;
	if (!XLogRecPtrIsInvalid(parted_at))
		return;
	finding->unproven =
		psprintf("The source went back to an unknown position before %X/%X. Later changes, which it no longer has, remain in the history. If you know the time to which it went back:",
				 LSN_FORMAT_ARGS(gone));
}

/*
 * The source has removed the WAL that would prove its state.  A server that
 * was not restarted was not restored.  One with another timeline shows by that
 * where its WAL differs.  Changes that the slot proves are certain.
 */
static void
find_no_proof(Finding *finding, const BemiSourceRow *row,
			  const BemiStored *last, const char *refusal)
{
	if (is_on_other_path(finding, row) ||
		(row->started_at != 0 &&
		 row->started_at == finding->identity->started_at))
		return;
	if (finding->parted_at < finding->origin)
		record_way_back(finding, finding->parted_at);
	finding->unproven =
		psprintf("Nothing proves that the source still has the changes that are stored%s: it was restarted, and transaction %u at %X/%X cannot be found in its WAL (%s).%s",
				 XLogRecPtrIsInvalid(finding->proven) ?
				 "" :
				 psprintf(" after %X/%X",
						  LSN_FORMAT_ARGS(finding->proven)),
				 last->xid, LSN_FORMAT_ARGS(last->commit_lsn), refusal,
				 XLogRecPtrIsInvalid(finding->proven) ? " If it has them:" :
				 "");
}

/*
 * Reads the source's WAL to find out whether it still has the stored changes.
 * A new slot does not show that, nor does a slot that is ahead of the history.
 * Positions that the former slot has confirmed need no proof, because the
 * slot's state is as old as its WAL.  The worker's own server needs none,
 * because restoring it restores the history, too.
 */
static void
trace_stored(BemiStream *stream, Finding *finding, const BemiSourceRow *row)
{
	XLogRecPtr	to = Min(finding->origin, finding->parted_at);
	BemiStored	last;
	char	   *refusal;

	if (bemi_source_is_local)
		return;
	if (row->slot_made && finding->slot.confirmed <= finding->origin)
		finding->proven = finding->slot.confirmed;
	switch (bemi_trace_last(stream, finding->identity, finding->proven, to,
							&last, &refusal))
	{
		case BEMI_TRACE_FOUND:
			break;
		case BEMI_TRACE_GONE:
			find_undone(stream, finding, row, last.commit_lsn);
			break;
		case BEMI_TRACE_UNKNOWN:
			find_no_proof(finding, row, &last, refusal);
			break;
	}
}

/*
 * The time up to which the history is complete.
 */
static BemiUntil
complete_until(void)
{
	BemiFacts	known;

	bemi_facts_copy_mine(&known);
	return known.synced.time > known.until.time ? known.synced : known.until;
}

/*
 * Opens a gap, unless one is open.  Within the current transaction.
 */
static void
record_gap(const char *reason, XLogRecPtr from, const char *detail,
		   bool goes_back, bool proven)
{
	BemiUntil	until = complete_until();
	BemiValue	arguments[] = {
		bemi_sql_text(bemi_source_name),
		bemi_sql_text(reason), bemi_sql_lsn(from), bemi_sql_text(detail),
		bemi_sql_null_if(until.time == 0, bemi_sql_time(until.time)),
		bemi_sql_null_if(until.time == 0, bemi_sql_lsn(until.position)),
		bemi_sql_bool(goes_back), bemi_sql_bool(proven)
	};

	bemi_sql_run("SELECT _bemi.open_gap($1, $2, $3, $4, $5, $6, $7, $8)",
				 arguments, lengthof(arguments));
}

/*
 * The detail of a gap, palloc'd; NULL if there is none.
 */
static char *
describe_loss(const Finding *finding)
{
	StringInfoData detail;

	initStringInfo(&detail);
	if (finding->detail != NULL)
		appendStringInfoString(&detail, finding->detail);
	if (finding->went_back && !XLogRecPtrIsInvalid(finding->parted_at))
		appendStringInfo(&detail,
						 "%sThe source went back to %X/%X. Later changes, which it no longer has, remain in the history.",
						 detail.len > 0 ? " " : "",
						 LSN_FORMAT_ARGS(finding->parted_at));
	if (finding->unproven != NULL)
		appendStringInfo(&detail, "%s%s", detail.len > 0 ? " " : "",
						 finding->unproven);
	return detail.len > 0 ? detail.data : NULL;
}

/*
 * Records that the source has no slot, within the current transaction.
 */
static void
forget_slot(void)
{
	BemiValue	source = bemi_sql_text(bemi_source_name);

	bemi_sql_run("UPDATE bemi.sources SET slot_made = false WHERE name = $1",
				 &source, 1);
}

/*
 * Records the loss and flushes it.  Without a proof, the gap begins where the
 * slot's proof ends, or with the history.
 */
static void
record_loss(const Finding *finding)
{
	bool		from_slot =
		finding->unproven != NULL && !XLogRecPtrIsInvalid(finding->proven);
	XLogRecPtr	from =
		finding->went_back ? finding->parted_at : finding->origin;

	ereport(LOG,
			(errmsg("bemi: changes of source \"%s\" may be lost: %s",
					bemi_source_name, finding->reason),
			 errhint("bemi.gaps shows the period.")));

	bemi_begin_transaction();
	record_gap(finding->reason, from_slot ? finding->proven : from,
			   describe_loss(finding), finding->went_back || from_slot,
			   finding->unproven == NULL || from_slot);
	if (XLogRecPtrIsInvalid(finding->resume))
		forget_slot();
	ForceSyncCommit();
	bemi_end_transaction();
}

/*
 * Creates a slot and returns the position from which it sees every commit, and
 * the descriptions of the tables there.  An existing slot is dropped first.
 * It may have been given up, and would send stored changes again.  Or an
 * earlier worker has died after creating it, and its descriptions are lost.
 */
static XLogRecPtr
create_slot(BemiStream *stream, const Finding *finding, char **descriptions)
{
	XLogRecPtr	position;
	char	   *snapshot;

	bemi_entry_set_state(BEMI_STATE_MAKING_SLOT);
	if (finding->slot.exists)
		bemi_stream_drop_slot(stream, bemi_slot_name);
	position = bemi_stream_create_slot(stream, bemi_slot_name, &snapshot);
	*descriptions = bemi_stream_descriptions(stream, snapshot);
	return position;
}

/*
 * Records the source's identity for the next comparison, within the current
 * transaction.  It is stored twice, because a dump does not contain
 * bemi.sources.
 */
static void
update_identity(const Finding *finding)
{
	const BemiSourceIdentity *identity = finding->identity;
	BemiValue	arguments[] = {
		bemi_sql_text(bemi_source_name),
		bemi_sql_text(finding->system_identifier),
		bemi_sql_int8(identity->timeline), bemi_sql_text(identity->database),
		bemi_sql_text(identity->ancestors)
	};

	bemi_sql_run("UPDATE bemi.sources SET slot_made = true, system_identifier = $2,"
				 " timeline = $3, database = $4, timeline_ancestors = $5 WHERE name = $1",
				 arguments, lengthof(arguments));
	bemi_sql_run("UPDATE _bemi.source_progress SET system_identifier = $2,"
				 " timeline = $3, database = $4, timeline_ancestors = $5 WHERE source = $1",
				 arguments, lengthof(arguments));
	bemi_sql_run("UPDATE _bemi.source_tables SET server = pg_catalog.format('%s/%s', $2, $4)"
				 " WHERE source = $1",
				 arguments, 4);
}

/*
 * Records the start time of the source's server, within the current
 * transaction.  It is not in bemi.sources, because it changes with each
 * restart and a session may have locked that row.
 */
static void
record_start_time(const Finding *finding)
{
	BemiValue	arguments[] = {
		bemi_sql_text(bemi_source_name),
		bemi_sql_time(finding->identity->started_at)
	};

	bemi_sql_run("UPDATE _bemi.source_progress SET server_started_at = $2 WHERE source = $1",
				 arguments, lengthof(arguments));
}

/*
 * Records the version of the source's signing key, within the current
 * transaction.
 */
static void
update_signing_key(BemiStream *stream)
{
	BemiValue	arguments[] = {
		bemi_sql_text(bemi_source_name),
		bemi_sql_text(bemi_stream_signing_key_version(stream))
	};

	bemi_sql_run("SELECT _bemi.record_key_version($1, $2)", arguments,
				 lengthof(arguments));
	(void) bemi_stream_signing_key_is_new(stream);
}

/*
 * Forgets positions that may no longer be valid, within the current
 * transaction.  Later losses are either later than the time up to which the
 * history is complete, or in the gap that ends now.
 */
static void
forget_positions(XLogRecPtr position, TimestampTz now)
{
	BemiValue	arguments[] = {
		bemi_sql_text(bemi_source_name), bemi_sql_lsn(position),
		bemi_sql_time(now)
	};

	bemi_sql_run("UPDATE _bemi.source_progress SET changed_lsn = NULL, changed_at = NULL, changed_xid = NULL,"
				 " stored_lsn = $2, stored_until = least(stored_until, $3) WHERE source = $1",
				 arguments, lengthof(arguments));
	bemi_facts_forget_positions(position, now);
}

/*
 * Begins to read at "position": closes the gap and moves the origin there.
 * Moving the origin is not transactional, so it comes last.  A new slot comes
 * with descriptions of the tables.
 */
static void
begin_reading_at(BemiStream *stream, const Finding *finding,
				 XLogRecPtr position, const char *descriptions)
{
	char	   *server = psprintf("%s/%s", finding->system_identifier,
								  finding->identity->database);

	/* The list was read first, so its tables were tracked at this time. */
	char	   *published = bemi_stream_published(stream);
	TimestampTz now = bemi_stream_now(stream);
	BemiValue	arguments[] = {
		bemi_sql_text(bemi_source_name), bemi_sql_text(server),
		bemi_sql_lsn(finding->went_back ? Max(finding->origin, position) :
					 position),
		bemi_sql_time(now), bemi_sql_json(finding->published),
		bemi_sql_json(published), bemi_sql_json(descriptions)
	};

	bemi_begin_transaction();
	update_signing_key(stream);
	bemi_sql_run("SELECT _bemi.close_gap($1, $2, $3, $4, $5, $6, $7)",
				 arguments, lengthof(arguments));
	update_identity(finding);
	record_start_time(finding);
	forget_positions(position, now);
	bemi_set_origin(position);
	ForceSyncCommit();
	bemi_end_transaction();

	bemi_facts_begin_reading(finding->known.give_up);
	if (finding->skips)
		bemi_record_skipped_transaction();
	else
		bemi_forget_unreadable();
}

/*
 * Compares the known tables with those of the publication, if the source sends
 * no tracking messages or its signing key has changed.  Messages with the
 * former key can no longer be verified, so some may be missing, and all stored
 * descriptions become stale.  "always": compares in any case.
 */
static void
compare_published(BemiStream *stream, const Finding *finding, bool always)
{
	const BemiSourceIdentity *identity = finding->identity;
	char	   *server =
		psprintf("%s/%s", finding->system_identifier, identity->database);
	TimestampTz until = finding->known.until.time;
	BemiValue	arguments[8] = {
		bemi_sql_text(bemi_source_name), bemi_sql_text(server),
		bemi_sql_lsn(finding->origin),
		bemi_sql_time(until ? until : DT_NOBEGIN),
		bemi_sql_lsn(identity->position),
		bemi_sql_time(bemi_stream_now(stream)),
		bemi_sql_json(finding->published)
	};

	bemi_begin_transaction();
	arguments[7] = bemi_sql_text(bemi_stream_signing_key_version(stream));
	/* As if the signing key had changed. */
	if (always)
		bemi_sql_run("SELECT _bemi.record_key_version($1, NULL)", arguments,
					 1);
	bemi_sql_run("SELECT _bemi.compare_published($1, $2, $3, $4, $5, $6, $7, false)"
				 " WHERE _bemi.record_key_version($1, $8)",
				 arguments, lengthof(arguments));
	bemi_end_transaction();
	(void) bemi_stream_signing_key_is_new(stream);
}

/*
 * Sets the origin back to the last transaction with changes, or to the slot's
 * position if that is later.  Transactions after it had nothing to store.  But
 * if the source was restored since, the ones that it sends now may have
 * changes.  If the worker remembers a transaction after this position, the
 * source no longer has it.
 */
static void
set_origin_back(const Finding *finding)
{
	if (finding->resume < finding->origin)
	{
		bemi_begin_transaction();
		bemi_set_origin(finding->resume);
		bemi_end_transaction();
	}
	bemi_facts_set_back(finding->resume);
}

static bool
identity_is_known(const Finding *finding, const BemiSourceRow *row)
{
	const char *ancestors = finding->identity->ancestors;

	return row->timeline == finding->identity->timeline &&
		!is_renamed(finding, row) &&
		(ancestors == NULL || (row->ancestors != NULL &&
							   strcmp(ancestors, row->ancestors) == 0));
}

/*
 * Continues to stream if nothing was lost.
 */
static void
continue_stream(BemiStream *stream, const Finding *finding,
				const BemiSourceRow *row)
{
	compare_published(stream, finding, false);
	if (!identity_is_known(finding, row))
	{
		bemi_begin_transaction();
		update_identity(finding);
		bemi_end_transaction();
	}
	if (row->started_at != finding->identity->started_at &&
		!bemi_source_is_local)
	{
		bemi_begin_transaction();
		record_start_time(finding);
		bemi_end_transaction();
	}
	set_origin_back(finding);
}

/*
 * The detail for a skipped transaction.
 */
static char *
describe_skipped(const BemiUnreadable *skipped)
{
	StringInfoData detail;

	initStringInfo(&detail);
	appendStringInfo(&detail,
					 "Transaction %u, committed at %X/%X, has failed %d times. %s.",
					 skipped->xid, LSN_FORMAT_ARGS(skipped->commit_lsn),
					 skipped->tries, last_error());
	if (skipped->tables[0] != '\0')
		appendStringInfo(&detail,
						 " Before that, it had changed these tables: %s.",
						 skipped->tables);
	if (skipped->at_new_table)
		appendStringInfoString(&detail,
							   " It failed at a row of the last table.");
	return detail.data;
}

/*
 * Records the gap of a skipped transaction.  It begins a microsecond before
 * the commit and ends a microsecond after it.
 */
static void
record_skipped(const Finding *finding, XLogRecPtr resume)
{
	const BemiUnreadable *skipped = &finding->known.unreadable;
	TimestampTz before = skipped->committed_at - 1;
	TimestampTz after = skipped->committed_at + 1;
	BemiValue	arguments[] = {
		bemi_sql_text(bemi_source_name),
		bemi_sql_lsn(finding->origin), bemi_sql_lsn(resume),
		bemi_sql_time(IS_VALID_TIMESTAMP(before) ? before :
					  skipped->committed_at),
		bemi_sql_time(IS_VALID_TIMESTAMP(after) ? after :
					  skipped->committed_at),
		bemi_sql_text(describe_skipped(skipped))
	};

	ereport(LOG,
			(errmsg("bemi: transaction %u of source \"%s\", committed at %X/%X, is skipped",
					skipped->xid, bemi_source_name,
					LSN_FORMAT_ARGS(skipped->commit_lsn)),
			 errdetail("%s", last_error()),
			 errhint("bemi.gaps shows the details.")));
	bemi_begin_transaction();
	bemi_sql_run("SELECT _bemi.record_skipped($1, $2, $3, $4, $5, $6)",
				 arguments, lengthof(arguments));
	ForceSyncCommit();
	bemi_end_transaction();
}

/*
 * Whether the source still has the WAL that it failed at.  After a failover,
 * these positions may have other transactions.
 */
static bool
is_same_wal(const Finding *finding)
{
	return finding->known.unreadable.commit_lsn < finding->parted_at;
}

/*
 * Skips the transaction that the source cannot decode.  It may have changed
 * which tables are tracked, so these are compared.
 */
static void
skip_transaction(BemiStream *stream, const Finding *finding)
{
	XLogRecPtr	resume = finding->known.unreadable.commit_lsn + 1;

	if (resume > finding->origin)
	{
		compare_published(stream, finding, true);
		record_skipped(finding, resume);
		bemi_begin_transaction();
		bemi_set_origin(resume);
		bemi_end_transaction();
	}
	bemi_record_skipped_transaction();
}

/*
 * Finds the position of a history that came with a dump, which has no origin:
 * it ends with its last transaction.
 */
static void
find_reach(Finding *finding)
{
	BemiWitness last;

	if (!XLogRecPtrIsInvalid(finding->origin))
		return;
	bemi_find_witness(InvalidXLogRecPtr, PG_UINT64_MAX, &last);
	if (!XLogRecPtrIsInvalid(last.stored.commit_lsn))
		finding->origin = last.stored.commit_lsn + 1;
}

/*
 * Finds what was lost, for a source that has no slot yet, or whose slot was
 * given up.  A source that was never read has lost nothing.
 */
static void
find_loss_without_slot(Finding *finding, const BemiSourceRow *row)
{
	if (!row->was_read)
		return;
	find_reach(finding);
	finding->parted_at = find_divergence(finding, row);
	if (!row->gap_open)
	{
		finding->reason = "history_moved";
		finding->history_is_old = true;
		finding->detail =
			"The history came with a dump, or its database was copied. The slot of the former server keeps WAL until it is dropped; to find it, at the source: SELECT slot_name FROM pg_replication_slots WHERE slot_name LIKE 'bemi%' AND NOT active;";
	}
	else if (row->system_identifier != NULL &&
			 !is_another_source(finding, row))
		find_lost_slot(finding, row);
}

/*
 * Whether only the source's WAL can prove that the source still has the stored
 * changes.
 */
static bool
is_to_be_traced(const Finding *finding, const BemiSourceRow *row)
{
	return row->system_identifier != NULL &&
		!is_another_source(finding, row) &&
		(XLogRecPtrIsInvalid(finding->resume) ||
		 finding->slot.confirmed > finding->origin);
}

/*
 * Examines the source, finds what was lost, and records it.
 */
static void
examine_source(BemiStream *stream, Finding *finding, const BemiSourceRow *row)
{
	finding->system_identifier =
		psprintf(UINT64_FORMAT, finding->identity->system_identifier);
	finding->published = bemi_stream_published(stream);
	bemi_facts_copy_mine(&finding->known);
	bemi_stream_find_slot(stream, bemi_slot_name, &finding->slot);
	bemi_begin_transaction();
	finding->origin = bemi_origin_position();
	bemi_end_transaction();
	if (row->slot_made)
		find_loss(stream, finding, row);
	else
		find_loss_without_slot(finding, row);

	if (finding->reason == NULL)
		return;
	if (is_to_be_traced(finding, row))
	{
		trace_stored(stream, finding, row);
		if (finding->parted_at < finding->origin)
			record_way_back(finding, finding->parted_at);
	}
	record_loss(finding);
}

/*
 * Makes sure that there is a slot from which everything after the origin can
 * be read, and that a gap is recorded if changes before it may be missing.  If
 * there is a *witness, the stream must begin with it.
 */
void
bemi_secure_slot(BemiStream *stream, const BemiSourceIdentity *identity,
				 const BemiSourceRow *row, BemiWitness *witness)
{
	Finding		finding = {.identity = identity};
	XLogRecPtr	position;
	char	   *descriptions;

	examine_source(stream, &finding, row);
	if (finding.reason != NULL && !XLogRecPtrIsInvalid(finding.resume))
		begin_reading_at(stream, &finding, finding.resume, NULL);
	else if (finding.reason != NULL || !row->slot_made)
	{
		position = create_slot(stream, &finding, &descriptions);
		begin_reading_at(stream, &finding, position, descriptions);
	}
	else if (row->gap_open)		/* an earlier worker has died here */
	{
		begin_reading_at(stream, &finding, finding.resume, NULL);
		finding.known.give_up = BEMI_KEEP_SLOT;
	}
	else
		continue_stream(stream, &finding, row);

	*witness = finding.witness;
	if (finding.reason != NULL ||
		finding.known.give_up != BEMI_GIVE_UP_TRANSACTION)
		return;
	if (is_same_wal(&finding))
	{
		skip_transaction(stream, &finding);
		witness->stored.commit_lsn = InvalidXLogRecPtr;
	}
	else
		bemi_forget_unreadable();
}

/*
 * Records the end of a source that is being dropped, within the current
 * transaction.
 */
void
bemi_record_stop(void)
{
	record_gap("source_dropped", bemi_origin_position(), NULL, false, true);
}

/*
 * Records that the slot of a stopped source was given up.
 */
void
bemi_record_given_up(void)
{
	bemi_begin_transaction();
	record_gap("max_slot_lag", bemi_origin_position(), NULL, false, true);
	forget_slot();
	ForceSyncCommit();
	bemi_end_transaction();
	bemi_facts_keep_slot(BEMI_GIVE_UP_LAG);
}
