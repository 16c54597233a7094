"""What the README and the examples show runs as it stands."""

import re
import runpy
from pathlib import Path

import pytest

from multilabelkit.datasets import make_shapes
from multilabelkit.metrics import f1_score

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.filterwarnings("ignore::multilabelkit.errors.MultiLabelKitWarning")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, capsys, monkeypatch):
    monkeypatch.delenv("MULTILABELKIT_DATA", raising=False)  # on photographs they take minutes
    runpy.run_path(str(path), run_name="__main__")
    assert "False" not in capsys.readouterr().out  # the examples print whether a loaded model agrees


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::multilabelkit.errors.MultiLabelKitWarning")
def test_fine_tuning_runs_on_photographs(shared_data, capsys, monkeypatch):
    monkeypatch.setenv("MULTILABELKIT_DATA", str(shared_data))
    runpy.run_path(str(ROOT / "examples" / "fine_tune.py"), run_name="__main__")
    assert "False" not in capsys.readouterr().out


def test_quickstart_learns_the_shapes():
    namespace = runpy.run_path(str(ROOT / "examples" / "quickstart.py"))
    shapes = make_shapes(200, random_state=1)
    assert f1_score(shapes.target, namespace["clf"].predict(shapes.images)) > 0.95


@pytest.mark.filterwarnings("ignore::multilabelkit.errors.MultiLabelKitWarning")
def test_readme_code_runs(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    shapes = make_shapes(60, random_state=0)
    from multilabelkit import as_labels

    monkeypatch.chdir(tmp_path)
    namespace = {"paths": list(shapes.images), "labels": as_labels(shapes.target)}
    for block in blocks:
        # The README's backbone needs a download and its epochs need minutes: neither is what this test is about.
        small = block.replace('"resnet50", max_epochs=12', '"small_cnn", image_size=32, max_epochs=1, verbose=0')
        exec(compile(small, "README.md", "exec"), namespace)
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_readme_holds_the_two_commands_that_ci_runs():
    commands = re.findall(r"^pip install .+ && .+$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert commands == ["pip install . && multilabelkit demo", 'pip install ".[test]" && pytest']
