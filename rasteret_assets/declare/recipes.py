"""Read the recipes of the package, declarations of well-known datasets: ``recipes/<provider>/<dataset>.yaml``.

A recipe is a declaration that has no name, no area and no time. The comments at its top (origin of the data,
attribution, terms) are copied into the declaration that is made of the recipe. To add a recipe, add a file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from rasteret_assets.errors import SpecError

_FOLDER: Final = Path(__file__).parent.parent / "recipes"
_RECIPE_ID: Final = re.compile(r"[a-z0-9-]+/[a-z0-9.-]+")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A declaration of a well-known dataset.

    Args:
        id: provider and dataset, such as ``earth-search/sentinel-2-c1-l2a``.
        head: comments at the top of the file, without their marks.
        values: fields of a ``CollectionSpec``, as the file has them.
    """

    id: str
    head: tuple[str, ...]
    values: Mapping[str, Any]

    @property
    def title(self) -> str:
        """Return one sentence about the data."""
        return str(self.values.get("description", ""))

    @property
    def needs(self) -> str:
        """Return in a few words what a reader must have; empty if the files are open to everybody."""
        if isinstance(given := self.values.get("credentials"), str):
            return f"credentials: {given}"
        paid = (self.values.get("cloud_config") or {}).get("requester_pays")
        return "AWS credentials, requester pays" if paid else ""

    def declaration(
        self,
        *,
        name: str = "",
        workspace_dir: str | None = None,
        bbox: Sequence[float] | None = None,
        datetime: str | None = None,
    ) -> dict[str, Any]:
        """Return the fields of a declaration for a part of the dataset.

        Args:
            name: of the collection; by default the name of the dataset.
            workspace_dir: folder or URI to publish the collection in.
            bbox: west, south, east, north in degrees; all of the Earth when omitted.
            datetime: a date or an interval, as STAC writes them; all times when omitted.

        Raises:
            SpecError: if an area or a time is given, and the dataset is read from a table and not harvested.
        """
        made = dict(self.values)
        if part := {key: value for key, value in (("bbox", bbox), ("datetime", datetime)) if value}:
            if "harvest" not in made:
                raise SpecError(
                    f"{self.id} is read from a table and not harvested, so {' and '.join(part)} cannot be given: "
                    "choose rows of the table with filter_expr in the declaration"
                )
            area = {"bbox": list(bbox)} if bbox else {}
            made["harvest"] = {**made["harvest"], **area, **({"datetime": datetime} if datetime else {})}
        first: dict[str, Any] = {"name": name or re.sub(r"[^a-z0-9]+", "_", self.id.partition("/")[2])}
        if workspace_dir is not None:
            first["workspace_dir"] = workspace_dir
        return {**first, **made}

    def to_yaml(self, values: Mapping[str, Any]) -> str:
        """Return a declaration as the text of a file, with the recipe's comments at its top."""
        comments = [f"# Made of the recipe {self.id}.", *(f"# {line}" for line in self.head)]
        text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)
        return "\n".join([*comments, text])


def recipes() -> list[Recipe]:
    """Return all recipes, by provider and dataset."""
    return [_read(file) for file in sorted(_FOLDER.glob("*/*.yaml"))]


def find_recipe(name: str) -> Recipe | None:
    """Return a recipe by its id; None for a name that is not like an id, such as a path.

    Raises:
        SpecError: if the name resembles the id of a recipe, or begins with a provider of recipes, but no recipe and no
            file has this name.
    """
    if not _RECIPE_ID.fullmatch(name):
        return None
    file = _FOLDER / f"{name}.yaml"
    if file.is_file():
        return _read(file)
    names = [f"{found.parent.name}/{found.stem}" for found in sorted(_FOLDER.glob("*/*.yaml"))]
    provider = name.partition("/")[0] in {found.partition("/")[0] for found in names}
    near = difflib.get_close_matches(name, names, n=1, cutoff=0 if provider else 0.7)
    if not near or Path(name).exists():
        return None
    raise SpecError(f"there is no recipe {name}: did you mean {near[0]}? rasteret-assets init --list names all")


def _read(file: Path) -> Recipe:
    text = file.read_text(encoding="utf-8")
    head: list[str] = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        head.append(line.removeprefix("#").strip())
    return Recipe(id=f"{file.parent.name}/{file.stem}", head=tuple(head), values=yaml.safe_load(text))
