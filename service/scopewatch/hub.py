"""The one door to the Hugging Face hub and its local cache.

HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE mean what they mean to huggingface_hub. That library draws the
progress of downloads on a terminal, and goes on with a transfer that breaks. If the process ends during a download, the
files that are whole are kept and the others begin anew. Unless downloads are allowed, nothing here touches the network.
"""

import errno
import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import disable_progress_bars

from scopewatch.errors import HubError

log = logging.getLogger(__name__)

_PATH = re.compile(r"(?:\w[\w.:+=-]*(?:/\w[\w.:+=-]*)*)?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ABSENT = "not in the local Hugging Face cache; set allow_download or download it beforehand"
_WHY: tuple[tuple[type[Exception], str], ...] = (
    # A gated repository's error is one of a missing repository's kind too.
    (GatedRepoError, "is gated; accept its licence at {page} and set HF_TOKEN to a token of that account"),
    (RepositoryNotFoundError, "the hub has no such repository, or a private one; check the name or set HF_TOKEN"),
    (RevisionNotFoundError, "the hub has no such revision; name a branch, a tag or a full commit hash"),
    (OfflineModeIsEnabled, "not in the local Hugging Face cache, and HF_HUB_OFFLINE is set; unset it"),
    (LocalEntryNotFoundError, _ABSENT),
    (CachedRepoTreeNotFoundError, _ABSENT),
    (HFValidationError, "not the name of a repository on the hub; write owner/name"),
)
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Files of a repository at one commit, in the local cache."""

    folder: Path
    revision: str
    """The commit's hash."""


def snapshot(repo: str, *, revision: str, patterns: Sequence[str], allow_download: bool) -> Snapshot:
    """Files of a repository: those in the local cache and, if downloads are allowed, those that the cache lacks.

    Args:
        repo: `owner/name`.
        revision: Branch, tag or commit hash; empty for the main branch. A branch is asked for at the hub each time,
            and what the cache holds of it is used when the hub cannot be reached.
        patterns: Paths in the repository; `*` stands for anything, slashes too. One that matches nothing is no error.
        allow_download: Whether the network may be used.

    Raises:
        HubError: Files that match are not in the cache and cannot be had.
    """
    _check(repo, revision, *patterns)
    if allow_download:
        log.info("%s: asking %s", _at(repo, revision), constants.ENDPOINT)
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        folder = snapshot_download(
            repo, revision=revision or None, allow_patterns=list(patterns), local_files_only=not allow_download
        )
    # Besides its own errors huggingface_hub lets those of two HTTP libraries and of a Rust extension through.
    except Exception as error:
        raise _told(repo, revision, error) from None
    return Snapshot(Path(folder), Path(folder).name)


def listing(repo: str, *, revision: str, folder: str, allow_download: bool) -> list[str]:
    """Names of the files and folders in a folder of a repository, sorted; none if there is no such folder.

    The hub is asked if downloads are allowed. Otherwise, or if it cannot be reached, this is the list of all the
    repository's files that the local cache keeps beside the files downloaded of it.

    Args:
        repo: `owner/name`.
        revision: Branch, tag or commit hash; empty for the main branch.
        folder: Path in the repository; empty for its root.
        allow_download: Whether the network may be used.

    Raises:
        HubError: The list cannot be had.
    """
    _check(repo, revision, folder)
    commit, failure = revision, None
    if allow_download and not _COMMIT.fullmatch(revision):
        try:
            commit = HfApi().model_info(repo, revision=revision or None).sha or revision
        except Exception as error:
            failure = error
    try:
        paths = [file.path for file in get_cached_repo_tree(repo, revision=commit or None)]
    except (CachedRepoTreeNotFoundError, HFValidationError) as error:
        if failure or not allow_download:
            raise _told(repo, revision, failure or error) from None
        try:
            paths = [entry.path for entry in HfApi().list_repo_tree(repo, folder or None, revision=commit)]
        except RemoteEntryNotFoundError:
            return []
        except Exception as unread:
            raise _told(repo, revision, unread) from None
    inside = f"{folder}/" if folder else ""
    return sorted({path.removeprefix(inside).partition("/")[0] for path in paths if path.startswith(inside)})


def recorded_sha256(file: Path) -> str:
    """SHA-256 that the hub gave for a file of a snapshot; empty for small files, which have none, and for others."""
    # The cache links a snapshot's files to blobs/{etag}, and a large file's etag is its SHA-256. The link is read
    # once only: blobs may be links too.
    blob = file.readlink() if file.is_symlink() else Path()
    return blob.name if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name) else ""


def cache_folder() -> Path:
    """The folder of the local cache, as HF_HOME says."""
    return Path(constants.HF_HUB_CACHE)


def remove(file: Path) -> None:
    """Takes a file of a snapshot out of the cache, with what it links to, so that it is downloaded again.

    Raises:
        HubError: It cannot be removed.
    """
    try:
        blob = file.resolve()
        file.unlink()
        blob.unlink(missing_ok=True)
    except OSError as error:
        raise HubError(f"{file}: is damaged and cannot be removed: {error.strerror}; remove it") from None


def _check(repo: str, revision: str, *patterns: str) -> None:
    for what, text in [("revision", revision), *(("path", pattern.replace("*", "_")) for pattern in patterns)]:
        if not _PATH.fullmatch(text):
            raise HubError(f"{repo}: {text!r} is no {what} in a repository; it has names, and / between them")


def _at(repo: str, revision: str) -> str:
    return f"{repo} (revision {revision})" if revision else repo


def _told(repo: str, revision: str, error: Exception) -> HubError:
    """The error that says what went wrong, in one line that names the repository and the mend."""
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    cache = constants.HF_HUB_CACHE
    if why := next((why for kind, why in _WHY if isinstance(error, kind)), ""):
        why = why.format(page=f"{constants.ENDPOINT}/{repo}")
    elif isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        refused = f"access is refused ({status}); set HF_TOKEN to a token that may read it"
        why = refused if status in {401, 403} else f"the hub answers {status}; try again later"
    elif isinstance(error, OSError) and error.errno in _NO_ROOM:
        why = f"no room in {cache} ({error.strerror}); make some, or point HF_HOME elsewhere"
    elif isinstance(error, OSError) and error.filename:
        why = f"the cache {cache} cannot be used ({error.strerror}); point HF_HOME elsewhere"
    else:
        reason = str(error).partition("\n")[0] or type(error).__name__
        why = f"cannot be downloaded: {reason}; check the connection to {constants.ENDPOINT} and try again"
    return HubError(f"{_at(repo, revision)}: {why}")
