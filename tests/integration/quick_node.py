"""A node whose status is read in this process: to start `contourd status` each time takes longer than what it does."""

from __future__ import annotations

import json

from contourd.observe.status import read_status, to_json
from contourd.settings import load_settings
from tests.interop.node import Node, Status


class QuickNode(Node):
    """A node that is watched closely."""

    def status(self) -> Status:
        settings = load_settings(self.configuration)
        answer: Status = json.loads(to_json(read_status(settings), settings))
        return answer


def watched(node: Node) -> QuickNode:
    return QuickNode(node.folder, node.port, node.server)
