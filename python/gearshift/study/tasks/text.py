"""The characters of a book: a small causal transformer that guesses the next one, under AdamW."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

import gearshift.torch as gst
from gearshift.data.bible import VARIABLE, load
from gearshift.data.dataset_error import DatasetError

from ._order import Order

TITLE = "A book's characters, transformer"
BATCH = 8
SAMPLES = 24_000
METRIC = "accuracy of the next character, of 19,200 held-out ones"
TARGET = 0.56
FORWARD, BACKWARD, OPTIMIZER = "1.4 ms", "2.4 ms", "0.87 ms"

LENGTH = 48
"""Characters of a sample."""
TRAIN, TEST = 8_000, 400
"""Samples that are learnt from, and those that are not, which follow them in the book."""
WIDTH, HEADS, LAYERS = 48, 2, 2
RATE = 3e-3


class Layer(nn.Module):
    """Attention to what was before, then a perceptron for each character."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(WIDTH)
        self.question = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.answer = nn.Linear(WIDTH, WIDTH, bias=False)
        self.before_thought = nn.LayerNorm(WIDTH)
        self.thought = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, length, width), as `x`."""
        batch, length, _ = x.shape
        parts = self.question(self.before_attention(x)).view(batch, length, 3, HEADS, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.answer(seen.transpose(1, 2).reshape(batch, length, WIDTH))
        return x + self.thought(self.before_thought(x))


class Transformer(nn.Module):
    """Scores of what comes next, for each character of a text."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(characters, WIDTH)
        self.places = nn.Embedding(LENGTH, WIDTH)
        self.layers = nn.Sequential(*(Layer() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.scores = nn.Linear(WIDTH, characters)
        for table in (self.characters, self.places):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, text: Tensor) -> Tensor:
        """Shape (batch, length, characters) for numbers of characters (batch, length)."""
        x = self.characters(text) + self.places.weight[: text.shape[1]]
        return self.scores(self.norm(self.layers(x)))


def training() -> gst.SimulatedTraining:
    """What is trained.

    Raises:
        DatasetError: when the book is missing, which says what to install, or too short.
    """
    book, needed = load(), (TRAIN + TEST) * LENGTH + 1
    if len(book) < needed:
        raise DatasetError(
            f"the book that {VARIABLE} names has {len(book):,} characters, {needed:,} are needed"
        )
    text, characters = _numbered(book[:needed])
    inputs, outputs = text[:-1].view(-1, LENGTH), text[1:].view(-1, LENGTH)
    test_inputs, test_outputs = inputs[TRAIN:], outputs[TRAIN:]
    order = Order(TRAIN, BATCH)
    model = Transformer(characters)

    def batch(worker: int, step: int, workers: int) -> tuple[Tensor, Tensor]:
        chosen = order.chosen(worker, step, workers)
        return inputs[chosen], outputs[chosen]

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())

    def evaluate(model: nn.Module) -> float:
        """How often the likeliest next character is the right one, in text not learnt from."""
        return float((model(test_inputs).argmax(2) == test_outputs).float().mean())

    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    return gst.SimulatedTraining(model, optimizer, loss, batch, evaluate)


def _numbered(text: str) -> tuple[Tensor, int]:
    """Numbers for the characters of a text, and how many different ones it has."""
    alphabet = {character: i for i, character in enumerate(sorted(set(text)))}
    return torch.tensor([alphabet[character] for character in text]), len(alphabet)
