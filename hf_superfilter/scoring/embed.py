"""Embeddings: each row as a vector, for selectors that look at how rows lie to each other."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..base import Batch, Columns
from ..checks import check_switch
from ..data.chats import flatten_turns
from ._model import DTYPES, ModelSettings, default_name

if TYPE_CHECKING:
    from ..models.encoder import TextEncoder


@dataclass(frozen=True, repr=False)
class Embed(ModelSettings):
    """A vector of fixed length for each row's text: prompt, line break, response; of a chat, all of it.

    The line break is left out where the prompt ends in white space, as those of `format_pairs` do. So an
    Alpaca row is embedded as `instruction\\ninput\\noutput`, which is what Superfiltering.D and learning
    percentage embed (arXiv 2402.00530, 2402.10430), both with all-MiniLM-L6-v2.

    Columns: `embedding`, d numbers in float32 (half of the bits would save half of the disk, cost three
    decimals of every distance, and many Parquet readers know no float16); `embedding_tokens`, the tokens
    read, nan where the vector is; `embedding_status`, `ok`, `truncated` (cut at `max_length`, embedded for
    all that), or why the vector is nan: `empty_text`, `not_finite`. Rows without a vector are dropped by
    `Threshold("embedding_tokens", above=0)`.

    Args:
        model: a sentence-transformers model, which is pooled and normalised as it says; of any other
            transformers model, encoder or causal, the mean of the last hidden states.
        normalize: scale vectors to length 1; None as a sentence-transformers model says, and yes for others.
        dtype: float32 unless you say otherwise, since rounding would show in small distances.

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
        """Check the switch as well as what every model scorer checks."""
        super().__post_init__()
        if self.normalize is not None:
            check_switch("normalize", self.normalize)

    @property
    def main(self) -> str:
        """The column that is nan where a row has no vector; vectors have no order."""
        return f"{self.name}_tokens"

    def provenance(self, rank: int | None = None) -> dict[str, Any]:
        """What a run records after scoring: the model, where it ran and in which arithmetic."""
        return self.made_with(self.encoder(rank))

    def encoder(self, rank: int | None = None) -> "TextEncoder":
        """The loaded model, one per process and device whatever the number of scorers that use it."""
        from ..models.encoder import load_encoder

        return load_encoder(*self.resolved(rank))

    def texts(self, batch: Batch) -> list[str]:
        """The text of each row; a chat's last prompt holds everything before its last response."""
        turns = flatten_turns(batch, self.columns)
        answer = [""] * turns.count
        for row, prompt, response in zip(
            turns.rows.tolist(), turns.prompts, turns.responses, strict=True
        ):
            between = "\n" if prompt and response and not prompt[-1].isspace() else ""
            answer[row] = prompt + between + response
        return answer

    def __call__(self, batch: Batch, rank: int | None = None) -> Columns:
        """Embed a batch of n rows."""
        texts = self.texts(batch)
        there = [text if text.strip() else "" for text in texts]
        vectors, tokens, cut = self.encoder(rank).embed(
            there,
            normalize=self.normalize,
            max_length=self.max_length,
            batch_tokens=self.batch_tokens,
        )
        finite = np.isfinite(vectors).all(axis=1)
        vectors[~finite] = np.nan
        status = np.select(
            [tokens == 0, ~finite, cut], ["empty_text", "not_finite", "truncated"], "ok"
        )
        return {
            self.name: vectors,
            f"{self.name}_tokens": np.where(finite, tokens, np.nan),
            f"{self.name}_status": status.tolist(),
        }
