"""Files from addresses: which are kept, and which are checked."""

import argparse
import functools
import hashlib
import random
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Thread

import pytest
import torch

from util.errors import UserError
from util.files.checkpoint_file import load_checkpoint
from util.files.download import is_url


@pytest.fixture
def hub_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def publish(folder, content):
    """A file under the name that its hash gives it."""
    folder.mkdir(exist_ok=True)
    plain = folder / "plain.pth"
    torch.save(content, plain)
    digest = hashlib.sha256(plain.read_bytes()).hexdigest()[:8]
    return plain.rename(folder / f"detr-r50-{digest}.pth")


def test_a_published_file_is_fetched_once_and_kept(tmp_path, hub_folder):
    published = publish(tmp_path / "www", {"model": {}, "args": argparse.Namespace(lr=1.0)})
    assert load_checkpoint(published.as_uri())["args"].lr == 1.0
    assert [file.name for file in hub_folder.iterdir()] == [published.name]
    published.unlink()  # the second time nobody asks for it
    assert load_checkpoint(published.as_uri())["args"].lr == 1.0


def test_other_threads_read_files_during_a_download(tmp_path, hub_folder, monkeypatch):
    published = publish(tmp_path / "www", {"epoch": 7})
    torch.save({"epoch": 1}, tmp_path / "own.pth")
    download, read = torch.hub.download_url_to_file, []

    def read_meanwhile(*args, **kwargs):
        reader = Thread(target=lambda: read.append(load_checkpoint(tmp_path / "own.pth")))
        reader.daemon = True
        reader.start()
        reader.join(timeout=20)
        download(*args, **kwargs)

    monkeypatch.setattr(torch.hub, "download_url_to_file", read_meanwhile)
    assert load_checkpoint(published.as_uri(), released=True) == {"epoch": 7}
    assert read == [{"epoch": 1}]


@pytest.mark.parametrize("has_name_of_torch", [False, True])
def test_a_replaced_loader_provides_released_files(hub_folder, monkeypatch, has_name_of_torch):
    """A program without network access; `functools.wraps` gives its loader PyTorch's name."""

    def provide(url, **_):
        return {"epoch": 7}

    def refuse(*_, **__):
        raise AssertionError("no download")

    real = torch.hub.load_state_dict_from_url
    loader = functools.wraps(real)(provide) if has_name_of_torch else provide
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", loader)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    assert load_checkpoint("https://a.test/r50-0123abcd.pth", released=True) == {"epoch": 7}


def test_a_kept_file_that_was_damaged_is_not_used(tmp_path, hub_folder):
    published = publish(tmp_path / "www", {"epoch": 7})
    load_checkpoint(published.as_uri())
    kept = hub_folder / published.name
    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.raises(UserError, match=f"{published.name}: does not match .* rename it"):
        load_checkpoint(published.as_uri())
    kept.unlink()
    assert load_checkpoint(published.as_uri()) == {"epoch": 7}


def test_files_with_the_same_name_are_distinguished(tmp_path, hub_folder):
    addresses = []
    for number in (1, 2):
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        torch.save({"epoch": number}, folder / "checkpoint.pth")
        addresses.append((folder / "checkpoint.pth").as_uri())
    assert [load_checkpoint(address)["epoch"] for address in addresses] == [1, 2]
    torch.save({"epoch": 3}, tmp_path / "run1" / "checkpoint.pth")
    assert load_checkpoint(addresses[0])["epoch"] == 3
    assert list(hub_folder.iterdir()) == []


@pytest.mark.parametrize("name", ["0299.pth", "a.b.pth", "run-3.pth", "my-1.0-cafe.pth"])
def test_names_that_look_like_a_hash_but_promise_none(tmp_path, hub_folder, name):
    torch.save({"epoch": 299}, tmp_path / name)
    assert load_checkpoint((tmp_path / name).as_uri()) == {"epoch": 299}
    assert list(hub_folder.iterdir()) == []


def test_threads_may_fetch_files_of_equal_names(tmp_path, hub_folder):
    addresses = []
    for number in range(8):
        (tmp_path / str(number)).mkdir()
        torch.save({"w": torch.full((50_000,), float(number))}, tmp_path / f"{number}/f.pth")
        addresses.append((tmp_path / f"{number}/f.pth").as_uri())
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(load_checkpoint, addresses * 3))
    assert [int(one["w"].unique()) for one in found] == list(range(8)) * 3
    assert list(hub_folder.iterdir()) == []


def test_threads_may_read_files_of_the_original(tmp_path, monkeypatch):
    """What one thread allows, another one must not forbid while it reads."""
    torch.save({"args": argparse.Namespace(lr=1.0)}, tmp_path / "f.pth")
    real = torch.load

    def slowly(path, **options):
        time.sleep(random.random() / 100)
        return real(path, **options)

    monkeypatch.setattr(torch, "load", slowly)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(load_checkpoint, [tmp_path / "f.pth"] * 12))
    assert all(one["args"].lr == 1.0 for one in found)


def test_an_address_with_another_hash_in_its_name(tmp_path, hub_folder):
    published = tmp_path / "detr-r50-e632da11.pth"
    torch.save({"model": {}}, published)
    with pytest.raises(UserError, match="does not match the hash in its name"):
        load_checkpoint(published.as_uri())
    assert list(hub_folder.iterdir()) == []


def test_an_address_that_gives_nothing(tmp_path, hub_folder):
    with pytest.raises(UserError, match=r"cannot be downloaded .* give its path") as error:
        load_checkpoint((tmp_path / "nothing.pth").as_uri())
    assert "\n" not in error.value.one_line()


def test_a_file_that_will_be_kept_may_be_put_there(tmp_path, hub_folder):
    published = publish(tmp_path / "www", {"epoch": 7})
    kept = hub_folder / published.name
    carried = published.rename(tmp_path / "carried.pth")
    with pytest.raises(UserError, match="on another machine and put it at") as error:
        load_checkpoint(published.as_uri())
    assert error.value.one_line().endswith(f"put it at {kept}")
    carried.rename(kept)
    assert load_checkpoint(published.as_uri()) == {"epoch": 7}


def test_safetensors_files_are_not_downloaded():
    with pytest.raises(UserError, match="cannot be read from a URL: download the file"):
        load_checkpoint("https://example.org/model.safetensors")


def test_what_is_an_address():
    assert is_url("https://example.org/a.pth") and is_url("file:///a.pth")
    assert not is_url("a.pth") and not is_url("s3:a.pth")
