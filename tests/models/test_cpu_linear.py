"""Linear layers by oneDNN: the numbers, gradients, names and ties of torch's own."""

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from hf_superfilter import CausalLM
from hf_superfilter.models.cpu_linear import OneDnnConv1D, OneDnnLinear, use_onednn

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
    assert {OneDnnConv1D, OneDnnLinear} <= kinds and not kinds & {torch.nn.Linear, Conv1D}
    assert (
        lm.model.transformer.wte.weight.data_ptr()
        == lm._logits_at.projection.layer.weight.data_ptr()
    )
    assert "transformer.h.0.mlp.c_fc.weight" in lm.model.state_dict()
