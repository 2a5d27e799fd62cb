#!/usr/bin/env python3
"""Pulls a subscription's queue, prints the events, acknowledges them. Needs nothing but Python 3.

    CONVOY_KEY=cvk_... python3 examples/pull.py http://127.0.0.1:8080 sub_...
"""
import json, os, sys, time, urllib.request


def call(url, body):
    headers = {"authorization": "Bearer " + os.environ["CONVOY_KEY"], "content-type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def main(base, subscription):
    stream = f"{base}/v1/subscriptions/{subscription}/stream"
    seen = set()  # delivery is at least once: the same event has the same id
    while True:
        pulled = call(stream + "/pull", {"max_messages": 100, "lease_s": 30})
        for event in (message["event"] for message in pulled["messages"]):
            if event["id"] not in seen:
                seen.add(event["id"])
                print(event["id"], event["subject"], event["type"], event["data"].get("samples", ""), flush=True)
        receipts = [message["receipt"] for message in pulled["messages"]]
        if receipts:  # only after the work: what is not acknowledged within the lease comes again
            call(stream + "/ack", {"receipts": receipts})
        time.sleep((pulled["poll_after_ms"] or 0) / 1000)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
