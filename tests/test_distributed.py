"""Several processes: the results of one, whatever their number, and an end that says why."""

import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ranks import ITERATIONS, NO_WORKERS, parameters, run_ranks, save_start, segmentor_folder, train

from pvt_mm.checkpoints import safe_load
from pvt_mm.data.demo import DemoSpec, make_demo_data

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="so many processes need as many GPUs where there are GPUs"
)

ROOT = Path(__file__).parents[1]
NUM_VAL = 7  # two processes share them unevenly, as do three, whose batches of 2 they do not fill
FRAGILE = """
import os
import signal

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class Fragile(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if first and runner.rank == 1 and runner.iter == 1:
            os.kill(os.getpid(), signal.SIGKILL)
"""

FRAGILE_CONFIG = """
_base_ = "segmentor.py"
custom_imports = dict(imports=["pvt_mm", "fragile"])
custom_hooks = [dict(type="Fragile")]
default_hooks = dict(logger=dict(interval=1))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a segmentor is trained."""
    return segmentor_folder(tmp_path_factory.mktemp("distributed"))


@pytest.fixture(scope="module")
def alone(folder):
    """What one process makes of the parameters."""
    return train(folder, 1, "train_1")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_training_is_that_of_one_process(folder, alone, processes):
    start = parameters(folder / "start.pth")
    moved = max((alone[name] - start[name]).abs().max() for name in alone)
    together = train(folder, processes, f"train_{processes}")
    apart = max((alone[name] - together[name]).abs().max() for name in alone)
    assert moved > 0.02
    assert apart < 2e-6


def predictions(folder, processes, batch_size=1):
    options = {"test_dataloader.batch_size": batch_size, "model.test_cfg.score_thr": 0.0}
    name = f"test_{processes}"
    run_ranks(
        processes,
        folder,
        "test",
        config=ROOT / "configs/retinanet_pvt_v2_b0_fpn_demo.py",
        checkpoint="start.pth",
        work_dir=name,
        out=f"{name}.pkl",
        cfg_options=NO_WORKERS | options,
    )
    (written,) = (folder / name).glob("*/*.json")
    metrics = {key: v for key, v in json.loads(written.read_text()).items() if "coco" in key}
    return metrics, pickle.loads((folder / f"{name}.pkl").read_bytes())


@pytest.mark.slow
def test_testing_is_that_of_one_process(tmp_path):
    make_demo_data(tmp_path / "data", DemoSpec(train=1, val=NUM_VAL, size=64))
    save_start(tmp_path, ROOT / "configs/retinanet_pvt_v2_b0_fpn_demo.py", "mmdet")
    metrics, alone = predictions(tmp_path, 1)
    assert "coco/bbox_mAP" in metrics
    names = [one["img_path"] for one in alone]
    assert len(set(names)) == NUM_VAL

    of_both, together = predictions(tmp_path, 2)
    assert of_both == metrics
    assert [one["img_path"] for one in together] == names
    for one, other in zip(together, alone, strict=True):
        for key, expected in other["pred_instances"].items():
            assert len(expected) > 0
            assert torch.equal(one["pred_instances"][key], expected)

    _, together = predictions(tmp_path, 3, batch_size=2)
    assert [one["img_path"] for one in together] == names
    for one, other in zip(together, alone, strict=True):  # boxes of equal scores change places
        scores = [item["pred_instances"]["scores"] for item in (one, other)]
        torch.testing.assert_close(*scores)


def launch(folder, *command, **variables):
    """Start a tool's script in a session of its own, so that what it leaves can be found."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable}
    for name in ("CUDA_VISIBLE_DEVICES", "LOCAL_RANK", "RANK", "PORT", "NNODES", "MAX_RESTARTS"):
        environment.pop(name, None)
    environment |= {"DEMO_ROOT": str(folder / "data"), "PYTHONPATH": str(folder), **variables}
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def session_of(pid):
    """Tell which processes of a session are alive."""
    stats = (path.read_text() for path in Path("/proc").glob("[0-9]*/stat") if path.exists())
    fields = [stat.rpartition(")")[2].split() for stat in stats]
    return [field for field in fields if int(field[3]) == pid and field[0] != "Z"]


def train_fragile(folder, work_dir, *options, **variables):
    """Train with two processes of which the second one is killed in its second iteration."""
    (folder / "fragile.py").write_text(FRAGILE)
    (folder / "fragile_segmentor.py").write_text(FRAGILE_CONFIG)
    changes = NO_WORKERS | {"train_dataloader.batch_size": 2}
    flags = ["--work-dir", work_dir, *options]
    flags += ["--cfg-options", *(f"{key}={value}" for key, value in changes.items())]
    script = ROOT / "tools/dist_train.sh"
    return launch(folder, script, "fragile_segmentor.py", 2, *flags, **variables)


@pytest.mark.slow
def test_a_killed_process_ends_all_and_leaves_a_checkpoint(folder):
    process = train_fragile(folder, "killed")
    lines, killed = [], None
    for line in process.stdout:
        lines.append(line)
        if "Iter(train) [1/3]" in line:
            killed = time.monotonic()
    assert process.wait(60) == 128 + signal.SIGKILL
    assert time.monotonic() - killed < 60
    assert session_of(process.pid) == []
    assert "error: process 1 was killed by SIGKILL, by someone or for want of memory; " in lines[-1]
    assert "--resume goes on from the last checkpoint" in lines[-1]
    last = (folder / "killed/last_checkpoint").read_text().strip()
    assert safe_load(last)["meta"]["iter"] in (1, 2)  # the first process may have saved once more


@pytest.mark.slow
def test_a_run_starts_again_from_its_last_checkpoint(folder, alone):
    process = train_fragile(folder, "restarted", "--resume", MAX_RESTARTS="1")
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed[-3000:]
    assert re.search(r"resumed epoch: 0, iter: [12]\b", printed)
    together = parameters(folder / "restarted" / f"iter_{ITERATIONS}.pth")
    for name, expected in alone.items():
        torch.testing.assert_close(together[name], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "MAX_RESTARTS is set: add --resume, else each restart trains from the start"),
        ({"PORT": "29511"}, "MAX_RESTARTS works on a single machine only, and without PORT"),
    ],
)
def test_restarts_want_resume_on_one_machine(tmp_path, variables, message):
    script = ROOT / "tools/dist_train.sh"
    process = launch(tmp_path, script, "any.py", 2, MAX_RESTARTS="2", **variables)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert printed == f"error: {message}\n"


def test_a_port_in_use_is_named(folder):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        script = ROOT / "tools/dist_test.sh"
        process = launch(folder, script, "segmentor.py", "start.pth", 2, PORT=str(port))
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert errors == [
        f"error: port {port} is in use; set PORT to another, or on a single machine to none"
    ]
    assert "Traceback" not in printed


TOOL = """
import os
import sys
import time

from pvt_mm.training.distributed import recorded
from pvt_mm.errors import UserError, run_tool


def work():
    if os.environ["RANK"] in {ranks}:
        raise UserError("the disk of node 7 is full: make room")
    time.sleep(60)


sys.exit(run_tool(recorded(work)))
"""


@pytest.mark.parametrize(
    "ranks", [pytest.param(ranks, marks=pytest.mark.exhaustive) for ranks in ("0", "1")] + ["01"]
)
def test_a_mistake_is_printed_once(tmp_path, ranks):
    tool = tmp_path / "tool.py"
    tool.write_text(TOOL.format(ranks=repr(tuple(ranks))))
    launcher = [sys.executable, ROOT / "tools/_launch.py", "--standalone", "--nproc-per-node", 2]
    process = launch(tmp_path, *launcher, tool, PYTHONPATH=str(ROOT))
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    errors = [line for line in printed.splitlines() if "node 7" in line]
    assert errors == ["error: the disk of node 7 is full: make room"]
    assert "Traceback" not in printed and "exitcode" not in printed
