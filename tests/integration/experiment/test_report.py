"""The report of real experiments: complete, self-contained, and robust to what is missing."""

import csv
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import streamscalar
from streamscalar import runtime
from streamscalar.config import Config
from streamscalar.report import write_report
from streamscalar.store import Store
from tests.conftest import Truth, small_config

IF_LADDER = "Smaller and smaller perturbations"
SECTIONS = (
    "What can be concluded, and what cannot",
    "Every setting",
    "Regimes and training time",
    "How replicas drift apart",
    "Trajectories in the scalar",
    "Exponents, by every estimator",
    IF_LADDER,
    "When along training it is sensitive",
    "Characteristic and decorrelation time",
    "Spacings of asymptotic states",
    "How much the scalar holds",
    "Claims of the papers",
    "Methods",
    "Config and provenance",
)
REFERENCES = ("src", "href", "xlink:href")
ALONE = {"perturbation": {"n_perturbed": 0, "control": False}}
# Tags that HTML, or the shapes of SVG, close by themselves.
OPEN_ENDED = {"meta", "br"}


class Page(HTMLParser):
    """The elements of a page; complains of one that is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in OPEN_ENDED:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def values(self, attribute: str) -> Iterator[str]:
        return (value for _, found in self.elements if (value := found.get(attribute)) is not None)


def quick(store: Path, /, **sections: dict[str, Any]) -> Config:
    """Return a small config whose tests are held on few surrogates."""
    return small_config(store, analysis={"n_surrogates": 19}, **sections)


def page_of(experiment: streamscalar.Experiment, path: Path) -> str:
    write_report(experiment, path)
    text = path.read_text("utf-8")
    page = Page(text)
    assert re.findall("<h2>(.*?)</h2>", text) == [s for s in SECTIONS if s != IF_LADDER or s in text]
    assert not [tag for tag, _ in page.elements if tag in ("script", "link", "img", "iframe", "object")]
    assert not any(
        re.match("(https?:)?//", value) for name in ("src", "href", "xlink:href") for value in page.values(name)
    )
    ids = list(page.values("id"))
    assert len(ids) == len(set(ids))
    known = {f"#{name}" for name in ids}
    assert set(page.values("xlink:href")) <= known
    assert set(re.findall(r"url\((#[^)]*)\)", text)) <= known
    assert all(found["role"] == "img" and found["aria-label"] for tag, found in page.elements if tag == "svg")
    assert not re.search(r"\b(nan|None|inf)\b", re.sub("<pre>.*</pre>|<svg.*?</svg>", "", text, flags=re.DOTALL))
    return text


@pytest.fixture
def experiment(truth: Truth) -> streamscalar.Experiment:
    sections: dict[str, dict[str, Any]] = {
        "experiment": {"n_initial_conditions": 3},
        "training": {"learning_rate": [1, 5], "n_steps": 60},
    }
    return truth(quick(Path("unused"), **sections))


def test_the_page_holds_every_section_and_fetches_nothing(experiment: streamscalar.Experiment, tmp_path: Path) -> None:
    text = page_of(experiment, tmp_path / "page.html")
    assert "6 runs of a tanh network with one hidden layer of 8 on digits (300 training samples)" in text
    assert "stayed at their reference bit for bit in 6 runs" in text
    assert text.count("<svg") >= 6
    assert list(tmp_path.iterdir()) == [tmp_path / "page.html"]


def test_figures_and_numbers_are_written_and_agree_with_the_table(
    experiment: streamscalar.Experiment, tmp_path: Path
) -> None:
    table = experiment.analyze()
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "epsilon-ladder.png").write_text("of an earlier report")
    write_report(experiment, tmp_path / "page.html", table, figures_folder=tmp_path / "figures")
    folder = tmp_path / "figures"
    pictures = {path.stem for path in folder.glob("*.png")}
    assert {
        "regime-map",
        "divergence",
        "trajectories",
        "exponents",
        "local-exponents",
        "explained-variance",
    } <= pictures
    assert "epsilon-ladder" not in pictures
    assert pictures == {path.stem for path in folder.glob("*.pdf")}
    for path in folder.glob("*.png"):
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert int.from_bytes(path.read_bytes()[16:20]) == 2000
    assert all(path.read_bytes()[:5] == b"%PDF-" for path in folder.glob("*.pdf"))
    assert {path.suffix for path in folder.iterdir()} == {".png", ".pdf", ".csv", ".json"}
    assert json.loads((folder / "analysis.json").read_text()) == json.loads(json.dumps(table.to_json()))
    with (folder / "settings.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [float(row["ftle"]) for row in rows] == [setting.estimates["ftle"].value for setting in table.settings]
    assert [row["regime"] for row in rows] == [str(setting.regime) for setting in table.settings]
    with (folder / "runs.csv").open() as lines:
        assert [row["run_id"] for row in csv.DictReader(lines)] == [run.run_id for run in table.runs]


def test_a_given_table_is_not_computed_again(
    experiment: streamscalar.Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = experiment.analyze()
    monkeypatch.setattr(streamscalar.Experiment, "analyze", lambda *_: pytest.fail("analysed again"))
    write_report(experiment, tmp_path / "page.html", table)


def test_other_experiments_count_for_the_claims(experiment: streamscalar.Experiment, tmp_path: Path) -> None:
    iris = runtime.run(
        quick(
            tmp_path / "iris",
            experiment={"n_initial_conditions": 4},
            task={"name": "iris", "n_train": None, "n_test": None},
            model={"widths": [10], "activation": "sigmoid"},
            training={"learning_rate": 1, "n_steps": 200, "pack_size": 4},
        )
    )
    write_report(experiment, tmp_path / "alone.html")
    write_report(experiment, tmp_path / "both.html", others=[iris])
    assert "no Iris experiment" in (tmp_path / "alone.html").read_text()
    both = (tmp_path / "both.html").read_text()
    assert "no Iris experiment" not in both
    assert "of 4 accepted" in both


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"training": {"learning_rate": 1e100}, "model": {"activation": "identity"}}, r"diverging at lr 1e\+100"),
        ({"experiment": {"n_initial_conditions": 1}, **ALONE}, "sensitivity to initial conditions is unknown"),
        ({"training": {"learning_rate": 1, "n_steps": 2}}, "so nothing is extrapolated|No run has a window of 10 rows"),
        ({"perturbation": {"epsilon": [1e-10, 1e-8, 1e-6]}, "training": {"learning_rate": 5}}, "epsilon 1e-10"),
    ],
)
def test_what_is_missing_or_odd_is_said_in_words(tmp_path: Path, sections: dict[str, Any], words: str) -> None:
    text = page_of(runtime.run(quick(tmp_path / "store", **sections)), tmp_path / "page.html")
    assert re.search(words, text)


def test_a_task_without_accuracy(tmp_path: Path) -> None:
    config = {
        "experiment": {"n_initial_conditions": 3},
        "task": {"name": "quadratic", "curvatures": [1.0] * 5},
        "training": {"learning_rate": [0.5, 2.1], "n_steps": 30},
        "analysis": {"n_surrogates": 19},
        "store": {"url": str(tmp_path / "store")},
        "cluster": {"executor": "inline"},
    }
    text = page_of(runtime.run(config), tmp_path / "page.html")
    assert "6 runs of a quadratic loss with 5 curvatures" in text
    assert "test accuracy" not in re.sub("<figcaption>.*?</figcaption>", "", text.split("<h2>How replicas")[0])


def test_an_empty_store(tmp_path: Path) -> None:
    config = quick(tmp_path / "store")
    Store.create(config.store_path, config.identity(), {})
    text = page_of(streamscalar.open(tmp_path / "store"), tmp_path / "page.html")
    assert "No run has started, so nothing can be concluded." in text
    assert "<svg" not in text
