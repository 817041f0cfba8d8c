"""Workloads of well-known networks, computed from their definitions.

Times are floating-point operations over a rate: two for each multiply-accumulate of forward, twice
as many in backward, layer by layer from the last to the first. Nothing is measured, and no library
with the networks is needed::

    python -m gearshift.sim.architectures --rate 10e12 --out examples/workloads
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from ..errors import Error, InvalidArgument
from .layers import (
    Layer,
    Network,
    convolution,
    dense,
    embedding,
    normalisation,
    product_with,
    products,
)
from .workload import Workload, WorkloadParameter

RATE, BANDWIDTH = 10e12, 500e9
_LEAST, _MOST = 1e6, 1e21
"""Per second; beyond, times are none that a simulation takes."""

_TRAFFIC = {"SGD with momentum": 20, "AdamW": 28}
"""Bytes that an update moves per float32 parameter: reads value, gradient, state; writes value,
state."""


def resnet50() -> Network:
    """Bottlenecks with the stride in their 3 × 3 convolution, as torchvision has them."""
    layers = [convolution("conv1", 3, 64, 7, 112), normalisation("bn1", 64)]
    inputs, side = 64, 56
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), 1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            before = side
            if block == 0 and stage > 1:
                side //= 2
            layers += _bottleneck(name, inputs, width, before, side, project=block == 0)
            inputs = 4 * width
    layers.append(dense("fc", inputs, 1000))
    source = "as in torchvision, input 3 x 224 x 224"
    return Network("ResNet-50", source, 32, "SGD with momentum", tuple(layers))


def _bottleneck(
    name: str, inputs: int, width: int, before: int, side: int, *, project: bool
) -> list[Layer]:
    outputs = 4 * width
    layers = [
        convolution(f"{name}.conv1", inputs, width, 1, before),
        normalisation(f"{name}.bn1", width),
        convolution(f"{name}.conv2", width, width, 3, side),
        normalisation(f"{name}.bn2", width),
        convolution(f"{name}.conv3", width, outputs, 1, side),
        normalisation(f"{name}.bn3", outputs),
    ]
    if project:
        layers.append(convolution(f"{name}.downsample.0", inputs, outputs, 1, side))
        layers.append(normalisation(f"{name}.downsample.1", outputs))
    return layers


def vgg16() -> Network:
    """Configuration D, without BatchNorm."""
    layers: list[Layer] = []
    inputs, side, index = 3, 224, 0
    for widths in ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3):
        for width in widths:
            layers.append(convolution(f"features.{index}", inputs, width, 3, side, bias=True))
            inputs, index = width, index + 2  # an activation follows
        side, index = side // 2, index + 1  # pooling
    layers.append(dense("classifier.0", inputs * side * side, 4096))
    layers.append(dense("classifier.3", 4096, 4096))
    layers.append(dense("classifier.6", 4096, 1000))
    source = "as in torchvision, input 3 x 224 x 224"
    return Network("VGG-16", source, 32, "SGD with momentum", tuple(layers))


def bert_base() -> Network:
    """The encoder with its pooler, uncased, without heads for pre-training."""
    width, inner, tokens = 768, 3072, 128
    layers = [
        embedding("embeddings.word_embeddings", 30522, width),
        embedding("embeddings.position_embeddings", 512, width),
        embedding("embeddings.token_type_embeddings", 2, width),
        normalisation("embeddings.LayerNorm", width),
    ]
    for i in range(12):
        name = f"encoder.layer.{i}"
        layers += [
            dense(f"{name}.attention.self.{part}", width, width, tokens)
            for part in ("query", "key", "value")
        ]
        layers += [
            products(width, tokens),
            dense(f"{name}.attention.output.dense", width, width, tokens),
            normalisation(f"{name}.attention.output.LayerNorm", width),
            dense(f"{name}.intermediate.dense", width, inner, tokens),
            dense(f"{name}.output.dense", inner, width, tokens),
            normalisation(f"{name}.output.LayerNorm", width),
        ]
    layers.append(dense("pooler.dense", width, width))  # of the first token
    source = "as BertModel of Transformers, uncased, with pooler; sequences of 128 tokens"
    return Network("BERT-base", source, 32, "AdamW", tuple(layers))


def gpt2_small() -> Network:
    """The decoder of 12 layers, whose output layer is its table of token vectors."""
    width, tokens, words = 768, 1024, 50257
    layers = [
        embedding("transformer.wte", words, width),
        embedding("transformer.wpe", 1024, width),
    ]
    for i in range(12):
        name = f"transformer.h.{i}"
        layers += [
            normalisation(f"{name}.ln_1", width),
            dense(f"{name}.attn.c_attn", width, 3 * width, tokens, transposed=True),
            products(width, tokens),
            dense(f"{name}.attn.c_proj", width, width, tokens, transposed=True),
            normalisation(f"{name}.ln_2", width),
            dense(f"{name}.mlp.c_fc", width, 4 * width, tokens, transposed=True),
            dense(f"{name}.mlp.c_proj", 4 * width, width, tokens, transposed=True),
        ]
    layers.append(normalisation("transformer.ln_f", width))
    layers.append(product_with(words, width, tokens))
    source = "as GPT2LMHeadModel of Transformers, tied embeddings; sequences of 1024 tokens"
    return Network("GPT-2 small", source, 8, "AdamW", tuple(layers))


NETWORKS: dict[str, Callable[[], Network]] = {
    "resnet50": resnet50,
    "vgg16": vgg16,
    "bert-base": bert_base,
    "gpt2-small": gpt2_small,
}
"""By the stems of their files."""


def workload_of(network: Network, rate: float = RATE, bandwidth: float = BANDWIDTH) -> Workload:
    """The network's step on a machine of a sustained rate (FLOP/s) and memory (bytes/s)."""
    second = 2 * network.batch_size / rate
    forward = network.macs * second
    done = 0
    parameters: list[WorkloadParameter] = []
    for layer in reversed(network.layers):
        done += layer.macs
        ready = 2 * done * second
        parameters += [
            WorkloadParameter(name, shape, ready_seconds=ready)
            for name, shape in reversed(layer.parameters)
        ]
    update = network.elements * _TRAFFIC[network.optimizer] / bandwidth
    return Workload(
        name=network.name,
        batch_size=network.batch_size,
        forward_seconds=forward,
        backward_seconds=2 * forward,
        optimizer_seconds=update,
        parameters=tuple(reversed(parameters)),
    )


def comment_of(network: Network, rate: float, bandwidth: float) -> str:
    """What the file says about its origin."""
    return (
        f"{network.name}, {network.source}: {network.elements:,} parameters,\n"
        f"{network.macs / 1e9:.2f} GMACs per sample in forward.\n"
        f"Computed, not measured, by `python -m gearshift.sim.architectures`: at a sustained\n"
        f"{rate / 1e12:g} TFLOP/s; backward is twice forward, layer by layer; the optimizer "
        f"({network.optimizer})\n"
        f"moves {_TRAFFIC[network.optimizer]} bytes per parameter at {bandwidth / 1e9:g} GB/s."
    )


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description="Compute the workloads of well-known networks.")
    parser.add_argument("--rate", type=float, default=RATE, help="sustained FLOP/s (%(default)g)")
    parser.add_argument(
        "--bandwidth", type=float, default=BANDWIDTH, help="of memory, bytes/s (%(default)g)"
    )
    parser.add_argument("--out", type=Path, default=Path("examples/workloads"))
    arguments = parser.parse_args()
    try:
        _write(arguments.out, arguments.rate, arguments.bandwidth)
    except Error as error:
        parser.error(str(error))


def _write(out: Path, rate: float, bandwidth: float) -> None:
    for name, value in (("--rate", rate), ("--bandwidth", bandwidth)):
        if not _LEAST <= value <= _MOST:
            raise InvalidArgument(f"{name} {value:g}: must be from {_LEAST:g} to {_MOST:g}")
    for stem, make in NETWORKS.items():
        network = make()
        path = out / f"{stem}.toml"
        workload = workload_of(network, rate, bandwidth)
        workload.save(path, comment_of(network, rate, bandwidth))
        print(f"{path}: {network.elements:,} parameters, {network.macs / 1e9:.2f} GMACs per sample")


if __name__ == "__main__":
    main()
