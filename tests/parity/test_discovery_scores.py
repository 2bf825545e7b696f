"""Accuracies equal those of the published code, exactly, and those of scikit-learn, for clusterings of all kinds."""

import pytest
import torch
from gcd_reference import told

from mmmask.metrics import accuracies, adjusted_rand, class_table, meetings, normalized_mutual_information

PARTS = ("all", "old", "new")
CASES = {case["name"]: case for case in told("accuracy_cases")["cases"]}
EARLIER = {f"{case['n']} in {case['k_pred']}": case for case in told("accuracy")["cases"]}


def met_and_accuracies(case, old):
    met = meetings(torch.tensor(case["y_pred"]), torch.tensor(case["y_true"]))
    return met, accuracies(class_table(met, old))


@pytest.mark.parametrize("name", CASES)
def test_accuracies_and_agreement(name):
    case = CASES[name]
    old = {label for label, is_old in zip(case["y_true"], case["old"], strict=True) if is_old}
    met, found = met_and_accuracies(case, old)
    if case["v2"] is None:  # no new sample: the published code divides by zero
        assert [found["all"], found["old"]] == case["all_old"]
    elif case["old_new_unique"]:
        assert [found[part] for part in PARTS] == case["v2"]
        assert [found[f"balanced_{part}"] for part in PARTS] == pytest.approx(case["v2_balanced"], rel=1e-12)
    else:
        assert found["all"] == case["v2"][0]
    assert normalized_mutual_information(met.counts) == pytest.approx(case["nmi"], abs=1e-12)
    assert adjusted_rand(met.counts) == pytest.approx(case["ari"], abs=1e-12)


@pytest.mark.parametrize("name", EARLIER)
def test_accuracies_of_the_earlier_cases(name):
    case = EARLIER[name]
    _, found = met_and_accuracies(case, range(case["old_classes"]))
    assert [found[part] for part in PARTS] == case["all_old_new"]
    assert [found[f"balanced_{part}"] for part in PARTS] == pytest.approx(case["balanced_all_old_new"], rel=1e-12)
