"""Share the beginnings of windows: a tree of tokens, each computed once.

    windows        nodes   a b c d e f      paths   0 1 2 3
    a b c d                0 1 2 3 4 5              0 1 4
    a b e          depths  0 1 2 3 2 3              0 1 4 5
    a b e f        parents . 0 1 2 1 4

A layer's projections, norms and MLP, and the vocabulary, see every node once. Attention runs along
the paths, as it does without a tree, so that scores agree to rounding, at any depth of nesting,
with no mask and no cache.

Windows that have nothing in common may stand in one tree too: this is how a batch of any lengths is
full and needs no padding.
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

from .batching import LoadedModel, batches_by_length, run_under_budget
from .loading import to_device
from .text_tokenizer import Ids
from .tokenization import Window, padded

LEAST_SHARED = 0.1  # of a window's tokens with its neighbour, and half of it over all windows
PATH_PADDING = 0.1  # of a grid of paths, see `Tree._grids`
ATTENTION_NAME = "hf_superfilter_paths"  # in transformers' attention interface
VARLEN_DTYPES = (torch.float16, torch.bfloat16)
VARLEN_WIDTH = 256  # of a head, at most


def varlen_attention() -> Callable[..., Any] | None:
    """Return torch's attention for concatenated sequences, None where torch is too old."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    if {"window_size", "enable_gqa"} <= set(signature(varlen_attn).parameters):
        return varlen_attn
    return None


VARLEN_ATTENTION = varlen_attention()


def may_use_trees(model: Any) -> bool:
    """Tell whether a model's configuration allows trees: torch's attention over all tokens.

    Sliding windows look like full attention on short windows, so this has to be known beforehand.
    Everything else shows when a tree's losses are compared with plain ones (see `self_check`).
    """
    config = model.config.get_text_config()
    if config._attn_implementation != "sdpa":
        return False
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)


@contextmanager
def attention_by(function: Callable[..., Any], config: Any) -> Iterator[None]:
    """Let the model of a config attend by a function, in this block only."""
    AttentionInterface.register(ATTENTION_NAME, function)
    before, config._attn_implementation = config._attn_implementation, ATTENTION_NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def families(rows: Sequence[Ids]) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows that are worth a tree, sorted by their ids.

    Returns:
        (k,) row numbers, and (k,) how many ids each shares with the one before it, 0 where a family
        begins. Both are empty where it does not pay.

    Example:
        >>> order, shared = families([[7, 8, 9], [1, 2, 4], [5], [1, 2, 3, 6]])
        >>> order.tolist(), shared.tolist()
        ([3, 1], [0, 2])
    """
    order, shared = sorted_by_beginning(rows)
    sizes = np.array([len(rows[i]) for i in order], dtype=np.int64)
    shared[shared < LEAST_SHARED * sizes] = 0
    in_family = (shared > 0) | (np.append(shared[1:], 0) > 0)
    if shared.sum() < LEAST_SHARED * sizes.sum() / 2:
        in_family[:] = False
    return order[in_family], shared[in_family]


def sorted_by_beginning(rows: Sequence[Ids]) -> tuple[np.ndarray, np.ndarray]:
    """Sort rows by their ids; count the ids that each shares with the one before it."""
    order = np.array(sorted(range(len(rows)), key=lambda i: list(rows[i])), dtype=np.int64)
    shared = np.zeros(len(rows), dtype=np.int64)
    for place in range(1, len(order)):
        shared[place] = _shared_length(rows[order[place - 1]], rows[order[place]])
    return order, shared


def _shared_length(a: Ids, b: Ids) -> int:
    for length, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return length
    return min(len(a), len(b))


def run_trees(
    model: LoadedModel,
    windows: Sequence[Window],
    sizes: np.ndarray,
    run: Callable[[np.ndarray, "Tree"], None],
    batch_tokens: int | None,
    *,
    pack_all: bool,
) -> np.ndarray:
    """Run windows as trees under the token budget.

    Args:
        model: where it runs.
        windows: n windows.
        sizes: (n,) tokens of each; one of 0 is left out.
        run: runs the windows of the given numbers, which are those of the tree, in one pass.
        batch_tokens: nodes of a tree.
        pack_all: run all windows; else those that share enough for a tree to pay.

    Returns:
        (k,) the numbers of the windows that were run.
    """
    numbers = np.flatnonzero(sizes)
    order, shared = families([windows[i].ids for i in numbers.tolist()])
    order = numbers[order]
    if pack_all:
        rest = np.setdiff1d(numbers, order)
        order = np.append(order, rest[np.argsort(-sizes[rest], kind="stable")])
        shared = np.append(shared, np.zeros(len(rest), dtype=np.int64))
    tree_sizes = sizes[order]

    def group(pending: np.ndarray, budget: int) -> Iterator[np.ndarray]:
        return batches_of_nodes(tree_sizes[pending], shared[pending], budget)

    def run_tree(places: np.ndarray) -> None:
        leaves = order[places]
        tree = Tree([windows[i] for i in leaves.tolist()], shared[places], model.device)
        run(leaves, tree)

    run_under_budget(model, tree_sizes, group, run_tree, batch_tokens)
    return order


def batches_of_nodes(sizes: np.ndarray, shared: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Group neighbours into trees of at most `budget` nodes.

    Example:
        >>> sizes, shared = np.array([4, 3, 4]), np.array([0, 2, 3])
        >>> [batch.tolist() for batch in batches_of_nodes(sizes, shared, budget=5)]
        [[0, 1], [2]]
    """
    start, nodes = 0, 0
    for i, (size, common) in enumerate(zip(sizes.tolist(), shared.tolist(), strict=True)):
        if i > start and nodes + size - common > budget:
            yield np.arange(start, i)
            start, nodes = i, 0
        if i > start:
            size -= common
        nodes += size
    if start < len(sizes):
        yield np.arange(start, len(sizes))


class Tree:
    """Windows as a tree of tokens.

    Args:
        windows: in the order of `sorted_by_beginning`.
        shared: ids that each shares with the one before it; that of the first is not read.
        device: where attention runs.

    Attributes:
        ids, depths: (nodes,) token ids and their places in the windows.
        scored, before: (m,) the nodes that some window scores, and the node in front of each.
        owners, places: for each token that a window scores, the window and its place among the m.
    """

    def __init__(self, windows: Sequence[Window], shared: np.ndarray, device: torch.device) -> None:
        ids: list[int] = []
        path = np.arange(0)
        self._paths: list[np.ndarray] = []
        for window, length in zip(windows, [0, *shared[1:].tolist()], strict=True):
            own_ids = window.ids[length:]
            path = np.append(path[:length], np.arange(len(ids), len(ids) + len(own_ids)))
            ids.extend(own_ids)
            self._paths.append(path)
        self._device = device
        self.ids = np.array(ids, dtype=np.int64)
        self.depths, parents = np.zeros_like(self.ids), np.zeros_like(self.ids)
        for path in self._paths:
            self.depths[path] = np.arange(len(path))
            parents[path[1:]] = path[:-1]
        scored = [path[w.start :] for path, w in zip(self._paths, windows, strict=True)]
        self.scored, self.places = np.unique(np.concatenate(scored), return_inverse=True)
        self.owners = np.repeat(np.arange(len(scored)), [len(nodes) for nodes in scored])
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
        """Attend along the paths, by transformers' interface.

        Args:
            module: the attention layer.
            query, key, value: (1, heads, nodes, d) states.
            attention_mask: None.
            options: as transformers gives them.

        Returns:
            (1, nodes, heads, d) states.

        Raises:
            NotImplementedError: the layer has a mask or a bias of its own.
        """
        if attention_mask is not None or options.get("position_bias") is not None:
            raise NotImplementedError("attention with a mask or bias of its own")
        states = [x[0].transpose(0, 1) for x in (query, key, value)]
        if _takes_varlen(states[0]):
            return self._concatenated(states, options.get("scaling"))[None], None
        return self._side_by_side(states, module, options)[None], None

    def _concatenated(self, states: list[torch.Tensor], scale: float | None) -> torch.Tensor:
        """Attend in all paths, one behind the other, by torch's kernel for any lengths."""
        cells, first_cells, ends, longest = self._row
        if cells is not None:
            states = [x.index_select(0, cells) for x in states]
        is_grouped = states[0].shape[1] != states[1].shape[1]
        attention: Any = VARLEN_ATTENTION
        attended: torch.Tensor = attention(
            *states, ends, ends, longest, longest,
            scale=scale, window_size=(-1, 0), enable_gqa=is_grouped,
        )  # fmt: skip
        if cells is None:
            return attended
        return attended.index_select(0, first_cells)

    def _side_by_side(
        self, states: list[torch.Tensor], module: torch.nn.Module, options: dict[str, Any]
    ) -> torch.Tensor:
        """Attend in paths of nearly equal length, side by side, by transformers' attention."""
        attention = _sdpa()
        grids, first_cells = self._grids
        attended = []
        for grid in grids:
            cells, shape = grid.flatten(), list(grid.shape)
            gathered = [x.index_select(0, cells) for x in states]
            paths = [x.view(*shape, *x.shape[1:]).transpose(1, 2) for x in gathered]
            attended.append(attention(module, *paths, None, **options)[0].flatten(0, 1))
        return torch.cat(attended).index_select(0, first_cells)

    @cached_property
    def _row(self) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor, int]:
        """Concatenate the paths.

        Returns:
            The node in each cell (None where each node has one cell), one cell of each node, where
            the paths end, and the longest path.
        """
        cells = np.concatenate(self._paths)
        first_cells = np.zeros(len(self.ids), dtype=np.int64)
        first_cells[cells] = np.arange(len(cells))
        lengths = [len(path) for path in self._paths]
        ends = np.cumsum([0, *lengths], dtype=np.int32)
        nodes = None
        if len(cells) > len(first_cells):
            nodes = to_device(cells, self._device)
        rest = [to_device(array, self._device) for array in (first_cells, ends)]
        return nodes, rest[0], rest[1], max(lengths)

    @cached_property
    def _grids(self) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Lay paths of nearly equal length side by side.

        Returns:
            Grids (paths, longest) of nodes, and one cell of all grids that holds each node.
        """
        grids: list[torch.Tensor] = []
        first_cells = np.zeros(len(self.ids), dtype=np.int64)
        cell = 0
        lengths = [len(path) for path in self._paths]
        for batch in batches_by_length(lengths, 1 << 30, PATH_PADDING):
            paths = [self._paths[i] for i in batch]
            grid = padded(paths)
            for path in paths:
                first_cells[path] = np.arange(cell, cell + len(path))
                cell += grid.shape[1]
            grids.append(to_device(grid, self._device))
        return grids, to_device(first_cells, self._device)


def _sdpa() -> Callable[..., Any]:
    interface = AttentionInterface()  # type: ignore[no-untyped-call]
    attention: Callable[..., Any] = interface["sdpa"]
    return attention


def _takes_varlen(query: torch.Tensor) -> bool:
    """Tell whether torch's kernel for concatenated sequences takes such states."""
    return (
        VARLEN_ATTENTION is not None
        and query.dtype in VARLEN_DTYPES
        and query.shape[-1] <= VARLEN_WIDTH
        and query.device.type == "cuda"
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )
