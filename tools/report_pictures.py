"""Makes the pictures of the report that the README and docs show.

    python tools/report_pictures.py examples/runs/notebook examples/runs/warm

Those are the runs of examples/from_python.ipynb. Writes docs/images: the report
of the first on a desktop screen, parts of it on a phone, light and dark, and
the comparison of both in dark mode. Needs Chromium. Look at each before it is
committed.
"""

import argparse
import base64
import io
import pathlib
import sys
import tempfile

from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from moco_tf.cli import main as cli  # noqa: E402 the checkout's own
from tests.reporting import browser  # noqa: E402

_DESKTOP = (1440, 1180)
_PHONE = (360, 800)
_GAP = 20  # pixels between the phones
# The parts of a report that phones show: its top, and two of its sections.
_PARTS = ((None, False), ("curves", False), ("map", True))
_QUALITY = 90


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs=2, metavar="RUN", help="its workdir")
    parser.add_argument("--folder", default=ROOT / "docs" / "images")
    options = parser.parse_args()
    if browser.PATH is None:
        sys.exit("Chromium is needed, and not on PATH.")
    folder = pathlib.Path(options.folder)
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        one, both = root / "one.html", root / "both.html"
        _report(one, options.runs[:1])
        _report(both, options.runs)
        page = browser.Browser(root / "profile")
        try:
            page.open(one, *_DESKTOP)
            _save(_shot(page), folder / "report_desktop.webp")
            phones = [_phone(page, one, *part) for part in _PARTS]
            _save(_side_by_side(phones), folder / "report_phone.webp")
            page.open(both, *_DESKTOP, dark=True)
            _save(_shot(page), folder / "report_comparison_dark.webp")
        finally:
            page.close()


def _report(path, runs):
    """Writes the report of runs to a file, as the command does."""
    words = [f"--workdir={run}" for run in runs]
    if status := cli.run(["report", *words, f"--path={path}"]):
        sys.exit(status)


def _phone(page, path, part, dark):
    """A phone's screen with a part of a report at its top; None: as opened."""
    page.open(path, *_PHONE, dark=dark)
    if part:  # the page scrolls smoothly by itself
        code = f"document.getElementById('{part}').scrollIntoView("
        page.run(code + "{behavior: 'instant'})")
    return _shot(page)


def _shot(page):
    """What is on the screen, a PIL image."""
    # What has been scrolled there must have been painted.
    painted = "new Promise(f => requestAnimationFrame(() => setTimeout(f)))"
    page.call("Runtime.evaluate", expression=painted, awaitPromise=True)
    data = page.call("Page.captureScreenshot", format="png")["data"]
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def _side_by_side(images):
    width = sum(image.width for image in images) + _GAP * (len(images) - 1)
    sheet = Image.new("RGB", (width, images[0].height), "grey")
    left = 0
    for image in images:
        sheet.paste(image, (left, 0))
        left += image.width + _GAP
    return sheet


def _save(image, path):
    image.save(path, quality=_QUALITY)
    print(f"{path.name}: {image.width} x {image.height}")


if __name__ == "__main__":
    main()
