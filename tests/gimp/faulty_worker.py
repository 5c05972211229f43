"""A worker that fails in the way its argument says. Standard library only."""

import json
import os
import signal
import sys
import time

FAULTS = (
    *("exits", "killed-at-start", "garbage", "endless-garbage", "closed-output"),
    *("other-protocol", "old-worker", "hangs-at-start", "hangs-amid-body"),
    *("killed-amid-body", "killed-amid-render", "killed-amid-result"),
    *("hangs-amid-render", "hangs-amid-result", "other-size", "no-object", "no-styles"),
)


def say(header, body=b""):
    sys.stdout.buffer.write(json.dumps(header).encode() + b"\n" + body)
    sys.stdout.buffer.flush()


def listen():
    return json.loads(sys.stdin.buffer.readline())


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def hang():
    while True:
        time.sleep(60)


def main(fault):
    if fault == "exits":
        sys.exit("ModuleNotFoundError: No module named styleplug")
    if fault == "killed-at-start":
        die()
    if fault == "hangs-at-start":
        hang()
    if fault == "garbage":
        sys.stdout.buffer.write(bytes(range(256)) * 100)
        sys.stdout.buffer.flush()
        hang()
    if fault == "endless-garbage":
        while True:
            sys.stdout.buffer.write(b"\xff" * 65536)
    if fault == "closed-output":
        os.close(1)
        hang()
    if fault == "no-object":
        say([1, 2, 3])
        hang()
    number = listen()["id"]
    if fault == "other-protocol":
        say({"type": "hello", "id": number, "protocol": 2, "styles": []})
        hang()
    if fault == "old-worker":
        message = "This worker speaks protocol 0: run 'styleplug gimp install'."
        say({"type": "error", "id": number, "code": "Protocol", "message": message})
        hang()
    if fault == "no-styles":
        say({"type": "hello", "id": number, "protocol": 1, "styles": []})
    else:
        style = {"id": "x", "title": "X"}
        say({"type": "hello", "id": number, "protocol": 1, "styles": [style]})
    header = listen()
    if fault == "hangs-amid-body":
        hang()
    if fault == "killed-amid-body":
        sys.stdin.buffer.read(header["bytes"] // 2)
        die()
    sys.stdin.buffer.read(header["bytes"])
    say({"type": "progress", "id": header["id"], "fraction": 0.5})
    if fault == "killed-amid-render":
        die()
    if fault == "hangs-amid-render":
        hang()
    result = {**header, "type": "result", "device": "cpu", "seconds": 1}
    if fault == "other-size":
        say({**result, "bytes": 4}, bytes(4))
        hang()
    say(result, bytes(header["bytes"] // 2))
    if fault == "hangs-amid-result":
        hang()
    die()


if __name__ == "__main__":
    main(sys.argv[1])
