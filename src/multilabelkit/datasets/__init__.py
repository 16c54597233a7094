"""Readers of the layouts that data comes in, and data made here, always as a scikit-learn ``Bunch``."""

from multilabelkit.datasets.annotations import read_coco, read_voc
from multilabelkit.datasets.csv_files import read_csv
from multilabelkit.datasets.folders import read_folders
from multilabelkit.datasets.json_files import read_json
from multilabelkit.datasets.normalization import compute_normalization
from multilabelkit.datasets.synthetic import make_digits, make_shapes
from multilabelkit.datasets.text_files import read_class_files, read_sidecar_files

__all__ = [
    "compute_normalization",
    "make_digits",
    "make_shapes",
    "read_class_files",
    "read_coco",
    "read_csv",
    "read_folders",
    "read_json",
    "read_sidecar_files",
    "read_voc",
]
