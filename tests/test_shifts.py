"""What is said of networks under MNIST-C's corruptions, from tables made by hand."""

from typing import Any

from helpers.tables import made, measured, of_kind, said, steady, trials

from normstudy.config import TrainConfig
from normstudy.experiment import About
from normstudy.report import pages, shifts
from normstudy.report.tables import MnistCTables

ABOUT = About(report="mnist_c")
LOSS = {"fog": 0.2, "stripe": 0.1, "shear": -0.05, "scale": 0.0}


def mnist_c_tables(seeds: int) -> MnistCTables:
    """BN, as trained, loses these shares; each network's own luck is a tenth of a point."""

    def rows_of(config: TrainConfig) -> list[dict[str, Any]]:
        ways = ["as trained", "re-estimated", "batches of 32"][: 3 if config.norm == "bn" else 1]
        return [
            {
                "statistics": way,
                "corruption": name,
                "severity": int(name != "none"),
                "accuracy": 0.9 - lost * (config.norm == "bn" and way == "as trained") + luck(config, name),
                "loss": 0.1,
            }
            for name, lost in {"none": 0.0, **LOSS}.items()
            for way in ways
        ]

    tables = made(trials("mnist_c", seeds=seeds), steady(gn=0.99, ln=0.99, bn=0.99), about=ABOUT)
    return of_kind(MnistCTables, tables, mnist_c=measured(tables, rows_of))


def luck(config: TrainConfig, name: str) -> float:
    return 0.001 * ((7 * config.seed + 3 * len(config.norm) + 5 * len(name) + len(config.variant)) % 5 - 2)


def test_the_corruptions_under_which_batch_norm_stands_apart_are_named() -> None:
    tables = mnist_c_tables(10)
    facts = shifts.mnist_c_facts(tables)
    assert facts["by_winner"] == {"below": ["fog", "stripe"], "above": ["shear"], "neither": ["scale"]}
    assert set(facts["means"]) == {
        f"{name}{way}" for name in ("BN", "BN + L1") for way in ("", ", re-estimated", ", batches of 32")
    } | {"GN", "LN"}
    found = said("mnist_c", tables)
    assert any(
        "below GN under fog, stripe; above it under shear; not shown to differ under scale" in text for text in found
    )
    [more] = [text for text in found if "BN, batches of 32 minus BN, re-estimated" in text]
    assert "simultaneous over 10 pairs; n = 10" in more
    less = "As trained, BN is significantly less accurate than GN under 2 of 4 corruptions, most under fog"
    assert pages.brief(tables).startswith(less)
    assert pages.brief(tables).endswith("points), and more accurate under 1 (n = 10).")
    table = shifts.mnist_c_table(tables)
    assert "| mean of the corruptions | 90.0 % |" in table
    assert [row.split(" |")[0] for row in table.splitlines()[2:7]] == [f"| {name}" for name in ("none", *LOSS)]
    assert set(shifts.mnist_c_figures(tables)) == {"mnist_c"}


def test_a_single_seed_is_drawn_and_not_compared() -> None:
    tables = mnist_c_tables(1)
    facts = shifts.mnist_c_facts(tables)
    assert facts["pairs"] == []
    assert facts["by_corruption"] == {}
    assert any("No comparison" in text for text in said("mnist_c", tables))
    assert "mean of the corruptions" in shifts.mnist_c_table(tables)
    assert set(shifts.mnist_c_figures(tables)) == {"mnist_c"}
