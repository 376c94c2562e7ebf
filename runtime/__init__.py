"""The runtime: runs artifacts, without the compiler and without transformers."""

from precast.runtime.aio import AsyncEncoder, AsyncSeq2Seq
from precast.runtime.encoder.engine import Encoder
from precast.runtime.generation.engine import Seq2Seq
from precast.runtime.generation.outputs import GeneratedSequence, GenerateOutput
from precast.runtime.io.outputs import EncoderOutput
from precast.runtime.load import load

__all__ = [
    "AsyncEncoder",
    "AsyncSeq2Seq",
    "Encoder",
    "EncoderOutput",
    "GenerateOutput",
    "GeneratedSequence",
    "Seq2Seq",
    "load",
]
