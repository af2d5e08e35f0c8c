from __future__ import annotations

import csv
import logging
import sys

import pytest

from prox_monai.data.class_folders import (
    LabelledImage,
    check_class_folders,
    read_class_folders,
)

CLASSES = ("CNV", "DME", "NORMAL")
FILES = ("CNV/CNV-11-1.jpeg", "CNV/CNV-11-2.jpeg", "DME/DME-22-1.jpeg", "NORMAL/NORMAL-33-1.jpeg")


def image_module():
    return pytest.importorskip("PIL.Image", reason='needs pip install "prox-monai[monai]"')


@pytest.fixture
def folder(tmp_path):
    """Files whose content does not matter: reading opens none."""
    return fill(tmp_path / "oct", *FILES)


def fill(folder, *files):
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"")
    return folder


def write_manifest(folder, *rows, columns="file,class,patient"):
    (folder / "manifest.csv").write_text("\n".join([columns, *rows]) + "\n", encoding="utf-8")


def rows_of(*splits):
    """A row per file, with the patient of its name and a split if given."""
    rows = [f"{file},{file.split('/')[0]},{file.split('-')[1]}" for file in FILES]
    return [",".join(pair) for pair in zip(rows, splits, strict=True)] if splits else rows


def read(folder):
    return read_class_folders(folder, CLASSES)


def test_labels_follow_the_given_order_and_patients_the_names(folder):
    images = read_class_folders(folder, ("NORMAL", "CNV", "DME"))
    assert images == (
        LabelledImage(folder / "NORMAL/NORMAL-33-1.jpeg", 0, "NORMAL", "33"),
        LabelledImage(folder / "CNV/CNV-11-1.jpeg", 1, "CNV", "11"),
        LabelledImage(folder / "CNV/CNV-11-2.jpeg", 1, "CNV", "11"),
        LabelledImage(folder / "DME/DME-22-1.jpeg", 2, "DME", "22"),
    )


def test_a_patient_may_have_images_of_two_classes(folder):
    fill(folder, "DME/DME-11-7.jpeg", "DME/NORMAL-33-2.jpeg")
    assert [image.patient for image in read(folder) if image.class_name == "DME"] == ["11", "22", "33"]


def test_only_visible_images_count(folder):
    before = read(folder)
    fill(folder, "CNV/._CNV-11-1.jpeg", "CNV/.CNV-11-3.png", "CNV/Thumbs.db", "CNV/more/CNV-11-4.jpeg")
    fill(folder, ".cache/NORMAL-1-1.jpeg", "__MACOSX/readme.txt")
    assert read(folder) == before
    fill(folder, "CNV/CNV-11-3.JPG", "CNV/CNV-11-4.Png")
    assert len(read(folder)) == len(before) + 2


def test_images_with_other_names_are_their_own_patients(folder, caplog):
    fill(folder, "CNV/scan.png", "DME/scan.png", "DME/DME-22.jpeg", "DME/LEFT-22-1.jpeg")
    with caplog.at_level(logging.WARNING):
        images = read(folder)
    assert {image.patient for image in images} == {
        "11",
        "22",
        "33",
        "CNV/scan.png",
        "DME/scan.png",
        "DME/DME-22.jpeg",
        "DME/LEFT-22-1.jpeg",
    }
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "4 of 8 images are not named CLASS-<patient>-<number>; each is its own patient."
    ]


def test_no_folder(tmp_path):
    with pytest.raises(ValueError, match="absent is not a folder; give one that holds the folders CNV, DME, NORMAL"):
        read(tmp_path / "absent")


@pytest.mark.parametrize(
    ("classes", "message"), [((), "not none"), (("CNV",), "not CNV"), (("CNV", "CNV"), "not CNV, CNV")]
)
def test_classes_without_a_choice(folder, classes, message):
    with pytest.raises(ValueError, match=f"classes must be at least two different names, {message}"):
        read_class_folders(folder, classes)


def test_missing_class_folders_are_named_with_what_is_there(folder):
    (folder / "DME").rename(folder / "dme")
    with pytest.raises(ValueError, match="class folder DME is missing; folders here: CNV, NORMAL, dme") as error:
        read(folder)
    assert "folder dme holds images, but is no class of CNV, DME, NORMAL" in str(error.value)
    assert "problems: 2" in str(error.value)


def test_empty_class_folder(folder):
    for name in ("DME/DME-22-1.jpeg", "NORMAL/NORMAL-33-1.jpeg"):
        (folder / name).unlink()
    fill(folder, "DME/DME-22-1.tif", "DME/._DME-22-1.jpeg")
    with pytest.raises(ValueError, match=r"problems: 2\s+class DME has no \.jpeg, \.jpg or \.png file\s+class NORMAL"):
        read(folder)


def test_manifest_decides_images_and_patients(folder, caplog):
    fill(folder, "CNV/CNV-99-1.jpeg")
    rows = ["DME/DME-22-1.jpeg,DME, p2 ,x", "NORMAL/NORMAL-33-1.jpeg,NORMAL,p2,y", "CNV/CNV-11-2.jpeg,CNV,p1,z", ""]
    write_manifest(folder, *rows, columns="\ufefffile,class,patient,md5")
    with caplog.at_level(logging.WARNING):
        images = read(folder)
    assert images == (
        LabelledImage(folder / "CNV/CNV-11-2.jpeg", 0, "CNV", "p1"),
        LabelledImage(folder / "DME/DME-22-1.jpeg", 1, "DME", "p2"),
        LabelledImage(folder / "NORMAL/NORMAL-33-1.jpeg", 2, "NORMAL", "p2"),
    )
    assert "2 images are not in manifest.csv; left out" in caplog.text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("CNV/CNV-11-9.jpeg,CNV,11", r"line 6: CNV/CNV-11-9\.jpeg does not exist"),
        ("CNV/CNV-11-1.jpeg,cnv,11", "line 6: class must be CNV, DME or NORMAL, not cnv"),
        ("CNV/CNV-11-1.jpeg,DME,11", r"line 6: CNV/CNV-11-1\.jpeg is of class DME, but not in a folder of this name"),
        ("CNV/CNV-11-1.jpeg,CNV,", "line 6: patient is empty"),
        ("CNV/CNV-11-1.jpeg", "line 6: class, patient is empty"),
        ("CNV/notes.txt,CNV,11", r"line 6: CNV/notes\.txt is no \.jpeg, \.jpg or \.png file"),
        ("CNV/../CNV/CNV-11-9.jpeg,CNV,11", "does not exist"),
        ("./CNV/CNV-11-1.jpeg,CNV,11", r" lists CNV/CNV-11-1\.jpeg 2 times"),
    ],
)
def test_bad_row_of_the_manifest(folder, row, message):
    write_manifest(folder, *rows_of(), row)
    with pytest.raises(ValueError, match=rf"problems: 1\s+manifest\.csv.*{message}"):
        read(folder)


def test_class_that_the_manifest_does_not_list(folder):
    write_manifest(folder, *rows_of()[:3])
    with pytest.raises(ValueError, match=r"class NORMAL is not in manifest\.csv"):
        read(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"file,label\nCNV/CNV-11-1.jpeg,CNV\n", r"has no column class, patient; it has file, label"),
        (b"", "has no column file, class, patient; it has none"),
        (b"file,class,patient\n\xff\xfe\n", r"manifest\.csv cannot be read as CSV in UTF-8"),
    ],
)
def test_manifest_that_is_no_table(folder, content, message):
    (folder / "manifest.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read(folder)


def test_all_problems_are_counted_and_ten_listed(folder):
    write_manifest(folder, *(f"CNV/absent-{number}.jpeg,CNV,1" for number in range(13)))
    with pytest.raises(ValueError, match="problems: 13") as error:
        read(folder)
    assert str(error.value).count("does not exist") == 10
    assert "and 3 more" in str(error.value)


@pytest.mark.parametrize("splits", [("train", "train", "test", "test"), ("0", "0", "1", "2"), ("", "", "", "")])
def test_split_of_the_manifest(folder, splits):
    write_manifest(folder, *rows_of(*splits), columns="file,class,patient,split")
    assert [image.split for image in read(folder)] == [split or None for split in splits]


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (("train", "test", "test", "test"), "patient 11 is on both sides of the split: test, train"),
        (("0", "1", "1", "1"), "patient 11 is on both sides of the split: 0, 1"),
        (("train", "train", "test", "val"), "split must be train and test, or .*, not 'test', 'train', 'val'"),
        (("train", "train", "test", ""), "in every row, not '', 'test', 'train'"),
        (("0", "0", "2", "2"), "0, 1, 2 ... without a gap, in every row, not '0', '2'"),
        (("1", "1", "2", "3"), "not '1', '2', '3'"),
        (("0", "0", "0", "0"), "not '0'"),
    ],
)
def test_bad_split_of_the_manifest(folder, splits, message):
    write_manifest(folder, *rows_of(*splits), columns="file,class,patient,split")
    with pytest.raises(ValueError, match=message):
        read(folder)


@pytest.fixture
def pictures(folder):
    """The same files as grey images of two sizes, one of them a PNG under a JPEG's name."""
    pillow = image_module()
    for number, file in enumerate(FILES):
        grey = pillow.linear_gradient("L").resize((64 + number, 48))
        grey.save(folder / file, format="PNG" if number == 1 else "JPEG")
    return folder


def test_grey_images_of_any_size_pass(pictures):
    check_class_folders(read(pictures))


def spoil(path, kind):
    """Make an image unusable: its file, or what it is an image of."""
    pillow = image_module()
    content = path.read_bytes()
    if kind in ("empty", "text", "cut"):
        path.write_bytes({"empty": b"", "text": b"no image", "cut": content[:-20]}[kind])
        return
    grey = pillow.linear_gradient("L")
    if kind in ("GIF", "TIFF"):
        grey.save(path, format=kind)
    elif kind == "checksum":
        grey.save(path, format="PNG")
        path.write_bytes(path.read_bytes()[:-16] + bytes(4) + path.read_bytes()[-12:])
    else:
        grey.convert(kind).save(path, format="JPEG" if kind in ("RGB", "CMYK") else "PNG")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "cannot be read"),
        ("text", "cannot be read: cannot identify image file"),
        ("cut", "cannot be read: image file is truncated"),
        ("checksum", "cannot be read"),
        ("GIF", "is GIF by content, not JPEG or PNG"),
        ("TIFF", "is TIFF by content, not JPEG or PNG"),
        ("RGB", r"has Pillow's mode RGB, not L \(grey, 8 bits\)"),
        ("CMYK", "has Pillow's mode CMYK, not L"),
        ("P", "has Pillow's mode P, not L"),
        ("LA", "has Pillow's mode LA, not L"),
        ("I;16", "has Pillow's mode I;16, not L"),
        ("1", "has Pillow's mode 1, not L"),
    ],
)
def test_unusable_image(pictures, kind, message):
    spoil(pictures / "DME" / "DME-22-1.jpeg", kind)
    with pytest.raises(ValueError, match=rf"oct cannot be used, problems: 1\s+DME/DME-22-1\.jpeg {message}"):
        check_class_folders(read(pictures))


def test_all_unusable_images_are_counted(folder):
    image_module()
    with pytest.raises(ValueError, match="problems: 4"):
        check_class_folders(read(folder))


def test_no_images():
    with pytest.raises(ValueError, match="images must not be empty"):
        check_class_folders(())


def test_a_missing_package_is_named_with_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'reading images needs Pillow: pip install "prox-monai\[monai\]"'):
        check_class_folders(read(folder))


def test_real_oct(data_folder):
    image_module()
    folder = data_folder / "oct2017_subset"
    if not folder.is_dir():
        pytest.skip(f"no oct2017_subset in {data_folder}")
    images = read_class_folders(folder, ("CNV", "DME", "DRUSEN", "NORMAL"))
    check_class_folders(images)
    with (folder / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(i.path, i.class_name, i.patient) for i in images} == {
        (folder / row["file"], row["class"], row["patient"]) for row in rows
    }
    assert [sum(image.label == label for image in images) for label in range(4)] == [92, 19, 22, 75]
