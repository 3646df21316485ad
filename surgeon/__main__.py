"""`python -m surgeon`."""

from surgeon.cli.app import main

main()
