"""A causal language model that says how surprising each response is; texts into vectors stand in `encoders`.

The token at position t is predicted from the hidden state at t - 1. Padding stands on the right, where
a causal model never looks, so no attention mask is needed and attention stays on its fastest path.
Only scored positions reach the vocabulary projection, in chunks, and logits are float32 always.
"""

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from ..embedded import model_folder
from ..revisions import resolve_revision
from .batching import default_batch_tokens, run_by_length
from .fork_safety import after_fork
from .lm_head import VocabularyHead
from .loading import load_tokenizer, load_weights, pick_device, pick_dtype, to_device, window_of
from .prefix_tree import Tree, attention_by, can_share, run_trees
from .tokenization import Ids, Window, WindowReader, batch_of, padded

Reduce = Callable[[torch.Tensor], torch.Tensor]
ONE_AT_A_TIME = (
    threading.Lock()
)  # a forward pass patches its model and may set process-wide switches


@lru_cache(maxsize=4)
def load_causal_lm(
    model: str,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    attn_implementation: str | None = None,
) -> "CausalLM":
    """A `CausalLM`, loaded once per process for the same settings; `revision` has to be a resolved one."""
    return CausalLM(
        model,
        revision=revision,
        dtype=dtype,
        device=device,
        attn_implementation=attn_implementation,
    )


class CausalLM:
    """Losses of responses under a causal language model of transformers.

    Args:
        model: a local folder, a Hub id, `embedded:weak` or `embedded:strong`.
        revision: branch, tag or commit on the Hub.
        dtype: `auto` (bfloat16 where the hardware multiplies it natively, else float32), `float32`,
            `bfloat16`, `float16`, or on a CPU `int8`. Logits and losses are float32 always.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        attn_implementation: as in transformers; None lets transformers choose.

    Attributes:
        windows: a function from texts to windows, `WindowReader.windows`.

    Raises:
        FileNotFoundError: no such model, or a folder without config or weights.
        ValueError: an encoder-decoder model.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        attn_implementation: str | None = None,
    ) -> None:
        after_fork()
        self.name, self.device = model_folder(str(model)), pick_device(device)
        self.revision = resolve_revision(self.name, revision)
        self.dtype = pick_dtype(dtype, self.device, int8=True)
        on_hub = None if self.revision.startswith("sha256:") else self.revision
        self.model: Any = load_weights(
            self.name, on_hub, self.dtype, self.device, attn_implementation
        )
        self.model.config.pad_token_id = None  # padding is never marked, see the module's docstring
        self.tokenizer = load_tokenizer(self.name, self.revision)
        self.window = window_of(self.model.config)
        self.batch_tokens = default_batch_tokens(self.device, self.model.config)
        self._body = self.model.get_decoder()
        with ONE_AT_A_TIME:
            self._shares = can_share(self.model)
        self._packs = (
            self._shares and self.device.type == "cuda"
        )  # large batches of any lengths, without padding
        self._head = VocabularyHead(self.model.get_output_embeddings(), self.dtype)
        self.model.set_output_embeddings(self._head)
        self.windows = WindowReader(self.name, self.tokenizer, self.window).windows

    def nll(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        *,
        append_eos: bool = False,
        max_length: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean negative log-likelihood of each response given its prompt.

        Returns:
            (n,) float64 nats per scored response token, nan where none, and (n,) int64 scored tokens.

        Example:
            >>> from hf_superfilter import CausalLM, embedded_model
            >>> nats, tokens = CausalLM(embedded_model("weak")).nll(["Say hello.\\n"], ["Hello there!"])
            >>> bool(0 < nats[0] < 12), int(tokens[0]) > 0
            (True, True)
        """
        pairs = self.windows(prompts, responses, append_eos=append_eos, max_length=max_length)
        return self.losses([pair.given for pair in pairs])

    def losses(
        self, windows: Sequence[Window], batch_tokens: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean loss of the scored tokens of each window, all windows through one length-sorted queue.

        Args:
            windows: n windows of any lengths.
            batch_tokens: tokens of a batch; None is the device's default. Results do not depend on it.

        Returns:
            (n,) float64 nats per scored token (nan where none is), and (n,) int64 scored tokens.
        """
        after_fork()
        counts = np.array([window.scored for window in windows], dtype=np.int64)
        sizes = np.array(
            [len(window.ids) if window.scored else 0 for window in windows], dtype=np.int64
        )
        # Losses stay on the device until all are there: reading one batch's would make a GPU wait for the next.
        owners, found = [np.arange(0)], [torch.zeros(0, device=self.device)]

        def keep(whose: np.ndarray, nats: torch.Tensor) -> None:
            owners.append(whose)
            found.append(nats)

        def run(chosen: np.ndarray) -> None:
            some = [windows[i] for i in chosen.tolist()]
            ids, positions = batch_of(some)
            keep(
                np.repeat(chosen, [w.scored for w in some]),
                self._nats(ids, positions, positions - 1),
            )

        def run_tree(chosen: np.ndarray, tree: Tree) -> None:
            with attention_by(tree.attend, self._body.config):
                nats = self._nats(tree.ids[None], tree.scored, tree.before, tree.depths[None])
            keep(chosen[tree.owners], nats[to_device(tree.places, self.device)])

        with torch.inference_mode(), ONE_AT_A_TIME:
            if self._shares:
                sizes[
                    run_trees(self, windows, sizes, run_tree, batch_tokens, all_of_them=self._packs)
                ] = 0
            run_by_length(self, sizes, run, batch_tokens)
            nats = torch.cat(found).double().cpu().numpy()
        sums = np.bincount(np.concatenate(owners), weights=nats, minlength=len(windows))
        return np.where(counts > 0, sums, np.nan) / np.maximum(counts, 1), counts

    def _nats(
        self,
        ids: np.ndarray,
        scored: np.ndarray,
        before: np.ndarray,
        depths: np.ndarray | None = None,
    ) -> torch.Tensor:
        """(m,) float32 losses of the tokens at positions `scored` of (k, t) ids, each told by the state at `before`."""
        wanted = iter(to_device(ids.reshape(-1)[scored], self.device).split(self._head.rows))
        return self._each_logits(ids, before, lambda logits: _losses(logits, next(wanted)), depths)

    def next_token(self, rows: Sequence[Ids], reduce: Reduce) -> torch.Tensor:
        """What `reduce` makes of the (m, V) float32 logits of the token behind each sequence, in one forward pass.

        The logits come in chunks that live for one call only; the answers are put together in order.
        """
        ids = padded(rows)
        last = [i * ids.shape[1] + len(row) - 1 for i, row in enumerate(rows)]
        return self._each_logits(ids, np.array(last), reduce)

    def _each_logits(
        self,
        ids: np.ndarray,
        positions: np.ndarray,
        reduce: Reduce,
        depths: np.ndarray | None = None,
    ) -> torch.Tensor:
        """The same at any positions of (k, t) token ids, counted through all rows: nothing else is projected.

        `depths`: (k, t) the tokens' places in their windows, where these are not 0, 1, 2 ... in every row.
        """
        given = {"input_ids": ids} if depths is None else {"input_ids": ids, "position_ids": depths}
        tensors = {name: to_device(array, self.device) for name, array in given.items()}
        output = self._body(**tensors, use_cache=False)
        states = output.last_hidden_state.flatten(0, 1)[to_device(positions, self.device)]
        with self._head_only(output) as logits_of:
            return torch.cat([reduce(logits_of(some)) for some in states.split(self._head.rows)])

    @contextmanager
    def _head_only(self, output: Any) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
        """A function from (m, d) hidden states to (m, V) float32 logits, by the model's own forward.

        Its body is short-circuited to hand over the states, so that whatever a model does after
        the projection (soft caps, scales) happens here too, on the chosen positions alone.
        """
        given: list[torch.Tensor] = []
        nothing = torch.zeros((1, 1), dtype=torch.long, device=self.device)

        def logits_of(states: torch.Tensor) -> torch.Tensor:
            given[:] = [states[None]]
            return self.model(input_ids=nothing, use_cache=False).logits[0]

        self._body.forward = lambda *args, **kwargs: dataclasses.replace(
            output, last_hidden_state=given[0]
        )
        try:
            yield logits_of
        finally:
            del self._body.forward  # the class's own forward shows again


def _losses(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """(m,) losses in nats of (m, V) float32 logits, which are overwritten: torch reads a row before it writes it.

    A second block of that size would be mapped afresh each time, which costs more than its arithmetic.
    """
    return -torch.log_softmax(logits, -1, out=logits).gather(-1, wanted[:, None])[:, 0]
