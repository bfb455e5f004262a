"""The hub: a local server that speaks enough of its API, its cache, and no network at all."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from workbench.errors import IntegrityError, NotFoundError, OfflineError
from workbench.sources import hub
from workbench.sources.corpora import corpus
from workbench.sources.models import load_model
from workbench.sources.saes import load_sae

COMMIT = "0123456789abcdef0123456789abcdef01234567"
RELEASE, SAE_ID = "pythia-70m-deduped-res-sm", "blocks.2.hook_resid_post"


@pytest.fixture(scope="module")
def repositories(tmp_path_factory, tiny_llama, tiny_sae):
    """What the local hub serves: a model, a repository of SAEs, and the repository of a release that SAELens knows."""
    from workbench.sources.zoo import registry

    root = tmp_path_factory.mktemp("hub")
    shutil.copytree(tiny_llama, root / "owner" / "tiny")
    (root / "owner" / "tiny" / "pytorch_model.bin").write_bytes(b"never fetched")
    shutil.copytree(tiny_sae, root / "owner" / "saes" / "layer_1")
    entry = registry()[RELEASE]
    path = next(sae["path"] for sae in entry["saes"] if sae["id"] == SAE_ID)
    shutil.copytree(tiny_sae, root / entry["repo_id"] / path)
    for name, column in (("texts", "text"), ("parts", "text"), ("codes", "code")):
        folder = root / "datasets" / "owner" / name
        folder.mkdir(parents=True)
        for part in ("train", "test") if name == "parts" else ("train",):
            lines = [json.dumps({column: f"The {part} text of number {i} says {i * i}."}) for i in range(200)]
            (folder / f"{part}.jsonl").write_text("\n".join(lines))
    return root


class Handler(http.server.BaseHTTPRequestHandler):
    """`/api/models/<id>/revision/<rev>`, `/api/models/<id>/tree/<rev>` and `/<id>/resolve/<rev>/<file>` of the hub's API.

    The same of data sets, under `/api/datasets` and `/datasets`.
    """

    root: Path
    asked: list[str]

    def log_message(self, *arguments):
        """Silence."""

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        self.asked.append(self.path)
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts == [""]:
            return self.reply(b"a hub", body)
        api = parts[0] == "api"
        parts = parts[1:] if api else parts
        root = self.root / "datasets" if parts[0] == "datasets" else self.root
        parts = parts[1:] if parts[0] in ("models", "datasets") else parts
        if len(parts) < 2:
            return self.error("EntryNotFound", 404)
        owner, name, *rest = parts
        folder = root / owner / name
        if not folder.is_dir():
            return self.error("RepoNotFound", 401)
        if len(rest) > 1 and rest[1] not in ("main", COMMIT):
            return self.error("RevisionNotFound", 404)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if api and rest[:1] == ["tree"]:
            return self.reply(json.dumps([self.entry(folder, path) for path in files]).encode(), body, kind="application/json")
        if api:
            siblings = [{"rfilename": path.relative_to(folder).as_posix()} for path in files]
            info = {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": siblings}
            return self.reply(json.dumps(info).encode(), body, kind="application/json")
        path = folder.joinpath(*rest[2:])
        if not path.is_file():
            return self.error("EntryNotFound", 404)
        content = path.read_bytes()
        etag = hashlib.sha256(content).hexdigest() if path.suffix == ".safetensors" else hashlib.sha1(content).hexdigest()
        headers, status = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, 200
        if "Range" in self.headers:  # data sets are streamed in pieces
            first, last = (int(number) for number in self.headers["Range"].removeprefix("bytes=").split("-"))
            headers["Content-Range"], status = f"bytes {first}-{last}/{len(content)}", 206
            content = content[first : last + 1]
        return self.reply(content, body, kind="application/octet-stream", headers=headers, status=status)

    def entry(self, folder: Path, path: Path) -> dict:
        content = path.read_bytes()
        name, digest = path.relative_to(folder).as_posix(), hashlib.sha1(content).hexdigest()
        entry = {"type": "file", "path": name, "size": len(content), "oid": digest}
        if path.suffix == ".safetensors":
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return entry

    def reply(self, content: bytes, body: bool, *, kind: str = "text/plain", headers: dict | None = None, status: int = 200) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def error(self, code: str, status: int) -> None:
        self.reply(b"", False, headers={"X-Error-Code": code, "X-Error-Message": code}, status=status)


@pytest.fixture
def use(monkeypatch, tmp_path):
    """Point huggingface_hub at an address and a cache of the test's own, network allowed."""
    from huggingface_hub import constants

    monkeypatch.setattr(hub, "_remembered", {})
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def choose(address: str, cache: Path = tmp_path / "cache") -> Path:
        hub._remembered.clear()
        for name, value in {"ENDPOINT": address, "HF_HUB_OFFLINE": False, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": True,
                            "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}"}.items():
            monkeypatch.setattr(constants, name, value)
        return cache

    return choose


@pytest.fixture
def server(repositories, use):
    """A running hub; `.address`, `.asked`."""
    handler = type("Bound", (Handler,), {"root": repositories, "asked": []})
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    running.address, running.asked = f"http://127.0.0.1:{running.server_port}", handler.asked
    use(running.address)
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def nobody() -> str:
    """An address where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_a_model_is_downloaded_then_taken_from_the_cache(server, use, tiny_llama):
    import torch

    assert hub.reachable()
    model = load_model("owner/tiny")
    assert model.cfg.model_name == "owner/tiny"
    ids = torch.tensor([[0, 5, 6]])
    with torch.no_grad():
        torch.testing.assert_close(model(ids), load_model(tiny_llama)(ids))
    assert not any("pytorch_model.bin" in path and "resolve" in path for path in server.asked)  # pickles are not even fetched
    load_model("owner/tiny", revision=COMMIT)
    use(nobody())  # the same cache, no hub
    assert load_model("owner/tiny").cfg.model_name == "owner/tiny"
    with pytest.raises(OfflineError, match="does not answer"):
        load_model("owner/other")


def test_a_damaged_download_is_found(server, use):
    load_model("owner/tiny")
    cache = use(nobody())
    weights = next(cache.glob("models--owner--tiny/snapshots/*/model.safetensors")).resolve()
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(IntegrityError, match="SHA-256 differs"):
        load_model("owner/tiny")


def test_what_the_hub_does_not_have(server):
    with pytest.raises(NotFoundError, match="no model 'owner/nothing'"):
        load_model("owner/nothing")
    with pytest.raises(NotFoundError, match="no revision 'v9'"):
        load_model("owner/tiny", revision="v9")
    with pytest.raises(NotFoundError, match="no SAE 'owner/nothing'"):
        load_sae("owner/nothing", "layer_1")
    with pytest.raises(NotFoundError, match="holds no SAE|does not exist"):
        load_sae("owner/saes", "layer_9")


def test_saes_of_a_repository_and_of_a_release(server, use, tiny_sae):
    import torch

    expected = load_sae(tiny_sae).W_dec
    for arguments in (("owner/saes", "layer_1"), (RELEASE, SAE_ID), (f"{RELEASE}/{SAE_ID}",)):
        sae = load_sae(*arguments)
        torch.testing.assert_close(sae.W_dec, expected)
        assert sae.cfg.metadata.source == "/".join(arguments)
        assert sae.cfg.metadata.hook_name == "blocks.1.hook_resid_post"
    torch.testing.assert_close(load_sae(RELEASE, SAE_ID, revision=COMMIT).W_dec, expected)
    use(nobody())
    torch.testing.assert_close(load_sae(RELEASE, SAE_ID).W_dec, expected)  # SAELens' own loader, from the cache


def test_a_cache_that_was_copied_here(use, tiny_llama, tmp_path):
    """The cache's layout, made by hand: refs/main names the snapshot."""
    cache = use(nobody(), tmp_path / "copied")
    folder = cache / "models--owner--carried"
    shutil.copytree(tiny_llama, folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    assert load_model("owner/carried").cfg.d_model == 32


def test_a_hub_that_never_answers_is_given_up_soon(use):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # accepts, and says nothing
        use(f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(OfflineError, match="does not answer"):
            load_model("owner/tiny")
        assert time.monotonic() - began < 3 * hub.PROBE_SECONDS  # the probe's limit, and room for a loaded machine
        began = time.monotonic()
        assert not hub.reachable()
        assert time.monotonic() - began < 0.5  # remembered


def test_offline_mode_asks_nobody(server, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not hub.reachable(fresh=True)
    with pytest.raises(OfflineError, match="HF_HUB_OFFLINE is set"):
        load_model("owner/tiny")
    assert server.asked == []


def test_cache_only_is_undone(use):
    from huggingface_hub import constants

    def inside() -> None:
        with hub.cache_only():
            raise RuntimeError(f"offline is {constants.HF_HUB_OFFLINE}")

    use(nobody())
    with pytest.raises(RuntimeError, match="offline is True"):
        inside()
    assert not constants.HF_HUB_OFFLINE


def test_a_data_set_is_streamed_and_split(server, tiny_llama, tmp_path):
    """In a process of its own: `datasets` reads the hub's address when it is imported."""
    script = """
import json, sys
from transformers import AutoTokenizer
from workbench.errors import WorkbenchError
from workbench.sources.corpora import corpus

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
seen = {}
for name, split in (("owner/texts", "train"), ("owner/texts", "val"), ("owner/parts", "train"), ("owner/parts", "val")):
    tokens = corpus(name, tokenizer=tokenizer, n_tokens=20_000, context=64, split=split)
    seen[f"{name} {split}"] = [tokenizer.decode(ids[keep]) for ids, keep in zip(tokens.ids, tokens.keep)]
for name in ("owner/codes", "owner/nothing"):
    try:
        corpus(name, tokenizer=tokenizer, n_tokens=100)
    except WorkbenchError as error:
        seen[name] = f"{type(error).__name__}: {error}"
print(json.dumps(seen))
"""
    at = {"HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    environment = os.environ | at
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script, str(tiny_llama)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    train, val = {*seen["owner/texts train"]}, {*seen["owner/texts val"]}
    assert not train & val
    assert len(train) + len(val) == 200  # one part: every text is on one side, about one in ten is held out
    assert 5 <= len(val) <= 40
    assert len({*seen["owner/parts train"]}) == 200 == len({*seen["owner/parts val"]})
    assert all("train text" in text for text in seen["owner/parts train"])
    assert all("test text" in text for text in seen["owner/parts val"])
    assert "InputError" in seen["owner/codes"]
    assert "['code']" in seen["owner/codes"]
    assert "NotFoundError" in seen["owner/nothing"]
    assert any(path.startswith("/datasets/owner/texts/resolve") for path in server.asked)


def test_a_data_set_without_a_hub_names_the_mend(use, tiny_tokenizer):
    use(nobody())
    with pytest.raises(OfflineError, match="does not answer.*local folder of text files"):
        corpus("owner/texts", tokenizer=tiny_tokenizer, n_tokens=10)
