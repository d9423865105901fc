"""Looks at a built image: what it weighs, which licences are in it, and whether it serves with no
root, no network, no compiler and nothing that can be written but /tmp.

    python deploy/image/check.py loramux:0.1.0                                # podman, or --engine docker
    python deploy/image/check.py loramux:0.1.0 --write docs/results/image.md  # its tables

Exit status 1, with the reasons, where something is not as it should be.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

import weight
from container import Engine, Server, serving
from licences import licences

STAGES = ("torch", "the other packages", "loramux")
"""What the Dockerfile's last stage copies, in its order."""
COMPILERS = ("gcc", "g++", "cc", "ld", "pip")
_SCHEMA = '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}'
_COST = """
import json, resource, subprocess
for _ in range(20):
    subprocess.run(["loramux", "health"], check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([(used.ru_utime + used.ru_stime) / 20 * 1000, used.ru_maxrss / 1024]))
"""


def main() -> None:
    options = arguments()
    engine = Engine(options.engine)
    wrong = [*facts(engine, options.image), *licenceless(engine, options.image)]
    wrong += [
        *serves(engine, options.image),
        *serves(engine, options.image, "--tensor-parallel", "2"),
    ]
    tables = {
        "parts": parts(engine, options.image),
        "layers": layers(engine, options.image),
        "licences": licence_table(engine, options.image),
    }
    if options.write:
        write(options.write, tables)
    else:
        print(*tables.values(), sep="\n\n")
    if wrong:
        raise SystemExit("\n".join(wrong))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("image")
    parser.add_argument("--engine", default="podman", help="command; default: %(default)s")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into this page")
    return parser.parse_args()


def facts(engine: Engine, image: str) -> Iterator[str]:
    """What is wrong with the image as it lies there."""
    (about,) = json.loads(engine.run("image", "inspect", image))
    labels = about["Config"].get("Labels") or {}
    for name in ("version", "licenses", "title"):
        if not labels.get(f"org.opencontainers.image.{name}"):
            yield f"no label org.opencontainers.image.{name}"
    if engine.once(image, "id", "-u").strip() == "0":
        yield "it runs as root"
    looked = " ".join(COMPILERS)
    if found := engine.once(image, "sh", "-c", f"command -v {looked} || true").split():
        yield f"it has {', '.join(found)}"


def licenceless(engine: Engine, image: str) -> Iterator[str]:
    for package in licences(engine, image).get("", []):
        yield f"no licence known: {package}"


def serves(engine: Engine, image: str, *options: str) -> Iterator[str]:
    """What is wrong with a server of the image."""
    with serving(engine, image, *options) as server:
        print(f"ready after {server.wait():.1f} s {' '.join(options)}")
        if server.call("loramux", "health", "--live") != "live\n":
            yield "loramux health --live does not say live"
        if server.tokens("--max-new-tokens", "8") != 8:
            yield "an adapter's answer has not 8 tokens"
        if not server.tokens("--json-schema", _SCHEMA, "--max-new-tokens", "16"):
            yield "a structured answer has no token"
        milliseconds, megabytes = json.loads(server.call("python", "-c", _COST))
        print(f"loramux health: {milliseconds:.0f} ms of CPU, {megabytes:.0f} MB")
        yield from built(server)
        if status := server.stop():
            yield f"SIGTERM ends it with {status}"


def built(server: Server) -> Iterator[str]:
    """What is wrong with the kernels: they come with the image, and need no compiler."""
    about = json.loads(server.call("loramux", "info", "--json"))
    print(f"kernels: {about['kernels']}")
    if "building" in server.log():
        yield "it builds kernels at its start"


def parts(engine: Engine, image: str) -> str:
    sizes = weight.parts(engine, image)
    rows = [*sizes.items(), ("**all**", sum(sizes.values()))]
    return table(("part", "MB"), [(name, megabytes(size)) for name, size in rows])


def layers(engine: Engine, image: str) -> str:
    found = weight.layers(engine, image)
    rows = [
        (name, megabytes(one.size), megabytes(one.compressed))
        for name, one in zip(layer_names([one.made_by for one in found]), found, strict=True)
    ]
    total = [
        sum(sizes) for sizes in zip(*((one.size, one.compressed) for one in found), strict=True)
    ]
    return table(("layer", "MB", "MB with gzip"), [*rows, ("**all**", *map(megabytes, total))])


def licence_table(engine: Engine, image: str) -> str:
    rows = [
        (licence or "**not known**", str(len(packages)), ", ".join(packages))
        for licence, packages in licences(engine, image).items()
    ]
    return table(("licence", "packages", ""), rows)


def layer_names(lines: list[str]) -> list[str]:
    """What layers hold, from the instructions that made them: the last copies are the stages'."""
    texts = [
        re.sub(r"^.*?#\(nop\)\s*|^(/bin/sh -c|RUN)\s*|\s+# buildkit$", "", line) for line in lines
    ]
    copies = [i for i, text in enumerate(texts) if text.startswith("COPY ")][-len(STAGES) :]
    names = dict(zip(copies, STAGES, strict=True))
    return [
        names.get(i, f"`{text.split()[0]}`" if i > copies[0] else "the base image")
        for i, text in enumerate(texts)
    ]


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f}" if size < 10e6 else f"{size / 1e6:.0f}"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in one)} |" for one in lines
    )


def write(page: Path, tables: dict[str, str]) -> None:
    text = page.read_text()
    for name, lines in tables.items():
        place = re.compile(rf"(<!-- table {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, found = place.subn(lambda old, new=lines: f"{old[1]}{new}\n{old[2]}", text)  # type: ignore[misc]
        if not found:
            raise SystemExit(f"{page} has no place for the table {name}")
    page.write_text(text)


if __name__ == "__main__":
    main()
