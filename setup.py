"""What pyproject.toml has no words for: packages that are found by themselves, and installed under
another name.

The server's folder is `server/` here and `loramux_server` where it is installed: `server` is a name
that users' own projects have.
"""

from setuptools import find_packages, setup

FOLDERS = {"lora_runtime": "lora_runtime", "loramux_server": "server"}

setup(
    package_dir=FOLDERS,
    packages=[
        *FOLDERS,
        *(f"{name}.{inner}" for name, folder in FOLDERS.items() for inner in find_packages(folder)),
    ],
)
