"""Everything that the checks of a data set can find, in one table."""

from dataclasses import dataclass

__all__ = ["ERROR", "KINDS", "OF_THE_WHOLE", "PER_SAMPLE", "WARNING", "Kind"]

ERROR, WARNING = "error", "warning"


@dataclass(frozen=True)
class Kind:
    """One way in which data can be bad.

    Args:
        level: ``ERROR``: it would end a run or silently train on something wrong. ``WARNING``: it
            works, but perhaps not as meant.
        expected: What should be there.
        advice: How to mend it; of a warning, how it is treated.
    """

    level: str
    expected: str
    advice: str


_FETCH = "fetch or write the file again"
_ENTRY = "write the field, or remove the entry"
_COLOUR = "convert the file, if the colours matter"

KINDS: dict[str, Kind] = {
    # The annotation file.
    "json": Kind(ERROR, "valid JSON in UTF-8, without a byte order mark", _FETCH),
    "json-format": Kind(
        ERROR, "an object with lists images, annotations and categories", "write it in COCO format"
    ),
    "no-images": Kind(ERROR, "at least one image", "list the images"),
    "no-annotations": Kind(
        ERROR, "at least one annotation: training leaves out images without one", "annotate"
    ),
    # Its images.
    "image-entry": Kind(
        ERROR, "id (a whole number), file_name (text), width and height in pixels", _ENTRY
    ),
    "image-id-twice": Kind(ERROR, "an id of its own for each image", "renumber the images"),
    "image-file-twice": Kind(WARNING, "each file once", "treated as two images"),
    # Its categories.
    "category-entry": Kind(ERROR, "id (a whole number) and name (text)", _ENTRY),
    "category-twice": Kind(
        ERROR, "an id and a name of its own for each category", "merge the categories"
    ),
    "category-order": Kind(
        ERROR,
        "the classes of the config in the order of the file, none missing in between: labels "
        "count the file's categories",
        "list all classes in the file; let labels go by their names (type='pvt_mm.CocoDataset', "
        "and 'pvt_mm.CocoMetric' in the evaluator), or order metainfo.classes like the file",
    ),
    "class-name": Kind(
        ERROR,
        "the classes of the data set among the categories of the file, spelt the same",
        "set metainfo.classes of the data set to names of the file",
    ),
    "class-unseen": Kind(
        WARNING,
        "each class at least once",
        "it is never learnt or scored; label it, or leave it out of the classes",
    ),
    # Its annotations.
    "annotation-entry": Kind(
        ERROR, "id, image_id and category_id, whole numbers", "write the field, or remove the entry"
    ),
    "annotation-id-twice": Kind(
        ERROR, "an id of its own for each annotation", "renumber the annotations"
    ),
    "annotation-id-zero": Kind(
        ERROR, "ids from 1: COCO's evaluation takes 0 for 'no match'", "renumber the annotations"
    ),
    "unknown-image": Kind(WARNING, "the id of an image in the file", "the annotation is not used"),
    "unknown-category": Kind(
        WARNING, "the id of a category in the file", "the annotation is not used"
    ),
    "crowd-flag": Kind(ERROR, "iscrowd 0 or 1", "write 0, or 1 for a group of objects"),
    "area": Kind(ERROR, "a finite number", "write the object's area in square pixels"),
    "area-zero": Kind(WARNING, "an area above 0", "the annotation is not used in training"),
    "box": Kind(ERROR, "bbox [x, y, width, height], four finite numbers", "mend or remove it"),
    "box-empty": Kind(
        WARNING, "width and height of at least 1 pixel", "the annotation is not used in training"
    ),
    "box-outside": Kind(WARNING, "a box in the image", "the annotation is not used in training"),
    "box-cut": Kind(WARNING, "a box inside the image", "cut off at the image's edge"),
    # Their masks.
    "mask-missing": Kind(
        ERROR,
        "a segmentation: the config trains masks",
        "add it, remove the annotation, or train a detector without masks",
    ),
    "mask": Kind(
        ERROR, "a list of polygons [x, y, x, y, ...], or an RLE with size and counts", "rewrite it"
    ),
    "polygon-numbers": Kind(ERROR, "finite numbers, near the image", "mend or remove the polygon"),
    "polygon-short": Kind(
        WARNING,
        "x and y of at least 3 points",
        "left out; an object without any other polygon is ignored in training",
    ),
    "polygon-outside": Kind(WARNING, "a polygon in the image", "an empty mask"),
    "rle-size": Kind(ERROR, "[height, width] of the image", "encode the mask again"),
    "rle-counts": Kind(
        ERROR, "run lengths of at least 0 that add up to height x width", "encode the mask again"
    ),
    # Image files.
    "image-missing": Kind(ERROR, "a file that can be read", "fetch it, or remove its entry"),
    "image-broken": Kind(ERROR, "a whole image", _FETCH),
    "image-size": Kind(
        ERROR, "width and height as in the annotation file", "correct the entry, or the file"
    ),
    "image-rotated": Kind(
        ERROR,
        "boxes for the image as it is read: turned as its EXIF orientation says",
        "if the boxes fit the unturned image, set color_type='color_ignore_orientation' of "
        "LoadImageFromFile; otherwise swap width and height in the annotation file",
    ),
    "image-exif": Kind(
        WARNING,
        "boxes and label map for the image as it is read",
        "turned or mirrored as its EXIF orientation says",
    ),
    "image-narrow": Kind(
        ERROR,
        "sides that are both at least a pixel after the resizing, or 32 where a PVT gets it as it "
        "is, without padding",
        "crop or remove it, or let the data preprocessor pad (see image-small)",
    ),
    "image-tiny": Kind(WARNING, "at least 8 pixels a side", "enlarged like any other"),
    "image-large": Kind(WARNING, "fewer than 64 megapixels", "decoded whole each time; shrink it"),
    "image-depth": Kind(WARNING, "8 bits a channel", "the lower bits are cut off; " + _COLOUR),
    "image-alpha": Kind(WARNING, "no transparency", "the alpha channel is dropped; " + _COLOUR),
    "image-cmyk": Kind(WARNING, "RGB", "converted without a colour profile; " + _COLOUR),
    "image-frames": Kind(WARNING, "one picture", "the first one is used"),
    "image-left-out": Kind(
        WARNING,
        "images that all end in the data set's img_suffix, in the same case",
        "not used: rename them, or convert them",
    ),
    # Label maps.
    "label-missing": Kind(ERROR, "a label map for each image", "fetch it, or remove the image"),
    "label-broken": Kind(ERROR, "a whole image", _FETCH),
    "label-colour": Kind(
        ERROR, "one channel of class numbers", "convert the colours to class numbers"
    ),
    "label-value": Kind(
        ERROR,
        "class numbers below the number of classes, or 255 to ignore; one more with "
        "reduce_zero_label, where 0 is ignored",
        "correct the label map, or the classes and reduce_zero_label of the data set",
    ),
    "label-size": Kind(ERROR, "the size of its image", "resize it with nearest neighbour"),
    "label-ignored": Kind(WARNING, "labelled pixels", "nothing is learnt from the image"),
    "label-left-over": Kind(WARNING, "an image for each label map", "not used"),
    # What the config says beside the data set.
    "model-classes": Kind(
        ERROR,
        "as many classes in the model's heads as the data set has",
        "set num_classes of the heads, or metainfo.classes of the data set",
    ),
    "evaluator-classwise": Kind(
        WARNING,
        "categories whose ids rise, for the AP of each class to stand beside its own name",
        "the classes' names are permuted, mAP is right; type='pvt_mm.CocoMetric' goes by names",
    ),
    "evaluator-file": Kind(
        ERROR,
        "the data set's own images (by id and file name), objects, and classes in their order",
        "set the evaluator's ann_file to the file of the data set that is tested; if only the "
        "order differs, type='pvt_mm.CocoMetric' goes by names",
    ),
    "evaluator-labels": Kind(
        ERROR,
        "labels in the size of the image, to which predictions are scaled back",
        "put LoadAnnotations behind the transforms that change the image's size",
    ),
    "evaluator-more": Kind(
        ERROR,
        "no more classes than VOC has, whose names VOCMetric takes in VOC's folders",
        "give the folder another name, or a link to it: without VOC2007 or VOC2012 in the path",
    ),
    "evaluator-names": Kind(
        WARNING,
        "AP under the names of the data set's own classes",
        "give the folder another name, or a link to it: without VOC2007 or VOC2012 in the path",
    ),
    "class-weight": Kind(
        ERROR,
        "a weight for each class of the head, in their order",
        "write as many numbers into class_weight; a softmax over boxes has one more for no object",
    ),
    # What one split says beside the other.
    "split-class": Kind(
        WARNING,
        "each class of what is validated on in the training set, too",
        "it is never learnt, so it is not found; label it there, or leave it out of the classes",
    ),
    "split-shared": Kind(
        WARNING,
        "images that are not trained on",
        "scored as they are, better than new images would be; take them out of one of the two",
    ),
    # What the pipeline leaves for the network.
    "image-small": Kind(
        ERROR,
        "at least 32 pixels a side, which a PVT needs",
        "set model.data_preprocessor.test_cfg=dict(size_divisor=32) of a segmentor, its size for "
        "training, pad_size_divisor=32 of a detector; or a larger scale of Resize",
    ),
    "image-queries": Kind(
        ERROR,
        "at least as many tokens as queries, which are the best of them",
        "set a smaller model.num_queries, or a larger scale of Resize",
    ),
    "image-channels": Kind(
        ERROR,
        "as many channels as the backbone takes and the preprocessor has means for",
        "set color_type of each LoadImageFromFile (unchanged leaves all that a file has), "
        "model.backbone.in_channels, and mean and std; of a detector's four channels, mean and std "
        "stand in a Normalize before PackDetInputs, with None in data_preprocessor",
    ),
    "batch-sizes": Kind(
        ERROR,
        "images of one size in a segmentor's batch",
        "set batch_size=1 of the dataloader; in training model.data_preprocessor.size or a crop",
    ),
    # What the pipeline leaves for the loss.
    "pipeline": Kind(ERROR, "samples that pass the pipeline", "mend the pipeline, or the data set"),
    "targets-none": Kind(
        ERROR,
        "labelled pixels, or objects that are neither crowds nor ignored nor empty",
        "label the images; iscrowd is 1 for groups of objects only",
    ),
    "targets-one-class": Kind(
        ERROR,
        "class numbers of at least two classes: with one alone any model scores 100 %",
        "write class numbers into the label maps: in a mask of 0 and 255, 1 in the place of 255",
    ),
    "targets-shifted": Kind(
        ERROR,
        "class k as k + 1 in the files with reduce_zero_label, as k without it",
        "set reduce_zero_label=False in the data set and in each LoadAnnotations that names it; if "
        "0 is unlabelled, leave out the class that never occurs",
    ),
    "targets-maybe-shifted": Kind(
        WARNING,
        "class k as k + 1 in the files with reduce_zero_label, as k without it",
        "said; if 0 is the first class, set reduce_zero_label=False in the data set and in each "
        "LoadAnnotations that names it",
    ),
    "targets-not-ignored": Kind(
        ERROR,
        "classes of the head, or its ignore_index",
        "set ignore_index=255 of the head and of IoUMetric, where 255 is what is ignored; padding "
        "is data_preprocessor.seg_pad_val",
    ),
    "targets-weighted": Kind(
        ERROR,
        "no ignored pixel, where mmseg's CrossEntropyLoss has class weights: it fails",
        "set type='pvt_mm.WeightedCrossEntropyLoss' of the loss, which takes the same class_weight",
    ),
    "targets-ignored-class": Kind(
        WARNING,
        "a number that no class has, such as 255",
        "nothing is learnt where that class is, yet it is scored; remove ignore_index of the head "
        "unless that is meant",
    ),
    "targets-ignored": Kind(
        WARNING,
        "at most 30 % of the pixels ignored",
        "255 is ignored, and 0 with reduce_zero_label: nothing is learnt there, nothing scored",
    ),
    "targets-tiny": Kind(
        WARNING,
        "objects of 8 pixels and more after the resizing",
        "they are hardly learnt: set a larger scale of Resize, or cut the images into tiles",
    ),
}

# Errors of one sample, which a training may leave out; others break the whole data set.
PER_SAMPLE = frozenset(
    kind for kind in KINDS if kind.startswith(("mask", "polygon-", "rle-", "label-"))
) | {"image-missing", "image-broken", "image-size", "image-rotated", "image-narrow"}

# Faults of a whole data set, of which there is one finding: a run says each in a line of its own.
OF_THE_WHOLE = (
    frozenset(
        kind
        for kind in KINDS
        if kind.startswith(("targets-", "class-", "split-", "evaluator-", "model-"))
    )
    | {"image-left-out", "label-left-over", "pipeline"}
    | {"image-small", "image-queries", "image-channels", "batch-sizes"}
)
