"""The check of the installed stack, and what `import pvt_mm` brings and costs."""

import pkgutil
import re
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest

import pvt_mm
from pvt_mm import stack

ROOT = Path(__file__).resolve().parents[1]
GOOD = {
    "torch": "2.13.0+cpu",
    "mmengine": "0.10.7",
    "mmcv": "2.1.0",
    "mmdet": "3.3.0",
    "mmsegmentation": "1.2.2",
}


@pytest.fixture
def installed(monkeypatch):
    """Pretend that these distributions are installed; change the dict to change the stack."""
    versions = dict(GOOD)
    names = {r.module: (r.distribution, *r.forks) for r in stack.REQUIREMENTS}

    def find_spec(module):
        return True if any(name in versions for name in names[module]) else None

    def version(distribution):
        if distribution not in versions:
            raise stack.PackageNotFoundError(distribution)
        return versions[distribution]

    monkeypatch.setattr(stack, "find_spec", find_spec)
    monkeypatch.setattr(stack, "version", version)
    monkeypatch.delenv("RANK", raising=False)
    return versions


def warning():
    with pytest.warns(UserWarning) as caught:
        stack.check_stack()
    assert len(caught) == 1
    return str(caught[0].message)


def silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stack.check_stack()


def test_good_stack_is_silent(installed):
    silent()


@pytest.mark.parametrize(
    ("distribution", "version"),
    [("torch", "2.1.0"), ("mmengine", "0.10.4"), ("mmdet", "3.2.0"), ("mmsegmentation", "1.2.1")],
)
def test_ends_of_the_ranges_are_in(installed, distribution, version):
    installed[distribution] = version
    silent()


@pytest.mark.parametrize(
    ("distribution", "version", "says"),
    [
        ("torch", "2.0.1", ["torch 2.0.1", ">=2.1"]),
        ("mmengine", "0.9.0", ["mmengine 0.9.0", ">=0.10.4,<1"]),
        ("mmcv", "2.2.0", ["mmcv 2.2.0", ">=2.1,<2.2", "--no-build-isolation"]),
        ("mmcv", "2.0.1", ["mmcv 2.0.1"]),
        ("mmdet", "3.1.0", ["mmdet 3.1.0", 'pip install "mmdet>=3.2,<3.4"']),
        ("mmsegmentation", "1.2.0", ["mmseg 1.2.0", 'pip install "mmsegmentation>=1.2.1,<1.3"']),
    ],
)
def test_out_of_range_is_named(installed, distribution, version, says):
    installed[distribution] = version
    message = warning()
    for text in says:
        assert text in message
    assert message.count("\n") == 1


def test_all_problems_come_in_one_warning(installed):
    del installed["mmcv"]
    installed["mmdet"] = "2.28.0"
    installed["mmsegmentation"] = "0.30.0"
    message = warning()
    assert "mmcv is not installed (for detection and segmentation)" in message
    assert "mmdet 2.28.0 is out of range" in message
    assert "mmseg 0.30.0 is out of range" in message
    assert "torch" not in message and "mmengine" not in message


@pytest.mark.parametrize(
    "absent", [("mmdet",), ("mmsegmentation",), ("mmdet", "mmsegmentation", "mmcv")]
)
def test_toolboxes_that_nobody_asked_for_are_not_missed(installed, absent):
    for name in absent:
        del installed[name]
    silent()


@pytest.mark.parametrize("name", ["torch", "mmengine"])
def test_without_the_indispensable_it_fails(installed, name):
    del installed[name]
    with pytest.raises(ImportError, match=f"pvt_mm needs {name}") as caught:
        stack.check_stack()
    assert f'pip install "{name}>=' in str(caught.value)


def test_forks_are_accepted(installed):
    for name in ("mmengine", "mmcv", "mmdet", "mmsegmentation"):
        del installed[name]
    for name in ("mmengine", "mmcv", "mmdetection", "mmsegmentation"):
        installed[f"onedl-{name}"] = "9.9"
    silent()


@pytest.mark.parametrize(
    ("removed", "added"),
    [((), "onedl-mmcv"), (("mmdet",), "onedl-mmdetection"), (("mmengine",), "onedl-mmengine")],
)
def test_a_mixture_is_named(installed, removed, added):
    for name in removed:
        del installed[name]
    installed[added] = "9.9"
    says = warning()
    assert f"OneDL's {added} 9.9 are mixed" in says
    assert "mmsegmentation 1.2.2 and OneDL's" in says
    assert all(f"{name} " not in says.partition(" and OneDL's")[0] for name in removed)
    assert "make setup STACK=onedl" in says


def test_mmengine_lite_is_no_mixture(installed):
    installed["mmengine-lite"] = installed.pop("mmengine")
    silent()


def test_only_the_first_process_speaks(installed, monkeypatch):
    installed["mmdet"] = "2.28.0"
    monkeypatch.setenv("RANK", "1")
    silent()


def test_ranges_agree_with_pyproject():
    text = (ROOT / "pyproject.toml").read_text()
    for requirement in stack.REQUIREMENTS:
        declared = re.findall(rf'"{requirement.distribution}([<>=!~][^"]*)"', text)
        assert declared, requirement.distribution
        assert set(declared) == {requirement.specifier}, requirement.distribution


def run(code):
    """Run code in a process of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_import_brings_nothing_heavy():
    # mmengine's model code and runner take longer to import than everything of ours.
    code = """if True:
        import sys, torch, mmengine
        import pvt_mm
        heavy = ("mmengine.model", "mmengine.runner", "mmcv", "pvt_mm.backbones")
        print(*[name for name in heavy if name in sys.modules])
    """
    assert run(code) == []


@pytest.mark.parametrize("missing", [("mmdet",), ("mmseg",), ("mmcv", "mmdet", "mmseg")])
def test_backbones_work_with_half_of_the_stack(missing):
    code = f"""if True:
        import sys, warnings
        for name in {missing!r}:
            sys.modules[name] = None  # importing it fails from now on
        import torch
        warnings.simplefilter("ignore")
        import pvt_mm
        print(len(pvt_mm.PVTv2("b0")(torch.zeros(1, 3, 32, 32))))
    """
    assert run(code) == ["4"]


@pytest.mark.parametrize("first", ["pvt_mm", "mmengine.runner"])
def test_loaders_are_registered_whatever_is_imported_first(first):
    code = f"""if True:
        import {first}
        import pvt_mm
        from mmengine.runner import CheckpointLoader
        for path in ("a.pth", "/a/b.pth", "http://a/b", "https://a/b", "pvt://pvt_v2_b2",
                     "torchvision://resnet50", "open-mmlab://resnet50_v1c", "mmcls://resnet50"):
            print(CheckpointLoader._get_checkpoint_loader(path).__module__)
        import sys
        print(sum("pvt_mm" in type(finder).__module__ for finder in sys.meta_path))
    """
    *modules, finders = run(code)
    assert modules == ["pvt_mm.checkpoints.schemes"] * 8
    assert finders == "0"


def test_what_python_3_14_removed_is_there_again(monkeypatch):
    misc = pytest.importorskip("mmengine.utils.dl_utils.misc")
    monkeypatch.delattr(pkgutil, "find_loader", raising=False)
    stack.restore_find_loader()
    assert pkgutil.find_loader("json").name == "json"
    assert pkgutil.find_loader("json.no_such_module") is None
    assert misc.mmcv_full_available() == (find_spec("mmcv") is not None)


def test_package_surface():
    assert set(pvt_mm.__all__) <= set(dir(pvt_mm))
    assert pvt_mm.PVT.__name__ == "PVT" and pvt_mm.PVTv2.__name__ == "PVTv2"
    assert re.fullmatch(r"\d+\.\d+\.\d+", pvt_mm.__version__)
    with pytest.raises(AttributeError, match="no attribute 'PVTv3'"):
        pvt_mm.PVTv3  # noqa: B018


def test_configs_of_a_forked_mmseg_are_found(monkeypatch):
    pytest.importorskip("mmseg")
    from mmengine.config.utils import MODULE2PACKAGE

    from pvt_mm.config import loading as config

    monkeypatch.setitem(MODULE2PACKAGE, "mmseg", "no-such-distribution")  # which a fork leaves
    monkeypatch.setattr(config, "version_of", lambda distribution: None)
    cfg = config.load_config(ROOT / "configs" / "fpn_pvt_v2_b0_demo.py")
    assert cfg.model.decode_head.type == "FPNHead"  # from mmseg's own file
