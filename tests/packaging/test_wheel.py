"""What is built from the files that the Dockerfile copies, installed where no checkout is near."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import time
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_runtime import __version__
from lora_runtime.kernels.cpu.build import NoKernelsError, host_target

from ..support.servers import free_port

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 180
pytestmark = pytest.mark.slow


def backend(hook: str, source: Path, target: Path) -> Path:
    """What pip and build ask setuptools for, with the setuptools that is here: no index is needed."""
    program = (
        f"import sys; from setuptools import build_meta; print(build_meta.{hook}(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(target)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return target / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the Dockerfile copies before it installs."""
    target = tmp_path_factory.mktemp("tree")
    lines = (ROOT / "deploy/Dockerfile").read_text().splitlines()
    for name in [
        name
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for name in line.split()[1:-1]
    ]:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so")
            shutil.copytree(ROOT / name, target / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, target / name)
    (target / "lora_runtime/kernels/cpu/lib").mkdir(exist_ok=True)
    (target / "lora_runtime/kernels/cpu/lib/loramux-none.so").write_bytes(b"as built for an image")
    return target


@pytest.fixture(scope="module")
def sdist(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return backend("build_sdist", tree, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From the sdist."""
    directory = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(directory, filter="data")
    return backend("build_wheel", directory / sdist.name.removesuffix(".tar.gz"), directory)


def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_has_every_file_and_no_name_of_others(tree: Path, wheel: Path) -> None:
    folders = {
        "lora_runtime": "lora_runtime",
        "protos/loramux": "loramux",
        "server": "loramux_server",
    }
    wanted = {
        f"{name}/{path.relative_to(tree / folder).as_posix()}"
        for folder, name in folders.items()
        for path in (tree / folder).rglob("*")
        if path.is_file()
    }
    assert {
        "lora_runtime/py.typed",
        "loramux_server/py.typed",
        "lora_runtime/kernels/cpu/csrc/program.cpp",
        "lora_runtime/kernels/cpu/lib/loramux-none.so",
        "loramux/v1/inference.proto",
        "loramux/v1/inference_pb2.pyi",
    } <= wanted
    about = f"loramux-{__version__}.dist-info"
    assert {name for name in names(wheel) if not name.startswith(f"{about}/")} == wanted
    assert f"{about}/licenses/LICENSE" in names(wheel)
    assert (
        "License-Expression: Apache-2.0"
        in zipfile.ZipFile(wheel).read(f"{about}/METADATA").decode()
    )


def test_the_tree_and_the_sdist_make_the_same_wheel(
    tree: Path, wheel: Path, tmp_path: Path
) -> None:
    assert names(backend("build_wheel", tree, tmp_path)) == names(wheel)


class Installed:
    """An environment of its own with the wheel, and what it depends on from the environment that
    runs the tests.

    Commands run in a directory where the user has a module `server`.
    """

    def __init__(self, wheel: Path, directory: Path) -> None:
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
            [*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True
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
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(wheel, tmp_path_factory.mktemp("installed"))


def test_nothing_comes_from_a_checkout_and_server_is_the_users(installed: Installed) -> None:
    program = (
        "import lora_runtime, loramux, loramux_server, server; print(server.OWNER); "
        "print(*(m.__path__[0] for m in (lora_runtime, loramux, loramux_server)), sep='\\n')"
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
                "8",
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
