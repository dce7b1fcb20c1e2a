"""Blocks bound to their layers: the plain blocks' results, whatever happens to parts and modes."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from random_backbones import build, image, largest_difference
from torch import nn

from pvt_mm import accelerate, restore
from pvt_mm.archs import ARCHS
from pvt_mm.devices import has_bfloat16
from pvt_mm.kernels.cpu import bound
from pvt_mm.kernels.modules import FastBlock

pytestmark = pytest.mark.skipif(
    not hasattr(torch, "get_autocast_dtype"), reason="weights are prepacked from torch 2.4 on"
)


@pytest.fixture
def bound_calls(monkeypatch):
    """What bound blocks were called with."""
    calls = []
    call = bound.BoundBlock.__call__

    def counted(self, tokens):
        calls.append(tokens)
        return call(self, tokens)

    monkeypatch.setattr(bound.BoundBlock, "__call__", counted)
    return calls


def bind_all(model, x):
    """Accelerate a model and call it until its blocks are bound."""
    accelerate(model, prepack=True)
    with torch.no_grad():
        for _ in range(2):
            model(x)
    blocks = [part for part in model.modules() if isinstance(part, FastBlock)]
    assert all(isinstance(bound._bound[block], bound.BoundBlock) for block in blocks)
    return blocks


def plain_copy(model):
    plain = copy.deepcopy(model)
    restore(plain)
    return plain


@pytest.mark.parametrize("arch", ARCHS)
def test_maps_are_those_of_the_plain_backbone(arch, bound_calls):
    model, x = build(arch), image(2, 3, 64, 96)
    blocks = bind_all(model, x)
    assert not bound_calls
    with torch.no_grad():
        assert largest_difference(model(x), plain_copy(model)(x)) < 1e-4
    assert len(bound_calls) == len(blocks)


@pytest.mark.parametrize("arch", ["pvt_tiny", "pvt_v2_b0", "pvt_v2_b2_li"])
def test_input_stays_as_it_is(arch):
    model, x = build(arch), image(1, 3, 64, 64)
    block = bind_all(model, x)[0]
    tokens = image(1, 256, block.norm1.normalized_shape[0])
    with torch.no_grad():
        kept, outs = tokens.clone(), [block(tokens, (16, 16)) for _ in range(3)]
    assert torch.equal(tokens, kept)
    assert all(torch.equal(out, outs[0]) for out in outs)


@pytest.mark.skipif(not has_bfloat16("cpu"), reason="this processor has no bfloat16")
@pytest.mark.parametrize("arch", ["pvt_tiny", "pvt_v2_b0", "pvt_v2_b2_li"])
def test_autocast_comes_and_goes(arch, bound_calls):
    model, x = build(arch), image(1, 3, 64, 64)
    blocks, plain = bind_all(model, x), plain_copy(model)
    with torch.no_grad():
        for _ in range(2):
            for amp, bound_error in ((True, 0.05), (False, 1e-4)):
                bound_calls.clear()
                with torch.autocast("cpu", torch.bfloat16, enabled=amp):
                    for _ in range(3):
                        found, expected = model(x), plain(x)
                assert [one.dtype for one in found] == [one.dtype for one in expected]
                found, expected = ([one.float() for one in maps] for maps in (found, expected))
                assert largest_difference(found, expected) < bound_error
                assert len(bound_calls) >= len(blocks)


def scale(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)


def set_on_layers(name):
    def change(model):
        for part in model.modules():
            if isinstance(part, nn.Linear):
                setattr(part, name, nn.Parameter(getattr(part, name).detach() * 0.5))

    return change


def train(model):
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sum(out.square().mean() for out in model(image(1, 3, 64, 64))).backward()
    optimizer.step()
    model.eval()


def exchange(place, part):
    def change(model):
        owner, _, name = place.rpartition(".")
        setattr(model.block1[0].get_submodule(owner), name, part)

    return change


def replace_forward(model):
    fc1 = model.block1[0].mlp.fc1
    fc1.forward = lambda tokens: nn.functional.linear(tokens, fc1.weight, fc1.bias) * 2


def half_a_bias(model):
    with torch.no_grad():
        model.block1[0].attn.proj.bias.mul_(0.5)


CHANGES = {
    "weights in place": scale,
    "a bias in place": half_a_bias,
    "other weights": set_on_layers("weight"),
    "other biases": set_on_layers("bias"),
    "another type and back": lambda model: scale(model.double().float()),
    "a training step": train,
    "another layer": exchange("mlp.fc2", nn.Linear(256, 32)),
    "another norm": exchange("norm2", nn.LayerNorm(32, eps=0.1)),
    "no norm": exchange("attn.norm", nn.Identity()),
    "another activation": exchange("mlp.act", nn.ReLU()),
    "another MLP": lambda model: exchange("mlp", type(model.block1[0].mlp)(32, 64))(model),
    "another forward": replace_forward,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes_count(change):
    model, x = build(), image(1, 3, 64, 64)
    bind_all(model, x)
    with torch.no_grad():
        before = model(x)
        torch.manual_seed(0)
    change(model)
    plain = plain_copy(model)
    with torch.no_grad():
        expected = plain(x)
        assert largest_difference(before, expected) > 1e-3
        for _ in range(3):
            assert largest_difference(model(x), expected) < 1e-4


@pytest.mark.parametrize(
    ("layer", "part", "name", "value"),
    [
        ("mlp.fc1", "mlp.act", "approximate", "tanh"),  # the formulas differ around 2 only
        ("attn.q", "attn", "num_heads", 2),  # of weights near 0 all heads take the mean
    ],
)
def test_another_setting_of_a_part_counts(layer, part, name, value):
    model, x = build(), image(1, 3, 64, 64)
    block, tokens = bind_all(model, x)[0], image(1, 256, 32)
    nn.init.normal_(block.get_submodule(layer).weight)
    with torch.no_grad():
        before = [block(tokens, (16, 16)) for _ in range(3)][-1]
        setattr(block.get_submodule(part), name, value)
        expected = plain_copy(block)(tokens, (16, 16))
        found = block(tokens, (16, 16))
    difference = (before - expected).abs().max()
    assert difference > 1e-4
    assert (found - expected).abs().max() < difference / 10


@pytest.mark.parametrize("everywhere", [False, True])
def test_hooks_fire(everywhere):
    model, x, seen = build(), image(1, 3, 64, 64), []
    bind_all(model, x)
    hook = lambda module, *args: seen.append(module)  # noqa: E731
    part = model.block1[0].mlp.fc1
    if everywhere:
        handle = nn.modules.module.register_module_forward_hook(hook)
    else:
        handle = part.register_forward_hook(hook)
    try:
        with torch.no_grad():
            model(x)
    finally:
        handle.remove()
    assert part in seen
    seen.clear()
    with torch.no_grad():
        model(x)
    assert not seen


@pytest.mark.parametrize("place", ["mlp.drop", "attn.proj_drop", "drop_path"])
def test_dropout_drops_as_soon_as_it_is_in_training_mode(place):
    model, x = build(drop_rate=0.5, drop_path_rate=0.5), image(2, 3, 64, 64)
    bind_all(model, x)
    for name, part in model.named_modules():
        if name.endswith(place):
            part.train()
    with torch.no_grad():
        for _ in range(3):
            assert largest_difference(model(x), model(x)) > 1e-3


def test_attention_dropout_needs_the_module():
    model, x = build(attn_drop_rate=0.5), image(2, 3, 64, 64)
    bind_all(model, x)
    model.block1[0].attn.train()
    with torch.no_grad():
        assert largest_difference(model(x), model(x)) > 1e-4


def test_sizes_batches_and_threads_change():
    model, sizes = build(), [(1, 3, 64, 64), (1, 3, 96, 64), (2, 3, 64, 64), (1, 3, 64, 96)]
    plain, threads = plain_copy(model), torch.get_num_threads()
    accelerate(model, prepack=True)
    try:
        with torch.no_grad():
            for size in (*sizes, *sizes, *(each for each in sizes for _ in range(3))):
                x = image(*size)
                torch.set_num_threads(1 if torch.get_num_threads() > 1 else threads)
                for _ in range(2):
                    assert largest_difference(model(x), plain(x)) < 1e-4
    finally:
        torch.set_num_threads(threads)


def test_gradients_and_graphs_have_the_modules(bound_calls):
    model, x = build(), image(1, 3, 64, 64)
    bind_all(model, x)
    model(x)[0].sum().backward()
    with torch.no_grad():
        torch.jit.trace(model, x, check_trace=False)
    assert not bound_calls


def test_older_pytorch_has_the_modules(bound_calls, monkeypatch):
    """Before 2.4 it prepacks nothing, and does not say what autocast computes in."""
    monkeypatch.setattr("pvt_mm.kernels.cpu.prepacked.has_operators", lambda: False)
    monkeypatch.delattr(torch, "get_autocast_dtype")
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda: False)
    model, x = build(), image(1, 3, 64, 64)
    plain = plain_copy(model)
    accelerate(model, prepack=True)
    with torch.no_grad():
        for _ in range(3):
            assert largest_difference(model(x), plain(x)) < 1e-4
    assert not bound_calls


def test_wrong_map_is_refused_as_before():
    model, x = build(), image(1, 3, 64, 64)
    block = bind_all(model, x)[0]
    for _ in range(3):
        with torch.no_grad(), pytest.raises(ValueError, match="does not match"):
            block(image(1, 256, 32), (16, 15))


def test_nothing_holds_a_model_that_is_gone():
    model, x = build(), image(1, 3, 64, 64)
    blocks = [weakref.ref(block) for block in bind_all(model, x)]
    again = pickle.loads(pickle.dumps(model))
    with torch.no_grad():
        assert largest_difference(again(x), model(x)) < 1e-6
    del model
    gc.collect()
    assert [block() for block in blocks] == [None] * len(blocks)


def test_restore_leaves_nothing():
    model, x = build(), image(1, 3, 64, 64)
    blocks = bind_all(model, x)
    restore(model)
    assert not any(block in bound._bound for block in blocks)
