/*-------------------------------------------------------------------------
 *
 * stream_secret.c
 *		What only the source and its readers know.
 *
 * Each source with the extension has a secret (bemi.secret), for superusers and
 * whom they let read it.  With it the source signs its messages about tables,
 * which would else be anybody's to write, and the worker hashes the values that
 * are to be redacted but told apart (row_rules.c).  It stays in the memory of the
 * worker; the destination does not store it.
 *
 * The same secret never makes a signature and the hash of a value: the hashes'
 * key is made of it, else whoever can write a value and read its hash could sign.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "stream.h"

/*
 * A message that is longer is not one of bemi.emit_tracking(), which leaves out the
 * description then.  A table of 1600 columns, each of a composite type of its own
 * with 100 fields, is described in two thirds of this.
 */
#define LONGEST_MESSAGE	(16 * 1024 * 1024)

/* What the key of hashes is made of, beside the secret. */
#define HASH_PURPOSE	"bemi.redact_hash"

/* Who writes messages that are not signed does not make us ask more often. */
#define READS				10
#define READS_INTERVAL_MS	1000

/*
 * SHA-256 of two texts in a row, as a palloc'd string of hexadecimal digits; neither
 * is copied.  Needs a transaction: OpenSSL's digests belong to a resource owner, and
 * between transactions there is none.
 */
static char *
hash_of_both(const char *first, const char *second, int second_len)
{
	pg_cryptohash_ctx *hash;
	uint8		bytes[PG_SHA256_DIGEST_LENGTH];
	char	   *digits = palloc(BEMI_HASH_LEN + 1);

	StaticAssertStmt(PG_SHA256_DIGEST_LENGTH * 2 == BEMI_HASH_LEN, "two digits a byte");
	Assert(IsTransactionState());
	hash = pg_cryptohash_create(PG_SHA256);
	if (hash == NULL || pg_cryptohash_init(hash) < 0 ||
		pg_cryptohash_update(hash, (const uint8 *) first, strlen(first)) < 0 ||
		pg_cryptohash_update(hash, (const uint8 *) second, second_len) < 0 ||
		pg_cryptohash_final(hash, bytes, sizeof(bytes)) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not compute a SHA-256 hash")));
	pg_cryptohash_free(hash);
	hex_encode((const char *) bytes, sizeof(bytes), digits);
	digits[BEMI_HASH_LEN] = '\0';
	return digits;
}

/*
 * What only those can tell of some bytes who know the key: BEMI_HASH_LEN
 * hexadecimal digits, palloc'd.  The same as bemi.sign() in SQL; hashed twice, so
 * that nothing can be appended to what was hashed.
 */
char *
bemi_keyed_hash(const char *key, const char *bytes, int len)
{
	char	   *inner = hash_of_both(key, bytes, len);

	return hash_of_both(key, inner, BEMI_HASH_LEN);
}

/*
 * Asks the source for its secret, and whether it can describe its tables, into
 * the memory that the stream lives in.  One that was readable before is kept, since
 * messages that it has signed may still come.
 */
void
bemi_stream_read_secret(BemiStream *stream)
{
	PGresult   *result;
	bool		readable;

	result = bemi_stream_query(stream, "SELECT coalesce(has_table_privilege(c.oid, 'SELECT'), false),"
							   " to_regprocedure('bemi.describe(regclass)') IS NOT NULL FROM pg_extension e"
							   " LEFT JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid"
							   " AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'"
							   " JOIN pg_class c ON c.oid = d.objid AND c.relname = 'secret' AND c.relkind = 'r'"
							   " WHERE e.extname = 'bemi'");
	readable = PQntuples(result) == 1 && strcmp(PQgetvalue(result, 0, 0), "t") == 0;
	stream->describes = PQntuples(result) == 1 && strcmp(PQgetvalue(result, 0, 1), "t") == 0;
	PQclear(result);
	if (!readable)
		return;

	result = bemi_stream_query(stream, "SELECT value FROM bemi.secret");
	if (PQntuples(result) == 1 && !PQgetisnull(result, 0, 0))
	{
		if (stream->secret != NULL)
			pfree(stream->secret);
		stream->secret = MemoryContextStrdup(GetMemoryChunkContext(stream),
											 PQgetvalue(result, 0, 0));
	}
	PQclear(result);
}

/*
 * Whether the source tells which tables it tracks, in a way that can be believed.
 */
bool
bemi_stream_has_secret(const BemiStream *stream)
{
	return stream->secret != NULL;
}

/*
 * The key for hashes of values, palloc'd, or NULL if there is no secret.
 */
char *
bemi_stream_hash_key(const BemiStream *stream)
{
	if (stream->secret == NULL)
		return NULL;
	return bemi_keyed_hash(stream->secret, HASH_PURPOSE, strlen(HASH_PURPOSE));
}

/*
 * Whether a message came whose signature was not the source's: somebody plays, or
 * something was told that could not be believed.
 */
bool
bemi_stream_is_in_doubt(const BemiStream *stream)
{
	return stream->in_doubt;
}

/*
 * Whether the source may be asked for its secret once more, and takes note of it.
 */
static bool
may_read_again(BemiStream *stream)
{
	TimestampTz now = GetCurrentTimestamp();

	if (TimestampDifferenceExceeds(stream->reads_since, now, READS_INTERVAL_MS))
	{
		stream->reads_since = now;
		stream->reads = 0;
	}
	return stream->reads++ < READS;
}

static bool
is_signed(const BemiStream *stream, const char *content, int len)
{
	return stream->secret != NULL &&
		memcmp(bemi_keyed_hash(stream->secret, content + BEMI_HASH_LEN, len - BEMI_HASH_LEN),
			   content, BEMI_HASH_LEN) == 0;
}

/*
 * The part of a message of bemi.emit_tracking() that is signed, as a palloc'd
 * string in this database's encoding; NULL if the signature is not the source's.
 * Before it says so, it asks the source anew, though not too often: the extension may
 * have been made after the connection.
 */
char *
bemi_stream_verify(BemiStream *stream, const char *content, int len)
{
	char	   *message;

	Assert(IsTransactionState());
	if (len <= BEMI_HASH_LEN || len > LONGEST_MESSAGE || memchr(content, '\0', len) != NULL)
		return NULL;
	if (!is_signed(stream, content, len))
	{
		if (may_read_again(stream))
			bemi_stream_read_secret(stream);
		if (!is_signed(stream, content, len))
		{
			stream->in_doubt = true;
			return NULL;
		}
	}
	len -= BEMI_HASH_LEN;
	message = pnstrdup(content + BEMI_HASH_LEN, len);
	return bemi_stream_text(stream, message, &len);
}
