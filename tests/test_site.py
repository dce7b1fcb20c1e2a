"""The documentation builds as a site, with the API from the docstrings, and nothing to warn of."""

import subprocess
import sys

import pytest
import yaml
from setup_helpers import ROOT


def test_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocstrings_handlers.python", reason="not for Python 3.10")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    page = (tmp_path / "api" / "backbones.html").read_text()
    assert "Stages, counted from 0, whose maps are returned" in page
    assert 'id="pvt_mm.backbones.PVTv2"' in page


def test_every_page_is_in_the_navigation():
    def pages(node):
        if isinstance(node, str):
            return {node}
        return set().union(*map(pages, node.values() if isinstance(node, dict) else node))

    listed = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    there = {str(path.relative_to(ROOT / "docs")) for path in ROOT.glob("docs/**/*.md")}
    assert listed == there
