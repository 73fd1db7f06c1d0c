"""Declarations of collections: YAML files read with the line of every mistake, and proposed for a record table.

Nothing here knows Dagster, so that the command line answers without importing it.
"""

from rasteret_assets.declare.files import COLLECTIONS_VARIABLE, collections_folder, read_spec, read_specs
from rasteret_assets.declare.proposal import Proposal, propose

__all__ = ["COLLECTIONS_VARIABLE", "Proposal", "collections_folder", "propose", "read_spec", "read_specs"]
