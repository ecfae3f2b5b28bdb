"""`python -m worldmodel.status [RUN...]`."""

import sys

from worldmodel.status.report import main
from worldmodel.system.exit_status import run_cli

if __name__ == "__main__":
    sys.exit(run_cli(lambda: main(sys.argv[1:])))
