"""padim report: one page of runs and sweeps that opens in any browser, without a network."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from experiments.report.page import render
from experiments.report.runs import Source, comparable, runs_in_detail

log = logging.getLogger(__name__)


def run(config: DictConfig) -> None:
    """Read the runs, write the page."""
    given = [config.paths] if isinstance(config.paths, str) else config.paths
    sources = [Source.read(Path(path)) for path in given]
    out = Path(config.out or (sources[0].path if len(sources) == 1 else Path()) / "report.html")
    runs = runs_in_detail(sources)
    notes = []
    for source in sources:
        if len(source.jobs) > 1:
            notes.append(
                f"Of the {len(source.jobs)} jobs in {source.path}, job {source.best} is shown:"
                " its mean of image AUROC, pixel AUROC and PRO is the highest."
            )
    if len(runs) > config.details:
        notes.append(f"The first {config.details} of {len(runs)} runs are shown (details=...).")
    results = comparable(sources)
    places = ", ".join(str(source.path) for source in sources)
    page = render(
        config.title or _title(sources),
        f"{'1 run' if len(results) == 1 else f'{len(results)} runs'} from {places}",
        results,
        runs[: config.details],
        notes,
    )
    out.write_text(page, encoding="utf-8")
    log.info("Written to %s (%.1f MB)", out.absolute(), os.path.getsize(out) / 1e6)


def _title(sources: Sequence[Source]) -> str:
    categories = dict.fromkeys(r.category for source in sources for r in source.results)
    return ", ".join(categories)
