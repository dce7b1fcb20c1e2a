"""Prepacked weights: the plain modules' results, of the values that the weights have now."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from random_backbones import build, image, largest_difference

from pvt_mm import accelerate, restore
from pvt_mm.archs import ARCHS
from pvt_mm.devices import has_bfloat16
from pvt_mm.kernels.cpu import prepacked
from pvt_mm.kernels.modules import FastPatchEmbed

pytestmark = pytest.mark.skipif(
    not hasattr(torch, "get_autocast_dtype"), reason="weights are prepacked from torch 2.4 on"
)


def build_both(arch="pvt_v2_b0"):
    """A plain backbone, and a copy of it with prepacked weights."""
    plain = build(arch)
    fast = copy.deepcopy(plain)
    accelerate(fast, prepack=True)
    return plain, fast


@pytest.fixture
def packed_calls(monkeypatch):
    """The layers whose products used prepacked weights, one entry for each call."""
    calls = []

    def counted(layer, x):
        packed = prepacked.prepack(layer, x)
        calls.extend([layer] if packed is not None else [])
        return packed

    monkeypatch.setattr("pvt_mm.kernels.modules.prepack", counted)
    return calls


@pytest.mark.parametrize("arch", ARCHS)
def test_maps_are_those_of_the_plain_backbone(arch, packed_calls):
    (plain, fast), x = build_both(arch), image(2, 3, 64, 96)
    with torch.no_grad():
        expected = plain(x)
        for _ in range(2):  # packing, and having packed
            assert largest_difference(fast(x), expected) < 1e-4
    products = (torch.nn.Linear, torch.nn.Conv2d)
    assert {*packed_calls} == {part for part in fast.modules() if isinstance(part, products)}


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("arch", ["pvt_tiny", "pvt_v2_b0", "pvt_v2_b2_li"])
def test_long_products_are_packed_if_their_weights_are_small(
    arch, small, packed_calls, monkeypatch
):
    plain, fast = build_both(arch)
    if not small:
        monkeypatch.setattr(prepacked, "SMALL_WEIGHT", 0)
    x = image(1, 3, 320, 256)  # 80x64, 40x32, 20x16 and 10x8 tokens
    with torch.no_grad():
        assert largest_difference(fast(x), plain(x)) < 1e-4
    assert fast.block3[0].attn.q in packed_calls and fast.patch_embed4.proj in packed_calls
    assert (fast.block2[0].attn.q in packed_calls) == small
    assert fast.patch_embed2.proj not in packed_calls


@pytest.mark.skipif(not has_bfloat16("cpu"), reason="this processor has no bfloat16")
def test_autocast_holds(packed_calls):
    (plain, fast), x = build_both(), image(1, 3, 128, 128)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected, found = plain(x), fast(x)
    assert [one.dtype for one in found] == [one.dtype for one in expected]
    found, expected = ([one.float() for one in maps] for maps in (found, expected))
    assert packed_calls and largest_difference(found, expected) < 0.05


CHANGES = {
    "an optimizer's step": lambda model: step(model),
    "a loaded state dict": lambda model: model.load_state_dict(scaled(build()).state_dict()),
    "a state dict in place of it": lambda model: model.load_state_dict(
        scaled(build()).state_dict(), assign=True
    ),
    "a change of type and back": lambda model: scaled(model).double().float(),
    "new parameters": lambda model: renew(model),
    "a bias alone": lambda model: torch.nn.init.ones_(model.patch_embed1.proj.bias),
    "data, and accelerate": lambda model: [
        [parameter.data.mul_(0.5) for parameter in model.parameters()],
        accelerate(model, prepack=True),
    ],
}


def scaled(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    return model


def step(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    sum(out.square().mean() for out in model(image(1, 3, 64, 64))).backward()
    optimizer.step()


def renew(model):
    for part in model.modules():
        if isinstance(part, torch.nn.Linear):
            part.weight = torch.nn.Parameter(part.weight.detach() * 0.5)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_weights_are_packed_anew(change):
    model, x = build(), image(1, 3, 64, 64)
    accelerate(model, prepack=True)
    with torch.no_grad():
        before = model(x)
    change(model)
    plain = copy.deepcopy(model)
    restore(plain)
    with torch.no_grad():
        found, expected = model(x), plain(x)
    assert largest_difference(found, expected) < 1e-4
    assert largest_difference(before, expected) > 1e-3


def test_memory_that_another_weight_gets_is_not_mistaken_for_the_first():
    """Allocators hand out what was freed: a pointer alone does not tell one weight from another."""
    layer, tokens = torch.nn.Linear(256, 256), image(1, 8, 256)
    with torch.no_grad():
        for value in range(8):
            layer.weight.data = torch.full((256, 256), float(value))
            expected = torch.nn.functional.linear(tokens, layer.weight, layer.bias)
            found = prepacked.prepack(layer, tokens).project(tokens)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
            layer.weight.data = torch.empty(0)  # the pointer is free


def test_gradients_are_the_plain_backbones(packed_calls):
    (plain, fast), x = build_both(), image(1, 3, 64, 64)
    for model in (plain, fast):
        sum(out.square().mean() for out in model(x)).backward()
    assert not packed_calls
    for mine, theirs in zip(fast.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-5)


def test_a_hook_on_a_part_makes_its_module_plain():
    model, seen = build(), []
    accelerate(model, prepack=True)
    model.patch_embed1.proj.register_forward_hook(lambda *args: seen.append("patch"))
    model.block1[0].attn.kv.register_forward_hook(lambda *args: seen.append("kv"))
    with torch.no_grad():
        model(image(1, 3, 64, 64))
    assert seen == ["patch", "kv"]


def test_weights_of_a_model_that_is_gone_are_gone():
    model, x = build(), image(1, 3, 64, 64)
    accelerate(model, prepack=True)
    with torch.no_grad():
        model(x)
    weight = weakref.ref(model.block1[0].mlp.fc1.weight)
    assert prepacked._packed[id(weight())].owner() is weight()
    held = len(prepacked._packed)
    del model
    gc.collect()
    assert weight() is None and len(prepacked._packed) < held


def test_restore_leaves_nothing():
    model, x = build(), image(1, 3, 64, 64)
    accelerate(model, prepack=True)
    with torch.no_grad():
        model(x)
    again = pickle.loads(pickle.dumps(model))
    restore(model)
    assert not any(id(parameter) in prepacked._packed for parameter in model.parameters())
    assert not any("prepack" in vars(part) for part in model.modules())
    assert isinstance(again.patch_embed1, FastPatchEmbed) and again.patch_embed1.prepack


def test_parameters_made_in_inference_mode_are_not_packed(packed_calls):
    with torch.inference_mode():
        model = build()
        accelerate(model, prepack=True)
        model(image(1, 3, 64, 64))
    assert not packed_calls


def test_types_that_do_not_fit_stay_an_error(packed_calls):
    model = build()
    accelerate(model, prepack=True)
    model.block1[0].attn.q.bfloat16()
    with torch.no_grad(), pytest.raises(RuntimeError, match="dtype"):
        model(image(1, 3, 64, 64))


def test_double_precision_stays_double(packed_calls):
    model = build().double()
    accelerate(model, prepack=True)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model(image(1, 3, 64, 64).double())[0].dtype == torch.float64
    assert not packed_calls


def test_who_switches_onednn_off_gets_none_of_it(packed_calls):
    (plain, fast), x = build_both(), image(1, 3, 64, 64)
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
        assert largest_difference(fast(x), plain(x)) < 1e-4
    assert not packed_calls


def test_one_thread_packs_too(packed_calls):
    (plain, fast), x = build_both(), image(1, 3, 64, 64)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            assert largest_difference(fast(x), plain(x)) < 1e-4
    finally:
        torch.set_num_threads(threads)
    assert packed_calls
