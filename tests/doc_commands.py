"""The commands and the Python of the pages, and what each page says that they need.

A marker tells the reader, and the tests, why a command is not run by them::

    tools/dist_train.sh CONFIG 8   # eight GPUs of one machine; needs: COCO, 8 GPUs

It stands behind the command, in a comment of its own above the commands of a block that it speaks
for, or, for a command inside a text, in the same paragraph or row: ``(takes: 20 min)``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "benchmarks" / "README.md"]

FENCE = re.compile(r" *```(\w*)$")
# Tables that a script writes: the calls in them are a record of what it did.
RECORDS = re.compile(r"<!-- \w+: begin -->.*?<!-- \w+: end -->", re.DOTALL)
BACKSLASH = "\\"
SHELLS = {"bash", "sh", "console"}
IN_TEXT = re.compile(
    r"(\w+=\S+ )*"
    r"((\S+/)?python (-m pytest|tools/|tests/|benchmarks/|examples/)|make |tools/\w+\.sh )"
)
MARKER = re.compile(r"\b(needs|takes): ([^;`|)\n]+)")
NEEDS = re.compile(
    r"COCO|ADE20K|ImageNet|(\d+ )?GPUs?|\d+ machines|network|Docker|Slurm"
    r"|mmpretrain|mmpose|mmrotate"
)
TIME = re.compile(r"\d+ (min|h)\b")


@dataclass(frozen=True)
class Command:
    """A command of a page: where it stands, its words, and what it is said to need, if anything."""

    page: str
    line: int
    text: str
    marker: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the number of its first line, its language and its lines."""

    page: str
    line: int
    language: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return "".join(f"{line}\n" for line in self.lines)


def marker_in(text: str, place: str) -> str:
    """What a comment or a paragraph says is needed, such as ``COCO, 8 GPUs``; '' if nothing is.

    Raises:
        AssertionError: If the marker is not one that is understood.
    """
    found = []
    for kind, value in MARKER.findall(text):
        known = TIME.match(value) if kind == "takes" else None
        if kind == "needs":
            known = all(NEEDS.fullmatch(each.strip()) for each in value.split(","))
        assert known, f"{place}: the marker '{kind}: {value}' is not understood"
        found.append(value.strip())
    return ", ".join(found)


def split_page(page: str, content: str) -> tuple[list[Block], str]:
    """The fenced blocks of a page, and its text with blank lines in their place."""
    blocks, text, inside = [], [], None
    content = RECORDS.sub(lambda match: "\n" * match[0].count("\n"), content)
    for number, line in enumerate(content.splitlines(), 1):
        fence = FENCE.match(line)
        text.append("" if fence or inside is not None else line)
        if inside is None:
            if fence:
                inside, start, language = [], number + 1, fence[1]
                indent = line.index("`")
        elif fence:
            blocks.append(Block(page, start, language, tuple(inside)))
            inside = None
        else:
            inside.append(line[indent:])
    assert inside is None, f"{page}: a block has no end"
    return blocks, "\n".join(text)


def in_block(block: Block) -> Iterator[Command]:
    """The commands of a shell block."""
    above, words, start = "", "", 0
    for number, line in enumerate(block.lines, block.line):
        place = f"{block.page}:{number}"
        if block.language == "console" and not line.startswith("$ "):
            continue
        line = line.removeprefix("$ ")
        if line.lstrip().startswith("#"):
            above = marker_in(line, place) or above
            continue
        command, _, comment = line.partition(" #")
        start = start if words else number
        command = command.strip()
        words = f"{words} {command.removesuffix(BACKSLASH)}".strip()
        if words and not command.endswith(BACKSLASH):
            yield Command(block.page, start, words, marker_in(comment, place) or above)
            words = ""


def in_text(page: str, text: str) -> Iterator[Command]:
    """The commands that stand as code in paragraphs, table rows and headings."""
    # A heading and the paragraph below it belong together; a row of a table is by itself.
    parts = re.compile(r"^\|.*$|^#.*\n\n?(?:(?![|#\n]).*\n?)*|(?:(?![|#\n]).+\n?)+", re.MULTILINE)
    for part in parts.finditer(text):
        for code in re.finditer(r"`([^`]+)`", part[0]):
            words = " ".join(code[1].split())
            if IN_TEXT.match(words):
                line = text.count("\n", 0, part.start() + code.start()) + 1
                marker = marker_in(" ".join(part[0].split()), f"{page}:{line}")
                yield Command(page, line, words, marker)


def commands_of(page: str, content: str) -> list[Command]:
    """All commands of a page."""
    blocks, text = split_page(page, content)
    shell = (block for block in blocks if block.language in SHELLS)
    return [*chain.from_iterable(map(in_block, shell)), *in_text(page, text)]


def all_commands() -> list[Command]:
    """The commands of all pages."""
    return [each for page, content in _contents() for each in commands_of(page, content)]


def python_blocks() -> list[Block]:
    """The Python of all pages."""
    blocks = (each for page, content in _contents() for each in split_page(page, content)[0])
    return [block for block in blocks if block.language == "python"]


def _contents() -> Iterator[tuple[str, str]]:
    for path in PAGES:
        yield str(path.relative_to(ROOT)), path.read_text()
