/*-------------------------------------------------------------------------
 *
 * rules.c
 *		Column rules: which updates are kept, and which values are redacted.
 *
 * Input: the rules of a table (description.c), as lists of column names.  A
 * name that ends in "*" matches all columns that begin with the rest.  The
 * rules are applied to the relation's columns once, in the relation's memory.
 * Output: whether an update is kept, and the text that replaces a redacted
 * value.
 *
 * Two settings of the destination apply to all tables: bemi.ignore_columns and
 * bemi.noop_updates.
 *
 * The old and the new row are compared by the texts of their values, so every
 * visible difference counts.  An update without a complete old row in the WAL
 * is kept.  What must never happen: a value that a rule redacts is stored, or
 * shown in a message.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/varlena.h"

#include "decode/decode_internal.h"
#include "extension/extension.h"
#include "track/track.h"

/* This many digits of a hash are enough to distinguish values. */
#define SHOWN_HASH_LEN	32

#define REDACTED	"[redacted]"

/* Hashing copies the value, so a longer one is redacted completely. */
#define LONGEST_HASHED	(MaxAllocSize / 2)

static char *ignore_setting = NULL;
static bool noop_updates = true;

/*
 * The names of bemi.ignore_columns, each ended by a zero byte, the last by
 * two.
 */
static char *ignored_everywhere = NULL;

static bool
column_is_listed(const char *column, const List *names)
{
	ListCell   *cell;

	foreach(cell, names)
	{
		if (strcmp(column, lfirst(cell)) == 0)
			return true;
	}
	return false;
}

/*
 * The key for hashes of a column's values; NULL if the source's key is
 * unknown.  Each column has a key of its own, because otherwise a user could
 * hash guesses in a table of his own and compare.
 */
static char *
column_hash_key(const BemiRelation *relation, const char *column,
				const char *hash_key)
{
	char	   *place = psprintf("%u.%s", relation->oid, column);

	return hash_key ? bemi_hmac(hash_key, place, strlen(place)) : NULL;
}

/*
 * Applies column rules to a relation; the caller has switched to its memory.
 * If there is a redaction rule, columns with unknown names are redacted, too,
 * because a redacted column may have been renamed.  "known" has the known
 * names.  Without a key for hashes (NULL), values are redacted completely.
 */
void
bemi_rules_apply(BemiRelation *relation, const List *ignore,
				 const List *redact, const List *redact_hash,
				 const List *known, const char *hash_key)
{
	bool		redacts = (redact != NIL || redact_hash != NIL);

	relation->ignores = (ignore != NIL);
	for (int i = 0; i < relation->column_count; i++)
	{
		BemiColumn *column = &relation->columns[i];

		column->ignored = bemi_rules_match(column->name, ignore);
		column->redaction = BEMI_KEEP;
		if (bemi_rules_match(column->name, redact) ||
			(redacts && !column_is_listed(column->name, known)))
			column->redaction = BEMI_REDACT;
		else if (bemi_rules_match(column->name, redact_hash))
		{
			column->redaction = BEMI_REDACT_HASH;
			column->hash_key =
				column_hash_key(relation, column->name, hash_key);
		}
	}
}

/*
 * Whether bemi.ignore_columns names a column.
 */
bool
bemi_is_ignored_everywhere(const char *column)
{
	if (ignored_everywhere == NULL)
		return false;
	for (const char *name = ignored_everywhere; *name;
		 name += strlen(name) + 1)
		if (bemi_rule_matches(column, name))
			return true;
	return false;
}

/*
 * Whether an update changed a column's value.  A TOAST value that is missing
 * from the new row was not changed.
 */
static bool
column_is_changed(const LogicalRepTupleData *before,
				  const LogicalRepTupleData *after, int column)
{
	const StringInfoData *old = &before->colvalues[column];
	const StringInfoData *new = &after->colvalues[column];

	if (after->colstatus[column] == LOGICALREP_COLUMN_UNCHANGED)
		return false;
	if (before->colstatus[column] != after->colstatus[column])
		return true;
	return after->colstatus[column] != LOGICALREP_COLUMN_NULL &&
		(old->len != new->len || memcmp(old->data, new->data, new->len) != 0);
}

/*
 * Whether an update is kept.  It is not if it changed only ignored columns, or
 * if it changed nothing and bemi.noop_updates is off.  "before" is the
 * complete old row.  For some partitions it may be only a changed key, and
 * then the update is kept.
 */
bool
bemi_rules_keep_update(const BemiRelation *relation,
					   const LogicalRepTupleData *before,
					   const LogicalRepTupleData *after)
{
	bool		changed = false;

	if (before->ncols != after->ncols ||
		(noop_updates && !relation->ignores && ignored_everywhere == NULL))
		return true;
	for (int i = 0; i < Min(relation->column_count, after->ncols); i++)
	{
		const BemiColumn *column = &relation->columns[i];

		if (!column_is_changed(before, after, i))
			continue;
		if (!column->ignored && !bemi_is_ignored_everywhere(column->name))
			return true;
		changed = true;
	}
	return !changed && noop_updates;
}

/*
 * The text that replaces a value of a redacted column, palloc'd.
 */
char *
bemi_redacted(const BemiColumn *column, const char *text, int len)
{
	if (column->redaction == BEMI_REDACT || column->hash_key == NULL ||
		len > LONGEST_HASHED)
		return pstrdup(REDACTED);
	return psprintf("[redacted:%.*s]", SHOWN_HASH_LEN,
					bemi_hmac(column->hash_key, text, len));
}

/*
 * Whether a value is not the row's, but a placeholder: one of the above, or
 * one of row_json.c or stream/encoding.c.
 */
bool
bemi_is_placeholder(const JsonbValue *value)
{
	static const char *const starts[] = {REDACTED, "[redacted:", "[bemi: "};

	if (value->type != jbvString || value->val.string.len < 7 ||
		value->val.string.val[0] != '[' ||
		value->val.string.val[value->val.string.len - 1] != ']')
		return false;
	for (int i = 0; i < lengthof(starts); i++)
	{
		int			len = strlen(starts[i]);

		if (value->val.string.len >= len &&
			memcmp(value->val.string.val, starts[i], len) == 0)
			return true;
	}
	return false;
}

/*
 * Check hook of bemi.ignore_columns.  Parses the names into *extra, in the
 * format of ignored_everywhere.  Case is not folded: the names are as in the
 * catalog.
 */
static bool
check_ignore_columns(char **newval, void **extra, GucSource source)
{
	char	   *list = pstrdup(*newval);
	List	   *names = NIL;
	ListCell   *cell;
	char	   *kept;

	if (!SplitGUCList(list, ',', &names))
	{
		GUC_check_errdetail("It must be a list of column names, separated by commas.");
		GUC_check_errhint("Example: bemi.ignore_columns = 'updatedAt, cached_*'");
		return false;
	}
	if (names == NIL)
		return true;

	*extra = kept = bemi_guc_malloc(strlen(*newval) + list_length(names) + 1);
	if (kept == NULL)
		return false;
	foreach(cell, names)
	{
		if (*(char *) lfirst(cell) == '\0')
			continue;
		strcpy(kept, lfirst(cell));
		kept += strlen(kept) + 1;
	}
	*kept = '\0';
	return true;
}

static void
assign_ignore_columns(const char *newval, void *extra)
{
	ignored_everywhere = extra;
}

void
bemi_rules_init(void)
{
	DefineCustomStringVariable("bemi.ignore_columns",
							   "Sets columns of all tables; an update that changes only these is not stored.",
							   "A list of names. A name that ends in * matches all names with this prefix.",
							   &ignore_setting, "", PGC_SUSET, GUC_LIST_INPUT,
							   check_ignore_columns, assign_ignore_columns,
							   NULL);

	DefineCustomBoolVariable("bemi.noop_updates",
							 "Sets whether updates that change nothing are stored.",
							 NULL, &noop_updates, true, PGC_SUSET, 0, NULL,
							 NULL, NULL);
}
