"""Write the blocking twins (`_sync/`) from the asyncio sources (`_async/`); with `--check`, only compare.

Hand-written modules of a twin, one on each side of the same name, start with `_world` and are left alone.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import unasync

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = [ROOT / "zddm_flags", ROOT / "zddm_flags" / "testing", ROOT / "adapters" / "zddm_adapters"]
BANNER = "# Generated from {source} by `make generate`. Do not edit.\n"
WORDS = {"_async": "_sync", "aclose": "close", "anext": "next", "aiter": "iter"}


def replacements(text: str) -> dict[str, str]:
    """Every name in `text` that differs between the two worlds: `AsyncThing` is `Thing`."""
    names = set(re.findall(r"\bAsync[A-Z]\w*", text)) | set(re.findall(r"\bcreate_async_\w+", text))
    return WORDS | {name: name.replace("Async", "", 1).replace("create_async_", "create_", 1) for name in names}


def generate(package: Path, target: Path) -> dict[Path, str]:
    """The blocking text of every module of `package`'s `_async` folder, by path relative to `package`."""
    sources = sorted(path for path in (package / "_async").glob("*.py") if not path.name.startswith("_world"))
    for source in sources:
        copy = target / "_async" / source.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, copy)
        rule = unasync.Rule(
            f"{target}/_async/",
            f"{target}/_sync/",
            additional_replacements=replacements(source.read_text(encoding="utf-8")),
        )
        unasync.unasync_files([str(copy)], [rule])
        output = target / "_sync" / source.name
        text = output.read_text(encoding="utf-8")
        text = re.sub(r"\bAsync([A-Z]\w*)", r"\1", text)  # docstrings and comments
        banner = BANNER.format(source=source.relative_to(ROOT).as_posix())
        output.write_text(banner + text, encoding="utf-8")
    outputs = sorted((target / "_sync").glob("*.py"))
    ruff = [sys.executable, "-m", "ruff"]
    config = ["--config", str(ROOT / "pyproject.toml"), "--quiet"]
    subprocess.run([*ruff, "check", "--fix-only", "--select", "I,RUF022,RUF100", *config, *outputs], check=True)
    subprocess.run([*ruff, "format", *config, *outputs], check=True)
    return {Path("_sync") / path.name: path.read_text(encoding="utf-8") for path in outputs}


def main() -> int:
    """Generate or check; exit code 1 where the checked-in files differ in text or in which there are."""
    check = "--check" in sys.argv[1:]
    wrong: list[str] = []
    for package in PACKAGES:
        if not (package / "_async").is_dir():
            continue
        with tempfile.TemporaryDirectory() as folder:
            wanted = generate(package, Path(folder))
        kept = {path for path in (package / "_sync").glob("*.py") if not path.name.startswith("_world")}
        for path in sorted(kept - {package / name for name in wanted}):
            wrong.append(f"{path.relative_to(ROOT)} has no source")
            if not check:
                path.unlink()
        for name, text in wanted.items():
            path = package / name
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                wrong.append(f"{path.relative_to(ROOT)} differs from its source")
                if not check:
                    path.parent.mkdir(exist_ok=True)
                    path.write_text(text, encoding="utf-8")
    if check and wrong:
        print("\n".join(wrong), "Run `make generate` and commit the result.", sep="\n", file=sys.stderr)
        return 1
    print(f"generated code: {'up to date' if not wrong else ', '.join(wrong)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
