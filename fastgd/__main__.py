"""`python -m fastgd`: the self-check without arguments, else the command line."""

import sys

from .cli import main
from .selfcheck import run

if __name__ == "__main__":
    sys.exit(main() if len(sys.argv) > 1 else min(run(), 1))
