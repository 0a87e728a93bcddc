"""`python -m fastgd`: the self-check without arguments, else the command line."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["selfcheck"]))
