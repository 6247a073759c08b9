"""Hostile records that no parser should read: not JSON, not UTF-8, no object, too much of it."""

from __future__ import annotations

import json

from hostile_writing import KIBIBYTE, Hostile, extra, note, payment, raw

from fraudstream.errors import Reason

_SIZE_MAX = 64 * KIBIBYTE
#: orjson reads 1,023 levels inside the event's own braces.
_DEPTH_MAX = 1_023

NOTHING = (
    Hostile("null", None, Reason.NULL_VALUE),
    Hostile("empty", b"", Reason.EMPTY),
    Hostile("white space", b" \n\t", Reason.INVALID_JSON),
    Hostile("one space", b" ", Reason.INVALID_JSON),
    Hostile("one line feed", b"\n", Reason.INVALID_JSON),
    Hostile("byte order mark alone", b"\xef\xbb\xbf", Reason.INVALID_JSON),
)

FOREIGN = (
    Hostile("words", b"hello", Reason.INVALID_JSON),
    Hostile("CSV", b"tx1;2018-07-25;c1;t1;57.16;EUR", Reason.INVALID_JSON),
    Hostile("XML", b"<tx><id>1</id></tx>", Reason.INVALID_JSON),
    Hostile("YAML", b"---\ntransaction_id: tx1\n", Reason.INVALID_JSON),
    Hostile("a form", b"transaction_id=tx1&card_id=c1", Reason.INVALID_JSON),
    Hostile("base64", b"eyJ0cmFuc2FjdGlvbl9pZCI6ICJ0eDEifQ==", Reason.INVALID_JSON),
    Hostile("server-sent event", b"data: " + payment() + b"\n\n", Reason.INVALID_JSON),
    Hostile("JSON text sequence", b"\x1e" + payment() + b"\n", Reason.INVALID_JSON),
    Hostile("anti-hijacking prefix", b")]}'\n" + payment(), Reason.INVALID_JSON),
    Hostile("JSONP", b"callback(" + payment() + b")", Reason.INVALID_JSON),
    Hostile("Python's repr", b"{'transaction_id': 'tx1'}", Reason.INVALID_JSON),
    Hostile("protobuf", b"\x0a\x03tx1\x12\x02c1", Reason.INVALID_JSON),
    Hostile("Avro file", b"Obj\x01\x04\x14avro.codec", Reason.INVALID_JSON),
    Hostile("zip", b"PK\x03\x04\x14\x00\x00\x00", Reason.INVALID_JSON),
    Hostile("msgpack", b"\x86\xaetransaction_id\xa3tx1", Reason.INVALID_UTF8),
    Hostile("pickle", b"\x80\x04\x95\x0b\x00\x00\x00", Reason.INVALID_UTF8),
    Hostile("PNG", b"\x89PNG\r\n\x1a\n", Reason.INVALID_UTF8),
    Hostile("gzip", b"\x1f\x8b\x08\x00\x00\x00\x00\x00", Reason.INVALID_UTF8),
    Hostile("zstandard", b"\x28\xb5\x2f\xfd\x04\x00", Reason.INVALID_UTF8),
    Hostile("random bytes", bytes(range(255, 127, -1)), Reason.INVALID_UTF8),
    Hostile("schema registry's frame", b"\0\0\0\0\x01" + payment(), Reason.FRAMING),
    Hostile("nothing but a zero byte", b"\0", Reason.FRAMING),
    Hostile("nothing but zero bytes", b"\0" * 64, Reason.FRAMING),
    Hostile("big-endian UTF-16", payment().decode().encode("utf-16-be"), Reason.FRAMING),
    Hostile("big-endian UTF-32", payment().decode().encode("utf-32-be"), Reason.FRAMING),
)

_UNGRAMMATICAL = {
    "truncated": payment()[:-1],
    "truncated in a string": payment()[:25],
    "truncated after a colon": payment()[:17],
    "one brace": b"{",
    "a closing brace": b"}",
    "one quote": b'"',
    "one bracket": b"[",
    "half a null": b"nul",
    "a minus sign": b"-",
    "two objects": payment() + payment(),
    "two objects on two lines": payment() + b"\n" + payment(),
    "two objects and a comma": payment() + b"," + payment(),
    "zero byte behind": payment() + b"\0",
    "trailing comma": payment()[:-1] + b",}",
    "leading comma": b"{," + payment()[1:],
    "two commas": payment().replace(b", ", b",, ", 1),
    "no comma": payment().replace(b", ", b" ", 1),
    "a semicolon for a comma": payment().replace(b", ", b"; ", 1),
    "no colon": payment().replace(b": ", b" ", 1),
    "two colons": payment().replace(b": ", b":: ", 1),
    "an equals sign": payment().replace(b": ", b"= ", 1),
    "no value": payment().replace(b'"tx1"', b"", 1),
    "single quotes": payment().replace(b'"', b"'"),
    "smart quotes": payment().decode().replace('"', "“").encode(),
    "names without quotes": payment().replace(b'"transaction_id"', b"transaction_id"),
    "a number for a name": b"{1: 2}",
    "null for a name": b"{null: 2}",
    "a bracket for the last brace": payment()[:-1] + b"]",
    "comment before": b"// a payment\n" + payment(),
    "comment inside": payment()[:-1] + b"/* a payment */}",
    "comment in shell's way": b"# a payment\n" + payment(),
    "byte order mark": b"\xef\xbb\xbf" + payment(),
    "no-break space before": b"\xc2\xa0" + payment(),
    "line separator behind": payment() + b"\xe2\x80\xa8",
    "form feed before": b"\x0c" + payment(),
    "vertical tab behind": payment() + b"\x0b",
    "True": extra("True"),
    "TRUE": extra("TRUE"),
    "None": extra("None"),
    "undefined": extra("undefined"),
    "trailing comma in an array": extra("[1,]"),
    "leading comma in an array": extra("[,1]"),
    "array closed by a brace": extra("[1}"),
    "a call": extra('new Date("2018-07-25")'),
}
GRAMMAR = tuple(Hostile(n, value, Reason.INVALID_JSON) for n, value in _UNGRAMMATICAL.items())

_NUMBERS = {
    "NaN": "NaN",
    "minus NaN": "-NaN",
    "infinity": "Infinity",
    "minus infinity": "-Infinity",
    "inf": "inf",
    "1e400": "1e400",
    "minus 1e400": "-1e400",
    "400 digits": "1" * 400,
    "5,000 digits": "9" * 5_000,
    "leading zero": "05716",
    "two zeros": "00",
    "plus sign": "+5716",
    "two minus signs": "--5716",
    "minus sign apart": "- 5716",
    "no digit before the point": ".5716",
    "no digit behind the point": "5716.",
    "two points": "5.7.16",
    "no exponent": "5716e",
    "a sign for an exponent": "5716e+",
    "a fraction for an exponent": "5e1.5",
    "hexadecimal": "0x1654",
    "octal": "0o13124",
    "binary": "0b1011001010100",
    "underscores": "5_716",
    "thousands": "5'716",
    "long": "5716L",
    "with its currency": "5716 EUR",
    "full-width digits": "５７１６",
    "Arabic digits": "٥٧١٦",
    "a true minus sign": "−5716",
}
_UNKNOWN_NUMBERS = {
    "NaN in an unknown field": "NaN",
    "infinity in an unknown array": "[1, Infinity]",
    "1e400 in an unknown field": "1e400",
}
NUMBERS = (
    *(Hostile(n, raw("amount_minor", v), Reason.INVALID_JSON) for n, v in _NUMBERS.items()),
    *(Hostile(n, extra(v), Reason.INVALID_JSON) for n, v in _UNKNOWN_NUMBERS.items()),
)

_STRINGS = {
    "zero byte inside": extra('"a\0b"'),
    "line feed inside": extra('"a\nb"'),
    "tab inside": extra('"a\tb"'),
    "escape character inside": extra('"a\x1bb"'),
    "hexadecimal escape": extra(r'"\x41"'),
    "octal escape": extra(r'"\101"'),
    "escaped single quote": extra(r'"it\'s"'),
    "unknown escape": extra(r'"\a"'),
    "capital escape": extra(r'"\U00000041"'),
    "short escape": extra(r'"\u12"'),
    "escape with braces": extra(r'"\u{41}"'),
    "escape with a sign": extra(r'"\u+041"'),
    "escaped quote at the end": extra(r'"a\"'),
    "lone surrogate": extra(r'"\ud800"'),
    "lone low surrogate": extra(r'"\udc00"'),
    "surrogates the wrong way round": extra(r'"\udc00\ud800"'),
    "surrogate and a letter": extra(r'"\ud83dA"'),
    "two high surrogates": extra(r'"\ud83d\ud83d"'),
    "lone surrogate in an id": raw("card_id", r'"c\udfff"'),
    "lone surrogate in a name": payment()[:-1] + rb', "\ud800": 1}',
}
_NO_UTF8 = {
    "UTF-16": payment().decode().encode("utf-16"),
    "UTF-32": payment().decode().encode("utf-32"),
    "surrogate in UTF-8": note(b"\xed\xa0\x80"),
    "surrogate pair in UTF-8": note(b"\xed\xa0\xbd\xed\xb2\xb3"),
    "Latin-1": note(b"caf\xe9"),
    "overlong UTF-8": note(b"\xc0\xaf"),
    "overlong zero byte": note(b"\xc0\x80"),
    "overlong in three bytes": note(b"\xe0\x80\xaf"),
    "overlong in four bytes": note(b"\xf0\x80\x80\xaf"),
    "beyond Unicode": note(b"\xf4\x90\x80\x80"),
    "five bytes": note(b"\xf8\x88\x80\x80\x80"),
    "a continuation alone": note(b"\x80"),
    "a lead alone": note(b"\xc3"),
    "two of three bytes": note(b"\xe2\x82"),
    "cut within a character": payment()[:-1] + b', "note": "\xe2\x82',
    "0xFF": note(b"\xff"),
    "0xFF before": b"\xff" + payment(),
    "0xFE 0xFF before": b"\xfe\xff" + payment(),
    "0xFF behind": payment() + b"\xff",
    "no UTF-8 in an id": payment().replace(b'"c1"', b'"c\xe9"'),
    "no UTF-8 in a name": payment().replace(b'"card_id"', b'"card\xa0id"'),
}
STRINGS = (
    *(Hostile(name, value, Reason.INVALID_JSON) for name, value in _STRINGS.items()),
    *(Hostile(name, value, Reason.INVALID_UTF8) for name, value in _NO_UTF8.items()),
)

NO_OBJECTS = (
    Hostile("array", b"[" + payment() + b"]", Reason.NOT_AN_OBJECT),
    Hostile("array of two", b"[" + payment() + b"," + payment() + b"]", Reason.NOT_AN_OBJECT),
    Hostile("empty array", b"[]", Reason.NOT_AN_OBJECT),
    Hostile("array of names and values", b'[["card_id", "c1"]]', Reason.NOT_AN_OBJECT),
    Hostile("string", b'"payment"', Reason.NOT_AN_OBJECT),
    Hostile("empty string", b'""', Reason.NOT_AN_OBJECT),
    Hostile("JSON in a string", json.dumps(payment().decode()).encode(), Reason.NOT_AN_OBJECT),
    Hostile("number", b"5716", Reason.NOT_AN_OBJECT),
    Hostile("zero", b"0", Reason.NOT_AN_OBJECT),
    Hostile("minus zero", b"-0.0", Reason.NOT_AN_OBJECT),
    Hostile("true", b"true", Reason.NOT_AN_OBJECT),
    Hostile("false", b"false", Reason.NOT_AN_OBJECT),
    Hostile("JSON null", b"null", Reason.NOT_AN_OBJECT),
)


def _nested(levels: int, opening: str, closing: str, core: str = "") -> bytes:
    return extra(opening * levels + core + closing * levels)


DEEP = (
    Hostile("deep arrays", b"[" * 60_000, Reason.TOO_DEEP),
    Hostile("deep objects", b'{"a":' * 10_000, Reason.TOO_DEEP),
    Hostile("deep unknown field", _nested(30_000, "[", "]"), Reason.TOO_DEEP),
    Hostile("one level too many", _nested(_DEPTH_MAX + 1, "[", "]"), Reason.TOO_DEEP),
    Hostile("one object too deep", _nested(_DEPTH_MAX + 1, '{"a":', "}", "1"), Reason.TOO_DEEP),
    Hostile("deep, and no end", extra('[{"a":' * 2_000), Reason.TOO_DEEP),
)
SIZES = (
    Hostile("depth 100,000", b"[" * 100_000, Reason.TOO_LARGE),
    Hostile("one byte too many", payment().ljust(_SIZE_MAX + 1), Reason.TOO_LARGE),
    Hostile("one byte too many, of no JSON", b"x" * (_SIZE_MAX + 1), Reason.TOO_LARGE),
    Hostile("one byte too many, of a note", note(b"x" * _SIZE_MAX), Reason.TOO_LARGE),
    Hostile("10,000 unknown fields", payment(**dict.fromkeys(map(str, range(10_000)))),
            Reason.TOO_LARGE),
    Hostile("a long id", payment(card_id="c" * _SIZE_MAX), Reason.TOO_LARGE),
    Hostile("a long number", raw("amount_minor", "1" * _SIZE_MAX), Reason.TOO_LARGE),
    Hostile("a megabyte of spaces", b" " * KIBIBYTE**2 + payment(), Reason.TOO_LARGE),
    Hostile("10 MB of array", extra("[" + "0," * 5 * KIBIBYTE**2 + "0]"), Reason.TOO_LARGE),
    Hostile("10 MB of zero bytes", b"\0" * 10 * KIBIBYTE**2, Reason.TOO_LARGE),
)  # fmt: skip

#: Refused whatever the topic: nothing of our contract can be seen in it.
UNREADABLE = (
    *NOTHING, *FOREIGN, *GRAMMAR, *NUMBERS, *STRINGS, *NO_OBJECTS, *DEEP, *SIZES,
)  # fmt: skip
