"""Several real processes of the example script, as a launcher starts them, without importing torch anew in each."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import sys
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.runs import ROOT

EXAMPLE = ROOT / "examples" / "train_textual_inversion.py"
# One process imports the library; all others are forked from it before it has computed anything.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["textual_inversion_ext.training.trainer", "transformers.models.clip.modeling_clip"])


class Launched:
    """Processes of one run; what each of them printed is in ``log(rank)``."""

    def __init__(self, flags: Sequence[str], logs: Path, count: int = 2) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self.logs = logs
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.processes: list[BaseProcess] = [
            _SERVER.Process(target=_run, args=(rank, count, port, list(flags), str(self._file(rank))), daemon=True)
            for rank in range(count)
        ]
        for process in self.processes:
            process.start()

    def log(self, rank: int) -> str:
        return self._file(rank).read_text()

    def wait(self, seconds: float = 300) -> list[int | None]:
        """Exit codes; a process that hangs is killed and has None."""
        codes = []
        for process in self.processes:
            process.join(seconds)
            codes.append(process.exitcode)
            if process.exitcode is None:
                process.kill()
        return codes

    def wait_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            ended = [rank for rank, process in enumerate(self.processes) if process.exitcode is not None]
            assert not ended, f"process {ended[0]} ended too early: {self.log(ended[0])}"
            self.processes[0].join(0.005)

    def _file(self, rank: int) -> Path:
        return self.logs / f"rank-{rank}.txt"


def _run(rank: int, count: int, port: int, flags: list[str], output: str) -> None:
    """What torchrun does for a worker."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", ACCELERATE_USE_CPU="true")
    with open(output, "w") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
        sys.argv = [str(EXAMPLE), *flags]
        runpy.run_path(str(EXAMPLE), run_name="__main__")
