"""Runs a check on random examples for a time, and tells every distinct failure once."""

import multiprocessing
import resource
import signal
import sys
import time
import traceback
import warnings
from argparse import ArgumentParser
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

SECONDS = 20  # of one example, which takes milliseconds
ROUND = 200  # examples of one process, unless it says otherwise
MEMORY = 3 << 30  # bytes, beside what the process has at its start


class Hang(BaseException):
    """An example took too long; no code under test catches this."""


def run_round(strategy, check, start, known, examples=ROUND, **options):
    """Return the number of examples, and the first failure that is not known, with its place."""
    number, found = 0, {}

    def stop(*_):
        raise Hang(f"more than {SECONDS} s")

    @seed(start)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        **options,
    )
    @given(strategy)
    def attempt(example):
        nonlocal number
        number += 1
        signal.signal(signal.SIGALRM, stop)
        signal.alarm(SECONDS)
        try:
            check(example)
        except (Exception, Hang) as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{type(error).__name__} at {frame.filename}:{frame.lineno}"
            if place not in known:
                found[place] = f"{place}: {error}\n  {example!r:.3000}"  # the last is the smallest
                raise AssertionError(place) from error
        finally:
            signal.alarm(0)

    try:
        attempt()
    except BaseException as error:
        if not found:
            raise error
    return number, found


def _in_child(pipe, *arguments):
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    warnings.simplefilter("ignore")
    pipe.send(run_round(*arguments))


def main(strategy, check, examples=ROUND):
    """Run a script's command line; the exit code is 1 if anything failed."""
    parser = ArgumentParser()
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    context = multiprocessing.get_context("fork")
    number, failures, start = 0, {}, options.seed
    while time.monotonic() < end:
        receiving, sending = context.Pipe(duplex=False)
        arguments = (sending, strategy, check, start, set(failures), examples)
        child = context.Process(target=_in_child, args=arguments)
        child.start()
        sending.close()
        try:
            tried, found = receiving.recv()
        except EOFError:  # a crash of the interpreter
            tried, found = 0, {f"crash in the round --seed {start}": f"crash, --seed {start}"}
        child.join()
        number += tried
        for place, text in found.items():
            print(f"FAILURE (--seed {start}) {text}\n", flush=True)
            failures[place] = text
        start += 1
    print(f"{number} examples, {len(failures)} distinct failures (--seed {options.seed})")
    sys.exit(1 if failures else 0)
