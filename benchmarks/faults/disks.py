"""A disk that runs full: a tmpfs in a mount namespace of its own (Linux, `unshare -rm`)."""

import sys
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.faults.files import damaged, same
from benchmarks.faults.processes import begin, end
from cifar_pl.runs import rundir

# A run on a disk of $1 MB, a copy of what it left, then with more room, resumed.
FULL = """
mkdir disk && mount -t tmpfs -o size=$1m none disk && cd disk || exit 99
shift; "$@" > ../stdout 2> ../stderr; code=$?; cp -a . ../left
mount -o remount,size=2g . && "$1" "$2" resume=latest > ../stdout 2> ../again; echo $? > ../resumed
cp -a . ../end; exit $code
"""


def full_disk(megabytes: int, intact: Path, *arguments: str) -> Counter[str]:
    """Train on a disk of so many MB; make room and resume; compare with the run `intact`, which had room."""
    with tempfile.TemporaryDirectory() as folder:
        script = ("unshare", "-rm", "bash", "-c", FULL, "bash", str(megabytes))
        code = end(begin(Path(folder), *arguments, prefix=script))
        assert code != 99, "no tmpfs could be mounted"
        stderr, again = (Path(folder, name).read_text() for name in ("stderr", "again"))
        clear = code == 1 and stderr.count("error: ") == 1 and "No space left on device" in stderr
        clear = clear and "Traceback" not in stderr
        left, ended = ([path.parent for path in Path(folder, name).rglob(rundir.STATUS)] for name in ("left", "end"))
        resumed = Path(folder, "resumed").read_text().strip() == "0" and bool(ended) and same(ended[0], intact)
        if code and not clear:
            print(stderr, file=sys.stderr)
        return Counter(
            {
                "runs": 1,
                "had room": code == 0,
                "said so in one message": clear,
                "damaged files": sum(len(damaged(run)) for run in left),
                "went on to the same bits": bool(code) and resumed,
                "nothing to resume": bool(code) and "there is no run below" in again,
            }
        )
