"""
Run the fault plan, or some of it: python -m tests.chaos --only K7 --seed 5 --guarantee exactly-once

Results are written to build/chaos.json as they come, each with its commit; a run replaces the lines
that it runs again, and those that another commit left of the same row.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from tests.brokers import BrokerUnavailable, Rung, why_missing
from tests.chaos.course import GUARANTEES, NAIVE
from tests.chaos.plan import ROWS, Task, left, tasks
from tests.chaos.report import JSON, TABLE, Result, commit, merged, read, write
from tests.chaos.stage import enter, play
from tests.integration.bundle import write_model
from tests.kafka.processes import ensure_jars

FAMILIES = "KBNGTMQREOLX"


def main() -> None:
    """Exit with 1 when a promise was broken."""
    arguments = _arguments()
    ids = sorted(arguments.only or ROWS, key=_place)
    if arguments.list:
        for row in map(ROWS.__getitem__, ids):
            print(f"{row.id:4} {row.fault}{f' (not made here: {row.why_not})' * bool(row.why_not)}")
        return
    results = [result for result in read() if result.id in ROWS]
    at = commit()
    seeds = arguments.seed or [time.time_ns() % 100_000]
    print(f"seed {' '.join(map(str, seeds))}, commit {at}", flush=True)
    planned = list(tasks(ids, arguments.guarantee, seeds))
    if arguments.resume:
        done = [result.task for result in results if result.commit == at != ""]
        planned = left(planned, done, of_any_seed=not arguments.seed)
    try:
        for result in _run(planned, arguments.jobs, at):
            results = merged(results, result)
            results.sort(key=lambda r: (_place(r.id), r.guarantee, r.seed))
            write(results)
    except BrokerUnavailable as error:
        sys.exit(str(error))
    print(f"{JSON}, {TABLE}")
    broken = [r for r in results if r.ok is False and r.commit == at and r.guarantee != NAIVE]
    sys.exit(1 if broken else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=main.__doc__)
    parser.add_argument("--only", nargs="+", metavar="ROW", help="ids of rows, such as K7 B2")
    parser.add_argument(
        "--seed", nargs="+", type=int, help="of traffic and moments, a run for each"
    )
    parser.add_argument("--guarantee", nargs="+", choices=GUARANTEES, default=list(GUARANTEES))
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, each on its own cluster")
    parser.add_argument("--resume", action="store_true", help="run what this commit has no line of")
    parser.add_argument("--list", action="store_true", help="list the rows and end")
    arguments = parser.parse_args()
    unknown = set(arguments.only or ()) - ROWS.keys()
    if unknown:
        parser.error(f"no row is called {', '.join(sorted(unknown))}: see --list")
    return arguments


def _place(id_: str) -> tuple[int, int, str]:
    """Return the place of a row: by family, and in it by number, and by letter."""
    return FAMILIES.index(id_[0]), int(id_[1:].rstrip("bcd")), id_


def _run(planned: Sequence[Task], jobs: int, at: str) -> Iterator[Result]:
    """Perform so many at once, each in a process with a cluster; say each result, and yield it."""
    if why := why_missing(Rung.KAFKA):
        raise BrokerUnavailable(why)
    ensure_jars()
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="chaos-") as folder,
        ProcessPoolExecutor(jobs, mp_context=spawn, initializer=enter) as pool,
    ):
        write_model(Path(folder, "model"))
        try:
            for future in as_completed([pool.submit(play, task, folder, at) for task in planned]):
                result = future.result()
                print(result, flush=True)
                yield result
        finally:
            pool.shutdown(cancel_futures=True)


if __name__ == "__main__":
    main()
