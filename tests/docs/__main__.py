"""`python -m tests.docs`: writes the pages that are made from code; `--check` compares only."""

import argparse
import sys

from tests.docs.markdown import ROOT
from tests.docs.references import REFERENCES, stale


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a difference")
    if parser.parse_args().check:
        for page in (different := stale()):
            print(f"{page} is not what the code says: run make docs-reference", file=sys.stderr)
        return 1 if different else 0
    for page, written in REFERENCES.items():
        path = ROOT / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(written(), encoding="utf-8")
    return 0


sys.exit(main())
