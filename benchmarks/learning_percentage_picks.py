"""Learning percentage against the published picks: seven models on Dolly, the lowest tenth of each
of 300 clusters.

    python -m benchmarks.learning_percentage_picks

reads `../shared/data`, numbers only. The published code gives LP 0 to rows that have none, rounds
the share of every cluster up (`numpy.array_split`), and sorts unstably. `PublishedShares` has the
first two; the product has none.
"""

import gzip
import json
from typing import NamedTuple

import numpy as np
from datasets import Dataset

from hf_superfilter import PerCluster, select
from hf_superfilter.scoring.learning_percentage import learning_percentages
from hf_superfilter.selection.per_cluster import ranks_within

from .rows import SHARED, real_rows

STAGES = ("pre", "ep1", "ep2", "ep3")
METRICS = ("lp1", "lp1_approx")


class PublishedShares(PerCluster):
    """The share of each cluster as in the published code: a tenth of its rows, rounded up.

    And one more, for one cluster is larger than is known: whoever compares cuts a list to its
    published length.
    """

    def __call__(self, table, pool):
        order = self._order(table, pool)
        labels = self._labels(table, pool)
        clusters = labels[order]
        quotas = -(-np.bincount(labels) // 10) + 1
        return order[ranks_within(clusters) < quotas[clusters]]


class Dolly(NamedTuple):
    """The rows of which cluster and place in the original are known, by place, and what was
    published about them.
    """

    cluster: np.ndarray
    idx: np.ndarray
    perplexities: dict[str, np.ndarray]
    published: dict[str, dict[str, list[int]]]


def load_dolly() -> Dolly:
    """Read it. A row without a known place keeps its cluster, has idx -1 and no perplexity."""
    rows = [row for row in real_rows("instruct/dolly.jsonl.zst") if row["cluster"] is not None]
    rows.sort(key=lambda row: len(rows) * 2 if row["idx"] is None else row["idx"])
    idx = np.array([-1 if row["idx"] is None else row["idx"] for row in rows])
    arrays = np.load(SHARED / "scores/dolly_ppl.npz")
    models = dict.fromkeys(name.split("/")[0] for name in arrays.files)
    stacked = {
        model: np.stack([arrays[f"{model}/{stage}"] for stage in STAGES]).astype(float)
        for model in models
    }
    known = {model: np.where(idx >= 0, values[:, idx], np.nan) for model, values in stacked.items()}
    with gzip.open(SHARED / "scores/dolly_lp_selected.json.gz", "rt") as file:
        picks = {
            model: {key: some[key]["10_low"] for key in METRICS}
            for model, some in json.load(file).items()
        }
    return Dolly(np.array([row["cluster"] for row in rows]), idx, known, picks)


def scores_of(dolly: Dolly, model: str, metric: str, *, undefined: float = np.nan) -> np.ndarray:
    """Compute (n,) LP(1) or LP_app of a model, with another value for scored rows without one."""
    lp, lp_app = learning_percentages(dolly.perplexities[model])
    values = lp[0] if metric == "lp1" else lp_app
    return np.where(np.isnan(values) & (dolly.idx >= 0), undefined, values)


def chosen(dolly: Dolly, values: np.ndarray, selector: PerCluster) -> np.ndarray:
    """The rows that a selector keeps of such values, best first."""
    table = Dataset.from_dict({"lp_1": values, "cluster": dolly.cluster})
    return select(table, [selector]).rows


def published_lists(dolly: Dolly) -> dict[tuple[str, str, int], list[int]]:
    """The published picks cut into lists: (model, metric, cluster) -> idx, -1 where the row is not
    known.

    Clusters follow each other. One is larger than is known of it, by rows whose cluster could not
    be recovered,
    and has a share of one more: the one cluster for which every pick then lies in its own cluster.
    """
    place = np.full(int(dolly.idx.max()) + 1, -1)
    place[dolly.idx[dolly.idx >= 0]] = dolly.cluster[dolly.idx >= 0]
    picks = np.array([some[metric] for some in dolly.published.values() for metric in METRICS])
    cluster = np.where(picks >= 0, place[picks], -1)
    shares = -(-np.bincount(dolly.cluster) // 10)
    larger = np.eye(len(shares), dtype=int)
    fits = [extra for extra in larger if _aligned(cluster, shares + extra)]
    if len(fits) != 1:
        raise ValueError(
            f"{len(fits)} ways to cut the published picks into clusters, and there has to be one"
        )
    ends = np.cumsum(shares + fits[0])
    names = [(model, metric) for model in dolly.published for metric in METRICS]
    return {
        (*name, number): part.tolist()
        for name, row in zip(names, picks, strict=True)
        for number, part in enumerate(np.split(row, ends[:-1]))
    }


def _aligned(cluster: np.ndarray, shares: np.ndarray) -> bool:
    wanted = np.repeat(np.arange(len(shares)), shares)
    return cluster.shape[1] == len(wanted) and bool(((cluster < 0) | (cluster == wanted)).all())


class Agreement(NamedTuple):
    """Of `lists` published lists: how many are equal and in order, and how many are so but for the
    order of ties.
    """

    lists: int
    in_order: int
    but_for_ties: int


def agreement(dolly: Dolly, undefined: float, *, defined_only: bool = False) -> Agreement:
    """How many complete published lists come out, with PublishedShares; `defined_only`: those
    without an LP of 0.
    """
    found = np.zeros(3, dtype=int)
    lists = published_lists(dolly)
    for model in dolly.published:
        for metric in METRICS:
            values = scores_of(dolly, model, metric, undefined=undefined)
            rows = chosen(
                dolly, values, PublishedShares("lp_1", 0.10, group="cluster", largest=False)
            )
            plain, used = (
                dict(zip(dolly.idx.tolist(), some.tolist(), strict=True))
                for some in (scores_of(dolly, model, metric), values)
            )
            for number in range(int(dolly.cluster.max()) + 1):
                wanted = lists[model, metric, number]
                unsound = any(np.isnan(plain[i]) or plain[i] == 0 for i in wanted if i >= 0)
                if min(wanted) < 0 or (defined_only and unsound):
                    continue
                mine = dolly.idx[rows[dolly.cluster[rows] == number]].tolist()[: len(wanted)]
                found += [1, mine == wanted, [used[i] for i in mine] == [used[i] for i in wanted]]
    return Agreement(*found.tolist())


def exact_total(dolly: Dolly) -> tuple[int, int, int]:
    """Rows asked for with a tenth, rows that PerCluster keeps, and rows that were published."""
    values = scores_of(dolly, "llama2-13b", "lp1")
    kept = chosen(dolly, values, PerCluster("lp_1", 0.10, group="cluster", largest=False))
    return len(dolly.cluster) // 10, len(kept), len(dolly.published["llama2-13b"]["lp1"])


def main() -> None:
    dolly = load_dolly()
    print(
        "| complete lists of one cluster's picks | lists | equal, in order | but for ties "
        "|\n|---|---:|---:|---:|"
    )
    for title, found in (
        ("as published: rounded up, rows without LP count as 0", agreement(dolly, 0.0)),
        ("the same, lists without such rows", agreement(dolly, 0.0, defined_only=True)),
        ("rounded up, rows without LP are not selected (ours)", agreement(dolly, np.nan)),
    ):
        shares = [f"{count:,} ({count / found.lists:.1%})" for count in found[1:]]
        print(f"| {title} | {found.lists:,} | {shares[0]} | {shares[1]} |")
    asked, kept, published = exact_total(dolly)
    print(
        f"\na tenth of {len(dolly.cluster):,} rows: {asked:,}; PerCluster keeps {kept:,}, "
        f"published {published:,}"
    )


if __name__ == "__main__":
    main()
