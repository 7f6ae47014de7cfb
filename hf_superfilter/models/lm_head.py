"""The vocabulary projection: float32 logits, in chunks that are small enough to be used again."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# Made at once: 161 positions of GPT-2 on a CPU, where the C library gives blocks of 32 MB and more back at once.
LOGITS_BYTES = {"cpu": 31 << 20, "cuda": 512 << 20}


class VocabularyHead(torch.nn.Module):
    """The vocabulary projection with float32 results, in one reused buffer where torch itself multiplies.

    On a CPU in bfloat16 the weights are kept in float32 and oneDNN is told to multiply in bfloat16:
    products and sums are those of bfloat16 inputs, the logits are not rounded. Measured on 1,024
    positions of GPT-2: 190 ms, against 230 ms for bfloat16 logits cast up (which err by up to 0.05
    nats) and 520 ms for float32.
    """

    def __init__(self, projection: Any, dtype: torch.dtype) -> None:
        super().__init__()
        weight = projection.weight.detach()
        by_itself = (
            type(projection) is not torch.nn.Linear and weight.dtype == torch.float32
        )  # and faster
        self.projection, self.plain = (
            projection,
            isinstance(projection, torch.nn.Linear) and not by_itself,
        )
        vocabulary = getattr(
            projection, "out_features", weight.shape[0]
        )  # a packed weight has a shape of its own
        self.rows = max(
            16, LOGITS_BYTES.get(weight.device.type, LOGITS_BYTES["cpu"]) // (4 * vocabulary)
        )
        self.bfloat16_products = weight.device.type == "cpu" and dtype == torch.bfloat16
        if self.plain:
            self.columns = (weight if weight.is_cuda else weight.float()).T
            self.logits = torch.empty(
                (self.rows, weight.shape[0]), dtype=torch.float32, device=weight.device
            )

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(a, b, V) float32 logits of (a, b, d) states, at most `rows` of them; they live until the next call."""
        if not self.plain:
            return self.projection(states).float()
        flat = states.flatten(0, 1)
        out = self.logits[: len(flat)]
        if self.columns.is_cuda and self.columns.dtype != torch.float32:
            torch.mm(flat, self.columns, out_dtype=torch.float32, out=out)
        else:
            with _bfloat16_products(self.bfloat16_products):
                torch.mm(flat.float(), self.columns, out=out)
        if self.projection.bias is not None:
            out.add_(self.projection.bias)
        return out.unflatten(0, states.shape[:2])


@contextmanager
def _bfloat16_products(wanted: bool) -> Iterator[None]:
    """Let oneDNN multiply float32 matrices in bfloat16 with float32 sums, in this block only."""
    if not wanted:
        yield
        return
    switch: Any = torch.backends.mkldnn
    before = switch.matmul.fp32_precision
    switch.matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        switch.matmul.fp32_precision = before
