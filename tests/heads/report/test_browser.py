"""A report in a real browser: it is drawn, it works, and it asks for nothing."""

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onepass import report, train_head
from onepass.extract import label, run_extraction
from onepass.features import FeatureFile
from onepass.features.writer import RowWriter, write_feature_file
from support import GOLDEN, make_spec, make_table, plain, write_folder

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("playwright") is None, reason="needs playwright, which drives a browser"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_backbone) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    for part, seed in (("train", 1), ("test", 3)):
        write_folder(folder / "photos" / part, {"ant": 30, "bee": 30, "fly": 20}, seed=seed)
    run_extraction(folder / "photos", tiny_backbone, out=folder / "photos.h5")
    train_head(folder / "photos.h5", out=folder / "photos.head")
    report(folder / "photos.head", out=folder / "x.html")
    return folder


@pytest.fixture
def opened(browser, folder: Path) -> Iterator:
    """Opens the report; afterwards nothing may have gone wrong, and nothing may have been asked for."""
    contexts, wrong, asked = [], [], []

    def open_page(path: Path = folder / "x.html", **options: object):
        contexts.append(browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options)))
        page = contexts[-1].new_page()
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_timeout(200)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []
    assert {url for url in asked if not url.startswith(("file:", "data:", "blob:"))} == set()


def points(page) -> list[tuple[float, float]]:
    """Where the canvas shows something, for a look at whether it does."""
    return page.evaluate(
        """() => {
            const c = document.getElementById("map-points"), found = [];
            const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
            for (let i = 0; i < d.length / 4; i++) if (d[4 * i + 3] > 200) found.push([i % c.width, i / c.width | 0]);
            return found.filter((_, i) => i % 7 === 0);
        }"""
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_is_drawn_in_both_schemes_and_fits(opened, tmp_path: Path, scheme: str, width: int):
    page = opened(color_scheme=scheme, viewport={"width": width, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as shot:
        pixels = np.asarray(shot.convert("L"))
    assert pixels.std() > 8
    assert (pixels.mean() > 128) == (scheme == "light")
    assert len(points(page)) > 100
    page.locator("#map-points").scroll_into_view_if_needed()
    page.locator("#map-points").screenshot(path=tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as shot:
        assert len(shot.convert("RGB").getcolors(10**6)) > 10


def test_a_point_shows_its_image_and_keys_go_from_point_to_point(opened):
    page = opened()
    canvas = page.locator("#map-points")
    canvas.scroll_into_view_if_needed()
    box, (x, y) = canvas.bounding_box(), points(page)[0]
    page.mouse.move(box["x"] + x, box["y"] + y)
    tip = page.locator("#map-tip")
    assert tip.is_visible()
    assert tip.locator(".view").count() == 1
    first = tip.locator("b").inner_text()
    assert first.endswith(".png")
    canvas.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("#map-live").inner_text() != ""
    page.keyboard.press(" ")
    assert page.locator("#map-count").inner_text() == "1 image selected"
    page.keyboard.press("Escape")
    assert page.locator("#map-picked").is_hidden()


def test_a_lasso_writes_names_that_label_takes_back(opened, folder: Path, tmp_path: Path):
    page = opened(accept_downloads=True)
    canvas = page.locator("#map-points")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    corners = [(2, 2), (box["width"] - 2, 2), (box["width"] - 2, box["height"] - 2), (2, box["height"] - 2), (2, 4)]
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.mouse.down()
    for x, y in corners:
        page.mouse.move(box["x"] + x, box["y"] + y, steps=3)
    page.mouse.up()
    assert page.locator("#map-count").inner_text() == "160 images selected"
    page.locator("#map-label").select_option("fly")
    with page.expect_download() as download:
        page.locator("#map-save").click()
    download.value.save_as(tmp_path / "selected.csv")
    shutil.copy(folder / "photos.h5", tmp_path / "photos.h5")
    assert label(tmp_path / "photos.h5", relabel=tmp_path / "selected.csv").changed == 120
    with FeatureFile(tmp_path / "photos.h5") as file:
        assert set(file.table.label_texts()) == {"fly"}


def test_a_number_of_the_matrix_shows_its_images(opened):
    page = opened()
    cell = page.locator(".matrix td a").first
    panel = page.locator(cell.get_attribute("href"))
    assert panel.is_hidden()
    cell.click()
    assert panel.is_visible()
    assert panel.locator("figure").count() == min(int(cell.inner_text()), 24)


def test_colours_layouts_and_zoom_redraw_the_map(opened):
    page = opened()
    before = points(page)
    page.locator("#map-colour").select_option(label="split")
    assert "train" in page.locator("#map-legend").inner_text()
    page.locator("#map-layout").select_option(label="PCA")
    page.wait_for_timeout(100)
    after = points(page)
    assert after != before
    page.locator("#map-in").click()
    page.wait_for_timeout(100)
    assert points(page) != after


def test_it_is_printed_on_paper(opened, tmp_path: Path):
    page = opened()
    page.pdf(path=tmp_path / "x.pdf", format="A4")
    assert (tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")


def test_hostile_names_run_nothing(opened, tmp_path: Path, rng: np.random.Generator):
    names = (
        "<img src=x onerror=alert(1)>.png",
        "</script><script>alert(2)</script>.png",
        "'\"><svg onload=alert(3)>.png",
    )
    table = make_table(60, 2)
    paths = tuple(f"{i}/{names[i % 3]}" for i in range(60))
    table = type(table)(**{**vars(table), "paths": paths, "class_names": ("<script>alert(4)</script>", "</style>")})
    write_feature_file(tmp_path / "x.h5", make_spec(), table, {"data": "photos"}, GOLDEN)
    with RowWriter(tmp_path / "x.h5") as writer:
        writer.commit(plain(range(60)), rng.normal(size=(60, 6)).astype(np.float32) + table.labels[:, None])
    report(tmp_path / "x.h5", out=tmp_path / "x.html")
    page = opened(tmp_path / "x.html")
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    box, (x, y) = page.locator("#map-points").bounding_box(), points(page)[0]
    page.mouse.wheel(0, box["y"] - 100)
    page.wait_for_timeout(300)
    box = page.locator("#map-points").bounding_box()
    page.mouse.move(box["x"] + x, box["y"] + y)
    assert page.locator("#map-tip b").inner_text() in paths
    assert page.evaluate("document.scripts.length") == 2
