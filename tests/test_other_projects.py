"""The blocks of the pages on other projects, in these projects where they are installed.

Those that `make peers` installs lie in a folder of their own, which only the processes started here
look into.
"""

import os
import re
import subprocess
import sys
from importlib.machinery import PathFinder

import pytest
from doc_commands import ROOT, python_blocks

from pvt_mm.costs.benchmark.peers import peers_python

FOLDER = peers_python().parents[1] / "projects"
PAGES = ("docs/other_projects.md", "docs/mmpretrain.md")
PROJECTS = {"mmpretrain", "mmpose", "mmrotate"}
RUN_CONFIG = """
import runpy, sys
runpy.run_path(sys.argv[1] + "/tools/envsetup/torchvision_ops.py")
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope

import {project}.models

torch.manual_seed(0)
cfg = Config.fromfile(sys.argv[2])
cfg.model.backbone.init_cfg = None
with DefaultScope.overwrite_default_scope("{project}"):
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).train()
assert type(model.backbone).__module__.startswith("pvt_mm.")
{losses}
loss, log = model.parse_losses(losses)
assert loss > 0 or "{project}" == "mmpretrain", log  # a cosine similarity is below 0
assert torch.isfinite(loss)
loss.backward()
for name, parameter in model.backbone.named_parameters():
    assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
assert sum(parameter.grad.abs().sum() for parameter in model.backbone.parameters()) > 0
{then}
"""
LOSSES = {
    "mmpretrain": "losses = model([torch.randn(4, 3, 64, 64) for _ in range(2)], mode='loss')",
    "mmpose": """
from mmpose.testing import get_packed_inputs

data = get_packed_inputs(2, input_size=(192, 256), with_heatmap=True)
losses = model(**model.data_preprocessor(data, training=True), mode="loss")
""",
    "mmrotate": """
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from mmrotate.structures import RotatedBoxes

boxes = RotatedBoxes(torch.tensor([[60.0, 60.0, 50.0, 30.0, 0.4], [30.0, 90.0, 40.0, 20.0, -0.6]]))
truth = InstanceData(bboxes=boxes, labels=torch.tensor([0, 14]))
shapes = ("img_shape", "ori_shape", "pad_shape", "batch_input_shape")
meta = dict.fromkeys(shapes, (128, 128)) | dict(scale_factor=(1.0, 1.0))
sample = DetDataSample(metainfo=meta, gt_instances=truth)
losses = model(torch.randn(2, 3, 128, 128), [sample, sample.clone()], mode="loss")
""",
}
# A detector's backbone takes what pretraining saved.
THEN = {
    "mmpretrain": """
torch.save({"state_dict": model.state_dict(), "meta": {}}, "epoch_100.pth")
weights = dict(type="Pretrained", checkpoint="epoch_100.pth")
backbone = MODELS.build(dict(type="pvt_mm.PVTv2", arch="b2", init_cfg=weights, out_indices=(3,)))
backbone.init_weights()
pairs = zip(backbone.parameters(), model.backbone.parameters(), strict=True)
assert all(torch.equal(one, other) for one, other in pairs)
""",
}
RUN_SCRIPT = """
import runpy, sys
runpy.run_path(sys.argv[1] + "/tools/envsetup/torchvision_ops.py")
runpy.run_path(sys.argv[2])
"""


def project_of(block):
    """The project that a block is marked to need, or None."""
    found = re.match(r"# needs: (\w+)$", block.lines[0])
    return found[1] if found and found[1] in PROJECTS else None


BLOCKS = [
    pytest.param(block, id=f"{block.page}:{block.line}")
    for block in python_blocks()
    if block.page in PAGES and project_of(block)
]


def test_every_project_has_a_block():
    assert {project_of(param.values[0]) for param in BLOCKS} == PROJECTS


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS)
def test_block_runs_in_its_project(block, tmp_path):
    project = project_of(block)
    path = [str(ROOT), str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]
    if PathFinder.find_spec(project, [*path, *sys.path]) is None:
        pytest.skip(f"no {project}: docs/other_projects.md says how it installs")
    (tmp_path / "block.py").write_text(block.text)
    code = RUN_SCRIPT
    if "_base_" in block.text:
        code = RUN_CONFIG.format(
            project=project, losses=LOSSES[project], then=THEN.get(project, "")
        )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(ROOT), "block.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
