/*-------------------------------------------------------------------------
 *
 * capture.h
 *		Hooks that write the context of a statement into the WAL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BEMI_CAPTURE_H
#define BEMI_CAPTURE_H

#include "bemi.h"

/* capture.c */

extern void bemi_capture_init(void);

#endif							/* BEMI_CAPTURE_H */
