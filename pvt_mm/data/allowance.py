"""How many bad samples a training may still leave out, and which it has left out."""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.context
from pathlib import Path
from typing import Any

__all__ = ["Allowance", "name_sample"]


class Allowance:
    """How many samples may still be left out, counted over the workers of a process.

    Args:
        limit: How many different ones.
        record: The file where they are written.
        context: How workers are started, as torch's DataLoader has it.
    """

    def __init__(self, limit: int, record: Path, context: Any = None) -> None:
        self.limit, self.record = limit, record
        # How many, and which; workers share it.
        if not isinstance(context, multiprocessing.context.BaseContext):
            context = multiprocessing.get_context(context)
        self._shared = context.Array("q", 1 + limit)

    @property
    def used(self) -> int:
        """How many samples were left out."""
        return self._shared[0]

    def take(self, key: int, entry: dict[str, Any]) -> bool:
        """Ask whether a sample may be left out, and write it down the first time.

        Args:
            key: A number of its own for each sample.
            entry: What to write.
        """
        with self._shared.get_lock():
            used = self._shared[0]
            if key in self._shared[1 : 1 + used]:
                return True
            self.record.parent.mkdir(parents=True, exist_ok=True)
            with self.record.open("a") as file:
                file.write(json.dumps(entry, default=str) + "\n")
            if used >= self.limit:
                return False
            self._shared[1 + used] = key
            self._shared[0] = used + 1
            return True


def name_sample(entry: dict[str, Any]) -> str:
    """Name a bad sample in a line, from what is written of it."""
    image = "" if entry["image_id"] is None else f" (image {entry['image_id']!r})"
    return f"bad sample {entry['file'] or entry['index']}{image}: {entry['reason']}"
