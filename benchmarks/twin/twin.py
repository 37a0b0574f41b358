"""MoCo's CIFAR-10 demo a second time, in plain PyTorch, as a control.

python twin.py --data=DIR --seed=0 --output=twin.jsonl

Written from the published settings (the notebook of the official repository)
by somebody who had not seen moco_tf, which it does not use. At a quarter of
the size, for two CPU cores: ResNet-18 of 16, 32, 64 and 128 channels, 10,000
training images (the first 1,000 files of each class), batch 256, a queue of
2,048 keys, 50 epochs. One direction, one linear layer as the head, shuffled
BatchNorm in 8 groups. After each epoch kNN over all test images.

Appends a line per epoch to the output, keeps its state in twin.seed0.pt beside
it, and goes on from there when it is started again.
"""

import argparse
import copy
import json
import math
import os
import random
import time
from pathlib import Path

# Before torch: threads that spin are very slow on a machine that others use.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
import network  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
import views  # noqa: E402

BATCH, QUEUE, MOMENTUM, TEMPERATURE = 256, 2048, 0.99, 0.1
RATE, SGD_MOMENTUM, WEIGHT_DECAY = 0.03, 0.9, 5e-4
NEIGHBOURS, VOTE_TEMPERATURE = 200, 0.1


class Twin:
    """Both encoders, the queue, the optimiser and the random numbers."""

    def __init__(self, seed, width):
        torch.manual_seed(seed)
        self.rng = random.Random(seed)  # of the views
        self.query_encoder = network.Encoder(width).to(
            memory_format=torch.channels_last
        )
        self.key_encoder = copy.deepcopy(self.query_encoder)
        self.key_encoder.requires_grad_(False)
        # Random directions at first.
        self.queue = F.normalize(torch.randn(QUEUE, network.DIM), dim=1)
        self.pointer = 0
        self.optimizer = torch.optim.SGD(
            self.query_encoder.parameters(),
            RATE,
            SGD_MOMENTUM,
            weight_decay=WEIGHT_DECAY,
        )
        self._parts = ("query_encoder", "key_encoder", "optimizer")

    def state(self):
        """What a run goes on from, for torch.save."""
        return {
            name: getattr(self, name).state_dict() for name in self._parts
        } | {
            "queue": self.queue,
            "pointer": self.pointer,
            "torch_rng": torch.get_rng_state(),
            "augmentation_rng": self.rng.getstate(),
        }

    def restore(self, state):
        """Takes up the state of an epoch's end."""
        for name in self._parts:
            getattr(self, name).load_state_dict(state[name])
        self.queue, self.pointer = state["queue"], state["pointer"]
        torch.set_rng_state(state["torch_rng"])
        self.rng.setstate(state["augmentation_rng"])

    def step(self, query_view, key_view):
        """One step of training; returns its loss."""
        query = F.normalize(self.query_encoder(query_view), dim=1)
        with torch.no_grad():
            # Parameters only: the key encoder's running statistics are its own.
            for key_weight, query_weight in zip(
                self.key_encoder.parameters(),
                self.query_encoder.parameters(),
                strict=True,
            ):
                key_weight.mul_(MOMENTUM).add_(query_weight, alpha=1 - MOMENTUM)
            shuffle = torch.randperm(BATCH)
            key = F.normalize(self.key_encoder(key_view[shuffle]), dim=1)
            key = key[shuffle.argsort()]
        positive = (query * key).sum(1, keepdim=True)
        logits = torch.cat([positive, query @ self.queue.T], dim=1)
        loss = F.cross_entropy(
            logits / TEMPERATURE, torch.zeros(BATCH, dtype=torch.long)
        )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        # QUEUE is a multiple of BATCH.
        self.queue[self.pointer : self.pointer + BATCH] = key
        self.pointer = (self.pointer + BATCH) % QUEUE
        return loss.item()

    def train(self, images):
        """One epoch without its last, partial batch; returns the mean loss."""
        self.query_encoder.train()
        self.key_encoder.train()  # keys too have their batch's statistics
        losses, order = [], torch.randperm(len(images)).numpy()
        for start in range(0, len(images) - BATCH + 1, BATCH):
            batch = images[order[start : start + BATCH]]
            query_view, key_view = (
                views.view_of(batch, self.rng) for _ in range(2)
            )
            losses.append(self.step(query_view, key_view))
        return sum(losses) / len(losses)


def rate_of(epoch, epochs):
    """As in the notebook, epochs from 1: the last one has the rate 0."""
    return RATE * 0.5 * (1 + math.cos(math.pi * epoch / epochs))


@torch.no_grad()
def encode(encoder, pixels):
    """Normalised features and outputs of all images, as they are."""
    encoder.eval()
    features = torch.cat([encoder.backbone(part) for part in pixels.split(250)])
    outputs = encoder.head(features)
    return F.normalize(features, dim=1), F.normalize(outputs, dim=1)


def knn_percent(bank, bank_labels, queries, labels, classes=10):
    """Percent of queries that win the vote, weighted by exp(cosine / T)."""
    winners = []
    for part in queries.split(1000):
        cosine, nearest = (part @ bank.T).topk(NEIGHBOURS, dim=1)
        votes = torch.zeros(len(part), classes).scatter_add_(
            1, bank_labels[nearest], (cosine / VOTE_TEMPERATURE).exp()
        )
        winners.append(votes.argmax(1))
    return 100 * (torch.cat(winners) == labels).double().mean().item()


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument(
        "--stop_after", type=int, default=10**9, help="epoch, same schedule"
    )
    return parser.parse_args()


def main():
    """Trains, evaluates, records and saves, from the last finished epoch."""
    args = parse()
    torch.set_num_threads(args.threads)
    twin = Twin(args.seed, args.width)
    images, image_labels = views.load_images(args.data / "train", 1000)
    test_images, labels = views.load_images(args.data / "test")
    bank_pixels, pixels = views.to_tensor(images), views.to_tensor(test_images)
    setting = {
        name: getattr(args, name) for name in ("seed", "epochs", "width")
    }
    checkpoint = args.output.with_suffix(f".seed{args.seed}.pt")
    first_epoch = 0  # the untrained encoder
    if checkpoint.exists():
        state = torch.load(checkpoint)
        if state["setting"] != setting:
            raise SystemExit(f"{checkpoint} has the setting {state['setting']}")
        twin.restore(state)
        first_epoch = state["epoch"] + 1
    for epoch in range(first_epoch, min(args.epochs, args.stop_after) + 1):
        began, loss = time.time(), None
        if epoch > 0:
            rate = rate_of(epoch, args.epochs)
            twin.optimizer.param_groups[0]["lr"] = rate
            loss = round(twin.train(images), 4)
        bank = encode(twin.query_encoder, bank_pixels)
        queries = encode(twin.query_encoder, pixels)
        backbone, output = (
            round(knn_percent(b, image_labels, q, labels), 2)
            for b, q in zip(bank, queries, strict=True)
        )
        record = {
            "run": "twin",
            "seed": args.seed,
            "epoch": epoch,
            "loss": loss,
        }
        record |= {"knn_backbone": backbone, "knn_output": output}
        record["seconds"] = round(time.time() - began, 1)
        with args.output.open("a") as file:
            print(json.dumps(record), file=file)
        print(record, flush=True)
        state = {"setting": setting, "epoch": epoch} | twin.state()
        torch.save(state, f"{checkpoint}.part")
        os.replace(f"{checkpoint}.part", checkpoint)  # all of it or nothing


if __name__ == "__main__":
    main()
