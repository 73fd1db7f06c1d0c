"""The direction of imports, and what importing the package costs."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import rasteret_assets

PACKAGE = Path(rasteret_assets.__file__).parent

#: A layer may import itself and the layers before it: the order in which data flows.
LAYERS = [
    {
        "error_classes",
        "errors",
        "message_lists",
        "options",
        "partitions",
        "schema",
        "secrets",
        "spec",
        "spec_problems",
        "spec_values",
        "versions",
    }
    | {"credentials", "harvest_options", "inputs"},
    {"sphere", "tiff"},
    {"geometry"},
    {"storage"},
    {"columns"},
    {"harvesting", "source"},
    {"records"},
    {"headers"},
    {"publish"},
    {"pipeline"},
    {"checks", "collection", "declare", "progress"},
    {"api"},
    {"from_stac", "tiles"},
    {"orchestration"},
    {"dagster"},
    {"demo"},
    {"cli"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

#: The rooms of the collection, likewise: the way of an area to its pixels.
ROOMS = [
    {"extras"},
    {"areas"},
    {"table"},
    {"pixels"},
    {"formats"},
    {"show"},
    {"record_query", "request"},
    {"_exports", "_reads"},
    {"collection"},
    {"_verify", "load"},
]
ROOM_RANK = {name: rank for rank, names in enumerate(ROOMS) for name in names}


def imports(tree: ast.Module, path: Path) -> set[str]:
    """Absolute names of everything a module imports, at any depth of its code."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


MODULES = sorted(PACKAGE.rglob("*.py"))

# Parsed while the suite is collected: Python 3.11's parser fails ("recursion depth mismatch", gh-106905) where garbage
# that other tests left is collected in the middle of it.
TREES = {path: ast.parse(path.read_text()) for path in MODULES}
IMPORTS = {path: imports(tree, path) for path, tree in TREES.items()}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_imports_a_later_layer(path: Path) -> None:
    layer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if layer in {"__init__", "__main__"}:
        return
    for name in IMPORTS[path]:
        parts = name.split(".")
        if parts[0] != "rasteret_assets" or len(parts) == 1:
            continue
        assert RANK[parts[1]] <= RANK[layer], f"{layer} imports {parts[1]}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "collection").rglob("*.py")), ids=lambda path: str(path.name))
def test_no_room_of_the_collection_imports_a_later_one(path: Path) -> None:
    room = path.relative_to(PACKAGE / "collection").parts[0].removesuffix(".py")
    if room == "__init__":
        return
    for name in IMPORTS[path]:
        parts = name.split(".")
        if parts[:2] == ["rasteret_assets", "collection"] and len(parts) > 2:
            assert ROOM_RANK[parts[2]] <= ROOM_RANK[room], f"{room} imports {parts[2]}"


def test_only_the_workspace_knows_the_workspace() -> None:
    """The rest of ``storage`` reads and writes bytes, whatever collection they are of."""
    storage = PACKAGE / "storage"
    for path in storage.rglob("*.py"):
        if path.relative_to(storage).parts[0] != "workspace":
            assert not [name for name in IMPORTS[path] if name.startswith("rasteret_assets.storage.workspace")], path


@pytest.mark.parametrize(
    ("foreign", "allowed"),
    [
        ("dagster", {"orchestration", "demo", "cli"}),
        ("dagster_aws", {"orchestration"}),
        ("obstore", {"storage"}),
        ("aiohttp", {"storage", "demo"}),
        ("pystac", {"harvesting"}),
        ("pystac_client", {"harvesting"}),
    ],
)
def test_foreign_packages_stay_in_their_place(foreign: str, allowed: set[str]) -> None:
    users = {
        path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for path in MODULES
        if any(name.split(".")[0] == foreign for name in IMPORTS[path])
    }
    assert users <= allowed


def test_one_module_alone_needs_celery() -> None:
    users = {
        str(path.relative_to(PACKAGE))
        for path in MODULES
        if any(name.split(".")[0] in {"celery", "dagster_celery", "dagster_k8s"} for name in IMPORTS[path])
    }
    assert users <= {"orchestration/_celery_launcher.py"}
    # Celery is an extra, so that only the public face, for type checkers, imports that module.
    leading = [path.name for path in MODULES if "rasteret_assets.orchestration._celery_launcher" in IMPORTS[path]]
    assert leading == ["dagster.py"]


@pytest.mark.parametrize("path", sorted((PACKAGE / "tiff").glob("*.py")), ids=lambda path: path.name)
def test_the_parser_neither_awaits_nor_reads(path: Path) -> None:
    assert not [node for node in ast.walk(TREES[path]) if isinstance(node, ast.Await | ast.AsyncFunctionDef)]
    assert not {name.split(".")[0] for name in IMPORTS[path]} & {"pyarrow", "asyncio", "io", "os", "socket"}


def test_every_extra_that_messages_name_exists() -> None:
    named = {
        keyword.value.value
        for path in MODULES
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "optional"
        for keyword in node.keywords
        if keyword.arg == "extra" and isinstance(keyword.value, ast.Constant)
    }
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert named
    assert named <= set(project["optional-dependencies"])


#: Folders in which each module is one case of a kind, however few others import it.
CASES = ("checks/", "cli/", "collection/formats/", "storage/credentials/")


def test_every_module_has_a_name_of_its_own() -> None:
    names = [path.stem.lstrip("_") for path in MODULES if not path.stem.startswith("__")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_a_module_that_one_neighbour_uses_has_an_underscore() -> None:
    names = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in MODULES}
    users: dict[str, set[Path]] = {name: set() for name in names}
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rasteret_assets"):
                module = (node.module or "").removeprefix("rasteret_assets").lstrip(".")
                for name in (module, *(f"{module}.{alias.name}".lstrip(".") for alias in node.names)):
                    if name in users:
                        users[name].add(path)
    # A folder's `__init__` is its face, and a user in another folder sees a module that is offered to others.
    alone = {
        name
        for name, path in names.items()
        if len(users[name]) == 1 and not path.stem.startswith("_")
        if not path.relative_to(PACKAGE).as_posix().startswith(CASES)
        if all(user.parent == path.parent and user.stem != "__init__" for user in users[name])
    }
    assert sorted(alone) == []


def test_importing_the_package_leaves_dagster_alone() -> None:
    code = "import sys, rasteret_assets as ra; {}; print(*{{'aiohttp', 'dagster', 'pyarrow'}} & set(sys.modules))"
    for used, imported in (("ra", ""), ("ra.build, ra.load, ra.CollectionSpec", "pyarrow")):
        done = subprocess.run([sys.executable, "-c", code.format(used)], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == imported


def test_everything_exported_exists() -> None:
    assert sorted(rasteret_assets.__all__) == rasteret_assets.__all__
    for name in rasteret_assets.__all__:
        assert getattr(rasteret_assets, name).__doc__, name
