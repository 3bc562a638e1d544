"""`-m`: Hydra takes a sweeper from this package alone; `cifar_pl.sweeps.sweep` does the work."""

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from cifar_pl.errors import UserError, install


class CifarSweeper(Sweeper):
    """Every combination of what the command line lists, or a search among them."""

    launcher: Launcher

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra gives."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the jobs that the overrides, as typed, describe."""
        from cifar_pl.sweeps import sweep  # seconds of torch that --help does without

        assert self.config is not None
        assert self.hydra_context is not None
        plan: sweep.Plan = sweep.grid
        if "trials" in self.config.sweep:
            try:
                from cifar_pl.sweeps import search
            except ModuleNotFoundError as error:
                raise UserError(f"sweep=search: {error} It is an optional part: {install('sweep')}") from error
            plan = search.trials
        typed = OverridesParser.create(config_loader=self.hydra_context.config_loader).parse_overrides(arguments)
        sweep.run(plan, self.config, self.launcher, typed, self.validate_batch_is_legal)
