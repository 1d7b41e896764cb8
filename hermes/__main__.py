"""`python -m hermes`: the same as the command `hermes`."""

import sys

from hermes.cli import main

if __name__ == "__main__":
    sys.exit(main())
