"""`featprobe inspect` on images with planted leaks, copies and damage: what it prints, writes and returns."""

from __future__ import annotations

import csv
import html.parser
import shutil
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps


def picture(seed, size=(72, 64)):
    rng = np.random.default_rng(seed)
    field = np.asarray(
        Image.fromarray(rng.normal(size=(12, 12)).astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    )
    return Image.fromarray((128 + 45 * field).clip(0, 255).astype(np.uint8)).convert("RGB")


@pytest.fixture
def planted(tmp_path):
    """labels.csv of 24 strangers, six planted leaks (one of each kind) and a damaged file; and its writer."""
    rows = []

    def add(name, image, label, patient, split, case=""):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if image is not None:
            image.save(tmp_path / name)
        rows.append(
            {
                "path": name,
                "label": label,
                "patient_id": patient,
                "split": split,
                "case": case or name,
                "site": "A",
            }
        )

    for n in range(24):
        add(
            f"images/{n:02d}.png",
            picture(n),
            "sick" if n % 2 else "well",
            f"p{n}",
            "test" if n > 15 else "train",
        )
    add("images/same_patient.png", picture(100), "well", "p20", "train")
    add("images/one_case.png", picture(101), "sick", "p21", "train", "images/21.png")
    shutil.copy(tmp_path / "images/22.png", tmp_path / "images/same_file.png")
    add("images/same_file.png", None, "well", "p102", "train")
    picture(23).save(tmp_path / "images/same_pixels.bmp")
    add("images/same_pixels.bmp", None, "sick", "p103", "train")
    add("images/mirrored.jpg", ImageOps.mirror(picture(18)), "well", "p104", "train")
    add("images/<b>&.png", picture(17).resize((36, 32)), "well", "p105", "train")  # 17 is sick
    add("images/damaged.png", None, "well", "p106", "train")
    (tmp_path / "images/damaged.png").write_bytes((tmp_path / "images/00.png").read_bytes()[:200])
    with (tmp_path / "labels.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path / "labels.csv"


class Page(html.parser.HTMLParser):
    """Images and links of a page."""

    def __init__(self):
        super().__init__()
        self.sources, self.links, self.tags = [], [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        found = dict(attrs)
        if tag == "img":
            self.sources.append(found["src"])
        self.links += [found[name] for name in ("href", "src") if name in found]


def test_every_planted_leak_is_printed_and_written(featprobe, planted):
    done = featprobe("inspect", "--data", planted, "--out", "checked")
    assert done.returncode == 1, done.stderr
    assert "leaks across splits: 2 group, 1 case, 1 bytes, 1 pixels, 2 near, 1 label-conflict" in done.stdout
    assert "1 images can't be read" in done.stdout
    assert "images/damaged.png" in done.stdout
    assert "72 x 64" in done.stdout
    assert "formats: PNG (28), " in done.stdout
    assert "sites: A (31)" in done.stdout
    assert "4 images are near copies" in done.stdout
    with (planted.parent / "checked" / "leaks.csv").open(encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert list(rows[0]) == ["dataset", "kind", "id_a", "id_b", "split_a", "split_b", "distance"]
    told = {(row["kind"], row["id_a"].rpartition("/")[2], row["id_b"].rpartition("/")[2]) for row in rows}
    assert told == {
        ("group", "same_patient.png", "20.png"),
        ("group", "one_case.png", "21.png"),
        ("case", "one_case.png", "21.png"),
        ("bytes", "same_file.png", "22.png"),
        ("pixels", "same_pixels.bmp", "23.png"),
        ("near", "mirrored.jpg", "18.png"),
        ("near", "<b>&.png", "17.png"),
        ("label-conflict", "<b>&.png", "17.png"),
    }
    assert {(row["split_a"], row["split_b"]) for row in rows} == {("train", "test")}
    assert all((float(row["distance"]) > 0) == (row["kind"] in {"near", "label-conflict"}) for row in rows)


def test_the_page_shows_every_pair_offline_and_escapes_names(featprobe, planted):
    featprobe("inspect", "--data", planted, "--out", "checked")
    text = (planted.parent / "checked" / "leaks.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert len(page.sources) == 16
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    assert "b" not in page.tags
    assert "&lt;b&gt;&amp;.png" in text


def test_clean_data_return_nothing(featprobe, image_folder):
    done = featprobe("inspect", "--data", image_folder, "--out", "checked")
    assert done.returncode == 0, done.stderr
    assert "leaks across splits: none" in done.stdout
    assert "near copies" not in done.stdout
    assert "Nothing was found" in (image_folder.parent / "checked" / "leaks.html").read_text(encoding="utf-8")


def test_unlabelled_data_are_inspected_all_the_same(featprobe, planted):
    done = featprobe("inspect", "--data", planted, "--label", "none")
    assert done.returncode == 1
    assert "2 near" in done.stdout
    assert "label-conflict" not in done.stdout
    assert "hortcut" not in done.stdout


def test_numbers_and_several_labels_have_their_own_tables(featprobe, image_folder):
    files = sorted(image_folder.glob("*/*.png"))
    rng = np.random.default_rng(0)
    lines = ["path,age,cough,fever,patient"]
    lines += [
        f"{file.relative_to(image_folder.parent)},{rng.normal(50, 9):.1f},{n % 2},{'' if n % 5 == 0 else n % 3 % 2},{file.stem[:10]}"
        for n, file in enumerate(files)
    ]
    table = image_folder.parent / "targets.csv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    number = featprobe("inspect", "--data", table, "--label-column", "age", "--target", "continuous")
    assert number.returncode == 0, number.stderr
    assert "50 %" in number.stdout
    several = featprobe("inspect", "--data", table, "--label-column", "cough", "--label-column", "fever")
    assert several.returncode == 0, several.stderr
    assert "share in (none)" in several.stdout
    assert any(line.split()[:2] == ["cough", "24"] for line in several.stdout.splitlines())


def test_a_planted_shortcut_is_named(featprobe, tmp_path):
    for n in range(60):
        size = (72, 64) if n % 2 else (80, 64)
        folder = tmp_path / "images" / ("sick" if n % 2 else "well")
        folder.mkdir(parents=True, exist_ok=True)
        picture(n, size).save(folder / f"{n:02d}.png")
    done = featprobe("inspect", "--data", tmp_path / "images")
    assert done.returncode == 0, done.stderr
    assert "SHORTCUT: class can be predicted from the metadata alone: balanced accuracy 1.00" in done.stdout


def test_torch_is_not_needed():
    code = "import sys, featprobe.stages.inspect; sys.exit('torch' in sys.modules)"
    import subprocess

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
