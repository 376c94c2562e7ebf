"""A child process that runs one part of a stage: ``python -m precast.tools.gpucheck.child``."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from precast.tools.gpucheck.rehearsal import repair_interpreter
from precast.tools.gpucheck.stage import Setting, Skip, Stage, plain


def main(order: Path) -> int:
    """Run the part that a file describes and write the report next to it; return the exit status."""
    _end_with_the_parent()
    wanted: dict[str, Any] = json.loads(order.read_text("utf-8"))
    report: dict[str, Any]
    try:
        stage = find_stage(wanted["stages"], wanted["stage"])
        places = {"work": Path(wanted["setting"]["work"]), "kept": order.with_name("kept.json")}
        setting = Setting(**{**wanted["setting"], **places})
        if not (stage.alone or stage.urgent):
            os.nice(10)
        repair_interpreter()
        report = asdict(stage.run(setting, wanted["part"]))
    except Skip as reason:
        report = {"skipped": str(reason)}
    except BaseException as error:  # the log shows the traceback, the result its last lines
        traceback.print_exc()
        _write(order, {"error": f"{type(error).__name__}: {error}"[:2000]})
        return 1
    _write(order, report)
    return 0


def find_stage(stages: str, name: str) -> Stage:
    """Return the stage with a name; ``stages`` is ``module:tuple``."""
    module, _, attribute = stages.partition(":")
    for stage in getattr(importlib.import_module(module), attribute):
        if stage.name == name:
            return stage
    raise LookupError(f"{stages} has no stage {name!r}")


def _write(order: Path, report: dict[str, Any]) -> None:
    """Write the report atomically: the parent may kill this process at any moment."""
    partial = order.with_name("report.partial")
    partial.write_text(json.dumps(report, default=plain), "utf-8")
    partial.replace(order.with_name("report.json"))


def _end_with_the_parent() -> None:
    """Exit when the parent exits: a parent that is killed cannot end its children."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    if os.getpgid(0) == os.getpid():
        threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
