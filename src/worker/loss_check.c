/*-------------------------------------------------------------------------
 *
 * loss_check.c
 *		Has anything been lost?  What a worker finds out before it goes on.
 *
 * The destination knows how far it has come (the origin) and what the source
 * was when it connected last (the row of bemi.sources); the source says what
 * it is now, and what has become of the slot.  Where the two do not fit
 * together, changes may be missing.  That is written into bemi.gaps first,
 * flushed, and only then is the slot made anew, or the origin moved: a worker
 * that dies in between leaves a gap that is open, which the next one closes,
 * but never a slot that is new with nothing said about it.
 *
 * A transaction that the source cannot decode (unreadable.c) is skipped, and
 * nothing else: the source sends no transaction whose commit record starts
 * before the position that the stream is started from.  So the origin moves
 * one byte beyond that record's start, and the slot stays.  Its gap is a
 * closed one, as short as the transaction; to write it twice changes nothing.
 *
 * Whether the source has gone back is found out apart from whether a new slot
 * is needed: by its timelines (timeline.c), by the end of its WAL, by the
 * transactions that it sends again (witness.c), and by its WAL (trace.c) if
 * there is no slot, or if the slot is ahead of the history.  Where none of
 * them proves anything, the gap begins with the history.
 *
 * The slot is never confirmed beyond the origin (see bemi_store_advance()), so
 * one that is ahead of it shows that the destination has lost something, being
 * restored from a backup for instance.  A history that came with a dump has no
 * slot and no origin, but it has the identity of its source and the last
 * transaction (_bemi.source_progress), so it is compared with the source, too.
 *
 * Which tables are tracked comes with the stream, and at its beginning from
 * the source's catalog; for a source without the extension from there with
 * each connection, and for one with another secret once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/timestamp.h"

#include "store/store.h"
#include "stream/stream.h"
#include "worker/worker_internal.h"

/* What a connection has shown. */
typedef struct Finding
{
	const BemiSourceIdentity *identity;
	char	   *system_identifier;
	BemiSlot	slot;
	XLogRecPtr	origin;
	BemiFacts	known;			/* what earlier workers have left */
	char	   *published;		/* what the publication lists */

	const char *reason;			/* code of bemi.gaps; NULL: nothing was lost */
	const char *detail;			/* sentence for people; NULL: that of the code */
	const char *unproven;		/* what is not proven, and how to go on */
	XLogRecPtr	proven;			/* up to here the slot proves that the source
								 * has what is stored; InvalidXLogRecPtr: it
								 * proves nothing */
	bool		history_is_old; /* the reason is on this side, and stays */
	XLogRecPtr	resume;			/* from where to read on with this slot;
								 * InvalidXLogRecPtr: make another one */
	XLogRecPtr	parted_at;		/* up to here the source has the WAL that was
								 * read */
	bool		went_back;		/* and what is stored from there on is undone */
	BemiWitness witness;		/* to be met, if nothing was lost */
	bool		skips;			/* one transaction only */
} Finding;

/*
 * Whether the database has another name than the last time.
 */
static bool
is_renamed(const Finding *finding, const BemiSourceRow *row)
{
	return row->database == NULL ||
		strcmp(row->database, finding->identity->database) != 0;
}

/*
 * Whether the source is not the one that the slot was made on.  A database may
 * have been renamed; its slot goes with it.
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
 * The source lacks what is stored after "position".
 */
static void
record_way_back(Finding *finding, XLogRecPtr position)
{
	finding->went_back = true;
	finding->parted_at = position;
}

/*
 * The first position at which the source's WAL is known to be other than what
 * was read, by its timelines or because it ends before.
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
 * The source may have gone back.  Its slot sends again what has committed
 * since the slot's position: the last of these transactions that is stored is
 * where to read on.
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
 * Looks for the transaction that the source must still have.
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
 * What may have been lost without the slot's fault: the source, or the
 * destination, has gone back in time.
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
			"This database was restored, or moved on, without what it had confirmed to the source.";
	}
	else if (finding->parted_at < finding->origin ||
			 finding->known.must_compare)
		compare_commits(stream, finding, row);
	else
		find_witness(finding);
}

/*
 * Whether the source's WAL has taken another path than the one that was read.
 */
static bool
is_on_other_path(const Finding *finding, const BemiSourceRow *row)
{
	return row->timeline != finding->identity->timeline ||
		finding->parted_at < finding->identity->position;
}

/*
 * There is no slot.
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
 * What has ended the worker before this one, palloc'd.
 */
static char *
last_error(void)
{
	BemiEntry	entry;

	bemi_entry_copy_mine(&entry);
	return pstrdup(entry.error);
}

/*
 * The next worker counts failures anew.
 */
static void
keep_slot(const Finding *finding)
{
	bemi_facts_keep_slot(finding->known.give_up);
	bemi_forget_unreadable();
}

/*
 * The source has failed again and again.  What is lost is one transaction, if
 * it can be found, or else what the slot has yet to send.
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
	/* Others may have committed since the row was written, and be stored. */
	finding->resume =
		bemi_stream_find_commit(stream, bemi_slot_name, at_row,
								finding->origin, finding->identity->position);
	if (finding->resume == finding->origin)
	{
		/*
		 * It fails no longer, or only at what is stored: so no witness is
		 * asked for.
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
 * Decides what was lost, for a source that had a slot.
 */
static void
find_loss(BemiStream *stream, Finding *finding, const BemiSourceRow *row)
{
	finding->parted_at = find_divergence(finding, row);
	if (is_another_source(finding, row))
	{
		finding->reason = "server_changed";
		finding->detail =
			psprintf("Before, it was database \"%s\" of system %s, where slot \"%s\" may be left.",
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
 * The source has no longer what was stored last.  How much of what is stored
 * does it have?
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
		psprintf("The source went back to before %X/%X, to a position that its WAL does not show. Changes stored after that, which it no longer knows of, remain in the history. If you know to which time it went back:",
				 LSN_FORMAT_ARGS(gone));
}

/*
 * The source has removed the WAL that would show whether it went back.  A
 * server that was not restarted did not.  One that has taken another timeline
 * shows by that where it parted from what was read.  What the slot proves is
 * not in doubt.
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
		psprintf("Nothing proves that the source still has the changes that are stored%s: it was restarted, and its WAL does not show transaction %u at %X/%X (%s).%s",
				 XLogRecPtrIsInvalid(finding->proven) ?
				 "" :
				 psprintf(" after %X/%X",
						  LSN_FORMAT_ARGS(finding->proven)),
				 last->xid, LSN_FORMAT_ARGS(last->commit_lsn), refusal,
				 XLogRecPtrIsInvalid(finding->proven) ? " If it has them:" :
				 "");
}

/*
 * Neither a new slot nor one that is ahead of the history shows whether the
 * source still has what is stored, so its WAL is read.  Not for what the
 * former slot has confirmed: its state is as old as the WAL.  And not on the
 * same server, which takes the history back with the source.
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
 * Up to when all is stored.
 */
static BemiUntil
complete_until(void)
{
	BemiFacts	known;

	bemi_facts_copy_mine(&known);
	return known.synced.time > known.until.time ? known.synced : known.until;
}

/*
 * Opens a gap, unless one is open, within the current transaction.
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
 * The sentences of a gap's detail, palloc'd; NULL if there are none.
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
						 "%sThe source went back to %X/%X. Changes stored after that, which it no longer knows of, remain in the history.",
						 detail.len > 0 ? " " : "",
						 LSN_FORMAT_ARGS(finding->parted_at));
	if (finding->unproven != NULL)
		appendStringInfo(&detail, "%s%s", detail.len > 0 ? " " : "",
						 finding->unproven);
	return detail.len > 0 ? detail.data : NULL;
}

/*
 * Notes that the source has no slot, within the current transaction.
 */
static void
forget_slot(void)
{
	BemiValue	source = bemi_sql_text(bemi_source_name);

	bemi_sql_run("UPDATE bemi.sources SET slot_made = false WHERE name = $1",
				 &source, 1);
}

/*
 * Writes down what was lost, so that it stays whatever comes next.  Without a
 * proof, the gap begins where the slot's proof ends, or with the history.
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
			 errhint("bemi.gaps shows from when to when.")));

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
 * Makes a slot and returns the position from which it sees every commit, and
 * what the tables were like there.  One that is there may have been given up,
 * and to read on with it could store again what is stored; or an earlier
 * worker came just so far, and nobody knows any more what the tables were
 * like.
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
 * Notes what the source is, for the next comparison, within the current
 * transaction.  Twice, because bemi.sources is not in a dump.
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
 * Notes when the source's server was started, within the current transaction.
 * Not in bemi.sources, whose row a session may have locked, since it changes
 * with each restart.
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
 * Notes which secret the source has, within the current transaction.
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
 * Positions stored so far may mean nothing any more, within the current
 * transaction.  What is lost from here on is either younger than what was
 * complete, or in the gap that ends now.
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
 * From "position" on, everything is read: closes the gap and moves the origin
 * there, which is no part of the transaction and so comes last.  With a new
 * slot it is known what the tables were like there.
 */
static void
begin_reading_at(BemiStream *stream, const Finding *finding,
				 XLogRecPtr position, const char *descriptions)
{
	char	   *server = psprintf("%s/%s", finding->system_identifier,
								  finding->identity->database);

	/* The list first, so that what it lists is tracked at that time. */
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
 * Compares the tables with those of the publication now, if the source does
 * not tell by itself, or has another secret than at the last connection:
 * messages that it has signed with the former one cannot be verified any more.
 * For the same reason, what it has told so far need not be all, and becomes
 * stale.  "always": also otherwise.
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
	/* As if the secret were another one. */
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
 * Sets the origin back to the last transaction with changes, or to where the
 * slot stands if that is later.  What the source has sent from there on had
 * nothing to store; if the source was restored in the meantime, what it sends
 * now may have.  A transaction from there on that the worker remembers is one
 * that the source does not have any more.
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
 * Nothing was lost.
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
 * What is known of a transaction that is skipped.
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
						 " Tables that it was known to change before that: %s.",
						 skipped->tables);
	if (skipped->at_new_table)
		appendStringInfoString(&detail,
							   " It failed at a row of the last of them.");
	return detail.data;
}

/*
 * Writes the gap of a skipped transaction.  Its ends are a microsecond before
 * and after the commit.
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
			 errhint("bemi.gaps shows what is known of it.")));
	bemi_begin_transaction();
	bemi_sql_run("SELECT _bemi.record_skipped($1, $2, $3, $4, $5, $6)",
				 arguments, lengthof(arguments));
	ForceSyncCommit();
	bemi_end_transaction();
}

/*
 * Whether the source still has the WAL that it failed at.  After a failover,
 * others may have committed at these positions.
 */
static bool
is_same_wal(const Finding *finding)
{
	return finding->known.unreadable.commit_lsn < finding->parted_at;
}

/*
 * Skips the transaction that the source cannot decode.  It may have begun or
 * ended to track tables, so the worker looks which are tracked now.
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
 * A history that has come with a dump has no origin.  It reaches as far as the
 * last transaction that it has.
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
 * Decides what was lost, for a source that has no slot yet, or for which it
 * was given up before.  A source that was never read has lost nothing.
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
			"The history came with a dump, or its database was copied. The slot of the former server keeps write-ahead log until it is dropped; to find it, at the source: SELECT slot_name FROM pg_replication_slots WHERE slot_name LIKE 'bemi%' AND NOT active;";
	}
	else if (row->system_identifier != NULL &&
			 !is_another_source(finding, row))
		find_lost_slot(finding, row);
}

/*
 * Whether only the source's WAL shows if the source still has what is stored.
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
 * Collects what the source says, and decides what was lost.
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
 * Sees to it that there is a slot that everything after the origin can be read
 * from, and that it is written down if anything before may be missing.  The
 * stream must begin with *witness, if there is one.
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
	else if (row->gap_open)		/* an earlier worker came just so far */
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
 * The source is being dropped, within the current transaction.
 */
void
bemi_record_stop(void)
{
	record_gap("source_dropped", bemi_origin_position(), NULL, false, true);
}

/*
 * The slot of a source that is stopped had to be given up.
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
