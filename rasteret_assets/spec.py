"""One description of a collection: what to read, how to normalize its records, which headers to index.

YAML, the command line, the Dagster graph and ``build_from_table`` all fold into :class:`CollectionSpec`. It holds only
values a YAML file can carry; live objects (a filesystem, a backend) travel beside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, Unpack

import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer, field_validator, model_validator

from rasteret_assets.credentials import Credentials
from rasteret_assets.errors import SpecError
from rasteret_assets.harvest_options import HarvestOptions
from rasteret_assets.options import GraphOptions
from rasteret_assets.partitions import PartitionBy
from rasteret_assets.secrets import SecretRule
from rasteret_assets.spec_problems import contradictions, explain, filter_tuples
from rasteret_assets.spec_values import CloudOptions, CloudValues, SpecValues
from rasteret_assets.versions import spec_version

DEFAULT_MAX_CONCURRENT = 300
DEFAULT_WORKSPACE = "~/rasteret_workspace"
PUBLISHED_SUFFIXES = ("_records", "_stac")
#: Ends the name of the folder of harvested STAC items, which lies beside the published one.
HARVEST_SUFFIX = "_harvest"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_OVERLAP = re.compile(r"newest by \S(.*\S)?")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    @classmethod
    def _checked(cls, values: Mapping[str, object]) -> Self:
        """Make a model of values, and refuse values that do not fit in one readable :class:`SpecError`."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            sentences = [sentence for _, sentence in explain(error, cls)]
            raise SpecError("; ".join(sentences)) from None


class CloudConfig(_Model):
    """How the objects of a provider are reached.

    Args:
        provider: name of the provider, for people: any text, as in rasteret. What is read, and how, depends on the
            other fields and on the scheme of an address alone.
        requester_pays: whether S3 requests must declare that the requester pays.
        region: region of the S3 buckets named in ``url_patterns``.
        url_patterns: ``{prefix: replacement}``; the longest prefix that an href starts with is replaced.
    """

    provider: str
    requester_pays: bool = False
    region: str = "us-west-2"
    url_patterns: dict[str, str] = Field(default_factory=dict)

    # Class-level on purpose: rasteret's CloudConfig registers by data source, and callers bring that code along.
    _registry: ClassVar[dict[str, CloudConfig]] = {}

    def __init__(self, provider: str | None = None, **values: Unpack[CloudOptions]) -> None:
        # rasteret's CloudConfig takes the provider as a positional argument, which pydantic alone does not.
        given: Mapping[str, object] = values if provider is None else {"provider": provider, **values}
        super().__init__(**given)

    @classmethod
    def of(cls, **values: Unpack[CloudValues]) -> Self:
        """Make a cloud configuration of keyword values.

        Raises:
            SpecError: naming every unknown, malformed or contradictory field and what to write instead.
        """
        return cls._checked(values)

    @classmethod
    def register(cls, data_source: str, config: CloudConfig) -> None:
        """Use ``config`` for every build whose ``data_source`` has this name (case-insensitive)."""
        cls._registry[data_source.lower()] = config

    @classmethod
    def get_config(cls, data_source: str) -> CloudConfig | None:
        """Return the configuration that is registered for ``data_source``, or None."""
        return cls._registry.get(data_source.lower())


def _path_or_harvest(schema: dict[str, Any]) -> None:
    """Put into a JSON schema that a collection is made of a table or of harvested items."""
    schema["required"] = [name for name in schema.get("required", ()) if name != "path"]
    schema["anyOf"] = [{"required": ["path"]}, {"required": ["harvest"]}]


class CollectionSpec(_Model):
    """Everything that decides what a collection holds.

    All fields from ``path`` to ``force`` are arguments of ``build_from_table`` under the same names.

    Args:
        harvest: where STAC items are harvested from, which then are the record table instead of ``path``.
        path: path, URI or HTTP(S) address of a Parquet or GeoParquet file, of a dataset directory, or of a STAC
            Collection (``.json``) whose assets are Parquet files; a glob (``s3://bucket/items/*/part-*.parquet``); or
            a list of these. With ``harvest`` it is left out.
        name: name of the collection; required where it is published under a workspace.
        data_source: identifier of the provider's product, carried into the published footer.
        workspace_dir: folder or URI under which ``<name>_records`` is published.
        column_map: ``{source column: contract column}`` aliases; source columns are kept.
        href_column: column with the address of one file per record, where there is no ``assets`` column.
        band_index_map: ``{band: 0-based sample}`` of the files in ``href_column``.
        url_rewrite_patterns: ``{prefix: replacement}`` applied to hrefs; the longest matching prefix wins.
        columns: source columns to scan; everything when omitted.
        filter_expr: rows to scan: pyarrow's list-of-tuples filters (``[["eo:cloud_cover", "<", 20]]``; a list of such
            lists is an OR of ANDs), or a pyarrow expression from Python.
        enrich_cog: whether to read headers of files into ``{band}_metadata`` columns.
        band_codes: bands to enrich, exactly; every raster asset when omitted.
        overviews: whether headers keep the tile tables of overviews that lie with them (as in every COG), so that
            coarse reads and previews need few bytes. For headers that are read from then on.
        cloud_config: how the provider's objects are reached.
        max_concurrent: ceiling of header requests in flight.
        force: read every header again and rebuild.
        description: one sentence for the catalog page and the published footer.
        max_rejected: share (0 to 1) of a partition's records that may break the contract before the build refuses.
        interval_partition: where records without ``datetime`` but with ``start_datetime`` go (STAC interval items):
            ``undated``, or ``start_datetime`` to partition them by it.
        partition_by: size of a partition, which is one published file: ``year``, ``month`` or ``day`` (of UTC). A
            partition is built, checked and replaced as a whole, so a smaller one makes an append cheaper, and a larger
            one makes fewer files. Very roughly 1,000 to 100,000 records in each is right. Another choice later
            publishes everything anew, without asking for a header.
        geometry_encoding: ``wkb`` publishes GeoParquet 1.1, which every reader opens; ``native`` GeoParquet 2.0 with
            Parquet's own geometry type, which keeps statistics of geometries (polars 2.1 does not open it).
        describe_assets: whether published assets say ``proj:code``, ``proj:shape``, ``proj:transform`` and
            ``raster:bands`` of STAC's extensions, from the headers of their files, where the record table lacks them.
        local_files: whether a table that was read from another machine (``s3://...``, a filesystem that is not local)
            may name files of the machine that builds it. ``refuse`` makes each of them a failure; ``allow`` opens them.
            Tables that lie on this machine may name them in any case, and so may rewrites.
        link_local: whether addresses that hand out a machine's credentials, or are of its own network, may be asked:
            link-local ones (169.254.0.0/16, fe80::/10) and the metadata services of clouds. ``refuse`` or ``allow``.
        credentials: what opens the files: ``planetary_computer``, ``earthdata``, or a function of yours as
            ``{module: function}``. Addresses are kept unsigned and are signed when their files are read.
        license: of the data, as STAC's ``collection.json`` wants it: an SPDX identifier, or ``other``.
        max_failed: share (0 to 1) of a partition's headers that may be missing before it is refused to be published;
            all of them by default, since a record without headers says so itself.
        retry_missing_for: days for which later builds ask again for a file that does not exist, counted from when it
            was first missed: providers publish records before their files. Then it counts as gone for good; 0 takes the
            first answer for it. Files that were missed before a change of the days keep theirs.
        graph: owners, schedules and the like of the Dagster graph.
        secret_query: names of parameters in addresses that are secrets besides those that are recognised: they are
            used to fetch, and never published. In any spelling: ``subscription-key`` is ``subscriptionKey`` too.
        keep_query: names of parameters that are published though they look like secrets, because they name the file.
        overlap: ``newest by`` and the name of a column, such as ``newest by updated``: of several rows with one id the
            one with the greatest value counts and the others do not, as where an archive and its live tail overlap.
            Without it such rows are in conflict, and so are rows that differ and have the same value or none.
    """

    model_config = ConfigDict(json_schema_extra=_path_or_harvest)

    harvest: HarvestOptions | None = None
    path: str | tuple[str, ...]
    name: str = Field(default="", json_schema_extra={"pattern": f"^({_NAME.pattern})?$"})
    data_source: str = ""
    workspace_dir: str | None = None
    column_map: dict[str, str] = Field(default_factory=dict)
    href_column: str | None = None
    band_index_map: dict[str, int] = Field(default_factory=dict)
    url_rewrite_patterns: dict[str, str] = Field(default_factory=dict)
    columns: tuple[str, ...] | None = None
    filter_expr: ds.Expression | list[list[tuple[str, str, Any]]] | None = None
    enrich_cog: bool = False
    band_codes: tuple[str, ...] | None = None
    overviews: bool = True
    cloud_config: CloudConfig | None = None
    max_concurrent: int = Field(default=DEFAULT_MAX_CONCURRENT, ge=1)
    force: bool = False
    description: str = ""
    max_rejected: float = Field(default=0.0, ge=0.0, le=1.0)
    interval_partition: Literal["undated", "start_datetime"] = "undated"
    partition_by: PartitionBy = "month"
    geometry_encoding: Literal["wkb", "native"] = "wkb"
    describe_assets: bool = False
    local_files: Literal["refuse", "allow"] = "refuse"
    link_local: Literal["refuse", "allow"] = "refuse"
    credentials: Credentials | None = None
    license: str = "other"
    max_failed: float = Field(default=1.0, ge=0.0, le=1.0)
    retry_missing_for: float = Field(default=3.0, ge=0.0, le=3660.0)
    graph: GraphOptions = Field(default_factory=GraphOptions)
    secret_query: tuple[str, ...] = ()
    keep_query: tuple[str, ...] = ()
    overlap: str | None = Field(default=None, json_schema_extra={"pattern": f"^{_OVERLAP.pattern}$"})

    #: Fields that count in the content's hash only where they differ from their default, because earlier versions did
    #: not have them, and their hashes stay.
    _LATER: ClassVar[frozenset[str]] = frozenset(
        {"local_files", "link_local", "credentials", "overlap", "describe_assets"}
    )
    #: Fields that change how a build runs but not what it publishes.
    _RUNTIME_FIELDS: ClassVar[frozenset[str]] = frozenset(
        {"harvest", "path", "workspace_dir", "max_concurrent", "force", "max_failed", "retry_missing_for", "graph"}
    )

    @classmethod
    def of(cls, **values: Unpack[SpecValues]) -> Self:
        """Make a spec of keyword values.

        Raises:
            SpecError: naming every unknown, malformed or contradictory field and what to write instead.
        """
        return cls._checked(values)

    @model_validator(mode="before")
    @classmethod
    def _path_of_harvest(cls, values: object) -> object:
        """Fill in the path of harvested items, which a spec must not choose."""
        if not isinstance(values, dict) or values.get("harvest") is None:
            return values
        name, workspace_dir = values.get("name") or "", values.get("workspace_dir")
        if not isinstance(name, str) or not isinstance(workspace_dir, str | Path | None):
            return values  # refused below
        path = harvest_path(workspace_dir, name)
        if path is None:
            raise ValueError("a collection that is harvested has to be published: give it a name or a workspace_dir")
        if values.get("path", path) != path:
            raise ValueError("path and harvest are given: harvested items are the record table, so leave path out")
        return {**values, "path": path}

    @field_validator("path", "workspace_dir", mode="before")
    @classmethod
    def _path_text(cls, value: object) -> object:
        if isinstance(value, list | tuple):
            if not value:
                raise ValueError("an empty list names no file: write the paths of the record table")
            return tuple(map(cls._path_text, value))
        if isinstance(value, str) and "\0" in value:
            raise ValueError(f"{value!r} holds a NUL, which no path does")
        return str(value) if isinstance(value, Path) else value

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if value and not _NAME.fullmatch(value):
            raise ValueError(f"{value!r} is not a name for a collection: use letters, digits, '_', '-' and '.'")
        return value

    @field_validator("overlap")
    @classmethod
    def _names_a_column(cls, value: str | None) -> str | None:
        if value is not None and not _OVERLAP.fullmatch(value):
            raise ValueError(f"{value!r} does not say which row counts: write for example 'newest by updated'")
        return value

    @field_validator("columns", "band_codes", "secret_query", "keep_query", mode="before")
    @classmethod
    def _no_lone_name(cls, value: object) -> object:
        if isinstance(value, str):
            raise ValueError(f"{value!r} is one name: write a list, [{value}]")  # noqa: TRY004  (pydantic's own)
        return value

    @field_validator("column_map", "band_index_map", "url_rewrite_patterns", mode="before")
    @classmethod
    def _none_is_empty(cls, value: object) -> object:
        return {} if value is None else value

    @field_validator("band_index_map")
    @classmethod
    def _indices_from_zero(cls, value: dict[str, int]) -> dict[str, int]:
        if negative := {band: index for band, index in value.items() if index < 0}:
            raise ValueError(f"band indices count from 0; negative: {negative}")
        return value

    @field_validator("filter_expr", mode="plain")
    @classmethod
    def _filter_form(cls, value: object) -> ds.Expression | list[list[tuple[str, str, Any]]] | None:
        if value is None or isinstance(value, ds.Expression):
            return value
        return filter_tuples(value)

    @field_serializer("filter_expr")
    def _filter_text(self, value: object) -> object:
        return str(value) if isinstance(value, ds.Expression) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if problems := list(contradictions(self)):
            raise ValueError("; ".join(problems))
        return self

    @property
    def filter(self) -> ds.Expression | None:
        """``filter_expr`` as a pyarrow expression."""
        if self.filter_expr is None or isinstance(self.filter_expr, ds.Expression):
            return self.filter_expr
        return pq.filters_to_expression(self.filter_expr)

    @property
    def cloud(self) -> CloudConfig | None:
        """The given cloud configuration, else the one registered for the data source, if any."""
        return self.cloud_config or CloudConfig.get_config(self.data_source)

    @property
    def names_bands(self) -> bool:
        """Whether the bands are chosen by name, rather than found by looking at each asset."""
        return self.band_codes is not None or bool(self.href_column)

    @property
    def rewrites(self) -> dict[str, str]:
        """Every href rewrite, ``url_rewrite_patterns`` over those of the cloud configuration."""
        return {**(self.cloud.url_patterns if self.cloud else {}), **self.url_rewrite_patterns}

    def source_column(self, contract: str) -> str:
        """Return the name that the record table has for a column of the record contract."""
        return next((name for name, alias in self.column_map.items() if alias == contract), contract)

    @property
    def newest_by(self) -> str | None:
        """The column that says which of several rows with one id is the newest; None without ``overlap``."""
        return None if self.overlap is None else self.overlap.removeprefix("newest by ")

    @property
    def secrets(self) -> SecretRule:
        """The rule that ``secret_query`` and ``keep_query`` make for parameters of addresses."""
        return SecretRule.of(self.secret_query, self.keep_query)

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of the record table: one, or those of a list."""
        return (self.path,) if isinstance(self.path, str) else self.path

    @property
    def published_path(self) -> str | None:
        """Folder or URI of the published dataset, or None for a collection that stays in memory."""
        return published_path(self.workspace_dir, self.name)

    @property
    def content_hash(self) -> str:
        """Hash (16 hex digits) of all that decides the published content: a change means a rebuild.

        Addresses count as they are rewritten, also by a cloud configuration that is registered for the data source.
        """
        values = self.model_dump(mode="json", exclude={*self._RUNTIME_FIELDS, "filter_expr", "cloud_config"})
        # Defaults of later fields are left out, because otherwise every collection would be published anew.
        values = {
            # A tuple, because credentials may be a mapping, which a set cannot be asked for.
            name: value
            for name, value in values.items()
            if name not in self._LATER or value not in ("refuse", None, False)
        }
        cloud = self.cloud.model_dump(mode="json") if self.cloud else None
        return spec_version({**values, "cloud": cloud, "rewrites": self.rewrites}, self.filter)


def published_path(workspace_dir: str | Path | None, name: str) -> str | None:
    """Return where a collection is published: ``<workspace_dir>/<name>_records``.

    Without ``workspace_dir``, the default workspace ``~/rasteret_workspace`` is used; without a name as well, the
    collection stays in memory and None is returned. A ``workspace_dir`` that ends in ``_records`` or ``_stac`` is
    returned as it is, and so is every ``workspace_dir`` of a collection without a name.
    """
    if workspace_dir is None:
        return str(Path(DEFAULT_WORKSPACE).expanduser() / f"{name}_records") if name else None
    root = str(workspace_dir)
    if "://" not in root:
        root = str(Path(root).expanduser().absolute())
    root = root.rstrip("/")
    if root.endswith(PUBLISHED_SUFFIXES) or not name:
        return root
    return f"{root}/{name}_records"


def harvest_path(workspace_dir: str | Path | None, name: str) -> str | None:
    """Return where items are harvested to: ``<workspace_dir>/<name>_harvest``, beside the published collection.

    Arguments as for :func:`published_path`; None where that returns None.
    """
    published = published_path(workspace_dir, name)
    if published is None:
        return None
    suffix = next((suffix for suffix in PUBLISHED_SUFFIXES if published.endswith(suffix)), "")
    return f"{published.removesuffix(suffix)}{HARVEST_SUFFIX}"
