"""A MoCo step in torch, to be compared with: benchmarks/torch_comparison.py.

Run by that script in an interpreter that has torch. After "ready" on standard
output it answers each line "N" on standard input by the seconds of N steps,
and those of the processor.

Torch at its best on a CPU: channels-last, multi-tensor updates of weights and
keys (`foreach`), autocast for bfloat16 with float32 similarities.
"""

import argparse
import sys
import time

import torch
from torch import nn
from torch.nn import functional

DEPTHS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


class Block(nn.Module):
    """A residual block of torchvision's layout."""

    def __init__(self, inputs, channels, stride, bottleneck):
        super().__init__()
        forms = [(channels, 3, stride), (channels, 3, 1)]
        if bottleneck:
            forms = [
                (channels, 1, 1),
                (channels, 3, stride),
                (4 * channels, 1, 1),
            ]
        self.convolutions, self.norms = nn.ModuleList(), nn.ModuleList()
        before = inputs
        for outputs, kernel, step in forms:
            self.convolutions.append(_conv(before, outputs, kernel, step))
            self.norms.append(nn.BatchNorm2d(outputs))
            before = outputs
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != before:
            self.shortcut = nn.Sequential(
                _conv(inputs, before, 1, stride), nn.BatchNorm2d(before)
            )
        self.outputs = before

    def forward(self, x):
        y, last = x, len(self.convolutions) - 1
        for number, conv in enumerate(self.convolutions):
            y = self.norms[number](conv(y))
            if number < last:
                y = functional.relu(y, inplace=True)
        return functional.relu(y + self.shortcut(x), inplace=True)


def _conv(inputs, outputs, kernel, stride):
    return nn.Conv2d(
        inputs, outputs, kernel, stride, padding=kernel // 2, bias=False
    )


def encoder(depth, stem, dim):
    """A ResNet with MoCo v2's head, images [N, 3, H, W] -> [N, dim]."""
    parts = [_conv(3, 64, 3, 1), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    if stem == "imagenet":
        parts[0] = _conv(3, 64, 7, 2)
        parts.append(nn.MaxPool2d(3, 2, padding=1))
    inputs = 64
    for stage, count in enumerate(DEPTHS[depth]):
        for number in range(count):
            stride = 2 if stage and not number else 1
            parts.append(Block(inputs, 64 * 2**stage, stride, depth > 34))
            inputs = parts[-1].outputs
    trunk = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    head = nn.Sequential(
        nn.Linear(inputs, inputs), nn.ReLU(inplace=True), nn.Linear(inputs, dim)
    )
    return nn.ModuleList([trunk, head])


class MoCo:
    """One replica of Algorithm 1 on a batch in memory."""

    def __init__(self, options):
        torch.manual_seed(0)
        layout = torch.channels_last
        form = (options.depth, options.stem, options.dim)
        self.query, self.key = encoder(*form), encoder(*form)
        self.key.load_state_dict(self.query.state_dict())
        for model in (self.query, self.key):
            model.to(memory_format=layout).train()
        for weight in self.key.parameters():
            weight.requires_grad = False
        self.queue = functional.normalize(
            torch.randn(options.dim, options.keys), dim=0
        )
        self.pointer, self.temperature = 0, 0.2
        self.half = options.precision == "mixed_bfloat16"
        self.optimizer = torch.optim.SGD(
            self.query.parameters(),
            lr=0.03,
            momentum=0.9,
            weight_decay=1e-4,
            foreach=True,
        )
        shape = [options.batch, 3, options.size, options.size]
        self.views = [
            torch.randn(shape).contiguous(memory_format=layout)
            for _ in range(2)
        ]

    def encode(self, model, images):
        trunk, head = model
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            features = trunk(images)
        return functional.normalize(head(features.float()), dim=1)

    def step(self):
        with torch.no_grad():
            keys = list(self.key.parameters())
            torch._foreach_mul_(keys, 0.999)
            torch._foreach_add_(keys, list(self.query.parameters()), alpha=1e-3)
            order = torch.randperm(len(self.views[1]))
            key = self.encode(self.key, self.views[1][order])
            key = key[torch.argsort(order)]
        query = self.encode(self.query, self.views[0])
        positive = (query * key).sum(1, keepdim=True)
        logits = torch.cat([positive, query @ self.queue], 1)
        labels = torch.zeros(len(logits), dtype=torch.long)
        loss = functional.cross_entropy(logits / self.temperature, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        end = self.pointer + len(key)
        self.queue[:, self.pointer : end] = key.T
        self.pointer = end % self.queue.shape[1]
        return loss.item()


def main():
    parser = argparse.ArgumentParser(description="A MoCo step in torch.")
    parser.add_argument("--depth", type=int, choices=DEPTHS, required=True)
    parser.add_argument("--stem", required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--keys", type=int, required=True)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = MoCo(options)
    for _ in range(2):
        model.step()
    print("ready", flush=True)
    for line in sys.stdin:
        start, begun = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            model.step()
        seconds = time.perf_counter() - start
        print(seconds, time.process_time() - begun, flush=True)


if __name__ == "__main__":
    main()
