/*-------------------------------------------------------------------------
 *
 * tags.c
 *		The tags that frameworks and tracers put into comments of a statement.
 *
 * Input: a statement's text.  Output: the tags that bemi.tags names, as the
 * text of a JSON object, which becomes the member "_tags" of the context.
 *
 * Tags are in comments in front of the statement's first token and behind its
 * last one.  Comments behind the semicolon belong to the next statement of the
 * text; if there is none, they belong to the statement before the semicolon.
 * bemi.tags_format names the forms that are read:
 *
 *		sqlcommenter	action='create',traceparent='00-...'
 *		marginalia		controller:orders,action:create
 *
 * docs/explanation/which-context.md has the grammar.  A comment is read whole
 * or not at all.  In the form of sqlcommenter, texts are percent-encoded
 * UTF-8, which is converted to the encoding of the database.
 *
 * Applications put tags on every query.  So if bemi.tags is empty, the only
 * cost is a branch.  Otherwise comments in front are found without the
 * scanner.  The scanner, which finds the last token, runs only if the text
 * ends with a comment that has a sign of tags.
 *
 * What must never happen: tags make a statement fail or warn, since whoever
 * writes them does not know bemi.  What is malformed, too large, or unknown to
 * the encoding is left out without a word.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_conversion.h"
#include "catalog/pg_namespace.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/varlena.h"

#include "context/context_internal.h"

/* Tags without quotes consist of these characters. */
#define UNQUOTED	"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
#define UNQUOTED_MARGINALIA_NAME	"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._"

/* These end a name in the form of sqlcommenter, or begin an escape. */
#define NO_NAME		BEMI_WHITE_SPACE ",='\"\\%"

/* The value of bemi.tags. */
typedef struct WantedTags
{
	bool		all;
	int			count;
	char		names[FLEXIBLE_ARRAY_MEMBER];	/* a zero behind each */
} WantedTags;

/* The inside of a comment, while it is read. */
typedef struct TagReader
{
	const char *p;
	const char *end;
	StringInfoData name;
	StringInfoData value;
	StringInfo	members;		/* of the JSON object, separated by commas */
} TagReader;

/* Values of bemi.tags_format. */
#define FORMAT_SQLCOMMENTER	0x01
#define FORMAT_MARGINALIA	0x02

bool		bemi_tags_are_read = false;

static char *tags_setting = NULL;
static const WantedTags *wanted_tags = NULL;
static char *format_setting = NULL;
static int	formats = FORMAT_SQLCOMMENTER;

/*
 * Whether a character is in a set; the zero at its end is not.
 */
static bool
is_one_of(char c, const char *set)
{
	return c != '\0' && strchr(set, c) != NULL;
}

static void
skip_white_space(TagReader *reader)
{
	while (reader->p < reader->end && is_one_of(*reader->p, BEMI_WHITE_SPACE))
		reader->p++;
}

/*
 * Moves behind a character, with the white space around it.  Returns false if
 * another one stands here.
 */
static bool
read_sign(TagReader *reader, char sign)
{
	skip_white_space(reader);
	if (reader->p == reader->end || *reader->p != sign)
		return false;
	reader->p++;
	skip_white_space(reader);
	return true;
}

/*
 * The value of a hexadecimal digit, -1 for any other character.
 */
static int
hex_value(char c)
{
	return c >= '0' && c <= '9' ? c - '0' :
		c >= 'a' && c <= 'f' ? c - 'a' + 10 :
		c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/*
 * Reads %HH, or %%HH: clients in Python double the percent sign, and their
 * drivers undo that only if a statement has parameters.  Returns the byte, or
 * -1 for what a text cannot hold.
 */
static int
read_escape(TagReader *reader)
{
	const char *p = reader->p + 1;
	int			byte;

	if (p < reader->end && *p == '%')
		p++;
	if (reader->end - p < 2 || hex_value(p[0]) < 0 || hex_value(p[1]) < 0)
		return -1;
	reader->p = p + 2;
	byte = hex_value(p[0]) * 16 + hex_value(p[1]);
	return byte == 0 ? -1 : byte;
}

/*
 * Converts the end of a text from UTF-8 to the encoding of the database.
 * Returns false if it is not valid, or has a character that the encoding
 * lacks.  The look-up of the conversion is pinned to the server's own ones.
 */
static bool
convert_from_utf8(StringInfo text, int from)
{
	unsigned char *bytes = (unsigned char *) text->data + from;
	int			len = text->len - from;
	int			size = len * MAX_CONVERSION_GROWTH + 1;
	Oid			conversion;
	unsigned char *result;
	bool		is_complete;

	if (pg_encoding_verifymbstr(PG_UTF8, (char *) bytes, len) != len)
		return false;
	if (GetDatabaseEncoding() == PG_UTF8 ||
		GetDatabaseEncoding() == PG_SQL_ASCII)
		return true;
	conversion = FindDefaultConversion(PG_CATALOG_NAMESPACE, PG_UTF8,
									   GetDatabaseEncoding());
	if (!OidIsValid(conversion))
		return false;
	result = palloc(size);
	is_complete =
		pg_do_encoding_conversion_buf(conversion, PG_UTF8,
									  GetDatabaseEncoding(), bytes, len,
									  result, size, true) == len;
	text->len = from;
	appendStringInfoString(text, (char *) result);
	pfree(result);
	return is_complete;
}

/*
 * Reads the escapes that stand here.  Together they are valid UTF-8, because
 * the bytes of a character are either all escaped or none is.
 */
static bool
read_escapes(TagReader *reader, StringInfo text)
{
	int			from = text->len;
	bool		is_ascii = true;

	CHECK_FOR_INTERRUPTS();
	while (reader->p < reader->end && *reader->p == '%')
	{
		int			byte = read_escape(reader);

		if (byte < 0)
			return false;
		appendStringInfoChar(text, (char) byte);
		is_ascii = is_ascii && !IS_HIGHBIT_SET(byte);
	}
	return is_ascii || convert_from_utf8(text, from);
}

/*
 * Reads a quote that is escaped by a backslash, if one stands here.
 */
static bool
read_escaped_quote(TagReader *reader, StringInfo text)
{
	if (reader->end - reader->p < 2 || reader->p[0] != '\\' ||
		reader->p[1] != '\'')
		return false;
	appendStringInfoChar(text, '\'');
	reader->p += 2;
	return true;
}

/*
 * Reads the name of a tag in the form of sqlcommenter.
 */
static bool
read_name(TagReader *reader)
{
	StringInfo	name = &reader->name;

	resetStringInfo(name);
	while (reader->p < reader->end)
	{
		if (*reader->p == '%')
		{
			if (!read_escapes(reader, name))
				return false;
		}
		else if (!is_one_of(*reader->p, NO_NAME))
			appendStringInfoChar(name, *reader->p++);
		else if (!read_escaped_quote(reader, name))
			break;
	}
	return name->len > 0;
}

/*
 * Reads a value up to the quote that ends it; the one before it was read.
 */
static bool
read_quoted_value(TagReader *reader)
{
	StringInfo	value = &reader->value;

	while (reader->p < reader->end && *reader->p != '\'')
	{
		if (*reader->p == '%')
		{
			if (!read_escapes(reader, value))
				return false;
		}
		else if (!read_escaped_quote(reader, value))
			appendStringInfoChar(value, *reader->p++);
	}
	if (reader->p == reader->end)
		return false;
	reader->p++;
	return true;
}

/*
 * Reads a value without quotes, such as a number.
 */
static bool
read_unquoted_value(TagReader *reader)
{
	StringInfo	value = &reader->value;

	while (reader->p < reader->end)
	{
		if (*reader->p == '%')
		{
			if (!read_escapes(reader, value))
				return false;
		}
		else if (is_one_of(*reader->p, UNQUOTED))
			appendStringInfoChar(value, *reader->p++);
		else
			break;
	}
	return value->len > 0;
}

static bool
read_value(TagReader *reader)
{
	resetStringInfo(&reader->value);
	if (reader->p == reader->end || *reader->p != '\'')
		return read_unquoted_value(reader);
	reader->p++;
	return read_quoted_value(reader);
}

static bool
tag_is_wanted(const char *name)
{
	const char *wanted = wanted_tags->names;

	if (wanted_tags->all)
		return true;
	for (int i = 0; i < wanted_tags->count; i++)
	{
		if (strcmp(wanted, name) == 0)
			return true;
		wanted += strlen(wanted) + 1;
	}
	return false;
}

/*
 * Appends the tag that was read.  jsonb keeps the last of equal names.
 */
static void
append_tag(TagReader *reader)
{
	if (!tag_is_wanted(reader->name.data))
		return;
	if (reader->members->len > 0)
		appendStringInfoString(reader->members, ", ");
	escape_json(reader->members, reader->name.data);
	appendStringInfoString(reader->members, ": ");
	escape_json(reader->members, reader->value.data);
}

/*
 * Reads a comment in the form of sqlcommenter.
 */
static bool
read_sqlcommenter(TagReader *reader)
{
	skip_white_space(reader);
	do
	{
		CHECK_FOR_INTERRUPTS();
		if (!read_name(reader) || !read_sign(reader, '=') ||
			!read_value(reader))
			return false;
		append_tag(reader);
	} while (read_sign(reader, ','));
	return reader->p == reader->end;
}

/*
 * Reads name and colon in the form of marginalia.
 */
static bool
read_marginalia_name(TagReader *reader)
{
	StringInfo	name = &reader->name;

	resetStringInfo(name);
	skip_white_space(reader);
	while (reader->p < reader->end &&
		   is_one_of(*reader->p, UNQUOTED_MARGINALIA_NAME))
		appendStringInfoChar(name, *reader->p++);
	return name->len > 0 && read_sign(reader, ':');
}

/*
 * Reads a value in the form of marginalia, which has neither quotes nor
 * escapes and ends at a comma.
 */
static void
read_marginalia_value(TagReader *reader)
{
	const char *start = reader->p;
	const char *end = memchr(start, ',', reader->end - start);

	if (end == NULL)
		end = reader->end;
	reader->p = end;
	while (end > start && is_one_of(end[-1], BEMI_WHITE_SPACE))
		end--;
	resetStringInfo(&reader->value);
	appendBinaryStringInfo(&reader->value, start, end - start);
}

/*
 * Reads a comment in the form of marginalia.
 */
static bool
read_marginalia(TagReader *reader)
{
	do
	{
		CHECK_FOR_INTERRUPTS();
		if (!read_marginalia_name(reader))
			return false;
		read_marginalia_value(reader);
		append_tag(reader);
	} while (read_sign(reader, ','));
	return reader->p == reader->end;
}

/*
 * Reads a comment in one form.  If it is malformed, nothing of it remains.
 */
static bool
read_format(const BemiComment *comment, StringInfo members,
			bool (*read) (TagReader *))
{
	int			before = members->len;
	bool		is_read;
	TagReader	reader = {
		.p = comment->start + 2,
		.end = comment->start + comment->len - 2,
		.members = members
	};

	initStringInfo(&reader.name);
	initStringInfo(&reader.value);
	is_read = read(&reader);
	if (!is_read)
	{
		members->len = before;
		members->data[before] = '\0';
	}
	pfree(reader.name.data);
	pfree(reader.value.data);
	return is_read;
}

/*
 * Appends the tags of a comment, unless it is something else.  A comment that
 * is larger than a context may be is not read, which limits the memory that is
 * needed.
 */
static void
read_comment(const BemiComment *comment, StringInfo members)
{
	if (comment->nested || comment->len < 4 ||
		comment->len > bemi_max_context_size())
		return;
	if ((formats & FORMAT_SQLCOMMENTER) != 0 &&
		read_format(comment, members, read_sqlcommenter))
		return;
	if ((formats & FORMAT_MARGINALIA) != 0)
		(void) read_format(comment, members, read_marginalia);
}

/*
 * Appends the tags of the comments that begin here, between two tokens and
 * before "end".  Returns the end of the comments.
 */
static const char *
read_comments_at(const char *p, const char *end, StringInfo members)
{
	BemiComment comment;

	while (p < end && bemi_next_comment(&p, &comment) && comment.start < end)
		if (members->len <= bemi_max_context_size())
			read_comment(&comment, members);
	return p;
}

/*
 * Where the comments in front of a statement begin.  If it is not known which
 * statement comes before it in the text, there is none if only comments do.
 */
static const char *
start_of_front(const BemiStatementText *statement)
{
	const char *front = statement->text + statement->front;
	const char *start = statement->text + statement->location;

	return front < start && bemi_end_of_comments(front) >= start ?
		front : start;
}

/*
 * Where the comments behind a statement end: at its semicolon, or at the end
 * of the text if no other statement follows.
 */
static const char *
end_of_behind(const BemiStatementText *statement)
{
	const char *end = statement->text + statement->location +
		bemi_statement_length(statement);
	const char *next = bemi_end_of_comments(end);

	return *next == '\0' ? next : end;
}

/*
 * The part of the text that has a statement and its tags.  Returns its length.
 */
int
bemi_length_with_tags(const BemiStatementText *statement, const char **start)
{
	*start = start_of_front(statement);
	return end_of_behind(statement) - *start;
}

/*
 * Whether a text has a sign of tags.
 */
static bool
has_sign(const char *start, const char *end)
{
	return memchr(start, '=', end - start) != NULL ||
		((formats & FORMAT_MARGINALIA) != 0 &&
		 memchr(start, ':', end - start) != NULL);
}

/*
 * Whether a text may end with a comment that has tags.  Nothing but white
 * space, semicolons and comments with "--" may follow the last end of a
 * comment.  Both ends may also be part of a string.
 */
static bool
may_end_with_tags(const char *start, const char *end)
{
	const char *open = NULL;
	const char *close = NULL;

	for (const char *p = start; (p = memchr(p, '/', end - p)) != NULL; p++)
	{
		if (open == NULL && p + 1 < end && p[1] == '*')
			open = p;
		if (open != NULL && p > start && p[-1] == '*')
			close = p;
	}
	if (close == NULL || !has_sign(open, close))
		return false;
	close++;
	close += strspn(close, BEMI_WHITE_SPACE ";");
	return close >= end || (close[0] == '-' && close[1] == '-');
}

/*
 * Whether a statement may have tags.
 */
bool
bemi_may_have_tags(const BemiStatementText *statement)
{
	const char *start;
	int			len = bemi_length_with_tags(statement, &start);
	const char *first_token = bemi_end_of_comments(start);

	return (first_token > start && has_sign(start, first_token)) ||
		(first_token < start + len &&
		 may_end_with_tags(first_token, start + len));
}

/*
 * Returns the tags of a statement as a JSON object, palloc'd; NULL if it has
 * none.
 */
const char *
bemi_read_tags(BemiSourceText *source)
{
	const char *end = end_of_behind(&source->statement);
	const char *p = start_of_front(&source->statement);
	StringInfoData members;

	initStringInfo(&members);
	p = read_comments_at(p, end, &members);
	if (p < end && may_end_with_tags(p, end) &&
		(p = bemi_behind_last_token(source)) != NULL)
		(void) read_comments_at(p, end, &members);
	if (members.len == 0 || members.len > bemi_max_context_size())
		return NULL;
	return psprintf("{%s}", members.data);
}

/*
 * Length of a character of a JSON string if it is this one, maybe escaped as
 * \u005f; 0 if it is another one.
 */
static int
length_of_json_char(const char *p, char c)
{
	if (*p == c)
		return 1;
	return strncmp(p, "\\u00", 4) == 0 && hex_value(p[4]) == c / 16 &&
		hex_value(p[5]) == c % 16 ? 6 : 0;
}

/*
 * Whether a JSON text may have the reserved key of the tags: whether it is
 * anywhere in the text.
 */
bool
bemi_may_have_tags_key(const char *context)
{
	for (const char *p = context; (p = strchr(p, '"')) != NULL;)
	{
		const char *c = BEMI_TAGS_KEY;
		int			len;

		p++;
		while (*c != '\0' && (len = length_of_json_char(p, *c)) > 0)
			p += len, c++;
		if (*c == '\0' && *p == '"')
			return true;
	}
	return false;
}

/*
 * Removes the reserved key from a context that the client has sent.  Returns
 * the same pointer if it is not there, otherwise a palloc'd text.
 */
const char *
bemi_context_without_tags(const char *context)
{
	Datum		object;
	Jsonb	   *rest;

	if (!bemi_may_have_tags_key(context))
		return context;
	object = DirectFunctionCall1(jsonb_in, CStringGetDatum(context));
	rest = DatumGetJsonbP(
						  DirectFunctionCall2(jsonb_delete, object,
											  PointerGetDatum(
															  cstring_to_text(BEMI_TAGS_KEY))));
	return JsonbToCString(NULL, &rest->root, VARSIZE(rest));
}

/*
 * Adds tags to a context, which is NULL or a valid JSON object.  If the result
 * would exceed the limits for contexts, the tags are left out.
 */
const char *
bemi_context_with_tags(const char *context, const char *tags)
{
	const char *own = context ? context : "{}";
	int			len = strrchr(own, '}') - own;
	StringInfoData buffer;

	initStringInfo(&buffer);
	appendBinaryStringInfo(&buffer, own, len);
	appendStringInfo(&buffer, "%s\"" BEMI_TAGS_KEY "\": %s}",
					 bemi_context_is_empty(own) ? "" : ", ", tags);
	return bemi_context_fits(buffer.data, buffer.len) ? buffer.data : context;
}

/*
 * Whether a list can be the value of bemi.tags: names, or * alone.
 */
static bool
tag_names_are_valid(const List *names)
{
	ListCell   *cell;

	foreach(cell, names)
	{
		const char *name = lfirst(cell);

		if (name[0] == '\0')
			GUC_check_errdetail("A name is empty.");
		else if (strcmp(name, "*") == 0 && list_length(names) > 1)
			GUC_check_errdetail("\"*\" stands for all tags, so no other name can be beside it.");
		else if (strchr(name, '*') != NULL && strcmp(name, "*") != 0)
			GUC_check_errdetail("\"%s\" is a pattern, which is not supported.",
								name);
		else
			continue;
		return false;
	}
	return true;
}

/*
 * The value of bemi.tags for its assign hook, NULL if there is no memory.
 */
static WantedTags *
make_wanted_tags(const List *names)
{
	ListCell   *cell;
	Size		size = offsetof(WantedTags, names);
	WantedTags *wanted;
	char	   *end;

	foreach(cell, names)
	{
		size += strlen(lfirst(cell)) + 1;
	}
	wanted = bemi_guc_malloc(size);
	if (wanted == NULL)
		return NULL;
	wanted->count = list_length(names);
	wanted->all = wanted->count == 1 && strcmp(linitial(names), "*") == 0;
	end = wanted->names;
	foreach(cell, names)
	{
		strcpy(end, lfirst(cell));
		end += strlen(end) + 1;
	}
	return wanted;
}

/*
 * Check hook of bemi.tags.
 */
static bool
check_tags(char **newval, void **extra, GucSource source)
{
	char	   *copy = pstrdup(*newval ? *newval : "");
	List	   *names;
	bool		is_list = SplitGUCList(copy, ',', &names);

	if (!is_list)
		GUC_check_errdetail("List syntax is invalid.");
	if (!is_list || !tag_names_are_valid(names))
	{
		GUC_check_errhint("Write the names of tags, such as SET bemi.tags = 'controller, action', or '*' for all tags.");
		return false;
	}
	*extra = make_wanted_tags(names);
	list_free(names);
	pfree(copy);
	return *extra != NULL;
}

static void
assign_tags(const char *newval, void *extra)
{
	wanted_tags = extra;
	bemi_tags_are_read = wanted_tags != NULL && wanted_tags->count > 0;
}

/*
 * The format of this name, 0 if there is none.
 */
static int
format_of_name(const char *name)
{
	return strcmp(name, "sqlcommenter") == 0 ? FORMAT_SQLCOMMENTER :
		strcmp(name, "marginalia") == 0 ? FORMAT_MARGINALIA : 0;
}

/*
 * Check hook of bemi.tags_format: names of formats, separated by commas.
 */
static bool
check_tags_format(char **newval, void **extra, GucSource source)
{
	char	   *copy = pstrdup(*newval ? *newval : "");
	int			bits = 0;
	bool		is_valid = true;
	List	   *names;
	ListCell   *cell;

	if (SplitIdentifierString(copy, ',', &names))
		foreach(cell, names)
	{
		is_valid = is_valid && format_of_name(lfirst(cell)) != 0;
		bits |= format_of_name(lfirst(cell));
	}
	if (!is_valid || bits == 0)
	{
		GUC_check_errhint("Write sqlcommenter, marginalia, or both, separated by a comma.");
		return false;
	}
	list_free(names);
	pfree(copy);

	*extra = bemi_guc_malloc(sizeof(int));
	if (*extra == NULL)
		return false;
	*((int *) *extra) = bits;
	return true;
}

static void
assign_tags_format(const char *newval, void *extra)
{
	formats = *((int *) extra);
}

void
bemi_tags_init(void)
{
	DefineCustomStringVariable("bemi.tags_format",
							   "Sets the formats of the tags that are read from comments.",
							   "A list of sqlcommenter, marginalia.",
							   &format_setting, "sqlcommenter", PGC_SUSET,
							   GUC_LIST_INPUT, check_tags_format,
							   assign_tags_format, NULL);

	DefineCustomStringVariable("bemi.tags",
							   "Sets which tags are read from the comments of a statement.",
							   "A list of names, or * for all. They are added to the context under the key \"_tags\".",
							   &tags_setting, "", PGC_SUSET, GUC_LIST_INPUT,
							   check_tags, assign_tags, NULL);
}
