"""`python -m worldmodel.data`: inspects and converts datasets."""

import sys

from worldmodel.data.commands import run
from worldmodel.system.exit_status import run_cli

if __name__ == "__main__":
    sys.exit(run_cli(lambda: run(sys.argv[1:])))
