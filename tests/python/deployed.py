"""What the tests of deploy/ share: its files, the programs that check them, what the sources say of flags and names."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Dict, Iterator, List, Set

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
# What other tests cover: deploy/stack.
IGNORED = {"stack", "stack_lib", "secrets", "data", "__pycache__"}


def tool(name: str) -> str:
    """The program's path: of this checkout's .venv, else of the system. Missing is a failure, never a skip."""
    for folder in (str(ROOT / ".venv" / "bin"), os.environ.get("PATH", "") + ":/usr/sbin:/sbin"):
        found = shutil.which(name, path=folder)
        if found:
            return found
    raise AssertionError(f"{name} is not installed: run `make setup`")


def run(*argv: Any, **more: Any) -> subprocess.CompletedProcess:
    """Runs a program of `tool` and gives its status and output together."""
    return subprocess.run(
        [tool(str(argv[0])), *map(str, argv[1:])], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more
    )


def files(*patterns: str) -> List[Path]:
    """Files of deploy/ that match, without those that are made on the spot."""
    found = [path for pattern in patterns for path in sorted(DEPLOY.rglob(pattern)) if path.is_file()]
    return [path for path in found if not IGNORED & set(path.relative_to(DEPLOY).parts)]


class _Unique(yaml.SafeLoader):
    """A key that stands twice is a mistake that YAML itself lets pass."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Dict[Any, Any]:
        plain = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = {key for key in plain if isinstance(key, str) and plain.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"keys stand twice: {sorted(twice)}", node.start_mark)
        return super().construct_mapping(node, deep)


def documents(text: str) -> List[Any]:
    return [document for document in yaml.load_all(text, _Unique) if document is not None]


def source(*parts: str) -> str:
    return ROOT.joinpath(*parts).read_text(encoding="utf-8")


def sources(folder: str) -> Iterator[str]:
    """The Rust sources below a folder, without their tests."""
    for path in sorted((ROOT / folder).rglob("*.rs")):
        if path.stem not in ("tests", "fixture") and "tests" not in path.relative_to(ROOT / folder).parts:
            yield path.read_text(encoding="utf-8").split("#[cfg(test)]", 1)[0]


def flags(*paths: str) -> Set[str]:
    """The long flags that clap definitions declare: `#[arg(long, ...)]` before a field, or `long = "name"`."""
    found: Set[str] = set()
    for path in paths:
        text = source(path)
        for attribute, field in re.findall(r"#\[arg\(((?:[^\[\]]|\[[^\]]*\])*?)\)\]\s*pub (\w+):", text):
            named = re.search(r'\blong = "([\w-]+)"', attribute)
            if named or re.search(r"\blong\b", attribute):
                found.add("--" + (named.group(1) if named else field.replace("_", "-")))
    return found


WORKER_FLAGS = ("worker/src/cli.rs", "common/src/config.rs")
PRODUCER_FLAGS = ("producer/src/cli.rs", "producer/src/cli/submit.rs", "producer/src/cli/output.rs", "common/src/config.rs")
# Agreed on before the crate was there; read from it once it is.
MONITOR_FLAGS = {"--listen", "--allow-host", "--token-file", "--log-format"}
MONITOR_VARIABLES = {
    "TRAWL_MONITOR_TOKEN",
    "TRAWL_MONITOR_TOKEN_FILE",
    "TRAWL_MANAGEMENT_URL",
    "TRAWL_MANAGEMENT_URL_FILE",
    "TRAWL_LOG_FORMAT",
}


def monitor_is_here() -> bool:
    return (ROOT / "monitor" / "src").is_dir()


def monitor_flags() -> Set[str]:
    if not monitor_is_here():
        return MONITOR_FLAGS
    paths = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "monitor" / "src").rglob("*.rs"))]
    return flags(*paths, "common/src/config.rs")


def variables() -> Set[str]:
    """The environment variables that the programs read: those of clap's definitions, and the log filter's."""
    found: Set[str] = set()
    for folder in ("common/src", "worker/src", "producer/src", "monitor/src"):
        for text in sources(folder):
            found |= set(re.findall(r'\benv = "(TRAWL_[A-Z_]+)"', text))
            for names in re.findall(r"const \w*VARIABLES: [^=]+= \[([^\]]*)\]", text):
                found |= set(re.findall(r'"(TRAWL_[A-Z_]+)"', names))
    return found if monitor_is_here() else found | MONITOR_VARIABLES


def constant(text: str, name: str) -> Any:
    """The value of a Rust constant: a text, a number, or seconds for a Duration."""
    found = re.search(rf"pub const {name}: [^=]+= ([^;]+);", text)
    assert found, f"there is no constant {name}"
    value = found.group(1).strip()
    if value.startswith('"'):
        return value.strip('"')
    seconds = re.fullmatch(r"Duration::from_secs\((\d+)\)", value)
    return int((seconds.group(1) if seconds else value).replace("_", ""))
