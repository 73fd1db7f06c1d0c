"""The headers of files: which to fetch, how they are fetched and stored, and the ledger that names them.

``targets`` (records to addresses), ``places`` (which of these may be asked), ``index`` (headers that are stored
already), ``fetch`` (many files at once, with ``workers`` of other processes), ``outcomes`` (what became of each),
``rows`` (Arrow rows of them), ``store`` (their files), ``unused`` and ``compact`` (rows that are not needed any more),
``retried`` (failures that later builds try again), ``band_metadata`` (the stage), ``ledger`` and ``failures`` (its
table, read).
"""
