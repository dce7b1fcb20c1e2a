"""mmcv, the one package without a published wheel: find one that works, or build it.

A wheel of mmcv fits exactly the torch that it was built against; pip cannot see that. So whatever
wheel is installed is proved by running two of its compiled operators, and thrown away if it fails.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

from . import checks, cuda_toolkit, mmcv_source
from .venv import SetupError, Venv, say

GIB_PER_JOB = 2
CORE_MINUTES = 40  # measured; only to tell the user how long to wait
SECONDS_BETWEEN_LINES = 15

# "optimised": the first wheels that were kept had been compiled without -O2, and match no more.
MACHINE_TAG = f"optimised-cp{sys.version_info[0]}{sys.version_info[1]}-{platform.machine()}"

PROBE = """
import json, torch
gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
print(json.dumps(dict(
    torch=torch.__version__, cuda=torch.version.cuda,
    cards=sorted({"%d.%d" % torch.cuda.get_device_capability(i) for i in gpus}))))
"""

PROOF = """
import torch
from mmcv.ops import nms, roi_align
for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
    boxes = torch.tensor([[0., 0, 9, 9], [0, 0, 9, 8], [20, 20, 29, 29]], device=device)
    keep = nms(boxes, torch.tensor([.9, .8, .7], device=device), 0.5)[1]
    assert keep.tolist() == [0, 2], f"nms kept {keep.tolist()} on {device}"
    roi = torch.tensor([[0., 1, 1, 5, 5]], device=device)
    pooled = roi_align(torch.ones(1, 1, 8, 8, device=device), roi, (2, 2))
    assert bool((pooled == 1).all()), f"roi_align returned {pooled.tolist()} on {device}"
"""


@dataclass(frozen=True)
class Torch:
    """The installed torch, as far as an mmcv built against it depends on it."""

    version: str
    cuda: str | None
    cards: tuple[str, ...]

    @property
    def with_cuda_ops(self) -> bool:
        """Whether mmcv gets its CUDA operators."""
        return self.cuda is not None and (bool(self.cards) or os.environ.get("FORCE_CUDA") == "1")

    @property
    def tag(self) -> str:
        """Name everything that a wheel must match: torch, ops, interpreter, machine."""
        archs = re.sub(r"[^\w.+]+", "-", cuda_toolkit.arch_list(self.cards))
        ops = f"cu{self.cuda}-{archs}" if self.with_cuda_ops else "cpuops"
        return f"torch{self.version}-{ops}-{MACHINE_TAG}"


def probe_torch(venv: Venv) -> Torch:
    """Ask the environment's torch what it is."""
    command = [str(venv.python), "-c", PROBE]
    done = subprocess.run(command, env=venv.environ(), capture_output=True, text=True)
    if done.returncode:
        raise SetupError(f"torch does not import in {venv.root}: {_last_line(done.stderr)}")
    found = json.loads(done.stdout.splitlines()[-1])
    return Torch(found["torch"], found["cuda"], tuple(found["cards"]))


def prove(venv: Venv) -> str | None:
    """Run compiled operators of the installed mmcv; return the error's line, or None."""
    command = [str(venv.python), "-c", PROOF]
    done = subprocess.run(command, env=venv.environ(), capture_output=True, text=True)
    if done.returncode == 0:
        return None
    return _last_line(done.stderr) or f"status {done.returncode}"


def cache_root() -> Path:
    """Return where the wheels that were built here are kept, one folder for each `Torch.tag`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "pvt_mm" / "wheels"


def wheels_of(pin: str) -> str:
    """Return the pattern of the names that wheels of a pinned project have."""
    return pin.partition("==")[0].replace("-", "_") + "-*.whl"


def any_wheel(venv: Venv, pin: str) -> bool:
    """Tell whether there is a wheel to try before mmcv must be built."""
    kept = any(cache_root().glob(f"*-{MACHINE_TAG}/{wheels_of(pin)}"))
    return kept or find_wheel(venv, pin) is not None


def install(venv: Venv, pin: str, torch: Torch) -> None:
    """Bring in an mmcv that is proved to work with the installed torch.

    In this order: what is installed, the wheel of an earlier build, a wheel that pip finds, a
    build from source.
    """
    name, _, wanted = pin.partition("==")
    known = venv.done().get("mmcv for") == torch.tag
    if not (known and venv.version(name) == wanted and prove(venv) is None):
        _bring_in(venv, pin, torch)
        venv.record("mmcv for", torch.tag)


def _bring_in(venv: Venv, pin: str, torch: Torch) -> None:
    cache = cache_root() / torch.tag
    for wheel in sorted(cache.glob(wheels_of(pin))):
        if _try_wheel(venv, wheel):
            return
        wheel.unlink()
    found = find_wheel(venv, pin)
    if found and _try_wheel(venv, found):
        return
    built = build(venv, pin, torch)
    if not _try_wheel(venv, built):
        shutil.rmtree(venv.build, ignore_errors=True)
        raise SetupError(
            f"mmcv was built but does not work with torch {torch.version}: {prove(venv)}"
        )
    cache.mkdir(parents=True, exist_ok=True)
    part = cache / f"{built.name}.part"
    shutil.copyfile(built, part)
    os.replace(part, cache / built.name)
    say(f"kept {cache / built.name} for the next set-up")
    shutil.rmtree(venv.build, ignore_errors=True)


def find_wheel(venv: Venv, pin: str) -> Path | None:
    """Return a ready-made wheel from wherever pip looks, or None."""
    name = pin.partition("==")[0]
    folder = venv.build / "found"
    shutil.rmtree(folder, ignore_errors=True)
    command = [str(venv.python), "-m", "pip", "download", "--quiet", f"--only-binary={name}"]
    command += ["--no-deps", "--dest", str(folder), pin]
    with venv.process(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        process.wait()
    return next(folder.glob(wheels_of(pin)), None)


def build(venv: Venv, pin: str, torch: Torch) -> Path:
    """Build mmcv from source in the environment's build folder, and return the wheel.

    The source tree stays until the wheel is proved: an interrupted build leaves its object files
    there, and ninja goes on from them.
    """
    problems = checks.build_problems(torch.with_cuda_ops, torch.cuda)
    if problems:
        raise SetupError(*problems)
    home = venv.build / torch.tag
    source = home / "src"
    resumed = source.is_dir()
    if not resumed:
        mmcv_source.fetch(venv, pin, source)
    jobs = build_jobs()
    log = home / "build.log"
    minutes = max(3, round(CORE_MINUTES / jobs))
    say(
        f"building {pin} from source, the long step: "
        + ("going on where it stopped, " if resumed else "")
        + f"about {minutes} minutes "
        + ("in all " if resumed else "")
        + f"with {jobs} parallel job{'s' * (jobs > 1)} (MAX_JOBS)"
        + (", several times that for the CUDA ops" if torch.with_cuda_ops else "")
    )
    say(f"it may be interrupted: the same command goes on from there; log: {log}")
    env = venv.environ(
        MAX_JOBS=str(jobs),
        MMCV_WITH_OPS="1",
        CFLAGS=compile_flags("CFLAGS"),
        CXXFLAGS=compile_flags("CXXFLAGS"),
        LDFLAGS=f"{os.environ.get('LDFLAGS', '')} -Wl,--strip-debug".strip(),
    )
    if torch.with_cuda_ops:
        env.update(cuda_toolkit.build_variables(venv, torch.cuda, torch.cards))
    else:
        env.update(FORCE_CUDA="0", CUDA_VISIBLE_DEVICES="-1")
    out = home / "wheels"
    shutil.rmtree(out, ignore_errors=True)
    command = [str(venv.python), "-m", "pip", "wheel", "-v", "--no-build-isolation", "--no-deps"]
    command += ["--use-pep517", "--wheel-dir", str(out), str(source)]
    started = time.monotonic()
    code = _run_with_progress(venv, command, env, log)
    wheel = next(out.glob(wheels_of(pin)), None)
    if code or wheel is None:
        raise SetupError(*build_failure(log))
    say(f"built {wheel.name} in {_clock(time.monotonic() - started)}")
    return wheel


def compile_flags(variable: str) -> str:
    """Return the compilers' flags: this Python's own, the calling shell's, and no debug symbols.

    setuptools takes CFLAGS in place of the interpreter's flags, with their -O3 and -DNDEBUG: these
    come first, and what the shell says goes on top. Debug symbols would make the build slower and
    the wheel ten times larger.

    Args:
        variable: ``CFLAGS`` or ``CXXFLAGS``, the variable that the calling shell may have set.
    """
    own = (sysconfig.get_config_var("CFLAGS") or "").split()
    if not {"-O2", "-O3"} & set(own):
        own.append("-O2")
    if "-DNDEBUG" not in own:
        own.append("-DNDEBUG")
    return " ".join([*own, *os.environ.get(variable, "").split(), "-g0"])


def build_jobs() -> int:
    """Return how many compilers fit this machine's cores and memory."""
    if os.environ.get("MAX_JOBS", "").isdigit():
        return max(1, int(os.environ["MAX_JOBS"]))
    memory = []
    for path, pattern, unit in (
        ("/proc/meminfo", r"MemAvailable:\s+(\d+)", 1024),
        ("/sys/fs/cgroup/memory.max", r"^(\d+)", 1),
    ):
        try:
            match = re.search(pattern, Path(path).read_text())
        except OSError:
            continue
        if match:
            memory.append(int(match[1]) * unit)
    by_memory = int(min(memory) / checks.GIB / GIB_PER_JOB) if memory else 1
    return max(1, min(len(os.sched_getaffinity(0)), by_memory))


def build_failure(log: Path) -> list[str]:
    """Return lines that say why a build failed, from its log."""
    lines = [s.strip() for s in log.read_text(errors="replace").splitlines() if s.strip()]
    errors = [s for s in lines if re.search(r"\berror:|Killed|No space left", s)][-5:] or lines[-5:]
    message = [f"mmcv's build failed; the whole log is in {log}, its last errors are:"]
    message += [f"  {s[:300]}" for s in errors]
    if any("Killed" in s for s in errors):
        message.append("the compiler was killed, most likely for memory: try MAX_JOBS=1")
    return message


def _try_wheel(venv: Venv, wheel: Path) -> bool:
    """Install a wheel; tell whether it works."""
    say(f"installing {wheel.name} and running two of its operators")
    venv.pip("install", "--quiet", "--no-deps", "--force-reinstall", str(wheel))
    problem = prove(venv)
    if problem:
        say(f"{wheel.name} does not work with the installed torch and is thrown away: {problem}")
    return problem is None


def _run_with_progress(venv: Venv, command: list[str], env: dict[str, str], log: Path) -> int:
    """Run a build, its output into the log and ninja's counter to the user."""
    started = shown = time.monotonic()
    tty = sys.stdout.isatty()
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with (
        log.open("a", encoding="utf-8") as file,
        venv.process(command, env=env, errors="replace", **pipe) as process,
    ):
        for line in process.stdout:
            file.write(line)
            count = re.match(r"\s*\[(\d+)/(\d+)\]", line)
            now = time.monotonic()
            if count and (tty or now - shown >= SECONDS_BETWEEN_LINES or count[1] == count[2]):
                file.flush()
                shown = now
                text = f"[{count[1]}/{count[2]}] {_clock(now - started)}"
                print(f"\r[setup] mmcv {text} " if tty else f"[setup] mmcv {text}", end="")
                print("" if tty and count[1] != count[2] else "\n", end="", flush=True)
        return process.wait()


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}m{int(seconds) % 60:02d}s"


def _last_line(text: str) -> str:
    lines = [s.strip() for s in text.splitlines() if s.strip()]
    return lines[-1] if lines else ""
