"""Multiply linear layers on a CPU faster than torch does by itself: oneDNN, and int8.

oneDNN comes with torch, but torch asks MKL for float32 products, which leaves half the width of
AMD's AVX-512 units idle. Measured on 2,048 tokens through GPT-2's MLP, one core of an AMD EPYC
(Zen 5): 86 GFLOP/s by MKL, 195 by oneDNN; backward 93 against 160. In bfloat16 oneDNN adds the bias
itself, where GPT-2's layers first copy it to every token: a tenth of the time of `embedded:weak`.

For scores alone, weights are laid out once as oneDNN reads them, instead of at every call: a
twentieth of the time of a large batch, a tenth of that of a small one, and an eighth where GPT-2's
`Conv1D` keeps them transposed. A GELU behind such a layer is computed on its sums: in
bfloat16 a fourth of the time of a kernel of its own (one core of an AMD EPYC, Zen 4).

int8 weights have one scale per output feature, activations one scale per token.

Every function that changes a model returns a function that changes it back.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_leaves, tree_map
from transformers.pytorch_utils import Conv1D

from ..errors import SuperfilterError

INT8_STEPS = 127
UINT8_ZERO = (
    128  # activations are unsigned: with signed ones this kernel is a thousand times slower
)
SMALLEST_SCALE = 1e-12  # of a row of zeros
ROUNDED_AT_ONCE = 4_096  # rows of weights: those of a vocabulary would take as much memory again
TYPICAL_ROWS = 2_048  # of states, for which oneDNN picks the layout of packed weights
PACKED_BYTES = 1 << 30  # of the weights of a model that is packed
# The layer in front of an MLP's activation, and oneDNN's names of activations.
BEFORE_ACTIVATION = ("c_fc", "fc_in", "dense_h_to_4h")
# Not SiLU: behind the gates of a Llama that bought nothing.
POST_OPS = {"GELU": "gelu", "GELUActivation": "gelu", "GELUTanh": "gelu"}
LEAST_LINEAR_SHARE = 0.5  # of the weights, embedding tables not counted

Undo = Callable[[], None]


def use_onednn(model: torch.nn.Module) -> Undo:
    """Let linear layers on a CPU multiply by oneDNN.

    Weights, their names and their ties stay what they were; the layers can be trained and saved.
    Nothing changes on processors without AVX-512, where oneDNN is not known to be faster.
    """
    replacements: dict[type, type] = {torch.nn.Linear: OneDnnLinear, Conv1D: OneDnnConv1D}
    changed: list[tuple[torch.nn.Module, type]] = []
    for layer in model.modules():
        plain_class = type(layer)
        if plain_class in replacements and onednn_is_faster(layer.weight):
            # A new layer would have to take over ties, hooks and names; a new class does not.
            layer.__class__ = replacements[plain_class]
            changed.append((layer, plain_class))

    def undo() -> None:
        for layer, plain_class in changed:
            layer.__class__ = plain_class

    return undo


def onednn_is_faster(weight: Any) -> bool:
    """Tell whether oneDNN multiplies by such weights faster than torch by itself."""
    capabilities = torch.cpu.get_capabilities()
    dtypes = []
    if capabilities.get("avx512_f") and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        dtypes.append(torch.float32)
        if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"):
            dtypes.append(torch.bfloat16)
    is_on_cpu = weight.device.type == "cpu" and weight.numel() > 0
    return is_on_cpu and weight.dtype in dtypes


class OneDnnLinear(torch.nn.Linear):
    """Multiply as `torch.nn.Linear`, by oneDNN where inputs have the weights' dtype."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Map (..., in) states to (..., out)."""
        if _needs_torch(states, self.weight):
            return super().forward(states)
        return _product(states, self.weight, self.bias)


class OneDnnConv1D(Conv1D):
    """Multiply as GPT-2's layers, which keep their weights as (in, out)."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Map (..., in) states to (..., out)."""
        if _needs_torch(states, self.weight):
            product: torch.Tensor = super().forward(states)  # type: ignore[no-untyped-call]
            return product
        return _product(states, self.weight.T, self.bias)


def _needs_torch(states: torch.Tensor, weight: torch.Tensor) -> bool:
    """Tell whether torch multiplies: another dtype, autocast to one, or nothing to multiply."""
    if states.dim() < 2 or not states.numel():
        return True
    return states.dtype != weight.dtype or torch.is_autocast_enabled("cpu")


def _product(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    # Flat, since oneDNN's product of more dimensions is a view, which no layer may change in place.
    flat = states.flatten(0, -2)
    product: torch.Tensor = _Product.apply(flat, weight, bias)  # type: ignore[no-untyped-call]
    return product.view(*states.shape[:-1], -1)


class _Product(torch.autograd.Function):
    """Multiply (n, in) states by (out, in) weights, differentiable in all three."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(states, weight)
        return multiply(states, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        states, weight = ctx.saved_tensors
        needs_states, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            multiply(grad, weight.T) if needs_states else None,
            multiply(grad.T, states.T) if needs_weight else None,
            grad.sum(0) if needs_bias else None,
        )


def multiply(
    states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    post_op: tuple[str, str] = ("none", ""),
) -> torch.Tensor:
    """Map (n, in) states to (n, out) by oneDNN, with weights (out, in), packed or not."""
    name, algorithm = post_op
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
        states, weight, bias, name, [], algorithm
    )
    return product


def packed(weight: torch.Tensor) -> torch.Tensor:
    """Lay (out, in) weights out as oneDNN reads them."""
    layout: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, TYPICAL_ROWS)
    return layout


class PackedWeight(torch.Tensor):
    """Keep the weights of a linear layer as oneDNN reads them, and nothing else of them.

    Whatever reads them sees them dense, and whatever changes them in place has them packed anew:
    RWKV scales some of them.

    Attributes:
        blocks: the packed (out, in) weights.
    """

    blocks: torch.Tensor
    _is_transposed: bool
    _is_param = True  # what makes it a parameter, to torch

    @classmethod
    def of(cls, layer: Any) -> "PackedWeight":
        """Pack the weights of a linear layer."""
        weight = layer.weight.detach()
        wrapper: Any = torch.Tensor._make_wrapper_subclass
        self: PackedWeight = wrapper(cls, weight.shape, dtype=weight.dtype, device=weight.device)
        self._is_transposed = isinstance(layer, Conv1D)
        self._pack(weight)
        return self

    def _pack(self, weight: torch.Tensor) -> None:
        self.blocks = packed(weight.T.contiguous() if self._is_transposed else weight)

    def dense(self) -> torch.Tensor:
        """Return a copy of the weights in the shape of their layer."""
        weight = self.blocks.to_dense()
        return weight.T.contiguous() if self._is_transposed else weight

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation on dense copies, and pack those that it has changed."""
        inputs = {id(x): (x, x.dense()) for x in tree_leaves((args, kwargs)) if type(x) is cls}

        def dense(value: Any) -> Any:
            return inputs[id(value)][1] if type(value) is cls else value

        result = function(*tree_map(dense, args), **tree_map(dense, kwargs or {}))
        if function._schema.is_mutable:
            for weight, copy in inputs.values():
                weight._pack(copy)
        return result


def use_packed(model: Any) -> Undo:
    """Let linear layers on a CPU multiply by packed weights, and compute activations behind them.

    Names and values of the weights stay what they were. The output layer stays as it is, since
    others read its weights; so do layers that share theirs, and models of more than `PACKED_BYTES`,
    whose weights the processes of a machine share as pages of the file.
    """
    output_layer = model.get_output_embeddings()
    replacements: dict[type, type] = {torch.nn.Linear: PackedLinear, Conv1D: PackedConv1D}
    owners = Counter(id(weight) for part in model.modules() for weight in part._parameters.values())
    layers: list[Any] = [
        part
        for part in model.modules()
        if type(part) in replacements
        and part is not output_layer
        and owners[id(part.weight)] == 1
        and onednn_is_faster(part.weight)
    ]
    undo: list[Undo] = []
    if sum(layer.weight.nbytes for layer in layers) <= PACKED_BYTES:
        for layer in layers:
            undo.append(partial(_unpack, layer, type(layer), layer.weight))
            _pack(layer, replacements[type(layer)])
        for parent in model.modules():
            undo += _fuse_activation(parent)

    def undo_all() -> None:
        for step in reversed(undo):
            step()

    return undo_all


def _pack(layer: Any, packed_class: type) -> None:
    parameter = layer.weight
    layer._parameters["weight"] = PackedWeight.of(layer)
    parameter.data = parameter.new_empty(0)  # no model lies in memory twice
    layer.__class__, layer.post_op = packed_class, ("none", "")


def _unpack(layer: Any, plain_class: type, parameter: torch.nn.Parameter) -> None:
    parameter.data = layer.weight.dense()
    layer._parameters["weight"] = parameter
    del layer.post_op
    layer.__class__ = plain_class


def _fuse_activation(parent: torch.nn.Module) -> list[Undo]:
    """Let a packed layer compute the activation behind it."""
    children = dict(parent.named_children())
    layers = [children[key] for key in BEFORE_ACTIVATION if key in children]
    activations = [(k, child) for k, child in children.items() if type(child).__name__ in POST_OPS]
    if (
        len(layers) != 1
        or len(activations) != 1
        or not isinstance(layers[0], PackedLinear | PackedConv1D)
    ):
        return []
    key, activation = activations[0]
    algorithm = "none"
    if getattr(activation, "approximate", "none") == "tanh" or "Tanh" in type(activation).__name__:
        algorithm = "tanh"
    layers[0].post_op = POST_OPS[type(activation).__name__], algorithm
    setattr(parent, key, torch.nn.Identity())
    return [partial(setattr, parent, key, activation)]


class PackedLinear(torch.nn.Linear):
    """Multiply as `torch.nn.Linear`, by packed weights; it cannot be trained."""

    weight: PackedWeight
    post_op: tuple[str, str]

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Map (..., in) states to (..., out)."""
        return _packed_product(self, states)


class PackedConv1D(Conv1D):
    """Multiply as GPT-2's layers, by packed weights; it cannot be trained."""

    weight: PackedWeight  # type: ignore[assignment]
    post_op: tuple[str, str]

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Map (..., in) states to (..., out)."""
        return _packed_product(self, states)


def _packed_product(layer: Any, states: torch.Tensor) -> torch.Tensor:
    flat = states.reshape(-1, states.shape[-1])
    product = multiply(flat, layer.weight.blocks, layer.bias, layer.post_op)
    return product.view(*states.shape[:-1], -1)


def use_int8(model: torch.nn.Module, name: str) -> Undo:
    """Replace every linear layer of a float32 model by one in int8, the output layer included.

    Args:
        model: a model on a CPU.
        name: its name, for messages.

    Raises:
        ValueError: no x86 processor, or most of the weights are not in linear layers.
    """
    if "x86" not in torch.backends.quantized.supported_engines:
        raise SuperfilterError("dtype='int8' needs an x86 processor: give dtype='auto'")
    layers = [
        (parent, key, layer)
        for parent in model.modules()
        for key, layer in parent.named_children()
        if type(layer) in (torch.nn.Linear, Conv1D) and layer.weight.dtype == torch.float32
    ]
    _check_linear_share(model, [layer for *_, layer in layers], name)
    quantized: dict[int, Int8Linear] = {}  # a layer that stands in two places stays one
    for parent, key, layer in layers:
        if id(layer) not in quantized:
            quantized[id(layer)] = Int8Linear(layer)
        setattr(parent, key, quantized[id(layer)])

    def undo() -> None:
        for parent, key, layer in layers:
            setattr(parent, key, layer)

    return undo


def _check_linear_share(model: torch.nn.Module, layers: list[Any], name: str) -> None:
    linear = {id(layer.weight) for layer in layers}
    embeddings = [layer for layer in model.modules() if isinstance(layer, torch.nn.Embedding)]
    tables = {id(layer.weight) for layer in embeddings} - linear
    sizes = {id(weight): weight.numel() for weight in model.parameters()}
    multiplied = {key: size for key, size in sizes.items() if key not in tables}
    share = sum(multiplied[key] for key in linear) / max(1, sum(multiplied.values()))
    if share < LEAST_LINEAR_SHARE:
        raise SuperfilterError(
            f"dtype='int8' is for linear layers, and those of {name!r} hold only {share:.0%} of "
            "what it multiplies by: give dtype='auto', or a dense model, such as GPT-2, OPT, "
            "Llama, Qwen or Flan-T5, as it was published"
        )


class Int8Linear(torch.nn.Module):
    """Multiply float32 states by int8 weights into float32; it cannot be trained.

    Processors without VNNI instructions sum pairs of products in 16 bits, where 255 x 127 twice is
    too much: there a weight has 63 steps of either sign.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        weight = layer.weight.detach()
        if isinstance(layer, Conv1D):
            weight = weight.T
        steps = INT8_STEPS if has_vnni() else INT8_STEPS // 2
        self.out_features, self.in_features = weight.shape
        largest = torch.maximum(weight.amax(1), -weight.amin(1))
        self.scales = largest.clamp_(min=SMALLEST_SCALE).div_(steps)
        self.zeros = torch.zeros(self.out_features, dtype=torch.int64)
        self.bias = None if layer.bias is None else layer.bias.detach()
        # The kernel reads memory in order, whatever the strides say.
        rounded = torch.empty(weight.shape, dtype=torch.int8)
        parts = [tensor.split(ROUNDED_AT_ONCE) for tensor in (rounded, weight, self.scales)]
        for target, part, scales in zip(*parts, strict=True):
            target.copy_((part / scales[:, None]).round_())
        self.weight = torch.ops.onednn.qlinear_prepack(rounded, None)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Map (..., in) float32 states to (..., out) float32."""
        flat = states.reshape(-1, self.in_features)
        largest = torch.maximum(flat.amax(1, keepdim=True), -flat.amin(1, keepdim=True))
        scale = largest.clamp_(min=SMALLEST_SCALE).div_(INT8_STEPS)
        # All are positive here, so that cutting the fraction off rounds to the nearest.
        rounded = (flat / scale).add_(UINT8_ZERO + 0.5).to(torch.uint8)
        product: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            rounded, 1.0, UINT8_ZERO, self.weight, self.scales, self.zeros,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        # The kernel cannot scale by row. With the bias in the same pass it costs a tenth more.
        if self.bias is None:
            product.mul_(scale)
        else:
            torch.addcmul(self.bias, product, scale, out=product)
        return product.view(*states.shape[:-1], self.out_features)


def has_vnni() -> bool:
    """Tell whether the processor sums products of 8-bit integers in 32 bits."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))
