"""The scripts of benchmarks/ on small inputs, and the tables that are made of their results."""

import json
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

pytest.importorskip("mmdet")

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import cpu  # noqa: E402
import floor  # noqa: E402
import gpu  # noqa: E402
import gpu_backbones  # noqa: E402
import gpu_checks  # noqa: E402
import gpu_operators  # noqa: E402
import gpu_report  # noqa: E402
import part_clock  # noqa: E402
import render  # noqa: E402
import runtimes  # noqa: E402
import scaling  # noqa: E402
import tricks  # noqa: E402
import whole_job  # noqa: E402

from pvt_mm.costs.benchmark import Case  # noqa: E402
from pvt_mm.costs.benchmark.cli import make_parser  # noqa: E402
from pvt_mm.costs.benchmark.roofline import Peak  # noqa: E402
from pvt_mm.errors import UserError  # noqa: E402
from pvt_mm.kernels.cpu import linear, prepacked  # noqa: E402


@pytest.mark.parametrize("part", cpu.PARTS)
def test_every_part_of_the_cpu_benchmark_is_a_call_of_the_tool(part):
    options = make_parser().parse_args(cpu.PARTS[part].split())
    assert options.models == [part.rpartition("-")[2]]
    assert options.train == part.startswith("train")
    assert options.with_cp == ("with_cp" in part)
    assert options.memory >= 1 and "transformers" in options.against


def test_cpu_benchmark_goes_on_where_it_was(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(cpu, "PARTS", {"first": "pvt_v2_b0", "second": "pvt_v2_b9"})
    out = tmp_path / "cpu.json"
    extra = ["--shape", "32", "64", "--repeats", "1"]
    with pytest.raises(UserError, match="second failed with exit code 2"):
        cpu.measure(["first", "second"], extra, out, again=False)
    first = json.loads(out.read_text())["parts"]
    assert list(first) == ["first"]
    assert first["first"]["command"].endswith("benchmark.py pvt_v2_b0 --shape 32 64 --repeats 1")

    cpu.measure(["first"], extra, out, again=False)
    assert json.loads(out.read_text())["parts"] == first, "nothing is measured twice"
    assert "there already" in capfd.readouterr().out


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_slope_is_the_exponent_of_a_power_law(exponent):
    pixels = [100, 400, 1600, 25600]
    assert scaling.slope(pixels, [3 * x**exponent for x in pixels]) == pytest.approx(exponent)


def test_scaling_counts_operations_and_draws(tmp_path):
    out = tmp_path / "scaling.json"
    command = ["--models", "pvt_v2_b0", "--sides", "64", "128", "--repeats", "1"]
    assert scaling.main([*command, "--out", str(out)]) == 0
    found = json.loads(out.read_text())["models"]["pvt_v2_b0"]
    assert [len(each) for each in found["seconds"]] == [1, 1]
    # Four times the pixels: four times all products but attention's, which grow 16 times.
    assert 4 < found["macs"][1] / found["macs"][0] < 16
    for side, macs in zip(("64", "128"), found["macs"], strict=True):
        parts = found["split"][side].values()
        assert min(part["seconds"] for part in parts) > 0
        assert sum(part["seconds"] * part["flops"] for part in parts) == pytest.approx(2 * macs)
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_time_of_a_part_inside_another_is_counted_once():
    now = [0.0]
    clock = part_clock.PartClock(lambda: now[0])

    class Work:
        def inner(self):
            now[0] += 5

        def outer(self):
            now[0] += 1
            self.inner()
            now[0] += 2
            clock.switch("late")
            now[0] += 10

    work = Work()
    clock.watch(work, "inner", "in")
    clock.watch(work, "outer", "out")
    clock.watch(work, "nothing like this", "never")
    work.outer()
    assert clock.seconds == {"out": 3, "in": 5, "late": 10}
    clock.run("out", work.inner)
    assert clock.seconds == {"out": 3, "in": 10, "late": 10}


@pytest.fixture(scope="module")
def small_coco(tmp_path_factory):
    """A few synthetic images in COCO's layout."""
    import shutil

    from pvt_mm.data.demo import DemoSpec, make_demo_data

    made = tmp_path_factory.mktemp("coco") / "demo"
    make_demo_data(made, DemoSpec(train=4, val=1, size=64))
    coco = made.parent / "coco"
    (coco / "annotations").mkdir(parents=True)
    annotations = json.loads((made / "annotations" / "instances_training.json").read_text())
    names = ("person", "bicycle", "car", "motorcycle", "airplane")
    for category, name in zip(annotations["categories"], names, strict=True):
        category["name"] = name
    path = coco / "annotations" / "instances_train2017.json"
    path.write_text(json.dumps(annotations))
    shutil.copytree(made / "images" / "training", coco / "train2017")
    return coco


@pytest.mark.slow
def test_whole_job_finds_where_the_time_goes(small_coco, tmp_path, monkeypatch, capsys):
    load = whole_job.job_config

    def small(*arguments):
        cfg = load(*arguments)
        for transform in cfg.train_dataloader.dataset.pipeline:
            if transform.type == "Resize":
                transform.scale = (96, 96)
        return cfg

    monkeypatch.setattr(whole_job, "job_config", small)
    out = tmp_path / "whole.json"
    command = [str(small_coco), "--jobs", "retinanet_pvt_v2_b0", "--batch", "1", "--rounds", "2"]
    variants = ["--variants", "mmdet", "ours", "amp+fused+channels_last"]
    assert whole_job.main([*command, *variants, "--out", str(out)]) == 0
    found = json.loads(out.read_text())["jobs"]["retinanet_pvt_v2_b0"]["seconds"]
    assert list(found) == variants[1:]
    for name, parts in found.items():
        assert {len(each) for each in parts.values()} == {2}
        for part in set(whole_job.PARTS) - {"other"}:
            assert min(parts[part]) > 0, (name, part)
    shown = capsys.readouterr().out
    assert "speed-up" in shown and "| 1.00 (1.00 to 1.00)" in shown


def test_whole_job_wants_a_folder_of_coco(tmp_path, capsys):
    assert whole_job.main([str(tmp_path)]) == 2
    assert "give a folder in COCO's layout" in capsys.readouterr().err


def test_relative_error_is_that_of_the_worst_tensor():
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.0])
    assert gpu_backbones.relative_error([a, b], [a, b]) == 0
    assert gpu_backbones.relative_error([a, b * 1.5], [a, b]) == pytest.approx(0.5)


class _Broken(nn.Module):
    """A backbone that is wrong only where autocast is on."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, image):
        maps = self.module(image)
        return [each * 1.3 for each in maps] if torch.is_autocast_enabled("cpu") else maps


def _checks(**changes):
    case = Case("pvt_v2_b0", (64, 96), 1, "backward")
    ways = [("eager", "float32"), ("eager", "bfloat16")]
    return gpu_backbones.check(case, ways, "eager", **changes)


def test_checks_pass_and_find_what_is_wrong(monkeypatch):
    assert [each["passed"] for each in _checks()] == [True] * 4
    build = gpu_backbones.build_backbone

    def broken(*arguments):
        made = build(*arguments)
        return Namespace(module=_Broken(made.module), detail="")

    monkeypatch.setattr(gpu_backbones, "build_backbone", broken)
    assert [each["passed"] for each in _checks()] == [True, True, True, False]


def test_operators_are_compared_one_by_one(monkeypatch, tmp_path, capsys):
    make, focal_loss = gpu_operators.OPERATORS["sigmoid focal loss"]
    calls = []

    def wrong_the_second_time(*inputs):
        calls.append(None)
        return focal_loss(*inputs) * (1.0 if len(calls) == 1 else 1.01)

    wrong = (make, wrong_the_second_time)
    monkeypatch.setitem(gpu_operators.OPERATORS, "sigmoid focal loss", wrong)
    monkeypatch.setitem(gpu_operators.OPERATORS, "raises", (make, lambda *inputs: inputs[2]))
    out = tmp_path / "checks.json"
    assert gpu_checks.main(["operators", "--device", "cpu", "--out", str(out)]) == 1
    rows = {row["model"]: row for row in json.loads(out.read_text())["checks"]}
    assert {name for name, row in rows.items() if not row.get("passed")} == {
        "sigmoid focal loss",
        "raises",
    }
    assert "IndexError" in rows["raises"]["error"]
    assert "2 failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("losses", "expected", "passed"),
    [
        ([2.0] * 8, 2.001, True),
        ([2.0] * 8, None, True),
        ([2.0] * 8, 2.1, False),
        ([2.0] * 7 + [float("nan")], 2.0, False),
        ([2.0] * 7, 2.0, False),
    ],
)
def test_a_short_training_is_judged_by_its_losses(losses, expected, passed):
    assert gpu_checks.judge("a", "float32", losses, expected)["passed"] is passed


def test_gpu_checks_want_a_gpu(capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    assert gpu_checks.main(["operators"]) == 2
    assert "torch finds no GPU" in capsys.readouterr().err


@pytest.mark.exhaustive  # four trainings, as other tests have them
@pytest.mark.slow
def test_short_trainings_run_by_the_tools(tmp_path):
    out = tmp_path / "checks.json"
    assert gpu_checks.main(["trainings", "--device", "cpu", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["checks"]
    assert [row["model"] for row in rows] == list(gpu_checks.TRAININGS)
    assert rows[0]["features"] == 0, "the same training, both times on the CPU"


@pytest.mark.slow
def test_gpu_script_runs_on_a_cpu_and_goes_on_where_it_was(tmp_path, capsys):
    out = tmp_path / "gpu.json"
    command = ["--device", "cpu", "--shape", "64", "96", "--models", "pvt_v2_b0"]
    command += ["--contenders", "pvt_mm", "mmdet", "--batch", "1", "--repeats", "1"]
    command += ["--dtypes", "bfloat16", "--modes", "inference", "backward"]
    command += ["--executions", "eager", "compile", "graphs", "--backend", "eager"]
    command += ["--peak-tflops", "0.1", "--peak-tbytes", "0.02", "--out", str(out)]
    assert gpu.main(command) == 0
    shown = capsys.readouterr().out
    cells = json.loads(out.read_text())["cells"]
    assert len(cells) == 6
    for key, cell in cells.items():
        for entry in cell["contenders"].values():
            if key.endswith("graphs"):
                assert entry["error"] and not entry["seconds"], "a CPU has no CUDA graphs"
            else:
                assert len(entry["seconds"]) == 1 and not entry["error"]
    assert "FAILED" not in shown and shown.count(" passed ") == 4
    # All cells are there: with no time left nothing is missing, and nothing changes.
    assert gpu.main([*command, "--budget", "0.001", "--no-checks"]) == 0
    assert json.loads(out.read_text())["cells"] == cells


def test_shares_of_the_peak_are_worked_out_from_time():
    from pvt_mm.backbones import ARCHS
    from pvt_mm.costs.benchmark.report import result_entry
    from pvt_mm.costs.benchmark.roofline import macs

    case = Case("pvt_v2_b2", (224, 224), 2, "inference", "bfloat16")
    count = 2 * 2 * macs(ARCHS["pvt_v2_b2"], (224, 224))
    entries = {
        "pvt_mm": result_entry([0.01], 1, [10**9]),
        "mmdet": result_entry([0.03], 1, [4 * 10**9]),
    }
    peak = Peak(flops=count / 0.005, bandwidth=1e18)  # half of the time is arithmetic
    cell = {"case": case.to_dict(), "contenders": entries}
    ours, theirs = (
        dict(zip(gpu_report.HEADER, row, strict=True))
        for row in gpu_report.rows("key", cell, vars(peak))
    )
    assert ours["images/s"] == "200.0" and ours["of bf16 peak"] == ours["of floor"] == "50.0 %"
    assert theirs["of bf16 peak"] == "16.7 %"
    assert (theirs["x time"], theirs["x memory"]) == ("3.00", "0.25")


def test_readme_holds_the_tables_of_the_committed_results():
    assert render.main(["--check"]) == 0, "run `python benchmarks/render.py`"


def test_a_block_without_results_says_so_and_an_unknown_one_is_refused(tmp_path):
    text = "a\n<!-- cpu: begin -->\nold 1.23\n<!-- cpu: end -->\nb\n"
    made = render.rendered(text, tmp_path)
    assert "Not measured yet." in made and "old" not in made
    assert made.startswith("a\n<!-- cpu: begin -->") and made.endswith("<!-- cpu: end -->\nb\n")
    assert render.rendered(made, tmp_path) == made
    with pytest.raises(ValueError, match="'tpu' is unknown"):
        render.rendered(text.replace("cpu", "tpu"), tmp_path)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_each_trick_is_left_out_once_and_what_is_measured_stays(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tricks, "SHAPES", ((64, 96),))
    out = tmp_path / "tricks.json"
    command = ["--models", "pvt_v2_b0", "--repeats", "1", "--out", str(out)]
    assert tricks.main(command) == 0
    content = json.loads(out.read_text())
    inference, train = content["cells"].values()
    assert "without bands" in inference["ways"] and "without bands" not in train["ways"]
    assert "with recomputation" in train["ways"]
    for cell in (inference, train):
        assert list(cell["ways"])[0] == tricks.ALL and list(cell["ways"])[-1] == tricks.NONE
        for entry in cell["ways"].values():
            assert len(entry["seconds"]) == 1 and entry["memory_bytes"][0] > 0
    capsys.readouterr()
    assert tricks.main(command) == 0
    assert json.loads(out.read_text()) == content and not capsys.readouterr().out


@pytest.mark.usefixtures("threads")  # with one, PyTorch does not hand products to oneDNN
@pytest.mark.parametrize(("mode", "side"), [("inference", 768), ("train", 512)])
def test_tricks_change_what_runs_and_not_its_result(mode, side, monkeypatch):
    if mode == "train":  # else nothing is done in another way there
        monkeypatch.setattr(linear, "mkl_is_slow", lambda: True)
    else:  # else all linear layers of so small a backbone are prepacked
        monkeypatch.setattr(prepacked, "SMALL_WEIGHT", 0)
    case = Case("pvt_v2_b0", (side, side), mode=mode)  # large enough for bands

    def operators(way):
        step = tricks.step_of(way, tricks.prepare("pvt_mm", case).step)
        for _ in range(2 if mode == "inference" else 0):
            step()  # blocks are bound now
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            result = float(step())
        return {each.key: each.count for each in seen.key_averages()}, result

    reference, expected = operators(tricks.ALL)
    for way in set(tricks.ways(mode)) - {tricks.ALL}:
        found, result = operators(way)
        assert result == pytest.approx(expected, abs=1e-5), way
        if way not in ("without checks of each call", "without bound blocks"):
            assert found != reference, way


def test_floor_adds_up_what_operators_take_alone(tmp_path, capsys):
    torch.manual_seed(0)
    cases = [Case("pvt_v2_b0", (64, 64), mode=mode) for mode in ("inference", "backward")]
    content = floor.measure(cases, repeats=1, seconds=0.0)
    inference, backward = (set(found["operators"]) for found in content["cases"])
    assert {"layer_norm", "gelu_"} <= inference and "_linear_pointwise" in inference
    assert {"gelu_backward", "native_layer_norm_backward"} <= backward - inference
    assert not {"view", "transpose", "permute"} & (inference | backward)
    for found in content["cases"]:
        groups = floor.grouped(found["operators"])
        assert sum(groups.values()) == pytest.approx(sum(found["operators"].values()))
        assert min(groups.values()) > 0
    rows = [line for line in floor.show(content).splitlines() if line.startswith("| pvt_v2_b0")]
    assert len(rows) == 2 and all(row.count("|") == len(floor.HEADER) + 1 for row in rows)


def test_floor_takes_the_best_of_several_runs():
    def run(step, gelu, rate):
        found = {"case": {"model": "b0"}, "steps": [step], "operators": {"gelu": gelu, "mm": 1.0}}
        return {"machine": {"load": step, "gemm_flops": {"float32": rate}}, "cases": [found]}

    merged = floor.merge(run(3.0, 0.2, 9.0), run(4.0, 0.1, 5.0))
    assert merged["machine"] == {"load": 4.0, "gemm_flops": {"float32": 9.0}}
    (found,) = merged["cases"]
    assert found["steps"] == [3.0, 4.0] and found["operators"] == {"gelu": 0.1, "mm": 1.0}

    other = run(5.0, 0.3, 5.0)
    other["cases"][0]["case"] = {"model": "b1"}
    assert floor.merge(merged, other)["cases"] == [found, other["cases"][0]]


def test_floor_of_chosen_steps(tmp_path):
    out = tmp_path / "floor.json"
    command = ["--models", "pvt_v2_b0", "--repeats", "1", "--out", str(out)]
    assert floor.main([*command, "--steps", "backward:64x96"]) == 0
    cases = [found["case"] for found in json.loads(out.read_text())["cases"]]
    assert [(case["mode"], case["shape"]) for case in cases] == [("backward", [64, 96])] * 2


def test_floor_counts_calls_and_leaves_results_alone():
    x = torch.rand(4, 4)
    with floor.Alone(seconds=0.0) as alone:
        y = x.add(1).add(1)
        y.mul_(2)
        y.view(16).relu_()
    assert torch.equal(y, (x + 2) * 2)
    assert set(alone.total) == {"add", "mul_", "relu_"}
    assert alone.total["add"] == 2 * next(
        best for (name, *_), best in alone._best.items() if name == "add"
    )


def test_all_ways_to_run_a_backbone(monkeypatch, tmp_path):
    written, opened = {}, []

    def write(exportable, path, format, standard=False, dtype="float32", calibration=None):
        path.touch()
        written[path.name] = (format, standard, dtype, calibration and len(calibration.inputs))

    def read(path, dtype):
        opened.append((path.name, dtype))
        return SimpleNamespace(run=lambda inputs: {"p2": inputs["images"]})

    for name, fake in (("export_model", write), ("open_session", read)):  # tested in test_runtimes
        monkeypatch.setattr(runtimes, name, fake)
    monkeypatch.setattr(runtimes, "compile_backbone", lambda model, inference: None)
    monkeypatch.setattr(runtimes, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(runtimes, "find_spec", lambda package: True)
    makers = runtimes.ways("pvt_v2_b0", runtimes.build_arch("pvt_v2_b0"), tmp_path)
    made = runtimes.chosen(makers, None)
    assert list(made)[0] == runtimes.FIRST and "OpenVINO, int8" in made
    assert written == {
        "own.onnx": ("onnx", False, "float32", None),
        "standard.onnx": ("onnx", True, "float32", None),
        "own.xml": ("openvino", False, "float32", None),
        "int8.xml": ("openvino", False, "int8", runtimes.IMAGES),
    }
    assert ("own.xml", "bfloat16") in opened and ("int8.xml", "float32") in opened

    named = ["PyTorch, accelerated", runtimes.FIRST]
    assert list(runtimes.chosen(makers, named)) == named
    with pytest.raises(UserError, match="'Torch' is unknown here; there are: PyTorch, plain; "):
        runtimes.check_names(makers, [None, named, ["Torch"]])


def test_chosen_ways_take_turns_in_their_groups(monkeypatch, tmp_path):
    out, fast = tmp_path / "runtimes.json", "PyTorch, accelerated"
    plain, theirs = runtimes.FIRST, runtimes.THEIRS
    monkeypatch.setattr(runtimes, "version", lambda package: "1")
    monkeypatch.setattr(sys, "argv", ["runtimes.py", "--models", "pvt_v2_b0", "--shapes", "32x64"])
    sys.argv += ["--rounds", "2", "--out", str(out), "--ways", fast, plain, "--ways", theirs, fast]
    assert runtimes.main() == 0
    found = json.loads(out.read_text())["results"]
    assert [list(result["seconds"]) for result in found] == [[fast, plain], [theirs, fast]]
    assert all(len(each) == 2 for result in found for each in result["seconds"].values())
    assert [list(result["differences"]) for result in found] == [[fast], [fast]]
    assert all(result["differences"][fast] < 1e-5 for result in found)
    rows = [line.split("|") for line in runtimes.render(found).splitlines()]
    ratios = {(row[3].strip(), row[6].strip() != "") for row in rows[2:]}
    assert ratios == {(fast, False), (plain, True), (theirs, False), (fast, True)}
