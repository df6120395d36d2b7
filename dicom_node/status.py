"""What `status` and `config` print: tables for people, from plain values."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dicom_node.settings import Settings
from dicom_node.supervisor import RunningNode

COLOURS = {
    "CONFIRMED": "green",
    "STORED": "green",
    "QUEUED": "cyan",
    "RUNNING": "cyan",
    "HELD": "yellow",
    "NO_ROUTE": "yellow",
    "RETRYING": "yellow",
    "FAILED": "red",
    "POISON": "red",
    "DEAD": "red",
}


def print_status(
    console: Console,
    node: RunningNode | None,
    counts: dict[str, dict[str, int]],
    studies: list[dict[str, Any]],
    story: list[dict[str, Any]],
) -> None:
    """Print where every study is, newest last; for one study, also its story."""
    if node is None:
        console.print("[yellow]The node is not running.[/yellow]")
    else:
        console.print(f"{node.ae_title} listens on {node.host}:{node.port} (pid {node.pid})")
        if node.page:
            console.print(f"The page: {node.page}", highlight=False)
    for entity, states in counts.items():
        told = ", ".join(f"{count} {state}" for state, count in sorted(states.items()) if count)
        console.print(f"  {entity}: {told or 'none'}", highlight=False)
    if studies:
        console.print(_table(studies))
    if story:
        console.print(_story(story))


def _table(studies: list[dict[str, Any]]) -> Table:
    table = Table("Patient", "Study", "Series", "Images", "Model", "State", "Why", show_lines=True)
    for row in studies:
        head = (
            row["patient_id"],
            f"…{row['study_uid'][-12:]}",
            f"{row['modality']} {row['description']} (rev. {row['revision']})".strip(),
            str(row["instances"]),
        )
        if not row["jobs"]:
            table.add_row(*head, "", _state(row["state"]), row["reason"])
        for job in row["jobs"]:
            table.add_row(*head, job["model"], *_job(job))
    return table


def _job(job: dict[str, Any]) -> tuple[Text, str]:
    """How far a job is: its own state, then that of its deliveries."""
    lines = [": ".join(filter(None, (job["outcome"], job["reason"])))]
    state = _state(job["state"])
    for result in job["results"]:
        state.append("\n").append_text(_state(result["delivery"]))
        lines.append(f"{result['kind']} to {result['destination']}: {result['reason']}")
    return state, "\n".join(lines)


def _state(state: str) -> Text:
    return Text(state, style=COLOURS.get(state, ""))


def _story(story: list[dict[str, Any]]) -> Table:
    table = Table("When", "What", "From", "To", "Why", title="Story")
    for row in story:
        when = f"{row['at']:%Y-%m-%d %H:%M:%S.%f}"[:-3]
        what = f"{row['entity']} {row['entity_id']}"
        table.add_row(when, what, row["old"] or "", _state(row["new"]), row["reason"])
    return table


def as_toml(settings: Settings) -> str:
    """The settings as TOML that could be read back."""
    values = settings.model_dump(mode="json", exclude_none=True)
    sections = [(name, value) for name, value in values.items() if isinstance(value, dict | list)]
    lines = [f"{name} = {_toml(v)}" for name, v in values.items() if not isinstance(v, dict | list)]
    for name, value in sections:
        lines += _section(name, value)
    return "\n".join(lines)


def _section(name: str, value: dict[str, Any] | list[Any]) -> list[str]:
    if isinstance(value, list):
        return [line for item in value for line in _fields(f"[[{name}]]", name, item)]
    if value and all(isinstance(item, dict) for item in value.values()):
        return [
            line
            for key, item in value.items()
            for line in _fields(f"[{name}.{key}]", f"{name}.{key}", item)
        ]
    return _fields(f"[{name}]", name, value)


def _fields(head: str, name: str, fields: dict[str, Any]) -> list[str]:
    inner = {key: value for key, value in fields.items() if _is_section(value)}
    lines = ["", head]
    lines += [f"{key} = {_toml(v)}" for key, v in fields.items() if key not in inner]
    for key, value in inner.items():
        path = f"{name}.{key}"
        if isinstance(value, dict):
            lines += _fields(f"[{path}]", path, value)
        else:
            lines += [line for item in value for line in _fields(f"[[{path}]]", path, item)]
    return lines


def _is_section(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], dict)
    )


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return str(value)
