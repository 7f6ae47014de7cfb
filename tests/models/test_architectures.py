"""Every architecture scores as a plain computation does, or is refused in words.

Tiny random models of kinds that differ here; all that transformers has where `slow` tests run.
"""

import pytest
from architectures import all_kinds, compare, rows, save_seq2seq, table
from reference import OneQuestionAtATime
from transformers import CONFIG_MAPPING

from hf_superfilter import AskLLM
from hf_superfilter.scoring.ask_llm import forms_of

DIFFERENT_KINDS = [
    "bert",  # an encoder's layers as a decoder: a head with a transform and a bias of its own
    "bloom",  # positions by ALiBi
    "cohere",  # logits are scaled behind the projection
    "deepseek_v3",  # latent attention, experts
    "falcon",  # several queries of one key, attention of its own
    "falcon_h1",  # attention and a state space in one layer
    "gemma2",  # soft caps behind the projection, sliding windows and full attention in turn
    "gpt_neo",  # local attention by a mask
    "gpt_neox",  # attention and MLP side by side
    "llama4",  # a config of several parts, attention in chunks, `get_decoder()` is the model
    "mamba",  # no attention, a head that looks at the dtype of its weights
    "mixtral",  # experts
    "modernbert-decoder",  # `get_decoder()` is the output layer
    "mpt",  # ALiBi with a bias of its own
    "opt",  # positions begin at 2
    "phi3",  # fused projections
    "qwen3_next",  # linear attention and full attention in turn
    "recurrent_gemma",  # a recurrent unit
    "reformer",  # attention by hashes
    "rwkv",  # weights are scaled in place
    "whisper",  # the decoder of a speech model
]
TRAINED = ("falcon", "gemma2", "mamba")  # an epoch of learning percentage, too
DECODERS = ("big_bird", "roberta")  # positions of the latter begin behind the padding token's
ENCODERS = ("roberta", "xlnet")


@pytest.mark.parametrize("name", DIFFERENT_KINDS)
def test_architectures_that_differ_in_kind_score_as_plain_computations_do(name, tmp_path):
    compared = compare(CONFIG_MAPPING[name], tmp_path / "model", train=name in TRAINED)
    assert compared.result == "equal", compared


@pytest.mark.parametrize("name", DECODERS)
def test_encoders_that_were_trained_as_decoders_score_as_plain_computations_do(name, tmp_path):
    kind = CONFIG_MAPPING[name]
    compared = compare(kind, tmp_path / "model", train=False, is_decoder=True)
    assert compared.result == "equal", compared


@pytest.mark.parametrize("name", ENCODERS)
def test_a_model_whose_tokens_see_later_ones_is_refused(name, tmp_path):
    compared = compare(CONFIG_MAPPING[name], tmp_path / "model", train=False)
    assert "is not a causal language model" in compared.result


def test_a_model_that_trains_on_some_lengths_alone_is_refused_in_words(tmp_path):
    compared = compare(CONFIG_MAPPING["reformer"], tmp_path / "model")
    assert compared.result.startswith("refused: "), compared
    assert "cannot be trained on windows of" in compared.result


# T5 in int8 is tested with calmer weights in test_int8: large random ones amplify any rounding.
@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("name", ["bart", "fsmt", "prophetnet"])
def test_encoder_decoder_models_answer_as_a_plain_forward_pass(name, dtype, tmp_path):
    save_seq2seq(CONFIG_MAPPING[name], tmp_path)
    batch = rows()
    ask = AskLLM(str(tmp_path), "Good? {text} Answer:", dtype=dtype)
    tokens = list(ask._local_reader().tokens_of(forms_of(ask.yes)).values())
    plain = OneQuestionAtATime(str(tmp_path))
    texts = [p + r for p, r in zip(batch["prompt"], batch["response"], strict=True)]
    wanted = [float(plain.softmax(f"Good? {text} Answer:")[tokens].sum()) for text in texts]
    assert ask(batch)["ask_llm"] == pytest.approx(wanted, rel=1e-4 if dtype == "float32" else 0.1)


@pytest.mark.slow
def test_all_architectures_of_transformers_are_equal_or_refused(tmp_path, capsys):
    compared = []
    for number, (kind, settings) in enumerate(all_kinds()):
        compared.append(compare(kind, tmp_path / str(number), **settings))
    with capsys.disabled():
        print(table(compared))
    built = [c for c in compared if not c.result.startswith("cannot be built")]
    assert len(built) >= 150
    assert all(c.result == "equal" or c.result.startswith("refused") for c in built)
