/*-------------------------------------------------------------------------
 *
 * stream_internal.h
 *		What replication.c and its connections know of each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BEMI_STREAM_INTERNAL_H
#define BEMI_STREAM_INTERNAL_H

#include "libpq-fe.h"
#include "storage/latch.h"

#include "stream/stream.h"

struct BemiStream
{
	char	   *conninfo;		/* NULL: this server, by the two below */
	char	   *database;
	char	   *user;
	char	   *source;			/* as named to bemi.start() */
	char	   *name;			/* application_name, unless conninfo has one */
	bool		declines;		/* its walsender was told not to be elected */
	void		(*on_wait) (BemiStream *);	/* called while a command runs */
	bool		refuses_options;	/* the source, or a pooler before it */
	bool		patient;		/* the command may take as long as it likes */
	PGconn	   *replication;
	PGconn	   *catalog;		/* ordinary connection, open only while needed */
	TimestampTz catalog_opened_at;
	TimestampTz catalog_used_at;

	bool		encoding_known; /* the source's, and the conversions, which
								 * are invalid where the server has none */
	int			encoding;
	FmgrInfo	to_utf8;
	FmgrInfo	from_utf8;

	char	   *signing_key;	/* of its messages about tables, or NULL */
	char	   *signing_key_row;	/* identifies the row that it was in */
	bool		signing_key_is_new; /* nobody has asked since it changed */
	char	   *former_signing_key; /* the one before, or NULL */
	XLogRecPtr	former_until;	/* signs what was written before this position */
	XLogRecPtr	signing_key_read_lsn;	/* end of the source's WAL, and when,
										 * as the */
	TimestampTz signing_key_read_at;	/* secret was read last */
	bool		unsettled;		/* a message was refused without asking */
	bool		describes;		/* it has _bemi.describe() */

	WaitEventSet *wait_set;		/* for the stream; NULL: not made yet */
	char	   *frame;			/* libpq's memory, until the next frame */
	XLogRecPtr	position;		/* of the frame that was handed out last */
	XLogRecPtr	received;		/* the source has sent all up to here */
	TimestampTz horizon_time;	/* all commits of earlier times are before ... */
	XLogRecPtr	horizon_position;
	bool		reply_requested;
	bool		ended;			/* and this is not yet reported */
	TimestampTz heard_at;		/* the source has sent something */
	TimestampTz asked_at;		/* we have asked it to; 0: not since then */
	TimestampTz tended_at;		/* we have last read from it, or written to it */
	TimestampTz absent_until;	/* before, we did not for a long time; 0:
								 * never */
	int			absent_ms;		/* so long */
	int			patience_ms;	/* of the source with a silent worker; 0: no
								 * end */
	XLogRecPtr	flushed;		/* the highest that was confirmed */
};

/* connection.c */
extern void bemi_stream_open_connection(BemiStream *stream, bool replication);
extern bool bemi_stream_wait_for_socket(PGconn *conn, int socket_event,
										long timeout_ms);
extern PGresult *bemi_stream_await_result(BemiStream *stream, PGconn *conn);
extern PGresult *bemi_stream_run_any_command(BemiStream *stream, PGconn *conn,
											 const char *command);
extern PGresult *bemi_stream_run_command(BemiStream *stream, PGconn *conn,
										 const char *command,
										 ExecStatusType expected);
extern void bemi_stream_tend(BemiStream *stream);
extern void bemi_stream_report_failure(BemiStream *stream, PGconn *conn,
									   const char *what);
extern void bemi_stream_report_refusal(BemiStream *stream, PGresult *result);

/* hint.c */
extern char *bemi_cut_sqlstate(char *message);
extern const char *bemi_stream_hint(const BemiStream *stream,
									const char *message, const char *sqlstate);
extern const char *bemi_connection_hint(const BemiStream *stream,
										const char *message,
										const char *sqlstate);

/* replication.c */
extern void bemi_stream_ask(BemiStream *stream);

/* probe.c */
extern BemiStream *bemi_stream_open_probe(const BemiStream *stream);

/* answer.c */
extern bool bemi_answer_is_null(const PGresult *answer, int row, int column);
extern char *bemi_answer_text(const PGresult *answer, int row, int column);
extern int64 bemi_answer_number(const PGresult *answer, int row, int column);
extern bool bemi_answer_bool(const PGresult *answer, int row, int column);
extern XLogRecPtr bemi_answer_lsn(const PGresult *answer, int row, int column);
extern XLogRecPtr bemi_answer_lsn_or_invalid(const PGresult *answer, int row,
											 int column);
extern TimestampTz bemi_answer_time(const PGresult *answer, int row,
									int column);
extern TimestampTz bemi_answer_time_or_zero(const PGresult *answer, int row,
											int column);

/* source_queries.c */
extern long bemi_stream_catalog_left_ms(const BemiStream *stream);
extern PGresult *bemi_stream_query(BemiStream *stream, const char *command);
extern PGresult *bemi_stream_query_at(BemiStream *stream, const char *snapshot,
									  const char *command);

/* verify.c */
extern void bemi_stream_read_signing_key(BemiStream *stream);

/* encoding.c */
extern void bemi_stream_learn_encoding(BemiStream *stream);

#endif							/* BEMI_STREAM_INTERNAL_H */
