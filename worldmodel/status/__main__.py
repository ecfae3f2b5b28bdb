"""`python -m worldmodel.status [RUN...]`."""

import sys

from worldmodel.status.report import main
from worldmodel.system.exit_status import guarded

if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
