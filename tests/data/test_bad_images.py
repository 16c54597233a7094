import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from multilabelkit.data.bad_images import (
    check_decodable,
    check_files_exist,
    describe_failures,
    find_undecodable,
    locate_error,
    warn_of_failures,
)
from multilabelkit.data.images import decode_image
from multilabelkit.errors import ImageDecodeError, MultiLabelKitWarning

GREY = np.random.default_rng(0).integers(0, 256, (12, 17), dtype=np.uint8)
UNKNOWN_FORMAT = "it is not an image of a format that is read (JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM)"


def whole(message):
    return f"^{re.escape(message)}$"


def write_files(folder):
    """Write a sound image, an empty file, a text and a folder, and return their paths."""
    good, empty, text = (folder / name for name in ("good.png", "empty.jpg", "text.jpg"))
    Image.fromarray(GREY).save(good)
    empty.touch()
    text.write_text("no image")
    (folder / "folder.jpg").mkdir()
    return good, empty, text, folder / "folder.jpg"


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_check_decodable_lists_every_bad_image(tmp_path, num_workers):
    good, empty, text, _ = write_files(tmp_path)
    sources = [good, empty, GREY, text, str(tmp_path / "absent.jpg"), good]
    message = (
        f"Cannot decode 3 of 6 images in X; the first is '{empty}' at row 1: the file is empty. "
        "Repair or remove them (all are listed in error.paths and error.rows)."
    )
    with pytest.raises(ImageDecodeError, match=whole(message)) as caught:
        check_decodable(sources, decode_image, num_workers=num_workers)
    assert caught.value.rows == (1, 3, 4)
    assert caught.value.paths == (str(empty), str(text), str(tmp_path / "absent.jpg"))
    assert caught.value.reasons == (
        "the file is empty",
        UNKNOWN_FORMAT,
        "the file does not exist",
    )


def test_check_decodable_is_silent_where_all_is_well():
    check_decodable([GREY, GREY], decode_image, num_workers=2)


def test_check_decodable_passes_other_errors_on():
    def decode(source):
        raise ZeroDivisionError("not an image's fault")

    with pytest.raises(ZeroDivisionError):
        check_decodable([GREY], decode, num_workers=2)


def test_check_files_exist_lists_every_missing_file_and_opens_none(tmp_path):
    _, _, text, folder = write_files(tmp_path)
    sources = [text, "absent.jpg", GREY, Path("gone.png"), folder, "null\0byte"]
    message = (
        "Cannot decode 4 of 6 images in X_valid; the first is 'absent.jpg' at row 1: the file does not exist. "
        "Repair or remove them (all are listed in error.paths and error.rows)."
    )
    with pytest.raises(ImageDecodeError, match=whole(message)) as caught:
        check_files_exist(sources, where="X_valid")
    assert caught.value.rows == (1, 3, 4, 5)
    assert caught.value.paths == ("absent.jpg", "gone.png", str(folder), "null\0byte")
    check_files_exist([text, GREY, None])


def test_describe_failures_says_when_a_bad_image_is_the_only_one():
    failure = ImageDecodeError("no", paths=["a.jpg"], rows=[0], reasons=["the file is empty"])
    error = describe_failures([(7, failure)], n_images=9)
    assert str(error) == "Cannot decode 1 of 9 images in X: 'a.jpg' at row 7: the file is empty. Repair or remove it."
    assert (error.paths, error.rows, error.reasons) == (("a.jpg",), (7,), ("the file is empty",))


def test_describe_failures_adds_advice():
    failure = ImageDecodeError("no", paths=["a.jpg"], rows=[0], reasons=["the file is empty"])
    error = describe_failures([(7, failure)], n_images=9, advice=", or go on without it")
    assert str(error).endswith("Repair or remove it, or go on without it.")


def test_find_undecodable_returns_rows_in_order_over_many_slices():
    def decode(source):
        if source % 500 == 3:
            raise ImageDecodeError("no", paths=[str(source)], rows=[0], reasons=["why"])

    found = find_undecodable(range(3000), decode, num_workers=3)
    assert [row for row, _ in found] == [3, 503, 1003, 1503, 2003, 2503]
    assert [error.paths for _, error in found] == [(str(row),) for row, _ in found]


@pytest.mark.parametrize(
    ("n_failures", "message"),
    [
        (1, "Cannot decode 1 of 9 images in X: '0.jpg' at row 0: why. So it goes."),
        (
            2,
            "Cannot decode 2 of 9 images in X; the first is '0.jpg' at row 0: why. So it goes. Others: '1.jpg'.",
        ),
        (
            6,
            "Cannot decode 6 of 9 images in X; the first is '0.jpg' at row 0: why. So it goes. "
            "Others: '1.jpg', '2.jpg', '3.jpg' and 2 more.",
        ),
    ],
)
def test_warn_of_failures_counts_and_names(n_failures, message):
    failures = [
        (row, ImageDecodeError("no", paths=[f"{row}.jpg"], rows=[0], reasons=["why"])) for row in range(n_failures)
    ]
    with pytest.warns(MultiLabelKitWarning, match=whole(message)):
        warn_of_failures(failures, n_images=9, consequence="So it goes.")


def test_errors_that_are_kept_keep_no_image(tmp_path):
    """Frames of a traceback would hold the bytes of every bad file."""
    empty = write_files(tmp_path)[1]
    ((_, error),) = find_undecodable([empty], decode_image, num_workers=1)
    assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)


def test_locate_error_finds_the_rows_among_all_images():
    error = ImageDecodeError("no", paths=["b", "d"], rows=[0, 1], reasons=["why", "so"])
    located = locate_error(error, ["a", "b", GREY, "d", "b"])
    assert located.rows == (1, 3)
    assert located.reasons == ("why", "so")
    assert str(located).startswith("Cannot decode 2 of 5 images in X; the first is 'b' at row 1: why.")
    assert locate_error(error, ["x"]) is error
    nameless = ImageDecodeError("no", paths=["<ndarray>"], rows=[0], reasons=["why"])
    assert locate_error(nameless, [GREY, GREY]) is nameless  # whichever it was
