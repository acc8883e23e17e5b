"""Streams of a seed: golden numbers of each, and that no code draws outside of them."""

import ast
from itertools import combinations
from pathlib import Path

import pytest

import streamscalar
from streamscalar.seeds import SeedStream, generator, run_seed

GOLDEN = {
    (SeedStream.INITIAL_WEIGHTS,): 0.7978591868433563,
    (SeedStream.PERTURBATIONS,): 0.4805820057358118,
    (SeedStream.PROBE,): 0.625095466604667,
    (SeedStream.RANDOM_DIRECTION,): 0.9750335537195014,
    (SeedStream.TANGENTS,): 0.20446852444005303,
    (SeedStream.BATCHES, 1): 0.12368998629936334,
    (SeedStream.SHADOW_PERTURBATIONS, 1): 0.12368998629936334,
    (SeedStream.ESTIMATES, 2556495411): 0.07567286144842267,
}
"""First uniform number of seed 7, as `default_rng` of the literal `SeedSequence` gave it before there was a table."""


@pytest.mark.parametrize(("stream", "expected"), GOLDEN.items(), ids=lambda value: str(value))
def test_each_stream_keeps_its_bits(stream: tuple[SeedStream, int], expected: float) -> None:
    assert generator(7, *stream).random() == expected


def test_the_golden_numbers_cover_the_table() -> None:
    assert {stream for stream, *_ in GOLDEN} == set(SeedStream) - {SeedStream.RUN_SEED}
    assert run_seed(7, 2) == 8925347085518043


def test_only_streams_that_never_meet_share_a_generator() -> None:
    ways = {stream: (stream.value.key, stream.value.spawn_key, stream.value.n_indices) for stream in SeedStream}
    shared = {frozenset(pair) for pair in combinations(SeedStream, 2) if ways[pair[0]] == ways[pair[1]]}
    assert shared == {
        frozenset({SeedStream.BATCHES, SeedStream.SHADOW_PERTURBATIONS}),
        # Both start from the seed of an experiment: one index is an initial condition, the other a CRC-32 of a name.
        frozenset({SeedStream.RUN_SEED, SeedStream.ESTIMATES}),
    }


def test_an_index_too_many_is_refused() -> None:
    with pytest.raises(ValueError, match="TANGENTS takes 0 indices; got 1"):
        generator(7, SeedStream.TANGENTS, 1)


def test_no_code_derives_a_generator_outside_the_table() -> None:
    found = []
    folder = Path(streamscalar.__file__).parent
    # The contract suites make data for tests; nothing stored by users comes from them.
    for file in {*folder.rglob("*.py")} - {folder / "seeds.py", *(folder / "testing").rglob("*.py")}:
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            is_fixed = [type(argument) for argument in node.args] == [ast.Constant]
            if name in {"SeedSequence", "RandomState", "PCG64"} or (name == "default_rng" and not is_fixed):
                found.append(f"{file.name}:{node.lineno}")
    assert found == []
