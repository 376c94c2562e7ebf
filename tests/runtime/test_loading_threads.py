"""Loading starts no threads of OpenMP threads beside the one that the engine's thread will have."""

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
import precast.runtime.generation.setup  # libraries that it imports have threads of their own

def threads():
    """A thread that checked a file may take a moment to end."""
    found = []
    for _ in range(50):
        found.append(len(os.listdir("/proc/self/task")))
        time.sleep(0.01)
    return min(found)

before, seen, start = threads(), [], threading.Thread.start

def counted(thread):
    seen.append(threads())
    start(thread)

threading.Thread.start = counted
precast.load(sys.argv[1]).close()
print(seen[-1] - before)  # when the engine's thread, the last one, began
'''


def threads_of_loading(artifact: Path) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(artifact)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "4"},
    )
    return int(done.stdout)


pytestmark = pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="counts threads as Linux lists them"
)


def test_of_a_generator_with_a_large_vocabulary(tmp_path: Path) -> None:
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


def test_of_an_encoder_with_large_batches(tiny: TinyModels, tmp_path: Path) -> None:
    artifact = tiny_artifact(tiny["embed"].checkpoint, tmp_path / "artifact", max_tokens=1 << 17)
    assert threads_of_loading(artifact) == 0
