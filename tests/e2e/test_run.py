"""One run: charts with their words, estimates, alerts, downloads."""

import csv
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Service, eventually


def open_run(page: Page, name: str) -> None:
    """Open a run of the finished experiment and wait for its charts."""
    page.evaluate("name => { location.hash = '#/run/' + encodeURIComponent('sweep:' + name); }", name)
    expect(page.locator(".js-plotly-plot")).to_have_count(4)
    page.wait_for_selector(".values.stack")


def test_every_chart_has_a_summary_in_words(home: Page) -> None:
    open_run(home, "lr2.5_ic0")
    expect(home.locator("figcaption").nth(0)).to_contain_text("Exact embedding.")
    expect(home.locator("figcaption").nth(1)).to_contain_text("The unperturbed copy stayed at distance 0")
    for place in range(4):
        words = home.locator("figcaption").nth(place).inner_text()
        assert words.endswith("All 61 rows drawn.")
        assert str(home.locator(".plot").nth(place).get_attribute("aria-label")).endswith(words)


def test_the_fitted_slope_that_is_drawn_is_the_estimate(home: Page) -> None:
    open_run(home, "lr6_ic0")
    row = home.locator(".values.stack tr", has=home.get_by_role("rowheader", name="Exponent of the exponential phase"))
    slope = row.locator("td").first.inner_text()
    expect(home.locator("figcaption").nth(1)).to_contain_text(f"slope {slope} per step")
    drawn = home.evaluate(
        "document.querySelectorAll('.js-plotly-plot')[1].data.filter(trace => trace.name.startsWith('fit')).map("
        "({x, y}) => (y.at(-1) - y[0]) / (x.at(-1) - x[0]))"
    )
    assert drawn == [pytest.approx(float(slope), rel=5e-3)]


def test_an_estimate_without_a_number_says_why_in_words(home: Page) -> None:
    open_run(home, "lr0.5_ic0")
    row = home.locator(".values.stack tr", has=home.get_by_role("rowheader", name="Exponent of the exponential phase"))
    expect(row.locator("td.words")).to_have_text("no exponential phase")
    expect(row.locator(".long")).to_contain_text("use ftle instead")


def test_alerts_of_a_diverging_run_are_listed_and_marked(home: Page) -> None:
    open_run(home, "lr6_ic0")
    alert = home.locator(".alerts li").first
    expect(alert.locator(".level")).to_have_text(re.compile("warn|error"))
    alert.locator("summary").focus()
    home.wait_for_function(
        "document.querySelector('.js-plotly-plot').layout.shapes.some(shape => shape.line.width === 4)"
    )
    home.keyboard.press("Enter")
    expect(alert.locator("dl dt").first).to_have_text("rule")


def test_the_download_holds_what_was_loaded(home: Page, tmp_path: Path) -> None:
    open_run(home, "lr0.5_ic0")
    with home.expect_download() as waiting:
        home.get_by_role("button", name="Download CSV").click()
    path = tmp_path / "run.csv"
    waiting.value.save_as(path)
    with path.open() as file:
        lines = list(csv.DictReader(file))
    assert [int(line["step"]) for line in lines] == list(range(61))
    assert float(lines[0]["loss reference"]) > float(lines[-1]["loss reference"]) > 0.0
    assert {float(line["l1 control"]) for line in lines} == {0.0}


def test_another_scale_and_component_are_drawn(home: Page) -> None:
    open_run(home, "lr2.5_ic0")
    home.get_by_role("group", name="Scale of the loss").get_by_text("log").click()
    eventually(
        lambda: bool(home.evaluate("document.querySelectorAll('.js-plotly-plot')[2].layout.yaxis.type === 'log'"))
    )
    home.get_by_label("Component").fill("2")
    home.get_by_label("Component").press("Enter")
    eventually(
        lambda: bool(
            home.evaluate("document.querySelector('.js-plotly-plot').layout.yaxis.title.text === 'coordinate 2'")
        )
    )


def test_the_regime_map_and_the_settings_say_the_same(home: Page, service: Service) -> None:
    home.evaluate("location.hash = '#/experiment/sweep'")
    expect(home.locator(".map tbody tr")).to_have_count(3)
    expect(home.locator(".map tbody .cell")).to_have_count(9)
    expect(home.locator(".map tbody .cell").nth(0)).to_have_attribute("data-value", "regular")
    expect(home.locator(".map tbody .cell").nth(2)).to_have_attribute("data-value", "diverged")
    expect(home.get_by_role("region", name="Table of settings").locator("tbody tr")).to_have_count(3)
    expect(home.get_by_role("region", name="Table of settings")).to_contain_text("no exponential phase")
    home.locator(".map tbody .cell").first.click()
    expect(home.get_by_role("heading", level=1)).to_have_text("lr0.5_ic0")
