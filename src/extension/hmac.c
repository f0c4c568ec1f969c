/*-------------------------------------------------------------------------
 *
 * hmac.c
 *		HMAC-SHA-256 (RFC 2104), with the server's own functions.
 *
 * Input: a key and bytes.  Output: the code as hexadecimal digits, palloc'd.
 * The source signs its tracking messages with it (track/message.c).  The
 * worker verifies them (stream/verify.c) and hashes redacted values
 * (decode/rules.c).
 *
 * All these keys are derived from _bemi.signing_key: it is only used as the
 * key for the name of a purpose, and the result is the key for that purpose.
 * What must never happen: a code for one purpose is valid for another.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hmac.h"
#include "common/sha2.h"
#include "utils/builtins.h"

#include "extension/extension.h"

/*
 * HMAC-SHA-256 of some bytes; BEMI_HMAC_LEN hexadecimal digits, palloc'd.
 * Needs a transaction: OpenSSL's contexts belong to a resource owner, and
 * between transactions there is none.
 */
char *
bemi_hmac(const char *key, const char *bytes, int len)
{
	pg_hmac_ctx *context;
	uint8		code[PG_SHA256_DIGEST_LENGTH];
	char	   *digits = palloc(BEMI_HMAC_LEN + 1);

	StaticAssertStmt(PG_SHA256_DIGEST_LENGTH * 2 == BEMI_HMAC_LEN,
					 "two digits a byte");
	Assert(IsTransactionState());
	context = pg_hmac_create(PG_SHA256);
	if (context == NULL ||
		pg_hmac_init(context, (const uint8 *) key, strlen(key)) < 0 ||
		pg_hmac_update(context, (const uint8 *) bytes, len) < 0 ||
		pg_hmac_final(context, code, sizeof(code)) < 0)
		ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR),
						errmsg("could not compute an HMAC")));
	pg_hmac_free(context);
	hex_encode((const char *) code, sizeof(code), digits);
	digits[BEMI_HMAC_LEN] = '\0';
	return digits;
}

/*
 * The key for one purpose (BEMI_KEY_...), palloc'd.
 */
char *
bemi_derive_key(const char *signing_key, const char *purpose)
{
	return bemi_hmac(signing_key, purpose, strlen(purpose));
}
