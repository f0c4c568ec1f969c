/*-------------------------------------------------------------------------
 *
 * extension.h
 *		The ground floor: settings, and what bemi knows of itself as an extension.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BEMI_EXTENSION_H
#define BEMI_EXTENSION_H

#include "bemi.h"

/* hmac.c */

#define BEMI_HMAC_LEN	64		/* hexadecimal digits */

/* What a key is derived for; no two uses of the signing key share one. */
#define BEMI_KEY_TRACKING		"bemi tracking message"
#define BEMI_KEY_REDACT_HASH	"bemi redact_hash"
#define BEMI_KEY_VERSION		"bemi signing key version"

extern char *bemi_hmac(const char *key, const char *bytes, int len);
extern char *bemi_derive_key(const char *signing_key, const char *purpose);

/* settings.c */

extern void bemi_pin_settings(void);
extern char *bemi_settings_as_options(const char *options);
extern bool bemi_settings_are_refused(const char *message);
extern char *bemi_settings_as_commands(int server_version,
									   const char *datestyle,
									   const char *timezone);

#endif							/* BEMI_EXTENSION_H */
