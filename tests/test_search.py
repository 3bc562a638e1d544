"""The space of a search."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser


def test_the_space_of_a_search_is_what_the_overrides_say() -> None:
    search = pytest.importorskip("cifar_pl.search")
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    parsed = OverridesParser.create().parse_overrides(
        ["a=tag(log, interval(0.001, 1.0))", "b=int(interval(1, 5))", "c=x,y", "d=range(3)"]
    )
    assert [search._distribution(override) for override in parsed] == [
        FloatDistribution(0.001, 1.0, log=True),
        IntDistribution(1, 5),
        CategoricalDistribution(["x", "y"]),
        CategoricalDistribution(["0", "1", "2"]),
    ]
