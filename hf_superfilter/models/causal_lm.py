"""Score responses by the loss of a causal language model.

The token at position t is predicted from the hidden state at t - 1. Padding stands on the right,
where a causal model never looks, so no attention mask is needed and attention stays on its fastest
path. Which fast paths a model runs on is what `self_check` found; logits are float32 always.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from ..embedded import model_folder
from ..revisions import resolve_revision
from ..runs.work import expect
from .batching import default_batch_tokens, run_by_length, split_at
from .fork_safety import after_fork
from .lm_head import FORWARD_LOCK, LogitsAt, Reduce
from .loading import (
    hub_revision,
    length_border,
    load_tokenizer,
    load_weights,
    pick_device,
    pick_dtype,
    to_device,
    use_fast_layers,
    window_of,
)
from .prefix_tree import Tree, run_trees
from .self_check import check_causal_lm, dtype_of
from .text_tokenizer import Ids
from .tokenization import Window, WindowReader, batch_of, mean_by_window, padded
from .unmapped import blocks_apart


@lru_cache(maxsize=4)
def load_causal_lm(
    model: str,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    attn_implementation: str | None = None,
) -> "CausalLM":
    """Load a `CausalLM` once per process; `revision` has to be a resolved one."""
    return CausalLM(
        model,
        revision=revision,
        dtype=dtype,
        device=device,
        attn_implementation=attn_implementation,
    )


class CausalLM:
    """Compute losses of responses under a causal language model of transformers.

    Args:
        model: a local folder, a Hub id, `embedded:weak` or `embedded:strong`.
        revision: branch, tag or commit on the Hub.
        dtype: `auto` (bfloat16 where the hardware multiplies it natively, else float32), `float32`,
            `bfloat16`, `float16`, or on a CPU `int8`. Logits and losses are float32 always.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        attn_implementation: as in transformers; None lets transformers choose.

    Attributes:
        windows: a function from texts to windows, `WindowReader.windows`.
        fast_paths: the fast paths that the model runs on, see `self_check`.

    Raises:
        FileNotFoundError: no such model, or a folder without config or weights.
        ValueError: an encoder-decoder model, or one whose earlier tokens see later ones.
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
        with blocks_apart():
            self._load(attn_implementation)
        self.windows = WindowReader(self.name, self.tokenizer, self.window).windows

    def _load(self, attn_implementation: str | None) -> None:
        """Load the model, and find and take the fast paths that it runs on."""
        self.model: Any = load_weights(
            self.name,
            hub_revision(self.revision),
            self.dtype,
            self.device,
            attn_implementation,
            unmapped=self.device.type == "cpu",
        )
        self.tokenizer = load_tokenizer(self.name, self.revision)
        self.window = window_of(self.model.config)
        self._border = length_border(self.model.config)
        self.batch_tokens = default_batch_tokens(self.device, self.model.config)
        self.fast_paths = check_causal_lm(self.model, self.dtype, self.name, self.revision)
        self.dtype = dtype_of(self.dtype, self.fast_paths.paths)
        if "layers" in self.fast_paths or self.dtype == torch.int8:
            pack = "packed" in self.fast_paths
            use_fast_layers(self.model, self.dtype, self.name, pack=pack)
        # Batches are full, and without padding, whatever the lengths.
        self._packs = "trees" in self.fast_paths
        self._logits_at = LogitsAt(self.model, self.dtype, split="split" in self.fast_paths)

    def nll(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        *,
        append_eos: bool = False,
        max_length: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean negative log-likelihood of each response given its prompt.

        Returns:
            (n,) float64 nats per scored response token, nan where there is none, and (n,) int64
            scored tokens.

        Example:
            >>> from hf_superfilter import CausalLM, embedded_model
            >>> lm = CausalLM(embedded_model("weak"))
            >>> nats, tokens = lm.nll(["Say hello.\\n"], ["Hello there!"])
            >>> bool(0 < nats[0] < 12), int(tokens[0]) > 0
            (True, True)
        """
        pairs = self.windows(prompts, responses, append_eos=append_eos, max_length=max_length)
        return self.losses([pair.given for pair in pairs])

    def losses(
        self, windows: Sequence[Window], batch_tokens: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean loss of the scored tokens of each window.

        Args:
            windows: n windows of any lengths.
            batch_tokens: tokens of a batch; None is the device's default. Results do not depend on
                it.

        Returns:
            (n,) float64 nats per scored token, nan where there is none, and (n,) int64 scored
            tokens.
        """
        nats, counts = self.token_losses(windows, batch_tokens)
        return mean_by_window(nats, counts), counts

    def token_losses(
        self, windows: Sequence[Window], batch_tokens: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the loss of every scored token, window by window.

        Args:
            windows, batch_tokens: as `losses` takes them.

        Returns:
            (tokens,) float64 nats, and (n,) int64 how many of them belong to each window.

        Example:
            >>> from hf_superfilter import CausalLM, embedded_model
            >>> lm = CausalLM(embedded_model("weak"))
            >>> pairs = lm.windows(["Say hello.\\n"] * 2, ["Hello there!", ""])
            >>> nats, counts = lm.token_losses([pair.given for pair in pairs])
            >>> len(nats) == int(counts[0]), int(counts[1])
            (True, 0)
        """
        after_fork()
        counts = np.array([window.scored for window in windows], dtype=np.int64)
        lengths = np.array([len(window.ids) for window in windows], dtype=np.int64)
        # Losses stay on the device to the end: to read a batch's, a GPU would have to wait.
        owners, nats = [np.arange(0)], [torch.zeros(0, device=self.device)]

        def run_batch(numbers: np.ndarray) -> None:
            batch = [windows[i] for i in numbers.tolist()]
            ids, positions = batch_of(batch)
            nats.append(self._logits_at.losses(ids, positions, positions - 1))
            owners.append(np.repeat(numbers, [window.scored for window in batch]))

        def run_tree(numbers: np.ndarray, tree: Tree) -> None:
            losses = self._logits_at.tree_losses(tree)
            nats.append(losses[to_device(tree.places, self.device)])
            owners.append(numbers[tree.owners])

        with torch.inference_mode(), FORWARD_LOCK:
            to_run = np.where(counts > 0, lengths, 0)
            expect(int(to_run.sum()))
            for sizes in split_at(self._border, to_run):
                if "trees" in self.fast_paths:
                    in_trees = run_trees(
                        self, windows, sizes, run_tree, batch_tokens, pack_all=self._packs
                    )
                    sizes[in_trees] = 0
                run_by_length(self, sizes, run_batch, self.fast_paths.budget(batch_tokens))
            total_nats = torch.cat(nats).cpu().double().numpy()
        # Within a window tokens stand in their order already.
        order = np.argsort(np.concatenate(owners), kind="stable")
        return total_nats[order], counts

    def next_token(
        self, rows: Sequence[Ids], reduce: Reduce, batch_tokens: int | None = None
    ) -> torch.Tensor:
        """Reduce the logits of the token behind each sequence.

        Args:
            rows: n sequences of token ids.
            reduce: maps (c, V) float32 logits, which live for this call only, to (c, ...) values.
            batch_tokens: tokens of a batch; None is the device's default.

        Returns:
            (n, ...) values on the CPU.
        """
        after_fork()
        parts, numbers = [], [np.arange(0)]

        def run_batch(chosen: np.ndarray) -> None:
            batch = [rows[i] for i in chosen.tolist()]
            ids = padded(batch)
            last = [i * ids.shape[1] + len(row) - 1 for i, row in enumerate(batch)]
            parts.append(self._logits_at.reduced(ids, np.array(last), reduce).cpu())
            numbers.append(chosen)

        with torch.inference_mode(), FORWARD_LOCK:
            lengths = np.array([len(ids) for ids in rows], dtype=np.int64)
            for sizes in split_at(self._border, lengths):
                run_by_length(self, sizes, run_batch, self.fast_paths.budget(batch_tokens))
        return torch.cat(parts)[np.argsort(np.concatenate(numbers))]
