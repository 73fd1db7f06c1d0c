"""The record table: filters as expressions, scans of published files, counts and extents of their records."""
