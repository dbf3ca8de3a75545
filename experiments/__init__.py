"""The verbs of the command line: compose a configuration, instantiate, run, record.

A verb is a module, or for `report` and `benchmark` a folder. `sweeps` runs many fits at once; what
verbs share is `running`, `scoring`, `tables` and `drawing`, of which each imports only later ones.
"""
