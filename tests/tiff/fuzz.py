"""Damage real and made files at random: each must give a header or a TiffError, in bounded rounds, bytes and memory.

``python -m tests.tiff.fuzz --minutes 60 --seed 1`` runs for as long as asked, prints counts, and keeps what it found in
``fuzz-<seed>-<case>.tif`` in the temporary folder. The suite runs a few seconds of it.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rasteret_assets.errors import TiffError
from rasteret_assets.headers._structs import header_structs
from rasteret_assets.tiff import TiffHeader
from tests.support.rasters import tiff_bytes
from tests.tiff.damage import damage
from tests.tiff.support import as_values, craft, geo_keys, serve

CORPUS = Path(__file__).parents[3] / "shared" / "corpus" / "cogs"
_LARGEST_SEED = 400_000
_MOST_ROUNDS = 8
_LONGEST_MESSAGE = 1000
#: Memory a parse may take: what its caches keep, and Python's 36 bytes for each number of the few tags read as such.
_MEMORY_PER_BYTE = 64
_MEMORY = 1024 * 1024
#: What may be asked of a file whose size nobody knows: two tile tables, and values beside them.
_MOST_ASKED = 160 * 1024 * 1024


def seeds() -> list[bytes]:
    """Return valid files of every layout: those of the corpus, if it is present, and made ones."""
    made = [craft(order=order, big=big, offset=at) for order in "<>" for big in (False, True) for at in (None, 2048)]
    custom = geo_keys((1024, 0, 1, 1), (3072, 0, 1, 32767), (3075, 0, 1, 1), (3080, 34736, 1, 0), (3088, 34736, 1, 1))
    made += [craft({34735: custom, 34736: (12, [9.0, 0.9996]), 34737: (2, b"name|\0")}, order=order) for order in "<>"]
    # A projection that GeoTIFF spells out, and one that only a citation does.
    made += [tiff_bytes(crs=crs) for crs in ("+proj=omerc +lat_0=4 +lonc=9 +alpha=53 +gamma=50", "+proj=moll")]
    made += [
        tiff_bytes(bands=3, interleave="band"), tiff_bytes(bands=4, dtype="uint8", bigtiff="yes"),
        tiff_bytes(dtype="float32", nodata=-9999.0, endianness="big"), tiff_bytes(width=1000, height=900, epsg=3035),
        tiff_bytes(tiled=False), tiff_bytes(bands=3, dtype="uint8", compress="jpeg", photometric="ycbcr"),
    ]  # fmt: skip
    files = sorted(CORPUS.glob("*.tif")) if CORPUS.is_dir() else []
    return made + [path.read_bytes() for path in files if path.stat().st_size <= _LARGEST_SEED]


def read_in_rounds(file: bytes, first: int, *, knows_size: bool) -> TiffHeader | TiffError:
    """Return what the parser makes of a file that is read range by range, within the rounds and bytes of a header."""
    try:
        return serve(file, first=first, tell_size=knows_size, max_rounds=_MOST_ROUNDS, most_asked=_MOST_ASKED)
    except TiffError as error:
        return error


def check(file: bytes, rng: random.Random) -> str:
    """Read a file in two ways; return the name of the outcome.

    Raises:
        Exception: whatever a parse may not do.
    """
    first = rng.choice([8, 16, 64, 1024, 4096, 16384, max(len(file), 1)])
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    outcome = read_in_rounds(file, first, knows_size=rng.random() < 0.5)
    _, peak = tracemalloc.get_traced_memory()
    assert peak - before <= _MEMORY + _MEMORY_PER_BYTE * len(file), f"{peak - before} bytes of memory"
    whole = read_in_rounds(file, max(len(file), 1), knows_size=True)
    if isinstance(outcome, TiffHeader):
        assert isinstance(whole, TiffHeader), f"a header in pieces, but as a whole {whole!r}"
        assert repr(as_values(outcome)) == repr(as_values(whole)), (
            "another header in pieces than as a whole"
        )  # NaN is NaN
        assert header_structs([outcome], [0]).null_count == 0  # what is a header can be stored
        planes = outcome.samples_per_pixel if outcome.planar_configuration == 2 else 1
        assert len(outcome.tile_offsets) == len(outcome.tile_byte_counts)
        assert len(outcome.tile_offsets) == outcome.tiles_across * outcome.tiles_down * planes
        return "header"
    assert isinstance(whole, TiffError), "an error in pieces, but a header as a whole"
    assert 0 < len(str(outcome)) < _LONGEST_MESSAGE
    return type(outcome).__name__


@dataclass
class Findings:
    """The outcomes of a run."""

    cases: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def fuzz(seed: int, cases: Iterator[int], keep: Path | None = None) -> Findings:
    """Damage and read files, one for each of ``cases``; the same seed and case give the same file.

    Args:
        seed: of the run.
        cases: numbers of the cases.
        keep: folder for files that broke a rule.
    """
    found, files = Findings(), seeds()
    tracemalloc.start()
    try:
        for case in cases:
            rng = random.Random(f"{seed}-{case}")
            file = damage(rng.choice(files), rng)
            found.cases += 1
            try:
                found.outcomes[check(file, rng)] += 1
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what we look for
                found.failures.append(f"case {case} of seed {seed}: {type(error).__name__}: {error}")
                if keep is not None:
                    (keep / f"fuzz-{seed}-{case}.tif").write_bytes(file)
    finally:
        tracemalloc.stop()
    return found


def _until(end: float) -> Iterator[int]:
    for case in itertools.count():
        if time.monotonic() > end:
            return
        if case and case % 100_000 == 0:
            _say(f"{case} cases")
        yield case


def _say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def main() -> None:
    """Run for as long as the command line asks, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    found = fuzz(options.seed, _until(time.monotonic() + 60 * options.minutes), Path(tempfile.gettempdir()))
    _say(f"{found.cases} cases, {len(found.failures)} failures")
    _say(*(f"  {count:8} {name}" for name, count in found.outcomes.most_common()), *found.failures[:50])
    raise SystemExit(bool(found.failures))


if __name__ == "__main__":
    main()
