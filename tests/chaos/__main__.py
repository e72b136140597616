"""
Run the fault plan, or some of it: python -m tests.chaos --only K7 --seed 5 --guarantee exactly-once

Results are added to build/chaos.json as they come; a run replaces the lines that it runs again.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.brokers import BrokerUnavailable
from tests.chaos import (  # noqa: F401 - importing them enters their rows
    broker_faults,
    group_faults,
    load,
    network_faults,
    process_faults,
    random_faults,
    topic_faults,
)
from tests.chaos.cluster import Cluster, open_cluster
from tests.chaos.course import GUARANTEES, perform
from tests.chaos.plan import ROWS, Row
from tests.chaos.report import JSON, TABLE, Result, judged, write
from tests.integration.bundle import write_model


def main() -> None:
    """Exit with 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=main.__doc__)
    parser.add_argument("--only", nargs="+", metavar="ROW", help="ids of rows, such as K7 B2")
    parser.add_argument("--seed", type=int, help="of traffic and moments; by default of the clock")
    parser.add_argument("--guarantee", nargs="+", choices=GUARANTEES, default=list(GUARANTEES))
    parser.add_argument("--list", action="store_true", help="list the rows and end")
    arguments = parser.parse_args()
    unknown = set(arguments.only or ()) - ROWS.keys()
    if unknown:
        parser.error(f"no row is called {', '.join(sorted(unknown))}: see --list")
    rows = [ROWS[id_] for id_ in sorted(ROWS, key=_place)]
    rows = [row for row in rows if not arguments.only or row.id in arguments.only]
    if arguments.list:
        for row in rows:
            print(f"{row.id:4} {row.fault}{f' (not made here: {row.why_not})' * bool(row.why_not)}")
        return
    seed = arguments.seed if arguments.seed is not None else time.time_ns() % 100_000
    print(f"seed {seed}", flush=True)
    results = _earlier()
    try:
        for result in _run(rows, arguments.guarantee, seed):
            results = [r for r in results if (r.id, r.guarantee) != (result.id, result.guarantee)]
            results.append(result)
            results.sort(key=lambda r: (_place(r.id), r.guarantee))
            write(results)
    except BrokerUnavailable as error:
        sys.exit(str(error))
    print(f"{JSON}, {TABLE}")
    broken = [r for r in results if r.ok is False and r.guarantee != "naive" and r.id in ROWS]
    sys.exit(1 if broken else 0)


def _place(id_: str) -> tuple[int, int, str]:
    """Return the place of a row: by family, and in it by number, and by letter."""
    number = id_[1:].rstrip("bc")
    return "KBNGTMQELR".index(id_[0]), int(number), id_


def _earlier() -> list[Result]:
    if not JSON.exists():
        return []
    results = [Result(**line) for line in json.loads(JSON.read_text())]
    return [result for result in results if result.id in ROWS]


def _run(rows: Sequence[Row], guarantees: Sequence[str], seed: int) -> Iterator[Result]:
    """Run rows on one cluster; yield each result, and say it."""
    yield from (Result(id=r.id, fault=r.fault, note=r.why_not) for r in rows if r.act is None)
    rows = [row for row in rows if row.act is not None]
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, open_cluster() as cluster:
        bundle = Path(folder, "model")
        write_model(bundle)
        for row in rows:
            for guarantee in row.guarantees:
                if guarantee in guarantees:
                    yield _one(cluster, Path(folder), bundle, row, guarantee, seed)


def _one(
    cluster: Cluster, folder: Path, bundle: Path, row: Row, guarantee: str, seed: int
) -> Result:
    assert row.act is not None
    begin = time.monotonic()
    scene = Path(tempfile.mkdtemp(prefix=f"{row.id.lower()}-", dir=folder))
    run, found = perform(cluster, scene, bundle, row.act, guarantee, seed, **row.options)
    result = judged(row.id, row.fault, guarantee, seed, found, run.recovery_seconds, run.exits)
    cluster.make_whole()
    outcome = "ok" if result.ok else "NOT OK"
    print(
        f"{row.id:4} {guarantee:13} {outcome:6} {result.records:6} records, lost {result.lost},"
        f" twice {result.twice}, wrong {result.wrong}, recovery {result.recovery_seconds} s,"
        f" exits {list(result.exits)}, took {time.monotonic() - begin:.0f} s: {row.fault}",
        flush=True,
    )  # fmt: skip
    for violation in result.violations if guarantee != "naive" else ():
        print(f"     {violation}", flush=True)
    return result


if __name__ == "__main__":
    main()
