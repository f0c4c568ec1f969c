/*-------------------------------------------------------------------------
 *
 * context_internal.h
 *		What only the files of the context use.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BEMI_CONTEXT_INTERNAL_H
#define BEMI_CONTEXT_INTERNAL_H

#include "context/context.h"

/* context.c */
/* Why a text is no valid context. */
typedef struct BemiContextError
{
	char	   *detail;			/* palloc'd */
	const char *hint;			/* how to stay within a limit; NULL: the text
								 * is no JSON object */
} BemiContextError;

extern bool bemi_context_is_valid(const char *json, int len,
								  BemiContextError *error);

/* comment.c */
extern const char *bemi_context_in_comment(const BemiStatementText *statement);
extern void bemi_context_comment_init(void);

/* server_fields.c */
extern void bemi_server_fields_init(void);

#endif							/* BEMI_CONTEXT_INTERNAL_H */
