"""The order of the set-up, and what is done already."""

from __future__ import annotations

import argparse
import functools
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from . import checks, mmcv_wheel
from .venv import SetupError, Venv, read_pins, say

ROOT = Path(__file__).resolve().parents[2]

# Of each stack but the first, `requirements-NAME.txt` stands in for these lines.
STACKS = ("openmmlab", "onedl")
OPENMMLAB = ("mmengine", "mmcv", "mmdet", "mmsegmentation")

IMPORTS = """
import cv2, mmcv.ops, mmdet.apis, mmengine.runner, mmseg.apis, pvt_mm
"""


def key_of(*parts: object) -> str:
    """Return a short name for a step's inputs; of a file, its contents count."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else str(part).encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


def conflicts(pip_check: list[str]) -> list[str]:
    """Return the lines of `pip check` that name a real conflict."""
    named = [s for s in pip_check if " requires " in s or " has requirement " in s]
    # openmim stands without opendatalab, and beside any setuptools and rich, on purpose. A fork
    # stands in for what pvt_mm names.
    return [s for s in named if not s.startswith("openmim ") and not _filled_by_a_fork(s)]


def _filled_by_a_fork(line: str) -> bool:
    found = re.fullmatch(r"pvt[-_]mm \S+ requires ([a-z]+), which is not installed\.", line)
    return found is not None and found[1] in OPENMMLAB


def stack_pins(root: Path, stack: str) -> dict[str, str]:
    """Return the requirement lines of a stack, by project name.

    Args:
        root: The project's folder.
        stack: One of `STACKS`.
    """
    pins = read_pins(root / "requirements.txt")
    if stack != STACKS[0]:
        pins = {name: line for name, line in pins.items() if name not in OPENMMLAB}
        pins |= read_pins(root / f"requirements-{stack}.txt")
    return pins


def prove(venv: Venv, imports: str) -> None:
    """Prove that an environment's packages agree with each other and import together."""
    python = str(venv.python)
    run = {"env": venv.environ(), "capture_output": True, "text": True}
    listed = subprocess.run([python, "-m", "pip", "check"], **run).stdout.splitlines()
    found = conflicts(listed)
    if found:
        raise SetupError("the installed packages contradict each other:", *found)
    done = subprocess.run([python, "-W", "ignore", "-c", imports], cwd=venv.root, **run)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1]
        raise SetupError(f"{venv.root} is complete but does not import: {last}")


class Setup:
    """Everything between an empty folder and an environment that trains.

    Args:
        venv: The environment to fill.
        root: The project's folder, with its requirements files.
        dev: Install what the tests and the linter need, too.
        stack: One of `STACKS`: whose mmengine, mmcv, mmdet and mmsegmentation.
    """

    def __init__(
        self, venv: Venv, root: Path = ROOT, dev: bool = False, stack: str = STACKS[0]
    ) -> None:
        self.venv = venv
        self.root = root
        self.pins = stack_pins(root, stack)
        forks = () if stack == STACKS[0] else (stack, root / f"requirements-{stack}.txt")
        # The forks write to the same folders: another stack begins with an empty environment.
        base = key_of(
            str(venv.root), os.path.realpath(sys.executable), sys.version_info[:2], *forks
        )
        packages = key_of(base, root / "requirements.txt")
        nodeps = root / "requirements-nodeps.txt"
        project = key_of(packages, str(root), root / "pyproject.toml", nodeps)
        self.steps = [
            ("venv", base, self.create),
            ("packages", packages, self.packages),
            ("mmcv", key_of(packages, "mmcv, optimised"), self.mmcv),
            ("project", project, self.project),
        ]
        if dev:
            dev_key = key_of(project, root / "requirements-dev.txt")
            self.steps.append(("dev", dev_key, self.dev))

    @property
    def mmcv_name(self) -> str:
        """The project that brings mmcv."""
        return next(name for name in self.pins if name.endswith("mmcv"))

    @functools.cached_property
    def gpu(self) -> bool:
        """Whether mmcv should get its CUDA operators."""
        return checks.has_gpu() or os.environ.get("FORCE_CUDA") == "1"

    def pending(self) -> list[tuple]:
        """Return the steps that are still to do: the first one not done, and all after it."""
        done = self.venv.done() if self.venv.python.exists() else {}
        for index, (name, key, _) in enumerate(self.steps):
            if done.get(name) != key or (name == "mmcv" and self.mmcv_is_stale(done)):
                return self.steps[index:]
        return []

    def mmcv_is_stale(self, done: dict[str, str]) -> bool:
        """Tell whether torch has changed, or a GPU has turned up, since mmcv was proved."""
        if done.get("torch") != self.venv.version("torch"):
            return True
        return done.get("gpu") != "seen" and self.gpu

    def run(self) -> None:
        """Do what is still to do."""
        pending = self.pending()
        if not pending:
            return
        self.check([name for name, _, _ in pending])
        with self.venv.lock():
            pending = self.pending()
            if not pending:
                return
            started = time.monotonic()
            for name, key, step in pending:
                step()
                self.venv.record(name, key)
            minutes, seconds = divmod(int(time.monotonic() - started), 60)
            say(f"{self.venv.root} is ready ({minutes}m{seconds:02d}s)")

    def check(self, names: list[str]) -> None:
        """Stop before anything long starts if this machine lacks something."""
        if "packages" in names:
            problems = checks.machine_problems(self.venv.root, self.gpu)
            if problems:
                raise SetupError(*problems, *checks.build_problems(self.gpu))
            warning = checks.disk_warning(self.venv.root)
            if warning:
                say(f"warning: {warning}")

    def check_build(self) -> None:
        """Stop if mmcv has to be built and this machine lacks what that needs."""
        problems = checks.build_problems(self.gpu)
        # Whether there is a wheel takes pip to find out, so ask only if it matters.
        if problems and not mmcv_wheel.any_wheel(self.venv, self.pins[self.mmcv_name]):
            raise SetupError(*problems)

    def create(self) -> None:
        """Step 1: the empty environment."""
        say(f"creating {self.venv.root} with Python {sys.version.split()[0]}")
        self.venv.create()

    def packages(self) -> None:
        """Step 2: every pinned package but mmcv."""
        self.check_build()
        say("installing torch, the OpenMMLab packages and what they need")
        lines = [line for name, line in self.pins.items() if name != self.mmcv_name]
        self.venv.build.mkdir(exist_ok=True)
        listing = self.venv.build / "requirements.txt"
        listing.write_text("\n".join(lines) + "\n", encoding="utf-8")
        # On a terminal pip shows how the large downloads get on; a log needs no such thing.
        quiet = () if sys.stdout.isatty() else ("--quiet",)
        self.venv.pip("install", *quiet, "--requirement", str(listing))

    def mmcv(self) -> None:
        """Step 3: mmcv, which may mean to build it."""
        torch = mmcv_wheel.probe_torch(self.venv)
        if self.gpu and torch.cuda and not torch.with_cuda_ops:
            say(
                f"warning: this machine has a GPU that torch {torch.version} cannot use (its "
                f"driver must support CUDA {torch.cuda}); mmcv is set up without CUDA ops"
            )
        mmcv_wheel.install(self.venv, self.pins[self.mmcv_name], torch)
        # By its metadata, as it is looked up later: the CUDA build's __version__ says more.
        self.venv.record("torch", self.venv.version("torch"))
        self.venv.record("gpu", "seen" if self.gpu else "none")

    def project(self) -> None:
        """Step 4: openmim without its pins, the project itself, and the proof that all imports."""
        say("installing pvt_mm itself, in editable mode")
        nodeps = ("--no-deps", "--requirement", str(self.root / "requirements-nodeps.txt"))
        self.venv.pip("install", "--quiet", *nodeps)
        editable = ("--no-build-isolation", "--no-deps", "--editable", str(self.root))
        self.venv.pip("install", "--quiet", *editable)
        self.verify()
        shutil.rmtree(self.venv.build, ignore_errors=True)

    def dev(self) -> None:
        """Step 5: pytest, ruff and so on."""
        say("installing what the tests and the linter need")
        requirements = str(self.root / "requirements-dev.txt")
        self.venv.pip("install", "--quiet", "--requirement", requirements)

    def verify(self) -> None:
        """Prove that the packages agree with each other and import together."""
        say("checking that everything imports together")
        prove(self.venv, IMPORTS)


def keep_interpreter(venv: Venv, arguments: list[str]) -> None:
    """Go on in the environment's own Python if there is one and it is another one."""
    if not (venv.ours and venv.python.exists()):
        return
    if os.path.realpath(venv.python) != os.path.realpath(sys.executable):
        script = str(ROOT / "tools" / "setup_env.py")
        os.execv(venv.python, [str(venv.python), script, *arguments])


def main(argv: list[str] | None = None) -> int:
    """Run the set-up from the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Create the environment and fill it.")
    parser.add_argument("--venv", type=Path, default=Path(".venv"), help="the environment's folder")
    parser.add_argument("--dev", action="store_true", help="also what tests and linter need")
    parser.add_argument(
        "--peers", action="store_true", help="also the peers' environment, beside this one"
    )
    parser.add_argument(
        "--this-python",
        action="store_true",
        help="use the Python that runs this; otherwise an environment that exists keeps its own",
    )
    parser.add_argument(
        "--stack",
        choices=STACKS,
        default=STACKS[0],
        help="whose mmengine, mmcv, mmdet and mmsegmentation (default: %(default)s)",
    )
    parser.add_argument("--remove", action="store_true", help="delete the environment instead")
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    from .peers import PeersSetup, peers_of

    venv = Venv(args.venv)
    if not (args.this_python or args.remove):
        keep_interpreter(venv, sys.argv[1:] if argv is None else argv)
    try:
        if args.remove:
            peers_of(venv).remove()
            venv.remove()
        else:
            Setup(venv, dev=args.dev, stack=args.stack).run()
            if args.peers:
                PeersSetup(venv).run()
    except SetupError as error:
        for line in error.args:
            print(f"error: {line}" if not line.startswith("  ") else line, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\n[setup] interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0
