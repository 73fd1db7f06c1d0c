"""What type checkers refuse: each line has an ``ignore`` that both of them need."""

import rasteret_assets as ra


def mistakes(collection: ra.Collection, spec: ra.CollectionSpec) -> None:
    """Misspell options and choices."""
    collection.get_numpy((0, 0, 1, 1), "B04", on_eror="mask")  # type: ignore[call-arg]
    collection.get_numpy((0, 0, 1, 1), "B04", on_error="hide")  # type: ignore[arg-type]
    collection.get_xarray((0, 0, 1, 1), "B04", mosaic="best")  # type: ignore[arg-type]
    ra.build(spec, partitions="2024-05", forced=True)  # type: ignore[call-arg]
    ra.CollectionSpec.of(path="scenes.parquet", enrich_cogs=True)  # type: ignore[call-arg]
    ra.CollectionSpec.of(path="scenes.parquet", partition_by="week")  # type: ignore[arg-type]
    ra.CollectionSpec.of(path="scenes.parquet", band_codes=5)  # type: ignore[arg-type]
    ra.CollectionSpec.of(name="s2", harvest={"stac_url": "https://stac.example"})  # type: ignore[arg-type]
    ra.CollectionSpec.of(path="scenes.parquet", graph={"owners": 5})  # type: ignore[arg-type]
    ra.CloudConfig("aws", regions="us-east-1")  # type: ignore[call-arg]
    ra.create_backend("earthdata")  # type: ignore[arg-type]
    ra.biuld(spec)  # type: ignore[attr-defined]
