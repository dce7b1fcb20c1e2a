"""What to install on this very system, and which other interpreter is there already.

Refusals of an unsupported Python need it too: this module must parse and run on any Python 3.
"""

import glob
import os
import re
import shutil
import subprocess
import sys

# How each kind of system installs, and what each need is called there; `{v}` is a Python version
# such as 3.12. Of several names the first is taken that the system knows.
SYSTEMS = {
    "Debian/Ubuntu": {
        "install": "sudo apt-get install ",
        "compiler": ["g++"],
        "headers": ["python{v}-dev"],
        "venv": ["python{v}-venv"],
        "opencv": ["libgl1 libglib2.0-0", "libgl1 libglib2.0-0t64"],
        "python": ["python{v} python{v}-venv python{v}-dev"],
    },
    "Fedora": {
        "install": "sudo dnf install ",
        "compiler": ["gcc-c++"],
        "headers": ["python{v}-devel"],
        "venv": ["python{v}"],
        "opencv": ["mesa-libGL glib2"],
        "python": ["python{v}-devel"],
    },
    "conda": {
        "install": "conda install -c conda-forge ",
        "compiler": ["cxx-compiler"],
        "headers": ["python={v}"],
        "venv": ["python={v}"],
        "opencv": ["libgl glib"],
        "python": ["python={v}"],
    },
}
# The best tested first.
VERSIONS = ("3.11", "3.13", "3.12", "3.10", "3.14")
OS_RELEASE = "/etc/os-release"

# Printed by an interpreter that can create an environment and compile for it.
SUITABLE = """
import ensurepip, os, ssl, sys, sysconfig, venv
header = os.path.join(sysconfig.get_paths()["include"], "Python.h")
print("%d.%d" % sys.version_info[:2] if os.path.isfile(header) else "no headers")
"""


def system():
    """Return which of `SYSTEMS` this is; None if it is another one."""
    if os.path.isdir(os.path.join(sys.prefix, "conda-meta")):
        return "conda"
    try:
        with open(OS_RELEASE) as file:
            lines = re.findall(r"^ID(?:_LIKE)?=(.*)$", file.read(), re.MULTILINE)
    except (OSError, ValueError):
        return None
    names = set(re.findall(r"[\w.-]+", " ".join(lines)))
    if names & {"debian", "ubuntu"}:
        return "Debian/Ubuntu"
    return "Fedora" if names & {"fedora", "rhel", "centos"} else None


def missing(packages):
    """Return those of some packages that apt does not know; none of them if it can't be asked."""
    # Without the lists of `apt-get update`, apt knows what is installed and nothing else.
    if "://" not in _output(["apt-cache", "policy"]):
        return []
    unknown = []
    for package in packages:
        found = re.search(r"Candidate: (\S+)", _output(["apt-cache", "policy", package]))
        if found is None or found.group(1) == "(none)":
            unknown.append(package)
    return unknown


def install(need, versions):
    """Return how to install something, in words.

    Args:
        need: ``"compiler"``, ``"headers"``, ``"venv"``, ``"opencv"`` or ``"python"``.
        versions: Python versions, such as ``"3.12"``, the first choice first.

    Returns:
        The command for this system, or the commands for all kinds of systems if it is of none of
        them; None if it has no such package.
    """
    kind = system()
    if kind is None:
        return "; ".join(sorted(one + ": " + _command(one, need, versions[0]) for one in SYSTEMS))
    for version in versions:
        for index, names in enumerate(SYSTEMS[kind][need]):
            if kind != "Debian/Ubuntu" or not missing(names.format(v=version).split()):
                return _command(kind, need, version, index)
    return None


def other_python():
    """Return the path of an interpreter that is there, supported and complete; None without."""
    home = os.path.expanduser("~")
    pyenv = os.environ.get("PYENV_ROOT") or os.path.join(home, ".pyenv")
    data = os.environ.get("XDG_DATA_HOME") or os.path.join(home, ".local", "share")
    uv = os.environ.get("UV_PYTHON_INSTALL_DIR") or os.path.join(data, "uv", "python")
    condas = [os.path.join(home, name) for name in ("miniconda3", "miniforge3", "anaconda3")]
    condas.append("/opt/conda")
    if os.environ.get("CONDA_EXE"):
        condas.insert(0, os.path.dirname(os.path.dirname(os.environ["CONDA_EXE"])))
    for version in VERSIONS:
        name = "python" + version
        found = [
            os.path.join(folder, name)
            for folder in os.environ.get("PATH", "").split(os.pathsep)
            if folder
        ]
        found += glob.glob(os.path.join(pyenv, "versions", version + ".*", "bin", name))
        found += glob.glob(os.path.join(uv, "cpython-" + version + ".*", "bin", name))
        for conda in condas:
            found.append(os.path.join(conda, "bin", name))
            found += glob.glob(os.path.join(conda, "envs", "*", "bin", name))
        for path in found:
            if os.access(path, os.X_OK) and _output([path, "-c", SUITABLE]).strip() == version:
                return path
    return None


def python():
    """Return what to do about an interpreter that can't be used, in words."""
    path = other_python()
    if path:
        return "this machine has a better one, name it: make demo PYTHON=" + path
    command = install("python", VERSIONS)
    if command is None:
        return (
            "this system has no package of one: install it with uv (uv python install 3.12) or "
            "conda (conda create -n pvt python=3.11) and name it, e.g. make demo PYTHON=/path/to/it"
        )
    named = re.findall(r"python=?(3\.\d+)", command)[0]
    return "install one (" + command + ") and name it, e.g. make demo PYTHON=python" + named


def _command(kind, need, version, index=0):
    return SYSTEMS[kind]["install"] + SYSTEMS[kind][need][index].format(v=version)


def _output(command):
    """Return what a command prints, nothing if it fails, is not there or hangs."""
    if shutil.which(command[0]) is None:
        return ""
    env = dict(os.environ, LC_ALL="C")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env)
    try:
        text = process.communicate(timeout=10)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return ""
    return text.decode("utf-8", "replace") if process.returncode == 0 else ""
