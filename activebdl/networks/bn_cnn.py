"""A small convolutional network with batch norm, for images of about 28 x 28: what the MNIST recipe uses."""

from torch import nn

from activebdl.networks import image_shape, network


@network("bn_cnn")
def bn_cnn(
    input_shape: tuple[int, ...], outputs: int, *, dropout: float = 0.3, width: int = 32, hidden: int = 128
) -> nn.Module:
    """Four convolutions and two linear layers, batch norm after each but the last, dropout in the later half.

    Pooling comes before batch norm and relu, which then have a quarter of the work. Dropout begins where nine tenths of
    the multiplications are done: these are the same for all draws, and are computed once.

    Args:
        input_shape: ``(channels, height, width)``, sides of 20 or more.
        outputs: C logits; or for numbers mean and log variance, or the mean alone.
        dropout: Probability with which a channel or a unit is dropped.
        width: Channels of the first convolution; the later ones have 2, 2 and 4 times as many.
        hidden: Units of the hidden linear layer.
    """
    channels, *sides = image_shape("bn_cnn", input_shape, smallest=20)
    left_h, left_w = (((side - 4) // 2 - 2) // 2 - 2 for side in sides)
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel_size=5, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.Conv2d(2 * width, 2 * width, kernel_size=3, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.Dropout2d(dropout),
        nn.Conv2d(2 * width, 4 * width, kernel_size=3, bias=False),
        nn.BatchNorm2d(4 * width),
        nn.ReLU(),
        nn.Dropout2d(dropout),
        nn.Flatten(),
        nn.Linear(4 * width * left_h * left_w, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, outputs),
    )
