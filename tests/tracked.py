"""Runs of trackers, as their own readers read them back."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

WANDB = Path(sys.executable).with_name("wandb")


def records(run: Path) -> list[tuple[str, dict[str, Any]]]:
    """Kind and content of all that a W&B run has on disk, as W&B's own program reads it."""
    (folder,) = run.glob("wandb/offline-run-*")
    command = [str(WANDB), "leet", "inspect", "--json", str(folder)]
    lines = subprocess.run(command, check=True, capture_output=True).stdout.splitlines()
    found = [json.loads(line) for line in lines]
    return [(record["type"], record.get(record["type"], {})) for record in found]


def merged(found: list[tuple[str, dict[str, Any]]], kind: str, part: str) -> dict[str, Any]:
    return {k: v for name, content in found if name == kind for k, v in content[part].items()}


def runs_of(client: MlflowClient, group: str) -> list[Run]:
    (experiment,) = client.search_experiments(filter_string="name = 'padim'")
    return client.search_runs([experiment.experiment_id], f"tags.`group` = '{group}'")
