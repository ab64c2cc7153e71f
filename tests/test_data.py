"""The box of data: what comes in is checked, complete or absent, and the same everywhere."""

import errno
import gzip
import hashlib
import http.server
import importlib
import io
import os
import pickle
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exp import nb00a, nb00b
from exp.nb00a import DATASETS, DataError, DataSource, Download, data_path, provide_folder

ROOT = Path(__file__).parents[1]
SAMPLES = [name for name, data in DATASETS.items() if data.sample]
TABLE = """mnist fashion_mnist names nietzsche movielens_100k rossmann pascal_2007 biwi oxford_pets
           imagenette fra_eng word_vectors adult tiny-imagenet-200 lfw_landmarks bike_sharing
           glove_6b_100d wordnet""".split()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of our own, in sample mode."""
    monkeypatch.setenv("EXP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EXP_DATA", "sample")
    return tmp_path / "cache"


@pytest.fixture
def full(cache, monkeypatch):
    """The same in full mode."""
    monkeypatch.setenv("EXP_DATA", "full")
    return cache


@pytest.fixture
def server(monkeypatch):
    """A server on this machine: `served` maps names to bytes, `asked` lists the requests.

    A name that begins with `short-` breaks off half-way of the announced length, `close-` breaks
    off without having announced one.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.strip("/")
            http_server.asked.append(name)
            body = http_server.served.get(name.split("-", 1)[-1])
            self.send_response(404 if body is None else 200)
            if not name.startswith("close-"):
                self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            half = len(body or b"") // 2
            self.wfile.write((body or b"")[: half if "-" in name else None])

        def log_message(self, *_):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http_server.served, http_server.asked = {}, []
    http_server.url = f"http://127.0.0.1:{http_server.server_port}/"
    threading.Thread(target=http_server.serve_forever, args=(0.01,), daemon=True).start()
    yield http_server
    http_server.shutdown()
    http_server.server_close()


def register(monkeypatch, **changes):
    """Put a data set `toys` into the registry."""
    toys = {
        "name": "toys",
        "full": "some toys",
        "licence": "none",
        "downloads": (),
        "files": ("a.txt",),
    } | changes
    monkeypatch.setitem(DATASETS, "toys", DataSource(**toys))


def zipped(files):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return packed.getvalue()


def tarred(*members, mode="w:gz"):
    """Pack (name, kind, content or link target) into a tar."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.linkname = content
                archive.addfile(info)
    return packed.getvalue()


def snapshot(folder):
    """Everything below a folder: names, kinds, sizes, times."""
    paths = [folder, *sorted(folder.rglob("*"))] if folder.exists() else []
    return [(str(p), p.is_dir(), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]


def visible(cache):
    """What somebody sees who looks into the cache: no lock files."""
    return sorted(p.name for p in cache.glob("*") if p.suffix != ".lock") if cache.exists() else []


def python(code, *, check=True, seconds=120, **variables):
    """Run Python code in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert not check or result.returncode == 0, result.stderr
    return result


def start(code, *arguments):
    """Start Python code in a process of its own, and do not wait for it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def no_network(monkeypatch):
    """From now on, whoever opens a socket fails the test."""

    def refuse(*_, **__):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


# --- the registry --------------------------------------------------------------------------------


def test_the_registry_holds_every_name_of_the_design():
    assert set(TABLE) <= set(DATASETS)


@pytest.mark.parametrize("name", DATASETS)
def test_every_entry_has_licence_url_files_and_sound_hashes(name):
    data = DATASETS[name]
    assert data.name == name and data.full and data.licence and data.files and data.downloads
    assert all(item.url.startswith(("https://", "http://")) for item in data.downloads)
    hashes = [*data.sha256.values(), *(item.sha256 for item in data.downloads if item.sha256)]
    assert all(len(h) == 64 and not set(h) - set("0123456789abcdef") for h in hashes)
    assert set(data.sha256) <= set(data.files)


@pytest.mark.parametrize("name", DATASETS)
def test_an_entry_with_a_sample_has_its_generator_and_the_other_way_round(name):
    generators = importlib.import_module(DATASETS[name].generators)
    assert bool(DATASETS[name].sample) == hasattr(generators, f"make_{name.replace('-', '_')}")


def test_the_registry_cannot_be_changed_by_accident_and_pickles():
    with pytest.raises(AttributeError):
        DATASETS["mnist"].licence = "mine"
    assert pickle.loads(pickle.dumps(DATASETS)) == DATASETS


def test_the_table_shows_every_name_as_text_and_as_html():
    table = nb00a.datasets()
    for name in DATASETS:
        assert name in repr(table) and name in table._repr_html_()
    assert (
        "<script" not in nb00a.DatasetTable((DataSource("<script>", "", "", (), ()),))._repr_html_()
    )


@pytest.mark.parametrize("name", ["minst", "", "MNIST", None])
def test_an_unknown_name_is_refused_with_all_names(cache, name):
    for function in (data_path, nb00a.describe, nb00a.is_available):
        with pytest.raises(ValueError, match="fashion_mnist"):
            function(name)


@pytest.mark.parametrize("mode", ["Sample", "ful", "full ", "1"])
def test_an_unknown_mode_is_refused_with_the_valid_ones(monkeypatch, mode):
    monkeypatch.setenv("EXP_DATA", mode)
    with pytest.raises(ValueError, match="must be 'sample' or 'full'"):
        data_path("mnist")


@pytest.mark.parametrize("name", [name for name in DATASETS if name not in SAMPLES])
def test_no_sample_is_an_error_that_names_the_mode_that_works(cache, name):
    with pytest.raises(NotImplementedError, match="set EXP_DATA=full"):
        data_path(name)
    assert not cache.exists()


def test_describe_says_mode_and_data_and_writes_nothing(cache, monkeypatch, capsys):
    for mode in ("sample", "full"):
        monkeypatch.setenv("EXP_DATA", mode)
        for name in DATASETS:
            nb00a.describe(name)
            assert capsys.readouterr().out.startswith(f"{name}, {mode} data: ")
    assert not cache.exists()


def test_importing_loads_nothing_heavy_and_prints_nothing():
    result = python("""
        import sys
        import exp.nb00a, exp.nb00b, exp.nb00c, exp.nb00e
        heavy = {"torch", "matplotlib", "pandas", "sklearn", "pooch", "requests", "PIL"}
        assert not heavy & set(sys.modules)
    """)
    assert result.stdout == result.stderr == ""


# --- samples -------------------------------------------------------------------------------------

DRAWN = ("imagenette", "oxford_pets", "pascal_2007", "biwi", "tiny-imagenet-200")
MAKE_ALL = """
    import hashlib
    from exp.nb00a import data_path
    for name in NAMES:
        folder = data_path(name)
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            print(name, path.relative_to(folder), hashlib.sha256(path.read_bytes()).hexdigest())
"""
KNOWN = {  # on every platform; what depends on a version or the last bit of a float is not here
    "mnist/t10k-images-idx3-ubyte.gz": "8155ea117f218fe8",
    "mnist/t10k-labels-idx1-ubyte.gz": "fd0fd907f9fb3591",
    "mnist/train-images-idx3-ubyte.gz": "cdde4676f7db17bc",
    "mnist/train-labels-idx1-ubyte.gz": "cbe5ce2de28c14b0",
    "names/names.txt": "9b6980b3f4cd4783",
    "movielens_100k/u.data": "8790af99452ae676",
    "movielens_100k/u.item": "cd0b6c1eb9a370da",
    "fra_eng/fra.txt": "9f57dbc3a101fdae",
    "rossmann/train.csv": "3871f560ae9baecc",
    "rossmann/test.csv": "aaa2ca3612f5a6a4",
    "rossmann/store.csv": "f3bfce8475de8f08",
    "rossmann/store_states.csv": "14e98b75316a4939",
    "adult/adult.data": "564ba069f27ea9bf",
    "adult/adult.test": "a620401f1f9151f3",
    "pascal_2007/test.csv": "c78b3d8ece8f5b88",
    "pascal_2007/train.csv": "0a448f90994600c8",
    "wordnet/imagenet_class_index.json": "817efb40a740f2fa",
    "wordnet/oewn_nouns.tsv.gz": "0b382e25243eeb18",
    "tiny-imagenet-200/val/val_annotations.txt": "9501b21bd8337025",
    "tiny-imagenet-200/wnids.txt": "92df6f08d075530c",
    "tiny-imagenet-200/words.txt": "e1f4fa2ca49ee69f",
    **{f"biwi/{person:02d}/rgb.cal": "d19fd25a57f963fe" for person in range(1, 25)},
}


# pictures (the JPEG library), poses (sines), vectors (eigenvectors)
UNFIXED = (".jpg", ".jpeg", "_pose.txt", ".vec", "drawn.txt.gz")


@pytest.mark.parametrize(
    "drawn", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["tables", "pictures"]
)
def test_samples_are_the_same_bytes_in_every_process(tmp_path, drawn):
    names = [name for name in SAMPLES if (name in DRAWN) == drawn]
    unknown = names if drawn else ["nietzsche"]  # the others must have the bytes in KNOWN
    first, second = (
        python(
            MAKE_ALL.replace("NAMES", repr(made)),
            seconds=900,
            EXP_DATA="sample",
            EXP_CACHE=str(tmp_path / seed),
            PYTHONHASHSEED=seed,
            LC_ALL=locale,
            TZ=zone,
        ).stdout.splitlines()
        for made, seed, locale, zone in (
            (names, "77", "C.UTF-8", "Asia/Tokyo"),
            (unknown, "1", "C", "UTC"),
        )
    )
    lines = [line.split() for line in first]
    assert {name for name, _, _ in lines} == set(names)
    assert second == [" ".join(line) for line in lines if line[0] in unknown]
    found = {f"{name}/{file}": sha256 for name, file, sha256 in lines}
    known = {file: sha256 for file, sha256 in KNOWN.items() if file.split("/")[0] in names}
    others = {file for file in found.keys() - known.keys() if not file.lower().endswith(UNFIXED)}
    assert others == (set() if drawn else {"nietzsche/nietzsche.txt"})
    assert {file: found[file][:16] for file in known} == known


def test_a_sample_is_made_once_and_then_only_read(cache, monkeypatch):
    folder = data_path("names")
    assert nb00a.is_available("names") and folder.parent.parent == cache
    before = snapshot(cache)
    monkeypatch.setattr(nb00b, "make_names", None)  # calling it would fail
    assert data_path("names") == folder
    assert snapshot(cache) == before


def test_a_changed_generator_never_serves_stale_files(cache, tmp_path, monkeypatch):
    register(monkeypatch, sample="toys", generators="toy_generators")
    source = tmp_path / "toy_generators.py"
    monkeypatch.syspath_prepend(tmp_path)
    made = []
    for text in ("old", "new"):
        source.write_text(f"def make_toys(folder): (folder / 'a.txt').write_text({text!r})")
        sys.modules.pop("toy_generators", None)
        importlib.invalidate_caches()
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)  # as old as both, to the second
        made.append(data_path("toys"))
    assert [(folder / "a.txt").read_text() for folder in made] == ["old", "new"]
    assert made[0] != made[1]


@given(st.binary(max_size=300_000))
def test_stored_gzip_is_a_gzip_file(data):
    assert gzip.decompress(nb00b.stored_gzip(data)) == data


@given(st.lists(st.integers(0, 6), min_size=1, max_size=3))
def test_idx_bytes_hold_type_shape_and_values(shape):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    raw = nb00b.idx_bytes(array)
    zero, kind, n = struct.unpack(">HBB", raw[:4])
    assert (zero, kind, n) == (0, 8, len(shape))
    assert struct.unpack(f">{n}I", raw[4 : 4 + 4 * n]) == tuple(shape)
    assert raw[4 + 4 * n :] == array.tobytes()


def test_mnist_sample_has_the_format_and_no_leak(cache):
    folder = data_path("mnist")
    seen = {}
    for part, n in (("train", 1545), ("t10k", 252)):
        images = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
        labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
        assert struct.unpack(">4I", images[:16]) == (2051, n, 28, 28)
        assert struct.unpack(">2I", labels[:8]) == (2049, n)
        assert (len(images), len(labels)) == (16 + 784 * n, 8 + n)
        counts = np.bincount(list(labels[8:]), minlength=10)
        assert counts.min() > 0.07 * n and len(counts) == 10
        seen[part] = {images[16 + 784 * i : 800 + 784 * i] for i in range(n)}
    assert not seen["train"] & seen["t10k"]


def test_enlarged_digits_keep_their_ink_and_their_place():
    one = np.zeros((1, 8, 8))
    one[0, 2, 5] = 16
    large = nb00b.enlarge_digits(one)[0].astype(float)
    rows, columns = np.mgrid[:28, :28]
    centre = [(large * side).sum() / large.sum() for side in (rows, columns)]
    np.testing.assert_allclose(centre, [(10 * 2 + 19) / 4, (10 * 5 + 19) / 4], atol=0.05)
    np.testing.assert_allclose(large.sum(), 255 * 2.5**2, rtol=0.01)


def test_names_truth_is_a_chain_and_what_is_drawn_follows_it(cache):
    truth = nb00b.names_truth()
    for row in truth.chances.values():
        assert abs(sum(row.values()) - 1) < 1e-12 and min(row.values()) > 0
    assert abs(truth.visits[nb00b.NAME_START] - 1) < 1e-12 and min(truth.visits.values()) > 0
    losses = [*truth.best_loss, truth.entropy_rate]
    assert losses == sorted(losses, reverse=True)
    assert truth.best_loss[3] - truth.entropy_rate > 0.05  # what only a longer context can know
    names = (data_path("names") / "names.txt").read_text().split("\n")
    assert len(names) == 32_033 and all(name.isascii() and name.islower() for name in names)
    by_name = [truth.prices(name) for name in names]
    for prices, mean in (
        ([price for of_name in by_name for price in of_name], truth.entropy_rate),
        ([sum(of_name) for of_name in by_name], truth.nats_per_name),
    ):
        assert abs(np.mean(prices) - mean) < 4 * np.std(prices) / np.sqrt(len(prices))


def test_names_keep_to_a_kind_of_vowel_or_alternate(cache):
    kept = {True: [0, 0], False: [0, 0]}
    for name in (data_path("names") / "names.txt").read_text().split("\n"):
        kinds = [vowel in "eiy" for vowel in name if vowel in "aeiouy"]
        for before, after in zip(kinds, kinds[1:], strict=False):
            kept[name[0] <= "j"][before == after] += 1
    for keeps, (changed, same) in kept.items():
        share = (same if keeps else changed) / (changed + same)
        assert abs(share - 31 / 32) < 4 * np.sqrt(31 / 32 / 32 / (changed + same))


def test_the_least_losses_of_a_small_chain_are_those_of_all_its_names():
    """Two letters and a memory of the first: summed over names instead of over states."""
    row = {"": {"a": 0.5, "b": 0.5}, "a": {"a": 0.7, ".": 0.3}, "b": {"a": 0.2, ".": 0.8}}
    visits = nb00b.expected_visits(row.get, "", lambda state, letter: state or letter)
    rate = nb00b.conditional_entropy(row.get, visits, lambda state: state)
    length = nats = 0.0
    for first in "ab":
        for n in range(200):  # the first letter, n times `a`, the end
            p = 0.5 * row[first]["a"] ** n * row[first]["."]
            length, nats = length + p * (n + 2), nats - p * np.log(p)
    assert abs(sum(visits.values()) - length) < 1e-9
    assert abs(rate * sum(visits.values()) - nats) < 1e-9


def test_ratings_follow_their_truth_and_the_real_format(cache):
    folder, truth = data_path("movielens_100k"), nb00b.movielens_truth()
    rows = np.loadtxt(folder / "u.data", dtype=int)
    films = [x.split("|") for x in (folder / "u.item").read_text("latin-1").splitlines()]
    assert rows.shape == (20_000, 4) and {len(film) for film in films} == {24}
    assert [int(film[0]) for film in films] == list(range(1, 301))
    assert len({film[1] for film in films}) < len(films)  # ids are the keys, titles are not
    users, items, ratings, times = rows.T
    assert len(set(zip(users, items, strict=True))) == len(rows)  # nobody rates a film twice
    assert set(ratings) == {1, 2, 3, 4, 5} and set(items) == set(range(1, 301))
    assert truth.rated.sum() == len(rows) and truth.rated[users - 1, items - 1].all()
    errors = (ratings - truth.expected[users - 1, items - 1]) ** 2
    assert abs(errors.mean() - truth.noise_floor) < 4 * errors.std() / np.sqrt(len(errors))


# --- downloads -----------------------------------------------------------------------------------


def offer(monkeypatch, server, file, content, sha256=None, **changes):
    """Serve a file and register it as the data set `toys`."""
    server.served[file] = content
    known = hashlib.sha256(content).hexdigest() if sha256 is None else sha256
    name = changes.pop("prefix", "") + file
    register(monkeypatch, downloads=(Download(server.url + name, known),), **changes)


@pytest.mark.parametrize(
    "archive",
    [
        ("toys.zip", zipped({"toys-1.0/a.txt": "A", "toys-1.0/b/c.txt": "C"})),
        ("toys.zip", zipped({"a.txt": "A", "b/c.txt": "C"})),
        (
            "toys.tgz",
            tarred(
                ("t/", tarfile.DIRTYPE, ""),
                ("t/a.txt", tarfile.REGTYPE, b"A"),
                ("t/b/c.txt", tarfile.REGTYPE, b"C"),
            ),
        ),
        (
            "toys.tar.gz",
            tarred(("./a.txt", tarfile.REGTYPE, b"A"), ("./b/c.txt", tarfile.REGTYPE, b"C")),
        ),
    ],
)
def test_an_archive_is_downloaded_once_checked_and_unpacked(full, server, monkeypatch, archive):
    offer(monkeypatch, server, *archive)
    for _ in range(2):
        folder = data_path("toys")
    assert server.asked == [archive[0]]
    files = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    assert sorted(files) == ["a.txt", "b/c.txt"] and (folder / "b/c.txt").read_text() == "C"
    assert visible(full) == ["toys"]


def test_archives_can_go_into_folders_of_their_own(full, server, monkeypatch):
    server.served |= {"one.zip": zipped({"one/a.txt": "1"}), "two.zip": zipped({"two/a.txt": "2"})}
    register(
        monkeypatch,
        files=("x/a.txt", "y/a.txt"),
        downloads=(
            Download(server.url + "one.zip", into="x"),
            Download(server.url + "two.zip", into="y"),
        ),
    )
    folder = data_path("toys")
    assert [(folder / k / "a.txt").read_text() for k in "xy"] == ["1", "2"]


def test_a_gz_is_checked_by_what_is_inside(full, server, monkeypatch):
    for level in (1, 9):
        content = {"a.gz": hashlib.sha256(b"x" * 9999).hexdigest()}
        server.served["a.gz"] = gzip.compress(b"x" * 9999, level)
        register(
            monkeypatch, files=("a.gz",), sha256=content, downloads=(Download(server.url + "a.gz"),)
        )
        folder = data_path("toys")
        assert gzip.decompress((folder / "a.gz").read_bytes()) == b"x" * 9999
        (folder / "a.gz").unlink()
        folder.rmdir()


def failing(full, match):
    """data_path("toys") fails with this text, says what to do by hand, and leaves nothing."""
    with pytest.raises(DataError, match=match) as caught:
        data_path("toys")
    assert visible(full) == [] and not list(full.glob(".*partial*"))
    text = str(caught.value)
    assert "by hand" in text and str(full / "downloads") in text and str(full / "toys") in text
    assert all(item.url in text for item in DATASETS["toys"].downloads)


def test_a_wrong_hash_is_refused(full, server, monkeypatch):
    offer(monkeypatch, server, "a.txt", b"another file", sha256="0" * 64)
    failing(full, f"sha256 is {hashlib.sha256(b'another file').hexdigest()} and not 0000")


def test_a_wrong_hash_inside_an_archive_is_refused(full, server, monkeypatch):
    offer(monkeypatch, server, "a.zip", zipped({"a.txt": "A"}))
    data = DATASETS["toys"]
    register(monkeypatch, downloads=data.downloads, sha256={"a.txt": "0" * 64})
    failing(full, "a.txt is not the expected file")


@pytest.mark.parametrize("prefix", ["short-", "close-"])
def test_a_truncated_download_is_refused(full, server, monkeypatch, prefix):
    offer(monkeypatch, server, "a.txt", os.urandom(100_000), prefix=prefix)
    failing(full, "could not download|not the expected file")


@pytest.mark.parametrize(
    "file, content",
    [
        ("a.gz", gzip.compress(os.urandom(50_000))),
        ("a.zip", zipped({"a.txt": os.urandom(50_000).hex()})),
        ("a.tgz", tarred(("a.txt", tarfile.REGTYPE, os.urandom(50_000)))),
    ],
)
def test_a_truncated_file_of_unknown_hash_is_refused(full, server, monkeypatch, file, content):
    offer(monkeypatch, server, file, content, sha256="", prefix="close-")
    if file == "a.gz":
        register(
            monkeypatch,
            downloads=DATASETS["toys"].downloads,
            files=("close-a.gz",),
            sha256={"close-a.gz": "0" * 64},
        )
    failing(full, "damaged or incomplete")


@pytest.mark.parametrize("file", ["a.zip", "a.tgz"])
def test_a_login_page_instead_of_an_archive_is_refused(full, server, monkeypatch, file):
    offer(monkeypatch, server, file, b"<html>please log in</html>", sha256="")
    failing(full, "damaged or incomplete")


def test_an_archive_without_the_promised_files_is_refused(full, server, monkeypatch):
    offer(monkeypatch, server, "a.zip", zipped({"b.txt": "B"}))
    failing(full, "lacks a.txt")


def test_a_file_that_is_gone_and_a_server_that_is_gone(full, server, monkeypatch):
    register(monkeypatch, downloads=(Download(server.url + "gone.txt"),))
    failing(full, "404")
    register(monkeypatch, downloads=(Download("http://127.0.0.1:9/a.txt"),))
    failing(full, "could not download http://127.0.0.1:9/a.txt")


def test_what_is_used_unchecked_is_said(full, server, monkeypatch, capsys):
    offer(monkeypatch, server, "a.txt", b"A", sha256="")
    data_path("toys")
    assert f"no hash; its is {hashlib.sha256(b'A').hexdigest()}" in capsys.readouterr().out


EVIL = [
    ("../escaped.txt", tarfile.REGTYPE, b"!"),
    ("/tmp/escaped.txt", tarfile.REGTYPE, b"!"),
    ("a/../../escaped.txt", tarfile.REGTYPE, b"!"),
    ("..\\escaped.txt", tarfile.REGTYPE, b"!"),
    ("C:\\escaped.txt", tarfile.REGTYPE, b"!"),
    ("link", tarfile.SYMTYPE, "/etc/passwd"),
    ("link", tarfile.SYMTYPE, "a.txt"),
    ("link", tarfile.LNKTYPE, "a.txt"),
    ("pipe", tarfile.FIFOTYPE, ""),
    ("null", tarfile.CHRTYPE, ""),
]


@pytest.mark.parametrize("member", EVIL, ids=lambda m: f"{m[0]} {m[1].decode()}")
def test_an_archive_that_would_leave_its_folder_is_refused_whole(full, server, monkeypatch, member):
    good = ("a.txt", tarfile.REGTYPE, b"A")
    written = []
    monkeypatch.setattr(nb00a.shutil, "copyfileobj", lambda *_: written.append(1))
    offer(monkeypatch, server, "a.tgz", tarred(good, member))
    failing(full, "outside its folder|a link or a device")
    assert not written and not list(full.parent.rglob("*escaped*"))


@pytest.mark.parametrize(
    "name, mode", [("../escaped.txt", 0), ("/escaped.txt", 0), ("link", stat.S_IFLNK | 0o777)]
)
def test_a_zip_that_would_leave_its_folder_is_refused_whole(full, server, monkeypatch, name, mode):
    packed, info = io.BytesIO(), zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.txt", "A")
        archive.writestr(info, "/etc/passwd")
    offer(monkeypatch, server, "a.zip", packed.getvalue())
    failing(full, "outside its folder|a link or a device")
    assert not list(full.parent.rglob("*escaped*"))


@given(st.text(st.sampled_from("ab./\\:~ "), max_size=12))
def test_a_name_that_is_accepted_stays_in_its_folder(name):
    try:
        parts = nb00a._safe_parts(name, "file")
    except DataError:
        return
    folder = Path("/data/folder")
    assert Path(os.path.normpath(folder.joinpath(*parts))).is_relative_to(folder)


# --- filled by hand ------------------------------------------------------------------------------


def fill_by_hand(folder, name):
    for pattern in DATASETS[name].files:
        path = folder / name / pattern.split(" or ")[-1].replace("*", "1")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"by hand")


@pytest.mark.parametrize("name", DATASETS)
def test_a_cache_filled_by_hand_touches_no_network_and_nothing_is_written(full, monkeypatch, name):
    fill_by_hand(full, name)
    (full / name).chmod(0o555)
    full.chmod(0o555)
    before = snapshot(full)
    no_network(monkeypatch)
    assert data_path(name) == full / name and nb00a.is_available(name)
    assert snapshot(full) == before
    full.chmod(0o755)
    (full / name).chmod(0o755)


def test_a_folder_half_filled_by_hand_is_left_alone_and_what_it_lacks_is_named(full, monkeypatch):
    no_network(monkeypatch)
    fill_by_hand(full, "mnist")
    (full / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    before = snapshot(full)
    with pytest.raises(DataError, match="lacks t10k-labels-idx1-ubyte.gz: add the missing files"):
        data_path("mnist")
    assert not nb00a.is_available("mnist")
    assert snapshot(full) == before


def test_a_download_put_there_by_hand_is_checked_and_unpacked(full, monkeypatch):
    content = zipped({"toys/a.txt": "A"})
    (full / "downloads").mkdir(parents=True)
    by_hand = full / "downloads" / "toys.zip"
    no_network(monkeypatch)
    register(
        monkeypatch,
        downloads=(Download("http://example.org/toys.zip", hashlib.sha256(content).hexdigest()),),
    )
    by_hand.write_bytes(b"not this")
    with pytest.raises(DataError, match="toys.zip is not the expected file"):
        data_path("toys")
    by_hand.write_bytes(content)
    assert (data_path("toys") / "a.txt").read_text() == "A"
    assert by_hand.read_bytes() == content  # what somebody put there is never taken away


def test_offline_the_error_names_the_url_the_folder_and_the_file(full, monkeypatch):
    def offline(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    for name in ("mnist", "movielens_100k", "word_vectors"):
        with pytest.raises(DataError) as caught:
            data_path(name)
        text = str(caught.value)
        assert "could not download" in text
        for item in DATASETS[name].downloads:
            assert item.url in text and item.file in text
        assert all(file in text for file in DATASETS[name].files)
        assert str(full / "downloads") in text and str(full / name) in text
        assert visible(full) == []


# --- disks, crashes and crowds -------------------------------------------------------------------


def raising(code):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    return fail


SAYS = {
    errno.ENOSPC: "is full: free space, or set EXP_CACHE",
    errno.EROFS: "may not be written: set EXP_CACHE",
    errno.EIO: "could not be written",
}


@pytest.mark.parametrize("code", SAYS)
@pytest.mark.parametrize("where", ["Path.mkdir", "Path.write_bytes", "os.fsync", "os.replace"])
def test_a_full_disk_in_sample_mode(cache, monkeypatch, where, code):
    owner, function = where.split(".")
    with monkeypatch.context() as broken:
        broken.setattr({"Path": Path, "os": nb00a.os}[owner], function, raising(code))
        with pytest.raises(DataError, match=SAYS[code]):
            data_path("movielens_100k")
    assert not list(cache.rglob("*u.data"))
    assert (data_path("movielens_100k") / "u.data").exists()  # mended, it works


@pytest.mark.parametrize("where", ["mkdir", "download", "unpack", "fsync", "replace"])
def test_a_full_disk_in_full_mode(full, server, monkeypatch, where):
    offer(monkeypatch, server, "a.zip", zipped({"t/a.txt": "A", "t/b.txt": "B"}))
    no_space = raising(errno.ENOSPC)
    with monkeypatch.context() as broken:
        if where == "mkdir":
            broken.setattr(Path, "mkdir", no_space)
        elif where == "download":
            broken.setattr("pooch.HTTPDownloader.__call__", no_space)
        elif where == "unpack":
            broken.setattr(nb00a.shutil, "copyfileobj", no_space)
        else:
            broken.setattr(nb00a.os, where, no_space)
        failing(full, "is full: free space, or set EXP_CACHE")
    assert (data_path("toys") / "b.txt").read_text() == "B"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_write_that_really_fails(tmp_path):
    result = python(
        """
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # no file may grow larger
        from exp.nb00a import data_path
        data_path("names")
    """,
        check=False,
        EXP_DATA="sample",
        EXP_CACHE=str(tmp_path),
    )
    assert "DataError" in result.stderr and "could not be written" in result.stderr
    assert not list(tmp_path.rglob("names.txt"))


def test_a_folder_that_may_not_be_written(cache, monkeypatch):
    monkeypatch.setattr(Path, "mkdir", raising(errno.EACCES))
    with pytest.raises(DataError, match="may not be written: set EXP_CACHE to a folder that may"):
        data_path("names")


def test_an_error_or_an_interrupt_half_way_leaves_nothing(tmp_path):
    for error in (ValueError("no"), KeyboardInterrupt(), SystemExit(1)):

        def fill(folder, error=error):
            (folder / "a.txt").write_text("half")
            raise error

        with pytest.raises(type(error)):
            provide_folder(tmp_path / "toys", ("a.txt",), fill)
        assert visible(tmp_path) == []


MANY = """
    import sys, time
    from pathlib import Path
    from exp.nb00a import provide_folder

    def fill(folder):
        with open(sys.argv[2], "a") as log:
            log.write("made\\n")
        for i in range(10):
            (folder / f"{i}.txt").write_text("whole")
            time.sleep(0.15)

    folder = provide_folder(Path(sys.argv[1]), ("*.txt",), fill)
    assert len(list(folder.iterdir())) == 10
"""


def test_several_processes_at_once_make_it_once(tmp_path):
    folder, log = tmp_path / "cache" / "toys", tmp_path / "log"
    processes = [start(MANY, folder, log) for _ in range(3)]
    while any(process.poll() is None for process in processes):
        if folder.exists():  # at whatever moment somebody looks
            assert len(list(folder.iterdir())) == 10
        time.sleep(0.01)
    texts = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], texts
    assert log.read_text() == "made\n"
    assert sum("waiting for another process" in err for _, err in texts) == 2
    assert visible(folder.parent) == ["toys"]


def test_several_processes_ask_for_the_same_sample(tmp_path):
    code = "import sys; from exp.nb00a import data_path; print(data_path('movielens_100k'))"
    environment = {"EXP_DATA": "sample", "EXP_CACHE": str(tmp_path)}
    with pytest.MonkeyPatch.context() as patch:
        for key, value in environment.items():
            patch.setenv(key, value)
        processes = [start(code) for _ in range(3)]
    outputs = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0] and len(outputs) == 1


DYING = """
    import os, signal, sys
    from pathlib import Path
    from exp import nb00a

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def fill(folder):
        for i in range(4):
            (folder / f"{i}.txt").write_text("whole")
            if point == f"file {i}":
                die()

    point, flush, replace = sys.argv[2], nb00a._flush_to_disk, os.replace

    def dying_flush(folder):
        die() if point == "before flush" else flush(folder)

    def dying_replace(*paths):
        die() if point == "before rename" else replace(*paths)
        die() if point == "after rename" else None

    nb00a._flush_to_disk, nb00a.os.replace = dying_flush, dying_replace
    nb00a.provide_folder(Path(sys.argv[1]), tuple(f"{i}.txt" for i in range(4)), fill)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize(
    "point", ["file 0", "file 2", "file 3", "before flush", "before rename", "after rename"]
)
def test_killed_at_any_point_it_is_complete_or_absent_and_the_next_run_heals(tmp_path, point):
    folder = tmp_path / "toys"
    process = start(DYING, folder, point)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert folder.exists() == (point == "after rename")
    process = start(DYING, folder, "never")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert sorted(p.name for p in folder.iterdir()) == ["0.txt", "1.txt", "2.txt", "3.txt"]
    assert not list(tmp_path.glob(".*partial*"))


# --- real data, where it is at hand --------------------------------------------------------------


@pytest.mark.skipif(os.environ.get("EXP_DATA") != "full", reason="needs EXP_DATA=full")
def test_real_data_in_the_cache_has_the_known_hashes():
    for name, data in DATASETS.items():
        if nb00a.is_available(name):
            nb00a.check_files(data, data_path(name))
