"""The cache of compiled programs: what fails there is said once, and no run ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from worldmodel.system.compilation import (
    enable_compilation_cache,
    enable_default_compilation_cache,
)

OPTIONS = (
    "jax_enable_compilation_cache",
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture(autouse=True)
def options() -> Iterator[None]:
    """Those of the other tests are restored."""
    before = {name: getattr(jax.config, name) for name in OPTIONS}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.parametrize("folder", ["/proc/nowhere", "/dev/null/cache", "~no-such-user/cache"])
def test_a_folder_that_cannot_be_used_is_reported_in_one_line(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    enable_compilation_cache(folder)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: compiled programs are not cached: {folder}")
    assert "training.compilation_cache=FOLDER" in line
    assert not jax.config.jax_enable_compilation_cache


def test_the_default_folder_is_used_where_none_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    chosen = jax.config.jax_compilation_cache_dir
    assert chosen is not None
    enable_default_compilation_cache()  # the environment of this process has chosen one
    assert jax.config.jax_compilation_cache_dir == chosen
    jax.config.update("jax_compilation_cache_dir", None)
    enable_compilation_cache(None)  # turned off
    enable_default_compilation_cache()
    assert jax.config.jax_compilation_cache_dir is None
    jax.config.update("jax_enable_compilation_cache", True)
    enable_default_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / ".cache/worldmodel/xla")


DAMAGED = """
import sys
from pathlib import Path
import jax
from worldmodel.system.compilation import enable_compilation_cache

folder = Path(sys.argv[1])
enable_compilation_cache(str(folder))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

def compile(*names):
    jax.clear_caches()
    for name in names:
        def program(x): return x + len(name)
        program.__name__ = name
        jax.jit(program)(jax.numpy.ones(3)).block_until_ready()

compile("one", "three")
entries = [*folder.glob("jit_one-*"), *folder.glob("jit_three-*")]
assert len(entries) == 2
for path in entries:
    path.write_bytes(b"damaged")
compile("one", "three")
assert all(path.stat().st_size > 100 for path in entries)
folder.rename(folder.with_name("moved"))
folder.write_text("a file")
compile("first", "second")
"""


def test_a_damaged_entry_is_replaced_and_each_kind_of_failure_reported_once(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "runs [v2]" / "cache"
    command = [sys.executable, "-c", DAMAGED, str(folder)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    reading, writing = done.stderr.splitlines()
    assert reading.startswith(f"warning: reading a compiled program in {folder} has failed: ")
    assert reading.endswith("; it is compiled again and replaced")
    assert writing.startswith(f"warning: writing a compiled program in {folder} has failed: ")
