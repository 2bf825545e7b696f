"""`python -m mmmask.cli`, where no script is installed, or for torchrun."""

from mmmask.cli.front import program

raise SystemExit(program())
