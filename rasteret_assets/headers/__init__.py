"""Headers of files: what to ask for, what is stored, fetching, one row per record and band."""
