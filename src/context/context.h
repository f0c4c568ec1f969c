/*-------------------------------------------------------------------------
 *
 * context.h
 *		The context of a statement: setting, comment, fields of the server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BEMI_CONTEXT_H
#define BEMI_CONTEXT_H

#include "bemi.h"

/* context.c */

/*
 * bemi.include may add this much to a context that has reached the limits.
 */
#define BEMI_SERVER_FIELDS_SIZE		(64 * 1024)
#define BEMI_SERVER_FIELDS_KEYS		8

/*
 * A statement's place in the text that it was parsed from.  The text may hold
 * other statements, too.
 */
typedef struct BemiStatementText
{
	const char *text;			/* NULL: not known */
	int			location;		/* in bytes */
	int			len;			/* 0: up to the end */
} BemiStatementText;

extern bool bemi_is_json_object(const char *json, int len);
extern const char *bemi_context_of_statement(
											 const BemiStatementText *statement);
extern bool bemi_context_is_too_large(const char *content, int len);
extern void bemi_context_init(void);

/* comment.c */
extern BemiStatementText bemi_statement_text(const char *text,
											 const PlannedStmt *statement);
extern void bemi_statement_begins(void);
extern void bemi_utility_begins(const Node *command);

/* server_fields.c */
extern bool bemi_server_fields_are_included(void);
extern const char *bemi_context_with_server_fields(const char *context);
extern void bemi_require_context(const char *context, Relation table);

#endif							/* BEMI_CONTEXT_H */
