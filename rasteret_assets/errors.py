"""The exception tree: every exception that the package raises on purpose.

    RasteretAssetsError
    ├── SpecError                 arguments that are unknown, contradictory or of the wrong type; also as:
    │   └── DeclarationError      they stand in YAML files, each with its line
    ├── SourceError               a record table that cannot be opened or scanned; also as:
    │   ├── SourceChangedError    it changed while it was read
    │   └── NotHarvestedError     its STAC items were not harvested yet
    ├── HarvestError              a STAC API or catalog that does not give its items; also as:
    │   └── BadPageError          a document of it that does not come, or contradicts another
    ├── RecordError               a record table that opens but breaks the record contract
    │   ├── MissingColumnError    a column the contract needs is not there
    │   └── InvalidRecordError    rows that cannot be normalized, or more of them than tolerated
    ├── RangeReadError            bytes that could not be read
    │   ├── ObjectNotFoundError   the object is not there (404, no such file)
    │   ├── AccessDeniedError     the object is there, but not for us (401, 403)
    │   ├── CredentialsError      no credentials could be had that open the object
    │   ├── LinkLocalRefusedError the name of its host leads into this machine's own network
    │   ├── FileReplacedError     the object is not the one that was indexed
    │   ├── ForkedProcessError    a client that does not work in a forked process
    │   ├── TruncatedReadError    fewer bytes came than the server promised
    │   ├── BadAnswerError        an answer that is not HTTP, has no end, or cannot be decoded; also as:
    │   │   └── WrongRangeError   other bytes than were asked for
    │   └── StoreUnavailableError a failure of the moment, worth another try; also as:
    │       ├── ThrottledError, ReadTimeoutError, HostUnreachableError
    │       └── BackendError      a backend of the user's raised something else
    ├── TiffError                 bytes that do not hold a header to index
    │   ├── NotATiffError         the bytes do not start as a TIFF does
    │   ├── CorruptTiffError      a TIFF whose header contradicts itself or its file
    │   └── UnsupportedTiffError  a sound TIFF that a tile index cannot describe; also as:
    │       └── NotTiledError, NotGeoreferencedError
    ├── EnrichmentError           no header of a build could be read
    ├── CheckError                a check that keeps a partition from being published
    ├── BandNotFoundError         a band the collection does not have
    ├── WindowError               a window or area that does not touch the raster
    ├── TileError                 a tile that could not be decoded
    ├── PixelReadError            several tiles or files of one read that could not be read
    ├── MissingExtraError         an optional package that is not installed
    ├── LoopThreadError           a synchronous call in the thread of the event loop that it needs
    ├── LockLostError             a partition that another build took over while this one was held up
    └── CollectionError           a published collection that is missing, damaged or of a foreign layout
        └── DamagedFileError      a file of a workspace whose bytes are not what was written

Every class has an ``error_class``, under which ledgers and messages file it (:mod:`rasteret_assets.error_classes`). A
RangeReadError also has the address of its file and what the server said, because rows of a ledger are made of
attributes and never of texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rasteret_assets.error_classes import ErrorClass, Retry
from rasteret_assets.message_lists import failed_parts, list_failures
from rasteret_assets.secrets import redact, redact_text


class RasteretAssetsError(Exception):
    """Base of every error this package raises on purpose; addresses in its text show no parameter and no password."""

    error_class: ClassVar[ErrorClass] = ErrorClass.ERROR

    def __init__(self, *args: object) -> None:
        # Here, because many messages repeat errors of other packages and values of users, which may hold secrets.
        super().__init__(*(redact_text(part) if isinstance(part, str) else part for part in args))


class SpecError(RasteretAssetsError, ValueError):
    """Arguments that are unknown, contradictory or of the wrong type."""

    error_class = ErrorClass.SPEC


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A mistake in a declaration.

    Args:
        file: in which it stands.
        line: counted from 1; None where the file cannot be read.
        field: place of the value, such as ``graph.owners``; empty where no single field is wrong.
        message: what is wrong, and what to write instead.
    """

    file: str
    line: int | None = None
    field: str = ""
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", redact_text(self.message))

    def __str__(self) -> str:
        return f"{self.file}{'' if self.line is None else f':{self.line}'}: {self.message}"


class DeclarationError(SpecError):
    """Declarations with mistakes, each in a line of its own.

    Attributes:
        mistakes: all of them.
    """

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("\n".join(map(str, mistakes)))
        self.mistakes = tuple(mistakes)


class SourceError(RasteretAssetsError):
    """A record table that cannot be opened or scanned."""

    error_class = ErrorClass.SOURCE


class NotHarvestedError(SourceError):
    """A collection whose STAC items were not harvested yet."""

    error_class = ErrorClass.NOT_HARVESTED


class HarvestError(RasteretAssetsError):
    """A STAC API or catalog that does not give the items it was asked for.

    Attributes:
        windows: what is wrong, by key of the window whose items could not be had; empty where nothing could be asked.
    """

    error_class = ErrorClass.HARVEST

    def __init__(self, message: str, windows: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.windows = dict(windows or {})


class BadPageError(HarvestError):
    """A document of a STAC API or catalog that does not come, is not what it should be, or contradicts another."""

    error_class = ErrorClass.BAD_PAGE


class SourceChangedError(SourceError):
    """A record table that changed while it was read."""

    error_class = ErrorClass.SOURCE_CHANGED


class RecordError(RasteretAssetsError, ValueError):
    """A record table that opens but breaks the record contract."""

    error_class = ErrorClass.RECORD


class MissingColumnError(RecordError):
    """A column the record contract needs is not in the table."""

    error_class = ErrorClass.MISSING_COLUMN


class InvalidRecordError(RecordError):
    """Rows that cannot be normalized, or more of them than ``max_rejected`` tolerates."""

    error_class = ErrorClass.INVALID_RECORD


class RangeReadError(RasteretAssetsError):
    """Bytes of an object that could not be read.

    Args:
        message: what failed and why; never holds a query string.
        href: the object's address with its query string removed.
        status: the HTTP status, where there was one.
        retry_after: seconds the server asked to wait, where it did.
    """

    error_class = ErrorClass.READ_FAILED

    def __init__(
        self, message: str, *, href: str = "", status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.href = redact(href)
        self.status = status
        self.retry_after = retry_after

    @property
    def is_retried_at_once(self) -> bool:
        """Whether another try in the same fetch may bring the bytes."""
        return self.error_class.retry is Retry.SAME_FETCH


class ObjectNotFoundError(RangeReadError):
    """The object does not exist (HTTP 404 or 410, no such key, no such file)."""

    error_class = ErrorClass.NOT_FOUND


class AccessDeniedError(RangeReadError):
    """The store refuses to hand the object over (HTTP 401 or 403, missing permission)."""

    error_class = ErrorClass.FORBIDDEN


class CredentialsError(RangeReadError):
    """Whoever gives the credentials that open the object gave none; the store was not asked for the object."""

    error_class = ErrorClass.CREDENTIALS


class LinkLocalRefusedError(RangeReadError):
    """The host's name resolves to link-local addresses or to a service that hands out credentials; it was not asked."""

    error_class = ErrorClass.LINK_LOCAL_REFUSED


class FileReplacedError(RangeReadError):
    """The file is not the one whose header was indexed, so the index does not say where its pixels lie."""

    error_class = ErrorClass.REPLACED


class ForkedProcessError(RangeReadError):
    """The client of the store was used before this process was forked, and does not work in it."""

    error_class = ErrorClass.FORKED


class TruncatedReadError(RangeReadError):
    """Fewer bytes arrived than were promised."""

    error_class = ErrorClass.TRUNCATED


class BadAnswerError(RangeReadError):
    """An answer that cannot be used: not HTTP, without an end, in an unknown encoding, or a circle of redirects."""

    error_class = ErrorClass.BAD_ANSWER


class WrongRangeError(BadAnswerError):
    """An answer with other bytes than were asked for, or one that does not say which they are (RFC 9110, 15.3.7)."""

    error_class = ErrorClass.WRONG_RANGE


class StoreUnavailableError(RangeReadError):
    """A failure of the moment: throttling, a 5xx, a reset connection, an unreachable host."""

    error_class = ErrorClass.UNAVAILABLE


class ThrottledError(StoreUnavailableError):
    """The server asked for fewer requests (HTTP 429, 503 with ``Retry-After``)."""

    error_class = ErrorClass.THROTTLED


class HostUnreachableError(StoreUnavailableError):
    """No connection to the host: its name is not known, it refuses, or it was found dead earlier in the same fetch."""

    error_class = ErrorClass.UNREACHABLE


class BackendError(StoreUnavailableError):
    """A backend of the user's raised an exception of its own."""

    error_class = ErrorClass.BACKEND_FAILED


class ReadTimeoutError(StoreUnavailableError):
    """No answer came within the time allowed."""

    error_class = ErrorClass.TIMEOUT


class TiffError(RasteretAssetsError, ValueError):
    """Bytes that give no header worth indexing."""

    error_class = ErrorClass.CORRUPT


class NotATiffError(TiffError):
    """The bytes do not start as a TIFF does.

    Args:
        message: what the bytes start with.
        quotes: whether the message holds some of the bytes.
    """

    error_class = ErrorClass.NOT_TIFF

    def __init__(self, message: str, *, quotes: bool = False) -> None:
        super().__init__(message)
        self.quotes = quotes


class CorruptTiffError(TiffError):
    """A TIFF whose header contradicts itself or points outside its file."""

    error_class = ErrorClass.CORRUPT


class UnsupportedTiffError(TiffError):
    """A sound TIFF that a tile index cannot describe: rotated, with complex samples, or with an unsupported codec."""

    error_class = ErrorClass.UNSUPPORTED


class NotTiledError(UnsupportedTiffError):
    """A TIFF stored in strips: it has no tiles to index."""

    error_class = ErrorClass.NOT_TILED


class NotGeoreferencedError(UnsupportedTiffError):
    """A TIFF without a usable geotransform: none at all, ground control points only, or a degenerate one."""

    error_class = ErrorClass.NOT_GEOREFERENCED


class EnrichmentError(RasteretAssetsError):
    """Not one header of a build could be read."""

    error_class = ErrorClass.ENRICHMENT


class CheckError(RasteretAssetsError):
    """A partition that failed a check and is therefore not published; what was published before stays."""

    error_class = ErrorClass.CHECK


class BandNotFoundError(RasteretAssetsError, KeyError):
    """A band that the collection does not have."""

    error_class = ErrorClass.BAND_NOT_FOUND

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class WindowError(RasteretAssetsError, ValueError):
    """A window, area or grid that cannot be read as asked."""

    error_class = ErrorClass.WINDOW


class TileError(RasteretAssetsError):
    """A tile whose bytes could not be decoded.

    Args:
        message: what failed and why.
        href: the file's address with its query string removed.
    """

    error_class = ErrorClass.TILE

    def __init__(self, message: str, *, href: str = "") -> None:
        super().__init__(message)
        self.href = redact(href)


class PixelReadError(RasteretAssetsError):
    """Several tiles or files of one read that could not be read.

    Args:
        failures: one error for each, a TileError or a RangeReadError.
    """

    error_class = ErrorClass.PIXELS

    def __init__(self, failures: Sequence[RasteretAssetsError]) -> None:
        self.failures = tuple(failures)
        super().__init__(
            f"{failed_parts(failures)}; on_error='mask' leaves them out:{list_failures(failures, ', in .failures')}"
        )


class MissingExtraError(RasteretAssetsError, ImportError):
    """An optional package that is not installed."""

    error_class = ErrorClass.MISSING_EXTRA


class LoopThreadError(RasteretAssetsError, RuntimeError):
    """A synchronous call in the thread of the event loop that it needs, which would wait for itself."""

    error_class = ErrorClass.LOOP_THREAD


class WorkspaceError(RasteretAssetsError, OSError):
    """A workspace that cannot be written: no folder, no permission, no room."""

    error_class = ErrorClass.WORKSPACE


class CollectionError(RasteretAssetsError):
    """A published collection that is missing, damaged, or not laid out as one."""

    error_class = ErrorClass.COLLECTION


class StaleRowsError(CollectionError):
    """A file of a collection that was published anew after its records were listed."""

    error_class = ErrorClass.STALE_ROWS


class DamagedFileError(CollectionError):
    """A file of a workspace whose bytes are not those that were written; a failure of its storage is another error.

    Args:
        message: which file, and what is wrong with it.
        path: of the file.
    """

    error_class = ErrorClass.DAMAGED

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class LockLostError(RasteretAssetsError):
    """A partition that another build took over, because this one did not renew its lock in time."""

    error_class = ErrorClass.LOCK_LOST
