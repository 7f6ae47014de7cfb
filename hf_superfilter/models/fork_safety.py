"""A forked worker has its parent's thread pools on paper only: waiting for one of them never ends.

This file is imported with the scorers, so that it knows the process in which they were made; torch
may be loaded in the worker only.
"""

import os

_home = os.getpid()


def after_fork() -> None:
    """In a forked worker, one thread for torch and for tokenizers; called before either does any work."""
    global _home
    if os.getpid() == _home:
        return
    import torch

    _home = os.getpid()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
