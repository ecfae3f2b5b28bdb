"""Scripts run as from a shell, but without a process for each."""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
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


def run_in_one_process(
    commands: Mapping[str, Sequence[str]], folder: Path, *packages: Path
) -> dict[str, Done]:
    """Runs scripts with their words, one after another, in `folder` and one new process, which
    looks for packages in `packages` first.
    """
    paths = [*map(str, packages), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(commands)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: Done(*left) for name, left in json.loads(done.stdout).items()}


if __name__ == "__main__":
    given = json.loads(sys.argv[1]).items()
    print(json.dumps({name: run_script(*words, cwd=Path.cwd()) for name, words in given}))
