"""What makes training fast. It changes how a step is computed, never what is computed.

`--fast false --precision fp32` does without it; `python -m tools.benchmark` measures it.
"""

import ctypes
import warnings
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from engine.processes import Processes

# Adam warns when a capturable optimizer steps outside a graph, as in the first steps.
warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")

# What layers compute in, unless it is fp32.
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(precision: str, device: torch.device) -> tuple[str, str]:
    """fp32, bf16 or fp16, for auto fp32 or bf16, whichever is faster; and the reason."""
    if precision == "fp16" and device.type != "cuda":
        return precision, f"as configured; made for GPUs, and perhaps very slow on this {device}"
    if precision != "auto":
        return precision, "as configured"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "this GPU supports it"
        return "fp32", why_not_bf16(torch.cuda.get_device_capability(device))
    # Private, so perhaps absent one day.
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    if device.type == "cpu" and supported():
        return "bf16", "this CPU supports it"
    return "fp32", f"bf16 would be emulated on this {device.type} device"


def why_not_bf16(capability: tuple[int, int]) -> str:
    """Why a GPU of this compute capability, which has no bf16, trains in fp32."""
    if capability >= (7, 0):  # Volta and Turing: fp16 is fast there, but not measured yet
        return "this GPU has no bf16; --precision fp16 may be faster"
    return "this GPU has no bf16"


def agree_on_precision(precision: str, processes: Processes) -> tuple[str, str]:
    """`choose_precision`, the same in all processes: fp32 if one of them has no other."""
    chosen, reason = choose_precision(precision, processes.device)
    if processes.largest(chosen == "fp32")[0] and chosen != "fp32":
        return "fp32", "another process has no other"
    return chosen, reason


def mixed_precision(precision: str, device: torch.device) -> torch.autocast:
    """A context in which layers compute in bf16 or fp16 if `precision` says so. Weights, the
    statistics of norms, the networks' last layers and the losses stay in fp32."""
    enabled, kind = precision in HALVES, HALVES.get(precision, torch.bfloat16)
    # Without its cache, each use of a weight casts it anew, and gradients are added up in fp32.
    return torch.autocast(device.type, kind, enabled=enabled, cache_enabled=False)


def loss_scale(precision: str) -> float:
    """The factor of losses before `backward`, so that few gradients are too small for fp16. It is
    a constant, as nothing in a CUDA graph may depend on whether a gradient overflowed.

    fp16 holds numbers from 6e-8 to 65504: gradients overflow at 65504 / 256 = 256. In the paper's
    network on facades, at batch 1 after 7,464 steps, the largest was 7.9. Of those of activations,
    0.04% became 0, and no layer's were off by more than 0.8%, but 12% with a scale of 16."""
    return 256.0 if precision == "fp16" else 1.0


def adam_epsilon(precision: str) -> float:
    """PyTorch's eps, scaled like the losses: Adam then divides scaled moments by one another, and
    its update is exactly that of unscaled losses, as the scale is a power of 2."""
    return 1e-8 * loss_scale(precision)


def after_overflow(precision: str) -> str:
    """What to try when losses or weights are not finite."""
    if precision == "fp16":
        return "Resume with --precision fp32: fp16 overflows above 65504"
    return "Try a lower learning_rate"


def speed_up(networks: list[nn.Module], precision: str, x: Tensor) -> bool:
    """Prepares networks, in place, for training on batches like `x`, (B, C, H, W), which the first
    network takes. Returns whether Adam should be `fused`, too: not on a CPU in fp32, where results
    at batch 1 stay equal bit for bit. Elsewhere they differ by rounding."""
    device = next(networks[0].parameters()).device.type
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
    half = precision in HALVES
    channels_last = device in ("cpu", "cuda") and half
    if device == "cuda" and precision == "fp32":  # in TF32; without it, it is slower
        channels_last = torch.cuda.get_device_capability() >= (8, 0)
    if channels_last and device == "cpu":
        use_matrix_products(networks[0], x)
    modules = [module for network in networks for module in network.modules()]
    if channels_last:
        use_channels_last(modules)
    if device in ("cpu", "cuda"):
        for module in modules:
            if isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d):
                module.register_forward_hook(matching_gradient)
                if channels_last and device == "cuda" and isinstance(module, nn.InstanceNorm2d):
                    module.register_forward_hook(in_channels_last)
    if device == "cpu":
        keep_heap(len(x))
    return device != "cpu" or half


def speed_up_inference(generator: nn.Module) -> None:
    """Prepares a loaded generator, in place, for translation on a CPU: a third less time with 64
    filters. Results differ by rounding, less than 0.001 of 255."""
    if next(generator.parameters()).device.type != "cpu":
        return
    side = generator.config.crop_size  # for images of about this size
    use_matrix_products(generator, torch.empty(1, generator.in_channels, side, side, device="meta"))
    use_channels_last(generator.modules())


def use_channels_last(modules: Iterable[nn.Module]) -> None:
    for module in modules:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.to(memory_format=torch.channels_last)


def fused(optimizer: Adam) -> Adam:
    """The same Adam in one pass over memory. On a GPU its learning rate and step count are tensors
    there, where a graph can read them."""
    (group,) = optimizer.param_groups
    on_gpu = group["params"][0].is_cuda
    rate = torch.tensor(group["lr"], device=group["params"][0].device) if on_gpu else group["lr"]
    options = {name: group[name] for name in ("betas", "eps")}
    return Adam(group["params"], rate, **options, fused=True, capturable=on_gpu)


def set_learning_rate(optimizer: Adam, rate: float) -> None:
    (group,) = optimizer.param_groups
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def match_layout(network: nn.Module, other: nn.Module) -> None:
    """Gives a network's weights the memory layout of the other's, for fast elementwise steps."""
    for weight, example in zip(network.parameters(), other.parameters(), strict=True):
        weight.data = torch.empty_like(example).copy_(weight)


def keep_heap(batch_size: int) -> None:
    """Keeps freed memory in the process (glibc); the system would zero it, a quarter of a step at
    batch 1. Blocks larger than a batch's activations, which fragment the heap, are returned."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    trim_threshold, mmap_threshold = -1, -3  # <malloc.h>
    mallopt(trim_threshold, 256 * 2**20)
    mallopt(mmap_threshold, min(batch_size * 32 * 2**20, 2**31 - 1))


def matching_gradient(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
    """A forward hook for norms: gives their gradient the memory layout of the output. For a slice
    of concatenated tensors, PyTorch's batch norm backward is 10 to 40 times slower; for a tensor
    transposed by a matrix product, at batch 1, it can be wrong (seen in 2.6 and 2.15)."""
    strides = output.stride()

    def match(gradient: Tensor) -> Tensor:
        if gradient.stride() == strides:
            return gradient
        return gradient.new_empty_strided(gradient.shape, strides).copy_(gradient)

    if output.requires_grad:
        output.register_hook(match)


def in_channels_last(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    """A forward hook: instance norm loses channels-last; one copy here saves one in each reader."""
    return output.contiguous(memory_format=torch.channels_last)


SMALL = 256  # positions of the smaller image; beyond, unfolding costs more than a product saves


def use_matrix_products(network: nn.Module, x: Tensor) -> None:
    """Replaces, in place, the 4x4 stride 2 convolutions that are faster as matrix products when
    `network` takes x: the inner ones, where bf16 convolutions spend their time on rearranging large
    weights for tiny images. Saves a fifth of a step at batch 1."""
    small = []

    def look(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        image = output if isinstance(module, nn.Conv2d) else inputs[0]
        if len(x) * image.shape[-2] * image.shape[-1] <= SMALL:
            small.append(module)

    hooks = []
    for module in network.modules():
        plain = type(module) in PRODUCTS and module.kernel_size == (4, 4)
        if plain and module.stride == (2, 2) and module.bias is None:
            hooks.append(module.register_forward_hook(look))
    with torch.no_grad():
        network(torch.zeros(x[:1].shape), noise=False)
    for hook in hooks:
        hook.remove()
    for name, module in list(network.named_modules()):
        if module in small:
            network.set_submodule(name, PRODUCTS[type(module)](module))


class DownProduct(nn.Module):
    """A 4x4 stride 2 convolution as a matrix product: (B, C, H, W) -> (B, C', H/2, W/2)."""

    def __init__(self, convolution: nn.Conv2d):
        super().__init__()
        self.weight = convolution.weight

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if len(x) * height * width > 4 * SMALL:  # larger than those it was chosen for
            return F.conv2d(x, self.weight, stride=2, padding=1)
        patches = F.unfold(x, 4, padding=1, stride=2)  # (B, C * 16, H/2 * W/2)
        return (self.weight.flatten(1) @ patches).unflatten(2, (height // 2, width // 2))


class UpProduct(nn.Module):
    """The 4x4 stride 2 transposed convolution likewise: (B, C, H, W) -> (B, C', 2H, 2W)."""

    def __init__(self, convolution: nn.ConvTranspose2d):
        super().__init__()
        self.weight = convolution.weight

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if len(x) * height * width > SMALL:
            return F.conv_transpose2d(x, self.weight, stride=2, padding=1)
        patches = x.flatten(2).transpose(1, 2) @ self.weight.flatten(1)  # (B, H * W, C' * 16)
        return F.fold(patches.transpose(1, 2), (2 * height, 2 * width), 4, padding=1, stride=2)


PRODUCTS = {nn.Conv2d: DownProduct, nn.ConvTranspose2d: UpProduct}
