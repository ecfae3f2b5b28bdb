"""Pages in a real browser: nothing in its console, readable on phone and desk, by day and night.

Skipped where no Chromium is installed. A page is put into a frame of the width of the device, from
which a script reads how it was laid out.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from worldmodel.aggregate.methods import ScoreTable
from worldmodel.aggregate.page import aggregated_page
from worldmodel.aggregate.results import aggregate_methods
from worldmodel.evaluation.compare_runs import compare_runs

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(NAMES)} is installed")

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--enable-logging=stderr",
    "--dump-dom",
    "--virtual-time-budget=5000",
]
LEAST_CONTRAST = 4.5  # of text on its ground, WCAG 2.2, 1.4.3
LEAST_TEXT = 9.0  # CSS pixels
FRAME = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe id="page" style="border:0;width:{width}px;height:900px" srcdoc="{page}"></iframe>
<pre id="found"></pre><script>
addEventListener("load", () => {{
  const page = document.getElementById("page").contentDocument, root = page.documentElement;
  const view = page.defaultView, look = view.getComputedStyle(page.body);
  const small = [...page.querySelectorAll("p, td, th, dd, dt, svg text, h1, h2, h3, figcaption")]
    .filter(e => e.textContent.trim() && e.getBoundingClientRect().width > 0)
    .map(e => parseFloat(view.getComputedStyle(e).fontSize)
      * (e.ownerSVGElement ? Math.hypot(e.getScreenCTM().a, e.getScreenCTM().b) : 1));
  const panels = [...page.querySelectorAll("svg")];
  document.getElementById("found").textContent = JSON.stringify({{
    wide: root.scrollWidth, seen: root.clientWidth, height: root.scrollHeight,
    ground: look.backgroundColor, text: look.color, smallest: Math.min(...small),
    panels: panels.length, tables: page.querySelectorAll("table").length,
    drawn: panels.filter(e => e.getBoundingClientRect().width > 200).length,
  }});
}});
</script></body>"""


@pytest.fixture(scope="module")
def pages(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A run's report, a comparison with itself under another name, and three methods on tasks."""
    runs = tmp_path_factory.mktemp("browser")
    other = shutil.copytree(smoke_run, runs / "other")
    config = other / "config.yaml"
    config.write_text(config.read_text().replace(f"name: {smoke_run.name}\n", "name: other\n", 1))
    given = {"horizons": [1, 2], "num_samples": 2, "episodes": 3, "resamples": 100}
    given["policy_ranking"] = {"rollouts_per_policy": 0}
    compare_runs([str(smoke_run), str(other)], "last", given, str(runs))
    names = [f"a method of learning from dataset, number {number}" for number in range(3)]
    scores = np.random.default_rng(0).normal(50, 20, (len(names), 5, 2))
    table = ScoreTable(["one task", "another"], dict(zip(names, scores, strict=True)), True)
    return {
        "report": (smoke_run / "evaluation" / "report.html").read_text(),
        "comparison": (runs / "comparison.html").read_text(),
        "aggregate": aggregated_page(aggregate_methods(table)),
    }


def opened(page: str, width: int, dark: bool, folder: Path) -> tuple[dict, list[str]]:
    """What the script in the frame found, and the lines of the browser's console."""
    framed = FRAME.format(width=width, page=html.escape(page))
    (folder / "frame.html").write_text(framed, encoding="utf-8")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [BROWSER, *FLAGS, scheme, profile, (folder / "frame.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    found = re.search(r'<pre id="found">(.+?)</pre>', done.stdout, re.S)
    assert found, done.stdout[-500:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(found[1])), console


def luminance(color: str) -> float:
    """Relative, of `rgb(r, g, b)` (WCAG 2.2)."""
    parts = [int(x) / 255 for x in re.findall(r"\d+", color)[:3]]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return sum(w * x for w, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("name", ["report", "comparison", "aggregate"])
@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True)])
def test_a_page_is_readable(
    pages: dict[str, str], name: str, width: int, dark: bool, tmp_path: Path
) -> None:
    page = pages[name]
    assert len(page.encode()) < 3e6
    found, console = opened(page, width, dark, tmp_path)
    assert not console, console
    assert found["wide"] <= found["seen"] <= width  # nothing sticks out; wide tables scroll alone
    assert found["smallest"] >= LEAST_TEXT
    assert found["panels"] == found["drawn"] == page.count("<svg") > 0 and found["tables"] > 0
    ground, text = luminance(found["ground"]), luminance(found["text"])
    assert (ground < text) == dark
    assert (max(ground, text) + 0.05) / (min(ground, text) + 0.05) >= LEAST_CONTRAST


def test_a_mistake_in_a_page_would_be_seen(tmp_path: Path) -> None:
    broken = "<p>words<script>missing()</script><div style='width:999px'>wide</div>"
    found, console = opened(f"<!doctype html><body>{broken}</body>", 390, False, tmp_path)
    assert "missing is not defined" in "".join(console)
    assert found["wide"] > found["seen"]
