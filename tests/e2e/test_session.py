"""Signing in and out, and what the page asks for."""

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


def test_pages_make_no_console_error_and_ask_no_other_host(home: Page, service: Service, seen: Seen) -> None:
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
    assert seen.errors == []
    assert {address.split("/")[2] for address in seen.addresses if address.startswith("http")} == {
        service.address.removeprefix("http://")
    }


def test_a_name_with_markup_in_the_address_stays_text(home: Page) -> None:
    home.evaluate("location.hash = '#/experiment/' + encodeURIComponent('<img src=x onerror=document.title=1>')")
    expect(home.get_by_role("alert")).to_be_visible()
    assert home.locator("main img, nav img").count() == 0
