"""The command line's arguments, and the vectors: what is read there."""

from __future__ import annotations

import json
import sys
from importlib import resources
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.effort import examples
from zddm_flags import vectors
from zddm_flags.cli import run

words = st.one_of(
    st.text(st.characters(exclude_characters="\0"), max_size=8),
    st.sampled_from(["demo", "--help", "-h", "--version", "--", "--plain", "--seconds", "--seed", "--new", "-"]),
    st.sampled_from(
        ["--seconds=nan", "--seconds=inf", "--seconds=", "--seconds=-5", "--seed=1.5", "--seed=٣", "--new=x"]
    ),
    st.sampled_from(
        ["--otlp", "--otlp=", "--otlp=a\udcffb", "--flag-key", "--relay", "--relay=x", "--pl", "--no-such"]
    ),
)


@given(words=st.lists(words, max_size=6))
@example(words=["demo", "--otlp", "a\udcff"])
@example(words=["\udcff"])
@examples(150)
def test_any_arguments_exit_with_0_or_2(words: list[str]) -> None:
    """Whatever the arguments are: help, or a wrong use that exits with 2 and a message."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["zddm", *words, *["--no-such-option"] * 2])  # so that no demo begins
        assert run() in {0, 2}


def test_the_vectors_are_json_of_any_language() -> None:
    """The vectors have no member twice, and no number that another language would read otherwise."""

    def members(found: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in found}) == len(found)
        return dict(found)

    def number(found: str) -> int:
        assert abs(int(found)) < 2**53
        return int(found)

    def refused(found: str) -> None:
        raise AssertionError(found)

    data = resources.files(vectors.__name__).joinpath("vectors.json").read_bytes()
    parsed = json.loads(data.decode("ascii"), object_pairs_hook=members, parse_int=number, parse_constant=refused)
    assert parsed == vectors.load_vectors()
