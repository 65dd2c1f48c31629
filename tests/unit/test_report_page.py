"""The page works for who looks, who listens and who presses keys: in a browser where there is one, and by its colours."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from featprobe.records import ReportContent, Thumbnails, texts
from featprobe.report import examples, write_report
from featprobe.report.drawing import MOST_SVG, on_page
from featprobe.report.panels import panels
from tests.browser import Rows, dom
from tests.unit.test_report import content_of

CLASSES = ("benign", "malignant")
SYSTEMS = {
    "dinov2_vits14 · pretrained · frozen · logistic": 2.2,
    "vgg16 · pretrained · frozen · svm": 1.0,
    "resnet50 · pretrained · frozen · svm": 1.6,
}


def with_pictures(made: ReportContent) -> ReportContent:
    """The content with a picture of every other test image, each of another grey."""
    pictures = {}
    for name, rows in made.predictions.groupby("dataset"):
        ids = sorted(set(rows["id"]))[::2]
        grey = (
            np.tile(np.arange(32, dtype=np.uint8), (len(ids), 32, 1))
            + np.arange(len(ids), dtype=np.uint8)[:, None, None]
        )
        pictures[str(name)] = Thumbnails(texts(ids), grey)
    return dataclasses.replace(made, pictures=pictures)


@pytest.fixture(scope="module")
def made() -> ReportContent:
    return with_pictures(content_of({"derm": (CLASSES, ("test",))}, SYSTEMS, 60, maps=()))


@pytest.fixture(scope="module")
def page(made: ReportContent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(made, tmp_path_factory.mktemp("page"))


def test_a_kept_address_sorts_filters_and_shows_images(page: Path, tmp_path: Path) -> None:
    state = "#without-backbone=vgg16&sort=0.4.ascending&images=images-derm.0.0.1"
    text, console = dom(page, state, tmp_path / "profile")
    assert console == []
    seen = Rows(text)
    head, *rows = seen.tables[0]
    assert "AUROC" in head[1][4]
    sorts = [about.get("aria-sort") for tag, about in seen.found if tag == "th" and "aria-sort" in about]
    assert sorts[4] == "ascending"
    assert sorts[:4] == ["none"] * 4
    values = [float(cells[4].split("[")[0]) for _, cells in rows]
    assert values == sorted(values)
    hidden = ["hidden" in about for about, _ in rows]
    assert hidden == ["vgg16" in cells[0] for _, cells in rows]
    assert sum(hidden) == 1
    shown = [
        about["alt"]
        for tag, about in seen.found
        if tag == "img" and about.get("alt", "").endswith("called malignant")
    ]
    assert shown
    assert all(": benign, called malignant" in words for words in shown)
    pressed = [about for tag, about in seen.found if tag == "button" and about.get("aria-pressed") == "true"]
    assert [about["data-cell"] for about in pressed] == ["0,1"]


CLICKS = """
const out = [];
const heads = document.querySelectorAll("table.systems th button.sort");
heads[1].click(); out.push(heads[1].parentElement.getAttribute("aria-sort"));
heads[1].click(); out.push(heads[1].parentElement.getAttribute("aria-sort"));
const box = document.querySelector('[data-filter="backbone"] input[value="resnet50"]');
box.click();
out.push([...document.querySelectorAll("table.systems tr[data-systems]")].filter((r) => r.hidden).length);
out.push(document.querySelector(".count").textContent);
const who = document.querySelector("button.who");
who.focus(); out.push(document.getElementById("tip").textContent); out.push(document.getElementById("tip").hidden);
dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" })); out.push(document.getElementById("tip").hidden);
const cell = document.querySelector(".gallery td.right button"); cell.click();
out.push(document.querySelectorAll(".shown img").length > 0);
out.push(location.hash);
document.querySelector("button.all").click();
out.push([...document.querySelectorAll("tr[data-systems]")].filter((r) => r.hidden).length);
const images = [...document.images].filter((i) => i.complete && i.naturalWidth === 0).length;
out.push(images);
document.body.dataset.out = JSON.stringify(out);
"""


def test_buttons_boxes_and_focus_do_what_they_say(page: Path, tmp_path: Path) -> None:
    text, console = dom(page, "", tmp_path / "profile", script=CLICKS)
    assert console == []
    (body,) = [about for tag, about in Rows(text).found if tag == "body"]
    down, up, hidden, count, tip, shut, escaped, shown, address, left, broken = json.loads(body["data-out"])
    assert (down, up) == ("descending", "ascending")
    assert (hidden, count) == (1, "(2 of 3 rows shown)")
    assert tip.startswith("Fingerprint 3f3f3f3f3f3f, seed 0. ")
    assert (shut, escaped, shown) == (False, True, True)
    assert "without-backbone=resnet50" in address
    assert "sort=0.1.ascending" in address
    assert "images=images-derm.0.0.0" in address
    assert (left, broken) == (0, 0)


def colours() -> list[dict[str, str]]:
    """The named colours of the light page, and of the dark one."""
    css = (Path(examples.__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in blocks)
    return [light, light | dark]


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance of #rrggbb."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_text_and_marks_meet_wcag_aa(dark: bool) -> None:
    names = colours()[dark]
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    words = [(ink, ground) for ink in ("ink", "soft", "accent") for ground in ("paper", "tint")]
    words += [
        ("ink", "note"),
        ("ink", "warn"),
        ("accent", "note"),
        ("accent", "warn"),
        ("on-tip", "tip"),
        ("paper", "accent"),
    ]
    for ink, ground in words:
        assert contrast(names[ink], names[ground]) >= 4.5, (ink, ground)
    for edge, ground in (
        ("note-edge", "paper"),
        ("warn-edge", "paper"),
        ("rule", "paper"),
        ("soft", "paper"),
    ):
        assert contrast(names[edge], names[ground]) >= 3, (edge, ground)


def test_no_colour_but_the_named_ones_is_used() -> None:
    css = (Path(examples.__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")
    rest = re.sub(r":root \{.*?\}", "", css, flags=re.DOTALL)
    # Pictures and figures stand on their own ground in both themes.
    assert set(re.findall(r"#[0-9a-fA-F]{3,6}\b", rest.replace("#tip", ""))) <= {"#fff", "#000"}


def test_only_the_pages_own_script_may_run(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "script-src 'sha256-" in policy[1]


def test_pictures_are_errors_first_and_bounded(made: ReportContent, monkeypatch: pytest.MonkeyPatch) -> None:
    (panel,) = panels(made)
    pictures = examples.shows(panel, made.pictures)
    assert pictures is not None
    one = examples.answers(panel, panel.systems[0], pictures)
    content = json.loads(examples.gallery(panel, pictures))
    first = content["systems"][0]
    wrong = int(((one.true == 0) & (one.said == 1)).sum())
    assert len(first["cells"]["0,1"]) == min(wrong, examples.PER_CELL)
    assert np.sum(first["counts"]) == 60
    assert len(content["thumbs"]) == len(content["ids"]) <= len(pictures.id)
    monkeypatch.setattr(examples, "MOST", 5)
    small = json.loads(examples.gallery(panel, pictures))
    assert len(small["thumbs"]) == 5
    assert list(small["systems"][0]["cells"])[:2] == [key for key in first["cells"] if key in {"0,1", "1,0"}]


def test_the_hardest_image_has_the_least_probability_of_its_class(made: ReportContent) -> None:
    (panel,) = panels(made)
    pictures = made.pictures["derm"]
    means = []
    for system in examples.best_set(panel):
        rows = panel.predictions[panel.predictions["system"] == system].set_index("id")
        means.append(
            {name: rows.loc[name, f"y_score_{rows.loc[name, 'y_true']}"] for name in pictures.id.tolist()}
        )
    mean = {name: np.mean([one[name] for one in means]) for name in means[0]}
    least = min(mean, key=lambda name: mean[name])
    shown = examples.hardest(panel, pictures)
    assert shown[0].lines[1] == f"{100 * mean[least]:.0f} %"
    np.testing.assert_array_equal(shown[0].grey, pictures.grey[pictures.id.tolist().index(least)])
    sure = examples.confident_errors(panel, pictures)
    chances = [float(one.lines[-1].removesuffix(" %")) for one in sure]
    assert chances == sorted(chances, reverse=True)
    assert all(one.lines[1].startswith("called ") for one in sure)


def test_without_pictures_there_is_no_gallery(tmp_path: Path) -> None:
    plain = content_of({"d": (CLASSES, ("test",))}, {"one": 1.0, "two": 0.9}, 20, maps=())
    text = write_report(plain, tmp_path).read_text(encoding="utf-8")
    assert 'class="gallery"' not in text
    assert not list((tmp_path / "figures").glob("*hardest*"))
    assert "application/json" not in text


def test_names_of_images_cannot_end_the_script() -> None:
    hostile = content_of({"d": (CLASSES, ("test",))}, {"one": 1.0, "two": 0.9}, 20, maps=())
    rows = hostile.predictions.assign(id="</script><b>" + hostile.predictions["id"])
    (panel,) = panels(with_pictures(dataclasses.replace(hostile, predictions=rows)))
    pictures = Thumbnails(texts(sorted(set(rows["id"]))), np.ones((20, 32, 32), dtype=np.uint8))
    words = str(examples.gallery(panel, pictures))
    assert "<" not in words
    assert json.loads(words)["ids"][0].startswith("</script>")


def test_large_figures_go_onto_the_page_as_small_pngs(page: Path) -> None:
    figures = page.parent / "figures"
    for svg in figures.glob("*.svg"):
        files = {"svg": svg.read_bytes(), "png": svg.with_suffix(".png").read_bytes()}
        uri = on_page(files)
        if len(files["svg"]) > MOST_SVG:
            assert len(uri) < 4 / 3 * len(files["svg"]) + 40
        else:
            assert uri.startswith("data:image/svg+xml")
