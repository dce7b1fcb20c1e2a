"""Writing the model index, the model zoo's page and the README's table."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch

import pvt_mm.costs.measured
from pvt_mm.cli import CommandLine
from pvt_mm.config.loading import CHECKOUT_CONFIGS, load_config
from pvt_mm.config.recipes import RECIPES
from pvt_mm.costs.complexity import config_complexity
from pvt_mm.costs.flops import arch_table
from pvt_mm.costs.measured import measured
from pvt_mm.errors import UserError, run_tool, some
from pvt_mm.zoo.page import models_table, zoo_page

__all__ = ["main", "stale_files", "zoo_files"]

ROOT = CHECKOUT_CONFIGS.parent
README = "README.md"
# What stands between these lines of the README is generated.
TABLE = re.compile(r"(<!-- models: .*? -->\n\n).*?(\n<!-- end of models -->)", re.DOTALL)
FIGURES = Path(pvt_mm.costs.measured.__file__).with_name("complexity.json")


def zoo_files(root: Path = ROOT) -> dict[str, str]:
    """Make all generated files.

    Args:
        root: The checkout, whose README is kept but for its table.

    Returns:
        Text by path, relative to the root.

    Raises:
        UserError: If the README has no place for the table.
    """
    readme = TABLE.sub(lambda marks: marks[1] + models_table() + marks[2], _readme(root))
    return {
        **pvt_mm.zoo.index.index_files(),
        "docs/model_zoo.md": zoo_page(),
        README: readme,
    }


def _readme(root: Path) -> str:
    path = root / README
    text = path.read_text() if path.is_file() else ""
    if not TABLE.search(text):
        raise UserError(f"{path} lacks the lines between which the models' table belongs")
    return text


def stale_files(root: Path = ROOT) -> list[str]:
    """Find the generated files that are not what the tables say, or not there."""
    texts = zoo_files(root).items()
    return [
        name
        for name, text in texts
        if not (root / name).is_file() or (root / name).read_text() != text
    ]


def measure_all(known: dict | None = None) -> dict:
    """Measure all backbones and all recipes, which takes about ten minutes.

    Args:
        known: Recipes of an earlier measurement, which are not measured again.
    """
    recipes = dict(known or {})
    for name, recipe in RECIPES.items():
        if name in recipes:
            continue
        torch.manual_seed(0)
        cfg = load_config(CHECKOUT_CONFIGS / f"{name}.py")
        counted = config_complexity(cfg, recipe.of.shape)
        recipes[name] = {"params": counted.params, "flops": counted.flops}
        print(f"{name}: {counted.params / 1e6:.1f} M, {counted.flops / 1e9:.1f} GFLOPs", flush=True)
    return {"backbones": arch_table(), "recipes": {name: recipes[name] for name in RECIPES}}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``tools/make_model_index.py``; see :mod:`pvt_mm.cli`."""
    parser = CommandLine(
        "make_model_index.py",
        "Write model-index.yml, its metafiles, docs/model_zoo.md and the README's "
        "table from pvt_mm/config/recipes.py.",
    )
    parser.add_flag("--check", "write nothing, fail if one is old")
    parser.add_argument(
        "--measure",
        choices=("all", "new"),
        help="first measure parameters and operations: of all recipes (ten minutes), or of the "
        "backbones and new recipes",
    )
    args = parser.parse_args(argv)
    return run_tool(lambda: _run(args.check, args.measure))


def _run(check: bool, measure: str | None) -> None:
    if not (ROOT / "pyproject.toml").is_file():
        raise UserError(f"{ROOT} is not a checkout of pvt_mm; the index is made there")
    if measure:
        known = FIGURES.is_file() and json.loads(FIGURES.read_text())["recipes"]
        figures = measure_all(known if measure == "new" and known else None)
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
        measured.cache_clear()
    if check:
        stale = stale_files()
        if stale:
            raise UserError(
                f"{some(stale)}: not what pvt_mm/config/recipes.py says; run make_model_index.py"
            )
        return
    for name, text in zoo_files().items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(f"wrote {name}")
