"""A page that is open while an experiment is being written, and while the service goes away."""

import math
import time
from pathlib import Path

import torch
from playwright.sync_api import Page, expect
from torch import nn

import streamscalar as ss
from tests.e2e.conftest import ADMIN_TOKEN, WAIT_MS, Seen, eventually, growing, serving


def rows_of(page: Page, run: str) -> int:
    """Return the number of rows that the list shows."""
    text = page.locator(f"tr[data-id='{run}'] .c-rows .figures").inner_text()
    return int(text.split("/")[0].replace(",", ""))


def test_rows_appear_and_grow_without_a_reload(tab: Page, tmp_path: Path, seen: Seen) -> None:
    with serving(tmp_path) as (service, _):
        tab.goto(service.link)
        expect(tab.get_by_text("No runs yet")).to_be_visible()
        tab.evaluate("window.isTheSamePage = true")
        with growing(tmp_path / "first"):
            row = tab.locator("tr[data-id]")
            row.wait_for()
            run = str(row.get_attribute("data-id"))
            expect(row.locator(".c-state .mark")).to_have_text("training")
            before = rows_of(tab, run)
            eventually(lambda: rows_of(tab, run) > before)
            charts_grow(tab, run)
        assert tab.evaluate("window.isTheSamePage") is True
        assert seen.errors == []


def charts_grow(tab: Page, run: str) -> None:
    """Check that the loss of `run` is drawn on, every step once, or every second, fourth... of a long one."""
    tab.evaluate("run => { location.hash = '#/run/' + encodeURIComponent(run); }", run)
    expect(tab.locator(".js-plotly-plot")).to_have_count(4)
    steps = "document.querySelectorAll('.js-plotly-plot')[2].data.at(-1).x"
    eventually(lambda: len(tab.evaluate(steps)) > 2)
    drawn = tab.evaluate(steps)
    eventually(lambda: tab.evaluate(steps)[-1] > drawn[-1])
    *later, newest = tab.evaluate(steps)
    assert later == list(range(0, newest, later[1]))
    assert later[1] == 1 or newest >= 2000, "none is left out while all can be drawn"


def test_new_runs_wait_while_somebody_reads(tab: Page, tmp_path: Path) -> None:
    with serving(tmp_path) as (service, _), growing(tmp_path / "first"):
        tab.goto(service.link)
        tab.wait_for_selector("tr[data-id]")
        tab.keyboard.press("j")
        with growing(tmp_path / "second"):
            offer = tab.get_by_role("button", name="Show 1 new run")
            expect(offer).to_be_visible()
            expect(tab.locator("tr[data-id]")).to_have_count(1)
            offer.click()
            expect(tab.locator("tr[data-id^='second:']")).to_be_visible()


def test_a_training_of_ones_own_appears_and_raises_an_alert(tab: Page, tmp_path: Path, seen: Seen) -> None:
    model = nn.Linear(8, 4)
    with serving(tmp_path) as (service, _):
        tab.goto(service.link)
        expect(tab.get_by_text("No runs yet")).to_be_visible()
        with ss.track(model, name="mine", group="own", store=tmp_path / "own", every_n_steps=1) as run:
            row = tab.locator("tr[data-id='own:mine']")
            alert = tab.get_by_text("NaN or infinity in loss").first
            deadline = time.monotonic() + WAIT_MS / 1000
            # An alert comes with a whole segment of rows.
            while not alert.is_visible():
                assert time.monotonic() < deadline
                with torch.no_grad():
                    model.weight += 0.01
                run.step(loss=math.nan)
                # Steps that come faster than they can be stored are dropped.
                time.sleep(0.05)
            expect(row.locator(".c-state .mark")).to_have_text("training")
        expect(row.locator(".c-state .mark")).to_have_text("done")
        assert seen.errors == []


def test_a_run_is_stopped_by_who_may(tab: Page, tmp_path: Path) -> None:
    with serving(tmp_path) as (service, _), growing(tmp_path / "first"):
        tab.goto(f"{service.address}/#token={ADMIN_TOKEN}")
        tab.wait_for_selector("tr[data-id]")
        tab.on("dialog", lambda dialog: dialog.accept())
        tab.locator("tr[data-id] a").first.click()
        tab.get_by_role("button", name="Stop this run").click()
        eventually(lambda: "cancelled" in tab.locator("main").inner_text())


def test_a_banner_says_that_the_service_is_away_and_goes_by_itself(tab: Page, tmp_path: Path) -> None:
    with serving(tmp_path) as (service, process):
        tab.goto(service.link)
        expect(tab.locator("#pulse")).to_have_text("live")
        process.kill()
        expect(tab.locator("#banner")).to_contain_text("Disconnected")
    with serving(tmp_path, service.port):
        expect(tab.locator("#banner")).to_be_hidden()
        expect(tab.locator("#pulse")).to_have_text("live")
