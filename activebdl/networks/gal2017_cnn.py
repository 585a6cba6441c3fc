"""The convolutional network of Gal, Islam and Ghahramani (2017), the first on which deep active learning was shown."""

from collections import OrderedDict

from torch import nn

from activebdl.networks import image_shape, network


@network("gal2017_cnn")
def gal2017_cnn(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Convolution-relu-convolution-relu-pool-dropout-dense-relu-dropout-dense: 32 kernels of 4 x 4, dropout .25 and .5.

    Args:
        input_shape: ``(channels, height, width)``, sides of 8 or more.
        outputs: C logits; or for numbers mean and log variance, or the mean alone.
    """
    channels, height, width = image_shape("gal2017_cnn", input_shape, smallest=8)
    side_h, side_w = (height - 6) // 2, (width - 6) // 2
    layers = OrderedDict[str, nn.Module](  # named, for the prior that is on one of them
        conv1=nn.Conv2d(channels, 32, kernel_size=4),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(32, 32, kernel_size=4),
        relu2=nn.ReLU(),
        pool=nn.MaxPool2d(2),
        dropout1=nn.Dropout(0.25),
        flatten=nn.Flatten(),
        dense1=nn.Linear(32 * side_h * side_w, 128),
        relu3=nn.ReLU(),
        dropout2=nn.Dropout(0.5),
        dense2=nn.Linear(128, outputs),
    )
    return nn.Sequential(layers)
