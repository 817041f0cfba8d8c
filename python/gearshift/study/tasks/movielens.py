"""MovieLens-100K: stars that people give to films, from factors of both, under Adagrad.

Nearly all parameters are tables of which a batch uses some rows, yet gradients travel whole: much
to send for little to compute.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import gearshift.torch as gst
from gearshift.data.movielens import COUNT, FILMS, USERS, load

from ._order import Order

TITLE = "MovieLens-100K, matrix factorisation"
BATCH = 256
SAMPLES = 900_000
METRIC = "share of the variance of 10,000 held-out ratings that is explained"
TARGET = 0.33
FORWARD, BACKWARD, OPTIMIZER = "130 us", "192 us", "139 us"

TEST = 10_000
FACTORS = 16
RATE, PRICE = 0.05, 0.08


class Factors(nn.Module):
    """Stars = mean + the person's and the film's tendency + the product of their factors.

    A row of a table has the factors, and the tendency as its last column.
    """

    def __init__(self, mean: float) -> None:
        super().__init__()
        self.mean = mean
        self.people = nn.Embedding(USERS, FACTORS + 1)
        self.films = nn.Embedding(FILMS, FACTORS + 1)
        for table in (self.people, self.films):
            nn.init.normal_(table.weight[:, :-1], std=0.1)
            nn.init.zeros_(table.weight[:, -1])

    def forward(self, people: Tensor, films: Tensor) -> tuple[Tensor, Tensor]:
        """Stars, shape (batch,), of people and films, both of that shape; and the mean over the
        batch of the sum of squares of the rows that were used."""
        person, film = self.people(people), self.films(films)
        product = (person[:, :-1] * film[:, :-1]).sum(1)
        squares = (person.square() + film.square()).sum(1).mean()
        return self.mean + product + person[:, -1] + film[:, -1], squares


def training() -> gst.SimulatedTraining:
    """What is trained.

    Raises:
        DatasetError: when the data is missing; it says what to install.
    """
    data = load()
    people, films, stars = (torch.from_numpy(a) for a in (data.users, data.films, data.stars))
    mixed = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
    test, train = mixed[:TEST], mixed[TEST:]
    order = Order(len(train), BATCH)
    variance = float(stars[test].var(correction=0))
    model = Factors(float(stars[train].mean()))

    def batch(worker: int, step: int, workers: int) -> tuple[Tensor, Tensor, Tensor]:
        chosen = train[order.chosen(worker, step, workers)]
        return people[chosen], films[chosen], stars[chosen]

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Without a price for great numbers, the tables would soon know the ratings by heart."""
        guess, squares = model(batch[0], batch[1])
        return mse_loss(guess, batch[2]) + PRICE * squares

    def evaluate(model: nn.Module) -> float:
        """1 minus the mean squared error in proportion to the variance; 0: as good as the mean."""
        guess, _ = model(people[test], films[test])
        return 1 - float(mse_loss(guess, stars[test])) / variance

    optimizer = torch.optim.Adagrad(model.parameters(), lr=RATE)
    return gst.SimulatedTraining(model, optimizer, loss, batch, evaluate)
