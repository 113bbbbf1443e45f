"""Figures over epochs."""

import pytest
from matplotlib.figure import Figure as Canvas

from report.curves import epoch_figures


@pytest.mark.parametrize("epochs", [[3], [0, 1], range(300)])
def test_epochs_on_the_axis_are_whole_numbers(epochs):
    log = [
        {"epoch": epoch, "train_loss": 1.0, "train_loss_ce": 1.0, "train_lr": 0.1}
        for epoch in epochs
    ]
    for figure in epoch_figures(log):
        ax = Canvas().add_subplot()
        figure.draw(ax)
        low, high = ax.get_xlim()
        ticks = [tick for tick in ax.get_xticks() if low <= tick <= high]
        assert ticks == [int(tick) for tick in ticks]
        assert low <= epochs[0] <= epochs[-1] <= high


def test_a_log_without_values_is_drawn():
    for figure in epoch_figures([{"epoch": 0, "test_class_error": 50.0}]):
        figure.draw(Canvas().add_subplot())


@pytest.mark.parametrize("denoising", [False, True])
def test_the_caption_says_that_only_training_has_denoising_losses(denoising):
    entry = {"epoch": 0, "train_loss": 8.0, "test_loss": 4.0}
    loss = epoch_figures([entry | ({"train_loss_ce_dn": 1.0} if denoising else {})])[0]
    assert ("denoising" in loss.caption) == denoising
