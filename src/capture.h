/*-------------------------------------------------------------------------
 *
 * capture.h
 *		What capture.c and its second file know of each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BEMI_CAPTURE_H
#define BEMI_CAPTURE_H

#include "bemi.h"

/* capture_message.c */
extern void bemi_message_for_statement(const char *context);
extern void bemi_message_again(const char *context, int nest_level);
extern void bemi_capture_message_init(void);

#endif							/* BEMI_CAPTURE_H */
