"""The documentation builds as a site without a warning and needs no other host; its links hold in the repository."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from rasteret_assets import errors
from rasteret_assets.checks import checks_of
from rasteret_assets.cli import main as program
from rasteret_assets.spec import CollectionSpec

ROOT = Path(__file__).parent.parent
PAGES = [
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "benchmarks/*.md")
    for path in sorted(ROOT.glob(pattern))
]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def build_site() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_site", ROOT / "docs" / "build_site.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    done = build_site().run_mkdocs(folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    return folder / "site"


def test_the_site_needs_no_other_host(site: Path) -> None:
    loaded = re.compile(
        r"""<(?:script|img|source|iframe)[^>]+src=["']?(?:https?:)?//[^>]+|<link[^>]+href=["']?(?:https?:)?//[^>]+"""
    )
    for page in site.rglob("*.html"):
        # Which page is the true one is told to search engines, and loads nothing.
        found = [tag for tag in loaded.findall(page.read_text(encoding="utf-8")) if "canonical" not in tag]
        assert not found, page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", style.read_text(encoding="utf-8")), style


def test_the_reference_has_everything_that_the_code_has(site: Path) -> None:
    def page(name: str) -> str:
        return (site / "docs" / "reference" / name / "index.html").read_text(encoding="utf-8")

    named = {
        "errors": [
            name
            for name, found in vars(errors).items()
            if isinstance(found, type) and issubclass(found, errors.RasteretAssetsError)
        ],
        "checks": [
            check.name for check in checks_of("normalized_records", "rejected_records", "band_metadata", "collection")
        ],
        "cli": [f"rasteret-assets {name}" for name in program.lazy_commands],
        "yaml": [name for name, field in CollectionSpec.model_fields.items() if not field.exclude],
        "collection": ["get_numpy", "get_xarray", "sample_points", "to_gti"],
        "python": ["build_from_table", "create_backend", "BuildPlan"],
    }
    for name, words in named.items():
        text = page(name)
        assert not [word for word in words if word not in text], name
        assert "from the code:" not in text
        assert not re.search(r":(?:class|func|mod|attr|data):", text)


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    navigation = yaml.safe_load(text[text.index("\nnav:") :])["nav"]
    listed = {path for section in navigation for pages in section.values() for page in pages for path in page.values()}
    assert listed | {"docs/README.md"} == {str(page.relative_to(ROOT)) for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_of_the_repository(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    gone = [
        link
        for link in LINK.findall(text)
        if "://" not in link and not link.startswith("#") and not (page.parent / link.partition("#")[0]).is_file()
    ]
    assert not gone


def test_every_extra_is_listed() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    section = (ROOT / "docs" / "README.md").read_text(encoding="utf-8").partition("## Extras")[2].partition("\n## ")[0]
    rows = " ".join(row.split("|")[1] for row in section.splitlines() if row.startswith("|"))
    # Benchmarks are for those who read them, and say themselves what they need.
    assert set(re.findall(r"`(\w+)`", rows)) == set(extras) - {"bench"}
