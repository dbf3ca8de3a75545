"""padim report: one page of runs and sweeps that opens in any browser, without a network."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from experiments.files import require_writable, write_text

log = logging.getLogger(__name__)


def run(config: DictConfig) -> None:
    """Read the runs, write the page.

    Raises:
        ValueError: a path holds no run, or a package is missing.
    """
    try:
        from experiments.report.page import render
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package not in ("jinja2", "markupsafe", "plotly"):
            raise
        raise ValueError(
            f"a report needs {package}: pip install 'padim-lightning[report]'"
        ) from error
    from experiments.report.runs import about_sweep, comparable, measured, runs_in_detail

    sources = {Path(path): measured(Path(path)) for path in config.paths}
    out = Path(config.out or (next(iter(sources)) if len(sources) == 1 else Path()) / "report.html")
    require_writable(out)
    runs, notes = runs_in_detail(sources)
    if len(runs) > config.details:
        notes.append(f"The first {config.details} of {len(runs)} runs are shown (details=...).")
    results = comparable(sources)
    number = "1 run" if len(results) == 1 else f"{len(results)} runs"
    title = config.title or ", ".join(dict.fromkeys(result.category for result in results))
    subtitle = f"{number} from {', '.join(map(str, sources))}"
    about = [line for path in sources for line in about_sweep(path)]
    table = {key: value for key, value in config.table.items() if value is not None}
    page = render(title, subtitle, about, results, runs[: config.details], notes, table)
    write_text(out, page.encode("utf-8", "backslashreplace").decode())
    log.info("Written to %s (%.1f MB)", out.absolute(), out.stat().st_size / 1e6)
