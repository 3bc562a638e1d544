"""CIFAR-10 experiment bench: train ResNet18, then look at what it gets wrong.

The path of an image: bytes on disk -> `sources` (uint8 arrays) -> `datamodule` (split, `augment`,
batches of uint8) -> `network` (its first layer normalises) -> `classifier` (loss, metrics) ->
`callbacks` (log, `figures`, the `gradcam` gallery) -> `report` (summary.json).
`experiment` puts the parts together out of `conf/`; `command` is what stands around it on a shell.
"""

import os

# albumentations asks the network for a newer version at every import, in every worker (2 s offline).
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
