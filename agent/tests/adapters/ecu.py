"""An ECU behind a serial line that speaks SLCAN: python-can's bus, can-isotp's transport, udsoncan's messages.

Usage: ecu.py DEVICE. Frames are sent all the time, so that the bus is awake; it ends with its standard input.
"""

import sys
import threading
import time

import can
import isotp
import udsoncan
from udsoncan import Request, Response, services

REQUESTS, ANSWERS = 0x7E0, 0x7E8
# 22 F1 90: longer than a frame. 22 F1 91: longer than 16 frames, with 0x78 before it.
DATA = {0xF190: b"CNVY23456789ABCDE", 0xF191: bytes(range(200))}


def answer(stack, payload):
    request = Request.from_payload(bytes(payload))
    if request is None or request.service is not services.ReadDataByIdentifier:
        service = request.service if request is not None and request.service is not None else services.TesterPresent
        stack.send(Response(service=service, code=Response.Code.ServiceNotSupported).get_payload())
        return
    did = int.from_bytes(request.data[:2], "big")
    if did not in DATA:
        stack.send(Response(service=request.service, code=Response.Code.RequestOutOfRange).get_payload())
        return
    if did == 0xF191:
        pending = Response.Code.RequestCorrectlyReceived_ResponsePending
        stack.send(Response(service=request.service, code=pending).get_payload())
        time.sleep(0.4)
    data = bytes(request.data[:2]) + DATA[did]
    stack.send(Response(service=request.service, code=Response.Code.PositiveResponse, data=data).get_payload())


def main(device):
    bus = can.Bus(interface="slcan", channel=device, bitrate=500000, sleep_after_open=0)
    notifier = can.Notifier(bus, [])
    address = isotp.Address(isotp.AddressingMode.Normal_11bits, rxid=REQUESTS, txid=ANSWERS)
    stack = isotp.NotifierBasedCanStack(bus, notifier, address=address, params={"stmin": 0, "blocksize": 0, "tx_padding": 0xAA})
    stack.start()
    ends = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ends.set()), daemon=True).start()
    counter = 0
    while not ends.is_set():
        payload = stack.recv(block=True, timeout=0.05)
        if payload:
            answer(stack, payload)
        # Broadcast of a signal: a counter.
        counter = (counter + 1) % 256
        bus.send(can.Message(arbitration_id=0x123, is_extended_id=False, data=[counter, 255 - counter]))
        bus.send(can.Message(arbitration_id=0x18FEF100, is_extended_id=True, data=[counter] * 8))
    stack.stop()
    notifier.stop()
    bus.shutdown()


main(sys.argv[1])
