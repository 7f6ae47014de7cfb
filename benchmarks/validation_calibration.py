"""How often verdicts are wrong: `python -m benchmarks.validation_calibration --folder runs/cal`.

Trains a bank of students on random draws of Dolly rows, and of random draws in which 30% of the
responses are exchanged among rows. Then, again and again, one student of the bank stands for a
selection and five others for the random arm, measured on a random half of the held-out rows. Prints
how often a random draw is called different, and a shuffled one worse. Several processes may share
the folder.
"""

import argparse
import logging
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.rows import SHARED
from hf_superfilter import StudentSettings, format_pairs, load_rows
from hf_superfilter.runs.distributed import this_process
from hf_superfilter.runs.store import Store
from hf_superfilter.validation.differences import SAME, WORSE, compare_arms, difference
from hf_superfilter.validation.figures import PRIMARY, Runs
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


def part_of(runs: Runs, number: int, rows: np.ndarray) -> Runs:
    """One run of an arm, on some of the rows."""
    return many_of(runs, [number], rows)


def many_of(runs: Runs, numbers: list[int], rows: np.ndarray) -> Runs:
    ends = runs.end_nats[numbers][:, rows]
    return Runs(runs.nats[numbers][:, rows], ends, runs.tokens[rows], runs.ends[rows])


def compared(selected: Runs, random: Runs) -> tuple[str, bool, float]:
    """The verdict, whether rows alone would call it different, and the half-width."""
    sets = {"held-out": {"selected": selected, "random": random}}
    primary = compare_arms(["selected"], ["random"], sets)
    others = secondary("selected", ["random"], sets)
    verdict = verdict_of("selected", primary, others, held_out="held-out", target=None)
    one = difference("selected", "random", "held-out", PRIMARY, sets["held-out"])
    from scipy import stats

    from hf_superfilter.validation.figures import ratio_of

    own, reference = ratio_of(PRIMARY, selected), ratio_of(PRIMARY, random)
    variance, freedom = own.row_variance(reference)
    alone = abs(one.value) > stats.t.ppf(0.975, freedom) * np.sqrt(variance)
    return verdict.word, bool(alone), (one.high - one.low) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--student", default="embedded:weak")
    parser.add_argument("--bank", type=int, default=40, help="random students")
    parser.add_argument("--shuffled", type=int, default=12, help="shuffled students")
    parser.add_argument("--rows", type=int, default=160, help="rows of a draw")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--held-out", type=int, default=600)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    file = SHARED / "instruct/dolly.jsonl.zst"
    pairs = format_pairs(load_rows(file), columns=COLUMNS).shuffle(seed=0)
    held_out = pairs.select(range(arguments.held_out))
    pool = pairs.select(range(arguments.held_out, arguments.held_out + 2_000))
    settings = StudentSettings(arguments.student, learning_rate=1e-3)
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
        runs.append(Run("calibration", arm, number, rows, arguments.steps, 1e-3))
    store = Store(arguments.folder)
    store.path("validation").mkdir(parents=True, exist_ok=True)
    files = Bench(store, settings, whole, this_process()).run(runs, [measured])
    (random,) = read_runs(files, "random", "calibration", [measured])
    (worse,) = read_runs(files, "shuffled", "calibration", [measured])
    count(random, worse, arguments.held_out)


def count(random: Runs, worse: Runs, rows: int) -> None:
    """Compare students of the bank again and again, and print the counts."""
    rng = np.random.default_rng(0)
    different, alone, seen, halves = 0, 0, 0, []
    for _ in range(COMPARISONS):
        half = np.sort(rng.permutation(len(random.tokens))[: len(random.tokens) // 2])
        first, *others = rng.permutation(len(random.nats))[: DRAWS + 1].tolist()
        reference = many_of(random, others, half)
        word, by_rows, width = compared(part_of(random, first, half), reference)
        different += word != SAME
        alone += by_rows
        halves.append(width)
        number = int(rng.integers(len(worse.nats)))
        seen += compared(part_of(worse, number, half), reference)[0] == WORSE
    print(f"{len(random.nats)} random students, {len(worse.nats)} shuffled, {rows} held-out rows")
    print(f"random called different: {different} of {COMPARISONS}")
    print(f"random called different by intervals over rows alone: {alone} of {COMPARISONS}")
    print(f"30% shuffled called worse: {seen} of {COMPARISONS}")
    print(f"half-width of the primary figure: median {np.median(halves):.4f} nats")


if __name__ == "__main__":
    main()
