"""A small Storage SCP that keeps structure sets in memory: the other end of the demo and of the constancy check."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Self

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RTStructureSetStorage
from pynetdicom import AE, evt

SUCCESS = 0x0000


class InMemorySCP:
    """Listens on a free port of loopback while its block lasts; ``datasets`` holds what came, ``arrived`` tells it."""

    def __init__(self, ae_title: str) -> None:
        self.datasets: list[Dataset] = []
        self.arrived = threading.Event()
        self._ae = AE(ae_title=ae_title)
        self._ae.add_supported_context(RTStructureSetStorage, [ImplicitVRLittleEndian, ExplicitVRLittleEndian])

    def __enter__(self) -> Self:
        handlers: list[Any] = [(evt.EVT_C_STORE, self._store)]
        self._server: Any = self._ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.socket.getsockname()[1])

    def _store(self, event: Any) -> int:
        dataset: Dataset = event.dataset
        dataset.file_meta = FileMetaDataset(event.file_meta)
        self.datasets.append(dataset)
        self.arrived.set()
        return SUCCESS
