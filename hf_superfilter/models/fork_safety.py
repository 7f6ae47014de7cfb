"""Limit forked workers to one thread: they lack the threads of their parent's pools.

A worker that waits for such a thread never ends. This file is imported with the scorers, so that it
knows the process that made them; torch may be loaded in the worker only.
"""

import os

_process = os.getpid()


def after_fork() -> None:
    """Limit torch and tokenizers to one thread in a forked worker, before they work."""
    global _process
    if os.getpid() == _process:
        return
    import torch

    _process = os.getpid()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
