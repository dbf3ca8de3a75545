"""What a verb runs on: trainer, processes, memory, trackers, and runs that are stopped."""
