"""`python -m worldmodel.aggregate runs=[RUN,...]`."""

import sys

from worldmodel.aggregate.command import run
from worldmodel.system.exit_status import guarded

if __name__ == "__main__":
    sys.exit(guarded(lambda: run(sys.argv[1:])))
