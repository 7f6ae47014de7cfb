"""How often verdicts are wrong: `python -m benchmarks.validation_calibration --folder runs/cal`.

Trains a bank of students on random draws of Dolly rows, and of random draws in which 30% of the
responses are exchanged among rows. Then, again and again, one student of the bank stands for a
selection and fifteen others for the three random arms, on a random half of the held-out rows and on
all. Prints how often a random draw is called different, and a shuffled one worse. Several processes
may share the folder.
"""

import argparse
import logging
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from benchmarks.rows import SHARED
from hf_superfilter import StudentSettings, format_pairs, load_rows
from hf_superfilter.runs.distributed import this_process
from hf_superfilter.runs.store import Store
from hf_superfilter.validation.arms import RANDOM_ARMS
from hf_superfilter.validation.differences import compare_arms, difference
from hf_superfilter.validation.figures import PRIMARY, Runs, ratio_of
from hf_superfilter.validation.rows import windows_of
from hf_superfilter.validation.students import Bench, Run, read_runs, window_reader
from hf_superfilter.validation.verdict import secondary, verdict_of

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = {"instruction": "instruction", "input": "input", "output": "output"}
SHUFFLED = 0.30
DRAWS = 5
COMPARISONS = 100


def shuffled(rows: "Dataset", seed: int) -> "Dataset":
    """The rows with the responses of 30% of them passed on among each other."""
    chosen = np.random.default_rng([seed, 1]).permutation(len(rows))[: int(SHUFFLED * len(rows))]
    responses = np.array(rows["response"][:], dtype=object)
    responses[chosen] = responses[np.roll(chosen, 1)]
    return rows.remove_columns("response").add_column("response", responses.tolist())


def many_of(runs: Runs, numbers: list[int], rows: np.ndarray) -> Runs:
    """Some runs of an arm, on some of the rows."""
    ends = runs.end_nats[numbers][:, rows]
    return Runs(runs.nats[numbers][:, rows], ends, runs.tokens[rows], runs.ends[rows])


def word_of(measured: dict[str, Runs]) -> str:
    """The verdict on the arm `selected`."""
    sets = {"held-out": measured}
    primary = compare_arms(["selected"], RANDOM_ARMS, sets)
    others = secondary("selected", RANDOM_ARMS, sets)
    return verdict_of("selected", primary, others, held_out="held-out", target=None).word


def by_rows_alone(measured: dict[str, Runs]) -> bool:
    """Whether an interval over rows alone, without draws, calls the selection different."""
    own, reference = (ratio_of(PRIMARY, measured[name]) for name in ("selected", "random"))
    variance, freedom = own.row_variance(reference)
    value = own.values().mean() - reference.values().mean()
    return bool(abs(value) > stats.t.ppf(0.975, freedom) * np.sqrt(variance))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--student", default="embedded:weak")
    parser.add_argument("--bank", type=int, default=40, help="random students")
    parser.add_argument("--shuffled", type=int, default=12, help="shuffled students")
    parser.add_argument("--rows", type=int, default=160, help="rows of a draw")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--held-out", type=int, default=600)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    file = SHARED / "instruct/dolly.jsonl.zst"
    pairs = format_pairs(load_rows(file), columns=COLUMNS).shuffle(seed=0)
    held_out = pairs.select(range(arguments.held_out))
    pool = pairs.select(range(arguments.held_out, arguments.held_out + 4_000))
    settings = StudentSettings(arguments.student, learning_rate=arguments.learning_rate)
    reader = window_reader(settings)
    whole = windows_of(pool, reader, 512, "random")
    measured = windows_of(held_out, reader, 512, "held-out").measurable()
    draws = [
        np.random.default_rng([3, draw]).permutation(len(pool))[: arguments.rows]
        for draw in range(arguments.bank + arguments.shuffled)
    ]
    runs = []
    for number, rows in enumerate(draws):
        arm = "random"
        if number >= arguments.bank:
            arm = "shuffled"
            added = windows_of(shuffled(pool.select(rows), number), reader, 512, "shuffled")
            rows = np.arange(len(whole), len(whole) + len(added))
            whole = whole.joined(added)
        runs.append(Run("calibration", arm, number, rows, arguments.steps, settings.learning_rate))
    store = Store(arguments.folder)
    store.path("validation").mkdir(parents=True, exist_ok=True)
    files = Bench(store, settings, whole, this_process()).run(runs, [measured])
    (random,) = read_runs(files, "random", "calibration", [measured])
    (worse,) = read_runs(files, "shuffled", "calibration", [measured])
    count(random, worse)


def count(random: Runs, worse: Runs) -> None:
    """Compare students of the bank again and again, and print the counts."""
    for share in (0.5, 1.0):
        rng, words, rows_alone, widths = np.random.default_rng(0), Counter(), 0, []
        seen = Counter()
        for _ in range(COMPARISONS):
            rows = rng.permutation(len(random.tokens))[: int(share * len(random.tokens))]
            first, *others = rng.permutation(len(random.nats)).tolist()
            arms = {
                name: many_of(random, others[DRAWS * n : DRAWS * (n + 1)], rows)
                for n, name in enumerate(RANDOM_ARMS)
            }
            measured = {"selected": many_of(random, [first], rows), **arms}
            words[word_of(measured)] += 1
            rows_alone += by_rows_alone(measured)
            one = difference("selected", "random", "held-out", PRIMARY, measured)
            widths.append((one.high - one.low) / 2)
            number = int(rng.integers(len(worse.nats)))
            seen[word_of({"selected": many_of(worse, [number], rows), **arms})] += 1
        print(
            f"{len(random.nats)} random students, {len(worse.nats)} shuffled, "
            f"{len(rows)} held-out rows, {COMPARISONS} comparisons"
        )
        print(f"random: {dict(words)}; different by rows alone: {rows_alone}")
        print(f"30% shuffled: {dict(seen)}")
        print(f"half-width of the primary figure: median {np.median(widths):.4f} nats")
    level, lower = (ratio_of(PRIMARY, runs).values() for runs in (random, worse))
    print(
        f"primary figure: random {level.mean():.4f}, SD between students {level.std(ddof=1):.4f}; "
        f"shuffled {lower.mean() - level.mean():+.4f}"
    )


if __name__ == "__main__":
    main()
