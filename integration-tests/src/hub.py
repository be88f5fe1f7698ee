"""A network between network namespaces that does what it is told: an Ethernet hub over packet sockets.

hub.py INTERFACE...         forwards frames between the interfaces; reads orders from standard input, a line each:
    cut A B                 nothing passes between the ports A and B (numbers, in the order of the arguments) any more
    slow MILLISECONDS LOSS  every frame takes so much longer; LOSS percent of them are lost
    heal                    as in the beginning
hub.py --plain INTERFACE    turns the interface's offloads off, as its frames will meet no hardware

A link that the kernel delays and that loses packets (tc netem) is a module that not every machine has.
"""

import array
import fcntl
import heapq
import random
import select
import socket
import struct
import sys
import time

SIOCETHTOOL = 0x8946
# Checksums, scattered buffers, segments: TX checksum, SG, TSO, GSO.
OFFLOADS = (0x17, 0x19, 0x1F, 0x24)
LARGEST_FRAME = 70_000


def plain(interface):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in OFFLOADS:
            value = array.array("B", struct.pack("II", command, 0))
            request = struct.pack("16sP", interface.encode(), value.buffer_info()[0])
            try:
                fcntl.ioctl(control, SIOCETHTOOL, request)
            except OSError as error:
                # One that it does not have needs no turning off.
                if command == OFFLOADS[0]:
                    sys.exit(f"{interface}: cannot turn offloads off: {error}")


class Hub:
    def __init__(self, interfaces):
        self.ports = []
        for interface in interfaces:
            port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            port.bind((interface, 0))
            port.setblocking(False)
            self.ports.append(port)
        self.random = random.Random(1)
        self.waiting = []
        self.number = 0
        self.heal()

    def heal(self):
        self.cuts, self.delay, self.loss = set(), 0.0, 0.0

    def order(self, words):
        if words[0] == "cut":
            self.cuts.add(frozenset(int(word) for word in words[1:3]))
        elif words[0] == "slow":
            self.delay, self.loss = float(words[1]) / 1e3, float(words[2]) / 100
        elif words[0] == "heal":
            self.heal()
        print("done", flush=True)

    def receive(self, source, now):
        while True:
            try:
                frame, address = self.ports[source].recvfrom(LARGEST_FRAME)
            except BlockingIOError:
                return
            if address[2] == socket.PACKET_OUTGOING:
                continue
            for target in range(len(self.ports)):
                cut = frozenset((source, target)) in self.cuts
                if target != source and not cut and self.random.random() >= self.loss:
                    self.number += 1
                    heapq.heappush(self.waiting, (now + self.delay, self.number, target, frame))

    def deliver(self, now):
        while self.waiting and self.waiting[0][0] <= now:
            _, _, target, frame = heapq.heappop(self.waiting)
            try:
                self.ports[target].send(frame)
            except OSError:
                # A full queue drops frames, as a switch does.
                pass

    def run(self):
        sources = {port: index for index, port in enumerate(self.ports)}
        # Unbuffered, so that no order waits where select does not see it.
        orders = open(0, "rb", buffering=0)
        print("ready", flush=True)
        while True:
            now = time.monotonic()
            self.deliver(now)
            wait = max(0.0, self.waiting[0][0] - now) if self.waiting else 1.0
            readable, _, _ = select.select([orders, *self.ports], [], [], wait)
            for port in readable:
                if port is orders:
                    line = orders.readline().decode()
                    if not line:
                        return
                    self.order(line.split())
                else:
                    self.receive(sources[port], time.monotonic())


if __name__ == "__main__":
    if sys.argv[1] == "--plain":
        plain(sys.argv[2])
    else:
        Hub(sys.argv[1:]).run()
