"""Files of the Hugging Face hub by its own library: from the user's cache where they lie there, else downloaded."""

import contextlib
import importlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onepass.extract.frameworks import import_huggingface_hub
from onepass.features.errors import WeightsError
from onepass.features.progress import phase

_SECONDS = 10.0
"""That the hub has to say something about a file."""


@dataclass(frozen=True)
class RemoteFile:
    """A file that was not downloaded, as the hub tells of it.

    Attributes:
        digest: SHA-256 of its bytes, hexadecimal, of files that the hub keeps apart because they are large.
        size: Bytes.
    """

    digest: str
    size: int


def hub_file(repository: str, file: str, *, commit: str | None = None, instead: str) -> Path | None:
    """A file of a repository in the user's cache of huggingface_hub; what lies there is used without asking anybody.

    Args:
        repository: owner/name.
        file: Its name there.
        commit: Which version; by default the newest that was asked for.
        instead: What to do where the hub does not give it: a sentence for the message.

    Returns:
        None if the repository has no such file.

    Raises:
        WeightsError: It cannot be downloaded.
    """
    hub, errors = import_huggingface_hub(), _errors()
    with _refused(file, repository, instead):
        kept = hub.try_to_load_from_cache(repository, file, revision=commit)
        if isinstance(kept, str):
            return Path(kept)
        if kept is not None:  # known to be missing there
            return None
        with phase(f"downloading {file} of {repository}"), _quiet(hub):
            try:
                return Path(hub.hf_hub_download(repository, file, revision=commit, etag_timeout=_SECONDS))
            except errors.LocalEntryNotFoundError:  # nobody could be asked
                raise
            except errors.EntryNotFoundError:
                return None


def remote_file(repository: str, file: str, *, commit: str, instead: str) -> RemoteFile | None:
    """What the hub tells of a file without giving it; arguments, None and errors as for `hub_file`."""
    hub = import_huggingface_hub()
    with _refused(file, repository, instead):
        try:
            url = hub.hf_hub_url(repository, file, revision=commit)
            found = hub.get_hf_file_metadata(url, timeout=_SECONDS)
        except _errors().EntryNotFoundError:
            return None
        return RemoteFile(str(found.etag), int(found.size))


@contextlib.contextmanager
def _refused(file: str, repository: str, instead: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of its own kinds, of the network and of the disk
        raise WeightsError(
            f"{file} of {repository} cannot be downloaded from the Hugging Face hub: {_reason(error, repository)}. "
            f"{instead}",
            backbone=repository,
        ) from None


def _reason(error: Exception, repository: str) -> str:
    errors = _errors()
    if isinstance(error, errors.GatedRepoError):
        return (
            f"its owner asks who downloads it; agree to the terms on the page of {repository} there, and sign in by hf "
            "auth login or HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or it is private and needs hf auth login or HF_TOKEN"
    if isinstance(error, errors.LocalEntryNotFoundError):
        cause = error.__cause__ or error
        if isinstance(cause, errors.OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set, and it is not in the cache"
        error = cause if isinstance(cause, Exception) else error
    first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
    broken = type(error).__name__ == "RemoteProtocolError"  # of the package that speaks HTTP, which changed its name
    return f"the connection broke off ({first}); the next run starts it again" if broken else first


@contextlib.contextmanager
def _quiet(hub: Any) -> Iterator[None]:
    """Without the bars and the repeated warnings of the library: what fails is told once, by an error."""
    logger = logging.getLogger("huggingface_hub")
    level, shown = logger.level, not hub.utils.are_progress_bars_disabled()
    logger.setLevel(logging.CRITICAL)
    try:
        hub.utils.disable_progress_bars()
        yield
    finally:
        logger.setLevel(level)
        if shown:
            hub.utils.enable_progress_bars()


def _errors() -> Any:
    return importlib.import_module("huggingface_hub.errors")
