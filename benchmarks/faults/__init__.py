"""What a run survives: kills, full disks, long runs, hostile and damaged input; the tests run the same functions."""

from benchmarks.faults.disks import full_disk
from benchmarks.faults.files import damaged, same
from benchmarks.faults.kills import MOMENTS, Moments, kills
from benchmarks.faults.processes import SCHEDULES, SHORT, begin, leftovers, session, undisturbed
from benchmarks.faults.tables import tables

__all__ = [
    "MOMENTS",
    "SCHEDULES",
    "SHORT",
    "Moments",
    "begin",
    "damaged",
    "full_disk",
    "kills",
    "leftovers",
    "same",
    "session",
    "tables",
    "undisturbed",
]
