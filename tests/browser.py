"""A page in a real browser without a window: no script errors, readable at 1280 px."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--v=0",
)
_WIDTH = 1280


def picture_of(page: Path, folder: Path, height: int = 2600) -> NDArray[np.float32]:
    """Return the page as [height, 1280, 3], and fail when it is empty or runs over its margins."""
    from matplotlib.image import imread

    assert CHROMIUM is not None
    shot = folder / "page.png"
    done = subprocess.run(
        [
            CHROMIUM,
            *_FLAGS,
            f"--user-data-dir={folder / 'profile'}",
            f"--window-size={_WIDTH},{height}",
            f"--screenshot={shot}",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr
    image: NDArray[np.float32] = imread(shot)[..., :3]
    assert image.shape[:2] == (height, _WIDTH)
    ink = np.abs(image - image[0, 0]).max(axis=2) > 0.2
    assert not ink[:, :40].any()  # margins stay free: nothing overflows to the sides
    assert not ink[:, -40:].any()
    assert ink.mean() > 0.02  # tables and pictures are there
    return image
