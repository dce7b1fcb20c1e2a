"""Is the installed stack one that pvt_mm works with? Asked once, when the package is imported."""

from __future__ import annotations

import os
import pkgutil
import warnings
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

__all__ = ["REQUIREMENTS", "Requirement", "check_stack", "restore_find_loader", "version_of"]


@dataclass(frozen=True)
class Requirement:
    """A package that pvt_mm works with.

    Args:
        module: Import name.
        distribution: Name under which it is installed; the same as in ``pyproject.toml``.
        specifier: Range of versions that work; the same as in ``pyproject.toml``.
        serves: What needs it.
        forks: Other distributions with the same import name, accepted in any version, since
            their numbers are their own.
        pip_options: What ``pip install`` needs besides the name.
    """

    module: str
    distribution: str
    specifier: str
    serves: str
    forks: tuple[str, ...] = ()
    pip_options: str = ""

    @property
    def pip_command(self) -> str:
        """The command that installs a version in range."""
        return f'python -m pip install {self.pip_options}"{self.distribution}{self.specifier}"'


REQUIREMENTS: tuple[Requirement, ...] = (
    Requirement("torch", "torch", ">=2.1", "everything"),
    Requirement(
        "mmengine",
        "mmengine",
        ">=0.10.4,<1",
        "everything",
        ("mmengine-lite", "onedl-mmengine"),
    ),
    Requirement(
        "mmcv",
        "mmcv",
        ">=2.1,<2.2",
        "detection and segmentation",
        ("onedl-mmcv",),
        # mmcv's setup.py imports torch, which an isolated build does not see.
        "--no-build-isolation ",
    ),
    Requirement("mmdet", "mmdet", ">=3.2,<3.4", "detection", ("onedl-mmdetection",)),
    Requirement(
        "mmseg", "mmsegmentation", ">=1.2.1,<1.3", "segmentation", ("onedl-mmsegmentation",)
    ),
)
FORK = "onedl-"  # before the name of each of OneDL's distributions
_INDISPENSABLE = ("torch", "mmengine")
_TOOLBOXES = ("mmdet", "mmseg")  # which need mmcv


def check_stack() -> None:
    """Warn, in one message, of what is out of range, mixed, or missing where something needs it.

    A toolbox that is not installed was not asked for: configs that need it say so. Nothing is
    imported: the versions are read from the installed packages' metadata. Only the first process
    of a distributed job speaks.

    Raises:
        ImportError: If torch or mmengine is missing, without which nothing works.
    """
    problems = {r.module: problem for r in REQUIREMENTS if (problem := find_problem(r))}
    absent = {name for name, problem in problems.items() if problem.endswith("not installed")}
    missing = [name for name in _INDISPENSABLE if name in absent]
    unused = absent & {*_TOOLBOXES, *(("mmcv",) if absent.issuperset(_TOOLBOXES) else ())}
    problems = {name: problem for name, problem in problems.items() if name not in unused}
    if missing:
        raise ImportError(_message(problems, f"pvt_mm needs {' and '.join(missing)}"))
    mixture = find_mixture()
    if (problems or mixture) and os.environ.get("RANK", "0") == "0":
        # The caller's line would be one in importlib: level 2 at least names pvt_mm.
        message = _message(problems, "pvt_mm: not all of its stack fits", mixture)
        warnings.warn(message, stacklevel=2)


def restore_find_loader() -> None:
    """Define ``pkgutil.find_loader``, which Python 3.14 lacks, as it was before.

    mmengine 0.10's Runner and mmcv 2.1's operators call it to ask whether ``mmcv._ext`` exists.
    """

    def find_loader(fullname: str) -> object:
        spec = find_spec(fullname)
        return spec and spec.loader

    if not hasattr(pkgutil, "find_loader"):
        pkgutil.find_loader = find_loader


def find_problem(requirement: Requirement) -> str:
    """Say what is wrong with one package, or nothing (``''``)."""
    if find_spec(requirement.module) is None:
        return f"{requirement.module} is not installed"
    found = version_of(requirement.distribution)
    if found is None:
        return ""  # a fork or a source tree on the path: its version says nothing to us

    from packaging.specifiers import SpecifierSet  # comes with mmengine

    if SpecifierSet(requirement.specifier).contains(found, prereleases=True):
        return ""
    return f"{requirement.module} {found} is out of range, {requirement.specifier} works"


def find_mixture() -> str:
    """Say that packages of OpenMMLab and OneDL's forks of them lie side by side, or nothing."""
    found = {
        name: installed
        for requirement in REQUIREMENTS
        for name in (requirement.distribution, *requirement.forks)
        if requirement.forks and (installed := version_of(name)) is not None
    }
    forks = [f"{name} {found[name]}" for name in found if name.startswith(FORK)]
    originals = [f"{name} {found[name]}" for name in found if not name.startswith(FORK)]
    if not forks or not originals:
        return ""
    return (
        f"OpenMMLab's {', '.join(originals)} and OneDL's {', '.join(forks)} are mixed, which write "
        "to the same folders; take all from one, in an environment of its own: `make setup`, or "
        "`make setup STACK=onedl`"
    )


def version_of(distribution: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _message(problems: dict[str, str], title: str, mixture: str = "") -> str:
    lines = [f"{title}:", *([f"  {mixture}"] if mixture else [])]
    for requirement in REQUIREMENTS:
        if requirement.module in problems:
            lines.append(
                f"  {problems[requirement.module]} (for {requirement.serves}); "
                f"install it with: {requirement.pip_command}"
            )
    return "\n".join(lines)
