"""Windows that begin alike go through the model as one tree of tokens: what they share is computed once.

windows        nodes   a b c d e f      paths   0 1 2 3
a b c d                0 1 2 3 4 5              0 1 4
a b e          depths  0 1 2 3 2 3              0 1 4 5
a b e f        parents . 0 1 2 1 4

Everything that a layer does to one token alone (projections, norms, the MLP, the vocabulary) is done
once for a node. Attention alone runs along the paths, as it does without a tree, so that scores agree
to rounding, at any depth of nesting, with no mask and no cache.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import DynamicLayer

from .batching import batches_by_length
from .halving import Placed, run_under_budget
from .windows import Ids, Window, padded

PAYS = 0.1  # of a window's tokens have to be its neighbour's, and half of that share of all tokens
NAME = "hf_superfilter_paths"  # under which transformers knows this attention


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
    if config._attn_implementation != "sdpa" or "position_ids" not in signature(body.forward).parameters:
        return False
    if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=config).layers):
        return False

    def look(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any) -> Any:
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
    for place, (before, own) in enumerate(zip(order[:-1].tolist(), order[1:].tolist(), strict=True), 1):
        common[place] = _common(rows[before], rows[own])
    common[common < PAYS * sizes] = 0
    member = (common > 0) | (np.append(common[1:], 0) > 0)
    if common.sum() < PAYS * sizes.sum() / 2:
        member[:] = False
    return order[member], common[member]


def run_families(
    lm: Placed,
    windows: Sequence[Window],
    sizes: np.ndarray,
    sums_of: Callable[["Tree"], np.ndarray],
    batch_tokens: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Hand the windows that begin alike to `sums_of`, as trees under the token budget, if that pays.

    Args:
        lm: where it runs.
        sizes: (n,) tokens of each window; one of 0 is left out.
        sums_of: does the windows of a tree in one forward pass.

    Returns:
        (k,) the numbers of these windows and what was found for them.
    """
    some = np.flatnonzero(sizes)
    order, common = families([windows[i].ids for i in some.tolist()])
    order, found = some[order], np.zeros(len(order))
    own_sizes = sizes[order]

    def group(todo: np.ndarray, budget: int) -> Iterator[np.ndarray]:
        return batches_of_nodes(own_sizes[todo], common[todo], budget)

    def run(places: np.ndarray) -> None:
        found[places] = sums_of(Tree([windows[i] for i in order[places].tolist()], common[places], lm.device))

    run_under_budget(lm, own_sizes, group, run, batch_tokens)
    return order, found


def _common(a: Ids, b: Ids) -> int:
    """How many ids two rows share at their beginnings."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


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
    """

    def __init__(self, windows: Sequence[Window], common: np.ndarray, device: torch.device) -> None:
        paths: list[np.ndarray] = [np.arange(0)]
        ids: list[int] = []
        for window, shared in zip(windows, [0, *common[1:].tolist()], strict=True):
            own = window.ids[shared:]
            paths.append(np.append(paths[-1][:shared], np.arange(len(ids), len(ids) + len(own))))
            ids.extend(own)
        self.ids, paths = np.array(ids, dtype=np.int64), paths[1:]
        self.depths, parents = np.zeros_like(self.ids), np.zeros_like(self.ids)
        for path in paths:
            self.depths[path] = np.arange(len(path))
            parents[path[1:]] = path[:-1]
        starts = [window.start for window in windows]
        wanted = [path[start:] for path, start in zip(paths, starts, strict=True)]
        self.scored, self._places = np.unique(np.concatenate(wanted), return_inverse=True)
        self._owners = np.repeat(np.arange(len(wanted)), list(map(len, wanted)))
        self.before = parents[self.scored]
        self._grids, first = _grids(paths, len(ids))
        self._grids = [grid.to(device) for grid in self._grids]
        self._first = first.to(device)

    def sums(self, nats: np.ndarray) -> np.ndarray:
        """(k,) sums over each window's scored tokens of what was found for the `scored` nodes."""
        return np.bincount(self._owners, weights=nats[self._places])

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
        attention: Callable[..., Any] = AttentionInterface()["sdpa"]
        states = [x[0].transpose(0, 1) for x in (query, key, value)]
        found = []
        for grid in self._grids:
            cells = grid.flatten()
            along = [x.index_select(0, cells).unflatten(0, grid.shape).transpose(1, 2) for x in states]
            found.append(attention(module, *along, None, **options)[0].flatten(0, 1))
        return torch.cat(found).index_select(0, self._first)[None], None


def _grids(paths: list[np.ndarray], nodes: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Paths of nearly equal length side by side, and (nodes,) one cell of all grids that holds each node."""
    grids, first, done = [], np.zeros(nodes, dtype=np.int64), 0
    for some in batches_by_length([len(path) for path in paths], 1 << 30, padding=0.1):
        grid = padded([paths[i] for i in some])
        for i in some:
            first[paths[i]] = np.arange(done, done + len(paths[i]))
            done += grid.shape[1]
        grids.append(torch.from_numpy(grid))
    return grids, torch.from_numpy(first)
