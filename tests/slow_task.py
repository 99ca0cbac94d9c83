"""A task of a long run that takes a minute: processes are given it by name."""

from __future__ import annotations

import time


def sleep(model: str, key: list[int]) -> int:
    time.sleep(60 if key[0] else 0)
    return key[0]
