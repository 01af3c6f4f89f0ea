"""Downloads from a server of our own on this machine: cut, corrupted, changed, refused, hostile, twice at once."""

import functools
import gzip
import hashlib
import io
import random
import signal
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from prismrec.cli import cli
from prismrec.data import datasets, download
from prismrec.data.archives import MAX_EXPANSION, UnusableArchive, unpack
from prismrec.data.datasets import DataSet, Licence, Registry, RemoteFile, read_registry
from prismrec.errors import UserError
from toy_project import ToyProject

PROJECT = Path(__file__).parents[2]
RATINGS = random.Random(7).randbytes(300_000)  # packing does not make it smaller
CUT = 100_000


def zipped(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


ARCHIVE = zipped({"toy/ratings.dat": RATINGS, "toy/README": b"terms", "elsewhere/x": b"left out"})


@dataclass
class Behaviour:
    """What the server holds and how it answers; `log` is what it was asked, and what it was told beside."""

    bodies: dict[str, bytes]
    mark: str = '"one"'
    ranges: bool = True
    ignores_conditions: bool = False
    cuts: list[int] = field(default_factory=list)  # the bytes after which each of the next answers breaks off
    statuses: list[int] = field(default_factory=list)  # of each of the next answers
    location: str = ""
    log: list[str] = field(default_factory=list)

    @property
    def requests(self) -> list[str]:
        return [line for line in self.log if line.startswith("GET")]


class Handler(BaseHTTPRequestHandler):
    """Serves `Behaviour`."""

    def __init__(self, behaviour: Behaviour, *args: object) -> None:
        self.behaviour = behaviour
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.behaviour.log.append(f"GET {self.path} {wanted}".rstrip())
        body = self.behaviour.bodies.get(self.path)
        status = self.behaviour.statuses.pop(0) if self.behaviour.statuses else 200
        if status != 200 or body is None:
            self.send_response(404 if body is None else status)
            self.send_header("Location", self.behaviour.location)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        fresh = self.headers.get("If-Range") == self.behaviour.mark or self.behaviour.ignores_conditions
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and fresh and self.behaviour.ranges else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if self.behaviour.mark:
            self.send_header("ETag", self.behaviour.mark)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start:][: self.behaviour.cuts.pop(0) if self.behaviour.cuts else None])

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@dataclass
class World:
    """A server, a registry that points to it, and a data root."""

    behaviour: Behaviour
    registry: Registry
    root: Path

    def fetch(self) -> str:
        """Download the toy data set, agreeing; return what was said."""
        said: list[str] = []
        download.download("toy", self.root, self.registry, agree=lambda: None, say=said.append)
        return "\n".join(said)

    def fails(self) -> str:
        with pytest.raises(UserError) as caught:
            self.fetch()
        assert not (self.root / "toy").exists()
        assert caught.value.mend
        return str(caught.value)

    def rests(self) -> list[str]:
        """What lies in the data root, temporary folders and parts included."""
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*"))


def registry_of(base: str, **entry: object) -> Registry:
    checksums = {"sha256": hashlib.sha256(ARCHIVE).hexdigest(), "md5": hashlib.md5(ARCHIVE).hexdigest()}
    known = {"address": f"{base}/toy.zip", "size": len(ARCHIVE), "checksums": checksums, "inside": "toy"}
    file = RemoteFile.model_validate({**known, **entry})
    data_set = DataSet(title="Toy ratings", licence="own", link="https://x.test/", source="movielens", files=(file,))
    return Registry(licences={"own": Licence(owner="Us", terms="Do no harm.")}, datasets={"toy": data_set})


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def serve() -> Iterator[Callable[[Behaviour], str]]:
    servers = []

    def start(behaviour: Behaviour) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, behaviour))
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def world(tmp_path: Path, serve: Callable[[Behaviour], str]) -> World:
    behaviour = Behaviour({"/toy.zip": ARCHIVE})
    return World(behaviour, registry_of(serve(behaviour)), tmp_path / "raw")


def test_a_data_set_is_downloaded_checked_and_unpacked_whole(world: World) -> None:
    said = world.fetch()
    assert (world.root / "toy" / "ratings.dat").read_bytes() == RATINGS
    assert world.rests() == ["toy", "toy/README", "toy/ratings.dat"]
    assert "sha256 and md5 as expected" in said
    assert world.behaviour.requests == ["GET /toy.zip"]


def test_what_is_there_is_not_asked_for_again(world: World) -> None:
    world.fetch()
    assert "there already" in world.fetch()
    assert len(world.behaviour.requests) == 1


def test_the_terms_are_said_and_agreed_to_before_the_first_request(world: World) -> None:
    log = world.behaviour.log
    download.download("toy", world.root, world.registry, agree=lambda: log.append("agreed"), say=log.append)
    assert "Do no harm." in log[0]
    assert "https://x.test/" in log[0]
    assert log[1:3] == ["agreed", "GET /toy.zip"]


def test_without_agreement_the_server_is_not_asked(world: World) -> None:
    def refuse() -> None:
        raise UserError("not agreed")

    with pytest.raises(UserError, match="not agreed"):
        download.download("toy", world.root, world.registry, agree=refuse, say=lambda _: None)
    assert world.behaviour.requests == []
    assert not world.root.exists()


def test_a_cut_connection_is_continued_where_it_ended(world: World) -> None:
    world.behaviour.cuts = [CUT]
    said = world.fetch()
    assert world.behaviour.requests == ["GET /toy.zip", f"GET /toy.zip bytes={CUT}-"]
    assert f"the connection ended after {CUT:,}" in said
    assert f"continues after {CUT:,} bytes" in said
    assert (world.root / "toy" / "ratings.dat").read_bytes() == RATINGS


def test_a_later_command_continues_what_an_earlier_one_had_to_leave(world: World) -> None:
    world.behaviour.cuts = [CUT, 0, 0]
    assert f"{CUT:,} bytes are kept" in world.fails()
    assert world.rests() == ["toy.part", "toy.part/toy.zip.json", "toy.part/toy.zip.part"]
    world.fetch()
    assert world.behaviour.requests[-1] == f"GET /toy.zip bytes={CUT}-"
    assert world.rests() == ["toy", "toy/README", "toy/ratings.dat"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"ranges": False}, "cannot be continued by this server"),
        ({"mark": '"two"'}, "has changed on the server"),
        ({"mark": '"two"', "ignores_conditions": True}, "the rest of another file"),
        ({"mark": ""}, "has changed on the server"),
    ],
)
def test_a_part_that_cannot_be_continued_safely_starts_anew_and_says_so(
    world: World, change: dict[str, object], why: str
) -> None:
    world.behaviour.cuts = [CUT, 0, 0]
    world.fails()
    for name, value in change.items():
        setattr(world.behaviour, name, value)
    assert why in world.fetch()
    assert (world.root / "toy" / "ratings.dat").read_bytes() == RATINGS


def test_without_a_mark_of_its_version_a_part_starts_anew(world: World) -> None:
    world.behaviour.mark = ""
    world.behaviour.cuts = [CUT]
    assert "does not say which version it is" in world.fetch()
    assert world.behaviour.requests == ["GET /toy.zip", "GET /toy.zip"]


def test_a_file_that_changes_between_two_parts_is_never_glued(tmp_path: Path, serve: Callable[..., str]) -> None:
    """Nothing is known of the file here, so that only the ETag can tell."""
    new = zipped({"toy/ratings.dat": RATINGS[::-1]})
    behaviour = Behaviour({"/toy.zip": ARCHIVE}, cuts=[CUT, 0, 0])
    world = World(behaviour, registry_of(serve(behaviour), size=None, checksums={}), tmp_path / "raw")
    world.fails()
    behaviour.bodies["/toy.zip"], behaviour.mark = new, '"two"'
    said = world.fetch()
    assert (world.root / "toy" / "ratings.dat").read_bytes() == RATINGS[::-1]
    assert f"could not be compared. Its sha256 is {hashlib.sha256(new).hexdigest()}" in said


def test_a_corrupted_body_is_removed(world: World) -> None:
    world.behaviour.bodies["/toy.zip"] = ARCHIVE[:CUT] + b"x" + ARCHIVE[CUT + 1 :]
    message = world.fails()
    assert "damaged" in message
    assert hashlib.sha256(ARCHIVE).hexdigest() in message
    assert world.rests() == []


def test_a_corrupted_archive_without_a_checksum_is_noticed_in_unpacking(
    tmp_path: Path, serve: Callable[..., str]
) -> None:
    behaviour = Behaviour({"/toy.json.gz": gzip.compress(RATINGS)[:-CUT]})
    address = f"{serve(behaviour)}/toy.json.gz"
    world = World(behaviour, registry_of("", address=address, size=None, checksums={}), tmp_path / "raw")
    assert "cannot be unpacked" in world.fails()
    assert world.rests() == []


def test_a_truncated_body_whose_length_the_server_takes_for_right_is_refused(world: World) -> None:
    world.behaviour.bodies["/toy.zip"] = ARCHIVE[:CUT]
    assert f"{CUT:,} bytes instead of {len(ARCHIVE):,}" in world.fails()
    assert world.rests() == []


def test_a_missing_file_is_not_asked_for_twice(world: World) -> None:
    world.behaviour.bodies.clear()
    assert "404 Not Found" in world.fails()
    assert world.rests() == []
    assert len(world.behaviour.requests) == 1


def test_a_busy_server_is_asked_again(world: World) -> None:
    world.behaviour.statuses = [503, 429]
    said = world.fetch()
    assert "503 Service Unavailable; trying again" in said
    assert len(world.behaviour.requests) == 3


def test_a_server_that_stays_busy_ends_in_a_message(world: World) -> None:
    world.behaviour.statuses = [503] * 3
    assert "503" in world.fails()
    assert world.rests() == []


def test_a_refused_range_starts_anew(world: World) -> None:
    world.behaviour.cuts = [CUT]
    world.behaviour.statuses = [200, 416]
    assert "starts anew" in world.fetch()
    assert world.behaviour.requests == ["GET /toy.zip", f"GET /toy.zip bytes={CUT}-", "GET /toy.zip"]


def test_nobody_there(tmp_path: Path) -> None:
    world = World(Behaviour({}), registry_of("http://127.0.0.1:9"), tmp_path / "raw")
    message = world.fails()
    assert "Connection refused" in message
    assert "127.0.0.1:9" in message
    assert world.rests() == []


def test_a_redirection_away_from_https_is_refused(world: World) -> None:
    world.behaviour.statuses, world.behaviour.location = [302], "http://example.test/toy.zip"
    assert "without https" in world.fails()


def test_a_redirection_is_followed(world: World) -> None:
    world.behaviour.statuses = [302]
    world.behaviour.location = world.registry.datasets["toy"].files[0].address
    world.fetch()
    assert len(world.behaviour.requests) == 2


def test_only_https_addresses_enter_the_registry() -> None:
    with pytest.raises(ValueError, match="not an https address"):
        registry_of("http://example.test")


def test_a_folder_that_cannot_be_written(world: World) -> None:
    world.root.write_text("a file where the data root should be")
    with pytest.raises(UserError, match="cannot be written") as caught:
        world.fetch()
    assert "--to" in caught.value.mend


def test_a_full_disk_keeps_what_came(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(download, "unpack", full)
        assert "The disk is full" in world.fails()
    assert world.rests() == ["toy.part", "toy.part/toy.zip"]
    assert "was downloaded before" in world.fetch()
    assert len(world.behaviour.requests) == 1


def test_of_two_downloads_at_once_the_second_is_told(world: World) -> None:
    with download._alone(world.root / "toy.part"):
        assert "Another download" in world.fails()
    world.fetch()


def test_another_download_that_ends_while_this_one_asks_is_enough(world: World) -> None:
    def wait() -> None:
        world.fetch()

    download.download("toy", world.root, world.registry, agree=wait, say=lambda _: None)
    assert len(world.behaviour.requests) == 1
    assert world.rests() == ["toy", "toy/README", "toy/ratings.dat"]


def test_the_lock_of_a_folder_that_is_gone_is_no_lock(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    part = world.root / "toy.part"
    real = download.fcntl.flock

    def after_the_other_one_ended(handle: int, how: int) -> None:
        part.rmdir()
        real(handle, how)

    monkeypatch.setattr(download.fcntl, "flock", after_the_other_one_ended)
    assert "Another download" in world.fails()


def test_a_part_left_by_another_run_is_checked_before_it_is_used(world: World) -> None:
    part = world.root / "toy.part"
    part.mkdir(parents=True)
    (part / "toy.zip").write_bytes(ARCHIVE[::-1])
    assert "damaged" in world.fails()
    world.fetch()


KILLED_BEFORE_THE_RENAME = """
import os, signal, sys
from pathlib import Path
from prismrec.artifacts import atomic
from prismrec.data import datasets, download

def die(folder):
    assert (folder / "ratings.dat").stat().st_size, "it is unpacked by now"
    os.kill(os.getpid(), signal.SIGKILL)

atomic._flush_tree = die
registry = datasets.read_registry(Path(sys.argv[1]))
download.download("toy", Path(sys.argv[2]), registry, agree=lambda: None, say=print)
"""


def registry_file(path: Path, registry: Registry) -> Path:
    """Write the toy's registry as TOML; JSON's strings, numbers and inline tables of one line are TOML too."""
    data_set = registry.datasets["toy"]
    file = data_set.files[0]
    sums = ", ".join(f'{kind} = "{value}"' for kind, value in file.checksums.items())
    path.write_text(
        f'[licences.own]\nowner = "Us"\nterms = "Do no harm."\n[datasets.toy]\ntitle = "Toy ratings"\n'
        f'licence = "own"\nlink = "https://x.test/"\nsource = "movielens"\nenvironment = "{data_set.environment}"\n'
        f'[[datasets.toy.files]]\naddress = "{file.address}"\nsize = {file.size}\ninside = "{file.inside}"\n'
        f"checksums = {{ {sums} }}\n"
    )
    return path


def test_a_kill_between_unpacking_and_the_rename_leaves_nothing_half_written(world: World, tmp_path: Path) -> None:
    registry = registry_file(tmp_path / "toy.toml", world.registry)
    program = [sys.executable, "-c", KILLED_BEFORE_THE_RENAME, str(registry), str(world.root)]
    assert subprocess.run(program, check=False, capture_output=True).returncode == -signal.SIGKILL
    assert not (world.root / "toy").exists()
    said = world.fetch()
    assert "was downloaded before" in said
    assert world.behaviour.requests == ["GET /toy.zip"]
    assert world.rests() == ["toy", "toy/README", "toy/ratings.dat"]


# ---- archives ------------------------------------------------------------------------------------------------------


def link_archive() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        link = zipfile.ZipInfo("toy/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    return packed.getvalue()


def lying_bomb() -> bytes:
    """Return an archive that states 10 bytes for a member of a million."""
    packed = bytearray(zipped({"toy/zeros": bytes(1_000_000)}))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = packed.index(signature) + offset
        packed[at : at + 4] = (10).to_bytes(4, "little")
    return bytes(packed)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (zipped({"toy/../../evil": b"x"}), "leaves the folder"),
        (zipped({"/evil": b"x"}), "leaves the folder"),
        (zipped({"C:\\evil": b"x"}), "leaves the folder"),
        (link_archive(), "a link"),
        (zipped({"toy/zeros": bytes(1_000_000)}), f"{MAX_EXPANSION} times"),
        (lying_bomb(), "cannot be unpacked"),
        (zipped({"other/ratings.dat": RATINGS}), "holds nothing below toy/"),
        (ARCHIVE[:CUT], "cannot be unpacked"),
        (b"<html>", "cannot be unpacked"),
        (b"", "cannot be unpacked"),
    ],
)
def test_archives_that_must_not_be_unpacked(tmp_path: Path, content: bytes, why: str) -> None:
    folder = tmp_path / "deep" / "folder"
    folder.mkdir(parents=True)
    archive = tmp_path / "toy.zip"
    archive.write_bytes(content)
    with pytest.raises(UnusableArchive, match=why):
        unpack(archive, folder, "toy")
    assert not list(tmp_path.rglob("evil"))
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= MAX_EXPANSION * len(content)


def test_an_archive_that_states_too_much_is_not_begun(tmp_path: Path) -> None:
    (tmp_path / "toy.zip").write_bytes(zipped({"toy/README": b"terms", "toy/zeros": bytes(1_000_000)}))
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(UnusableArchive):
        unpack(tmp_path / "toy.zip", folder, "toy")
    assert list(folder.iterdir()) == []


def test_a_gzip_bomb_is_stopped(tmp_path: Path) -> None:
    archive = tmp_path / "zeros.json.gz"
    archive.write_bytes(gzip.compress(bytes(10_000_000)))
    with pytest.raises(UnusableArchive, match=f"{MAX_EXPANSION} times"):
        unpack(archive, tmp_path)
    assert (tmp_path / "zeros.json").stat().st_size <= MAX_EXPANSION * archive.stat().st_size


def test_a_hostile_archive_leaves_nothing_in_place(tmp_path: Path, serve: Callable[..., str]) -> None:
    behaviour = Behaviour({"/toy.zip": zipped({"toy/../../evil": b"x"})})
    world = World(behaviour, registry_of(serve(behaviour), size=None, checksums={}), tmp_path / "raw")
    assert "leaves the folder" in world.fails()
    assert world.rests() == []
    assert not list(tmp_path.rglob("evil"))


def test_gzip_and_plain_files_come_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "reviews.json.gz").write_bytes(gzip.compress(b'{"a": 1}\n'))
    (tmp_path / "titles.csv").write_bytes(b"item,title\n")
    folder = tmp_path / "set"
    folder.mkdir()
    unpack(tmp_path / "reviews.json.gz", folder)
    unpack(tmp_path / "titles.csv", folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "reviews.json": b'{"a": 1}\n',
        "titles.csv": b"item,title\n",
    }


# ---- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def command(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Run `prismrec download` on the toy's registry; return its exit code and everything it prints."""
    monkeypatch.setattr(datasets, "REGISTRY", registry_file(tmp_path / "toy.toml", world.registry))
    monkeypatch.setenv("PRISMREC_DATA_ROOT", str(world.root))

    def run(*arguments: str, answer: str | None = None) -> tuple[int, str]:
        monkeypatch.setattr("prismrec.commands.download._on_terminal", lambda: answer is not None)
        result = CliRunner().invoke(cli, ["download", *arguments], prog_name="prismrec", input=answer)
        assert "Traceback" not in result.output
        return result.exit_code, result.output

    return run


def test_the_command_shows_terms_downloads_and_says_what_comes_next(
    world: World, command: Callable[..., tuple[int, str]]
) -> None:
    code, output = command("toy", "--yes")
    assert code == 0
    assert output.index("Do no harm.") < output.index("as expected") < output.index("Next:")
    assert "source: movielens" in output
    assert (world.root / "toy" / "ratings.dat").exists()


def test_the_command_asks_on_a_terminal(world: World, command: Callable[..., tuple[int, str]]) -> None:
    code, output = command("toy", answer="n\n")
    assert code == 1
    assert "not agreed to" in output
    assert world.behaviour.requests == []
    assert command("toy", answer="y\n")[0] == 0


def test_the_command_wants_yes_where_nobody_can_be_asked(world: World, command: Callable[..., tuple[int, str]]) -> None:
    code, output = command("toy")
    assert code == 1
    assert "Do no harm." in output
    assert "--yes" in output
    assert world.behaviour.requests == []


def test_another_folder_is_named_in_what_comes_next(tmp_path: Path, command: Callable[..., tuple[int, str]]) -> None:
    code, output = command("toy", "--yes", "--to", str(tmp_path / "my data"))
    assert code == 0
    assert f"PRISMREC_DATA_ROOT='{tmp_path}/my data' kedro run" in output
    assert (tmp_path / "my data" / "toy" / "README").exists()


def test_by_default_the_folder_is_the_project_s_data_root(
    toy_project: ToyProject, command: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PRISMREC_DATA_ROOT")
    (toy_project.conf / "local" / "globals.yml").write_text("data_root: elsewhere\n")
    code, output = command("toy", "--yes")
    assert code == 0, output
    assert (toy_project.root / "elsewhere" / "toy" / "README").exists()
    assert "PRISMREC_DATA_ROOT" not in output


def test_outside_of_a_project_a_folder_has_to_be_named(
    tmp_path: Path, command: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PRISMREC_DATA_ROOT")
    monkeypatch.chdir(tmp_path)
    code, output = command("toy", "--yes")
    assert code == 1
    assert "--to FOLDER" in output


def test_downloading_needs_nothing_of_the_pipelines(
    world: World, command: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    program = (
        "import sys\nfor heavy in ('kedro', 'polars', 'torch', 'omegaconf'): sys.modules[heavy] = None\n"
        "from prismrec.data import datasets\nfrom pathlib import Path\ndatasets.REGISTRY = Path(sys.argv[1])\n"
        "from prismrec.cli import cli\ncli(['download', 'toy', '--yes', '--to', sys.argv[2]], prog_name='prismrec')\n"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path / "toy.toml"), str(world.root)]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "no progress bar away from a terminal"
    assert (world.root / "toy" / "README").exists()


def test_an_unknown_name_gets_the_nearest(command: Callable[..., tuple[int, str]]) -> None:
    code, output = command("tyo", "--yes")
    assert code == 1
    assert "Did you mean 'toy'" in output
    assert "--list" in output


def test_the_list_and_the_help_teach(command: Callable[..., tuple[int, str]]) -> None:
    assert "Toy ratings" in command("--list")[1]
    assert "--list" in command()[1]
    assert "\n    prismrec download ml-1m --yes " in command("--help")[1]


# ---- the registry --------------------------------------------------------------------------------------------------


def test_the_registry_of_the_package_is_sound() -> None:
    registry = read_registry()
    assert {"ml-100k", "ml-1m", "ml-10m", "ml-20m", "ml-25m", "ml-32m", "microlens-50k"} <= set(registry.datasets)
    digits = {"md5": 32, "sha256": 64}
    for data_set in registry.datasets.values():
        assert data_set.link.startswith("https://")
        for file in data_set.files:
            assert file.address.startswith("https://")
            assert all(len(bytes.fromhex(value)) * 2 == digits[kind] for kind, value in file.checksums.items())
    assert all(
        f.checksums and f.size for name in registry.datasets if name[:3] == "ml-" for f in registry.datasets[name].files
    )


def test_the_registry_is_packaged() -> None:
    pyproject = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    assert "data/datasets.toml" in pyproject["tool"]["setuptools"]["package-data"]["prismrec"]


@pytest.mark.parametrize("name", [name for name, entry in read_registry().datasets.items() if entry.environment])
def test_the_environment_of_a_data_set_reads_its_folder(name: str) -> None:
    data_set = read_registry().datasets[name]
    text = (PROJECT / "conf" / data_set.environment / "parameters_data_validation.yml").read_text()
    parameters = yaml.safe_load(text)["data_validation"]
    assert (parameters["folder"], parameters["source"]) == (name, data_set.source)
