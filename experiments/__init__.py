"""The verbs of the command line: compose a configuration, instantiate, run, record."""
