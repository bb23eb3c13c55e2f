"""Alarms as incidents. Those of one subject are one group where many tenants have them.

A key names an incident: `name/tenant/subject`, such as `broken/shop_0001/channel`.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

MANY = 3  # tenants with the same incident
NAMED = 5  # tenants in a group's sentence
VERBS = {"broken": "lost {}", "drift": "have drift of {}", "volume": "have too few or many {}"}
MIXED = "lost {} or have drift of it"
# What to do about an incident, by the name of its check. The retraining decision covers quality.
NEXT = {
    "broken": "`make data` writes the Data page, which shows what changed in the logs. Correct the "
    "source's model in dbt/models/staging, then `make data`.",
    "drift": "If the logs are right and it lasts, `make data train deploy` learns the change. If "
    "not, correct the source's model in dbt/models/staging, then `make data`.",
    "volume": "See whether files of the newest days are missing in data/raw, then `make data`.",
    "quarantine": "`make data` prints each reason with the first file and line.",
    "unknown category": "If the values are right, `make data train deploy` learns them.",
    "latency": "More processes answer at once: `make serve WORKERS=2`.",
}


def incidents(checks: Sequence[Mapping]) -> dict[str, str]:
    """Each alarm's key and sentence, without a tenant's alarm that all tenants share."""
    return {key: check["sentence"] for key, check in _alarms(checks).items()}


def first_days(checks: Sequence[Mapping]) -> dict[str, str]:
    """For each incident in the data of some days, the day on which it began there."""
    return {key: check["since"] for key, check in _alarms(checks).items() if check.get("since")}


def group(keys: Iterable[str]) -> list[list[str]]:
    """The keys, those of one subject together if they are of at least MANY tenants."""
    by_subject: dict[tuple[str, str], list[str]] = {}
    for key in keys:
        by_subject.setdefault(_subject(key), []).append(key)
    return [
        some
        for same in by_subject.values()
        for some in ([same] if len(same) >= MANY else [[key] for key in same])
    ]


def due(new: Sequence[str], reported: Iterable[str]) -> list[str]:
    """The new incidents to report now.

    A group that was reported is not reported again for each tenant that joins it, but once it has
    doubled.
    """
    sizes: dict[tuple[str, str], list[int]] = {}
    for place, keys in enumerate((reported, new)):
        for key in keys:
            sizes.setdefault(_subject(key), [0, 0])[place] += 1
    growing = {subject for subject, (old, more) in sizes.items() if old >= MANY and more < old}
    return [key for key in new if _subject(key) not in growing]


def describe(sentences: Mapping[str, str], days: Mapping[str, str] | None = None) -> list[str]:
    """A sentence for each group of these incidents, from the sentence of each key.

    A group's sentence names the first day in the data, from `days`, and up to NAMED tenants.
    """
    return [
        sentences[keys[0]] if len(keys) == 1 else describe_group(keys, days or {})
        for keys in group(sentences)
    ]


def describe_group(keys: Sequence[str], days: Mapping[str, str]) -> str:
    """The sentence of several tenants' incidents of one subject."""
    (name, *others), (_, subject) = {_parts(key)[0] for key in keys}, _subject(keys[0])
    verb = MIXED if others else VERBS.get(name, f"have an alarm of {name}: {{}}")
    tenants = sorted(_parts(key)[1] for key in keys)
    names = ", ".join(tenants[:NAMED])
    if len(tenants) > NAMED:
        names += f" and {len(tenants) - NAMED} more"
    first = min((days[key] for key in keys if key in days), default="")
    since = f" since {_format_day(first)}" if first else ""
    return f"{len(keys)} tenants {verb.format(subject)}{since}: {names}."


def open_groups(checks: Sequence[Mapping]) -> list[dict[str, Any]]:
    """Groups of incidents: title, sentence, keys, what to do, and the first day in the data."""
    alarms, days, groups = _alarms(checks), first_days(checks), []
    for keys in group(alarms):
        check = alarms[keys[0]]
        title, sentence = check["name"], check["sentence"]
        if len(keys) > 1:
            title = _subject(keys[0])[0]
            title, sentence = f"{title} in {len(keys)} tenants", describe_group(keys, days)
        elif check["tenant"] != "all":
            title = f"{title} of {check['tenant']}"
        since = min((days[key] for key in keys if key in days), default="")
        next_step = NEXT.get(check["name"], "")
        about = {"title": title, "sentence": sentence, "keys": keys, "next": next_step}
        groups.append(about | {"since": since})
    return groups


def _alarms(checks: Sequence[Mapping]) -> dict[str, Mapping]:
    """The alarms by key, without a tenant's one that all tenants share."""
    alarms = {check["key"]: check for check in checks if check["state"] == "alarm"}
    return {
        key: check
        for key, check in alarms.items()
        if check["tenant"] == "all" or f"{check['name']}/all/{check['subject']}" not in alarms
    }


def _subject(key: str) -> tuple[str, str]:
    """What a group has in common. A broken feature of a small tenant is drift for some days."""
    name, _, subject = _parts(key)
    return "drift" if name == "broken" else name, subject


def _parts(key: str) -> tuple[str, str, str]:
    """Name, tenant and subject of a key. A tenant's id may hold a slash."""
    name, _, rest = key.partition("/")
    tenant, _, subject = rest.rpartition("/")
    return name, tenant, subject


def _format_day(day: str) -> str:
    moment = datetime.fromisoformat(day)
    return f"{moment:%A}, {moment.day} {moment:%B}"
