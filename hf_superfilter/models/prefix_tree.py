"""Windows that begin alike go through the model as one tree of tokens: what they share is computed once.

windows        nodes   a b c d e f      paths   0 1 2 3
a b c d                0 1 2 3 4 5              0 1 4
a b e          depths  0 1 2 3 2 3              0 1 4 5
a b e f        parents . 0 1 2 1 4

Everything that a layer does to one token alone (projections, norms, the MLP, the vocabulary) is done
once for a node. Attention alone runs along the paths, as it does without a tree, so that scores agree
to rounding, at any depth of nesting, with no mask and no cache.

Windows that have nothing in common may stand in one tree too: on a GPU it is how a large batch of all
lengths needs no padding.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from inspect import signature
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import DynamicLayer

from .batching import Placed, batches_by_length, run_under_budget
from .loading import to_device
from .tokenization import Ids, Window, padded

PAYS = 0.1  # of a window's tokens have to be its neighbour's, and half of that share of all tokens
NAME = "hf_superfilter_paths"  # under which transformers knows this attention
HALVES, WIDEST = (
    (torch.float16, torch.bfloat16),
    256,
)  # dtypes and widths of a head that torch's own kernel takes


def varlen_attention() -> Any:
    """torch's attention for sequences of any lengths one behind the other, where it is as in torch 2.13; else None."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return (
        varlen_attn
        if {"window_size", "enable_gqa"} <= set(signature(varlen_attn).parameters)
        else None
    )


VARLEN = varlen_attention()


def _is_ampere(device: torch.device) -> bool:
    """Whether a device has FlashAttention: a GPU of compute capability 8.0 or later."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


@contextmanager
def attention_by(function: Callable[..., Any], config: Any) -> Iterator[None]:
    """Let the model of a config attend by a function of transformers' interface, in this block only."""
    AttentionInterface.register(NAME, function)
    before, config._attn_implementation = config._attn_implementation, NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def can_share(model: Any) -> bool:
    """Whether a model's attention can run along paths, found out in a forward pass over two tokens.

    Every layer has to hand its states, and no mask or bias of its own, to torch's kernel through transformers'
    interface, and to see all tokens: sliding windows and recurrent layers are left to the plain way.
    """
    body, config, plain = model.get_decoder(), model.config.get_text_config(), []
    if (
        config._attn_implementation != "sdpa"
        or "position_ids" not in signature(body.forward).parameters
    ):
        return False
    if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=config).layers):
        return False

    def look(
        module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any
    ) -> Any:
        plain.append(attention_mask is None and options.get("position_bias") is None)
        return AttentionInterface()["sdpa"](module, query, key, value, None, **options)

    with torch.inference_mode(), attention_by(look, body.config):
        body(input_ids=torch.zeros((1, 2), dtype=torch.long, device=model.device), use_cache=False)
    return len(plain) == config.num_hidden_layers and all(plain)


def families(rows: Sequence[Ids]) -> tuple[np.ndarray, np.ndarray]:
    """The rows that are worth a tree, sorted by their ids, and how many ids each shares with the one before it.

    Returns:
        (k,) row numbers and (k,) shared ids, 0 where a family begins. Both are empty where it does not pay.

    Example:
        >>> order, common = families([[7, 8, 9], [1, 2, 4], [5], [1, 2, 3, 6]])
        >>> order.tolist(), common.tolist()
        ([3, 1], [0, 2])
    """
    order = np.array(sorted(range(len(rows)), key=lambda i: list(rows[i])), dtype=np.int64)
    sizes = np.array([len(rows[i]) for i in order], dtype=np.int64)
    common = np.zeros(len(rows), dtype=np.int64)
    for place, (before, own) in enumerate(
        zip(order[:-1].tolist(), order[1:].tolist(), strict=True), 1
    ):
        common[place] = _common(rows[before], rows[own])
    common[common < PAYS * sizes] = 0
    member = (common > 0) | (np.append(common[1:], 0) > 0)
    if common.sum() < PAYS * sizes.sum() / 2:
        member[:] = False
    return order[member], common[member]


def run_trees(
    lm: Placed,
    windows: Sequence[Window],
    sizes: np.ndarray,
    run: Callable[[np.ndarray, "Tree"], None],
    batch_tokens: int | None,
    *,
    all_of_them: bool,
) -> np.ndarray:
    """Hand windows to `run` as trees under the token budget: those that begin alike, if that pays, or all of them.

    Args:
        lm: where it runs.
        sizes: (n,) tokens of each window; one of 0 is left out.
        run: does the windows of the given numbers, which are those of the tree, in one forward pass.

    Returns:
        (k,) the numbers of the windows that were done.
    """
    some = np.flatnonzero(sizes)
    order, common = families([windows[i].ids for i in some.tolist()])
    order = some[order]
    if all_of_them:
        rest = np.setdiff1d(some, order)
        order = np.append(order, rest[np.argsort(-sizes[rest], kind="stable")])
        common = np.append(common, np.zeros(len(rest), dtype=np.int64))
    own_sizes = sizes[order]

    def group(todo: np.ndarray, budget: int) -> Iterator[np.ndarray]:
        return batches_of_nodes(own_sizes[todo], common[todo], budget)

    def run_tree(places: np.ndarray) -> None:
        chosen = order[places]
        run(chosen, Tree([windows[i] for i in chosen.tolist()], common[places], lm.device))

    run_under_budget(lm, own_sizes, group, run_tree, batch_tokens)
    return order


def _common(a: Ids, b: Ids) -> int:
    """How many ids two rows share at their beginnings."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def batches_of_nodes(sizes: np.ndarray, common: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Neighbours in one batch as long as their tree has at most `budget` nodes.

    Example:
        >>> [batch.tolist() for batch in batches_of_nodes(np.array([4, 3, 4]), np.array([0, 2, 3]), budget=5)]
        [[0, 1], [2]]
    """
    start, nodes = 0, 0
    for i, (size, shared) in enumerate(zip(sizes.tolist(), common.tolist(), strict=True)):
        if i > start and nodes + size - shared > budget:
            yield np.arange(start, i)
            start, nodes = i, 0
        nodes += size - (shared if i > start else 0)
    if start < len(sizes):
        yield np.arange(start, len(sizes))


class Tree:
    """Windows as a tree of tokens.

    Args:
        windows: in the order of `families`.
        common: how many ids each shares with the one before it; that of the first is not read.
        device: where attention runs.

    Attributes:
        ids, depths: (nodes,) token ids and positions.
        scored, before: (m,) the nodes that some window scores, and the node in front of each.
        owners, places: for each token that a window scores, the window and which of the m nodes it is.
    """

    def __init__(self, windows: Sequence[Window], common: np.ndarray, device: torch.device) -> None:
        paths: list[np.ndarray] = [np.arange(0)]
        ids: list[int] = []
        for window, shared in zip(windows, [0, *common[1:].tolist()], strict=True):
            own = window.ids[shared:]
            paths.append(np.append(paths[-1][:shared], np.arange(len(ids), len(ids) + len(own))))
            ids.extend(own)
        self.ids, self._paths, self._device = np.array(ids, dtype=np.int64), paths[1:], device
        self.depths, parents = np.zeros_like(self.ids), np.zeros_like(self.ids)
        for path in self._paths:
            self.depths[path] = np.arange(len(path))
            parents[path[1:]] = path[:-1]
        starts = [window.start for window in windows]
        wanted = [path[start:] for path, start in zip(self._paths, starts, strict=True)]
        self.scored, self.places = np.unique(np.concatenate(wanted), return_inverse=True)
        self.owners = np.repeat(np.arange(len(wanted)), list(map(len, wanted)))
        self.before = parents[self.scored]

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **options: Any,
    ) -> tuple[torch.Tensor, None]:
        """Attention of transformers' interface: (1, heads, nodes, d) states, (1, nodes, heads, d) results."""
        states = [x[0].transpose(0, 1) for x in (query, key, value)]
        if (
            VARLEN
            and query.dtype in HALVES
            and query.shape[-1] <= WIDEST
            and _is_ampere(query.device)
        ):
            return self._behind(states, options.get("scaling"))[None], None
        return self._beside(states, module, options)[None], None

    def _behind(self, states: list[torch.Tensor], scale: float | None) -> torch.Tensor:
        """All paths one behind the other, through torch's kernel for sequences of any lengths."""
        cells, first, ends, longest = self._row
        if cells is not None:
            states = [x.index_select(0, cells) for x in states]
        grouped = states[0].shape[1] != states[1].shape[1]
        made = VARLEN(
            *states,
            ends,
            ends,
            longest,
            longest,
            scale=scale,
            window_size=(-1, 0),
            enable_gqa=grouped,
        )
        return made if cells is None else made.index_select(0, first)

    def _beside(
        self, states: list[torch.Tensor], module: torch.nn.Module, options: dict[str, Any]
    ) -> torch.Tensor:
        """Paths of nearly equal length side by side, through transformers' own attention."""
        attention: Callable[..., Any] = AttentionInterface()["sdpa"]
        grids, first = self._grids
        found = []
        for grid in grids:
            cells = grid.flatten()
            along = [
                x.index_select(0, cells).unflatten(0, grid.shape).transpose(1, 2) for x in states
            ]
            found.append(attention(module, *along, None, **options)[0].flatten(0, 1))
        return torch.cat(found).index_select(0, first)

    @cached_property
    def _row(self) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor, int]:
        """The nodes of all paths (None where each has one), one cell of each node, where paths end, the longest."""
        cells = np.concatenate(self._paths)
        first = np.zeros(len(self.ids), dtype=np.int64)
        first[cells] = np.arange(len(cells))
        lengths = [len(path) for path in self._paths]
        ends = np.cumsum([0, *lengths], dtype=np.int32)
        on = [to_device(array, self._device) for array in (cells, first, ends)]
        return (None if len(cells) == len(first) else on[0]), on[1], on[2], max(lengths)

    @cached_property
    def _grids(self) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Paths of nearly equal length as grids of nodes, and (nodes,) one cell of all grids that holds each node."""
        grids, first, done = [], np.zeros(len(self.ids), dtype=np.int64), 0
        for some in batches_by_length([len(path) for path in self._paths], 1 << 30, padding=0.1):
            grid = padded([self._paths[i] for i in some])
            for i in some:
                first[self._paths[i]] = np.arange(done, done + len(self._paths[i]))
                done += grid.shape[1]
            grids.append(to_device(grid, self._device))
        return grids, to_device(first, self._device)
