"""`python -m hf_superfilter` is the command `hf-superfilter`."""

from .cli import main

main()
