"""The page in Chromium: that the pictures are there at once, and that eyes, mouse and keyboard get what they expect."""

from __future__ import annotations

import pytest
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests import showcase
from tests.browser import chromium, look_like
from tests.paging import TOKEN, served, write_token

pytestmark = pytest.mark.peers
WAIT_S = 60


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    with served(root, token_file=write_token(root)) as page:
        showcase.fill(page.database, page.spool)
        page.pulse.beat(True)
        yield page


@pytest.fixture(scope="module")
def browser(tmp_path_factory, page):  # noqa: ARG001
    with chromium(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


@pytest.fixture
def viewer(browser, page):
    """Job 1, its pictures drawn, on a screen of 1360 x 900."""
    look_like(browser, 1360, 900, "light")
    browser.get(f"{page.address}/jobs/1")
    until(browser, lambda: browser.find_element(By.ID, "viewer").get_attribute("data-state") == "ready")
    yield browser
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def until(browser, reached) -> None:
    """Wait; an element that the page replaces while it is read is read anew."""
    wait = WebDriverWait(browser, WAIT_S, poll_frequency=0.05, ignored_exceptions=[StaleElementReferenceException])
    wait.until(lambda _: reached())


def pane(browser, plane: str) -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, f".pane.{plane}")


def shown(browser, plane: str) -> int:
    return int(pane(browser, plane).get_attribute("data-shown"))


def outlined(browser, plane: str) -> set[str]:
    """Name the organs whose contours a pane shows; asked in one go, since a redraw replaces them."""
    script = "return [...document.querySelectorAll(`.pane.${arguments[0]} path`)].map((p) => p.dataset.organ)"
    return set(browser.execute_script(script, plane))


def fill_of(browser, organ: str) -> str:
    script = "return getComputedStyle(document.querySelector(`.axial path[data-organ=${arguments[0]}]`)).fill"
    return str(browser.execute_script(script, organ))


def brightness(browser, plane: str) -> float:
    """Return the mean grey of what a pane's canvas shows, 0 to 255."""
    script = """
        const canvas = document.querySelector(`.pane.${arguments[0]} canvas`);
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        let sum = 0;
        for (let i = 0; i < data.length; i += 4) sum += data[i];
        return (4 * sum) / data.length;
    """
    return float(browser.execute_script(script, plane))


def test_three_planes_with_contours_are_there_at_once(viewer):
    for plane in ("axial", "coronal", "sagittal"):
        assert 10 < brightness(viewer, plane) < 200
        assert outlined(viewer, plane)
    assert {"Parotid_L", "Parotid_R"} <= outlined(viewer, "axial")
    letters = {
        side: pane(viewer, "axial").find_element(By.CLASS_NAME, side).text
        for side in ("left", "right", "upper", "lower")
    }
    assert letters == {"left": "R", "right": "L", "upper": "A", "lower": "P"}


def test_a_held_series_shows_why_at_a_glance(browser, page):
    """The planes that are there, the gap across two of them, what is missing in words, and what helps."""
    look_like(browser, 1360, 900, "light")
    browser.get(f"{page.address}/series/2")
    until(browser, lambda: browser.find_element(By.ID, "viewer").get_attribute("data-state") == "ready")
    for plane, bands in (("axial", 0), ("coronal", 1), ("sagittal", 1)):
        assert brightness(browser, plane) > 5
        assert len(browser.find_elements(By.CSS_SELECTOR, f".pane.{plane} rect.gap")) == bands
    assert "2 missing above" in pane(browser, "axial").text
    told = browser.find_element(By.ID, "there").text
    assert "2 missing, z = -42.5 to -37.5 mm" in told
    pane(browser, "axial").send_keys(Keys.ARROW_UP)
    until(browser, lambda: "2 missing below" in pane(browser, "axial").text)
    browser.find_element(By.CSS_SELECTOR, "#there .gap button").click()
    until(browser, lambda: "2 missing above" in pane(browser, "axial").text)
    assert "Send the whole series again" in browser.find_element(By.CSS_SELECTOR, ".reason").text
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_the_left_parotid_is_on_the_right_of_the_picture(viewer):
    left, right = (
        pane(viewer, "axial").find_element(By.CSS_SELECTOR, f'path[data-organ="{name}"]').rect["x"]
        for name in ("Parotid_L", "Parotid_R")
    )
    assert left > right + 100


def test_the_picture_has_the_patients_proportions(viewer):
    """An organ's box on the screen is as wide to high as in the patient, though slices are twice as thick as pixels."""
    path = pane(viewer, "sagittal").find_element(By.CSS_SELECTOR, 'path[data-organ="SpinalCord"]')
    box = viewer.execute_script("const b = arguments[0].getBBox(); return [b.width, b.height]", path)
    on_screen = viewer.execute_script(
        "const b = arguments[0].getBoundingClientRect(); return [b.width, b.height]", path
    )
    assert on_screen[0] / on_screen[1] == pytest.approx(box[0] / box[1], rel=0.03)


def test_the_check_is_told_beside_the_organ(viewer):
    flagged = viewer.find_element(By.CSS_SELECTOR, "#organs li.check")
    assert "Parotid_R" in flagged.text
    assert "expected 25.3 to 129.2 cc" in flagged.text
    assert len(viewer.find_elements(By.CSS_SELECTOR, "#organs li")) == 7


def test_organs_are_filled_on_request(viewer):
    assert fill_of(viewer, "Parotid_L") == "none"
    viewer.find_element(By.ID, "fill").click()
    assert fill_of(viewer, "Parotid_L") == "rgb(0, 192, 0)"
    viewer.find_element(By.ID, "fill").click()
    assert fill_of(viewer, "Parotid_L") == "none"


def test_the_viewer_fits_on_one_screen(viewer):
    bottom = viewer.execute_script("return document.querySelector('.panes').getBoundingClientRect().bottom")
    assert bottom <= 900


def test_an_organ_is_switched_off_and_on(viewer):
    box = viewer.find_element(By.CSS_SELECTOR, 'input[aria-label="show Parotid_L"]')
    box.click()
    assert "Parotid_L" not in outlined(viewer, "axial") | outlined(viewer, "coronal")
    assert "Parotid_R" in outlined(viewer, "axial")
    box.click()
    assert "Parotid_L" in outlined(viewer, "axial")


def test_the_organs_name_leads_to_its_largest_slice(viewer):
    before = shown(viewer, "axial")
    viewer.find_element(By.XPATH, "//ul[@id='organs']//button[text()='Larynx']").click()
    until(viewer, lambda: "Larynx" in outlined(viewer, "axial"))
    assert shown(viewer, "axial") < before  # it lies below the parotids
    assert "Larynx" in outlined(viewer, "coronal") & outlined(viewer, "sagittal")


def test_keys_scroll_and_toggle(viewer):
    start = shown(viewer, "axial")
    axial = pane(viewer, "axial")
    axial.send_keys(Keys.ARROW_UP)
    until(viewer, lambda: shown(viewer, "axial") == start + 1)
    axial.send_keys(Keys.PAGE_DOWN)
    until(viewer, lambda: shown(viewer, "axial") == start - 9)
    axial.send_keys(Keys.HOME)
    until(viewer, lambda: shown(viewer, "axial") == 0)
    axial.send_keys("c")
    assert outlined(viewer, "sagittal") == set()
    axial.send_keys("c")
    assert outlined(viewer, "sagittal")


def test_the_wheel_and_the_slider_scroll(viewer):
    start = shown(viewer, "axial")
    wheel = "arguments[0].dispatchEvent(new WheelEvent('wheel', {deltaY: 120, bubbles: true, cancelable: true}))"
    viewer.execute_script(wheel, pane(viewer, "axial"))
    until(viewer, lambda: shown(viewer, "axial") == start - 3)
    slider = pane(viewer, "coronal").find_element(By.CSS_SELECTOR, "input")
    slider.send_keys(Keys.ARROW_RIGHT)
    until(viewer, lambda: shown(viewer, "coronal") == int(slider.get_attribute("value")))


def test_the_window_changes_what_is_seen(viewer):
    soft = brightness(viewer, "axial")
    pane(viewer, "axial").send_keys("ww")  # bone
    assert viewer.find_element(By.ID, "level").text == "W 1500 L 300"
    assert brightness(viewer, "axial") < soft - 5


def test_a_click_moves_the_other_planes_through_the_point(viewer):
    before = shown(viewer, "coronal"), shown(viewer, "sagittal")
    axial = pane(viewer, "axial")
    webdriver_click(viewer, axial, 60, 40)
    until(viewer, lambda: shown(viewer, "sagittal") > before[1] and shown(viewer, "coronal") > before[0])


def webdriver_click(browser, element: WebElement, right: int, down: int) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser).move_to_element_with_offset(element, right, down).click().perform()


@pytest.mark.parametrize(("width", "height"), [(390, 844), (820, 1180), (1360, 900)])
@pytest.mark.parametrize("path", ["/", "/jobs/1", "/jobs/5", "/series/2", "/models/0", "/sign-in"])
def test_nothing_is_wider_than_the_screen(browser, page, path, width, height):
    look_like(browser, width, height, "dark")
    browser.get(page.address + path)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser, page, scheme):
    """WCAG 2.1, 1.4.3: 4.5 to 1 for the text of pills and cards."""
    look_like(browser, 1360, 900, scheme)
    browser.get(page.address + "/")
    script = """
        const parts = (c) => c.match(/[\\d.]+/g).slice(0, 3).map(Number);
        const light = (c) => parts(c).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        const ground = (e) => { while (e) { const c = getComputedStyle(e).backgroundColor;
            if (c !== "rgba(0, 0, 0, 0)") return c; e = e.parentElement; } return "rgb(255, 255, 255)"; };
        const texts = ".pill, small, .count b, .count span, a, th, dt, dd, .empty, .button";
        return [...document.querySelectorAll(texts)].map((e) => {
            const [a, b] = [light(getComputedStyle(e).color), light(ground(e))];
            return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.className + " " + e.textContent.slice(0, 20)];
        });
    """
    found = browser.execute_script(script)
    assert len(found) > 30
    assert [told for ratio, told in found if ratio < 4.5] == []


def test_a_person_confirms_with_the_keyboard_alone(browser, page):
    look_like(browser, 1360, 900, "light")
    browser.get(f"{page.address}/sign-in")
    browser.switch_to.active_element.send_keys("Marie Curie", Keys.TAB, TOKEN, Keys.ENTER)
    until(browser, lambda: browser.current_url == f"{page.address}/")
    browser.get(f"{page.address}/jobs/1")
    until(browser, lambda: browser.find_element(By.ID, "viewer").get_attribute("data-state") == "ready")
    browser.find_element(By.CSS_SELECTOR, ".confirm button").send_keys(Keys.ENTER)
    until(browser, lambda: browser.find_elements(By.CSS_SELECTOR, ".message"))
    assert browser.find_element(By.CSS_SELECTOR, ".message").text == "Job 1 is confirmed, and goes to its destinations."
    until(browser, lambda: browser.find_element(By.CSS_SELECTOR, '[data-live="state"]').text == "delivering")


def test_the_queue_keeps_up_by_itself(browser, page):
    browser.get(f"{page.address}/")
    page.pulse.beat(False)
    until(browser, lambda: "its worker is not running" in browser.find_element(By.TAG_NAME, "aside").text)
    page.pulse.beat(True)
