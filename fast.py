"""What makes training fast. It changes how a step is computed, never what is computed.

`python train.py --fast false --precision fp32` does without all of it: the step as train.py has it,
line by line. Each function here says what it saves; benchmark.py measures it.
"""

import ctypes
import time
import warnings
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

# Adam warns when what a graph could record runs outside of one, as the first steps do.
warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")

# ---- Precision --------------------------------------------------------------------------------


def choose_precision(precision: str, device: torch.device) -> tuple[str, str]:
    """fp32 or bf16 for `config.precision`, and the reason in words."""
    if precision != "auto":
        return precision, "as configured"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "this GPU computes in it"
        return "fp32", "this GPU has no bf16"
    if device.type == "cpu":
        gain = bfloat16_gain()
        measured = f"a convolution takes {1 / gain:.2f} times as long in bf16 as in fp32 here"
        return ("bf16" if gain > 1.3 else "fp32"), measured
    return "fp32", f"the choice on {device.type}"


def bfloat16_gain() -> float:
    """How many times as fast one of the networks' convolutions is in bf16 as in fp32 on the CPU.

    Measured in the time of one core alone, so that it is the same while others use it too.
    """
    seconds = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for kind in (torch.float32, torch.bfloat16):
        x, weight = torch.ones(1, 128, 64, 64, dtype=kind), torch.ones(256, 128, 4, 4, dtype=kind)
        F.conv2d(x, weight, stride=2, padding=1)
        start = time.thread_time()
        for _ in range(20):
            F.conv2d(x, weight, stride=2, padding=1)
        seconds[kind] = time.thread_time() - start
    torch.set_num_threads(threads)
    return seconds[torch.float32] / max(seconds[torch.bfloat16], 1e-9)


def use_bfloat16(network: nn.Module, last: nn.Module) -> None:
    """Lets a network compute in bf16 where that is safe.

    Its `last` layer does not, for nothing would average its rounding out. Weights, the statistics
    of the norms and what comes out, so the losses too, stay in fp32.
    """
    device = next(network.parameters()).device.type
    inside, outside = last.forward, network.forward

    def full(x: Tensor) -> Tensor:
        with torch.autocast(device, enabled=False):
            return inside(x.float())

    def mixed(*images: Tensor, **options) -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            return outside(*images, **options)

    last.forward, network.forward = full, mixed


# ---- All devices ------------------------------------------------------------------------------


def prepare(model, config):
    """The `train.Model` as `config.precision` and `config.fast` want it trained. The networks are
    changed in place; their weights and their names stay."""
    if config.precision == "bf16":
        use_bfloat16(model.generator, model.generator.output)
        if model.discriminator:
            use_bfloat16(model.discriminator, model.discriminator.layers[-1])
    return speed_up(model, config) if config.fast else model


def speed_up(model, config):
    """The model prepared for speed.

    On a CPU in fp32 at batch 1 the result stays the same bit by bit. Else it differs by rounding:
    Adam is fused, and memory is laid out channels last, as the fast convolutions have it.
    """
    device = next(model.generator.parameters()).device.type
    networks = filter(None, (model.generator, model.discriminator))
    modules = [module for network in networks for module in network.modules()]
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
    if device == "cuda" or (device == "cpu" and config.precision == "bf16"):
        products = small_layers(model.generator, config) if device == "cpu" else []
        for module in modules:
            if module in products:
                module.forward = partial(PRODUCTS[type(module)], module)
            elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.to(memory_format=torch.channels_last)
        model = model._replace(
            optimizer_g=fused(model.optimizer_g),
            optimizer_d=model.optimizer_d and fused(model.optimizer_d),
        )
    if device == "cpu":
        for module in modules:
            if isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d):
                module.register_forward_hook(matching_gradient)
        keep_heap(config.batch_size)
    return model


def lay_out_as(network: nn.Module, other: nn.Module) -> None:
    """Gives the weights of a network the layout in memory that they have in the other, for
    what is computed of both is quick only if they agree."""
    for weight, example in zip(network.parameters(), other.parameters(), strict=True):
        weight.data = torch.empty_like(example).copy_(weight)


def fused(optimizer: Adam) -> Adam:
    """The same Adam in one pass over memory; on a GPU its learning rate and step count lie there,
    where a graph can read them."""
    (group,) = optimizer.param_groups
    on_gpu = group["params"][0].is_cuda
    rate = torch.tensor(group["lr"], device=group["params"][0].device) if on_gpu else group["lr"]
    return Adam(group["params"], rate, betas=group["betas"], fused=True, capturable=on_gpu)


# ---- CPU --------------------------------------------------------------------------------------


def keep_heap(batch_size: int) -> None:
    """Lets freed memory stay with the process, for the next step needs as much.

    The C library gives large blocks back to the system, which hands them out again page by page and
    zeroed: a quarter of a step at batch 1. Still given back are blocks larger than a batch's
    activations, the gradients of the largest weights: kept, they would scatter over the heap and
    raise its peak. glibc only; elsewhere nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    trim_threshold, mmap_threshold = -1, -3  # <malloc.h>
    mallopt(trim_threshold, 256 * 2**20)
    mallopt(mmap_threshold, min(batch_size * 32 * 2**20, 2**31 - 1))


def matching_gradient(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
    """A forward hook for norms: the gradient comes back laid out in memory as the output.

    From where two tensors were joined it comes as a slice, on which PyTorch's batch norm is 10 to
    40 times as slow backwards: a tenth of a step at batch 8. From a matrix product it may come
    transposed, and then at batch 1 PyTorch's result can be wrong (seen in 2.6 and 2.15).
    """
    if not output.requires_grad:
        return
    strides = output.stride()

    def match(gradient: Tensor) -> Tensor:
        if gradient.stride() == strides:
            return gradient
        return gradient.new_empty_strided(gradient.shape, strides).copy_(gradient)

    output.register_hook(match)


# Output positions of a convolution, or input positions of a transposed one, up to which it is
# computed as a matrix product. Beyond, unfolding the picture costs more than the product saves.
SMALL = 256


def small_layers(generator: nn.Module, config) -> list[nn.Module]:
    """The generator's convolutions that are faster as matrix products: the inner ones, which have
    large weights and tiny pictures, so that bf16 convolutions spend their time on rearranging the
    weights. A fifth of a step at batch 1."""
    # After each layer of the encoder, and so before its counterpart in the decoder.
    sides = [config.crop_size >> level for level in range(1, generator.depth + 1)]
    small = [config.batch_size * side**2 <= SMALL for side in sides]
    layers = [
        *zip(generator.encoder, small, strict=True),
        *zip(generator.decoder, reversed(small), strict=False),  # the output layer is none of them
    ]
    modules = [module for layer, is_small in layers if is_small for module in layer]
    # The plain 3x3 convolutions of another upsampling are none of these.
    return [m for m in modules if type(m) in PRODUCTS and m.stride == (2, 2)]


def multiply_down(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """The 4x4 convolution of stride 2 as a matrix product: (B, C, H, W) -> (B, C', H/2, W/2)."""
    height, width = x.shape[-2:]
    patches = F.unfold(x, 4, padding=1, stride=2).transpose(1, 2)  # (B, H/2 * W/2, C * 16)
    y = F.linear(patches, convolution.weight.flatten(1)).transpose(1, 2)
    return y.contiguous().unflatten(2, (height // 2, width // 2))


def multiply_up(convolution: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """The transposed one as a matrix product: (B, C, H, W) -> (B, C', 2H, 2W)."""
    height, width = x.shape[-2:]
    patches = x.flatten(2).transpose(1, 2) @ convolution.weight.flatten(1)  # (B, H * W, C' * 16)
    return F.fold(patches.transpose(1, 2), (2 * height, 2 * width), 4, padding=1, stride=2)


PRODUCTS = {nn.Conv2d: multiply_down, nn.ConvTranspose2d: multiply_up}


# ---- GPU --------------------------------------------------------------------------------------


class GraphedStep:
    """A training step that is recorded as a CUDA graph and replayed from then on: one launch
    instead of some thousand, which at batch 1 take longer than the work itself.

    The first steps are taken as they are, while cuDNN chooses its algorithms and Adam sets up its
    state. Every batch has to have the shape of the first. Returns the step's losses in a tensor
    that the next step overwrites.
    """

    warm_up = 3

    def __init__(self, step):
        self.step = step  # (x, y) -> losses
        self.taken = 0
        self.graph = None
        self.side = torch.cuda.Stream()

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        self.taken += 1
        if self.taken <= self.warm_up:
            return self.beside(x, y)
        if self.graph is None:
            self.x, self.y = x.clone(), y.clone()
            self.graph = torch.cuda.CUDAGraph()
            # thread_local: a loader's thread may pin memory meanwhile
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self.losses = self.step(self.x, self.y)  # recorded, not yet computed
        self.x.copy_(x)
        self.y.copy_(y)
        self.graph.replay()
        return self.losses

    def beside(self, x: Tensor, y: Tensor) -> Tensor:
        """The step on a stream of its own, as a recording asks of what comes before it."""
        main = torch.cuda.current_stream()
        self.side.wait_stream(main)
        with torch.cuda.stream(self.side):
            losses = self.step(x, y)
        main.wait_stream(self.side)
        return losses
