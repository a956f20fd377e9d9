"""Weights on the Hugging Face hub, as the same safetensors file that a run folder has."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from vggnet.data.preprocess import NO_PREPROCESS
from vggnet.errors import ConfigError, WeightsError, one_line, require
from vggnet.models.vgg import VGG, Architecture
from vggnet.weights.checkpoint import Checkpoint, load
from vggnet.weights.registry import FILE_NAME

HfApi: Any = require("huggingface_hub", "hub").HfApi
hf_hub_download: Any = require("huggingface_hub", "hub").hf_hub_download
hub_errors: Any = require("huggingface_hub.errors", "hub")

TIMEOUT = 5.0  # seconds
CARD = """---
library_name: vggnet
pipeline_tag: image-classification
tags: [vgg]
---
# {repo_id}

{model} (VGG, arXiv:1409.1556) with the head `{head}`, {classes}. Preprocessing and class names are inside the file.

```python
import vggnet

model = vggnet.hub.pull_from_hub("{repo_id}")
```
"""


def push_to_hub(
    model: VGG | Path | str, repo_id: str, *, private: bool = False, message: str = "Upload weights"
) -> str:
    """Upload weights and a model card to the Hugging Face hub. Its own settings apply: HF_TOKEN, HF_ENDPOINT.

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
        replace(checkpoint, provenance={}).save(Path(folder) / FILE_NAME)
        (Path(folder) / "README.md").write_text(_card(checkpoint.architecture, repo_id), encoding="utf-8")
        try:
            api = HfApi()
            address = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
        except Exception as error:  # of whichever HTTP library the hub's client uses
            raise WeightsError(
                f"{repo_id}: cannot be uploaded to the Hugging Face hub ({one_line(error)}). Log in with "
                "`hf auth login`, and take a name that is yours."
            ) from error
    return str(address)


def pull_from_hub(repo_id: str, *, revision: str | None = None) -> VGG:
    """Download a network that `push_to_hub` has uploaded; the file stays in the hub's own cache.

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
        path = hf_hub_download(
            repo_id, FILE_NAME, revision=revision, local_files_only=not _is_reached(repo_id, revision)
        )
    except hub_errors.LocalEntryNotFoundError as error:
        raise WeightsError(
            f"{repo_id}: the Hugging Face hub cannot be reached, and no copy is here. Get {FILE_NAME} by other means; "
            "vggnet.load takes the file."
        ) from error
    except (hub_errors.RepositoryNotFoundError, hub_errors.HFValidationError) as error:
        raise WeightsError(f"{repo_id}: no such repository on the Hugging Face hub, or it is private.") from error
    except hub_errors.EntryNotFoundError as error:
        raise WeightsError(
            f"{repo_id}: has no {FILE_NAME}; expected weights that were pushed by vggnet. Convert those of "
            "other libraries by `vgg weights convert`."
        ) from error
    except Exception as error:  # of whichever HTTP library the hub's client uses
        raise WeightsError(f"{repo_id}: cannot be downloaded from the Hugging Face hub ({one_line(error)}).") from error
    return load(path)


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


def _card(architecture: Architecture, repo_id: str) -> str:
    classes = f"{architecture.num_classes} classes" if architecture.num_classes else "which gives the last feature map"
    return CARD.format(repo_id=repo_id, model=architecture.name, head=architecture.head, classes=classes)
