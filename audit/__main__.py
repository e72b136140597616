"""
`make audit`: look the locks up for known vulnerabilities, write a bill of materials and licences.

Exit code 0 when all that this platform needs was checked and nothing is known, 1 when something is,
75 when nothing is known but not all could be checked.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Final

from packaging.markers import Marker

from audit.bill import bill
from audit.locks import LOCKS, Pin, read_lock
from audit.vulnerabilities import look_up

ROOT: Final = Path(__file__).parents[1]
EXIT_UNCHECKED: Final = 75
_SHOWN: Final = 5
_NATIVE: Final = (
    "not looked up at all: C libraries inside wheels (librdkafka, OpenSSL, zlib, curl, LLVM,"
    " ONNX Runtime); their versions go with the packages, whose release notes tell"
)


def main() -> int:
    """Say what is known, write build/sbom.cdx.json and build/licences.tsv; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m audit", description=__doc__)
    parser.add_argument("--osv-url", help="where to ask instead of the public index, an OSV API")
    parser.add_argument("--lock", type=Path, action="append", help="instead of the two locks")
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="where to write")
    arguments = parser.parse_args()
    locks = arguments.lock or [ROOT / name for name in LOCKS]
    try:
        pins = {lock: read_lock(lock) for lock in locks}
    except ValueError as error:
        sys.exit(str(error))
    _write(arguments.build, pins[locks[0]], [pin for of in pins.values() for pin in of])

    vulnerable, unchecked, elsewhere, checked = [], [], [], 0
    for lock, of in pins.items():
        needed = [pin for pin in of if not pin.marker or Marker(pin.marker).evaluate()]
        found = look_up(lock, [pin.name for pin in needed], arguments.osv_url)
        vulnerable += found.vulnerable
        unchecked += found.unchecked
        checked += found.checked
        others = (pin for pin in of if pin not in needed)
        elsewhere += [f"{pin.name} {pin.version} ({pin.marker})" for pin in others]
    print(f"known vulnerabilities: {len(vulnerable)} in {checked} packages that were checked")
    for sentence in vulnerable:
        print(f"  VULNERABLE {sentence}")
    if unchecked:
        print(f"NOT CHECKED, {len(unchecked)} lines, of which:")
        for sentence in unchecked[:_SHOWN]:
            print(f"  {sentence}")
        (arguments.build / "unchecked.txt").write_text("\n".join(unchecked) + "\n")
        print(f"  all of them: {arguments.build / 'unchecked.txt'}")
    if elsewhere:
        print(f"not looked up, as not for this platform: {', '.join(sorted(set(elsewhere)))}")
    print(_NATIVE)
    return 1 if vulnerable else EXIT_UNCHECKED if unchecked else 0


def _write(build: Path, production: list[Pin], every: list[Pin]) -> None:
    build.mkdir(parents=True, exist_ok=True)
    (build / "sbom.cdx.json").write_text(bill(production))
    lines = [f"{p.name}\t{p.version}\t{p.licence or 'not installed here'}" for p in every]
    (build / "licences.tsv").write_text("\n".join(["package\tversion\tlicence", *lines]) + "\n")
    counted = Counter(pin.licence or "not installed here" for pin in production)
    print(f"{build / 'sbom.cdx.json'}: {len(production)} packages, CycloneDX 1.6")
    print(f"{build / 'licences.tsv'}; in production:")
    for licence, count in counted.most_common():
        print(f"  {count:3} {licence}")


if __name__ == "__main__":
    sys.exit(main())
