"""The minimal runtime: an artifact in, answers out. No compiler, no transformers."""

from precast.runtime.aio import AsyncEncoder
from precast.runtime.encoder import Encoder
from precast.runtime.loading import load
from precast.runtime.outputs import EncoderOutput

__all__ = ["AsyncEncoder", "Encoder", "EncoderOutput", "load"]
