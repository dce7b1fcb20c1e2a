"""Signals to a real training: it saves once, exits with the documented code, leaves no process."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from tiny_training import tiny_config

from pvt_mm.checkpoints import safe_load
from pvt_mm.errors import Interrupted, run_tool

TESTS = Path(__file__).parent
START = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from pvt_mm.training.train import main
sys.exit(main({argv!r}))
"""
PATIENCE = 120  # seconds


class Training:
    """A training in a process of its own, with loaders' workers."""

    def __init__(self, folder, *flags, ranks=1, **settings):
        self.folder, self.log, self.seen = folder, folder / "log.txt", set()
        settings = {"num_workers": 2, "length": 50, "delay": 0.2, **settings}
        cfg = tiny_config(folder / "work", **settings)
        cfg.dump(folder / "config.py")
        flags = [*flags, "--launcher", "pytorch"] if ranks > 1 else flags
        (folder / "start.py").write_text(START.format(argv=[str(folder / "config.py"), *flags]))
        command = [sys.executable, str(folder / "start.py")]
        if ranks > 1:
            launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
            command[1:1] = launch
        path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def until(self, pattern):
        """Wait for a line of the log."""
        end = time.monotonic() + PATIENCE
        while not re.search(pattern, self.log.read_text()):
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < end, self.log.read_text()[-3000:]
            time.sleep(0.05)

    def others(self):
        """List the living processes that descend from the first, or did when last asked."""
        parents = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it has ended meanwhile
                # After the command's name, which may hold anything, come state and parent.
                state, parent = path.read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    parents[int(path.parent.name)] = int(parent)
        family = {self.process.pid}
        for pid in sorted(parents):
            if parents[pid] in family:
                family.add(pid)
        self.seen |= family - {self.process.pid}
        return self.seen & set(parents)

    def end(self):
        """Wait for the end; return the exit code and the log."""
        code = self.process.wait(PATIENCE)
        return code, self.log.read_text()


@pytest.fixture
def start(tmp_path):
    started = []

    def start(*flags, **settings):
        started.append(Training(tmp_path, *flags, **settings))
        return started[-1]

    yield start
    for training in started:
        for pid in [*training.others(), training.process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        training.process.wait()


@pytest.mark.parametrize(
    ("number", "to_all", "code"),
    [
        pytest.param(signal.SIGTERM, True, 143, id="SIGTERM to all processes"),
        pytest.param(signal.SIGTERM, False, 143, id="SIGTERM", marks=pytest.mark.exhaustive),
        pytest.param(signal.SIGINT, True, 130, id="Ctrl-C", marks=pytest.mark.slow),
    ],
)
def test_stops_at_the_end_of_an_iteration(start, number, to_all, code):
    training = start()
    training.until(r"Epoch\(train\) +\[2\]\[2/4\]")
    assert training.others()  # the workers
    for pid in [*training.others(), training.process.pid] if to_all else [training.process.pid]:
        os.kill(pid, number)
    found, log = training.end()
    assert found == code, log[-3000:]
    assert not training.others()
    assert "Traceback" not in log
    stopped = re.search(rf"{number.name}: stopped after (\d+) iterations, saved (\S+);", log)
    done = len(re.findall(r"Epoch\(train\)", log))
    assert int(stopped[1]) == done
    content = safe_load(stopped[2])
    assert (content["meta"]["epoch"], content["meta"]["iter"]) == (1, done)
    assert (training.folder / "work" / "last_checkpoint").read_text() == stopped[2]


@pytest.mark.slow
def test_stops_in_a_validation_by_iterations(start):
    training = start(by_epoch=False, interval=4)
    training.until(r"Iter\(val\) +\[1/3\]")
    training.process.terminate()
    code, log = training.end()
    assert code == 143, log[-3000:]
    assert "Iter(val) [3/3]" not in log
    # The checkpoint of this iteration was there already.
    assert re.search(r"stopped after 4 iterations, saved \S+/iter_4.pth;", log)
    assert not (training.folder / "work" / "interrupted.pth").exists()
    assert not training.others()


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(start):
    training = start(delay=30.0)
    training.until("Checkpoints will be saved")
    while not training.others():  # then the first iteration has begun, or is about to
        time.sleep(0.05)
    time.sleep(1)
    training.process.terminate()
    time.sleep(1)
    assert training.process.poll() is None
    began = time.monotonic()
    training.process.send_signal(signal.SIGINT)
    assert training.process.wait(PATIENCE) == 130
    assert time.monotonic() - began < 15  # an iteration takes 30 s
    assert not training.others()
    assert not (training.folder / "work" / "interrupted.pth").exists()


@pytest.mark.slow
def test_all_processes_stop_at_the_same_iteration(start):
    training = start(ranks=2, num_workers=0)
    training.until(r"Epoch\(train\) +\[2\]\[1/")
    one_rank = max(training.others())
    os.kill(one_rank, signal.SIGTERM)
    _, log = training.end()
    stopped = re.findall(r"SIGTERM: stopped after (\d+) iterations", log)
    assert len(set(stopped)) == 1, log[-3000:]
    content = safe_load(training.folder / "work" / "interrupted.pth")
    assert content["meta"]["iter"] == int(stopped[0])
    assert not training.others()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_exit_codes(number, code):
    def stop():
        raise Interrupted(number)

    assert run_tool(stop) == code


def test_gradients_that_are_being_accumulated_are_not_lost(tmp_path):
    from test_resume import run

    cfg = tiny_config(tmp_path)
    cfg.optim_wrapper.accumulative_counts = 3
    run(cfg, (4, False))  # the sixth iteration ends the accumulation
    torch.use_deterministic_algorithms(False)
    assert safe_load(tmp_path / "interrupted.pth")["meta"]["iter"] == 6
