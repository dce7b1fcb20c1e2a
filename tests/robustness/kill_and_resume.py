"""Kill trainings of the demo configs at random moments, resume them, and compare the ends.

Each config is trained once without disturbance and once with SIGKILLs, which come while a step
is computed, a checkpoint is written, renamed or noted, a validation runs, or a run starts. After
each kill this script finds by itself, with plain torch, which checkpoint the next run has to
continue from. In the end all parameters, the optimizer, the schedule and every iteration's data
and random numbers have to be those of the undisturbed training, bit by bit.

The stack is imported once; each run is a fork of this process. For Linux.
"""

import argparse
import hashlib
import json
import mmap
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import mmdet.apis  # noqa: E402, F401
import mmseg.apis  # noqa: E402, F401
import numpy as np  # noqa: E402
import torch  # noqa: E402
from mmengine.hooks import Hook  # noqa: E402
from mmengine.registry import HOOKS  # noqa: E402

from pvt_mm.data.demo import DemoSpec, make_demo_data  # noqa: E402
from pvt_mm.errors import run_tool  # noqa: E402
from pvt_mm.training.train import run_train  # noqa: E402

# And which occurrence in a run, at most, is the one to be hit.
PHASES = {"start": 1, "step": 16, "write": 6, "rename": 4, "note": 3, "validate": 2}
NUMBERS = list(PHASES)
JOURNAL = "journal.jsonl"
DELAY = 0.05  # seconds that each part of a save takes longer, so that kills can hit it
NARROW = {
    "model.neck.out_channels": 16,
    "train_dataloader.batch_size": 2,
    "train_dataloader.num_workers": 2,
    "val_dataloader.batch_size": 4,
    "default_hooks.logger.interval": 1,
    "default_hooks.checkpoint.max_keep_ckpts": 2,
}
SETTINGS: dict[str, dict[str, Any]] = {
    # By epochs of 12 iterations; checkpoints by iterations, so most are in mid-epoch.
    "retinanet_pvt_v2_b0_fpn_demo.py": {
        **NARROW,
        "model.bbox_head.in_channels": 16,
        "model.bbox_head.feat_channels": 16,
        "model.bbox_head.norm_cfg.num_groups": 4,
        "train_cfg.max_epochs": 4,
        "train_cfg.val_interval": 1,
        "default_hooks.checkpoint.by_epoch": False,
        "default_hooks.checkpoint.interval": 5,
        "default_hooks.checkpoint.save_best": "coco/bbox_mAP",
    },
    "fpn_pvt_v2_b0_demo.py": {
        **NARROW,
        "model.decode_head.in_channels": [16, 16, 16, 16],
        "model.decode_head.channels": 16,
        "train_cfg.max_iters": 48,
        "train_cfg.val_interval": 10,
        "default_hooks.checkpoint.interval": 5,
        "default_hooks.checkpoint.save_best": "mIoU",
    },
}
INTERVAL = 5  # iterations between checkpoints, as above


class Moment(NamedTuple):
    """Where a run is: its phase, and how often the phase has changed."""

    phase: str
    changes: int


class Board:
    """A page of memory that a run writes its phase to and this process reads."""

    def __init__(self) -> None:
        self.page = mmap.mmap(-1, mmap.PAGESIZE)
        self.write("start", 0)

    def write(self, phase: str, changes: int | None = None) -> None:
        changes = self.read().changes + 1 if changes is None else changes
        self.page[:5] = bytes([NUMBERS.index(phase)]) + changes.to_bytes(4, "little")

    def read(self) -> Moment:
        return Moment(NUMBERS[self.page[0]], int.from_bytes(self.page[1:5], "little"))


board = Board()


@HOOKS.register_module()
class JournalHook(Hook):
    """Writes down what each iteration saw, and on which phase the run is."""

    priority = "HIGHEST"

    def before_train(self, runner):
        self.path = Path(runner.work_dir, JOURNAL)
        resumed = runner.cfg.load_from if runner.cfg.get("resume") else None
        self._note({"resumed": resumed and Path(resumed).name, "at": runner.iter})

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        board.write("step")
        self.drawn = random.getrandbits(32), int(np.random.randint(2**31)), torch.rand(()).item()
        self.data = hashlib.sha256()
        for sample, image in zip(data_batch["data_samples"], data_batch["inputs"], strict=True):
            self.data.update(sample.img_path.encode() + image.numpy().tobytes())

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        loss = {name: value.item().hex() for name, value in outputs.items()}
        entry = {"data": self.data.hexdigest(), "drawn": self.drawn, "loss": loss}
        self._note({"iteration": runner.iter + 1, **entry})

    def before_val(self, runner):
        board.write("validate")

    def after_val(self, runner):
        board.write("step")

    def _note(self, entry):
        with self.path.open("a") as journal:
            journal.write(json.dumps(entry) + "\n")


def slow_down(name: str, phase: str) -> None:
    """Let a function of ``os`` tell the board when it is called, and take longer."""
    plain = getattr(os, name)

    def slowed(*args: Any) -> Any:
        before = board.read().phase
        if before == "start":  # the trial whether the folder can be written
            return plain(*args)
        moment = "note" if name == "replace" and "last_checkpoint" in str(args[0]) else phase
        board.write(moment)
        time.sleep(DELAY)
        result = plain(*args)
        board.write(before)
        return result

    setattr(os, name, slowed)


def start(config: str, work_dir: Path) -> int:
    """Fork a training; return its process id."""
    board.write("start", 0)
    pid = os.fork()
    if pid:
        return pid
    with (work_dir.parent / f"{work_dir.name}.log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    slow_down("fsync", "write")
    slow_down("replace", "rename")
    changes = {**SETTINGS[config], "custom_hooks": [{"type": "JournalHook"}]}
    path = ROOT / "configs" / config
    try:
        code = run_tool(
            lambda: run_train(
                path, work_dir=work_dir, resume="auto", deterministic=True, cfg_options=changes
            )
        )
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        code = 1
    finally:
        sys.stdout.flush()
    os._exit(code)


def finish(pid: int) -> int:
    """Wait for a process; return its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_in(pid: int, phase: str, rng: random.Random) -> str | None:
    """Kill a run at a random moment of a phase; return the phase that was hit, None if it ended."""
    skip = rng.randrange(PHASES[phase])
    delay = rng.uniform(0, {"start": 4, "step": 0.3, "validate": 0.5}.get(phase, DELAY))
    seen = None
    while True:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return None
        moment = board.read()
        if moment.phase == phase and moment.changes != seen:
            seen, skip = moment.changes, skip - 1
            if skip < 0:
                break
        time.sleep(0.002)
    time.sleep(delay)
    hit = board.read().phase
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return hit


def read_journal(work_dir: Path) -> list[dict[str, Any]]:
    path = work_dir / JOURNAL
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def newest_whole(work_dir: Path) -> tuple[str | None, int]:
    """Find, without the project's code, the checkpoint that got furthest, and its iteration."""
    found: tuple[int, str | None] = (0, None)
    for path in work_dir.glob("*.pth"):
        try:
            content = torch.load(path, weights_only=False)
        except Exception:
            continue
        if "optimizer" in content:
            found = max(found, (content["meta"]["iter"], path.name))
    return found[1], found[0]


def assert_same(left: Any, right: Any, where: str) -> None:
    """Compare nested values; tensors bit by bit."""
    if isinstance(left, dict):
        assert list(left) == list(right), where
        for key in left:
            assert_same(left[key], right[key], f"{where}.{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), where
        for index, pair in enumerate(zip(left, right, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    else:
        assert left == right, where


def check_end(whole: Path, killed: Path) -> None:
    """Compare the last checkpoints, the best ones, and every iteration of two trainings."""
    names = [sorted(path.name for path in folder.glob("*.pth")) for folder in (whole, killed)]
    assert set(names[0]) <= set(names[1]), names
    for name in names[0]:
        left, right = (torch.load(d / name, weights_only=False) for d in (whole, killed))
        for key in ("state_dict", "optimizer", "param_schedulers", "pvt_mm_position"):
            assert_same(left.get(key), right.get(key), f"{name}.{key}")
        assert_same(
            *([c["meta"][k] for k in ("epoch", "iter", "seed")] for c in (left, right)), name
        )
    expected = {entry["iteration"]: entry for entry in read_journal(whole) if "iteration" in entry}
    for entry in read_journal(killed):
        if "iteration" in entry:
            assert entry == expected[entry["iteration"]], entry["iteration"]


def torture(
    config: str, phases: list[str], folder: Path, rng: random.Random
) -> list[dict[str, Any]]:
    """Train a config with and without kills; return what happened at each kill."""
    whole = folder / f"{config}.whole"
    assert finish(start(config, whole)) == 0, whole.with_suffix(".whole.log").read_text()[-3000:]
    rows: list[dict[str, Any]] = []
    victim = Victim(folder / f"{config}.killed")
    while phases:
        phase = kill_in(start(config, victim.work_dir), phases[0], rng)
        reached = victim.look()
        if phase is None:  # it ended before: the other kills are for another training
            check_end(whole, victim.work_dir)
            victim = Victim(folder / f"{config}.killed{len(rows)}")
            continue
        phases.pop(0)
        name, at = newest_whole(victim.work_dir)
        reached = at if reached is None else reached
        row = {"config": config, "phase": phase, "reached": reached, "newest": name, "at": at}
        rows.append({**row, "lost": reached - at})
        victim.unconfirmed.append(rows[-1])
        print(f"{config}: killed in {phase} after iteration {reached}", flush=True)
        assert 0 <= rows[-1]["lost"] <= INTERVAL, rows[-1]
    code = finish(start(config, victim.work_dir))
    log = victim.work_dir.parent / f"{victim.work_dir.name}.log"
    assert code == 0, log.read_text()[-3000:]
    victim.look()
    assert all("resumed" in row for row in rows)
    check_end(whole, victim.work_dir)
    return rows


class Victim:
    """A training that is killed, and what of its journal was read.

    Attributes:
        unconfirmed: The kills after which no run has come as far as to resume.
    """

    def __init__(self, work_dir: Path) -> None:
        self.work_dir, self.read = work_dir, 0
        self.unconfirmed: list[dict[str, Any]] = []

    def look(self) -> int | None:
        """Check from where the last run started; return its last complete iteration, if any."""
        journal = read_journal(self.work_dir)
        new, self.read = journal[self.read :], len(journal)
        if not new:
            return None
        for row in self.unconfirmed:
            assert (new[0]["resumed"], new[0]["at"]) == (row["newest"], row["at"]), (new[0], row)
            row["resumed"] = new[0]["resumed"]
        self.unconfirmed.clear()
        return new[-1].get("iteration")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=30, help="over both configs")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", default="kill_and_resume.json", help="where the table goes")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    torch.set_num_threads(1)  # the forks could not use this process's threads
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DEMO_ROOT"] = f"{folder}/data"
        make_demo_data(f"{folder}/data", DemoSpec(train=24, val=8, size=128))
        rows, began = [], time.monotonic()
        phases = [NUMBERS[index % len(NUMBERS)] for index in range(options.kills)]
        rng.shuffle(phases)
        for index, config in enumerate(SETTINGS):
            rows += torture(config, phases[index :: len(SETTINGS)], Path(folder), rng)
        seconds = round(time.monotonic() - began)
    print(f"\n{'config':34}{'killed in':12}{'after':>6}  {'resumed from':18}{'lost':>5}")
    for row in rows:
        print(
            f"{row['config']:34}{row['phase']:12}{row['reached']:6}  "
            f"{row['resumed'] or 'the start':18}{row['lost']:5}"
        )
    hit = {phase: sum(row["phase"] == phase for row in rows) for phase in PHASES}
    result = {"kills": len(rows), "phases": hit, "seconds": seconds, "rows": rows}
    Path(options.out).write_text(json.dumps(result, indent=1) + "\n")
    print(f"{len(rows)} kills in {seconds} s: all ends are equal bit by bit; {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
