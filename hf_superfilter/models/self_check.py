"""Use a fast path only where it agrees with the plain forward pass of that very model.

    plain     the model as transformers runs it, one window at a time; always there
    split     only the scored positions are projected onto the vocabulary (`lm_head`)
    padding   windows of several lengths share a batch
    trees     windows share the tokens they begin with (`prefix_tree`)
    layers    GELU in one kernel, linear layers by oneDNN (`cpu_linear`)
    packed    weights laid out for oneDNN, with the activation behind them (`cpu_linear`)
    int8      linear layers in int8, with a tolerance of its own (`cpu_linear`)

When a model is loaded, a few short windows of random tokens go through the plain path and through
all fast ones at once. Only where that fails is each path tried by itself; one that raises or
differs is not used, and the log says so. The result is remembered on disk for the model's revision
and everything else that it depends on, so that the workers of `Dataset.map` check once.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from filelock import FileLock
from huggingface_hub import cached_assets_path

from ..embedded import portable_name
from ..errors import SuperfilterError
from ..runs.store import atomic_write
from .batching import is_out_of_memory
from .lm_head import FORWARD_LOCK, FirstTokenLogits, LogitsAt, masked_batch
from .loading import use_fast_layers, window_of
from .prefix_tree import Tree, may_use_trees, sorted_by_beginning
from .tokenization import Window, batch_of

logger = logging.getLogger(__name__)

VERSION = 4  # raise it when a fast path computes something else than before
# The most that a fast path may differ: mean absolute difference over standard deviation. Measured:
# rounding gives up to 5e-5 in float32; positions off by one, a missing mask or scale 1e-2 to 1.
TOLERANCES = {
    torch.float32: 1e-3,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
    torch.int8: 2.5e-1,
}
LENGTH = 12  # tokens of a short window
CHEAP = 1e9  # parameters times tokens, at most, of a window longer than half the model's


@dataclass(frozen=True)
class CheckResult:
    """Which fast paths a model runs on.

    Attributes:
        paths: the names of those that agree.
        faults: what is wrong with each of the others.
        seconds: what the check took, when it was made.
    """

    paths: tuple[str, ...]
    faults: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def __contains__(self, path: object) -> bool:
        return path in self.paths

    def budget(self, batch_tokens: int | None) -> int | None:
        """Return the tokens of a batch: one sequence at a time where padding is not used."""
        return batch_tokens if "padding" in self.paths else 1


Fault = Callable[[frozenset[str]], str | None]
"""Runs a set of fast paths at once: what is wrong with them, or None."""


def check_causal_lm(model: Any, dtype: torch.dtype, name: str, revision: str) -> CheckResult:
    """Find the fast paths that agree with a causal language model's plain forward pass.

    Args:
        model: as loaded, in float32 for int8; it is the same afterwards.
        dtype: the dtype that was picked.
        name: the model's, for messages.
        revision: a resolved one.

    Raises:
        ValueError: the model is not causal, or does not run on text alone.
    """

    def measure() -> CheckResult:
        fault = _CausalCheck(model, dtype, name).fault
        candidates = ["split", "padding", "layers"]
        if model.device.type == "cpu":
            candidates.append("packed")
        if may_use_trees(model):
            candidates.append("trees")
        return _choose(candidates, fault, int8=dtype == torch.int8)

    return _remembered(model, dtype, name, revision, measure)


def check_seq2seq(
    model: Any, dtype: torch.dtype, start: int, name: str, revision: str
) -> CheckResult:
    """Find the fast paths that agree with an encoder-decoder model's plain forward pass.

    Args:
        model: as loaded, in float32 for int8; it is the same afterwards.
        dtype: the dtype that was picked.
        start: the token that the decoder starts with.
        name: the model's, for messages.
        revision: a resolved one.

    Raises:
        ValueError: the model does not run on text alone.
    """

    def measure() -> CheckResult:
        fault = _Seq2SeqCheck(model, dtype, start, name).fault
        candidates = ["split", "padding", "layers"]
        return _choose(candidates, fault, int8=dtype == torch.int8)

    return _remembered(model, dtype, name, revision, measure)


def check_encoder(model: Any, dtype: torch.dtype, name: str, revision: str) -> CheckResult:
    """Find the fast paths that agree with a text encoder's plain forward pass.

    Args:
        model: as loaded; it is the same afterwards.
        dtype: the dtype that was picked.
        name: the model's, for messages.
        revision: a resolved one.

    Raises:
        ValueError: the model does not run on text alone.
    """

    def measure() -> CheckResult:
        fault = _EncoderCheck(model, dtype, name).fault
        return _choose(["padding", "layers"], fault)

    return _remembered(model, dtype, name, revision, measure)


def _choose(candidates: Sequence[str], fault: Fault, *, int8: bool = False) -> CheckResult:
    """Try all paths at once; where that fails, one after the other."""
    used, faults = frozenset(candidates), {}
    if fault(used) is not None:
        used = frozenset()
        for path in candidates:
            needs_padding = path == "trees" and "padding" in faults
            reason = "needs padding" if needs_padding else fault(used | {path})
            if reason is None:
                used |= {path}
            else:
                faults[path] = reason
    if int8:
        reason = fault(used | {"int8"})
        if reason is None:
            used |= {"int8"}
        else:
            faults["int8"] = reason
    return CheckResult(tuple(sorted(used)), faults)


class _Check:
    """Compare the values of a model's fast paths with those of its plain path.

    Attributes:
        windows: a few short windows of random tokens.
        plain: float64 values of each window.
    """

    def __init__(self, model: Any, dtype: torch.dtype, name: str) -> None:
        self.model, self.dtype, self.name = model, dtype, name
        self.windows = check_windows(model)
        try:
            with torch.inference_mode():
                self.plain = self.plain_values()
        except SuperfilterError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise SuperfilterError(
                f"{name!r} ({type(model).__name__}) does not run on text alone "
                f"({_first_line(error)}): take a language model that reads text"
            ) from error

    def plain_values(self) -> list[np.ndarray]:
        """Return the values of each window by the plain path."""
        raise NotImplementedError

    def fast_values(self, paths: frozenset[str], dtype: torch.dtype) -> list[np.ndarray]:
        """Return the values of each window by some fast paths, perhaps more than once."""
        raise NotImplementedError

    def fault(self, paths: frozenset[str]) -> str | None:
        """Say what is wrong with some fast paths used together, None if nothing is."""
        dtype = dtype_of(self.dtype, paths)
        undo = None
        try:
            if "layers" in paths or "int8" in paths:
                pack = "packed" in paths
                undo = use_fast_layers(self.model, dtype, self.name, pack=pack)
            with torch.inference_mode():
                values = self.fast_values(paths, dtype)
        except SuperfilterError:  # int8 where it is not done
            raise
        except Exception as error:  # anything may come out of a model's own code
            if is_out_of_memory(error):
                raise
            return f"raises {_first_line(error)}"
        finally:
            if undo is not None:
                undo()
        repeated = self.plain * (len(values) // len(self.plain))
        worst = max(map(relative_difference, repeated, values))
        if worst <= TOLERANCES[dtype]:
            return None
        return f"differs by {worst:.2g} standard deviations"

    def ids(self, window: list[int]) -> torch.Tensor:
        """Return a window as a batch of one."""
        return torch.tensor([window], device=self.model.device)


class _CausalCheck(_Check):
    """Compare the losses of a causal language model's tokens."""

    def plain_values(self) -> list[np.ndarray]:
        logits = [
            self.model(input_ids=self.ids(window), use_cache=False).logits[0].float()
            for window in self.windows
        ]
        shared = len(self.windows[0]) // 2
        self._refuse_non_causal(logits[0][:shared], logits[1][:shared])
        losses = []
        for window, rows in zip(self.windows, logits, strict=True):
            targets = self.ids(window)[0, 1:]
            losses.append(torch.nn.functional.cross_entropy(rows[:-1], targets, reduction="none"))
        return [_array(values) for values in losses]

    def _refuse_non_causal(self, logits: torch.Tensor, other_logits: torch.Tensor) -> None:
        """Compare the logits of two windows at the tokens that they begin with."""
        difference = relative_difference(_array(logits), _array(other_logits))
        if difference > TOLERANCES[dtype_of(self.dtype)]:
            raise SuperfilterError(
                f"{self.name!r} ({type(self.model).__name__}) is not a causal language model: its "
                "earlier tokens see the later ones, and so the answer. Embed texts with it "
                "(Embed), set is_decoder to true in its config.json if it was trained as a "
                "decoder, or take a causal language model, such as GPT-2 or Qwen"
            )

    def fast_values(self, paths: frozenset[str], dtype: torch.dtype) -> list[np.ndarray]:
        logits_at = LogitsAt(self.model, dtype, split="split" in paths)
        windows = [Window(window, 1) for window in self.windows]
        values = []
        for batch in batches_of(windows, paths):
            ids, scored = batch_of(batch)
            losses = _array(logits_at.losses(ids, scored, scored - 1))
            ends = np.cumsum([window.scored for window in batch])
            values += np.split(losses, ends[:-1])
        if "trees" in paths:
            values += self._tree_values(logits_at, windows)
        return values

    def _tree_values(self, logits_at: LogitsAt, windows: list[Window]) -> list[np.ndarray]:
        order, shared = sorted_by_beginning([window.ids for window in windows])
        tree = Tree([windows[i] for i in order.tolist()], shared, self.model.device)
        losses = _array(logits_at.tree_losses(tree))[tree.places]
        by_place = [losses[tree.owners == place] for place in range(len(windows))]
        return [by_place[place] for place in np.argsort(order).tolist()]


class _Seq2SeqCheck(_Check):
    """Compare the logits of the first token that an encoder-decoder model writes."""

    def __init__(self, model: Any, dtype: torch.dtype, start: int, name: str) -> None:
        self.start = start
        super().__init__(model, dtype, name)

    def plain_values(self) -> list[np.ndarray]:
        first = self.ids([self.start])
        outputs = [
            self.model(input_ids=self.ids(window), decoder_input_ids=first, use_cache=False)
            for window in self.windows
        ]
        return [_array(output.logits[0, 0].float()) for output in outputs]

    def fast_values(self, paths: frozenset[str], dtype: torch.dtype) -> list[np.ndarray]:
        answers = FirstTokenLogits(self.model, dtype, self.start, split="split" in paths)
        batches = batches_of(self.windows, paths)
        return [_array(row) for batch in batches for row in answers.logits(batch)]


class _EncoderCheck(_Check):
    """Compare the hidden states of a text encoder."""

    def plain_values(self) -> list[np.ndarray]:
        outputs = [self.model(input_ids=self.ids(window)) for window in self.windows]
        return [_array(output.last_hidden_state[0].float()) for output in outputs]

    def fast_values(self, paths: frozenset[str], dtype: torch.dtype) -> list[np.ndarray]:
        values = []
        for batch in batches_of(self.windows, paths):
            ids, mask = masked_batch(batch, self.model.device)
            states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            values += [_array(rows[: len(w)]) for rows, w in zip(states, batch, strict=True)]
        return values


def batches_of(windows: list[Any], paths: frozenset[str]) -> list[list[Any]]:
    """Return all windows as one batch where padding is used, else one batch a window."""
    if "padding" in paths:
        return [windows]
    return [[window] for window in windows]


def dtype_of(dtype: torch.dtype, paths: Collection[str] = ()) -> torch.dtype:
    """Return the dtype that a model runs in: float32 where int8 is not used."""
    if dtype == torch.int8 and "int8" not in paths:
        return torch.float32
    return dtype


def check_windows(model: Any) -> list[list[int]]:
    """Return two windows of random tokens that share a beginning, and a long one if it is cheap.

    The tokens are not special ones; long is more than half of the model's window.
    """
    config = model.config
    text = config.get_text_config()
    special = {
        value
        for settings in (config.to_dict(), text.to_dict())
        for key, value in settings.items()
        if key.endswith(("token_id", "token_index")) and isinstance(value, int)
    }
    plain_ids = np.setdiff1d(np.arange(text.vocab_size), list(special))
    window = window_of(config)
    random = np.random.default_rng(0)
    short = min(LENGTH, window)
    first = random.choice(plain_ids, short).tolist()
    second = first[: short // 2] + random.choice(plain_ids, (short - 1) // 2).tolist()
    length = window // 2 + 1
    if length * sum(weight.numel() for weight in model.parameters()) > CHEAP:
        return [first, second]
    return [first, second, random.choice(plain_ids, length).tolist()]


def relative_difference(plain: np.ndarray, fast: np.ndarray) -> float:
    """Return the mean absolute difference in standard deviations of the plain values."""
    if plain.shape != fast.shape or (np.isfinite(plain) != np.isfinite(fast)).any():
        return float("inf")
    finite = np.isfinite(plain)
    if not finite.any():
        return 0.0
    plain, fast = plain[finite], fast[finite]
    spread = max(float(plain.std()), 1e-6 * float(np.abs(plain).mean()), 1e-30)
    return float(np.abs(plain - fast).mean()) / spread


def _array(values: torch.Tensor) -> np.ndarray:
    return values.cpu().double().numpy()


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _remembered(
    model: Any, dtype: torch.dtype, name: str, revision: str, measure: Callable[[], CheckResult]
) -> CheckResult:
    """Read the result of an earlier check of this very model, or check it now."""
    name, key = portable_name(name), _key(model, dtype, revision)
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    lock = None
    try:
        file = cached_assets_path("hf_superfilter", "self_check") / f"{digest[:32]}.json"
        lock = FileLock(file.with_suffix(".lock"))
        # The workers of a `map` load a model all at once: the first one checks it.
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        logger.info("the self-check of %s is not remembered: %s", name, error)
    try:
        result = _read(file) if lock else None
        if result is None:
            start = time.perf_counter()
            with FORWARD_LOCK:  # the check flips process-wide switches too
                checked = measure()
            result = replace(checked, seconds=round(time.perf_counter() - start, 3))
            logger.info("self-check of %s: %.2f s", name, result.seconds)
            if lock:
                with atomic_write(file) as unfinished:
                    unfinished.write_text(json.dumps(key | asdict(result), indent=1))
    finally:
        if lock:
            lock.release()
    for path, fault in result.faults.items():
        logger.warning("%s (%s) runs without %s: %s", name, type(model).__name__, path, fault)
    return result


def _key(model: Any, dtype: torch.dtype, revision: str) -> dict[str, Any]:
    """Collect everything that a check's result depends on."""
    device = model.device
    hardware = sorted(key for key, able in torch.cpu.get_capabilities().items() if able is True)
    if device.type == "cuda":
        hardware = [torch.cuda.get_device_name(device)]
    config = model.config.to_json_string(use_diff=False)
    return {
        "version": VERSION,
        "revision": revision,
        "model": type(model).__name__,
        "config": hashlib.sha256(config.encode()).hexdigest()[:16],
        "attention": model.config._attn_implementation,
        "dtype": str(dtype),
        "device": device.type,
        "hardware": hardware,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _read(file: Path) -> CheckResult | None:
    """Read a remembered result; None where there is none, or it cannot be read."""
    try:
        stored = json.loads(file.read_text())
        return CheckResult(tuple(stored["paths"]), dict(stored["faults"]), stored["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
