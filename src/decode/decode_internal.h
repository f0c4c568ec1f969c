/*-------------------------------------------------------------------------
 *
 * decode_internal.h
 *		What only the files of decoding use: types, columns, rules, JSON of rows.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BEMI_DECODE_INTERNAL_H
#define BEMI_DECODE_INTERNAL_H

#include "decode/decode.h"

/* types.c */

/* How a value's text becomes a JSON value, see decode/row_json.c. */
typedef enum BemiTypeKind
{
	BEMI_TYPE_TEXT,				/* a string, as it is */
	BEMI_TYPE_BOOLEAN,
	BEMI_TYPE_NUMBER,
	BEMI_TYPE_TIMESTAMP,		/* with and without time zone */
	BEMI_TYPE_JSON,				/* json and jsonb */
	BEMI_TYPE_ARRAY,
	BEMI_TYPE_COMPOSITE,
	BEMI_TYPE_JSON_CAST			/* parsed by its type, then cast to json */
} BemiTypeKind;

/* A type of the source.  A domain is described as its base type. */
typedef struct BemiType
{
	Oid			oid;
	BemiTypeKind kind;
	bool		risky;			/* the conversion may fail */
	FmgrInfo	input;			/* ARRAY, COMPOSITE, JSON_CAST: text -> datum */
	Oid			input_parameter;
	int32		input_typmod;
	FmgrInfo	output;			/* ARRAY: element -> text, unused if it is
								 * text; JSON_CAST: datum -> json */
	Oid			parsed_as;		/* ARRAY: element type of the datum */
	const struct BemiType *element; /* ARRAY */
	int			field_count;	/* COMPOSITE */
	const char **field_names;
	const struct BemiType **field_types;
} BemiType;

typedef struct BemiTypes BemiTypes;

extern BemiTypes *bemi_types_create(const List *parts);
extern bool bemi_types_know(BemiTypes *types, Oid oid);
extern const BemiType *bemi_type_of(BemiTypes *types, Oid oid);
extern List *bemi_type_parts_elsewhere(const List *parts);

/* rules.c */

/* How a column's values are stored. */
typedef enum BemiRedaction
{
	BEMI_KEEP,
	BEMI_REDACT,				/* replaced by "[redacted]" */
	BEMI_REDACT_HASH			/* replaced by a keyed hash */
} BemiRedaction;

extern void bemi_rules_apply(BemiRelation *relation, const List *ignore,
							 const List *redact, const List *redact_hash,
							 const List *known, const char *hash_key);
extern bool bemi_rules_keep_update(const BemiRelation *relation,
								   const LogicalRepTupleData *before,
								   const LogicalRepTupleData *after);
extern char *bemi_redacted(const BemiColumn *column, const char *text,
						   int len);

/* description.c */
extern bool bemi_description_fits(const BemiRelation *relation,
								  const Jsonb *description);
extern void bemi_description_apply(BemiRelation *relation, const Jsonb *first,
								   const Jsonb *second, const char *hash_key,
								   bool is_local);

/* protocol.c */

/* A column of a table of the source. */
struct BemiColumn
{
	const char *name;
	Oid			type_oid;
	const BemiType *type;
	bool		identity;		/* belongs to the replica identity */
	bool		ignored;		/* an update of only such columns is not kept */
	BemiRedaction redaction;
	const char *hash_key;		/* for BEMI_REDACT_HASH; NULL: unknown */
};

/* row_json.c */

/* One state of a row: its values, and the row that may hold omitted ones. */
typedef struct BemiImage
{
	const LogicalRepTupleData *row;
	const LogicalRepTupleData *old; /* for unchanged TOAST values; or NULL */
	bool		is_old;			/* the row before the change */
	bool		is_key;			/* holds only the columns of the replica
								 * identity; of "old" if there is one */
} BemiImage;

extern void bemi_row_order(BemiRelation *relation);
extern Jsonb *bemi_row_to_jsonb(const BemiRelation *relation,
								const BemiImage *image);
extern char *bemi_row_primary_key(const BemiRelation *relation,
								  const BemiImage *image);
extern Jsonb *bemi_text_to_jsonb(const char *text, int len);

/* stitch.c */
extern uint32 bemi_id_tag(const char *tag);

/* stitch_context.c */
extern Jsonb *bemi_context_of_message(BemiStream *stream, const char *content,
									  int len);
extern Jsonb *bemi_context_of_tracking(const Jsonb *message);
extern bool bemi_context_is_large(const Jsonb *context);
extern Jsonb *bemi_context_small_members(const Jsonb *context,
										 const pg_uuid_t *holder);

#endif							/* BEMI_DECODE_INTERNAL_H */
