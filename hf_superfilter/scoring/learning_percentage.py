"""Learning percentage: how much of what a model learns about a row it has learned after the first epoch."""

import json
from array import array
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..base import Batch, Columns
from ..checks import check_switch, is_count, is_number
from ..data.chats import flatten_turns
from ..embedded import model_folder
from ..revisions import resolve_revision
from ..runs.manifest import digest_columns
from ..runs.store import atomic_write
from ._model import DTYPES, ModelSettings, default_name, revision_of

if TYPE_CHECKING:
    from datasets import Dataset

    from ..data.chats import Turns
    from ..models.causal_lm import CausalLM
    from ..models.tokenization import Window, WindowReader

MADE_OF = "training.json"


LONGEST, FEWEST_ROWS, AT_ONCE = 512, 8, 1_000


@dataclass(frozen=True, repr=False)
class LearningPercentage(ModelSettings):
    """Learning percentage, `LP(i) = (P_{i-1} - P_i) / (P_0 - P_n)`: the share of a row's learning done in epoch i.

    P_0 is the perplexity of the response and its end of text given the prompt, P_i the same after i of n epochs of
    fine-tuning on these very rows. LOW `lp_1` is hard: what the first epoch has not taught. Keep the lowest
    (`TopK("lp_1", k, largest=False)`), in the paper those of each cluster. arXiv 2402.10430, section 2; prompts are
    in the Alpaca template there (`format_pairs(..., template="alpaca")`).

    `score(rows, [LearningPercentage(...)], folder)` fine-tunes first (`prepare`), for which all rows have to be at
    hand: a stream is written to the run folder before. Training needs about 16 bytes of memory a parameter.

    Columns, all float64 but the last: `lp_1` ... `lp_<n>`, mostly between 0 and 1; values below (the perplexity
    rose) and above are kept as they are and counted in the record; `lp_app`, `(P_0 - P_1) / P_0`, at most 1, a
    selector of its own that needs one epoch; `lp_ppl_0` ... `lp_ppl_<n>`, the perplexities; `lp_tokens`, scored tokens;
    `lp_status`, `ok`, `truncated`, or why the main column is nan: `empty_response`, `too_short`,
    `prompt_too_long`, `not_finite` (a perplexity), `unchanged` (P_0 = P_n: nothing was learned to take a share of).

    Args:
        epochs: n, which also decides the learning rate's course.
        approximate: stop after the first of the n epochs. The columns are then `lp_app`, which is also `main`, and what
            belongs to it; its values are those that all n epochs would give.
        learning_rate: the highest; it rises over 0.03 of the steps and falls along a cosine to 0.
        batch_rows: rows of a training step, shared by all processes.
        seed: of the order of the rows in training and of the model's dropout.
        checkpoints: the models after each epoch, as `prepare` names them; () is to be trained.

    The model's own settings are those of other scorers, with two differences. `max_length`: None is 512 tokens, or the
    model's window where that is shorter. `dtype`: perplexities come from float32 unless another one is named, for
    LP is a difference of close numbers (in bfloat16 the embedded models' ranks have a Spearman correlation
    of 0.3 to 0.4 with those in float32); training multiplies in bfloat16 on GPUs that do so natively, with
    float32 weights.

    Example:
        >>> from hf_superfilter import LearningPercentage
        >>> LearningPercentage("embedded:weak")({"prompt": ["Hi\\n"], "response": ["Hello"]})
        Traceback (most recent call last):
        ...
        ValueError: LearningPercentage(model='embedded:weak') has to be trained on all rows first: score(rows, ...
    """

    epochs: int = 3
    approximate: bool = False
    _: KW_ONLY
    learning_rate: float = 2e-5
    batch_rows: int = 128
    seed: int = 42
    checkpoints: tuple[str, ...] = ()
    name: str = default_name("lp")

    dtypes: ClassVar[tuple[str, ...]] = DTYPES[:-1]  # nothing can be trained in int8
    bounds: ClassVar[tuple[float, float]] = (
        0.0,
        1.0,
    )  # values of `main` beyond them are counted in the record

    def __post_init__(self) -> None:
        """Check the training as well as what every model scorer checks."""
        super().__post_init__()
        check_switch("approximate", self.approximate)
        least = 1 if self.approximate else 2
        if not is_count(self.epochs, least):
            raise ValueError(
                f"epochs={self.epochs!r}: give a whole number, at least {least} (one of two is a share)"
            )
        if not is_count(self.batch_rows):
            raise ValueError(f"batch_rows={self.batch_rows!r}: give a number of rows, at least 1")
        if not is_number(self.learning_rate) or self.learning_rate <= 0:
            raise ValueError(
                f"learning_rate={self.learning_rate!r}: give a number above 0, such as 2e-5"
            )
        if not is_count(self.seed, 0):
            raise ValueError(f"seed={self.seed!r}: give a whole number, at least 0")
        if isinstance(self.checkpoints, str) or not all(
            isinstance(path, str) for path in self.checkpoints
        ):
            raise ValueError(
                f"checkpoints={self.checkpoints!r}: give a list of model folders, one an epoch"
            )
        object.__setattr__(self, "checkpoints", tuple(self.checkpoints))
        if self.checkpoints and len(self.checkpoints) != self._trained:
            raise ValueError(
                f"checkpoints={self.checkpoints!r}: give {self._trained} folders, one an epoch, or none"
            )

    @property
    def main(self) -> str:
        """The column to rank by, lowest first."""
        return f"{self.name}_app" if self.approximate else f"{self.name}_1"

    @property
    def _trained(self) -> int:
        return 1 if self.approximate else self.epochs

    def identity(self) -> dict[str, Any]:
        """The model's immutable revision, and what the checkpoints hold."""
        made = [revision_of(path, None)["revision"] for path in self.checkpoints]
        return super().identity() | ({"checkpoints": made} if made else {})

    def provenance(self, rank: int | None = None) -> dict[str, Any]:
        """What a run records, with what the training took: seconds of all processes together."""
        made = super().provenance(rank)
        losses = [Path(path).parent / "loss.jsonl" for path in self.checkpoints[-1:]]
        for line in [
            line for file in losses if file.is_file() for line in file.read_text().splitlines()
        ]:
            made["training_steps"] = made.get("training_steps", 0) + 1
            made["training_seconds"] = round(
                made.get("training_seconds", 0.0) + json.loads(line)["seconds"], 1
            )
        return made

    def language_model(self, rank: int | None = None, model: str | None = None) -> "CausalLM":
        """The model before training, or a checkpoint; in float32 unless another dtype was asked for."""
        exact = replace(self, dtype="float32") if self.dtype == "auto" else self
        return super(LearningPercentage, exact).language_model(rank, model)

    def prepare(self, rows: "Dataset", folder: str | Path) -> "LearningPercentage":
        """Fine-tune on the rows and put the models into a local folder; all processes of a launch have to call it.

        Called again after a kill it goes on from the last state saved; when all is there it only names it.

        Raises:
            ValueError: fewer than 8 rows, none with anything to learn, a quantised model, a tokenizer without an
                end of text, a window shorter than `max_length`, or a folder that holds another training.
            MemoryError: not even a single row fits.
        """
        from ..models.finetune import epoch_folders, finetune
        from ..models.loading import check_trainable
        from ..models.trainer import Plan

        if self.checkpoints:
            return self
        if "://" in str(folder):
            raise ValueError(
                f"folder={str(folder)!r}: models are trained into a local folder; score(...) copies them"
            )
        if len(rows) < FEWEST_ROWS:
            raise ValueError(
                f"{len(rows)} rows: learning percentage needs at least {FEWEST_ROWS} to train on"
            )
        revision = resolve_revision(model_folder(self.model), self.revision)
        plan = Plan(self.epochs, self._trained, self.learning_rate, self.batch_rows, self.seed)
        made = tuple(str(path.absolute()) for path in epoch_folders(folder, self._trained))
        self._claim(Path(folder), rows)
        if not all(Path(path).is_dir() for path in made):
            check_trainable(
                model_folder(self.model), None if revision.startswith("sha256:") else revision
            )
            finetune(
                model_folder(self.model), revision, self._windows_of(rows), folder, plan,
                device=self.device, dtype=self.dtype, attn_implementation=self.attn_implementation,
                batch_tokens=self.batch_tokens,
            )  # fmt: skip
        return replace(self, checkpoints=made)

    def _claim(self, folder: Path, rows: "Dataset") -> None:
        """Write down what the folder's models are made of, or refuse a folder of others."""
        speed = ("device", "batch_tokens", "name", "columns")
        settings = {key: value for key, value in self.settings().items() if key not in speed}
        made_of = json.dumps(
            settings | self.identity() | {"rows": digest_columns(rows, self.columns)}, indent=2
        )
        file = folder / MADE_OF
        if file.is_file():
            if file.read_text() != made_of:
                raise ValueError(
                    f"{str(folder)!r} holds a training on other rows or settings: use another folder"
                )
            return
        with atomic_write(file) as unfinished:
            unfinished.write_text(made_of)

    def _windows_of(self, rows: "Dataset") -> "list[list[Window]]":
        """The windows of every row's turns, with ids in compact arrays."""
        found: list[list[Window]] = []
        reader = self._reader()
        for start in range(0, len(rows), AT_ONCE):
            turns = flatten_turns(rows.with_format(None)[start : start + AT_ONCE], self.columns)
            several: list[list[Window]] = [[] for _ in range(turns.count)]
            for row, window in zip(turns.rows.tolist(), self._windows(turns, reader), strict=True):
                several[row].append(window._replace(ids=array("i", window.ids)))
            found += several
        return found

    def _windows(self, turns: "Turns", reader: "WindowReader") -> "list[Window]":
        limit = self.max_length or min(LONGEST, reader.window)
        pairs = reader.windows(turns.prompts, turns.responses, max_length=limit, append_eos=True)
        return [pair.given for pair in pairs]

    def _reader(self) -> "WindowReader":
        """Windows need no weights: in training they would stand beside those that are trained."""
        from ..models.loading import load_config, load_tokenizer, window_of
        from ..models.tokenization import WindowReader

        folder = model_folder(self.model)
        revision = resolve_revision(folder, self.revision)
        config = load_config(folder, revision)
        return WindowReader(folder, load_tokenizer(folder, revision), window_of(config))

    def __call__(self, batch: Batch, rank: int | None = None) -> Columns:
        """Score a batch of n rows with the model before training and after each epoch."""
        if not self.checkpoints:
            raise ValueError(
                f"{self!r} has to be trained on all rows first: score(rows, [scorer], folder) does so, "
                "or scorer = scorer.prepare(rows, folder)"
            )
        turns = flatten_turns(batch, self.columns)
        windows = self._windows(turns, self._reader())
        ppl = []
        for model in (None, *self.checkpoints):
            nats, tokens = self.language_model(rank, model).losses(windows, self.batch_tokens)
            scored = turns.total(tokens)
            with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
                ppl.append(np.exp(turns.total(np.where(tokens > 0, nats * tokens, 0)) / scored))
        status = turns.statuses(
            [w.status for w in windows], tokens > 0, np.isfinite(np.stack(ppl)).all(axis=0)
        )
        return self._columns(np.stack(ppl), scored, status)

    def _columns(self, ppl: np.ndarray, scored: np.ndarray, status: list[str]) -> Columns:
        """What is made of (epochs + 1, n) perplexities."""
        finite = np.isfinite(ppl).all(axis=0)
        shares, roughly = learning_percentages(np.where(finite, ppl, np.nan))
        columns: Columns = {}
        if not self.approximate:
            status = [
                "unchanged" if gone else s
                for s, gone in zip(status, finite & np.isnan(shares[0]), strict=True)
            ]
            columns |= {
                f"{self.name}_{number}": share for number, share in enumerate(shares, start=1)
            }
        columns[f"{self.name}_app"] = roughly
        defined = np.where(np.isfinite(ppl), ppl, np.nan)
        columns |= {f"{self.name}_ppl_{number}": values for number, values in enumerate(defined)}
        return columns | {f"{self.name}_tokens": scored, f"{self.name}_status": status}


def learning_percentages(perplexities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What share of all that was learned of a row was learned in each epoch; low in the first is hard.

    `LP(i) = (P_{i-1} - P_i) / (P_0 - P_n)` and, from one epoch, `LP_app = (P_0 - P_1) / P_0` (section 3).

    Args:
        perplexities: (n + 1, rows) of each row before training and after each of n epochs, n at least 1.

    Returns:
        (n, rows) float64 LP(1) ... LP(n), and (rows,) float64 LP_app. A value is nan where one of the
        perplexities in its formula is not finite, and LP also where P_0 = P_n: nothing to take a share
        of. Values below 0 and above 1 occur, of rows that an epoch made worse, and stay.

    Raises:
        ValueError: not two dimensions, or fewer than two perplexities a row.

    Example:
        >>> lp, lp_app = learning_percentages(np.array([[10.0, 8.0], [6.0, 8.0], [5.0, 8.0]]))
        >>> lp.tolist(), lp_app.tolist()
        ([[0.8, nan], [0.2, nan]], [0.4, 0.0])
    """
    p = np.asarray(perplexities, dtype=np.float64)
    if p.ndim != 2 or len(p) < 2:
        raise ValueError(
            f"perplexities of shape {p.shape}: give (epochs + 1, rows), those before training and after each epoch"
        )
    p = np.where(np.isfinite(p), p, np.nan)
    learned = p[0] - p[-1]
    return (p[:-1] - p[1:]) / np.where(learned == 0, np.nan, learned), (p[0] - p[1]) / p[0]
