"""The density sketch against exact kernel sums, and Density in a run."""

import dataclasses
import json
import logging
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from vectors import mixture, table_of

from hf_superfilter import Density, score
from hf_superfilter.runs.manifest import digest_columns
from hf_superfilter.scoring._sketch import (
    Sketch,
    auto_bandwidth,
    collision_probability,
    new_sketch,
    sketch_from,
)


def small(bandwidth=1.0, dimensions=3, seed=0):
    return new_sketch(dimensions, bandwidth, repetitions=40, buckets=50, seed=seed)


# The kernel


def test_the_kernel_is_how_often_random_hashes_collide():
    rng = np.random.default_rng(0)
    for distance in (0.1, 0.5, 1.0, 3.0):
        shift, start = rng.normal(size=400_000) * distance, rng.uniform(size=400_000)
        collided = np.floor(start) == np.floor(start + shift)
        assert collision_probability(distance, 1.0) == pytest.approx(collided.mean(), abs=0.004)


def test_the_kernel_is_one_at_zero_falls_and_depends_on_distances_in_bandwidths_only():
    distances = np.geomspace(1e-12, 1e6, 200)
    kernel = collision_probability(distances, 2.0)
    assert collision_probability(0.0, 2.0) == 1
    assert (np.diff(kernel) <= 1e-12).all() and (kernel >= 0).all() and (kernel <= 1).all()
    np.testing.assert_allclose(kernel, collision_probability(distances * 3, 6.0), rtol=1e-9)


# The sketch


@pytest.mark.parametrize("fraction", [0.02, 0.1, 1.0])
def test_densities_are_within_5_percent_of_exact_kernel_sums_at_the_default_size(fraction):
    vectors = mixture(2_000, 32)
    bandwidth = auto_bandwidth(vectors[:500]) * fraction / 0.1
    sketch = new_sketch(32, bandwidth)
    assert sketch.counts.shape == (1_000, 20_000) and sketch.counts.nbytes == 80_000_000
    sketch.add(vectors)
    exact = collision_probability(
        cdist(vectors.astype(float), vectors.astype(float)), bandwidth
    ).sum(axis=1)
    density = sketch.density(vectors)
    assert np.mean(np.abs(density - exact) / exact) < 0.05
    assert np.corrcoef(density, exact)[0, 1] > 0.99


@settings(deadline=None, max_examples=30)
@given(cut=st.integers(0, 60), seed=st.integers(0, 5), scale=st.sampled_from([0.01, 1.0, 300.0]))
def test_sketches_of_two_parts_add_up_to_the_sketch_of_the_whole(cut, seed, scale):
    vectors = mixture(60, 3, seed) * np.float32(scale)
    whole, one, other = small(seed=seed), small(seed=seed), small(seed=seed)
    whole.add(vectors)
    one.add(vectors[:cut])
    other.add(vectors[cut:])
    np.testing.assert_array_equal((one + other).counts, whole.counts)
    assert (one + other).rows == whole.rows == 60


def test_a_row_falls_into_the_same_cells_whatever_rows_are_hashed_with_it():
    vectors = mixture(9_000, 48)  # more than a block
    together, alone = new_sketch(48, 0.3, repetitions=100), new_sketch(48, 0.3, repetitions=100)
    together.add(vectors)
    for part in np.split(vectors, [1, 3, 50, 51, 700, 8_999]):
        alone.add(part)
    np.testing.assert_array_equal(together.counts, alone.counts)
    one_by_one = np.concatenate([together.density(row[None]) for row in vectors[:50]])
    np.testing.assert_array_equal(one_by_one, together.density(vectors)[:50])


def test_sums_of_products_are_exact_so_that_their_order_does_not_matter():
    """Rows whose products sum to 3 but for rounding, in any order: half would fall short of it in
    plain floats.
    """
    rng = np.random.default_rng(0)
    numbers = rng.uniform(-1, 1, 500)
    numbers[-1] += 3 - math.fsum(numbers)
    rows = np.stack([rng.permutation(numbers) for _ in range(200)])
    assert len({bool(row.sum() < 3) for row in rows}) == 2
    ones = np.full((4, 500), 4_096, dtype=np.int16)
    sketch = Sketch(1.0, ones, np.zeros(4, dtype=np.int32), np.zeros((4, 50), dtype=np.int32))
    sketch.add(rows)
    assert np.count_nonzero(sketch.counts) == 4 and sketch.counts.max() == 200


def test_every_row_is_counted_once_in_every_repetition_also_left_of_zero():
    sketch = small(bandwidth=0.01)
    sketch.add(-np.abs(mixture(30, 3)))
    np.testing.assert_array_equal(sketch.counts.sum(axis=1), 30)
    assert sketch.counts.min() >= 0
    assert (sketch.density(-np.abs(mixture(30, 3))) >= 1).all(), "a row counts itself"


def test_duplicates_count_for_one_each_and_a_far_row_for_nothing():
    near, far = np.zeros((1, 3), dtype=np.float32), np.full((1, 3), 1e4, dtype=np.float32)
    sketch = new_sketch(3, 1.0, repetitions=200)
    sketch.add(np.repeat(near, 7, axis=0))
    assert sketch.density(near).tolist() == [7.0]
    assert sketch.density(far)[0] < 0.5


def test_a_saved_sketch_loads_equal_and_equal_sketches_are_equal_files(tmp_path):
    for name in ("a", "b"):
        sketch = small()
        sketch.add(mixture(30, 3))
        sketch.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    loaded = sketch_from((tmp_path / "a").read_bytes(), "a")
    np.testing.assert_array_equal(loaded.density(mixture(30, 3)), sketch.density(mixture(30, 3)))
    np.testing.assert_array_equal((loaded + sketch).counts, 2 * sketch.counts)


def test_its_size_does_not_depend_on_the_number_of_rows(tmp_path):
    few, many = small(), small()
    few.add(mixture(30, 3))
    many.add(mixture(20_000, 3))
    assert few.counts.nbytes == many.counts.nbytes == 40 * 50 * 4
    assert (
        repr(many)
        == "<Sketch of 20,000 rows of 3 numbers: bandwidth 1, 40 repetitions, 50 buckets>"
    )


def test_sketches_of_other_hash_functions_or_other_vectors_are_refused():
    for other in (small(seed=1), small(bandwidth=2.0), small(dimensions=4)):
        with pytest.raises(ValueError, match="different hash functions"):
            small() + other
    with pytest.raises(ValueError, match=r"shape \(30, 4\) for a sketch of 3 numbers a row"):
        small().add(mixture(30, 4))
    with pytest.raises(ValueError, match="choose a larger bandwidth"):
        small(bandwidth=1e-30).add(mixture(30, 3))


def test_more_rows_than_a_cell_can_count_are_refused():
    full = small()
    full.counts[:, 0] = 2**31 - 10
    with pytest.raises(ValueError, match="a sketch counts 2,147,483,647 at most"):
        full.add(mixture(30, 3))
    with pytest.raises(ValueError, match="a sketch counts 2,147,483,647 at most"):
        full + full


@pytest.mark.parametrize("damage", ["truncated", "other", "empty"])
def test_a_file_that_holds_no_sketch_is_said(tmp_path, damage):
    small().save(tmp_path / "sketch.npz")
    whole = (tmp_path / "sketch.npz").read_bytes()
    (tmp_path / "sketch.npz").write_bytes(
        {"truncated": whole[:300], "other": b"PK no", "empty": b""}[damage]
    )
    with pytest.raises(
        ValueError, match=r"sketch\.npz' holds no sketch of Density, or a damaged one"
    ):
        sketch_from((tmp_path / "sketch.npz").read_bytes(), "sketch.npz")


def test_the_automatic_bandwidth_is_a_tenth_of_the_median_distance_of_different_rows():
    line = np.array([[0.0], [1.0], [3.0]])  # distances 1, 2, 3
    assert auto_bandwidth(line) == pytest.approx(0.2)
    assert auto_bandwidth(np.repeat(line, 50, axis=0)) == pytest.approx(0.2), (
        "most pairs are duplicates"
    )
    with pytest.raises(ValueError, match="all 5 vectors that were looked at are equal"):
        auto_bandwidth(np.ones((5, 3)))


# Density


def test_density_in_a_run_is_within_5_percent_of_exact_kernel_sums_with_the_bandwidth_it_records(
    tmp_path, caplog
):
    vectors = mixture(2_000, 32)
    with caplog.at_level(logging.INFO):
        table = score(table_of(vectors), [Density()], tmp_path)
    made_with = json.loads((tmp_path / "run.json").read_text())["scorers"]["density"]["made_with"]
    exact = collision_probability(
        cdist(vectors.astype(float), vectors.astype(float)), made_with["bandwidth"]
    ).sum(1)
    density = np.array(table["density"])
    assert np.mean(np.abs(density - exact) / exact) < 0.05
    assert made_with["sketched_rows"] == 2_000
    assert f"bandwidth {made_with['bandwidth']:.6g}" in caplog.text
    assert len(list(tmp_path.glob("density/prepared-*/sketch.npz"))) == 1


def test_rows_without_a_vector_are_undefined_and_not_counted(tmp_path):
    cells = [
        [0.0, 1.0],
        None,
        [0.0, 1.0],
        [float("nan"), 1.0],
        [],
        [float("inf"), 0.0],
        [None, 1.0],
        [float("nan")] * 2,
    ]
    table = score(Dataset.from_dict({"embedding": cells}), [Density(0.1, repetitions=20)], tmp_path)
    wanted = [
        "ok",
        "no_embedding",
        "ok",
        "not_finite",
        "no_embedding",
        "not_finite",
        "not_finite",
        "no_embedding",
    ]
    assert table["density_status"][:] == wanted
    np.testing.assert_array_equal(table["density"][:], [2, np.nan, 2, *[np.nan] * 5])


def test_float16_fixed_and_plain_lists_give_the_same_densities(tmp_path):
    vectors = mixture(50, 4).astype(np.float16)
    tables = [
        table_of(vectors),
        Dataset.from_dict({"embedding": vectors.astype(float).tolist()}),
        Dataset.from_dict({"embedding": list(vectors)}),
    ]
    densities = [
        score(table, [Density(repetitions=30)], tmp_path / str(i))["density"][:]
        for i, table in enumerate(tables)
    ]
    assert densities[0] == densities[1] == densities[2]
    assert len({digest_columns(table, ["embedding"]) for table in tables}) == 1


def test_density_does_not_depend_on_chunks_and_map_gives_what_score_gives(tmp_path):
    rows = table_of(mixture(300, 4))
    density = Density(repetitions=30)
    whole = score(rows, [density], tmp_path / "a")["density"][:]
    assert score(rows, [density], tmp_path / "b", chunk_size=7)["density"][:] == whole
    prepared = density.prepare(rows, str(tmp_path / "c"))
    assert rows.map(prepared, batched=True, batch_size=13)["density"][:] == whole
    assert prepared == dataclasses.replace(density, sketch=str(tmp_path / "c/sketch.npz"))
    assert density.sketch is None


def test_preparing_again_makes_the_same_file_and_other_rows_another(tmp_path):
    density, rows = Density(repetitions=30), table_of(mixture(300, 4))
    files = []
    for table in (rows, rows, table_of(mixture(300, 4, seed=1))):
        prepared = density.prepare(table, str(tmp_path))
        files.append((tmp_path / "sketch.npz").read_bytes())
        hashed = Hasher.hash(prepared)
    assert files[0] == files[1] != files[2]
    assert Hasher.hash(density.prepare(rows, str(tmp_path))) != hashed, (
        "the key of the map cache sees the sketch"
    )


def test_other_rows_are_measured_against_the_rows_of_a_sketch(tmp_path):
    Density(0.1, repetitions=30).prepare(table_of(np.zeros((9, 2))), str(tmp_path))
    other = table_of(np.array([[0.0, 0.0], [1e3, 1e3]]))
    table = score(other, [Density(sketch=str(tmp_path / "sketch.npz"))], tmp_path / "run")
    assert table["density"][:][0] == 9 and table["density"][:][1] < 1


def test_a_scorer_that_was_not_prepared_says_how_to(tmp_path):
    with pytest.raises(
        ValueError, match=r"score\(rows, \[Density\(\)\], folder\), or Density\(\).prepare"
    ):
        Density()({"embedding": [[1.0]]})
    with pytest.raises(FileNotFoundError, match=r"no sketch '.*gone.npz'"):
        Density(sketch=str(tmp_path / "gone.npz"))({"embedding": [[1.0]]})


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"text": ["a"]}, r"no column 'embedding' in the table: the scorer Embed\(\) adds it"),
        ({"embedding": ["a", "b"]}, "holds string, not vectors"),
        ({"embedding": [[1.0, 2.0], [1.0]]}, "uneven lengths"),
        ({"embedding": [[1.0, 2.0]] * 3}, "all 3 vectors that were looked at are equal"),
        (
            {"embedding": [None, [float("nan")]]},
            "none of the 2 rows that were looked at has a vector",
        ),
    ],
)
def test_columns_that_cannot_be_sketched_are_said(tmp_path, cells, said):
    with pytest.raises(ValueError, match=said):
        score(Dataset.from_dict(cells), [Density(repetitions=5)], tmp_path)


def test_batches_that_cannot_be_looked_up_are_said(tmp_path):
    prepared = Density(1.0, repetitions=5).prepare(table_of(np.eye(2)), str(tmp_path))
    for batch, said in [
        ({"embeding": [[1.0, 0.0]]}, r"the scorer Embed\(\) adds it; did you mean 'embeding'"),
        ({"embedding": [[1.0, 0.0], [1.0]]}, "vectors of one length"),
        ({"embedding": [[1.0, 0.0, 2.0]]}, "a sketch of 2 numbers a row"),
        ({"embedding": ["ab"]}, "vectors of one length"),
    ]:
        with pytest.raises(ValueError, match=said):
            prepared(batch)


def test_density_pickles_small_and_never_loads_torch(tmp_path):
    program = (
        "import sys, numpy as np; from datasets import Dataset; from hf_superfilter import "
        "Density\nrows = "
        f"Dataset.from_dict({{'embedding': np.eye(4).tolist()}})\nrows.map(Density(0.5, "
        f"repetitions=5).prepare(rows, {str(tmp_path)!r}), batched=True)\nprint('torch' in "
        "sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"
    prepared = Density(sketch=str(tmp_path / "sketch.npz"))
    prepared({"embedding": [[1.0, 0, 0, 0]]})
    assert len(pickle.dumps(prepared)) < 1_000


def test_the_digest_of_vectors_sees_every_number_and_every_null():
    tables = [
        [[1.0, 2.0], [3.0]],
        [[1.0], [2.0, 3.0]],
        [[1.0, 2.0], None, [3.0]],
        [[1.0, 2.0], [3.0], None],
        [[1.0, 2.0], [3.5]],
        [[1.0, 2.0], [], [3.0]],
    ]
    digests = [
        digest_columns(Dataset.from_dict({"embedding": cells}), ["embedding"]) for cells in tables
    ]
    assert len(set(digests)) == len(tables)
