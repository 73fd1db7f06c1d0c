"""Records as a GDAL tile index."""
