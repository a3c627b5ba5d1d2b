"""Small tensors on one thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["one_torch_thread"]


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch use one thread inside.

    Networks and losses of a body of some thousand particles are small: threads that wait for each
    other cost more than they do. Rollouts have threads of their own. One thread also makes sums the
    same on every machine.

    Yields:
        Nothing.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
