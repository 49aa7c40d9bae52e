"""`python -m simyard`: the command line, for whoever has the package and not the script."""

from simyard.cli.main import main

main()
