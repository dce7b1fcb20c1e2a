"""At every moment of a save there is a whole checkpoint, and resuming finds the newest one."""

import errno
import logging
import os
import random
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner
from tiny_training import tiny_config

from pvt_mm.errors import UserError
from pvt_mm.training.declared import declare
from pvt_mm.training.resuming import atomic
from pvt_mm.training.resuming.atomic import check_writable, remove_leftovers, write_atomically
from pvt_mm.training.resuming.latest import latest_checkpoint
from pvt_mm.training.resuming.randomness import make_deterministic

# Where a save may fail, and with what.
FAULTS = {
    "write, full disk": ("write", errno.ENOSPC, "No space left on device; free some space"),
    "fsync, quota": ("fsync", errno.EDQUOT, "quota"),
    "open, read-only": ("open", errno.EROFS, "Read-only file system; make the folder writable"),
    "open, permission": ("open", errno.EACCES, "Permission denied; make the folder writable"),
    "rename": ("replace", errno.EIO, "Input/output error"),
}


def fail(monkeypatch, step, code, name=""):
    """Let one step of writing files of that name fail."""

    def raises(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    if step in ("fsync", "replace"):
        monkeypatch.setattr(atomic.os, step, raises)
        return
    plain = Path.open

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *args):
            self.file.close()

        def write(self, content):
            self.file.write(content[: len(content) // 2])
            raises()

    def opened(path, mode="r", *args, **kwargs):
        if mode != "wb" or name not in path.name:
            return plain(path, mode, *args, **kwargs)
        return raises() if step == "open" else Full(plain(path, mode, *args, **kwargs))

    monkeypatch.setattr(Path, "open", opened)


@pytest.mark.parametrize(("step", "code", "named"), FAULTS.values(), ids=FAULTS)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path, monkeypatch, step, code, named
):
    path = tmp_path / "epoch_1.pth"
    write_atomically(path, b"old")
    fail(monkeypatch, step, code)
    with pytest.raises(UserError, match=named) as caught:
        write_atomically(path, b"new and longer")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == ["epoch_1.pth"]
    assert path.read_bytes() == b"old"


def test_a_file_is_synced_before_it_takes_its_place_and_the_folder_afterwards(
    tmp_path, monkeypatch
):
    path, steps = tmp_path / "new" / "file", []
    fsync, replace = os.fsync, os.replace

    def sync(handle):
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        fsync(handle)

    def move(source, target):
        assert Path(source).parent == Path(target).parent
        assert Path(source).read_bytes() == b"content"
        steps.append("rename")
        replace(source, target)

    monkeypatch.setattr(atomic.os, "fsync", sync)
    monkeypatch.setattr(atomic.os, "replace", move)
    write_atomically(path, b"content")
    assert steps == ["file", "rename", "folder"]
    assert path.read_bytes() == b"content"


def test_an_unwritable_work_dir_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/work.* cannot be written: Not a directory"):
        check_writable(tmp_path / "file" / "work")
    check_writable(tmp_path / "work")
    assert list((tmp_path / "work").iterdir()) == []


def test_leftovers_are_removed_and_nothing_else(tmp_path, monkeypatch):
    def die(*args, **kwargs):
        raise KeyboardInterrupt  # passes by all that cleans up, as a kill does

    monkeypatch.setattr(os, "replace", die)
    monkeypatch.setattr(Path, "unlink", die)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "epoch_2.pth", b"new")
    monkeypatch.undo()
    for name in ("epoch_1.pth", ".hidden", "log.partial"):
        (tmp_path / name).touch()
    assert len(list(tmp_path.iterdir())) == 4
    remove_leftovers(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        ".hidden",
        "epoch_1.pth",
        "log.partial",
    ]


def write_checkpoint(path, iteration, **changes):
    content = {"meta": {"iter": iteration}, "state_dict": {"w": torch.ones(9)}, "optimizer": {}}
    content = {key: value for key, value in {**content, **changes}.items() if value is not None}
    torch.save(content, path)
    return path


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


# What last_checkpoint says; and which file is expected beside what logged words.
POINTERS = {
    "sound": ("{}/epoch_2.pth", ""),
    "missing": (None, "is missing or empty"),
    "empty": ("", "is missing or empty"),
    "of another folder": ("/elsewhere/epoch_2.pth", ""),
    "a missing file": ("{}/epoch_9.pth", "epoch_9.pth, which cannot be used"),
    "a truncated file": ("{}/epoch_3.pth", "epoch_3.pth, which cannot be used"),
    "binary": ("\0\xff", "cannot be used"),
    "an older file": ("{}/epoch_1.pth", "epoch_2.pth is newer than"),
}


@pytest.fixture
def logged(monkeypatch):
    lines = []
    monkeypatch.setattr("pvt_mm.training.resuming.latest.log", lines.append)
    return lines


@pytest.mark.parametrize(("noted", "named"), POINTERS.values(), ids=POINTERS)
def test_latest_whole_checkpoint(tmp_path, logged, noted, named):
    files = {
        "epoch_1.pth": write_checkpoint(tmp_path / "epoch_1.pth", 10),
        "epoch_2.pth": write_checkpoint(tmp_path / "epoch_2.pth", 20),
        "epoch_3.pth": write_checkpoint(tmp_path / "epoch_3.pth", 30),
        "best_mAP_epoch_4.pth": write_checkpoint(tmp_path / "best_mAP_epoch_4.pth", 40),
        "weights.pth": write_checkpoint(tmp_path / "weights.pth", 50, optimizer=None, meta=None),
        ".epoch_5.pth.partial": write_checkpoint(tmp_path / ".epoch_5.pth.partial", 60),
    }
    write_checkpoint(files["best_mAP_epoch_4.pth"], 40, optimizer=None)
    cut(files["epoch_3.pth"])
    for second, path in enumerate(files.values()):
        os.utime(path, (second, second))
    if noted is not None:
        (tmp_path / "last_checkpoint").write_text(noted.format(tmp_path), encoding="latin1")
    assert latest_checkpoint(tmp_path) == str(files["epoch_2.pth"])
    assert named in " ".join(logged)


def test_an_older_run_in_the_same_folder_is_not_continued(tmp_path, logged):
    """A pointer is followed though an older file got further: it is of an earlier training."""
    old = write_checkpoint(tmp_path / "epoch_12.pth", 1200)
    new = write_checkpoint(tmp_path / "epoch_1.pth", 100)
    os.utime(old, (1, 1))
    (tmp_path / "last_checkpoint").write_text(str(new))
    assert latest_checkpoint(tmp_path) == str(new)


def test_no_checkpoint(tmp_path, logged):
    assert latest_checkpoint(tmp_path / "none") is None
    (tmp_path / "last_checkpoint").write_text("epoch_1.pth")
    (tmp_path / "epoch_1.pth").touch()
    assert latest_checkpoint(tmp_path) is None
    assert "epoch_1.pth" in " ".join(logged)


def test_a_moved_folder(tmp_path, logged, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    write_checkpoint(Path("work/epoch_2.pth"), 2)
    Path("work/last_checkpoint").write_text(str(tmp_path / "work" / "epoch_2.pth"))
    Path("work").rename("moved")
    assert latest_checkpoint("moved") == "moved/epoch_2.pth"


def build(folder, **changes):
    cfg = tiny_config(folder, **changes)
    cfg.experiment_name = f"{folder}{random.random()}"
    declare(cfg)
    make_deterministic(cfg)
    return Runner.from_cfg(cfg)


def whole(path):
    """Judge by torch alone whether a file can be read to its end."""
    try:
        return "state_dict" in torch.load(path, weights_only=False)
    except Exception:
        return False


@pytest.fixture(autouse=True)
def unchanged(monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("by_epoch", [True, False], ids=["epochs", "iterations"])
def test_at_every_step_a_whole_checkpoint_is_there(tmp_path, monkeypatch, by_epoch):
    """Look at the folder whenever something in it is about to change or has changed."""
    snapshots = []

    def watch(owner, name):
        plain = getattr(owner, name)

        def watched(*args, **kwargs):
            look()
            result = plain(*args, **kwargs)
            look()
            return result

        watching.setattr(owner, name, watched)

    def look():
        pointer = tmp_path / "last_checkpoint"
        noted = Path(pointer.read_text()) if pointer.exists() else None
        assert noted is None or whole(noted), noted
        regular = sorted(tmp_path.glob("[ei]*.pth"))
        assert all(whole(path) for path in (*regular, *tmp_path.glob("best*.pth")))
        assert not snapshots or len(regular) >= min(2, len(snapshots[-1])), regular
        snapshots.append(regular)

    with monkeypatch.context() as watching:
        for name in ("replace", "fsync", "unlink", "remove"):
            watch(os, name)
        runner = build(tmp_path, by_epoch=by_epoch, length=4, interval=1)
        runner.train()
    stem = "epoch" if by_epoch else "iter"
    assert [path.name for path in snapshots[-1]] == [f"{stem}_3.pth", f"{stem}_4.pth"]
    assert len(list(tmp_path.glob("best*"))) == 1
    assert max(map(len, snapshots)) == 3  # the third is removed when the fourth is whole


def test_a_full_disk_ends_the_training_with_a_checkpoint(tmp_path, monkeypatch):
    runner = build(tmp_path, length=3)
    fail(monkeypatch, "write", errno.ENOSPC, name="epoch_2")
    with pytest.raises(UserError, match="epoch_2.pth cannot be written: No space left"):
        runner.train()
    monkeypatch.undo()
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert {"epoch_1.pth", "last_checkpoint"} <= names
    assert not [name for name in names if "epoch_2" in name]
    assert latest_checkpoint(tmp_path) == str(tmp_path / "epoch_1.pth")
    assert whole(tmp_path / "epoch_1.pth")


def test_a_full_disk_that_stops_the_logs_is_one_line_too(tmp_path, monkeypatch):
    runner = build(tmp_path, length=1)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "scalars.json")

    monkeypatch.setattr(runner.visualizer, "add_scalars", full)
    with pytest.raises(UserError, match="scalars.json cannot be written: No space left"):
        runner.train()
