"""The order of batches over a run."""

import pytest

from engine.cli import UserError
from engine.loading import TrainingOrder


def test_every_epoch_is_another_permutation():
    order = list(TrainingOrder(20, batch_size=1, epochs=3, seed=0))
    epochs = [[index for [(epoch, index)] in order if epoch == e] for e in range(3)]
    assert all(sorted(indices) == list(range(20)) for indices in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_batch_larger_than_the_dataset_is_refused():
    with pytest.raises(UserError, match=r"takes 8 .* only 6; lower batch_size"):
        TrainingOrder(6, batch_size=8, epochs=1, seed=0)
    with pytest.raises(UserError, match=r"takes 8 .* only 6; lower batch_size"):
        TrainingOrder(6, batch_size=4, epochs=1, seed=0, processes=2)
