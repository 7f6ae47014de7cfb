"""Learning percentage: the two formulas of arXiv 2402.10430, for whoever has perplexities before and after training."""

import numpy as np


def learning_percentages(perplexities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What share of all that was learned of a row was learned in each epoch; low in the first is hard.

    `LP(i) = (P_{i-1} - P_i) / (P_0 - P_n)` and, from one epoch, `LP_app = (P_0 - P_1) / P_0` (section 3).

    Args:
        perplexities: (n + 1, rows) of each row before training and after each of n epochs, n at least 1.

    Returns:
        (n, rows) float64 LP(1) ... LP(n), and (rows,) float64 LP_app. A value is nan where one of the
        perplexities in its formula is not finite, and LP also where P_0 = P_n: nothing to take a share
        of. Values below 0 and above 1 occur, of rows that an epoch made worse, and stay.

    Raises:
        ValueError: not two dimensions, or fewer than two perplexities a row.

    Example:
        >>> lp, lp_app = learning_percentages(np.array([[10.0, 8.0], [6.0, 8.0], [5.0, 8.0]]))
        >>> lp.tolist(), lp_app.tolist()
        ([[0.8, nan], [0.2, nan]], [0.4, 0.0])
    """
    p = np.asarray(perplexities, dtype=np.float64)
    if p.ndim != 2 or len(p) < 2:
        raise ValueError(
            f"perplexities of shape {p.shape}: give (epochs + 1, rows), those before training and after each epoch"
        )
    p = np.where(np.isfinite(p), p, np.nan)
    learned = p[0] - p[-1]
    return (p[:-1] - p[1:]) / np.where(learned == 0, np.nan, learned), (p[0] - p[1]) / p[0]
