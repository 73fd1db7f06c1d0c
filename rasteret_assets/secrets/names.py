"""Which parameters of an address are secrets: by their names, by their values, or as parts of a signature.

Doubtful parameters count as secrets, because a published secret does more harm than a missing parameter. A parameter
whose name says which file is meant (``id``, ``versionId``, ``hash``) counts as one only if it holds a token of a known
form.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from itertools import pairwise
from typing import Final, NamedTuple, Self
from urllib.parse import unquote


@dataclass(frozen=True)
class SecretRule:
    """What a user says about the parameters of addresses, which overrules their names and values.

    Args:
        secret: names of parameters that are taken out, as :func:`flat_name` gives them.
        keep: names of parameters that stay, as :func:`flat_name` gives them.
        hides_all: whether every parameter is taken out, as in messages.
    """

    secret: frozenset[str] = frozenset()
    keep: frozenset[str] = frozenset()
    hides_all: bool = False

    @classmethod
    def of(cls, secret: Iterable[str] = (), keep: Iterable[str] = ()) -> Self:
        """Return the rule for names in any spelling."""
        return cls(frozenset(map(flat_name, secret)), frozenset(map(flat_name, keep)))


#: The rule of users who say nothing.
BY_DEFAULT: Final = SecretRule()
#: The rule of messages and logs, whose readers do not fetch the file.
IN_MESSAGES: Final = SecretRule(hides_all=True)


class _Signature(NamedTuple):
    """A way to sign an address.

    Args:
        needs: lower-case names of query parameters; the signature is complete with one of every set.
        fields: all names that the signature may use.
    """

    needs: tuple[frozenset[str], ...]
    fields: frozenset[str]


def _signature(needs: str, *optional: str) -> _Signature:
    """Read ``"a b|c"`` as: ``a``, and ``b`` or ``c``."""
    sets = tuple(frozenset(names.split("|")) for names in needs.split())
    return _Signature(sets, frozenset(optional).union(*sets))


_SIGNATURES: Final = (
    # AWS query authentication, version 4, which many others follow, and version 2.
    _signature(
        "x-amz-algorithm x-amz-credential x-amz-date x-amz-expires x-amz-signedheaders x-amz-signature",
        "x-amz-security-token", "x-amz-s3session-token", "x-amz-content-sha256", "x-amz-region-set",
    ),
    _signature("awsaccesskeyid signature expires", "x-amz-security-token"),
    _signature(
        "x-goog-algorithm x-goog-credential x-goog-date x-goog-expires x-goog-signedheaders x-goog-signature",
        "x-goog-security-token",
    ),
    _signature("googleaccessid signature expires"),
    # Alibaba, Huawei, Volcengine, Tencent.
    _signature(
        "x-oss-signature-version x-oss-credential x-oss-date x-oss-expires x-oss-signature", "x-oss-security-token",
        "x-oss-additional-headers",
    ),
    _signature("ossaccesskeyid signature expires", "security-token"),
    _signature("accesskeyid signature expires", "x-obs-security-token"),
    _signature(
        "x-obs-algorithm x-obs-credential x-obs-date x-obs-expires x-obs-signedheaders x-obs-signature",
        "x-obs-security-token",
    ),
    _signature(
        "x-tos-algorithm x-tos-credential x-tos-date x-tos-expires x-tos-signedheaders x-tos-signature",
        "x-tos-security-token",
    ),
    _signature(
        "q-sign-algorithm q-ak q-sign-time q-key-time q-signature", "q-header-list", "q-url-param-list",
        "x-cos-security-token",
    ),
    # Azure's shared access signatures, of a service (sr), an account (ss, srt) or a user's delegation (sk...). Which of
    # the others must be there depends on the version (sv) and on policies that the account stores.
    _signature(
        "sig sv", "st", "se", "sp", "sr", "ss", "srt", "si", "spr", "sip", "ses", "skoid", "sktid", "skt", "ske",
        "sks", "skv", "saoid", "suoid", "scid", "sdd", "sduoid", "skdutid",
    ),
    # CloudFront's and Google Cloud CDN's signed URLs, OpenStack's temporary ones, Akamai's tokens.
    _signature("key-pair-id signature expires|policy", "hash-algorithm"),
    _signature("keyname signature expires|urlprefix"),
    _signature("temp_url_sig temp_url_expires", "temp_url_prefix", "temp_url_ip_range"),
    _signature("hdnts"), _signature("hdnea"), _signature("hdntl"), _signature("__token__"), _signature("__gda__"),
    # Dropbox's shared links, where st beside it is a part of the session.
    _signature("rlkey st"),
)  # fmt: skip

_PREFIXES: Final = ("x-amz-", "x-goog-", "x-oss-", "x-obs-", "x-tos-", "x-cos-", "q-sign", "q-key-time", "aspsessionid")
# Parameters of these services that say which object is meant, or how it is sent.
_HARMLESS: Final = frozenset({"x-amz-checksum-mode", "x-amz-request-payer", "x-goog-user-project", "x-oss-process"})

# Words that mean a secret wherever they stand in a name.
_SECRET_WORDS: Final = frozenset({
    "token", "jwt", "secret", "password", "passwort", "passwd", "pwd", "passphrase", "passcode", "signature", "sig",
    "credential", "cred", "auth", "oauth", "authorization", "authentication", "authorisation", "bearer", "hmac",
    "session", "sessionid", "sessid", "jsessionid", "phpsessid", "cookie", "macaroon", "otp", "totp", "csrf", "xsrf",
    "apikey", "authkey", "accesskey", "secretkey", "privatekey", "sas", "passkey",
    "authn", "authz", "authenticator", "authcode", "passw", "psw", "pword", "sgn", "nonce",
})  # fmt: skip
# Ends of words that no other word has by chance.
_SECRET_ENDS: Final = (
    "token", "tokens", "secret", "password", "passwd", "pwd", "signature", "credential", "credentials", "apikey",
    "accesskey", "secretkey", "authkey", "jwt", "auth", "sessionid", "sessid",
)  # fmt: skip
_SECRET_STARTS: Final = ("password", "passwd", "apikey", "accesskey", "secretkey", "credential", "authtoken")
# Names that mean a secret as a whole, whatever their words mean elsewhere.
_SECRET_NAMES: Final = frozenset({
    "sid", "tk", "sk", "ak", "sign", "pin", "rlkey", "resourcekey", "connectid", "appcode", "tempauth", "qak",
    "hdnts", "hdnea", "hdntl", "hdnt", "gda", "ticket", "userpass", "dbpass", "urlsign", "pw",
})  # fmt: skip
# Words that mean a secret together with "key", and that may stand beside the words above.
_QUALIFIERS: Final = frozenset({
    "access", "account", "admin", "ak", "api", "app", "application", "azure", "aws", "client", "code", "consumer",
    "customer", "data", "deploy", "dev", "developer", "download", "encryption", "functions", "function", "google",
    "hash",
    "host", "http", "https", "id", "job", "license", "licence", "login", "map", "maps", "master", "my", "ocp", "apim",
    "pair", "personal", "private", "public", "read", "refresh", "request", "security", "server", "service", "shared",
    "signing", "sts", "storage", "subscription", "temp", "temporary", "url", "user", "value", "web", "write", "x",
    "name",
})  # fmt: skip
# Names that mean a secret, unless their value names a file or an order: key=folder/a.tif, pass=descending.
_DOUBTFUL: Final = frozenset({"key", "keys", "pass"})
_DOUBTFUL_VALUE: Final = re.compile(r"(?i)asc(ending)?|desc(ending)?|[0-9]{1,3}|.*\.[a-z][a-z0-9]{1,5}|.*/.*")

# Names that say which file is meant: a hash or a random text under one of them is the name of a file.
_NAMING_WORDS: Final = frozenset({
    "id", "ids", "uuid", "guid", "hash", "md5", "md", "sha", "crc", "etag", "version", "versionid", "v", "rev",
    "revision", "commit", "checksum", "digest", "cid", "file", "filename", "fileid", "item", "itemid", "scene",
    "sceneid", "asset", "assetid", "object", "objectid", "name", "path", "layer", "generation", "product", "granule",
    "collection", "tile", "ref", "blob", "blobid", "snapshot", "dataset", "key", "etags", "oid",
})  # fmt: skip

# A name within a JSON text.
_KEY: Final = re.compile(r"\"([^\"]+)\"\s*:")

_CAMEL: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_LETTERS: Final = re.compile(r"[a-z]+")

_TOKEN_FORMS: Final = re.compile(
    r"eyJ[\w-]{6,}\.[\w-]+\.[\w-]*"  # JSON web tokens
    r"|\b(?:AKIA|ASIA|AGPA|AROA)[A-Z0-9]{12,}|AIza[\w-]{10,}|\bgh[pousr]_\w{10,}|\bgithub_pat_\w{10,}|\bglpat-[\w-]{8,}"
    r"|\bgl(?:dt|ptt|cbt|rt)-[\w-]{8,}|\bPLAK\w{8,}|\bya29\.[\w-]{8,}|\bxox[abpr]-[\w-]{8,}|\b[ps]k\.eyJ[\w-]{8,}"
    r"|\bsl\.[\w-]{20,}|\bhf_\w{16,}|(?:^|~)hmac=|\b(?:Bearer|Basic)[ +]\S{6,}"
)
_RANDOM: Final = re.compile(r"[A-Za-z0-9+/_=.~-]{24,}")
_UUID: Final = re.compile(r"(?i)[{(]?[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}[)}]?")
_HEX: Final = re.compile(r"(?i)(?=.*[a-f])(?=.*[0-9])[0-9a-f]{32,}")
_FILE: Final = re.compile(
    r"(?i).*\.(tiff?|gtiff|cog|jp2|j2k|png|jpe?g|webp|vrt|img|nc4?|h5|hdf5?|zarr|zip|gz|tar|xml|json|geojson|parquet|csv|txt)"
)
# Share of neighbours of different kinds (digit, small letter, capital) from which on a text counts as random: words and
# numbers have fewer.
_TURNS_OF_THREE: Final = 0.35
_TURNS_OF_TWO: Final = 0.15
_LEAST_OF_TWO: Final = 32
# Letters of the shortest token.
_LEAST: Final = 6
_MARKS_SHARE: Final = 0.12
_LEAST_OF_A_CASE: Final = 3
_DECODINGS: Final = 4


class _Meaning(Enum):
    """What a name says about its value."""

    SECRET = 0
    DOUBTFUL = 1
    NAMES_FILE = 2
    NOTHING = 3


def decoded(text: str) -> str:
    """Return a text without percent-escapes, however often it was escaped."""
    for _ in range(_DECODINGS):
        if "%" not in text or (plain := unquote(text)) == text:
            break
        text = plain
    return text


@lru_cache(maxsize=4096)
def flat_name(name: str) -> str:
    """Return a name's letters and digits in lower case: ``Subscription-Key`` and ``subscriptionKey`` are one name."""
    folded = unicodedata.normalize("NFKC", decoded(name)).casefold()
    return "".join(filter(str.isalnum, folded))


def is_secret(name: str, value: str, rule: SecretRule = BY_DEFAULT) -> bool:
    """Tell whether a parameter is a secret by itself, whatever stands beside it.

    Args:
        name: as written; empty where there is only a value.
        value: as written.
        rule: what the user says.
    """
    if rule.secret or rule.keep:
        flat = flat_name(name)
        if flat in rule.keep or flat in rule.secret:
            return flat not in rule.keep
    if value.startswith(("{", "%7B", "%7b")) and any(map(means_secret, _KEY.findall(decoded(value)))):
        return True
    meaning = _meaning(name) if name else _Meaning.NOTHING
    if meaning is _Meaning.DOUBTFUL:
        return bool(value) and (not _DOUBTFUL_VALUE.fullmatch(decoded(value)) or looks_secret(value))
    if meaning is _Meaning.NAMES_FILE:
        return len(value) >= _LEAST and _TOKEN_FORMS.search(decoded(value)) is not None
    return bool(value) and (meaning is _Meaning.SECRET or looks_secret(value))


def looks_secret(value: str) -> bool:
    """Tell whether a value is a token of a known form, or long and random; a UUID is neither, a long hash is."""
    return len(value) >= _LEAST and (_TOKEN_FORMS.search(decoded(value)) is not None or _looks_random(value))


def _looks_random(value: str) -> bool:
    text = decoded(value).strip()
    if not _RANDOM.fullmatch(text) or _UUID.fullmatch(text) or _FILE.fullmatch(text):
        return False
    if _HEX.fullmatch(text):
        return True
    letters = [letter for letter in text if letter.isalnum()]
    marks = len(text.rstrip("=")) - len(letters)
    kinds = [0 if letter.isdigit() else 1 if letter.islower() else 2 for letter in letters]
    share = sum(one != other for one, other in pairwise(kinds)) / max(1, len(kinds) - 1)
    if 0 in kinds and min(kinds.count(1), kinds.count(2)) >= _LEAST_OF_A_CASE:
        return share >= _TURNS_OF_THREE and marks <= _MARKS_SHARE * len(text)
    # Names of scenes are capitals and digits too, with marks between.
    return 0 in kinds and len(set(kinds)) > 1 and not marks and len(letters) >= _LEAST_OF_TWO and share >= _TURNS_OF_TWO


#: A value without a match is not a secret by itself, and holds no address.
HINT_OF_SECRET: Final = re.compile(r"[^\w.,-]|.{24}|eyJ|A[KSGRI]|gh|gl|PLAK|ya29|xox|hf_|sl\.")


@lru_cache(maxsize=4096)
def means_secret(name: str) -> bool:
    """Tell whether a name means a secret, whatever it holds."""
    return _meaning(name) is _Meaning.SECRET


@lru_cache(maxsize=4096)
def _meaning(name: str) -> _Meaning:
    plain = unicodedata.normalize("NFKC", decoded(name)).strip()
    lower = plain.casefold()
    if lower in _HARMLESS:
        return _Meaning.NAMES_FILE
    words = {word.lower() for word in _CAMEL.findall(plain)} | set(_LETTERS.findall(lower))
    flat = "".join(_LETTERS.findall(lower))
    secret_words = {*words, *(word.removesuffix("s") for word in words)} & _SECRET_WORDS
    if secret_words or lower.startswith(_PREFIXES) or flat in _SECRET_NAMES:
        return _Meaning.SECRET
    ends = any(word.endswith(_SECRET_ENDS) or word.startswith(_SECRET_STARTS) for word in (*words, flat))
    if ends or _is_of_secret_words(flat):
        return _Meaning.SECRET
    if flat in _DOUBTFUL:
        return _Meaning.DOUBTFUL
    if words & _NAMING_WORDS or flat in _NAMING_WORDS or lower.startswith(("sha", "md5")):
        return _Meaning.NAMES_FILE
    return _Meaning.NOTHING


def _is_of_secret_words(flat: str) -> bool:
    """Tell whether a name is a secret word and qualifiers, run together: ``xapikey``, but not ``monkey``."""
    found: list[set[tuple[bool, bool]]] = [set() for _ in range(len(flat) + 1)]
    # By place: whether a word that means a secret, and whether a qualifier, stands before it.
    found[0].add((False, False))
    for start, states in enumerate(found):
        for end in range(start + 1, len(flat) + 1) if states else ():
            word = flat[start:end]
            is_word, is_key = word in _SECRET_WORDS, word in {"key", "keys"}
            if is_word or is_key or word in _QUALIFIERS:
                found[end] |= {(one or is_word or is_key, other or not is_key) for one, other in states}
    return (True, True) in found[-1]


def flags(parameters: Sequence[tuple[str, str]], rule: SecretRule = BY_DEFAULT) -> list[bool]:
    """Tell which parameters of one address are secrets, or parts of a signature.

    Names that mean something only within a signature (``st``, ``expires``, ``policy``) count only where another
    parameter is a part of it.

    Args:
        parameters: names and values as they are written.
        rule: what the user says.
    """
    if rule.hides_all:
        return [True] * len(parameters)
    made = [is_secret(name, value, rule) for name, value in parameters]
    names = tuple(decoded(name).lower() if value else "" for name, value in parameters)
    fields = _fields(names, made)
    if fields:
        made = [
            secret or (name in fields and not (rule.keep and flat_name(name) in rule.keep))
            for secret, name in zip(made, names, strict=True)
        ]
    return made


@lru_cache(maxsize=1024)
def flags_of_names(names: tuple[str, ...], rule: SecretRule = BY_DEFAULT) -> tuple[bool | None, ...]:
    """Return what :func:`flags` says of parameters with values; None where that depends on the value."""
    verdicts: list[bool | None] = []
    for name in names:
        flat = flat_name(name) if rule.secret or rule.keep else ""
        if rule.hides_all or flat in rule.keep or flat in rule.secret:
            verdicts.append(flat not in rule.keep)
        else:
            verdicts.append(True if name and _meaning(name) is _Meaning.SECRET else None)
    lower = tuple(decoded(name).lower() for name in names)
    fields = _fields(lower, verdicts)
    return tuple(
        True if secret is None and name in fields else secret for secret, name in zip(verdicts, lower, strict=True)
    )


def signature_flags(parameters: Sequence[tuple[str, str]]) -> list[bool]:
    """Tell which parameters belong to a complete signature."""
    return list(signature_flags_of_names(tuple(name if value else "" for name, value in parameters)))


@lru_cache(maxsize=1024)
def signature_flags_of_names(names: tuple[str, ...]) -> tuple[bool, ...]:
    """Tell which parameters, all of which have values, belong to a complete signature."""
    lower = tuple(decoded(name).lower() for name in names)
    fields = _complete(lower)
    return tuple(name in fields for name in lower)


# Cached, because the addresses of a table are signed in few ways; names are not secrets.
@lru_cache(maxsize=1024)
def _complete(names: tuple[str, ...]) -> frozenset[str]:
    complete = (kind.fields for kind in _SIGNATURES if not any(need.isdisjoint(names) for need in kind.needs))
    return frozenset[str]().union(*complete)


def _fields(names: tuple[str, ...], secret: Sequence[bool | None]) -> frozenset[str]:
    """Return the names that belong to a complete signature, or to one of which a secret part remains.

    Complete signatures come first, so that an address and its identity are published with the same parameters.
    """
    complete = _complete(names)
    left = frozenset(name for name, one in zip(names, secret, strict=True) if one and name not in complete)
    return complete | _beside(left) if left else complete


@lru_cache(maxsize=1024)
def _beside(granting: frozenset[str]) -> frozenset[str]:
    return frozenset[str]().union(*(kind.fields for kind in _SIGNATURES if not kind.fields.isdisjoint(granting)))
