"""The ingest step as a Python function: what the one in Rust is measured beside.

Records hold JSON instead of our wire format, which spares it a decoder written in Python. All else is the same step:
validate, look the vehicle's ledger up, store the envelope unless it is there, enter it into the ledger, keep the last
values, publish to the bus. Clients are made once, calls to DynamoDB are the same in number and kind.
"""

import base64
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

THREADS = int(os.environ["PEER_THREADS"])
EVENTS = os.environ["CONVOY_EVENTS_TABLE"]
STATE = os.environ["CONVOY_STATE_TABLE"]
VEHICLES = os.environ["CONVOY_VEHICLES_TABLE"]
BUS = os.environ["CONVOY_DEFAULT_BUS"]
TTL_S = 30 * 86_400
ENTRY_BYTES_MAX = 200_000

config = Config(max_pool_connections=THREADS, parameter_validation=False)
dynamodb = boto3.client("dynamodb", config=config)
events = boto3.client("events", config=config)
pool = ThreadPoolExecutor(THREADS) if THREADS > 1 else None


class Refused(Exception):
    pass


def put_new(**request):
    """Puts an item under a condition; false where it does not hold."""
    try:
        dynamodb.put_item(**request)
        return True
    except ClientError as error:
        if error.response["Error"]["Code"] == "ConditionalCheckFailedException":
            return False
        raise


def read(data):
    envelope = json.loads(data)
    if not (isinstance(envelope["sequence"], int) and len(envelope["vehicle_id"]) == 32 and envelope["signals"]):
        raise Refused("not an envelope")
    for signal in envelope["signals"].values():
        if len(signal["times_us"]) != len(signal["values"]):
            raise Refused("times and values differ in number")
    return envelope


def revised(table, key, change):
    """Reads a value, changes it and writes it, unless somebody else did meanwhile."""
    item = dynamodb.get_item(TableName=table, Key=key).get("Item")
    revision = int(item["v"]["N"]) if item else 0
    value = change(json.loads(item["b"]["B"]) if item else {})
    new = {**key, "b": {"B": json.dumps(value).encode()}, "v": {"N": str(revision + 1)}}
    if revision:
        condition = {"ConditionExpression": "v = :known", "ExpressionAttributeValues": {":known": {"N": str(revision)}}}
    else:
        condition = {"ConditionExpression": "attribute_not_exists(pk)"}
    if not put_new(TableName=table, Item=new, **condition):
        raise RuntimeError("another writer was faster")


def store(record):
    data = base64.b64decode(record["kinesis"]["data"])
    envelope = read(data)
    vehicle, sequence = envelope["vehicle_id"], envelope["sequence"]
    first_us = min(signal["times_us"][0] for signal in envelope["signals"].values())
    last_us = max(signal["times_us"][-1] for signal in envelope["signals"].values())
    key = {"pk": {"S": f"V#{vehicle}"}, "sk": {"S": f"L#{envelope['boot']}"}}

    def enter(ledger):
        ranges = ledger.setdefault("stored", [])
        if ranges and ranges[-1][1] + 1 == sequence:
            ranges[-1][1] = sequence
        else:
            ranges.append([sequence, sequence])
        return ledger

    item = {
        "pk": {"S": f"V#{vehicle}#{first_us // 86_400_000_000}"},
        "sk": {"S": f"{first_us:016x}#{envelope['boot']}#{sequence:016x}"},
        "b": {"B": data},
        "l": {"N": str(last_us)},
        "r": {"N": str(envelope["received_us"])},
        "ttl": {"N": str(int(time.time()) + TTL_S)},
    }
    put_new(TableName=EVENTS, Item=item, ConditionExpression="attribute_not_exists(pk)")
    revised(VEHICLES, key, enter)

    def newest(state):
        for path, signal in envelope["signals"].items():
            known = state.get(path)
            if known is None or known[0] < signal["times_us"][-1]:
                state[path] = [signal["times_us"][-1], signal["values"][-1], envelope["received_us"]]
        return state

    revised(STATE, {"pk": {"S": f"V#{vehicle}"}, "sk": {"S": "S"}}, newest)
    return record["kinesis"]["data"]


def publish(payloads):
    entries, held, size = [], [], 0
    for payload in payloads:
        if held and size + len(payload) > ENTRY_BYTES_MAX:
            entries.append(held)
            held, size = [], 0
        held.append(payload)
        size += len(payload)
    entries.append(held)
    for entry in entries:
        detail = json.dumps({"envelopes": entry})
        answer = events.put_events(
            Entries=[{"Source": "peer.ingest", "DetailType": "envelope", "Detail": detail, "EventBusName": BUS}]
        )
        if answer["FailedEntryCount"]:
            raise RuntimeError("the bus refused an entry")


def handler(event, _context):
    records = event["Records"]
    stored = pool.map(store, records) if pool else map(store, records)
    publish(stored)
    return {"batchItemFailures": []}
