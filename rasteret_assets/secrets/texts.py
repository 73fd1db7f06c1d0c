"""Texts without the secrets in their addresses: single addresses, prose with addresses in it, JSON within JSON.

Addresses are not parsed as URLs, because a text may hold something else, and because all that is not a secret has to
stay as written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import quote

from rasteret_assets.secrets.names import (
    BY_DEFAULT,
    HINT_OF_SECRET,
    IN_MESSAGES,
    SecretRule,
    decoded,
    flags,
    flags_of_names,
    is_secret,
    looks_secret,
    means_secret,
    signature_flags,
    signature_flags_of_names,
)

#: A pattern for RE2 and Python: a text without a match holds no secret. Folders such as year=2024 do not match, because
#: they are many.
MAY_HOLD_ONE: Final = (
    r"(?i)[?#;][^?#;]|&[^&=]+=|/[^/@]*@|:[^/@]+@|/eyJ|/p/[\w-]{20,}/n/|%(25)*3a%(25)*2f|hmac="
    r"|/[^/=]*(token|hdn|gda|auth|sig|key|secret|pass|pwd|jwt|session|cred)[^/=]*="
)
_MAY_HOLD_ONE: Final = re.compile(MAY_HOLD_ONE)

_PLAIN: Final = re.compile(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]*://[^?#@;%=&\s\"'<>`\\{}]*\?([^?#;@\s\"'<>`\\{}]+)")

# The beginning of an address, also of //host/... and of GDAL's /vsicurl/... and /vsis3?...
_ADDRESS: Final = re.compile(r"(?i)[a-z][a-z0-9+.-]*:(?:\\?/)+|//[^/]|/vsi[a-z0-9_]+[/?]")
_REMOTE: Final = re.compile(r"(?i)(?:^|[^a-z0-9+.-])(?!file:)[a-z][a-z0-9+.-]+:(?:\\?/)+|^//[^/]|/vsi[a-z0-9_]+[/?]")
_LOCAL: Final = re.compile(r"(?i)/|~|[a-z]:[\\/]|file:")
_QUERY_ALONE: Final = re.compile(r"[\w.%-]+=[^&\s]*(?:&(?:amp;)?[\w.%-]+=[^&\s]*)+")

# User information before the host; in Azure's own schemes (abfss://container@account...) a container stands there.
_USER: Final = re.compile(r"(?i)(^|[a-z][a-z0-9+.-]*:)((?:\\?/){2}|(?<=:)\\?/(?=[^/?#\s@:]+:[^/?#\s@]*@))([^/?#]*@)")
_PLACE_BEFORE_HOST: Final = re.compile(r"(?i)(abfss?|wasbs?):$")
# A password with a slash, a question mark or a number sign that is not escaped.
_ODD_USER: Final = re.compile(r"(?i)(\b(?:https?|ftps?):(?:\\?/){2})[^/?#@:]+:(?![0-9]*(?:[/?#]|$))[^@]*@")

# Separators of parameters, also as HTML and JSON write them. A semicolon counts only before another name, because
# values such as lists of signed headers hold semicolons too; a question mark begins the query of an address within.
_BETWEEN: Final = re.compile(r"(?i)(&(?:amp;|#38;|#x26;)?|\\u0026|[;|,](?=[^&;=?|,/\"]*=)|\?(?=[^&;=?]*=))")
_PATH_PARAMETER: Final = re.compile(r";([^;/=]*)=([^;/]*)")
_PATH_SEGMENT: Final = re.compile(r"/([^/;=?]+)=([^/;]*)(?=/|$)")
# A token of Akamai, whose list of allowed paths holds slashes.
_AKAMAI_SEGMENT: Final = re.compile(r"/(?:hdn[a-z]*|_*[a-z]+_*)=[^?#]*?hmac=[^/?#]*")
_PATH_TOKEN: Final = re.compile(r"/eyJ[\w-]{6,}\.[\w-]+\.[\w-]*(?=/|$)")
# Oracle's pre-authenticated requests: /p/<token>/n/<namespace>/b/<bucket>/o/<object>.
_PREAUTHENTICATED: Final = re.compile(r"/p/[\w-]{20,}(?=/n/)")
_FOLDER_VALUE: Final = re.compile(r"[0-9]{1,8}|[a-z]{0,4}|&.*|.*\.[A-Za-z][A-Za-z0-9]{1,4}")
_ESCAPED_ADDRESS: Final = re.compile(r"(?i)[^/]*%(?:25)*3a%(?:25)*2f[^/]*")
_MAYBE_NESTED: Final = re.compile(r"(?i)%(?:25)*(?:3d|3f|40|26)|:(?:\\?/)+|//|@")

_MAY_HOLD_MORE: Final = re.compile(r"[%@=/|]")

_TOKENS: Final = re.compile(r"[^\s\"'<>`]+")
_ENDS: Final = re.compile(r"[:;,.)\]}\\]*$")
_DOCUMENT: Final = re.compile(r"\s*[{\[]")
_FILE_NAME: Final = re.compile(r".*\.[A-Za-z][A-Za-z0-9]{1,5}")
_DEPTH: Final = 5
_LONGEST_NAME: Final = 64

_Flags = Callable[[Sequence[tuple[str, str]]], list[bool]]


def without_secrets(text: str, rule: SecretRule = BY_DEFAULT) -> str:
    """Return a text, whatever it is, without the secrets in the addresses that it holds; all else stays as written.

    Args:
        text: an address, in GDAL's spelling too; prose; or JSON, of which every text is treated the same way.
        rule: what the user says.
    """
    made = _of_plain(text, lambda names, values: _plain_flags(names, values, rule))
    return _cleaned(text, rule, _DEPTH) if made is None else made


def redact(href: str) -> str:
    """Return an address without query string, fragment and user information: fit for an error, a log line or a page."""
    return _address(href, IN_MESSAGES, _DEPTH)


def redact_text(text: str) -> str:
    """Return prose, or a JSON text, without the parameters and users of the addresses in it."""
    if not _MAY_HOLD_ONE.search(text):
        return text
    return _of_tokens(text, IN_MESSAGES, _DEPTH)


def without_signature(address: str) -> str:
    """Return an address without the parameters of complete, recognised signatures, and without user information."""
    made = _of_plain(address, lambda names, _: signature_flags_of_names(names))
    return _parameters(without_user(address), signature_flags, lambda value: value) if made is None else made


def without_user(text: str) -> str:
    """Return an address, or a token that holds one, without the user and password before its host."""
    if "@" not in text:
        return text
    return _ODD_USER.sub(r"\1", _USER.sub(_without_user, text))


def _without_user(found: re.Match[str]) -> str:
    kept = _PLACE_BEFORE_HOST.search(found[1]) is not None
    return found[0] if kept else found[1] + found[2]


def shown_names(query: str) -> set[str]:
    """Return the names of the parameters of a query; a text that may be a token does not count as a name."""
    items = (item.partition("=") for item in _BETWEEN.split(query)[::2])
    names = {decoded(name) for name, equals, _ in items if equals and len(name) <= _LONGEST_NAME}
    return {name for name in names if name and name.isprintable() and not looks_secret(name)}


def _of_plain(text: str, choose: Callable[[tuple[str, ...], Sequence[str]], Sequence[bool] | None]) -> str | None:
    """Return an address of the commonest form, a URL with a query and nothing else, without the chosen parameters.

    Tables hold many of them, and this takes a third of the time. None where the address has another form.
    """
    if (found := _PLAIN.fullmatch(text)) is None:
        return None
    start = found.start(1)
    if "/eyJ" in text or "/n/" in text:
        return None
    items = text[start:].split("&")
    try:
        names, values = zip(*[item.split("=", 1) for item in items], strict=True)
    except ValueError:  # one has no value
        return None
    if "" in values or "" in names or (taken := choose(names, values)) is None:
        return None
    if True not in taken:
        return text
    kept = "&".join([item for item, gone in zip(items, taken, strict=True) if not gone])
    return text[:start] + kept if kept else text[: start - 1]


def _plain_flags(names: tuple[str, ...], values: Sequence[str], rule: SecretRule) -> Sequence[bool] | None:
    verdicts = flags_of_names(names, rule)
    if None in verdicts:
        for name, value, taken in zip(names, values, verdicts, strict=True):
            # Only a value that may hold an address or parameters has to be parsed.
            may_hold_more = HINT_OF_SECRET.search(value) and _MAY_HOLD_MORE.search(value)
            if taken is None and (may_hold_more or is_secret(name, value, rule)):
                return None
    return [bool(taken) for taken in verdicts]


def _cleaned(text: str, rule: SecretRule, depth: int) -> str:
    if depth == 0 or not _MAY_HOLD_ONE.search(text):
        return text
    if _DOCUMENT.match(text) and (made := _document(text, rule, depth)) is not None:
        return made
    if _TOKENS.fullmatch(text):
        return _stable(lambda one: _token(one, rule, depth), text)
    # First as a whole, because an address may hold blanks and quotes, and addresses in prose end there.
    whole = (lambda one: _address(one, rule, depth)) if _ADDRESS.match(text) else (lambda one: one)
    return _stable(lambda one: _of_tokens(whole(one), rule, depth), text)


def _stable(step: Callable[[str], str], text: str) -> str:
    """Apply a step until it changes nothing, because a text that is taken out may have hidden another secret."""
    for _ in range(_DEPTH):
        if (made := step(text)) == text:
            break
        text = made
    return text


def _of_tokens(text: str, rule: SecretRule, depth: int) -> str:
    def one(found: re.Match[str]) -> str:
        token = found[0]
        # Because a closing colon or bracket belongs to the sentence.
        end = _ENDS.search(token)
        last = end.start() if end else len(token)
        return _token(token[:last], rule, depth) + token[last:]

    return _TOKENS.sub(one, text)


def _token(token: str, rule: SecretRule, depth: int) -> str:
    if not _MAY_HOLD_ONE.search(token):
        # A parameter that a blank has cut off from its address.
        name, equals, _ = token.partition("=")
        return f"{name}=..." if rule.hides_all and equals and means_secret(name) else token
    return _address(token, rule, depth)


def _document(text: str, rule: SecretRule, depth: int) -> str | None:
    """Return a JSON text without secrets, rewritten only where it holds some; None for a text that is not JSON."""

    def walked(value: Any) -> Any:
        if isinstance(value, str):
            return _cleaned(value, rule, depth - 1)
        if isinstance(value, list):
            return [walked(item) for item in value]
        if isinstance(value, dict):
            return {_cleaned(key, rule, depth - 1): walked(item) for key, item in value.items()}
        return value

    try:
        document = json.loads(text)
        made = walked(document)
        return text if made == document else json.dumps(made)
    except (ValueError, RecursionError):
        return None  # not JSON, or nested too deeply for Python's parser


def _address(address: str, rule: SecretRule, depth: int) -> str:
    """Return one address without secrets, in whatever spelling."""
    if _QUERY_ALONE.fullmatch(address):
        return _address("?" + address, rule, depth).removeprefix("?")
    address = without_user(address)
    is_local = not _REMOTE.search(address)
    if rule.hides_all:
        if not is_local:
            return _path(re.split("[?#]", address, maxsplit=1)[0], BY_DEFAULT, depth)
        rule = BY_DEFAULT

    def chosen(items: Sequence[tuple[str, str]]) -> list[bool]:
        made = flags(items, rule)
        if is_local and _LOCAL.match(address):
            # A file may be called what?sig=1.tif.
            made = [
                taken and (looks_secret(value) or not _FILE_NAME.fullmatch(value))
                for taken, (_, value) in zip(made, items, strict=True)
            ]
        return made

    made = _parameters(address, chosen, lambda value: _nested(value, rule, depth))
    first, mark, rest = _cut(made)
    return _path(first, rule, depth) + mark + rest


def _cut(address: str) -> tuple[str, str, str]:
    found = re.search("[?#]", address)
    return (address, "", "") if found is None else (address[: found.start()], found[0], address[found.end() :])


def _nested(value: str, rule: SecretRule, depth: int) -> str:
    """Return a value, which may be an escaped address, without the secrets in it."""
    if depth <= 1 or not _MAYBE_NESTED.search(value):
        return value
    plain = decoded(value)
    made = _cleaned(plain, rule, depth - 1)
    if plain != value and "=" in made:
        # Parameters that are escaped together with their separators: v=1%26sig%3D...
        made = _without("?" + made, lambda items: flags(items, rule), lambda one: one).removeprefix("?")
    if made == plain:
        return value
    return made if plain == value else quote(made, safe="")


def _path(path: str, rule: SecretRule, depth: int) -> str:
    """Return the part before the query without parameters of its segments, and without tokens that are segments."""
    if ";" in path:
        path = _PATH_PARAMETER.sub(lambda found: "" if flags([(found[1], found[2])], rule)[0] else found[0], path)
    if "=" in path:
        path = _AKAMAI_SEGMENT.sub("", path)
        path = _PATH_SEGMENT.sub(_without_segment, path)
    if "/eyJ" in path:
        path = _PATH_TOKEN.sub("", path)
    if "/n/" in path:
        path = _PREAUTHENTICATED.sub("", path)
    if "%" in path:
        path = _ESCAPED_ADDRESS.sub(lambda found: _nested(found[0], rule, depth), path)
    return path


def _without_segment(found: re.Match[str]) -> str:
    """Drop name=value where the name means a secret, and the value is not that of a folder such as key=B02."""
    name, value = found[1], found[2]
    is_secret_one = means_secret(name) and _FOLDER_VALUE.fullmatch(value) is None
    return "" if "hmac=" in value or is_secret_one else found[0]


def _parameters(address: str, choose: _Flags, inner: Callable[[str], str]) -> str:
    """Drop the query parameters that are chosen among those that stand together, and rewrite the values of others.

    Fragments are treated in the same way, because one may be the end of a path with a number sign, or hold a token.
    """
    first, *others = address.split("#")
    made = _without(first, choose, inner)
    for piece in others:
        if "?" in piece:
            made += "#" + _without(piece, choose, inner)
        else:
            made += "#" + _without("?" + piece, choose, inner).removeprefix("?")
    return made


def _without(piece: str, choose: _Flags, inner: Callable[[str], str]) -> str:
    base, mark, query = piece.partition("?")
    if not query:
        return piece
    items = _BETWEEN.split(query)
    pairs = []
    for item in items[::2]:
        name, equals, value = item.partition("=")
        if not equals and ":" in item and means_secret(item.partition(":")[0]):
            name, equals, value = item.partition(":")
        # Because a parameter without a name may be a token.
        pairs.append((name, value) if equals else ("", item))
    taken = choose(pairs)
    for place, (name, value) in enumerate(pairs):
        if value and not taken[place] and (made := inner(value)) is not value and made != value:
            items[2 * place] = f"{name}={made}" if name else made
    kept = [place for place, gone in enumerate(taken) if not gone]
    # Separators of parameters that are taken out go too, except that the first parameter follows the question mark.
    text = "".join(("" if rank == 0 else items[2 * at - 1]) + items[2 * at] for rank, at in enumerate(kept))
    return base + mark + text if text else base
