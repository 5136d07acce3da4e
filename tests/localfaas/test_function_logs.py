import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

from localfaas.logs import FunctionLog
from localfaas.namespaces import FunctionName


def texts(log: FunctionLog, **query: object) -> list[str]:
    return [line.text for line in log.lines(**query)]  # type: ignore[arg-type]


def test_lines_query_selects_tail_instance_and_time(tmp_path: Path) -> None:
    log = FunctionLog(FunctionName("fn"), tmp_path / "fn.log")
    for number in range(4):
        log.append("a" if number % 2 else "b", str(number))

    assert texts(log) == ["0", "1", "2", "3"]
    assert texts(log, tail=2) == ["2", "3"]
    assert texts(log, instance="a") == ["1", "3"]
    assert texts(log, since=datetime.now(UTC) + timedelta(hours=1)) == []
    log.close()


def test_log_flood_stays_within_its_bounds(tmp_path: Path) -> None:
    log = FunctionLog(FunctionName("fn"), tmp_path / "fn.log")

    for number in range(12_000):
        log.append("a", f"{number} " + "x" * 1_500)

    assert sum(map(len, texts(log))) <= 4 << 20
    assert texts(log)[-1].startswith("11999 ")
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 17 << 20
    assert len(list(tmp_path.iterdir())) == 2
    log.close()


def test_log_opened_again_has_the_old_lines_but_not_the_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "fn.log"
    log = FunctionLog(FunctionName("fn"), path)
    log.append("a", "whole\u2028line")
    log.close()
    with path.open("a") as file:
        file.write('{"name": "fn", "inst')

    again = FunctionLog(FunctionName("fn"), path)

    assert texts(again) == ["whole\u2028line"]
    again.close()


def test_follow_yields_new_lines_until_closed(tmp_path: Path) -> None:
    async def scenario() -> list[str]:
        log = FunctionLog(FunctionName("fn"), tmp_path / "fn.log")
        log.append("a", "before")
        following = log.follow("a")
        for number in range(3):
            log.append("a", str(number))
            log.append("b", "other instance")
        log.close()
        return [line.text async for line in following]

    assert asyncio.run(scenario()) == ["0", "1", "2"]
