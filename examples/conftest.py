"""What the examples share: nothing of the plugin, which pytest loads by itself."""

from __future__ import annotations

import os

import pytest

# Read when TensorFlow is imported. Its log would hide the report.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@pytest.fixture(scope="session")
def digits():
    """Handwritten digits of scikit-learn, shuffled: images (1797, 16, 16, 1), labels (1797,)."""
    datasets = pytest.importorskip("sklearn.datasets")
    import numpy as np

    found = datasets.load_digits()
    # 8x8 pixels, each made 2x2, so that LeNet's two poolings leave something.
    images = np.kron(found.images / 16.0, np.ones((1, 2, 2)))
    order = np.random.default_rng(0).permutation(len(images))
    return images[order, ..., None].astype("float32"), found.target[order]


@pytest.fixture(scope="session")
def photographs():
    """The two photographs of scikit-learn, every eighth pixel: (2, 48, 72, 3) in [0, 1]."""
    datasets = pytest.importorskip("sklearn.datasets")
    pytest.importorskip("PIL", reason="scikit-learn reads its photographs with pillow")
    import numpy as np

    images = np.stack(datasets.load_sample_images().images)[:, :384:8, :576:8]
    return (images / 255.0).astype("float32")
