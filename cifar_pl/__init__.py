"""CIFAR-10 experiment bench: train ResNet18, then look at what it gets wrong.

The path of an image: bytes on disk -> `data` (uint8 arrays, split, augmented, batches of uint8) -> `models/resnet18`
(its first layer normalises) -> `training/classifier` (loss, metrics) -> `evaluation` (predictions, Grad-CAM) ->
`reporting` (the page). `training/experiment` puts the parts together out of `conf/`; `cli/command` wraps it on a shell.
"""

import os

# albumentations asks the network for a newer version at every import, in every worker (2 s offline).
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
