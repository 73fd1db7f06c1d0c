"""Markdown for Dagster's pages, in which the signs of ids and errors mean nothing: they come from files of others."""

import base64
import re
import string
from typing import Final
from urllib.parse import quote

# ASCII punctuation but for the four signs that mean nothing within a line: , - : ;
_SIGN: Final = re.compile(r"([!-+./<-@\[-`{-~])")
#: What links, pictures and HTML begin with, and the backslash that would take the meaning of ours away.
_OPENING: Final = re.compile(r"([\\\[<])")
_MEANT: Final = str.maketrans("", "", "<>\\" + string.whitespace)


def plain_text(text: str) -> str:
    """Return Markdown that shows ``text`` as it is, on one line: no links, pictures, HTML or emphasis.

    A backslash takes the meaning from any such sign: https://spec.commonmark.org/0.31.2/#backslash-escapes
    """
    return _SIGN.sub(r"\\\1", " ".join(text.split()))


def sentence(text: str) -> str:
    """Return Markdown that shows a message nearly as it is: no links, pictures or HTML, of what is quoted in it.

    For texts that are also shown as they stand, in logs for example: only the signs that all of these begin with get
    a backslash.
    """
    return _OPENING.sub(r"\\\1", text)


def link(address: str) -> str:
    """Return Markdown that shows an address, as a link where a browser can open it."""
    if not address.startswith(("https://", "http://")):
        return plain_text(address)
    # Between angle brackets only these, and entities, mean anything; the rest of the address stays as it is.
    target = quote(address, safe=string.printable.translate(_MEANT)).replace("&", "&amp;")
    return f"[{plain_text(address)}](<{target}>)"


def picture(alternative: str, kind: str, content: bytes) -> str:
    """Return Markdown with a picture in it.

    Args:
        alternative: what the picture shows; plain text.
        kind: media type of the picture.
        content: the picture's bytes.
    """
    return f"![{plain_text(alternative)}](data:{kind};base64,{base64.b64encode(content).decode()})"
