"""The peers' environment: timm, transformers and torchvision, layered on the main environment."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from .steps import ROOT, key_of, prove
from .venv import SetupError, Venv, say

SHIM = "pvt_mm_torchvision_ops"
IMPORTS = """
import mmdet.models, mmseg.models, timm, torchvision, safetensors, huggingface_hub
from transformers import PvtModel, PvtV2Model
"""


def peers_of(main: Venv) -> Venv:
    """Return the place of the peers' environment, beside the main one: ``.venv-peers``."""
    return Venv(main.root.with_name(f"{main.root.name}-peers"))


class PeersSetup:
    """Everything between a finished main environment and one in which the peers import too.

    Python there looks first into the environment's own packages, then into the main one's: torch
    and the OpenMMLab packages are the very same, and take no disk twice.

    Args:
        main: The main environment, set up already.
        root: The project's folder, with its requirements files.
    """

    def __init__(self, main: Venv, root: Path = ROOT) -> None:
        self.main = main
        self.venv = peers_of(main)
        self.requirements = root / "requirements-peers.txt"
        self.projects_requirements = root / "requirements-projects.txt"
        self.shim = Path(__file__).with_name("torchvision_ops.py")
        places = (str(self.venv.root), str(main.root))
        base = key_of(*places, os.path.realpath(sys.executable), sys.version_info[:2])
        layer = key_of(base, self.shim)
        packages = key_of(layer, root / "requirements.txt", self.requirements)
        self.steps = [
            ("venv", base, lambda: self.venv.create("--without-pip")),
            ("layer", layer, self.layer),
            ("packages", packages, self.packages),
            ("projects", key_of(packages, self.projects_requirements), self.projects),
        ]

    def pending(self) -> list[tuple]:
        """Return the steps that are still to do: the first one not done, and all after it."""
        done = self.venv.done() if self.venv.python.exists() else {}
        for index, (name, key, _) in enumerate(self.steps):
            if done.get(name) != key:
                return self.steps[index:]
        return []

    def run(self) -> None:
        """Do what is still to do."""
        if not self.pending():
            return
        with self.venv.lock():
            for name, key, step in self.pending():
                step()
                self.venv.record(name, key)
            say(f"{self.venv.root} is ready")

    def layer(self) -> None:
        """Step 2: look into the main environment too, and mend torchvision's import."""
        say(f"layering {self.venv.root} on {self.main.root}")
        shutil.copyfile(self.shim, self.venv.site / f"{SHIM}.py")
        # addsitedir, unlike a plain line, honours the .pth files of the main environment.
        lines = [f"import site; site.addsitedir({str(self.main.site)!r})", f"import {SHIM}"]
        (self.venv.site / "pvt_mm-peers.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def packages(self) -> None:
        """Step 3: the peers, and the proof that all imports in one process."""
        say("installing timm, transformers and torchvision for the tests")
        # pip itself comes from the main environment, whose packages it takes as installed.
        self.venv.pip("install", "--quiet", "--requirement", str(self.requirements))
        prove(self.venv, IMPORTS)

    def projects(self) -> None:
        """Step 4: other projects in a folder aside, for the one test that looks into it.

        One of them is compiled, by build tools that do not run on every Python: without them that
        test is skipped.
        """
        say("installing mmpretrain and mmpose for the tests")
        folder = self.venv.root / "projects"
        shutil.rmtree(folder, ignore_errors=True)
        where = ("--no-deps", "--target", str(folder))
        requirement = ("--requirement", str(self.projects_requirements))
        try:
            self.main.pip("install", "--quiet", *where, *requirement)
        except SetupError as error:
            shutil.rmtree(folder, ignore_errors=True)
            say(f"they do not install, their test will be skipped: {error}")
