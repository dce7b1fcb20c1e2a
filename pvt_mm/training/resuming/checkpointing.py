"""mmengine's checkpoint hook, safe against kills, full disks and power failures."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import BaseStorageBackend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from pvt_mm.registry import HOOKS
from pvt_mm.training.resuming.atomic import AtomicBackend, remove_leftovers, write_atomically
from pvt_mm.training.resuming.latest import POINTER

__all__ = ["INTERRUPTED", "POSITION", "SafeCheckpointHook"]

# The checkpoint of a run that was asked to stop; removed when the next regular one is there.
INTERRUPTED = "interrupted.pth"
# The key under which the train loop's own notes stand in a checkpoint.
POSITION = "pvt_mm_position"


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """Saves atomically, in an order that leaves a whole checkpoint at every moment.

    First the checkpoint, then ``last_checkpoint``, which names it, and only then older ones are
    removed. A checkpoint also says where in the data the train loop is.

    Args:
        kwargs: Arguments of mmengine's ``CheckpointHook``. Files in other places than a local
            disk are written as mmengine does.
    """

    _position: dict[str, Any] | None = None
    _last_saved: tuple[int, int] | None = None  # complete epochs and iterations

    def before_run(self, runner: Runner) -> None:
        """Let all files be written whole: every process of a test writes its metrics."""
        AtomicBackend.register()

    def before_train(self, runner: Runner) -> None:
        """Tidy up the work directory, and set the train loop where the checkpoint was."""
        super().before_train(runner)
        if is_main_process() and isinstance(self.file_backend, AtomicBackend):
            remove_leftovers(self.out_dir)
        self.file_backend = _LateRemoval(self.file_backend)
        if hasattr(runner.train_loop, "resume_at"):
            runner.train_loop.resume_at(self._position)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add where the train loop is in its data."""
        if hasattr(runner.train_loop, "position"):
            checkpoint[POSITION] = runner.train_loop.position()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep where the train loop was; a test has none."""
        self._position = checkpoint.get(POSITION)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Save the best checkpoint; what is saved from now on is past this validation."""
        if hasattr(runner.train_loop, "validated"):
            runner.train_loop.validated = runner.iter
        super().after_val_epoch(runner, metrics)

    def save_now(self, runner: Runner, epoch: int, iteration: int) -> str:
        """Save between the regular checkpoints, unless one of this very moment is there.

        Args:
            runner: The runner.
            epoch: How many epochs are complete.
            iteration: How many iterations are complete.

        Returns:
            The checkpoint's path.
        """
        if self._last_saved != (epoch, iteration):
            self._save(runner, INTERRUPTED, {"epoch": epoch, "iter": iteration})
        return self.last_ckpt

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        outdated = [INTERRUPTED]
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                outdated.append(self.filename_tmpl.format(self.keep_ckpt_ids.popleft()))
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))
        for name in outdated:
            self.file_backend.remove(self.file_backend.join_path(self.out_dir, name))
        self._save(runner, self.filename_tmpl.format(step), meta)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, float]) -> None:
        super()._save_best_checkpoint(runner, metrics)
        self._remove_outdated()

    def _save(self, runner: Runner, name: str, meta: dict[str, Any]) -> None:
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        self._last_saved = meta["epoch"], meta["iter"]
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            # A run that was asked to stop is one that goes on later.
            save_optimizer=self.save_optimizer or name == INTERRUPTED,
            save_param_scheduler=self.save_param_scheduler or name == INTERRUPTED,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            write_atomically(Path(runner.work_dir, POINTER), self.last_ckpt.encode())
        self._remove_outdated()

    def _remove_outdated(self) -> None:
        best = getattr(self, "best_ckpt_path_dict", {}).values()
        # A file that was written anew since then stays.
        keep = {self.last_ckpt, getattr(self, "best_ckpt_path", None), *best}
        if is_main_process():
            self.file_backend.remove_outdated(keep)


class _LateRemoval:
    """A file backend that removes files when it is told to.

    mmengine's hook removes a checkpoint before it writes its successor.
    """

    def __init__(self, backend: BaseStorageBackend) -> None:
        self.backend, self.outdated = backend, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        self.outdated.append(path)

    rmtree = remove

    def remove_outdated(self, keep: set[str | None]) -> None:
        for path in self.outdated:
            with suppress(OSError):  # a file too many is no reason to end a training
                if path in keep:
                    pass
                elif self.backend.isfile(path):
                    self.backend.remove(path)
                elif self.backend.isdir(path):  # as DeepSpeed saves
                    self.backend.rmtree(path)
        self.outdated.clear()
