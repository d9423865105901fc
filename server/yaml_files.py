"""YAML as the operator's files are read: with safe tags, and no key twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from yaml import SafeLoader as _SafeLoader
else:  # libyaml's, which is many times faster, where PyYAML has it
    _SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class DuplicateKeyError(yaml.constructor.ConstructorError):
    """Error for a mapping with a key twice, of which YAML's own loader takes the last."""

    def __init__(self, mark: yaml.Mark | None) -> None:
        super().__init__(None, None, "a key is given twice", mark)


class Loader(_SafeLoader):
    """Loader of such YAML.

    Raises YAMLError, but ValueError for a scalar such as a date that there is not, and
    RecursionError.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise DuplicateKeyError(key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)
