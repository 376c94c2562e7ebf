"""Stages for tests of the GPU check's runner: some pass, others fail in every possible way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from precast.tools.gpucheck.stage import Report, Setting, Skip, Stage, keep


def passing(setting: Setting, part: str) -> Report:
    print(f"part {part} runs")
    return Report(1, {"part": part, "seen": sorted(setting.earlier), "rows": []})


def raising(setting: Setting, part: str) -> Report:
    print("about to raise")
    raise ValueError("made up")


def hanging(setting: Setting, part: str) -> Report:
    """Store a partial report, start a child process, and let neither end."""
    keep(setting, Report(2, {"kept": True}, []))
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (setting.work / "pids").write_text(f"{os.getpid()} {child.pid}", "utf-8")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("both processes hang", flush=True)
    time.sleep(600)
    return Report(1)


def dying(setting: Setting, part: str) -> Report:
    print("the last words")
    os.kill(os.getpid(), signal.SIGSEGV)
    return Report(1)


def chatty(setting: Setting, part: str) -> Report:
    for number in range(20_000):
        print(f"line {number} " + "x" * 60)
    sys.stdout.buffer.write(b"\xff not utf-8\n")
    return Report(1)


def idle(setting: Setting, part: str) -> Report:
    return Report()


def skipping(setting: Setting, part: str) -> Report:
    raise Skip("there is no such program here")


def half(setting: Setting, part: str) -> Report:
    report = Report()
    report.expect(part == "good", "wrong on purpose")
    return report


def timing(setting: Setting, part: str) -> Report:
    """Record start and end, to show which stages ran in parallel."""
    started = time.time()
    time.sleep(0.3)
    with (setting.work / "spans").open("a", encoding="utf-8") as file:
        file.write(f"{os.environ.get('OMP_NUM_THREADS')} {started} {time.time()}\n")
    return Report(1)


STAGES = (
    Stage("passing", "it passes", 20, passing),
    Stage("parts", "each part passes", 20, passing, parts=("a", "b", "c"), after=("passing",)),
    Stage("raising", "it raises", 20, raising),
    Stage("hanging", "it hangs", 4, hanging),
    Stage("dying", "it dies", 20, dying),
    Stage("chatty", "it prints a lot", 20, chatty),
    Stage("idle", "it checks nothing", 20, idle),
    Stage("skipping", "it has a reason", 20, skipping),
    Stage("half", "one part is wrong", 20, half, parts=("good", "bad")),
    Stage("needs-good", "it needs a part that is good", 20, passing, needs=("half/good",)),
    Stage("needs-bad", "it needs a part that is bad", 20, passing, needs=("half/bad",)),
    Stage("beside", "runs beside its own parts", 20, timing, parts=("a", "b")),
    Stage("alone", "nothing runs meanwhile", 20, timing, parts=("a", "b"), alone=True),
    Stage("last", "comes after what is alone", 20, timing),
)
