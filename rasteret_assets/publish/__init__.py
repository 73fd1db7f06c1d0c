"""Join records with their headers, and write them as GeoParquet."""
