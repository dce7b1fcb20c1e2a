"""README and docs lead somewhere: their links, files, commands and options exist."""

import re
from contextlib import redirect_stdout
from functools import cache
from importlib import import_module
from io import StringIO
from pathlib import Path

import pytest
from setup_helpers import ROOT

from pvt_mm.backbones import ARCHS

PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), ROOT / "benchmarks" / "README.md"])
FOLDERS = "benchmarks|configs|docs|examples|pvt_mm|tests|tools"
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def shell_lines(page: Path) -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [line.partition(" #")[0] for block in blocks for line in block.splitlines()]


@cache
def options_of(tool: str) -> set[str]:
    """Ask the function that the tool calls."""
    module = re.search(r"from (pvt_mm[\w.]+) import main\b", (ROOT / tool).read_text())[1]
    with pytest.raises(SystemExit), redirect_stdout(StringIO()) as out:
        import_module(module).main(["--help"])
    return set(re.findall(r"--[\w-]+", out.getvalue()))


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_and_files_exist(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith("http"):
            path, _, anchor = target.partition("#")
            found = page.parent / path if path else page
            assert found.exists(), target
            assert not anchor or anchor in anchors(found), target
    named = re.findall(rf"(?<![\w/.])(?:{FOLDERS})/[\w./*-]+", text)
    for name in named:
        assert any(ROOT.glob(name.rstrip("./"))), name
    for name in re.findall(r"pvt://(\w+)", text):
        assert name in ARCHS or name == "NAME", name


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_options_of_the_tools_exist(page):
    tables = re.findall(r"`(python tools/[^`\n]+)`", page.read_text())
    for line in [*shell_lines(page), *tables]:
        if match := re.match(r"(?:python )?(tools/\w+\.(?:py|sh)) ?(.*)", line):
            tool, rest = match.groups()
            tool = tool.replace("dist_", "").replace(".sh", ".py")
            assert (ROOT / tool).is_file(), line
            used = set(re.findall(r"--[\w-]+", rest))
            assert not used or used <= options_of(tool), line


def test_the_folders_are_listed():
    page = (ROOT / "docs/develop.md").read_text()
    rows = set(re.findall(r"^\| `([\w/]+)` \|", page, re.MULTILINE))
    packages = {str(path.parent.relative_to(ROOT)) for path in ROOT.glob("pvt_mm/*/**/__init__.py")}
    tops = {"configs", "tools", "examples", "benchmarks", "docs", "tests"}
    assert {row for row in rows if (ROOT / row).is_dir()} == packages | tops
