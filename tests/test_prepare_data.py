"""tools/prepare_data.py: from what labelling programs write to the same data set, nothing lost."""

import hashlib
import json
import re
from collections import Counter

import cv2
import labelled
import numpy as np
import pytest
from PIL import Image

from pvt_mm.data.prepare import prepare_data
from pvt_mm.data.prepare.tool import main
from pvt_mm.errors import UserError


@pytest.fixture(scope="module")
def scenes():
    return labelled.make_scenes()


def digests(root):
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def read_objects(out):
    """Name and box, polygons, and crowd flag of each object, by stem of its image; the splits."""
    objects, splits = {}, {}
    for path in sorted(out.glob("*.json")):
        if path.name == "prepared.json":
            continue
        content = json.loads(path.read_text())
        names = {entry["id"]: entry["name"] for entry in content["categories"]}
        ids = [entry["id"] for entry in content["annotations"]]
        assert len(set(ids)) == len(ids) and min(ids) >= 1
        for image in content["images"]:
            found = [
                (names[each["category_id"]], each)
                for each in content["annotations"]
                if each["image_id"] == image["id"]
            ]
            stem = image["file_name"].rpartition("/")[2].partition(".")[0]
            assert stem not in objects, "an image is in two splits"
            objects[stem], splits[stem] = found, path.stem
            read = cv2.imread(str(out / "images" / image["file_name"]))
            assert read.shape[:2] == (image["height"], image["width"])
    return objects, splits


OBJECTS = {
    # writer, options, has polygons, the source's own splits, category ids of bolt and nut
    "cvat": (labelled.write_cvat, {}, True, True, {"bolt": 7, "nut": 3}),
    "roboflow": (labelled.write_roboflow, {}, True, True, {"bolt": 1, "nut": 2}),
    "label studio": (labelled.write_label_studio, {}, True, False, {"bolt": 0, "nut": 1}),
    "voc": (labelled.write_voc, {}, False, True, {"bolt": 1, "nut": 2}),
    "yolo": (labelled.write_yolo, {}, False, True, {"bolt": 1, "nut": 2}),
    "yolo polygons": (
        labelled.write_yolo,
        {"polygons": True, "data_file": False},
        True,
        True,
        {"bolt": 1, "nut": 2},
    ),
    "labelme": (labelled.write_labelme, {}, True, False, {"bolt": 1, "nut": 2}),
}


@pytest.mark.parametrize("source", OBJECTS)
def test_objects_are_what_was_labelled(source, scenes, tmp_path):
    write, options, polygons, own_splits, ids = OBJECTS[source]
    write(tmp_path / "in", scenes, **options)
    before = digests(tmp_path / "in")
    prepared = prepare_data(tmp_path / "in", tmp_path / "out")
    assert digests(tmp_path / "in") == before
    assert prepared.classes == ["bolt", "nut"] and prepared.category_ids == [*ids.values()]
    assert prepared.task == ("masks" if polygons else "boxes")
    objects, splits = read_objects(tmp_path / "out")
    assert objects.keys() == {scene.stem for scene in scenes}
    for scene in scenes:
        found = objects[scene.stem]
        if source == "labelme" and scene is scenes[0]:
            found, extra = found[: len(scene.objects)], found[len(scene.objects) :]
            boxes = [each["bbox"] for _, each in extra]
            assert boxes == [[50, 40, 10, 12], pytest.approx([24, 44, 12, 12]), [70, 40, 6, 6]]
            assert extra[2][1]["area"] == 6  # the mask's diagonal
        assert [name for name, _ in found] == [name for name, _ in scene.objects]
        for (name, each), box, (_, points) in zip(found, scene.boxes(), scene.objects, strict=True):
            assert each["bbox"] == pytest.approx(box[1:], abs=1e-9)
            assert each["category_id"] == ids[name]
            assert each["iscrowd"] == (source == "voc" and name == "nut")  # difficult there
            if polygons:
                assert each["segmentation"][0] == pytest.approx(points.ravel().tolist())
                assert each["area"] == pytest.approx(cv2.contourArea(np.float32(points)))
            if source == "cvat":
                assert each["attributes"] == {"occluded": False}
        if own_splits:
            assert splits[scene.stem] == scene.split
    if source == "labelme":
        (reason,) = prepared.left_out
        assert "line" in reason and len(prepared.left_out[reason]) == len(scenes)
    elif source == "roboflow":
        assert [*prepared.left_out.values()] == [["hardware"]]
    else:
        assert prepared.left_out == {}


MAPS = {
    # options of the call, class names, number in the prepared map by number in the scene's map
    "index": ({}, ["background", "class_1", "class_2"], (0, 1, 2)),
    "index named": (
        {"classes": [("bolt", None), ("nut", None)]},
        ["background", "bolt", "nut"],
        (0, 1, 2),
    ),
    "index unlabelled": (
        {"classes": [("bolt", None), ("nut", None)], "ignore": [0]},
        ["bolt", "nut"],
        (255, 0, 1),
    ),
    "rgb": ({}, ["background", "#00ff00", "#ff0000"], (0, 2, 1)),
    "rgb table": (
        {"classes": [("ground", 0), ("nut", 0x00FF00), ("bolt", 0xFF0000)]},
        ["ground", "nut", "bolt"],
        (0, 2, 1),
    ),
    "binary": ({}, ["background", "object"], (0, 1, 1)),
    "binary named": ({"classes": [("part", None)]}, ["background", "part"], (0, 1, 1)),
}


def read_maps(out):
    maps = {}
    for path in out.glob("*.txt"):
        for name in path.read_text().splitlines():
            stem = name.rpartition("/")[2].partition(".")[0]
            assert (out / "images" / name).is_file() and stem not in maps
            maps[stem] = np.array(Image.open(out / "labels" / f"{name}.png")), path.stem
    return maps


@pytest.mark.parametrize("source", MAPS)
def test_label_maps_hold_the_classes(source, scenes, tmp_path):
    options, names, numbers = MAPS[source]
    write = labelled.write_maps
    write(tmp_path / "in", scenes[2:], source.split()[0])
    write(tmp_path / "in", scenes[:2], source.split()[0], ".JPG")
    before = digests(tmp_path / "in")
    prepared = prepare_data(tmp_path / "in", tmp_path / "out", **options)
    assert digests(tmp_path / "in") == before
    assert (prepared.task, prepared.classes) == ("label maps", names)
    maps = read_maps(tmp_path / "out")
    assert maps.keys() == {scene.stem for scene in scenes}
    for scene in scenes:
        labels, split = maps[scene.stem]
        assert split == scene.split
        np.testing.assert_array_equal(labels, np.array(numbers)[scene.label_map()])


def test_a_colour_without_a_class_is_named_and_ignored(scenes, tmp_path):
    labelled.write_maps(tmp_path / "in", scenes, "rgb")
    table = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nbolt:255,0,0::\n"
    (tmp_path / "in/labelmap.txt").write_text(table)  # as CVAT writes it
    prepared = prepare_data(tmp_path / "in", tmp_path / "out")
    assert prepared.classes == ["background", "bolt"]
    assert [*prepared.left_out.values()] == [["#00ff00"]]
    for scene in scenes:
        expected = np.array([0, 1, 255])[scene.label_map()]
        np.testing.assert_array_equal(read_maps(tmp_path / "out")[scene.stem][0], expected)


@pytest.mark.parametrize("kind", ["cityscapes", "ade", "voc palette"])
def test_trees_of_known_data_sets(kind, scenes, tmp_path):
    root = tmp_path / ("ADEChallengeData2016" if kind == "ade" else "in")
    numbers = {"cityscapes": (0, 7, 26), "ade": (0, 1, 150), "voc palette": (0, 1, 20)}[kind]
    for scene in scenes:
        labels = np.array(numbers, np.uint8)[scene.label_map()]
        if kind == "cityscapes":
            image = root / f"leftImg8bit/{scene.split}/aachen/{scene.stem}_leftImg8bit.png"
            place = root / f"gtFine/{scene.split}/aachen/{scene.stem}_gtFine_labelIds.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            colour = str(place).replace("labelIds", "color")
            Image.fromarray(np.stack([labels] * 3, 2)).save(colour)
        else:
            image = root / f"images/{scene.split}/{scene.stem}.png"
            place = root / f"SegmentationClass/{scene.split}/{scene.stem}.png"
        for path in (image, place):
            path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(image), scene.image)
        labels = Image.fromarray(labels)
        if kind == "voc palette":
            lists = (
                root / f"ImageSets/Segmentation/{'val' if scene.split == 'train' else 'train'}.txt"
            )
            lists.parent.mkdir(parents=True, exist_ok=True)
            with lists.open("a") as file:
                file.write(f"{scene.stem}\n")
            labels.putpalette([value % 256 for value in range(0, 768)])
        labels.save(place)
    prepared = prepare_data(root, tmp_path / "out")
    expected = {"cityscapes": (255, 0, 13), "ade": (255, 0, 149), "voc palette": (0, 1, 2)}[kind]
    if kind == "voc palette":
        assert prepared.classes == ["background", "class_1", "class_20"]
    else:
        first, last = ("road", "car") if kind == "cityscapes" else ("wall", "flag")
        assert (prepared.classes[0], prepared.classes[expected[2]]) == (first, last)
        assert len(prepared.classes) == {"cityscapes": 19, "ade": 150}[kind]
    for stem, (labels, split) in read_maps(tmp_path / "out").items():
        scene = next(scene for scene in scenes if stem.startswith(scene.stem))
        assert (split == scene.split) == (kind != "voc palette")  # the lists say the opposite
        np.testing.assert_array_equal(labels, np.array(expected)[scene.label_map()])


def test_splits_are_stratified_seeded_and_disjoint(tmp_path):
    scenes = labelled.make_scenes(count=60)
    labelled.write_label_studio(tmp_path / "in", scenes)
    seen = []
    for number, seed in enumerate((0, 0, 1)):
        out = tmp_path / str(number)
        prepared = prepare_data(
            tmp_path / "in", out, shares={"train": 0.6, "val": 0.2, "test": 0.2}, seed=seed
        )
        _, splits = read_objects(out)
        assert len(splits) == 60
        assert {split: each["images"] for split, each in prepared.splits.items()} == {
            "train": 36,
            "val": 12,
            "test": 12,
        }
        # 40 of the 60 images hold a nut.
        assert [each["images_by_class"]["nut"] for each in prepared.splits.values()] == [24, 8, 8]
        seen.append(splits)
    assert seen[0] == seen[1] != seen[2]


def test_a_rare_class_is_learnt_before_it_is_validated(tmp_path):
    scenes = labelled.make_scenes(count=10)
    scenes[4].objects.append(("washer", scenes[4].objects[0][1]))
    labelled.write_labelme(tmp_path / "in", scenes)
    prepared = prepare_data(tmp_path / "in", tmp_path / "out")
    assert prepared.splits["train"]["images_by_class"]["washer"] == 1
    assert "no image of val has washer, so that is not scored" in prepared.notes


def test_images_to_convert_are_named(scenes, tmp_path):
    labelled.write_cvat(tmp_path / "in", scenes)
    (tmp_path / "in/images/phone.HEIC").write_bytes(b"")
    prepared = prepare_data(tmp_path / "in", tmp_path / "out")
    ((reason, names),) = prepared.left_out.items()
    assert "to convert first" in reason and names == ["images/phone.HEIC"]


def test_groups_and_equal_images_stay_together(tmp_path):
    scenes = labelled.make_scenes(count=24)
    for index, scene in enumerate(scenes):
        scene.stem = f"plant{index // 4}_{index}"
    labelled.write_labelme(tmp_path / "in", scenes)
    prepare_data(tmp_path / "in", tmp_path / "out", group_by=r"plant\d+")
    _, splits = read_objects(tmp_path / "out")
    by_group = Counter({(stem.partition("_")[0], split) for stem, split in splits.items()})
    assert len(by_group) == 6 and set(splits.values()) == {"train", "val"}

    for scene in scenes[:12]:  # the same content under another name
        scene.image = scenes[0].image
    labelled.write_labelme(tmp_path / "in2", scenes[:12:2] + scenes[12:])
    prepare_data(tmp_path / "in2", tmp_path / "out2")
    _, splits = read_objects(tmp_path / "out2")
    assert len({splits[scene.stem] for scene in scenes[:12:2]}) == 1


def test_images_of_val_that_are_in_train_are_said(scenes, tmp_path):
    labelled.write_yolo(tmp_path / "in", scenes)
    train, val = (
        f"{tmp_path}/in/images/{place}.jpg" for place in ("train/IMG_0000", "val/IMG_0006")
    )
    cv2.imwrite(val, cv2.imread(train))
    with open(train, "rb") as source, open(val, "wb") as target:
        target.write(source.read())
    prepared = prepare_data(tmp_path / "in", tmp_path / "out")
    assert any("are in train, too" in note and "IMG_0006" in note for note in prepared.notes)


def spoil(root, change):
    path = root / "result.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


SPOILT = {
    "box empty": (
        lambda c: c["annotations"][0].update(bbox=[1, 1, 0, 5]),
        "box is empty",
        "IMG_0000",
    ),
    "box outside": (
        lambda c: c["annotations"][0].update(bbox=[500, 1, 9, 5]),
        "box is empty or outside",
        "IMG_0000",
    ),
    "unknown image": (
        lambda c: c["annotations"][0].update(image_id=99),
        "unknown image",
        "annotation 0 of result.json",
    ),
    "unknown category": (
        lambda c: c["annotations"][0].update(category_id=99),
        "unknown category",
        "annotation 0 of result.json",
    ),
    "no file": (
        lambda c: c["images"][0].update(file_name="gone.jpg"),
        "file is not found",
        "gone.jpg",
    ),
    "other size": (
        lambda c: c["images"][0].update(width=640),
        "another size than annotated",
        "read as 96 x 64",
    ),
    "short polygon": (
        lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3, 4]]),
        "polygons with too few points",
        "IMG_0000",
    ),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_what_is_left_out_is_counted_and_named(fault, scenes, tmp_path, capsys):
    change, reason, name = SPOILT[fault]
    labelled.write_label_studio(tmp_path / "in", scenes)
    spoil(tmp_path / "in", change)
    assert main([str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
    (line,) = [
        line for line in capsys.readouterr().out.splitlines() if reason in line and name in line
    ]
    assert line.startswith("left out: 1 ")


def test_flags_and_run_lengths_of_coco_are_kept(scenes, tmp_path):
    labelled.write_label_studio(tmp_path / "in", scenes)
    code = {"size": [64, 96], "counts": [64, 10, 6070]}
    spoil(tmp_path / "in", lambda c: c["annotations"][0].update(iscrowd=1, segmentation=code))
    prepare_data(tmp_path / "in", tmp_path / "out")
    objects, _ = read_objects(tmp_path / "out")
    first = objects["IMG_0000"][0][1]
    assert (first["iscrowd"], first["segmentation"]) == (1, code)


def test_an_image_that_is_listed_twice_keeps_all_its_objects(scenes, tmp_path):
    labelled.write_label_studio(tmp_path / "in", scenes)

    def list_anew(content):
        content["images"].append({**content["images"][1], "id": 500})
        content["annotations"][2]["image_id"] = 500

    spoil(tmp_path / "in", list_anew)
    prepared = prepare_data(tmp_path / "in", tmp_path / "out")
    objects, _ = read_objects(tmp_path / "out")
    assert [name for name, _ in objects["IMG_0001"]] == ["bolt", "nut"]
    assert any(note.startswith("1 images are listed twice") for note in prepared.notes)


def test_the_same_folder_to_train_and_validate_is_split(scenes, tmp_path):
    labelled.write_yolo(tmp_path / "in", scenes)
    (tmp_path / "in/data.yaml").write_text("train: images\nval: images\nnames: [bolt, nut]\n")
    prepared = prepare_data(tmp_path / "in", tmp_path / "out")
    objects, splits = read_objects(tmp_path / "out")  # asserts that no image is in two
    assert Counter(splits.values()) == {"train": 6, "val": 2}
    assert sum(map(len, objects.values())) == sum(len(scene.objects) for scene in scenes)
    assert "in several splits: split anew" in prepared.notes[0]


def test_names_may_begin_with_a_byte_order_mark(scenes, tmp_path):
    labelled.write_yolo(tmp_path / "in", scenes, data_file=False)
    (tmp_path / "in/classes.txt").write_text("Bolzen\nMütter\n", "utf-8-sig")
    assert prepare_data(tmp_path / "in", tmp_path / "out").classes == ["Bolzen", "Mütter"]


@pytest.mark.parametrize("masks", [True, False])
def test_photos_are_measured_as_they_are_read(masks, scenes, tmp_path):
    """The EXIF orientation turns them: what fits the unturned pixels only is named."""
    write = labelled.write_label_studio
    if masks:
        write = lambda root, scenes: labelled.write_maps(root, scenes, "index")  # noqa: E731
    write(tmp_path / "in", scenes)
    (path,) = (tmp_path / "in").rglob("IMG_0000.jpg")
    image = Image.open(path)
    exif = image.getexif()
    exif[0x112] = 6
    image.save(path, exif=exif)
    prepared = prepare_data(tmp_path / "in", tmp_path / "out")
    ((reason, names),) = prepared.left_out.items()
    assert "another size" in reason and len(names) == 1 and "IMG_0000" in names[0]


def written(root, change):
    labelled.write_label_studio(root, SCENES)
    spoil(root, change)


def boxes(root, form, mask=True):
    """Write boxes of another form than COCO's."""

    def change(content):
        for entry in content["annotations"]:
            entry["bbox"] = form(*entry["bbox"])
            entry["segmentation"] = entry["segmentation"] if mask else []

    written(root, change)


REFUSED = {
    "nothing": (lambda root: None, [], "none of the known formats"),
    "broken JSON": (lambda root: (root / "a.json").write_text("{"), [], "a.json: expected JSON"),
    "two formats": (
        lambda root: (labelled.write_voc(root, SCENES), labelled.write_labelme(root, SCENES)),
        [],
        "several formats .*--format",
    ),
    "absent class": (
        lambda root: labelled.write_voc(root, SCENES),
        ["--classes", "screw"],
        "no object is a screw; the source has bolt, nut",
    ),
    "wrong number of names": (
        lambda root: labelled.write_maps(root, SCENES, "rgb"),
        ["--classes", "a", "b", "c", "d"],
        "names 4 classes, .* 3 values",
    ),
    "lossy maps": (lambda root: lossy(root), [], "without loss"),
    "no folder": (
        lambda root: (root / "data.yaml").write_text("train: gone\nval: gone\nnames: [a]"),
        [],
        "train is 'gone', expected a folder",
    ),
    "bad pattern": (
        lambda root: labelled.write_voc(root, SCENES),
        ["--group-by", "("],
        "--group-by",
    ),
    "boxes in shares": (
        lambda root: boxes(root, lambda x, y, w, h: [x / 99, y / 99, w / 99, h / 99], mask=False),
        [],
        "look like shares of the image; expected x, y, width and height in pixels",
    ),
    "boxes of two corners": (
        lambda root: boxes(
            root, lambda x, y, w, h: [x + 10, y + 20, x + w + 10, y + h + 20], False
        ),
        [],
        "look like two corners, x1, y1, x2 and y2; expected",
    ),
    "boxes of two corners and polygons": (
        lambda root: boxes(root, lambda x, y, w, h: [x + w, y + h, w, h]),
        [],
        "boxes are elsewhere than their polygons, such as ",
    ),
    "one id of two categories": (
        lambda root: written(root, lambda c: c["categories"][1].update(id=0)),
        [],
        "categories 'bolt' and 'nut' both have id 0",
    ),
    "one id of two images": (
        lambda root: written(root, lambda c: c["images"][1].update(id=0)),
        [],
        "IMG_0000.jpg and .*IMG_0001.jpg both have id 0",
    ),
    "no object": (
        lambda root: labelled.write_voc(root, [labelled.Scene("a", "train", SCENES[0].image)]),
        [],
        "has no object in its images",
    ),
    "other numbers": (
        lambda root: labelled.write_maps(root, SCENES, "index"),
        ["--classes", "bolt=7", "nut=8"],
        "hold 0, 1, 2, of which none is a class",
    ),
    "one image": (lambda root: labelled.write_labelme(root, SCENES[:1]), [], "cannot be split"),
}
SCENES = labelled.make_scenes(count=4, validation=1)


def lossy(root):
    labelled.write_maps(root, SCENES, "rgb")
    for path in root.glob("annotations/*/*.png"):
        image = cv2.imread(str(path))
        noise = np.random.default_rng(0).integers(0, 99, image.shape).astype(np.uint8)
        cv2.imwrite(str(path), image + noise)


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_one_line(case, tmp_path, capsys):
    write, options, message = REFUSED[case]
    root = tmp_path / "in"
    root.mkdir()
    write(root)
    assert main([str(root), "--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error
    assert not (tmp_path / "out").exists()


def test_only_what_was_prepared_is_replaced(scenes, tmp_path):
    labelled.write_voc(tmp_path / "in", scenes)
    prepare_data(tmp_path / "in", tmp_path / "out")
    with pytest.raises(UserError, match="--overwrite"):
        prepare_data(tmp_path / "in", tmp_path / "out")
    prepare_data(tmp_path / "in", tmp_path / "out", overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    for folder in ("mine", "in", "."):
        with pytest.raises(UserError, match="--out"):
            prepare_data(tmp_path / "in", tmp_path / folder, overwrite=True)
    assert (tmp_path / "mine/letter.txt").read_text() == "dear"
