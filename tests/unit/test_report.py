"""The report shows what it was given, whole, offline and harmless, whatever the names in it are."""

from __future__ import annotations

import dataclasses
import html.parser
import itertools
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from featprobe.errors import OutputError
from featprobe.records import ESTIMATE_COLUMNS, KEY_COLUMNS, EmbeddingMap, ReportContent, RunKey
from featprobe.report import console_table, curves, write_report
from featprobe.report.panels import panels
from featprobe.report.wording import markdown, p_value, tex, width

SYSTEMS = {
    "dinov2_vits14 · pretrained · frozen · logistic": 2.2,
    "efficientnet_lite0 · pretrained · full fine-tuning, 10 epochs, best checkpoint": 2.0,
    "vgg16 · pretrained · frozen · svm": 1.3,
    "efficientnet_lite0 · random · frozen · logistic": 0.5,
}
METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "average_precision", "brier")
FINDINGS = (
    "dinov2_vits14 and efficientnet_lite0 (fine-tuned) can't be told apart: 0.040 [0.000, 0.080].",
    "Pretrained is ahead of random by 0.340 [0.300, 0.380].",
)
HOSTILE = ("</script><script>alert(1)</script>", "50%_of & {all} $x^2$ #1 ~ \\input{y} | `z`")


def scores(rng: np.random.Generator, truth: np.ndarray, count: int, skill: float) -> np.ndarray:
    logits = rng.normal(size=(len(truth), count))
    logits[np.arange(len(truth)), truth] += skill
    odds = np.exp(logits)
    return odds / odds.sum(axis=1, keepdims=True)


def rows_of(dataset: str, classes: Sequence[str], folds: Sequence[str], systems: dict[str, float], size: int):
    """(estimates, predictions) as the comparing stage hands them over; deterministic."""
    rng = np.random.default_rng(len(dataset))
    estimates, predictions = [], []
    for system, skill in systems.items():
        backbone, weights = [*system.split(" · "), "pretrained"][:2]
        key = RunKey(dataset, backbone, weights, "frozen", "gap", "native", "logistic", "3f" * 32)
        for fold in folds:
            truth = np.random.default_rng(int(fold) if fold.isdigit() else 9).integers(
                len(classes), size=size
            )
            y_score = scores(rng, truth, len(classes), skill)
            frame = pd.DataFrame({**key.to_dict(), "fold": fold, "id": [f"{fold}-{i}" for i in range(size)]})
            frame["y_true"] = np.array(classes)[truth]
            for i, name in enumerate(classes):
                frame[f"y_score_{name}"] = y_score[:, i]
            predictions.append(frame.assign(system=system))
        for i, metric in enumerate(METRICS):
            value = 0.05 + 0.3 / skill if metric == "brier" else 0.5 + 0.2 * skill - 0.01 * i
            own = dataclasses.replace(key, fold="mean" if len(folds) > 1 else folds[0]).to_dict()
            own |= {
                "n_train": 4 * size,
                "n_test": size * len(folds),
                "n_groups": 54,
                "metric": metric,
                "value": value,
            }
            own |= {"ci_low": value - 0.041, "ci_high": value + 0.035, "system": system}
            estimates.append(
                own
                | {
                    "ci_method": "group bootstrap (2,000 resamples), percentile, 95 %; this fitted model on new groups"
                }
            )
    return pd.DataFrame(estimates), pd.concat(predictions)


def content_of(
    datasets: dict[str, tuple[tuple[str, ...], tuple[str, ...]]],
    systems: dict[str, float] | None = None,
    size: int = 120,
    **changes: object,
) -> ReportContent:
    systems = SYSTEMS if systems is None else systems
    parts = [rows_of(name, classes, folds, systems, size) for name, (classes, folds) in datasets.items()]
    estimates = pd.concat([part[0] for part in parts], ignore_index=True)
    pairs, best = [], []
    for name in datasets:
        for a, b in itertools.combinations(systems, 2):
            gap = 0.2 * (systems[a] - systems[b])
            p = {True: 0.0004, False: 0.31}[gap > 0.05]
            pairs.append(
                (name, "image", "balanced_accuracy", a, b, gap, gap - 0.04, gap + 0.04, p, min(1.0, 3 * p))
            )
        best += [
            (name, "image", "balanced_accuracy", s)
            for s, v in systems.items()
            if max(systems.values()) - v < 0.25
        ]
    columns = [
        "dataset",
        "level",
        "metric",
        "a",
        "b",
        "difference",
        "ci_low",
        "ci_high",
        "p_value",
        "p_adjusted",
    ]
    rng = np.random.default_rng(4)
    labels = rng.integers(4, size=160)
    values: dict[str, object] = {
        "title": "Which backbone for brain MRI and dermoscopy?",
        "metric": "balanced_accuracy",
        "estimates": estimates,
        "predictions": pd.concat([part[1] for part in parts], ignore_index=True),
        "comparisons": pd.DataFrame(pairs, columns=columns).assign(
            method="paired group bootstrap of the difference, 2,000 resamples, adjusted over 6 pairs"
        ),
        "best": pd.DataFrame(best, columns=["dataset", "level", "metric", "system"]),
        "classes": {name: classes for name, (classes, _) in datasets.items()},
        "maps": tuple(
            EmbeddingMap(
                name,
                "dinov2_vits14 (pretrained), cls",
                "PCA",
                rng.normal(size=(160, 2)) + 2.5 * np.column_stack([labels % 2, labels // 2]),
                labels % len(classes),
                classes,
            )
            for name, (classes, _) in datasets.items()
        ),
        "findings": dict.fromkeys(datasets, FINDINGS),
        "notes": ("brain_mri declares no groups: each image counts as its own.",),
        "provenance": {"Command": "featprobe compare results/", "featprobe": "0.1.0", "Seed": "0"},
    }
    return ReportContent(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def content() -> ReportContent:
    return content_of(
        {
            "dermoscopy_ham10000_subset": (("benign", "malignant"), ("test",)),
            "brain_mri": (("glioma", "meningioma", "no tumour", "pituitary adenoma"), tuple("01234")),
        }
    )


@pytest.fixture(scope="module")
def out(content: ReportContent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(content, tmp_path_factory.mktemp("report") / "out").parent


@pytest.fixture(scope="module")
def small() -> ReportContent:
    return content_of({"small": (("a", "b"), ("0", "1"))}, {"one": 1.0, "two": 0.9}, 12)


class Page(html.parser.HTMLParser):
    """What a browser would see: tags with attributes, and the text outside style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_data(self, data: str) -> None:
        if self.inside not in {"style", "script"}:
            self.words.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return " ".join(word for word in self.words if word)


def test_the_page_loads_nothing_and_every_figure_speaks(out: Path) -> None:
    page = Page((out / "report.html").read_text(encoding="utf-8"))
    loads = [
        v
        for _, attributes in page.tags
        for k, v in attributes.items()
        if k in {"src", "href", "srcset", "data"}
    ]
    assert loads
    assert all(
        value is not None and re.match(r"#|data:image/(svg\+xml|png);base64,", value) for value in loads
    )
    assert not re.search(r"@import|url\(|https?://", (out / "report.html").read_text(encoding="utf-8"))
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 10
    assert all(attributes["alt"] for attributes in images)
    names = [tag for tag, _ in page.tags]
    assert {"header", "nav", "main", "footer"} <= set(names)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {value[1:] for value in loads if value and value.startswith("#")}
    assert targets <= set(ids)


def test_the_findings_come_first_and_every_number_has_its_interval(out: Path, content: ReportContent) -> None:
    text = Page((out / "report.html").read_text(encoding="utf-8")).text
    order = ("0.040 [0.000", "declares no groups", "Which differences", "Fitting and choosing", "3f3f3f")
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    for row in content.estimates.itertuples():
        assert f"{row.value:.3f} [{row.ci_low:.3f}, {row.ci_high:.3f}]" in text
    assert "600 images from 54 independent groups" in text
    assert "480 images per fitted model" in text
    assert "featprobe compare results/" in text
    assert "<0.001" in text
    assert "A is ahead" in text


def test_every_figure_and_table_is_there_and_well_formed(out: Path) -> None:
    stems = {
        f"{name}-{kind}"
        for name in ("dermoscopy_ham10000_subset", "brain_mri")
        for kind in ("forest", "roc", "pr", "confusion", "map-dinov2_vits14-pretrained-cls")
    }
    assert {path.stem for path in (out / "figures").glob("*.svg")} == stems
    assert {path.stem for path in (out / "figures").glob("*.png")} == stems
    for path in (out / "figures").glob("*.svg"):
        ET.fromstring(path.read_text(encoding="utf-8"))  # noqa: S314 - our own file
    for kind in ("md", "tex", "csv"):
        assert (out / "tables" / f"brain_mri-metrics.{kind}").exists()
        assert (out / "tables" / f"brain_mri-comparisons.{kind}").exists()
    assert (out / "tables" / "overview.tex").exists()
    counts = pd.read_csv(out / "tables" / "brain_mri-confusion.csv")
    assert set(counts.groupby("system")["count"].sum()) == {600}
    assert not list(out.rglob("*.next"))


def test_equal_content_gives_equal_bytes(small: ReportContent, tmp_path: Path) -> None:
    one, two = (write_report(small, tmp_path / name).parent for name in ("one", "two"))
    files = [path.relative_to(one) for path in one.rglob("*.*")]
    assert len(files) > 10
    for path in files:
        assert (two / path).read_bytes() == (one / path).read_bytes(), path.name


def test_hostile_names_stay_text_everywhere(tmp_path: Path) -> None:
    hostile = content_of(
        {"../../<img src=x>": (HOSTILE, ("test",))},
        {"<b>_a_|&": 1.0, "[b]": 0.9},
        20,
        title="<i>T</i>",
        notes=("<script>",),
    )
    page = Page(write_report(hostile, tmp_path / "out").read_text(encoding="utf-8"))
    tags = [tag for tag, _ in page.tags]
    assert (tags.count("script"), tags.count("b"), tags.count("i")) == (1, 0, 0)
    assert all(attributes["src"].startswith("data:") for tag, attributes in page.tags if tag == "img")
    assert HOSTILE[0] in page.text
    assert {path.parent.name for path in tmp_path.rglob("*.svg")} == {"figures"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert "<b>" not in (tmp_path / "out/tables/img-src-x-metrics.md").read_text(encoding="utf-8")


def test_latex_and_markdown_specials() -> None:
    assert tex("a_b & 5% $x$ {y} \\z ~^ #1") == (
        r"a\_b \& 5\% \$x\$ \{y\} \textbackslash{}z \textasciitilde{}\textasciicircum{} \#1"
    )
    assert tex("[0.1,\n0.2]") == "{[}0.1, 0.2{]}"
    assert markdown("a|b <i> _c_ *d*\n`e`") == r"a\|b &lt;i&gt; \_c\_ \*d\* \`e\`"


def test_latex_rows_have_one_field_per_column(out: Path) -> None:
    text = (out / "tables" / "brain_mri-metrics.tex").read_text(encoding="utf-8")
    spec = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)
    assert spec is not None
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")].splitlines()
    rows = [line for line in body if line.endswith(r" \\")]
    assert len(rows) == 5
    assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(spec[1])} == {7}
    assert r"efficientnet\_lite0" in text
    assert r"\\[" not in text
    assert text.isascii() or set(re.findall(r"[^\x00-\x7f]", text)) <= {"é"}


def test_the_mark_follows_the_best_set_and_the_order_follows_the_value(content: ReportContent) -> None:
    panel = panels(content)[1]
    assert panel.dataset == "brain_mri"
    assert panel.systems == tuple(SYSTEMS)
    assert [panel.cells[name, panel.main].best for name in panel.systems] == [True, True, False, False]
    assert panel.folds == 5
    low = panels(dataclasses.replace(content, metric="brier"))[0]
    assert low.systems == tuple(SYSTEMS)
    verdicts = {(pair.a[:6], pair.b[:6]): pair.verdict for pair in panel.pairs}
    assert verdicts["dinov2", "vgg16 "] == "ahead"
    assert [pair.verdict for pair in panel.pairs].count("same") == 1


def test_a_smaller_brier_score_is_ahead(content: ReportContent) -> None:
    pairs = content.comparisons.assign(metric="brier")
    panel = panels(dataclasses.replace(content, metric="brier", comparisons=pairs))[0]
    ahead = {(pair.a[:6], pair.b[:6]) for pair in panel.pairs if pair.verdict == "ahead"}
    assert ("vgg16 ", "dinov2") in ahead
    assert all(pair.low <= pair.difference <= pair.high for pair in panel.pairs)
    assert all(pair.difference < 0 for pair in panel.pairs)


def test_the_console_table_is_aligned_and_says_what_the_star_means(content: ReportContent) -> None:
    first, second = console_table(content).split("\n\n")
    lines = second.splitlines()
    assert lines[0] == "brain_mri: 600 test images, 54 groups"
    assert [line.startswith("*") for line in lines[2:6]] == [True, True, False, False]
    assert len({line.index("[") for line in lines[2:6]}) == 1
    assert all(width(line) <= 130 for line in first.splitlines())
    assert lines[-1] == "* can't be told apart from the best balanced accuracy"


def test_one_system_alone_needs_no_comparison(tmp_path: Path) -> None:
    alone = content_of(
        {"d": (("a", "b"), ("test",))}, {"only": 1.0}, 30, comparisons=pd.DataFrame(), best=pd.DataFrame()
    )
    page = Page(write_report(alone, tmp_path).read_text(encoding="utf-8"))
    assert "nothing to compare" in page.text
    assert "●" not in page.text
    assert "*" not in console_table(alone)
    assert not (tmp_path / "tables" / "d-comparisons.md").exists()


def test_many_systems_and_classes_stay_within_bounds(tmp_path: Path) -> None:
    classes = tuple(f"class number {i}" for i in range(13))
    many = content_of({"many": (classes, ("0", "1"))}, {f"system {i}": 0.5 + i / 20 for i in range(12)}, 40)
    text = Page(write_report(many, tmp_path).read_text(encoding="utf-8")).text
    assert "The 8 best of 12 systems are shown" in text
    assert "The other 55 pairs" in text
    svg = (tmp_path / "figures" / "many-confusion.svg").read_text(encoding="utf-8")
    assert float(re.search(r'height="([\d.]+)pt"', svg)[1]) < 3000  # type: ignore[index]


def test_values_that_are_not_defined_are_said_to_be_so(tmp_path: Path, small: ReportContent) -> None:
    nowhere = small.estimates.assign(ci_low=np.nan, ci_high=np.nan)
    nowhere.loc[nowhere["metric"] == "auroc", "value"] = np.nan
    page = Page(
        write_report(dataclasses.replace(small, estimates=nowhere), tmp_path).read_text(encoding="utf-8")
    )
    assert "[no interval]" in page.text
    assert not re.search(r"\bnan\b", page.text, re.IGNORECASE)


def test_system_names_that_do_not_tell_models_apart_are_refused(content: ReportContent) -> None:
    same = content.estimates.assign(system="x")
    with pytest.raises(ValueError, match="system names"):
        console_table(dataclasses.replace(content, estimates=same))


def test_an_unwritable_folder_is_an_output_error(tmp_path: Path, small: ReportContent) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="can't write the report"):
        write_report(small, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_roc_curve_passes_through_its_known_points() -> None:
    curve = curves.roc(np.array([1, 0, 1, 1, 0], dtype=bool), np.array([0.9, 0.8, 0.7, 0.4, 0.4]))
    assert curve is not None
    np.testing.assert_allclose(curve[0], [0, 0, 0.5, 0.5, 1])
    np.testing.assert_allclose(curve[1], [0, 1 / 3, 1 / 3, 2 / 3, 1])
    assert curves.roc(np.ones(3, dtype=bool), np.arange(3.0)) is None


def test_the_area_under_the_drawn_curve_is_the_mean_of_the_areas() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    _, rows = rows_of("d", ("a", "b", "c"), ("0", "1", "2"), {"s": 0.8}, 40)
    names = ["y_score_a", "y_score_b", "y_score_c"]
    areas = [
        metrics.roc_auc_score(f["y_true"], f[names].to_numpy(), multi_class="ovr", average="macro")
        for _, f in rows.groupby("fold")
    ]
    curve = curves.roc_of_system(rows, ("a", "b", "c"))
    assert curve is not None
    assert np.trapezoid(curve[1], curve[0]) == pytest.approx(np.mean(areas), abs=1e-12)
    assert np.all(np.diff(curve[1]) >= -1e-12)


def test_confusion_counts_by_hand() -> None:
    rows = pd.DataFrame(
        {"y_true": ["a", "a", "b", ""], "y_score_a": [0.9, 0.2, 0.4, 1], "y_score_b": [0.1, 0.8, 0.6, 0]}
    )
    np.testing.assert_array_equal(curves.confusion(rows, ("a", "b")), [[1, 1], [0, 1]])


def test_p_values_and_columns() -> None:
    assert [p_value(value) for value in (0.0009, 0.001, 1.0)] == ["<0.001", "0.001", "1.000"]
    frame = rows_of("d", ("a", "b"), ("test",), {"s": 1.0}, 5)[0]
    assert set(frame.columns) == {*ESTIMATE_COLUMNS, "system"} >= set(KEY_COLUMNS)
