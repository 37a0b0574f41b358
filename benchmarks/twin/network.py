"""The encoder of the twin: a CIFAR ResNet-18 and one linear layer."""

import torch
import torch.nn.functional as F
from torch import nn

DIM, GROUPS = 128, 8


class GroupedBatchNorm(nn.BatchNorm2d):
    """BatchNorm by groups of the batch; running statistics are their mean."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        means = self.running_mean.repeat(GROUPS, 1)
        variances = self.running_var.repeat(GROUPS, 1)
        # Groups are consecutive rows: any equal split means the same, as the
        # batch is in random order.
        learned = self.weight, self.bias, True, self.momentum, self.eps
        parts = [
            F.batch_norm(part, means[i], variances[i], *learned)
            for i, part in enumerate(x.chunk(GROUPS))
        ]
        self.running_mean.copy_(means.mean(0))
        self.running_var.copy_(variances.mean(0))
        return torch.cat(parts)


def convolution(channels_in, channels, size, stride):
    """A convolution without a bias, and its BatchNorm."""
    return (
        nn.Conv2d(channels_in, channels, size, stride, size // 2, bias=False),
        GroupedBatchNorm(channels),
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, channels_in, channels, stride):
        super().__init__()
        self.residual = nn.Sequential(
            *convolution(channels_in, channels, 3, stride),
            nn.ReLU(True),
            *convolution(channels, channels, 3, 1),
        )
        self.shortcut = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                *convolution(channels_in, channels, 1, stride)
            )

    def forward(self, x):
        return F.relu(self.residual(x) + self.shortcut(x), inplace=True)


class Encoder(nn.Module):
    """ResNet-18 with a 3x3 stem, no max-pool, and one linear layer to DIM."""

    def __init__(self, width):
        super().__init__()
        channels = [round(c * width) for c in (64, 128, 256, 512)]
        layers = [*convolution(3, channels[0], 3, 1), nn.ReLU(True)]
        inputs = channels[:1] + channels[:-1]
        for before, c, stride in zip(
            inputs, channels, (1, 2, 2, 2), strict=True
        ):
            layers += [BasicBlock(before, c, stride), BasicBlock(c, c, 1)]
        self.backbone = nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Linear(channels[-1], DIM)
        # As torchvision's ResNet: convolutions (the stem too) kaiming-normal,
        # fan-out, ReLU gain; BatchNorm 1 and 0, the last of a block too; the
        # linear layer keeps torch's uniform +-1/sqrt(fan-in).
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(
                    module.weight, mode="fan_out", nonlinearity="relu"
                )

    def forward(self, x):
        """The output of the head, not normalised."""
        return self.head(self.backbone(x))
