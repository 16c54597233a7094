import copy
import math
import re
import sys

import numpy as np
import pytest
import timm.optim
import torch
from torch import nn

from multilabelkit.errors import InputError
from multilabelkit.nn.freezing import freeze
from multilabelkit.nn.heads import LinearHead
from multilabelkit.nn.network import Network
from multilabelkit.training.optim import (
    check_optimizer,
    check_schedule,
    create_optimizer,
    create_schedule,
)


def whole(message):
    return f"^{re.escape(message)}$"


def create_network():
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Network(backbone, LinearHead(4, 2, dropout=0.0))


def create_deep_network():
    """Five linear layers: the first two (5 / 3, rounded) are the stem."""
    return Network(nn.Sequential(*(nn.Linear(4, 4) for _ in range(5))), LinearHead(4, 2, dropout=0.0))


def create_test_optimizer(network, *, learning_rate=0.1, backbone_lr_factor=0.25, weight_decay=0.03, **params):
    return create_optimizer(
        network, learning_rate=learning_rate, backbone_lr_factor=backbone_lr_factor, weight_decay=weight_decay, **params
    )


def find_group(optimizer, parameter):
    groups = [group for group in optimizer.param_groups if any(p is parameter for p in group["params"])]
    assert len(groups) == 1
    return groups[0]


def test_each_parameter_has_the_rate_and_decay_of_its_kind():
    network = create_network()
    optimizer = create_test_optimizer(network)
    expected = {
        "backbone.0.weight": (0.025, 0.03, "body"),
        "backbone.0.bias": (0.025, 0.0, "body undecayed"),
        "backbone.1.weight": (0.025, 0.0, "body undecayed"),
        "backbone.1.bias": (0.025, 0.0, "body undecayed"),
        "head.linear.weight": (0.1, 0.03, "head"),
        "head.linear.bias": (0.1, 0.0, "head undecayed"),
    }
    got = {}
    for name, parameter in network.named_parameters():
        group = find_group(optimizer, parameter)
        got[name] = (group["lr"], group["weight_decay"], group["name"])
    assert got == expected


@pytest.mark.parametrize("factors", [(0.1, 0.5), 0.5], ids=str)
def test_stem_is_the_first_third_of_the_layers(factors):
    network = create_deep_network()
    optimizer = create_test_optimizer(network, backbone_lr_factor=factors)
    stem = 0.01 if factors == (0.1, 0.5) else 0.05
    rates = [find_group(optimizer, layer.weight)["lr"] for layer in network.backbone]
    assert rates == pytest.approx([stem, stem, 0.05, 0.05, 0.05])
    names = [group["name"] for group in optimizer.param_groups]
    assert names == ["stem", "stem undecayed", "body", "body undecayed", "head", "head undecayed"]


def test_network_without_a_head_has_backbone_groups_alone():
    optimizer = create_test_optimizer(Network(create_network().backbone, None))
    assert [group["lr"] for group in optimizer.param_groups] == [0.025, 0.025]


def test_optimizer_takes_the_steps_of_plain_adamw():
    network = Network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), LinearHead(4, 2, dropout=0.0))
    optimizer = create_test_optimizer(network, backbone_lr_factor=1.0, weight_decay=0.0)
    other = copy.deepcopy(network)
    plain = torch.optim.AdamW(other.parameters(), lr=0.1, weight_decay=0.0, fused=False)
    images = torch.randn(5, 3, 8, 8)
    for _ in range(3):
        for model, stepper in ((network, optimizer), (other, plain)):
            stepper.zero_grad()
            model(images).square().sum().backward()
            stepper.step()
    for ours, theirs in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("optimizer", "params", "kind", "expected"),
    [
        ("adamw", None, torch.optim.AdamW, {"betas": (0.9, 0.999), "fused": True}),
        ("adamw", {"betas": (0.8, 0.99)}, torch.optim.AdamW, {"betas": (0.8, 0.99)}),
        ("adam", {"eps": 1e-6}, torch.optim.Adam, {"eps": 1e-6, "fused": True}),
        ("sgd", None, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        ("sgd", {"momentum": 0.5, "nesterov": False}, torch.optim.SGD, {"momentum": 0.5, "nesterov": False}),
        ("sgd", {"momentum": 0}, torch.optim.SGD, {"momentum": 0, "nesterov": False}),
        ("rmsprop", {"alpha": 0.9}, torch.optim.RMSprop, {"alpha": 0.9, "momentum": 0}),
        ("lamb", {"betas": (0.8, 0.99)}, timm.optim.Lamb, {"betas": (0.8, 0.99)}),
        ("lars", None, timm.optim.Lars, {"momentum": 0.9, "nesterov": False}),
        ("nlars", {"momentum": 0.8}, timm.optim.Lars, {"momentum": 0.8, "nesterov": True}),
        (torch.optim.Adagrad, {"lr_decay": 0.1}, torch.optim.Adagrad, {"lr_decay": 0.1}),
    ],
    ids=str,
)
def test_optimizer_is_of_the_kind_asked_for(optimizer, params, kind, expected):
    made = create_test_optimizer(create_network(), optimizer=optimizer, optimizer_params=params)
    assert type(made) is kind
    for group in made.param_groups:
        assert {key: group[key] for key in expected} == expected
    assert [group["lr"] for group in made.param_groups] == [0.025, 0.025, 0.1, 0.1]


class OwnOptimizer(torch.optim.Optimizer):
    """Takes any keyword, but no rate; moves at random."""

    def __init__(self, params, **keywords):
        super().__init__(params, keywords)

    def step(self, closure=None):
        torch.rand(1)


class StepErrorOptimizer(OwnOptimizer):
    """Fails in its first step, without a word."""

    def step(self, closure=None):
        raise ArithmeticError


def test_optimizer_may_be_an_own_class():
    made = create_test_optimizer(create_network(), optimizer=OwnOptimizer, optimizer_params={"color": "blue"})
    assert {group["color"] for group in made.param_groups} == {"blue"}


def test_check_of_an_optimizer_draws_no_random_numbers():
    before = torch.random.get_rng_state()
    check_optimizer(OwnOptimizer)
    assert torch.equal(torch.random.get_rng_state(), before)


# Not those that need apex, bitsandbytes or second derivatives; kron compiles itself for half a minute.
USABLE = [
    name
    for name in timm.optim.list_optimizers(exclude_filters=["kron*", "adahessian"])
    if not isinstance(timm.optim.get_optimizer_info(name).opt_class, str)
]


@pytest.mark.parametrize("name", sorted({"adamw", "adam", "sgd", "rmsprop", *USABLE}))
def test_every_optimizer_leaves_frozen_weights_alone_and_moves_them_once_opened(name):
    network = create_deep_network()
    optimizer = create_test_optimizer(network, learning_rate=0.01, optimizer=name, weight_decay=0.1)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))
    images = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    start = copy.deepcopy(network.state_dict())
    for trainable, changed in ((0.4, {3, 4}), (0.8, {1, 2, 3, 4})):
        freeze(network, trainable)
        for _ in range(2):
            optimizer.zero_grad()
            network(images).square().sum().backward()
            optimizer.step()
        state = network.state_dict()
        assert {place for place in range(5) if not equals(state, start, f"backbone.{place}.weight")} == changed
        assert {place for place in range(5) if not equals(state, start, f"backbone.{place}.bias")} <= changed
        assert all(value.isfinite().all() for value in state.values())


def equals(state, start, key):
    return torch.equal(state[key], start[key])


@pytest.mark.parametrize(
    ("optimizer", "params", "message"),
    [
        (
            "adamv",
            None,
            "The optimizer 'adamv' is unknown. Did you mean 'adam' or 'radam' or 'nadam'? Use 'adamw', 'adam', "
            "'sgd', 'rmsprop', a name from timm.optim.list_optimizers(), or a class of torch.optim.",
        ),
        (
            nn.Linear,
            None,
            "The optimizer <class 'torch.nn.modules.linear.Linear'> is unknown. Use 'adamw', 'adam', 'sgd', 'rmsprop', "
            "a name from timm.optim.list_optimizers(), or a class of torch.optim.",
        ),
        (
            "adahessian",
            None,
            "The optimizer 'adahessian' needs second derivatives, which training here does not compute. "
            "Choose another one.",
        ),
        (
            "sgd",
            {"momentun": 0.9},
            "The optimizer 'sgd' takes no keyword 'momentun'. Did you mean 'momentum'? optimizer_params may hold "
            "momentum, dampening, nesterov, maximize, foreach, differentiable, fused.",
        ),
        (
            torch.optim.Rprop,
            {2: 3},
            "The optimizer 'Rprop' takes no keyword 2. optimizer_params may hold etas, step_sizes, capturable, "
            "foreach, maximize, differentiable.",
        ),
        ("adam", {"lr": 1}, "optimizer_params must not hold 'lr': pass it as the 'learning_rate' parameter."),
        (
            "lion",
            {"weight_decay": 1},
            "optimizer_params must not hold 'weight_decay': pass it as the 'weight_decay' parameter.",
        ),
        (
            "sgd",
            {"momentum": -1},
            "The optimizer 'sgd' cannot be used with optimizer_params={'momentum': -1}: Invalid momentum value: -1. "
            "Correct them, or choose another optimizer.",
        ),
        (
            "adamw",
            {"betas": (0.9,)},
            "The optimizer 'adamw' cannot be used with optimizer_params={'betas': (0.9,)}: tuple index out of range. "
            "Correct them, or choose another optimizer.",
        ),
        (
            "sgd",
            {"momentum": "high"},
            "The optimizer 'sgd' cannot be used with optimizer_params={'momentum': 'high'}: '<' not supported between "
            "instances of 'str' and 'float'. Correct them, or choose another optimizer.",
        ),
        (
            torch.optim.SparseAdam,
            None,
            "The optimizer 'SparseAdam' cannot be used with optimizer_params={}: SparseAdam does not support dense "
            "gradients, please consider Adam instead. Correct them, or choose another optimizer.",
        ),
        (
            StepErrorOptimizer,
            {"color": "red"},
            "The optimizer 'StepErrorOptimizer' cannot be used with optimizer_params={'color': 'red'}: "
            "ArithmeticError. Correct them, or choose another optimizer.",
        ),
        (
            torch.optim.LBFGS,
            None,
            "The optimizer 'LBFGS' needs a closure, which training here does not give it. Choose another one.",
        ),
    ],
    ids=str,
)
def test_check_optimizer_refuses(optimizer, params, message):
    with pytest.raises(InputError, match=whole(message)):
        check_optimizer(optimizer, params)
    with pytest.raises(InputError, match=whole(message)):
        create_test_optimizer(create_network(), optimizer=optimizer, optimizer_params=params)


def test_check_optimizer_refuses_what_needs_another_package(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    message = (
        "The optimizer 'bnbadam' cannot be used here: bitsandbytes optimizers require bitsandbytes to be installed. "
        "Choose another one."
    )
    with pytest.raises(InputError, match=whole(message)):
        check_optimizer("bnbadam")


TOP = np.array([0.025, 0.025, 0.1, 0.1])


def list_factors(schedule, params=None, *, n_steps, n_epochs, scores=None):
    """Return the factor of all rates at each step, (n_steps,), and check that the groups keep their ratios."""
    optimizer = create_test_optimizer(create_network())
    moving = create_schedule(optimizer, schedule=schedule, schedule_params=params, n_steps=n_steps, n_epochs=n_epochs)
    factors = []
    for step in range(n_steps):
        rates = [group["lr"] for group in optimizer.param_groups]
        assert moving.get_last_lr() == rates
        np.testing.assert_allclose(rates / TOP, rates[-1] / 0.1, rtol=1e-12)
        factors.append(rates[-1] / 0.1)
        moving.step()
        if (step + 1) % (n_steps // n_epochs) == 0:
            moving.end_epoch(scores[step // (n_steps // n_epochs)] if scores else 0.5)
    return np.array(factors)


@pytest.mark.parametrize("n_steps", [8, 40, 101])
def test_one_cycle_peaks_at_the_rate_after_a_quarter(n_steps):
    factors = list_factors("one_cycle", n_steps=n_steps, n_epochs=1)
    # Cosines up from a 25th and down to nothing, which meet at a quarter of the steps.
    peak = n_steps / 4 - 1
    for step in range(n_steps):
        low, share = (1 / 25, 1 - step / peak) if step <= peak else (4e-6, (step - peak) / (n_steps - 1 - peak))
        assert factors[step] == pytest.approx(low + (1 - low) * (1 + math.cos(math.pi * share)) / 2, rel=1e-6)
    assert abs(factors.argmax() - peak) <= 1
    assert factors.max() == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize(("n_steps", "pct_start"), [(5, 0.25), (5, 0.4), (12, 0.1), (12, 0.9), (40, 0.25), (40, 0.4)])
def test_one_cycle_is_that_of_torch(n_steps, pct_start):
    ours = create_test_optimizer(create_network())
    theirs = create_test_optimizer(create_network())
    params = {"pct_start": pct_start}
    schedules = (
        create_schedule(ours, schedule_params=params, n_steps=n_steps, n_epochs=1),
        torch.optim.lr_scheduler.OneCycleLR(theirs, max_lr=TOP.tolist(), total_steps=n_steps, **params),
    )
    for step in range(n_steps):
        for group, other in zip(ours.param_groups, theirs.param_groups, strict=True):
            assert group["lr"] == pytest.approx(other["lr"], rel=1e-9)
            assert group["betas"] == pytest.approx(other["betas"], rel=1e-9)
        theirs.step()
        schedules[0].step()
        if step < n_steps - 1:
            schedules[1].step()


@pytest.mark.parametrize("n_steps", [1, 2, 3, 4, 5])
def test_one_cycle_serves_trainings_of_few_steps(n_steps):
    factors = list_factors("one_cycle", n_steps=n_steps, n_epochs=1)
    assert factors[0] >= 1 / 26
    assert n_steps == 1 or factors[1] > 0.9


def test_one_cycle_without_room_for_a_rise_starts_at_the_peak():
    factors = list_factors("one_cycle", {"pct_start": 0.05}, n_steps=10, n_epochs=1)
    assert factors[0] == 1
    assert (np.diff(factors) < 0).all()


@pytest.mark.parametrize(
    ("optimizer", "params", "key", "kept"),
    [
        ("sgd", {"momentum": 0.8}, "momentum", 0.8),
        ("sgd", {"momentum": 0}, "momentum", 0),
        ("rmsprop", None, "momentum", 0),
        ("adamw", {"betas": (0.8, 0.999)}, "betas", (0.8, 0.999)),
        ("adafactor", None, "betas", None),
    ],
    ids=str,
)
def test_one_cycle_leaves_a_chosen_momentum_alone(optimizer, params, key, kept):
    made = create_test_optimizer(create_network(), optimizer=optimizer, optimizer_params=params)
    schedule = create_schedule(made, n_steps=10, n_epochs=1)
    for _ in range(5):
        assert all(group.get(key) == kept for group in made.param_groups)
        schedule.step()


def test_one_cycle_moves_the_usual_momentum_of_sgd():
    made = create_test_optimizer(create_network(), optimizer="sgd")
    schedule = create_schedule(made, n_steps=8, n_epochs=1)
    assert [group["momentum"] for group in made.param_groups] == pytest.approx([0.95] * 4)
    schedule.step()
    assert [group["momentum"] for group in made.param_groups] == pytest.approx([0.85] * 4)


EIGHT = {"n_steps": 8, "n_epochs": 4}


@pytest.mark.parametrize(
    ("schedule", "params", "expected"),
    [
        ("constant", None, [1] * 8),
        ("constant", {"warmup_epochs": 2}, [0.01, 0.2575, 0.505, 0.7525, 1, 1, 1, 1]),
        ("constant", {"warmup_epochs": 0.75}, [0.01, 0.67, 1, 1, 1, 1, 1, 1]),
        ("cosine", None, [(1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]),
        (
            "cosine",
            {"final_factor": 0.2, "warmup_epochs": 2},
            [0.01, 0.2575, 0.505, 0.7525, 1, 0.6 + 0.4 * math.sqrt(0.5), 0.6, 0.6 - 0.4 * math.sqrt(0.5)],
        ),
        ("step", {"step_epochs": 1}, [1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]),
        ("step", {"step_epochs": 3, "factor": 0.5}, [1, 1, 1, 1, 1, 1, 0.5, 0.5]),
        ("step", {"milestones": [1, 3], "factor": 0.5}, [1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]),
        ("step", {"milestones": [2], "warmup_epochs": 1}, [0.01, 0.505, 1, 1, 0.1, 0.1, 0.1, 0.1]),
        ("exponential", None, [1, 1, 0.9, 0.9, 0.81, 0.81, 0.729, 0.729]),
        ("exponential", {"factor": 0.5, "warmup_epochs": 1}, [0.01, 0.505, 1, 1, 0.5, 0.5, 0.25, 0.25]),
    ],
    ids=str,
)
def test_schedules_by_hand(schedule, params, expected):
    np.testing.assert_allclose(list_factors(schedule, params, **EIGHT), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("params", "scores", "expected"),
    [
        ({"patience": 1}, [0.5, 0.6, 0.7, 0.8], [1, 1, 1, 1]),
        ({"patience": 1}, [0.5, 0.5, 0.6, 0.6], [1, 1, 0.1, 0.1]),
        ({"patience": 1}, [0.5, 0.4, 0.3, 0.2], [1, 1, 0.1, 0.01]),
        ({"patience": 2, "factor": 0.5}, [0.5, 0.4, 0.45, 0.2], [1, 1, 1, 0.5]),
        ({"patience": 2, "factor": 0.5}, [0.5, 0.4, 0.6, 0.2], [1, 1, 1, 1]),
        ({"patience": 1}, [0.5, math.nan, 0.6, 0.7], [1, 1, 0.1, 0.1]),
        ({"patience": 1}, [-3.0, -2.0, -2.5, -1], [1, 1, 1, 0.1]),
        ({"patience": 1, "warmup_epochs": 2}, [0.5, 0.4, 0.6, 0.7], [0.01, 0.505, 0.1, 0.1]),
    ],
    ids=str,
)
def test_plateau_lowers_the_rate_once_the_score_stalls(params, scores, expected):
    factors = list_factors("plateau", params, n_steps=4, n_epochs=4, scores=scores)
    np.testing.assert_allclose(factors, expected, rtol=1e-12)


def test_plateau_waits_three_epochs_by_default():
    factors = list_factors("plateau", n_steps=6, n_epochs=6, scores=[0.5] * 6)
    np.testing.assert_allclose(factors, [1, 1, 1, 1, 0.1, 0.1])


def test_schedule_steps_beyond_its_end():
    optimizer = create_test_optimizer(create_network())
    for name in ("one_cycle", "cosine"):
        schedule = create_schedule(optimizer, schedule=name, n_steps=6, n_epochs=2)
        for _ in range(9):
            schedule.step()
        assert 0 <= schedule.get_last_lr()[-1] < 1e-6


ALL_SCHEDULES = "'one_cycle', 'cosine', 'step', 'exponential', 'plateau' or 'constant'"
TOLD = (
    "The schedule 'step' must be told when the rate falls, in one way. Pass as schedule_params either "
    "{'step_epochs': 4} (after every 4 epochs) or {'milestones': [6, 9]} (after 6 and after 9)."
)
RISING = "a list of integers >= 1 in rising order"


@pytest.mark.parametrize(
    ("schedule", "params", "message"),
    [
        ("cosin", None, f"The schedule 'cosin' is unknown. Did you mean 'cosine'? Use {ALL_SCHEDULES}."),
        (["step"], None, f"The schedule ['step'] is unknown. Use {ALL_SCHEDULES}."),
        (
            "one_cycle",
            {"warmup_epochs": 1},
            "The schedule 'one_cycle' takes no keyword 'warmup_epochs': it warms up by itself. "
            "schedule_params may hold pct_start.",
        ),
        (
            "cosine",
            {"final": 0},
            "The schedule 'cosine' takes no keyword 'final'. Did you mean 'final_factor'? "
            "schedule_params may hold final_factor, warmup_epochs.",
        ),
        ("one_cycle", {"pct_start": 1}, None),
        ("cosine", {"final_factor": -0.1}, None),
        ("exponential", {"factor": 1}, None),
        ("plateau", {"factor": 0}, None),
        ("plateau", {"patience": 0}, None),
        ("constant", {"warmup_epochs": -1}, None),
        ("step", {"step_epochs": 1.5}, None),
        *[("step", {"milestones": value}, None) for value in ([], 6, [6, 6], [6, 3], [0, 3], [3.5], [True])],
        ("step", {}, TOLD),
        ("step", {"step_epochs": 4, "milestones": [6]}, TOLD),
        (
            "step",
            {"milestones": [6, 12]},
            "The schedule 'step' lowers the rate after 12 epochs, when the training is over (max_epochs=12). "
            "Lower it sooner, or raise max_epochs.",
        ),
        (
            "step",
            {"step_epochs": 30},
            "The schedule 'step' lowers the rate after 30 epochs, when the training is over (max_epochs=12). "
            "Lower it sooner, or raise max_epochs.",
        ),
        (
            "cosine",
            {"warmup_epochs": 12},
            "The warm-up of 12 epochs would fill the whole training (max_epochs=12). "
            "Make warmup_epochs shorter, or raise max_epochs.",
        ),
    ],
    ids=str,
)
def test_check_schedule_refuses(schedule, params, message):
    if message is None:
        [(key, value)] = params.items()
        must = {
            "pct_start": "a number > 0 and < 1",
            "factor": "a number > 0 and < 1",
            "final_factor": "a number >= 0 and <= 1",
            "warmup_epochs": "a number >= 0",
            "milestones": RISING,
        }.get(key, "an integer >= 1")
        message = f"The {key!r} parameter of the schedule {schedule!r} must be {must}. Got {value!r} instead."
    with pytest.raises(InputError, match=whole(message)):
        check_schedule(schedule, params, max_epochs=12)
    with pytest.raises(InputError, match=whole(message)):
        create_schedule(
            create_test_optimizer(create_network()),
            schedule=schedule,
            schedule_params=params,
            n_steps=24,
            n_epochs=12,
        )
