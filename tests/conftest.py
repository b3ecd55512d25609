"""What every test shares: one thread, seeded generators, repeatable hypothesis runs."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("ci")


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seed every generator before each test, so that a test passes or fails alone as in a crowd."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    return 0
