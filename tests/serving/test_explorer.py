"""The explorer page: its routes, and in real Chromium everything that people do with it.

Every test with a page also fails on an error in the console, and on a request to any other host.
"""

import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright
from starlette.applications import Starlette
from starlette.testclient import TestClient

from prismrec.serving import explorer
from prismrec.serving.engine import Engine
from prismrec.serving.operations import ENGINE_OPERATIONS
from prismrec.serving.web import application
from serving.explorer_stub import LONG, MARKUP, Stub, serve

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WAIT_MS = 20_000  # on a busy machine

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian package: chromium)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Stub, str]]:
    stub = Stub()
    with serve(stub.app) as address:
        yield stub, address


@pytest.fixture
def stub(running: tuple[Stub, str]) -> Stub:
    running[0].reset()
    return running[0]


@pytest.fixture
def address(running: tuple[Stub, str]) -> str:
    return running[1]


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty page; what it says in the console and whom it asks is checked in the end."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    expect.set_options(timeout=WAIT_MS)
    complaints, hosts = [], set()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
    page.on("request", lambda request: hosts.add(request.url.split("/")[2].split(":")[0]))
    yield page
    context.close()
    # The browser itself logs answers that are no success; tests of failures cause them.
    assert [text for text in complaints if not text.startswith("Failed to load resource")] == []
    assert hosts <= {"127.0.0.1"}


def beams(page: Page) -> Any:
    return page.locator("#beams > li")


def history(page: Page) -> list[str]:
    """Titles of the history as they are shown, newest first."""
    return page.locator("#history .title").all_inner_texts()


def found(page: Page) -> Any:
    """What the search has found."""
    return page.get_by_role("listbox", name="Titles found").get_by_role("option")


def find(page: Page, text: str) -> None:
    page.get_by_role("combobox", name="Add what you know").fill(text)
    expect(found(page).first).to_be_visible()


def add(page: Page, text: str) -> None:
    find(page, text)
    found(page).first.click()


def set_dial(page: Page, name: str, value: float) -> None:
    page.locator(f"#{name}").fill(str(value))


# Routes


@pytest.fixture
def client() -> TestClient:
    return TestClient(Starlette(routes=explorer.routes()))


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/explorer/explorer.js", "text/javascript"),
        ("/explorer/style.css", "text/css"),
        ("/explorer/icon.svg", "image/svg+xml"),
    ],
)
def test_files_come_with_their_type_a_tag_and_a_strict_policy(client: TestClient, path: str, kind: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(kind)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.head(path).text == ""
    for known in (answer.headers["etag"], f'"other", W/{answer.headers["etag"]}'):
        again = client.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.text) == (304, "")
    assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/explorer/", "/explorer/index.html", "/explorer/../explorer.py", "/explorer/%2e%2e/explorer.py"]
)
def test_there_is_nothing_else(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_the_page_needs_nothing_from_elsewhere() -> None:
    for file in explorer.PAGE_FOLDER.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, f"{file.name} names an address"
        assert "innerHTML" not in text


def test_all_files_go_into_the_package_and_the_bento() -> None:
    project = Path(__file__).parents[2]
    files = set(explorer.PAGE_FOLDER.iterdir())
    bento = yaml.safe_load((project / "bentofile.yaml").read_text(encoding="utf-8"))["include"]
    assert files <= {path for pattern in bento for path in project.glob(pattern)}
    setuptools = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    package = project / "src" / "prismrec"
    assert files <= {path for pattern in setuptools["package-data"]["prismrec"] for path in package.glob(pattern)}


# In the browser


@needs_chromium
def test_without_a_history_the_page_explains_itself_and_shows_an_example(stub: Stub, address: str, page: Page) -> None:
    page.goto(address)
    expect(page.get_by_text("Add a few titles that you know")).to_be_visible()
    expect(page.get_by_text("these are the most popular items")).to_be_visible()
    expect(beams(page)).to_have_count(1)
    page.get_by_role("button", name="Show me an example").click()
    expect(beams(page)).to_have_count(5)
    expect(page.get_by_text("Add a few titles that you know")).to_be_hidden()
    assert len(history(page)) == 5


@needs_chromium
def test_search_add_and_see_beams(stub: Stub, address: str, page: Page) -> None:
    page.goto(address)
    find(page, "toy s")
    expect(found(page)).to_have_text(["Toy Story (1995)"])
    found(page).click()
    expect(page.locator("#found")).to_be_hidden()
    assert history(page) == ["Toy Story (1995)"]
    expect(beams(page)).to_have_count(5)
    first = beams(page).first
    expect(first.get_by_role("heading")).to_have_text("Label 0 33 %")
    expect(first.get_by_text("because of Toy Story")).to_be_visible()
    expect(first.get_by_role("button")).to_have_count(6)
    expect(page.locator("#together > li")).to_have_count(10)
    widths = page.locator(".ray").evaluate_all("rays => rays.map(ray => ray.getBoundingClientRect().height)")
    assert widths[0] == pytest.approx(5 * widths[4], rel=0.05), "a beam is as wide as its interest's share"
    colours = page.locator(".ray").evaluate_all("rays => rays.map(ray => getComputedStyle(ray).backgroundImage)")
    assert len(set(colours)) == 5
    assert stub.asked[-1]["history"] == ["1"]
    assert stub.asked[-1]["num_interests"] == 5


@needs_chromium
def test_enter_waits_for_what_was_typed_last(stub: Stub, address: str, page: Page) -> None:
    page.goto(address)
    find(page, "film")
    page.keyboard.type(" 4")  # the list is still the one of "film"
    page.keyboard.press("Enter")
    expect(page.locator("#history > li")).to_have_count(1)
    assert history(page) == ["Film 40 (1940)"]


@needs_chromium
def test_a_title_on_a_beam_becomes_the_newest_of_the_history(stub: Stub, address: str, page: Page) -> None:
    page.goto(f"{address}/#item=1")
    page.locator("#together").get_by_role("button").first.click()
    expect(page.locator("#history > li")).to_have_count(2)
    assert history(page) == ["Matrix, The (1999)", "Toy Story (1995)"]
    with page.expect_response("**/recommend"):
        beams(page).nth(1).get_by_role("button").first.click()
    expect(page.locator("#history > li")).to_have_count(3)
    expect(page.get_by_role("status")).to_contain_text("5 interests. Strongest: Label 0, 33 %.")
    assert stub.asked[-1]["history"][:2] == ["1", "2"]


@needs_chromium
def test_dials_ask_once_they_rest(stub: Stub, address: str, page: Page) -> None:
    page.goto(f"{address}/#item=1&item=2")
    expect(beams(page)).to_have_count(5)
    asked = len(stub.asked)
    page.locator("#interests").evaluate(
        "dial => [6, 7, 8, 9, 3].forEach(value => { dial.value = value; dial.dispatchEvent(new Event('input')); })"
    )
    expect(beams(page)).to_have_count(3)
    assert len(stub.asked) == asked + 1
    set_dial(page, "diversity", 0.35)
    set_dial(page, "novelty", 1.5)
    page.get_by_label("Model").select_option("gemirec")
    expect(page.locator("#novelty-value")).to_have_text("1.5")
    expect(page.get_by_text("as gemirec sees them")).to_be_visible()
    assert {name: stub.asked[-1][name] for name in ("num_interests", "diversity", "novelty", "model")} == {
        "num_interests": 3,
        "diversity": 0.35,
        "novelty": 1.5,
        "model": "gemirec",
    }


@needs_chromium
def test_a_link_holds_everything_and_back_goes_back(stub: Stub, address: str, page: Page) -> None:
    page.goto(f"{address}/#item=2&item=nobody&item=1&interests=4&diversity=0.3&model=gemirec")
    expect(beams(page)).to_have_count(4)
    expect(page.locator("#history .title")).to_have_text(["Toy Story (1995)", "nobody", "Matrix, The (1999)"])
    expect(page.locator("#history > li").nth(1)).to_contain_text("not in this catalogue")
    expect(page.locator("#diversity-value")).to_have_text("0.3")
    expect(page.get_by_label("Model")).to_have_value("gemirec")
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_text("Nothing yet.")).to_be_visible()
    assert "item" not in page.url
    page.go_back()
    expect(page.locator("#history > li")).to_have_count(3)
    expect(beams(page)).to_have_count(4)


@needs_chromium
def test_links_that_make_no_sense_do_no_harm(stub: Stub, address: str, page: Page) -> None:
    for number, hash_ in enumerate(("#interests=99&diversity=x&novelty=-3", "#item=&item", "#%E0%A4%A", "#&&=&#")):
        with page.expect_response("**/recommend"):
            page.goto(f"{address}/{hash_}")
        expect(page.get_by_text("these are the most popular items")).to_be_visible()
        assert len(stub.asked) == number + 1
        assert stub.asked[-1]["num_interests"] in (5, 12)
        assert (stub.asked[-1]["diversity"], stub.asked[-1]["novelty"]) == (0, 0)


@needs_chromium
def test_the_history_can_be_reordered_and_removed(stub: Stub, address: str, page: Page) -> None:
    page.goto(f"{address}/#item=1&item=2&item=3")
    expect(beams(page)).to_have_count(5)
    expect(page.get_by_role("button", name="Move Amélie (2001) up")).to_be_disabled()
    page.get_by_role("button", name="Move Toy Story (1995) up").click()
    assert history(page) == ["Amélie (2001)", "Toy Story (1995)", "Matrix, The (1999)"]
    expect(page.get_by_role("button", name="Move Toy Story (1995) up")).to_be_focused()
    with page.expect_response("**/recommend"):
        page.get_by_role("button", name="Remove Amélie (2001)").click()
    assert history(page) == ["Toy Story (1995)", "Matrix, The (1999)"]
    expect(page.get_by_role("button", name="Remove Toy Story (1995)")).to_be_focused()
    assert stub.asked[-1]["history"] == ["2", "1"]


@needs_chromium
def test_everything_works_with_the_keyboard_alone(stub: Stub, address: str, page: Page) -> None:
    page.goto(address)
    expect(beams(page)).to_have_count(1)
    press = page.keyboard.press
    press("Tab")
    expect(page.get_by_text("Skip to your interests")).to_be_focused()
    press("Tab")
    press("Tab")
    field = page.get_by_role("combobox", name="Add what you know")
    expect(field).to_be_focused()
    assert field.evaluate("field => getComputedStyle(field).outlineStyle") == "solid"
    page.keyboard.type("film 1")
    expect(found(page)).to_have_count(10)
    press("ArrowUp")
    expect(found(page).last).to_have_attribute("aria-selected", "true")
    expect(field).to_have_attribute("aria-activedescendant", "found-9")
    press("Escape")
    expect(page.locator("#found")).to_be_hidden()
    press("ArrowDown")
    expect(found(page).first).to_have_attribute("aria-selected", "true")
    press("ArrowDown")
    press("Enter")
    expect(field).to_be_focused()
    assert history(page) == ["Film 11 (1911)"]
    expect(beams(page)).to_have_count(5)
    for _ in range(3):  # Clear, then past the arrows, which are off for one item
        press("Tab")
        if page.evaluate("document.activeElement.dataset.name") == "remove":
            break
    expect(page.get_by_role("button", name="Remove Film 11 (1911)")).to_be_focused()
    press("Tab")
    expect(page.locator("#interests")).to_be_focused()
    press("ArrowLeft")
    expect(beams(page)).to_have_count(4)
    beams(page).nth(1).get_by_role("button").nth(2).focus()
    with page.expect_response("**/recommend"):
        press("Enter")
    expect(page.locator("#history > li")).to_have_count(2)
    expect(page.get_by_role("status")).to_contain_text("4 interests")
    expect(beams(page).nth(1).get_by_role("button").nth(2)).to_be_focused()


@needs_chromium
@pytest.mark.parametrize(
    ("status", "text"), [(500, "The service failed."), (503, "The service is busy."), (400, "novelty is 9; at most 5")]
)
def test_a_failure_is_said_and_over_when_it_is_over(
    stub: Stub, address: str, page: Page, status: int, text: str
) -> None:
    page.goto(f"{address}/#item=1")
    expect(beams(page)).to_have_count(5)
    stub.status = status
    set_dial(page, "interests", 3)
    expect(page.get_by_role("alert")).to_contain_text(text)
    expect(beams(page)).to_have_count(5)  # what was there stays
    stub.status = 200
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(beams(page)).to_have_count(3)


@needs_chromium
def test_a_service_that_is_away_is_asked_again_until_it_is_back(stub: Stub, address: str, page: Page) -> None:
    page.goto(address)
    expect(beams(page)).to_have_count(1)

    def cut(route: Route) -> None:
        route.abort("connectionrefused")

    for path in ("**/recommend", "**/items*"):
        page.route(path, cut)
    page.get_by_role("combobox", name="Add what you know").fill("toy")
    expect(page.locator("#search-note")).to_have_text("The search failed. The service does not answer.")
    beams(page).get_by_role("button").first.click()
    expect(page.get_by_role("alert")).to_contain_text("The service does not answer.")
    page.unroute_all()
    expect(page.get_by_role("alert")).to_be_hidden()  # after two seconds, without a hand
    expect(beams(page)).to_have_count(5)


@needs_chromium
def test_titles_and_models_come_when_a_service_that_failed_at_the_start_is_back(
    stub: Stub, address: str, page: Page
) -> None:
    stub.status = 503
    page.goto(f"{address}/#item=1")
    expect(page.get_by_role("alert")).to_contain_text("The service is busy.")
    stub.status = 200
    expect(beams(page)).to_have_count(5)
    assert history(page) == ["Toy Story (1995)"]
    expect(page.get_by_label("Model").locator("option")).to_have_text(["hymirec (the default)", "gemirec"])


@needs_chromium
def test_a_service_with_a_key_asks_for_it(stub: Stub, address: str, page: Page) -> None:
    stub.key = "secret"
    page.goto(f"{address}/#item=1")
    expect(page.get_by_role("alert")).to_contain_text("asks for a key")
    page.get_by_label("API key").fill("secret")
    page.get_by_role("button", name="Use it").click()
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(beams(page)).to_have_count(5)
    assert "secret" not in page.url


@needs_chromium
def test_late_answers_to_old_questions_are_dropped(stub: Stub, address: str, page: Page) -> None:
    page.goto(f"{address}/#item=1")
    expect(beams(page)).to_have_count(5)
    stub.seconds = lambda body: 1.0 if body["num_interests"] == 9 else 0.0
    set_dial(page, "interests", 9)
    expect(page.locator("#stage")).to_have_attribute("aria-busy", "true")  # a long wait shows
    expect(beams(page)).to_have_count(5)  # and nothing is gone meanwhile
    set_dial(page, "interests", 2)
    expect(beams(page)).to_have_count(2)
    page.wait_for_timeout(1_100)
    expect(beams(page)).to_have_count(2)
    expect(page.locator("#stage")).to_have_attribute("aria-busy", "false")


@needs_chromium
def test_titles_are_text_whatever_they_hold(stub: Stub, address: str, page: Page) -> None:
    page.goto(address)
    add(page, "onerror")
    assert history(page) == [MARKUP]
    expect(beams(page)).to_have_count(5)
    expect(beams(page).first.get_by_text("because of")).to_contain_text("<b>Bold</b>")
    assert page.locator("main img, main b").count() == 0
    assert page.title() != "broken in"


@needs_chromium
def test_nothing_is_wider_than_the_screen(stub: Stub, address: str, page: Page) -> None:
    page.goto(f"{address}/#item=5&item=4&item=1&interests=12")
    expect(beams(page)).to_have_count(12)
    assert LONG in history(page)
    find(page, "film")
    for width in (360, 390, 600, 800, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if width < 700:
            heights = page.locator("#history button").evaluate_all("all => all.map(one => one.offsetHeight)")
            assert min(heights) >= 40, "for fingers"


@needs_chromium
def test_dark_and_still_for_those_who_want_it(stub: Stub, address: str, page: Page) -> None:
    page.goto(f"{address}/#item=1")
    expect(beams(page)).to_have_count(5)
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    assert page.evaluate(colour) != light
    stub.seconds = lambda _: 1.0
    set_dial(page, "interests", 4)
    expect(page.locator("#stage")).to_have_attribute("aria-busy", "true")
    assert page.locator(".progress").evaluate("bar => bar.getAnimations({subtree: true}).length") == 0


@needs_chromium
def test_the_real_service(bundle_folder: Path, page: Page) -> None:
    engine = Engine.load(bundle_folder)
    with serve(application(lambda: engine, ENGINE_OPERATIONS, explorer.routes())) as address:
        page.goto(address)
        expect(page.get_by_text("most popular")).to_be_visible()
        for title in ("film 3", "film 14", "film 5"):
            add(page, title)
        expect(page.get_by_role("status")).to_contain_text("interests. Strongest:")
        expect(page.locator("#together > li")).to_have_count(10)
        assert len(history(page)) == 3
        page.get_by_label("Model").select_option("gemirec")
        set_dial(page, "interests", 2)
        set_dial(page, "novelty", 1)
        set_dial(page, "diversity", 0.5)
        expect(page.get_by_text("as gemirec sees them")).to_be_visible()
        expect(beams(page)).to_have_count(2)
        expect(beams(page).first.get_by_text("because of Film")).to_be_visible()
        page.reload()
        expect(page.locator("#history .title").first).to_contain_text("Film 5")
        expect(page.get_by_role("alert")).to_be_hidden()
