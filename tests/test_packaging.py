"""What a wheel, a source archive and an editable install hold."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from installed import ROOT, Environment, build_distributions, call, copy_checkout

from pvt_mm.version import __version__

# Prints where the package is, and where mim and mmengine look for its configs.
LOCATE = """
import importlib.metadata, mim.utils, mmengine.utils, pvt_mm
print(pvt_mm.__file__)
print(mim.utils.get_installed_path("pvt_mm"))
print(mmengine.utils.get_installed_path("pvt_mm"))
print(importlib.metadata.version("pvt_mm"))
"""


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    return build_distributions(tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="module", params=["wheel", "editable"])
def environment(request, distributions, tmp_path_factory):
    """An environment with the package, and the folder that the package has to be in."""
    folder = tmp_path_factory.mktemp(request.param)
    made = Environment(folder / "env")
    if request.param == "wheel":
        made.install(distributions[1])
        return made, made.site / "pvt_mm"
    checkout = copy_checkout(folder / "checkout")
    made.install("--editable", checkout)
    return made, checkout / "pvt_mm"


def tracked(folder: str, *endings: str) -> set[str]:
    """List the files of a folder that belong to the checkout."""
    found = (path for path in (ROOT / folder).rglob("*") if path.is_file())
    kept = (path for path in found if "__pycache__" not in path.parts)
    return {str(path.relative_to(ROOT)) for path in kept if path.name.endswith(endings)}


def test_wheel_holds_configs_tools_and_index(distributions):
    names = set(zipfile.ZipFile(distributions[1]).namelist())
    inside = {name.removeprefix("pvt_mm/.mim/") for name in names if "/.mim/" in name}
    configs = tracked("configs", ".py", ".yml")
    assert "configs/retinanet_pvt_v2_b0_fpn_demo.py" in configs
    assert "configs/metafiles/retinanet.yml" in configs
    assert inside >= configs | {"model-index.yml"}
    tools = {"train", "test", "get_flops", "demo", "make_demo_data", "_checkout"}
    assert inside >= {f"tools/{name}.py" for name in tools} | {"tools/dist_train.sh"}
    # What sets up a checkout has no place in an installed package.
    assert not any("setup_env" in name or "envsetup" in name for name in names)
    modules = {name for name in tracked("pvt_mm", ".py", ".json", ".txt") if ".mim/" not in name}
    assert names >= modules
    tops = {name.split("/")[0] for name in names}
    assert tops == {"pvt_mm", f"pvt_mm-{__version__}.dist-info"}


def test_wheel_holds_copies_and_not_links(distributions):
    with zipfile.ZipFile(distributions[1]) as wheel:
        config = wheel.read("pvt_mm/.mim/configs/retinanet_pvt_t_fpn_1x_coco.py")
        mode = wheel.getinfo("pvt_mm/.mim/tools/dist_train.sh").external_attr >> 16
        metadata = wheel.read(f"pvt_mm-{__version__}.dist-info/METADATA").decode()
    assert config == (ROOT / "configs/retinanet_pvt_t_fpn_1x_coco.py").read_bytes()
    assert mode & 0o111, "the launcher is no longer executable"
    assert f"\nVersion: {__version__}\n" in metadata
    assert "License-Expression: Apache-2.0" in metadata


def test_source_archive_builds_the_same(distributions):
    with tarfile.open(distributions[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= tracked("configs", ".py", ".yml") | tracked("tools", ".py", ".sh")
    assert names >= {"setup.py", "pyproject.toml", "model-index.yml", "LICENSE", "README.md"}


def test_version_stands_in_one_place():
    found = subprocess.run(
        ["grep", "-rlF", f'"{__version__}"', "pvt_mm", "pyproject.toml", "setup.py", "tools"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert [name for name in found if not name.endswith(".pyc")] == ["pvt_mm/version.py"]


def test_links_lead_to_the_checkout():
    mim = ROOT / "pvt_mm" / ".mim"
    for name in ("configs", "tools", "model-index.yml"):
        assert (mim / name).resolve() == ROOT / name
        # Absolute links would not survive a move.
        assert not os.path.isabs(os.readlink(mim / name))


def test_installed_package_is_found_by_mim_and_mmengine(environment, tmp_path):
    made, package = environment
    printed = call(made.python, "-c", LOCATE, cwd=tmp_path).splitlines()
    init, by_mim, by_mmengine, version = printed[-4:]
    assert Path(init) == package / "__init__.py"
    assert Path(by_mim).resolve() == Path(by_mmengine).resolve() == package.resolve()
    assert version == __version__


def test_tools_do_not_put_the_package_folder_on_the_path(environment, tmp_path):
    made, package = environment
    tools = package / ".mim" / "tools"
    code = f"import sys; sys.path.insert(0, {str(tools)!r}); import _checkout; print(*sys.path)"
    path = call(made.python, "-c", code, cwd=tmp_path).splitlines()[-1].split()
    assert str(package / ".mim") not in path
    assert str(package.parent) in path


def test_uninstalling_an_editable_install_leaves_nothing(tmp_path):
    made = Environment(tmp_path / "env")
    before = {path.name for path in made.site.iterdir()}
    made.install("--editable", copy_checkout(tmp_path / "checkout"))
    assert {path.name for path in made.site.iterdir()} > before
    call(made.python, "-m", "pip", "uninstall", "--yes", "pvt_mm", cwd=tmp_path)
    assert {path.name for path in made.site.iterdir()} - {"__pycache__"} == before


def test_the_tests_run_on_the_checkout():
    import pvt_mm

    assert Path(pvt_mm.__file__).resolve().parent == ROOT / "pvt_mm", sys.path
