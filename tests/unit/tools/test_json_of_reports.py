"""docs/json is complete, says what it is about, and knows all that the daemon can answer.

What the commands print of a real cluster is held against it in tests/cluster/test_json.py.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mdcluster.control.protocol import EventLine
from mdcluster.control.status import WhyData
from mdcluster.tools import mdcadm, stream
from mdcluster.tools.alerts import Alert
from mdcluster.tools.messenger import as_dict
from mdcluster.tools.output import utc
from tests.unit.control.fake import FakeDaemon, answers
from tests.unit.control.samples import ARRAYS, DETAIL, MDSTAT, STATUS
from tests.unit.tools import schemas

ROOT = Path(__file__).parents[3]
ANSWERS: dict[str, Any] = {
    "status": STATUS,
    "arrays": ARRAYS,
    "detail": DETAIL,
    "mdstat": MDSTAT,
    "why": WhyData(STATUS.waiting, "a", "b"),
    "fail": ["no"],
}


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("--detail data", "detail"),
        ("--detail --scan", "detail"),
        ("--cluster", "cluster"),
        ("--mdstat", "mdstat"),
        ("--why", "why"),
        ("--stop data", "change"),
        ("data --fail a", "change"),
        ("--transfer b", "change"),
        ("--check-timing", "check-timing"),
    ],
)
def test_documents_of_a_daemon(
    line: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "control.sock"
    with FakeDaemon(path, answers(ANSWERS)):
        mdcadm.main([*line.split(), "--json", f"--socket={path}"])
    schemas.check(name, json.loads(capsys.readouterr().out))


@pytest.mark.parametrize(
    "alert",
    [
        Alert("Fail", "/dev/md/data", "/dev/sda", ""),
        Alert("NodeLost", "blue", "", "c"),
        Alert("NewArray", "/dev/md/data"),
    ],
)
def test_alerts(alert: Alert) -> None:
    schemas.check("monitor", {"time": utc(0), **as_dict(alert)})


def test_every_field_of_an_event_is_described() -> None:
    """All facts that are told anywhere in the daemon, by their names in the source."""
    facts = {"late_ms", "was", "gap_ms", "what", "by", "start", "version"}
    for file in (ROOT / "mdcluster/core").glob("*.py"):
        for call in re.findall(r"notify\(\s*([^()]*(?:\([^()]*\)[^()]*)*)\)", file.read_text()):
            facts |= set(re.findall(r"\b(\w+)=", call))
    facts -= {"key"}  # told as the array
    assert len(facts) > 10
    schema = json.loads((schemas.FOLDER / "events.json").read_text())
    assert facts <= set(schema["properties"])
    for line in (EventLine(stream.LOST, {"why": "x"}), EventLine(stream.RESUMED, {"gap_ms": 1})):
        schemas.check("events", {"event": line.event, "time": utc(0), **line.fields})


def test_an_event_in_a_watch_is_an_event() -> None:
    events = json.loads((schemas.FOLDER / "events.json").read_text())["properties"]
    watch = json.loads((schemas.FOLDER / "watch.json").read_text())["properties"]
    assert watch["events"]["items"]["properties"] == events
    cluster = json.loads((schemas.FOLDER / "cluster.json").read_text())["properties"]
    assert watch["cluster"]["properties"] == cluster


@pytest.mark.parametrize("name", schemas.names())
def test_each_schema_is_listed_and_says_what_it_is_about(name: str) -> None:
    schema = json.loads((schemas.FOLDER / f"{name}.json").read_text())
    assert schema["title"].startswith(("mdcadm ", "mdcinspect ", "a line of mdcadm "))
    listed = (schemas.FOLDER / "README.md").read_text()
    assert f"({name}.json)" in listed or name.startswith("mdcinspect-")
    assert [where for where, one in _objects(schema, "") if one["additionalProperties"]] == []


def _objects(schema: Any, where: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    if isinstance(schema, dict):
        if "properties" in schema and "type" in schema:
            found.append((where, schema))
        for key, value in schema.items():
            found += _objects(value, f"{where}/{key}")
    elif isinstance(schema, list):
        for value in schema:
            found += _objects(value, where)
    return found
