"""Processes that start as copies of one that has imported the stack, which takes seconds."""

import importlib
import multiprocessing
import os
import socket
import sys
from multiprocessing import forkserver

TIMEOUT = 300  # seconds


def fork_context():
    """Start the process that has imported the stack; it takes this one's path from a variable."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["forked_stack"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return context


def wait_for(processes):
    """Return the exit codes of processes, which are killed if they take too long."""
    for process in processes:
        process.join(TIMEOUT)
        if process.exitcode is None:
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def rank_variables(world_size):
    """Return what ``torchrun`` adds to the environment of each process."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    common |= {"WORLD_SIZE": str(world_size)}
    return [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world_size)]


def _main(tool, argv, folder, environment, output):
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    with open(output, "wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.exit(importlib.import_module(f"pvt_mm.{tool}").main(argv))


def run_forked(tool, argv, folder, environment, world_size=1):
    """Run the main function of a tool's module as its script does, but for the imports.

    Args:
        tool: The module in ``pvt_mm``, such as ``"training.train"``.
        argv: The command line without the program's name.
        folder: The current folder.
        environment: All variables of the process.
        world_size: How many processes to run, with the variables that ``torchrun`` sets.

    Returns:
        The first exit code that is not 0, and what was printed, all streams together.
    """
    context = fork_context()
    argv = [str(part) for part in argv]
    outputs = [folder / f"printed_{rank}.txt" for rank in range(world_size)]
    ranks = rank_variables(world_size) if world_size > 1 else [{}]
    processes = [
        context.Process(target=_main, args=(tool, argv, folder, environment | ours, output))
        for ours, output in zip(ranks, outputs, strict=True)
    ]
    for process in processes:
        process.start()
    code = next(filter(None, wait_for(processes)), 0)
    return code, "".join(output.read_text() for output in outputs)
