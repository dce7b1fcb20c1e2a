"""A training of seconds that uses every source of randomness: for the tests of interruptions."""

import random
import time

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from torch import nn

SIZE = 11  # samples


@DATASETS.register_module(force=True)
class TinyDataset(BaseDataset):
    """Each sample is its index and one number of each generator."""

    METAINFO = {"classes": ("one",)}

    def load_data_list(self):
        return [{"index": index} for index in range(SIZE)]

    def prepare_data(self, idx):
        drawn = [0.5] * 3
        if not self.test_mode:
            drawn = [random.random(), np.random.rand(), torch.rand(()).item()]
        return {"inputs": torch.tensor([idx / SIZE, *drawn]), "index": idx}


@MODELS.register_module(force=True)
class TinyModel(BaseModel):
    """Layers whose training draws random numbers and keeps statistics."""

    def __init__(self, delay=0.0):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1)
        )
        self.delay = delay  # seconds
        self.seen = []  # indices of each batch
        self.states = None  # of the generators in the last iteration

    def forward(self, inputs, index, mode="tensor"):
        batch = torch.stack(inputs)
        if mode == "predict":
            time.sleep(self.delay)
            return [{"score": value.item()} for value in self.layers(batch)]
        self.seen.append([int(i) for i in index])
        time.sleep(self.delay)
        noise = random.random() + np.random.rand()
        self.states = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()
        return {"loss": (self.layers(batch) - noise).square().mean()}


@METRICS.register_module(force=True)
class TinyMetric(BaseMetric):
    """The mean of the predictions, which changes with every iteration."""

    def process(self, data_batch, data_samples):
        self.results.extend(sample["score"] for sample in data_samples)

    def compute_metrics(self, results):
        return {"score": float(np.mean(results))}


def tiny_config(
    work_dir, by_epoch=True, num_workers=0, length=3, interval=1, delay=0.0, batch_size=3, **changes
):
    """Write out a config of ``length`` epochs, or of as many iterations."""
    workers = {"num_workers": num_workers, "persistent_workers": num_workers > 0}
    sampler = "DefaultSampler" if by_epoch else "InfiniteSampler"
    train_cfg = {"by_epoch": True, "max_epochs": length}
    by_metric = [{"type": "ReduceOnPlateauLR", "monitor": "score"}]
    if not by_epoch:
        by_metric = []
        train_cfg = {"type": "IterBasedTrainLoop", "max_iters": length}
    return Config(
        {
            "custom_imports": {"imports": ["tiny_training"], "allow_failed_imports": False},
            "work_dir": str(work_dir),
            "model": {"type": "TinyModel", "delay": delay},
            "train_dataloader": {
                "batch_size": batch_size,
                "dataset": {"type": "TinyDataset"},
                "sampler": {"type": sampler, "shuffle": True},
                **workers,
            },
            "val_dataloader": {
                "batch_size": 5,
                "dataset": {"type": "TinyDataset", "test_mode": True},
                "sampler": {"type": "DefaultSampler", "shuffle": False},
                **workers,
            },
            "train_cfg": {**train_cfg, "val_interval": interval},
            "val_cfg": {},
            "val_evaluator": {"type": "TinyMetric"},
            "optim_wrapper": {"optimizer": {"type": "AdamW", "lr": 0.01}},
            "param_scheduler": [
                {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "end": 5},
                {"type": "StepLR", "step_size": 1, "gamma": 0.9, "by_epoch": by_epoch},
                *by_metric,
            ],
            "log_processor": {"by_epoch": by_epoch},
            "default_hooks": {
                "checkpoint": {
                    "type": "CheckpointHook",
                    "interval": interval,
                    "by_epoch": by_epoch,
                    "save_best": "score",
                    "rule": "greater",
                    "max_keep_ckpts": 2,
                },
                "logger": {"type": "LoggerHook", "interval": 1},
            },
            **changes,
        }
    )
