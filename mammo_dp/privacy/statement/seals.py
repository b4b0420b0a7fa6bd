# SPDX-License-Identifier: Apache-2.0
"""Seals under the cohort key: of statements, training state and cached features.

The key is the institution's. It hashes patients (:mod:`mammo_dp.privacy.statement.cohort`) and
seals files, so that only its holders can write what is relied on here.

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
  released. Where weights were written, the fit resumes from the state of its last step alone.

Both hold only as long as state, logs and sample sheets of an unfinished run stay private, as the
statement says.
"""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.runs import RunRecord

KEY_VARIABLE = "MAMMO_DP_COHORT_KEY"
_RUN = "run"  # in a sealed result: whose it is
_KEY_BYTES = 32
RESUME = Path("checkpoints") / "resume.ckpt"
FEATURES = "features"
_END = b"PK\x05\x06"  # of the record that ends a zip archive: 22 bytes and a comment
_END_BYTES = 22


def cohort_key() -> bytes:
    """The key of patient hashes, 32 bytes: from the environment, else from the user's key file.

    The file is made on first use, readable by its owner only. Institutions that compare cohorts
    across machines share the key.

    Raises:
        PrivacyError: If the key is not 64 hexadecimal digits.
    """
    if given := os.environ.get(KEY_VARIABLE):
        return _parsed(given, f"environment variable {KEY_VARIABLE}")
    home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    path = Path(home).expanduser() / "mammo_dp" / "cohort.key"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        temporary.touch(mode=0o600)
        temporary.write_text(secrets.token_hex(_KEY_BYTES) + "\n", encoding="utf-8")
        try:
            os.link(temporary, path)  # fails if another process made the file meanwhile
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    return _parsed(path.read_text(encoding="utf-8"), str(path))


def key_id(key: bytes) -> str:
    """Names a key without giving it away: 8 hexadecimal digits."""
    return hashlib.sha256(b"key id" + key).hexdigest()[:8]


def seal(content: Mapping[str, Any]) -> dict[str, str]:
    """What only holders of the key can write below a statement: its HMAC-SHA-256.

    Args:
        content: Plain values, as JSON gives them; the order of names does not matter.
    """
    key = cohort_key()
    plain = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    digest = hmac.new(key, b"statement\0" + plain.encode(), hashlib.sha256).hexdigest()
    return {"key_id": key_id(key), "hmac_sha256": digest}


def with_seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values with their seal, under ``"seal"``; see :func:`seal_doubt`."""
    return {**content, "seal": seal(content)}


def sealed_content(text: str) -> dict[str, Any]:
    """Content of a file of ours in JSON whose numbers are believed only under a seal.

    Args:
        text: What :func:`with_seal` gave, as JSON.

    Raises:
        ValueError: If it is no JSON object, or its seal does not hold.
    """
    content = dict(json.loads(text))
    if doubt := seal_doubt(content):
        raise ValueError(doubt)
    return content


def authentication_code(values: Mapping[str, Any]) -> str:
    """HMAC-SHA-256 of plain values, 64 hexadecimal digits; for :mod:`data_prep.authentication`."""
    return seal({"kind": "line", "values": values})["hmac_sha256"]


def _parsed(text: str, where: str) -> bytes:
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise PrivacyError(
            f"{where}: holds no key of patient hashes. Give {2 * _KEY_BYTES} hexadecimal digits, "
            "or remove it to have one made."
        )
    return key


def seal_doubt(content: Mapping[str, Any]) -> str:
    """Why sealed content cannot be relied on here, as a clause; empty if its seal holds."""
    recorded = content.get("seal")
    there = seal({name: value for name, value in content.items() if name != "seal"})
    if not isinstance(recorded, Mapping) or set(recorded) != set(there):
        return "has no seal, so anyone may have written it"
    if recorded["key_id"] != there["key_id"]:
        return (
            f"is sealed under key {recorded['key_id']}, and the cohort key here is "
            f"{there['key_id']}, so it cannot be checked without that key in {KEY_VARIABLE}"
        )
    if recorded != there:
        return "does not fit its seal: somebody without the cohort key changed it"
    return ""


def identity_of_run(record: RunRecord) -> dict[str, Any]:
    """What tells a run from others, wherever its folder lies: command, configuration, inputs."""
    return {
        "command": record.command,
        "config_sha256": record.config_sha256,
        "inputs": {role: entry.sha256 for role, entry in record.inputs.items()},
    }


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
            identity={"kind": "training state", **identity_of_run(record)},
            remedy="It may also belong to another configuration or other inputs. Delete the file; "
            "the same command then starts from the first step, unless it wrote weights before",
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


def sealed_result(content: Mapping[str, Any], record: RunRecord) -> dict[str, Any]:
    """The same content, sealed with the run that found it: what it was asked, and about what."""
    return with_seal({**content, _RUN: identity_of_run(record)})


def require_result_of(content: Mapping[str, Any], record: RunRecord) -> None:
    """Checks that sealed content was found by the run in whose folder it lies.

    Args:
        content: What :func:`sealed_result` gave.
        record: The run.

    Raises:
        ValueError: If another run found it, or one with other inputs than are recorded.
    """
    if content.get(_RUN) != identity_of_run(record):
        raise ValueError("is the result of another run, or run.json was changed since")


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
