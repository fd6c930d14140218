from __future__ import annotations

import pytest
import torch

from pipeline.captioners.inputs import Memory
from pipeline.captioners.sage_cc import SageCC
from tests.captioners.small import SCENE, make_model


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def model() -> SageCC:
    return make_model()


@pytest.fixture
def scenes() -> torch.Tensor:
    return torch.randn((3, 2, *SCENE), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def memory(model: SageCC, scenes: torch.Tensor) -> Memory:
    with torch.no_grad():
        return model.encode({"scenes": scenes})
