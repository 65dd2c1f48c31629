from __future__ import annotations

import numpy as np
import pytest

from featprobe.datasets import DatasetOptions
from featprobe.datasets.faults import Faults
from featprobe.datasets.targets import Cells, Target, named_target, read_target
from featprobe.errors import ConfigError, DataError


def target(*columns: str, classes: bool = False, **options: object) -> Target:
    """The target of columns written as "a,b,,c", called x, y, z."""
    cells = {name: column.split(",") for name, column in zip("xyz", columns, strict=False)}
    count = len(cells["x"])
    faults = Faults("t.csv", count, lambda position: f"row {position + 2}")
    return read_target(
        Cells(cells, "the labels of t.csv", classes=classes),
        DatasetOptions(**options),  # type: ignore[arg-type]
        faults,
    )


def test_words_are_classes_and_blanks_and_pandas_words_are_missing_but_none_is_a_class() -> None:
    found = target("none,normal,,nan,NaN,NA,<NA>,n/a,null")
    assert (found.task, found.names) == ("classes", ("n/a", "none", "normal", "null"))
    assert found.label.tolist() == [1, 2, -1, -1, -1, -1, -1, 0, 3]
    assert found.notes == ("5 of 9 images have no label",)


def test_numbers_are_compared_as_numbers_but_names_of_folders_are_not() -> None:
    assert target("1,1.0,01,+1,2,10,2.0").names == ("1", "2", "10")
    assert target("1,1.0,01,+1,2,10,2.0").label.tolist() == [0, 0, 0, 0, 1, 2, 1]
    assert target("007,7,NA", classes=True).names == ("007", "7", "NA")


def test_numbers_in_some_rows_and_text_in_others_are_refused_with_the_rows_of_the_rarer_kind() -> None:
    with pytest.raises(DataError, match=r"2 of 6 rows of t.csv can't be used: row 3 .*: 'x'\), row 6 .*'y'"):
        target("1,x,2,3,y,4")
    with pytest.raises(DataError, match=r"1 of 4 rows.*row 4 \(its label is a number, most are text: '1'\)"):
        target("a,b,1,c")
    assert target("a,b,1_0,c").names == ("1_0", "a", "b", "c")
    assert target("1,x,2,3,y,4", target="classes").names == ("1", "2", "3", "4", "x", "y")


def test_a_quantity_is_detected_by_fractions_or_by_many_rare_whole_numbers() -> None:
    found = target("0.5,1,,2")
    assert (found.task, found.names) == ("continuous", ("x",))
    assert np.array_equal(found.label, [0.5, 1, np.nan, 2], equal_nan=True)
    assert found.notes[0] == "1 of 4 images have no label"
    assert "--target classes" in found.notes[1]
    ages = ",".join(str(number) for number in range(31))
    assert target(ages).task == "continuous"
    assert target(ages, target="classes").task == "classes"
    assert target(",".join([ages] * 5)).task == "classes"
    assert target(",".join(str(number) for number in range(30))).task == "classes"


def test_a_declared_quantity_lists_the_rows_that_are_no_numbers() -> None:
    assert target("1,2,2", target="continuous").label.tolist() == [1.0, 2.0, 2.0]
    with pytest.raises(DataError, match=r"row 4 \(its label is no number: 'tall'\), row 5"):
        target("1,2,tall,inf", target="continuous")
    with pytest.raises(DataError, match="1 different numbers"):
        target("1,1", target="continuous")


def test_ordered_classes_are_declared_and_their_order_is_by_number_or_as_it_is_said() -> None:
    grades = target("10,2,,4,2", target="ordinal")
    assert (grades.task, grades.names, grades.label.tolist()) == (
        "ordinal",
        ("2", "4", "10"),
        [2, 0, -1, 1, 0],
    )
    words = target("low,high,low", target="ordinal", class_order=("low", "middle", "high"))
    assert words.names == ("low", "middle", "high")
    assert words.label.tolist() == [0, 2, 0]
    assert "ordered classes: low < middle < high" in words.notes
    assert "no image is of class middle" in words.notes
    assert target("1.0,2.0", target="ordinal", class_order=("2", "1")).label.tolist() == [1, 0]
    with pytest.raises(ConfigError, match="leaves out high"):
        target("low,high", target="ordinal", class_order=("low", "hihg"))
    with pytest.raises(ConfigError, match="twice"):
        target("low,high", target="ordinal", class_order=("low", "high", "low"))
    with pytest.raises(ConfigError, match=r"order of the classes .* is not known"):
        target("low,high", target="ordinal")
    with pytest.raises(ConfigError, match="add --target ordinal"):
        target("low,high", class_order=("low", "high"))


@pytest.mark.parametrize(("rule", "value"), [("ignore", -1), ("zero", 0), ("one", 1)])
@pytest.mark.parametrize(("blank", "gap"), [("ignore", -1), ("zero", 0)])
def test_uncertain_and_blank_cells_count_by_their_rules(rule: str, value: int, blank: str, gap: int) -> None:
    found = target("1,0.0,-1,,u,TRUE", "0,yes,no,1,nan,1.0", uncertain=rule, blank=blank)
    assert (found.task, found.names) == ("multilabel", ("x", "y"))
    assert found.label.T.tolist() == [[1, 0, value, gap, value, 1], [0, 1, 0, 1, gap, 1]]
    assert any(note.startswith("2 uncertain cells of 12 ") and rule in note for note in found.notes)
    assert any(note.startswith("2 blank cells of 12 ") and blank in note for note in found.notes)


def test_several_columns_list_the_rows_with_other_cells_and_name_a_label_that_says_nothing() -> None:
    with pytest.raises(DataError, match=r"row 3 \(its y is neither 0, 1, -1 nor blank: '2'\)"):
        target("1,0,1", "0,2,1")
    with pytest.raises(DataError, match=r"y is never 1 or never 0.*--blank zero"):
        target("1,0,1", "1,,")
    assert target("1,0,1", "1,,", blank="zero").label[:, 1].tolist() == [1, 0, 0]
    with pytest.raises(ConfigError, match="takes one label column, not 2"):
        target("1,0", "0,1", target="ordinal")


def test_one_column_of_names_is_multilabel_where_it_is_declared() -> None:
    found = target("mass|edema,edema,,mass | nodule", target="multilabel")
    assert found.names == ("edema", "mass", "nodule")
    assert found.label.tolist() == [[1, 1, 0], [1, 0, 0], [-1, -1, -1], [0, 1, 1]]
    zero = target("mass|edema,edema,,mass | nodule", target="multilabel", blank="zero")
    assert zero.label[2].tolist() == [0, 0, 0]
    assert any("--target multilabel" in note for note in target("a|b,a,b").notes)
    one = target("1,0,-1,", target="multilabel")
    assert (one.names, one.label.tolist()) == (("x",), [[1], [0], [-1], [-1]])


def test_a_single_chexpert_column_is_binary_with_uncertain_cells() -> None:
    found = target("1.0,0.0,-1.0,,1.0")
    assert (found.task, found.names, found.label.tolist()) == ("classes", ("0", "1"), [1, 0, -1, -1, 1])
    assert any("1 uncertain cells are missing" in note for note in found.notes)
    assert any("--target classes" in note for note in found.notes)
    assert target("1,0,-1,", uncertain="one", blank="zero").label.tolist() == [1, 0, 1, 0]
    assert target("1,,1", blank="zero").label.tolist() == [1, 0, 1]
    assert target("1,0,-1", target="classes").names == ("-1", "0", "1")
    assert target("1,-1,1").names == ("-1", "1")


def test_rules_and_words_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="--uncertain one does not fit"):
        target("a,b", uncertain="one")
    with pytest.raises(ConfigError, match="--blank zero does not fit"):
        target("a,b,", blank="zero")
    with pytest.raises(ConfigError, match=r"--target is 'continous'; did you mean continuous"):
        target("1,2", target="continous")
    with pytest.raises(DataError, match="one class only, 'a'"):
        target("a,a,")


def test_classes_with_names_can_be_ordered_too() -> None:
    options = DatasetOptions(target="ordinal", class_order=("mild", "severe"))
    found = named_target(["severe", "mild"], "a folder", ["s.png", "m.png"], options)
    assert (found.task, found.label.tolist()) == ("ordinal", [1, 0])
    assert named_target(["a"], "a folder", ["a.png"], DatasetOptions(label_column=("none",))).names == ()
