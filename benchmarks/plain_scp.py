"""A Storage SCP of pynetdicom as its documentation shows it, with an fsync of each file: where a Python node begins.

python benchmarks/plain_scp.py PORT FOLDER AE_TITLE MAXIMUM_PDU
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from typing import Any

from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt

from contourd.system.loopback import LOOPBACK


def main() -> None:
    """Serve until it is stopped."""
    port, folder, title, largest = sys.argv[1:]
    numbers = itertools.count()

    def store(event: Any) -> int:
        with (Path(folder) / f"{next(numbers)}.dcm").open("wb") as file:
            file.write(event.encoded_dataset())
            file.flush()
            os.fsync(file.fileno())
        return 0x0000

    entity = AE(ae_title=title)
    entity.maximum_pdu_size = int(largest)
    entity.add_supported_context(CTImageStorage, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    entity.start_server((LOOPBACK, int(port)), evt_handlers=[(evt.EVT_C_STORE, store)])


if __name__ == "__main__":
    main()
