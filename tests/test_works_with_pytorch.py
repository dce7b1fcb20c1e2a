"""Hooks, wrappers, quantizers, tracers and transforms find backbones that hide nothing."""

import copy
import pickle

import pytest
import torch
from pieces import set_band_bytes
from procedural import build, build_procedural, procedural_image
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations, prune

from pvt_mm import accelerate, restore
from pvt_mm.backbones import ARCHS

EXHAUSTIVE = pytest.mark.exhaustive
KINDS = ("pvt_tiny", "pvt_v2_b0", "pvt_v2_b2_li")
FAST = [False, True]


def models(*fast, marks=()):
    """Each kind of backbone, plain and accelerated; b0, whose parts b2_li has too, with marks."""
    return pytest.mark.parametrize(
        ("name", "fast"),
        [
            pytest.param(name, each, marks=marks if name == "pvt_v2_b0" else ())
            for name in KINDS
            for each in fast
        ],
        ids=lambda value: {True: "accelerated", False: "plain"}.get(value, value),
    )


def prepared(name, fast, **options):
    model = build_procedural(name, **options)
    if fast:
        assert accelerate(model).swapped
    return model


def largest_difference(one, other):
    return max((a - b).abs().max().item() for a, b in zip(one, other, strict=True))


def tensors_of(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return [one for part in value for one in tensors_of(part)] if isinstance(value, tuple) else []


def check_hooks(model, image):
    """Every submodule's hook fires, and what it stored is the same after the pass."""
    seen, hooks = {}, []
    for name, module in model.named_modules():
        if name and not isinstance(module, nn.ModuleList):

            def look(module, inputs, output, name=name):
                kept = tensors_of(inputs) + tensors_of(output)
                seen.setdefault(name, []).extend((one, one.detach().clone()) for one in kept)

            hooks.append(module.register_forward_hook(look))
    outs = model(image)
    for hook in hooks:
        hook.remove()
    names = {n for n, m in model.named_modules() if n and not isinstance(m, nn.ModuleList)}
    assert names - set(seen) == set(), "never called"
    changed = [n for n, kept in seen.items() if any(not torch.equal(a, b) for a, b in kept)]
    assert changed == [], "written in place after the hook"
    return outs


@pytest.mark.parametrize("fast", FAST, ids=["plain", "accelerated"])
@pytest.mark.parametrize("training", FAST, ids=["eval", "train"])
@pytest.mark.parametrize("name", ARCHS)
def test_every_hook_fires_and_what_it_stored_stays(name, training, fast):
    model = build(name).train(training)
    if fast:
        accelerate(model)
    with torch.set_grad_enabled(training):
        check_hooks(model, procedural_image(64, 64))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side"),
    [
        pytest.param(
            name,
            side,
            marks=[] if name == "pvt_v2_b0" or (name in KINDS and side == 256) else EXHAUSTIVE,
        )
        for name in ARCHS
        for side in (256, 512)
    ],
)
def test_hooks_see_large_maps_whole(name, side):
    model, image = build(name), procedural_image(side, side)
    with torch.no_grad():
        expected = model(image)
    for fast in FAST:
        if fast:
            accelerate(model)
        for training in FAST:
            model.train(training)
            with torch.set_grad_enabled(training):
                outs = check_hooks(model, image)
            if not training:
                assert largest_difference(outs, expected) < 1e-4
    tokens = []
    model.block1[0].mlp.fc1.register_forward_hook(lambda m, i, out: tokens.append(out.shape))
    with torch.no_grad():
        model(image)
    hidden = model.block1[0].mlp.fc1.out_features
    assert tokens == [(1, (side // 4) ** 2, hidden)], "one call, with the whole map"


@models(*FAST)
def test_a_buffer_that_a_hook_returns_is_left_alone(name, fast):
    model, image = prepared(name, fast), procedural_image(128, 128)
    buffers = {}

    def answer(module, inputs, output, key):
        buffers.setdefault(key, output.detach().clone())
        return buffers[key]

    for key in ("attn", "mlp", "attn.proj", "mlp.fc2", "drop_path"):
        block = model.block2[0]
        block.get_submodule(key).register_forward_hook(
            lambda module, inputs, output, key=key: answer(module, inputs, output, key)
        )
    with torch.no_grad():
        first, second = model(image), model(image)
    assert largest_difference(first, second) == 0


class Lora(nn.Module):
    """A wrapper as adapters have them: no weight, no sizes, a branch of its own."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.down = nn.Linear(layer.in_features, 4, bias=False)
        self.up = nn.Linear(4, layer.out_features, bias=False)
        nn.init.normal_(self.up.weight, std=0.05)

    def forward(self, x):
        return self.layer(x) + self.up(self.down(x))

    def merged(self):
        merged = copy.deepcopy(self.layer)
        with torch.no_grad():
            merged.weight += self.up.weight @ self.down.weight
        return merged


def replace(model, kind, change):
    """Put ``change(module)`` in the place of every module of exactly that type."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is kind:
                setattr(parent, name, change(child))
    return model


@pytest.mark.parametrize("side", [64, pytest.param(512, marks=pytest.mark.slow)])
@pytest.mark.parametrize("order", ["plain", "wrapped, accelerated", "accelerated, wrapped"])
@pytest.mark.parametrize("name", KINDS)
def test_wrapped_linears_learn_and_equal_the_merged_weights(name, order, side):
    torch.manual_seed(0)
    model, image = build_procedural(name), procedural_image(side, side)
    if order.startswith("accelerated"):
        accelerate(model)
    count = sum(type(module) is nn.Linear for module in model.modules())
    adapted = replace(model, nn.Linear, Lora)
    if order.endswith("accelerated"):
        assert accelerate(adapted).swapped == []
    outs = adapted(image)
    sum(out.square().mean() for out in outs).backward()
    loras = [module for module in adapted.modules() if isinstance(module, Lora)]
    assert len(loras) == count
    assert all(lora.up.weight.grad.abs().sum() > 0 for lora in loras)
    with torch.no_grad():
        assert largest_difference(outs, adapted(image)) < 1e-5, "training and testing differ"
    merged = replace(copy.deepcopy(adapted), Lora, Lora.merged)
    with torch.no_grad():
        assert largest_difference(outs, merged(image)) < 5e-4


@models(*FAST)
def test_wrapped_convolutions_are_called_and_learn(name, fast):
    model, image = prepared(name, fast), procedural_image(96, 96)
    replace(model, nn.Conv2d, lambda conv: nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels)))
    model.train()
    sum(out.square().mean() for out in model(image.repeat(2, 1, 1, 1))).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and all(norm.num_batches_tracked == 1 for norm in norms)


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@models(*FAST)
def test_dynamic_quantization_converts_every_linear(name, fast, threads):
    model, image = prepared(name, fast), procedural_image(96, 64)
    count = sum(isinstance(module, nn.Linear) for module in model.modules())
    with torch.no_grad():
        expected = model(image)
        quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
        outs = quantized(image)
    kind = torch.ao.nn.quantized.dynamic.Linear
    assert sum(isinstance(module, kind) for module in quantized.modules()) == count
    for out, exact in zip(outs, expected, strict=True):
        assert (out - exact).norm() < 0.1 * exact.norm()


def test_plain_layers_are_pytorchs_own():
    for name in ARCHS:
        for key, module in build(name).named_modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.LayerNorm)):
                assert type(module) in (nn.Linear, nn.Conv2d, nn.LayerNorm), key


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@models(*FAST)
def test_traces_are_checked_and_serve_other_sizes(name, fast):
    model = prepared(name, fast)
    with torch.no_grad():
        traced = torch.jit.trace(model, procedural_image(64, 96))
        for size in ((64, 96), (128, 64)):
            image = procedural_image(*size)
            assert largest_difference(traced(image), model(image)) < 1e-4


@models(*FAST, marks=EXHAUSTIVE)
def test_exports_serve_other_sizes(name, fast):
    model = prepared(name, fast)
    side = torch.export.Dim.DYNAMIC
    shapes = ({2: side, 3: side},)
    program = torch.export.export(model, (procedural_image(96, 128),), dynamic_shapes=shapes)
    image = procedural_image(160, 96)
    with torch.no_grad():
        assert largest_difference(program.module()(image), model(image)) < 1e-4


@pytest.mark.slow
@models(*FAST, marks=EXHAUSTIVE)
def test_compiles_into_one_graph(name, fast):
    torch.compiler.reset()  # what other tests compiled counts towards the limit of recompilations
    model, image = prepared(name, fast), procedural_image(64, 64)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert largest_difference(compiled(image), model(image)) < 1e-4


@pytest.mark.parametrize("side", [64, pytest.param(512, marks=[pytest.mark.slow, EXHAUSTIVE])])
@pytest.mark.parametrize("name", KINDS)
def test_function_transforms(name, side):
    """With the MATH backend: PyTorch's fused attention has no second derivative."""
    model = build_procedural(name).double()
    image = procedural_image(side, side).double()
    params = dict(model.named_parameters())

    def last(params, image):
        return torch.func.functional_call(model, params, (image[None],))[3].mean()

    with sdpa_kernel(SDPBackend.MATH):
        out, tangent = torch.func.jvp(
            lambda x: model(x)[3].mean(), (image,), (torch.ones_like(image),)
        )
        leaf = image.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(leaf)[3].mean(), leaf, create_graph=True)
        torch.testing.assert_close(tangent, slope.sum())
        slope.square().sum().backward()
        assert leaf.grad.abs().sum() > 0, "a second derivative"
        if side > 64:
            return
        batch = torch.cat([image, -image])
        per_sample = torch.vmap(torch.func.grad(last), in_dims=(None, 0))(params, batch)
        for index in range(2):
            one = torch.func.grad(last)(params, batch[index])
            for key, value in one.items():
                torch.testing.assert_close(per_sample[key][index], value)
        outs = torch.vmap(lambda x: model(x[None])[3][0])(batch)
        torch.testing.assert_close(outs, model(batch)[3])
        rows = torch.func.jacrev(lambda x: model(x)[3].mean((0, 2, 3))[:3])(image)
        assert rows.shape == (3, *image.shape)
        torch.testing.assert_close(out, model(image)[3].mean())


REPARAMETRISE = {
    "spectral_norm": parametrizations.spectral_norm,
    "weight_norm": parametrizations.weight_norm,
    "weight_norm, old": torch.nn.utils.weight_norm,
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("kind", REPARAMETRISE)
@models(*FAST)
def test_reparametrised_layers_learn_step_by_step(name, fast, kind):
    model, image = prepared(name, fast).train(), procedural_image(64, 64)
    places = ("mlp.fc1", "attn.q", "mlp.dwconv.dwconv" if "v2" in name else "mlp.fc2")
    for place in places:
        REPARAMETRISE[kind](model.block1[0].get_submodule(place))
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    layers = {place: model.block1[0].get_submodule(place) for place in places}
    before = {place: layer.weight.detach().clone() for place, layer in layers.items()}
    for _ in range(2):
        optimizer.zero_grad()
        sum(out.square().mean() for out in model(image)).backward()
        optimizer.step()
    model(image)
    for place, layer in layers.items():
        raw = [p for key, p in layer.named_parameters() if "bias" not in key]
        assert raw and all(p.grad.abs().sum() > 0 for p in raw), place
        assert not torch.equal(layer.weight, before[place]), "the layer goes on with the old weight"


@models(*FAST)
def test_copies_pickles_and_assigned_weights(name, fast):
    model, image = prepared(name, fast), procedural_image(64, 96)
    with torch.no_grad():
        expected = model(image)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert largest_difference(other(image), expected) == 0
        with torch.device("meta"):
            empty = build(name)
        if fast:
            accelerate(empty)
        empty.load_state_dict(model.state_dict(), assign=True)
        assert largest_difference(empty(image), expected) == 0


@models(*FAST)
def test_other_types_and_layouts(name, fast):
    model, image = prepared(name, fast), procedural_image(96, 64)
    with torch.no_grad():
        expected = model(image)
        strided = copy.deepcopy(model).to(memory_format=torch.channels_last)
        outs = strided(image.to(memory_format=torch.channels_last))
        assert largest_difference(outs, expected) < 1e-4
        for half in (torch.bfloat16, torch.float16):
            outs = copy.deepcopy(model).to(half)(image.to(half))
            for out, exact in zip(outs, expected, strict=True):
                assert out.dtype == half
                assert (out.float() - exact).norm() < 0.1 * exact.norm()


@models(*FAST)
def test_grad_cam_on_the_last_stage(name, fast):
    """A forward hook and a gradient of what it stored, as the usual packages do it."""
    model, image = prepared(name, fast), procedural_image(128, 96)
    kept = []
    model.block4[-1].register_forward_hook(lambda module, inputs, out: kept.append(out))
    outs = model(image)
    (gradient,) = torch.autograd.grad(outs[3].square().sum(), kept[0])
    assert gradient.shape == kept[0].shape == (1, 4 * 3, outs[3].shape[1])
    assert (gradient * kept[0]).sum(-1).abs().sum() > 0


def test_symbolic_traces_stop_at_the_check_of_the_input():
    """Use ``torch.export`` instead: what checks a shape is control flow to ``torch.fx``."""
    with pytest.raises(torch.fx.proxy.TraceError, match="control flow"):
        torch.fx.symbolic_trace(build("pvt_v2_b0"))


@pytest.mark.parametrize("name", ARCHS)
def test_swapping_keeps_parameters_names_and_hooks(name):
    model = build(name)
    parameters, keys = list(map(id, model.parameters())), list(model.state_dict())
    calls = []
    model.block1[0].register_forward_hook(lambda *_: calls.append(1))
    done = accelerate(model)
    blocks = sum(ARCHS[name].depths)
    assert len(done.swapped) == 3 * blocks and list(done.plain) == []
    assert list(map(id, model.parameters())) == parameters and list(model.state_dict()) == keys
    assert accelerate(model, recompute=True).swapped == [], "a second call only sets the option"
    assert all(block.mlp.recompute for block in model.block1)
    with torch.no_grad():
        model(procedural_image(64, 64))
    assert calls == [1]
    assert len(restore(model)) == 3 * blocks
    assert type(model.block1[0]) is type(build(name).block1[0])
    assert not hasattr(model.block1[0].mlp, "recompute")


def test_what_was_changed_stays_plain_and_is_named():
    model = build("pvt_v2_b0")
    blocks = [*model.block1, *model.block2, *model.block3]
    blocks[0].mlp.fc1 = Lora(blocks[0].mlp.fc1)
    blocks[1].attn.q.register_forward_hook(lambda *_: None)
    parametrizations.weight_norm(blocks[2].mlp.fc2)
    blocks[3].attn.kv.forward = blocks[3].attn.kv.forward

    class Own(type(blocks[4].mlp)):
        """Somebody's own MLP."""

    blocks[4].mlp.__class__ = Own
    done = accelerate(model)
    reasons = {
        "block1.0.mlp": "fc1 is a Lora",
        "block1.1.attn": "q has a hook",
        "block2.0.mlp": "fc2 is a ParametrizedLinear",
        "block2.1.attn": "kv has another forward",
        "block3.0": "mlp is a Own",
    }
    assert {key: done.plain[key] for key in reasons} == reasons
    assert not set(reasons) & set(done.swapped) and "block3.0.attn" in done.swapped


def exchange(module, place, part):
    owner, _, name = place.rpartition(".")
    setattr(module.get_submodule(owner), name, part)


EXCHANGES = {
    "another activation": ("mlp.act", nn.ReLU(), "mlp", "act is a ReLU"),
    "an approximate GELU": ("mlp.act", nn.GELU("tanh"), "mlp", "act is GELU(approximate='tanh')"),
    "an activation for none": ("mlp.relu", nn.GELU(), "mlp", "relu is a GELU"),
    "a dilated convolution": (
        "mlp.dwconv.dwconv",
        nn.Conv2d(256, 256, 3, padding=2, dilation=2, groups=256),
        "mlp",
        "dwconv.dwconv is Conv2d(256, 256, kernel_size=(3, 3), stride=(1, 1), padding=(2, 2), "
        "dilation=(2, 2), groups=256)",
    ),
    "a circular convolution": (
        "attn.sr",
        nn.Conv2d(32, 32, 8, stride=8, padding_mode="circular"),
        "attn",
        "sr is Conv2d(32, 32, kernel_size=(8, 8), stride=(8, 8), padding_mode=circular)",
    ),
}


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("kind", EXCHANGES)
def test_parts_of_another_kind_do_what_they_do(kind, grad, before):
    """A twin that does a part's work itself must see that the part is not what it was."""
    place, part, name, reason = EXCHANGES[kind]
    model, image = build_procedural("pvt_v2_b0"), procedural_image(64, 64)
    if before:
        exchange(model.block1[0], place, part)
    fast = copy.deepcopy(model)
    done = accelerate(fast, prepack=True)
    if before:
        assert done.plain[f"block1.0.{name}"] == reason
    else:
        for each in (model, fast):
            exchange(each.block1[0], place, part)
    with torch.set_grad_enabled(grad):
        assert largest_difference(fast(image), model(image)) < 1e-4


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("place", ["mlp.drop", "attn.proj_drop", "drop_path"])
def test_dropout_that_alone_is_in_training_mode_drops(place, grad, monkeypatch):
    """As in Monte Carlo dropout: the model is in evaluation mode, its dropout is not."""
    set_band_bytes(monkeypatch, 2048)
    model = build("pvt_v2_b0", drop_rate=0.5, drop_path_rate=0.5).eval()
    accelerate(model, recompute=True, prepack=True)
    for name, part in model.named_modules():
        if name.endswith(place):
            part.train()
    image = procedural_image(64, 64)
    with torch.set_grad_enabled(grad):
        assert largest_difference(model(image), model(image)) > 1e-3
