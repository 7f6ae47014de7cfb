"""Measure response length, the baseline beside every score (arXiv 2402.04833)."""

from dataclasses import KW_ONLY, dataclass

import numpy as np

from ..base import Batch, Columns, Settings
from ..checks import check_name, pair_of_columns
from ..data.chats import flatten_turns
from ..embedded import model_folder, portable_name
from ..errors import SuperfilterError, did_you_mean
from ..revisions import resolve_revision
from ._model import revision_of
from ._rows import as_counts, takes_rows

UNITS = ("characters", "tokens")


@dataclass(frozen=True, repr=False)
class Length(Settings):
    """Count the characters or tokens of the response.

    A chat's length is the sum over its assistant turns. Column `length`, int64: 0 for an empty
    response, null for a row that cannot be read; white space counts. Long answers alone are a
    strong selection: Zhao et al., arXiv 2402.04833.

    Args:
        unit: `characters`, or `tokens` of the tokenizer of `model`, special tokens left out.
        model: a Hub id or a local folder, for `unit="tokens"`.
        revision: branch, tag or commit on the Hub.
        name: prefix of the column.
        columns: the prompt and the response column.

    Raises:
        ValueError: an unknown unit, `tokens` without a model, or a model with `characters`.

    Example:
        >>> from hf_superfilter import Length
        >>> Length()({"prompt": ["Hi", "Hi"], "response": ["Hello", ""]})["length"].tolist()
        [5, 0]
    """

    unit: str = "characters"
    _: KW_ONLY
    model: str | None = None
    revision: str | None = None
    name: str = "length"
    columns: tuple[str, str] = ("prompt", "response")

    def __post_init__(self) -> None:
        """Check the unit and what it needs."""
        object.__setattr__(self, "columns", pair_of_columns(self.columns))
        if self.unit not in UNITS:
            raise SuperfilterError(f"unit={self.unit!r}: {did_you_mean(str(self.unit), UNITS)}")
        if self.model is not None:
            object.__setattr__(self, "model", portable_name(str(self.model)))
        if (self.unit == "tokens") != (self.model is not None):
            raise SuperfilterError(
                f"unit={self.unit!r} with model={self.model!r}: tokens are counted by the "
                "tokenizer of model=..., characters need no model"
            )
        check_name(self.name)

    @property
    def main(self) -> str:
        """The column to rank by."""
        return self.name

    def identity(self) -> dict[str, str]:
        """Return the tokenizer's immutable revision, {} where characters are counted."""
        if self.model is None:
            return {}
        return revision_of(self.model, self.revision)

    @takes_rows
    def __call__(self, batch: Batch, rank: int | None = None) -> Columns:
        """Measure a batch of n rows."""
        turns = flatten_turns(batch, self.columns, keep_blank=True)
        if self.model is None:
            sizes = [len(response) for response in turns.responses]
        else:
            from ..models.loading import load_tokenizer
            from ..models.text_tokenizer import token_ids

            folder = model_folder(self.model)
            tokenizer = load_tokenizer(folder, resolve_revision(folder, self.revision))
            sizes = [len(ids) for ids in token_ids(tokenizer, turns.responses)]
        return {self.name: as_counts(turns.total(np.array(sizes)), ~turns.is_unreadable)}
