"""What a classifier predicts, as a table that a person can read."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from os import PathLike

from monai.data import CSVSaver


class ClassPredictionSaver(CSVSaver):
    """Write a row per image: file, probability of each class, name of the most probable one; with a head line.

    MONAI's own saver writes numbers only. This one is given to its ``ClassificationSaver``.

    Args:
        output_dir: folder of the table.
        classes: names of the classes in order of their label.
        filename: of the table, which is written anew.
    """

    def __init__(
        self, output_dir: str | PathLike[str], classes: Sequence[str], filename: str = "predictions.csv"
    ) -> None:
        super().__init__(output_dir, filename)
        self.classes = tuple(classes)

    def finalize(self) -> None:
        """Write the table."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        with self._filepath.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["file", *self.classes, "class"])
            for name, probabilities in self.get_cache().items():
                shown = [f"{probability:.6f}" for probability in probabilities]
                writer.writerow([name, *shown, self.classes[probabilities.argmax()]])
        self.reset_cache()
