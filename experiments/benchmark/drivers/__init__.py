"""Programs that do the job by another implementation, each in an environment of its own."""
