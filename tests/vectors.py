"""Tables of vectors that the tests of sketches and of selectors share."""

import numpy as np
import pyarrow as pa
from datasets import Dataset


def mixture(rows, dimensions, seed=0):
    """Groups of very different sizes and widths, a few rows alone."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(20, dimensions))
    group = np.minimum(rng.geometric(0.2, rows) - 1, 19)
    return (
        centres[group] + rng.normal(size=(rows, dimensions)) * rng.uniform(0, 0.7, (rows, 1))
    ).astype(np.float32)


def table_of(vectors, **columns):
    cells = pa.FixedSizeListArray.from_arrays(
        np.ascontiguousarray(vectors, dtype=np.float32).ravel(), vectors.shape[1]
    )
    return Dataset(pa.table({"embedding": cells, **columns}))
