"""The benchmark tool's parts: rounds, ratios, memory, operation counts, tables."""

import gc
import json
import os
import platform
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pvt_mm.backbones import ARCHS, PVT, PVTv2
from pvt_mm.costs.benchmark import (
    Case,
    Unavailable,
    cli,
    peers,
    ratio_of_medians,
    summarise,
    time_interleaved,
)
from pvt_mm.costs.benchmark.contenders import build_backbone
from pvt_mm.costs.benchmark.gemm import gemm_rates
from pvt_mm.costs.benchmark.memory import measure_memory, peak_of
from pvt_mm.costs.benchmark.report import as_table, case_rows, result_entry
from pvt_mm.costs.benchmark.roofline import Peak, floor_seconds, macs, moved_bytes
from pvt_mm.costs.benchmark.steps import backbone_step, make_image
from pvt_mm.costs.benchmark.workloads import prepare
from pvt_mm.kernels.modules import FastAttention

TINY = Case("pvt_v2_b0", (64, 96))


class FakeClock:
    """A clock that the measured work itself moves on."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def __call__(self):
        return self.now

    def work(self, name, *seconds):
        def step():
            nth = self.calls.count(name)
            self.calls.append(name)
            self.now += seconds[min(nth, len(seconds) - 1)]

        return step


def test_rounds_call_everyone_in_turn_and_warm_up_does_not_count():
    clock = FakeClock()
    steps = {
        "a": clock.work("a", 9, 1, 2, 3, 4),
        "b": clock.work("b", 50, 10, 20, 30, 40),
        "c": clock.work("c", 7),
    }
    found = time_interleaved(steps, repeats=4, warmup=1, min_sample_s=0, clock=clock)
    assert found.seconds == {"a": [1, 2, 3, 4], "b": [10, 20, 30, 40], "c": [7, 7, 7, 7]}
    assert "".join(clock.calls) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert found.errors == {}


def test_short_steps_are_repeated_until_a_sample_is_long_enough():
    clock = FakeClock()
    steps = {"short": clock.work("short", 0.03), "long": clock.work("long", 5.0)}
    found = time_interleaved(steps, repeats=2, warmup=1, min_sample_s=0.2, clock=clock)
    assert found.calls == {"short": 7, "long": 1}
    assert found.seconds["short"] == pytest.approx([0.03, 0.03])


def test_rounds_look_for_garbage_of_their_own_only():
    frozen, ends = [], []

    class Cycle:
        def __init__(self):
            self.itself = self
            weakref.finalize(self, ends.append, len(frozen))

    def step():
        frozen.append(gc.get_freeze_count())
        Cycle()

    time_interleaved({"a": step}, repeats=3, warmup=1, min_sample_s=0, clock=FakeClock())
    assert frozen[0] == 0 and min(frozen[1:]) > 1000
    assert gc.get_freeze_count() == 0
    assert {2, 3} <= set(ends), "what a round leaves is gone before the next one"


@pytest.mark.parametrize("fails_at", [0, 3], ids=["warming up", "in the second round"])
def test_a_contender_that_fails_drops_out_and_the_others_go_on(fails_at):
    clock = FakeClock()
    count = iter(range(100))

    def broken():
        if next(count) == fails_at:
            raise RuntimeError("no such kernel\nmore of it")

    found = time_interleaved(
        {"good": clock.work("good", 2), "bad": broken},
        repeats=3,
        warmup=2,
        min_sample_s=0,
        clock=clock,
    )
    assert found.seconds == {"good": [2, 2, 2]}
    assert found.errors == {"bad": "RuntimeError: no such kernel"}


def test_summary_is_that_of_numbers_worked_out_by_hand():
    found = summarise([5, 1, 3, 2, 4])
    assert (found.median, found.minimum, found.q1, found.q3, found.count) == (3, 1, 2, 4, 5)
    with pytest.raises(ValueError, match="no samples"):
        summarise([])


def test_ratio_is_that_of_medians_and_its_spread_that_within_rounds():
    # The machine is three times slower in the last two rounds, for both.
    ratio = ratio_of_medians([2.0, 4.4, 6.0, 12.6, 6.0], [1.0, 2.0, 3.0, 6.0, 3.0])
    assert ratio.value == 2.0
    assert (ratio.q1, ratio.q3) == pytest.approx((2.0, 2.1))
    with pytest.raises(ValueError, match="2 rounds cannot be paired with 3"):
        ratio_of_medians([1, 2], [1, 2, 3])


def test_memory_of_a_known_allocation_is_found_even_when_it_is_freed():
    size = 96 * 2**20
    kept = np.ones(2 * size, dtype=np.uint8)  # a higher peak, from before
    del kept

    def allocate():
        np.ones(size, dtype=np.uint8).sum()

    # The kernel counts pages in batches, so that either reading may be off by some.
    assert 0.99 * size < peak_of(allocate) < 1.1 * size


@pytest.mark.slow
def test_memory_of_a_backbone_holds_its_weights_and_training_needs_more():
    size = (256, 256)
    weights = 4 * sum(each.numel() for each in PVTv2("b0").parameters())
    inference = measure_memory(Case("pvt_v2_b0", size), "pvt_mm")
    train = measure_memory(Case("pvt_v2_b0", size, mode="train"), "pvt_mm")
    assert inference > weights
    # Whoever gives nothing back has the most at the end, too; the peak is about the same.
    kept = measure_memory(Case("pvt_v2_b0", size), "pvt_mm", tuned=True)
    assert weights < kept < 1.5 * inference
    # Weights, gradients and two averages of AdamW.
    assert train > 4 * weights and train > 1.5 * inference


@pytest.mark.parametrize("name", ARCHS)
def test_operation_count_is_what_torch_counts(name):
    arch = ARCHS[name]
    kind = PVT if arch.version == 1 else PVTv2
    with torch.device("meta"):
        model = kind(name.removeprefix("pvt_").removeprefix("v2_")).eval()
        image = torch.zeros(2, 3, 224, 256)
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(image)
    assert 2 * macs(arch, (224, 256), batch=2) == counter.get_total_flops()


def test_floor_is_bound_by_arithmetic_or_by_memory():
    arch, shape = ARCHS["pvt_v2_b2"], (224, 224)
    count = 2 * macs(arch, shape)
    assert floor_seconds(arch, shape, 1, Peak(1e12, 1e30)) == pytest.approx(count / 1e12)
    moved = moved_bytes(arch, shape)
    assert floor_seconds(arch, shape, 1, Peak(1e30, 1e9)) == pytest.approx(moved / 1e9)
    both = floor_seconds(arch, shape, 1, Peak(1e12, 1e9))
    assert max(count / 1e12, moved / 1e9) <= both <= count / 1e12 + moved / 1e9
    # The input map of the first block alone is read five times: queries, reduction, attention's
    # result, residual, MLP.
    assert moved > 2 * 5 * 64 * 56 * 56


def test_training_step_trains_and_inference_does_not():
    module = build_backbone("pvt_mm", TINY.model, TINY.shape).module
    image = make_image(TINY)
    before = [each.clone() for each in module.parameters()]
    expected = float(sum(each.mean() for each in module.eval()(image)))

    found = backbone_step(module, image, TINY)()
    assert float(found) == pytest.approx(expected, abs=1e-5)
    assert not found.requires_grad
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))

    step = backbone_step(module, image, Case(TINY.model, TINY.shape, mode="train"))
    found = step()
    assert module.training
    assert float(found) == pytest.approx(expected, abs=1e-5), "nothing is dropped"
    changed = [not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True)]
    assert all(changed)
    assert all(each.grad is None for each in module.parameters())


@pytest.mark.parametrize("name", ["pvt_tiny", "pvt_v2_b0"])
def test_mmdet_contender_is_the_same_architecture(name):
    pytest.importorskip("mmdet")
    ours = build_backbone("pvt_mm", name, (64, 96)).module.eval()
    theirs = build_backbone("mmdet", name, (64, 96)).module.eval()
    image = torch.zeros(1, 3, 64, 96)
    assert [each.shape for each in ours(image)] == [each.shape for each in theirs(image)]
    numbers = [sum(each.numel() for each in m.parameters()) for m in (ours, theirs)]
    # Ours keeps the class token's position.
    extra = 512 if name == "pvt_tiny" else 0
    assert numbers[0] == numbers[1] + extra
    drops = [each.p for each in theirs.modules() if isinstance(each, torch.nn.Dropout)]
    paths = [each.drop_prob for each in theirs.modules() if hasattr(each, "drop_prob")]
    assert not any(drops) and not any(paths)


@pytest.mark.parametrize(
    ("contender", "arch", "reason"),
    [
        ("mmdet", "pvt_v2_b2_li", "mmdet has no linear SRA"),
        ("timm", "pvt_small", "timm has no PVT v1"),
    ],
)
def test_what_a_contender_lacks_is_said(contender, arch, reason):
    with pytest.raises(Unavailable, match=reason):
        build_backbone(contender, arch, (64, 64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "pvt_v3"}, "'pvt_v3' is neither a config"),
        ({"model": "pvt_small", "mode": "sleep"}, "mode must be one of inference, backward"),
        ({"model": "pvt_small", "shape": (16, 64)}, "at least 32x32"),
        ({"model": "pvt_small", "batch": 0}, "batch must be at least 1"),
        ({"model": "pvt_small", "dtype": "int8"}, "dtype must be one of float32"),
    ],
)
def test_a_case_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Case(**arguments)


def read_table(text):
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert len({len(line) for line in text.splitlines()}) == 1
    return [dict(zip(lines[0], row, strict=True)) for row in lines[2:]]


def test_table_shows_ratios_both_ways_round():
    result = {
        "case": Case("pvt_small", (64, 64), batch=2).to_dict(),
        "contenders": {
            "pvt_mm": result_entry([0.5, 0.4, 0.6], 1, [100_000_000]),
            "mmdet": result_entry([1.5, 1.2, 1.8], 1, [400_000_000], detail="theirs"),
            "timm": result_entry(error="timm has no PVT v1"),
        },
    }
    table = read_table(as_table(cli.COLUMNS, case_rows(json.loads(json.dumps(result)))))
    assert table[0]["contender"] == "pvt_mm"
    assert (table[0]["median"], table[0]["images/s"]) == ("500 ms", "4")
    assert table[1]["contender"] == "mmdet (theirs)"
    assert table[1]["x time"] == "3.00 (3.00 to 3.00)", "theirs takes three times as long"
    assert (table[1]["memory"], table[1]["x memory"]) == ("400 MB", "0.25"), "ours needs a quarter"
    assert table[2]["median"] == "timm has no PVT v1"
    assert not {"of GEMM", "as started"} & set(table[0]), "neither is known"


@pytest.mark.parametrize(("mode", "passes"), [("inference", 1), ("train", 3)])
def test_table_leads_with_the_tuned_figure_and_its_share_of_the_product_rate(mode, passes):
    case = Case("pvt_v2_b0", (64, 96), batch=2, mode=mode)
    result = {
        "case": case.to_dict(),
        "contenders": {
            "pvt_mm": result_entry([0.5], 1, [100_000_000]),
            "mmdet": result_entry([2.0], 1, [400_000_000]),
        },
        "tuned": {
            "pvt_mm": result_entry([0.4], 1, [110_000_000]),
            "mmdet": result_entry([0.6], 1, [440_000_000]),
        },
    }
    count = 2 * passes * macs(ARCHS["pvt_v2_b0"], (64, 96), batch=2)
    # oneDNN is the faster one here: in 0.4 s it could do twice what there is to do.
    rates = {"float32": 1.0, "float32 by oneDNN": 2 * count / 0.4, "bfloat16": 1e30}
    ours, theirs = read_table(as_table(cli.COLUMNS, case_rows(result, gemm_flops=rates)))
    assert (ours["median"], ours["as started"], ours["of GEMM"]) == ("400 ms", "500 ms", "50 %")
    assert (theirs["median"], theirs["as started"], theirs["of GEMM"]) == ("600 ms", "2 s", "33 %")
    assert theirs["x time"] == "1.50 (1.50 to 1.50)"
    assert theirs["x time, as started"] == "4.00 (4.00 to 4.00)"
    assert (theirs["memory"], theirs["memory, as started"]) == ("440 MB", "400 MB")


@pytest.mark.parametrize("bfloat16", [True, False], ids=["bfloat16", "none"])
def test_product_rates_are_what_a_clock_around_them_allows(bfloat16, monkeypatch):
    monkeypatch.setattr("pvt_mm.costs.benchmark.gemm.has_bfloat16", lambda device: bfloat16)
    side, start = 256, time.perf_counter()
    rates = gemm_rates(side, seconds=0.05)
    spent = time.perf_counter() - start
    assert "float32" in rates and ("bfloat16" in rates) == bfloat16, "emulated, it takes minutes"
    # At least one product of each was done in the time.
    assert all(rate > 2 * side**3 / spent for rate in rates.values())


@pytest.mark.parametrize("tunable", [True, False])
def test_tool_measures_and_writes_every_sample(tunable, tmp_path, capsys, monkeypatch):
    pytest.importorskip("mmdet")
    if tunable and platform.libc_ver()[0] != "glibc":
        pytest.skip("not glibc")
    monkeypatch.setenv("PVT_MM_ALLOCATOR", str(int(tunable)))
    report = tmp_path / "made" / "report.json"
    command = ["pvt_v2_b0", "--shape", "64", "96", "--against", "mmdet", "--repeats", "2"]
    assert cli.main([*command, "--json", str(report)]) == 0
    shown = capsys.readouterr().out
    assert "pvt_v2_b0, inference, 64x96 batch 1, float32, cpu" in shown
    assert f"torch {torch.__version__}" in shown and "threads" in shown
    content = json.loads(report.read_text())
    assert set(content) == {"schema", "machine", "results"}
    (result,) = content["results"]
    assert Case.from_dict(result["case"]) == TINY
    assert list(result["contenders"]) == ["pvt_mm", "mmdet"]
    ways = [result["contenders"], *([result["tuned"]] if "tuned" in result else [])]
    assert len(ways) == 1 + tunable
    for entry in (entry for way in ways for entry in way.values()):
        assert len(entry["seconds"]) == 2 and min(entry["seconds"]) > 0
        assert entry["error"] == "" and entry["calls"] >= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pvt_b2"], "error: model 'pvt_b2' is neither a config (.py) nor one of pvt_tiny"),
        (["no.py"], "error: config no.py not found"),
        (["pvt_small", "--repeats", "0"], "error: --repeats must be at least 1, got 0"),
        (["pvt_small", "--threads", "0"], "error: --threads must be at least 1, got 0"),
        (["pvt_small", "--shape", "8", "8"], "error: shape must be at least 32x32"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, capsys):
    assert cli.main(arguments) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("...")]
    assert len(error) == 1 and error[0].startswith(message)


def test_a_peer_that_nobody_knows_is_refused(capsys):
    with pytest.raises(SystemExit):
        cli.main(["pvt_small", "--against", "mmdet,jax"])
    known = "jax is unknown; known are pvt_mm_plain, pvt_mm_recompute, mmdet, timm, transformers"
    assert known in capsys.readouterr().err


@pytest.fixture
def without_timm(monkeypatch):
    """As in the main environment, wherever the tests run."""
    find = peers.find_spec
    monkeypatch.setattr(peers, "find_spec", lambda name: None if name == "timm" else find(name))
    monkeypatch.delenv("PVT_MM_IN_PEERS", raising=False)


def test_peers_have_an_environment_of_their_own(without_timm, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
    python = tmp_path / "env-peers" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    moves = []
    monkeypatch.setattr(os, "execve", lambda *arguments: moves.append(arguments))
    peers.enter_peers(("pvt_mm", "mmdet"), ["-m", "x"])
    assert not moves, "mmdet is here"
    peers.enter_peers(("pvt_mm", "timm"), ["-m", "x", "--flag"])
    ((program, arguments, environment),) = moves
    assert program == python and arguments[-3:] == ["-m", "x", "--flag"]
    root = environment["PYTHONPATH"].split(os.pathsep)[0]
    assert (Path(root) / "pvt_mm" / "costs" / "benchmark").is_dir()
    monkeypatch.setattr(os, "environ", environment)
    peers.enter_peers(("pvt_mm", "timm"), ["-m", "x"])
    assert len(moves) == 1, "it moves once only"


def test_a_missing_environment_of_peers_names_the_command(without_timm, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
    with pytest.raises(peers.UserError, match=r"--against timm: .*env-peers; .*`make peers`"):
        peers.enter_peers(("pvt_mm", "timm"), [])


@pytest.mark.slow
def test_whole_configs_step_in_both_modes(capsys, monkeypatch):
    pytest.importorskip("mmdet")
    configs = Path(__file__).resolve().parents[1] / "configs"
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", None)  # nothing is fetched
    name = str(configs / "mask_rcnn_pvt_v2_b0_fpn_demo.py")
    command = [name, "--against", "mmdet", "--repeats", "1"]
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    assert "the config's size" in shown and "mmdet" in shown.split("contender")[1]
    assert cli.main([*command, "--train", "--dtype", "bfloat16", "--shape", "64", "64"]) == 0
    rows = capsys.readouterr().out.split("contender")[1].splitlines()[2:4]
    assert all(" ms" in row or " s " in row for row in rows), rows


@pytest.mark.parametrize(
    ("contender", "mode", "fast"),
    [("pvt_mm", "inference", True), ("pvt_mm", "train", True), ("mmdet", "train", False)],
)
def test_whole_configs_are_as_fast_as_the_tools_make_them(contender, mode, fast):
    pytest.importorskip("mmdet")
    config = Path(__file__).resolve().parents[1] / "configs" / "retinanet_pvt_v2_b0_fpn_demo.py"
    case = Case(model=str(config), shape=(64, 64), mode=mode)
    modules = list(prepare(contender, case).module.backbone.modules())
    assert any(isinstance(module, FastAttention) for module in modules) == fast
    prepacked = any(getattr(module, "prepack", False) for module in modules)
    assert prepacked == (fast and mode == "inference")


def test_tool_says_its_options_from_any_folder(tmp_path):
    tool = Path(__file__).resolve().parents[1] / "tools" / "benchmark.py"
    done = subprocess.run(
        [sys.executable, str(tool), "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0 and "--against" in done.stdout
