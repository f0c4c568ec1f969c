/*-------------------------------------------------------------------------
 *
 * stream_internal.h
 *		BemiStream, and the functions that only the files of this room use.
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
	char	   *source;			/* its name in bemi.sources */
	char	   *name;			/* application_name, unless conninfo has one */
	bool		declines;		/* its walsender has bemi.asynchronous set */
	void		(*on_wait) (BemiStream *);	/* called while a command runs */
	bool		refuses_options;	/* the source, or a pooler in front of it */
	bool		has_no_timeout; /* the command has no timeout */
	PGconn	   *replication;
	PGconn	   *catalog;		/* ordinary connection, open only while needed */
	int64		catalog_opened_at;	/* these by bemi_monotonic_ms() */
	int64		catalog_used_at;

	bool		encoding_known; /* of the source; the conversions are invalid
								 * if the server has none */
	int			encoding;
	FmgrInfo	to_utf8;
	FmgrInfo	from_utf8;

	char	   *signing_key;	/* of its tracking messages, or NULL */
	char	   *signing_key_row;	/* identifies its row */
	bool		signing_key_is_new; /* since the last call of
									 * bemi_stream_signing_key_is_new() */
	char	   *former_signing_key; /* the one before, or NULL */
	XLogRecPtr	former_until;	/* verifies messages before this position */
	XLogRecPtr	signing_key_read_lsn;	/* end of the source's WAL when the
										 * key was read last */
	int64		signing_key_read_at;	/* and by bemi_monotonic_ms() */
	bool		unsettled;		/* a message was rejected without reading the
								 * key again */
	bool		describes;		/* it has _bemi.describe() */

	WaitEventSet *wait_set;		/* for the stream; NULL: not created yet */
	char	   *frame;			/* libpq's memory, until the next frame */
	XLogRecPtr	position;		/* of the last frame that was returned */
	XLogRecPtr	received;		/* the source has sent all up to here */
	TimestampTz horizon_time;	/* all commits of earlier times are before ... */
	XLogRecPtr	horizon_position;
	bool		reply_requested;
	bool		caught_up;		/* the last frame is a keepalive */
	bool		ended;			/* the end is not yet reported */
	XLogRecPtr	failed_at;		/* row of the last error, as far as it names
								 * one */
	TimestampTz heard_at;		/* when the source has sent something */
	int64		heard_ms;		/* the same by bemi_monotonic_ms(), as all
								 * below */
	int64		asked_at;		/* when we requested an answer; 0: not since
								 * then */
	int64		active_at;		/* when we last read from it or wrote to it */
	int64		absent_until;	/* end of our last long absence; 0: none */
	int			absent_ms;		/* its duration */
	int			source_timeout_ms;	/* wal_sender_timeout of the source; 0:
									 * none */
	XLogRecPtr	flushed;		/* highest confirmed position */
};

/* connection.c */
extern void bemi_stream_open_connection(BemiStream *stream, bool replication);
extern bool bemi_stream_wait_for_socket(PGconn *conn, int socket_event,
										long timeout_ms);
extern PGresult *bemi_stream_next_result(BemiStream *stream, PGconn *conn);
extern PGresult *bemi_stream_await_result(BemiStream *stream, PGconn *conn);
extern PGresult *bemi_stream_run_any_command(BemiStream *stream, PGconn *conn,
											 const char *command);
extern PGresult *bemi_stream_run_command(BemiStream *stream, PGconn *conn,
										 const char *command,
										 ExecStatusType expected);
extern void bemi_stream_record_activity(BemiStream *stream);
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
extern void bemi_stream_record_answer(BemiStream *stream);
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
extern PGconn *bemi_stream_catalog(BemiStream *stream);
extern PGresult *bemi_stream_run_with(BemiStream *stream, PGconn *conn,
									  const char *command, int count,
									  const char *const *values);
extern PGresult *bemi_stream_query(BemiStream *stream, const char *command);
extern PGresult *bemi_stream_query_with(BemiStream *stream,
										const char *command, int count,
										const char *const *values);
extern PGresult *bemi_stream_query_at(BemiStream *stream, const char *snapshot,
									  const char *command);
extern XLogRecPtr bemi_stream_create_temporary_slot(BemiStream *stream,
													const char *slot,
													char **snapshot);
extern void bemi_stream_drop_temporary_slot(BemiStream *stream,
											const char *slot);

/* verify.c */
extern void bemi_stream_read_signing_key(BemiStream *stream);

/* encoding.c */
extern void bemi_stream_learn_encoding(BemiStream *stream);

#endif							/* BEMI_STREAM_INTERNAL_H */
