"""The typed setting of a run and its JSON."""

import pytest
from pydantic import ValidationError

from streamscalar.config import RunSetting

TRAINED = {
    "learning_rate": 7.5,
    "epsilon": 1e-8,
    "initial_condition": 2,
    "product": "fused",
    "twins_exact": True,
    "device": "cpu",
}
TRACKED = {
    "learning_rate": None,
    "epsilon": None,
    "initial_condition": 0,
    "is_tracked": True,
    "group": "mine",
    "tags": ["a"],
    "config": {"depth": 3, "nested": {"x": [1, 2.5]}},
    "frozen": ["0.bias"],
    "tied": {"4.weight": "3.weight"},
    "parameter_dtypes": {"0.weight": "bfloat16"},
    "device": "cuda:0",
    "probe": {"n_parameters": 9, "shapes": {"0.weight": [3, 3]}, "indices": {"0.weight": [1, 4]}},
}


@pytest.mark.parametrize("stored", [TRAINED, TRACKED, {}, {"learning_rate": 0.5, "of_a_later_version": [1]}])
def test_a_stored_setting_reads_back_unchanged(stored: dict[str, object]) -> None:
    assert RunSetting.model_validate(stored).to_json() == stored


def test_a_setting_cannot_change() -> None:
    setting = RunSetting(learning_rate=0.5)
    with pytest.raises(ValidationError, match="frozen"):
        setting.learning_rate = 1.0  # type: ignore[misc]
