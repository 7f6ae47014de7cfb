"""A text encoder, from texts to vectors: inference, as `models` is for language models.

Any transformers model is one, through the mean of its last hidden states. A folder of sentence-transformers
says in its `modules.json` how its vectors are made. Transformer, mean or first-token pooling and
normalisation are done here; whatever else it names is left to the library of that name.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers.utils import cached_file

from ..embedded import model_folder
from ..revisions import resolve_revision
from .batching import default_batch_tokens, run_by_length
from .causal_lm import ONE_AT_A_TIME
from .fork_safety import after_fork
from .loading import load_body, load_tokenizer, pick_device, pick_dtype, window_of
from .tokenization import DEFAULT_MAX_LENGTH, limit_of, padded

# Those done here, by their switches in files of before version 6 of sentence-transformers; later ones hold the name.
POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}


class Embedded(NamedTuple):
    """The vectors of n texts, (n, d) float32 with nan for a text without tokens, and how each was read."""

    vectors: np.ndarray
    tokens: np.ndarray
    """(n,) int64 tokens read, with the special ones; 0 of a text without others."""
    cut: np.ndarray
    """(n,) whether the text was longer than what was read of it."""


@lru_cache(maxsize=2)
def load_encoder(
    model: str,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    attn_implementation: str | None = None,
) -> "TextEncoder":
    """A `TextEncoder`, loaded once per process for the same settings; `revision` has to be a resolved one."""
    return TextEncoder(
        model,
        revision=revision,
        dtype=dtype,
        device=device,
        attn_implementation=attn_implementation,
    )


class TextEncoder:
    """Vectors of texts under a transformers model or a sentence-transformers model.

    Args:
        model: a local folder, a Hub id, `embedded:weak` or `embedded:strong`.
        revision: branch, tag or commit on the Hub.
        dtype: `float32`, `bfloat16`, `float16`, or `auto` (bfloat16 where the hardware multiplies it natively).
            Pooling is done in float32 always.
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
        on_hub = None if self.revision.startswith("sha256:") else self.revision
        self.pooling, self.normalize, self.library, limit = _plan(self.name, on_hub)
        if self.library:
            self.model: Any = _from_library(
                self.name, on_hub, self.dtype, self.device, attn_implementation
            )
            self.tokenizer, self.window = (
                self.model.tokenizer,
                self.model.max_seq_length or DEFAULT_MAX_LENGTH,
            )
        else:
            self.model = load_body(self.name, on_hub, self.dtype, self.device, attn_implementation)
            self.tokenizer = load_tokenizer(self.name, self.revision)
            # What the tokenizer knows, too: positions of RoBERTa-like models begin at 2.
            self.window = min(
                window_of(self.model.config), int(self.tokenizer.model_max_length), limit
            )
        self.batch_tokens = default_batch_tokens(self.device, getattr(self.model, "config", None))

    def embed(
        self,
        texts: Sequence[str],
        *,
        normalize: bool | None = None,
        max_length: int | None = None,
        batch_tokens: int | None = None,
    ) -> Embedded:
        """The vectors of n texts, all through one length-sorted queue.

        Args:
            normalize: scale each vector to length 1; None as the model's `modules.json` says, and yes without one.
            max_length: tokens read of a text, the special ones included; None is 1,024, or the model's
                window where that is shorter.
            batch_tokens: tokens of a batch; results do not depend on it.

        Example:
            >>> from hf_superfilter import TextEncoder
            >>> vectors, tokens, cut = TextEncoder("embedded:weak").embed(["Hello there.", ""])
            >>> vectors.shape, bool(abs((vectors[0] ** 2).sum() - 1) < 1e-6), bool(np.isnan(vectors[1]).all())
            ((2, 128), True, True)
        """
        limit = limit_of(max_length, self.window, self.name)
        ids, cut = self._ids(texts, limit)
        tokens = np.array([len(one) for one in ids], dtype=np.int64)
        tokens[tokens <= self.tokenizer.num_special_tokens_to_add()] = 0
        vectors = np.full((len(ids), self._width()), np.nan, dtype=np.float32)

        def run(chosen: np.ndarray) -> None:
            some = chosen.tolist()
            made = (
                self._encoded([texts[i] for i in some], limit)
                if self.library
                else self._pooled([ids[i] for i in some])
            )
            if self.normalize if normalize is None else normalize:
                made = torch.nn.functional.normalize(made, dim=-1)
            vectors[chosen] = made.cpu().numpy()

        with torch.inference_mode(), ONE_AT_A_TIME:
            run_by_length(self, tokens, run, batch_tokens)
        return Embedded(vectors, tokens, np.array(cut, dtype=bool))

    def _ids(self, texts: Sequence[str], limit: int) -> tuple[list[list[int]], list[bool]]:
        """The ids of each text with the special tokens, at most `limit`, and whether it was cut to that."""
        after_fork()
        if not len(texts):
            return [], []
        ids = self.tokenizer(list(texts), verbose=False)["input_ids"]
        cut = [len(one) > limit for one in ids]
        for number in np.flatnonzero(cut).tolist():
            ids[number] = self.tokenizer(texts[number], truncation=True, max_length=limit)[
                "input_ids"
            ]
        return ids, cut

    def _pooled(self, ids: list[list[int]]) -> torch.Tensor:
        """(k, d) float32 vectors of k sequences in one forward pass, padded on the right."""
        lengths = torch.tensor([len(one) for one in ids])
        batch = torch.from_numpy(padded(ids))
        mask = (torch.arange(batch.shape[1]) < lengths[:, None]).long().to(self.device)
        states = self.model(input_ids=batch.to(self.device), attention_mask=mask).last_hidden_state
        if self.pooling == "cls":
            return states[:, 0].float()
        return (states.float() * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)

    def _encoded(self, texts: list[str], limit: int) -> torch.Tensor:
        """(k, d) float32 vectors as sentence-transformers makes them of so many tokens, in one forward pass."""
        before, self.model.max_seq_length = self.model.max_seq_length, limit
        try:
            made = self.model.encode(
                texts, batch_size=len(texts), convert_to_tensor=True, show_progress_bar=False
            )
        finally:
            self.model.max_seq_length = before
        return made.float()

    def _width(self) -> int:
        if self.library:
            return int(self.model.get_embedding_dimension())
        return int(self.model.config.get_text_config().hidden_size)


class _Plan(NamedTuple):
    """How a model's vectors are made, and the window that its sentence-transformers files state."""

    pooling: str = "mean"
    normalize: bool = True
    library: bool = False
    limit: int = 1 << 30


def _plan(model: str, revision: str | None) -> _Plan:
    modules = _json(model, revision, "modules.json")
    if modules is None:
        return _Plan()
    kinds = [str(module["type"]).rsplit(".", 1)[-1] for module in modules]
    reading = _json(model, revision, "sentence_bert_config.json") or {}
    plain = kinds in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
    settings = _json(model, revision, "config_sentence_transformers.json") or {}
    prompt = (settings.get("prompts") or {}).get(
        settings.get("default_prompt_name")
    )  # goes before every text
    if not plain or modules[0]["path"] or reading.get("do_lower_case") or prompt:
        return _Plan(normalize=False, library=True)
    pooling = _json(model, revision, f"{modules[1]['path']}/config.json") or {}
    switches = [
        key for key, on in pooling.items() if key.startswith("pooling_mode_") and on is True
    ]
    mode = pooling.get("pooling_mode") or ", ".join(
        POOLINGS.get(switch, switch) for switch in switches
    )
    if mode not in POOLINGS.values():
        return _Plan(normalize=False, library=True)
    return _Plan(mode, "Normalize" in kinds, limit=reading.get("max_seq_length") or 1 << 30)


def _json(model: str, revision: str | None, name: str) -> Any:
    """The contents of one of a model's files, None where it has none of that name."""
    file = cached_file(model, name, revision=revision, _raise_exceptions_for_missing_entries=False)
    return json.loads(Path(file).read_text(encoding="utf-8")) if file else None


def _from_library(
    model: str,
    revision: str | None,
    dtype: torch.dtype,
    device: torch.device,
    attn_implementation: str | None,
) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ValueError(
            f"the model {model!r} has parts that need the library sentence-transformers: "
            "pip install 'hf-superfilter[embed]'"
        ) from error
    how = {"dtype": dtype, "attn_implementation": attn_implementation}
    return SentenceTransformer(
        model,
        revision=revision,
        device=str(device),
        model_kwargs={k: v for k, v in how.items() if v is not None},
    ).eval()
