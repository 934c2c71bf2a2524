"""Which test images defeat whom, from tables made by hand."""

import pandas as pd
import pytest

from normstudy.data import load_images
from normstudy.report.error_sets import (
    LABEL_ERRORS,
    agreement,
    common,
    confusions,
    overlap,
    per_class,
    seeds_by_group,
    unique_to,
)

# image -> its class and what it is taken for, here by everyone who gets it wrong
IMAGES = {10: (4, 9), 20: (4, 9), 30: (3, 5), 40: (7, 2), 50: (7, 2)}
# four seeds of LN, two of BN; seed 3 of LN makes no error
WRONG = {
    ("LN", 0): [10, 20, 30],
    ("LN", 1): [10, 20, 30],
    ("LN", 2): [10, 40, 20],
    ("LN", 3): [],
    ("BN", 0): [10, 50, 20],
    ("BN", 1): [10],
}
SEEDS = {"LN": 4, "BN": 2}


def results_of(wrong: dict[tuple[str, int], list[int]]) -> pd.DataFrame:
    return pd.DataFrame(list(wrong), columns=["group", "seed"])


def misclassified_of(wrong: dict[tuple[str, int], list[int]]) -> pd.DataFrame:
    rows = [(group, seed, image, *IMAGES[image]) for (group, seed), images in wrong.items() for image in images]
    table = pd.DataFrame(rows, columns=["group", "seed", "index", "true", "predicted"])
    return table.astype({"seed": int, "index": int, "true": int, "predicted": int})


RESULTS, MISCLASSIFIED = results_of(WRONG), misclassified_of(WRONG)
AGREEMENT = agreement(MISCLASSIFIED, RESULTS)
NO_ERRORS = MISCLASSIFIED[:0]


def test_agreement_counts_the_seeds_of_each_group_that_get_an_image_wrong() -> None:
    assert AGREEMENT.columns.tolist() == ["LN", "BN"]
    assert AGREEMENT.T.to_dict("list") == {10: [3, 2], 20: [3, 1], 30: [2, 0], 40: [1, 0], 50: [0, 1]}
    assert AGREEMENT.index.tolist() == sorted(IMAGES)


def test_groups_and_their_seeds_are_those_of_the_results_in_their_order() -> None:
    assert list(seeds_by_group(RESULTS).items()) == [("LN", 4), ("BN", 2)]
    perfect = agreement(MISCLASSIFIED, results_of({("perfect", 0): [], **WRONG}))
    assert perfect.columns.tolist() == ["perfect", "LN", "BN"]
    assert perfect["perfect"].tolist() == [0] * 5


def test_errors_of_a_run_that_is_not_among_the_results_are_refused() -> None:
    for function in (agreement, confusions):
        with pytest.raises(ValueError, match="errors of 'BN', seed 1, which is not among the results"):
            function(MISCLASSIFIED, RESULTS[:-1])
    with pytest.raises(ValueError, match="errors of 'BN', seed 1, which is not among the results"):
        per_class(MISCLASSIFIED, RESULTS[:-1], {3: 1, 4: 2, 7: 2})


def test_common_images_defeat_every_seed_of_every_group() -> None:
    assert common(AGREEMENT, SEEDS) == []  # one seed of LN makes no error
    without = {run: images for run, images in WRONG.items() if run != ("LN", 3)}
    table = agreement(misclassified_of(without), results_of(without))
    assert common(table, seeds_by_group(results_of(without))) == [10]
    assert common(table[::-1], {"LN": 3, "BN": 1}) == [20]
    with pytest.raises(KeyError, match="BN"):
        common(table, {"LN": 3})


def test_unique_images_defeat_seeds_of_one_group_alone_most_agreed_first() -> None:
    assert unique_to(AGREEMENT, "LN")["seeds"].to_dict() == {30: 2, 40: 1}
    assert unique_to(AGREEMENT, "LN").index.tolist() == [30, 40]
    assert unique_to(AGREEMENT, "BN")["seeds"].to_dict() == {50: 1}


def test_unique_images_with_equal_counts_go_by_their_place() -> None:
    table = pd.DataFrame({"LN": [1, 2, 1, 2], "BN": [0, 0, 0, 0]}, index=[9, 8, 3, 7])
    assert unique_to(table, "LN").index.tolist() == [7, 8, 3, 9]


def test_unknown_groups_list_the_choices() -> None:
    with pytest.raises(ValueError, match=r"unknown group 'GN'; choose from \['LN', 'BN'\]"):
        unique_to(AGREEMENT, "GN")


def test_overlap_counts_images_by_the_groups_of_which_a_majority_errs() -> None:
    counts = overlap(AGREEMENT, SEEDS)  # image 20 defeats just half of BN, 30 just half of LN: no majority
    assert counts.index.names == ["LN", "BN"]
    assert counts.to_dict() == {(True, True): 1, (True, False): 1}
    assert overlap(AGREEMENT, SEEDS, share=0.0).to_dict() == {(True, False): 2, (True, True): 2, (False, True): 1}


def test_overlap_goes_from_the_largest_combination_to_the_smallest() -> None:
    table = pd.DataFrame({"LN": [1, 1, 1, 0, 0, 1], "BN": [1, 1, 1, 1, 1, 0]})
    counts = overlap(table, {"LN": 1, "BN": 1})
    assert list(counts.items()) == [((True, True), 3), ((False, True), 2), ((True, False), 1)]
    one = overlap(table[["LN"]], {"LN": 1})
    assert isinstance(one.index, pd.MultiIndex)
    assert list(one.items()) == [((True,), 4)]


def test_accuracy_on_a_class_is_a_mean_over_seeds() -> None:
    accuracy = per_class(MISCLASSIFIED, RESULTS, {7: 20, 4: 10, 3: 5, 0: 9})
    assert accuracy.index.tolist() == ["LN", "BN"]
    assert accuracy.columns.tolist() == [0, 3, 4, 7]
    assert accuracy.loc["LN"].tolist() == pytest.approx([1, 1 - 2 / 4 / 5, 1 - 6 / 4 / 10, 1 - 1 / 4 / 20])
    assert accuracy.loc["BN"].tolist() == pytest.approx([1, 1, 1 - 3 / 2 / 10, 1 - 1 / 2 / 20])


def test_an_error_on_a_class_without_a_count_is_refused() -> None:
    with pytest.raises(ValueError, match=r"class 7 has no count; known are \[3, 4\]"):
        per_class(MISCLASSIFIED, RESULTS, {4: 10, 3: 5})


def test_confusions_are_ranked_by_the_mean_of_the_groups_means() -> None:
    table = confusions(MISCLASSIFIED, RESULTS)
    assert table.columns.tolist() == ["true", "predicted", "LN", "BN"]
    assert table.to_numpy().tolist() == [[4, 9, 1.5, 1.5], [7, 2, 0.25, 0.5], [3, 5, 0.5, 0.0]]
    assert table.index.tolist() == [0, 1, 2]
    assert len(confusions(MISCLASSIFIED, RESULTS, top=1)) == 1


def test_equal_confusions_go_by_their_classes() -> None:
    wrong = {("LN", 0): [40, 30, 10]}
    table = confusions(misclassified_of(wrong), results_of(wrong))
    assert table[["true", "predicted"]].to_numpy().tolist() == [[3, 5], [4, 9], [7, 2]]


def test_runs_without_any_error_give_empty_sets_and_perfect_classes() -> None:
    table = agreement(NO_ERRORS, RESULTS)
    assert table.columns.tolist() == ["LN", "BN"]
    assert table.empty
    assert common(table, SEEDS) == []
    assert unique_to(table, "LN").empty
    assert overlap(table, SEEDS).empty
    assert per_class(NO_ERRORS, RESULTS, {3: 5, 4: 10}).to_numpy().tolist() == [[1, 1], [1, 1]]
    assert confusions(NO_ERRORS, RESULTS).columns.tolist() == ["true", "predicted", "LN", "BN"]


def test_label_errors_are_places_in_the_test_file_of_this_project() -> None:
    given = {
        947: 8,
        1621: 0,
        1901: 9,
        2130: 4,
        2462: 2,
        2597: 5,
        2654: 6,
        3520: 6,
        3558: 5,
        5937: 5,
        6651: 0,
        6783: 1,
        8527: 4,
        9679: 6,
        9729: 5,
    }
    labels = load_images()[1].labels
    assert {image: int(labels[image]) for image in LABEL_ERRORS} == given
    assert not [image for image, label in LABEL_ERRORS.items() if label == given[image]]
