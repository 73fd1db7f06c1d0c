"""Harvest STAC items of an API or a static catalog, window by window, into Parquet files that a build reads."""
