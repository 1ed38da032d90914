"""The token with which Ray's processes and clients know each other. Whoever has it can run code on the cluster.

Ray reads the token from `RAY_AUTH_TOKEN`, else from the file at `RAY_AUTH_TOKEN_PATH`, else from `~/.ray/auth_token`.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

MODE, TOKEN, PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


class TokenError(RuntimeError):
    """There is no token for a cluster, or others can read it."""


def token_file() -> Path:
    """Return where Ray looks for the token, if `RAY_AUTH_TOKEN` does not hold it."""
    return Path(os.environ.get(PATH) or os.path.expanduser("~/.ray/auth_token"))


def write_token(path: Path) -> bool:
    """Make a token that only its owner can read. Returns False, and keeps the token, if the file holds one already.

    Raises OSError if the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="ascii", errors="replace") as file:
        os.fchmod(file.fileno(), 0o600)
        if file.read().strip():
            return False
        file.seek(0)
        file.write(secrets.token_hex(32))
        file.truncate()
    return True


def readable_by_others(path: Path) -> bool:
    """Whether other users than its owner can read a file."""
    return bool(stat.S_IMODE(path.stat().st_mode) & 0o077)


def require_token() -> None:
    """Make this process a client that shows a token, unless `RAY_AUTH_MODE` says otherwise. Call it before Ray is
    imported, which reads the variables only then. Raises `TokenError` if there is no token, or if others can read it.
    """
    mode = os.environ.setdefault(MODE, "token").lower()
    if mode not in ("token", "disabled"):
        raise TokenError(f"{MODE}={mode} is not known: set it to token, or to disabled for a cluster without a token.")
    if mode == "disabled" or os.environ.get(TOKEN):
        return
    path = token_file()
    try:
        text = path.read_bytes()
    except OSError as error:
        raise TokenError(
            f"There is no token at {path} ({error.strerror}). Copy it from the cluster's head (mode 600), or name "
            f"another file by {PATH}. For a cluster that has no token, which anyone who reaches it can use, set "
            f"{MODE}=disabled."
        ) from error
    if not text.strip():
        raise TokenError(f"The file {path} is empty. Copy the token from the cluster's head to it (mode 600).")
    if readable_by_others(path):
        raise TokenError(f"Other users can read the cluster's token. Run: chmod 600 {path}")
