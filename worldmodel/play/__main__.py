"""`python -m worldmodel.play run=RUN [OPTION=VALUE ...]`."""

import sys

from worldmodel.command_line import guarded
from worldmodel.play.command import run

if __name__ == "__main__":
    sys.exit(guarded(lambda: run(sys.argv[1:])))
