"""A small DHCP server (RFC 2131, 2132) for tests, made of scapy packets; knows one client."""

from __future__ import annotations

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether

from firmware.firmware_peer import OUR_IP, OUR_MAC, Firmware, packed_mac
from twinstack.proto.queues import NETIF_CONFIG, Operation

SERVER_IP = "10.0.0.1"
SERVER_MAC = "02:00:00:00:00:67"
LEASE = 600
DNS = ["10.0.0.53", "10.0.0.54"]
TYPES = {1: "discover", 2: "offer", 3: "request", 4: "decline", 5: "ack", 6: "nak", 7: "release", 8: "inform"}


class DhcpServer:
    """Answers what it is given; ``log`` has the kinds of messages that came, ``others`` all other frames."""

    def __init__(self, offer: str = OUR_IP, *, lease: int = LEASE, mac: str = SERVER_MAC):
        self.offer, self.lease, self.mac = offer, lease, mac
        self.client_mac = bytes.fromhex(OUR_MAC.replace(":", ""))
        self.nak = False
        self.log: list[str] = []
        self.others: list[Ether] = []
        self.last: Ether | None = None

    def answer(self, frame: Ether) -> Ether | None:
        """The answer to a frame, if it gets one."""
        if ARP in frame and frame[ARP].op == 1 and frame[ARP].pdst == SERVER_IP:
            reply = ARP(op=2, hwsrc=self.mac, psrc=SERVER_IP, hwdst=frame.src, pdst=frame[ARP].psrc)
            return Ether(src=self.mac, dst=frame.src) / reply
        if DHCP not in frame:
            self.others.append(frame)
            return None
        self.last = frame
        options = {option[0]: option[1] for option in frame[DHCP].options if isinstance(option, tuple)}
        kind = TYPES[options["message-type"]]
        self.log.append(kind)
        if kind == "discover":
            return self._reply(frame, "offer")
        if kind == "request":
            wanted = options.get("requested_addr", frame[BOOTP].ciaddr)
            return self._reply(frame, "nak" if self.nak or wanted != self.offer else "ack")
        return None

    def _reply(self, frame: Ether, kind: str) -> Ether:
        question = frame[BOOTP]
        options = [("message-type", kind), ("server_id", SERVER_IP)]
        if kind != "nak":
            options += [
                ("lease_time", self.lease),
                ("renewal_time", self.lease // 2),
                ("rebinding_time", self.lease * 7 // 8),
                ("subnet_mask", "255.255.255.0"),
                ("router", SERVER_IP),
                ("name_server", *DNS),
            ]
        address = "0.0.0.0" if kind == "nak" else self.offer
        body = BOOTP(op=2, xid=question.xid, yiaddr=address, chaddr=question.chaddr, flags=question.flags)
        header = IP(src=SERVER_IP, dst="255.255.255.255") / UDP(sport=67, dport=68)
        return Ether(src=self.mac, dst="ff:ff:ff:ff:ff:ff") / header / body / DHCP(options=[*options, "end"])

    def serve(self, firmware: Firmware, rounds: int = 12) -> None:
        """Answer what one core sends until nothing comes."""
        for _ in range(rounds):
            frames, firmware.frames = firmware.frames, []
            answers = [answer for frame in frames if (answer := self.answer(frame)) is not None]
            for answer in answers:
                firmware.frame(answer)
            if not answers:
                return

    def run(self, firmware: Firmware, seconds: int) -> None:
        """Time passes while the server is there."""
        for _ in range(2 * seconds):
            firmware.command("time 500")
            self.serve(firmware)


def configure_dhcp(firmware: Firmware) -> None:
    block = NETIF_CONFIG.pack({"family": 2, "dhcp": 1, "mac": packed_mac(OUR_MAC)})
    assert firmware.call(Operation.NETIF_CONFIG, 100, inline=block) == 0
