"""The real data sets of a config, found inside wrappers, and how their pipelines read files."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from pvt_mm.config.kinds import dataset_configs
from pvt_mm.config.loading import walk
from pvt_mm.config.models import scales_of
from pvt_mm.data.checks import CocoFile, Findings, ImageReader, LabelReader, check_coco
from pvt_mm.data.padding import least_side
from pvt_mm.errors import UserError
from pvt_mm.wording import one_line

__all__ = ["Source", "labels_come_last", "sources"]


@dataclass
class Source:
    """A data set of a split.

    Args:
        where: Its place in the config, for messages.
        config: Its config.
        dataset: The data set; it has its paths and classes, but has read no annotations.
        evaluation: Whether it is evaluated on, not trained on.
        least: How many pixels a side must have after the pipeline.
        scored: Whether its annotations are used, which a test that only writes results does not.
    """

    where: str
    config: Mapping
    dataset: BaseDataset
    evaluation: bool = False
    least: int = 1
    scored: bool = True

    @property
    def reads_coco(self) -> bool:
        """Whether its annotations are a JSON file of images, annotations and categories."""
        return bool(self.dataset.ann_file) and hasattr(self.dataset, "COCOAPI")

    @property
    def is_coco(self) -> bool:
        """Whether mmdet's CocoDataset reads them, and not a relative with other rules."""
        return type(self.dataset).load_data_list.__qualname__ == "CocoDataset.load_data_list"

    @property
    def labels_by_name(self) -> bool:
        """Whether its labels follow the names of its classes, in whatever order its file is."""
        return getattr(self.dataset, "labels_by_name", False)

    @property
    def name(self) -> str:
        """Its annotation file, or its folder of images."""
        prefix = self.dataset.data_prefix
        folder = prefix.get("img_path") or prefix.get("img")
        return str(self.dataset.ann_file or folder or self.dataset.data_root)

    @property
    def masks(self) -> bool:
        """Whether the pipeline loads masks of objects."""
        return bool(self._transform("LoadAnnotations").get("with_mask"))

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the data set's classes."""
        return tuple(self.dataset.metainfo.get("classes") or ())

    def check_annotations(self, findings: Findings) -> CocoFile:
        """Check the annotation file of a data set that reads COCO's format.

        Args:
            findings: Where faults are added.

        Returns:
            What the file holds.
        """
        return check_coco(
            Path(self.dataset.ann_file),
            findings,
            self.classes,
            masks=self.masks,
            evaluation=self.dataset.test_mode,
            objects=self.is_coco,
            scored=self.scored,
            by_name=self.labels_by_name,
        )

    def image_reader(self) -> ImageReader:
        """How the pipeline reads images."""
        loads = self._transform("LoadImageFromFile")
        sides = [
            max(scale)
            for _, step in walk(list(self.config.get("pipeline", ())))
            if "Resize" in str(step.get("type")) and step.get("keep_ratio")
            for scale in scales_of(step)
        ]
        return ImageReader(
            color_type=loads.get("color_type", "color"),
            backend=loads.get("imdecode_backend", "cv2"),
            annotated=bool(self._transform("LoadAnnotations")),
            # Sides are rounded.
            max_ratio=min(sides) / (self.least - 0.5) if sides else None,
        )

    def label_reader(self) -> LabelReader | None:
        """How the pipeline reads label maps; None if it reads none."""
        loads = self._transform("LoadAnnotations")
        if not loads or not hasattr(self.dataset, "reduce_zero_label"):
            return None
        return LabelReader(
            num_classes=len(self.classes) or 255,
            reduce_zero_label=self.dataset.reduce_zero_label,
            label_map=tuple((getattr(self.dataset, "label_map", None) or {}).items()),
            backend=loads.get("imdecode_backend", "pillow"),
        )

    def _transform(self, name: str) -> Mapping:
        for _, node in walk(list(self.config.get("pipeline", ()))):
            if str(node.get("type")).rpartition(".")[2] == name:
                return node
        return {}


def sources(cfg: Config, split: str) -> Iterator[Source]:
    """Yield the data sets of a split that we know something about and that are on this disk."""
    loader = cfg.get(f"{split}_dataloader")
    if loader is None:
        return
    for where, config in dataset_configs(loader["dataset"], f"{split}_dataloader.dataset"):
        dataset = _build(where, config, cfg.get("default_scope", "mmengine"))
        if dataset is not None:
            # mmseg's data sets for validation are not in test_mode.
            evaluation = split != "train" or dataset.test_mode
            least, scored = least_side(cfg, split), split == "train" or not _only_writes(cfg, split)
            yield Source(where, config, dataset, evaluation, least, scored)


def _only_writes(cfg: Config, split: str) -> bool:
    """Whether a split's predictions are written for somebody else to score."""
    evaluators = [node for _, node in walk(cfg.get(f"{split}_evaluator")) if "type" in node]
    return bool(evaluators) and all(node.get("format_only") for node in evaluators)


def _build(where: str, dataset_cfg: Mapping, scope: str) -> BaseDataset | None:
    """Build a data set that has its paths and classes but no annotations.

    Returns:
        The data set, or ``None`` if it is of a kind we know nothing about or not on this disk.

    Raises:
        UserError: If the data set refuses its arguments.
    """
    backend = (dataset_cfg.get("backend_args") or {}).get("backend", "local")
    if backend not in ("local", "LocalBackend") or "://" in str(dataset_cfg.get("data_root")):
        return None
    with DATASETS.switch_scope_and_registry(scope) as registry:
        kind = dataset_cfg.get("type")
        kind = registry.get(kind) if isinstance(kind, str) else kind
        known = isinstance(kind, type) and issubclass(kind, BaseDataset)
        if not known or not _takes_any_arguments(kind):
            return None
        try:
            return registry.build({**dataset_cfg, "lazy_init": True})
        except Exception as error:  # whatever a data set's own code does with its arguments
            raise UserError(f"{where} cannot be built: {one_line(error)}") from error


def _takes_any_arguments(kind: type) -> bool:
    """Whether arguments that a class does not name reach mmengine's BaseDataset."""
    parameters = inspect.signature(kind).parameters
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return any_name or {"pipeline", "lazy_init"} <= parameters.keys()


def labels_come_last(dataset: BaseDataset) -> bool | None:
    """Whether the pipeline loads labels after it has resized the image; None if it lacks either."""
    transforms = getattr(getattr(dataset, "pipeline", None), "transforms", ())
    names = [type(transform).__name__ for transform in transforms]
    resized = [index for index, name in enumerate(names) if "Resize" in name]
    loaded = [index for index, name in enumerate(names) if "LoadAnnotations" in name]
    return min(loaded) > max(resized) if resized and loaded else None
