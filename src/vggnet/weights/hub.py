"""Weights on the Hugging Face hub.

A network that timm has is stored in timm's form, which transformers loads too; any other as the safetensors file of a
run folder. A repository holds one of both.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from vggnet.data.preprocess import NO_PREPROCESS
from vggnet.errors import ConfigError, WeightsError, one_line, require
from vggnet.models.vgg import VGG
from vggnet.weights.checkpoint import Checkpoint, load
from vggnet.weights.model_card import model_card
from vggnet.weights.registry import FILE_NAME, TIMM_CONFIG, TIMM_FILE
from vggnet.weights.timm_folder import check_timm, write_folder

HfApi: Any = require("huggingface_hub", "hub").HfApi
hf_hub_download: Any = require("huggingface_hub", "hub").hf_hub_download
hub_errors: Any = require("huggingface_hub.errors", "hub")

TIMEOUT = 5.0  # seconds


def push_to_hub(
    model: VGG | Path | str, repo_id: str, *, private: bool = False, message: str = "Upload weights"
) -> str:
    """Upload weights and a model card to the Hugging Face hub. Its own settings apply: HF_TOKEN, HF_ENDPOINT.

    VGG-11 to VGG-19 of width 1 with the paper's head are uploaded as config.json and model.safetensors, which timm and
    transformers load; other networks as weights.safetensors. The other form, if it was there, is deleted.

    Args:
        model: a network, or what `vggnet.load` takes. The provenance, which names data and folders, is not uploaded.
        repo_id: "user/name"; the repository is created if it does not exist.
        private: whether a new repository is private.
        message: of the commit.

    Returns:
        The address of the repository.

    Raises:
        WeightsError: the hub cannot be reached or refuses; or as `vggnet.load`.
        ConfigError: the network has no preprocessing or no weights.
        MissingDependencyError: on import of this module without `pip install 'vggnet[hub]'`.

    Example:
        >>> push_to_hub("vgg8_bn-cifar10-fast", "me/my-vgg")  # doctest: +SKIP
        'https://huggingface.co/me/my-vgg'
    """
    checkpoint = Checkpoint.of(model) if isinstance(model, VGG) else Checkpoint.open(model)
    if checkpoint.preprocess is None:
        raise ConfigError(NO_PREPROCESS)
    with tempfile.TemporaryDirectory() as folder:
        is_timm = _is_timm(checkpoint)
        if is_timm:
            write_folder(checkpoint.build(), Path(folder))
        else:
            replace(checkpoint, provenance={}).save(Path(folder) / FILE_NAME)
        card = model_card(checkpoint, repo_id, is_timm=is_timm)
        (Path(folder) / "README.md").write_text(card, encoding="utf-8")
        others = [FILE_NAME] if is_timm else [TIMM_FILE, TIMM_CONFIG]
        try:
            api = HfApi()
            address = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message, delete_patterns=others)
        except Exception as error:  # of whichever HTTP library the hub's client uses
            raise WeightsError(
                f"{repo_id}: cannot be uploaded to the Hugging Face hub ({one_line(error)}). Log in with "
                "`hf auth login`, and take a name that is yours."
            ) from error
    return str(address)


def pull_from_hub(repo_id: str, *, revision: str | None = None) -> VGG:
    """Download a network that `push_to_hub` has uploaded, or a VGG of timm's; files stay in the hub's own cache.

    Args:
        repo_id: "user/name".
        revision: a branch, a tag or a commit; by default the newest.

    Returns:
        The network in eval mode, as `vggnet.load`.

    Raises:
        WeightsError: there is no such repository, it has no weights of vggnet, or the hub cannot be reached and no
            copy is here.
        MissingDependencyError: on import of this module without `pip install 'vggnet[hub]'`.

    Example:
        >>> pull_from_hub("me/my-vgg").num_classes  # doctest: +SKIP
        10
    """
    try:
        path = _download(repo_id, revision)
    except hub_errors.LocalEntryNotFoundError as error:
        raise WeightsError(
            f"{repo_id}: the Hugging Face hub cannot be reached, and no copy is here. Get {FILE_NAME} by other means; "
            "vggnet.load takes the file."
        ) from error
    except (hub_errors.RepositoryNotFoundError, hub_errors.HFValidationError) as error:
        raise WeightsError(f"{repo_id}: no such repository on the Hugging Face hub, or it is private.") from error
    except hub_errors.EntryNotFoundError as error:
        raise WeightsError(
            f"{repo_id}: has no {FILE_NAME}, nor {TIMM_CONFIG} and {TIMM_FILE}; expected weights that were pushed by "
            "vggnet or timm. Convert those of other libraries by `vgg weights convert`."
        ) from error
    except Exception as error:  # of whichever HTTP library the hub's client uses
        raise WeightsError(f"{repo_id}: cannot be downloaded from the Hugging Face hub ({one_line(error)}).") from error
    return load(path)


def _download(repo_id: str, revision: str | None) -> str:
    """The file of weights, of whichever form is there."""
    options = {"revision": revision, "local_files_only": not _is_reached(repo_id, revision)}
    try:
        return str(hf_hub_download(repo_id, FILE_NAME, **options))
    except hub_errors.EntryNotFoundError:
        hf_hub_download(repo_id, TIMM_CONFIG, **options)
        return str(hf_hub_download(repo_id, TIMM_FILE, **options))


def _is_timm(checkpoint: Checkpoint) -> bool:
    assert checkpoint.preprocess is not None  # it was checked before
    try:
        check_timm(checkpoint.architecture, checkpoint.preprocess)
    except ConfigError:
        return False
    return True


def _is_reached(repo_id: str, revision: str | None) -> bool:
    """Whether the hub answers, in one try: its client's download would try for half a minute.

    Raises: HfHubHTTPError, HFValidationError if it knows no such repository, or none can have the name.
    """
    try:
        HfApi().model_info(repo_id, revision=revision, timeout=TIMEOUT)
    except (hub_errors.HfHubHTTPError, hub_errors.HFValidationError):
        raise
    except Exception:  # of whichever HTTP library the hub's client uses, or it is told to stay offline
        return False
    return True
