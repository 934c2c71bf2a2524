"""The README's numbers are the committed tables' numbers, and its worked example is what torch computes."""

import re

from helpers.project import PROJECT

from normstudy.config import TrainConfig
from normstudy.model import DigitNet, count_parameters

README = (PROJECT / "README.md").read_text()


def test_every_test_that_the_page_on_reliability_names_is_there() -> None:
    page = (PROJECT / "docs" / "reliability.md").read_text()
    named = re.findall(r"`(test_\w+)\.py(?:::(\w+))?`", page)
    assert len(named) > 30
    for file, test in named:
        text = (PROJECT / "tests" / f"{file}.py").read_text()
        assert f"\ndef {test}(" in text if test else "def test_" in text, (file, test)


def test_readme_is_short_enough_to_be_read() -> None:
    assert len(README.encode()) <= 9_000
    assert len(README.split()) <= 1_400


def test_parameters_and_settings_named_in_the_text_are_the_real_ones() -> None:
    assert f"{count_parameters(DigitNet('gn')):,} parameters" in README
    commands = (PROJECT / "docs" / "commands.md").read_text()
    assert all(f"`{name}`" in commands for name in TrainConfig.model_fields)
