"""A CUDA device that is not there, for finding mistakes on a machine without one.

Its tensors say that they lie on cuda:0, and compute on the CPU. As on a real device: they do not
mix with tensors of the CPU, do not turn into numpy arrays, draw their random numbers from a state
of their own, round convolutions to TF32, add up products in another order, wait where a GPU makes
Python wait (`torch.cuda.set_sync_debug_mode`), and NCCL takes nothing else. No `#cuda` cell that
needs a real compiler or driver (Triton) runs here, and it proves nothing about speed or memory.

`make test-pretended` puts this folder on PYTHONPATH, so that every Python it starts sees the
device. It needs a C++ compiler, once: autograd asks about devices below Python.
"""

import functools
import sys
from types import SimpleNamespace

import torch
import torch.distributed
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
GPU, CPU, COUNT = torch.device("cuda:0"), torch.device("cpu"), 2
STATE = SimpleNamespace(random=torch.Generator().get_state(), sync="default", nccl=False)

# ---------------------------------------------------------------- tensors


class GpuTensor(torch.Tensor):
    """A tensor of the device. Its numbers are in `inside`, a tensor of the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    is_meta = False  # though to PyTorch's C++ it is one

    @staticmethod
    def __new__(cls, inside):
        with _disable_current_modes():
            shell = torch.empty_strided(
                inside.shape, inside.stride(), dtype=inside.dtype, device="meta"
            )
            tensor = torch.Tensor._make_subclass(
                cls, shell, dispatch_device=True, device_for_backend_keys=GPU
            )
        tensor.inside = inside
        return tensor

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return dispatch(function, args, kwargs or {})

    @property
    def data(self):
        return GpuTensor(self.inside)

    @data.setter
    def data(self, x):
        if isinstance(x, GpuTensor):
            self.inside = x.inside.detach()
        else:
            torch.utils.swap_tensors(self, _like(x, self))

    def data_ptr(self):
        return self.inside.data_ptr()

    def untyped_storage(self):
        return self.inside.untyped_storage()

    def tolist(self):
        return self.cpu().tolist()

    def __getitem__(self, index):
        return super().__getitem__(_index(index))

    def __setitem__(self, index, value):
        super().__setitem__(_index(index), value)

    def __repr__(self, **options):
        with _disable_current_modes():
            return f"{repr(self.inside.detach())[:-1]}, device='cuda:0')"

    def __format__(self, spec):
        return format(self.item(), spec) if self.dim() == 0 else repr(self)

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            memo[id(self)] = _like(self.detach().clone(), self)
            if self.grad is not None:
                memo[id(self)].grad = self.grad.detach().clone()
        return memo[id(self)]

    def __reduce_ex__(self, protocol):
        return _unpickle, (self.detach().cpu(), self.requires_grad, isinstance(self, nn.Parameter))


def _like(x, old):
    """Make a parameter of x if the old tensor was one."""
    return _make(x.detach(), old.requires_grad, isinstance(old, nn.Parameter))


def _unpickle(x, requires_grad, is_parameter):
    return _make(x.to(GPU), requires_grad, is_parameter)


def _make(x, requires_grad, is_parameter):
    return nn.Parameter(x, requires_grad) if is_parameter else x.requires_grad_(requires_grad)


def _index(index):
    """Lists in an index become tensors of the device."""
    if isinstance(index, tuple):
        return tuple(map(_index, index))
    return torch.tensor(index).to(GPU, non_blocking=True) if isinstance(index, list) else index


# ---------------------------------------------------------------- kernels that differ


def tf32(x):
    """Round to the ten bits that a GPU's convolutions keep."""
    if x.dtype != torch.float32 or not torch.backends.cudnn.allow_tf32:
        return x
    return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def convolution(x, weight, *rest):
    return aten.convolution.default(tf32(x), tf32(weight), *rest)


def convolution_backward(gradient, x, weight, *rest):
    return aten.convolution_backward.default(tf32(gradient), tf32(x), tf32(weight), *rest)


def reordered(a, b):
    """Put the products that a @ b adds up into another order."""
    order = torch.randperm(a.shape[-1], generator=torch.Generator().manual_seed(0))
    return a[..., order], b[..., order, :]


def lstm_cell(x, h, c, *biases):
    i, f, g, o = (x + h + sum(b for b in biases if b is not None)).chunk(4, 1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    c = f * c + i * g
    return o * c.tanh(), c, torch.cat([i, f, g, o], 1)


def lstm_cell_backward(grad_h, grad_c, c, new_c, saved, has_bias):
    i, f, g, o = saved.chunk(4, 1)
    grad_h, grad_c = (torch.zeros_like(c) if x is None else x for x in (grad_h, grad_c))
    t = new_c.tanh()
    grad_c = grad_c + grad_h * o * (1 - t * t)
    gates = torch.cat(
        [
            grad_c * g * i * (1 - i),
            grad_c * c * f * (1 - f),
            grad_c * i * (1 - g * g),
            grad_h * t * o * (1 - o),
        ],
        1,
    )
    return gates, grad_c * f, gates.sum(0) if has_bias else None


def gru_cell(x, h, old, bias_x=None, bias_h=None):
    x, h = (gates if bias is None else gates + bias for gates, bias in ((x, bias_x), (h, bias_h)))
    (x_r, x_z, x_n), (h_r, h_z, h_n) = x.chunk(3, 1), h.chunk(3, 1)
    r, z = (x_r + h_r).sigmoid(), (x_z + h_z).sigmoid()
    n = (x_n + r * h_n).tanh()
    return n + z * (old - n), torch.cat([r, z, n, old, h_n], 1)


def gru_cell_backward(gradient, saved, has_bias):
    r, z, n, old, h_n = saved.chunk(5, 1)
    grad_z, grad_n = gradient * (old - n) * z * (1 - z), gradient * (1 - z) * (1 - n * n)
    grad_r = grad_n * h_n * r * (1 - r)
    x, h = (torch.cat([grad_r, grad_z, g], 1) for g in (grad_n, grad_n * r))
    return x, h, gradient * z, *((x.sum(0), h.sum(0)) if has_bias else (None, None))


KERNELS = {
    aten.convolution.default: convolution,
    aten.convolution_backward.default: convolution_backward,
    aten.mm.default: lambda a, b: aten.mm.default(*reordered(a, b)),
    aten.bmm.default: lambda a, b: aten.bmm.default(*reordered(a, b)),
    aten.addmm.default: lambda c, a, b, **k: aten.addmm.default(c, *reordered(a, b), **k),
    aten._thnn_fused_lstm_cell.default: lstm_cell,
    aten._thnn_fused_lstm_cell_backward_impl.default: lstm_cell_backward,
    aten._thnn_fused_gru_cell.default: gru_cell,
    aten._thnn_fused_gru_cell_backward.default: gru_cell_backward,
}

# ---------------------------------------------------------------- operations

COPIES = {aten._to_copy.default, aten.copy_.default}
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default,
            aten._index_put_impl_.default, aten._unsafe_index.Tensor,
            aten._unsafe_index_put.default}  # fmt: skip
ANSWERS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default,
           aten.equal.default, aten._unique2.default, aten.unique_dim.default}  # fmt: skip
TAKE_NO_NUMBERS = ("aten::index_select", "aten::gather", "aten::embedding")


class OnTheDevice(TorchDispatchMode):
    """Sees the operations that no tensor of the device takes part in, such as torch.zeros."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return dispatch(function, args, kwargs or {})


def dispatch(function, args, kwargs):
    """Run an operation on the tensors inside, and wrap what comes out if it is of the device."""
    if function is torch.ops.prim.device.default:
        return GPU
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    there = [x for x in tensors if isinstance(x, GpuTensor)]
    here = [x for x in tensors if not isinstance(x, GpuTensor)]
    refuse_mixture(function, args, there, here)
    refuse_wait(function, args, kwargs, there)
    device = kwargs.get("device")
    result_there = bool(there) if device is None else torch.device(device).type == "cuda"
    if function is aten.copy_.default:
        result_there = isinstance(args[0], GpuTensor)
    if function is aten.is_pinned.default:
        return False
    shells = {id(x.inside): x for x in there}
    args, kwargs = tree_map(inside, (args, kwargs))
    kernel = KERNELS.get(function, function) if there else function
    with _disable_current_modes(), own_random_numbers(function, kwargs, result_there):
        out = kernel(*args, **kwargs)
        if there and not result_there and any(out is x.inside for x in there):
            out = out.clone()

    def wrap(x):
        if not isinstance(x, torch.Tensor):
            return x
        if id(x) in shells:  # changed in place: the tensor that it was
            return shells[id(x)]
        return GpuTensor(x) if result_there else x

    return tree_map(wrap, out)


def inside(x):
    if isinstance(x, GpuTensor):
        return x.inside
    return CPU if isinstance(x, torch.device) and x.type == "cuda" else x


def refuse_mixture(function, args, there, here):
    name = function._schema.name
    if name.startswith("c10d::") and STATE.nccl and here:
        raise RuntimeError("No backend type associated with device type cpu")
    if not there or not here or function in COPIES:
        return
    if function in INDEXING:
        if not isinstance(args[0], GpuTensor):
            raise RuntimeError(
                "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
            )
        here = [x for x in args[2:3] if not isinstance(x, GpuTensor)]
    if any(x.dim() for x in here) or name in TAKE_NO_NUMBERS or not any(x.dim() for x in there):
        if any(x.dim() for x in tree_leaves([here, there])):
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least "
                f"two devices, cuda:0 and cpu! ({name})"
            )


def refuse_wait(function, args, kwargs, there):
    """Fail where Python would wait for the device, if `set_sync_debug_mode` says so."""
    crosses = function in COPIES and "device" in kwargs or function is aten.copy_.default
    crosses = crosses and bool(there) != (torch.device(kwargs.get("device") or CPU).type == "cuda")
    blocks = crosses and not kwargs.get("non_blocking") and not any(x is True for x in args[2:])
    if function in INDEXING and there:
        blocks = any(
            x is not None and (x.dtype == torch.bool or not isinstance(x, GpuTensor))
            for x in args[1]
        )
    if (blocks or function in ANSWERS and there) and STATE.sync == "error":
        raise RuntimeError(f"called a synchronizing CUDA operation ({function})")


class own_random_numbers:
    """Let an operation draw from the device's random numbers, if it draws any."""

    def __init__(self, function, kwargs, there):
        self.draws = there and torch.Tag.nondeterministic_seeded in function.tags
        if there and kwargs.get("generator") is not None:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")

    def __enter__(self):
        if self.draws:
            self.cpu = torch.random.default_generator.get_state()
            torch.random.default_generator.set_state(STATE.random)

    def __exit__(self, *error):
        if self.draws:
            STATE.random = torch.random.default_generator.get_state()
            torch.random.default_generator.set_state(self.cpu)


# ---------------------------------------------------------------- what Python sees of the device


def seed(number):
    STATE.random = torch.Generator().manual_seed(int(number)).get_state()


def torch_cuda():
    """What torch.cuda answers, by the name of the function; to torch.compile each is its own."""
    about = SimpleNamespace(
        name="a pretended GPU", total_memory=2**33, major=8, minor=0, multi_processor_count=1
    )

    answers = {
        **dict.fromkeys(
            ("_lazy_init", "synchronize", "empty_cache", "reset_peak_memory_stats", "set_device")
        ),
        **dict.fromkeys(("is_available", "is_initialized", "is_bf16_supported"), True),
        **dict.fromkeys(("_is_in_bad_fork", "is_current_stream_capturing"), False),
        **dict.fromkeys(("current_device", "memory_allocated", "max_memory_allocated"), 0),
        "device_count": COUNT,
        "get_device_name": about.name,
        "get_device_properties": about,
        "get_device_capability": (8, 0),
    }
    return {
        **{name: lambda *_, answer=answer: answer for name, answer in answers.items()},
        "manual_seed": lambda number: seed(number),
        "manual_seed_all": lambda number: seed(number),
        "get_rng_state_all": lambda: [STATE.random.clone() for _ in range(COUNT)],
        "set_rng_state_all": lambda states: setattr(STATE, "random", states[0].clone()),
        "set_sync_debug_mode": lambda mode: setattr(STATE, "sync", mode),
    }


def on_the_cpu_first(make):
    """Let torch.tensor make its tensor on the CPU, and then move it."""

    @functools.wraps(make)
    def wrapper(*args, device=None, **kwargs):
        if device is None or torch.device(device).type != "cuda":
            return make(*args, device=device, **kwargs)
        requires_grad = kwargs.pop("requires_grad", False)
        return make(*args, **kwargs).to(GPU).requires_grad_(requires_grad)

    return wrapper


def refusing(method):
    @functools.wraps(method)
    def wrapper(self, *args, **kwargs):
        if isinstance(self, GpuTensor):
            raise TypeError(
                "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to "
                "copy the tensor to host memory first."
            )
        return method(self, *args, **kwargs)

    return wrapper


def swapping(apply):
    """Let Module.to keep each parameter the object that it is, as on a real device."""

    @functools.wraps(apply)
    def wrapper(self, *args, **kwargs):
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            return apply(self, *args, **kwargs)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(False)

    return wrapper


def through_gloo(init):
    @functools.wraps(init)
    def wrapper(backend=None, device_id=None, **kwargs):
        STATE.nccl = backend == "nccl"
        return init("gloo" if STATE.nccl else backend, **kwargs)

    return wrapper


# ---------------------------------------------------------------- the start


def install():
    """Make the device appear in this process."""
    if torch.version.cuda:
        sys.exit("this PyTorch is built for CUDA, there is nothing to pretend: use make test-cuda")
    for name, function in torch_cuda().items():
        setattr(torch.cuda, name, function)
    torch.tensor = on_the_cpu_first(torch.tensor)
    torch.as_tensor = on_the_cpu_first(torch.as_tensor)
    torch.Tensor.numpy = refusing(torch.Tensor.numpy)
    torch.Tensor.__array__ = refusing(torch.Tensor.__array__)
    torch.Tensor.cuda = lambda self, device=None, non_blocking=False: self.to(
        GPU, non_blocking=non_blocking
    )
    torch.Tensor.new_tensor = lambda self, *args, **kwargs: torch.tensor(
        *args, **{"dtype": self.dtype, "device": self.device, **kwargs}
    )
    nn.Module._apply = swapping(nn.Module._apply)
    torch.distributed.init_process_group = through_gloo(torch.distributed.init_process_group)
    OnTheDevice().__enter__()
