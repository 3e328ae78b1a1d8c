"""`python -m alignloop` is the command line."""

from alignloop.cli import main

main()
