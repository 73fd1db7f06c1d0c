"""Records as a virtual Zarr store in Icechunk."""
