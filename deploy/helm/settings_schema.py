"""Writes what `settings` may hold into the chart's values.schema.json: the server's own settings.

python deploy/helm/settings_schema.py           # write it
python deploy/helm/settings_schema.py --check   # fail if it is not what the server has
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SCHEMA = Path(__file__).parent / "loramux" / "values.schema.json"
_BLOCK = re.compile(r'(?<=\n    "settings": \{\n).+?(?=    \},\n)', re.DOTALL)
_OWN = re.compile(
    r"base|host|(\w+_)?port|adapter_manifest|adapter_cache_dir|state_file|auth_file|tls_\w+"
)
"""What the chart itself writes: its templates refuse them, and say what to use."""
_WORDS = ("title", "description", "default", "format")


def block() -> str:
    """Make the schema's lines, a setting on each."""
    from server.config import Settings

    schema = Settings.model_json_schema()
    lines = [
        f"        {json.dumps(name)}: {json.dumps(_bare({} if _OWN.fullmatch(name) else one, schema))}"
        for name, one in sorted(schema["properties"].items())
    ]
    inner = ",\n".join(lines)
    return f'      "type": "object",\n      "additionalProperties": false,\n      "properties": {{\n{inner}\n      }}\n'


def _bare(one: Any, schema: dict[str, Any]) -> Any:
    """Leave out words, references, and null, which in values means to have none."""
    if isinstance(one, list):
        return [_bare(part, schema) for part in one]
    if not isinstance(one, dict):
        return one
    if reference := one.get("$ref"):
        return _bare(schema["$defs"][reference.rpartition("/")[2]], schema)
    if options := [part for part in one.get("anyOf", ()) if part != {"type": "null"}]:
        (option,) = options
        return _bare(option, schema)
    # Names of properties are no words of the schema.
    return {
        key: {name: _bare(part, schema) for name, part in value.items()}
        if key == "properties"
        else _bare(value, schema)
        for key, value in one.items()
        if key not in _WORDS
    }


def written() -> str:
    """Make the whole file's text."""
    text, found = _BLOCK.subn(lambda _: block(), SCHEMA.read_text())
    if found != 1:
        raise SystemExit(f'{SCHEMA} has no block "settings"')
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    check = parser.parse_args().check
    sys.path.insert(0, str(ROOT))
    text = written()
    if not check:
        SCHEMA.write_text(text)
    elif SCHEMA.read_text() != text:
        raise SystemExit(f"{SCHEMA} has not the server's settings: make manifests")


if __name__ == "__main__":
    main()
