"""The methods of a collection that write files and stores, and make datasets of other libraries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from rasteret_assets.collection.areas.area import AUTO
from rasteret_assets.collection.extras import optional
from rasteret_assets.collection.formats.export import export_records
from rasteret_assets.collection.formats.tile_index.gti import write_tile_index
from rasteret_assets.collection.formats.tile_index.gti_layers import TileIndexLayer
from rasteret_assets.collection.formats.virtual_zarr.icechunk import IcechunkReport, write_icechunk
from rasteret_assets.collection.pixels.backends import Source
from rasteret_assets.collection.pixels.on_demand import list_records
from rasteret_assets.collection.pixels.read_options import (
    AREA_DEFAULTS,
    POINT_DEFAULTS,
    PointArguments,
    ReadArguments,
    area_arguments,
    filters_of,
    point_arguments,
    read_options,
    takes,
)
from rasteret_assets.collection.pixels.record_table import checked_bands
from rasteret_assets.collection.record_query import RecordQuery
from rasteret_assets.inputs import AreasLike, CRSLike
from rasteret_assets.partitions import PartitionBy

if TYPE_CHECKING:
    from icechunk import Repository, Storage
    from torch.utils.data import Dataset
    from torchgeo.datasets import GeoDataset


class Exports(RecordQuery):
    """Records that can be exported to files, stores and other libraries."""

    def to_gti(self, path: str | Path, bands: str | Sequence[str] | None = None) -> list[TileIndexLayer]:
        """Write the records as a GDAL tile index, which GDAL, rasterio and QGIS open as a mosaic; no raster is opened.

        The index has a layer for each band and CRS, with the resolution, type, nodata, colour and extent of the mosaic.
        Of overlapping files the last by datetime and id whose pixel holds data lies on top, undated ones above all.
        Beside a GeoPackage ``scenes.gti.gpkg`` lies a folder ``scenes_layers`` with a file ``<layer>.gti`` for each
        layer, which opens that layer. Addresses are in GDAL's spelling (``/vsicurl/https://...``,
        ``/vsis3/bucket/key``) and hold nothing that grants access: GDAL takes credentials from its own configuration.

        Writing takes about a kilobyte of memory for each record, a band at a time.

        Args:
            path: file on a disk that ends with ``.gti.gpkg`` (GeoPackage), or with ``.gti.fgb`` (FlatGeobuf, of one
                layer); an existing index is replaced.
            bands: a band or several; by default all that have headers.

        Returns:
            The layers, by band, in the order of the file.

        Raises:
            SpecError: if ``path`` has another ending, or a FlatGeobuf file would have several layers.
            BandNotFoundError: if the collection lacks a band.
            WindowError: if no record has the header of a band, or a raster has no known CRS.
            CollectionError: if a header contradicts itself, GDAL has no spelling for an address, ``path`` cannot be
                written, or a file of the collection cannot be read.
            MissingExtraError: if pyogrio is not installed.
        """
        return write_tile_index(self, path, bands)

    def export(
        self,
        path: str | Path,
        partition_by: PartitionBy | Sequence[str] | None = "month",
        *,
        name: str = "",
        overwrite: bool = False,
    ) -> int:
        """Write the records, with their headers, as a new collection, which ``load`` and rasteret open.

        The new collection is GeoParquet as published by a build, a file for each partition, but it has no stages: its
        headers are not fetched again, and a file that goes missing later is not noticed. Records stay in the order of
        this collection. Parts of addresses that may grant access are removed, as in a build; addresses of a published
        collection stay as they are.

        One row group of this collection is in memory at a time, and up to 96 MB of rows that wait for their row group;
        up to 64 files are written side by side.

        Args:
            path: folder on a disk, or a file that ends with ``.parquet`` if all records go into one file. It appears
                when everything is written.
            partition_by: size of the partitions: ``"year"``, ``"month"``, ``"day"``, or as in rasteret
                ``("year", "month")``; None for one file.
            name: of the new collection; by default that of this collection, else that of the path.
            overwrite: whether to replace a collection at ``path``.

        Returns:
            Number of records.

        Raises:
            SpecError: if an argument is not understood, ``path`` exists, or a collection is built there.
            CollectionError: if no record meets the filters, ``path`` cannot be written, or a file of this collection
                cannot be read or was replaced meanwhile.
        """
        return export_records(self, path, partition_by, name=name, overwrite=overwrite)

    def to_icechunk(
        self,
        store: str | Path | Storage | Repository,
        bands: str | Sequence[str] | None = None,
        *,
        area: AreasLike | None = None,
        geometry_crs: CRSLike = AUTO,
        groups: str = "grid",
    ) -> IcechunkReport:
        """Write the records as a virtual Zarr store in Icechunk, whose chunks are the tiles of the rasters themselves.

        No raster is opened, and no pixel copied: references come from the tile tables of the index. Records share a
        group if their rasters lie on one grid and are stored in one way. A group holds the subgroup ``full`` and one
        for each overview (``overview_1`` ...), and each of these an array (time, y, x) for every band, named by it,
        with ``id``, ``time`` and the CRS; or, for files that hold several samples of a pixel side by side, one array
        ``image`` (time, band, y, x). Records are sorted by datetime and id, undated ones last; several of one datetime
        all stay.

        A later call on the same repository appends the records that it does not have, behind the others, and writes
        records anew whose files were replaced since. A call is one commit, so that readers see all of it or nothing.
        Icechunk refuses to read files that were replaced: by their ETag on S3, elsewhere by the time at which they were
        modified.

        Addresses are written as the collection publishes them, without anything that grants access; readers name what
        they may read, and bring credentials, with ``authorize_virtual_chunk_access``. Icechunk holds
        references in memory, some 600 bytes each: at most 500,000 beside those of one batch of headers, then they are
        written to a branch of their own until the commit.

        Args:
            store: a folder, ``s3://bucket/prefix`` or ``gs://bucket/prefix``, or a ``Storage`` or ``Repository`` of
                Icechunk's; the repository is created if it does not exist. Its containers are kept, so that you can
                set those of buckets with a certain region or endpoint before.
            bands: a band or several; all by default. Records without the header of one of them are left out.
            area: areas, one of which the footprint of a record must meet, as for :meth:`subset`; None for all records.
            geometry_crs: CRS of ``area``.
            groups: ``"grid"``, or a column of text, such as ``"grid:code"``, which also separates records, and
                whose text begins the names of groups instead of the code of the CRS.

        Returns:
            Names of the groups, counts, and the prefixes that readers have to authorize.

        Raises:
            MissingExtraError: if Icechunk 2 is not installed, which needs Python 3.12.
            SpecError: if ``store`` cannot hold a repository, or a band cannot be the name of an array.
            BandNotFoundError: if the collection lacks a band.
            WindowError: if no record has the headers of all bands, or a record has no CRS.
            TileError: if tiles have no codec in Zarr (JPEG, WebP, LERC), or a mask says which pixels hold data.
            CollectionError: if Icechunk cannot read an address, the repository was changed meanwhile, a header
                contradicts itself, or a file of the collection cannot be read.
        """
        found = self if area is None else self.subset(geometries=area, geometry_crs=geometry_crs)
        return write_icechunk(found, store, bands, groups=groups)

    @takes({"is_image": True, "time_series": False, "transforms": None, **AREA_DEFAULTS})
    def to_torchgeo_dataset(
        self,
        bands: str | Sequence[str],
        *,
        is_image: bool = True,
        time_series: bool = False,
        transforms: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        **arguments: Unpack[ReadArguments],
    ) -> GeoDataset:
        """Return the records as a TorchGeo ``GeoDataset``, for its samplers and ``DataLoader`` workers.

        Args:
            bands: a band or several, the channels of a sample.
            is_image: whether samples hold a float32 ``image``; else an int64 ``mask``.
            time_series: whether records stay apart, as a first dimension of time; else the first with data wins.
            transforms: called with each sample.
            **arguments: options of reads, see :class:`ReadArguments`. ``target_crs`` is needed if records lie in
                several CRSs; ``resolution`` is by default that of the finest record; ``allow_resample`` brings bands on
                different grids to that of the dataset, as ``resolution`` does.

        Raises:
            WindowError: if no record has its headers, or records lie in several CRSs and ``target_crs`` is not given.
            MissingExtraError: if TorchGeo is not installed.
        """
        optional("torchgeo.datasets", extra="torchgeo", purpose="to_torchgeo_dataset")
        from rasteret_assets.collection.formats.torchgeo import CollectionDataset  # noqa: PLC0415  (imports torch)

        given = area_arguments(arguments)
        options = read_options(given)
        records = list_records(self.subset(**filters_of(given)), checked_bands(self, bands), options)
        return CollectionDataset(
            records, Source.of(self, given), options, is_image=is_image, time_series=time_series, transforms=transforms
        )

    @takes({"chip_size": 256, "stride": None, "transforms": None, "dtype": "float32", **POINT_DEFAULTS})
    def to_torch_dataset(
        self,
        bands: str | Sequence[str],
        *,
        chip_size: int | tuple[int, int] = 256,
        stride: int | tuple[int, int] | None = None,
        dtype: str = "float32",
        transforms: Callable[[dict[str, Any]], Any] | None = None,
        **arguments: Unpack[PointArguments],
    ) -> Dataset[Any]:
        """Return the rasters, cut into chips, as a ``torch.utils.data.Dataset``, without TorchGeo.

        Chips lie on the rasters' own pixels, row by row from the first pixel, records by datetime and id. At the right
        and at the bottom chips reach beyond the raster, so that all have the same shape. Headers are read when a chip
        needs them, so that the dataset is small; workers may be forked or spawned.

        Args:
            bands: a band or several, the channels of a chip, on one grid.
            chip_size: pixels of a chip along each side, or (rows, columns).
            stride: pixels from one chip to the next, or (rows, columns); by default the chip's size.
            dtype: numpy's name of the type of ``image``, which PyTorch must have.
            transforms: called with each sample.
            **arguments: options of reads, see :class:`PointArguments`.

        Returns:
            Dataset of dicts: ``image``, a tensor ``[C, H, W]`` in which pixels without data are the band's nodata, or
            0 if it has none; ``id``, of the record; ``bounds``, float64 ``[4]``, (xmin, ymin, xmax, ymax) of the chip
            in units of ``crs``; ``crs``, such as ``"EPSG:32632"``. PyTorch's default collate function puts them into
            batches.

        Raises:
            WindowError: if no record has its headers, or bands of a record lie on different grids.
            SpecError: if a size is not a positive whole number, or an argument is not understood.
            MissingExtraError: if PyTorch is not installed.
        """
        optional("torch", extra="torchgeo", purpose="to_torch_dataset")
        from rasteret_assets.collection.formats.chips import cut_into_chips  # noqa: PLC0415  (imports torch)

        given = point_arguments(arguments)
        return cut_into_chips(
            self.subset(**filters_of(given)), bands, chip_size=chip_size, stride=stride, dtype=dtype,
            source=Source.of(self, given), options=read_options(given), transforms=transforms,
        )  # fmt: skip
