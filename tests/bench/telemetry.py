"""What the series of jobs of many devices cost the chart's Prometheus, and what `auto` saves.

    python -m tests.bench.telemetry [--seconds 120] [--write]

Runs the chart's Prometheus (`prometheus`) beside the exporters of 8, 100 and 1,000 devices
(`exporters`) that tell all of their series, and those of 1,000 that tell what rounds are planned
from. `--write` writes docs/benchmarks/telemetry.md.
"""

import argparse
import asyncio
import json
import os
import platform
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

from lockstep_api.quantity import parse_quantity
from lockstep_api.spec import PerDevice, Telemetry
from lockstep_operator.core.model import JobKey
from lockstep_operator.core.pods import scrape_interval_s
from lockstep_operator.telemetry import DEADLINE_S
from lockstep_operator.telemetry import Prometheus as Asked
from tests.bench.exporters import JOB, fleet, served
from tests.bench.prometheus import NAMESPACE, Chart, Running, chart, prometheus, targets

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "benchmarks" / "telemetry.md"
CASES = (
    (8, PerDevice.AUTO), (100, PerDevice.AUTO), (1000, PerDevice.ALWAYS), (1000, PerDevice.AUTO),
)  # fmt: skip
_ASKED = 5
_COLUMNS = (
    "devices", "perDevice", "scraped every", "series", "samples a second", "memory, MiB",
    "at most, MiB", "CPU, cores", "scrape, median ms", "scrape, slowest ms", "planner asks, ms",
    "its CPU, ms",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A row of the table."""

    devices: int
    per_device: str
    interval: str
    series: int
    samples: float
    memory_mib: float
    most_mib: float
    cores: float
    scrape_ms: float
    slowest_ms: float
    planner_ms: float
    planner_cpu_ms: float


def measured(count: int, per_device: PerDevice, *, seconds: float, made: Chart) -> Measured:
    """A job of so many devices, once each was scraped twice, for so long.

    Raises:
        SystemExit: Prometheus has ended.
        ValueError: it does not know all devices.
    """
    tells = Telemetry(per_device=per_device).tells_each(count)
    job, interval_s = fleet(count, per_device=tells), scrape_interval_s(count)
    with (
        served(job, now=time.time()) as address,
        prometheus(targets(address, count), made=made) as running,
    ):
        running.wait(2 * interval_s + 5)
        before, began = running.own(), time.monotonic()
        running.wait(seconds)
        after, took_s = running.own(), time.monotonic() - began
        planner_s, planner_cpu_s = _in_a_process(running.url, count)
        window = f"[{round(seconds)}s]"
        resident, most = running.memory_mib()
        return Measured(
            devices=count,
            per_device=f"{per_device} ({'all' if tells else 'few'})",
            interval=f"{interval_s} s",
            series=round(after["prometheus_tsdb_head_series"]),
            samples=_grown(before, after, "samples_appended_total") / took_s,
            memory_mib=resident,
            most_mib=most,
            cores=_grown(before, after, "process_cpu_seconds_total") / took_s,
            scrape_ms=1e3 * ask(running, f"avg(quantile_over_time(0.5, {SCRAPE}{window}))"),
            slowest_ms=1e3 * ask(running, f"max(max_over_time({SCRAPE}{window}))"),
            planner_ms=1e3 * planner_s,
            planner_cpu_ms=1e3 * planner_cpu_s,
        )


SCRAPE = "scrape_duration_seconds"


def _grown(before: dict[str, float], after: dict[str, float], name: str) -> float:
    """How much counters grew whose name has this in it."""
    return sum(after[key] - before.get(key, 0.0) for key in after if name in key)


def ask(running: Running, query: str) -> float:
    """The one number that a query gives."""
    url = f"{running.url}/api/v1/query?{urlencode({'query': query})}"
    with urlopen(url, timeout=60) as said:
        (found,) = json.load(said)["data"]["result"]
    return float(found["value"][1])


def planner_asks(url: str, count: int) -> tuple[float, float]:
    """Seconds that the planner's own queries take, and its CPU of that: of the median of some.

    Runs in a process of its own, as the planner does.

    Raises:
        ValueError: it does not know all devices.
    """
    return asyncio.run(_asked(url, count))


async def _asked(url: str, count: int) -> tuple[float, float]:
    asked, took = Asked(url, deadline_s=60.0), []
    try:
        for _ in range(_ASKED):
            began, cpu_s = time.monotonic(), time.process_time()
            found = await asked.insight(JobKey(NAMESPACE, JOB), clients=count)
            took.append((time.monotonic() - began, time.process_time() - cpu_s))
            known = [one for one in found.values() if one.slots_mbps and one.work_per_step]
            if len(known) != count:
                raise ValueError(f"the planner knows {len(known)} of {count} devices")
    finally:
        await asked.close()
    return sorted(took)[_ASKED // 2]


def _in_a_process(url: str, count: int) -> tuple[float, float]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as one:
        return one.submit(planner_asks, url, count).result()


def row(one: Measured) -> str:
    """Of the table."""
    return _row([_cell(value) for value in astuple(one)])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if value < 1 else f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def page(rows: Sequence[Measured], *, seconds: float, made: Chart) -> str:
    """What stands in docs/benchmarks/telemetry.md."""
    load = os.getloadavg()[1]
    text = HERE.joinpath("telemetry.md").read_text(encoding="utf-8")
    limit = f"{parse_quantity(made.memory) / 2**20:.0f} MiB"
    return text.format(
        seconds=f"{seconds:.0f}",
        cores=os.cpu_count(),
        python=platform.python_version(),
        load=f"{load:.0f}",
        limit=limit,
        deadline=f"{DEADLINE_S:g}",
        table="\n".join([_row(_COLUMNS), _row(["---"] * len(_COLUMNS)), *map(row, rows)]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.telemetry", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--write", action="store_true", help=f"writes {PAGE.name}")
    wanted = parser.parse_args()
    made, rows = chart(), []
    print(_row(_COLUMNS), flush=True)
    for count, per_device in CASES:
        rows.append(measured(count, per_device, seconds=wanted.seconds, made=made))
        print(row(rows[-1]), flush=True)
    if wanted.write:
        PAGE.write_text(page(rows, seconds=wanted.seconds, made=made), encoding="utf-8")
    most, limit = max(one.most_mib for one in rows), parse_quantity(made.memory) / 2**20
    if most > limit:
        raise SystemExit(f"{most:.0f} MiB is above the chart's limit of {limit:.0f} MiB")


if __name__ == "__main__":
    main()
