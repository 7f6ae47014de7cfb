"""`python -m hf_superfilter` is the command `hf-superfilter`."""

from .cli.app import main

main()
