"""Length of the response: the baseline that must always stand beside a score (arXiv 2402.04833)."""

from dataclasses import KW_ONLY, dataclass

import numpy as np

from ..base import Batch, Columns, Settings
from ..checks import check_name, pair_of_columns
from ..data.chats import flatten_turns
from ..embedded import model_folder, portable_name
from ..errors import did_you_mean
from ..revisions import resolve_revision
from ._model import revision_of

UNITS = ("characters", "tokens")


@dataclass(frozen=True, repr=False)
class Length(Settings):
    """Length of the response, in characters or tokens; a chat's is that of all its assistant turns.

    Column `length`, float64, 0 for an empty response.

    Args:
        unit: `characters`, or `tokens` of the tokenizer of `model`.
        model: a Hub id or a local folder, for `unit="tokens"`.
        revision: branch, tag or commit on the Hub.
        name: prefix of the column.
        columns: the prompt and the response column.

    Example:
        >>> from hf_superfilter import Length
        >>> Length()({"prompt": ["Hi", "Hi"], "response": ["Hello", ""]})["length"].tolist()
        [5.0, 0.0]
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
            raise ValueError(f"unit={self.unit!r}: {did_you_mean(str(self.unit), UNITS)}")
        if self.model is not None:
            object.__setattr__(self, "model", portable_name(str(self.model)))
        if (self.unit == "tokens") != (self.model is not None):
            raise ValueError(
                "unit='tokens' needs model=..., whose tokenizer counts them, and characters need none"
            )
        check_name(self.name)

    @property
    def main(self) -> str:
        """The column to rank by."""
        return self.name

    def identity(self) -> dict[str, str]:
        """The tokenizer's immutable revision, where one counts."""
        return revision_of(self.model, self.revision) if self.model is not None else {}

    def __call__(self, batch: Batch, rank: int | None = None) -> Columns:
        """Measure a batch of n rows."""
        turns = flatten_turns(batch, self.columns)
        if self.model is None:
            sizes = [len(response) for response in turns.responses]
        else:
            from ..models.loading import load_tokenizer, token_ids

            folder = model_folder(self.model)
            tokenizer = load_tokenizer(folder, resolve_revision(folder, self.revision))
            sizes = [len(ids) for ids in token_ids(tokenizer, turns.responses)]
        return {self.name: turns.total(np.array(sizes, dtype=np.float64))}
