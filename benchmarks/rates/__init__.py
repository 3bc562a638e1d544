"""How good the range test's rate is: compared with the best of a grid of real runs."""

from benchmarks.rates.showing import tables

__all__ = ["tables"]
