"""Project only chosen positions onto the vocabulary, in float32.

    tokens (k, t) ─► body ─► states (k, t, d) ─► chosen (m, d) ─► head, in chunks ─► logits (m, V)

The body is the part of the model that makes hidden states. The head is the model itself, as a
shallow copy whose body hands over the states that it is given: whatever a model does behind its
body (layer norms, soft caps, scales) happens to the chosen positions too, and the model stays what
it was. Models that cannot be split like this run whole (see `self_check`).
"""

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from .cpu_linear import multiply, onednn_is_faster, packed
from .loading import to_device
from .prefix_tree import Tree, attention_by
from .text_tokenizer import Ids
from .tokenization import padded

# Forward passes reuse one buffer of logits and set process-wide switches of torch and transformers.
FORWARD_LOCK = threading.Lock()

Reduce = Callable[[torch.Tensor], torch.Tensor]

# Logits of a chunk. On a CPU: 161 positions of GPT-2; the C library returns blocks of 32 MB and
# more to the system at once, and every chunk would map its memory anew.
CHUNK_BYTES = {"cpu": 31 << 20, "cuda": 512 << 20}
LEAST_CHUNK_ROWS = 16
# Of `BlockLosses`: large enough for oneDNN, small enough for the cache.
BLOCK_ROWS, BLOCK_COLUMNS = 512, 2_048
FACTOR_TOLERANCES = {torch.bfloat16: 1e-2, torch.float32: 1e-5}  # of logits, relative


class SplitModel:
    """Split a causal language model into body and head.

    Args:
        model: a causal language model of transformers, which is not changed.
        output_layer: what the head multiplies by instead of the model's own output layer.

    Raises:
        NotImplementedError: the model has no body or no output layer that can be found.
    """

    def __init__(self, model: Any, output_layer: torch.nn.Module | None = None) -> None:
        self.body, path = body_of(model)
        self._handover = _Handover()
        self._head: Any = _with_child(model, path, self._handover)
        if output_layer is not None:
            path = _path_of(model, model.get_output_embeddings())
            self._head = _with_child(self._head, path, output_layer)

    def states(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Return the (k, t, d) last hidden states of (k, t) tokens."""
        output = self.body(**inputs, use_cache=False)
        self._handover.output_class = type(output)
        states: torch.Tensor = output.last_hidden_state
        return states

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Return the (m, V) logits of (m, d) states."""
        logits: torch.Tensor = self._head(inputs_embeds=states[None], use_cache=False).logits[0]
        return logits


def body_of(model: Any) -> tuple[torch.nn.Module, str]:
    """Find the part of a model that makes its hidden states, and its path in the model.

    `get_decoder` names it for most models; for the others it is the one child that is a model by
    itself and does not hold the output layer.

    Raises:
        NotImplementedError: there is none.
    """
    output_layer = model.get_output_embeddings()
    if output_layer is None:
        raise NotImplementedError(f"{type(model).__name__} has no output layer")
    for body in (model.get_decoder(), *model.children()):
        is_model = isinstance(body, PreTrainedModel) and body is not model
        if is_model and output_layer not in list(body.modules()):
            return body, _path_of(model, body)
    raise NotImplementedError(f"{type(model).__name__} has no body apart from its output layer")


class _Handover(torch.nn.Module):
    """Stand in for a body: hand over the states that come in place of its embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.output_class: Any = None

    def forward(self, *_: Any, inputs_embeds: torch.Tensor, **__: Any) -> Any:
        return self.output_class(last_hidden_state=inputs_embeds)


def _path_of(model: torch.nn.Module, part: torch.nn.Module) -> str:
    paths: dict[int, str] = {id(module): path for path, module in model.named_modules()}
    return paths[id(part)]


def _with_child(module: torch.nn.Module, path: str, child: torch.nn.Module) -> torch.nn.Module:
    """Copy the modules along a path, and nothing else, to put another child at its end."""
    name, _, rest = path.partition(".")
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    if rest:
        child = _with_child(module.get_submodule(name), rest, child)
    twin._modules[name] = child
    return twin


class Float32Projection(torch.nn.Module):
    """Multiply as a model's output layer does, with float32 logits in one reused buffer.

    On a CPU in bfloat16 the weights are kept in float32 and oneDNN is told to multiply in bfloat16:
    products and sums are those of bfloat16 inputs, the logits are not rounded. Measured on 1,024
    positions of GPT-2: 190 ms, against 230 ms for bfloat16 logits cast up (which err by up to 0.05
    nats) and 520 ms for float32.

    Args:
        layer: the model's output layer; its weight and bias are shared.
        dtype: the dtype of the model.

    Attributes:
        rows: the most states of one call.
    """

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer = layer
        self.weight, self.bias = layer.weight, layer.bias  # some models look at their dtype
        # Other layers have a product of their own: oneDNN's is faster in float32, int8's packed.
        kind = type(layer)
        onednn_float32 = kind is not torch.nn.Linear and layer.weight.dtype == torch.float32
        self.uses_buffer = isinstance(layer, torch.nn.Linear) and not onednn_float32
        device = layer.weight.device
        self.rows = chunk_rows(layer.out_features, device)
        self.multiplies_bfloat16 = device.type == "cpu" and dtype == torch.bfloat16

    @cached_property
    def columns(self) -> torch.Tensor:
        """The (d, V) weights, in float32 on a CPU."""
        weight: torch.Tensor = self.weight.detach()
        return (weight if weight.is_cuda else weight.float()).T

    @cached_property
    def buffer(self) -> torch.Tensor:
        """Memory for (rows, V) logits."""
        shape = (self.rows, self.columns.shape[1])
        return torch.empty(shape, dtype=torch.float32, device=self.columns.device)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return (1, m, V) float32 logits of (1, m, d) states, valid until the next call."""
        if not self.uses_buffer:
            logits: torch.Tensor = self.layer(states)
            return logits.float()
        flat = states.flatten(0, -2)
        out = self.buffer[: len(flat)]
        if self.columns.is_cuda and self.columns.dtype != torch.float32:
            torch.mm(flat, self.columns, out_dtype=torch.float32, out=out)
        else:
            with _bfloat16_products(self.multiplies_bfloat16):
                torch.mm(flat.float(), self.columns, out=out)
        if self.bias is not None:
            out.add_(self.bias)
        return out.view(*states.shape[:-1], -1)


def chunk_rows(vocabulary: int, device: torch.device) -> int:
    """Return how many positions are projected at once."""
    limit = CHUNK_BYTES.get(device.type, CHUNK_BYTES["cpu"])
    return max(LEAST_CHUNK_ROWS, limit // (4 * vocabulary))


@contextmanager
def _bfloat16_products(enabled: bool) -> Iterator[None]:
    """Let oneDNN multiply float32 matrices in bfloat16 with float32 sums, in this block only."""
    if not enabled:
        yield
        return
    switch: Any = torch.backends.mkldnn
    before = switch.matmul.fp32_precision
    switch.matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        switch.matmul.fp32_precision = before


class BlockLosses:
    """Compute losses on a CPU, block by block of the vocabulary.

        loss = log sum_v exp(z_v) - z_target,    z_v = a (w_v - w) . h + a (b_v - b)

    w and b are 0 in float32. In bfloat16 they are means over the vocabulary: a constant off all
    logits changes no loss, but keeps them small, and oneDNN rounds them to bfloat16 (100 by up to
    0.25). The target's is not rounded. Measured on 1,024 positions of GPT-2, one core of an AMD
    EPYC (Zen 4): 0.41 s in bfloat16 and 0.81 in float32, by `Float32Projection` 0.84 and 0.86.

    Args:
        model: a causal language model.

    Raises:
        NotImplementedError: the model does more to its output layer's logits than a factor a.
    """

    def __init__(self, model: Any) -> None:
        layer = model.get_output_embeddings()
        self._inputs = _Inputs()
        self._head = SplitModel(model, self._inputs)
        self._factor = self._measure_factor(layer)
        self._weight, self._mean = layer.weight, torch.zeros(())
        dtype = layer.weight.dtype
        self._bias = torch.zeros(len(layer.weight)) if layer.bias is None else layer.bias.float()
        blocks = list(torch.split(layer.weight, BLOCK_COLUMNS))
        if dtype == torch.bfloat16:
            self._mean = layer.weight.mean(0, dtype=torch.float32)
            self._bias = self._bias - self._bias.mean()
            blocks = [packed((block - self._mean).to(dtype)) for block in blocks]
        biases = torch.split(self._bias.to(dtype), BLOCK_COLUMNS)
        self._blocks = list(zip(blocks, biases, strict=True))

    def _measure_factor(self, layer: Any) -> float:
        logits = torch.linspace(-50, 50, len(layer.weight))
        self._inputs.logits = logits[None, None]
        # Of one token: the head asks for outputs of the class that the body returns.
        states = self._head.states(input_ids=torch.zeros((1, 1), dtype=torch.long))
        final = self._head.logits(states[0]).float()
        factor = float(final[0, -1]) / 50
        tolerance = FACTOR_TOLERANCES[layer.weight.dtype]
        if final.shape != (1, len(logits)) or not torch.allclose(
            final[0], factor * logits, rtol=tolerance, atol=tolerance / 10
        ):
            raise NotImplementedError("logits are bent, masked or cut behind the output layer")
        return factor

    def __call__(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the (m,) float32 losses, in nats, of (m,) targets behind (m, d) states."""
        self._inputs.logits = torch.zeros(1, len(states), 1)
        self._head.logits(states)
        inputs = self._inputs.states.flatten(0, -2).to(self._weight.dtype)
        own = ((self._weight[targets] - self._mean) * inputs).sum(-1) + self._bias[targets]
        total = torch.full((len(inputs), 1), -torch.inf)
        for weight, bias in self._blocks:
            logits = multiply(inputs, weight, bias).float().mul_(self._factor)
            # One kernel, where logsumexp are five: what it takes off one column is the logarithm.
            first = logits[:, :1].clone()
            part = first - torch.log_softmax(logits, -1, out=logits)[:, :1]
            total = torch.logaddexp(total, part)
        losses: torch.Tensor = total[:, 0] - self._factor * own
        return losses


class _Inputs(torch.nn.Module):
    """Stand in for an output layer: keep the states that reach it, and return given logits."""

    logits: torch.Tensor
    states: torch.Tensor

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return (1, m, V) logits."""
        self.states = states
        return self.logits


class LogitsAt:
    """Compute float32 logits at chosen positions, and the losses of tokens.

    Args:
        model: a causal language model.
        dtype: its dtype.
        split: project the chosen positions only; else the model runs whole and projects them all.
    """

    def __init__(self, model: Any, dtype: torch.dtype, *, split: bool = True) -> None:
        self.device: torch.device = model.device
        self._model = model
        self.projection: Float32Projection | None = None
        self._split: SplitModel | None = None
        self._blocks: BlockLosses | None = None
        if split:
            self.projection = Float32Projection(model.get_output_embeddings(), dtype)
            self._split = SplitModel(model, self.projection)
            self._blocks = _block_losses(model)
        self.rows = chunk_rows(model.config.get_text_config().vocab_size, self.device)

    def reduced(
        self,
        ids: np.ndarray,
        positions: np.ndarray,
        reduce: Reduce,
        depths: np.ndarray | None = None,
    ) -> torch.Tensor:
        """Reduce the logits at some positions, chunk by chunk.

        Args:
            ids: (k, t) token ids.
            positions: (m,) positions, counted through all rows.
            reduce: maps (c, V) float32 logits, which live for this call only, to (c, ...) values.
            depths: (k, t) position ids, where these are not 0, 1, 2, ... in every row.

        Returns:
            (m, ...) values in the order of the positions.
        """
        if self._split is None:
            inputs = self._inputs(ids, depths)
            logits = self._model(**inputs, use_cache=False).logits.flatten(0, 1)
            cells = to_device(positions, self.device)
            parts = [reduce(logits[part].float()) for part in torch.split(cells, self.rows)]
            return torch.cat(parts)
        states = self._states(self._split, ids, positions, depths)
        chunks = torch.split(states, self.rows)
        return torch.cat([reduce(self._split.logits(chunk)) for chunk in chunks])

    def _states(
        self,
        split: SplitModel,
        ids: np.ndarray,
        positions: np.ndarray,
        depths: np.ndarray | None,
    ) -> torch.Tensor:
        states = split.states(**self._inputs(ids, depths)).flatten(0, 1)
        return states[to_device(positions, self.device)]

    def _inputs(self, ids: np.ndarray, depths: np.ndarray | None) -> dict[str, torch.Tensor]:
        inputs = {"input_ids": to_device(ids, self.device)}
        if depths is not None:
            inputs["position_ids"] = to_device(depths, self.device)
        return inputs

    def losses(
        self,
        ids: np.ndarray,
        scored: np.ndarray,
        before: np.ndarray,
        depths: np.ndarray | None = None,
    ) -> torch.Tensor:
        """Return the (m,) float32 losses of the tokens at positions `scored`, in nats.

        Args:
            ids: (k, t) token ids.
            scored: (m,) positions of the tokens, counted through all rows.
            before: (m,) positions of the states that predict them.
            depths: (k, t) position ids, where these are not 0, 1, 2, ... in every row.
        """
        targets = to_device(ids.reshape(-1)[scored], self.device)
        if self._split is not None and self._blocks is not None:
            states = self._states(self._split, ids, before, depths)
            parts = zip(
                torch.split(states, BLOCK_ROWS), torch.split(targets, BLOCK_ROWS), strict=True
            )
            return torch.cat([self._blocks(*part) for part in parts])
        chunks = iter(torch.split(targets, self.rows))
        return self.reduced(ids, before, lambda logits: _losses(logits, next(chunks)), depths)

    def tree_losses(self, tree: Tree) -> torch.Tensor:
        """Return the losses of a tree's scored nodes, in nats."""
        body = self._split.body if self._split else self._model
        with attention_by(tree.attend, body.config):
            return self.losses(tree.ids[None], tree.scored, tree.before, tree.depths[None])


def _block_losses(model: Any) -> BlockLosses | None:
    """Return what computes losses in blocks, None where that is not faster or not the same."""
    layer = model.get_output_embeddings()
    if not isinstance(layer, torch.nn.Linear) or not onednn_is_faster(layer.weight):
        return None
    try:
        with torch.inference_mode():
            return BlockLosses(model)
    except NotImplementedError:
        return None


def _losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return (m,) losses in nats of (m, V) float32 logits, which are overwritten.

    torch reads a row before it writes it; a second block of that size would be mapped afresh each
    time, which costs more than its arithmetic.
    """
    return -torch.log_softmax(logits, -1, out=logits).gather(-1, targets[:, None])[:, 0]


class FirstTokenLogits:
    """Compute float32 logits of the first token that an encoder-decoder model writes.

    Args:
        model: an encoder-decoder model.
        dtype: its dtype.
        start: the token that its decoder starts with.
        split: project in float32; else by the model's own output layer.
    """

    def __init__(self, model: Any, dtype: torch.dtype, start: int, *, split: bool = True) -> None:
        self.device: torch.device = model.device
        self.projection: Float32Projection | None = None
        self._model, self._start = model, start
        if split:
            layer = model.get_output_embeddings()
            self.projection = Float32Projection(layer, dtype)
            self._model = _with_child(model, _path_of(model, layer), self.projection)
        self.rows = chunk_rows(model.config.get_text_config().vocab_size, self.device)

    def logits(self, rows: Sequence[Ids]) -> torch.Tensor:
        """Return the (k, V) logits of k sequences, at most `rows`, valid until the next call."""
        ids, mask = masked_batch(rows, self.device)
        start = torch.full((len(rows), 1), self._start, dtype=torch.long, device=self.device)
        output = self._model(
            input_ids=ids, attention_mask=mask, decoder_input_ids=start, use_cache=False
        )
        logits: torch.Tensor = output.logits[:, 0]
        return logits.float()


def masked_batch(
    rows: Sequence[Ids], device: torch.device, padding: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (k, longest) padded ids on a device, and their attention mask."""
    ids = to_device(padded(rows, padding), device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    mask = torch.arange(ids.shape[1], device=device) < lengths[:, None]
    return ids, mask.long()
