"""Model folders under attack and under the axe: nothing but an old model, a new model or a named error comes out.

Run as a script, this file is the process that is attacked, so that its audit hook and its forks touch no other test.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills forked processes and asks for their memory")

N_KILLS = 25
N_MUTANTS = 400


def run_script(*arguments):
    """Run this file as a script and return what it prints as JSON."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [sys.executable, __file__, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
        env=environment,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


def test_killing_a_save_at_any_moment_leaves_the_old_or_the_new_model(tmp_path):
    """SIGKILL cannot be caught: whatever the process was about to do stays undone."""
    result = run_script("kill", tmp_path)
    print(result)  # noqa: T201
    assert result["torn"] == []
    assert result["n_kills"] == 2 * N_KILLS
    assert result["n_caught_in_the_act"] > 0, "no kill fell into a save, so nothing was tested"


def test_a_mutated_folder_gives_a_model_or_a_named_error_and_runs_no_code(tmp_path):
    """Checksums are corrected, so that mutants reach the parsers, the constructors and the loading of weights."""
    result = run_script("mutate", tmp_path)
    print(result)  # noqa: T201
    assert result["wrong"] == []
    assert result["audited"] == []
    assert result["n_mutants"] == N_MUTANTS
    assert result["n_refused"] > N_MUTANTS // 2
    assert result["n_loaded"] > 0
    assert result["slowest_s"] < 2
    assert result["grown_mb"] < 300


# What follows runs in the attacked process.


def kill_saves(folder):
    import torch

    from multilabelkit import atomic
    from multilabelkit.storage import read_model, write_model

    draw = random.Random(0)
    torn, n_kills, n_caught = [], 0, 0
    for way in ("one step", "two renames"):
        if way == "two renames":
            atomic._exchange = lambda one, other: False
        model = folder / way.replace(" ", "-")
        write_model(model, {"number": 0}, {"w": torch.zeros(20_000)})
        last = 0
        for _ in range(N_KILLS):
            child = os.fork()
            if child == 0:
                try:
                    for number in range(last + 1, last + 1000):
                        write_model(model, {"number": number}, {"w": torch.full((20_000,), float(number))})
                finally:
                    os._exit(1)
            time.sleep(draw.uniform(0, 0.04))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            n_kills += 1
            n_caught += bool(list(folder.glob(".*.tmp-*")))
            for left in folder.glob(".*.tmp-*"):  # what a killed save leaves beside the model
                subprocess.run(["rm", "-r", left], check=True)
            try:
                config, weights = read_model(model)
            except Exception as error:
                torn.append(f"{way}: {error!r}")
                break
            if config["number"] < last or not (weights["w"] == config["number"]).all():
                torn.append(f"{way}: {config['number']} after {last}")
            last = config["number"]
    return {"torn": torn, "n_kills": n_kills, "n_caught_in_the_act": n_caught}


ODD_VALUES = [
    *(None, True, False, 0, -1, 1, 2, 3, 0.5, 1e308, -1e308, 10**9, 2**63, 10**400),
    *("", "x", "a" * 10_000, "\x00", "\ud800", "__class__", "lambda: 1", "cpu", "f1", "grey", "linear"),
    *("hf-hub:x/y", "hf_hub:x/y", "../../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "http://example.org/x"),
    *("resnet18", "resnet18.nonsense", "test_vit", "test_convnext.r160_in1k", "plain_cnn", "small_cnn"),
    *([], {}, [[]], [None], [0], [1, 2], ["a"], {"a": 1}, {"": []}, [[[[[1]]]]], list(range(1000))),
]
ODD_BACKBONE_PARAMS = [
    {"checkpoint_path": "/etc/passwd"},
    {"pretrained_cfg": {"url": "http://example.org/x", "file": "/etc/passwd"}},
    {"pretrained_cfg_overlay": {"file": "/etc/passwd"}},
    {"cache_dir": "/tmp"},
    {"pretrained": True},
    {"model_name": "resnet18"},
    {"depth": 10**9},
    {"depth": 9_999},
    {"depth": -1},
    {"depth": "2"},
    {"embed_dim": 10**6},
    {"embed_dim": 9_996, "depth": 100},
    {"mlp_ratio": 1e300},
    {"num_heads": 0},
    {"patch_size": 0},
    {"img_size": 9_999},
    {"img_size": [10**5, 10**5]},
    {"act_layer": "__import__('os').system('true')"},
    {"norm_layer": "os.system"},
    {"block_fn": "eval"},
    {"global_pool": "nonsense"},
    {"features_only": True},
    {"scriptable": True},
    {"exportable": True, "no_jit": True},
    {"kwargs_filter": ["x"]},
    {"weight_init": "jax", "fix_init": True},
    {"drop_rate": 2.0},
]


def list_places(node, path=()):
    """Return the path of every value in a JSON tree."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(place for key, child in children for place in list_places(child, (*path, key)))]


def mutate_config(config, draw):
    config = json.loads(json.dumps(config))
    if draw.random() < 0.2:
        config["parameters"]["backbone_params"] = draw.choice(ODD_BACKBONE_PARAMS)
        return config
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        *above, last = draw.choice([place for place in list_places(config) if place])
        node = config
        for key in above:
            node = node[key]
        action = draw.random()
        if action < 0.7:
            node[last] = draw.choice(ODD_VALUES)
        elif action < 0.85:
            del node[last]
        elif isinstance(node, list):
            node.append(node[last])
        else:
            node[f"{last}2"] = node[last]
    return config


def mutate_weights(weights, draw):
    import torch

    weights = dict(weights)
    key = draw.choice(sorted(weights))
    action = draw.randrange(7)
    if action == 0:
        del weights[key]
    elif action == 1:
        weights[f"{key}.more"] = weights[key].clone()
    elif action == 2:
        weights[key] = weights[key][None].clone()
    elif action == 3:
        weights[key] = weights[key].reshape(-1)[:-1].clone()
    elif action == 4:
        weights[key] = weights[key].to(draw.choice([torch.float64, torch.bfloat16, torch.int64, torch.complex64]))
    elif action == 5:
        weights[key] = torch.full_like(weights[key], draw.choice([float("nan"), float("inf")]), dtype=torch.float32)
    else:
        weights = {f"module.{name}": value for name, value in weights.items()}
    return weights


def mutate_bytes(content, draw):
    content = bytearray(content)
    if draw.random() < 0.3:
        return bytes(content[: draw.randrange(len(content))])
    for _ in range(draw.choice([1, 2, 8])):
        content[draw.randrange(min(len(content), draw.choice([8, 200, 10**9])))] = draw.randrange(256)
    return bytes(content)


def write_mutant(folder, base, draw):
    """Write one mutant of a model folder and return what was done to it."""
    from safetensors.torch import load, save

    files = {path.name: path.read_bytes() for path in base.iterdir()}
    name = draw.choice(["config", "config", "config", "weights", "config.json", "model.safetensors", "SHA256SUMS"])
    if name == "config":
        files["config.json"] = json.dumps(mutate_config(json.loads(files["config.json"]), draw)).encode()
    elif name == "weights":
        files["model.safetensors"] = save(mutate_weights(load(files["model.safetensors"]), draw))
    else:
        files[name] = mutate_bytes(files[name], draw)
    if name != "SHA256SUMS" and draw.random() < 0.95:
        data = [files["config.json"], files["model.safetensors"]]
        sums = [hashlib.sha256(part).hexdigest() for part in data]
        files["SHA256SUMS"] = f"{sums[0]}  config.json\n{sums[1]}  model.safetensors\n".encode()
    for path, content in files.items():
        (folder / path).write_bytes(content)
    return name


def watch_audit_events(folder, seen):
    """Note every event that means code or a file of the folder's choosing: hooks stay for the life of a process."""
    watched = (
        "exec",
        "compile",
        "import",
        "subprocess.",
        "os.",
        "socket.",
        "pickle.",
        "marshal.",
        "ctypes.",
        "urllib.",
    )
    harmless = ("os.listdir", "os.scandir")

    def hook(event, arguments):
        if event == "open":
            path, mode, flags = arguments
            inside = isinstance(path, int) or str(path).startswith(str(folder))
            is_written = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if hook.is_on and (is_written or not inside):
                seen.append(f"open {path!r} {mode!r}")
        elif hook.is_on and event.startswith(watched) and event not in harmless:
            seen.append(f"{event} {str(arguments)[:100]}")

    hook.is_on = False
    sys.addaudithook(hook)
    return hook


def measure_memory():
    """Return the most memory this process ever held, in megabytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def load_mutants(folder):
    import numpy as np

    from multilabelkit import MultiLabelImageClassifier
    from multilabelkit.errors import ModelFileError, MultiLabelKitError

    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    labels = [["sea"], ["sun", "sea"], [], ["sun"]] * 2
    bases = []
    for backbone in ("small_cnn", "test_vit"):
        classifier = MultiLabelImageClassifier(
            backbone,
            pretrained=False,
            image_size=32,
            validation_fraction=None,
            max_epochs=1,
            verbose=0,
            num_workers=0,
            random_state=0,
        )
        bases.append(folder / backbone)
        classifier.fit(images, labels).save(bases[-1])
        # Whatever is imported late must be there before imports are watched.
        MultiLabelImageClassifier.load(bases[-1]).predict_labels(images)

    mutant = folder / "mutant"
    mutant.mkdir()
    draw, audited, wrong = random.Random(0), [], []
    n_refused = n_loaded = 0
    slowest = 0.0
    hook = watch_audit_events(mutant, audited)
    size = measure_memory()
    for number in range(N_MUTANTS):
        kind = write_mutant(mutant, bases[number % 2], draw)
        start = time.process_time()
        hook.is_on = True
        try:
            classifier = MultiLabelImageClassifier.load(mutant, device="cpu")
        except (ModelFileError, MultiLabelKitError) as error:
            hook.is_on = False
            n_refused += 1
            if len(str(error)) > 1000:
                wrong.append(f"{number} ({kind}): a message of {len(str(error))} characters: {str(error)[:300]}")
        except BaseException as error:
            hook.is_on = False
            wrong.append(f"{number} ({kind}): {error!r}")
        else:
            hook.is_on = False
            n_loaded += 1
            slowest = max(slowest, time.process_time() - start)
            if classifier.input_spec_.size <= 64:
                try:
                    classifier.predict_labels(images[:2])
                except MultiLabelKitError:
                    pass
                except BaseException as error:
                    wrong.append(f"{number} ({kind}) in predict: {error!r}")
        slowest = max(slowest, time.process_time() - start)
    return {
        "wrong": wrong,
        "audited": sorted(set(audited)),
        "n_mutants": N_MUTANTS,
        "n_refused": n_refused,
        "n_loaded": n_loaded,
        "slowest_s": slowest,
        "grown_mb": measure_memory() - size,
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    script = {"kill": kill_saves, "mutate": load_mutants}[sys.argv[1]]
    print(json.dumps(script(Path(sys.argv[2]))))  # noqa: T201
