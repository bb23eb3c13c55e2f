"""A new candidate: a function in ml/candidates.py, and its name in project.toml."""

import ast
import inspect
import keyword
import re
import tomllib
from pathlib import Path

from jollyboat.scaffold import examples
from jollyboat.scaffold.source import NAME
from jollyboat.store import UserError

CODE, SETTINGS, REQUIREMENTS = "ml/candidates.py", "project.toml", "requirements.in"
# What a candidate needs that a project does not install.
PACKAGES = {"lightgbm": "lightgbm"}
LIST = re.compile(r"^candidates\s*=\s*\[[^\]]*?(?=,?\s*\])", re.MULTILINE)


def candidate_kinds() -> list[str]:
    """The libraries that a candidate may be like."""
    return [name for name, _ in inspect.getmembers(examples, inspect.isfunction)]


def add_candidate(name: str, kind: str, project: Path) -> list[str]:
    """Write the function and name it in `[train] candidates`; returns what to do next.

    UserError, before anything is written, where the name is no function's name or is taken.
    """
    code, settings = project / CODE, project / SETTINGS
    functions, text = (path.read_text(encoding="utf-8") for path in (code, settings))
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        raise UserError(
            f"{name!r} is no name of a candidate: lower-case letters, digits, underscores."
        )
    if name in _find_names(functions):
        raise UserError(f"{name} means something in {CODE} already. Choose another name.")
    named = add_to_candidates(text, name)
    source = inspect.getsource(getattr(examples, kind))
    example = source.replace(f"def {kind}(", f"def {name}(", 1)
    code.write_text(f"{functions.rstrip()}\n\n\n{example}", encoding="utf-8")
    settings.write_text(named, encoding="utf-8")
    sentences = [f"wrote {name} into {CODE}, and its name under [train] candidates in {SETTINGS}"]
    if package := PACKAGES.get(kind):
        requirements = project / REQUIREMENTS
        lines = requirements.read_text(encoding="utf-8").splitlines()
        if package not in lines:
            requirements.write_text("\n".join([*lines, package]) + "\n", encoding="utf-8")
        sentences.append(
            f"added {package} to {REQUIREMENTS}: `jollyboat pins`, then `make setup` installs it"
        )
    return [*sentences, "The list is simplest first. Then run `make train`."]


def add_to_candidates(text: str, name: str) -> str:
    """project.toml with one more candidate, at the end of the list; the rest stays as it is.

    UserError if the list cannot be edited.
    """
    result = LIST.sub(lambda match: f'{match[0]}, "{name}"', text, count=1)
    before = tomllib.loads(text)["train"]["candidates"]
    if tomllib.loads(result)["train"]["candidates"] != [*before, name]:
        raise UserError(f"Add {name} to [train] candidates in {SETTINGS} by hand.")
    return result


def _find_names(code: str) -> set[str]:
    """The functions that Python code defines and the names that it imports."""
    nodes = ast.parse(code).body
    functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    return functions | {each.asname or each.name for node in imports for each in node.names}
