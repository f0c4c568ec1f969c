/*-------------------------------------------------------------------------
 *
 * shared.c
 *		Shared memory of sessions, workers and the launcher.
 *
 * It is created when the server starts, and is empty after a restart or crash.
 * entry.c has the entries of sources, facts.c the facts about them, and
 * pause.c writes the pauses.  This file has the lock of all of it, the
 * condition variable, and the launcher's PID and latch.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "worker/worker_internal.h"

BemiShared *bemi_shared = NULL;
int			bemi_max_sources = 64;

static shmem_startup_hook_type prev_shmem_startup_hook = NULL;
#if BEMI_HAS_SHMEM_REQUEST_HOOK
static shmem_request_hook_type prev_shmem_request_hook = NULL;
#endif

static void
request_shared_memory(void)
{
#if BEMI_HAS_SHMEM_REQUEST_HOOK
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
#endif
	/* ShmemInitStruct() begins at cache lines. */
	RequestAddinShmemSpace(CACHELINEALIGN(sizeof(BemiShared)));
	RequestAddinShmemSpace(CACHELINEALIGN(bemi_entry_memory_size()));
	RequestAddinShmemSpace(CACHELINEALIGN(bemi_facts_memory_size()));
	RequestNamedLWLockTranche("bemi", 1);
}

static void
attach_shared_memory(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	bemi_shared = ShmemInitStruct("bemi", sizeof(BemiShared), &found);
	if (!found)
	{
		memset(bemi_shared, 0, sizeof(BemiShared));
		bemi_shared->lock = &GetNamedLWLockTranche("bemi")->lock;
		ConditionVariableInit(&bemi_shared->changed);
	}
	bemi_entry_attach();
	bemi_facts_attach();
	LWLockRelease(AddinShmemInitLock);
}

/*
 * Whether the launcher is running.
 */
bool
bemi_launcher_is_running(void)
{
	bool		running;

	LWLockAcquire(bemi_shared->lock, LW_SHARED);
	running = bemi_shared->launcher_pid != 0;
	LWLockRelease(bemi_shared->lock);
	return running;
}

static void
set_launcher(pid_t pid, Latch *latch)
{
	LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
	bemi_shared->launcher_pid = pid;
	bemi_shared->launcher_latch = latch;
	LWLockRelease(bemi_shared->lock);
}

static void
forget_launcher(int code, Datum arg)
{
	set_launcher(0, NULL);
}

/*
 * Registers this process as the launcher.
 */
void
bemi_enter_launcher(void)
{
	before_shmem_exit(forget_launcher, (Datum) 0);
	set_launcher(MyProcPid, MyLatch);
}

/*
 * Wakes the launcher to start workers.
 */
void
bemi_wake_launcher(void)
{
	LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
	if (bemi_shared->launcher_latch)
		SetLatch(bemi_shared->launcher_latch);
	LWLockRelease(bemi_shared->lock);
}

/*
 * Requests the memory, which is possible only while shared_preload_libraries
 * are loaded.
 */
void
bemi_shared_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	DefineCustomIntVariable("bemi.max_sources",
							"Sets how many sources the server can read, in all its databases.",
							"Each takes a background worker, and 5 kB of shared memory.",
							&bemi_max_sources, 64, 1, 1000, PGC_POSTMASTER, 0,
							NULL, NULL, NULL);
#if BEMI_HAS_SHMEM_REQUEST_HOOK
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shared_memory;
#else
	request_shared_memory();
#endif
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = attach_shared_memory;
}
