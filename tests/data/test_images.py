"""Small made-up files in the original formats; downloads come from a server of the test's own."""

import hashlib
import io
import pickle
import struct
import tarfile
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from scipy.io import savemat

from samkit.data import images, load

CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()
CIFAR100 = [f"name_{c}" for c in range(100)]


def python2(value) -> bytes:
    """The inside of a pickle (protocol 2) as Python 2 and its numpy wrote it."""
    match value:
        case bytes():  # the str of Python 2
            return b"T" + struct.pack("<i", len(value)) + value
        case int():
            return b"J" + struct.pack("<i", value)
        case list():
            return b"](" + b"".join(map(python2, value)) + b"e"
        case dict():
            return b"}(" + b"".join(python2(k) + python2(v) for k, v in value.items()) + b"u"
        case np.ndarray():
            kind = b"cnumpy\ndtype\n(" + python2(b"u1") + b"K\x00K\x01tR"
            kind += b"(K\x03" + python2(b"|") + b"NNN" + python2(-1) + python2(-1) + b"K\x00tb"
            empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t"
            empty += python2(b"b") + b"tR"
            shape = b"(" + b"".join(map(python2, value.shape)) + b"t"
            return empty + b"(K\x01" + shape + kind + b"\x89" + python2(value.tobytes()) + b"tb"


def published_format(value) -> bytes:
    return b"\x80\x02" + python2(value) + b"."


def cifar_rows(count, classes, rng):
    return rng.integers(256, size=(count, 3072), dtype=np.uint8), rng.integers(classes, size=count)


def cifar10_files(write=published_format):
    """Contents by path, and the images and labels in them: 5 x 4 to train on, 6 to test."""
    rng = np.random.default_rng(0)
    parts = [cifar_rows(4, 10, rng) for _ in range(5)] + [cifar_rows(6, 10, rng)]
    names = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]
    files = {
        f"cifar-10-batches-py/{name}": write(
            {b"batch_label": name.encode(), b"labels": labels.tolist(), b"data": data}
        )
        for name, (data, labels) in zip(names, parts, strict=True)
    }
    meta = {b"num_cases_per_batch": 4, b"label_names": [name.encode() for name in CIFAR10]}
    return files | {"cifar-10-batches-py/batches.meta": write(meta)}, parts


def put(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(content)


def planes(rows):
    """Rows of 3072 as images, pixel by pixel: red, green, blue, each line by line."""
    result = np.empty((len(rows), 3, 32, 32), np.float32)
    for channel in range(3):
        for line in range(32):
            start = 1024 * channel + 32 * line
            result[:, channel, line] = rows[:, start : start + 32].astype(np.float32) / 255
    return result


def train_in_order(data, seed):
    """The training part and the validation part, put back together as the files had them."""
    mask = np.zeros(len(data.y) + len(data.y_validation), bool)
    mask[np.random.RandomState(seed).permutation(len(mask))[: len(mask) // 10]] = True
    x = np.empty((len(mask), *data.x.shape[1:]), np.float32)
    y = np.empty(len(mask), np.int64)
    x[mask], x[~mask], y[mask], y[~mask] = data.x_validation, data.x, data.y_validation, data.y
    return x, y


def checked(data):
    for x in (data.x, data.x_validation, data.x_test):
        assert x.dtype == np.float32 and x.shape[1:] == (3, 32, 32)
        assert x.flags.c_contiguous and x.flags.writeable
    assert data.y.dtype == data.y_validation.dtype == data.y_test.dtype == np.int64
    return data


@pytest.mark.parametrize(
    "write", [published_format, pickle.dumps, lambda value: pickle.dumps(value, protocol=5)]
)
def test_cifar10_from_a_folder(tmp_path, write):
    files, parts = cifar10_files(write)
    put(tmp_path, files)
    data = checked(load("cifar10", folder=tmp_path, seed=3))
    x, y = train_in_order(data, seed=3)
    assert len(data.y_validation) == 2
    assert (x == planes(np.concatenate([rows for rows, _ in parts[:5]]))).all()
    assert (y == np.concatenate([labels for _, labels in parts[:5]])).all()
    assert (data.x_test == planes(parts[5][0])).all() and (data.y_test == parts[5][1]).all()
    assert data.classes == tuple(CIFAR10)


def test_cifar100_from_a_folder_has_the_fine_labels(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    parts = {"train": cifar_rows(20, 100, rng), "test": cifar_rows(5, 100, rng)}
    for name, (rows, labels) in parts.items():
        batch = {b"coarse_labels": [0] * len(rows), b"fine_labels": labels.tolist(), b"data": rows}
        put(tmp_path, {f"cifar-100-python/{name}": published_format(batch)})
    meta = {b"coarse_label_names": [b"x"], b"fine_label_names": [n.encode() for n in CIFAR100]}
    put(tmp_path, {"cifar-100-python/meta": published_format(meta)})
    monkeypatch.setenv("SAMKIT_DATA", str(tmp_path))  # instead of folder=
    data = checked(load("cifar100"))
    x, y = train_in_order(data, seed=0)
    assert (x == planes(parts["train"][0])).all() and (y == parts["train"][1]).all()
    assert (data.y_test == parts["test"][1]).all() and data.classes == tuple(CIFAR100)


def svhn_file(pixels, labels):
    """Pixels (n, 3, 32, 32) as MATLAB has them: line, column, channel, image; 0 is called 10."""
    file = io.BytesIO()
    y = np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)
    savemat(file, {"X": np.einsum("ncij->ijcn", pixels), "y": y}, do_compression=True)
    return file.getvalue()


def test_svhn_from_a_folder(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(23, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(23) % 10
    files = svhn_file(pixels[:20], labels[:20]), svhn_file(pixels[20:], labels[20:])
    put(tmp_path, dict(zip(("train_32x32.mat", "test_32x32.mat"), files, strict=True)))
    data = checked(load("svhn", folder=str(tmp_path)))
    x, y = train_in_order(data, seed=0)
    assert (x == pixels[:20].astype(np.float32) / 255).all() and (y == labels[:20]).all()
    assert (data.y_test == labels[20:]).all() and data.classes == tuple("0123456789")
    put(tmp_path, {"test_32x32.mat": svhn_file(pixels[20:], labels[20:] + 11)})
    with pytest.raises(ValueError, match=r"test_32x32\.mat is damaged.*labels other than"):
        load("svhn", folder=tmp_path)


def test_the_source_tells_copies_apart(tmp_path, monkeypatch):
    files, _ = cifar10_files()
    put(tmp_path, files)
    own = load("cifar10", folder=tmp_path).source
    assert "a copy that differs from the published files" in own
    assert load("cifar10", folder=tmp_path, seed=1).source == own
    put(tmp_path, dict([next(iter(cifar10_files(pickle.dumps)[0].items()))]))
    assert load("cifar10", folder=tmp_path).source != own
    put(tmp_path, files)
    publish(monkeypatch, files, {})
    assert load("cifar10", folder=tmp_path).source == "cifar10, the published files"


def test_a_pickle_that_asks_for_code_is_refused(tmp_path):
    class Harm:
        def __reduce__(self):
            return (tmp_path / "harmed").write_text, ("yes",)

    files, _ = cifar10_files()
    for harmful in (pickle.dumps(Harm()), b"cos\nsystem\n(S'true'\ntR.", b"cbuiltins\neval\n."):
        put(tmp_path, files | {"cifar-10-batches-py/data_batch_2": harmful})
        with pytest.raises(ValueError, match=r"data_batch_2 is damaged.*asks for .*: refused"):
            load("cifar10", folder=tmp_path)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: content[:-100],
        lambda content: b"<html>404</html>",
        lambda content: published_format({b"data": np.zeros((4, 3072), np.uint8)}),
        lambda content: published_format(
            {b"data": np.zeros((4, 3072), np.uint8), b"labels": [1, 2, 3]}
        ),
        lambda content: published_format(
            {b"data": np.zeros((4, 3072), np.uint8), b"labels": [1, 2, 3, 10]}
        ),
        lambda content: pickle.dumps({b"data": np.zeros((4, 3072)), b"labels": [1, 2, 3, 4]}),
    ],
)
def test_a_damaged_file_is_named_with_the_cure(tmp_path, spoil):
    files, _ = cifar10_files()
    name = "cifar-10-batches-py/data_batch_3"
    put(tmp_path, files | {name: spoil(files[name])})
    with pytest.raises(
        ValueError, match=r"data_batch_3 is damaged.*put the one from https://.* in"
    ):
        load("cifar10", folder=tmp_path)


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 MAT-file" * 20])
def test_a_damaged_mat_file_is_named(tmp_path, content):
    put(tmp_path, {"train_32x32.mat": content, "test_32x32.mat": content})
    with pytest.raises(ValueError, match=r"train_32x32\.mat is damaged"):
        load("svhn", folder=tmp_path)


def test_damaged_names_of_the_classes(tmp_path):
    files, _ = cifar10_files()
    put(tmp_path, files | {"cifar-10-batches-py/batches.meta": published_format({})})
    with pytest.raises(ValueError, match=r"batches\.meta is damaged"):
        load("cifar10", folder=tmp_path)


def test_a_folder_without_the_files(tmp_path):
    files, _ = cifar10_files()
    put(tmp_path, dict(list(files.items())[:4]))
    message = r"no cifar-10-batches-py/data_batch_5, .*test_batch.*: unpack https://.*SAMKIT_DATA"
    with pytest.raises(FileNotFoundError, match=message):
        load("cifar10", folder=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no train_32x32.mat, test_32x32.mat"):
        load("svhn", folder=tmp_path / "nowhere")


# Downloads


def md5(content):
    return hashlib.md5(content).hexdigest()


def archive(files):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in [*files.items(), ("cifar-10-batches-py/readme.html", b"")]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def publish(monkeypatch, files, addresses):
    """Let CIFAR-10 be these files, to be had at these addresses."""
    original = images.PUBLISHED["cifar10"]
    sums = [
        {name: md5(files[name]) for name in part}
        for part in (original.train, original.test, original.meta)
    ]
    made_up = replace(original, addresses=addresses, train=sums[0], test=sums[1], meta=sums[2])
    monkeypatch.setitem(images.PUBLISHED, "cifar10", made_up)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setattr(images, "cache_folder", lambda: folder)
    monkeypatch.delenv("SAMKIT_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return folder


@pytest.fixture
def server():
    """Serves what is in ``content``, or 404, and keeps a list of the requests."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_response(200 if self.path in content else 404)
            self.send_header("Content-Length", str(len(content.get(self.path, b""))))
            self.end_headers()
            self.wfile.write(content.get(self.path, b""))

        def log_message(self, *arguments):
            pass

    content, requests = {}, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", content, requests
        running.shutdown()
        thread.join()


def test_a_download_is_checked_unpacked_and_kept(cache, server, monkeypatch, capfd):
    base, content, requests = server
    files, parts = cifar10_files()
    packed = content["/cifar-10-python.tar.gz"] = archive(files)
    publish(monkeypatch, files, {f"{base}/cifar-10-python.tar.gz": md5(packed)})
    data = checked(load("cifar10"))
    assert "100%" in capfd.readouterr().err  # progress
    assert (data.y_test == parts[5][1]).all() and data.source == "cifar10, the published files"
    assert sorted(path.name for path in (cache / "cifar-10-batches-py").iterdir()) == sorted(
        name.partition("/")[2] for name in files
    )
    assert (load("cifar10").x == data.x).all()
    assert requests == ["/cifar-10-python.tar.gz"]

    damaged = cache / "cifar-10-batches-py" / "data_batch_1"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"data_batch_1 is damaged.*delete it, and the next call"):
        load("cifar10")
    damaged.unlink()
    assert (load("cifar10").x == data.x).all()
    assert len(requests) == 1  # from the archive that was kept


def test_a_wrong_checksum(cache, server, monkeypatch):
    base, content, _ = server
    files, _ = cifar10_files()
    content["/cifar-10-python.tar.gz"] = b"<html>please log in</html>"
    publish(monkeypatch, files, {f"{base}/cifar-10-python.tar.gz": md5(archive(files))})
    message = r"cifar-10-python\.tar\.gz is not the published file .*not kept: try again, or put"
    with pytest.raises(ValueError, match=message):
        load("cifar10")
    assert list(cache.iterdir()) == []


def test_no_network(cache, server, monkeypatch):
    base, _, _ = server
    files, _ = cifar10_files()
    message = (
        r"cannot be downloaded .*: try again with a network, or put .*load\('cifar10', folder="
    )
    publish(monkeypatch, files, {f"{base}/gone.tar.gz": "0" * 32})
    with pytest.raises(ConnectionError, match=message):
        load("cifar10")
    publish(monkeypatch, files, {"http://127.0.0.1:1/cifar-10-python.tar.gz": "0" * 32})
    with pytest.raises(ConnectionError, match=message):
        load("cifar10")


def test_a_cache_folder_that_cannot_be_written(cache, server, monkeypatch):
    base, _, _ = server
    cache.write_text("not a folder")
    files, _ = cifar10_files()
    publish(monkeypatch, files, {f"{base}/cifar-10-python.tar.gz": "0" * 32})
    with pytest.raises(OSError, match=r"cannot be written to .*: make room or give access"):
        load("cifar10")


def test_the_published_sums_are_whole():
    for published in images.PUBLISHED.values():
        for sum_ in [*published.addresses.values(), *published.files.values()]:
            assert len(bytes.fromhex(sum_)) == 16
