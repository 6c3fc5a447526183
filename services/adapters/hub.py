"""Adapters of repositories on Hugging Face, or on what `HF_ENDPOINT` names: two files, of one commit."""

from pathlib import Path

from services.adapters.files import CONFIG, PICKLE, WEIGHTS, check_size, refuse_pickle
from services.adapters.metadata import InvalidAdapter


def fetch(repository: str, revision: str | None, largest: int | None) -> tuple[Path, str]:
    """The directory of a repository's files and their commit. What is too large, or a pickle, is not fetched.

    What was fetched before needs no hub as long as `revision` is a commit. Raises InvalidAdapter.
    """
    from huggingface_hub import snapshot_download  # slow to import, and seldom needed
    from huggingface_hub.errors import DryRunError

    try:
        try:
            found = snapshot_download(
                repository, revision=revision, allow_patterns=[CONFIG, WEIGHTS, PICKLE], dry_run=True
            )
            _check(Path(f"{repository}@{revision or 'main'}"), {f.filename: f.file_size or 0 for f in found}, largest)
            commit: str | None = found[0].commit_hash  # what was seen is what is fetched
        except DryRunError:
            commit = revision  # out of reach: what was fetched before will do
        path = Path(snapshot_download(repository, revision=commit, allow_patterns=[CONFIG, WEIGHTS]))
    except InvalidAdapter:
        raise
    except Exception as error:  # whatever its client raises, of whichever library beneath
        said = str(error).strip().splitlines() or [type(error).__name__]
        source = f"{repository}@{revision}" if revision else repository
        raise InvalidAdapter(f"source: {source!r} cannot be fetched: {said[0]}") from None
    return path, path.name


def _check(where: Path, sizes: dict[str, int], largest: int | None) -> None:
    refuse_pickle(where, sizes)
    for name in (CONFIG, WEIGHTS):
        if name not in sizes:
            raise InvalidAdapter(f"{where}: {name} is missing (weights must be safetensors)")
    check_size(where / WEIGHTS, sizes[WEIGHTS], largest)
