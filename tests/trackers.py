"""A tracker that keeps what it receives, or fails where it is asked to."""

from typing import Any

from pytorch_lightning.loggers import Logger

BEGUN: list["Probe"] = []
"""All trackers made, the last one last."""


class Probe(Logger):
    """Raises in the method named `where`, if there is one.

    Args:
        where: a method, "__init__" or "experiment".
        save_dir: of the run.
        described: anything.
    """

    name = version = None  # type: ignore[assignment]

    def __init__(self, save_dir: str, where: str = "", **described: Any) -> None:
        super().__init__()
        self.where = where
        self.described = described
        self.received: list[Any] = []
        self._hear("__init__", None)
        BEGUN.append(self)

    @property
    def experiment(self) -> None:
        self._hear("experiment", None)

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        self._hear("log_hyperparams", params)

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self._hear("log_metrics", metrics)

    def finalize(self, status: str) -> None:
        self._hear("finalize", status)

    def _hear(self, method: str, what: Any) -> None:
        if self.where == method:
            raise RuntimeError(f"{method} is broken\nand more")
        self.received.append((method, what))
