"""pyarrow alone: read published files and write them again, row group by row group, as the least a rewrite may cost."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pyarrow.parquet as pq


def main() -> None:
    """Copy the files of a folder into one file each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--published", type=Path)
    parser.add_argument("--to", type=Path)
    job = parser.parse_args()
    files = sorted(job.published.rglob("*.parquet"))
    say({"ready": True})
    rows = 0
    for number, path in enumerate(files):
        with pq.ParquetFile(path) as file, pq.ParquetWriter(
            job.to / f"{number}.parquet", file.schema_arrow, compression="zstd", use_dictionary=False
        ) as writer:  # fmt: skip
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                writer.write_table(table)
                rows += table.num_rows
    say({"headers_fetched": 0})
    say({"published": rows})


def say(values: dict[str, object]) -> None:
    """Print a line of JSON, and wait until somebody answers it."""
    print(json.dumps(values), flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main()
