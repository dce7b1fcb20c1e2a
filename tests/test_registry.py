"""`type='pvt_mm.PVT'` builds from any registry by the string alone."""

import subprocess
import sys

import pytest

BUILD = """
import torch
{before}
from {package}.registry import {registry} as MODELS
model = MODELS.build(dict(type='pvt_mm.{cls}', arch='{arch}'))
assert type(model).__module__ == 'pvt_mm.backbones.pvt', type(model)
assert len(model(torch.zeros(1, 3, 32, 32))) == 4
print('built')
"""

THIRD = """
from mmengine.registry import MODELS as ROOT, Registry
import sys, types
third = types.ModuleType('third.registry')
third.MODELS = Registry('model', parent=ROOT, scope='third')
sys.modules['third'], sys.modules['third.registry'] = types.ModuleType('third'), third
"""

CUSTOM_IMPORTS = """
from mmengine.config import Config
Config.fromfile({path!r})
"""


def run(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    ("cls", "arch"),
    [pytest.param("PVT", "tiny", marks=pytest.mark.exhaustive), ("PVTv2", "b0")],
)
@pytest.mark.parametrize("package", ["mmengine", "mmdet", "mmseg", "third"])
def test_builds_by_string_in_a_fresh_process(package, cls, arch):
    before = THIRD if package == "third" else ""
    code = BUILD.format(before=before, package=package, registry="MODELS", cls=cls, arch=arch)
    assert "built" in run(code)


@pytest.mark.parametrize("package", ["mmdet", "mmseg"])
def test_builds_with_custom_imports(package, tmp_path):
    config = tmp_path / "config.py"
    config.write_text("custom_imports = dict(imports=['pvt_mm'], allow_failed_imports=False)\n")
    before = CUSTOM_IMPORTS.format(path=str(config))
    code = BUILD.format(before=before, package=package, registry="MODELS", cls="PVT", arch="tiny")
    assert "built" in run(code)


def test_does_not_collide_with_mmdet():
    """mmdet's own PVT keeps its names and its place, with ours imported first or last."""
    code = """
import pvt_mm.backbones
from mmdet.registry import MODELS
import mmdet.models
assert MODELS.get('PyramidVisionTransformerV2').__module__ == 'mmdet.models.backbones.pvt'
assert MODELS.get('PVTv2') is None
assert MODELS.get('pvt_mm.PVTv2') is pvt_mm.backbones.PVTv2
print('apart')
"""
    assert "apart" in run(code)


def test_registries_are_children_with_our_scope():
    from mmengine import registry as root

    from pvt_mm import registry

    for name in registry.__all__:
        child = getattr(registry, name)
        assert child.scope == "pvt_mm"
        assert child.parent is getattr(root, name)
