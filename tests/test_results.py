"""What is committed is what the export gives: every number, verdict, picture and page."""

import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.project import PROJECT
from PIL import Image

from normstudy.experiment import load_experiment
from normstudy.model import NETWORKS, DigitNet, count_parameters
from normstudy.report import drawn, fill, load_all
from normstudy.report.choices import RECIPE, tried
from normstudy.report.pages import is_short, readme_block

RESULTS, DOCS = PROJECT / "results", PROJECT / "docs" / "experiments"
EXPORTED = load_all(RESULTS)
NAMES = list(EXPORTED)


@pytest.mark.parametrize("name", NAMES)
def test_export_rebuilds_its_tables_byte_for_byte_its_page_and_its_figures_pixel_for_pixel(
    name: str, tmp_path: Path
) -> None:
    tables = EXPORTED[name]
    tables.save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in (RESULTS / name).iterdir()
    }
    files = drawn(name, tables, formats=("png",))
    assert files.keys() == {path.name for path in (DOCS / name).iterdir() if path.suffix in (".png", ".md")}
    assert files.pop("index.md") == (DOCS / name / "index.md").read_bytes()
    for figure, content in files.items():
        with Image.open(DOCS / name / figure) as committed, Image.open(io.BytesIO(content)) as again:
            assert np.array_equal(np.asarray(committed), np.asarray(again)), figure


def test_readme_says_what_the_exported_tables_say() -> None:
    readme = PROJECT / "README.md"
    assert fill(readme, readme_block(EXPORTED, figures_at=Path("docs/experiments"))) == readme.read_text()


def test_readme_has_a_row_for_each_full_size_experiment_and_links_to_the_short_ones() -> None:
    rows = [line for line in (PROJECT / "README.md").read_text().splitlines() if line.startswith("| [")]
    links = re.findall(r"\(docs/experiments/(\w+)/index\.md\)", (PROJECT / "README.md").read_text())
    reported = {name: tables for name, tables in EXPORTED.items() if tables.about.report != "held_out"}
    assert set(links) == {*reported, "overview"}
    for name, tables in reported.items():
        assert any(f"/{name}/index.md" in row for row in rows) == (not is_short(tables)), name
    assert all(EXPORTED[name].about.confirmatory for name in re.findall(r"experiments/(\w+)/", rows[0]))


@pytest.mark.parametrize("name", NAMES)
def test_export_holds_each_trial_of_the_experiment_once_and_the_last_epoch_of_its_curves(name: str) -> None:
    experiment, tables = load_experiment(PROJECT / "experiments" / f"{name}.py", {}), EXPORTED[name]
    assert tables.about == experiment.about
    assert [config.trial_key for config in tables.configs()] == [config.trial_key for config in experiment.configs]
    assert tables.results["run_id"].is_unique
    networks = tables.results.drop_duplicates(["norm", "network", "groups", "parameters"])
    for run in networks.itertuples():
        assert count_parameters(DigitNet(run.norm, network=run.network, groups=run.groups)) == run.parameters
    epochs = dict(list(tables.epochs.groupby("run_id")))
    for run in tables.results.itertuples():
        if np.isnan(run.diverged_at):
            rows = epochs[run.run_id]
            assert rows["epoch"].tolist() == list(range(1, run.epochs + 1))
            assert (rows["test/accuracy"].iloc[-1], rows["test/loss"].iloc[-1]) == (run.test_accuracy, run.test_loss)
            assert run.errors == round(10_000 * (1 - run.test_accuracy))
        else:
            assert np.isnan(run.test_accuracy)
            assert np.isnan(run.errors)


SCREENED = ("networks", "small_networks", "fine_networks")


def test_choices_gave_every_norm_the_same_tries_and_saw_only_held_out_images() -> None:
    for name in (*SCREENED, "recipe", "small_recipe"):
        results = EXPORTED[name].results
        assert results.groupby("norm").size().nunique() == 1
        assert (results["val_size"] == 6_000).all()
    assert set.union(*(set(EXPORTED[name].results["network"]) for name in SCREENED)) == set(NETWORKS)


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("main", ["recipe"]),
        ("fine", ["recipe", "fine_networks"]),
        ("small", ["small_recipe", "small_networks"]),
    ],
)
def test_network_and_recipe_are_those_with_the_lowest_held_out_loss(name: str, choices: list[str]) -> None:
    rows = tried(pd.concat([EXPORTED[choice].results for choice in choices], ignore_index=True))
    best = rows[rows["tried"] == rows.groupby("tried")["val_loss"].mean().idxmin()]
    results = EXPORTED[name].results
    for norm, runs in results.groupby("norm"):
        [chosen] = best.loc[best["norm"] == norm, ["l1", *(name for name in RECIPE if name in best)]].itertuples(
            index=False
        )
        assert all((runs[setting] == value).all() for setting, value in chosen._asdict().items())
    if name == "small":
        assert results["norm"].iloc[0] == best.loc[best["val_loss"].idxmin(), "norm"]
