/*-------------------------------------------------------------------------
 *
 * hmac.c
 *		HMAC-SHA-256 (RFC 2104), by the server's own functions.
 *
 * In flow a key and bytes; out flows the code as hexadecimal digits, palloc'd.
 * The source signs its messages about tables with it (track/message.c), the
 * worker verifies them (stream/verify.c) and hashes redacted values
 * (decode/rules.c).
 *
 * All of these come from one secret, _bemi.signing_key.  The secret itself is
 * only ever a key for the name of a purpose.  The result is the key for that
 * purpose, so that a code that was made for one purpose never is valid for
 * another.
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
