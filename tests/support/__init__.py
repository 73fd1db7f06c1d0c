"""What tests share: a counting range server, and small rasters and record tables."""
