"""`python -m worldmodel.data`: look into logs, and convert them."""

import sys

from worldmodel.data.commands import run
from worldmodel.system.exit_status import guarded

if __name__ == "__main__":
    sys.exit(guarded(lambda: run(sys.argv[1:])))
