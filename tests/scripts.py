"""Scripts run in the process of a test: as from a shell, without the seconds that a start takes."""

from __future__ import annotations

import contextlib
import io
import runpy
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Done(NamedTuple):
    """What a process would have left, named as by `subprocess.run`."""

    returncode: int
    stdout: str
    stderr: str


def run_script(script: str | Path, *words: str, cwd: Path = ROOT) -> Done:
    """Runs `script` of the folder `cwd` with `words` as its command line."""
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    status: object = 0
    sys.argv = [str(script), *words]
    try:
        printed = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
        with contextlib.chdir(cwd), printed[0], printed[1]:
            runpy.run_path(str(script), run_name="__main__")
    except SystemExit as ending:
        status = ending.code or 0
    finally:
        sys.argv = argv
    return Done(status if isinstance(status, int) else 1, out.getvalue(), err.getvalue())
