"""Pickles that want more than to be read: to import, to run, to fill the memory."""

from __future__ import annotations

import functools
import pickle
import pickletools
import random
import struct
from collections.abc import Callable
from typing import Any

from tests.data.fuzzing.cases import PAYLOAD, SENTINEL, Case, Hostile, kind, of_refs, ref_with, refs, sentence_with
from tests.data.fuzzing.damages import HUGE_NUMBER
from tests.data.fuzzing.writing import Opcodes, as_pickle, opcodes_of

TOUCH = f"touch {SENTINEL}".encode()
COMMAND = b"S'" + TOUCH + b"'\n"
IMPORTING: dict[str, bytes] = {
    "GLOBAL": b"cos\nsystem\n(" + COMMAND + b"tR",
    "GLOBAL of posix": b"cposix\nsystem\n(" + COMMAND + b"tR",
    "GLOBAL alone": f"c{PAYLOAD}\nanything\n".encode(),
    "GLOBAL with a dotted name": b"\x80\x04cos\npath.os.system\n(" + COMMAND + b"tR",
    "GLOBAL of builtins": f"cbuiltins\nexec\n(S'import {PAYLOAD}'\ntR".encode(),
    "GLOBAL of Python 2": f"c__builtin__\neval\n(S'__import__(\"{PAYLOAD}\")'\ntR".encode(),
    "GLOBAL of pickle": b"cpickle\nloads\n(S" + repr(pickle.dumps(Hostile(), 0))[1:].encode() + b"\ntR",
    "GLOBAL of an ordered dictionary": b"ccollections\nOrderedDict\n)R",
    "GLOBAL of numpy": b"cnumpy\nload\n(S'../../outside/object.npy'\ntR",
    "STACK_GLOBAL": b"\x8c\x02os\x8c\x06system\x93(" + COMMAND + b"tR",
    "STACK_GLOBAL by memo": b"\x8c\x02os\x94\x8c\x06system\x94h\x00h\x01\x93(" + COMMAND + b"tR",
    "STACK_GLOBAL of numbers": b"K\x01K\x02\x93",
    "INST": b"(" + COMMAND + b"ios\nsystem\n",
    "OBJ": b"(cos\nsystem\n" + COMMAND + b"o",
    "NEWOBJ": b"cos\nsystem\n(" + COMMAND + b"t\x81",
    "NEWOBJ_EX": b"cos\nsystem\n(" + COMMAND + b"t}\x92",
    "EXT1": b"\x82\x4d(" + COMMAND + b"tR",
    "EXT2": b"\x83\x4d\x00(" + COMMAND + b"tR",
    "EXT4": b"\x84\x4d\x00\x00\x00(" + COMMAND + b"tR",
    "EXT1 of nothing": b"\x82\x01",
    "PERSID": b"P" + TOUCH + b"\n",
    "BINPERSID": COMMAND + b"Q",
    "REDUCE of a string": COMMAND + b")R",
    "BUILD": b"}}b",
    "BUILD of a list": b"]}S'append'\nNsb",
    "NEXT_BUFFER": b"\x97",
    "READONLY_BUFFER": b"\x97\x98",
    "BYTEARRAY8": b"\x96\x03\x00\x00\x00\x00\x00\x00\x00abc",
    "BINBYTES": b"B\x03\x00\x00\x00abc",
    "SHORT_BINBYTES": b"C\x03abc",
    "BINBYTES8": b"\x8e\x03\x00\x00\x00\x00\x00\x00\x00abc",
    "EMPTY_SET": b"\x8f",
    "ADDITEMS": b"\x8f(K\x01\x90",
    "FROZENSET": b"(K\x01\x91",
}
"""Each leaves one value on the stack, if it is let."""
PLACES = ("alone", "first", "in a sentence", "as a key", "popped")


@kind(len(IMPORTING) * len(PLACES), more=False)
def hostile_pickles(rng: random.Random, seed: int) -> Case:
    wish = Opcodes(list(IMPORTING.values())[seed // len(PLACES)])
    document: Any = refs()
    match PLACES[seed % len(PLACES)]:
        case "alone":
            content = wish + b"."
        case "first":
            content = as_pickle([wish, *document])
        case "in a sentence":
            document[2]["sentences"][0]["sent"] = wish
            content = as_pickle(document)
        case "as a key":
            content = b"\x80\x04(" + opcodes_of(document[0])[:-1] + wish + b"Ndl."
        case _:
            # What remains is sound, and the harm is done.
            content = rng.choice((b"", b"\x80\x02", b"\x80\x04")) + wish + b"0" + as_pickle(document)[2:]
    return of_refs("prepare", content, refused=True)


def _shared(one: bytes, times: int) -> Opcodes:
    """A list of the same thing many times over."""
    return Opcodes(b"](" + one + b"q\x01" + b"h\x01" * (times - 1) + b"e")


def _shared_refs(ref: dict[str, Any], times: int) -> bytes:
    return b"\x80\x02" + _shared(opcodes_of(ref), times) + b"."


GREEDY: dict[str, Callable[[], bytes]] = {
    "BINUNICODE8": lambda: b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
    "BINUNICODE8 of 2**63": lambda: b"\x80\x04\x8d" + struct.pack("<Q", 2**63) + b"x.",
    "BINUNICODE": lambda: b"X" + struct.pack("<I", 2**32 - 1) + b"x.",
    "BINSTRING": lambda: b"T" + struct.pack("<i", 2**31 - 1) + b"x.",
    "BINSTRING below zero": lambda: b"T" + struct.pack("<i", -1) + b"x.",
    "BYTEARRAY8": lambda: b"\x80\x05\x96" + struct.pack("<Q", 2**33) + b"x.",
    "BINBYTES8": lambda: b"\x80\x04\x8e" + struct.pack("<Q", 2**33) + b"x.",
    "LONG4": lambda: b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
    "LONG4 below zero": lambda: b"\x80\x02\x8b" + struct.pack("<i", -1) + b"x.",
    "LONG4 of a megabyte": lambda: b"\x80\x02\x8b" + struct.pack("<i", 2**20) + b"\x7f" * 2**20 + b".",
    "LONG of many digits": lambda: b"L" + b"9" * 100_000 + b"L\n.",
    "INT of many digits": lambda: b"I" + b"9" * 100_000 + b"\n.",
    "FRAME": lambda: b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"].",
    "LONG_BINPUT": lambda: b"]r" + struct.pack("<I", 2**32 - 1) + b".",
    "LONG_BINPUT of 2**28": lambda: b"]r" + struct.pack("<I", 2**28) + b".",
    "PUT": lambda: b"]p99999999999999\n.",
    "PUT below zero": lambda: b"]p-1\n.",
    "LONG_BINGET": lambda: b"j" + struct.pack("<I", 2**32 - 1) + b".",
    "GET": lambda: b"g99999999999999999999999\n.",
    "marks": lambda: b"(" * 1_000_000 + b".",
    "no STOP": lambda: b"]" * 100_000,
    "DUP of nothing": lambda: b"2.",
    "POP of nothing": lambda: b"0.",
    "TUPLE without a mark": lambda: b"t.",
    "APPENDS without a list": lambda: b"(K\x01e.",
    "APPEND to a number": lambda: b"K\x01K\x02a.",
    "SETITEM of a list": lambda: b"}]Ns.",
    "protocol 255": lambda: b"\x80\xff].",
    "unknown opcode": lambda: b"\xff.",
    "one ref 20,000 times": lambda: _shared_refs(refs()[0], 20_000),
    "one sentence 20,000 times": lambda: as_pickle([ref_with(sentences=_shared(opcodes_of(sentence_with()), 20_000))]),
    "one ref with a long id 50,000 times": lambda: _shared_refs(ref_with(ref_id="x" * 1_000_000), 50_000),
    "one ref with a long split 20,000 times": lambda: _shared_refs(ref_with(split="x" * 1_000_000), 20_000),
    "one list of sentences 1,000 times 1,000": lambda: _laughs(1000, 1000),
    "one list of sentences 20,000 times 20,000": lambda: _laughs(20_000, 20_000),
    "one text 20,000 times": lambda: _long_text(20_000, 1900),
    "one text of a megabyte": lambda: _long_text(3000, 1_000_000),
    "lists 100,000 deep": lambda: b"]" * 100_000 + b"a" * 99_999 + b".",
    "dicts 100,000 deep": lambda: b"}N" * 100_000 + b"}" + b"s" * 100_000 + b".",
    "tuples 100,000 deep as a key": lambda: b"})" + b"\x85" * 100_000 + b"Ns.",
    "tuples 1,000,000 deep as a key": lambda: b"})" + b"\x85" * 1_000_000 + b"Ns.",
    "tuples 1,000,000 deep as an image": lambda: _in_ref("image_id", b")" + b"\x85" * 1_000_000),
    "tuples 1,000,000 deep as a referent": lambda: _in_ref("ann_id", b")" + b"\x85" * 1_000_000),
    "twice, twice, … as a key": lambda: b"})" + b"2\x86" * 60 + b"Ns.",
    "twice, twice, … as an image": lambda: _in_ref("image_id", b")" + b"2\x86" * 60),
    "twice, twice, … as a referent": lambda: _in_ref("ann_id", b"(" * 60 + b"]" + b"2l" * 60),
    "twice, twice, … as a reference": lambda: _in_ref("ref_id", b"(" * 60 + b"]" + b"2l" * 60),
    "twice, twice, … as a split": lambda: _in_ref("split", b"(" * 60 + b"]" + b"2l" * 60),
    "twice, twice, … as a sentence": lambda: _in_sentence("sent", b"(" * 60 + b"]" + b"2l" * 60),
    "twice, twice, … as a sentence's id": lambda: _in_sentence("sent_id", b"(" * 60 + b"]" + b"2l" * 60),
    "twice, twice, … as the list": lambda: b"(" * 60 + b"]" + b"2l" * 60 + b".",
    **{f"a number of many digits as {name}": functools.partial(lambda n: _in_ref(n, HUGE_NUMBER), name)
       for name in ("image_id", "ann_id", "ref_id", "split", "sentences")},
    "a number of many digits as sent_id": lambda: _in_sentence("sent_id", HUGE_NUMBER),
    "a number of many digits as sent": lambda: _in_sentence("sent", HUGE_NUMBER),
    **{f"lists 100,000 deep as {name}": functools.partial(lambda n: _in_ref(n, b"]" * 100_000 + b"a" * 99_999), name)
       for name in ("image_id", "ann_id", "ref_id", "split", "sentences")},
}  # fmt: skip


def _in_ref(name: str, opcodes: bytes) -> bytes:
    return as_pickle([ref_with(**{name: Opcodes(opcodes)}), *refs()[1:]])


def _in_sentence(name: str, opcodes: bytes) -> bytes:
    return as_pickle([ref_with(sentences=[sentence_with(**{name: Opcodes(opcodes)})]), *refs()[1:]])


def _laughs(lists: int, sentences: int) -> bytes:
    """Refs that share one list of one sentence."""
    inner = b"](" + opcodes_of(sentence_with()) + b"q\x02" + b"h\x02" * (sentences - 1) + b"e"
    return _shared_refs(ref_with(sentences=Opcodes(inner)), lists)


def _long_text(times: int, length: int) -> bytes:
    text = b"X" + struct.pack("<I", length) + b"x" * length
    sentence = Opcodes(opcodes_of(sentence_with(sent=Opcodes(text + b"q\x02"))))
    again = opcodes_of(sentence_with(sent=Opcodes(b"h\x02"))) + b"q\x03"
    return as_pickle([ref_with(sentences=Opcodes(b"](" + sentence + again + b"h\x03" * times + b"e"))])


@kind(100)
def random_pickles(rng: random.Random, seed: int) -> Case:
    """Programs of opcodes in their proper form, in whatever order."""
    common = [op for op in pickletools.opcodes if op.name.startswith(("EMPTY", "BININT", "SHORT", "MARK", "NONE"))]
    program = [rng.choice(common if rng.random() < 0.7 else pickletools.opcodes) for _ in range(rng.randint(2, 40))]
    content = b"".join(op.code.encode("latin1") + _any_argument(rng, op) for op in program)
    return of_refs("prepare", rng.choice((b"", b"\x80\x02", b"\x80\x04")) + content + b"b.l."[seed % 4 :])


def _any_argument(rng: random.Random, op: Any) -> bytes:
    length = 0 if op.arg is None else op.arg.n
    text = rng.choice((b"1", b"-1", b"0", b"2**9", b"'x'", b"os", b"system", b"", b"1_0", b"\xd9\xa1", b"0x1", b"nan"))
    if length >= 0:
        return bytes(rng.choice((0, 0, 1, 2, 255)) for _ in range(length))
    if length == pickletools.UP_TO_NEWLINE:
        return text + b"\n" + (b"system\n" if op.name in ("GLOBAL", "INST") else b"")
    width = {pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT8U: 8}.get(length, 4)
    return len(text).to_bytes(width, "little") + text


@kind(len(GREEDY), more=False)
def greedy_pickles(rng: random.Random, seed: int) -> Case:
    return of_refs("prepare", list(GREEDY.values())[seed]())
