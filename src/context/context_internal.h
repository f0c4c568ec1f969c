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

/* The server's scanner has the same set. */
#define BEMI_WHITE_SPACE	" \t\n\r\f\v"

/* The reserved key of the tags. */
#define BEMI_TAGS_KEY		"_tags"

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
extern bool bemi_context_fits(const char *json, int len);
extern int	bemi_max_context_size(void);
extern bool bemi_context_is_empty(const char *object);

/* comment.c */
/* A comment of the form that SQL and C share, marks included. */
typedef struct BemiComment
{
	const char *start;			/* NULL: there is none */
	int			len;
	bool		nested;			/* it has comment marks within */
} BemiComment;

/* A statement's text, to be searched for comments. */
typedef struct BemiSourceText
{
	BemiStatementText statement;
	bool		conforming_strings; /* when it was parsed */
	bool		scanned;
	int			tokens_end;		/* of the last token, if scanned; in bytes
								 * behind the statement's location; -1: it
								 * cannot be scanned */
} BemiSourceText;

extern int	bemi_statement_length(const BemiStatementText *statement);
extern BemiStatementText bemi_statement_in_text(const char *text, int location,
												int len);
extern const char *bemi_behind_last_token(BemiSourceText *source);
extern bool bemi_next_comment(const char **p, BemiComment *comment);
extern const char *bemi_end_of_comments(const char *p);
extern bool bemi_may_have_context_comment(const BemiStatementText *statement);
extern bool bemi_has_context_comment(BemiSourceText *source);
extern const char *bemi_read_context_comment(BemiSourceText *source);

/* tags.c */
/* Whether bemi.tags names any tag. */
extern bool bemi_tags_are_read;

extern bool bemi_may_have_tags(const BemiStatementText *statement);
extern const char *bemi_read_tags(BemiSourceText *source);
extern int	bemi_length_with_tags(const BemiStatementText *statement,
								  const char **start);
extern bool bemi_may_have_tags_key(const char *context);
extern const char *bemi_context_without_tags(const char *context);
extern const char *bemi_context_with_tags(const char *context,
										  const char *tags);
extern void bemi_tags_init(void);

/* client_statement.c */
extern const char *bemi_context_in_comment(const BemiStatementText *statement);
extern bool bemi_first_warning_of_message(void);
extern void bemi_client_statement_init(void);

/* server_fields.c */
extern const char *bemi_context_with_server_fields(const char *context);
extern void bemi_server_fields_init(void);

#endif							/* BEMI_CONTEXT_INTERNAL_H */
