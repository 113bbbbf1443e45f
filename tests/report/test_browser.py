"""The report in a real browser: names run no code, and the page fits wide and narrow screens."""

import re
import shutil
import subprocess

import pytest
from PIL import Image

from report.__main__ import main
from tests.report.run_cases import some_detections, write_data, write_run
from tests.report.test_write import EVIL

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium (apt-get install chromium)")
MEASURE = (
    "<script>document.title = 'overflow ' + "
    "(document.documentElement.scrollWidth - document.documentElement.clientWidth)</script>"
)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    names = [*EVIL, *(f"a class with a long name, number {i}" for i in range(20))]
    coco = write_data(root / "data", names, num_images=30)
    write_run(root / "out", root / "data", coco, some_detections(coco))
    assert main([str(root / "out")]) == 0
    return root / "out" / "report.html"


def browse(page, *flags):
    """Open a page and return what the browser prints."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", *flags, f"file://{page}"]
    profile = f"--user-data-dir={page.parent / 'profile'}"
    done = subprocess.run([*command[:1], profile, *command[1:]], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def test_names_with_html_run_no_code(report):
    content = browse(report, "--dump-dom", "--virtual-time-budget=2000")
    assert "<title>Report of out</title>" in content
    assert "<script" not in content and '<img src="x"' not in content
    assert content.count("<svg") == 17


@pytest.mark.parametrize("width", [1400, 500])  # a window is never narrower than 500
def test_nothing_is_wider_than_the_window(report, tmp_path, width):
    page = tmp_path / "measured.html"
    text = re.sub(r"<meta http-equiv.*?>", "", report.read_text(), flags=re.DOTALL)
    page.write_text(text.replace("</body>", f"{MEASURE}</body>"))
    content = browse(page, "--dump-dom", f"--window-size={width},900")
    assert "<title>overflow 0</title>" in content


@pytest.mark.parametrize(("scheme", "is_dark"), [("0", True), ("1", False)])
def test_the_page_follows_the_color_scheme(report, tmp_path, scheme, is_dark):
    picture = tmp_path / "page.png"
    flags = [f"--blink-settings=preferredColorScheme={scheme}", "--window-size=700,500"]
    browse(report, *flags, f"--screenshot={picture}")
    with Image.open(picture) as image:
        assert (sum(image.convert("RGB").getpixel((3, 3))) < 150) == is_dark
