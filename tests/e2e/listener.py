"""Hears every byte that passes over the loopback interface: what SuperNode and courier tell each other in the clear."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterable

EVERYTHING = 0x0003  # ETH_P_ALL


class Listener:
    """Listens for some words until ``remove``; needs the rights of root.

    Nothing else is kept: models of other programs may pass here, too.

    Attributes
    ----------
    heard
        Which of the words were said, so far.

    Raises
    ------
    PermissionError
        Nobody may listen here.
    """

    def __init__(self, words: Iterable[bytes]) -> None:
        self.words, self.heard = tuple(words), set[bytes]()
        self._overlap = max(map(len, self.words)) - 1
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EVERYTHING))
        self.socket.setsockopt(socket.SOL_SOCKET, 33, 1 << 28)  # SO_RCVBUFFORCE: a busy machine looks rarely
        self.socket.bind(("lo", 0))
        self.socket.settimeout(0.5)
        self._tails: dict[tuple[int, int], bytes] = {}
        self.missed = 0
        self._go_on = True
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def remove(self) -> None:
        """Stop, and note how many packets went by unheard."""
        self._go_on = False
        self._thread.join()
        self.missed = struct.unpack("II", self.socket.getsockopt(263, 6, 8))[1]  # SOL_PACKET, PACKET_STATISTICS
        self.socket.close()

    def _listen(self) -> None:
        while self._go_on:
            try:
                packet, about = self.socket.recvfrom(1 << 17)
            except TimeoutError:
                continue
            if about[2] == socket.PACKET_OUTGOING:  # on this interface everything is heard twice
                continue
            length = 20
            if packet[12:14] == b"\x08\x00" and packet[23] == socket.IPPROTO_TCP:
                length = (packet[14] & 15) * 4
            elif packet[12:14] == b"\x86\xdd" and packet[20] == socket.IPPROTO_TCP:
                length = 40
            else:
                continue
            tcp = packet[14 + length :]
            ports = struct.unpack("!HH", tcp[:4])
            said = self._tails.get((ports[0], ports[1]), b"") + tcp[(tcp[12] >> 4) * 4 :]
            self.heard |= {word for word in self.words if word in said}
            self._tails[ports[0], ports[1]] = said[-self._overlap :]
