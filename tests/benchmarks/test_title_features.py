"""Titles of which the class is not told."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from title_features import without_class


def test_no_word_of_the_class_is_left_and_all_others_are():
    title = "Baby-Back RIB Rub: best back-yard ribs_sauce, babybackribs &amp; crib"
    assert without_class(title, "baby_back_ribs") == "-  Rub: best -yard _sauce,  &amp; crib"
    assert without_class("Cupcake or cup cakes", "cup_cakes") == " or  "
    assert without_class("Pancakes", "cup_cakes") == "Pancakes"
