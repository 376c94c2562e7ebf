"""The ``encode`` graph as a module: packed tokens to the output of its task."""

from __future__ import annotations

from torch import Tensor, nn

from precast.compiler.models import spec
from precast.compiler.models.embeddings import Embeddings
from precast.compiler.models.heads import Classifier, Embedder
from precast.compiler.models.packed_ops import OpsFactory, PackedLayout
from precast.compiler.models.stack import Stack


class Encode(nn.Module):
    """An encoder with the head of its task, called with the inputs of ``graphs.encode.encode_signature``.

    Args:
        model: the description.
        make_ops: creates the packed operations of the target.
    """

    def __init__(self, model: spec.ModelSpec, make_ops: OpsFactory) -> None:
        super().__init__()
        self._make_ops = make_ops
        self.embeddings = Embeddings(model.hidden_size, model.embeddings)
        self.encoder = Stack(model.hidden_size, model.encoder)
        self.head: nn.Module | None = None
        if isinstance(model.head, spec.ClassifierSpec):
            self.head = Classifier(model.hidden_size, model.head)
        elif isinstance(model.head, spec.EmbedderSpec):
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
