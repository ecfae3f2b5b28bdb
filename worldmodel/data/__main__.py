"""`python -m worldmodel.data`: look into logs, and convert them."""

import sys

from worldmodel.command_line import guarded
from worldmodel.data.commands import run

if __name__ == "__main__":
    sys.exit(guarded(lambda: run(sys.argv[1:])))
