"""`python -m worldmodel.play run=RUN [OPTION=VALUE ...]`."""

import sys

from worldmodel.play.command import run
from worldmodel.system.exit_status import guarded

if __name__ == "__main__":
    sys.exit(guarded(lambda: run(sys.argv[1:])))
