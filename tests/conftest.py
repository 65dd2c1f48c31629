"""What every test may ask for: the real command, the shared real images, small images made on the spot."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

GUARD = Path(__file__).parent / "guard"

Command = Callable[..., subprocess.CompletedProcess[str]]


def _guard_the_network() -> Path:
    """Block sockets to other machines in this process and in all that it starts; the record of attempts."""
    spec = spec_from_file_location("featprobe_tests_guard", GUARD / "sitecustomize.py")
    assert spec is not None
    assert spec.loader is not None
    guard = module_from_spec(spec)
    handle, record = tempfile.mkstemp(prefix="featprobe-network-", suffix=".txt")
    os.close(handle)
    os.environ["FEATPROBE_TESTS_NETWORK_RECORD"] = record
    others = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = f"{GUARD}{os.pathsep}{others}" if others else str(GUARD)
    spec.loader.exec_module(guard)
    return Path(record)


# Before the first test is collected: importing a library may already reach out.
NETWORK_RECORD = _guard_the_network()


@pytest.fixture
def network_record() -> Path:
    """The attempts to reach another machine, one a line; a test that leaves any fails."""
    return NETWORK_RECORD


@pytest.fixture(autouse=True)
def _no_network() -> Iterator[None]:
    """Fail the test that touched the network, also where a library swallowed the refusal."""
    yield
    attempts = NETWORK_RECORD.read_text(encoding="utf-8")
    if attempts:
        NETWORK_RECORD.write_text("", encoding="utf-8")
        pytest.fail(f"the network was touched: {attempts}")


def pytest_sessionfinish() -> None:
    """Remove the record; attempts outside any test are shown by the guard's error itself."""
    NETWORK_RECORD.unlink(missing_ok=True)


@pytest.fixture
def featprobe(tmp_path: Path) -> Command:
    """Run the real command in `tmp_path`, offline, and return what it printed and its exit status."""

    def run(
        *arguments: Any, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "FEATPROBE_OFFLINE": "1", "OMP_NUM_THREADS": "1", **(env or {})}
        command = [sys.executable, "-m", "featprobe.cli", *map(str, arguments)]
        options = {"cwd": tmp_path, "timeout": 300, **options}
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, **options
        )

    return run


@pytest.fixture
def quick_featprobe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """As `featprobe`, in this process: torch is loaded once, for tests that type many commands."""
    from featprobe.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEATPROBE_OFFLINE", "1")

    def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
        words = [str(argument) for argument in arguments]
        capsys.readouterr()
        status = main(words)
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(words, status, printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real labelled medical images; the test skips, and says so, where it is missing."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the shared folder of real medical images is missing beside the checkout")
    return SHARED


def draw_image(rng: np.random.Generator, label: int, size: tuple[int, int] = (40, 32)) -> Image.Image:
    """A noisy picture whose class shows in its brightness and stripes: easy, but not trivial, to tell apart."""
    noise = rng.normal(110 + 25 * label, 40, size=(*size, 3))
    noise[:: 2 + 2 * label] += 30
    return Image.fromarray(noise.clip(0, 255).astype(np.uint8))


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """`images/{benign,malignant}/patientNN_K.png`: 2 classes x 12 patients x 2 images."""
    rng = np.random.default_rng(0)
    root = tmp_path / "images"
    for label, name in enumerate(("benign", "malignant")):
        (root / name).mkdir(parents=True)
        for patient in range(12):
            for view in range(2):
                draw_image(rng, label).save(root / name / f"patient{label}{patient:02d}_{view}.png")
    return root


@pytest.fixture
def manifest(image_folder: Path) -> Path:
    """`labels.csv` beside the images, with path, label and patient_id."""
    files = sorted(image_folder.glob("*/*.png"))
    lines = (
        f"images/{file.parent.name}/{file.name},{file.parent.name},{file.name.split('_')[0]}"
        for file in files
    )
    rows = ["path,label,patient_id", *lines]
    path = image_folder.parent / "labels.csv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path
