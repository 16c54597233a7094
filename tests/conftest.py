"""Fixtures shared by all tests: CPU, no network, no weights."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def _own_cache_folder(tmp_path_factory):
    """Features and pixels that fits keep belong to the tests, not to the user who runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MULTILABELKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared_data():
    """The folder with `data` and `weights`: that of MULTILABELKIT_DATA, or ../shared beside the repository."""
    folder = Path(os.environ.get("MULTILABELKIT_DATA", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"there is no folder '{folder}' (MULTILABELKIT_DATA) with photographs and weights")
    return folder


@pytest.fixture(scope="session")
def shapes():
    """48 images of 32 px with 3 labels; read it, do not change it."""
    from multilabelkit.datasets import make_shapes

    return make_shapes(48)


@pytest.fixture
def tiny_network():
    """A backbone of two convolutions, from 3 colours to 16 maps, with the same weights in every test."""
    import torch
    from torch import nn

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU())


_skipped_for_a_package = []


def _note_missing_package(report):
    if report.skipped and "could not import" in str(report.longrepr):
        _skipped_for_a_package.append(report.nodeid)


def pytest_runtest_logreport(report):
    _note_missing_package(report)


def pytest_collectreport(report):
    _note_missing_package(report)


def pytest_sessionfinish(session):
    """In CI the extra 'test' brings every package, so that a test skipped for a missing one would go unnoticed."""
    if os.environ.get("CI") and _skipped_for_a_package:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    if os.environ.get("CI") and _skipped_for_a_package:
        terminalreporter.section("skipped for a missing package, which CI does not allow", red=True)
        terminalreporter.write_line("\n".join(_skipped_for_a_package))
