"""The pictures of the page in docs/: ``python -m tests.screenshots FOLDER``, or ``make screenshots``.

The reference patient is contoured by the shipped model, then Chromium looks at the page.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from selenium.webdriver.support.ui import WebDriverWait

from contourd.acceptance.reference_patient import reference_series
from tests.browser import chromium, look_like
from tests.paging import TOKEN, served, write_token
from tests.showcase import contoured, files_of, fill

# Name, path, width, height, colour scheme, what is pressed in the viewer.
PICTURES = (
    ("queue", "/", 1280, 880, "light", ""),
    ("job", "/jobs/1", 1280, 940, "light", ""),
    ("job-dark", "/jobs/1", 1280, 940, "dark", "f"),
    ("phone", "/jobs/1", 390, 844, "dark", ""),
    ("held", "/series/2", 1280, 860, "light", ""),
)
COLOURS = 256


def main(folder: Path) -> None:
    """Write the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as name:
        root = Path(name)
        files = files_of(reference_series(root / "ct"), contoured)
        with served(root, token_file=write_token(root)) as page, chromium(root / "browser") as browser:
            fill(page.database, page.spool, files)
            browser.get(f"{page.address}/sign-in")
            browser.find_element("name", "name").send_keys("A. Physicist")
            browser.find_element("name", "token").send_keys(TOKEN + "\n")
            WebDriverWait(browser, 30).until(lambda b: b.current_url == f"{page.address}/")
            for title, path, width, height, scheme, keys in PICTURES:
                page.pulse.beat(True)
                look_like(browser, width, height, scheme)
                browser.get(page.address + path)
                if path != "/":
                    WebDriverWait(browser, 120).until(
                        lambda b: b.find_element("id", "viewer").get_attribute("data-state") == "ready"
                    )
                if keys:
                    browser.find_element("css selector", ".pane.axial").send_keys(keys)
                    browser.execute_script("document.activeElement.blur()")
                browser.save_screenshot(str(folder / f"{title}.png"))
                shrink(folder / f"{title}.png")


def shrink(path: Path) -> None:
    """Keep the colours that count: a quarter of the size."""
    with Image.open(path) as image:
        image.convert("RGB").quantize(COLOURS, Image.Quantize.FASTOCTREE).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
