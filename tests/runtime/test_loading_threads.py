"""Loading starts no OpenMP threads in the loading thread."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import T5Config, T5ForConditionalGeneration

import precast
from tests.support.artifacts import TinyModels, tiny_artifact
from tests.support.models import save

PROGRAM = '''
import os, sys, threading, time
import precast.runtime.generation.setup  # imported libraries start threads

def count_threads():
    return len(os.listdir("/proc/self/task"))

def extra_threads():
    """Wait up to 60 seconds for threads that checked files to end; return how many are left."""
    end = time.monotonic() + 60
    while count_threads() > before and time.monotonic() < end:
        time.sleep(0.01)
    return count_threads() - before

before, extra, start = count_threads(), [], threading.Thread.start

def counted(thread):
    if thread.name.startswith(("precast-encoder", "precast-generation")):
        extra.append(extra_threads())
    start(thread)

threading.Thread.start = counted
precast.load(sys.argv[1]).close()
print(*extra)  # before the engine's thread starts
'''


def threads_of_loading(artifact: Path) -> int:
    """Return the threads that loading has started when the engine's own thread starts."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(artifact)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "4"},
    )
    return int(done.stdout)


pytestmark = pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="reads the threads of a process from /proc"
)


def test_loading_a_large_vocabulary(tmp_path: Path) -> None:
    config = T5Config(
        vocab_size=70_000, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    checkpoint = save(T5ForConditionalGeneration(config))
    artifact = tmp_path / "artifact"
    precast.compile(
        checkpoint,
        artifact,
        backend="reference",
        max_num_seqs=128,
        max_target_length=1024,
        max_length=1024,
        verify=False,
    )
    assert threads_of_loading(artifact) == 0


def test_loading_an_encoder_with_large_batches(tiny: TinyModels, tmp_path: Path) -> None:
    artifact = tiny_artifact(tiny["embed"].checkpoint, tmp_path / "artifact", max_tokens=1 << 17)
    assert threads_of_loading(artifact) == 0
