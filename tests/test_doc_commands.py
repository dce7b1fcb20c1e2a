"""Every command and every Python block of the pages is run, or says what it needs.

A command is run here, is run by the test that ``ELSEWHERE`` names, or has a marker on its page
(``doc_commands`` says what that looks like). One without any of these fails with its page and line.
"""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from doc_commands import ROOT, all_commands, commands_of, marker_in, python_blocks

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

import torch  # noqa: E402
from doc_workspace import (  # noqa: E402
    CLASSIFIERS,
    PLACEHOLDERS,
    call,
    make_workspace,
    short,
)
from mmengine.registry import MODELS, DefaultScope  # noqa: E402

from pvt_mm.config.loading import load_config  # noqa: E402

# Commands that other tests run. A target of make sets up, which those of the set-up cover, and then
# makes one call.
ELSEWHERE = {
    r"make help": "test_make.py::test_make_help_lists_every_target",
    r"make demo|python tools/demo\.py": (
        "test_demo.py::test_demo_trains_once_and_goes_on_after_an_interruption"
    ),
    r"\.venv-peers/bin/python -m pytest tests/peers/test_classifier_logits\.py": (
        "peers/test_classifier_logits.py::test_v2_equals_timm"
    ),
    r"make docs": "test_site.py::test_site_builds_without_a_warning",
    r"(\w+=\S+ )?make (setup|peers|lint|test).*": (
        "test_make.py::test_make_sets_up_first_and_takes_overrides"
    ),
    r"pip install \.": "test_packaging.py::test_installed_package_is_found_by_mim_and_mmengine",
    r"mim train pvt_mm .*": "test_mim.py::test_train",
    r"mim test pvt_mm .*|mim test mmdet \$CONFIGS/.*": "test_mim.py::test_test",
    r"mim train mmseg \$CONFIGS/.*": "test_mim.py::test_train_with_mmsegs_own_tool",
    r"mim run pvt_mm get_flops .*": "test_mim.py::test_run",
    r"mim search .*": "test_mim.py::test_search",
    r"mim download .*": "test_mim.py::test_download",
    r"tools/dist_(train|test)\.sh CONFIG .*": (
        "test_tools.py::test_two_processes_on_a_machine_without_gpu"
    ),
    r"python tools/(test|infer)\.py CONFIG CONFIG\.(onnx|xml).*": (
        "test_runtimes.py::test_the_usual_test_measures_an_exported_file"
    ),
    r"python tools/export\.py .* --dtype int8 .*": (
        "test_runtimes.py::test_int8_states_what_it_costs"
    ),
    r"python examples/onnx_inference\.py .*": "test_export.py::test_example_draws_without_torch",
    r"python tools/estimate_memory\.py --table .*": (
        "test_memory_model.py::test_the_page_is_up_to_date"
    ),
    r"python tools/make_model_index\.py": (
        "test_model_index.py::test_committed_files_are_what_the_tables_say"
    ),
    r"python benchmarks/render\.py": (
        "test_benchmark_scripts.py::test_readme_holds_the_tables_of_the_committed_results"
    ),
}
# What makes a command small; of options that a command has already the last one counts.
EXTRA = {
    "tools/benchmark.py": ["--shape", "64", "64", "--repeats", "1"],
    "tools/browse_dataset.py": ["--count", "2"],
    "tools/check_dataset.py": ["--workers", "1"],
    "tools/export.py": ["--static", "--shape", "64", "64"],
    "tools/get_flops.py": ["--shape", "64"],
    "tools/make_demo_data.py": ["--out", "made", "--train", "2", "--val", "2", "--size", "64"],
    "tools/new_config.py": ["--overwrite"],
    "tools/prepare_data.py": ["--overwrite"],
    "tools/visualize_attention.py": ["--max-size", "128"],
}
TOOL = re.compile(r"(?:(?P<before>[^|]+) \| )?python (?P<tool>tools/\w+\.py) ?(?P<rest>.*)")
ASSIGNED = re.compile(r'\w+=\$\(python -c "(.*)"\)')  # of what Python prints
WRITTEN = ("--out", "--out-dir", "--json", "--show-dir")  # options that name files
ADDRESS = "https://example.org"  # the pages' host; a server on this machine stands for it
FOR_CODE = {
    '"configs/mask_rcnn_pvt_v2_b2_fpn_1x_coco.py"': '"detector.py"',
    'device="cuda"': 'device="cpu"',
}
DATA = {"data/coco": "COCO", "data/ade": "ADE20K", "data/imagenet": "ImageNet"}

COMMANDS = all_commands()
LONG = ("benchmarks/README.md", "docs/speed.md", "docs/export.md")
UNMARKED = [command for command in COMMANDS if not command.marker]


def elsewhere(command):
    """The test of another file that runs a command, or None."""
    found = (test for words, test in ELSEWHERE.items() if re.fullmatch(words, command.text))
    return next(found, None)


def is_run_here(command):
    return bool(TOOL.fullmatch(command.text) or ASSIGNED.fullmatch(command.text))


def once(candidates):
    """Each command once, as parameters; a page may give placeholders another meaning.

    Those of some pages take long, and run one tool in several ways.
    """
    chosen = {}
    for command in candidates:
        chosen.setdefault((command.text, "classification" in command.page), command)
    return [
        pytest.param(
            each,
            id=f"{each.page}:{each.line}",
            marks=[pytest.mark.exhaustive] if each.page in LONG else [],
        )
        for each in chosen.values()
    ]


PAGE = """
# Head with `python tools/a.py X`

Its paragraph (takes:
3 min).

Text, `make
demo` (needs: GPU, 2 machines) and `pip`.

| `python tools/b.py` | row |
| `tools/c.sh 8` | needs: COCO |

   ```bash
   python tools/d.py \\
     --more   # a word; needs: network
   # takes: 2 h
   # no marker

   make test   # no more
   ```

```text
make nothing
```

<!-- cpu: begin -->
`python tools/record.py 1`
<!-- cpu: end -->
"""


def test_commands_are_found_with_their_markers():
    found = [(each.line, each.text, each.marker) for each in commands_of("page", PAGE)]
    assert found == [
        (14, "python tools/d.py --more", "network"),
        (19, "make test", "2 h"),
        (2, "python tools/a.py X", "3 min"),
        (7, "make demo", "GPU, 2 machines"),
        (10, "python tools/b.py", ""),
        (11, "tools/c.sh 8", "COCO"),
    ]


@pytest.mark.parametrize("marker", ["needs: patience", "needs: COCO and 8 GPUs", "takes: long"])
def test_a_marker_that_nobody_understands_is_refused(marker):
    with pytest.raises(AssertionError, match="page:3: the marker '.*' is not understood"):
        commands_of("page", f"\n```bash\nmake demo   # {marker}\n```\n")


def test_every_command_is_run_or_says_what_it_needs():
    assert len(COMMANDS) > 100, "most commands are not found any more"
    lost = [str(each) for each in UNMARKED if not (elsewhere(each) or is_run_here(each))]
    assert not lost, (
        "neither run here, nor by a test that ELSEWHERE names, nor marked by '# needs: ...' or "
        "'# takes: ... min':\n" + "\n".join(lost)
    )


@pytest.mark.parametrize(("words", "test"), ELSEWHERE.items(), ids=ELSEWHERE.values())
def test_the_other_tests_exist(words, test):
    file, _, name = test.partition("::")
    assert re.search(rf"^def {name}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE)
    assert any(re.fullmatch(words, each.text) for each in UNMARKED), "no page has such a command"


@pytest.mark.parametrize("command", once(each for each in COMMANDS if each.marker))
def test_marked_commands_name_the_data_of_their_config(command, monkeypatch):
    for variable in ("COCO_ROOT", "ADE20K_ROOT", "IMAGENET_ROOT"):
        monkeypatch.delenv(variable, raising=False)
    for config in re.findall(r"\bconfigs/\w+\.py", command.text):
        cfg = load_config(ROOT / config)
        loaders = str([cfg.train_dataloader, cfg.test_dataloader])
        needed = {name for folder, name in DATA.items() if folder in loaders}
        said = {word for word in re.findall(r"\w+", command.marker) if word in DATA.values()}
        assert said == needed, str(command)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("DEMO_ROOT", "COCO_ROOT", "ADE20K_ROOT", "IMAGENET_ROOT"):
            patch.delenv(variable, raising=False)
        patch.setenv("TORCH_HOME", str(folder / "torch"))
        patch.setenv("no_proxy", "127.0.0.1")
        # mmengine's logger may hold the output stream of an earlier test, closed since then.
        patch.setattr("logging.raiseExceptions", False)
        patch.chdir(folder)
        make_workspace(folder)
        yield folder
    shutil.rmtree(folder)  # whole releases: hundreds of megabytes


@pytest.fixture
def here(workspace, tmp_path, monkeypatch):
    """A copy of the workspace for one command, of hard links."""
    copy = tmp_path / "copy"
    shutil.copytree(workspace, copy, copy_function=os.link)
    monkeypatch.chdir(copy)
    yield copy
    shutil.rmtree(copy)


@pytest.fixture(scope="module")
def address(workspace):
    """Of a server that has what the pages take from ``ADDRESS``."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = partial(Handler, directory=workspace / "images")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def arguments_of(tool, words, page):
    """The words of a command after the tool's name, small and with files for the placeholders."""
    meaning = {**PLACEHOLDERS, **(CLASSIFIERS if "classification" in page else {})}
    name = re.compile(r"\b[A-Z_]{2,}\b")
    parts = [name.sub(lambda found: meaning.get(found[0], found[0]), word) for word in words]
    if tool in ("tools/train.py", "tools/test.py"):
        return [*parts, *short(parts[0])]
    return [*parts, *EXTRA.get(tool, ())]


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", once(each for each in UNMARKED if is_run_here(each) and not elsewhere(each))
)
def test_command(command, here, address, monkeypatch, capfd):
    if assigned := ASSIGNED.fullmatch(command.text):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(assigned[1], {})
        assert Path(printed.getvalue().strip()).is_dir()
        return
    before, tool, rest = TOOL.fullmatch(command.text).groups()
    if before:
        listed = subprocess.run(before, shell=True, check=True, capture_output=True, text=True)
        monkeypatch.setattr("sys.stdin", io.StringIO(listed.stdout))
    words = shlex.split(rest.replace(ADDRESS, address))
    arguments = arguments_of(tool, words, command.page)
    assert call(tool, *arguments) == 0, capfd.readouterr().err[-3000:]
    for option, name in zip(arguments, arguments[1:], strict=False):
        if option in WRITTEN:
            made = Path(name)
            assert list(made.iterdir()) if made.is_dir() else made.stat().st_size, str(command)


BLOCKS = [each for each in python_blocks() if not marker_in(each.text, f"{each.page}:{each.line}")]
CONFIGS = [each for each in BLOCKS if re.match(r"(#.*\n)*(_base_|model) = ", each.text)]
CODE = [each for each in BLOCKS if each not in CONFIGS]
# What a snippet may stand in that replaces a backbone.
DETECTOR = "mmdet::_base_/models/retinanet_r50_fpn.py"
SEGMENTOR = "mmseg::_base_/models/fpn_r50.py"


def block_id(value):
    return value.partition("::")[0] if isinstance(value, str) else f"{value.page}:{value.line}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("block", "base"),
    [
        (block, base)
        for block in CONFIGS
        for base in ((DETECTOR, SEGMENTOR) if "_delete_=" in block.text else ("",))
    ],
    ids=block_id,
)
def test_config(block, base, here):
    """A snippet replaces a backbone, inherits a recipe, or is a model or its parts by itself."""
    base_line = f"_base_ = [{base!r}]\n" if base else ""
    leaf = here / "configs" / "leaf.py"
    leaf.write_text(f"N = 7  # the classes of a reader's data\n{base_line}{block.text}")
    # What the pages say of MMSegmentation's base configs.
    cfg = load_config(leaf, {"model.pretrained": None} if base == SEGMENTOR else None)
    assert cfg.model.backbone.type.startswith("pvt_mm.")
    if "model = " not in block.text:
        return
    with DefaultScope.overwrite_default_scope(base.partition("::")[0] or "mmengine"):
        model = MODELS.build(cfg.model if "type" in cfg.model else cfg.model.backbone)
    model.init_weights()
    maps = getattr(model, "backbone", model)(torch.zeros(1, 3, 64, 64))
    if neck := cfg.model.get("neck"):
        assert [each.shape[1] for each in maps] == neck.in_channels


@pytest.mark.slow
@pytest.mark.parametrize("block", CODE, ids=block_id)
def test_code(block, here):
    if "results.json" in block.text:
        command = ["detector.py", "epoch_12.pth", "images", "--out-dir", "results"]
        assert call("tools/infer.py", *command, "--score-thr", "0") == 0
        found = json.loads(Path("results/results.json").read_text())
        Path("annotations.json").write_text(json.dumps({**found, "annotations": []}))
    text = block.text
    for old, new in FOR_CODE.items():
        text = text.replace(old, new)
    exec(compile(text, f"{block.page}:{block.line}", "exec"), {"paths": ["a.jpg", "images/b.png"]})
