"""Images from a folder with a folder of pictures for each class, from IDX files (MNIST's format), or from npz files.

data = fastgd.images.read("pictures/", size=32)
net = fastgd.models.small_cnn(data.shape, len(data.classes))
net.preprocessing = data.preprocessing  # saved and loaded with the network
net.fit(data.images, data.labels)  # or net.fit(data.minibatches(32)), if the images do not fit into memory
new = fastgd.images.read("new.png", like=net.preprocessing)  # converted as in training
net.preprocessing.decode(net.predict(new.images))  # names of classes

Pictures are decoded by Pillow (extra `images`), in threads.
"""

from ..core.hints import show_names
from .errors import ImageError, Problem
from .images import ImageMinibatches, Images
from .preprocessing import Preprocessing
from .reading import read

__all__ = ["ImageError", "ImageMinibatches", "Images", "Preprocessing", "Problem", "read"]

show_names(__name__)
