"""
Write the parts of the documentation that the code knows better: settings, features, metrics,
invariants.

`--check` writes nothing and fails where the text is stale.
"""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry

import schemas
from consumer.adapters.access import rights
from consumer.core.feature_sets import FEATURE_SETS, REASONS
from consumer.metrics import Metrics
from consumer.settings import ENV_PREFIX, Settings, documented_keys
from consumer.verify.invariants import MEANINGS

ROOT: Final = Path(__file__).parents[1]
_DAY: Final = 86_400_000_000


def settings_table() -> str:
    """Return every configuration key with its default, its variable and what it means."""
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for key, default, text in documented_keys():
        rows.append(f"| `{key}` | {f'`{default}`' if default else ''} | {text} |")
    example = f"`{ENV_PREFIX}BATCH__MAX_RECORDS`, `{ENV_PREFIX}KAFKA__BOOTSTRAP_SERVERS`"
    rows += [
        "",
        f"Each key is also a variable: {example}. Durations: `250ms`, `10s`, `5m`, `24h`, `30d`.",
    ]
    return "\n".join(rows)


def features_table() -> str:
    """Return every feature set with its features in order."""
    rows = []
    for feature_set in FEATURE_SETS.values():
        rows += [f"### `{feature_set.name}`", ""]
        rows += [
            "| # | name | key | window | unit | reason | meaning |",
            "|---|---|---|---|---|---|---|",
        ]
        for number, feature in enumerate(feature_set.features, 1):
            window = f"{feature.window // _DAY} d" if feature.window else ""
            window += f", {feature.delay // _DAY} d ago" if feature.delay else ""
            rows.append(
                f"| {number} | `{feature.name}` | {feature.key} | {window} | {feature.unit} |"
                f" {feature.reason} | {feature.doc} |"
            )
    rows += ["", "### Reason codes", "", "| code | words |", "|---|---|"]
    rows += [f"| {code} | {words} |" for code, words in REASONS.items()]
    return "\n".join(rows)


def metrics_table() -> str:
    """Return every metric with its type, labels and help text."""
    registry = CollectorRegistry()
    Metrics(registry)
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for family in registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = getattr(registry._names_to_collectors.get(name), "_labelnames", ())
        labels = ", ".join(f"`{label}`" for label in labels)
        rows.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    return "\n".join(rows)


def schemas_table() -> str:
    """Return every field of every schema."""
    rows = []
    for name in ("transaction", "label", "prediction", "alert"):
        schema = schemas.load(name)
        rows += [f"## {schema['name']}", "", schema["doc"], ""]
        rows += ["| field | type | meaning |", "|---|---|---|"]
        for field in schema["fields"]:
            rows.append(f"| `{field['name']}` | {_type_text(field['type'])} | {field['doc']} |")
        rows.append("")
    return "\n".join(rows).rstrip()


def invariants_table() -> str:
    """Return every invariant of `fraudstream verify`."""
    rows = ["| name | rule | what must hold |", "|---|---|---|"]
    rows += [
        f"| `{name}` | {meaning.rule} | {meaning.text} |" for name, meaning in MEANINGS.items()
    ]
    return "\n".join(rows)


def rights_table() -> str:
    """Return every ACL that the consumer needs, by the names of the default configuration."""
    rows = ["| operation | resource | pattern | needed for |", "|---|---|---|---|"]
    once = Settings.model_validate(
        {
            "kafka": {"bootstrap.servers": "localhost"},
            "processing": {"guarantee": "exactly-once"},
            "instance": {"id": "0"},
        }
    )
    for right in rights(once):
        promise = "`exactly-once`" if right.resource == "transactional-id" else "both guarantees"
        rows.append(
            f"| {right.operation} | {right.resource} `{right.name}` | {right.pattern} | {promise} |"
        )
    return "\n".join(rows)


def _type_text(type_: Any) -> str:
    match type_:
        case list():
            text = " or ".join(map(_type_text, type_))
        case {"type": "enum", "symbols": symbols}:
            text = ", ".join(f"`{symbol}`" for symbol in symbols)
        case {"type": "map", "values": inner} | {"type": "array", "items": inner}:
            text = f"{type_['type']} of {_type_text(inner)}"
        case {"type": "record", "name": name, "fields": parts}:
            text = f"{name} ({', '.join(part['name'] for part in parts)})"
        case {"logicalType": logical}:
            text = logical
        case _:
            text = str(type_)
    return text


GENERATED: Final[Mapping[str, Mapping[str, Callable[[], str]]]] = {
    "README.md": {"settings": settings_table},
    "docs/features.md": {"features": features_table},
    "docs/metrics.md": {"metrics": metrics_table},
    "docs/reliability.md": {"invariants": invariants_table},
    "docs/schemas.md": {"schemas": schemas_table},
    "docs/security.md": {"rights": rights_table},
}
"""File -> the name between its markers -> what stands there."""


def renewed(text: str, parts: Mapping[str, Callable[[], str]]) -> str:
    """Return the text with what stands between each pair of markers written anew."""
    for name, write in parts.items():
        begin, end = f"<!-- {name}: generated by `make docs` -->", f"<!-- {name}: end -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"the markers of {name} are missing")
        fresh = f"{begin}\n{write()}\n{end}"
        text = pattern.sub(lambda _, fresh=fresh: fresh, text)  # type: ignore[misc]
    return text


def main() -> None:
    """Write or check all of them."""
    stale = []
    for name, parts in GENERATED.items():
        path = ROOT / name
        text = path.read_text("utf-8")
        fresh = renewed(text, parts)
        if fresh != text:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(fresh, "utf-8")
    if stale and "--check" in sys.argv:
        raise SystemExit(f"stale: {', '.join(stale)}; run `make docs`")


if __name__ == "__main__":
    main()
