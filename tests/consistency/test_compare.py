"""Several models over one sample: measures, words, plots and the command that shows them."""

import re
from dataclasses import replace

import numpy as np
import pytest

from hf_superfilter import (
    Perplexity,
    compare_models,
    format_pairs,
    load_rows,
    rank_consistency,
)
from hf_superfilter.consistency.compare import measures_table, verdict
from hf_superfilter.consistency.plots import matrix_plot, pair_plot
from hf_superfilter.runs.manifest import read_manifest

MODELS = ("embedded:weak", "embedded:strong")


@pytest.fixture(scope="module")
def compared(sample, tmp_path_factory):
    return compare_models(
        sample, MODELS, tmp_path_factory.mktemp("compared"), sample=120, resamples=200
    )


def test_the_sample_is_drawn_by_seed_and_scored_by_every_model(compared, sample):
    assert len(compared.table) == 120 and compared.rows == len(sample)
    drawn = np.sort(np.random.default_rng(0).permutation(len(sample))[:120])
    assert compared.table["response"][:] == sample.select(drawn)["response"][:]
    assert list(compared.columns) == list(MODELS)
    assert not np.array_equal(
        compared.scores(MODELS[0]), compared.scores(MODELS[1]), equal_nan=True
    )


def test_the_figures_are_those_of_rank_consistency_below_one(compared):
    a, b = (compared.scores(model) for model in MODELS)
    assert compared.agreements[MODELS] == rank_consistency(a, b, below=1.0, resamples=200)


def test_the_matrix_is_symmetric_with_ones_on_its_diagonal(compared):
    matrix = compared.matrix()
    assert matrix.tolist() == matrix.T.tolist() and np.diag(matrix).tolist() == [1.0, 1.0]
    assert matrix[0, 1] == compared.agreements[MODELS]["spearman"]


def test_a_third_model_joins_and_the_scores_of_the_first_two_are_used_again(sample, gpt2, tmp_path):
    compare_models(sample, MODELS, tmp_path, sample=40, resamples=20)
    before = read_manifest(tmp_path)["scorers"]
    three = compare_models(sample, [gpt2, *MODELS], tmp_path, sample=40, resamples=20)
    after = read_manifest(tmp_path)["scorers"]
    assert len(three.agreements) == 3 and three.matrix().shape == (3, 3)
    assert {name: entry for name, entry in after.items() if name in before} == before
    plot = matrix_plot(three)
    assert plot.png.startswith(b"\x89PNG") and f"{three.matrix()[1, 2]:.2f}" in plot.alt


def test_perplexity_compares_the_lowest(sample, tmp_path):
    compared = compare_models(sample, MODELS, tmp_path, by="ppl", sample=60, resamples=20)
    a, b = (Perplexity(model)(compared.table[:])["ppl"] for model in MODELS)
    expected = rank_consistency(a, b, largest=False, resamples=20)
    assert compared.agreements[MODELS]["overlap@0.10"] == expected["overlap@0.10"]


def test_the_verdict_says_the_figures_and_how_many_rows_a_narrower_interval_needs(compared):
    figures, said = compared.agreements[MODELS], verdict(compared, *MODELS)
    assert (
        f"finds {figures['overlap@0.10']:.0%} ±" in said
        and f"chance is {figures['overlap_chance@0.10']:.0%}" in said
    )
    assert f"Spearman correlation of {figures['spearman']:.2f}" in said
    half = (figures["overlap@0.10_high"] - figures["overlap@0.10_low"]) / 2
    needed = int(re.search(r"about ([\d,]+) rows", said)[1].replace(",", ""))
    assert needed == pytest.approx(figures["pairs"] * (half / 0.05) ** 2, abs=1)
    assert ("there are 519, and scoring all of them" in said) == (needed > 519)


@pytest.mark.parametrize(("rows", "is_said"), [(519, True), (10**9, False)])
def test_the_verdict_asks_for_no_more_rows_than_there_are(compared, rows, is_said):
    assert (f"there are {rows:,}" in verdict(replace(compared, rows=rows), *MODELS)) == is_said


def test_the_table_names_every_figure_that_has_an_interval(compared):
    figures, lines = (
        compared.agreements[MODELS],
        measures_table(compared.agreements[MODELS]).splitlines(),
    )
    with_interval = [name.removesuffix("_low") for name in figures if name.endswith("_low")]
    assert [line.split()[0] for line in lines[1:-1]] == with_interval


def test_the_plot_says_its_measures_in_words(compared):
    plot = pair_plot(compared, *MODELS)
    assert plot.png.startswith(b"\x89PNG")
    assert f"{compared.agreements[MODELS]['overlap@0.10']:.0%} at 10%" in plot.alt


def test_a_comparison_prints_table_and_verdict_and_shows_itself_in_one_line(compared):
    shown = str(compared)
    assert shown.startswith("120 of 519 rows, drawn at random (seed 0)\n\nembedded:weak against")
    assert measures_table(compared.agreements[MODELS]) in shown
    assert shown.endswith(verdict(compared, *MODELS) + "\n")
    assert repr(compared) == "Comparison(embedded:weak, embedded:strong, by 'ifd', 120 rows)"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"models": ["embedded:weak"]}, "at least two different models"),
        ({"models": ["embedded:weak", "embedded:weak"]}, "at least two different models"),
        ({"models": "embedded:weak"}, "at least two different models"),
        ({"by": "idf"}, "did you mean 'ifd'"),
        ({"sample": 1}, "sample=1: give a number of rows"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(sample, tmp_path, options, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        compare_models(sample, **{"models": MODELS, "folder": tmp_path, **options})


def test_the_command_prints_table_verdict_and_picture_and_uses_its_scores_again(command, tmp_path):
    asked = [
        "consistency",
        "embedded:sample",
        "--weak",
        "embedded:weak",
        "--strong",
        "embedded:strong",
    ]
    code, out, _ = command(*asked, "--sample", 60)
    assert (
        code == 0 and "60 of 519 rows" in out and "spearman" in out and "embedded:weak finds" in out
    )
    assert (tmp_path / "runs/consistency/consistency.png").read_bytes().startswith(b"\x89PNG")
    assert command(*asked, "--sample", 60)[1] == out
    rows = format_pairs(load_rows("embedded:sample"))
    folder = tmp_path / "runs/consistency"
    assert out.startswith(str(compare_models(rows, MODELS, folder, sample=60)))


def test_a_wrong_model_and_another_sample_in_the_same_folder_are_one_sentence(refused, sample):
    asked = ["consistency", "embedded:sample", "--weak", "embedded:weak", "--strong"]
    assert "did you mean 'strong'?" in refused(*asked, "embedded:strog")
    compare_models(sample, MODELS, "runs/consistency", sample=30, resamples=20)
    assert "made with rows 30, not 31: use another folder" in refused(
        *asked, "embedded:strong", "--sample", "31"
    )
