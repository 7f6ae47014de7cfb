"""Linear layers by oneDNN: the numbers, gradients, names and ties of torch's own."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from hf_superfilter import CausalLM
from hf_superfilter.models import cpu_linear
from hf_superfilter.models.cpu_linear import (
    OneDnnConv1D,
    OneDnnLinear,
    PackedConv1D,
    PackedLinear,
    use_onednn,
    use_packed,
)
from hf_superfilter.models.loading import use_fast_layers

pytestmark = pytest.mark.skipif(
    not torch.cpu.get_capabilities().get("avx512_f"),
    reason="these products are left to torch without AVX-512",
)


def pair(kind, bias=True):
    """A layer, and the same one that multiplies by oneDNN."""
    torch.manual_seed(0)
    made = []
    for _ in range(2):
        layer = Conv1D(70, 300) if kind is OneDnnConv1D else torch.nn.Linear(300, 70, bias=bias)
        made.append(layer)
    made[1].load_state_dict(made[0].state_dict())
    use_onednn(made[1])
    assert type(made[1]) is kind
    return made


@pytest.mark.parametrize(
    ("kind", "bias"), [(OneDnnLinear, True), (OneDnnLinear, False), (OneDnnConv1D, True)]
)
@pytest.mark.parametrize("shape", [(5, 300), (2, 9, 300), (0, 300)])
def test_results_and_all_gradients_are_those_of_the_plain_layer(kind, bias, shape):
    found = []
    for layer in pair(kind, bias):
        torch.manual_seed(1)
        states = torch.randn(shape, requires_grad=True)
        out = layer(states).mul_(2)  # some models change it in place
        (out * torch.randn(out.shape)).sum().backward()
        found.append([out, states.grad, *(weight.grad for weight in layer.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


def test_bfloat16_is_as_near_to_the_exact_product_as_torchs_own():
    plain, exchanged = (layer.bfloat16() for layer in pair(OneDnnConv1D))
    states = torch.randn(40, 300).bfloat16()
    exact = states.double() @ plain.weight.double() + plain.bias.double()
    theirs, ours = ((layer(states).double() - exact).abs().mean() for layer in (plain, exchanged))
    assert ours <= 1.05 * theirs


def test_bfloat16_without_its_instructions_and_other_dtypes_are_left_alone(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True})
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        layer = torch.nn.Linear(8, 8).to(dtype)
        use_onednn(layer)
        assert type(layer) is torch.nn.Linear


def test_inputs_of_another_dtype_and_autocast_go_the_usual_way():
    plain, exchanged = pair(OneDnnLinear)
    for states in (torch.randn(4, 300).bfloat16(), torch.randn(4, 300)):
        with torch.autocast("cpu", torch.bfloat16):
            found, wanted = exchanged(states), plain(states)
        assert found.dtype == wanted.dtype == torch.bfloat16
        torch.testing.assert_close(found, wanted)


def test_a_processor_without_avx512_keeps_torchs_layers(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    layer = torch.nn.Linear(8, 8)
    use_onednn(layer)
    assert type(layer) is torch.nn.Linear


def test_a_model_keeps_its_names_and_ties_and_multiplies_nothing_by_itself(weak):
    lm = CausalLM(weak, dtype="float32")
    kinds = {type(module) for module in lm.model.modules()}
    assert {PackedConv1D, OneDnnLinear} <= kinds and not kinds & {torch.nn.Linear, Conv1D}
    assert (
        lm.model.transformer.wte.weight.data_ptr()
        == lm._logits_at.projection.layer.weight.data_ptr()
    )
    weights = AutoModelForCausalLM.from_pretrained(weak, dtype=torch.float32).state_dict()
    torch.testing.assert_close(dict(lm.model.state_dict()), dict(weights), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["gelu", "gelu_new", "gelu_pytorch_tanh"])
def test_a_packed_mlp_computes_what_the_plain_one_does_and_is_undone(dtype, kind):
    config = GPT2Config(n_embd=40, n_inner=70, n_head=4, n_layer=2, activation_function=kind)
    model = GPT2LMHeadModel(config).to(dtype).eval()
    ids = torch.randint(0, 50_000, (2, 9))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with torch.inference_mode():
        plain = model(ids).logits
        undo = use_fast_layers(model, dtype, "test", pack=True)
        fast = model(ids).logits
        assert sum(isinstance(part, PackedConv1D) for part in model.modules()) == 8
        assert type(model.transformer.h[0].mlp.act) is torch.nn.Identity
    undo()
    atol = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(fast, plain, rtol=0, atol=atol)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    model(ids, labels=ids).loss.backward()


@pytest.mark.parametrize("kind", [torch.nn.Linear, Conv1D])
def test_weights_that_change_after_they_were_packed_count(kind):
    layer = kind(8, 8)
    parts = torch.nn.ModuleList([layer])
    parts.get_output_embeddings = lambda: None
    use_packed(parts)
    states = torch.randn(3, 8)
    with torch.inference_mode():
        before = layer(states) - layer.bias
        layer.weight.mul_(2)
        torch.testing.assert_close(layer(states) - layer.bias, 2 * before)


@pytest.mark.parametrize("kind", [torch.nn.Linear, Conv1D])
def test_packed_weights_lie_in_memory_once_and_read_as_they_were(kind):
    layer = kind(8, 24)
    parameter, values = layer.weight, layer.weight.detach().clone()
    parts = torch.nn.ModuleList([layer])
    parts.get_output_embeddings = lambda: None
    undo = use_packed(parts)
    assert parameter.numel() == 0
    assert [weight.shape for weight in parts.parameters()] == [values.shape, layer.bias.shape]
    assert type(parts.state_dict()["0.weight"]) is torch.Tensor
    for weight in (layer.weight, layer.weight.data, parts.state_dict()["0.weight"]):
        torch.testing.assert_close(weight + 0, values, rtol=0, atol=0)
    undo()
    assert layer.weight is parameter and torch.equal(parameter, values)


def test_layers_that_share_their_weights_keep_them():
    first, second = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
    second.weight = first.weight
    parts = torch.nn.ModuleList([first, second, torch.nn.Linear(8, 8)])
    parts.get_output_embeddings = lambda: None
    use_packed(parts)
    assert first.weight is second.weight and type(first.weight) is torch.nn.Parameter
    assert [type(part) for part in parts] == [torch.nn.Linear, torch.nn.Linear, PackedLinear]


def test_large_models_keep_the_pages_of_their_file(monkeypatch):
    monkeypatch.setattr(cpu_linear, "PACKED_BYTES", 255)
    parts = torch.nn.ModuleList([torch.nn.Linear(8, 8), torch.nn.GELU()])
    parts.get_output_embeddings = lambda: None
    use_packed(parts)
    assert [type(part) for part in parts] == [torch.nn.Linear, torch.nn.GELU]
