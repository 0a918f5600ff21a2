"""What of a search's time is the tool's own: wall time minus training, scoring, measuring and kernel compilation.

    python scripts/benchmark_overhead.py                    the default search, once
    python scripts/benchmark_overhead.py --runs 3 budget=smoke

Each run is a process of its own in an empty folder, so that imports and the preparation of reports count.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SEARCH = Path(__file__).resolve().parent.parent / "search.py"
OWN_TIME = re.compile(r"(\d+) s, of which the tool's own ([\d.]+) s")
LIMIT = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="overrides of search.py, such as budget=smoke")
    parser.add_argument("--runs", type=int, default=1, help="number of runs (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/overhead.json"))
    arguments = parser.parse_intermixed_args()
    runs = [one_run(arguments.overrides) for _ in range(arguments.runs)]
    shares = [own / wall for wall, own in runs]
    for wall, own in runs:
        print(f"{wall:.0f} s, of which the tool's own {own:.1f} s: {own / wall:.1%}")
    print(f"median {statistics.median(shares):.1%} of n = {len(shares)}; the aim is under {LIMIT:.0%}")
    from nas.measure import describe_device

    record = {"environment": describe_device(), "overrides": arguments.overrides, "runs": runs, "shares": shares}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


def one_run(overrides: list[str]) -> tuple[float, float]:
    """Wall seconds and the tool's own seconds of one search, as its summary states them."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(SEARCH), f"outputs={folder}", *overrides]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = OWN_TIME.search(done.stdout)
    if done.returncode != 0 or found is None:
        sys.exit(f"The search failed with exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    return float(found[1]), float(found[2])


if __name__ == "__main__":
    main()
