"""All ways by which a checkpoint comes in, tried in processes with little memory and time.

Run as a script it serves requests: a path in, a line of JSON out, how each door took it. Each
request is done in a fork, so that a crash is an answer and what it allocates can be told.
"""

import json
import os
import resource
import signal
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

MEMORY = 1 << 30  # bytes


def load(path):
    from mmengine.runner.checkpoint import CheckpointLoader

    repr(CheckpointLoader.load_checkpoint(path, map_location="cpu"))


def pretrained(path):
    from pvt_mm import PVTv2

    PVTv2("b0", init_cfg={"type": "Pretrained", "checkpoint": path}).init_weights()


def convert(path):
    from pvt_mm.conversion.tool import run_convert

    run_convert(path, f"{path}.out.pth", "timm")


def test(path):
    runner().load_checkpoint(path)


def resume(path):
    runner().resume(path)


DOORS = (load, pretrained, convert, test, resume)


@cache
def runner():
    from test_safe_load import make_runner

    from pvt_mm.training.matching import MatchingKeysHook

    runner = make_runner(tempfile.mkdtemp(), 4)
    runner.register_hook(MatchingKeysHook())
    return runner


def knock(path):
    """Report how each door ended: its name, the error's kinds, its message, CPU seconds, MiB."""
    signal.alarm(60)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for door in DOORS:
        start = time.process_time()
        try:
            door(path)
            kinds, message = [], "loaded"
        except BaseException as error:
            kinds, message = [kind.__name__ for kind in type(error).__mro__], str(error)
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        yield door.__name__, kinds, message, time.process_time() - start, used / 1024


def serve():
    import torch

    from pvt_mm.conversion import tool as convert  # noqa: F401

    torch.set_num_threads(1)
    runner()
    answers = os.dup(1)
    os.dup2(2, 1)  # what the doors print
    for path in sys.stdin:
        child = os.fork()
        if not child:
            os.write(answers, json.dumps(list(knock(path.strip()))).encode() + b"\n")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            os.write(answers, json.dumps([["any", [], f"died of {status}", 0, 0]]).encode() + b"\n")


if __name__ == "__main__":
    serve()
