"""The ``encode`` graph as a module: packed tokens in, the answer of its task out."""

from __future__ import annotations

from torch import Tensor, nn

from precast.compiler.model import spec
from precast.compiler.model.heads import Classifier, Embedder
from precast.compiler.model.layout import PackedLayout
from precast.compiler.model.stack import Embeddings, Stack


class Encode(nn.Module):
    """Takes the named buffers of ``graphs.encode.encode_signature`` and gives its one output.

    Args:
        model: what it is.
        max_length: tokens of the longest input that it will be traced for.
    """

    def __init__(self, model: spec.ModelSpec, max_length: int) -> None:
        super().__init__()
        self.max_length = max_length
        self.embeddings = Embeddings(model.hidden_size, model.embeddings)
        self.encoder = Stack(model.hidden_size, model.encoder)
        self.head: nn.Module | None = None
        if isinstance(model.head, spec.Classifier):
            self.head = Classifier(model.hidden_size, model.head)
        elif isinstance(model.head, spec.Embedder):
            self.head = Embedder(model.head)

    def forward(
        self,
        input_ids: Tensor,
        cu_seqlens: Tensor,
        key_positions: Tensor,
        token_type_ids: Tensor | None = None,
        prompt_lengths: Tensor | None = None,
    ) -> Tensor:
        layout = PackedLayout(input_ids.shape[0], cu_seqlens, key_positions, self.max_length)
        hidden = self.encoder(self.embeddings(input_ids, token_type_ids, layout), layout)
        if self.head is None:
            return hidden.float()
        return self.head(hidden, input_ids, layout, prompt_lengths)
