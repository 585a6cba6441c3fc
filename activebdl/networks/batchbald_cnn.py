"""The convolutional network of the BatchBALD paper (Kirsch, van Amersfoort, Gal 2019), for MNIST."""

from torch import nn

from activebdl.networks import image_shape, network


@network("batchbald_cnn")
def batchbald_cnn(input_shape: tuple[int, ...], outputs: int, *, dropout: float = 0.5) -> nn.Module:
    """Two convolutions, each with dropout of whole channels, and two linear layers.

    Args:
        input_shape: ``(channels, height, width)``, sides of 16 or more.
        outputs: C logits; or for numbers mean and log variance, or the mean alone.
        dropout: Probability with which a channel or a unit is dropped.
    """
    channels, height, width = image_shape("batchbald_cnn", input_shape, smallest=16)
    side_h, side_w = ((height - 4) // 2 - 4) // 2, ((width - 4) // 2 - 4) // 2
    return nn.Sequential(
        nn.Conv2d(channels, 32, kernel_size=5),
        nn.Dropout2d(dropout),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(32, 64, kernel_size=5),
        nn.Dropout2d(dropout),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * side_h * side_w, 128),
        nn.Dropout(dropout),
        nn.ReLU(),
        nn.Linear(128, outputs),
    )
