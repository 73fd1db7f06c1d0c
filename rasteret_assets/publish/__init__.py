"""Records joined with their headers, written as GeoParquet."""
