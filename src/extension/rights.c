/*-------------------------------------------------------------------------
 *
 * rights.c
 *		Exchanges the rights of the current user for those of another role.
 *
 * Two roles are of interest.
 *
 * - The owner of the extension.  Functions of tracking and of starting sources
 *	 check the rights of the current user and then act as the owner, who owns
 *	 the publication and the tables of bemi.  They are not SECURITY DEFINER
 *	 functions, because those cannot find out their caller: if the call comes
 *	 from an index expression or a function of another user, the session's role
 *	 is not the caller.  Only C can read the current user first and change it
 *	 then.
 * - The owner of a table, whose code has to run: defaults, expressions of
 *	 indexes, triggers.  That code is restricted.  It can change neither the
 *	 role nor, for longer than it runs, a setting.
 *
 * After an error, the server resets the user with the (sub)transaction.  What
 * must never happen: an act with exchanged rights before the current user's
 * rights were checked.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/guc.h"

#include "extension/extension.h"

/*
 * Switches to the extension's owner, until bemi_act_as_before().
 */
void
bemi_act_as_owner(BemiRights *former)
{
	Oid			owner = bemi_extension_owner();

	if (!OidIsValid(owner))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"%s\" does not exist", "bemi")));
	former->settings = 0;
	GetUserIdAndSecContext(&former->user, &former->security);
	SetUserIdAndSecContext(owner,
						   former->security | SECURITY_LOCAL_USERID_CHANGE);
}

/*
 * Switches to a role whose code must run, until bemi_act_as_before().
 */
void
bemi_act_restricted_as(Oid role, BemiRights *former)
{
	GetUserIdAndSecContext(&former->user, &former->security);
	SetUserIdAndSecContext(role,
						   former->security | SECURITY_RESTRICTED_OPERATION);
	former->settings = NewGUCNestLevel();
}

void
bemi_act_as_before(const BemiRights *former)
{
	if (former->settings != 0)
		AtEOXact_GUC(false, former->settings);
	SetUserIdAndSecContext(former->user, former->security);
}
