"""The ``encode`` graph as a module: packed tokens in, the answer of its task out."""

from __future__ import annotations

from torch import Tensor, nn

from precast.compiler.models import spec
from precast.compiler.models.heads import Classifier, Embedder
from precast.compiler.models.layout import PackedLayout
from precast.compiler.models.packed_ops import OpsFactory
from precast.compiler.models.stack import Embeddings, Stack


class Encode(nn.Module):
    """Takes the named buffers of ``graphs.encode.encode_signature`` and gives its one output.

    Args:
        model: what it is.
        make_ops: the operations of the device that it will be lowered for.
    """

    def __init__(self, model: spec.ModelSpec, make_ops: OpsFactory) -> None:
        super().__init__()
        self._make_ops = make_ops
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
        key_positions: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        prompt_lengths: Tensor | None = None,
    ) -> Tensor:
        layout = PackedLayout(input_ids.shape[0], cu_seqlens)
        ops = self._make_ops(layout, key_positions)
        hidden = self.encoder(self.embeddings(input_ids, token_type_ids, layout), layout, ops)
        if self.head is None:
            return hidden.float()
        return self.head(hidden, input_ids, layout, ops, prompt_lengths)
