"""Train a small network on Fashion-MNIST.

Alone:         python mnist_mlp.py
Four workers:  gearshift run -n 4 mnist_mlp.py
As a file says: gearshift run ../jobs/mnist_mlp.toml

The strategy is left to whoever starts it:
               gearshift run -n 4 --strategy ps:asp mnist_mlp.py --lr 0.02
(stale gradients bear a lower learning rate than the default).
The five lines marked (1) to (5) are all that tells it from a single-process script.
"""
# ruff: noqa: E401, I001

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gearshift as gs, gearshift.torch as gst  # (1)
from gearshift.data import fashion_mnist


def load(split: str) -> TensorDataset:
    data = fashion_mnist.load(split)
    images = torch.from_numpy(data.images).float().flatten(1) / 255
    return TensorDataset(images, torch.from_numpy(data.labels).long())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=0.1)
    arguments = parser.parse_args()

    gs.init()  # (2)
    torch.manual_seed(0)
    train_set, test_set = load("train"), load("test")
    model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=arguments.lr, momentum=0.9)
    model, optimizer = gst.distribute(model, optimizer)  # (3)
    loader = DataLoader(train_set, batch_size=64, sampler=gst.DistributedSampler(train_set))  # (4)

    for epoch in range(arguments.epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step(loss=loss)  # (5)

        with torch.no_grad():
            images, labels = test_set.tensors
            accuracy = (model(images).argmax(1) == labels).float().mean()
        print(f"epoch {epoch + 1}: test accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
