/*-------------------------------------------------------------------------
 *
 * verify.c
 *		What only the source and its readers know.
 *
 * Each source with the extension has a secret (_bemi.signing_key), for
 * superusers and whom they let read it.  With it the source signs its messages
 * about tables, which would else be anybody's to write, and the worker hashes
 * the values that are to be redacted but told apart (decode/rules.c).  It
 * stays in the memory of the worker; the destination does not store it.
 *
 * Each use of the secret has a key of its own (extension/hmac.c).  Otherwise,
 * a role that can write a value and read its hash could sign messages.
 *
 * Anybody can write a message with a wrong signature.  Such a message changes
 * nothing, unless the source has another secret than the worker knows.  The
 * worker finds that out by asking, and asks at most once in
 * SECRET_INTERVAL_MS, and never about messages that are older than the last
 * answer.  While it may not ask, it takes note that a message was refused
 * unseen, and asks before it relies on what the source has told.  The
 * destination keeps a hash of the secret (_bemi.record_key_version()), so that
 * a change between two connections is noticed, too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "extension/extension.h"
#include "stream/stream_internal.h"

/*
 * A message that is longer is not one of track/message.c, which leaves out the
 * description then.  A table of 1600 columns, each of a composite type of its
 * own with 100 fields, is described in two thirds of this.
 */
#define LONGEST_MESSAGE	(16 * 1024 * 1024)

/* Limits how often forged messages can make the worker query the source. */
#define SIGNING_KEY_INTERVAL_MS	1000

/*
 * Remembers the secret, in the memory that the stream lives in.  The row's
 * identity goes with it, so that a secret that was replaced and put back is
 * noticed.  The one before still verifies what was written until now.
 */
static void
remember_signing_key(BemiStream *stream, const char *signing_key,
					 const char *row)
{
	MemoryContext caller;

	if (stream->signing_key != NULL &&
		strcmp(signing_key, stream->signing_key) == 0 &&
		strcmp(row, stream->signing_key_row) == 0)
		return;
	caller = MemoryContextSwitchTo(GetMemoryChunkContext(stream));
	if (stream->former_signing_key != NULL)
		pfree(stream->former_signing_key);
	if (stream->signing_key_row != NULL)
		pfree(stream->signing_key_row);
	stream->former_signing_key = stream->signing_key;
	stream->former_until = stream->signing_key_read_lsn;
	stream->signing_key = pstrdup(signing_key);
	stream->signing_key_row = pstrdup(row);
	stream->signing_key_is_new = true;
	MemoryContextSwitchTo(caller);
}

/*
 * Takes down the end of the source's WAL.  The secret must be read after that,
 * since then it is the newest that can have signed what comes before that
 * position.
 */
static void
record_time_of_reading(BemiStream *stream)
{
	PGresult   *result =
		bemi_stream_query(stream, "SELECT CASE WHEN pg_is_in_recovery()"
						  " THEN pg_last_wal_replay_lsn()"
						  " ELSE pg_current_wal_insert_lsn() END");

	stream->signing_key_read_lsn = bemi_answer_lsn_or_invalid(result, 0, 0);
	stream->signing_key_read_at = GetCurrentTimestamp();
	PQclear(result);
}

/*
 * Asks whether the source has a secret that can be read, and whether it can
 * describe its tables.
 */
static bool
signing_key_is_readable(BemiStream *stream)
{
	PGresult   *result;
	bool		readable;

	result =
		bemi_stream_query(stream,
						  "SELECT coalesce(has_table_privilege(c.oid, 'SELECT'), false),"
						  " to_regprocedure('_bemi.describe(regclass)') IS NOT NULL FROM pg_extension e"
						  " LEFT JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid"
						  " AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'"
						  " JOIN pg_class c ON c.oid = d.objid AND c.relname = 'signing_key' AND c.relkind = 'r'"
						  " WHERE e.extname = 'bemi'");
	readable = PQntuples(result) == 1 && bemi_answer_bool(result, 0, 0);
	stream->describes =
		PQntuples(result) == 1 && bemi_answer_bool(result, 0, 1);
	PQclear(result);
	return readable;
}

/*
 * Asks the source for its secret.  One that was readable before is kept, since
 * messages that it has signed may still come.
 *
 * A message that was refused unseen may have been signed with a new secret.
 * What it said is lost, so the process ends, and the next connection compares
 * the tables.  (If this is the first secret, worker/worker.c sees to that.)
 */
void
bemi_stream_read_signing_key(BemiStream *stream)
{
	bool		unsettled = stream->unsettled && stream->signing_key != NULL;
	PGresult   *result;

	record_time_of_reading(stream);
	stream->unsettled = false;
	if (!signing_key_is_readable(stream))
		return;

	result =
		bemi_stream_query(stream,
						  "SELECT value, pg_catalog.concat(tableoid, ' ', xmin) FROM _bemi.signing_key");
	if (PQntuples(result) == 1 && !bemi_answer_is_null(result, 0, 0))
		remember_signing_key(stream, bemi_answer_text(result, 0, 0),
							 bemi_answer_text(result, 0, 1));
	PQclear(result);
	if (unsettled && stream->signing_key_is_new)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("source has got another secret amid messages with wrong signatures"),
				 errdetail("Its tables are compared with the publication at the next connection.")));
}

/*
 * Hash of the secret and its row, palloc'd; NULL if there is no secret.  Needs
 * a transaction, as all hashes do.
 */
char *
bemi_stream_signing_key_version(const BemiStream *stream)
{
	if (stream->signing_key == NULL)
		return NULL;
	return bemi_hmac(bemi_derive_key(stream->signing_key, BEMI_KEY_VERSION),
					 stream->signing_key_row, strlen(stream->signing_key_row));
}

/*
 * Whether the secret is another one than at the last call.
 */
bool
bemi_stream_signing_key_is_new(BemiStream *stream)
{
	bool		is_new = stream->signing_key_is_new;

	stream->signing_key_is_new = false;
	return is_new;
}

static bool
may_reread_signing_key(const BemiStream *stream)
{
	return TimestampDifferenceExceeds(stream->signing_key_read_at,
									  GetCurrentTimestamp(),
									  SIGNING_KEY_INTERVAL_MS);
}

/*
 * If a message was refused without asking for the secret, asks now; or when it
 * may.
 */
void
bemi_stream_settle_signing_key(BemiStream *stream, bool now)
{
	if (stream->unsettled && (now || may_reread_signing_key(stream)))
		bemi_stream_read_signing_key(stream);
}

/*
 * If no secret is known, asks whether one can be read by now: the right may
 * have been granted, or the extension made, after the last time.
 */
void
bemi_stream_look_for_signing_key(BemiStream *stream)
{
	if (stream->signing_key == NULL)
		bemi_stream_read_signing_key(stream);
}

/*
 * Whether the source tells which tables it tracks, in a way that can be
 * believed.
 */
bool
bemi_stream_has_signing_key(const BemiStream *stream)
{
	return stream->signing_key != NULL;
}

/*
 * The key for hashes of values, palloc'd, or NULL if there is no secret.
 */
char *
bemi_stream_hash_key(const BemiStream *stream)
{
	if (stream->signing_key == NULL)
		return NULL;
	return bemi_derive_key(stream->signing_key, BEMI_KEY_REDACT_HASH);
}

static bool
message_is_signed_with(const char *signing_key, const char *content, int len)
{
	return signing_key != NULL &&
		memcmp(bemi_hmac(bemi_derive_key(signing_key, BEMI_KEY_TRACKING),
						 content + BEMI_HMAC_LEN, len - BEMI_HMAC_LEN),
			   content, BEMI_HMAC_LEN) == 0;
}

static bool
message_is_signed(const BemiStream *stream, const char *content, int len)
{
	return message_is_signed_with(stream->signing_key, content, len) ||
		(stream->position < stream->former_until &&
		 message_is_signed_with(stream->former_signing_key, content, len));
}

/*
 * Whether to ask the source for its secret because of a message that the known
 * one has not signed.  The extension may have been made after the last time.
 */
static bool
should_reread_signing_key(BemiStream *stream)
{
	if (stream->position < stream->signing_key_read_lsn)
		return false;
	if (may_reread_signing_key(stream))
		return true;
	stream->unsettled = true;
	return false;
}

/*
 * The part of a tracking message that is signed, as a palloc'd string in this
 * database's encoding; NULL if the signature is not the source's.
 */
char *
bemi_stream_verify(BemiStream *stream, const char *content, int len)
{
	char	   *message;
	bool		verified;

	Assert(IsTransactionState());
	if (len <= BEMI_HMAC_LEN || len > LONGEST_MESSAGE ||
		memchr(content, '\0', len) != NULL)
		return NULL;
	verified = message_is_signed(stream, content, len);
	if (!verified && should_reread_signing_key(stream))
	{
		bemi_stream_read_signing_key(stream);
		verified = message_is_signed(stream, content, len);
	}
	if (!verified)
		return NULL;
	len -= BEMI_HMAC_LEN;
	message = pnstrdup(content + BEMI_HMAC_LEN, len);
	return bemi_stream_text(stream, message, &len);
}
