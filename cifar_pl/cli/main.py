"""`cifar-pl COMMAND ...`: every command by its name, in any directory."""

import os
import re
import sys
from importlib import import_module

from cifar_pl.cli import command, train
from cifar_pl.errors import nearest

COMMANDS = {
    "train": "train a network, test it once, and write its page; -m with lists for a sweep",
    "predict": "what a trained network predicts for your own images",
    "explain": "mistakes of a run and where the network looked, of other images, layers and methods",
    "report": "many runs in one table and on one page; two of them image by image",
    "export": "the network for other programs, with a model card",
    "verify": "whether the first steps of a run have the same losses here",
    "doctor": "what this machine can do, how long an epoch takes on it, and what to change",
}
USAGE = (
    "usage: cifar-pl COMMAND ...\n\n"
    + "".join(f"  {name:8}  {what}\n" for name, what in COMMANDS.items())
    + '\ncifar-pl COMMAND --help says more. Completion in bash: eval "$(cifar-pl -sc install=bash)"\n'
)


def main() -> int:
    """Run the command that the command line names; its exit status, see `command.run`."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        sys.stdout.write(USAGE)
    elif name in ("-sc", "--shell-completion"):
        return _complete()
    elif name == "train":
        sys.argv = [train.__file__, *arguments]
        return command.run(train.main)
    elif name in COMMANDS:
        sys.argv = [name, *arguments]
        return command.script(import_module(f"cifar_pl.{name}").main)
    else:
        sys.stderr.write(f"error: {name}: there is no such command.{nearest(name, COMMANDS)}\n\n{USAGE}")
        return 1
    return 0


def _complete() -> int:
    """What may stand next, for the script that Hydra makes for a shell: names of commands, or overrides of `train`."""
    if line := os.environ.get("COMP_LINE"):
        own = re.match(r"\S+\s+train\s", line)
        if not own:
            sys.stdout.write(" ".join(COMMANDS) if re.fullmatch(r"\S+\s+\S*", line) else "")
            return 0
        os.environ["COMP_LINE"] = f"cifar-pl {line[own.end() :]}"
    return command.run(train.main)
