"""The Hugging Face hub: a repository at one commit, fetched whole into the hub's cache, and every failure in one line.

transformers and datasets ask the hub file by file, and go on without a file that they could not get. Here every file of one
commit is there before anything is read, so that a model is never loaded without its chat template.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from formless.errors import DataError, ModelError, UserError, system_remedy
from formless.progress import Progress, silent

ATTEMPTS = 3
PAUSE = 1.0
"""How often a request is made before an answer that may be a passing one counts, and the seconds between."""

Files = Callable[[Sequence[str]], Sequence[str]]
"""Chooses from the names of a repository's files those that are needed; the last one completes a download."""

Found = TypeVar("Found")

_SECRET = re.compile(r"(?<=://)[^\s/@]*@|(?<=\w)\?[^\s'\")]*=[^\s'\")]*")  # user and query of a URL


@dataclass(frozen=True)
class Repository:
    """A model or a dataset on the hub.

    Args:
        name: Its id, `owner/name`.
        kind: What it holds.
        revision: A branch, tag or commit; the default branch unless given.
    """

    name: str
    kind: Literal["model", "dataset"] = "model"
    revision: str | None = None

    @property
    def page(self) -> str:
        """The address of its page."""
        from huggingface_hub import constants

        return f"{public_text(constants.ENDPOINT)}/{'datasets/' if self.kind == 'dataset' else ''}{self.name}"

    def error(self, what: str, remedy: str) -> UserError:
        """Return an error about this repository."""
        return (DataError if self.kind == "dataset" else ModelError)(what, where=self.name, remedy=remedy)


def fetch(repository: Repository, files: Files, report: Progress = silent) -> Path:
    """Return the folder of a repository's commit in the hub's cache; download what it lacks.

    A download that was cut off goes on where it ended. Without a connection, or with HF_HUB_OFFLINE, the commit that was
    fetched last is taken.

    Args:
        repository: The repository.
        files: Which files are needed.
        report: Called with what is downloaded, the bytes done, and all bytes.

    Returns:
        The folder; its name is the commit.

    Raises:
        ModelError: The model's repository or a file of it cannot be fetched.
        DataError: The same for a dataset.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    with hub_errors(repository):
        _check_token()
        if isinstance(listed := _listing(repository), Path):
            cached = sorted(str(path.relative_to(listed)) for path in listed.rglob("*") if path.is_file())
            files(cached)
            return listed
        commit, sizes = listed
        place: dict[str, Any] = {"repo_id": repository.name, "repo_type": repository.kind, "revision": commit}
        wanted = files(sorted(sizes))
        lacking = [file for file in wanted if not isinstance(try_to_load_from_cache(filename=file, **place), str)]
        total, done = sum(sizes[file] for file in lacking), 0
        step = f"downloading {len(lacking)} files of {repository.name}, {total / 1e6:,.1f} MB"
        for file in lacking:
            report(step, done, total)
            url = hf_hub_url(filename=file, **place)
            # Asked for first, because a download repeats this request for minutes.
            _repeated(partial(get_hf_file_metadata, url, timeout=constants.HF_HUB_ETAG_TIMEOUT))
            _repeated(partial(hf_hub_download, filename=file, tqdm_class=_no_bar(), **place))
            done += sizes[file]
        folder = _cache_folder(repository) / "snapshots" / commit
        _note(repository, commit)
        return folder


def pinned(repository: Repository) -> str:
    """Return the commit of a repository's revision; without a connection, the one that was fetched last.

    Raises:
        ModelError: The model is not on the hub, or the hub cannot be asked.
        DataError: The same for a dataset.
    """
    with hub_errors(repository):
        _check_token()
        listed = _listing(repository)
        return listed.name if isinstance(listed, Path) else listed[0]


@contextmanager
def hub_errors(repository: Repository) -> Iterator[None]:
    """Turn every error in the block into a ModelError or DataError, but not that memory runs out.

    Raises:
        ModelError: The hub failed for a model.
        DataError: The hub failed for a dataset.
    """
    try:
        yield
    except UserError as error:
        if error.where is not None:
            raise
        raise repository.error(error.what, error.remedy or "") from error
    except MemoryError:
        raise
    except Exception as error:  # huggingface_hub lets errors of its HTTP client and of xet pass
        reason = public_text(str(error).strip() or type(error).__name__).splitlines()[0]
        known = explain(error, repository) or repository.error(f"the {repository.kind} cannot be fetched", reason)
        raise known from error


def explain(error: BaseException, repository: Repository) -> UserError | None:
    """Return what an error of the hub means for the user, or None for an error of another kind.

    Args:
        error: The error; errors that it was raised from are looked at too.
        repository: What was asked for.
    """
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        current = current.__cause__ or current.__context__
    for found in reversed(seen):  # the first cause knows best
        if problem := _problem(found, repository):
            return repository.error(*problem)
    return None


def public_text(text: str) -> str:
    """Return a text without the token, and without what stands in a URL for the server only."""
    from huggingface_hub import get_token

    token = get_token()
    return _SECRET.sub("", text.replace(token, "***") if token else text)


def _problem(error: BaseException, repository: Repository) -> tuple[str, str] | None:
    """Return what one error says and what to do."""
    from huggingface_hub import constants, errors, get_token

    kind, host = repository.kind, public_text(constants.ENDPOINT)
    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    if isinstance(error, errors.GatedRepoError) or "is a gated dataset" in str(error):  # datasets drops the cause
        if get_token():
            return f"the {kind} is gated, and the token has no access", f"ask for access on {repository.page}"
        return f"the {kind} is gated", f"ask for access on {repository.page}, then {log_in}"
    if isinstance(error, errors.RepositoryNotFoundError):
        private = "use a token that may read it" if get_token() else log_in
        return (
            f"{host} has no such {kind}, or it is private",
            f"check its name or the folder's path; if it is private, {private}",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        what = f"the {kind} has no revision {repository.revision or 'main'!r}"
        return what, f"choose a branch, tag or commit of {repository.page}/commits/main"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        file = str(error.response.url).partition("/resolve/")[2].partition("/")[2]
        return f"the {kind} has no file {file}", f"look at {repository.page}/tree/main"
    if isinstance(error, errors.HfHubHTTPError):
        return _refusal(error.response.status_code, kind, host)
    if isinstance(error, errors.HFValidationError):
        return f"there is no such folder, and it is no id of a {kind}", "give a folder that is there, or owner/name"
    if "OfflineModeIsEnabled" in f"{type(error).__name__} {error}":  # the same
        what = f"HF_HUB_OFFLINE is set, and the {kind} is not in the cache {constants.HF_HUB_CACHE}"
        return what, "load it once without it, or give a folder"
    if isinstance(error, errors.FileMetadataError):
        return f"{host} does not answer as a hub does", "correct HF_ENDPOINT, or the proxy's settings"
    if isinstance(error, _http().ProxyError):
        return "the proxy cannot be used", "correct HTTPS_PROXY, or except the hub in NO_PROXY"
    if isinstance(error, _http().UnsupportedProtocol | _http().InvalidURL):
        return f"the hub's address {host!r} cannot be used", "begin HF_ENDPOINT with https:// or http://"
    if isinstance(error, _http().TimeoutException):
        return f"{host} does not answer", "try again later, or give it longer with HF_HUB_DOWNLOAD_TIMEOUT (seconds)"
    if isinstance(error, _http().ReadError | _http().RemoteProtocolError):
        return f"the connection to {host} is cut off again and again", "repeat the command later: it goes on where it ended"
    if isinstance(error, _http().TransportError):
        if "CERTIFICATE" in str(error):
            return f"the certificate of {host} is not trusted", "name your organization's certificates in SSL_CERT_FILE"
        return f"{host} cannot be reached", "check the connection and HF_ENDPOINT, or give a folder"
    if "xet" in f"{type(error).__name__} {error}".lower():
        return "the download through xet fails", "repeat the command, or download without it: set HF_HUB_DISABLE_XET=1"
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return "a file has not the size that the hub states", "repeat the command; a proxy may have changed the file"
    if isinstance(error, OSError) and (remedy := system_remedy(error)):
        return f"a file cannot be written to the cache ({error.strerror}: {error.filename})", remedy
    return None


def _refusal(status: int, kind: str, host: str) -> tuple[str, str]:
    """Return what a status of the server says and what to do."""
    if status == 401:
        return f"{host} does not accept the token", "log in again with `hf auth login`, or correct HF_TOKEN"
    if status == 403:
        return f"the token may not read the {kind}", "use one with the permission to read it"
    if status == 429:
        return f"{host} has had too many requests", "wait a few minutes; with a token it takes more"
    if status >= 500:
        return f"{host} has a fault (status {status})", "try again later"
    return f"{host} refuses the request (status {status})", "check HF_ENDPOINT"


def _listing(repository: Repository) -> tuple[str, dict[str, int]] | Path:
    """Return the commit and the sizes of its files; without a connection, the folder of the commit in the cache."""
    from huggingface_hub import HfApi, constants, errors

    if not constants.is_offline_mode():
        try:
            info: Any = _repeated(
                lambda: HfApi().repo_info(
                    repository.name, repo_type=repository.kind, revision=repository.revision, files_metadata=True,
                    timeout=constants.HF_HUB_ETAG_TIMEOUT,
                )
            )  # fmt: skip
        except (_http().TransportError, errors.HfHubHTTPError) as error:
            answered = isinstance(error, errors.HfHubHTTPError) and error.response.status_code < 500
            if answered or isinstance(error, _http().ProxyError) or (folder := _cached(repository)) is None:
                raise
            commit = folder.name[:7]
            warnings.warn(
                f"the hub cannot be reached: {repository.name} is taken from the cache (commit {commit})", stacklevel=2
            )
            return folder
        return str(info.sha), {entry.rfilename: entry.size or 0 for entry in info.siblings or ()}
    if (folder := _cached(repository)) is None:
        raise errors.OfflineModeIsEnabled("offline")
    return folder


def _cached(repository: Repository) -> Path | None:
    """Return the folder of the revision's last commit in the cache."""
    root, revision = _cache_folder(repository), repository.revision or "main"
    ref = root / "refs" / revision
    folder = root / "snapshots" / (ref.read_text("utf-8").strip() if ref.is_file() else revision)
    return folder if folder.is_dir() else None


def _cache_folder(repository: Repository) -> Path:
    """Return the repository's folder in the cache that it shares with transformers and datasets."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository.name, repo_type=repository.kind)


def _note(repository: Repository, commit: str) -> None:
    """Keep in the cache which commit a branch or tag stands for, now that all of its files are there."""
    revision = repository.revision or "main"
    ref = _cache_folder(repository) / "refs" / revision
    if revision != commit and not (ref.is_file() and ref.read_text("utf-8") == commit):  # the cache may be read-only
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(commit, "utf-8")


def _repeated(call: Callable[[], Found]) -> Found:
    """Make a request again after a failure that may pass."""
    from huggingface_hub.errors import HfHubHTTPError

    for _ in range(ATTEMPTS - 1):
        try:
            return call()
        except (_http().NetworkError, _http().RemoteProtocolError):
            pass
        except HfHubHTTPError as error:
            if error.response.status_code < 500:
                raise
        time.sleep(PAUSE)
    return call()


def _check_token() -> None:
    """Refuse a token that cannot stand in a request; the HTTP client would show it in its error."""
    from huggingface_hub import constants, get_token

    if not re.fullmatch(r"[!-~]*", get_token() or ""):
        remedy = f"copy the token again into HF_TOKEN or {constants.HF_TOKEN_PATH}"
        raise UserError("the token for the hub holds a character that no token has", where="HF_TOKEN", remedy=remedy)


def _http() -> Any:
    """Return the HTTP client's package; huggingface_hub knows which one it uses."""
    from huggingface_hub import utils

    return utils.httpx  # type: ignore[attr-defined]


def _no_bar() -> type[Any]:
    """Return a bar that shows nothing: `report` says how far it is."""
    from tqdm import tqdm

    class NoBar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **(options | {"disable": True}))

    return NoBar
