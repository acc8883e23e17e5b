"""Contract suites for pluggable parts: subclass one and run it on your own implementation.

They need pytest, which `pip install "streamscalar[test]"` installs.
"""

import pytest

# Before the import, so that a failing assertion of a suite shows its values.
pytest.register_assert_rewrite("streamscalar.testing.medium_contract", "streamscalar.testing.store_contract")

from streamscalar.testing.store_contract import StoreContract  # noqa: E402

__all__ = ["StoreContract"]
