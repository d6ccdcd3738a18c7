"""Queries that break careless programs: each has been seen on a network or could be, and is only data."""

from __future__ import annotations

import codecs

# A control picture would hide it: these are the very characters.
CONTROLS = bytes(range(1, 32)) + b"\x7f"
LONG_QUERY_BYTES = 64 * 1024

QUERIES: dict[str, bytes] = {
    "empty": b"",
    "blank": b"   ",
    "nul": b"before\x00after",
    "only nul": b"\x00",
    "control characters": b"bell" + CONTROLS + b"end",
    "c1 controls": "next\u0085line \u009b31m csi".encode(),
    "right-to-left override": "song \u202e3pm.exe".encode(),
    "zero width": "in\u200bvis\u200di\u2060ble\ufeff".encode(),
    "byte order mark": codecs.BOM_UTF8 + b"marked",
    "combining": ("z" + "\u0301\u0323\u0334" * 40 + "algo").encode(),
    "decomposed": "cafe\u0301".encode(),
    "noncharacter": "end\uffff \U0010ffff".encode(),
    "emoji family": "👨‍👩‍👧‍👦 🏴‍☠️".encode(),
    "lone cp1252": "café del mar été".encode("cp1252"),
    "lone koi8-r": "музыка ночь".encode("koi8-r"),
    "lone shift-jis": "東京 物語".encode("shift-jis"),
    # Neither UTF-8 nor cp1252, which has no 81, 8D, 8F, 90 and 9D: aioslsk throws the whole search away.
    "undecodable": b"\x81\x8d\x8f\x90\x9d lost",
    "overlong utf-8": b"\xc0\xaf slash",
    "surrogate": b"lone \xed\xa0\x80 surrogate",
    "truncated utf-8": "résumé".encode()[:-1],
    "quotes": b"it's \"quoted\" `ticked` 'twice''",
    "backslashes": b"C:\\music\\new\\table\\\\x00 \\N \\t \\u0000",
    "copy delimiters": b"one\ttwo\nthree\rfour|five,six;seven",
    "copy end": b"\\.",
    "copy end in lines": b"a\n\\.\nb",
    "null marker": b"\\N",
    "sql": b"'; DROP TABLE searches; --",
    "dollar quotes": b"$$ $1 $body$ %s %(name)s {0} {name} {{}}",
    "markup": b"<script>alert(1)</script>&amp;[link](x)",
    "terminal": b"\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "spreadsheet": b"=cmd|' /C calc'!A0",
    "json": b'{"a": [null, "\\u0000"]}',
    "path": b"../../../../etc/passwd",
    "64 KB": b"long " * (LONG_QUERY_BYTES // 5) + b"x" * (LONG_QUERY_BYTES % 5),
}
