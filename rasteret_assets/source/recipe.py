"""The recipe of a stage's rows: the profile and version they were scanned under.

It travels in the footer of every stage file, from the raw records to the ledger, so that no new look at the source and
no other run can come between two stages unnoticed.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pyarrow as pa

from rasteret_assets.errors import CollectionError
from rasteret_assets.schema import RAW, RECIPE_KEY
from rasteret_assets.source.profile import SourceProfile


def with_recipe(schema: pa.Schema, profile: SourceProfile, version: str) -> pa.Schema:
    """A schema whose footer metadata hold the recipe beside what was there."""
    # Without what it says of each partition and part, which all the other partitions' files would repeat.
    recipe = {**replace(profile, partitions={}, parts={}).to_json(), "version": version}
    return schema.with_metadata({**(schema.metadata or {}), RECIPE_KEY: json.dumps(recipe, sort_keys=True).encode()})


def recipe_of(schema: pa.Schema, path: str) -> tuple[SourceProfile, str]:
    """The profile and version in the footer of a stage file.

    Raises:
        CollectionError: if there is none.
    """
    document = (schema.metadata or {}).get(RECIPE_KEY)
    if document is None:
        raise CollectionError(f"{path} was written by an earlier version: build {RAW} and what follows it again")
    recipe = json.loads(document)
    return SourceProfile.from_json(recipe), str(recipe["version"])
