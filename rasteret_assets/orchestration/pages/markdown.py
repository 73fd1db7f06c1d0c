"""Write Markdown for Dagster's pages, with ids and errors escaped, because they come from files of others."""

import base64
import re
import string
from typing import Final
from urllib.parse import quote

# ASCII punctuation except four signs that mean nothing within a line: , - : ;
_SIGN: Final = re.compile(r"([!-+./<-@\[-`{-~])")
#: Signs with which links, pictures and HTML begin, and the backslash, which would undo an escape.
_OPENING: Final = re.compile(r"([\\\[<])")
_MEANT: Final = str.maketrans("", "", "<>\\" + string.whitespace)


def plain_text(text: str) -> str:
    """Return Markdown that shows ``text`` literally, on one line: no links, pictures, HTML or emphasis.

    A backslash escapes any such sign: https://spec.commonmark.org/0.31.2/#backslash-escapes
    """
    return _SIGN.sub(r"\\\1", " ".join(text.split()))


def sentence(text: str) -> str:
    """Return Markdown that shows a message with few escapes: quoted text in it makes no links, pictures or HTML.

    For texts that logs show too: only the signs with which links, pictures and HTML begin get a backslash.
    """
    return _OPENING.sub(r"\\\1", text)


def link(address: str) -> str:
    """Return Markdown that shows an address, as a link if a browser can open the address."""
    if not address.startswith(("https://", "http://")):
        return plain_text(address)
    # Only brackets, backslash and spaces are quoted, because nothing else means anything between angle brackets, except
    # entities.
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
