"""Score rows with a classifier or reward model of others."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..base import UNREADABLE_STATUS, Batch, Columns
from ..checks import is_count
from ..data.chats import Turns, flatten_turns
from ..errors import SuperfilterError, did_you_mean
from ..models.first_import import import_transformers
from ._model import DTYPES, ModelSettings, default_name
from ._rows import as_counts, takes_rows

if TYPE_CHECKING:
    from ..models.classifier import TextClassifier

FORMS = ("auto", "text", "pair", "chat")
ACTIVATIONS = ("auto", "none", "softmax", "sigmoid")


@dataclass(frozen=True, repr=False)
class Classifier(ModelSettings):
    """Score rows by an output of a sequence-classification model.

    Any model that transformers loads with a classification head: educational value
    (FineWeb-Edu's classifier, one output from 0 to 5), toxicity, reward models of one output
    (Bradley-Terry: the larger, the better). Models whose own code has to be run are refused.

    Columns: `classifier`, float64; `classifier_tokens`, the tokens read, int64;
    `classifier_status`, `ok`, `truncated` (cut at `max_length` and scored), or why it is nan:
    `empty_response`, `not_finite`, `unreadable`. A chat is scored by its last turn given all
    before it.

    The other arguments say which model is run and how, as in `ModelSettings`: `revision`,
    `columns`, `dtype`, `device`, `attn_implementation`, `max_length`, `batch_tokens`.

    Args:
        label: the output to take, by its name in the model's config or its number; None where the
            model has a single one.
        form: how a row is read: `chat`, in the model's chat template, one user turn and one
            assistant turn; `pair`, prompt and response as the two segments that the tokenizer
            joins; `text`, prompt, line break, response; `auto`, `chat` where the tokenizer has a
            template, else `text`.
        activation: what is done to the outputs: `none`, `softmax` over all, `sigmoid`; `auto` is
            none for a single output, sigmoid where the config says that labels do not exclude each
            other, else softmax.
        dtype: float32 unless set otherwise.

    Raises (when it is called):
        SuperfilterError: a model without a classification head, or no such label.
    """

    dtypes: ClassVar[tuple[str, ...]] = DTYPES[:-1]

    label: str | int | None = None
    form: str = "auto"
    activation: str = "auto"
    dtype: str = "float32"
    name: str = default_name("classifier")

    def __post_init__(self) -> None:
        """Check the settings too."""
        super().__post_init__()
        if isinstance(self.label, np.integer):
            object.__setattr__(self, "label", int(self.label))
        is_number = is_count(self.label, 0)
        if self.label is not None and not is_number and not isinstance(self.label, str):
            raise SuperfilterError(f"label={self.label!r}: give the name or number of an output")
        for setting, options in (("form", FORMS), ("activation", ACTIVATIONS)):
            value = getattr(self, setting)
            if value not in options:
                raise SuperfilterError(f"{setting}={value!r}: {did_you_mean(str(value), options)}")

    def provenance(self, rank: int | None = None) -> dict[str, Any]:
        """Return what the manifest records: model, revision, device, dtype, label."""
        classifier = self.classifier(rank)
        label = classifier.labels[classifier.label_number(self.label)]
        return {**self.facts_of_model(classifier), "label": label}

    def classifier(self, rank: int | None = None) -> "TextClassifier":
        """Load the model, once per process for all its scorers."""
        import_transformers()
        from ..models.classifier import load_classifier

        return load_classifier(*self.resolved(rank))

    @takes_rows
    def __call__(self, batch: Batch, rank: int | None = None) -> Columns:
        """Score a batch of n rows."""
        classifier = self.classifier(rank)
        number = classifier.label_number(self.label)
        turns = flatten_turns(batch, self.columns)
        form = self._form_for(classifier)
        read = classifier.outputs(
            _texts(turns, form, classifier),
            special_tokens=form != "chat",
            max_length=self.max_length,
            batch_tokens=self.batch_tokens,
        )
        scores = self._activated(read.outputs, classifier)[:, number].astype(np.float64)
        finite = np.isfinite(scores)
        conditions = [turns.is_unreadable, read.tokens == 0, ~finite, read.cut]
        names = [UNREADABLE_STATUS, "empty_response", "not_finite", "truncated"]
        return {
            self.name: np.where(finite, scores, np.nan),
            f"{self.name}_tokens": as_counts(read.tokens),
            f"{self.name}_status": np.select(conditions, names, "ok").tolist(),
        }

    def _form_for(self, classifier: "TextClassifier") -> str:
        """Decide how rows are read by a model."""
        has_template = bool(classifier.tokenizer.chat_template)
        if self.form == "auto":
            return "chat" if has_template else "text"
        if self.form == "chat" and not has_template:
            raise SuperfilterError(
                f"form='chat': the tokenizer of {self.model!r} has no chat template; give 'text' "
                "or 'pair'"
            )
        return self.form

    def _activated(self, outputs: np.ndarray, classifier: "TextClassifier") -> np.ndarray:
        """Turn (n, labels) outputs into scores."""
        from scipy.special import expit, softmax

        activation = self.activation
        if activation == "auto":
            activation = "softmax"
            if len(classifier.labels) == 1:
                activation = "none"
            elif classifier.model.config.problem_type == "multi_label_classification":
                activation = "sigmoid"
        if activation == "softmax":
            return np.asarray(softmax(outputs, axis=1))
        return np.asarray(expit(outputs)) if activation == "sigmoid" else outputs


def _texts(turns: Turns, form: str, classifier: "TextClassifier") -> list[str | tuple[str, str]]:
    """Write each row as the model reads it, "" for one without a response."""
    texts: list[str | tuple[str, str]] = [""] * turns.count
    for row, prompt, response in zip(
        turns.rows.tolist(), turns.prompts, turns.responses, strict=True
    ):
        if not response:
            texts[row] = ""
        elif form == "chat":
            texts[row] = classifier.chat(prompt.strip(), response)
        elif form == "pair":
            texts[row] = (prompt.strip(), response)
        else:
            separated = not prompt or prompt[-1].isspace()
            texts[row] = prompt + ("" if separated else "\n") + response
    return texts
