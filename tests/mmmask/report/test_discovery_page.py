"""The page of a discovery: one file, everything escaped, and in a browser it can be searched and opened."""

import json
import re
import shutil

import pytest

from mmmask.discovery.calibration import Calibration
from mmmask.discovery.categories import Category, Discovery
from mmmask.discovery.space import Space
from mmmask.report.discovery_page import discovery_page

EVIL = "<script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">"
PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"


def page():
    """Three categories with hostile names, words, texts and keys, a map, and curves."""
    categories = [
        Category(0, f"shoes {EVIL}", True, ["red shoe"], 5, 0.9, [f"a{EVIL}", "b"], ["c"]),
        Category(1, "hats", True, ["blue hat", EVIL], 3, 0.8, ["d"], []),
        Category(7, "new-07", False, ["green mug"], 2, 0.6, ["e"], []),
    ]
    calibration = Calibration(1.0, 0.5, 8, (0.9, 0.5), (0.5, 1.0), (1.0, 0.75))
    told = {"samples": 10, "labelled": 4}
    found = Discovery(categories, Space(), None, None, None, calibration, 1.0, 8, told)
    points = [{"k": k, "accuracy": [0.5, 0.1], "silhouette": [0.2, 0], "stability": [0.8, 0.1]} for k in (2, 3, 4)]
    merged, peaks = [[2, 0.5, 0.1], [3, 0.6, 0.0]], {"accuracy": 3, "silhouette": 4, "stability": 2, "merged": 3}
    curves = {
        "classes": {"best": 3, "range": [2, 4], "peaks": peaks, "points": points, "merged": merged},
        "confusion": [[0, 1, 2], [0, 0, 6], [0, 5, 1], [1, -1, 1]],  # 5 is no more
    }
    texts = {"b": f"text {EVIL}", "d": "a blue hat </script>", "e": "green & mug"}
    places = [(0.1, 0.2, 0, f"a{EVIL}"), (0.8, 0.9, 2, "e")]
    return discovery_page(found, curves, texts, {"b": PIXEL, "e": PIXEL}, places)


def test_nothing_of_the_data_is_markup():
    text = page()
    assert text.count("<script") == text.count("</script>") == 2
    assert "<img" not in text
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    assert data["categories"][0]["name"] == f"shoes {EVIL}"
    assert data["confusion"] == [[f"shoes {EVIL}", "hats", 2, 9], ["hats", "(a new category)", 1, 1]]
    assert data["matrix"]["names"] == [f"shoes {EVIL}", "hats", "(a new category)"]
    assert data["matrix"]["cells"] == [[0, 0, 6, 9], [0, 1, 2, 9], [1, 2, 1, 1]]


def test_nothing_is_loaded_from_elsewhere():
    text = page()
    assert "default-src 'none'" in text
    assert not re.search(r'(?:src|href)="?https?:|@import|fetch\(|XMLHttpRequest', text)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """The page in a headless Chromium."""
    program, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("no Chromium with its chromedriver is installed (apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    quiet = "no-first-run disable-background-networking disable-component-update disable-sync disable-quic"
    folder = tmp_path_factory.mktemp("chromium")
    for word in ("headless", "no-sandbox", "disable-gpu", "window-size=1200,900", *quiet.split()):
        options.add_argument(f"--{word}")
    options.add_argument(f"--user-data-dir={folder / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options, webdriver.ChromeService(driver))
    (folder / "report.html").write_text(page())
    opened.get((folder / "report.html").as_uri())
    yield opened
    opened.quit()


def cards(browser):
    return [one.text for one in browser.find_elements("css selector", ".card") if one.is_displayed()]


def test_the_page_loads_without_errors_and_runs_no_foreign_script(browser):
    assert browser.title == "Categories"
    assert len(cards(browser)) == 3
    assert EVIL in cards(browser)[0]
    assert browser.find_elements("css selector", "figure svg polyline")
    cells = browser.find_elements("css selector", "figure svg rect.right, figure svg rect.wrong")
    assert [one.get_attribute("class") for one in cells] == ["right", "wrong", "wrong"]
    assert "2 of 9 found in hats" in cells[1].find_element("css selector", "title").get_attribute("textContent")
    assert browser.get_log("browser") == []


def test_search_and_kind_filter_the_cards(browser):
    search = browser.find_element("id", "search")
    search.send_keys("BLUE hat")
    assert [text.splitlines()[0] for text in cards(browser)] == ["hats"]
    assert browser.find_element("id", "count").text == "1 of 3 categories"
    search.clear()
    search.send_keys(" ")
    browser.find_element("css selector", "[data-kind=new]").click()
    assert [text.splitlines()[0] for text in cards(browser)] == ["green mug"]
    browser.find_element("css selector", "[data-kind=all]").click()
    assert len(cards(browser)) == 3


def test_a_card_opens_and_closes(browser):
    browser.find_element("css selector", '.card[data-id="7"]').click()
    dialog = browser.find_element("id", "opened")
    assert dialog.is_displayed()
    assert "green & mug" in dialog.text
    assert dialog.find_elements("css selector", "img")
    browser.find_element("id", "close").click()
    assert not dialog.is_displayed()
    assert browser.title == "Categories"


def test_pointing_at_the_map_tells_the_sample(browser):
    from selenium.webdriver import ActionChains

    chart = browser.find_element("id", "map")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    width, height = chart.size["width"], chart.size["height"]
    x, y = 18 + 0.8 * (width - 36) - width / 2, 18 + 0.9 * (height - 36) - height / 2
    ActionChains(browser).move_to_element_with_offset(chart, round(x), round(y)).perform()
    tip = browser.find_element("id", "tip")
    assert tip.is_displayed()
    assert "green & mug" in tip.text
