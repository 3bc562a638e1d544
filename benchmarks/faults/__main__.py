"""What a run survives: kills, full disks, long runs, hostile and damaged input.

`python -m benchmarks.faults [--kills N] [--disks N] [--epochs N] [--jobs N] [--seed N] [--out FILE]`

Real processes on the digits, two at a time, each with one thread; about 20 minutes on two cores. The tests run the
same functions a few times. Disks are tmpfs in a mount namespace of their own (Linux, `unshare -rm`).
"""

import random
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.common import ROOT, head, save
from benchmarks.faults.disks import full_disk
from benchmarks.faults.kills import MOMENTS, kills
from benchmarks.faults.processes import ENDS, SCHEDULES, SHORT, leftovers, long, undisturbed
from benchmarks.faults.tables import tables


def suite(*arguments: str) -> dict[str, Any]:
    """Run tests: how many passed, which failed, and how many inputs they report that they tried, by test."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "junit.xml")
        command = [sys.executable, "-m", "pytest", "-n", "0", "-m", "", f"--junitxml={file}", *arguments]
        subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False)
        cases = [*ET.parse(file).iter("testcase")]
        failed = [str(c.get("name")) for c in cases if c.find("failure") is not None or c.find("error") is not None]
        inputs = Counter[str]()
        for case in cases:
            for value in case.iter("property"):
                if value.get("name") == "inputs":
                    inputs[str(case.get("name")).partition("[")[0]] += int(str(value.get("value")))
        return {"passed": len(cases) - len(failed), "failed": failed, "inputs": dict(inputs)}


def main() -> None:
    """Run the campaign and print its table."""
    parser = common.parser(__doc__)
    parser.add_argument("--kills", type=int, default=51)
    parser.add_argument("--disks", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    start, rng = time.monotonic(), random.Random(args.seed)
    few = [f"callbacks.{name}=null" for name in ("best", "last", "misclassified", "dashboard", "explore")]
    plateau = (*SHORT, *SCHEDULES["plateau"])
    with ThreadPoolExecutor(2) as pool, tempfile.TemporaryDirectory() as folder:
        # onecycle has a range test
        moments = {name: [m for m in MOMENTS if m != "range test" or name == "onecycle"] for name in SCHEDULES}
        killed = [
            pool.submit(kills, name, rng.sample(all_ * args.kills, args.kills // len(SCHEDULES)), args.seed + n)
            for n, (name, all_) in enumerate(moments.items())
        ]
        fuzz = pool.submit(suite, "tests/test_fuzz.py", "--hypothesis-profile=campaign", "--hypothesis-seed=0")
        data = pool.submit(suite, "tests/test_sources.py", "tests/test_download.py", "tests/test_predict.py")
        hostile = pool.submit(suite, "tests/test_saved.py", "tests/test_checkpoints.py", "tests/test_page.py")
        epochs = pool.submit(long, *SHORT, "logger=default", f"trainer.max_epochs={args.epochs}")
        sweep = pool.submit(long, "-m", *SHORT, *few, "trainer.max_epochs=1", f"seed=range({args.jobs})")
        intact = pool.submit(undisturbed, Path(folder), *plateau)
        sizes = [1, *(rng.randrange(2, 400) for _ in range(args.disks - 1))]
        disks = [pool.submit(lambda size: full_disk(size, intact.result(), *plateau), size) for size in sizes]
        ends = {how: pool.submit(leftovers, how) for how in ENDS}
        record = {
            "benchmark": "faults",
            **head("benchmarks.faults"),
            "kills": _total(killed),
            "disks": {"megabytes": sizes, **_total(disks)},
            "epochs": {"number": args.epochs, **epochs.result()},
            "sweep": {"number": args.jobs, **sweep.result()},
            "workers": {how: left.result() for how, left in ends.items()},
            "data": data.result(),
            "hostile": hostile.result(),
            "fuzz": fuzz.result(),
            "minutes": (time.monotonic() - start) / 60,
        }
    print(tables(record))
    save(args.out, record)


def _total(parts: Iterable[Future[Counter[str]]]) -> dict[str, int]:
    total = Counter[str]()  # the + of counters would drop the zeros
    for part in parts:
        total.update(part.result())
    return dict(total)


if __name__ == "__main__":
    main()
