/*
 * Reports each check of the rights on a table.
 *
 * As pgaudit and sepgsql do, this observes a query by ExecutorCheckPerms_hook.  PERMISSIONS is the hook's second
 * parameter, which PostgreSQL 16 added, with a comma.
 */
#include "postgres.h"

#include "executor/executor.h"
#include "fmgr.h"
#include "utils/lsyscache.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

static bool
report_tables(List *tables, PERMISSIONS bool throws_error)
{
	ListCell   *cell;

	foreach(cell, tables)
	{
		RangeTblEntry *table = lfirst(cell);

		if (table->rtekind == RTE_RELATION)
			elog(NOTICE, "rights on %s are checked", get_rel_name(table->relid));
	}
	return true;
}

void
_PG_init(void)
{
	ExecutorCheckPerms_hook = report_tables;
}
