"""Addresses of files: their forms, GDAL's spelling of them, and hosts that are not asked."""
