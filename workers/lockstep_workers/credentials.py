"""How a pod shows who it is: with the token that the kubelet keeps in a file, and renews.

Used by whoever calls the planner or opens a session. Invariant: the file is read for each call, so
that a token that was renewed is the one that is shown.
"""

from pathlib import Path

from lockstep_api.names import TOKEN_DIR, TOKEN_FILE

TOKEN = Path(TOKEN_DIR) / TOKEN_FILE


def shown(token_file: Path | None) -> dict[str, str]:
    """The headers that show the token; none where the pod has none."""
    try:
        token = "" if token_file is None else token_file.read_text().strip()
    except FileNotFoundError:
        return {}
    return {"authorization": f"Bearer {token}"} if token else {}
