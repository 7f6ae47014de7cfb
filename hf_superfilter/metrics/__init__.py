"""Hold the `evaluate` modules, each folder complete in itself."""

from pathlib import Path

HOME = Path(__file__).parent


def metric_path(name: str = "rank_consistency") -> str:
    """Return the folder of a metric, for `evaluate.load(metric_path())`.

    Nothing is asked of the Hub.

    Raises:
        ValueError: there is no metric of that name.

    Example:
        >>> metric_path().endswith("rank_consistency")
        True
    """
    from ..errors import SuperfilterError, did_you_mean

    metrics = [readme.parent.name for readme in HOME.glob("*/README.md")]
    if name not in metrics:
        raise SuperfilterError(f"no metric {name!r}: {did_you_mean(name, metrics)}")
    return str(HOME / name)
