"""What runs a model over sequences of unequal length: batch after batch, smaller ones when memory runs out."""

import threading
from collections.abc import Callable, Sequence

import numpy as np
import torch

from .batching import batches_by_length
from .forks import after_fork

ONE_AT_A_TIME = threading.Lock()  # a forward pass may patch its model and set process-wide switches


class Engine:
    """A model on a device that reads up to `batch_tokens` tokens at once."""

    name: str
    device: torch.device
    batch_tokens: int

    def in_batches(
        self, lengths: Sequence[int] | np.ndarray, run: Callable[[np.ndarray], None], batch_tokens: int | None = None
    ) -> None:
        """Call `run` with the numbers of the sequences of one batch after another, until all had their turn.

        Args:
            lengths: (n,) tokens of each sequence; one of no tokens has no turn.
            run: a batch that it finds no memory for is tried again in halves.
            batch_tokens: tokens of a batch; None is the device's default.

        Raises:
            MemoryError: a single sequence does not fit.
        """
        after_fork()
        sizes = np.asarray(lengths, dtype=np.int64)
        pending, budget = sizes > 0, batch_tokens or self.batch_tokens
        with torch.inference_mode(), ONE_AT_A_TIME:
            while pending.any():
                todo = np.flatnonzero(pending)
                for batch in batches_by_length(sizes[todo].tolist(), budget):
                    chosen = todo[batch]
                    try:
                        run(chosen)
                    except RuntimeError as error:
                        budget = self._smaller_budget(int(sizes[chosen].max()), len(chosen), error)
                        break  # what is left is grouped anew, under the smaller budget
                    pending[chosen] = False

    def _smaller_budget(self, longest: int, count: int, error: RuntimeError) -> int:
        """Half the tokens of a batch that did not fit into memory (a CPU says so in a plain RuntimeError)."""
        if not (isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)):
            raise error
        if count == 1:
            raise MemoryError(
                f"a single row of {longest} tokens does not fit into the memory of {self.device}: "
                "lower max_length or take a smaller model"
            ) from error
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        budget = longest * count // 2
        self.batch_tokens = min(self.batch_tokens, budget)
        return budget


def default_batch_tokens(device: torch.device) -> int:
    """On a CPU enough tokens to fill the matrix units, few enough for the allocator to reuse blocks."""
    return 2_048 if device.type == "cpu" else 65_536
