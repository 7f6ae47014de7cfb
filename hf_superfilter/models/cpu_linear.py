"""Linear layers on a CPU by oneDNN, which comes with torch but which torch does not ask for float32 products.

It asks MKL, which leaves half the width of AMD's AVX-512 units idle. Measured on 2,048 tokens through GPT-2's MLP, one
core of an AMD EPYC (Zen 5): 86 GFLOP/s by MKL, 195 by oneDNN; backward 93 against 160. In bfloat16 oneDNN adds the bias
itself, where GPT-2's layers first copy it to every token: a tenth of the time of `embedded:weak`.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

STEPS = 127
ZERO = 128  # with signed activations this kernel is a thousand times slower
SMALLEST = 1e-12  # scale of a row of zeros
LEAST = 0.5  # share of the weights in linear layers, tables of embeddings not counted


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
            super().forward(states)
            if _usual(states, self.weight)
            else _Product.apply(states, self.weight, self.bias)
        )


class OneDnnConv1D(Conv1D):
    """The same for GPT-2's layers, which keep their weights (in, out)."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(..., out) of (..., in)."""
        return (
            super().forward(states)
            if _usual(states, self.weight)
            else _Product.apply(states, self.weight.T, self.bias)
        )


def _usual(states: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether torch's own product is asked for: another dtype, autocast to one, or nothing to multiply."""
    return states.dtype != weight.dtype or torch.is_autocast_enabled("cpu") or not states.numel()


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
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


def _times(
    states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """(..., out) of (..., in) states and (out, in) weights."""
    return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")


def to_int8(model: torch.nn.Module, name: str) -> None:
    """Exchange every linear layer of a float32 model for one in int8, the vocabulary projection included.

    Raises:
        ValueError: a processor without the kernels, or most of the weights are not in linear layers.
    """
    if "x86" not in torch.backends.quantized.supported_engines:
        raise ValueError("dtype='int8' needs an x86 processor: give dtype='auto'")
    places = [
        (module, key, layer)
        for module in model.modules()
        for key, layer in module.named_children()
        if type(layer) in (torch.nn.Linear, Conv1D) and layer.weight.dtype == torch.float32
    ]
    held = {id(layer.weight) for *_, layer in places}
    tables = {
        id(layer.weight) for layer in model.modules() if isinstance(layer, torch.nn.Embedding)
    } - held
    sizes = {
        id(weight): weight.numel() for weight in model.parameters() if id(weight) not in tables
    }
    share = sum(sizes[weight] for weight in held) / max(1, sum(sizes.values()))
    if share < LEAST:
        raise ValueError(
            f"dtype='int8' is for linear layers, and those of {name!r} hold only {share:.0%} of what it multiplies by: "
            "give dtype='auto', or a dense model, such as GPT-2, OPT, Llama, Qwen or Flan-T5, as it was published"
        )
    made: dict[int, Int8Linear] = {}  # a layer that stands in two places stays one
    for module, key, layer in places:
        made[id(layer)] = made.get(id(layer)) or Int8Linear(layer)
        setattr(module, key, made[id(layer)])


class Int8Linear(torch.nn.Module):
    """A linear layer with int8 weights, for float32 inputs and float32 results; it cannot be trained.

    Processors without VNNI instructions sum pairs of products in 16 bits, where 255 x 127 twice is too much: there
    a weight has 63 steps of either sign.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        weight = layer.weight.detach()
        weight = weight.T if isinstance(layer, Conv1D) else weight
        self.out_features, self.in_features = weight.shape
        self.scales = (
            weight.abs().amax(1).clamp_(min=SMALLEST).div_(STEPS if has_vnni() else STEPS // 2)
        )
        self.zeros = torch.zeros(self.out_features, dtype=torch.int64)
        self.bias = None if layer.bias is None else layer.bias.detach()
        whole = (
            (weight / self.scales[:, None]).round_().to(torch.int8).contiguous()
        )  # strides are not looked at
        self.weight = torch.ops.onednn.qlinear_prepack(whole, None)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(..., out) float32 of (..., in) float32."""
        flat = states.reshape(-1, self.in_features)
        scale = flat.abs().amax(1, keepdim=True).clamp_(min=SMALLEST).div_(STEPS)
        whole = (flat / scale).add_(ZERO + 0.5).to(torch.uint8)  # rounds: all are positive
        out = torch.ops.onednn.qlinear_pointwise(
            whole,
            1.0,
            ZERO,
            self.weight,
            self.scales,
            self.zeros,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        # The kernel cannot scale by row. With the bias in the same pass this costs a tenth of the product.
        out = (
            out.mul_(scale) if self.bias is None else torch.addcmul(self.bias, out, scale, out=out)
        )
        return out.view(*states.shape[:-1], self.out_features)


def has_vnni() -> bool:
    """Whether the processor sums products of 8-bit integers in 32 bits."""
    abilities = torch.cpu.get_capabilities()
    return any(abilities.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))
