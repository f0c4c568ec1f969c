/*-------------------------------------------------------------------------
 *
 * worker.h
 *		The processes that read sources, and the functions that control them.
 *
 * Nothing is above this room, so the library only initializes it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BEMI_WORKER_H
#define BEMI_WORKER_H

#include "bemi.h"

/* worker.c */
extern void bemi_worker_init(void);

#endif							/* BEMI_WORKER_H */
