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

#include "access/tupdesc.h"
#include "executor/tuptable.h"
#include "storage/lockdefs.h"
#include "utils/tuplestore.h"

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
extern Oid	bemi_own_internal_table(const char *name);
extern Oid	bemi_own_function(const char *name, int nargs, const Oid *types);
extern Oid	bemi_column_is_changed_oid(void);
extern Oid	bemi_emit_context_oid(void);
extern Oid	bemi_signing_key_oid(void);
extern void bemi_lock_sources(LOCKMODE mode);
extern bool bemi_database_has_slot(Oid database);
extern void bemi_extension_init(void);

/* rights.c */
extern void bemi_act_as_owner(BemiRights *former);
extern void bemi_act_restricted_as(Oid role, BemiRights *former);
extern void bemi_act_as_before(const BemiRights *former);

/* sql_call.c */

/*
 * A value with its type: an argument of a statement, or a column of a row.
 */
typedef struct BemiValue
{
	Oid			type;
	bool		is_null;
	Datum		datum;
} BemiValue;

extern BemiValue bemi_sql_text(const char *text);
extern BemiValue bemi_sql_json(const char *json);
extern BemiValue bemi_sql_jsonb(const Jsonb *jsonb);
extern BemiValue bemi_sql_uuid(const pg_uuid_t *uuid);
extern BemiValue bemi_sql_interval(const Interval *interval);
extern BemiValue bemi_sql_bool(bool truth);
extern BemiValue bemi_sql_int8(int64 number);
extern BemiValue bemi_sql_time(TimestampTz time);
extern BemiValue bemi_sql_lsn(XLogRecPtr position);
extern BemiValue bemi_sql_xid(TransactionId xid);
extern BemiValue bemi_sql_oid(Oid type, Oid oid);
extern BemiValue bemi_sql_null_if(bool is_null, BemiValue value);
extern BemiValue bemi_sql_argument(FunctionCallInfo fcinfo, int number,
								   Oid type);
extern char *bemi_sql_text_of(const BemiValue *column);
extern bool bemi_sql_is_true(const BemiValue *column);
extern int64 bemi_sql_number_of(const BemiValue *column);

/*
 * Results are palloc'd in the current memory context; all other memory is
 * freed.  The statement runs as the current user, or as the owner of the
 * extension, with search_path pinned.
 */
extern void bemi_sql_run(const char *statement, const BemiValue *arguments,
						 int count);
extern bool bemi_sql_run_bool(const char *statement,
							  const BemiValue *arguments, int count);
extern bool bemi_sql_run_row(const char *statement, const BemiValue *arguments,
							 int count, BemiValue *columns, int column_count);
extern void bemi_sql_run_as_owner(const char *statement,
								  const BemiValue *arguments, int count);
extern bool bemi_sql_run_bool_as_owner(const char *statement,
									   const BemiValue *arguments, int count);
extern bool bemi_sql_read_row(const char *query, const BemiValue *arguments,
							  int count, BemiValue *columns, int column_count);
extern List *bemi_sql_read_oids(const char *query, const BemiValue *arguments,
								int count, Oid type);

/*
 * Rows with their columns, which a query can read under this name.
 */
typedef struct BemiRows
{
	const char *name;
	TupleDesc	columns;
	Tuplestorestate *rows;
} BemiRows;

extern void bemi_sql_read_rows(const char *query, const BemiRows *source,
							   BemiRows *result);

typedef void (*BemiRowFunction) (TupleTableSlot *row, void *argument);

extern void bemi_sql_read_each_row(const char *query, const BemiRows *source,
								   BemiRowFunction function, void *argument);

/*
 * A prepared statement that changes rows of the application.
 */
typedef struct BemiWrite
{
	struct _SPI_plan *plan;
} BemiWrite;

extern BemiWrite *bemi_sql_prepare_write(const char *statement,
										 const BemiRows *source);
extern uint64 bemi_sql_write(const BemiWrite *write, const BemiRows *source);
extern void bemi_sql_forget_write(BemiWrite *write);

extern bool bemi_procedure_is_atomic(FunctionCallInfo fcinfo);
extern void bemi_procedure_begin(FunctionCallInfo fcinfo);
extern void bemi_procedure_commit(void);
extern void bemi_procedure_end(void);

/* hmac.c */

#define BEMI_HMAC_LEN	64		/* hexadecimal digits */

/* Purposes of derived keys.  No two uses of the signing key share one. */
#define BEMI_KEY_TRACKING		"bemi tracking message"
#define BEMI_KEY_REDACT_HASH	"bemi redact_hash"
#define BEMI_KEY_VERSION		"bemi signing key version"

extern char *bemi_hmac(const char *key, const char *bytes, int len);
extern char *bemi_derive_key(const char *signing_key, const char *purpose);

/* settings.c */

extern void bemi_pin_settings(void);
extern int	bemi_pin_settings_of_call(void);
extern int	bemi_pin_settings_of_texts(void);
extern char *bemi_settings_as_options(const char *options);
extern bool bemi_settings_are_refused(const char *message);
extern char *bemi_settings_as_commands(int server_version,
									   const char *datestyle,
									   const char *timezone);

#endif							/* BEMI_EXTENSION_H */
