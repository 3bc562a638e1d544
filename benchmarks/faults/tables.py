"""The campaign's record as a table, with the moments of the kills and the inputs of the fuzz below it."""

from typing import Any

from benchmarks.common import table
from benchmarks.faults.kills import MOMENTS

USE = "{rss_mb:.0f} MB, {threads:.0f} threads, {files:.0f} open files, {children:.0f} children"


def tables(r: dict[str, Any]) -> str:
    """Markdown."""
    kills, disks, fuzz = r["kills"], r["disks"], r["fuzz"]
    rows = [
        (
            "`kill -9` at a random moment, then `resume=latest`",
            kills["kills"],
            f"{kills['finished with the same bits']} of {kills['finished']} finished runs have the bits of an "
            f"undisturbed one; {kills.get('nothing to resume', 0)} times there was nothing to resume, and the message "
            f"said so; {kills['damaged files']} of {kills['whole files']:,} files damaged; "
            f"{kills['unfinished files']} unfinished ones ({kills['unfinished bytes'] / 1e6:.0f} MB) removed",
        ),
        (
            f"a disk of {min(disks['megabytes'])} to {max(disks['megabytes'])} MB runs full",
            disks["runs"],
            f"{disks['said so in one message']} runs ended with one message, {disks['had room']} had room; "
            f"{disks['damaged files']} files damaged; with more room, {disks['went on to the same bits']} resumed to "
            f"the same bits, {disks['nothing to resume']} had nothing to resume, and the message said so",
        ),
        *(
            (
                name,
                unit["number"],
                f"{unit['finished']} finished; at most {USE.format(**unit['second quarter'])} in the second quarter of "
                f"the time, {USE.format(**unit['last quarter'])} in the last",
            )
            for name, unit in (
                ("epochs in one run", r["epochs"]),
                ("runs in one sweep, one process and one directory", r["sweep"]),
            )
        ),
        (
            f"end of a run with three loader workers: {', '.join(r['workers'])}",
            len(r["workers"]),
            f"{sum(map(len, r['workers'].values()))} processes left",
        ),
        ("tests of data: damaged archives, folders, caches, pictures, downloads", *_passed(r["data"])),
        ("tests of checkpoints, configs and pages: damaged, hostile, with hostile names", *_passed(r["hostile"])),
        ("fuzz", f"{sum(fuzz['inputs'].values()):,}", f"{len(fuzz['failed'])} crashes"),
    ]
    workers = f", {n} of them with two loader workers" if (n := kills.get("kills with loader workers")) else ""
    moments = ", ".join(f"{moment} {kills.get(moment, 0)}" for moment in MOMENTS)
    inputs = "\n".join(f"* {name.removeprefix('test_').replace('_', ' ')}: {n:,}" for name, n in fuzz["inputs"].items())
    return (
        f"{table(('what was done', 'times', 'what survived'), rows)}\n\n"
        "The same bits are those of the weights, the metrics and rates of every epoch, and the test, under onecycle, "
        f"multistep and plateau.\n\nThe kills by moment{workers}: {moments}.\n\n"
        f"The inputs of the fuzz, by what has to hold:\n\n{inputs}\n\nIn {r['minutes']:.0f} minutes."
    )


def _passed(r: dict[str, Any]) -> tuple[int, str]:
    return r["passed"] + len(r["failed"]), f"{r['passed']} passed"
