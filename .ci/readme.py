"""Print the README's commands of one kind, so that what is checked is what the README says: python .ci/readme.py test"""

import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def blocks(kind: str, text: str | None = None) -> list[str]:
    """The contents of the fenced blocks whose info string is `kind`, for instance "bash test" or "python"."""
    return re.findall(rf"^```{re.escape(kind)}\n(.*?)^```$", README.read_text() if text is None else text, re.DOTALL | re.MULTILINE)


if __name__ == "__main__":
    found = blocks(f"bash {sys.argv[1]}")
    if not found:
        sys.exit(f"README.md has no block `bash {sys.argv[1]}`")
    print("".join(found), end="")
