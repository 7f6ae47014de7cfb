"""Turn texts into vectors with a transformers or sentence-transformers model.

Any transformers model is an encoder, through the mean of its last hidden states. A folder of
sentence-transformers says in its `modules.json` how its vectors are made. Transformer, mean or
first-token pooling and normalisation are done here; whatever else it names is left to the library
of that name.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers.utils.hub import cached_file

from ..embedded import model_folder
from ..errors import SuperfilterError
from ..revisions import resolve_revision
from .batching import default_batch_tokens, run_by_length
from .fork_safety import after_fork
from .lm_head import FORWARD_LOCK, masked_batch
from .loading import (
    NO_LIMIT,
    hub_revision,
    load_body,
    load_tokenizer,
    pick_device,
    pick_dtype,
    use_fast_layers,
    window_of,
)
from .self_check import check_encoder
from .tokenization import DEFAULT_MAX_LENGTH, limit_of

POOLINGS = ("mean", "cls")
# Switches of version 5 of sentence-transformers and before; later ones name the pooling.
POOLING_SWITCHES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}


class Embedded(NamedTuple):
    """Hold the vectors of n texts and how each text was read.

    Attributes:
        vectors: (n, d) float32, nan for a text without tokens.
        tokens: (n,) int64 tokens read, with the special ones; 0 of a text without others.
        cut: (n,) whether the text was longer than what was read of it.
    """

    vectors: np.ndarray
    tokens: np.ndarray
    cut: np.ndarray


@lru_cache(maxsize=2)
def load_encoder(
    model: str,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    attn_implementation: str | None = None,
) -> "TextEncoder":
    """Load a `TextEncoder` once per process; `revision` has to be a resolved one."""
    return TextEncoder(
        model,
        revision=revision,
        dtype=dtype,
        device=device,
        attn_implementation=attn_implementation,
    )


class TextEncoder:
    """Turn texts into vectors under a transformers model or a sentence-transformers model.

    Args:
        model: a local folder, a Hub id, `embedded:weak` or `embedded:strong`.
        revision: branch, tag or commit on the Hub.
        dtype: `float32`, `bfloat16`, `float16`, or `auto` (bfloat16 where the hardware multiplies
            it natively). Pooling is done in float32 always.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        attn_implementation: as in transformers; None lets transformers choose.

    Raises:
        FileNotFoundError: no such model, or a folder without config or weights.
        ValueError: the model needs sentence-transformers, which is not installed.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        dtype: str = "float32",
        device: str = "auto",
        attn_implementation: str | None = None,
    ) -> None:
        after_fork()
        self.name, self.device = model_folder(str(model)), pick_device(device)
        self.revision = resolve_revision(self.name, revision)
        self.dtype = pick_dtype(dtype, self.device)
        commit = hub_revision(self.revision)
        self.pooling, self.normalize, self.library, window = _pooling_plan(self.name, commit)
        settings = (self.name, commit, self.dtype, self.device, attn_implementation)
        if self.library:
            self.model: Any = _load_with_library(*settings)
            self.tokenizer = self.model.tokenizer
            self.window = self.model.max_seq_length or DEFAULT_MAX_LENGTH
            self.batch_tokens = default_batch_tokens(self.device, None)
            return
        self.model = load_body(*settings)
        self.fast_paths = check_encoder(self.model, self.dtype, self.name, self.revision)
        if "layers" in self.fast_paths:
            use_fast_layers(self.model, self.dtype, self.name)
        self.tokenizer = load_tokenizer(self.name, self.revision)
        # The tokenizer's limit counts too: positions of RoBERTa-like models begin at 2.
        limits = (window_of(self.model.config), int(self.tokenizer.model_max_length), window)
        self.window = min(limits)
        self.batch_tokens = default_batch_tokens(self.device, self.model.config)

    def embed(
        self,
        texts: Sequence[str],
        *,
        normalize: bool | None = None,
        max_length: int | None = None,
        batch_tokens: int | None = None,
    ) -> Embedded:
        """Embed n texts, all through one queue sorted by length.

        Args:
            texts: n texts.
            normalize: scale each vector to length 1; None as the model's `modules.json` says, and
                yes without one.
            max_length: tokens read of a text, the special ones included; None is 1,024, or the
                model's window where that is shorter.
            batch_tokens: tokens of a batch; results do not depend on it.

        Example:
            >>> from hf_superfilter import TextEncoder
            >>> vectors, tokens, cut = TextEncoder("embedded:weak").embed(["Hello there.", ""])
            >>> vectors.shape, bool(np.isnan(vectors[1]).all())
            ((2, 128), True)
            >>> bool(abs((vectors[0] ** 2).sum() - 1) < 1e-6)
            True
        """
        limit = limit_of(max_length, self.window, self.name)
        ids, is_cut = self._ids(texts, limit)
        tokens = np.array([len(row) for row in ids], dtype=np.int64)
        tokens[tokens <= self.tokenizer.num_special_tokens_to_add()] = 0
        vectors = np.full((len(ids), self._width()), np.nan, dtype=np.float32)
        if normalize is None:
            normalize = self.normalize
        if not self.library:
            batch_tokens = self.fast_paths.budget(batch_tokens)

        def run_batch(numbers: np.ndarray) -> None:
            if self.library:
                batch = self._encode_with_library([texts[i] for i in numbers.tolist()], limit)
            else:
                batch = self._pooled([ids[i] for i in numbers.tolist()])
            if normalize:
                batch = torch.nn.functional.normalize(batch, dim=-1)
            vectors[numbers] = batch.cpu().numpy()

        with torch.inference_mode(), FORWARD_LOCK:
            run_by_length(self, tokens, run_batch, batch_tokens)
        return Embedded(vectors, tokens, np.array(is_cut, dtype=bool))

    def _ids(self, texts: Sequence[str], limit: int) -> tuple[list[list[int]], list[bool]]:
        """Return at most `limit` ids of each text, and whether it was cut to that."""
        after_fork()
        if not len(texts):
            return [], []
        ids = list(self.tokenizer(list(texts), verbose=False)["input_ids"])
        is_cut = [len(row) > limit for row in ids]
        for number in np.flatnonzero(is_cut).tolist():
            encoding = self.tokenizer(texts[number], truncation=True, max_length=limit)
            ids[number] = encoding["input_ids"]
        return ids, is_cut

    def _pooled(self, ids: list[list[int]]) -> torch.Tensor:
        """Return (k, d) float32 vectors of k sequences in one forward pass."""
        batch, mask = masked_batch(ids, self.device)
        output = self.model(input_ids=batch, attention_mask=mask)
        states: torch.Tensor = output.last_hidden_state
        if self.pooling == "cls":
            return states[:, 0].float()
        return (states.float() * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)

    def _encode_with_library(self, texts: list[str], limit: int) -> torch.Tensor:
        """Return (k, d) float32 vectors by sentence-transformers, of so many tokens each."""
        before, self.model.max_seq_length = self.model.max_seq_length, limit
        try:
            vectors: torch.Tensor = self.model.encode(
                texts, batch_size=len(texts), convert_to_tensor=True, show_progress_bar=False
            )
        finally:
            self.model.max_seq_length = before
        return vectors.float()

    def _width(self) -> int:
        if self.library:
            return int(self.model.get_embedding_dimension())
        return int(self.model.config.get_text_config().hidden_size)


class _PoolingPlan(NamedTuple):
    """How a model's vectors are made, and the window that its files state."""

    pooling: str = "mean"
    normalize: bool = True
    library: bool = False
    window: int = NO_LIMIT


def _pooling_plan(model: str, revision: str | None) -> _PoolingPlan:
    modules = _read_json(model, revision, "modules.json")
    if modules is None:
        return _PoolingPlan()
    kinds = [str(module["type"]).rsplit(".", 1)[-1] for module in modules]
    reading = _read_json(model, revision, "sentence_bert_config.json") or {}
    settings = _read_json(model, revision, "config_sentence_transformers.json") or {}
    # A default prompt goes before every text.
    prompt = (settings.get("prompts") or {}).get(settings.get("default_prompt_name"))
    is_plain = kinds in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
    if not is_plain or modules[0]["path"] or reading.get("do_lower_case") or prompt:
        return _PoolingPlan(normalize=False, library=True)
    pooling = _pooling(_read_json(model, revision, f"{modules[1]['path']}/config.json") or {})
    if pooling not in POOLINGS:
        return _PoolingPlan(normalize=False, library=True)
    window = reading.get("max_seq_length") or NO_LIMIT
    return _PoolingPlan(pooling, "Normalize" in kinds, window=window)


def _pooling(settings: dict[str, Any]) -> str:
    """Return the name of a pooling, of several poolings all their switches."""
    if settings.get("pooling_mode"):
        return str(settings["pooling_mode"])
    switches = [key for key, on in settings.items() if on is True and "pooling_mode_" in key]
    return ", ".join(POOLING_SWITCHES.get(switch, switch) for switch in switches)


def _read_json(model: str, revision: str | None, name: str) -> Any:
    """Return the contents of one of a model's files, None where it has none of that name."""
    file = cached_file(model, name, revision=revision, _raise_exceptions_for_missing_entries=False)
    if not file:
        return None
    return json.loads(Path(file).read_text(encoding="utf-8"))


def _load_with_library(
    model: str,
    revision: str | None,
    dtype: torch.dtype,
    device: torch.device,
    attn_implementation: str | None,
) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise SuperfilterError(
            f"the model {model!r} has parts that need the library sentence-transformers: "
            "pip install 'hf-superfilter[embed]'"
        ) from error
    settings: dict[str, Any] = {"dtype": dtype}
    if attn_implementation is not None:
        settings["attn_implementation"] = attn_implementation
    loaded = SentenceTransformer(
        model, revision=revision, device=str(device), model_kwargs=settings
    )
    return loaded.eval()
