"""Commands in processes of their own that need not import the program again.

A server imports it once and forks for each command, which then ends as any program does: with its
exit handlers, after signals, with workers of its own.
"""

import json
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

SERVER = """
import json, os, sys
import experiments.cli, experiments.evaluate, experiments.predict, experiments.sweeps.one_pass

for line in sys.stdin:
    task = json.loads(line)
    if child := os.fork():
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    os.chdir(task["folder"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number in (1, 2):
        os.dup2(os.open(task["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    exec(task["before"])
    experiments.cli.main(task["arguments"])
    sys.exit()
"""


class Commands:
    """Starts commands and waits for their ends."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def start(self, arguments: Sequence[str], folder: Path, before: str = "") -> "Started":
        """Start `padim <arguments>` in a folder; its output goes to output.txt there.

        Args:
            arguments: of the command.
            folder: the working folder.
            before: Python that the process runs first.
        """
        assert self._server.stdin
        assert self._server.stdout
        output = folder / "output.txt"
        output.write_text("")
        task = {"arguments": arguments, "folder": str(folder), "output": str(output)}
        self._server.stdin.write(json.dumps({**task, "before": before}) + "\n")
        self._server.stdin.flush()
        return Started(int(self._server.stdout.readline()), output, self._server.stdout)

    def close(self) -> None:
        """End the server."""
        self._server.kill()
        self._server.wait()


class Started:
    """A command that runs.

    Args:
        pid: of its process.
        output: the file with what it prints.
        statuses: gives its exit status.
    """

    def __init__(self, pid: int, output: Path, statuses: IO[str]) -> None:
        self.pid = pid
        self.output = output
        self._statuses = statuses

    def wait(self, seconds: float) -> tuple[int, str]:
        """Exit status and output of a command that has to end within a time.

        Raises:
            TimeoutError: it did not, and was killed.
        """
        ended = bool(select.select([self._statuses], [], [], seconds)[0])
        if not ended:
            os.kill(self.pid, 9)
        status = int(self._statuses.readline())
        if not ended:
            raise TimeoutError(f"it did not end within {seconds} s: {self.printed}")
        return status, self.printed

    @property
    def printed(self) -> str:
        """All it has printed so far."""
        return self.output.read_text(encoding="utf-8", errors="replace")
