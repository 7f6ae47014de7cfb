"""Linear layers on a CPU by oneDNN, which comes with torch but which torch does not ask for float32 products.

It asks MKL, which leaves half the width of AMD's AVX-512 units idle. Measured on 2,048 tokens through GPT-2's MLP, one
core of an AMD EPYC (Zen 5): 86 GFLOP/s by MKL, 195 by oneDNN; backward 93 against 160. In bfloat16 oneDNN adds the bias
itself, where GPT-2's layers first copy it to every token: a tenth of the time of `embedded:weak`.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D


def by_onednn(model: torch.nn.Module) -> None:
    """Let the linear layers of a model on a CPU multiply by oneDNN, where that is known to be faster.

    Weights, their names and whether they are tied stay what they were; the layers can be trained and saved.
    """
    abilities = torch.cpu.get_capabilities()
    if not abilities.get("avx512_f") or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return
    dtypes = [torch.float32]
    if abilities.get("avx512_bf16") or abilities.get("amx_bf16"):
        dtypes.append(torch.bfloat16)
    for layer in model.modules():
        kind = {torch.nn.Linear: OneDnnLinear, Conv1D: OneDnnConv1D}.get(type(layer))
        if kind and layer.weight.dtype in dtypes and layer.weight.device.type == "cpu":
            layer.__class__ = kind  # a new layer would have to be told of ties, hooks and names


class OneDnnLinear(torch.nn.Linear):
    """The same layer; inputs of another dtype than its weights go the usual way."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(..., out) of (..., in)."""
        return (
            super().forward(states) if _usual(states, self.weight) else _Product.apply(states, self.weight, self.bias)
        )


class OneDnnConv1D(Conv1D):
    """The same for GPT-2's layers, which keep their weights (in, out)."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(..., out) of (..., in)."""
        return (
            super().forward(states) if _usual(states, self.weight) else _Product.apply(states, self.weight.T, self.bias)
        )


def _usual(states: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether torch's own product is asked for: another dtype, autocast to one, or nothing to multiply."""
    return states.dtype != weight.dtype or torch.is_autocast_enabled("cpu") or not states.numel()


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(states, weight)
        return _times(states, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        states, weight = ctx.saved_tensors
        of_states, of_weight, of_bias = ctx.needs_input_grad
        flat, rows = grad.flatten(0, -2), states.flatten(0, -2)
        return (
            _times(grad, weight.T) if of_states else None,
            _times(flat.T, rows.T) if of_weight else None,
            flat.sum(0) if of_bias else None,
        )


def _times(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """(..., out) of (..., in) states and (out, in) weights."""
    return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")
