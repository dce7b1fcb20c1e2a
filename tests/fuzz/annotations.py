"""Random COCO annotation files: the checks must survive all, and what they pass must train.

``python tests/fuzz/annotations.py --minutes 20`` looks for failures; ``--seed`` repeats a run.
"""

# ruff: noqa: E402

import contextlib
import faulthandler
import functools
import io
import json
import logging
import math
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import _runner
from bad_data import CLASSES, HEIGHT, PIXELS, SQUARE, WIDTH, coco_content, write_images
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from pvt_mm.data.checks import ERROR, Findings, check_coco
from pvt_mm.data.data_checks import check_data
from pvt_mm.errors import UserError

# Numbers that are harmless, at an edge, or bad; most of them harmless, else hardly a file is left
# that can be trained on.
PLACES = st.integers(-5, 70) | st.floats(-5, 70, width=32)
NUMBERS = st.one_of(
    *[PLACES] * 20,
    st.sampled_from([0, 1, WIDTH, HEIGHT, 1e9, -1e9, 1e308, 2**31, 2**63, 10**400, 1e-320]),
    st.sampled_from([math.nan, math.inf, -math.inf]),
    st.floats(),
)
ODD = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=5)),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.sampled_from(["id", "size", "counts", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
POLYGON = st.one_of(
    *[st.lists(PLACES, min_size=6, max_size=6)] * 3,
    st.lists(NUMBERS, min_size=8, max_size=8),
    st.lists(NUMBERS, max_size=12),
    st.permutations(SQUARE),
)
RUNS = st.lists(st.integers(0, PIXELS), max_size=4).map(
    # Often the right total.
    lambda runs: [*runs, max(0, PIXELS - sum(runs))]
) | st.lists(NUMBERS, max_size=4)
CODED = st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=8)
RLE = st.fixed_dictionaries(
    {
        "size": st.sampled_from([[HEIGHT, WIDTH], [WIDTH, HEIGHT], [1, 1]]) | ODD,
        "counts": RUNS
        | st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=8)
        | ODD,
    }
)
FIELDS = {
    "bbox": st.one_of(
        *[st.lists(NUMBERS, min_size=4, max_size=4)] * 9, st.lists(NUMBERS, max_size=6)
    ),
    "segmentation": st.lists(POLYGON, max_size=3) | RLE,
    "area": NUMBERS,
    "iscrowd": st.integers(-1, 2),
    "ignore": st.integers(0, 1),
    "id": st.integers(-1, 4) | NUMBERS,
    "image_id": st.integers(0, 4) | NUMBERS,
    "category_id": st.integers(0, 3) | NUMBERS,
    "file_name": st.sampled_from(["1.jpg", "none.jpg", "", ".", "a\0b", "/"]) | st.text(max_size=9),
    "width": st.integers(-1, 99) | NUMBERS,
    "height": st.integers(-1, 99) | NUMBERS,
    "name": st.sampled_from([*CLASSES, "ring"]) | st.text(max_size=3),
}
LISTS = ("images", "annotations", "categories")


@st.composite
def contents(draw):
    """A sound file with a few changes of any kind."""
    content = coco_content()
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 2, 4]))):
        _change(draw, content)
    if draw(st.integers(0, 9)) == 0:
        content = {key: content[key] for key in draw(st.permutations(list(content)))}
    return content


def _change(draw, content):
    key = draw(st.sampled_from([*LISTS, *["annotations"] * 5]))
    entries = content.get(key)
    action = draw(st.integers(0, 39))
    if action == 0:
        content[key] = draw(ODD)
    elif action == 1:
        content.pop(key, None)
    elif not isinstance(entries, list) or not entries:
        return
    else:
        index = draw(st.integers(0, len(entries) - 1))
        _change_entry(draw, entries, index, action)


def _change_entry(draw, entries, index, action):
    if action == 2:
        entries[index] = draw(ODD)
    elif action == 3:
        entries.append(entries[index])
    elif action == 4:
        del entries[index]
    elif isinstance(entries[index], dict) and entries[index]:
        field = draw(st.sampled_from(sorted(entries[index], key=str)))
        if action == 5:
            del entries[index][field]
        else:
            entries[index][field] = draw(FIELDS.get(field, ODD) if action > 8 else ODD)


@st.composite
def files(draw):
    """Whole files: mostly valid JSON, sometimes cut, with other bytes, or of another shape."""
    action = draw(st.integers(0, 29))
    data = json.dumps(draw(ODD if action == 0 else contents())).encode()
    if action in (1, 2):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + (draw(st.binary(max_size=3)) + data[at:] if action == 1 else b"")
    return data


class Place:
    """A folder with images, to which annotation files are written one after the other."""

    def __init__(self, folder):
        self.folder = Path(folder)
        write_images(self.folder / "img")
        self.path = self.folder / "a.json"

    def config(self, masks, evaluation):
        load = dict(type="LoadAnnotations", with_bbox=True, with_mask=masks)
        pipeline = [
            dict(type="LoadImageFromFile"),
            load,
            dict(type="Resize", scale=(64, 64), keep_ratio=True),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackDetInputs"),
        ]
        dataset = dict(
            type="CocoDataset",
            ann_file=str(self.path),
            data_prefix=dict(img=str(self.folder / "img")),
            metainfo=dict(classes=CLASSES),
            filter_cfg=dict(filter_empty_gt=True),
            test_mode=evaluation,
            pipeline=pipeline,
        )
        loader = dict(dataset=dataset)
        return Config(dict(default_scope="mmdet", model=dict(), train_dataloader=loader))


def try_file(place, data, masks, evaluation):
    """Check one file; whatever is raised here is a failure of the checks."""
    place.path.write_bytes(data)
    findings = Findings()
    content = check_coco(place.path, findings, CLASSES, masks=masks, evaluation=evaluation)
    for *_, kept in findings.groups():
        assert all("\n" not in str(finding) for finding in kept)
    json.dumps(findings.as_dict(), default=str)
    cfg = place.config(masks, evaluation)
    try:
        check_data(cfg, ("train",))
    except UserError as error:
        assert "\n" not in str(error), error
        return
    assert not findings.count(ERROR) - findings.counts[ERROR, "no-annotations"]
    if findings.count(ERROR) or not content.annotated:
        return  # nothing is left for training, and that is said
    with DefaultScope.overwrite_default_scope("mmdet"), contextlib.redirect_stdout(io.StringIO()):
        try:
            dataset = DATASETS.build(cfg.train_dataloader.dataset)
        except ValueError as error:
            # Only unused annotations: no image is left, which the run says, too.
            assert "need at least one array" in str(error)
            return
        for index in range(len(dataset)):
            boxes = dataset[index]["data_samples"].gt_instances.bboxes.tensor
            assert boxes.isfinite().all()


def check(example):
    """Try an example of ``EXAMPLES`` in a folder of its process."""
    # Ends the process in C code, too, which the runner's alarm cannot.
    faulthandler.dump_traceback_later(2 * _runner.SECONDS, exit=True)
    try:
        try_file(place(), *example)
    finally:
        faulthandler.cancel_dump_traceback_later()


@functools.cache
def place():
    """The folder, which goes when the process ends."""
    folder = tempfile.TemporaryDirectory()
    made = Place(folder.name)
    made.owner = folder
    return made


EXAMPLES = st.tuples(files(), st.booleans(), st.booleans())

if __name__ == "__main__":
    logging.disable()
    place()
    _runner.main(EXAMPLES, check)
