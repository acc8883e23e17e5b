"""Signing in and out, and what the page asks for."""

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import TOKEN, Seen, Service


def test_without_a_session_there_is_a_token_form_and_no_data(tab: Page, service: Service) -> None:
    tab.goto(service.address)
    expect(tab.get_by_role("heading", name="Sign in")).to_be_visible()
    assert tab.locator("tr[data-id]").count() == 0


def test_a_wrong_token_is_refused_and_the_right_one_opens_the_list(tab: Page, service: Service) -> None:
    tab.goto(service.address)
    tab.get_by_label("Token").fill("not-the-token-of-anybody")
    tab.get_by_role("button", name="Sign in").click()
    expect(tab.get_by_text("This is not a token of this server.")).to_be_visible()
    tab.get_by_label("Token").fill(TOKEN)
    tab.get_by_role("button", name="Sign in").click()
    expect(tab.locator("tr[data-id]")).to_have_count(9)


def test_the_link_leaves_no_token_in_the_address_nor_in_storage(home: Page) -> None:
    assert "token" not in home.url
    kept = home.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
    assert TOKEN not in kept


def test_signing_out_ends_the_session(home: Page, service: Service) -> None:
    home.get_by_role("button", name="Sign out").click()
    expect(home.get_by_role("heading", name="Sign in")).to_be_visible()
    home.reload()
    expect(home.get_by_role("heading", name="Sign in")).to_be_visible()


FAINT = """
() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const color = parse(getComputedStyle(one).backgroundColor);
      if (color.length === 3 || color[3] > 0.99) return color;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *:not(svg *)")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility() || element.matches(":disabled")) continue;
    const levels = [light(parse(getComputedStyle(element).color)), light(behind(element))].sort((a, b) => b - a);
    const ratio = (levels[0] + 0.05) / (levels[1] + 0.05);
    if (ratio < 4.5) found.push(`${element.textContent.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return found;
}
"""
"""Returns the visible text whose contrast is below 4.5:1, the level AA of WCAG 2 for text of normal size."""


@pytest.mark.parametrize("look", [{"color_scheme": "dark"}, {"color_scheme": "light"}], ids=["dark", "light"])
def test_every_page_is_readable_makes_no_error_and_asks_no_other_host(home: Page, service: Service, seen: Seen) -> None:
    seen.errors.clear()
    runs = "sweep%3Alr0.5_ic0,sweep%3Alr6_ic0"
    for route, sign in (
        ("#/experiment/sweep", ".js-plotly-plot"),
        ("#/run/sweep%3Alr6_ic0", ".js-plotly-plot"),
        (f"#/compare?runs={runs}", ".js-plotly-plot"),
        ("#/", "tr[data-id]"),
    ):
        home.evaluate("route => { location.hash = route; }", route)
        home.wait_for_selector(sign)
        home.wait_for_load_state("load")
        assert home.evaluate(FAINT) == [], route
    assert seen.errors == []
    assert {address.split("/")[2] for address in seen.addresses if address.startswith("http")} == {
        service.address.removeprefix("http://")
    }


def test_a_name_with_markup_in_the_address_stays_text(home: Page) -> None:
    home.evaluate("location.hash = '#/experiment/' + encodeURIComponent('<img src=x onerror=document.title=1>')")
    expect(home.get_by_role("alert")).to_be_visible()
    assert home.locator("main img, nav img").count() == 0
