"""A network cable that can be cut: a namespace of its own for whoever is started inside, joined to ours by two ends."""

from __future__ import annotations

import os
import subprocess


class Cable:
    """Made with `ip netns`; needs the rights of root.

    Raises
    ------
    PermissionError
        Namespaces may not be made here.
    """

    def __init__(self) -> None:
        number = os.getpid() % 16000
        self.name = f"pmfed-{number}"
        self.end = f"pmf{number}a"  # ours; the other is inside
        net = f"10.213.{number // 64}.{number % 64 * 4}"
        base = net.rsplit(".", 1)
        self.here, there = f"{base[0]}.{int(base[1]) + 1}", f"{base[0]}.{int(base[1]) + 2}"
        other = f"pmf{number}b"
        steps = (
            f"netns add {self.name}",
            f"link add {self.end} type veth peer name {other} netns {self.name}",
            f"addr add {self.here}/30 dev {self.end}",
            f"link set {self.end} up",
            f"-n {self.name} addr add {there}/30 dev {other}",
            f"-n {self.name} link set {other} up",
            f"-n {self.name} link set lo up",
        )
        try:
            for step in steps:
                _ip(step)
        except (OSError, subprocess.CalledProcessError) as error:
            self.remove()
            raise PermissionError("network namespaces cannot be made here") from error

    @property
    def inside(self) -> tuple[str, ...]:
        """What goes before a command to run it at the other end."""
        return ("ip", "netns", "exec", self.name)

    def cut(self) -> None:
        """Nothing gets through any more, and nobody is told."""
        _ip(f"link set {self.end} down")

    def mend(self) -> None:
        """Join the two ends again."""
        _ip(f"link set {self.end} up")

    def remove(self) -> None:
        """Take it away."""
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)


def _ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, capture_output=True)
