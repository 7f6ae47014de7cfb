"""YAML as people write it, and without loss: two things in which PyYAML has to be helped.

`2e-5` is a number, which YAML 1.1 takes for text without a point and a sign; and the line ends of Unicode, which
PyYAML writes unescaped and folds when it reads them, are escaped.
"""

import re
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    pass


class _Dumper(yaml.SafeDumper):
    pass


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    ends = any(end in value for end in "\x85\u2028\u2029")
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style='"' if ends else None)


_Dumper.add_representer(str, _text)


for _kind in (_Loader, _Dumper):  # what would be read as a number is quoted when it is text
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
        list("-+.0123456789"),
    )


def load_yaml(text: str) -> Any:
    """The plain values that a text stands for.

    Raises:
        yaml.YAMLError: it is not YAML.

    Example:
        >>> load_yaml("{learning_rate: 2e-5, k: 1E-1, model: 2e, name: e5}")
        {'learning_rate': 2e-05, 'k': 0.1, 'model': '2e', 'name': 'e5'}
    """
    return yaml.load(text, _Loader)


def dump_yaml(values: Any, width: int = 80) -> str:
    """Plain values as text that `load_yaml` turns into equal ones; keys keep their order.

    Example:
        >>> print(dump_yaml({"k": 0.1, "name": "é"}), end="")
        k: 0.1
        name: é
    """
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width)
