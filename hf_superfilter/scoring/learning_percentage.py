"""Measure how early a model learns a row (arXiv 2402.10430)."""

import json
from array import array
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..base import Batch, Columns
from ..checks import check_seed, check_switch, is_count, is_number, is_url, plain_numbers
from ..data.chats import flatten_turns
from ..embedded import model_folder
from ..errors import SuperfilterError
from ..revisions import resolve_revision
from ..runs.manifest import digest_columns
from ..runs.store import atomic_write
from ._model import DTYPES, ModelSettings, default_name, revision_of
from ._rows import as_counts, takes_rows

if TYPE_CHECKING:
    from datasets import Dataset

    from ..data.chats import Turns
    from ..models.causal_lm import CausalLM
    from ..models.tokenization import Window, WindowReader

SETTINGS_FILE = "training.json"  # what the models in a folder were trained on
DEFAULT_MAX_LENGTH = 512  # tokens, as in arXiv 2402.10430
MIN_ROWS = 8
BLOCK_ROWS = 1_000  # tokenised at once
NOT_IN_TRAINING = ("device", "batch_tokens", "name", "columns")  # settings that change no weight


@dataclass(frozen=True, repr=False)
class LearningPercentage(ModelSettings):
    """Score the share of a row's learning done in each epoch.

    `LP(i) = (P_{i-1} - P_i) / (P_0 - P_n)`: P_0 is the perplexity of the response and its end of
    text given the prompt, P_i the same after i of n epochs of fine-tuning on these very rows. LOW
    `lp_1` is
    hard: what the first epoch has not taught. Keep the lowest (`TopK("lp_1", k, largest=False)`),
    in the paper those of each cluster. arXiv 2402.10430, section 2; prompts are in the Alpaca
    template there (`format_pairs(..., template="alpaca")`).

    `score(rows, [LearningPercentage(...)], folder)` fine-tunes first (`prepare`), for which all
    rows have
    to be at hand: a stream is written to the run folder before. Training needs about 16 bytes of
    memory a parameter, scoring the weights of n + 1 models.

    Columns, float64, counts int64: `lp_1` ... `lp_<n>`, mostly between 0 and 1; values below
    (the perplexity rose) and above are kept as they are and counted in the manifest; `lp_app`,
    `(P_0 - P_1) / P_0`, at most 1, a selector of its own that needs one epoch; `lp_ppl_0` ...
    `lp_ppl_<n>`, the perplexities; `lp_tokens`, scored tokens; `lp_status`, `ok`, `truncated`, or
    why the
    main column is nan: `empty_response`, `too_short`, `prompt_too_long`, `not_finite` (a
    perplexity), `unchanged` (P_0 = P_n: nothing was learned to take a share of).

    Args:
        epochs: n, which also decides the learning rate's course.
        approximate: stop after the first of the n epochs. The columns are then `lp_app`, which is
            also `main`, and what belongs to it; its values are those that all n epochs would give.
        learning_rate: the highest; it rises over 0.03 of the steps and falls along a cosine to 0.
        batch_rows: rows of a training step, shared by all processes.
        seed: of the order of the rows in training and of the model's dropout.
        checkpoints: the models after each epoch, as `prepare` names them; () is to be trained.

    The other arguments are those of `ModelSettings`, with two differences. `max_length`: None is
    512 tokens, or the model's window where that is shorter. `dtype`: perplexities come from float32
    unless another one is named, for LP is a difference of close numbers (in bfloat16 the embedded
    models' ranks have a Spearman correlation of 0.3 to 0.4 with those in float32); training
    multiplies in bfloat16 on GPUs that do so natively, with float32 weights.

    Example:
        >>> from hf_superfilter import LearningPercentage
        >>> scorer = LearningPercentage("embedded:weak")
        >>> scorer({"prompt": ["Hi\\n"], "response": ["Hello"]})
        Traceback (most recent call last):
        ...
        hf_superfilter.errors.SuperfilterError: LearningPercentage(model='embedded:weak') has to ...
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
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __post_init__(self) -> None:
        """Check the training too."""
        super().__post_init__()
        plain_numbers(self, "epochs", "learning_rate", "batch_rows", "seed")
        check_switch("approximate", self.approximate)
        minimum = 1 if self.approximate else 2
        if not is_count(self.epochs, minimum):
            raise SuperfilterError(
                f"epochs={self.epochs!r}: give a whole number, at least {minimum} (LP is a share "
                "of the learning in several epochs)"
            )
        if not is_count(self.batch_rows):
            raise SuperfilterError(
                f"batch_rows={self.batch_rows!r}: give a number of rows, at least 1"
            )
        if not is_number(self.learning_rate) or self.learning_rate <= 0:
            raise SuperfilterError(
                f"learning_rate={self.learning_rate!r}: give a number above 0, such as 2e-5"
            )
        check_seed(self.seed)
        self._check_checkpoints()

    def _check_checkpoints(self) -> None:
        paths = self.checkpoints
        is_list = isinstance(paths, Sequence) and not isinstance(paths, str)
        if not is_list or not all(isinstance(path, str) for path in paths):
            raise SuperfilterError(
                f"checkpoints={paths!r}: give a list of model folders, one an epoch"
            )
        object.__setattr__(self, "checkpoints", tuple(paths))
        if paths and len(paths) != self._trained_epochs:
            raise SuperfilterError(
                f"checkpoints={paths!r}: give {self._trained_epochs} folders, one an epoch, or none"
            )

    @property
    def main(self) -> str:
        """The column to rank by, lowest first."""
        return f"{self.name}_app" if self.approximate else f"{self.name}_1"

    @property
    def _trained_epochs(self) -> int:
        return 1 if self.approximate else self.epochs

    def identity(self) -> dict[str, Any]:
        """Return the revisions of the model and of its checkpoints."""
        identity = super().identity()
        if self.checkpoints:
            revisions = [revision_of(path, None)["revision"] for path in self.checkpoints]
            identity["checkpoints"] = revisions
        return identity

    def provenance(self, rank: int | None = None) -> dict[str, Any]:
        """Return the model's facts and what its training took.

        `training_seconds` are those of all processes together.
        """
        facts = super().provenance(rank)
        if not self.checkpoints:
            return facts
        log = Path(self.checkpoints[-1]).parent / "loss.jsonl"
        if log.is_file():
            steps = [json.loads(line) for line in log.read_text().splitlines()]
            facts["training_steps"] = len(steps)
            facts["training_seconds"] = round(sum(step["seconds"] for step in steps), 1)
        return facts

    def language_model(self, rank: int | None = None) -> "CausalLM":
        """Load the model before training, by default in float32."""
        return self._models(rank)[0]

    def _models(self, rank: int | None) -> "tuple[CausalLM, ...]":
        """Load the model before training and after each epoch."""
        exact = replace(self, dtype="float32") if self.dtype == "auto" else self
        keys = [exact.resolved(rank)]
        keys += [exact.resolved(rank, checkpoint) for checkpoint in self.checkpoints]
        return _load_models(tuple(keys))

    def prepare(self, rows: "Dataset", folder: str | Path) -> "LearningPercentage":
        """Fine-tune on the rows and write the models into a local folder.

        All processes of a launch have to call it. Called again after a kill it resumes from the
        last state saved; when all models are there it only names them.

        Raises:
            ValueError: fewer than 8 rows, none with anything to learn, a quantised model, a
                tokenizer without an end of text, a window shorter than `max_length`, or a folder
                that holds another training.
            MemoryError: not even a single row fits.
        """
        from ..models.finetune import epoch_folders, finetune
        from ..models.loading import check_trainable, hub_revision
        from ..models.trainer import Plan

        if self.checkpoints:
            return self
        if is_url(folder):
            raise SuperfilterError(
                f"folder={str(folder)!r}: models are trained into a local folder; score(...) "
                "copies them"
            )
        if len(rows) < MIN_ROWS:
            raise SuperfilterError(
                f"{len(rows)} rows: learning percentage needs at least {MIN_ROWS} to train on"
            )
        model = model_folder(self.model)
        revision = resolve_revision(model, self.revision)
        plan = Plan(
            self.epochs, self._trained_epochs, self.learning_rate, self.batch_rows, self.seed
        )
        self._reserve(Path(folder), rows)
        folders = epoch_folders(folder, self._trained_epochs)
        if not all(path.is_dir() for path in folders):
            check_trainable(model, hub_revision(revision))
            finetune(
                model,
                revision,
                self._training_windows(rows),
                folder,
                plan,
                device=self.device,
                dtype=self.dtype,
                attn_implementation=self.attn_implementation,
                batch_tokens=self.batch_tokens,
            )
        return replace(self, checkpoints=tuple(str(path.absolute()) for path in folders))

    def _reserve(self, folder: Path, rows: "Dataset") -> None:
        """Reserve the folder for this training, or refuse another's."""
        settings = self.settings()
        for setting in NOT_IN_TRAINING:
            settings.pop(setting, None)
        facts = settings | self.identity() | {"rows": digest_columns(rows, self.columns)}
        text = json.dumps(facts, indent=2)
        file = folder / SETTINGS_FILE
        if not file.is_file():
            with atomic_write(file) as unfinished:
                unfinished.write_text(text)
        elif file.read_text() != text:
            raise SuperfilterError(
                f"{str(folder)!r} holds a training on other rows or settings: use another folder"
            )

    def _training_windows(self, rows: "Dataset") -> "list[list[Window]]":
        """Make the windows of every row's turns, with ids in compact arrays."""
        windows: list[list[Window]] = []
        reader = self._window_reader()
        plain = rows.with_format(None)
        for start in range(0, len(rows), BLOCK_ROWS):
            turns = flatten_turns(plain[start : start + BLOCK_ROWS], self.columns)
            by_row: list[list[Window]] = [[] for _ in range(turns.count)]
            block = self._windows(turns, reader)
            for row, window in zip(turns.rows.tolist(), block, strict=True):
                by_row[row].append(window._replace(ids=array("i", window.ids)))
            windows += by_row
        return windows

    def _windows(self, turns: "Turns", reader: "WindowReader | CausalLM") -> "list[Window]":
        limit = self.max_length or min(DEFAULT_MAX_LENGTH, reader.window)
        pairs = reader.windows(turns.prompts, turns.responses, max_length=limit, append_eos=True)
        return [pair.given for pair in pairs]

    def _window_reader(self) -> "WindowReader":
        """Load what makes windows, without weights beside those in training."""
        from ..models.loading import load_config, load_tokenizer, window_of
        from ..models.tokenization import WindowReader

        folder = model_folder(self.model)
        revision = resolve_revision(folder, self.revision)
        config = load_config(folder, revision)
        return WindowReader(folder, load_tokenizer(folder, revision), window_of(config))

    @takes_rows
    def __call__(self, batch: Batch, rank: int | None = None) -> Columns:
        """Score a batch of n rows with the model of each epoch."""
        if not self.checkpoints:
            raise SuperfilterError(
                f"{self!r} has to be trained on all rows first: score(rows, [scorer], folder) does "
                "so, or scorer = scorer.prepare(rows, folder)"
            )
        turns = flatten_turns(batch, self.columns)
        models = self._models(rank)
        windows = self._windows(turns, models[0])
        tokens = np.array([window.scored for window in windows], dtype=np.int64)
        perplexities = []
        for lm in models:
            nats, _ = lm.losses(windows, self.batch_tokens)
            with np.errstate(over="ignore"):
                perplexities.append(np.exp(turns.mean(nats, tokens)))
        ppl = np.stack(perplexities)
        finite = np.isfinite(ppl).all(axis=0)
        status = turns.statuses([window.status for window in windows], tokens > 0, finite)
        return self._columns(ppl, turns.total(tokens), status)

    def _columns(self, ppl: np.ndarray, total: np.ndarray, status: list[str]) -> Columns:
        """Arrange the columns of (epochs + 1, n) perplexities."""
        finite = np.isfinite(ppl)
        complete = finite.all(axis=0)
        shares, approximation = learning_percentages(np.where(complete, ppl, np.nan))
        columns: Columns = {}
        if not self.approximate:
            for row in np.flatnonzero(complete & np.isnan(shares[0])).tolist():
                status[row] = "unchanged"
            for epoch, share in enumerate(shares, start=1):
                columns[f"{self.name}_{epoch}"] = share
        columns[f"{self.name}_app"] = approximation
        for epoch, values in enumerate(np.where(finite, ppl, np.nan)):
            columns[f"{self.name}_ppl_{epoch}"] = values
        columns[f"{self.name}_tokens"] = as_counts(total)
        columns[f"{self.name}_status"] = status
        return columns


def learning_percentages(perplexities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the share of a row's learning done in each epoch.

    `LP(i) = (P_{i-1} - P_i) / (P_0 - P_n)` and, from one epoch, `LP_app = (P_0 - P_1) / P_0`.
    arXiv 2402.10430, section 3. Low in the first epoch is hard.

    Args:
        perplexities: (n + 1, rows) of each row before training and after each of n epochs, n at
            least 1.

    Returns:
        (n, rows) float64 LP(1) ... LP(n), and (rows,) float64 LP_app. A value is nan where one of
        the perplexities in its formula is not finite, and LP also where P_0 = P_n: nothing to take
        a share of. Values below 0 and above 1 occur, of rows that an epoch made worse, and stay.

    Raises:
        ValueError: not two dimensions, or fewer than two perplexities a row.

    Example:
        >>> lp, lp_app = learning_percentages(np.array([[10.0, 8.0], [6.0, 8.0], [5.0, 8.0]]))
        >>> lp.tolist(), lp_app.tolist()
        ([[0.8, nan], [0.2, nan]], [0.4, 0.0])
    """
    p = np.asarray(perplexities, dtype=np.float64)
    if p.ndim != 2 or len(p) < 2:
        raise SuperfilterError(
            f"perplexities of shape {p.shape}: give (epochs + 1, rows), those before training and "
            "after each epoch"
        )
    p = np.where(np.isfinite(p), p, np.nan)
    learned = p[0] - p[-1]
    shares = (p[:-1] - p[1:]) / np.where(learned == 0, np.nan, learned)
    return shares, (p[0] - p[1]) / p[0]


# One entry: the models of one training, however many, instead of the few that load_causal_lm keeps.
@lru_cache(maxsize=1)
def _load_models(keys: tuple[tuple[str, str, str, str, str | None], ...]) -> "tuple[CausalLM, ...]":
    from ..models.causal_lm import CausalLM, load_causal_lm

    base, *checkpoints = keys
    models = [load_causal_lm(*base)]
    for folder, revision, dtype, device, attention in checkpoints:
        models.append(
            CausalLM(
                folder,
                revision=revision,
                dtype=dtype,
                device=device,
                attn_implementation=attention,
            )
        )
    return tuple(models)
