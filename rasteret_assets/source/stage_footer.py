"""Write and read the profile and version of a stage's rows in the footer of the stage file.

Every stage file has them, from the raw records to the ledger, so that a stage notices when another run or a new profile
of the source came between it and the stage before.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pyarrow as pa

from rasteret_assets.errors import CollectionError
from rasteret_assets.schema import RAW, RECIPE_KEY
from rasteret_assets.source.profile import SourceProfile


def with_stage_footer(schema: pa.Schema, profile: SourceProfile, version: str) -> pa.Schema:
    """Return a schema whose metadata also hold a profile and a version."""
    # Without partitions and parts, because the files of all partitions would repeat them.
    document = {**replace(profile, partitions={}, parts={}).to_json(), "version": version}
    return schema.with_metadata({**(schema.metadata or {}), RECIPE_KEY: json.dumps(document, sort_keys=True).encode()})


def read_stage_footer(schema: pa.Schema, path: str) -> tuple[SourceProfile, str]:
    """Return the profile and the version in the footer of a stage file.

    Raises:
        CollectionError: if an earlier version of this package wrote the file.
    """
    document = (schema.metadata or {}).get(RECIPE_KEY)
    if document is None:
        raise CollectionError(f"{path} was written by an earlier version: build {RAW} and what follows it again")
    recipe = json.loads(document)
    return SourceProfile.from_json(recipe), str(recipe["version"])
