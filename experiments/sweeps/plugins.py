"""Hydra's plugins of this project."""

import sys
from types import ModuleType

from hydra.core.plugins import Plugins


def register() -> None:
    """Make them known to Hydra, which takes plugins from the package hydra_plugins only."""
    plugins = Plugins.instance()  # looks for those that are installed
    # Doing so it executes the modules of its own plugins again: only now can they be inherited.
    from experiments.sweeps.cluster import RayLauncher, SubmititLauncher
    from experiments.sweeps.launcher import OnePassLauncher, OnePassSweeper

    module = ModuleType("hydra_plugins.padim")
    package = sys.modules.setdefault("hydra_plugins", ModuleType("hydra_plugins"))
    package.__dict__.setdefault("__path__", [])
    package.__dict__["padim"] = sys.modules[module.__name__] = module
    for plugin in (OnePassLauncher, OnePassSweeper, SubmititLauncher, RayLauncher):
        plugin.__module__ = module.__name__
        module.__dict__[plugin.__name__] = plugin
        plugins.register(plugin)
