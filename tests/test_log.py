"""The log has an outcome for each experiment, and quotes what the exported tables say, word for word."""

import re

import pytest
from helpers.project import PROJECT

from normstudy.report import load_all, pages

LOG = (PROJECT / "experiments" / "LOG.md").read_text()
ENTRIES = dict(re.findall(r"^## [\d-]+: (\w+)\.py\n(.*?)(?=^## |\Z)", LOG, re.MULTILINE | re.DOTALL))
EXPORTED = load_all(PROJECT / "results")


def test_every_experiment_has_an_outcome_in_the_log_or_is_said_to_have_no_results_yet() -> None:
    pending = set(re.findall(r"(\w+)\.py", LOG.partition("## Not run yet")[2].partition("\n## ")[0]))
    assert set(ENTRIES) == set(EXPORTED) == {path.stem for path in (PROJECT / "experiments").glob("*.py")} - pending
    for name, entry in ENTRIES.items():
        outcome = re.match(r"\n\*\*Prediction (confirmed|refuted|confirmed in part)\.\*\* ", entry)
        assert outcome, name
        assert EXPORTED[name].about.parts["Outcome"] == f"{outcome[1]}; the log says how."


@pytest.mark.parametrize("name", EXPORTED)
def test_log_quotes_what_the_tables_say(name: str) -> None:
    quotes = [text.replace("\n> ", " ") for text in re.findall(r"^> (.*(?:\n> .*)*)", ENTRIES[name], re.MULTILINE)]
    tables = EXPORTED[name]
    said = " ".join([*pages.findings(tables), pages.kind_of(tables).table(tables)])
    assert quotes
    assert [quote for quote in quotes if quote not in " ".join(said.split())] == []
