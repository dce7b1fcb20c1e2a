"""Whatever a user names as a checkpoint, by whatever door, ends soon, in one line, without harm."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hostile_files import FILES, MAY_LOAD


class Server:
    """The process of doors.py."""

    def __init__(self, folder):
        self.log = (folder / "log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("doors.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def ask(self, path):
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("doors"))
    yield server
    server.process.stdin.close()
    server.process.wait(30)


@pytest.mark.parametrize("name", FILES)
def test_hostile_file(server, tmp_path, name):
    path, canary = tmp_path / "hostile.pth", tmp_path / "canary"
    FILES[name](path, canary)
    for door, kinds, message, seconds, used in server.ask(path):
        assert seconds < 5 and used < 300, (door, seconds, used)
        if door == "load" and name in MAY_LOAD:
            assert message == "loaded"
            continue
        assert {"CheckpointError", "UserError"} & set(kinds), (door, kinds, message)
        assert message.isprintable() and len(message) < 1000, door
        assert "emory" not in message and "alloc" not in message, (door, message)
    assert not canary.exists()
    assert not Path(f"{path}.out.pth").exists()
