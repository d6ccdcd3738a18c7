"""Makes any query storable, by a rule for each way in which it may not be.

| what arrives | what is kept | flag |
|---|---|---|
| NUL or another control character (Unicode Cc: tabs and line ends too) | U+FFFD in its place | `ALTERED` |
| a lone surrogate, which UTF-8 cannot hold | U+FFFD in its place | `ALTERED` |
| more than 4096 characters | the first 4096 | `TRUNCATED` |
| bytes that are not UTF-8 | what the frame parser read in another encoding | `NOT_UTF8`, set there |
| nothing | the empty query | |
| zero-width characters, changes of writing direction, any other Unicode | as it is: it was typed that way | |
| a ticket that is no unsigned 32-bit number | null | |

Searchers' names need no rule: only their pseudonym is stored, and a person is the exact name that arrived.
"""

import re
from typing import Final

from collectors.search import Flag

MAX_QUERY_CHARACTERS: Final = 4096
"""People and clients stay far below it; beyond is flooding, and a row should not cost megabytes."""
MAX_TICKET: Final = 0xFFFFFFFF

_UNSTORABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_ALTERED: Final = int(Flag.ALTERED)
_TRUNCATED: Final = int(Flag.TRUNCATED)


def clean(query: str) -> tuple[str, int]:
    """Returns the query as it is kept, and its flags."""
    flags = 0
    if len(query) > MAX_QUERY_CHARACTERS:
        query = query[:MAX_QUERY_CHARACTERS]
        flags = _TRUNCATED
    # True for nearly every query, and ten times cheaper than the expression.
    if query.isprintable():
        return query, flags
    query, replaced = _UNSTORABLE.subn("\ufffd", query)
    return query, flags | _ALTERED if replaced else flags


def clean_ticket(ticket: int) -> int | None:
    """Returns the ticket, or None where it is no unsigned 32-bit number."""
    return ticket if 0 <= ticket <= MAX_TICKET else None
