"""Object stores (``s3://``, ``gs://``, ``az://``) through obstore: reads, files for pyarrow, listings."""
