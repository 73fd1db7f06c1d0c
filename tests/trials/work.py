"""What a child of a trial does, by name: each takes values of JSON and returns a document."""

from __future__ import annotations

import time
from typing import Any

from rasteret_assets import CollectionSpec, load
from rasteret_assets import build as build_collection
from rasteret_assets.errors import CollectionError, RasteretAssetsError
from tests.trials.child import attempt, digests
from tests.trials.generations import COLUMNS, problems
from tests.trials.numbered import NumberedFiles

#: What a reader on an object store is told where an object was replaced while it was read, which the README promises.
PUBLISHED_ANEW = "load the collection again"


def build(spec: dict[str, Any], force: bool = False, log: str | None = None) -> dict[str, Any]:
    """Build once; with a ``log``, from numbered files in memory, which note there what they are asked for."""
    backend = NumberedFiles(log) if log else None
    return {"totals": build_collection(CollectionSpec.of(**spec), force=force, backend=backend).totals}


def look(published: str) -> dict[str, Any]:
    """Return digests of all that is published, every byte held against its states."""
    return {"months": digests(load(published, verify="full").to_table().to_pylist())}


def look_build_look(spec: dict[str, Any]) -> dict[str, Any]:
    """Look, build, look; where one of them refuses, build by force and look once more."""
    path = CollectionSpec.of(**spec).published_path or ""
    steps = {
        "load": attempt(look, published=path),
        "build": attempt(build, spec=spec),
        "then": attempt(look, published=path),
    }
    if "error" in steps["build"] or "error" in steps["then"]:
        steps["force"] = attempt(build, spec=spec, force=True)
        steps["at last"] = attempt(look, published=path)
    return steps


def build_again_and_again(spec: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Build until time is up; return how often, and every error."""
    until, builds, errors = time.monotonic() + seconds, 0, []
    while time.monotonic() < until:
        answer = attempt(build, spec=spec)
        builds += 1
        if "error" in answer:
            errors.append(f"{answer['error']}: {answer['text']}")
    return {"builds": builds, "errors": errors}


def read_again_and_again(published: str, seconds: float, told: bool) -> dict[str, Any]:
    """Read until time is up, each opened collection twice; return how often, and whatever was wrong.

    Args:
        published: folder or URI.
        seconds: for how long.
        told: whether a reader may be told that what it reads was published anew.
    """
    until, reads, again, wrong = time.monotonic() + seconds, 0, 0, []
    while time.monotonic() < until:
        try:
            collection = load(published)
            for _ in range(2):
                wrong += problems(collection.to_table(COLUMNS).to_pylist())
                reads += 1
        except CollectionError as error:
            if told and PUBLISHED_ANEW in str(error):
                again += 1
            else:
                wrong.append(repr(error))
        except (RasteretAssetsError, OSError, ValueError) as error:
            wrong.append(repr(error))
    return {"reads": reads, "told to load again": again, "wrong": wrong[:20]}
