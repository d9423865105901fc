"""What is built from the files that the Dockerfile copies, installed where no checkout is near: the
server, and the client that it stands on."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_runtime import __version__
from lora_runtime.kernels.cpu.build import NoKernelsError, host_target

from ..support.packages import CLIENT, backend
from ..support.servers import free_port

START_TIMEOUT_S = 180
pytestmark = pytest.mark.slow


def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def files_of(tree: Path, folders: dict[str, str]) -> set[str]:
    """What a wheel has of folders, by their names in it."""
    return {
        f"{name}/{path.relative_to(tree / folder).as_posix()}"
        for folder, name in folders.items()
        for path in (tree / folder).rglob("*")
        if path.is_file()
    }


def test_the_wheel_has_every_file_and_no_name_of_others(tree: Path, wheel: Path) -> None:
    wanted = files_of(tree, {"lora_runtime": "lora_runtime", "server": "loramux_server"})
    assert {
        "lora_runtime/py.typed",
        "loramux_server/py.typed",
        "lora_runtime/kernels/cpu/csrc/program.cpp",
        "lora_runtime/kernels/cpu/lib/loramux-none.so",
    } <= wanted
    check(wheel, "loramux", wanted)


def test_the_clients_wheel_has_the_messages(tree: Path, client_wheel: Path) -> None:
    folders = {"protos/loramux": "loramux", f"{CLIENT}/loramux_client": "loramux_client"}
    wanted = files_of(tree, folders)
    assert {
        "loramux/v1/inference.proto",
        "loramux/v1/inference_pb2.pyi",
        "loramux_client/py.typed",
    } <= wanted
    check(client_wheel, "loramux_client", wanted)


def check(wheel: Path, name: str, wanted: set[str]) -> None:
    about = f"{name}-{__version__}.dist-info"
    assert {name for name in names(wheel) if not name.startswith(f"{about}/")} == wanted
    assert f"{about}/licenses/LICENSE" in names(wheel)
    assert (
        "License-Expression: Apache-2.0"
        in zipfile.ZipFile(wheel).read(f"{about}/METADATA").decode()
    )


def test_the_tree_and_the_sdist_make_the_same_wheel(
    tree: Path, wheel: Path, client_wheel: Path, tmp_path: Path
) -> None:
    assert names(backend("build_wheel", tree, tmp_path)) == names(wheel)
    built = backend("build_wheel", tree / CLIENT, tmp_path)
    assert names(built) == names(client_wheel)


class Installed:
    """An environment of its own with both wheels, and what it depends on from the environment that
    runs the tests.

    Commands run in a directory where the user has a module `server`.
    """

    def __init__(self, wheels: list[Path], directory: Path) -> None:
        self.bin = directory / "venv/bin"
        self.cwd = directory / "project"
        self.kernels = directory / "kernels"
        self._variables = {
            name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
        }
        self._variables |= {"PYTHONPATH": str(self.cwd), "LORAMUX_KERNEL_CACHE": str(self.kernels)}
        venv.create(directory / "venv")
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python")]
        subprocess.run(
            [*pip, "install", "--quiet", "--no-deps", "--no-index", *map(str, wheels)], check=True
        )
        # A path in a .pth file is only a path: an editable loramux in there stays out.
        (packages,) = directory.glob("venv/lib/python*/site-packages")
        (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        self.cwd.mkdir()
        (self.cwd / "server.py").write_text("OWNER = 'the user'\n")

    def run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [str(self.bin / program), *arguments],
            cwd=self.cwd,
            env=self._variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextlib.contextmanager
    def server(self, *arguments: str) -> Iterator[str]:
        """`loramux serve`; its address once the base is loaded."""
        address = f"127.0.0.1:{free_port()}"
        log = self.cwd / "server.log"
        command = [
            str(self.bin / "loramux"),
            "serve",
            "--port",
            address.split(":")[1],
            "--http-port",
            "0",
            "--metrics-port",
            "0",
            *arguments,
        ]
        with log.open("w") as stream:
            process = subprocess.Popen(command, cwd=self.cwd, env=self._variables, stderr=stream)
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while '"serving"' not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield address
        finally:
            process.send_signal(signal.SIGTERM)
            status = process.wait(60)
        assert status == 0, log.read_text()


@pytest.fixture(scope="module")
def installed(
    wheel: Path, client_wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    return Installed([wheel, client_wheel], tmp_path_factory.mktemp("installed"))


def test_nothing_comes_from_a_checkout_and_server_is_the_users(installed: Installed) -> None:
    program = (
        "import lora_runtime, loramux, loramux_client, loramux_server, server; print(server.OWNER); "
        "ours = lora_runtime, loramux, loramux_client, loramux_server; "
        "print(*(m.__path__[0] for m in ours), sep='\\n')"
    )
    owner, *paths = installed.run("python", "-c", program).splitlines()
    assert owner == "the user"
    assert all(Path(path).is_relative_to(installed.bin.parent) for path in paths)


def test_the_command_and_the_module_are_the_same(installed: Installed) -> None:
    for call in (["loramux"], ["python", "-m", "loramux_server"]):
        assert "generate" in installed.run(*call, "--help")


def test_it_streams_from_the_base_and_an_adapter(
    installed: Installed, tiny_base: Path, tiny_adapters: dict[str, Path]
) -> None:
    served = [
        "--base",
        str(tiny_base),
        "--adapter",
        f"a1={tiny_adapters['a1']}",
        "--dtype",
        "float32",
        "--kv-cache-bytes",
        str(8 << 20),
    ]
    with installed.server(*served) as address:

        def generate(*arguments: str) -> list[int]:
            printed = installed.run(
                "loramux",
                "generate",
                "hi",
                "--target",
                address,
                "--max-new-tokens",
                "200",  # a few tokens may all go out as one event
                "--json",
                *arguments,
            )
            events = [json.loads(line) for line in printed.splitlines()]
            assert len(events) > 1, "the tokens come as they are made"
            return [token for event in events for token in event.get("token_ids", [])]

        base, adapter = generate(), generate("-a", "a1")
        assert base
        assert adapter
        assert base != adapter
    try:
        target = host_target() if shutil.which("g++") else None
    except NoKernelsError:
        target = None
    if target:
        assert list(installed.kernels.glob(f"loramux-{target}-*.so")), (
            "the kernels are built from the wheel's sources"
        )
