# SPDX-License-Identifier: Apache-2.0
"""``crop_rule.json``: how the crops that a run was trained on were cut, kept beside its weights.

The crops stay at home; whoever gets the run cuts new mammograms in the same way.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from data_prep.cutting import Cutting
from data_prep.manifest import CropRule, CropsManifest
from mammo_dp.runs import RunError, read_run, write_text_atomically

FILE_NAME = "crop_rule.json"
_CUTS = "prepare "  # commands that cut crops out of mammograms, where they say how


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedCrops:
    """How training crops were made.

    Attributes:
        rule: How they were cut.
        size: Edge on disk, in pixels.
        cutting: What cuts further crops in the same way; none for crops that came cut already.
    """

    rule: CropRule
    size: int
    cutting: Cutting | None

    @classmethod
    def of_folder(cls, crops: str | Path) -> "TrainedCrops":
        """What a folder of crops says of itself.

        Args:
            crops: Folder that holds ``crops.csv``, and ``run.json`` where a command filled it.
        """
        manifest = CropsManifest.read(crops)
        try:
            made = read_run(manifest.folder)
        except RunError:
            made = None
        cutting = None
        names = [field.name for field in fields(Cutting)]
        if made is not None and made.command.startswith(_CUTS) and set(names) <= set(made.config):
            cutting = Cutting(**{name: made.config[name] for name in names})
        return cls(
            rule=manifest.crops[0].crop_rule, size=manifest.pixels(0).shape[-1], cutting=cutting
        )

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "TrainedCrops":
        """Reads what :meth:`as_json` gave.

        Raises:
            ValueError: If it is something else.
        """
        try:
            cutting = stored["cutting"]
            found = cls(
                rule=stored["rule"],
                size=int(stored["size"]),
                cutting=None if cutting is None else Cutting(**cutting),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"crop rule: {error!r}") from error
        if found.rule not in get_args(CropRule):
            raise ValueError(f"crop rule: {found.rule!r}")
        return found

    @classmethod
    def read(cls, folder: str | Path) -> "TrainedCrops | None":
        """What a run folder says, or none if it says nothing.

        Raises:
            RunError: If the file is damaged.
        """
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            return None
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise RunError(f"{path}: is no crop rule ({error}). Restore the file.") from error

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def write(self, folder: str | Path) -> None:
        """Writes ``crop_rule.json`` into a run folder."""
        write_text_atomically(Path(folder) / FILE_NAME, json.dumps(self.as_json(), indent=2) + "\n")
