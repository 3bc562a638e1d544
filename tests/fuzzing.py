"""What tests/test_fuzz.py tries: how many inputs, configs as a person may type them, files as they may get spoiled."""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from cifar_pl.cli.messages import explain
from cifar_pl.config import schema
from cifar_pl.errors import UserError
from cifar_pl.models.resnet import Normalize
from cifar_pl.runs.overrides import quoted

Record = Callable[[str, object], None]


def fuzz(record: Record, ci: int, campaign: int, **strategies: st.SearchStrategy[Any]) -> Callable[..., None]:
    """A decorator that runs a function on so many inputs and records how many there were."""

    def run(one: Callable[..., None]) -> None:
        tried = 0

        @settings(max_examples=campaign if settings.get_current_profile_name() == "campaign" else ci)
        @given(**strategies)
        def counted(**values: Any) -> None:
            nonlocal tried
            tried += 1
            one(**values)

        try:
            counted()
        finally:
            record("inputs", tried)

    return run


@contextmanager
def refusal(*words: str) -> Iterator[None]:
    """Nothing, or an error that a user reads as one message with these words."""
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException) as error:
        message = explain(error)
    else:
        return
    assert message.strip()
    assert "Traceback" not in message
    assert all(word in message for word in words)


# --- configs ---

# Neither what is run (`_target_`), nor where files and processes go, nor what would ask the network or compile for
# minutes, nor the wiring of what has keys of its own.
LEFT_OUT = {
    "_target_", "_partial_", "defaults", "datamodule", "dirpath", "filename", "save_dir", "run_dir", "name", "version",
    "default_root_dir", "root", "mirrors", "tracking_uri", "resume", "compile", "devices",
}  # fmt: skip
OPTIONS_LEFT_OUT = {
    "cifar10",
    "cifar100",
    "image_folder",
    "wandb",
    "mlflow",
    "ddp",
    "gpu",
}  # the first two download, ddp starts others
GROUPS = sorted({p.parent.name for p in schema.CONF.glob("*/*.yaml")} - {"experiment"})
QUICK = (
    "data=digits", "data.image_size=8", "data.batch_size=32", "aug=none", "trainer=cpu", "trainer.max_epochs=1",
    "callbacks=none", "logger=none", *(f"+trainer.limit_{part}_batches=1" for part in ("train", "val", "test")),
)  # fmt: skip
WORDS = ("a", "auto", "none", "1", "val/acc", "train/last_loss", "<b>", "é'\"\\", "${x}", "interval(1, 0)",
         "tag(log, interval(0, 1))")  # fmt: skip
EDGES = (*WORDS, "", None, True, False, -1, 0, 1, 2, 7, 10**6, 10**9, 10**30, 10**400, 1e-320, 1e30, math.nan, math.inf)
PLAIN = st.sampled_from(EDGES) | st.integers(-3, 5) | st.floats() | st.text(max_size=4)
LISTS = st.lists(PLAIN | st.lists(PLAIN, max_size=1), max_size=3)
VALUES = PLAIN | LISTS | st.dictionaries(st.sampled_from("abp"), PLAIN)


def keys(group: str) -> list[str]:
    """Every key of a group that any shipped config has."""
    known = [k for k in schema.values() if group in (k.split(".")[0], "top") and not LEFT_OUT & set(k.split("."))]
    return [k for k in known if group != "top" or not (schema.CONF / k.split(".")[0]).is_dir()]


def typed(value: object) -> str:
    """A value in Hydra's grammar."""
    if isinstance(value, list):
        return f"[{','.join(map(typed, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{k}:{typed(v)}' for k, v in value.items())}}}"
    if isinstance(value, str):
        return quoted(Path(value)) if value in WORDS else f"'{value}'"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def small(num_classes: int, mean: Sequence[float], std: Sequence[float], **_: object) -> nn.Module:
    """A network whose run takes a fraction of a second, in place of ResNet18."""
    layers = OrderedDict[str, nn.Module](normalize=Normalize(mean, std), layer3=nn.Conv2d(3, 64, 3, padding=1))
    return nn.Sequential(
        layers | {"pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "fc": nn.Linear(64, num_classes)}
    )


@st.composite
def changes(draw: st.DrawFn, group: str) -> list[str]:
    """An option of a group, and up to two of its keys set, deleted, or added."""
    options = [p.stem for p in (schema.CONF / group).glob("*.yaml") if p.stem not in OPTIONS_LEFT_OUT]
    chosen = [f"{group}={draw(st.sampled_from([*sorted(options) * 2, 'nosuch']))}"] if options else []
    for key in draw(st.lists(st.sampled_from(keys(group)), max_size=2, unique=True)):
        value = draw(VALUES)
        count = value if isinstance(value, int) and not isinstance(value, bool) else 0
        # Legal, and longer than a test may take.
        assume(not (key in ("trainer.max_epochs", "sweep.trials", "lr_finder.num_training") and count > 2))
        assume(not (key.endswith("num_workers") and 1 < count <= 128))
        assume(not (key.startswith("lr_finder") and not chosen))
        node = key.rpartition(".")[0] if draw(st.integers(0, 9)) == 0 and key.count(".") > 1 else key
        kind = draw(st.sampled_from(["set"] * 8 + ["delete", "add"]))
        chosen.append(
            {"set": f"++{node}={typed(value)}", "delete": f"~{node}", "add": f"+{node}.nosuch={typed(value)}"}[kind]
        )
    return chosen


# --- files ---

TEXT = st.sampled_from(["<script>x</script>", "é\"'\u2028", "\ud800"]) | st.text(max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def spoiled(draw: st.DrawFn, whole: bytes, other: bytes = b"") -> bytes:
    """A file's bytes: cut, flipped, with something put in, spliced with another's, or others altogether."""
    at, to = sorted((draw(st.integers(0, len(whole))), draw(st.integers(0, len(whole)))))
    some = draw(st.binary(max_size=8))
    flipped = bytes(b ^ draw(st.integers(1, 255)) for b in whole[at : min(to, at + 3)])
    return draw(st.sampled_from([
        whole[:at], whole[:at] + whole[to:], whole[:at] + some + whole[at:], whole[:at] + some + whole[at + len(some):],
        whole[:at] + flipped + whole[at + len(flipped):], whole[:at] + other[at:], some,
    ]))  # fmt: skip
