"""Make the dashboard's pictures in docs/images from a virtual fleet, in Debian's Chromium.

    .venv/bin/python scripts/dashboard_screenshots.py

It starts `jouleserve dashboard --fleet examples/fleets/mixed200.yaml`, waits until the curves show
something, and takes the page at 1440 and 400 pixels, light and dark.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from playwright.sync_api import sync_playwright

from tests.chromium import ARGUMENTS, BINARY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[1]
QUALITY = 82
PATIENCE_MS = 120_000


class Picture(NamedTuple):
    """One picture: a file's name, the window, and whose colours."""

    name: str
    width: int
    height: int
    scheme: str


PICTURES = (
    Picture("dashboard-light", 1440, 1500, "light"),
    Picture("dashboard-dark", 1440, 1500, "dark"),
    Picture("dashboard-narrow", 400, 1500, "dark"),
)


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fleet", type=Path, default=ROOT / "examples/fleets/mixed200.yaml")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images")
    parser.add_argument("--load", type=float, default=0.6)
    parser.add_argument("--seconds", type=float, default=60, help="that curves are drawn over")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with page(given.fleet, given.load) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BINARY, args=ARGUMENTS)
        take(browser, url, given.out, given.seconds)
        browser.close()


@contextmanager
def page(fleet: Path, load: float) -> Iterator[str]:
    """Serve the page while inside; give its address."""
    command = [sys.executable, "-m", "serve.cli", "dashboard", "--fleet", str(fleet)]
    options = ["--load", str(load), "--port", "0"]
    with subprocess.Popen(  # noqa: S603 (our own command)
        [*command, *options], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            if process.stdout is None or not (line := process.stdout.readline()):
                raise SystemExit("the dashboard has not come up")
            yield line.strip()
        finally:
            process.terminate()


def take(browser: Browser, url: str, out: Path, seconds: float) -> None:
    """Open all windows, wait, and take each."""
    opened = []
    for picture in PICTURES:
        window = browser.new_context(
            viewport={"width": picture.width, "height": picture.height},
            color_scheme="dark" if picture.scheme == "dark" else "light",
        ).new_page()
        window.goto(url)
        window.wait_for_selector('body[data-connection="live"]', timeout=PATIENCE_MS)
        opened.append((picture, window))
    opened[-1][1].wait_for_timeout(seconds * 1000)
    for picture, window in opened:
        file = out / f"{picture.name}.jpeg"
        window.bring_to_front()
        window.screenshot(path=file, type="jpeg", quality=QUALITY)
        print(file.relative_to(ROOT) if file.is_relative_to(ROOT) else file)


if __name__ == "__main__":
    main()
