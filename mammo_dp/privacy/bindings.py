# SPDX-License-Identifier: Apache-2.0
"""Training state and cached features, bound to what they belong to under the cohort key.

A run that resumes reads a file that an earlier process wrote, and a fit reads features that an
earlier fit computed. Neither stands in a statement, so each file carries an HMAC-SHA-256 over its
content and its identity: of training state the configuration and the inputs of the run, of
features all that they were computed from. Where the folder lies does not matter.

The seal is the comment of the zip archive that ``torch.save`` writes: content and seal are one
file, written whole or not at all, which every reader of such archives accepts.

What a seal need not prevent:

* Somebody deletes the state of an unfinished run. The same command then starts again from the
  first step, with a new account, fresh draws and fresh noise. Nothing of the first start was
  released, so nothing of it has to be accounted for.
* Somebody brings back an older state of the same run. The steps after it are taken again under a
  fresh key, and its account is the one of the weights in it. The steps that are dropped were not
  released.

Both hold only as long as state, logs and sample sheets of an unfinished run stay private, as the
statement says.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mammo_dp.privacy.cohorts import seal
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.findings import Findings
from mammo_dp.privacy.statement import seal_doubt
from mammo_dp.runs import RunRecord

RESUME = Path("checkpoints") / "resume.ckpt"
FEATURES = "features"
_END = b"PK\x05\x06"  # of the record that ends a zip archive: 22 bytes and a comment
_END_BYTES = 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What a file belongs to.

    Attributes:
        identity: Plain values that the seal covers beside the content.
        remedy: What to do with a file that does not fit; sentences without the last full stop.
    """

    identity: Mapping[str, Any]
    remedy: str

    @classmethod
    def of_run(cls, record: RunRecord) -> "Binding":
        """That of the training state of a run."""
        return cls(
            identity={
                "kind": "training state",
                "command": record.command,
                "config_sha256": record.config_sha256,
                "inputs": {role: entry.sha256 for role, entry in record.inputs.items()},
            },
            remedy="It may also belong to another configuration or other inputs. Delete the file; "
            "the same command then starts from the first step",
        )

    @classmethod
    def of_features(cls, path: Path) -> "Binding":
        """That of a file of features, which is named by a hash of all that they depend on."""
        return cls(
            identity={"kind": "features", "computed_from": path.stem},
            remedy="It may also belong to other crops or weights. Delete the folder "
            f"{path.parent}; the same command then computes the features again",
        )

    def sealed(self, content: bytes) -> bytes:
        """A zip archive with its seal.

        Args:
            content: The archive, without a comment, as ``torch.save`` writes it.
        """
        assert content[-_END_BYTES:].startswith(_END)
        assert content.endswith(b"\0\0")
        comment = json.dumps(seal(self._sealed_values(content))).encode()
        return content[:-2] + len(comment).to_bytes(2, "little") + comment

    def doubt(self, path: Path) -> str:
        """Why a file is not to be used, as a clause; empty if its seal fits."""
        return self._opened(path)[1]

    def require(self, path: Path) -> bytes:
        """Content of a file whose seal fits, without the seal.

        Raises:
            PrivacyError: Naming the file, what is wrong and what to do.
        """
        content, doubt = self._opened(path)
        if doubt:
            raise PrivacyError(f"{path}: {doubt}. {self.remedy}.")
        return content

    def _opened(self, path: Path) -> tuple[bytes, str]:
        whole = path.read_bytes()
        end = whole.rfind(_END) + _END_BYTES
        content, comment = whole[: end - 2] + b"\0\0", whole[end:]
        try:
            recorded = json.loads(comment)
        except ValueError:
            recorded = None
        doubt = seal_doubt({**self._sealed_values(content), "seal": recorded})
        if not doubt and int.from_bytes(whole[end - 2 : end], "little") != len(comment):
            doubt = "does not end where its seal does"
        return content, doubt

    def _sealed_values(self, content: bytes) -> dict[str, Any]:
        return {**self.identity, "sha256": hashlib.sha256(content).hexdigest()}


class SealedFeatures:
    """Seals cached features; a :class:`classifier.features.FeaturesSeal`."""

    def sealed(self, path: Path, content: bytes) -> bytes:
        """What to write into a file of the cache."""
        return Binding.of_features(path).sealed(content)

    def require(self, path: Path) -> bytes:
        """Content of a file of the cache.

        Raises:
            PrivacyError: If it does not fit its seal.
        """
        return Binding.of_features(path).require(path)


def check_bindings(folder: Path, record: RunRecord, findings: Findings) -> None:
    """Checks the seals of training state and features of a run folder.

    Args:
        folder: Where they lie.
        record: The run.
        findings: Takes what does not fit.
    """
    bound = {path: Binding.of_features(path) for path in sorted((folder / FEATURES).glob("*.pt"))}
    if (folder / RESUME).is_file():
        bound[folder / RESUME] = Binding.of_run(record)
    for path, binding in bound.items():
        if doubt := binding.doubt(path):
            findings.add(path, doubt, binding.remedy)
        else:
            findings.checked["seals"] += 1
