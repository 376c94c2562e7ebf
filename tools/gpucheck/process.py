"""A part of a stage in a process of its own, which is ended together with all processes that it started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from typing import IO, Any

from precast.tools.gpucheck.stage import Report, Setting, Stage

KEPT_LINES = 25
"""Number of output lines that the result of a failed part keeps."""
_GRACE_S = 3.0


class PartProcess:
    """One running part.

    Args:
        stage: the stage.
        part: name of the part.
        setting: setting of the stage.
        stages: where the child finds the stage, ``module:tuple``.
        environment: environment variables besides those of this process.
    """

    def __init__(
        self, stage: Stage, part: str, setting: Setting, stages: str, environment: Mapping[str, str]
    ) -> None:
        self.stage, self.part = stage, part
        self.started = time.monotonic()
        self.seconds = 0.0
        self._folder = setting.work / "parts" / stage.name / part
        self._folder.mkdir(parents=True, exist_ok=True)
        self._report = self._folder / "report.json"
        self._kept = self._folder / "kept.json"
        for old in (self._report, self._kept):
            old.unlink(missing_ok=True)
        order = self._folder / "order.json"
        wanted = {"stages": stages, "stage": stage.name, "part": part, "setting": asdict(setting)}
        order.write_text(json.dumps(wanted, default=str), "utf-8")
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        # In a session of its own, the process can be killed together with its children.
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-m", "precast.tools.gpucheck.child", str(order)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        )
        assert self._process.stdout is not None
        self._printer = threading.Thread(target=self._print, args=(self._process.stdout,), daemon=True)
        self._printer.start()

    @property
    def name(self) -> str:
        """Name of the part in the output."""
        return self.stage.name if self.stage.parts == ("all",) else f"{self.stage.name}/{self.part}"

    def running(self) -> bool:
        """Return whether the process runs."""
        return self._process.poll() is None

    def end(self) -> None:
        """End the process and its children, first with SIGTERM, then with SIGKILL."""
        for number, wait in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, _GRACE_S)):
            try:
                os.killpg(self._process.pid, number)
                self._process.wait(wait)
            except (ProcessLookupError, PermissionError):
                break
            except subprocess.TimeoutExpired:
                continue

    def report(self, timed_out: float | None = None) -> Report | str:
        """Return the report, or the reason why the part was skipped.

        Args:
            timed_out: seconds after which the part was ended; None if it ended by itself.
        """
        self.seconds = round(time.monotonic() - self.started, 1)
        # Remaining children would keep the pipe open, and may use the GPU.
        self.end()
        self._printer.join(timeout=_GRACE_S)
        found: dict[str, Any] = {}
        if self._report.is_file():
            found = json.loads(self._report.read_text("utf-8"))
        if timed_out is not None:
            return self._failed(f"ended after its limit of {timed_out:.0f} s")
        if "skipped" in found:
            return str(found["skipped"])
        code = self._process.returncode
        if "error" in found:
            return self._failed(found["error"])
        if "checks" not in found:
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
            return self._failed(f"its process ended with {how} and without a report")
        return Report(**found)

    def _failed(self, reason: str) -> Report:
        """Return a failed report with the content that the part stored before."""
        kept: dict[str, Any] = {}
        if self._kept.is_file():
            kept = json.loads(self._kept.read_text("utf-8"))
        failures = [*kept.get("failures", []), reason]
        content = {**kept.get("content", {}), "last_lines": list(self._lines)}
        return Report(kept.get("checks", 0), content, failures)

    def _print(self, pipe: IO[bytes]) -> None:
        """Write every line to the log, and to the terminal with the name of the part."""
        with pipe, (self._folder / "log").open("wb") as log:
            for raw in pipe:
                log.write(raw)
                log.flush()
                line = raw.decode("utf-8", "replace").rstrip()
                self._lines.append(line[:500])
                print(f"[{self.name}] {line}", flush=True)
