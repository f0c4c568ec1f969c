"""The statements of a text: where each ends, and whether a context follows it.

This is the client's half of src/context/comment.c. The server looks for a context in the run of comments, white space and
semicolons behind a statement's last token, so the client must look there, too. Inside a string, a quoted name or another
comment, the same characters mean nothing.
"""

from __future__ import annotations

import re
from typing import List, NamedTuple, Optional

# A text is split into names, pieces that hide their contents, and the rest. Names are read whole, because a "$" within a
# name begins no string.
_PIECE = re.compile(
    r'[a-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*|[^a-z_\x80-\U0010ffff\'"$;/-]+|--[^\n\r]*|/\*|"[^"]*"'
    r'|\$(?:[a-z_\x80-\U0010ffff][\w\x80-\U0010ffff]*)?\$|.',
    re.ASCII | re.IGNORECASE | re.DOTALL,
)
_COMMENT_MARK = re.compile(r'/\*|\*/')
_SPACE_ONLY = re.compile(r'[ \t\n\r\f\v]*')
_ESCAPE_STRING = re.compile(r'(?:^|[^\w$\x80-\U0010ffff])e$', re.ASCII | re.IGNORECASE)

# What ends a string, and pairs that do not, with and without escapes by backslashes.
_PLAIN_QUOTES = re.compile(r"''|'")
_ESCAPED_QUOTES = re.compile(r"''|\\.|'", re.DOTALL)


class Statement(NamedTuple):
    begin: int
    end: int
    has_context: bool


def after_comment(sql: str, begin: int) -> int:
    """Where the comment that begins here ends. In PostgreSQL, comments nest."""
    depth = 0
    for mark in _COMMENT_MARK.finditer(sql, begin):
        depth += 1 if mark[0] == '/*' else -1
        if depth == 0:
            return mark.end()
    return len(sql)


def _after_quotes(sql: str, begin: int, quotes: re.Pattern[str]) -> int:
    for mark in quotes.finditer(sql, begin):
        if mark[0] == "'":
            return mark.end()
    return len(sql)


def _after_string(sql: str, quote: int) -> Optional[int]:
    """None if the string's end depends on the server's setting standard_conforming_strings."""
    escaped = _after_quotes(sql, quote + 1, _ESCAPED_QUOTES)
    if _ESCAPE_STRING.search(sql[max(quote - 2, 0) : quote]):
        return escaped
    return escaped if _after_quotes(sql, quote + 1, _PLAIN_QUOTES) == escaped else None


def _after_dollars(sql: str, begin: int, delimiter: str) -> int:
    end = sql.find(delimiter, begin + len(delimiter))
    return len(sql) if end < 0 else end + len(delimiter)


def _after_piece(sql: str, begin: int, piece: str) -> Optional[int]:
    if piece == '/*':
        return after_comment(sql, begin)
    if piece == "'":
        return _after_string(sql, begin)
    if piece[0] == '$' and len(piece) > 1:
        return _after_dollars(sql, begin, piece)
    return begin + len(piece)


def _is_context(comment: str) -> bool:
    return len(comment) >= len('/*BemiBemi*/') and comment.startswith('/*Bemi') and comment.endswith('Bemi*/')


def _is_space(piece: str) -> bool:
    return piece.startswith('--') or _SPACE_ONLY.fullmatch(piece) is not None


def statements(sql: str) -> List[Statement]:
    """The statements in order. The comments after a semicolon belong to the statement before it.

    If it is not certain where a string ends, the text counts as one statement without a context: a wrong guess could put a
    comment into a string, or take a string for a context.
    """
    whole = [Statement(0, len(sql), False)]
    if ';' not in sql and '/*Bemi' not in sql:
        return whole
    found: List[Statement] = []
    begin, end, has_context = 0, -1, False
    position = 0
    while position < len(sql):
        match = _PIECE.match(sql, position)
        assert match is not None
        piece = match[0]
        after = _after_piece(sql, position, piece)
        if after is None:
            return whole
        if piece == '/*':
            has_context = has_context or _is_context(sql[position:after])
        elif piece == ';':
            if end < 0:
                end = position
        elif not _is_space(piece):
            if end >= 0:
                found.append(Statement(begin, end, has_context))
                begin, end = position, -1
            has_context = False
        position = after
    found.append(Statement(begin, len(sql) if end < 0 else end, has_context))
    return found
