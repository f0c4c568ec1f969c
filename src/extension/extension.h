/*-------------------------------------------------------------------------
 *
 * extension.h
 *		The ground floor: what belongs to the extension, calls of SQL, rights,
 *		settings, signatures.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BEMI_EXTENSION_H
#define BEMI_EXTENSION_H

#include "storage/lockdefs.h"

#include "bemi.h"

/* The rights that one of the functions of rights.c has exchanged. */
typedef struct BemiRights
{
	Oid			user;
	int			security;
	int			settings;		/* nest level of settings; 0: none */
} BemiRights;

/* catalog.c */
extern Oid	bemi_extension_owner(void);
extern bool bemi_is_own_schema(Oid schema);
extern Oid	bemi_own_table(const char *name);
extern Oid	bemi_own_function(const char *name, int nargs, const Oid *types);
extern Oid	bemi_emit_context_oid(void);
extern void bemi_lock_sources(LOCKMODE mode);
extern bool bemi_database_has_slot(Oid database);
extern void bemi_extension_init(void);

/* rights.c */
extern void bemi_act_as_owner(BemiRights *former);
extern void bemi_act_restricted_as(Oid role, BemiRights *former);
extern void bemi_act_as_before(const BemiRights *former);

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
