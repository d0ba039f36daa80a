"""What activations and elementwise ops compute for each value."""

from __future__ import annotations

from typing import Any

from keras_graft.costs.work import Call, Dims, Work, not_known, rule

PER_VALUE = {
    "abs": 1, "absolute": 1, "arccos": 5, "arccosh": 11, "arcsin": 7, "arcsinh": 14, "arctan": 1,
    "arctanh": 8, "arctan2": 1, "cbrt": 1, "ceil": 1, "cos": 1, "cosh": 5, "deg2rad": 1, "exp": 1,
    "exp2": 2, "expm1": 1, "fabs": 1, "floor": 1, "i0": 87, "log": 1, "log10": 2, "log1p": 1,
    "log2": 2, "negative": 1, "rad2deg": 1, "reciprocal": 1, "round": 1, "sign": 1, "sin": 1,
    "sinc": 8, "sinh": 13, "sqrt": 1, "square": 1, "tan": 1, "tanh": 1, "trunc": 4, "erf": 1,
    "erfc": 63, "erfinv": 39, "rsqrt": 1, "celu": 6, "elu": 6, "exponential": 1, "gelu": 9,
    "hard_shrink": 3, "hard_sigmoid": 4, "hard_silu": 5, "hard_tanh": 4, "leaky_relu": 3,
    "log_sigmoid": 10, "mish": 10, "relu": 1, "relu6": 2, "selu": 7, "sigmoid": 4, "silu": 5,
    "soft_shrink": 6, "softplus": 8, "softsign": 3, "sparse_plus": 7, "sparse_sigmoid": 4,
    "squareplus": 5, "tanh_shrink": 2, "threshold": 2, "softmax": 5, "log_softmax": 5, "linear": 0,
    "glu": 10, "isnan": 1, "isfinite": 1, "isinf": 2, "isneginf": 2, "isposinf": 2, "logical_not": 1,
    "nan_to_num": 6, "signbit": 3, "heaviside": 6, "add": 1, "subtract": 1, "multiply": 1,
    "divide": 1, "true_divide": 1, "maximum": 1, "minimum": 1, "power": 1, "mod": 8, "fmod": 1,
    "floor_divide": 13, "equal": 1, "not_equal": 1, "greater": 1, "greater_equal": 1, "less": 1,
    "less_equal": 1, "logical_and": 1, "logical_or": 1, "logical_xor": 1, "hypot": 17,
    "logaddexp": 10, "logaddexp2": 12, "divide_no_nan": 5, "fmax": 4, "fmin": 4, "nextafter": 24,
    "isclose": 10, "where": 1, "clip": 2, "bitwise_and": 1, "bitwise_invert": 1, "bitwise_not": 1,
    "bitwise_or": 1, "bitwise_xor": 1, "left_shift": 1, "right_shift": 1, "bitwise_left_shift": 1,
    "bitwise_right_shift": 1,
}  # fmt: skip
"""For one value of the result: the steps that XLA counts, functions such as `exp` as one."""

_ELEMENTWISE = "XLA's cost analysis of the op on JAX: steps for each value of the result"

_NUMPY = [
    "Abs",
    "Absolute",
    "Add",
    "Arccos",
    "Arccosh",
    "Arcsin",
    "Arcsinh",
    "Arctan",
    "Arctan2",
    "Arctanh",
    "BitwiseAnd",
    "BitwiseInvert",
    "BitwiseLeftShift",
    "BitwiseNot",
    "BitwiseOr",
    "BitwiseRightShift",
    "BitwiseXor",
    "Cbrt",
    "Ceil",
    "Clip",
    "Cos",
    "Cosh",
    "Deg2rad",
    "Divide",
    "DivideNoNan",
    "Equal",
    "Exp",
    "Exp2",
    "Expm1",
    "Fabs",
    "Floor",
    "FloorDivide",
    "Fmax",
    "Fmin",
    "Fmod",
    "Greater",
    "GreaterEqual",
    "Heaviside",
    "Hypot",
    "I0",
    "Isclose",
    "Isfinite",
    "Isinf",
    "Isnan",
    "Isneginf",
    "Isposinf",
    "LeftShift",
    "Less",
    "LessEqual",
    "Log",
    "Log10",
    "Log1p",
    "Log2",
    "Logaddexp",
    "Logaddexp2",
    "LogicalAnd",
    "LogicalNot",
    "LogicalOr",
    "LogicalXor",
    "Maximum",
    "Minimum",
    "Mod",
    "Multiply",
    "NanToNum",
    "Negative",
    "Nextafter",
    "NotEqual",
    "Power",
    "Rad2deg",
    "Reciprocal",
    "RightShift",
    "Round",
    "Sign",
    "Signbit",
    "Sin",
    "Sinc",
    "Sinh",
    "Sqrt",
    "Square",
    "Subtract",
    "Tan",
    "Tanh",
    "TrueDivide",
    "Trunc",
    "Where",
]
_NN = [
    "Celu",
    "Elu",
    "Gelu",
    "Glu",
    "HardShrink",
    "HardSigmoid",
    "HardSilu",
    "HardTanh",
    "LeakyRelu",
    "LogSigmoid",
    "LogSoftmax",
    "Relu",
    "Relu6",
    "Selu",
    "Sigmoid",
    "Silu",
    "SoftShrink",
    "Softmax",
    "Softplus",
    "Softsign",
    "SparsePlus",
    "SparseSigmoid",
    "Squareplus",
    "TanhShrink",
    "Threshold",
]
_MATH = ["Erf", "Erfc", "Erfinv", "Rsqrt"]


def snake(name: str) -> str:
    """Return the name of the function of an op: `LogSoftmax` is `log_softmax`.

    >>> snake("LogSoftmax"), snake("Relu6")
    ('log_softmax', 'relu6')
    """
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))


@rule(
    *(f"numpy.{name}" for name in _NUMPY), *(f"nn.{name}" for name in _NN),
    *(f"math.{name}" for name in _MATH), source=_ELEMENTWISE,
)  # fmt: skip
def _of_op(call: Call) -> Work:
    name = snake(type(call.operation).__name__)
    if name == "gelu" and getattr(call.operation, "approximate", True) is False:
        return Work(operations=5 * call.out.size)
    return Work(operations=PER_VALUE[name] * call.out.size)


def activation(function: Any, size: Any) -> Any:
    """Return what an activation computes on so many values; None if the function is not known."""
    if function is None:
        return 0
    inner = getattr(function, "activation", None)  # a layer as an activation
    name = getattr(function if inner is None else inner, "__name__", "")
    if not name:  # an activation layer, such as `ReLU()`
        name = snake(type(function).__name__).replace("re_lu", "relu").replace("e_lu", "elu")
    per = PER_VALUE.get(name)
    return None if per is None else per * size


def plus(*numbers: Any) -> Any:
    """Return a sum of numbers; None if one is None."""
    return None if any(number is None for number in numbers) else sum(numbers)


_MOVES = [
    "numpy.Append",
    "numpy.Arange",
    "numpy.Array",
    "numpy.ArraySplit",
    "numpy.BroadcastTo",
    "numpy.Concatenate",
    "numpy.Conj",
    "numpy.Conjugate",
    "numpy.Copy",
    "numpy.Diag",
    "numpy.Diagflat",
    "numpy.Diagonal",
    "numpy.Dsplit",
    "numpy.Dstack",
    "numpy.EmptyLike",
    "numpy.ExpandDims",
    "numpy.Flip",
    "numpy.Fliplr",
    "numpy.Flipud",
    "numpy.Full",
    "numpy.FullLike",
    "numpy.GetItem",
    "numpy.Geomspace",
    "numpy.Hsplit",
    "numpy.Hstack",
    "numpy.Imag",
    "numpy.Isreal",
    "numpy.Linspace",
    "numpy.Logspace",
    "numpy.Meshgrid",
    "numpy.Moveaxis",
    "numpy.Ndim",
    "numpy.OnesLike",
    "numpy.Pad",
    "numpy.Ravel",
    "numpy.Real",
    "numpy.Repeat",
    "numpy.Reshape",
    "numpy.Roll",
    "numpy.Rot90",
    "numpy.Size",
    "numpy.Split",
    "numpy.Squeeze",
    "numpy.Stack",
    "numpy.Swapaxes",
    "numpy.Take",
    "numpy.TakeAlongAxis",
    "numpy.Tile",
    "numpy.Transpose",
    "numpy.Tril",
    "numpy.Triu",
    "numpy.View",
    "numpy.Vsplit",
    "numpy.Vstack",
    "numpy.ZerosLike",
    "nn.DepthToSpace",
    "nn.SpaceToDepth",
    "nn.OneHot",
    "nn.Unfold",
    "core.Cast",
    "core.SaturateCast",
    "core.ConvertToTensor",
    "core.Slice",
    "core.SliceUpdate",
    "core.ScatterUpdate",
    "core.StopGradient",
    "core.Unstack",
    "image.CropImages",
    "image.PadImages",
    "image.ExtractPatches",
    "math.ViewAsComplex",
    "math.ViewAsReal",
    "math.ExtractSequences",
    "einops.Rearrange",
]


@rule(*_MOVES, source="moves values and computes none")
def nothing(call: Call) -> Work:
    """Count nothing."""
    return Work()


_REDUCE = {
    "All": 1, "Any": 1, "Amax": 1, "Amin": 1, "Average": 1, "CountNonzero": 2, "Max": 1, "Mean": 1,
    "Min": 1, "Prod": 1, "Sum": 1, "Var": 4, "Std": 4, "Ptp": 2, "Argmax": 2, "Argmin": 2, "Cumsum": 1,
    "Cumprod": 1, "Nancumprod": 2, "Nancumsum": 2, "Nanmax": 2, "Nanmin": 2, "Nanmean": 3, "Nanprod": 2,
    "Nansum": 2, "Nanstd": 5, "Nanvar": 5, "Trace": 1, "Diff": 1, "AllClose": 10, "Bincount": 1,
    "Trapezoid": 3,
}  # fmt: skip
_REDUCE_NN = {"Moments": 4, "Normalize": 3, "LayerNorm": 8, "RMSNorm": 3, "BatchNorm": 2}
_REDUCE_MATH = {"Logsumexp": 4, "SegmentMax": 1, "SegmentMin": 1, "SegmentProd": 1, "SegmentSum": 1}
_READS = {**_REDUCE, **_REDUCE_NN, **_REDUCE_MATH}


@rule(
    *(f"numpy.{n}" for n in _REDUCE), *(f"nn.{n}" for n in _REDUCE_NN),
    *(f"math.{n}" for n in _REDUCE_MATH), source="a number of steps for each value that it reads",
)  # fmt: skip
def _of_reduction(call: Call) -> Work:
    read = call.inputs[0] if call.inputs else call.tensor(0, "x")
    assert isinstance(read, Dims)
    return Work(operations=_READS[type(call.operation).__name__] * read.size)


@rule(
    *["numpy.Argsort", "numpy.Argpartition", "numpy.Digitize", "numpy.Histogram", "numpy.IsIn", "numpy.Median", "numpy.Nanmedian", "numpy.Percentile", "numpy.Quantile", "numpy.Nanpercentile", "numpy.Nanquantile", "numpy.SearchSorted", "numpy.Sort", "numpy.Unique", "numpy.Nonzero", "numpy.Nanargmax", "numpy.Nanargmin", "math.TopK", "math.InTopK", "numpy.Gcd", "numpy.Lcm", "numpy.Ldexp", "numpy.Angle", "numpy.Vander", "numpy.Select", "numpy.UnravelIndex", "nn.Sparsemax", "nn.MultiHot", "nn.BinaryCrossentropy", "nn.CategoricalCrossentropy", "nn.SparseCategoricalCrossentropy", "nn.Polar", "nn.Fold", "core.Scatter", "nn.PSNR", "image.HSVToRGB", "image.RGBToHSV", "image.RGBToGrayscale"],
    source="no matrix product; how many steps it takes depends on the values or on the backend",
)  # fmt: skip
def only_operations(call: Call) -> Work:
    """Count no multiply-adds, and operations that are not known."""
    return Work(operations=None)


not_known(
    *["core.AssociativeScan", "core.Cond", "core.ForiLoop", "core.Map", "core.Scan", "core.Switch", "core.VectorizedMap", "core.WhileLoop", "function.Function"],
    why="it runs a function that the graph does not show",
)  # fmt: skip
not_known(
    *["linalg.Cholesky", "linalg.CholeskyInverse", "linalg.Det", "linalg.Eig", "linalg.Eigh", "linalg.Inv", "linalg.JVP", "linalg.Lstsq", "linalg.LuFactor", "linalg.MatrixRank", "linalg.Norm", "linalg.Pinv", "linalg.Qr", "linalg.SVD", "linalg.Solve", "linalg.SolveTriangular", "numpy.Slogdet", "math.Logdet", "math.CDist", "numpy.Corrcoef", "numpy.Correlate", "math.FFT", "math.FFT2", "math.IFFT2", "math.IRFFT", "math.RFFT", "math.ISTFT", "math.STFT", "math.SegmentReduction", "nn.CTCDecode", "nn.CTCLoss", "image.AffineTransform", "image.ElasticTransform", "image.GaussianBlur", "image.MapCoordinates", "image.PerspectiveTransform", "image.Resize", "image.ScaleAndTranslate", "image.SSIM", "image.SobelEdges"],
    why="each backend computes it in its own way",
)  # fmt: skip
