"""docs/wire-format.md against consensus, model and p2pnode: layouts, numbers and names. tests/transport/test_document.py has the transport's."""

import dataclasses
import json
import re
from pathlib import Path

import consensus
from consensus import block, encoding, evidence
from consensus import limits as consensus_limits
from consensus.certificate import CommitCertificate, PrepareCertificate, ViewCertificate
from consensus.committee import Committee
from consensus.identifiers import Digest, PublicKey, Signature
from consensus.membership import Guest, Membership, Offence, Presence, UsedToken
from consensus.requests import Invitation, Join, Leave, encode_request
from model import compression
from model.config import CODECS, PRESETS, ModelConfig, TrainingConfig
from model.layout import Layout
from model.limits import CORPUS_BYTES_MAX, EXPONENT_MAX, EXPONENT_MIN, QUANTUM_MAX, TOKENIZER_BYTES_MAX
from model.replica import Replica
from model.words import Words
from p2pnode import genesis, pool, wire

TEXT = (Path(__file__).parents[1] / "docs" / "wire-format.md").read_text(encoding="utf-8")
WIDTHS = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "i32": 4}
ALICE, BOB = (PublicKey(letter * 32) for letter in (b"a", b"b"))
BLOCK, SIGNATURE = Digest(b"d" * 32), Signature(b"s" * 64)


def layout(name: str) -> list[str]:
    """The fields of a layout: what stands behind its name, over all of its lines."""
    found = re.search(rf"^    +{re.escape(name)}  +(.*(?:\n +\|.*)*)", TEXT, re.MULTILINE)
    assert found is not None, name
    return [" ".join(field.split()) for field in found[1].split("|") if field.strip()]


def width(fields: list[str]) -> int:
    """The bytes of these fields, where each says its own."""
    sizes = [re.search(r"\b([ui]\d+|\d+)\b", field) for field in fields]
    assert all(sizes), fields
    return sum(WIDTHS[size[1]] if size[1] in WIDTHS else int(size[1]) for size in sizes if size is not None)


def each(fields: list[str]) -> tuple[list[str], list[str]]:
    """What stands once, and what stands for each entry."""
    start = next(place for place, field in enumerate(fields) if field.startswith("for each: "))
    return fields[:start], [fields[start].removeprefix("for each: "), *fields[start + 1 :]]


def test_the_header_of_a_block() -> None:
    fields = layout("header")
    assert fields[0] == f"version u16 = {block.VERSION}"
    assert width(fields) == block._HEADER.size
    assert f"header {block._HEADER.size}" in layout("block")
    assert len(fields) == len(dataclasses.fields(block.BlockHeader))


def test_what_a_block_lists() -> None:
    body = encoding.BODIES[encoding.Kind.CONTRIBUTION].size
    assert layout("contribution")[2].startswith(f"the last {body} bytes of the statement")
    request = width(layout("request")[:4])
    assert len(encode_request(Leave(ALICE, 7, SIGNATURE))) == request
    join = Join(ALICE, 7, Invitation(BOB, BOB, 9, SIGNATURE), SIGNATURE, SIGNATURE)
    assert len(encode_request(join)) == request + encoding.BODIES[encoding.Kind.JOIN].size
    most = (
        f"at most {consensus_limits.BLOCK_BYTES_MAX:,} bytes, {consensus_limits.CONTRIBUTIONS_PER_BLOCK_MAX} contributions, "
        f"{consensus_limits.EVIDENCE_PER_BLOCK_MAX} pieces of evidence and {consensus_limits.REQUESTS_PER_BLOCK_MAX} requests; "
        f"a certificate at most {consensus_limits.MEMBERS_MAX} signers"
    )
    assert most in " ".join(TEXT.split())


def test_certificates() -> None:
    signed = ((ALICE, SIGNATURE), (BOB, SIGNATURE))
    made: dict[str, consensus.Certificate] = {
        "PREPARE": PrepareCertificate(5, 1, BLOCK, -1, signed),
        "COMMIT": CommitCertificate(5, 1, BLOCK, signed),
        "VIEW": ViewCertificate(5, 1, ((ALICE, BLOCK, SIGNATURE), (BOB, BLOCK, SIGNATURE))),
    }
    head = width(layout("certificate")[:3])
    for name, certificate in made.items():
        once, entry = each(layout(f"{certificate.tag} {name}"))
        assert len(certificate.encode()) == head + width(once) + 2 * width(entry), name


def test_evidence() -> None:
    once, entry = each(layout("evidence"))
    first, second = (encoding.prefix(encoding.Kind.COMMIT, BLOCK, 5, 0) + hash_ for hash_ in (b"1" * 32, b"2" * 32))
    proof = evidence.evidence_of(ALICE, (first, SIGNATURE), (second, SIGNATURE))
    assert len(proof.encode()) == width(once) + 2 * width(entry[:2]) + len(first) + len(second)
    assert entry[-1] == "statement"
    rows = re.findall(r"^\| (\d(?:, \d)*) \| (\w+(?:, \w+)*) \| ", TEXT, re.MULTILINE)
    written = {
        name: int(tag) for tags, names in rows for tag, name in zip(tags.split(", "), names.split(", "), strict=True)
    }
    assert written == {str(kind): tag for kind, tag in evidence.EVIDENCE_TAGS.items()}
    assert f"have {encoding.PREFIX.size} to {evidence._STATEMENT_BYTES_MAX} of them" in TEXT
    assert sorted(evidence.EvidenceKind) == sorted(evidence.EvidenceKind, key=str), "they are ordered by their names"


def test_membership() -> None:
    """One entry in every table, and two committees of another size."""
    kind = evidence.EvidenceKind.AMNESIA
    one, two = Committee((ALICE,)), Committee((ALICE, BOB))
    membership = Membership(
        previous=one,
        current=two,
        next=one,
        accepted=((BOB, 2),),
        recent=((ALICE,), (BOB,)),
        permitted=(ALICE,),
        guests=(Guest(BOB, ALICE, 9),),
        tokens=(UsedToken(BOB, ALICE, 9),),
        answered=((BOB, 3),),
        presence=(Presence(ALICE, 4, 1),),
        offences=(Offence(BOB, kind, 4),),
    )
    fields = layout("membership")
    rest = fields[3:]
    assert rest[0].startswith("nine counts u32: ") and len(rest[0].split(",")) == 9
    committees = 3 * width(layout("committee")[:2]) + 4 * 32
    keys = "contributors before, contributors, permitted: keys"
    tables = "\n".join(rest[1:])
    sizes = {
        "presence: member 32\nseen height u64\nturns missed u8": 1,
        "offences: author 32\nnumber of the kind u8\nheight u64": 1,
        "candidates, answered: key 32\nupdates that were listed, or the height of a request, u64": 2,
        "guests, tokens: key 32\ninviter 32\nlast height u64": 2,
    }
    assert all(table in tables for table in [keys, *sizes])
    expected = committees + 9 * 4 + 3 * 32 + sum(width(table.split("\n")) * count for table, count in sizes.items())
    assert len(membership.encode()) == expected
    assert f"at most {genesis.MEMBERS_MAX} seats" in TEXT


def test_tags_of_hashes() -> None:
    """Each hash that section 11 names is taken as it says."""
    section = TEXT[TEXT.index("## 11.") : TEXT.index("## 12.")]
    named = set(re.findall(r'hash\("(\w+)"', section))
    sources = "".join(path.read_text(encoding="utf-8") for path in Path(consensus.__file__).parent.glob("*.py"))
    assert named == set(re.findall(r'\bdigest\(b"(\w+)"', sources))


def test_statements() -> None:
    rows = re.findall(r"^\| 0x([0-9a-f]{2}) \| ([A-Z_]+) \| ([^|]*)\|[^|]*\|$", TEXT, re.MULTILINE)
    written = {
        (int(code, 16), name): text for code, name, text in rows if int(code, 16) < 0x20 and not text[:1].isdigit()
    }
    assert set(written) == {(int(kind), kind.name) for kind in encoding.Kind}
    for (code, _), text in written.items():
        fields = [field for field in text.split(";")[0].split(", ") if field.strip()]
        assert width(fields) == encoding.BODIES[encoding.Kind(code)].size, text
    assert f"a view 2^{consensus_limits.VIEW_MAX.bit_length()} - 1 at most" in TEXT


def test_frames_and_methods() -> None:
    frames = re.findall(r"^\| 0x([0-9a-f]{2}) ([A-Z]+) \| ", TEXT, re.MULTILINE)
    assert {(int(code, 16), name) for code, name in frames} == {
        (int(each), each.name) for kinds in (wire.FrameKind, wire.Method) for each in kinds
    }
    assert f"kinds from 0x{max(wire.FrameKind) + 1:02x} on" in " ".join(TEXT.split())
    assert f"heights up to 2^{wire.HEIGHT_MAX.bit_length() - 1}" in TEXT
    assert f"lists have at most {wire.BLOCKS_PER_REQUEST_MAX} entries" in TEXT
    assert f"at most {pool.STRANGERS_MAX} payloads of authors who are no members" in TEXT


def test_the_genesis() -> None:
    section = TEXT[TEXT.index("## 10.") : TEXT.index("## 11.")]
    rows = dict(re.findall(r"^\| ([a-z_, ]+) \| (.*) \|$", section, re.MULTILINE))
    written = {field for names in rows for field in names.split(", ")} - {"field"}
    document = genesis.Genesis(
        nonce=bytes(16),
        founders=(),
        model=PRESETS["tiny"],
        training=TrainingConfig(),
        corpus_digest=BLOCK,
        corpus_bytes=1,
        model_root=BLOCK,
        policy="open",
        probation_contributions=1,
        round_seconds_max=1,
        imported=True,
        words=Words(2, masked=True),
        tokenizer=genesis.TokenizerBlob(BLOCK, 1),
    )
    assert written == set(json.loads(document.to_bytes()))
    for name, config in (("model", ModelConfig), ("training", TrainingConfig)):
        missing = {field.name for field in dataclasses.fields(config)} - set(re.findall(r"\w+", rows[name]))
        assert not missing, name
    assert f"1 to {CORPUS_BYTES_MAX:,} bytes" in rows["corpus"]
    assert f"1 to {TOKENIZER_BYTES_MAX:,} bytes" in rows["tokenizer"]
    corpus = json.loads(document.to_bytes())["corpus"]
    assert set(corpus) <= set(re.findall(r"\w+", rows["corpus"])) and len(corpus) == 4
    assert f"`codec` {CODECS['dense-int8']} is `dense-int8`" in TEXT


def test_lengths_of_payloads_and_models() -> None:
    """Section 12's sum over the tensors, for every size; the chunks are what both lengths count."""
    line = next(line for line in TEXT.splitlines() if line.startswith("    embedding v x w | "))
    experts = next(line for line in TEXT.splitlines() if line.startswith("    router ")).strip().split(", ")
    parts = [part.strip() for part in line.split("|")]
    wide = dataclasses.replace(PRESETS["tiny"], head_dim=2 * PRESETS["tiny"].width // PRESETS["tiny"].heads)
    for name, config in {**PRESETS, "wide heads": wide}.items():
        size = config.head_dim or config.width // config.heads
        sizes = {
            "w": config.width,
            "q": config.heads * size,
            "k": config.key_value_heads * size,
            "f": config.feed_forward,
            "v": config.vocabulary,
            "e": config.experts,
        }
        layers = parts[1].removeprefix("for each layer: ").split(", ")
        layers = [*layers[:-3], *experts] if config.experts else layers
        tensors = [parts[0], *(layers * config.layers), parts[2], *(["head v x w"] if not config.tied_head else [])]
        chunks = 0
        for tensor in tensors:
            values = 1
            for factor in tensor.split(" ", 1)[1].split(" x "):
                values *= sizes[factor] if factor in sizes else int(factor)
            chunks += -(-values // 4096)
        assert chunks == Layout.of(config).chunks, name
        assert Replica.bytes_of(config, TrainingConfig()) == 16384 * chunks
        moving = TrainingConfig(momentum_numerator=7, momentum_shift=3)
        assert Replica.bytes_of(config, moving) == 32768 * chunks
        assert compression.payload_bytes(Layout.of(config)) == 4 + 2 + 2 + 8 + chunks + 4096 * chunks
    assert f"an exponent i8 for each chunk, {EXPONENT_MIN} to {EXPONENT_MAX} |" in TEXT
    assert f"4,096 values i8 for each chunk, -{QUANTUM_MAX} to {QUANTUM_MAX}" in TEXT
