"""Tokens: where they come from, what they allow."""

import stat
from pathlib import Path

import pytest

from streamscalar.errors import BadCall
from streamscalar_services.api.tokens import Right, Tokens

TOKENS = Tokens("r" * 20, "a" * 20)


def test_each_token_has_its_right() -> None:
    assert TOKENS.right("r" * 20) is Right.READ
    assert TOKENS.right("a" * 20) is Right.ADMIN
    assert TOKENS.right("r" * 19) is None
    assert TOKENS.right("") is None
    assert TOKENS.right("ä" * 20) is None


def test_a_cookie_stands_for_its_token_and_shows_nothing_of_it() -> None:
    cookie = TOKENS.cookie(Right.READ)
    assert TOKENS.cookie_right(cookie) is Right.READ
    assert TOKENS.cookie_right(TOKENS.cookie(Right.ADMIN)) is Right.ADMIN
    assert TOKENS.cookie_right("r" * 20) is None
    assert TOKENS.right(cookie) is None
    assert Tokens("s" * 20, "a" * 20).cookie_right(cookie) is None


def test_tokens_are_not_printed() -> None:
    assert "rrr" not in repr(TOKENS)


def test_files_are_made_for_their_owner_alone_and_found_again(tmp_path: Path) -> None:
    first = Tokens.load(tmp_path / "new" / "place", {})
    for name in ("token", "admin-token"):
        assert stat.S_IMODE((tmp_path / "new" / "place" / name).stat().st_mode) == 0o600
    assert first == Tokens.load(tmp_path / "new" / "place", {})
    assert first.read != first.admin


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    Tokens.load(tmp_path, {})
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(BadCall, match=r"must be readable by its owner alone; got mode 0644. Run chmod 600 "):
        Tokens.load(tmp_path, {})


def test_the_environment_comes_first(tmp_path: Path) -> None:
    found = Tokens.load(tmp_path, {"STREAMSCALAR_TOKEN": "x" * 16, "STREAMSCALAR_ADMIN_TOKEN": "y" * 16})
    assert (found.read, found.admin) == ("x" * 16, "y" * 16)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("token", ["", "short", "with space in the middle", "ümlaute-ümlaute-ümlaute"])
def test_a_poor_token_is_refused(tmp_path: Path, token: str) -> None:
    with pytest.raises(BadCall, match="STREAMSCALAR_TOKEN: must be at least 16 ASCII characters without spaces"):
        Tokens.load(tmp_path, {"STREAMSCALAR_TOKEN": token})
