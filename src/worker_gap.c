/*-------------------------------------------------------------------------
 *
 * worker_gap.c
 *		Has anything been lost?  What a worker finds out before it goes on.
 *
 * The destination knows how far it has come (the origin) and what the source
 * was when it connected last (the row of bemi.sources); the source says what it
 * is now, and what has become of the slot.  Where the two do not fit together,
 * changes may be missing.  That is written into bemi.gaps first, flushed, and
 * only then is the slot made anew, or the origin moved: a worker that dies in
 * between leaves a gap that is open, which the next one closes, but never a
 * slot that is new with nothing said about it.
 *
 * A transaction that the source cannot decode (worker_unreadable.c) is skipped,
 * and nothing else: the source sends no transaction whose commit record starts
 * before the position that the stream is started from.  So the origin moves one
 * byte beyond that record's start, and the slot stays.  Its gap is a closed one,
 * as short as the transaction; to write it twice changes nothing.
 *
 * The slot is never confirmed beyond the origin (see bemi_history_advance()),
 * so one that is ahead of it tells that the destination has lost something,
 * being restored from a backup for instance.
 *
 * Which tables are tracked comes with the stream, and at its beginning from
 * the source's catalog; for a source without the extension from there with
 * each connection, and for one with another secret once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type_d.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "worker.h"

/* What a connection has shown. */
typedef struct Finding
{
	const BemiSourceIdentity *identity;
	char	   *system_identifier;
	BemiSlot	slot;
	XLogRecPtr	origin;
	char	   *published;		/* what the publication lists */

	const char *reason;			/* what was lost by; NULL: nothing was */
	const char *detail;
	XLogRecPtr	resume;			/* from where to read on with this slot;
								 * InvalidXLogRecPtr: make another one */
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
is_another(const Finding *finding, const BemiSourceRow *row)
{
	if (row->system_identifier != NULL &&
		strcmp(row->system_identifier, finding->system_identifier) != 0)
		return true;
	return finding->slot.exists ? !finding->slot.here : is_renamed(finding, row);
}

/*
 * What may have been lost without the slot's fault: the source, or the
 * destination, has gone back in time.
 */
static void
compare_positions(BemiStream *stream, Finding *finding, const BemiSourceRow *row)
{
	const BemiSourceIdentity *identity = finding->identity;

	if (row->timeline != 0 && identity->timeline != row->timeline)
	{
		XLogRecPtr	left_at = bemi_stream_switch_point(stream, identity->timeline,
													   row->timeline);

		if (XLogRecPtrIsInvalid(left_at) || left_at < finding->origin)
		{
			finding->reason = "timeline changed";
			finding->resume = left_at;
			finding->detail = "Changes of the former timeline that the source no longer knows of may be stored.";
			return;
		}
	}
	if (identity->position < finding->origin)
	{
		finding->reason = "source went back";
		finding->resume = identity->position;
		finding->detail = "Changes that the source no longer knows of may be stored.";
	}
	else if (finding->slot.confirmed > finding->origin)
	{
		finding->reason = "history went back";
		finding->resume = finding->slot.confirmed;
		finding->detail = "This database was restored, or moved on, without what it had confirmed to the source.";
	}
}

/*
 * The source has failed again and again.  What is lost is one transaction, if it
 * can be found, or else what the slot has yet to send.
 */
static void
find_failed_commit(BemiStream *stream, Finding *finding)
{
	XLogRecPtr	row = bemi_my_worker->unreadable.row;

	finding->reason = "slot unreadable";
	finding->detail = pstrdup(bemi_my_worker->error);
	/* The row may begin where the transaction before it has ended. */
	if (bemi_my_worker->unreadable.tries == 0 || row < finding->origin ||
		!finding->slot.made || finding->slot.lost)
		return;
	finding->resume = bemi_stream_find_commit(stream, bemi_slot_name, row,
											  finding->identity->position);
	if (!XLogRecPtrIsInvalid(finding->resume))
	{
		finding->reason = "transaction unreadable";
		finding->skips = true;
	}
}

/*
 * Decides what was lost, for a source that had a slot.
 */
static void
find_loss(BemiStream *stream, Finding *finding, const BemiSourceRow *row)
{
	if (is_another(finding, row))
	{
		finding->reason = "server changed";
		finding->detail = psprintf("It was database \"%s\" of system %s, where slot \"%s\" may be left.",
								   row->database, row->system_identifier, bemi_slot_name);
	}
	else if (bemi_my_worker->give_up == BEMI_GIVE_UP_LAG)
		finding->reason = "bemi.max_slot_lag";
	else if (bemi_my_worker->give_up == BEMI_GIVE_UP_UNREADABLE)
		find_failed_commit(stream, finding);
	else if (!finding->slot.made && row->timeline != finding->identity->timeline)
		finding->reason = "timeline changed";
	else if (!finding->slot.made)
		finding->reason = "slot dropped";
	else if (finding->slot.lost)
		finding->reason = "slot lost";
	else
		compare_positions(stream, finding, row);
}

/*
 * Opens a gap, unless one is open, within the current transaction.
 */
static void
open_gap(const char *reason, XLogRecPtr from, bool goes_back, const char *detail)
{
	Oid			types[] = {TEXTOID, LSNOID, BOOLOID, TEXTOID};
	Datum		values[] = {CStringGetTextDatum(reason), LSNGetDatum(from),
		BoolGetDatum(goes_back),
	detail ? CStringGetTextDatum(detail) : (Datum) 0};

	bemi_run_on_source("SELECT bemi.open_gap($1, $2, $3, $4, $5)",
					   lengthof(types), types, values, detail ? NULL : "   n");
}

/*
 * Writes down what was lost, so that it stays whatever comes next.
 */
static void
record_loss(const Finding *finding)
{
	bool		goes_back = !XLogRecPtrIsInvalid(finding->resume) &&
		finding->resume < finding->origin;

	ereport(LOG,
			(errmsg("bemi: changes of source \"%s\" may be lost: %s",
					bemi_my_worker->source, finding->reason),
			 errhint("bemi.gaps shows from when to when.")));

	bemi_begin_transaction();
	open_gap(finding->reason, goes_back ? finding->resume : finding->origin,
			 goes_back, finding->detail);
	if (XLogRecPtrIsInvalid(finding->resume))
		bemi_run_on_source("UPDATE bemi.sources SET slot_made = false WHERE name = $1",
						   0, NULL, NULL, NULL);
	ForceSyncCommit();
	bemi_end_transaction();
}

/*
 * Makes a slot and returns the position from which it sees every commit, and what the
 * tables were like there.  One that is there may have been given up, and to read on
 * with it could store again what is stored; or an earlier worker came just so far, and
 * nobody knows any more what the tables were like.
 */
static XLogRecPtr
make_slot(BemiStream *stream, const Finding *finding, char **descriptions)
{
	XLogRecPtr	position;
	char	   *snapshot;

	bemi_set_state(bemi_my_worker, BEMI_STATE_MAKING_SLOT);
	if (finding->slot.exists)
		bemi_stream_drop_slot(stream, bemi_slot_name);
	position = bemi_stream_create_slot(stream, bemi_slot_name, &snapshot);
	*descriptions = bemi_stream_descriptions(stream, snapshot);
	return position;
}

/*
 * Notes what the source is, for the next comparison, within the current
 * transaction.
 */
static void
note_identity(const Finding *finding)
{
	Oid			types[] = {TEXTOID, INT8OID, TEXTOID};
	Datum		values[] = {CStringGetTextDatum(finding->system_identifier),
		Int64GetDatum(finding->identity->timeline),
	CStringGetTextDatum(finding->identity->database)};

	bemi_run_on_source("UPDATE bemi.sources SET slot_made = true, system_identifier = $2,"
					   " timeline = $3, database = $4 WHERE name = $1",
					   lengthof(types), types, values, NULL);
	bemi_run_on_source("UPDATE bemi.source_tables SET server = pg_catalog.format('%s/%s', $2, $4)"
					   " WHERE source = $1", lengthof(types), types, values, NULL);
}

/*
 * Notes which secret the source has, within the current transaction.
 */
static void
note_secret(BemiStream *stream)
{
	char	   *version = bemi_stream_secret_version(stream);
	Oid			types[] = {TEXTOID};
	Datum		values[] = {version ? CStringGetTextDatum(version) : (Datum) 0};

	bemi_run_on_source("SELECT bemi.note_secret($1, $2)", lengthof(types), types, values,
					   version ? NULL : "n");
	(void) bemi_stream_secret_is_new(stream);
}

/*
 * From "position" on, everything is read: closes the gap and moves the origin
 * there, which is no part of the transaction and so comes last.  With a new slot it
 * is known what the tables were like there.
 */
static void
begin_at(BemiStream *stream, const Finding *finding, XLogRecPtr position,
		 const char *descriptions)
{
	bool		goes_back = !XLogRecPtrIsInvalid(finding->resume) && position < finding->origin;
	char	   *server = psprintf("%s/%s", finding->system_identifier, finding->identity->database);
	Oid			types[] = {TEXTOID, LSNOID, TIMESTAMPTZOID, JSONOID, JSONOID, JSONOID};
	Datum		values[6];
	int			n = 0;

	values[n++] = CStringGetTextDatum(server);
	values[n++] = LSNGetDatum(goes_back ? finding->origin : position);
	values[n] = (Datum) 0;
	values[n + 1] = CStringGetTextDatum(finding->published);
	values[n + 2] = CStringGetTextDatum(bemi_stream_published(stream));
	values[n + 3] = descriptions ? CStringGetTextDatum(descriptions) : (Datum) 0;
	/* The list first, so that what it lists is tracked at that time. */
	values[n] = TimestampTzGetDatum(bemi_stream_now(stream));

	bemi_begin_transaction();
	note_secret(stream);
	bemi_run_on_source("SELECT bemi.close_gap($1, $2, $3, $4, $5, $6, $7)",
					   lengthof(types), types, values, descriptions ? NULL : "     n");
	note_identity(finding);
	bemi_set_origin(position);
	ForceSyncCommit();
	bemi_end_transaction();

	/* Positions stored so far may mean nothing any more. */
	bemi_set_progress(bemi_my_worker, InvalidXLogRecPtr, InvalidXLogRecPtr);
	LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
	bemi_my_worker->give_up = BEMI_KEEP_SLOT;
	LWLockRelease(bemi_shared->lock);
	if (finding->skips)
		bemi_note_skipped();
	else
		bemi_forget_unreadable();
}

/*
 * Compares the tables with those of the publication now, if the source does not tell
 * by itself, or has another secret than at the last connection: messages that it has
 * signed with the former one cannot be verified any more.  For the same reason, what
 * it has told so far need not be all, and becomes stale.  "always": also otherwise.
 */
static void
compare_published(BemiStream *stream, const Finding *finding, bool always)
{
	char	   *version;
	const BemiSourceIdentity *identity = finding->identity;
	char	   *server = psprintf("%s/%s", finding->system_identifier, identity->database);
	Oid			types[] = {TEXTOID, LSNOID, TIMESTAMPTZOID, LSNOID, TIMESTAMPTZOID, JSONOID, TEXTOID};
	TimestampTz until = bemi_my_worker->stored_until;
	Datum		values[] = {CStringGetTextDatum(server),
		LSNGetDatum(finding->origin),
		TimestampTzGetDatum(until ? until : DT_NOBEGIN),
		LSNGetDatum(identity->position),
		TimestampTzGetDatum(bemi_stream_now(stream)),
	CStringGetTextDatum(finding->published), (Datum) 0};

	bemi_begin_transaction();
	version = bemi_stream_secret_version(stream);
	if (version != NULL)
		values[6] = CStringGetTextDatum(version);
	/* As if the secret were another one. */
	if (always)
		bemi_run_on_source("SELECT bemi.note_secret($1, NULL)",
						   0, NULL, NULL, NULL);
	bemi_run_on_source("SELECT bemi.compare_published($1, $2, $3, $4, $5, $6, $7, false)"
					   " WHERE bemi.note_secret($1, $8)",
					   lengthof(types), types, values, version ? NULL : "      n");
	bemi_end_transaction();
	(void) bemi_stream_secret_is_new(stream);
}

/*
 * Nothing was lost.
 */
static void
go_on(BemiStream *stream, const Finding *finding, const BemiSourceRow *row)
{
	compare_published(stream, finding, false);
	if (row->timeline == finding->identity->timeline && !is_renamed(finding, row))
		return;
	bemi_begin_transaction();
	note_identity(finding);
	bemi_end_transaction();
}

/*
 * What is known of a transaction that is skipped.
 */
static char *
describe_skipped(const BemiUnreadable *skipped)
{
	StringInfoData detail;

	initStringInfo(&detail);
	appendStringInfo(&detail, "Transaction %u, committed at %X/%X, has failed %d times. %s.",
					 skipped->xid, LSN_FORMAT_ARGS(skipped->commit_lsn), skipped->tries,
					 bemi_my_worker->error);
	if (skipped->tables[0] != '\0')
		appendStringInfo(&detail, " Tables that it was known to change before that: %s.", skipped->tables);
	if (skipped->at_new_table)
		appendStringInfoString(&detail, " It failed at a row of the last of them.");
	return detail.data;
}

/*
 * Writes the gap of a skipped transaction.  Its ends are a microsecond before and
 * after the commit.
 */
static void
record_skipped(const Finding *finding, XLogRecPtr resume)
{
	const BemiUnreadable *skipped = &bemi_my_worker->unreadable;
	TimestampTz before = skipped->committed_at - 1;
	TimestampTz after = skipped->committed_at + 1;
	Oid			types[] = {LSNOID, LSNOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID};
	Datum		values[] = {LSNGetDatum(finding->origin), LSNGetDatum(resume),
		TimestampTzGetDatum(IS_VALID_TIMESTAMP(before) ? before : skipped->committed_at),
		TimestampTzGetDatum(IS_VALID_TIMESTAMP(after) ? after : skipped->committed_at),
	CStringGetTextDatum(describe_skipped(skipped))};

	ereport(LOG,
			(errmsg("bemi: transaction %u of source \"%s\", committed at %X/%X, is skipped",
					skipped->xid, bemi_my_worker->source, LSN_FORMAT_ARGS(skipped->commit_lsn)),
			 errdetail("%s", bemi_my_worker->error),
			 errhint("bemi.gaps shows what is known of it.")));
	bemi_begin_transaction();
	bemi_run_on_source("SELECT bemi.note_skipped($1, $2, $3, $4, $5, $6)",
					   lengthof(types), types, values, NULL);
	ForceSyncCommit();
	bemi_end_transaction();
}

/*
 * Skips the transaction that the source cannot decode.  It may have begun or ended
 * to track tables, so the worker looks which are tracked now.
 */
static void
skip_transaction(BemiStream *stream, const Finding *finding)
{
	XLogRecPtr	resume = bemi_my_worker->unreadable.commit_lsn + 1;

	if (resume > finding->origin)
	{
		compare_published(stream, finding, true);
		record_skipped(finding, resume);
		bemi_begin_transaction();
		bemi_set_origin(resume);
		bemi_end_transaction();
	}
	bemi_note_skipped();
}

/*
 * Sees to it that there is a slot that everything after the origin can be read
 * from, and that it is written down if anything before may be missing.
 */
void
bemi_secure_slot(BemiStream *stream, const BemiSourceIdentity *identity,
				 const BemiSourceRow *row)
{
	Finding		finding = {.identity = identity};
	XLogRecPtr	position;
	char	   *descriptions;

	finding.system_identifier = psprintf(UINT64_FORMAT, identity->system_identifier);
	finding.published = bemi_stream_published(stream);
	bemi_stream_find_slot(stream, bemi_slot_name, &finding.slot);
	bemi_begin_transaction();
	finding.origin = bemi_origin_position();
	bemi_end_transaction();

	if (row->slot_made)
		find_loss(stream, &finding, row);
	if (finding.reason != NULL)
		record_loss(&finding);

	if (!XLogRecPtrIsInvalid(finding.resume))
		begin_at(stream, &finding, finding.resume, NULL);
	else if (finding.reason != NULL || !row->slot_made)
	{
		position = make_slot(stream, &finding, &descriptions);
		begin_at(stream, &finding, position, descriptions);
	}
	else if (row->gap_open)		/* an earlier worker came just so far */
		begin_at(stream, &finding, finding.origin, NULL);
	else
		go_on(stream, &finding, row);

	if (finding.reason == NULL && bemi_my_worker->give_up == BEMI_GIVE_UP_TRANSACTION)
		skip_transaction(stream, &finding);
}

/*
 * The source is being dropped, within the current transaction.
 */
void
bemi_note_stop(void)
{
	open_gap("source stopped", bemi_origin_position(), false, NULL);
}

/*
 * The slot of a source that is stopped had to be given up.
 */
void
bemi_note_given_up(void)
{
	bemi_begin_transaction();
	open_gap("bemi.max_slot_lag", bemi_origin_position(), false, NULL);
	bemi_run_on_source("UPDATE bemi.sources SET slot_made = false WHERE name = $1",
					   0, NULL, NULL, NULL);
	ForceSyncCommit();
	bemi_end_transaction();

	LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
	bemi_my_worker->give_up = BEMI_KEEP_SLOT;
	LWLockRelease(bemi_shared->lock);
}
