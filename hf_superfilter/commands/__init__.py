"""What the command line does, one function a command; `cli.py` makes commands of them."""
