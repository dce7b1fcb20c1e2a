"""Short rounds of the scripts in tests/fuzz, with the same examples every time."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).with_name("fuzz")))

import _runner
import checkpoints
import config_options
from hypothesis import strategies as st


@pytest.mark.parametrize("start", [1, 2])
def test_checkpoints(start):
    assert _runner.run_round(checkpoints.CHECKPOINTS, checkpoints.check, start, (), 40)[1] == {}


def test_config_options(monkeypatch):
    monkeypatch.setenv("DEMO_ROOT", "")  # put back afterwards
    config_options.folder.cache_clear()
    check = config_options.check
    assert _runner.run_round(config_options.EXAMPLES, check, 1, (), 40)[1] == {}


def test_failures_are_found_once_and_with_their_smallest_example():
    def check(number):
        if number > 100:
            raise KeyError(number)

    number, found = _runner.run_round(st.integers(), check, 1, ())
    ((place, text),) = found.items()
    assert place.startswith("KeyError at ") and text.endswith("\n  101")
    assert number > 1
    assert _runner.run_round(st.integers(), check, 1, {place}) == (_runner.ROUND, {})
