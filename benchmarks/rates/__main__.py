"""How good the range test's rate is: compared with the best of a grid of real runs.

`python -m benchmarks.rates DIRECTORY [--data ROOT] [--out FILE]`

1. **The ground truth**: a sweep of real short runs over rates a factor of two apart, for each schedule and two seeds,
   on official images shrunk to 8 pixels, judged on held-out training images. Accuracy over the rate, the mean of the
   seeds, straight between the rates, is the grid's curve; its highest point is the best rate.
2. **The range test alone**, with 10 seeds, three batch sizes and two augmentations, on the same images.
3. For each suggestion: how far it lies from the best rate (a factor), and what it would lose (its regret, in points),
   read off the grid's curve.

Everything is kept in DIRECTORY: started again, it measures what is missing. The picture goes next to the record. The
test images are not read.
"""

from pathlib import Path

from benchmarks import common
from benchmarks.common import head, save
from benchmarks.rates import judging, measuring, showing
from cifar_pl.reporting import figures
from cifar_pl.runs import files


def main() -> None:
    """Measure what is missing, and judge."""
    parser = common.parser(__doc__)
    parser.add_argument("directory", type=Path, help="where runs and curves are kept")
    parser.add_argument("--data", type=Path, default=Path("data"), help="has cifar-10-batches-py")
    args = parser.parse_args()
    directory, root = args.directory.resolve(), args.data.resolve()
    facts = judging.truth(measuring.grid(directory, root))
    tests = measuring.curves(directory, root)
    record = {
        "benchmark": "rates",
        **head("benchmarks.rates"),
        "data": f"official training images shrunk to {measuring.PIXELS} pixels",
        "grid": facts,
        "judged": judging.judged(facts, tests),
        "range_tests": [judging.compact(t) for t in tests],
    }
    print(showing.tables(record))
    save(args.out, record)
    if args.out:
        files.write(args.out.with_suffix(".png"), figures.png(showing.picture(record)))


if __name__ == "__main__":
    main()
