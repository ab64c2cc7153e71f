"""Data sets: one call, and the files are there

By the end you will have `data_path("mnist")`, which returns a folder of files in their original format, made on the spot or downloaded and checked, and you will know why that folder is never half full.
"""

# generated from nbs/00a_datasets.ipynb: do not edit · 8801e0
__all__ = [
    "Download",
    "DataSource",
    "DATASETS",
    "find_dataset",
    "DatasetTable",
    "datasets",
    "data_mode",
    "cache_path",
    "DataError",
    "download_file",
    "file_sha256",
    "check_sha256",
    "check_files",
    "unpack_archive",
    "missing_files",
    "is_complete",
    "provide_folder",
    "sample_version",
    "data_path",
    "is_available",
    "describe",
]
__dir__ = __all__.copy  # what completion offers

# cell 069d3385 18c742 · Data sets: one call, and the files are there
import difflib
import errno
import gzip
import hashlib
import html
import importlib
import os
import platform
import re
import shutil
import stat
import sys
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import IO

import platformdirs


# cell 57523ac6 943ce3 · What we know about a data set
@dataclass(frozen=True)
class Download:
    """A file on the network: an archive is unpacked into `into`, any other file is put there.

    `sha256` is that of the file as it is served, or "" if unknown.
    """

    url: str
    sha256: str = ""
    into: str = "."

    @property
    def file(self) -> str:
        """The name of the file, the last part of its address."""
        return self.url.rsplit("/", 1)[-1]

    @property
    def is_archive(self) -> bool:
        """Whether the file is an archive and must be unpacked."""
        return self.file.endswith((".zip", ".tgz", ".tar.gz"))


# cell bc2f81f3 b75c45 · What we know about a data set
@dataclass(frozen=True)
class DataSource:
    """A data set: what it is, where it comes from, what its folder holds, how to check it.

    `files` are names or patterns that a complete folder matches, all of them; "a or b" is a choice.
    `sha256` maps files in the folder to their hashes, for a `.gz` that of its contents.
    `sample` says what sample mode generates, "" if nothing; `truth` what is known about it;
    `generators` is the module whose `make_<name>` (with `_` for `-`) writes it.
    """

    name: str
    full: str
    licence: str
    downloads: tuple[Download, ...]
    files: tuple[str, ...]
    sha256: Mapping[str, str] = field(default_factory=dict, hash=False)
    sample: str = ""
    truth: str = ""
    generators: str = "exp.nb00b"

    @property
    def is_checked(self) -> bool:
        """Whether every byte of the full data is compared with a known sha256."""
        return all(item.sha256 for item in self.downloads) or set(self.files) <= set(self.sha256)


# cell 953273bb 27f345 · What we know about a data set
_IDX = tuple(f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k")
             for kind in ("images-idx3", "labels-idx1"))
_S3 = "https://s3.amazonaws.com/"
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"


# cell 16c169d7 83ff63 · What we know about a data set
_DIGITS = (
    DataSource(
        "mnist", "MNIST: 60,000 + 10,000 handwritten digits, 28×28 grey (12 MB)",
        "CC BY-SA 3.0 (LeCun, Cortes, Burges)",
        tuple(Download(_MNIST + file) for file in _IDX), _IDX,
        dict(zip(_IDX, (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"), strict=True)),
        sample="scikit-learn's 1,797 handwritten digits, 8×8, enlarged to 28×28"),
    DataSource(
        "fashion_mnist", "Fashion-MNIST: 60,000 + 10,000 pieces of clothing, 28×28 grey (31 MB)",
        "MIT (Zalando SE)",
        tuple(Download(_FASHION + file, sha256) for file, sha256 in zip(_IDX, (
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"), strict=True)),
        _IDX),
)


# cell 6ded2ea8 f44f7f · What we know about a data set
_TEXTS = (
    DataSource(
        "names", "32,033 given names, one a line (0.2 MB)",
        "MIT (karpathy/makemore, from the US Social Security Administration's public list)",
        (Download("https://raw.githubusercontent.com/karpathy/makemore/master/names.txt"),),
        ("names.txt",),
        {"names.txt": "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"},
        sample="32,033 names drawn from a chain of known chances", truth="entropy rate"),
    DataSource(
        "nietzsche", "600,893 characters of Nietzsche in English (0.6 MB)",
        "public domain (Project Gutenberg)",
        (Download(_S3 + "text-datasets/nietzsche.txt"),), ("nietzsche.txt",),
        {"nietzsche.txt": "23cf69874ab69d3d256099ab530ea4be24d47d9675b673bcc67cbcd6298ec647"},
        sample="the language reference that this Python carries (pydoc_data.topics)"),
    DataSource(
        "fra_eng", "Tatoeba: 167,130 pairs of an English and a French sentence, as of 2019 (12 MB)",
        "CC BY 2.0 FR (Tatoeba's contributors, through manythings.org)",
        (Download("http://d2l-data.s3-accelerate.amazonaws.com/fra-eng.zip"),), ("fra.txt",),
        {"fra.txt": "0bb85dbaa1c896844649094d7eaf2e34bee34e84fe362b26ce7e8f2e12aae104"},
        sample="12,000 pairs of sentences from a grammar of two languages",
        truth="word alignment, least loss", generators="exp.nb00k"),
    DataSource(
        "word_vectors", "fastText: a million English words in 300 dimensions, .vec with a header "
        "(680 MB); or GloVe's .txt, without one, put there by hand",
        "CC BY-SA 3.0 (fastText); PDDL 1.0 (GloVe)",
        (Download("https://dl.fbaipublicfiles.com/fasttext/vectors-english/"
                  "wiki-news-300d-1M.vec.zip"),), ("*.vec or glove*.txt",),
        sample="138 words of the drawn world in 30 dimensions, .vec with a header",
        truth="relations between the words", generators="exp.nb00e"),
    DataSource(
        "glove_6b_100d", "GloVe: English words in 100 dimensions, text without a header (860 MB)",
        "PDDL 1.0 (Pennington, Socher, Manning, Stanford)",
        (Download("https://nlp.stanford.edu/data/glove.6B.zip"),),
        ("glove.6B.100d.txt or glove.6B.100d*.txt.gz",),
        sample="138 words of the drawn world in 100 dimensions",
        truth="relations between the words", generators="exp.nb00e"),
    DataSource(
        "fr_vectors_300d", "French words in 300 dimensions, .vec with a header (1.2 GB)",
        "CC BY-SA 3.0 (fastText)",
        (Download("https://dl.fbaipublicfiles.com/fasttext/vectors-crawl/cc.fr.300.vec.gz"),),
        ("*.vec.gz",)),
    DataSource(
        "wordnet", "The nouns of Open English WordNet as a table, and ImageNet's classes (3 MB)",
        "CC BY 4.0 (Open English WordNet); the classes: ImageNet's terms",
        (Download("https://s3.amazonaws.com/deep-learning-models/image-models/"
                  "imagenet_class_index.json"),),
        ("oewn_nouns.tsv.gz", "imagenet_class_index.json"),
        sample="the nouns of the drawn world as a tree, and its 38 classes",
        truth="the tree itself", generators="exp.nb00e"),
)


# cell 0d470f56 8dc17c · What we know about a data set
_UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases/"
_TABLES = (
    DataSource(
        "movielens_100k", "MovieLens 100K: 100,000 ratings of 1,682 films by 943 people (5 MB)",
        "GroupLens: research use with citation, no redistribution",
        (Download("https://files.grouplens.org/datasets/movielens/ml-100k.zip",
                  "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"),),
        ("u.data", "u.item"),
        {"u.data": "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490",
         "u.item": "553841ebc7de3a0fd0d6b62a204ea30c1e651aacfb2814c7a6584ac52f2c5701"},
        sample="20,000 ratings drawn from known factors, biases and noise",
        truth="noise floor, factors, biases"),
    DataSource(
        "rossmann", "Rossmann: 1,017,209 days of sales in 1,115 German drugstores (40 MB)",
        "Kaggle's competition rules: no redistribution",
        (Download("http://files.fast.ai/part2/lesson14/rossmann.tgz"),),
        ("train.csv", "test.csv", "store.csv", "store_states.csv"),
        {"train.csv": "f6e4597c142d7d909a13d53b68a8e85c00b9a4c7b5ff40adbb37d6829cc1f4cc",
         "test.csv": "e75f79972de046d88c2fd55da19df627f5ca654aaf418090d4d30c60ea7dbe26",
         "store.csv": "f56bd124a2849489e6bbb5c000f5fc9640204355e316475c918ae4d089afb344",
         "store_states.csv": "86df632ad7469a4ed961df9844ff8a15ef9cbcd545514945a7291ccfb32b9797"},
        sample="87,488 days of sales in 96 drugstores, eight in each of twelve states",
        truth="effects, interactions, map, noise floor", generators="exp.nb00d"),
    DataSource(
        "adult", "Adult: 48,842 people in the US census of 1994, income over $50,000 or not (6 MB)",
        "CC BY 4.0 (Becker and Kohavi, UCI)",
        (Download(_UCI + "adult/adult.data"), Download(_UCI + "adult/adult.test")),
        ("adult.data", "adult.test"),
        {"adult.data": "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
         "adult.test": "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05"},
        sample="9,000 people drawn from known effects and one interaction",
        truth="effects, each person's chance", generators="exp.nb00d"),
    DataSource(
        "bike_sharing", "17,379 hours of hired bicycles in Washington, 2011 and 2012 (1 MB)",
        "CC BY 4.0 (Fanaee-T, UCI)",
        (Download("https://archive.ics.uci.edu/static/public/275/bike+sharing+dataset.zip"),),
        ("hour.csv", "day.csv")),
)


# cell 11da8e69 e90553 · What we know about a data set
_PICTURES = (
    DataSource(
        "pascal_2007", "Pascal VOC 2007: 9,963 photographs with several labels each (1.6 GB)",
        "research use; each photograph under Flickr's terms",
        (Download(_S3 + "fast-ai-imagelocal/pascal_2007.tgz"),), ("train.csv", "train/*.jpg"),
        sample="850 drawn scenes of up to four labelled things of seven kinds",
        truth="kind and place of each thing", generators="exp.nb00c"),
    DataSource(
        "biwi", "Biwi Kinect heads: 15,678 frames of 24 people, with the head's centre (0.4 GB)",
        "research use only (Fanelli et al., ETH Zürich)",
        (Download(_S3 + "fast-ai-imagelocal/biwi_head_pose.tgz"),),
        ("01/frame_*_rgb.jpg", "01/frame_*_pose.txt", "01/rgb.cal"),
        sample="480 frames of 24 drawn people who move their heads",
        truth="the centre of each head", generators="exp.nb00c"),
    DataSource(
        "oxford_pets", "Oxford-IIIT Pet: 7,390 photographs of 37 breeds of cats and dogs (790 MB)",
        "CC BY-SA 4.0 (Parkhi et al., Oxford)",
        (Download("https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz",
                  "67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d", "images"),),
        ("images/*.jpg",),
        sample="480 drawn heads: four breeds of cats, four of dogs",
        truth="ears and coat of each breed", generators="exp.nb00c"),
    DataSource(
        "imagenette", "Imagenette, 160 px: 13,394 photographs of ten easy classes (99 MB)",
        "ImageNet's terms: research, not commercial (selection by fast.ai, Apache-2.0)",
        (Download(_S3 + "fast-ai-imageclas/imagenette2-160.tgz",
                  "88daccb09b6fce93f45e6c09ddeb269cce705549e6bff322092a2a5a11489863"),),
        ("train/*/*.JPEG", "val/*/*.JPEG"),
        sample="1,500 drawn pictures of ten classes: patterns on shapes",
        truth="shape and pattern of each class", generators="exp.nb00c"),
    DataSource(
        "hymenoptera", "ants and bees: about 400 photographs in train/ and val/ (47 MB)",
        "ImageNet's terms: research, not commercial (selection by PyTorch's tutorial)",
        (Download("https://download.pytorch.org/tutorial/hymenoptera_data.zip"),),
        tuple(f"{part}/{kind}/*.jpg" for part in ("train", "val") for kind in ("ants", "bees"))),
    DataSource(
        "tiny-imagenet-200", "Tiny ImageNet: 110,000 photographs of 200 classes, 64×64 (250 MB)",
        "ImageNet's terms: research, not commercial (selection by Stanford's CS231n)",
        (Download("http://cs231n.stanford.edu/tiny-imagenet-200.zip"),),
        ("wnids.txt", "words.txt", "train/*/images/*.JPEG", "val/images/*.JPEG",
         "val/val_annotations.txt"),
        sample="1,400 drawn pictures of 28 classes with names",
        truth="shape, pattern and colour of each class", generators="exp.nb00e"),
    DataSource(
        "lfw_landmarks", "Faces with five points each: eyes, nose, corners of the mouth (5 MB)",
        "research use (Sun, Wang, Tang; Labeled Faces in the Wild)",
        (Download("http://mmlab.ie.cuhk.edu.hk/archive/CNN/data/train.zip"),),
        ("lfw_5590/*.jpg", "data.txt")),
)


# cell 6f1c2440 859004 · What we know about a data set
DATASETS = {data.name: data for data in (*_DIGITS, *_TEXTS, *_TABLES, *_PICTURES)}


# cell 64f421b1 db2e8e · What we know about a data set
def find_dataset(name: str) -> DataSource:
    """Return the data set of a name.

    Raises: ValueError with the nearest name, and all names, for an unknown one.
    """
    if name not in DATASETS:
        nearest = difflib.get_close_matches(str(name), DATASETS, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise ValueError(f"no data set {name!r}: {hint}The names are {', '.join(DATASETS)}")
    return DATASETS[name]


# cell 211b8d8b 261222 · What we know about a data set
@dataclass(frozen=True)
class DatasetTable:
    """The registry as a table that displays itself: as HTML in a notebook, as text elsewhere."""

    rows: tuple[DataSource, ...]

    def __repr__(self) -> str:
        return "\n".join(f"{d.name:15} {'sample' if d.sample else '':7}{d.full}" for d in self.rows)

    def _repr_html_(self) -> str:
        head = ("name", "full mode", "sample mode", "known truth", "all hashes known", "licence")
        body = ((d.name, d.full, d.sample or "–", d.truth or "–",
                 "yes" if d.is_checked else "no", d.licence) for d in self.rows)
        cell = "<td style='text-align: left; white-space: normal'>{}</td>"
        rows = ("".join(cell.format(html.escape(text)) for text in row) for row in (head, *body))
        return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def datasets() -> DatasetTable:
    """List all data sets: what each is in either mode, what is known about it, and its licence."""
    return DatasetTable(tuple(DATASETS.values()))


# cell 8e121422 ea507e · Two settings
def data_mode() -> str:
    """Return which data the notebooks use: `EXP_DATA`, "sample" (the default) or "full".

    Raises: ValueError for any other value.
    """
    mode = os.environ.get("EXP_DATA") or "sample"
    if mode not in ("sample", "full"):
        raise ValueError(f"EXP_DATA must be 'sample' or 'full', got {mode!r}: set or unset it")
    return mode


# cell 37af7fdb b0f490 · Two settings
def cache_path() -> Path:
    """Return the folder of all data sets: `EXP_CACHE`, or else one in the user's cache folder."""
    if os.environ.get("EXP_CACHE"):
        return Path(os.environ["EXP_CACHE"]).expanduser().absolute()
    return platformdirs.user_cache_path("ground-up")


# cell dcf164ed 294b2d · Fetch
class DataError(RuntimeError):
    """A data set could not be provided; the message says why, and what to do."""


# cell c258c308 299911 · Fetch
def download_file(url: str, path: Path, progress: bool = True) -> None:
    """Download `url` into the file `path`, with a progress bar.

    Raises: DataError if the network, the server or the connection fails.
    """
    import requests

    with warnings.catch_warnings():  # tqdm misses ipywidgets, but its plain bar will do
        warnings.simplefilter("ignore")
        import pooch

    download = pooch.HTTPDownloader(progressbar=progress, timeout=30)
    try:
        download(url, str(path), None)
    except requests.RequestException as error:
        raise DataError(f"could not download {url}: {error}") from error


# cell bbef0864 17072a · Verify
def file_sha256(path: Path, inside: bool = False) -> str:
    """Hash a file; with `inside`, hash the contents of a `.gz`, so that repacking changes nothing.

    Raises: DataError if a `.gz` is damaged.
    """
    sha256, unzip = hashlib.sha256(), inside and path.suffix == ".gz"
    try:
        with (gzip.open if unzip else open)(path, "rb") as stream:
            while piece := stream.read(1 << 20):
                sha256.update(piece)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path.name} is damaged or incomplete: {error}") from error
    return sha256.hexdigest()


# cell d9976a9e 438021 · Verify
def check_sha256(file: str, received: str, expected: str) -> None:
    """Compare a file's hash with the expected one; an empty `expected` is unknown and passes.

    Raises: DataError that shows both.
    """
    if expected and received != expected:
        raise DataError(f"{file} is not the expected file: its sha256 is {received} and "
                        f"not {expected}. It is damaged, incomplete, or changed at its source")


def check_files(data: DataSource, folder: Path) -> None:
    """Compare the files of a folder with the hashes that the registry knows.

    Raises: DataError for the first one that differs or cannot be read.
    """
    for file, sha256 in data.sha256.items():
        check_sha256(file, file_sha256(folder / file, inside=True), sha256)


# cell 4d1dd0c0 c611e3 · Unpack, but only here
def _members(archive: Path) -> Iterator[tuple[str, str, Callable[[], IO[bytes]]]]:
    """List the members of an archive: name, kind ("file", "folder" or "special"), opener."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                is_file = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)
                kind = "folder" if info.is_dir() else "file" if is_file else "special"
                yield info.filename, kind, partial(opened.open, info)
    else:
        with tarfile.open(archive) as opened:
            for info in opened:
                kind = "folder" if info.isdir() else "file" if info.isfile() else "special"
                yield info.name, kind, partial(opened.extractfile, info)


# cell 6608f763 a719d9 · Unpack, but only here
def _safe_parts(name: str, kind: str) -> tuple[str, ...]:
    """Split a member's name into folders and file, if it cannot leave the archive's folder.

    Raises: DataError for an absolute path, a drive, `..`, a link or a device.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in name:
        raise DataError(f"it holds {name!r}, which would be written outside its folder")
    if kind == "special":
        raise DataError(f"it holds {name!r}, which is a link or a device and not a file")
    return path.parts


# cell 34b9cb3f 93d75a · Unpack, but only here
def unpack_archive(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar into `folder`; a single folder around everything is dropped.

    Raises: DataError if the archive is damaged, or, before anything is written, if a member
        could leave the folder or is a link.
    """
    try:
        names = [(_safe_parts(name, kind), kind) for name, kind, _ in _members(archive)]
        files = [parts for parts, kind in names if kind == "file"]
        wrapped = len({parts[0] for parts in files}) == 1 and min(map(len, files)) > 1
        for name, kind, read in _members(archive):
            if kind == "file":
                target = folder.joinpath(*_safe_parts(name, kind)[int(wrapped) :])
                target.parent.mkdir(parents=True, exist_ok=True)
                with read() as source, open(target, "wb") as copy:
                    shutil.copyfileobj(source, copy)
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"it is damaged or incomplete ({error})") from error


# cell 23457ee4 0e3008 · Complete or absent
def missing_files(folder: Path, files: tuple[str, ...]) -> list[str]:
    """List the names or patterns that no file in the folder matches; none if it is complete."""
    return [name for name in files
            if not any(any(folder.glob(pattern)) for pattern in name.split(" or "))]


# cell 509609e7 f2e8d3 · Complete or absent
def is_complete(folder: Path, files: tuple[str, ...]) -> bool:
    """Return whether the folder exists and is complete.

    Raises: DataError if it exists but files are missing; it is never repaired in place.
    """
    if not folder.exists():
        return False
    if missing := missing_files(folder, files):
        raise DataError(f"{folder} lacks {', '.join(missing)}: add the missing files, "
                        "or remove the folder to have it made again")
    return True


# cell 4837a472 7239bf · Complete or absent
def _disk_trouble(error: OSError, folder: Path) -> str:
    """Return in words why a folder could not be written, and what to do about it."""
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
        return f"the disk of {folder} is full: free space, or set EXP_CACHE to a folder elsewhere"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{folder} may not be written: set EXP_CACHE to a folder that may, or unset it"
    return f"{folder} could not be written ({error}): mend that, or set EXP_CACHE to another folder"


# cell 2c4e04f1 32af53 · Complete or absent
@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold a lock beside `folder`, which one thread of one process can have at a time."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=1)
    except Timeout:
        print(f"waiting for another process that is making {folder.name} …", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


# cell 325a6680 3502e5 · Complete or absent
def _flush_to_disk(folder: Path) -> None:
    """Wait until all files of a folder are written to the disk, and not only to its cache."""
    def flush(path: Path) -> None:
        with open(path, "rb+") as stream:
            os.fsync(stream.fileno())

    with ThreadPoolExecutor(16) as pool:  # a disk writes many files at once as fast as one
        list(pool.map(flush, (path for path in folder.rglob("*") if path.is_file())))


# cell f424fd47 2109e5 · Complete or absent
def provide_folder(folder: Path, files: tuple[str, ...], fill: Callable[[Path], None]) -> Path:
    """Return `folder`; if it does not exist, let `fill` build it beside and rename it into place.

    Whenever the process dies, the folder is complete or absent. If it exists, nothing is written.
    Raises: DataError if it is incomplete, cannot be written, or if `fill` fails to make it.
    """
    if is_complete(folder, files):
        return folder
    partial_folder = folder.with_name(f".{folder.name}.partial")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(folder):
            if is_complete(folder, files):  # made by another process while we waited
                return folder
            shutil.rmtree(partial_folder, ignore_errors=True)  # left by one that was killed
            partial_folder.mkdir()
            try:
                fill(partial_folder)
                if missing := missing_files(partial_folder, files):
                    raise DataError(f"the download lacks {', '.join(missing)}")
                _flush_to_disk(partial_folder)
                os.replace(partial_folder, folder)
            finally:
                shutil.rmtree(partial_folder, ignore_errors=True)
    except OSError as error:
        raise DataError(_disk_trouble(error, folder.parent)) from error
    return folder


# cell c8e0a3d2 c102b0 · Full mode
def _fill_by_download(data: DataSource, folder: Path, progress: bool = True) -> None:
    """Fetch, check and unpack all files of a data set into `folder`.

    Raises: DataError if a file cannot be fetched, or is not the one that the registry knows.
    """
    for item in data.downloads:
        target = folder / item.into
        target.mkdir(parents=True, exist_ok=True)
        path, by_hand = target / item.file, cache_path() / "downloads" / item.file
        if by_hand.exists():
            shutil.copyfile(by_hand, path)
        else:
            download_file(item.url, path, progress)
        check_sha256(item.file, received := file_sha256(path), item.sha256)
        if not data.is_checked:
            print(f"{item.file} is used unchecked: the registry knows no hash; its is {received}")
        if item.is_archive:
            try:
                unpack_archive(path, target)
            except DataError as error:
                raise DataError(f"{item.file} was not used: {error}") from error
            path.unlink()
    check_files(data, folder)


# cell dd78404b 2e6386 · Full mode
def _by_hand(data: DataSource) -> str:
    """Return instructions for providing a data set without a network."""
    urls = "".join(f"\n    {item.url}" for item in data.downloads)
    cache, files = cache_path(), ", ".join(data.files)
    return (f"To provide {data.name!r} by hand, get{urls}\n"
            f"  and put it, as it is, into {cache / 'downloads'}\n"
            f"  or put the finished files ({files}) into {cache / data.name}")


# cell 56d0b0b9 725ae0 · Full mode
def _full_folder(data: DataSource, progress: bool = True) -> Path:
    """Return the folder of the public data set, from the cache or else from the network."""
    fill = partial(_fill_by_download, data, progress=progress)
    try:
        return provide_folder(cache_path() / data.name, data.files, fill)
    except DataError as error:
        raise DataError(f"{error}.\n{_by_hand(data)}") from error


# cell 62d55656 614e0d · Sample mode
def sample_version(generators: str = "exp.nb00b") -> str:
    """Return a short hash of the generators' code, of what it imports, and of Python's version."""
    source = Path(find_spec(generators).origin).read_bytes()
    for module in re.findall(rb"^from (exp\.\w+) import", source, re.MULTILINE):
        source += Path(find_spec(module.decode()).origin).read_bytes()
    return hashlib.sha256(source + platform.python_version().encode()).hexdigest()[:8]


def _sample_folder(data: DataSource) -> Path:
    """Return the folder of the generated data set, from the cache or made on the spot.

    Raises: NotImplementedError if nothing generates it.
    """
    if not data.sample:
        have = ", ".join(d.name for d in DATASETS.values() if d.sample)
        raise NotImplementedError(f"{data.name!r} has no sample: set EXP_DATA=full for the real "
                                  f"data, {data.full}. There are samples of {have}")
    name = "make_" + data.name.replace("-", "_")
    generate = getattr(importlib.import_module(data.generators), name)
    folder = cache_path() / f"sample-{sample_version(data.generators)}" / data.name
    return provide_folder(folder, data.files, generate)


# cell 68e39a8a eb80de · The one call
def data_path(name: str) -> Path:
    """Return the folder that holds a data set in its original file format, making it if needed.

    In sample mode it is generated, in full mode downloaded, checked and unpacked; see `data_mode`.
    If the folder exists and is complete it is returned as it is: no network, nothing written.
    Raises: ValueError for an unknown name or mode; NotImplementedError if there is no sample;
        DataError, with a remedy, if the data cannot be provided.
    """
    data = find_dataset(name)
    return _full_folder(data) if data_mode() == "full" else _sample_folder(data)


# cell 53db8f95 8fd100 · The one call
def is_available(name: str) -> bool:
    """Return whether `data_path(name)` would work without a network."""
    data = find_dataset(name)
    if data_mode() == "sample":
        return bool(data.sample)
    return not missing_files(cache_path() / name, data.files)


def describe(name: str) -> None:
    """Print the mode and what the data is: the first output of a notebook that uses data."""
    data, mode = find_dataset(name), data_mode()
    what = data.full if mode == "full" else data.sample or "none yet"
    print(f"{name}, {mode} data: {what}")
    if mode == "full":
        print(f"  licence: {data.licence}")
    else:
        print(f"  known truth: {data.truth}" if data.truth else "  known truth: none")
        print(f"  EXP_DATA=full would use {data.full}")
