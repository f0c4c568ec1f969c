/*-------------------------------------------------------------------------
 *
 * verify.c
 *		Verifies the source's tracking messages with its signing key.
 *
 * Each source with the extension has a signing key (_bemi.signing_key).
 * Superusers can read it, and roles to which they grant SELECT.  The source
 * signs its tracking messages with it, because any SQL user could write such a
 * message.  The worker also uses it to hash redacted values (decode/rules.c).
 * The key stays in the memory of the worker.  The destination never stores it.
 *
 * Each use of the signing key has a derived key of its own (extension/hmac.c).
 * Otherwise, a role that can write a value and read its hash could sign
 * messages.
 *
 * Anybody can write a message with a wrong signature.  Such a message is
 * ignored, unless the source has a new signing key.  The worker reads the key
 * again to find out, at most once in SIGNING_KEY_INTERVAL_MS, and not for
 * messages that are older than the last reading.  If it may not read the key
 * yet, it remembers that a message was rejected, and reads the key before it
 * uses a description.  The destination stores a hash of the key
 * (_bemi.record_key_version()), which shows whether the key has changed
 * between two connections.
 *
 * What must never happen: a forged message is applied, or a flood of forged
 * messages slows the source down.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "extension/extension.h"
#include "stream/remote_sql.h"
#include "stream/stream_internal.h"

/*
 * track/message.c writes no longer message: a description has at most 16 MB,
 * which is half as much again as that of 1600 columns, each of a composite
 * type of its own with 100 fields.  A context has at most 4 MB, twice that
 * with escapes.
 */
#define LONGEST_MESSAGE	(32 * 1024 * 1024)

/*
 * Rate limit for reading the key again, because otherwise a flood of forged
 * messages could make the worker query the source for each.
 */
#define SIGNING_KEY_INTERVAL_MS	1000

/*
 * Stores the signing key in the stream's memory, with the identity of its row,
 * which shows that a key was replaced and put back.  The former key still
 * verifies messages that were written until now.
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
 * Records the end of the source's WAL.  The key must be read after that,
 * because then no newer key can have signed a message before that position.
 */
static void
record_time_of_reading(BemiStream *stream)
{
	PGresult   *result = bemi_stream_query(stream, BEMI_SQL_END_OF_WAL);

	stream->signing_key_read_lsn = bemi_answer_lsn_or_invalid(result, 0, 0);
	stream->signing_key_read_at = bemi_monotonic_ms();
	PQclear(result);
}

/*
 * Asks whether the source has a signing key that can be read, and whether it
 * has _bemi.describe().
 */
static bool
signing_key_is_readable(BemiStream *stream)
{
	PGresult   *result;
	bool		readable;

	result = bemi_stream_query(stream, BEMI_SQL_SIGNING_KEY_RIGHTS);
	readable = PQntuples(result) == 1 && bemi_answer_bool(result, 0, 0);
	stream->describes =
		PQntuples(result) == 1 && bemi_answer_bool(result, 0, 1);
	PQclear(result);
	return readable;
}

/*
 * Reads the source's signing key.  If it is no longer readable, the known one
 * is kept, because messages that it has signed may still come.
 *
 * A rejected message may have been signed with the new key.  Its content is
 * lost, so the process ends with an error, and the next connection compares
 * the tables.  (If this is the first key, worker/worker.c does that.)
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

	result = bemi_stream_query(stream, BEMI_SQL_SIGNING_KEY);
	if (PQntuples(result) == 1 && !bemi_answer_is_null(result, 0, 0))
		remember_signing_key(stream, bemi_answer_text(result, 0, 0),
							 bemi_answer_text(result, 0, 1));
	PQclear(result);
	if (unsettled && stream->signing_key_is_new)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("source has a new signing key, and messages before it could not be verified"),
				 errdetail("The worker compares the tables with the publication at its next connection.")));
}

/*
 * Hash of the signing key and its row, palloc'd; NULL if there is no key.
 * Needs a transaction, as all hashes do.
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
 * Whether the signing key has changed since the last call.
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
	return bemi_has_passed(stream->signing_key_read_at,
						   SIGNING_KEY_INTERVAL_MS);
}

/*
 * If a message was rejected without reading the key again, reads it now or as
 * soon as the rate limit allows.
 */
void
bemi_stream_settle_signing_key(BemiStream *stream, bool now)
{
	if (stream->unsettled && (now || may_reread_signing_key(stream)))
		bemi_stream_read_signing_key(stream);
}

/*
 * If no key is known, tries to read it again: the right may have been granted,
 * or the extension created, since the last time.
 */
void
bemi_stream_look_for_signing_key(BemiStream *stream)
{
	if (stream->signing_key == NULL)
		bemi_stream_read_signing_key(stream);
}

/*
 * Whether tracking messages of the source can be verified.
 */
bool
bemi_stream_has_signing_key(const BemiStream *stream)
{
	return stream->signing_key != NULL;
}

/*
 * The key for hashes of values, palloc'd, or NULL if there is no signing key.
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
 * Whether to read the signing key again because of a message that the known
 * one has not signed.  The key may be new, or the extension created, since the
 * last reading.
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
 * The signed part of a tracking message, as a palloc'd string in this
 * database's encoding; NULL if the signature is wrong.
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
