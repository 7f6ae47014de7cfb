"""Every scorer obeys the same laws, and each formula is what its docstring says."""

import atexit
import dataclasses
import importlib
import math
import pickle
import pkgutil
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from datasets.fingerprint import Hasher

import hf_superfilter
from hf_superfilter import (
    IFD,
    AskLLM,
    Classifier,
    Combine,
    Demonstration,
    Density,
    Embed,
    ImplicitReward,
    Language,
    LearningPercentage,
    Length,
    Perplexity,
    Privacy,
    PromptMatch,
    Reasoning,
    Surrogate,
    embedded_model,
    scoring,
)
from hf_superfilter.base import Scorer, Settings


@lru_cache(maxsize=1)
def learned() -> LearningPercentage:
    """Really trained, for two epochs of one step."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    rows = Dataset.from_dict(
        {"prompt": ["Say it.\n"] * 8, "response": [f"This is what {n} is." for n in range(8)]}
    )
    return LearningPercentage("embedded:weak", epochs=2, batch_rows=8, learning_rate=1e-3).prepare(
        rows, folder
    )


@lru_cache(maxsize=1)
def reward_model() -> str:
    """A small random reward model."""
    from transformers import AutoTokenizer, GPT2Config, GPT2ForSequenceClassification

    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    tokenizer = AutoTokenizer.from_pretrained(embedded_model("weak"))
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=1, n_head=1, num_labels=1
    )
    GPT2ForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@lru_cache(maxsize=1)
def fitted_surrogate() -> Surrogate:
    """Fitted on the lengths of a few rows."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    words = [" ".join(["word"] * n) for n in range(1, 25)]
    rows = {"prompt": ["Say it.\n"] * 24, "response": words, "length": [len(w) for w in words]}
    return Surrogate(of="length").prepare(Dataset.from_dict(rows), folder)


# One example a class: a scorer added to scoring/ is found below and has to be added here. One that
# has to see all rows first is prepared: what it does before that is tested where its own tests are,
# and once for all below.
EXAMPLES = {
    "AskLLM": lambda: AskLLM("embedded:weak"),
    "Classifier": lambda: Classifier(reward_model()),
    "Combine": lambda: Combine({"first": 1, "second": -2}),
    "Demonstration": lambda: Demonstration("embedded:weak", on=[("Hi.\n", "Hello to you.")]),
    "Density": lambda: Density(0.5, repetitions=50, buckets=1_000),
    "Embed": lambda: Embed("embedded:weak"),
    "IFD": lambda: IFD("embedded:weak"),
    "ImplicitReward": lambda: ImplicitReward("embedded:weak", reference="embedded:weak"),
    "Language": lambda: Language(),
    "LearningPercentage": learned,
    "Length": lambda: Length(),
    "Privacy": lambda: Privacy(),
    "PromptMatch": lambda: PromptMatch("embedded:weak"),
    "Reasoning": lambda: Reasoning("embedded:weak"),
    "Perplexity": lambda: Perplexity("embedded:weak", append_eos=True),
    "Surrogate": fitted_surrogate,
}
ROWS = {
    "prompt": ["Say hello.\n", "Empty\n", "One\n", None, "Chat\n"],
    "response": ["Hello there, my friend.", "", "a", None, "Fine, thank you."],
    "embedding": [[0.6, 0.8], None, [0.0, 1.0], [], [1.0, 0.0]],
    "response_rejected": ["Go away.", "No.", "b", "No.", "What?"],
    "first": [0.2, None, 0.8, None, 0.5],
    "second": [3, 4, 9, None, 1],
}
# Why a row without a response is undefined, for scorers that read no text.
REASONS = {"Density": "no_embedding", "Combine": "no_first"}


def scorer_classes():
    names = [module.name for module in pkgutil.iter_modules(scoring.__path__)]
    for name in names:
        if name.startswith("_"):  # what scorers share
            continue
        home = importlib.import_module(f"hf_superfilter.scoring.{name}")
        yield from (
            value
            for value in vars(home).values()
            if isinstance(value, type)
            and value.__module__ == home.__name__
            and issubclass(value, Settings)
        )


@pytest.fixture(
    params=sorted(scorer_classes(), key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__
)
def scorer(request, tmp_path):
    assert request.param.__name__ in EXAMPLES, (
        f"add an example of {request.param.__name__} to EXAMPLES"
    )
    if request.param is Language:
        pytest.importorskip("py3langid", reason="the extra [language] is not installed")
    example = EXAMPLES[request.param.__name__]()
    return (
        example.prepare(Dataset.from_dict(ROWS), str(tmp_path))
        if hasattr(example, "prepare")
        else example
    )


@pytest.fixture
def text_scorer(scorer):
    if "prompt" not in scorer.columns:
        pytest.skip("it reads no text")
    return scorer


def test_every_scorer_is_public(scorer):
    assert getattr(hf_superfilter, type(scorer).__name__) is type(scorer)
    assert isinstance(scorer, Scorer)


def test_a_scorer_is_frozen_and_its_repr_builds_it(scorer):
    with pytest.raises(dataclasses.FrozenInstanceError):
        scorer.name = "other"
    assert (
        eval(repr(scorer), vars(hf_superfilter) | {type(scorer).__name__: type(scorer)}) == scorer
    )


def test_a_scorer_pickles_small_also_after_use(scorer):
    scorer({name: column[:1] for name, column in ROWS.items()})
    assert len(pickle.dumps(scorer)) < 1_000
    assert pickle.loads(pickle.dumps(scorer)) == scorer


def test_columns_start_with_the_name_and_hold_one_value_a_row(scorer):
    columns = scorer(ROWS)
    assert scorer.main in columns
    for column, values in columns.items():
        assert column == scorer.name or column.startswith(f"{scorer.name}_")
        assert len(values) == len(ROWS["prompt"])
        if isinstance(scorer, Language) and column == scorer.name:
            assert all(isinstance(code, str) for code in values)
        elif column == scorer.name != scorer.main:  # vectors, which have no order
            assert values.dtype == np.float32 and values.ndim == 2
        elif not column.endswith("_status"):
            is_count = column.endswith("_tokens") or column == "length"
            kinds = (np.int64, np.float64) if is_count else (np.float64,)
            assert np.asarray(values).dtype in kinds and np.ndim(values) == 1


def test_undefined_is_nan_with_a_reason_and_defined_is_finite(scorer):
    columns = scorer(ROWS)
    status = columns.get(f"{scorer.name}_status")
    if status is not None:
        good = [s in ("ok", "truncated") for s in status]
        np.testing.assert_array_equal(np.isfinite(columns[scorer.main]), good)
        if isinstance(scorer, Language):
            assert [code != "und" for code in columns["language"]] == good
            columns.pop("language")
        for column in {scorer.main, scorer.name} & columns.keys():
            np.testing.assert_array_equal(
                np.isfinite(columns[column]).reshape(len(good), -1).all(1), good
            )
        # These read the prompt as well, and a text without a response is a text.
        if isinstance(scorer, Embed | Language):
            assert (status[1], status[3]) == ("ok", "empty_text")
        else:
            reason = REASONS.get(type(scorer).__name__, "empty_response")
            assert status[1] == status[3] == reason


def test_another_name_renames_every_column(scorer):
    other = dataclasses.replace(scorer, name="mine")
    assert {c.replace("mine", scorer.name, 1) for c in other(ROWS)} == set(scorer(ROWS))


def test_a_batch_without_rows_gives_columns_without_values(scorer):
    assert all(len(values) == 0 for values in scorer({name: [] for name in ROWS}).values())


def test_a_chat_gives_one_value_a_row(text_scorer):
    chats = {
        "prompt": [["Hi\n", "Hi\nHello\nHow?\n"], [], ["Hi\n"]],
        "response": [["Hello", "Well"], [], ["Hello"]],
        "response_rejected": [["No", "No"], [], ["No"]],
    }
    assert all(len(values) == 3 for values in text_scorer(chats).values())


def test_columns_of_other_names_are_read(text_scorer):
    renamed = {"q": ROWS["prompt"], "a": ROWS["response"], "a_rejected": ROWS["response_rejected"]}
    theirs = dataclasses.replace(text_scorer, columns=("q", "a"))(renamed)
    for name, values in text_scorer(ROWS).items():
        np.testing.assert_array_equal(np.asarray(theirs[name]), np.asarray(values))


PREPARING = [kind for kind in scorer_classes() if hasattr(kind, "prepare")]


@pytest.mark.parametrize("kind", PREPARING, ids=lambda kind: kind.__name__)
def test_a_scorer_that_prepares_is_refused_before_it_has_and_stays_as_it_was_after(kind, tmp_path):
    example = EXAMPLES[kind.__name__]()
    scorer = example.prepare(Dataset.from_dict(ROWS), str(tmp_path / "first"))
    made = {
        field.name: field.default
        for field in dataclasses.fields(scorer)
        if field.name in ("checkpoints", "fitted", "prompts", "ranks", "sketch")
    }
    raw = dataclasses.replace(scorer, **made)
    assert made and raw != scorer, "what was made stands in the settings"
    with pytest.raises(ValueError, match=r"all rows.*first: .*score\(rows"):
        raw(ROWS)
    assert scorer.prepare(Dataset.from_dict(ROWS), str(tmp_path)) == scorer and not list(
        tmp_path.glob("*.*")
    )


def test_missing_columns_and_cells_that_are_no_text_are_said(text_scorer):
    with pytest.raises(ValueError, match=r"no column 'prompt'.*format_pairs"):
        text_scorer({"text": ["a"]})
    with pytest.raises(TypeError, match="'response' holds 3"):
        text_scorer({"prompt": ["a"], "response": [3]})
    with pytest.raises(ValueError, match="2 prompts in 'prompt' and 1 responses"):
        text_scorer({"prompt": [["a", "b"]], "response": [["c"]]})


@pytest.mark.parametrize(
    "make",
    [
        lambda: IFD("m", name="a b"),
        lambda: IFD("m", dtype="bf16"),
        lambda: IFD("m", columns="prompt"),
        lambda: IFD("m", max_length=1),
        lambda: IFD("m", variant="aligend"),
        lambda: IFD(5),
        lambda: IFD(""),
        lambda: Embed(""),
        lambda: Embed("m", normalize="yes"),
        lambda: Embed("m", columns=("prompt",)),
        lambda: LearningPercentage("m", epochs=1),
        lambda: LearningPercentage("m", epochs=2.5),
        lambda: LearningPercentage("m", approximate="yes"),
        lambda: LearningPercentage("m", approximate=True, epochs=0),
        lambda: LearningPercentage("m", learning_rate=0),
        lambda: LearningPercentage("m", learning_rate=math.nan),
        lambda: LearningPercentage("m", batch_rows=0),
        lambda: LearningPercentage("m", seed=-1),
        lambda: LearningPercentage("m", checkpoints="a"),
        lambda: LearningPercentage("m", checkpoints=["a", "b"]),
        lambda: LearningPercentage("m", max_length=1),
        lambda: Length("words"),
        lambda: Length("tokens"),
        lambda: Length(model="m"),
        lambda: Density("wide"),
        lambda: Density(0),
        lambda: Density(math.nan),
        lambda: Density(True),
        lambda: Density(repetitions=0),
        lambda: Density(buckets=1.5),
        lambda: Density(seed=-1),
        lambda: Density(column=""),
        lambda: Density(name="a b"),
    ],
)
def test_bad_settings_are_refused_at_once(make):
    with pytest.raises(ValueError, match=r"=|column"):
        make()


def test_ifd_is_the_ratio_of_the_two_perplexities(sample):
    columns = IFD("embedded:weak")(sample[:60])
    np.testing.assert_allclose(
        columns["ifd"], columns["ifd_ppl"] / columns["ifd_ppl_alone"], rtol=1e-12
    )


def test_the_variants_differ_by_exactly_what_their_names_say(weak):
    lm = IFD(weak, dtype="float32").language_model()
    prompt, response = "Say hello.\n", "Hello there, my friend."
    p, r = (lm.tokenizer(text)["input_ids"] for text in (prompt, response))
    whole, eos = lm.tokenizer(prompt + response)["input_ids"], lm.tokenizer.eos_token_id

    def nats(ids, start):
        from hf_superfilter.models.tokenization import Window

        return lm.losses([Window(ids, start)])[0][0]

    wanted = {
        "superfiltering": math.exp(nats(whole, len(p)) - nats(r, 1)),
        "bos": math.exp(nats([eos, *whole], len(p) + 1) - nats([eos, *r], 1)),
        "aligned": math.exp(nats(whole, len(p) + 1) - nats(r, 1)),
        "loss_ratio": nats(whole, len(p)) / nats(r, 1),
    }
    for variant, value in wanted.items():
        ours = IFD(weak, dtype="float32", variant=variant)(
            {"prompt": [prompt], "response": [response]}
        )
        assert ours["ifd"][0] == pytest.approx(value, rel=1e-5), variant


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_a_three_turn_chats_score_changes_when_any_of_its_answers_changes(turn):
    prompts = ["Hi\n", "Hi\nHello\nHow are you?\n", "Hi\nHello\nHow are you?\nWell.\nGood\n"]
    answers = ["Hello, nice to meet you", "I am very well", "Indeed it is a good day"]
    changed = [*answers]
    changed[turn] = "Something completely different, out of place"
    ifd = IFD("embedded:weak", dtype="float32")
    scores = ifd({"prompt": [prompts, prompts], "response": [answers, changed]})["ifd"]
    assert scores[0] != scores[1]


def test_a_chats_ifd_is_that_of_its_summed_turns_over_those_scored_in_both_passes():
    ifd = IFD("embedded:weak", dtype="float32")
    prompts, answers = (
        ["Hi\n", "Hi\nHello\nHow?\n", "x\n"],
        ["Hello to you too", "I am very well, thanks", "a"],
    )
    chat = ifd({"prompt": [prompts], "response": [answers]})
    single = ifd({"prompt": prompts, "response": answers})
    assert single["ifd_status"] == ["ok", "ok", "too_short"]
    pairs = ifd.language_model().windows(prompts[:2], answers[:2])
    alone = np.array([pair.alone.scored for pair in pairs])
    given_sum = np.log(single["ifd_ppl"][:2]) @ single["ifd_tokens"][:2]
    wanted = (
        given_sum / single["ifd_tokens"][:2].sum()
        - np.log(single["ifd_ppl_alone"][:2]) @ alone / alone.sum()
    )
    assert chat["ifd"][0] == pytest.approx(math.exp(wanted), rel=1e-6)
    assert chat["ifd_status"] == ["ok"]


def test_statuses_say_why(gpt2):
    long = "many words in a row " * 100
    rows = [("Hi\n", "Hello there"), ("Hi\n", ""), ("Hi\n", "a"), (long, "Hello"), ("Hi\n", long)]
    columns = IFD(gpt2)({"prompt": [p for p, _ in rows], "response": [r for _, r in rows]})
    assert columns["ifd_status"] == [
        "ok",
        "empty_response",
        "too_short",
        "prompt_too_long",
        "truncated",
    ]
    assert np.isfinite(columns["ifd"]).tolist() == [True, False, False, False, True]
    assert columns["ifd_tokens"].tolist()[1:4] == [0, 0, 0]


def test_a_model_that_answers_with_nan_gives_not_finite(tmp_path, gpt2):
    import torch
    from transformers import AutoTokenizer, GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(gpt2)
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(float("nan"))
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(gpt2).save_pretrained(tmp_path)
    columns = IFD(str(tmp_path))({"prompt": ["Hi\n"], "response": ["Hello there"]})
    assert columns["ifd_status"] == ["not_finite"]
    assert math.isnan(columns["ifd"][0])


def test_text_without_a_prompt_has_a_perplexity_from_its_second_token_on(weak):
    columns = Perplexity(weak)({"prompt": [""], "response": ["Plain text without any prompt."]})
    lm = Perplexity(weak).language_model()
    assert (
        columns["ppl_tokens"][0]
        == len(lm.tokenizer("Plain text without any prompt.")["input_ids"]) - 1
    )


def test_a_length_in_tokens_depends_on_the_tokenizers_revision(tmp_path, weak):
    import shutil

    shutil.copytree(weak, tmp_path / "m")
    length = Length("tokens", model=str(tmp_path / "m"))
    before = Hasher.hash(length)
    (tmp_path / "m/tokenizer_config.json").write_text(
        (tmp_path / "m/tokenizer_config.json").read_text() + "\n"
    )
    assert Hasher.hash(length) != before
    assert Length("tokens", model=weak).model == "embedded:weak"


def test_length_counts_characters_or_tokens(weak):
    batch = {"prompt": ["Hi", "Hi"], "response": ["Hello there", ""]}
    assert Length()(batch)["length"].tolist() == [11, 0]
    tokens = Length("tokens", model=weak)(batch)["length"]
    assert tokens[1] == 0 and 1 <= tokens[0] < 11


def test_map_works_on_dataset_dict_streams_and_with_workers(sample):
    ifd = IFD("embedded:weak", dtype="float32")
    rows = sample.select(range(24)).select_columns(["prompt", "response"])
    wanted = rows.map(ifd, batched=True)["ifd"][:]
    split = DatasetDict({"train": rows}).map(ifd, batched=True)["train"]
    stream = list(rows.to_iterable_dataset(num_shards=2).map(ifd, batched=True, batch_size=7))
    workers = rows.map(ifd, batched=True, num_proc=2, batch_size=6, with_rank=True)
    for other in (split["ifd"][:], [row["ifd"] for row in stream], workers["ifd"][:]):
        np.testing.assert_allclose(other, wanted, rtol=1e-5)


def test_the_map_cache_is_hit_from_another_process_and_missed_when_the_numbers_would_differ(
    tmp_path, monkeypatch, weak
):
    import shutil

    def elsewhere(expression: str) -> str:
        imports = "from datasets.fingerprint import Hasher; from hf_superfilter import IFD"
        program = f"{imports}; print(Hasher.hash({expression}))"
        return subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout.strip()

    ifd = IFD("embedded:weak")
    here = Hasher.hash(ifd)
    ifd({"prompt": ["a\n"], "response": ["b c d"]})
    assert Hasher.hash(ifd) == here == elsewhere("IFD('embedded:weak')"), (
        "loading the model changes nothing"
    )
    assert Hasher.hash(IFD("embedded:weak", variant="bos")) != here

    copy = tmp_path / "model"
    shutil.copytree(weak, copy)
    first = Hasher.hash(IFD(str(copy)))
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    assert Hasher.hash(IFD(str(copy))) != first, "another revision of the model"
    monkeypatch.setattr(IFD, "arithmetic", 99)
    assert Hasher.hash(IFD("embedded:weak")) != here, "another version of the arithmetic"


def test_a_second_map_reads_the_cache_instead_of_scoring(tmp_path, sample):
    rows = sample.select(range(8)).select_columns(["prompt", "response"])
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    file, cache = str(tmp_path / "rows.parquet"), str(tmp_path / "cache")
    first = Dataset.from_parquet(file, cache_dir=cache).map(IFD("embedded:weak"), batched=True)
    program = (
        "import sys; from datasets import Dataset; from hf_superfilter import IFD\n"
        f"rows = Dataset.from_parquet({file!r}, cache_dir={cache!r})\n"
        "scored = rows.map(IFD('embedded:weak'), batched=True)\n"
        "print('torch' in sys.modules, scored.cache_files[0]['filename'])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loads_torch, *result = run.stdout.split()
    assert loads_torch == "False", "the second process never loads torch, for it scores nothing"
    assert result == [first.cache_files[0]["filename"]]


@pytest.mark.network
def test_the_real_gpt2_gives_the_published_ifd():
    """Published by users of the authors' code: rows of `nc/scores_gpt2_ifd_alpaca`; numbers only
    are kept here.
    """
    import json

    import pyarrow as pa
    from conftest import SHARED

    file = SHARED / "nc/scores_gpt2_ifd_alpaca.jsonl.zst"
    if not file.exists():
        pytest.skip("the published scores are not here")
    lines = pa.input_stream(str(file), compression="zstd").read().decode().split("\n")[:200]
    rows = [row for row in map(json.loads, filter(None, lines)) if row["ifd_ppl"]]
    batch = {
        "prompt": [
            r["instruction"] + "\n" + (r["input"] + "\n" if r["input"] else "") for r in rows
        ],
        "response": [r["output"] for r in rows],
    }
    ours = IFD("openai-community/gpt2", dtype="float32")(batch)["ifd"]
    np.testing.assert_allclose(ours, [r["ifd_ppl"] for r in rows], rtol=1e-3)


def test_a_dataset_of_numbers_in_the_response_column_is_said_by_map():
    with pytest.raises(TypeError, match="'response' holds 1"):
        Dataset.from_dict({"prompt": ["a"], "response": [1]}).map(Length(), batched=True)


def test_a_run_says_once_how_many_rows_lose_response_tokens_by_the_authors_border(tmp_path, caplog):
    import json

    prompts = ["Mood: ", "Mood:\n", "Mood: ", "Mood: ", "Mood:\n"]
    rows = Dataset.from_dict({"prompt": prompts, "response": ["happy and calm"] * 5})
    hf_superfilter.score(rows, [IFD("embedded:weak")], tmp_path / "run", chunk_size=2)
    told = [record.getMessage() for record in caplog.records if "border" in record.getMessage()]
    assert told == ["ifd: rows whose first response tokens the authors' border leaves out: 3 of 5"]
    entry = json.loads((tmp_path / "run/run.json").read_text())["scorers"]["ifd"]
    assert list(entry["counts"].values()) == [3]
    hf_superfilter.score(rows, [IFD("embedded:weak", variant="aligned")], tmp_path / "aligned")
    assert "border" not in caplog.text.replace(told[0], "")
