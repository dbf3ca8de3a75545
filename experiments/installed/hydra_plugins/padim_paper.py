"""Hydra's sweeper that lists the jobs of the paper's tables, so that tables share passes."""

from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.types import Override
from hydra_plugins.padim import OnePassSweeper


class PaperSweeper(OnePassSweeper):
    """Lists the jobs of all tables in `tables`; what is to be known of them goes to notes.txt."""

    def split_arguments(  # type: ignore[override]  # Hydra's is static, and called as a method
        self, overrides: Sequence[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """The jobs as one batch; see `experiments.paper.list_jobs`."""
        from experiments.files import write_text
        from experiments.paper import list_jobs  # imports torch, which `--help` need not wait for

        assert self.config is not None
        assert self.hydra_context is not None
        jobs, notes = list_jobs(self.hydra_context.config_loader, self.config, overrides)
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "notes.txt", "".join(f"{note}\n" for note in notes))
        return [jobs]
