"""The glossary and the schema of the API hold the names that analysis and service produce, no more and no fewer."""

from pathlib import Path
from typing import get_args

from streamscalar.analysis.quantities import QUANTITIES, keys
from streamscalar.analysis.rules import RULES
from streamscalar.types import Regime, Status
from streamscalar_services.api.estimate_schemas import RunEstimatesDocument, SettingDocument
from streamscalar_services.api.glossary import glossary
from streamscalar_services.api.schemas import State


def test_the_glossary_holds_every_name() -> None:
    document = glossary().model_dump(mode="json")
    assert list(document["quantities"]) == list(QUANTITIES)
    assert document["quantities"]["nmle"]["meaning"] == QUANTITIES["nmle"].meaning
    assert list(document["regimes"]) == [str(regime) for regime in Regime]
    assert list(document["states"]) == list(get_args(State))
    assert set(document["statuses"]) == {str(status) for status in Status} - {"ok"}
    assert list(document["rules"]) == list(RULES)
    assert document["levels"] == ["info", "warn", "error"]


def test_the_schema_lists_the_estimates_of_a_run_and_of_a_setting_with_their_meaning() -> None:
    for document, expected in ((RunEstimatesDocument, keys("run")), (SettingDocument, keys("setting"))):
        schema = document.model_json_schema()["properties"]["estimates"]
        assert list(schema["properties"]) == schema["required"] == expected
        assert schema["additionalProperties"] is False
        assert QUANTITIES["ftle"].meaning in schema["properties"]["ftle"]["description"]
        assert schema["properties"]["ftle"]["$ref"].endswith("EstimateDocument")


def test_no_other_module_describes_an_estimate() -> None:
    root = Path(__file__).parents[3]
    modules = [
        *root.glob("streamscalar/report/**/*.py"),
        *root.glob("services/**/*.py"),
        *root.glob("services/**/*.js"),
    ]
    assert len(modules) > 40
    texts = {quantity.meaning for quantity in QUANTITIES.values()} | {
        quantity.short for quantity in QUANTITIES.values()
    }
    copies = [(path.name, text) for path in modules for text in texts if f'"{text}"' in path.read_text("utf-8")]
    assert copies == []
