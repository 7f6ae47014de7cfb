"""Pick the best part of a data set with a small model: score, select, publish. Public names load on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import Batch, Columns, Scorer, Selector
    from .consistency.cascade import Cascade, cascade
    from .consistency.compare import Comparison, compare_models
    from .data.formats import detect_format, format_pairs
    from .data.sources import load_rows
    from .embedded import embedded_model, embedded_sample
    from .errors import SuperfilterError
    from .hub.publish import publish, publish_metric
    from .hub.repo_files import write_repo
    from .hub.subsets import Subset, list_subsets, load_recipe, load_subset
    from .metrics import metric_path
    from .metrics.rank_consistency.agreement import rank_consistency
    from .models.causal_lm import CausalLM
    from .models.encoder import TextEncoder
    from .recipes.recipe import Recipe
    from .reports.html import write_report
    from .runs.runner import score
    from .scoring.ask_llm import AskLLM
    from .scoring.density import Density
    from .scoring.embed import Embed
    from .scoring.ifd import IFD
    from .scoring.learning_percentage import LearningPercentage
    from .scoring.length import Length
    from .scoring.perplexity import Perplexity
    from .selection.facility_location import FacilityLocation
    from .selection.funnel import Selection, Step, select
    from .selection.inverse_propensity import InversePropensity
    from .selection.per_cluster import PerCluster
    from .selection.prototypes import Prototypes
    from .selection.random_sample import RandomSample
    from .selection.sem_dedup import SemDedup
    from .selection.threshold import Threshold
    from .selection.top_k import TopK

_HOME = {
    "AskLLM": "scoring.ask_llm",
    "Batch": "base",
    "Cascade": "consistency.cascade",
    "CausalLM": "models.causal_lm",
    "Columns": "base",
    "Comparison": "consistency.compare",
    "Density": "scoring.density",
    "Embed": "scoring.embed",
    "FacilityLocation": "selection.facility_location",
    "IFD": "scoring.ifd",
    "InversePropensity": "selection.inverse_propensity",
    "LearningPercentage": "scoring.learning_percentage",
    "Length": "scoring.length",
    "PerCluster": "selection.per_cluster",
    "Perplexity": "scoring.perplexity",
    "Prototypes": "selection.prototypes",
    "RandomSample": "selection.random_sample",
    "Recipe": "recipes.recipe",
    "Scorer": "base",
    "Selection": "selection.funnel",
    "Selector": "base",
    "SemDedup": "selection.sem_dedup",
    "Step": "selection.funnel",
    "Subset": "hub.subsets",
    "SuperfilterError": "errors",
    "TextEncoder": "models.encoder",
    "Threshold": "selection.threshold",
    "TopK": "selection.top_k",
    "cascade": "consistency.cascade",
    "compare_models": "consistency.compare",
    "detect_format": "data.formats",
    "embedded_model": "embedded",
    "embedded_sample": "embedded",
    "format_pairs": "data.formats",
    "list_subsets": "hub.subsets",
    "load_recipe": "hub.subsets",
    "load_rows": "data.sources",
    "load_subset": "hub.subsets",
    "metric_path": "metrics",
    "publish": "hub.publish",
    "publish_metric": "hub.publish",
    "rank_consistency": "metrics.rank_consistency.agreement",
    "score": "runs.runner",
    "select": "selection.funnel",
    "write_repo": "hub.repo_files",
    "write_report": "reports.html",
}

__all__ = [  # noqa: RUF022 - sorted as Python sorts
    "AskLLM",
    "Batch",
    "Cascade",
    "CausalLM",
    "Columns",
    "Comparison",
    "Density",
    "Embed",
    "FacilityLocation",
    "IFD",
    "InversePropensity",
    "LearningPercentage",
    "Length",
    "PerCluster",
    "Perplexity",
    "Prototypes",
    "RandomSample",
    "Recipe",
    "Scorer",
    "Selection",
    "Selector",
    "SemDedup",
    "Step",
    "Subset",
    "SuperfilterError",
    "TextEncoder",
    "Threshold",
    "TopK",
    "cascade",
    "compare_models",
    "detect_format",
    "embedded_model",
    "embedded_sample",
    "format_pairs",
    "list_subsets",
    "load_recipe",
    "load_rows",
    "load_subset",
    "metric_path",
    "publish",
    "publish_metric",
    "rank_consistency",
    "score",
    "select",
    "write_repo",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Import a public name's module when the name is first used (PEP 562)."""
    if name not in _HOME:
        from .errors import did_you_mean

        raise AttributeError(f"hf_superfilter has no {name!r}: {did_you_mean(name, _HOME)}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
