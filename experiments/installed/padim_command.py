"""The `padim` command, as it is installed."""

import sys
from pathlib import Path


def main() -> None:
    """Run a command; see `experiments.cli`."""
    # The project at hand may have folders named experiments, datamodules or conf of its own.
    home = next(path for path in Path(__file__).parents if (path / "padim").is_dir())
    sys.path.insert(0, str(home))
    from experiments.cli import main

    main()
