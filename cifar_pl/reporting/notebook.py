"""What shows itself in a notebook: text, figures, galleries, comparisons."""

from base64 import b64encode
from collections.abc import Iterator
from html import escape
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cifar_pl.evaluation import gallery
from cifar_pl.reporting import comparison_page, figures
from cifar_pl.runs import compare


def html(text: str, *shown: Figure) -> str:
    """Text as it is, and figures below it."""
    pictures = (f'<img src="data:image/png;base64,{b64encode(figures.png(one)).decode()}">' for one in shown)
    return (f"<pre>{escape(text)}</pre>" if text else "") + "".join(pictures)


class Shown(NamedTuple):
    """An image, and where the network looked."""

    image: NDArray[np.uint8]  # (H, W, 3), RGB, as the network gets it
    true: str | None  # unknown for images of one's own
    predicted: str
    probability: float  # of `predicted`, in [0, 1]
    maps: dict[str, NDArray[np.float16]]  # by layer, for `predicted`: (H, W) in [0, 1]


class Gallery:
    """A gallery to iterate over, one `Shown` for each image."""

    def __init__(self, shown: gallery.Gallery, labelled: bool = True, test_selected: bool = False) -> None:
        self._shown, self._labelled, self._test_selected = shown, labelled, test_selected

    def __len__(self) -> int:
        return len(self._shown.cases)

    def __iter__(self) -> Iterator[Shown]:
        shown, names = self._shown, self._shown.classes
        for case, image, maps in zip(shown.cases, shown.images, shown.maps[:, :, 0].swapaxes(0, 1), strict=True):
            true = names[case.true] if self._labelled else None
            of_layers = dict(zip(shown.layers, maps, strict=True))
            yield Shown(image, true, names[case.predicted], case.p_predicted, of_layers)

    def figure(self) -> Figure:
        """Every image, with its maps for the predicted and for the true, else the second most likely, class."""
        figure = figures.gallery(self._shown)
        if self._test_selected:
            figures.warn(figure)
        return figure

    def _repr_html_(self) -> str:
        return html("", self.figure())


class Comparison(compare.Comparison):
    """Runs side by side; as text, the table that `report` prints."""

    def __str__(self) -> str:
        return comparison_page.text(self)

    def _repr_html_(self) -> str:
        return html(str(self))
