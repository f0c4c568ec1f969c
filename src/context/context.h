/*-------------------------------------------------------------------------
 *
 * context.h
 *		The context of a statement: setting, comment, tags, fields of the server.
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
	bool		is_placed;		/* false: the place is not known */
	int			front;			/* where comments in front may begin */
} BemiStatementText;

extern bool bemi_is_json_object(const char *json, int len);
extern const char *bemi_context_of_statement(
											 const BemiStatementText *statement);
extern const char *bemi_context_with_additions(const char *context,
											   const char *tags);
extern const char *bemi_override_context(const char *context);
extern bool bemi_context_is_too_large(const char *content, int len);
extern void bemi_context_init(void);

/* comment.c */
extern BemiStatementText bemi_statement_text(const char *text,
											 const PlannedStmt *statement);
extern char *bemi_statement_command(const BemiStatementText *statement);

/* client_statement.c */
extern const char *bemi_tags_of_statement(const BemiStatementText *statement);
extern void bemi_statement_begins(bool may_queue_triggers);
extern void bemi_utility_begins(const Node *command);

/* server_fields.c */
extern bool bemi_server_fields_are_included(void);
extern void bemi_require_context(const char *context, Relation table);

#endif							/* BEMI_CONTEXT_H */
