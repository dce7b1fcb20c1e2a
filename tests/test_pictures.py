"""tools/test.py --show-dir: annotation beside prediction, small images enlarged, none lost."""

import logging
import shutil
from pathlib import Path

import given
import numpy as np
import pytest
from PIL import Image
from test_evidence import CAT_BOX, DOG_BOX, RIGHT, SIZE, detection, rows, segmentation

from pvt_mm.training.test import run_test

ENLARGED = 512  # the least longer side of a small image's picture


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(given.__file__).parent))
    monkeypatch.setattr(logging, "raiseExceptions", False)


def pictures(folder, config, **options):
    out = folder / "pictures"
    run_test(config, folder / "model.pth", show_dir=out, **options)
    return {path.name: np.asarray(Image.open(path).convert("RGB")) for path in out.iterdir()}


def halves(picture):
    left, right = np.split(picture.astype(int), 2, axis=1)
    assert left.shape == right.shape == (ENLARGED, ENLARGED, 3)
    return left, right


def test_objects(tmp_path):
    drawn = pictures(tmp_path, detection(tmp_path, [RIGHT], [CAT_BOX, DOG_BOX]))
    assert set(drawn) == {"1.png", "2.png"}
    left, right = halves(drawn["1.png"])
    scale = ENLARGED // SIZE
    x, y, width, height = (scale * value for value in DOG_BOX[1:5])
    edge = np.s_[y + height // 2, x : x + 2]  # of the dog's box, which is not found
    assert np.abs(left[edge] - right[edge]).max() > 30
    x, y = scale * CAT_BOX[1], scale * CAT_BOX[2] + 150
    assert np.array_equal(left[y, x], right[y, x])


def test_classes_of_pixels(tmp_path):
    drawn = pictures(tmp_path, segmentation(tmp_path, 1, rows(0, 0, 0, 1), ("sky", "wall")))
    left, right = halves(drawn["2.png"])
    assert np.abs(left - right).max() > 3  # a quarter of the rows is another class


def test_images_of_one_name_in_two_folders(tmp_path):
    config = detection(tmp_path, [RIGHT], [CAT_BOX])
    for name in ("a", "b"):
        (tmp_path / "img" / name).mkdir()
        shutil.copy(tmp_path / "img" / "1.png", tmp_path / "img" / name / "1.png")
    file = tmp_path / "a.json"
    file.write_text(
        file.read_text().replace('"1.png"', '"a/1.png"').replace('"2.png"', '"b/1.png"')
    )
    assert set(pictures(tmp_path, config)) == {"1.png", "b_1.png"}


def test_a_long_name_is_whole_at_the_border(tmp_path):
    """The label of a box at the right edge begins further left, where there is room for it."""
    name = "a class with a rather long name"
    config = detection(tmp_path, [[0, 54, 10, 63, 20]], [CAT_BOX], (name, "dog"))
    file = tmp_path / "a.json"
    file.write_text(file.read_text().replace('"cat"', f'"{name}"'))
    _, right = halves(pictures(tmp_path, config)["1.png"])
    top = 10 * ENLARGED // SIZE
    strip = right[top - 12 : top - 8, -330:-90]  # above the box and left of it
    plain = halves(pictures(tmp_path, config, overwrite=True)["2.png"])[0]
    assert np.abs(strip - plain[top - 12 : top - 8, -330:-90]).max(axis=2).mean() > 30
