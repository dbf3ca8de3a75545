"""Lightning callbacks of a run, one a concern; the group `callbacks` of the configuration."""

from experiments.callbacks.log_media import LogMedia
from experiments.callbacks.recorder import TestRecorder
from experiments.callbacks.resume_state import ResumeState
from experiments.callbacks.run_folder import RunFolder

__all__ = ["LogMedia", "ResumeState", "RunFolder", "TestRecorder"]
