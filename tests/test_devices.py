"""A machine with a GPU runs the same tests: they mean the CPU, and say so in one place (`conftest.py`)."""

import os
import re
from pathlib import Path

import pytest
import torch

from scopewatch.config import Config, server_environment
from scopewatch.reader.loading import _device

TESTS = Path(__file__).parent
_WITHOUT_TORCH = {"test_embedded.py", "test_supply_chain.py", "test_verdict_log.py", "test_words.py"}
"""Tests that start programs in an environment of their own, none of which has anything to do with torch."""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that is there, and that torch does not see where no device is visible, as it is with a real one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: os.environ.get("CUDA_VISIBLE_DEVICES") != "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(torch.cuda.is_available()))


@pytest.mark.usefixtures("gpu")
def test_whatever_chooses_its_device_takes_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though there is a GPU, which would be taken if the tests did not hide it."""
    assert "auto" == Config().device
    assert torch.device("cpu") == _device("auto")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert torch.device("cuda") == _device("auto")


def test_processes_that_tests_start_do_not_see_a_gpu_either() -> None:
    """Servers inherit what hides it; every other environment that a test makes is made from the test's own."""
    assert "" == server_environment({})["CUDA_VISIBLE_DEVICES"]
    of_their_own = {
        file.name for file in TESTS.glob("*.py") if re.search(r"\benv=\{", file.read_text(encoding="utf-8"))
    }

    assert of_their_own <= _WITHOUT_TORCH
