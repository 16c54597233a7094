"""Ready-made and self-made data, always as a scikit-learn ``Bunch``."""

from multilabelkit.datasets.synthetic import make_digits, make_shapes

__all__ = ["make_digits", "make_shapes"]
