"""Nothing that comes from elsewhere is run: no code in the library unpickles, evaluates, unpacks or shells out."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUNS_CODE = {"eval", "exec", "compile", "__import__"}
UNPICKLES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
READERS = {"load", "loads", "Unpickler", "open"}
ANY_CALL = {
    "os.system": "runs a shell",
    "os.popen": "runs a shell",
    "subprocess.getoutput": "runs a shell",
    "subprocess.getstatusoutput": "runs a shell",
    "yaml.unsafe_load": "makes any object",
    "yaml.full_load": "makes any object",
    "yaml.safe_load": "expands aliases without end: yaml_text.parse does not",
    "yaml.load_all": "makes any object",
    "shutil.unpack_archive": "writes where an archive says",
    "os.path.expandvars": "puts the environment into a text",
    "string.Template": "puts values into a text that may come from elsewhere",
}
# Modules named at run time: one of the commands that `dvt` lists itself.
IMPORTS_BY_NAME = {"platform/dvt/cli/main.py"}


def sources() -> list[Path]:
    return sorted([*(ROOT / "platform").rglob("*.py"), *(ROOT / "jobs").glob("*.py"), *(ROOT / "infra").rglob("*.py")])


def dotted(node: ast.expr) -> str:
    """`a.b.c` of a call's function; `().c` where it is of a value."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else "()"


def option(call: ast.Call, name: str) -> ast.expr | None:
    return next((each.value for each in call.keywords if each.arg == name), None)


def is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def is_false(node: ast.expr | None) -> bool:
    return node is None or (isinstance(node, ast.Constant) and not node.value)


def why_refused(call: ast.Call, path: str) -> str:
    """Why a call must not stand in the library; empty if it may."""
    name = dotted(call.func)
    module, _, function = name.rpartition(".")
    if name in RUNS_CODE:
        return "runs code"
    if name in ANY_CALL:
        return ANY_CALL[name]
    if module in UNPICKLES and function in READERS:
        return "unpickles"
    if name == "torch.load" and not is_true(option(call, "weights_only")):
        return "unpickles: weights_only=True is missing"
    if name == "Image.open" and option(call, "formats") is None:
        return "runs programs for some formats: formats= is missing"
    if name == "yaml.load" and not dotted(option(call, "Loader") or call.func).endswith(("SafeLoader", "_Loader")):
        return "makes any object: it needs a safe loader"
    if function == "load" and module in ("np", "numpy") and not is_false(option(call, "allow_pickle")):
        return "unpickles: allow_pickle"
    if function in ("read_pickle", "extractall", "extract") and module not in ("elastic", "()"):
        return "unpickles or writes where an archive says"
    if not is_false(option(call, "shell")):
        return "runs a shell"
    if function == "import_module" and path not in IMPORTS_BY_NAME:
        return "imports what a text names"
    if function == "format" and module and isinstance(call.func, ast.Attribute) and _is_text(call.func.value):
        return "formats a text that may come from elsewhere"
    return ""


def _is_text(node: ast.expr) -> bool:
    """Whether `.format` is of something else than a literal or `self`, whose method has the name, too."""
    return not isinstance(node, ast.Constant) and dotted(node) not in ("self", "super", "()")


def refused(text: str, path: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and (why := why_refused(node, path)):
            yield f"{path}:{node.lineno} {dotted(node.func)}: {why}"


def test_nothing_in_the_library_runs_what_it_is_given() -> None:
    found = []
    for source in sources():
        found += refused(source.read_text(encoding="utf-8"), source.relative_to(ROOT).as_posix())
    assert len(sources()) > 200
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "eval(recipe['lr'])",
        "exec(text)",
        "pickle.loads(content)",
        "cloudpickle.load(file)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.FullLoader)",
        "yaml.unsafe_load(text)",
        "yaml.safe_load(text)",
        "Image.open(path)",
        "np.load(path, allow_pickle=True)",
        "pd.read_pickle(path)",
        "tar.extractall(folder)",
        "archive.extract(member)",
        "shutil.unpack_archive(path)",
        "subprocess.run(command, shell=True)",
        "os.system(command)",
        "importlib.import_module(recipe.loss)",
        "name.format(recipe)",
        "os.path.expandvars(recipe.root)",
    ],
)
def test_the_test_sees_each_of_them(text: str) -> None:
    assert len(list(refused(text, "platform/dvt/any.py"))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "model.eval()",
        "torch.load(path, weights_only=True)",
        "yaml.load(text, Loader=_Loader)",
        "Image.open(path, formats=FORMATS)",
        "np.load(path)",
        "subprocess.run(command)",
        "'{}'.format(1)",
        "json.loads(text)",
        "elastic.extract(config)",
    ],
)
def test_the_test_lets_pass_what_is_harmless(text: str) -> None:
    assert list(refused(text, "platform/dvt/any.py")) == []
