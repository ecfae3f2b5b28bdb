"""`python -m worldmodel.play run=RUN [OPTION=VALUE ...]`."""

import sys

from worldmodel.play.command import run
from worldmodel.system.exit_status import run_cli

if __name__ == "__main__":
    sys.exit(run_cli(lambda: run(sys.argv[1:])))
