"""Run sequence classifiers and reward models over texts."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch

from ..base import TEMPLATE_DATE
from ..embedded import model_folder
from ..errors import SuperfilterError
from ..revisions import resolve_revision
from .batching import default_batch_tokens, run_by_length
from .fork_safety import after_fork
from .lm_head import FORWARD_LOCK, masked_batch
from .loading import (
    hub_revision,
    load_classifier_weights,
    load_tokenizer,
    pick_device,
    pick_dtype,
    window_of,
)
from .tokenization import limit_of

# How far the outputs of a padded batch may lie from those of single texts, in float32 and below.
TOLERANCES = {torch.float32: 1e-3}
TOLERANCE = 0.1
CHECK_TEXTS = ("A text.", "A somewhat longer text, of a few more words than that.", "Well, what?")


class Classified(NamedTuple):
    """Hold the outputs for n texts and how each was read.

    Attributes:
        outputs: (n, labels) float32 logits, nan for a text without tokens.
        tokens: (n,) int64 tokens read.
        cut: (n,) whether the text was longer than what was read of it.
    """

    outputs: np.ndarray
    tokens: np.ndarray
    cut: np.ndarray


@lru_cache(maxsize=2)
def load_classifier(
    model: str,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    attn_implementation: str | None = None,
) -> "TextClassifier":
    """Load a `TextClassifier` once per process; `revision` has to be a resolved one."""
    return TextClassifier(
        model,
        revision=revision,
        dtype=dtype,
        device=device,
        attn_implementation=attn_implementation,
    )


class TextClassifier:
    """Compute the outputs of a sequence-classification model of transformers.

    Texts of nearly equal length share a batch, padded on the right with the model's own padding
    token and masked, where outputs then agree with those of single texts, which is checked when the
    model is loaded; where they do not, texts run one by one.

    Args:
        model: a local folder or a Hub id.
        revision, dtype, device, attn_implementation: as `CausalLM` takes them.

    Attributes:
        labels: the names of the outputs, as the model's config has them.
        pads: whether batches are padded.

    Raises:
        FileNotFoundError: no such model, or a folder without config or weights.
        SuperfilterError: a model without a classification head.
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
        self.model: Any = load_classifier_weights(
            self.name, commit, self.dtype, self.device, attn_implementation
        )
        self.tokenizer = load_tokenizer(self.name, self.revision)
        names = self.model.config.id2label
        self.labels = [str(names[number]) for number in range(self.model.config.num_labels)]
        self.window = min(window_of(self.model.config), int(self.tokenizer.model_max_length))
        self.batch_tokens = default_batch_tokens(self.device, self.model.config)
        self.pads = self._may_pad()

    def outputs(
        self,
        texts: "Sequence[str | tuple[str, str]]",
        *,
        special_tokens: bool = True,
        max_length: int | None = None,
        batch_tokens: int | None = None,
    ) -> Classified:
        """Compute the outputs for n texts, or pairs of texts.

        Args:
            texts: n texts, or pairs that the tokenizer joins; an empty text has no output.
            special_tokens: let the tokenizer put its own tokens around a text; chat templates have
                written them already.
            max_length: tokens read of a text.
            batch_tokens: tokens of a batch; results do not depend on it.
        """
        after_fork()
        limit = limit_of(max_length, self.window, self.name)
        ids, is_cut = [], []
        for text in texts:
            parts = (text,) if isinstance(text, str) else text
            row: list[int] = []
            if any(parts):
                row = self._ids(parts, special_tokens, None)
            is_cut.append(len(row) > limit)
            ids.append(self._ids(parts, special_tokens, limit) if is_cut[-1] else row)
        tokens = np.array([len(row) for row in ids], dtype=np.int64)
        outputs = np.full((len(ids), len(self.labels)), np.nan, dtype=np.float32)

        def run_batch(numbers: np.ndarray) -> None:
            logits = self._logits([ids[i] for i in numbers.tolist()])
            outputs[numbers] = logits.cpu().numpy()

        with torch.inference_mode(), FORWARD_LOCK:
            run_by_length(self, tokens, run_batch, batch_tokens if self.pads else 1)
        return Classified(outputs, tokens, np.array(is_cut, dtype=bool))

    def chat(self, prompt: str, response: str) -> str:
        """Write a prompt and its response in the model's chat template."""
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}],
            tokenize=False,
            strftime_now=TEMPLATE_DATE.strftime,
        )
        return str(text)

    def label_number(self, label: str | int | None) -> int:
        """Find the output of a label, by its name or number; None is the only one.

        Raises:
            SuperfilterError: no such label, or None where there are several.
        """
        if label is None and len(self.labels) == 1:
            return 0
        if isinstance(label, int) and 0 <= label < len(self.labels):
            return label
        if label in self.labels:
            return self.labels.index(str(label))
        raise SuperfilterError(
            f"label={label!r}: {self.name!r} has {len(self.labels)} outputs, "
            f"{', '.join(self.labels[:30])}; name one of them"
        )

    def _ids(self, parts: Sequence[str], special_tokens: bool, limit: int | None) -> list[int]:
        settings: dict[str, Any] = {"add_special_tokens": special_tokens, "verbose": False}
        if limit is not None:
            settings |= {"truncation": True, "max_length": limit}
        return list(self.tokenizer(*parts, **settings)["input_ids"])

    def _logits(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return (k, labels) float32 outputs of k sequences in one forward pass."""
        # A classifier finds the end of a text by its own padding token.
        padding = self.model.config.get_text_config().pad_token_id or 0
        ids, mask = masked_batch(rows, self.device, padding)
        logits: torch.Tensor = self.model(input_ids=ids, attention_mask=mask).logits.float()
        return logits

    def _may_pad(self) -> bool:
        """Check that a padded batch gives the outputs of single texts."""
        rows = [self._ids([text], True, None) for text in CHECK_TEXTS]
        with torch.inference_mode(), FORWARD_LOCK:
            singles = torch.cat([self._logits([row]) for row in rows])
            if singles.shape != (len(rows), len(self.labels)):
                raise SuperfilterError(
                    f"{self.name!r} gives outputs of shape {tuple(singles.shape[1:])} for a text, "
                    f"and {len(self.labels)} numbers are wanted: take a model that classifies texts"
                )
            try:
                together = self._logits(rows)
            except ValueError:  # transformers refuses batches of a model without a padding token
                return False
        scale = max(1.0, float(singles.abs().max()))
        tolerance = TOLERANCES.get(self.dtype, TOLERANCE) * scale
        return bool((together - singles).abs().max() <= tolerance)
