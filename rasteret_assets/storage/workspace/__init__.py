"""The workspace of a collection: its files and tables, its locks, and how a partition is published.

From the ground up: ``disk`` (folders and files of a local disk) and ``conditional`` (compare-and-swap on an object
store), ``documents`` (JSON), ``placed_files`` (a file is written beside and put in place in one step), ``files``
(Parquet tables and documents), ``streams`` (tables as Arrow streams), ``holds`` and the locks over them, ``workspace``
(where each file of a collection lies), ``commit`` (the protocol of publishing) and ``state_cache``.
"""

from rasteret_assets.storage.workspace.workspace import PART_NAME, STAGES_SUFFIX, STATE_STAGE, Workspace

__all__ = ["PART_NAME", "STAGES_SUFFIX", "STATE_STAGE", "Workspace"]
