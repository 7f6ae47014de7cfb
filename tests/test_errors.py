"""The errors of the package: one family, each also the built-in error that a caller would catch."""

import inspect
import pickle

import pytest

from hf_superfilter import errors

FAMILY = {
    "SuperfilterError": (ValueError,),
    "WrongTypeError": (ValueError, TypeError),
    "NotFoundError": (ValueError, FileNotFoundError),
    "AccessError": (ValueError, PermissionError),
    "UnreachableError": (ValueError, ConnectionError),
    "UnreadableFileError": (ValueError, OSError),
    "NotEnoughMemoryError": (ValueError, MemoryError),
    "HubError": (ValueError, OSError),
    "HubNotFoundError": (ValueError, FileNotFoundError, errors.HubError, errors.NotFoundError),
    "HubAccessError": (ValueError, PermissionError, errors.HubError, errors.AccessError),
    "HubOfflineError": (ValueError, ConnectionError, errors.HubError, errors.UnreachableError),
}


def test_the_tree_in_the_docstring_names_every_class():
    classes = [name for name, value in vars(errors).items() if inspect.isclass(value)]
    drawn = [line.split()[-1] for line in _tree()]
    assert sorted(drawn) == sorted(name for name in classes if name != "Iterable")
    assert drawn == list(FAMILY)


def _tree() -> list[str]:
    """Return the lines of the tree, each up to the name of its class."""
    return [
        line[: line.index("Error") + len("Error")]
        for line in errors.__doc__.splitlines()
        if "── " in line
    ]


@pytest.mark.parametrize("name", FAMILY)
def test_an_error_is_also_the_built_in_one_keeps_its_sentence_and_pickles(name):
    error = getattr(errors, name)("k=0: give a number of rows")
    assert isinstance(error, (errors.SuperfilterError, *FAMILY[name]))
    assert all(isinstance(error, kind) for kind in FAMILY[name])
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), "k=0: give a number of rows")
