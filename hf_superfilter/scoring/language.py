"""Tell the language of a row."""

import importlib.util
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np

from ..base import UNREADABLE_STATUS, Batch, Columns, Settings
from ..checks import check_name, pair_of_columns
from ..data.chats import flatten_turns
from ..errors import SuperfilterError, did_you_mean
from ._rows import takes_rows

READ = 1_000  # characters, at most, of the end of a prompt and of the beginning of its response
UNDETERMINED = "und"  # as ISO 639 writes it


@dataclass(frozen=True, repr=False)
class Language(Settings):
    """Tell the language of a row, and how sure that is.

    py3langid (`pip install 'hf-superfilter[language]'`): naive Bayes over byte n-grams, 140
    languages, in Python and numpy alone. It reads prompt and response together, the last 1,000
    characters of the one and the first 1,000 of the other; of a chat the last turn. A text in two
    languages gets the one that fills most of it.

    The column is a group for quotas: `PerCluster("ifd", 0.1, group="language", shares={"en": 3,
    "zh": 1})`; `Threshold("language_probability", above=0.9)` drops what is in doubt.

    Columns: `language`, text, the ISO 639-1 code (639-3 where there is none), `und` where
    `language_status` is not `ok`; `language_probability`, float64, of that language among all;
    `language_status`, `ok`, or why there is none: `empty_text`, `no_letters`, `unreadable`.

    Args:
        languages: the codes to choose among; () is all. Few make short texts surer, and a text in
            another language is put to the one that is nearest.
        name: prefix of the columns.
        columns: the prompt and the response column.

    Raises (when it is called):
        SuperfilterError: py3langid is not installed, or does not know one of the languages.
    """

    languages: tuple[str, ...] = ()
    _: KW_ONLY
    name: str = "language"
    columns: tuple[str, str] = ("prompt", "response")

    def __post_init__(self) -> None:
        """Check the settings."""
        object.__setattr__(self, "columns", pair_of_columns(self.columns))
        codes = self.languages
        is_list = isinstance(codes, Sequence) and not isinstance(codes, str)
        if not is_list or not all(isinstance(code, str) and code for code in codes):
            raise SuperfilterError(f"languages={codes!r}: list codes, such as ['en', 'zh']")
        object.__setattr__(self, "languages", tuple(codes))
        check_name(self.name)

    @property
    def main(self) -> str:
        """The column to rank by."""
        return f"{self.name}_probability"

    def identity(self) -> dict[str, str]:
        """Return the version of the library, whose model comes with it."""
        if importlib.util.find_spec("py3langid") is None:
            return {"py3langid": "not installed"}
        return {"py3langid": version("py3langid")}

    @takes_rows
    def __call__(self, batch: Batch, rank: int | None = None) -> Columns:
        """Tell the languages of a batch of n rows."""
        identifier = _identifier(self.languages)
        turns = flatten_turns(batch, self.columns)
        texts = [""] * turns.count
        for row, prompt, response in zip(
            turns.rows.tolist(), turns.prompts, turns.responses, strict=True
        ):
            texts[row] = f"{prompt[-READ:]}\n{response[:READ]}"
        languages = [UNDETERMINED] * turns.count
        probabilities = np.full(turns.count, np.nan)
        statuses = [_status(text) for text in texts]
        for row, text in enumerate(texts):
            if statuses[row] == "ok":
                languages[row], probabilities[row] = identifier.classify(text)
            elif row in turns.unreadable:
                statuses[row] = UNREADABLE_STATUS
        return {
            self.name: languages,
            f"{self.name}_probability": probabilities,
            f"{self.name}_status": statuses,
        }


def _status(text: str) -> str:
    """Say whether a text can have a language."""
    if not text.strip():
        return "empty_text"
    return "ok" if any(map(str.isalpha, text)) else "no_letters"


@lru_cache(maxsize=2)
def _identifier(languages: tuple[str, ...]) -> Any:
    """Load the model of py3langid, for some languages or all."""
    if importlib.util.find_spec("py3langid") is None:
        raise SuperfilterError(
            "telling languages needs py3langid: install it with pip install "
            "'hf-superfilter[language]'"
        )
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    for code in languages:
        if code not in identifier.labels:
            raise SuperfilterError(
                f"languages={languages!r}: {did_you_mean(code, identifier.labels)}"
            )
    if languages:
        identifier.set_languages(languages)
    return identifier
