/*-------------------------------------------------------------------------
 *
 * rule_match.c
 *		Which columns a rule names.
 *
 * A rule is the name of a column, or the beginning of names before a "*".  The
 * source checks rules when they are set (rules.c), the worker applies them
 * when it reads changes (decode/rules.c).  Both ask here, because a value must
 * not reach the history that the source has reported as redacted.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "track/track.h"

/*
 * Whether a rule is a prefix of names rather than a name.
 */
bool
bemi_rule_is_prefix(const char *rule)
{
	int			len = strlen(rule);

	return len > 0 && rule[len - 1] == '*';
}

/*
 * Whether a column matches a rule, which is a name, or a prefix and "*".
 */
bool
bemi_rule_matches(const char *column, const char *name)
{
	if (bemi_rule_is_prefix(name) &&
		strncmp(column, name, strlen(name) - 1) == 0)
		return true;
	return strcmp(column, name) == 0;
}

/*
 * Whether a column matches one of the rules.
 */
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
