"""The convolutional network of Gal, Islam and Ghahramani (2017), the first on which deep active learning was shown."""

from torch import nn

from activebdl.networks import image_shape, network


@network("gal2017_cnn")
def gal2017_cnn(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Convolution-relu-convolution-relu-pool-dropout-dense-relu-dropout-dense: 32 kernels of 4 x 4, dropout .25 and .5.

    Args:
        input_shape: ``(channels, height, width)``, sides of 8 or more.
        classes: C, the number of logits.
    """
    channels, height, width = image_shape("gal2017_cnn", input_shape, smallest=8)
    side_h, side_w = (height - 6) // 2, (width - 6) // 2
    return nn.Sequential(
        nn.Conv2d(channels, 32, kernel_size=4),
        nn.ReLU(),
        nn.Conv2d(32, 32, kernel_size=4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(32 * side_h * side_w, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, classes),
    )
