"""Operations without a deterministic implementation are refused in one line."""

import pytest
import torch

from util.errors import UserError
from util.reproducibility.determinism import explained_refusals, make_deterministic


@pytest.fixture
def deterministic(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    make_deterministic()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("deterministic")
def test_pytorch_is_asked_for_it():
    assert torch.are_deterministic_algorithms_enabled()


def test_a_refusal_names_the_operation():
    complaint = (
        "grid_sampler_2d_backward_cuda does not have a deterministic implementation, but you set "
        "'torch.use_deterministic_algorithms(True)'"
    )
    expected = pytest.raises(
        UserError, match=r"--deterministic: grid_sampler_2d_backward_cuda has no"
    )
    with expected, explained_refusals():
        raise RuntimeError(complaint)


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shapes"), explained_refusals():
        raise RuntimeError("shapes")
