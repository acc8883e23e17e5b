"""The list of runs: filter, sort, keys, comparison, phone, themes."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Service, serving

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
DARK = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"}
LIGHT = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"}


def names(page: Page) -> list[str]:
    """Return the runs in the order of the list."""
    return [str(row.get_attribute("data-id")) for row in page.locator("tr[data-id]").all()]


def background(page: Page) -> str:
    """Return the colour behind the page."""
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


def test_the_list_shows_state_regime_exponent_and_counts(home: Page) -> None:
    row = home.locator("tr[data-id='sweep:lr0.5_ic0']")
    expect(row.locator(".c-state .mark")).to_have_text("done")
    expect(row.locator(".c-regime .regime")).to_have_text("regular")
    expect(row.locator(".c-rows")).to_have_text("61 / 61")
    expect(row.locator(".c-rate")).to_have_text("0.5")
    assert re.search(r"\d to .*\d", row.locator(".c-exponent small").inner_text())
    expect(home.locator("#counts")).to_have_text("9 of 9 runs")


def test_a_filter_narrows_the_list_and_is_kept_in_the_address(home: Page) -> None:
    home.get_by_label("Filter", exact=True).fill("learning_rate>1 ic0")
    expect(home.locator("#counts")).to_have_text("2 of 2 runs")
    assert sorted(names(home)) == ["sweep:lr2.5_ic0", "sweep:lr6_ic0"]
    home.reload()
    expect(home.locator("#counts")).to_have_text("2 of 2 runs")
    home.get_by_label("Filter", exact=True).fill("nothing-is-called-this")
    expect(home.get_by_text("No run matches")).to_be_visible()
    home.get_by_role("button", name="Clear the filter").click()
    expect(home.locator("#counts")).to_have_text("9 of 9 runs")


def test_a_filter_that_the_server_refuses_says_why_and_keeps_the_list(home: Page) -> None:
    home.get_by_label("Filter", exact=True).fill("colour=blue")
    expect(home.locator(".filterbar .problem")).to_contain_text("colour")
    expect(home.locator("tr[data-id]")).to_have_count(9)


def test_a_heading_sorts_both_ways_and_says_so(home: Page) -> None:
    heading = home.get_by_role("columnheader", name="Learning rate")
    heading.get_by_role("button").click()
    expect(heading).to_have_attribute("aria-sort", "ascending")
    expect(home.locator("tr[data-id]").first).to_have_attribute("data-id", re.compile("lr0.5"))
    heading.get_by_role("button").click()
    expect(heading).to_have_attribute("aria-sort", "descending")
    expect(home.locator("tr[data-id]").first).to_have_attribute("data-id", re.compile("lr6"))
    assert home.locator("th[aria-sort=none]").count() == 10


def test_keys_filter_move_choose_compare_and_open(home: Page) -> None:
    home.keyboard.press("/")
    expect(home.locator("#filter")).to_be_focused()
    home.keyboard.press("Escape")
    home.keyboard.press("j")
    home.keyboard.press("j")
    third = names(home)[1]
    expect(home.locator(f"tr[data-id='{third}']")).to_be_focused()
    home.keyboard.press("c")
    home.keyboard.press("ArrowUp")
    home.keyboard.press("c")
    expect(home.get_by_text("2 runs selected")).to_be_visible()
    home.keyboard.press("?")
    expect(home.get_by_role("dialog")).to_be_visible()
    home.keyboard.press("Escape")
    home.keyboard.press("Shift+C")
    expect(home.get_by_role("heading", name="Compare")).to_be_visible()
    expect(home.locator(".curves li")).to_have_count(2)
    home.keyboard.press("g")
    home.wait_for_selector("tr[data-id]")
    home.keyboard.press("j")
    first = names(home)[0]
    home.keyboard.press("Enter")
    expect(home.get_by_role("heading", level=1)).to_have_text(first.split(":")[1])


def test_the_skip_link_leads_past_the_bar(home: Page) -> None:
    home.evaluate("document.activeElement.blur()")
    home.keyboard.press("Tab")
    expect(home.get_by_role("link", name="Skip to the content")).to_be_focused()
    home.keyboard.press("Enter")
    expect(home.locator("main")).to_be_focused()
    assert home.url.endswith("#/")


def test_a_comparison_says_whether_the_axis_is_shared(home: Page) -> None:
    for name in ("lr0.5_ic0", "lr2.5_ic1"):
        home.get_by_label(f"compare {name}").check()
    home.get_by_role("link", name="Compare").click()
    expect(home.locator(".axis")).to_contain_text("One shared axis.")
    expect(home.locator(".js-plotly-plot .scatterlayer .trace")).to_have_count(2)
    home.locator(".curves input").first.uncheck()
    expect(home.locator(".js-plotly-plot .scatterlayer .trace")).to_have_count(1)
    home.get_by_label("Series").select_option("loss")
    expect(home.locator(".js-plotly-plot .ytitle")).to_have_text("Loss")


@pytest.mark.parametrize("look", [LIGHT, DARK], ids=["light", "dark"])
def test_the_theme_follows_the_system_until_somebody_chooses(home: Page, look: dict[str, object]) -> None:
    at_first = background(home)
    assert at_first == ("rgb(15, 20, 27)" if look is DARK else "rgb(245, 246, 248)")
    home.get_by_role("button", name="theme").click()
    chosen = background(home)
    assert chosen != at_first
    home.reload()
    home.wait_for_selector("tr[data-id]")
    assert background(home) == chosen


def test_an_experiment_is_analysed_to_its_end_although_nothing_changes(tab: Page, service: Service) -> None:
    # A service that has just started has analysed nothing, and a request spends a second and a half.
    with serving(service.folder) as (fresh, _):
        tab.goto(fresh.link)
        tab.wait_for_selector("tr[data-id]")
        tab.evaluate("location.hash = '#/experiment/sweep'")
        tab.wait_for_selector(".js-plotly-plot")
        expect(tab.locator("header.title")).not_to_contain_text("analysed so far")
        expect(tab.locator("section[aria-label=Settings] tbody tr")).to_have_count(3)


@pytest.mark.parametrize("look", [PHONE], ids=["phone"])
def test_no_page_is_wider_than_a_phone(home: Page, service: Service) -> None:
    for route, sign in (
        ("#/", "tr[data-id]"),
        ("#/experiment/sweep", ".js-plotly-plot"),
        ("#/run/sweep%3Alr6_ic0", ".values.stack"),
        ("#/compare?runs=sweep%3Alr0.5_ic0,sweep%3Alr6_ic0", ".js-plotly-plot"),
    ):
        home.evaluate("route => { location.hash = route; }", route)
        home.wait_for_selector(sign)
        width, room = home.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert (route, width) == (route, room)
