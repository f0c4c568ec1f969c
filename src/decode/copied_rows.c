/*-------------------------------------------------------------------------
 *
 * copied_rows.c
 *		Turns the rows of a copied table into changes of operation SNAPSHOT.
 *
 * Input: the messages and the description that stream/table_copy.c returns.
 * Output: the same JSON and primary key as a change of the row would have,
 * with the same redacted columns, because protocol.c, description.c and
 * row_json.c do the work for both.
 *
 * A SNAPSHOT stands before the first commit that it does not contain.  WAL
 * records begin at multiples of eight bytes, so the byte before the position
 * of the copy belongs to no commit: ids made of it are after all commits that
 * the snapshot sees, and before all others.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "decode/decode_internal.h"

struct BemiCopiedRows
{
	BemiProtocol *protocol;
	const BemiRelation *relation;
	XLogRecPtr	position;		/* for ids */
	uint32		tag;			/* likewise */
	uint64		ordinal;		/* of the last row */
};

/*
 * Reads the description of a copied table, in the current memory context.  The
 * tag distinguishes its ids from those of another copy at the same position.
 */
BemiCopiedRows *
bemi_copied_rows_create(BemiStream *stream, const BemiCopyStart *start,
						StringInfo table, const char *tag)
{
	BemiCopiedRows *rows = palloc0(sizeof(BemiCopiedRows));
	Jsonb	   *description = bemi_text_to_jsonb(start->description,
												 strlen(start->description));
	BemiEvent	event = {0};

	if (description == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("source has sent an invalid description of a table")));
	rows->protocol = bemi_protocol_create(stream);
	rows->position = start->position - 1;
	rows->tag = bemi_id_tag(tag);
	bemi_protocol_read(rows->protocol, rows->position, table, &event);
	bemi_description_apply(event.relation, description, NULL,
						   bemi_stream_hash_key(stream),
						   bemi_stream_is_here(stream));
	rows->relation = event.relation;
	return rows;
}

const BemiRelation *
bemi_copied_rows_relation(const BemiCopiedRows *rows)
{
	return rows->relation;
}

/*
 * The id before those of all rows of a copy.
 */
pg_uuid_t
bemi_copied_rows_start(const BemiCopiedRows *rows)
{
	pg_uuid_t	id;

	bemi_make_change_id(rows->position, 0, rows->tag, &id);
	return id;
}

/*
 * Reads a row into a change.  The caller fills its time; what else is not set
 * is 0.  In the current memory context, or in the bytes of the message.
 */
void
bemi_copied_rows_read(BemiCopiedRows *rows, StringInfo message,
					  BemiChange *change)
{
	BemiEvent	event = {0};
	BemiImage	image = {.row = &event.after};

	bemi_protocol_read(rows->protocol, rows->position, message, &event);
	memset(change, 0, sizeof(BemiChange));
	bemi_make_change_id(rows->position, ++rows->ordinal, rows->tag,
						&change->id);
	change->schema = rows->relation->schema;
	change->table = rows->relation->table;
	change->operation = "SNAPSHOT";
	change->after = bemi_row_to_jsonb(rows->relation, &image);
	change->primary_key = bemi_row_primary_key(rows->relation, &image);
	change->position = rows->position;
}
