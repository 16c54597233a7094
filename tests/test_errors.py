import pickle

import numpy as np
import pytest

from multilabelkit import errors
from multilabelkit.errors import (
    ImageDecodeError,
    InputError,
    MissingExtraError,
    ModelFileError,
    MultiLabelKitError,
    MultiLabelKitWarning,
    warn,
)
from multilabelkit.thresholds import tune_thresholds


@pytest.mark.parametrize("kind", [InputError, ImageDecodeError, ModelFileError, MissingExtraError])
def test_every_error_is_a_multilabelkit_error(kind):
    assert issubclass(kind, MultiLabelKitError)


@pytest.mark.parametrize(
    ("kind", "builtin"), [(InputError, ValueError), (ImageDecodeError, ValueError), (MissingExtraError, ImportError)]
)
def test_errors_are_also_the_builtin_that_callers_catch(kind, builtin):
    assert issubclass(kind, builtin)


def test_what_a_model_file_does_is_not_the_fault_of_the_input():
    assert not issubclass(ModelFileError, InputError)


def test_the_warning_can_be_filtered_on_its_own():
    assert issubclass(errors.MultiLabelKitWarning, UserWarning)


def test_decode_error_keeps_its_lists_as_tuples():
    error = ImageDecodeError("two", paths=["a.jpg", "b.jpg"], rows=[3, 7], reasons=["empty", "damaged"])
    assert str(error) == "two"
    assert (error.paths, error.rows, error.reasons) == (("a.jpg", "b.jpg"), (3, 7), ("empty", "damaged"))


def test_decode_error_without_lists_has_empty_ones():
    error = ImageDecodeError("none")
    assert (error.paths, error.rows, error.reasons) == ((), (), ())


class _OwnDecodeError(ImageDecodeError):
    pass


@pytest.mark.parametrize("kind", [ImageDecodeError, _OwnDecodeError])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_decode_error_survives_pickling_with_its_lists(kind, protocol):
    error = kind("one", paths=["a.jpg"], rows=[3], reasons=["empty"])
    copy = pickle.loads(pickle.dumps(error, protocol))
    assert type(copy) is kind
    assert str(copy) == "one"
    assert (copy.paths, copy.rows, copy.reasons) == (("a.jpg",), (3,), ("empty",))


@pytest.mark.parametrize("kind", [InputError, ModelFileError, MissingExtraError])
def test_other_errors_survive_pickling(kind):
    assert pickle.loads(pickle.dumps(kind("text"))).args == ("text",)


def test_warn_points_at_the_first_line_outside_the_package():
    with pytest.warns(MultiLabelKitWarning, match=r"^so$") as caught:
        warn("so")
    assert caught[0].filename == __file__
    with pytest.warns(MultiLabelKitWarning, match=r"^Fewer than 5 known positives") as caught:
        tune_thresholds(np.array([[1], [0]]), np.array([[0.9], [0.1]]))
    assert caught[0].filename == __file__
