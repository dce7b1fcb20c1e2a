"""pvt_mm.Predictor: the numbers of mmdet and mmseg, whole or in tiles; one line for mistakes."""

import gc
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from blobs import CLASSES, blob_config, scene
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from pycocotools import mask as coco_masks

from pvt_mm import Predictor
from pvt_mm.checkpoints import CheckpointError
from pvt_mm.errors import UserError
from pvt_mm.inference import Detection, Segmentation
from pvt_mm.inference.gathering import Labels
from pvt_mm.inference.tiles import tiles
from pvt_mm.results import box_of, decode, encode, resize

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
TINY = dict(
    embed_dims=[16, 16, 16, 16],
    depths=[1, 1, 1, 1],
    num_heads=[1, 1, 2, 2],
    mlp_ratios=[2, 2, 2, 2],
    sr_ratios=[4, 2, 1, 1],
)
# Everything is an object, so that a network which has learnt nothing finds some.
CHANGES = {
    "retinanet": {"model.test_cfg": dict(score_thr=0.0, nms_pre=20, max_per_img=10)},
    "mask_rcnn": {"model.test_cfg.rcnn.score_thr": 0.0, "model.test_cfg.rcnn.max_per_img": 10},
    "fpn": {},
}
BOXES = [
    (10, 20, 50, 60, 0),
    (100, 90, 150, 140, 0),  # in the corner of a tile of 128
    (120, 10, 170, 40, 1),
    (180, 200, 240, 250, 2),
    (350, 240, 400, 300, 1),  # at the image's border
    (60, 150, 61, 151, 2),
]


def tiny(name, folder):
    """Write a demo config with a tiny backbone, and random weights of it; returns both paths."""
    cfg = Config.fromfile(CONFIGS / f"{name}_pvt_v2_b0_{'' if name == 'fpn' else 'fpn_'}demo.py")
    cfg.model.backbone = dict(type="pvt_mm.PVTv2", arch=TINY)
    cfg.model.neck.in_channels = TINY["embed_dims"]
    cfg.merge_from_dict(CHANGES[name])
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    model.init_weights()
    meta = dict(dataset_meta=dict(cfg.metainfo))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / f"{name}.pth")
    # Only now: the weights that a training starts from are of no concern.
    cfg.model.backbone.init_cfg = dict(type="Pretrained", checkpoint="pvt://nowhere")
    cfg.dump(folder / f"{name}.py")
    return folder / f"{name}.py", folder / f"{name}.pth"


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    return {name: tiny(name, folder) for name in CHANGES}


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, 256, (*size, 3), np.uint8) for size in ((96, 128), (128, 80), (96, 128))
    ]


def assert_same(one, other, atol=1e-4):
    if isinstance(one, Segmentation):
        assert (one.labels == other.labels).mean() > 0.999
        return
    assert np.allclose(one.boxes, other.boxes, atol=100 * atol)
    assert np.allclose(one.scores, other.scores, atol=atol)
    assert (one.labels == other.labels).all()


@pytest.mark.parametrize("name", ["retinanet", "mask_rcnn"])
def test_detections_are_mmdets(networks, images, name):
    from mmdet.apis import inference_detector, init_detector

    config, checkpoint = networks[name]
    cfg = Config.fromfile(config)
    reference = init_detector(cfg, str(checkpoint), device="cpu", palette="random")
    found = Predictor(config, checkpoint, "cpu", score_thr=0, batch_size=2)(images)
    for image, result in zip(images, found, strict=True):
        expected = inference_detector(reference, image).pred_instances
        order = expected.scores.argsort(descending=True, stable=True)
        expected = expected[order]
        assert len(result) == len(expected) > 0
        assert np.allclose(result.boxes, expected.bboxes, atol=1e-2)
        assert np.allclose(result.scores, expected.scores, atol=1e-4)
        assert (result.labels == expected.labels.numpy()).all()
        assert result.class_names == ("disc", "box", "triangle", "star", "ring")
        if name == "mask_rcnn":
            for index, mask in enumerate(expected.masks):
                assert (result.mask(index) == np.asarray(mask)).mean() > 0.999
        else:
            assert result.masks is None


def test_label_maps_are_mmsegs(networks, images):
    from mmseg.apis import inference_model, init_model

    config, checkpoint = networks["fpn"]
    reference = init_model(str(config), str(checkpoint), device="cpu")
    predictor = Predictor(config, checkpoint, "cpu")
    for image in images:
        expected = inference_model(reference, image).pred_sem_seg.data[0].numpy()
        result = predictor(image)
        assert result.labels.shape == image.shape[:2] and result.labels.dtype == np.uint8
        assert (result.labels == expected).mean() > 0.999
    assert result.class_names[0] == "background" and result.palette[0] == (60, 60, 60)


@pytest.mark.parametrize("name", CHANGES)
def test_a_result_does_not_depend_on_its_batch(networks, images, name):
    alone, together = (
        Predictor(*networks[name], "cpu", score_thr=0, batch_size=size)(images) for size in (1, 3)
    )
    for one, other in zip(alone, together, strict=True):
        assert_same(one, other)


def test_images_are_paths_arrays_or_several(networks, images, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), images[0])
    predictor = Predictor(*networks["fpn"], "cpu")
    expected = predictor(images[0])
    assert isinstance(expected, Segmentation)
    for given in (str(tmp_path / "a.png"), tmp_path / "a.png"):
        assert_same(predictor(given), expected)
    several = predictor(path for path in (tmp_path / "a.png", images[1]))
    assert isinstance(several, list) and len(several) == 2
    assert_same(several[0], expected)
    stream = predictor.stream([images[0], tmp_path / "none.png"])
    assert_same(next(stream), expected)
    with pytest.raises(UserError, match=r"none\.png: No such file"):
        next(stream)


@pytest.mark.parametrize(
    "image", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3)), np.zeros((3, 9, 9), np.uint8)]
)
def test_arrays_of_another_kind_are_refused(tmp_path, image):
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8"):
        Predictor(*blob_config(tmp_path), "cpu")(image)


@pytest.mark.skipif(torch.cuda.is_available(), reason="bfloat16 is for CPUs")
@pytest.mark.parametrize("name", CHANGES)
def test_mixed_precision_on_the_cpu(networks, images, name):
    options = dict(score_thr=0, batch_size=2)
    plain = Predictor(*networks[name], "cpu", **options)(images[0])
    mixed = Predictor(*networks[name], "cpu", amp=True, **options)(images[0])
    if name == "fpn":
        assert (plain.labels == mixed.labels).mean() > 0.9
    else:
        assert len(mixed) == len(plain) and mixed.boxes.dtype == np.float32
        assert not np.array_equal(plain.scores, mixed.scores)
        assert np.allclose(np.sort(plain.scores), np.sort(mixed.scores), atol=0.02)


def found_boxes(detection):
    return sorted(
        (*box, label)
        for box, label in zip(detection.boxes.tolist(), detection.labels.tolist(), strict=True)
    )


@pytest.mark.parametrize("options", [{}, dict(tile=128, tile_overlap=0.5), dict(tile=1000)])
@pytest.mark.parametrize("with_mask", [False, True])
def test_tiles_find_what_the_whole_image_holds(tmp_path, options, with_mask):
    image = scene(BOXES)
    predictor = Predictor(
        *blob_config(tmp_path, with_mask=with_mask), "cpu", batch_size=4, **options
    )
    result = predictor(image)
    assert found_boxes(result) == sorted((*map(float, box), label) for *box, label in BOXES)
    assert (np.diff(result.scores) <= 0).all()
    assert (result.masks is not None) == with_mask
    for index in range(len(result)) if with_mask else ():
        x1, y1, x2, y2 = result.boxes[index].astype(int)
        expected = np.zeros(image.shape[:2], bool)
        expected[y1:y2, x1:x2] = True
        assert (result.mask(index) == expected).all()


def test_what_is_longer_than_the_overlap_stays_in_pieces(tmp_path):
    options = dict(tile=128, tile_overlap=0.25)
    result = Predictor(*blob_config(tmp_path), "cpu", **options)(scene([(20, 20, 380, 60, 0)]))
    assert 2 <= len(result) <= 4
    assert result.boxes[:, 0].min() == 20 and result.boxes[:, 2].max() == 380


@pytest.mark.parametrize("size", [(300, 400), (64, 1000), (129, 128)])
@pytest.mark.parametrize(("tile", "overlap"), [(128, 0), (128, 0.25), (64, 0.85)])
def test_tiles_cover_each_pixel_and_overlap(size, tile, overlap):
    seen = np.zeros(size, int)
    for place in tiles(*size, tile, overlap):
        seen[place.y.start : place.y.stop, place.x.start : place.x.stop] += 1
        assert place.cut(seen).shape == (min(tile, size[0]), min(tile, size[1]))
    assert (seen >= 1).all()
    columns = sorted({place.x for place in tiles(*size, tile, overlap)})
    for one, other in zip(columns, columns[1:], strict=False):
        assert one.stop - other.start >= int(tile * overlap)


@pytest.mark.parametrize("channels", [6, 1])
@pytest.mark.parametrize(("overlap", "size"), [(0.25, (96, 240)), (0.5, (192, 144)), (0, (96, 97))])
def test_tiles_of_a_segmentor_are_mmsegs_slide_mode(networks, channels, overlap, size):
    """The sizes are such that both place their windows alike."""
    from mmseg.apis import inference_model, init_model

    config, checkpoint = networks["fpn"]
    cfg = Config.fromfile(config)
    steps = cfg.test_dataloader.dataset.pipeline
    cfg.test_dataloader.dataset.pipeline = [s for s in steps if s.type != "Resize"]
    cfg.test_pipeline = cfg.test_dataloader.dataset.pipeline
    cfg.model.data_preprocessor.test_cfg = None  # padding would move the windows
    if channels == 1:
        checkpoint = binary(cfg, checkpoint)
    predictor = Predictor(cfg, checkpoint, "cpu", tile=96, tile_overlap=overlap)
    stride = round(96 * (1 - overlap))
    cfg.model.test_cfg = dict(mode="slide", crop_size=(96, 96), stride=(stride, stride))
    reference = init_model(cfg, str(checkpoint), device="cpu")
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    found = predictor(image).labels
    expected = inference_model(reference, image).pred_sem_seg.data[0].numpy()
    assert len(np.unique(expected)) > 1
    assert found.shape == size and (found == expected).mean() > 0.999


def binary(cfg, checkpoint):
    """Make a network with one score per pixel of a config, and write random weights of it."""
    head = cfg.model.decode_head
    head.num_classes, head.out_channels, head.threshold = 2, 1, 0.5
    content = torch.load(checkpoint, weights_only=True)
    for name in ("weight", "bias"):
        content["state_dict"][f"decode_head.conv_seg.{name}"] = content["state_dict"][
            f"decode_head.conv_seg.{name}"
        ][:1]
    content["meta"] = dict(dataset_meta=dict(classes=("ground", "blob")))
    path = checkpoint.with_name("binary.pth")
    torch.save(content, path)
    return path


@pytest.mark.parametrize("size", [(200, 2000), (2000, 200)])
def test_few_scores_wait_for_the_next_tile(tmp_path, monkeypatch, size):
    waiting = []

    class Spied(Labels):
        def add(self, tile, sample):
            super().add(tile, sample)
            waiting.append(sum(scores.untyped_storage().nbytes() for scores in self._sums.values()))

    monkeypatch.setattr("pvt_mm.inference.gathering.Labels", Spied)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    Predictor(*blob_config(tmp_path, segmentor=True), "cpu", tile=100)(image)
    assert waiting[-1] == 0, "all have had theirs"
    # Three float32 each: those of the overlap along the shorter side, and within the last tiles.
    assert 0 < max(waiting) <= 3 * 4 * (2 * 34 * 200 + 34 * 100)


def test_label_maps_of_tiles_meet(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    files = blob_config(tmp_path, segmentor=True)
    result = Predictor(*files, "cpu", batch_size=3, tile=96)(image)
    assert (result.labels == image.argmax(axis=2)).all()


@pytest.mark.parametrize("options", [{}, dict(tile=128, tile_overlap=0.5)])
def test_results_of_a_shrunk_image_fit_the_image(tmp_path, options):
    boxes = [(8, 16, 48, 64, 0), (160, 128, 208, 160, 2)]
    result = Predictor(*blob_config(tmp_path), "cpu", max_size=200, **options)(scene(boxes))
    expected = [(*map(float, box), label) for *box, label in boxes]
    assert np.allclose(found_boxes(result), sorted(expected), atol=2)
    for index in range(2):
        assert result.mask(index).shape == (300, 400)
        assert np.allclose(box_of(result.masks[index]), result.boxes[index], atol=1)
    segmentor = Predictor(*blob_config(tmp_path, segmentor=True), "cpu", max_size=200)
    labels = segmentor(scene(boxes)).labels
    assert labels.shape == (300, 400)
    assert (labels == scene(boxes).argmax(axis=2)).mean() > 0.98


@pytest.mark.parametrize("density", [0, 0.02, 0.5, 1])
def test_masks_are_coded_as_pycocotools_does(density):
    rng = np.random.default_rng(0)
    for height, width, left, top in ((1, 1, 0, 0), (13, 7, 0, 0), (13, 7, 5, 6), (20, 7, 3, 0)):
        mask = rng.random((height, width)) < density
        canvas = np.zeros((20, 30), np.uint8, order="F")
        canvas[top : top + height, left : left + width] = mask
        coded = encode(mask, (20, 30), left, top)
        assert coded == coco_masks.encode(canvas)
        assert (decode(coded) == canvas).all()
    doubled = resize(coded, (40, 60))
    assert (decode(doubled) == np.kron(canvas, np.ones((2, 2)))).all()


META = {
    "checkpoint": (dict(dataset_meta=dict(classes=("a", "b", "c"))), ("a", "b", "c")),
    "capitals": (dict(dataset_meta=dict(CLASSES=("a", "b", "c"))), ("a", "b", "c")),
    "mmdet 2": (dict(CLASSES=("a", "b", "c"), epoch=1), ("a", "b", "c")),
    "config": ({}, CLASSES),
    "of another head": (dict(CLASSES=("a", "b")), CLASSES),
    "none": (None, CLASSES),
}


@pytest.mark.parametrize(("meta", "expected"), META.values(), ids=META)
def test_class_names(tmp_path, meta, expected):
    config, checkpoint = blob_config(tmp_path)
    torch.save(dict(state_dict=dict(weight=torch.zeros(1)), meta=meta), checkpoint)
    predictor = Predictor(Config.fromfile(config), checkpoint, "cpu")
    assert predictor.class_names == expected
    assert len(set(predictor(scene(BOXES)).palette)) == 3


ERRORS = {
    "config": (dict(config="none.py"), "config none.py not found"),
    "checkpoint": (dict(checkpoint="none.pth"), "none.pth"),
    "mismatch": (dict(checkpoint="other.pth"), "does not fit the config's model"),
    "device": (dict(device="cuda:77"), "--device cuda:77 cannot be used"),
    "classifier": (dict(config=CONFIGS / "pvt_v2_b2_in1k.py"), "tools/classify.py"),
    "batch": (dict(batch_size=0), "--batch-size must be at least 1, got 0"),
    "tile": (dict(tile=8), "--tile must be at least 64, got 8"),
    "overlap": (dict(tile_overlap=1.0), "--tile-overlap must be from 0 to below 0.9"),
    "max": (dict(max_size=0), "--max-size must be at least 64, got 0"),
    "no data": (dict(cfg_options=dict(test_dataloader=None)), "no test_dataloader"),
}


@pytest.mark.parametrize(("change", "message"), ERRORS.values(), ids=ERRORS)
def test_mistakes_are_one_line(tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    config, checkpoint = blob_config(tmp_path)
    torch.save(dict(state_dict=dict(bias=torch.zeros(1))), "other.pth")
    options = dict(config=config, checkpoint=checkpoint, device="cpu") | change
    with pytest.raises((UserError, CheckpointError)) as caught:
        Predictor(**options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def detection(boxes, name="object"):
    """Detections of one class, drawn in a colour that no image here has."""
    count = len(boxes)
    labels = np.zeros(count, np.int64)
    return Detection(
        np.array(boxes, np.float32), np.full(count, 0.5), labels, None, (name,), ((10, 200, 30),)
    )


def background(picture):
    """Count the pixels of a label's background; lines are of the same colour."""
    return (np.abs(picture.astype(int) - (30, 200, 10)).max(axis=2) < 3).sum()


@pytest.mark.parametrize("corner", [(0, 0), (399, 0), (0, 299), (399, 299)])
def test_labels_stay_inside_the_picture(corner):
    image = np.zeros((300, 400, 3), np.uint8)
    # Of a single pixel: nothing else is drawn.
    pictures = [detection([(x, y, x + 1, y + 1)]).draw(image) for x, y in ((200, 150), corner)]
    assert all(picture.shape == image.shape for picture in pictures)
    assert not image.any()
    assert background(pictures[0]) > 500
    assert abs(background(pictures[0]) - background(pictures[1])) < 20


def test_labels_do_not_hide_each_other_and_long_ones_are_shortened():
    image = np.zeros((300, 400, 3), np.uint8)
    one, three = ([(100, 100, 101, 101)] * count for count in (1, 3))
    sizes = [background(detection(boxes).draw(image)) for boxes in (one, three)]
    assert sizes[1] == pytest.approx(3 * sizes[0], abs=20)
    assert detection([(0, 0, 9, 9)], name="x" * 500).draw(image).shape == image.shape


def test_small_images_are_enlarged_to_be_read():
    image = np.zeros((50, 100, 3), np.uint8)
    assert detection([(10, 10, 30, 30)]).draw(image).shape == (300, 600, 3)
    labels = np.zeros((50, 100), np.uint8)
    labels[:, 50:] = 1
    palette = ((200, 0, 0), (0, 0, 200))
    picture = Segmentation(labels, ("sky", "sea"), palette).draw(image)
    assert picture.shape == (300, 600, 3)
    # Red on the left, blue on the right, in BGR.
    assert picture[5, 5, 2] > picture[5, 5, 0] and picture[5, -5, 0] > picture[5, -5, 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "path", "classes"),
    [
        ("mmdet", "rtmdet/rtmdet_tiny_8xb32-300e_coco.py", 80),
        ("mmseg", "fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py", 19),
    ],
)
def test_configs_of_mm_itself(tmp_path, package, path, classes):
    module = pytest.importorskip(package)
    config = Path(module.__file__).parent / ".mim" / "configs" / path
    cfg = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope(package):
        torch.save(MODELS.build(cfg.model).state_dict(), tmp_path / "bare.pth")
    predictor = Predictor(config, tmp_path / "bare.pth", "cpu", score_thr=0)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    result = predictor(image)
    assert len(result.class_names) == len(result.palette) == classes
    assert result.draw(image).ndim == 3


def test_importing_the_package_does_not_import_inference():
    code = "import sys, pvt_mm; assert not {'cv2', 'mmcv', 'pvt_mm.inference'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", CHANGES)
def test_predictions_leave_no_objects_behind(networks, images, name):
    predictor = Predictor(*networks[name])

    def objects_after(calls):
        for _ in range(calls):
            predictor(images)
        gc.collect()
        return len(gc.get_objects())

    before = objects_after(2)
    calls = 20
    assert objects_after(calls) - before < calls
