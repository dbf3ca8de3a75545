"""The commands: compose a configuration, instantiate, run; and what a run writes.

A command is a module with `run(config)`, or for `report` and `benchmark` a folder. CONTRIBUTING.md
has the map of the others.
"""
