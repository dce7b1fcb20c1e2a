"""The pinned versions against the declared ranges, and versions that stand in several files."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from setup_helpers import ROOT

import setup_env
from envsetup.venv import Venv, read_pins


def pinned(python: str) -> dict[str, Version]:
    """Return what requirements*.txt install on one Python version."""
    found = {}
    for name in ("requirements.txt", "requirements-dev.txt", "requirements-nodeps.txt"):
        for lines in read_pins(ROOT / name).values():
            for line in lines.splitlines():
                entry = Requirement(line)
                if entry.marker is None or entry.marker.evaluate({"python_version": python}):
                    (spec,) = entry.specifier
                    assert spec.operator == "==", line
                    assert entry.name.lower() not in found, f"{entry.name} is pinned twice"
                    found[entry.name.lower()] = Version(spec.version)
    return found


def ranges() -> list[Requirement]:
    """Return every requirement that pyproject.toml declares, extras included."""
    text = (ROOT / "pyproject.toml").read_text()
    entries = re.findall(r"^(?:    |det = |seg = |dev = )(.*)$", text, re.MULTILINE)
    quoted = [s for line in entries for s in re.findall(r'"([a-z]+(?:[<>=][^"]*)?)"', line)]
    return [Requirement(s) for s in quoted]


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_pins_lie_in_the_declared_ranges(python):
    pins = pinned(python)
    declared = [r for r in ranges() if r.name in pins]
    names = {r.name for r in declared}
    assert {"torch", "mmengine", "mmcv", "mmdet", "mmsegmentation", "numpy", "pytest"} <= names
    for entry in declared:
        assert entry.specifier.contains(pins[entry.name], prereleases=True), (entry, pins)


def test_the_supported_pythons_are_the_same_everywhere():
    text = (ROOT / "pyproject.toml").read_text()
    low, high = setup_env.OLDEST, setup_env.NEWEST
    accepted = re.search(r'^requires-python = "(.*)"$', text, re.MULTILINE)[1]
    assert accepted == f">={low[0]}.{low[1]},<{high[0]}.{high[1] + 1}"
    listed = re.findall(r"Python :: (3\.\d+)", text)
    assert listed == [f"3.{minor}" for minor in range(low[1], high[1] + 1)]
    words = f"Python {low[0]}.{low[1]} to {high[0]}.{high[1]},"
    for name in ("README.md", "docs/install.md"):
        assert words in (ROOT / name).read_text(), name


def test_the_known_set_is_pinned():
    pins = pinned("3.11")
    known = {
        "torch": "2.13.0",
        "mmengine": "0.10.7",
        "mmcv": "2.1.0",
        "mmdet": "3.3.0",
        "mmsegmentation": "1.2.2",
    }
    assert {name: str(pins[name]) for name in known} == known
    assert pins["setuptools"] < Version("81")
    assert {"ftfy", "regex"} <= pins.keys()
    assert not {"timm", "torchvision"} & pins.keys()


@pytest.mark.openmmlab
@pytest.mark.parametrize("package", ["mmdet", "mmseg"])
def test_pins_lie_in_what_the_mm_packages_accept(package):
    module = importlib.import_module(package)
    pins = pinned("3.11")
    limits = {
        "mmcv": ("mmcv_minimum_version", "mmcv_maximum_version", "MMCV_MIN", "MMCV_MAX"),
        "mmengine": (
            "mmengine_minimum_version",
            "mmengine_maximum_version",
            "MMENGINE_MIN",
            "MMENGINE_MAX",
        ),
    }
    for name, attributes in limits.items():
        low, high = (Version(getattr(module, a)) for a in attributes if hasattr(module, a))
        assert low <= pins[name] < high


@pytest.mark.openmmlab
@pytest.mark.skipif(
    not Venv(Path(sys.prefix)).ours, reason="this environment was brought, not made by the set-up"
)
def test_this_environment_has_the_pinned_versions():
    pins = pinned(f"{sys.version_info[0]}.{sys.version_info[1]}")
    for name in ("torch", "mmengine", "mmcv", "mmdet", "mmsegmentation", "numpy", "setuptools"):
        assert Version(Version(importlib.metadata.version(name)).public) == pins[name]


def test_ranges_agree_with_what_the_package_checks():
    stack = importlib.import_module("pvt_mm.stack")
    declared = {r.name: r.specifier for r in ranges()}
    for entry in stack.REQUIREMENTS:
        assert str(declared[entry.distribution]) == str(
            Requirement(f"{entry.distribution}{entry.specifier}").specifier
        )


def test_pre_commit_runs_the_ruff_that_ci_runs():
    text = (ROOT / ".pre-commit-config.yaml").read_text()
    assert set(re.findall(r"ruff==([\d.]+)", text)) == {str(pinned("3.11")["ruff"])}


def test_citation_and_changelog_name_this_version():
    version = importlib.import_module("pvt_mm.version").__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_versions_script_names_tests_that_exist(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "robustness"))
    versions = importlib.import_module("versions")
    tests = ROOT / "tests"
    for name in versions.TESTS + versions.WITH_MMDET:
        assert (tests / f"test_{name}.py").is_file(), name
    for test in (test for deselected in versions.SINCE.values() for test in deselected):
        file, _, function = test.partition("::")
        assert f"def {function}" in (tests / file).read_text(), test
