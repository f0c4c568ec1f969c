/*-------------------------------------------------------------------------
 *
 * rules.c
 *		Which updates are kept, and which values of them.
 *
 * In flow the rules of a table (description.c): lists of column names, of
 * which one that ends in "*" stands for all that begin so.  They are applied
 * to the relation's columns once.  Out flow the decision whether an update
 * leaves a change behind, and what stands for a value that is redacted.
 *
 * Two settings of the destination are for all tables: bemi.ignore_columns and
 * bemi.noop_updates.
 *
 * Old and new row are compared by the texts of their values, so whatever can
 * be seen makes a difference.  Where the WAL does not hold the whole old row,
 * nothing is left out.  What must never happen: that a value which is to be
 * redacted gets beyond the conversion to jsonb, or into a message.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/varlena.h"

#include "decode/decode_internal.h"
#include "extension/extension.h"

/* So many digits of a hash tell values apart. */
#define SHOWN_HASH_LEN	32

#define REDACTED	"[redacted]"

/* To hash a value takes a copy of it; longer ones are redacted as a whole. */
#define LONGEST_HASHED	(MaxAllocSize / 2)

static char *ignore_setting = NULL;
static bool noop_updates = true;

/*
 * The names of bemi.ignore_columns, each ended by a zero byte, the last by
 * two.
 */
static char *ignored_everywhere = NULL;

/*
 * Whether a rule is the beginning of names, rather than a name.
 */
bool
bemi_rule_is_prefix(const char *rule)
{
	int			len = strlen(rule);

	return len > 0 && rule[len - 1] == '*';
}

/*
 * Whether a column matches a rule: a name, or the beginning of one before a
 * "*".
 */
bool
bemi_rule_matches(const char *column, const char *name)
{
	if (bemi_rule_is_prefix(name) &&
		strncmp(column, name, strlen(name) - 1) == 0)
		return true;
	return strcmp(column, name) == 0;
}

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

bool
bemi_rules_match(const char *column, const List *names)
{
	ListCell   *cell;

	foreach(cell, names)
	{
		if (bemi_rule_matches(column, lfirst(cell)))
			return true;
	}
	return false;
}

/*
 * The key for the hashes of a column's values, so that nobody can look them up
 * by hashing what he likes in a table of his own; NULL without one of the
 * source.
 */
static char *
column_hash_key(const BemiRelation *relation, const char *column,
				const char *hash_key)
{
	char	   *place = psprintf("%u.%s", relation->oid, column);

	return hash_key ? bemi_hmac(hash_key, place, strlen(place)) : NULL;
}

/*
 * Applies the rules for its columns to a relation, within its memory.  Where
 * something is redacted, so is a column whose name is not among those that the
 * rules knew of: it may be one of them by another name.  Without a key for
 * hashes (NULL), values are redacted as a whole.
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

static bool
column_is_ignored_everywhere(const char *column)
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
 * Whether an update changed a column's value.  One that stands out of line and
 * is not in the new row's WAL was not changed.
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
 * Whether an update of the relation leaves a change behind: no, if it changed
 * only ignored columns, or nothing at all and such are not wanted.  "before"
 * is the whole old row; but of some partitions it may hold no more than a
 * changed key, which is reason enough to keep it.
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
		if (!column->ignored && !column_is_ignored_everywhere(column->name))
			return true;
		changed = true;
	}
	return !changed && noop_updates;
}

/*
 * What stands for a value of a redacted column, palloc'd.
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
 * Checks bemi.ignore_columns, and hands on its names as they are kept above.
 * No case is folded: the names are as in the catalog.
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
		GUC_check_errdetail("It is not a list of column names, parted by commas.");
		GUC_check_errhint("For example: bemi.ignore_columns = 'updatedAt, cached_*'");
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
							   "Sets columns of all tables; an update that changes nothing else is not stored.",
							   "A list of names; one that ends in * stands for all that begin so.",
							   &ignore_setting, "", PGC_SUSET, GUC_LIST_INPUT,
							   check_ignore_columns, assign_ignore_columns,
							   NULL);

	DefineCustomBoolVariable("bemi.noop_updates",
							 "Sets whether updates that change nothing are stored.",
							 NULL, &noop_updates, true, PGC_SUSET, 0, NULL,
							 NULL, NULL);
}
