/*-------------------------------------------------------------------------
 *
 * encoding.c
 *		Converts texts of the source to the encoding of this database.
 *
 * A remote source may have another encoding, with characters that this
 * database's encoding lacks.  If the source had to convert its texts, the
 * first such character would end the stream.  So it sends its texts
 * unconverted, and they are converted here.  A character that this encoding
 * lacks is replaced by its code point ("[U+20AC]"), and a byte that belongs to
 * no character by its value ("[0xE9]").  The brackets and their content are no
 * syntax within JSON strings, arrays or rows, so these stay well-formed.
 *
 * Every encoding of a server contains ASCII unchanged, and most texts are only
 * that.  Texts of the worker's own database are valid already.
 *
 * What must never happen: a text of the source makes the conversion fail, or
 * an invalid text gets into this database.
 *
 * Results are palloc'd in the current memory context.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "mb/pg_wchar.h"
#include "utils/memutils.h"

#include "stream/stream_internal.h"

/* Large texts are converted piece by piece. */
#define PIECE	(256 * 1024)

/* A longer result would come near the limit of an allocation. */
#define LONGEST_RESULT	(MaxAllocSize - MAX_CONVERSION_GROWTH * PIECE - 64)

/*
 * Looks up the default conversion between two encodings.  Its function is
 * invalid if there is none.  Like the server's own look-up it uses the search
 * path, which the worker has pinned.
 */
static void
find_encoding_conversion(FmgrInfo *conversion, int from, int to)
{
	Oid			function = FindDefaultConversionProc(from, to);

	conversion->fn_oid = InvalidOid;
	if (OidIsValid(function))
		fmgr_info(function, conversion);
}

/*
 * Records the encoding of the source's texts and looks up the conversions.
 * Needs a transaction, and a memory context that lives as long as the stream.
 */
void
bemi_stream_learn_encoding(BemiStream *stream)
{
	const char *name =
		PQparameterStatus(stream->replication, "server_encoding");

	stream->encoding = name ? pg_char_to_encoding(name) : PG_SQL_ASCII;
	if (!PG_VALID_BE_ENCODING(stream->encoding))
		stream->encoding = PG_SQL_ASCII;
	find_encoding_conversion(&stream->to_utf8, stream->encoding, PG_UTF8);
	find_encoding_conversion(&stream->from_utf8, PG_UTF8,
							 GetDatabaseEncoding());
	stream->encoding_known = true;
}

static bool
text_is_ascii(const char *text, int len)
{
	for (int i = 0; i < len; i++)
		if (IS_HIGHBIT_SET(text[i]))
			return false;
	return true;
}

/*
 * Appends a replacement for the first character of a text.  Returns the length
 * of that character in bytes.
 */
static int
append_replacement(StringInfo result, int encoding, const char *text, int len)
{
	const unsigned char *bytes = (const unsigned char *) text;
	int			width = encoding == PG_UTF8 ? pg_utf_mblen(bytes) : 1;

	if (encoding == PG_UTF8 && width <= len && pg_utf8_islegal(bytes, width))
	{
		appendStringInfo(result, "[U+%04X]",
						 (unsigned int) utf8_to_unicode(bytes));
		return width;
	}
	appendStringInfo(result, "[0x%02X]", bytes[0]);
	return 1;
}

/*
 * Appends the longest beginning of a text that can be converted, and returns
 * its length.  Without a conversion, it is the longest valid beginning.
 */
static int
append_convertible(StringInfo result, FmgrInfo *conversion, int from, int to,
				   const char *text, int len)
{
	int			done;

	if (conversion == NULL)
	{
		done = pg_encoding_verifymbstr(to, text, len);
		appendBinaryStringInfo(result, text, done);
		return done;
	}
	enlargeStringInfo(result, len * MAX_CONVERSION_GROWTH + 1);
	done = DatumGetInt32(
						 FunctionCall6(conversion, Int32GetDatum(from),
									   Int32GetDatum(to), CStringGetDatum(text),
									   CStringGetDatum(result->data + result->len),
									   Int32GetDatum(len), BoolGetDatum(true)));
	result->len += strlen(result->data + result->len);
	return done;
}

/*
 * Converts a text; without a conversion, only makes it valid.  *len is its
 * length, and is set to that of the result.
 */
static char *
convert_encoding(FmgrInfo *conversion, int from, int to, const char *text,
				 int *len)
{
	StringInfoData result;
	int			done = 0;

	initStringInfo(&result);
	while (done < *len)
	{
		int			piece = Min(*len - done, PIECE);
		int			converted = append_convertible(&result, conversion, from,
												   to, text + done, piece);
		int			rest = piece - converted;

		done += converted;
		/* A character may have been cut in two by the end of the piece. */
		if (rest > 0 &&
			(done + rest == *len || rest >= MAX_MULTIBYTE_CHAR_LEN))
			done +=
				append_replacement(&result, from, text + done, *len - done);
		if (result.len > LONGEST_RESULT)
		{
			resetStringInfo(&result);
			appendStringInfo(&result,
							 "[bemi: text of %d bytes left out, too long for encoding %s]",
							 *len, pg_encoding_to_char(to));
			break;
		}
		CHECK_FOR_INTERRUPTS();
	}
	*len = result.len;
	return result.data;
}

/*
 * Returns a text of the source in this database's encoding, ended by a zero
 * byte.  This is the text itself if it needs no conversion.  *len is set to
 * its length.  The text must have no zero bytes in the middle.
 */
char *
bemi_stream_text(BemiStream *stream, char *text, int *len)
{
	int			here = GetDatabaseEncoding();

	if (stream->conninfo == NULL || here == PG_SQL_ASCII ||
		text_is_ascii(text, *len))
		return text;

	/*
	 * The encoding is not yet known while a connection is established.  Texts
	 * are then only made valid.
	 */
	if (!stream->encoding_known || stream->encoding == here ||
		(stream->encoding != PG_UTF8 && !OidIsValid(stream->to_utf8.fn_oid)))
		return convert_encoding(NULL, here, here, text, len);

	if (stream->encoding != PG_UTF8)
		text = convert_encoding(&stream->to_utf8, stream->encoding, PG_UTF8,
								text, len);
	if (here != PG_UTF8 && OidIsValid(stream->from_utf8.fn_oid))
		text = convert_encoding(&stream->from_utf8, PG_UTF8, here, text, len);
	return text;
}

/*
 * The same for a string, which may be NULL.
 */
char *
bemi_stream_string(BemiStream *stream, const char *string)
{
	int			len;

	if (string == NULL)
		return NULL;
	len = strlen(string);
	return pstrdup(bemi_stream_text(stream, (char *) string, &len));
}
