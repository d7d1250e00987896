"""What the documents say can be done: examples run, commands parse, links and keys exist."""

from __future__ import annotations

import http.server
import itertools
import json
import re
import shlex
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

import grpc
import pytest
import typer
import yaml
from google.protobuf import json_format
from markdown_it import MarkdownIt

from loadtest.scenario import Scenario
from protos.jouleserve import checksum, client, errors
from protos.jouleserve.calls import GenerateOptions
from protos.jouleserve.v1 import cluster_pb2, inference_pb2_grpc
from protos.jouleserve.v1 import inference_pb2 as pb
from serve import config_file
from serve import errors as server_errors
from serve.cli import whole_app
from serve.deployment import RAY_ENVIRONMENT
from serve.variants import recipe_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
ROOMS = ("benchmarks", "cluster", "docs", "examples", "loadtest", "protos", "scheduler", "scripts")
PATH = re.compile(rf"(?:{'|'.join((*ROOMS, 'serve', 'tests'))})/[\w./*-]*")
KEY = re.compile(r"(?:models\[\]|service_classes|scheduler|energy|gateway)\.[\w.\[\]]+")
# Programs that are not ours, as the documents call them.
OTHERS = {".venv/bin/python", "export", "ray", "python3.11", "vllm", "k6", "ghz"}
OTHERS |= {f"guidellm/bin/{program}" for program in ("pip", "python", "guidellm")}
MAKE_TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


class Example(NamedTuple):
    """A fenced block, where it stands, and its language."""

    document: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def parse(document: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(document.read_text())


def examples(*languages: str) -> list[Any]:
    found = [
        Example(document, token.map[0] + 1, token.info.strip(), token.content)
        for document in DOCUMENTS
        for token in parse(document)
        if token.type == "fence" and token.map is not None
    ]
    return [pytest.param(each, id=each.name) for each in found if each.language in languages]


def inline(document: Path, kind: str) -> Iterator[Token]:
    for token in parse(document):
        yield from (child for child in token.children or () if child.type == kind)


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


# ---------------------------------------------------------------------------------- Python and data


class Gateway(inference_pb2_grpc.InferenceServicer):
    """Answers everything with three tokens."""

    def Generate(
        self, request: pb.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GenerateResponse]:
        ids = [3, 1, 2]
        for token_id in ids:
            yield pb.GenerateResponse(tokens=pb.Tokens(text=f"<{token_id}>", token_ids=[token_id]))
        usage = pb.Usage(
            completion_tokens=len(ids),
            completion_crc32=checksum.extend(0, ids),
            latency=pb.Latency(ttft_s=0.25),
            energy=pb.Energy(energy_j=1.5, method="model", boundary="cpu"),
        )
        yield pb.GenerateResponse(
            finish=pb.Finish(variant="int8", replica="r1", reason="cheapest", usage=usage)
        )

    def ListModels(
        self, request: pb.ListModelsRequest, context: grpc.ServicerContext
    ) -> pb.ListModelsResponse:
        return pb.ListModelsResponse()


@pytest.fixture(scope="module")
def grpc_address() -> Iterator[str]:
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool)
        inference_pb2_grpc.add_InferenceServicer_to_server(Gateway(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(0).wait()


@pytest.fixture(scope="module")
def http_address() -> Iterator[str]:
    """A server that answers a chat with the `jouleserve` object that the documents show."""
    (shown,) = [each.values[0] for each in examples("json")]
    message = {"role": "assistant", "content": "Paris."}
    answer = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "MODEL",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "jouleserve": json.loads(shown.text),
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name)
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("example", examples("python"))
def test_a_python_example_runs(
    example: Example, grpc_address: str, http_address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "127.0.0.1:9000" in example.text or "127.0.0.1:8000" in example.text
    here = example.text.replace("127.0.0.1:9000", grpc_address)
    here = here.replace("127.0.0.1:8000", http_address)
    code = compile(here, example.name, "exec", dont_inherit=True)
    exec(code, {"__name__": "__main__"})
    assert capsys.readouterr().out


@pytest.mark.parametrize("example", examples("yaml"))
def test_a_yaml_example_is_a_good_configuration_recipe_or_scenario(example: Example) -> None:
    if "\nsteps:" in example.text:
        recipe_file.parse_recipe(example.text, file=example.name, directory=ROOT)
    elif "\narrivals:" in example.text:
        Scenario.model_validate(yaml.safe_load(example.text))
    else:
        config_file.parse_config(example.text, file=example.name, directory=ROOT)


@pytest.mark.parametrize("file", sorted(ROOT.glob("examples/*.yaml")), ids=lambda file: file.name)
def test_an_example_file_is_a_good_configuration(file: Path) -> None:
    config_file.load(file)


@pytest.mark.parametrize(
    "file", sorted(ROOT.glob("examples/recipes/*.yaml")), ids=lambda file: file.name
)
def test_an_example_recipe_is_a_good_one(file: Path) -> None:
    assert recipe_file.load(file).name == file.stem


# ----------------------------------------------------------------------------------------- commands


def commands(text: str) -> Iterator[list[str]]:
    """Split a shell script into commands; a quoted text or a `\\` may span lines."""
    pending = ""
    for line in text.splitlines():
        pending += line
        if pending.endswith("\\"):
            pending = pending[:-1]
            continue
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # An open quotation.
            pending += "\n"
            continue
        pending = ""
        if words:
            yield words
    assert not pending, f"unfinished: {pending}"


def check_command(words: list[str]) -> None:
    match words:
        case ["jouleserve", *arguments]:
            check_jouleserve(arguments)
        case ["make", *arguments]:
            targets = {word for word in arguments if "=" not in word}
            assert targets <= MAKE_TARGETS
        case ["grpcurl", *arguments]:
            check_grpcurl(arguments)
        case ["curl", *arguments]:
            if "-d" in arguments:
                json.loads(arguments[arguments.index("-d") + 1])
        case [".venv/bin/python", script, *_] if not script.startswith("-"):
            assert (ROOT / script).is_file()
        case ["export", setting] if setting.startswith("RAY_"):
            name, _, value = setting.partition("=")
            assert RAY_ENVIRONMENT[name] == value
        case [program, *arguments] if program in OTHERS:
            check_files(arguments)
        case _:
            pytest.fail(f"nobody checks: {shlex.join(words)}")


def check_jouleserve(arguments: list[str]) -> None:
    """Parse with the real command line; nothing is run."""
    command: Any = typer.main.get_command(whole_app())
    words = arguments[: arguments.index(">")] if ">" in arguments else arguments
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands
        command, words = command.commands[words[0]], words[1:]
    if words:  # A command that is only named may need more.
        command.make_context(command.name, list(words))
    for word in words:
        if word.endswith(".yaml"):
            assert (ROOT / word).is_file()


def check_files(arguments: list[str]) -> None:
    """Other people's programs: what of ours they are given exists."""
    for word in arguments:
        assert not PATH.fullmatch(word) or (ROOT / word).exists(), f"{word} does not exist"
        if word.startswith("loadtest.adapters."):
            assert (ROOT / word.replace(".", "/")).with_suffix(".py").is_file()


def check_grpcurl(arguments: list[str]) -> None:
    service, _, method = arguments[-1].rpartition("/")
    files = (pb.DESCRIPTOR, cluster_pb2.DESCRIPTOR)
    services = {each.full_name: each for f in files for each in f.services_by_name.values()}
    rpc = services[service].methods_by_name[method]
    if "-d" in arguments:
        assert rpc.input_type.full_name == pb.GenerateRequest.DESCRIPTOR.full_name
        json_format.Parse(arguments[arguments.index("-d") + 1], pb.GenerateRequest())


@pytest.mark.parametrize("example", examples("sh"))
def test_a_shell_example_parses(example: Example) -> None:
    for words in commands(example.text):
        check_command(words)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_a_command_within_a_sentence_exists(document: Path) -> None:
    for token in inline(document, "code_inline"):
        if re.match(r"(jouleserve|make) [a-z]", token.content):
            check_command(shlex.split(token.content))


# -------------------------------------------------------------------- links, paths, keys, languages


def anchors(document: Path) -> set[str]:
    """Give the anchors of headings, as GitHub makes them."""
    tokens = parse(document)
    titles = [
        "".join(child.content for child in inside.children or ())
        for opening, inside in itertools.pairwise(tokens)
        if opening.type == "heading_open"
    ]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_link_leads_somewhere(document: Path) -> None:
    for token in inline(document, "link_open"):
        address, _, anchor = unquote(str(token.attrs["href"])).partition("#")
        if "://" in address:
            continue
        target = (document.parent / address).resolve() if address else document
        assert target.exists(), f"{address} does not exist"
        assert ROOT in (target, *target.parents), f"{address} lies outside"
        assert not anchor or anchor in anchors(target), f"{address} has no heading #{anchor}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_path_exists(document: Path) -> None:
    for token in inline(document, "code_inline"):
        if PATH.fullmatch(token.content):
            assert list(ROOT.glob(token.content.rstrip("/"))), f"{token.content} does not exist"


@pytest.fixture(scope="module")
def known_keys() -> set[str]:
    """Every section and key, as the generated page spells them."""
    page = (ROOT / "docs" / "configuration.md").read_text()
    keys = set()
    for part in page.split("\n## ")[1:]:
        section = part.splitlines()[0].strip("`")
        rows = re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)
        keys |= {section, *(f"{section}.{key}" for key in rows)}
    return keys


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_configuration_key_exists(document: Path, known_keys: set[str]) -> None:
    named = {each.content for each in inline(document, "code_inline")}
    assert {each for each in named if KEY.fullmatch(each)} <= known_keys


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_block_has_a_language_that_is_checked(document: Path) -> None:
    """A block without one is a picture or an output."""
    known = {"python", "yaml", "sh", "json", "text", ""}
    assert {t.info.strip() for t in parse(document) if t.type == "fence"} <= known


# ------------------------------------------------------------------------------- tables in docs/api


def table_rows(document: Path, heading: str) -> list[list[str]]:
    """Give the rows of the table whose first heading this is."""
    lines = document.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading} |")) + 2
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_the_table_of_errors_is_that_of_the_code() -> None:
    told = {
        (kind.strip("`"), status.strip("`"), int(code))
        for kind, status, code, _, _ in table_rows(ROOT / "docs" / "api.md", "kind")
    }
    kinds = [each for each in vars(server_errors).values() if isinstance(each, type)]
    raised = {
        (each.kind, each.grpc_status, each.http_status)
        for each in kinds
        if issubclass(each, server_errors.JouleserveError)
    }
    assert told == raised


def test_the_table_of_errors_names_errors_of_the_client() -> None:
    for *_, name, _ in table_rows(ROOT / "docs" / "api.md", "kind"):
        assert issubclass(getattr(client, name.strip("`")), errors.JouleserveClientError)


def test_the_table_of_options_is_complete() -> None:
    cells = " ".join(row[0] for row in table_rows(ROOT / "docs" / "api.md", "options"))
    told = set(re.findall(r"`(\w+)`", cells)) | {"chat", "prompt_token_ids"}
    assert told == set(GenerateOptions.__annotations__)
