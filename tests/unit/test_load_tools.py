"""The examples for other people's load tools say what these tools and our wire understand."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import json_format

from protos.jouleserve.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "loadtools"
K6 = EXAMPLES / "generate.k6.js"
GENERATE = pb.DESCRIPTOR.services_by_name["Inference"].methods_by_name["Generate"]

# What ghz reads of a configuration file, as far as it is of use here; it passes over other keys
# without a word.
GHZ_KEYS = {
    *("name", "host", "insecure", "cacert", "cert", "key", "skipTLS", "cname", "authority"),
    *("proto", "protoset", "import-paths", "call", "data", "data-file", "metadata"),
    *("metadata-file", "total", "concurrency", "connections", "duration", "max-duration"),
    *("timeout", "connect-timeout", "keepalive", "cpus", "format", "output", "tags"),
}


def ghz() -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((EXAMPLES / "ghz.json").read_text())
    return settings


def test_the_request_is_one_of_our_wire_by_every_key() -> None:
    text = (EXAMPLES / "request.json").read_text()
    request = json_format.Parse(text, pb.GenerateRequest())
    assert request.WhichOneof("input") == "prompt"
    assert request.sampling.max_tokens > 1
    assert request.sampling.ignore_eos


def test_ghz_is_told_nothing_that_it_does_not_read() -> None:
    assert set(ghz()) <= GHZ_KEYS


def test_ghz_calls_a_method_that_there_is() -> None:
    assert ghz()["call"] == GENERATE.full_name


def test_ghz_finds_its_files_from_the_repository() -> None:
    assert (ROOT / ghz()["data-file"]).is_file()
    assert (ROOT / ghz()["proto"]).is_file()


def test_k6_calls_a_method_that_there_is_of_a_file_that_there_is() -> None:
    script = K6.read_text()
    service = GENERATE.containing_service.full_name
    assert f"'{service}/{GENERATE.name}'" in script
    loaded = re.search(r"client\.load\(\['(.+)'\], '(.+)'\)", script)
    assert loaded is not None
    assert (EXAMPLES / loaded[1] / loaded[2]).resolve() == ROOT / pb.DESCRIPTOR.name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("reply", pb.GenerateResponse.DESCRIPTOR),
        ("reply.tokens", pb.Tokens.DESCRIPTOR),
        ("finish", pb.Finish.DESCRIPTOR),
        ("usage", pb.Usage.DESCRIPTOR),
        ("usage.energy", pb.Energy.DESCRIPTOR),
    ],
)
def test_k6_reads_fields_that_there_are(name: str, message: Descriptor) -> None:
    """In JSON, as k6 gives messages to scripts, names have capitals in the place of `_`."""
    read = set(re.findall(rf"(?<![\w.]){re.escape(name)}\.(\w+)", K6.read_text()))
    assert read
    assert read <= {field.json_name for field in message.fields}


def test_k6s_script_is_javascript(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    module = tmp_path / "script.mjs"
    module.write_text(K6.read_text())
    subprocess.run([node, "--check", str(module)], check=True, timeout=30)


def test_the_documents_name_every_option_of_guidellms_back_end() -> None:
    source = (ROOT / "loadtest" / "adapters" / "guidellm_backend.py").read_text()
    (options,) = [
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == "JouleserveGrpcArgs"
    ]
    names = {
        node.target.id
        for node in options.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    document = (ROOT / "docs" / "load-tools.md").read_text()
    table = document.partition("| key | default | meaning |")[2].partition("\n\n")[0]
    first_cells = (row.split("|")[1] for row in table.splitlines() if row.startswith("|"))
    assert {key for cell in first_cells for key in re.findall(r"`(\w+)`", cell)} == names
