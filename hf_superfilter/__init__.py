"""Pick the best part of a data set with a small model: score, select, publish. Public names load on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .agreement import rank_consistency
    from .comparison import Comparison, compare_models
    from .contracts import Batch, Columns, Scorer, Selector
    from .embedded import embedded_model, embedded_sample
    from .encoders import TextEncoder
    from .formats import detect_format, format_pairs
    from .funnel import Selection, Step, select
    from .hub import publish, publish_metric
    from .metric import metric_path
    from .models import CausalLM
    from .recipe import Recipe
    from .repo_files import write_repo
    from .report import write_report
    from .runner import score
    from .scoring.ask_llm import AskLLM
    from .scoring.density import Density
    from .scoring.embed import Embed
    from .scoring.ifd import IFD
    from .scoring.learning_percentage import LearningPercentage
    from .scoring.length import Length
    from .scoring.perplexity import Perplexity
    from .selection.facility_location import FacilityLocation
    from .selection.inverse_propensity import InversePropensity
    from .selection.per_cluster import PerCluster
    from .selection.prototypes import Prototypes
    from .selection.random_sample import RandomSample
    from .selection.sem_dedup import SemDedup
    from .selection.threshold import Threshold
    from .selection.top_k import TopK
    from .sources import load_rows
    from .subsets import Subset, list_subsets, load_recipe, load_subset
    from .two_stage import Cascade, cascade

_HOME = {
    "AskLLM": "scoring.ask_llm",
    "Batch": "contracts",
    "Cascade": "two_stage",
    "CausalLM": "models",
    "Columns": "contracts",
    "Comparison": "comparison",
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
    "Recipe": "recipe",
    "Scorer": "contracts",
    "Selection": "funnel",
    "Selector": "contracts",
    "SemDedup": "selection.sem_dedup",
    "Step": "funnel",
    "Subset": "subsets",
    "TextEncoder": "encoders",
    "Threshold": "selection.threshold",
    "TopK": "selection.top_k",
    "cascade": "two_stage",
    "compare_models": "comparison",
    "detect_format": "formats",
    "embedded_model": "embedded",
    "embedded_sample": "embedded",
    "format_pairs": "formats",
    "list_subsets": "subsets",
    "load_recipe": "subsets",
    "load_rows": "sources",
    "load_subset": "subsets",
    "metric_path": "metric",
    "publish": "hub",
    "publish_metric": "hub",
    "rank_consistency": "agreement",
    "score": "runner",
    "select": "funnel",
    "write_repo": "repo_files",
    "write_report": "report",
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
        from .wording import did_you_mean

        raise AttributeError(f"hf_superfilter has no {name!r}: {did_you_mean(name, _HOME)}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
