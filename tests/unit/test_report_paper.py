"""The paper pack says what was run, cites what it says, and leaves to the authors what only they know."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from featprobe.config import CompareConfig, ExtractConfig, FinetuneConfig, ProbeConfig
from featprobe.options import as_mapping, from_mapping
from featprobe.records import (
    BackboneFacts,
    CriticalDifference,
    DataFacts,
    FitFacts,
    MeanRanks,
    ReportContent,
    Statistics,
    Study,
)
from featprobe.report import checklist, methods, references, word, write_report
from featprobe.report.drawing import plain
from featprobe.report.further_methods import further_methods
from featprobe.report.panels import panels
from featprobe.report.rank_figures import critical_difference, describe_ranks
from featprobe.report.tables import Entry, Table, overview_table, to_latex
from featprobe.report.wording import tex
from tests.unit.test_report import content_of

HOSTILE = "we{i}rd_&%$#~^\\name"


def study(**changes: object) -> Study:
    data = DataFacts(
        name="derm_&_more",
        task="classes",
        images=423,
        groups=279,
        cases=423,
        groups_declared=True,
        classes={"nv": 300, "mel": 123},
        scheme="grouped 5-fold cross-validation",
        n_train=(338, 339),
        n_test=(84, 85),
        n_groups=(55, 57),
    )
    known = dataclasses.replace(
        data, name="pneumoniamnist", kind="medmnist:pneumoniamnist", scheme="user's split"
    )
    backbone = BackboneFacts(
        name="dinov2_vits14",
        weights="pretrained",
        architecture="vit_small_patch14_dinov2.lvd142m",
        weights_sha256="ab" * 32,
        preprocessing="resize256-crop224-bicubic",
        precision="fp32",
        poolings=("cls",),
        licence="Apache-2.0",
        citation="Oquab et al., DINOv2, TMLR 2024 (arXiv 2304.07193)",
    )
    own = dataclasses.replace(
        backbone, name=HOSTILE, citation=f"{HOSTILE}, 2031 (arXiv 3101.00001)", licence=""
    )
    control = dataclasses.replace(backbone, weights="random", canary=True)
    values: dict[str, object] = {
        "data": (data, known),
        "backbones": (backbone, own, control),
        "fits": (
            FitFacts(
                mode="frozen",
                what="logistic",
                protocol="uni",
                describe="C = M K / 100",
                source="Chen 2024",
                differs=("x",),
            ),
            FitFacts(
                mode="full", what="linear-head", protocol="featprobe", training={"lr": 0.001, "epochs": 3}
            ),
        ),
        "seeds": (0, 1),
        "amounts": ("10 %", "100 %"),
        "resamples": (500, 2000),
        "versions": {"featprobe": "0.1.0", "torch": "2.9", "scikit-learn": "1.9"},
        "document": {"study": {"title": "t"}},
        "toml": '[study]\ntitle = "t"\n',
    }
    return Study(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made() -> ReportContent:
    plain = content_of({"derm_&_more": (("nv", "mel"), ("test",))}, {"one": 1.4, "two": 0.6}, 30, maps=())
    return dataclasses.replace(plain, study=study())


@pytest.fixture(scope="module")
def out(made: ReportContent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(made, tmp_path_factory.mktemp("paper")).parent


def test_the_methods_say_what_was_run(out: Path) -> None:
    text = (out / "methods.md").read_text(encoding="utf-8")
    for words in (
        "423 images, 2 classes (nv 300, mel 123), from 279 independent groups",
        "338\N{EN DASH}339 training and 84\N{EN DASH}85 test rows (55\N{EN DASH}57 test groups)",
        "The data set's own split was used",
        "weights: pretrained, SHA-256 abababababab, licence: Apache-2.0",
        "resize256-crop224-bicubic",
        "protocol uni; Chen 2024",
        "Unlike the publication: x.",
        "lr 0.001, epochs 3",
        "Amounts of training labels, each nested in the next: 10 %, 100 %.",
        "this fitted model on new groups",
        "Seeds of splits, fits and resamples: 0, 1.",
        "scikit-learn 1.9",
    ):
        assert words in text, words
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "[@" not in page
    assert "423 images, 2 classes" in page


def test_every_citation_is_in_the_bibliography_once(out: Path) -> None:
    text = (out / "methods.md").read_text(encoding="utf-8")
    bib = (out / "references.bib").read_text(encoding="utf-8")
    keys = re.findall(r"^@\w+\{([^,]+),", bib, re.MULTILINE)
    assert len(keys) == len(set(keys))
    cited = {
        key for group in re.findall(r"\[((?:@[^\]]+))\]", text) for key in re.findall(r"@([\w-]+)", group)
    }
    assert {"oquab2024dinov2", "yang2023medmnist", "efron1993bootstrap"} <= cited <= set(keys)
    assert {"tejani2024claim", "collins2024tripod", "featprobe"} <= set(keys)
    assert "% data set derm_&_more: to be filled in by the authors" in bib
    assert "Weights of dinov2\\_vits14: Apache-2.0" in bib
    for entry in re.split(r"\n(?=@)", bib)[1:]:
        body = entry.split("\n%")[0]
        assert body.replace(r"\{", "").replace(r"\}", "").count("{") == body.replace(r"\{", "").replace(
            r"\}", ""
        ).count("}"), body


def test_every_curated_entry_is_whole() -> None:
    for key, entry in references.curated().items():
        assert entry.startswith("@")
        assert entry.endswith("\n}")
        assert {"author", "title", "year"} <= set(re.findall(r"^  (\w+) = ", entry, re.MULTILINE)), key
    listed = {*references.SOFTWARE.values(), *references.METHODS.values(), *references.GUIDELINES}
    assert listed <= set(references.curated())


def test_the_checklists_are_whole_and_say_who_must_answer(made: ReportContent, out: Path) -> None:
    items = checklist.items(made, study(), panels(made))
    claim = [item for item in items if item.guideline == "CLAIM 2024"]
    tripod = [item for item in items if item.guideline == "TRIPOD+AI"]
    assert [item.number for item in claim] == [str(number) for number in range(1, 45)]
    assert {re.sub("[a-z]", "", item.number) for item in tripod} == {str(number) for number in range(1, 28)}
    assert len(tripod) == 52
    answers = {item.number: item.answer for item in claim}
    assert (
        answers["20"]
        == "derm_&_more: group (patient, lesion or study); pneumoniamnist: group (patient, lesion or study)"
    )
    assert answers["30"] == "Repeated with the seeds 0, 1"
    assert answers["7"] == ""
    assert answers["11"] == answers["34"] == ""
    text = (out / "checklist.md").read_text(encoding="utf-8")
    assert text.count(checklist.TO_FILL) == sum(not item.answer for item in items)
    undeclared = dataclasses.replace(study().data[0], groups_declared=False)
    said = checklist.items(made, study(data=(undeclared,)), panels(made))
    assert "no groups were declared" in next(item.answer for item in said if item.number == "20")


def test_the_word_document_holds_every_table(out: Path) -> None:
    docx = pytest.importorskip("docx")
    document = docx.Document(out / "tables" / "tables.docx")
    assert len(document.tables) == 2
    first = [[cell.text for cell in row.cells] for row in document.tables[0].rows]
    assert first[0][:2] == ["System", "Balanced accuracy"]
    assert first[1][0] == "one"
    assert re.fullmatch(r"● 0\.\d{3} \[0\.\d{3}, \d\.\d{3}\]", first[1][1])
    table = Table("c", ("System", "x"), ((Entry("a"), Entry("1", "[0, 2]", marked=True)),), "note")
    assert word.document({"t": table}) == word.document({"t": table})


def test_without_python_docx_the_page_says_what_to_type(
    made: ReportContent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "docx", None)
    page = write_report(made, tmp_path).read_text(encoding="utf-8")
    assert "pip install 'featprobe[docx]'" in page
    assert not (tmp_path / "tables" / "tables.docx").exists()


def test_the_tables_compile(out: Path, tmp_path: Path) -> None:
    if not shutil.which("pdflatex"):
        pytest.skip("pdflatex is not installed")
    odd = to_latex(
        Table(
            HOSTILE,
            (HOSTILE, "x"),
            ((Entry(HOSTILE), Entry("\N{MINUS SIGN}0.1", "[\N{MINUS SIGN}0.2, 0.1]", marked=True)),),
        ),
        "odd",
    )
    body = (
        "\n".join(path.read_text(encoding="utf-8") for path in sorted((out / "tables").glob("*.tex")))
        + odd.decode()
    )
    head = "\\documentclass{article}\n\\usepackage[T1]{fontenc}\n\\usepackage{booktabs}\n\\begin{document}\n"
    (tmp_path / "t.tex").write_text(f"{head}{body}\n\\end{{document}}\n", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-1500:]


def test_settings_come_back_from_their_tables() -> None:
    for config in (
        ExtractConfig(
            data=("a.csv", "b"),
            backbone=("x", "y"),
            image_size=(224, 518),
            canaries=True,
            pseudonymize=Path("k"),
        ),
        ProbeConfig(fraction=(0.1, 1.0), out=Path("o"), holdout=0.2, seed=4),
        FinetuneConfig(augment=False, lr=1e-3, mode=("head", "full")),
        CompareConfig(images=False, metric="auroc"),
    ):
        assert from_mapping(type(config), as_mapping(config), "here") == config
    assert as_mapping(ProbeConfig()) == {}


def test_ties_are_the_largest_sets_within_the_critical_difference() -> None:
    # Demsar (JMLR 7, 2006), figure 1a: mean ranks 3.143, 2.000, 2.893, 1.964 of four classifiers, CD 1.25 (Nemenyi).
    names = ("C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf")
    ranks = MeanRanks(names, np.array([3.143, 2.000, 2.893, 1.964]), 14, "Nemenyi", critical_difference=1.25)
    assert ranks.ties() == [(3, 1, 2, 0)]
    near = dataclasses.replace(ranks, critical_difference=1.0)
    assert near.ties() == [(3, 1, 2), (2, 0)]
    none = dataclasses.replace(ranks, critical_difference=0.01)
    assert none.ties() == []
    given = dataclasses.replace(ranks, critical_difference=None, cliques=((3, 1), (0,)))
    assert given.ties() == [(3, 1)]
    assert "C4.5+m+cf 1.96; C4.5+m 2.00" in describe_ranks(ranks)


def test_the_critical_difference_diagram_is_on_the_page(made: ReportContent, tmp_path: Path) -> None:
    ranks = MeanRanks(
        ("one", "two", "<three>"), np.array([1.2, 2.1, 2.7]), 5, "Nemenyi", critical_difference=1.0
    )
    page = write_report(dataclasses.replace(made, ranks=(ranks,), study=None), tmp_path)
    assert (tmp_path / "figures" / "critical-difference.svg").exists()
    assert "Mean ranks over 5 data sets" in page.read_text(encoding="utf-8")
    assert not (tmp_path / "methods.md").exists()
    assert critical_difference(dataclasses.replace(ranks, systems=("one",), mean=np.array([1.0]))) is None


def test_a_page_without_citations_reads_as_plain_text() -> None:
    assert methods.without_citations("a\\_b [@x2020; @y] &lt;c&gt;.") == "a_b <c>."


def test_the_methods_name_the_adjustment_and_the_place_of_each_test(made: ReportContent) -> None:
    pairs = made.comparisons.assign(
        method="p by McNemar's test, exact; interval by x; p adjusted over 1 pair by Holm's step-down"
    )
    other = dataclasses.replace(made, comparisons=pairs)
    text = "\n".join(methods.methods(study(), panels(other)))
    assert "McNemar's test, exact" in text
    assert "max-t" not in text
    assert {"mcnemar1947sampling", "holm1979rejective"} <= set(re.findall(r"@([\w-]+)", text))

    two = content_of(
        {"a": (("x", "y"), ("test",)), "b": (("x", "y"), ("test",))}, {"m": 1.4, "n": 0.6}, 30, maps=()
    )
    told = two.comparisons.copy()
    told["method"] = told["dataset"].map({"a": "one way", "b": "another way"})
    said = "\n".join(methods.methods(study(), panels(dataclasses.replace(two, comparisons=told))))
    assert "Comparison of systems (a): one way." in said
    assert "by Holm's step-down [@mcnemar1947sampling; @holm1979rejective]." in text
    assert "Comparison of systems (b): another way." in said


def test_what_was_done_beyond_pairs_is_in_the_methods(made: ReportContent) -> None:
    columns = ["dataset", "level", "metric", "a", "b", "value", "ci_low", "ci_high", "p_value", "p_adjusted"]
    row = [
        made.estimates["dataset"].iloc[0],
        "image",
        "balanced_accuracy",
        "one",
        "",
        0.8,
        0.7,
        0.9,
        0.1,
        0.1,
    ]
    combined = pd.DataFrame(
        [[*row, 6, "corrected resampled t, 95 %, 3 folds x 2 seeds"]],
        columns=[*columns, "trainings", "method"],
    )
    across = CriticalDifference(
        level="image",
        metric="balanced_accuracy",
        systems=("one", "two"),
        mean_rank=np.array([1.0, 2.0]),
        critical=1.2,
        statistic=9.0,
        p_value=0.04,
        datasets=("a", "b", "c"),
        cliques=(),
        chances={("one", "two"): (0.9, 0.05, 0.05)},
        rope=0.01,
    )
    known = Statistics(made.best.iloc[:0], combined, (across,))
    found = further_methods(dataclasses.replace(made, statistics=known))
    text = " ".join(found.sentences)
    assert "corrected resampled t, 95 %, 3 folds x 2 seeds" in text
    assert "Over 3 data sets (a, b, c)" in text
    assert "within 0.01 as equal" in text
    assert {"nadeau2003inference", "demsar2006statistical", "benavoli2017change"} <= set(
        references.cite_methods(found.words)
    )
    assert further_methods(made).sentences == ()


def test_the_checklist_answers_what_an_item_asks(made: ReportContent) -> None:
    tripod = {
        i.number: i.answer for i in checklist.items(made, study(), panels(made)) if i.guideline == "TRIPOD+AI"
    }
    assert tripod["12b"].endswith("embeddings (uni): C = M K / 100")
    assert tripod["12e"].startswith("Balanced accuracy")
    assert tripod["13"].startswith("No class weights and no moved thresholds; derm_&_more: nv 300, mel 123")
    assert "nv 300" in tripod["21"]
    assert "to be added by the authors" in tripod["18c"]
    balanced = study(
        fits=(
            FitFacts(
                mode="full", what="linear-head", protocol="featprobe", training={"class_weight": "balanced"}
            ),
        )
    )
    said = next(
        i.answer
        for i in checklist.items(made, balanced, panels(made))
        if i.subject.startswith("Class imbalance")
    )
    assert said.startswith("class weight balanced (full); ")


def test_what_is_not_known_of_a_backbone_leaves_no_gap_in_the_methods(made: ReportContent) -> None:
    bare = dataclasses.replace(study().backbones[0], architecture="")
    text = "\n".join(methods.methods(study(backbones=(bare,)), panels(made)))
    assert "(weights: pretrained" in text


def test_a_system_alone_is_not_marked_as_untold_from_the_best() -> None:
    two = content_of(
        {"a": (("x", "y"), ("test",)), "b": (("x", "y"), ("test",))}, {"m": 1.4, "n": 0.6}, 30, maps=()
    )
    alone = dataclasses.replace(
        two,
        estimates=two.estimates[(two.estimates["dataset"] == "a") | (two.estimates["system"] == "m")],
        comparisons=two.comparisons[two.comparisons["dataset"] == "a"],
    )
    (row,) = [row for row in overview_table(panels(alone)).rows if row[0].text == "m"]
    assert [entry.marked for entry in row[1:]] == [True, False]


def test_a_long_name_is_broken_behind_its_underscore() -> None:
    assert plain("meningioma_tumor", 13) == "meningioma_\ntumor"
    assert plain("dinov2_vits14 frozen", 14) == "dinov2_vits14\nfrozen"
    assert tex('a "b"') == "a ''b''"
