"""Embed rows as vectors, for selectors that compare rows."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..base import UNREADABLE_STATUS, Batch, Columns
from ..checks import check_switch
from ..data.chats import Turns, flatten_turns
from ..models.first_import import import_transformers
from ._model import DTYPES, ModelSettings, default_name
from ._rows import as_counts, takes_rows

if TYPE_CHECKING:
    from ..models.encoder import TextEncoder


@dataclass(frozen=True, repr=False)
class Embed(ModelSettings):
    """Embed each row's text as a vector of fixed length.

    The text is prompt, line break, response; of a chat all of it. The line break is left out where
    the prompt ends in white space, as those of `format_pairs` do. So an Alpaca row is embedded as
    `instruction\\ninput\\noutput`, which is what Superfiltering.D and learning percentage embed
    (arXiv 2402.00530, 2402.10430), both with all-MiniLM-L6-v2.

    Columns: `embedding`, (n, d) float32 (half of the bits would save half of the disk, cost three
    decimals of every distance, and many Parquet readers know no float16); `embedding_tokens`, the
    tokens read, int64, null where the vector is nan; `embedding_status`, `ok`, `truncated` (cut at
    `max_length` and embedded), or why the vector is nan: `empty_text`, `not_finite`, `unreadable`.
    Rows without a vector are dropped by `Threshold("embedding_tokens", above=0)`.

    The other arguments say which model is run and how, as in `ModelSettings`: `revision`,
    `columns`, `dtype`, `device`, `attn_implementation`, `max_length`, `batch_tokens`.

    Args:
        model: a sentence-transformers model, which is pooled and normalised as its files say; of
            any other transformers model, encoder or causal, the mean of the last hidden states.
        normalize: scale vectors to length 1; None as a sentence-transformers model says, and True
            for others.
        dtype: float32 unless set otherwise, since rounding would show in small distances.

    Example:
        >>> from hf_superfilter import Embed
        >>> columns = Embed("embedded:weak")({"prompt": ["Hi.\\n", ""], "response": ["Hello!", ""]})
        >>> columns["embedding"].shape, columns["embedding_status"]
        ((2, 128), ['ok', 'empty_text'])
    """

    dtypes: ClassVar[tuple[str, ...]] = DTYPES[:-1]  # int8 would show in every distance

    model: str = "sentence-transformers/all-MiniLM-L6-v2"
    normalize: bool | None = None
    dtype: str = "float32"
    name: str = default_name("embedding")

    def __post_init__(self) -> None:
        """Check the switch too."""
        super().__post_init__()
        if self.normalize is not None:
            check_switch("normalize", self.normalize)

    @property
    def main(self) -> str:
        """The column that is nan where a row has no vector; vectors have no order."""
        return f"{self.name}_tokens"

    def provenance(self, rank: int | None = None) -> dict[str, Any]:
        """Return what the manifest records: model, revision, device, dtype, threads."""
        return self.facts_of_model(self.encoder(rank))

    def encoder(self, rank: int | None = None) -> "TextEncoder":
        """Load the model, once per process for all its scorers."""
        import_transformers()
        from ..models.encoder import load_encoder

        return load_encoder(*self.resolved(rank))

    def texts(self, batch: Batch) -> list[str]:
        """Join each row's prompt and response; a chat's last turn holds all."""
        return _join(flatten_turns(batch, self.columns))

    @takes_rows
    def __call__(self, batch: Batch, rank: int | None = None) -> Columns:
        """Embed a batch of n rows."""
        turns = flatten_turns(batch, self.columns)
        texts = [text if text.strip() else "" for text in _join(turns)]
        vectors, tokens, cut = self.encoder(rank).embed(
            texts,
            normalize=self.normalize,
            max_length=self.max_length,
            batch_tokens=self.batch_tokens,
        )
        finite = np.isfinite(vectors).all(axis=1)
        vectors[~finite] = np.nan
        conditions = [turns.is_unreadable, tokens == 0, ~finite, cut]
        status = np.select(
            conditions, [UNREADABLE_STATUS, "empty_text", "not_finite", "truncated"], "ok"
        )
        return {
            self.name: vectors,
            f"{self.name}_tokens": as_counts(tokens, finite),
            f"{self.name}_status": status.tolist(),
        }


def _join(turns: Turns) -> list[str]:
    """Return the text of each row, "" of one without turns."""
    texts = [""] * turns.count
    rows = turns.rows.tolist()
    for row, prompt, response in zip(rows, turns.prompts, turns.responses, strict=True):
        separated = not prompt or not response or prompt[-1].isspace()
        texts[row] = prompt + ("" if separated else "\n") + response
    return texts
