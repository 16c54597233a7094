"""The rooms and who may import whom: a module imports only from earlier rows, or from its own package."""

import ast
from pathlib import Path

import pytest

import multilabelkit

SOURCE = Path(multilabelkit.__file__).parent

# One row per line, from the bottom up. Files of one package may import each other; rooms in one row may not.
ROWS = """
errors
checks atomic
data
datasets
known_labels
decision_metrics ranking_metrics reliability multilabel_confusion
bootstrap
metrics
stratification
label_sets
class_names
threshold_prior threshold_sweeps
threshold_objectives
fixed_thresholds
threshold_tuning
calibration rules
threshold_report
thresholds
out_of_fold
model_selection
report_text
report_comparison report_measures
report
exclusive_report
nn storage
inference
features
training
reading
targets logistic_search
logistic_solver
embedder linear tuned
parameters
preparation
prediction
decision
configuration
network_training
fitting
saving
estimator
classifier exclusive
export inspection cluster
server
cli
__main__
"""
ROW_OF = {room: place for place, row in enumerate(ROWS.split("\n")) for room in row.split()}

# Third-party packages, and the only modules (with all below them) that may import them.
FENCES = {
    "accelerate": ("training", "inference"),
    "timm": ("nn", "data.transforms", "training.optim"),
    "PIL": ("data", "datasets"),
    "matplotlib": ("inspection",),
    "fastapi": ("server",),
    "onnx": ("export",),
}

# Modules that work on plain arrays and must not pull torch in.
WITHOUT_TORCH = (
    "errors",
    "checks",
    "atomic",
    "data.labels",
    "data.images",
    "data.bad_images",
    "data.jpeg",
    "data.pixel_cache",
    "data.feature_store",
    "data.exclusive_labels",
    "exclusive_report",
    "data.doctor",
    "data.findings",
    "data.duplicates",
    "datasets",
    "known_labels",
    "decision_metrics",
    "ranking_metrics",
    "reliability",
    "multilabel_confusion",
    "bootstrap",
    "class_names",
    "label_sets",
    "fixed_thresholds",
    "threshold_tuning",
    "threshold_report",
    "report_text",
    "report_comparison",
    "report_measures",
    "data.file_digests",
    "data.label_kinds",
    "data.label_weights",
    "out_of_fold",
    "targets",
    "logistic_search",
    "logistic_solver",
    "linear",
    "tuned",
    "metrics",
    "threshold_prior",
    "threshold_sweeps",
    "threshold_objectives",
    "thresholds",
    "calibration",
    "rules",
    "stratification",
    "model_selection",
    "report",
)


def list_imports(source: str) -> list[tuple[int, str]]:
    """Return (line, dotted name) of every import, those inside functions too, those for type checkers not."""
    found = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            found.extend((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            # `from multilabelkit import metrics` imports a room, `from multilabelkit.metrics import f1_score` a name.
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "multilabelkit" else [module]
            found.extend((node.lineno, name) for name in names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return found


def is_within(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def find_violations(module: str, source: str) -> list[str]:
    """Return what a module (its dotted name below the package) imports against the rules."""
    return [
        f"{module}:{line} {problem}" for line, name in list_imports(source) if (problem := find_problem(module, name))
    ]


def find_problem(module: str, name: str) -> str | None:
    """Say what is wrong with one import, if anything."""
    if name.startswith("."):
        return f"imports relatively: {name}"
    package, _, rest = name.partition(".")
    if package != "multilabelkit":
        if package in FENCES and not is_within(module, FENCES[package]):
            return f"imports {package}, which only {' and '.join(FENCES[package])} may"
        if package in ("torch", "torchvision") and is_within(module, WITHOUT_TORCH):
            return f"imports {package}, but works on plain arrays"
        return None
    room, target = module.split(".")[0], rest.split(".")[0]
    if target in ("", "__version__"):
        return None if room == "cli" else "imports multilabelkit itself"
    if room == target:
        return None
    for name_of_room in (room, target):
        if name_of_room not in ROW_OF:
            return f"needs the room {name_of_room}, which stands in no row"
    return None if ROW_OF[target] < ROW_OF[room] else f"imports {target}, which does not stand in an earlier row"


def list_modules() -> list[tuple[str, Path]]:
    modules = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:  # the package's own __init__ imports nothing before it is asked to; test_lazy_import.py holds that
            modules.append((name, path))
    return modules


@pytest.mark.parametrize(("module", "path"), list_modules(), ids=[name for name, _ in list_modules()])
def test_module_imports_only_from_earlier_rows_and_inside_the_fences(module, path):
    assert find_violations(module, path.read_text(encoding="utf-8")) == []


def test_every_room_stands_in_a_row():
    assert {name.split(".")[0] for name, _ in list_modules()} <= set(ROW_OF)


@pytest.mark.parametrize(
    ("module", "source", "problem"),
    [
        (
            "metrics",
            "from multilabelkit.report import x",
            "metrics:1 imports report, which does not stand in",
        ),
        ("metrics", "def f():\n    from multilabelkit import report", "metrics:2 imports report, which does not stand"),
        ("storage", "import multilabelkit.nn.heads", "storage:1 imports nn, which does not stand in an earlier row"),
        ("checks", "try:\n    import multilabelkit.atomic\nexcept OSError:\n    pass", "checks:2 imports atomic"),
        ("nn.heads", "from multilabelkit import __version__", "nn.heads:1 imports multilabelkit itself"),
        ("nn.heads", "from . import backbones", "nn.heads:1 imports relatively: ."),
        (
            "nn.heads",
            "from multilabelkit.helpers import f",
            "nn.heads:1 needs the room helpers, which stands in",
        ),
        ("helpers", "from multilabelkit.nn import f", "helpers:1 needs the room helpers, which stands in no row"),
        ("nn.heads", "from accelerate import Accelerator", "imports accelerate, which only training and inference may"),
        (
            "training.loop",
            "import timm.optim",
            "imports timm, which only nn and data.transforms and training",
        ),
        ("inspection", "import PIL.Image as image", "inspection:1 imports PIL, which only data and datasets may"),
        ("report", "def f():\n    import matplotlib.pyplot", "report:2 imports matplotlib, which only inspection may"),
        ("cli", "import fastapi", "cli:1 imports fastapi, which only server may"),
        ("server.app", "import onnx", "server.app:1 imports onnx, which only export may"),
        ("data.labels", "from torch import nn", "data.labels:1 imports torch, but works on plain arrays"),
        ("datasets.readers", "import torch", "datasets.readers:1 imports torch, but works on plain arrays"),
        (
            "metrics",
            "import typing\nif typing.TYPE_CHECKING:\n    import torch\nelse:\n    import torch",
            "metrics:5 imports torch, but works on plain arrays",
        ),
    ],
)
def test_the_checker_finds_a_violation(module, source, problem):
    found = find_violations(module, source)
    assert len(found) == 1
    assert problem in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("report", "from multilabelkit.metrics import f1_score"),
        ("report", "from multilabelkit import metrics, thresholds"),
        ("nn.network", "from multilabelkit.nn.heads import LinearHead"),
        ("cli", "from multilabelkit import __version__"),
        ("metrics", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from multilabelkit.cli import main"),
        ("data.transforms", "import timm, torch"),
        ("data.images", "from PIL import Image"),
    ],
)
def test_the_checker_lets_lawful_imports_pass(module, source):
    assert find_violations(module, source) == []
