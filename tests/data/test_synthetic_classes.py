from __future__ import annotations

import csv
import sys

import numpy as np
import pytest
import torch
from torch import nn

from prox_monai.data.class_folders import check_class_folders, read_class_folders
from prox_monai.data.synthetic_classes import make_images, write_synthetic_classes

Image = pytest.importorskip("PIL.Image", reason='needs pip install "prox-monai[monai]"')

CLASSES = ("CNV", "DME", "DRUSEN", "NORMAL")
SIZE = (48, 64)


def write(folder, **arguments):
    return write_synthetic_classes(folder, **{"patients": 2, "images_per_patient": 3, "size": SIZE} | arguments)


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def drawn(patients, first=1, size=(64, 64)):
    """One image of each of some patients of every class at one size, of shape ``(N, 1, *size)``, and the labels."""
    pairs = [
        (image, label)
        for label in range(4)
        for patient in range(first, first + patients)
        for image in make_images((0, label, patient), 1, size)
    ]
    images = [torch.from_numpy(image).float()[None, None] for image, _ in pairs]
    resized = torch.cat([nn.functional.interpolate(image, size, mode="bilinear") for image in images])
    return resized, torch.tensor([label for _, label in pairs])


def test_folder_is_read_and_checked_as_real_ones_are(tmp_path):
    images = read_class_folders(write(tmp_path / "new"), CLASSES)
    check_class_folders(images)
    assert [image.path.name for image in images[:4]] == [
        "CNV-1001-1.jpeg",
        "CNV-1001-2.jpeg",
        "CNV-1001-3.jpeg",
        "CNV-1002-1.jpeg",
    ]
    assert {name: sum(i.class_name == name for i in images) for name in CLASSES} == dict.fromkeys(CLASSES, 6)
    assert len({image.patient for image in images}) == 8


def test_manifest_and_file_names_say_the_same(tmp_path):
    folder = write(tmp_path)
    with_manifest = read_class_folders(folder, CLASSES)
    with (folder / "manifest.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(with_manifest)
    (folder / "manifest.csv").unlink()
    assert read_class_folders(folder, CLASSES) == with_manifest


def test_files_hold_the_drawn_images(tmp_path):
    folder = write(tmp_path)
    images = make_images((0, 2, 1), 3, SIZE)
    for number, image in enumerate(images, 1):
        found = pixels(folder / "DRUSEN" / f"DRUSEN-3001-{number}.jpeg")
        assert (found.shape, found.dtype) == (image.shape, np.uint8)
        assert np.abs(found.astype(float) - image).mean() < 3  # JPEG keeps images nearly


def test_seed_decides_the_images_and_the_number_of_patients_does_not(tmp_path):
    first = write(tmp_path / "first", patients=1)
    again = write(tmp_path / "again", patients=2)
    other = write(tmp_path / "other", patients=1, seed=1)
    file = "DME/DME-2001-2.jpeg"
    assert np.array_equal(pixels(first / file), pixels(again / file))
    assert pixels(first / file).tobytes() != pixels(other / file).tobytes()


def test_sizes_vary_by_a_tenth():
    shapes = np.array([image.shape for label in range(4) for image in make_images((0, label, 1), 5, SIZE)])
    assert (np.abs(shapes - SIZE) <= np.rint(0.1 * np.array(SIZE))).all()
    assert (shapes.std(0) > 0).all()


def test_brightness_and_contrast_do_not_tell_the_classes():
    """Each image's nearest neighbour in mean and deviation is of its class little more often than by chance, 1/4."""
    images, labels = drawn(40)
    values = torch.stack([images.mean((1, 2, 3)), images.std((1, 2, 3))], 1)
    values = (values - values.mean(0)) / values.std(0)
    distances = torch.cdist(values, values).fill_diagonal_(torch.inf)
    assert (labels[distances.argmin(1)] == labels).float().mean() < 0.4


def test_a_small_network_learns_the_classes_and_generalises_to_other_patients():
    images, labels = drawn(48)
    images = nn.functional.instance_norm(images)
    layers = [
        nn.Sequential(nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU())
        for before, after in ((1, 16), (16, 32), (32, 64), (64, 64))
    ]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4))
    optimizer = torch.optim.Adam(network.parameters(), 0.005)
    for _ in range(120):
        batch = torch.randint(len(labels), (32,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images[batch]), labels[batch]).backward()
        optimizer.step()
    unseen, truth = drawn(16, first=49)
    with torch.no_grad():
        predicted = network.eval()(nn.functional.instance_norm(unseen)).argmax(1)
    assert (predicted == truth).float().mean() > 0.9


def test_refuses_a_folder_that_holds_something(tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="exists and is not empty; choose another folder or remove it"):
        write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": ("A",)}, "classes must be two to four different names, not A"),
        ({"classes": ("A", "B", "A")}, "not A, B, A"),
        ({"classes": tuple("ABCDE")}, "not A, B, C, D, E"),
        ({"patients": 0}, "patients must be at least 1, not 0"),
        ({"images_per_patient": 0}, "images_per_patient must be at least 1, not 0"),
        ({"size": (64, 31)}, r"size must be height and width of at least 32 pixels, not \(64, 31\)"),
        ({"size": (64,)}, r"not \(64,\)"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_without_pillow_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'writing images needs Pillow: pip install "prox-monai\[monai\]"'):
        write(tmp_path)
