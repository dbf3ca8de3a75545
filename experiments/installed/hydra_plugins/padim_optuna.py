"""Hydra's sweeper that searches: Optuna chooses the settings of each batch of jobs."""

import logging
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig

log = logging.getLogger(__name__)


class OptunaSweeper(Sweeper):
    """Asks an Optuna study for batches of trials, which share a pass, until it has enough of them.

    The space is that of the overrides: `range(20,160,20)` and `int(interval(1,9))` are integers,
    `interval(0,0.4)` is a number, logarithmic as `tag(log,interval(0.001,1))`, and all else with
    several values is a choice.

    Args:
        direction: maximize or minimize, or a list, one for each objective.
        n_trials: finished trials of the study, those of earlier commands included.
        batch_size: trials that are chosen at a time.
        storage: URL of the study's database.
        study_name: by which a study in it goes on.
        sampler: configuration of an Optuna sampler.
    """

    def __init__(
        self,
        direction: str | Sequence[str],
        n_trials: int,
        batch_size: int,
        storage: str,
        study_name: str,
        sampler: DictConfig,
    ) -> None:
        self.directions = [direction] if isinstance(direction, str) else list(direction)
        self.n_trials = n_trials
        self.batch_size = batch_size
        self.storage = storage
        self.study_name = study_name
        self.sampler = sampler

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """See `Sweeper`."""
        if config.sweep.zip or config.sweep.variants:
            raise ValueError(
                "sweep.zip and sweep.variants are of grids, and Optuna searches a space"
            )
        self.folder = Path(config.hydra.sweep.dir)
        self.kinds = list(config.table.pictures)
        wanted = config.get("objective")
        self.objectives = [wanted] if isinstance(wanted, str) else list(wanted or ())
        self.parser = OverridesParser.create(config_loader=hydra_context.config_loader)
        self.launch = (
            Plugins.instance()
            .instantiate_launcher(
                hydra_context=hydra_context, task_function=task_function, config=config
            )
            .launch
        )

    def sweep(self, arguments: list[str]) -> None:
        """Search; see `Sweeper`.

        Raises:
            ValueError: there is no objective, or the study is another one.
        """
        overrides = self.parser.parse_overrides(arguments)
        searched = [one for one in overrides if one.is_sweep_override()]
        fixed = [str(one.input_line) for one in overrides if not one.is_sweep_override()]
        study = self._study()
        from experiments.sweeps.study import draw_study

        space = {one.get_key_element(): distribution(one) for one in searched}
        while (left := self.n_trials - len(_finished(study))) > 0:
            try:
                trials = [study.ask(space) for _ in range(min(left, self.batch_size))]
            except ValueError as error:
                raise ValueError(
                    f"the study {self.study_name} in {self.storage} is of another search space"
                    f" ({error}): choose another hydra.sweeper.study_name"
                ) from error
            jobs = [[*fixed, *(f"{k}={v}" for k, v in t.params.items())] for t in trials]
            returns = self.launch(jobs, initial_job_idx=trials[0].number)
            for trial, job in zip(trials, returns, strict=True):
                self._tell(study, trial, job)
            for best in study.best_trials[:1]:
                log.info(
                    "%d of %d trials, the best so far #%d: %s",
                    *(len(_finished(study)), self.n_trials, best.number, best.values),
                )
        draw_study(study, self.objectives, self.folder / "pictures", self.kinds)

    def _study(self) -> Any:
        """The study, made where there is none of that name."""
        try:
            import optuna
        except ModuleNotFoundError as error:
            raise ValueError(
                f"this sweeper needs a package that is missing ({error}): pip install"
                " 'padim-lightning[search]'"
            ) from error
        if len(self.objectives) != len(self.directions):
            raise ValueError(
                f"hydra.sweeper.direction has {len(self.directions)} for {len(self.objectives)}"
                " objectives: name what is searched for with objective=METRIC or a list"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            storage=self.storage,
            study_name=self.study_name,
            directions=self.directions,  # type: ignore[arg-type]
            sampler=instantiate(self.sampler),
            load_if_exists=True,
        )
        known = [direction.name.lower() for direction in study.directions]
        if known != self.directions:
            raise ValueError(
                f"the study {self.study_name} in {self.storage} is to {' and '.join(known)}:"
                " choose another hydra.sweeper.study_name"
            )
        if study.get_trials(deepcopy=False):
            study.sampler.reseed_rng()  # or it would draw the first ones again
        return study

    @staticmethod
    def _tell(study: Any, trial: Any, job: JobReturn) -> None:
        from optuna.trial import TrialState

        value = job.return_value
        values = list(value) if isinstance(value, tuple) else [value]
        if any(math.isnan(one) for one in values):
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, values)


def distribution(override: Override) -> Any:
    """The distribution of an override with several values."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    value: Any = override.value()
    if isinstance(value, IntervalSweep):
        log_scale, whole = "log" in value.tags, isinstance(value.start, int)
        kind: Any = IntDistribution if whole else FloatDistribution
        return kind(value.start, value.end, log=log_scale)
    if isinstance(value, RangeSweep) and all(isinstance(one, int) for one in value.range()):
        first, *_, last = value.range()
        return IntDistribution(first, last, step=int(value.step))
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def _finished(study: Any) -> list[Any]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
